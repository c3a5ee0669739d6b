"""shell: the way of a read of a snapshot through the owner of the region.

The same rules as for the volume itself: the region must be owned and open here, and the lease hold
before the data is fetched and with it in hand. What is there to be read the catalog of this node
says; an ingress whose catalog is ahead asks again a moment later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from base.errors import InvalidRequest, NotFound, NotOwner, StorageError
from base.ids import NOBODY
from host.router import pack_runs
from node.region_copy import RegionCopy
from node.roles import OWNER
from snapshot.tree import SnapshotState, View, ViewKind
from transport import operation as op
from transport.operation import Record

if TYPE_CHECKING:
    from node.io_path import IoPath


class ViewPath:
    """Operations on snapshots at one node: what `io_path` does for volumes."""

    def __init__(self, io: IoPath) -> None:
        self._io = io
        self.reads = 0

    def operate(self, record: Record, token: Any) -> None:
        """An operation on the snapshot `record.view`."""
        refusal = self._refusal(record)
        if refusal is not None:
            self._io.answer(token, refusal, b"")
        elif record.kind == op.READ:
            self._read(record, token)
        else:
            self._status(record, token)

    def _refusal(self, record: Record) -> StorageError | None:
        """Why the catalog of this node does not let it be done."""
        tree = self._io.core.catalog.snapshots.trees.get(record.volume)
        if tree is None or record.view > tree.highest:
            return NotOwner(region=record.region, owner=NOBODY)  # not heard of yet: ask again
        if record.view not in tree:
            return NotFound(f"volume {record.volume} has no snapshot {record.view}")
        view = tree[record.view]
        if view.state is SnapshotState.CREATING:
            return NotOwner(region=record.region, owner=NOBODY)
        try:
            require_readable(view)
        except StorageError as error:
            return error
        if record.kind < op.READ:
            return InvalidRequest(f"snapshot {view.name} is read-only")
        return None

    def _ready(self, record: Record, token: Any) -> RegionCopy | None:
        """The copy that may answer now; None: the token was answered, or waits."""
        io = self._io
        now_ns = io.clock.now_ns()
        copy = io.core.copy_for_host(record.volume, record.region, now_ns)
        if isinstance(copy, StorageError):
            io.answer(token, copy, b"")
            return None
        if io.store is None or (record.volume, record.region) not in io.store:
            io.drain()  # the region is made by an effect that was not performed yet
        if io.store is None or not io.core.may_read(copy, now_ns):
            io.core.wait_to_read(copy, token)
            return None
        return copy

    def _read(self, record: Record, token: Any) -> None:
        io = self._io
        copy = self._ready(record, token)
        if copy is None:
            return
        assert io.store is not None
        self.reads += 1
        data = bytearray(record.length)
        epoch = copy.epoch
        try:
            done = io.store.views.read_now(
                (record.volume, record.region), record.view, record.offset, memoryview(data)
            )
        except StorageError as error:
            io.answer(token, error, b"")
            return
        if done:
            io.read_ended(copy, epoch, record, token, data)
        else:
            io.supervisor.start(self._read_slowly(copy, record, token, data), name="read_view")

    async def _read_slowly(
        self, copy: RegionCopy, record: Record, token: Any, data: bytearray
    ) -> None:
        io, epoch = self._io, copy.epoch
        assert io.store is not None
        try:
            key = (record.volume, record.region)
            await io.store.views.read(key, record.view, record.offset, memoryview(data))
        except StorageError as error:
            io.answer(token, error, b"")
        else:
            io.read_ended(copy, epoch, record, token, data)
        io.turn_soon()

    def _status(self, record: Record, token: Any) -> None:
        io = self._io
        copy = self._ready(record, token)
        if copy is None:
            return
        assert io.store is not None
        assert copy.role == OWNER
        try:
            runs = io.store.views.runs((record.volume, record.region), record.view)
        except StorageError as error:
            io.answer(token, error, b"")
            return
        io.answer(token, None, cut_runs(runs, record))


def require_readable(view: View) -> None:
    """NotFound, InvalidRequest: the snapshot cannot be read, and why."""
    if view.state is SnapshotState.CREATING:
        raise InvalidRequest(f"snapshot {view.name} is being made; try again")
    if view.state is SnapshotState.REMOVING:
        raise NotFound(f"snapshot {view.name} is being removed")
    if view.state is SnapshotState.STALE:
        raise InvalidRequest(f"snapshot {view.name} is stale: it is no point in time")
    if view.kind is ViewKind.READ_WRITE:
        raise InvalidRequest(f"snapshot {view.name}: read-write snapshots are not served yet")


def is_readable(view: View) -> bool:
    """Hosts may open it now."""
    try:
        require_readable(view)
    except StorageError:
        return False
    return True


def cut_runs(runs: list[tuple[int, int, bool]], record: Record) -> bytes:
    """As a STATUS is answered: what of (offset, length, allocated) lies in its extent."""
    first, end = record.offset, record.offset + record.length
    found = []
    for offset, length, allocated in runs:
        start, stop = max(offset, first), min(offset + length, end)
        if start < stop:
            found.append((stop - start, allocated))
    return pack_runs(found)
