"""shell: what the devices of a node hold, as its next start would find it, without a start.

The code of the node's own recovery runs over devices that take no write (`node.cold_device`). So
what it finds can be compared with what a running node has in memory, or with other nodes when none
runs. Nothing here waits, as long as nothing has to be destaged meanwhile: `now` runs it in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from base.clock import Clock
from base.device import BlockDevice
from base.tasks import Supervisor
from cluster.catalog import Catalog
from cluster.raft_log import RaftLog
from node.checkpoint import Key, RegionState
from node.client_table import ClientState, ClientTable
from node.consensus_store import ConsensusState, ConsensusStore
from node.disk_shelf import DiskShelf
from node.journal import Journal
from node.recovery import RecoveredRegion
from node.region_pages import RegionPlace
from node.region_store import RegionStore, StoreOptions
from node.stored_region import PlaceOfViews
from transport.operation import Record
from volume.physical_disk import NodeInventory

T = TypeVar("T")
PlaceOf = Callable[[Key], RegionPlace | None]


@dataclass(slots=True)
class ColdRegion:
    """One region. tail: journalled, not known to be committed. place: (logical disk, its region)
    of which the disks hold it; None: it is younger than the last checkpoint."""

    epoch: int
    committed: int
    committed_epoch: int
    complete: bool
    since: tuple[int, int]
    tail: list[Record]
    clients: ClientTable
    place: tuple[int, int] | None

    @property
    def prepared(self) -> int:
        """The newest record that is journalled."""
        return self.tail[-1].seq if self.tail else self.committed


class ColdStore:
    """The regions of one node. What `advance` commits, it commits in memory."""

    def __init__(self, store: RegionStore, regions: dict[Key, ColdRegion]) -> None:
        self.store = store
        self.regions = regions

    def advance(self, key: Key, committed: int) -> None:
        """Records up to there are committed, as another node knows."""
        region = self.regions[key]
        while region.tail and region.tail[0].seq <= committed:
            record = region.tail.pop(0)
            self.store.apply(record)
            region.committed, region.committed_epoch = record.seq, record.epoch
            region.clients.add(record.client, record.number, record.low)

    async def image(self, key: Key, region_bytes: int) -> bytes:
        """All bytes of a region, holes as zeros. MediaError: a block is right nowhere here."""
        data = bytearray(region_bytes)
        await self.store.read(key, 0, region_bytes, memoryview(data), alone=True)
        return bytes(data)


async def load_consensus(device: BlockDevice) -> ConsensusState | None:
    """What the store of consensus holds. None: nothing of ours. DeviceFailed."""
    store = ConsensusStore(
        device, supervisor=Supervisor("cold"), on_persisted=_ignore, on_failure=_raise
    )
    return store.state if await store.load() else None


def log_of(state: ConsensusState) -> RaftLog:
    """The log of what `load_consensus` has found."""
    assert state.snapshot is not None
    return RaftLog(state.snapshot, state.entries)


async def open_store(
    inventory: NodeInventory,
    disks: Sequence[BlockDevice],
    journal: BlockDevice,
    checkpoint: BlockDevice,
    clock: Clock,
    place_of: PlaceOf,
    options: StoreOptions | None = None,
    *,
    on_mended: Callable[[Key, int, str], None] | None = None,
    snapshot_place: PlaceOfViews = lambda _: None,
) -> ColdStore:
    """Recover from devices that take no write. DeviceFailed when they are damaged. on_mended: of
    blocks that another member of a mirror had to give back already. snapshot_place: as for
    `RegionStore`; of a space of its own."""
    supervisor = Supervisor("cold")
    ring = Journal(
        journal, clock=clock, supervisor=supervisor, on_journalled=_ignore, on_failure=_raise
    )
    store = RegionStore(
        journal=ring,
        shelf=DiskShelf(inventory, disks),
        checkpoint_device=checkpoint,
        clock=clock,
        supervisor=supervisor,
        region_state=lambda _key: RegionState(),
        on_failure=_raise,
        options=options,
        snapshot_place=snapshot_place,
    )
    store.blocks.on_mended = on_mended
    recovered = await store.recover(place_of)
    return ColdStore(store, {key: _region(recovered[key]) for key in sorted(recovered)})


def _region(found: RecoveredRegion) -> ColdRegion:
    state: tuple[ClientState, ...] = ()
    place = None
    if found.clients:
        place = (int(found.clients[0]), int(found.clients[1]))
        state = tuple((int(c), int(low), tuple(n)) for c, low, n in found.clients[2])
    clients = ClientTable(state)
    for client, number, low in found.replayed:
        clients.add(client, number, low)
    tail = [record for record, _ in found.tail] if found.complete else []
    return ColdRegion(
        found.epoch, found.committed, found.committed_epoch, found.complete, found.since, tail,
        clients, place,
    )  # fmt: skip


def places_in(catalog: Catalog, node: int) -> PlaceOf:
    """Where that catalog puts the copies of a node."""

    def place_of(key: Key) -> RegionPlace | None:
        manager = catalog.volume_manager
        if not manager.has_volume(key[0]):
            return None
        volume = manager.volume(key[0])
        if key[1] >= len(volume.table):
            return None
        row = volume.table.row(key[1], node)
        if row.ld < 0:
            return None
        base = row.ld_region * volume.region_bytes
        return RegionPlace(
            volume.region_bytes, volume.page_bytes, manager.logical_disk(node, row.ld), base
        )

    return place_of


def now(work: Coroutine[Any, Any, T]) -> T:
    """Run something that never waits, outside of any loop."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    work.close()
    raise AssertionError("it waits for something")


def _ignore(_tokens: object) -> None:
    pass


def _raise(error: BaseException) -> None:
    raise error
