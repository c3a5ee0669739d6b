"""shell: what is wrong on the devices of one stopped node, as far as the node alone can tell.

Three questions, in this order, since each needs the answer to the one before: what does the store
of consensus hold; what would the node's next start find of its regions, in the catalog that the
cluster agrees on; does every block on its disks match its checksum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from base.clock import Clock
from base.device import BlockDevice
from base.errors import DeviceFailed, StorageError
from base.ids import node_name
from base.tasks import Supervisor
from base.units import BLOCK_BYTES, SECTOR_BYTES
from cluster.catalog import Catalog
from cluster.log_check import check_hard
from cluster.raft_log import RaftLog
from node.checkpoint import CheckpointSlots, Key
from node.cold_store import ColdStore, load_consensus, log_of, open_store, places_in
from node.consensus_store import ConsensusState, ConsensusStore
from node.page_checksums import BLOCK_SHIFT
from node.region_pages import RegionPages
from node.region_store import StoreOptions
from node.snapshot_places import SnapshotPlaces
from volume.physical_disk import NodeInventory

_SECTORS: Final = BLOCK_BYTES // SECTOR_BYTES
_WHOLE: Final = (1 << _SECTORS) - 1

REFILL: Final = (
    "where no I1 is reported: move this node's directory away, keep it, and start the cluster; the"
    " node comes back blank and is filled again from the other copies"
)
READ_ALL: Final = "start the cluster and run `eightfold check --data`: what is read is repaired"
KEEP: Final = "keep a copy of the directory before anything else is started on it"
REPORT: Final = "this is an error of the program: keep a copy of the directory, and report it"
RECOVER: Final = (
    "start the cluster; if the region stays offline, `eightfold region recover` says what can be"
    " opened, and what is lost with it"
)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, and what to do about it. Fields as in `cluster.fsck.Finding`."""

    rule: str
    text: str
    advice: str
    node: int = -1
    volume: str = ""
    region: int = -1


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """The devices of a node that does not run, none of which takes a write."""

    disks: list[BlockDevice]
    journal: BlockDevice
    checkpoint: BlockDevice
    consensus: BlockDevice


@dataclass(slots=True)
class BlockCounts:
    """Of one node: blocks that were read and compared with something, on each member; regions."""

    blocks: int = 0
    regions: int = 0


