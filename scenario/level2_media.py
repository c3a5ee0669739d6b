"""shell: damaged media of level 2: bits that rot, writes that are lost or misplaced, old reads,
sectors that cannot be read; and the scrub that ends it.

The budget: the disks of *one* node are damaged at a time, while all copies are in sync, and the
damage stands until a scrub has read every block of every member of that node's disks and has found
nothing wrong any more. Until then no fault strikes another node: it has the only right bytes of
what is damaged. The node itself may be killed, paused and cut from power meanwhile.

The scrub is the simulation's, and mends with what the node has: `BlockReader.right_block` for other
members of a RAID set, `RegionReads.repair` for the copy on another node.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from base.errors import MediaError, StorageError
from base.units import BLOCK_BYTES
from node.checkpoint import COMPLETE, Key
from node.daemon import Node
from node.page_checksums import BLOCK_SHIFT
from node.roles import COPY, OWNER
from scenario.runs import FaultEvent
from sim.cluster import SimNode
from sim.device import SimDisk

if TYPE_CHECKING:
    from scenario.level2_faults import NodeFaults

MEDIA: Final = (
    "disk_rot", "disk_latent", "disk_lost_write", "disk_misdirect", "disk_stale_read",
)  # fmt: skip
# What may strike the damaged node, and no other, before it is scrubbed.
MEANWHILE: Final = ("kill", "power_cut", "stop", "pause", "slow", "slow_disk", *MEDIA)
LOOK_MS: Final = 20  # between two looks at a scrub


def damage(disk: SimDisk, event: FaultEvent) -> None:
    """Do to the disk what the event says."""
    if event.kind == "disk_rot":
        disk.rot(int(event.detail("offset")), int(event.detail("flip", 1)))
    elif event.kind == "disk_latent":
        disk.latent_error(int(event.detail("offset")), int(event.detail("length", 512)))
    elif event.kind == "disk_lost_write":
        disk.lose_writes(1)
    elif event.kind == "disk_misdirect":
        disk.misdirect_write(int(event.detail("shift", 4096)))
    else:
        disk.stale_reads(int(event.detail("count", 1)))


async def scrub(node: Node) -> tuple[int, int]:
    """Read every block that this node's disks must have, from every member, and mend what is wrong.
    (blocks that were wrong, pages that stay wrong because this node's copy is no member of its
    region and can ask nobody). StorageError when something cannot be mended now."""
    store, wrong, left = node.store, 0, 0
    for key in sorted(store.regions):
        region = store.regions.get(key)
        pages = 0 if region is None or region.session != COMPLETE else region.pages
        for page in range(pages):
            found, lost = await _scrub_page(node, key, page)
            wrong += found
            if lost is None:
                continue
            copy = node.core.copies.get(key[0], {}).get(key[1])
            if copy is None or copy.role not in (OWNER, COPY):
                wrong, left = wrong - found, left + 1
            else:
                assert store.reads.repair is not None
                await store.reads.repair(key, page, lost)
    return wrong, left


async def _scrub_page(node: Node, key: Key, page: int) -> tuple[int, MediaError | None]:
    """(blocks that were wrong, why one of them could not be mended from another disk)"""
    store = node.store
    counters = store.blocks.counters
    spare = memoryview(bytearray(BLOCK_BYTES))
    lost: MediaError | None = None
    async with store.destager.hold():
        region = store.regions.get(key)
        if region is None or region.states is None:
            return 0, None
        blocks = region.page_bytes >> BLOCK_SHIFT
        before = counters.wrong_blocks
        for block in region.proven_blocks(page * blocks, (page + 1) * blocks):
            try:
                await store.blocks.right_block(region, block, spare)
            except MediaError as error:
                lost = error
        return counters.wrong_blocks - before, lost


class Media:
    """Of one run. node: the one whose disks are damaged; None when none are."""

    def __init__(self, faults: NodeFaults) -> None:
        self._faults = faults
        self.node: int | None = None
        self.hit: dict[int, None] = {}  # every node that ever was
        self._due: list[FaultEvent] = []  # damage whose time is over: a scrub is to end it
        self._task: asyncio.Task[tuple[int, int]] | None = None
        self._life = 0
        self._looking = False
        self._pending: tuple[FaultEvent, ...] = ()  # that the present scrub ends

    def strike(self, event: FaultEvent) -> bool:
        """Damage a disk. False: another node's disks are damaged."""
        if self.node is not None and event.nodes != (self.node,):
            return False
        self.node = event.nodes[0]
        self.hit[self.node] = None
        device = str(event.detail("device"))
        damage(self._faults.disk(self.node, device), event)
        self._faults.after(event.for_ms, self._over, event)
        return True

    def healed(self) -> None:
        """No fault stands any more, and disks tell the truth. What is wrong on them stays."""
        self.node, self._task = None, None
        self._due.clear()

    def _over(self, event: FaultEvent) -> None:
        if event not in self._faults.standing:
            return
        self._due.append(event)
        if not self._looking:
            self._looking = True
            self._look()

    def _look(self) -> None:
        """Begin a scrub, or see what has become of it, until one has found nothing."""
        if not self._due or self.node is None:
            self._looking = False
            return
        sim = self._faults.nodes[self.node]
        task = self._task
        if task is not None and (self._life != sim.lives or not sim.alive):
            self._task = task = None  # it went with the process
        if task is not None and task.done():
            self._task = None
            self._scrubbed(task)
        elif task is None and sim.runs and self._calm():
            self._begin(sim)
        self._faults.after(LOOK_MS, self._look)

    def _calm(self) -> bool:
        """Nothing else stands, and the other copy is there to help."""
        faults = self._faults
        return (
            all(event.kind in MEDIA for event in faults.standing)
            and faults.stopping is None
            and faults.run.judge.redundant()
        )

    def _begin(self, sim: SimNode) -> None:
        assert sim.node is not None
        assert sim.group is not None
        for name in sim.names:
            sim.disks[name].tell_the_truth()
        self._life = sim.lives
        self._pending = tuple(self._due)
        self._task = sim.group.start(self._quietly(sim.node), name=f"n{sim.number}.scrub")

    @staticmethod
    async def _quietly(node: Node) -> tuple[int, int]:
        """Something stays wrong where it could not be mended: try again."""
        try:
            return await scrub(node)
        except StorageError:
            return 0, 1

    def _scrubbed(self, task: asyncio.Task[Any]) -> None:
        wrong, left = (0, 1) if task.cancelled() else task.result()
        if wrong:
            self._faults.goal("a scrub found damage and mended it")
        if wrong or left:
            return
        for event in self._pending:
            self._due.remove(event)
            self._faults.over(event)
        if not any(event.kind in MEDIA for event in self._faults.standing):
            self.node = None