@dataclass(slots=True)
class OfflineNode:
    """One stopped node. lost_power: since its last life the memory of its machine was lost, so that
    what it had not synced may be gone; its next start says so to the others. damaged: its journal
    or checkpoint is, so nothing of it counts. bad: blocks that no disk of this node has right."""

    number: int
    devices: NodeDevices
    boot_id: str
    state: ConsensusState | None = None
    log: RaftLog | None = None
    cold: ColdStore | None = None
    lost_power: bool = False
    clean: bool = False
    damaged: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: BlockCounts = field(default_factory=BlockCounts)
    bad: dict[Key, list[int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """n0 to n7."""
        return node_name(self.number)

    def problem(
        self, rule: str, text: str, advice: str, volume: str = "", region: int = -1
    ) -> None:
        """Something is wrong here."""
        self.problems.append(Problem(rule, text, advice, self.number, volume, region))

    # ------------------------------------------------------------------ consensus

    async def read_agreement(self) -> None:
        """Term, vote, log, and how the last life ended."""
        device = self.devices.consensus
        try:
            self.state = await load_consensus(device)
            damage = await _damage_of(device)
        except StorageError as error:
            self.problem("I12", f"{self.name}: its store of consensus: {error}", REFILL)
            return
        if self.state is None or self.state.snapshot is None:
            text = f"{self.name}: its store of consensus: {damage or 'it holds nothing'}"
            self.problem("I12", text, REFILL)
            return
        life = self.state.life
        self.clean = life.clean
        # Also when the next life has begun, and has not told the others yet.
        self.lost_power = not life.intact or (not life.clean and life.boot_id != self.boot_id)
        self.log = log_of(self.state)
        if damage and self.lost_power and "header" not in damage:
            self.notes.append(f"{self.name}: store of consensus: {damage}, as a power cut does it")
        elif damage:
            text = f"{self.name}: its store of consensus: {damage}; it may have forgotten votes"
            self.problem("I12", text, REFILL)
        for finding in check_hard(self.number, self.state.hard, self.log):
            self.problem(finding.rule, finding.text, REFILL)

    # ------------------------------------------------------------------ regions

    async def read_store(
        self, catalog: Catalog, inventory: NodeInventory, clock: Clock, options: StoreOptions
    ) -> None:
        """Recover, in memory."""
        devices = self.devices
        try:
            torn = await CheckpointSlots(devices.checkpoint).damaged()  # recovery writes over one
            self.cold = await open_store(
                inventory, devices.disks, devices.journal, devices.checkpoint, clock,
                places_in(catalog, self.number), options, on_mended=self._mended,
                snapshot_place=SnapshotPlaces(self.number, lambda: catalog).place_of,
            )  # fmt: skip
            await self._look_behind(torn)
        except StorageError as error:
            self.cold = None
            self.problem("I9", f"{self.name}: it could not start: {error}", REFILL)
            return
        for disk in self.cold.store.shelf.failed_disks:
            self.notes.append(f"{self.name}: disk {disk} missed a write and is not read any more")

    def _mended(self, key: Key, block: int, cause: str) -> None:
        text = f"{self.name}: block {block} of volume #{key[0]} region {key[1]}: {cause}"
        self.problem("I28", f"{text}; its mirror has it right", READ_ALL, "", key[1])

    async def _look_behind(self, torn: list[int]) -> None:
        assert self.cold is not None
        journal = self.cold.store.journal
        end = journal.lives.lives[-1][0]  # where recovery has stopped
        lsn = await journal.whole_behind(end, journal.lives.newest - 1)
        if lsn > end + journal.capacity_bytes // 2:
            text = (
                f"{self.name}: the newest checkpoint is damaged, and the journal does not reach"
                " back to the one before: records are lost"
            )
            self._damaged(text)
        elif lsn >= 0 and not self.lost_power:
            text = (
                f"{self.name}: the journal is damaged at byte {end % journal.capacity_bytes}:"
                f" whole entries follow {lsn - end} bytes later"
            )
            self._damaged(text)
        elif lsn >= 0:
            self.notes.append(f"{self.name}: the journal ends torn, as a power cut leaves it")
        elif torn and self.clean:
            text = f"{self.name}: a checkpoint is damaged (slot {torn[0]})"
            self._damaged(text)
        elif torn:
            self.notes.append(
                f"{self.name}: a checkpoint is torn (slot {torn[0]}), as a crash leaves it; the one"
                " before it is whole"
            )

    def _damaged(self, text: str) -> None:
        self.damaged = True
        self.problem("I9", text, REFILL)

    # ------------------------------------------------------------------ blocks

    async def check_blocks(self, catalog: Catalog) -> None:
        """Every block on every member of its mirror against its checksum, and against the others
        where there is none. What the journal makes again does not count."""
        assert self.cold is not None
        manager = catalog.volume_manager
        for key in sorted(self.cold.regions):
            if not self.cold.regions[key].complete:
                continue
            self.counts.regions += 1
            region = self.cold.store.region(key)
            wrong: dict[int, dict[int, str]] = {}  # by disk and block, why
            bad: dict[int, str] = {}
            differ: dict[int, None] = {}
            for start, stop in region.disk_runs(0, region.pages * region.page_bytes):
                await self._check_run(region, start, stop, wrong, bad, differ)
            name = manager.volume(key[0]).name
            where = f"volume {name} region {key[1]}"
            for disk in sorted(wrong):
                blocks = sorted(wrong[disk])
                text = (
                    f"{self.name} disk {disk}: {_blocks(blocks)} of {where}:"
                    f" {wrong[disk][blocks[0]]}; another disk of the mirror has them right"
                )
                self.problem("I28", text, READ_ALL, name, key[1])
            if bad:
                self.bad[key] = sorted(bad)
            if differ:
                text = (
                    f"{self.name}: {_blocks(sorted(differ))} of {where} differ between the disks of"
                    " their mirror, and no checksum says which are right"
                )
                self.problem("I11", text, READ_ALL, name, key[1])

    async def _check_run(
        self,
        region: RegionPages,
        start: int,
        stop: int,
        wrong: dict[int, dict[int, str]],
        bad: dict[int, str],
        differ: dict[int, None],
    ) -> None:
        assert self.cold is not None
        shelf = self.cold.store.shelf
        failed = shelf.failed_disks
        extents = region.plans.plan_write(region.base + start, stop - start)
        pieces: dict[int, list[tuple[int, bytes, dict[int, str]]]] = {}
        for extent in extents:
            if extent.disk in failed:
                continue
            data = bytearray(extent.length)
            faults = await self._read(
                extent.disk, extent.offset, memoryview(data), start + extent.start
            )
            for block in region.sums.wrong_blocks(start + extent.start, memoryview(data)):
                faults.setdefault(block, "what they hold was not written there")
            pieces.setdefault(extent.start, []).append((extent.disk, bytes(data), faults))
        for at in sorted(pieces):
            self._judge_piece(region, start + at, pieces[at], wrong, bad, differ)

    async def _read(self, disk: int, offset: int, into: memoryview, start: int) -> dict[int, str]:
        """Fill `into`. By block of the region, why it cannot be read."""
        device = self.devices.disks[disk]
        faults: dict[int, str] = {}
        try:
            await device.read(offset, into)
        except DeviceFailed:
            for at in range(0, len(into), BLOCK_BYTES):
                try:
                    await device.read(offset + at, into[at : at + BLOCK_BYTES])
                except DeviceFailed as error:
                    faults[(start + at) >> BLOCK_SHIFT] = str(error)
        return faults

    def _judge_piece(
        self,
        region: RegionPages,
        start: int,
        members: list[tuple[int, bytes, dict[int, str]]],
        wrong: dict[int, dict[int, str]],
        bad: dict[int, str],
        differ: dict[int, None],
    ) -> None:
        length = len(members[0][1])
        self.counts.blocks += len(members) * (length >> BLOCK_SHIFT)
        same = all(data == members[0][1] for _, data, _ in members)
        if same and not any(faults for _, _, faults in members):
            return
        for at in range(0, length, BLOCK_BYTES):
            block = (start + at) >> BLOCK_SHIFT
            if _is_dirty(region, start + at):
                continue
            faults_of = {disk: faults[block] for disk, _, faults in members if block in faults}
            if len(faults_of) == len(members):
                bad[block] = next(iter(faults_of.values()))
            elif faults_of:
                for disk, why in faults_of.items():
                    wrong.setdefault(disk, {})[block] = why
            elif len({data[at : at + BLOCK_BYTES] for _, data, _ in members}) > 1:
                differ[block] = None


async def _damage_of(device: BlockDevice) -> str:
    store = ConsensusStore(
        device, supervisor=Supervisor("cold"), on_persisted=_nothing, on_failure=_nothing
    )
    await store.load()
    return await store.damage()


def _nothing(_value: object) -> None:
    pass


def _is_dirty(region: RegionPages, offset: int) -> bool:
    """All of the block comes from the journal."""
    index, inside = divmod(offset, region.page_bytes)
    page = region.dirty.get(index)
    shift = inside // SECTOR_BYTES
    return page is not None and page.mask >> shift & _WHOLE == _WHOLE


def _blocks(blocks: list[int]) -> str:
    """Some of their numbers."""
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    return f"{len(blocks)} blocks from {blocks[0]} on"
