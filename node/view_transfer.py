"""shell: what snapshots have of a region on its way to a joiner, behind the pages of the base.

An exception, once it is there, changes no more until its view is removed. So the owner sends what
is there when the joiner holds every page of the base, and says as of which record that is: from the
next record on the joiner keeps by itself, and what comes takes the place of what it has kept. What
the owner keeps meanwhile may come too: it is what the joiner keeps of the same record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from base.clock import Clock
from base.errors import RemoteProtocolError, StorageError
from base.tasks import Supervisor
from base.units import NS_PER_S
from node.region_copy import RegionCopy
from node.view_batches import Entry, pack_entries, unpack_entries
from snapshot.entry import PAGE
from transport import messages as wire

if TYPE_CHECKING:
    from node.io_path import IoPath
    from node.rebuild import Pace
    from node.region_store import RegionStore

log = structlog.get_logger()

ENTRIES_MAX = 4096  # of one batch
WINDOW = 2  # batches of one session that are not acknowledged
TAKING_MAX = 4  # batches of one region that a joiner is writing
UNKNOWN_S = 0.02  # until the catalog of the joiner is looked at again for a view that it lacks
UNKNOWN_MAX = 100


class ViewTransfer:
    """Both sides, of all regions of one node."""

    def __init__(
        self, io: IoPath, store: RegionStore, clock: Clock, supervisor: Supervisor, pace: Pace
    ) -> None:
        self._io = io
        self._store = store
        self._clock = clock
        self._supervisor = supervisor
        self._pace = pace
        # By region, at the owner: session, what an answer sets, batches that are not acknowledged.
        self._waiting: dict[tuple[int, int], tuple[int, asyncio.Event, list[int]]] = {}
        self._taking: dict[tuple[int, int], int] = {}

    # ------------------------------------------------------------------ owner

    async def send(
        self, copy: RegionCopy, peer: int, session: int, runs: Callable[[], bool]
    ) -> bool:
        """Everything that snapshots have of the region, once the joiner has acknowledged it. False:
        the session is over, which `runs` says, or the link does not take it."""
        key = (copy.volume, copy.region)
        gate = asyncio.Event()
        waiting: list[int] = []
        self._waiting[key] = (session, gate, waiting)
        try:
            left = self._begin(copy, peer, session)
            if left is None:
                return False
            waiting.append(0)
            number = 1
            while left:
                batch, left = self._next(left, copy)
                due_ns = self._pace.claim(
                    sum(kind == PAGE for _, _, kind in batch) * self._page(copy)
                )
                self._io.core.joins.waits_until(copy, due_ns)
                wait_ns = due_ns - self._clock.now_ns()
                if wait_ns > 0:
                    await self._clock.sleep(wait_ns / NS_PER_S)
                while len(waiting) >= WINDOW and runs():
                    gate.clear()
                    await gate.wait()
                if not runs():
                    return False
                waiting.append(number)
                if not await self._send(copy, peer, session, number, batch):
                    return False
                number += 1
            while waiting and runs():
                gate.clear()
                await gate.wait()
            return runs()
        finally:
            if self._waiting.get(key, (0,))[0] == session:
                del self._waiting[key]

    def _begin(self, copy: RegionCopy, peer: int, session: int) -> list[Entry] | None:
        """Say as of which record the list is that is made in the same turn: what comes into the
        tables later the joiner keeps by itself. None: the link does not take it."""
        io, key = self._io, (copy.volume, copy.region)
        # Whatever is committed by now was sent to the joiner before this message leaves, and
        # nothing that tells it of a later commit.
        io.drain()
        io.flush_records()
        views = self._store.views
        begin = wire.TransferViews(
            copy.volume, copy.region, copy.epoch, session, 0, copy.committed, views.stale(key),
            b"", b"",
        )  # fmt: skip
        return views.entries(key) if io.bus.send(peer, begin) else None

    def _page(self, copy: RegionCopy) -> int:
        return self._io.core.catalog.volume_manager.volume(copy.volume).page_bytes

    def _next(self, left: list[Entry], copy: RegionCopy) -> tuple[list[Entry], list[Entry]]:
        pages_max = max(1, self._pace.batch_bytes // self._page(copy))
        pages = at = 0
        while at < min(len(left), ENTRIES_MAX):
            pages += left[at][2] == PAGE
            if pages > pages_max:
                break
            at += 1
        return left[:at], left[at:]

    async def _send(
        self, copy: RegionCopy, peer: int, session: int, number: int, batch: list[Entry]
    ) -> bool:
        io, key, page_bytes = self._io, (copy.volume, copy.region), self._page(copy)
        views = self._store.views
        sent: list[Entry] = []
        parts: list[bytearray] = []
        for view, page, kind in batch:
            if not views.has(key, view, page):
                continue  # it went to another view, or went stale, since the list was made
            if kind == PAGE:
                part = bytearray(page_bytes)
                await views.read(key, view, page * page_bytes, memoryview(part))
                parts.append(part)
            sent.append((view, page, kind))
        data = b"".join(parts)
        message = wire.TransferViews(
            copy.volume, copy.region, copy.epoch, session, number, 0, views.stale(key),
            pack_entries(sent), data,
        )  # fmt: skip
        io.core.joins.sent(copy, session, 0, len(data))
        return io.bus.send(peer, message)

    def acknowledged(self, peer: int, message: wire.TransferViewsAck) -> None:
        """The joiner holds a batch."""
        key = (message.volume, message.region)
        copy = self._io.core.copies.get(key[0], {}).get(key[1])
        entry = self._waiting.get(key)
        if copy is None or entry is None or entry[0] != message.session:
            return
        self._io.core.joins.alive(copy, self._clock.now_ns())
        if message.number in entry[2]:
            entry[2].remove(message.number)
        entry[1].set()

    def wake(self, key: tuple[int, int]) -> None:
        """The session of the region may be over: it must notice."""
        if key in self._waiting:
            self._waiting[key][1].set()

    # ------------------------------------------------------------------ joiner

    def received(self, peer: int, message: wire.TransferViews) -> None:
        """A batch from the owner."""
        key = (message.volume, message.region)
        copy = self._io.core.copies.get(key[0], {}).get(key[1])
        if (
            copy is None
            or copy.complete
            or message.session != copy.session
            or message.epoch != copy.epoch
            or message.as_of > copy.prepared
        ):
            return
        region_bytes = self._io.core.catalog.volume_manager.volume(key[0]).region_bytes
        page_bytes = self._page(copy)
        data: memoryview = memoryview(message.data)  # type: ignore[arg-type]
        entries = unpack_entries(message.entries, region_bytes // page_bytes, len(data), page_bytes)
        if message.number == 0:
            if message.as_of < copy.committed:
                raise RemoteProtocolError(
                    f"volume {key[0]} region {key[1]}: n{peer} sends snapshots as of record"
                    f" {message.as_of}, and {copy.committed} are committed"
                )
            self._io.drain()
            self._store.begin_views(key, message.session, message.as_of)
        if self._taking.get(key, 0) >= TAKING_MAX:
            return  # of sessions that were given up while a disk stood still
        self._taking[key] = self._taking.get(key, 0) + 1
        self._supervisor.start(self._take(copy, peer, message, entries, data), name="take_views")

    async def _take(
        self,
        copy: RegionCopy,
        peer: int,
        message: wire.TransferViews,
        entries: list[Entry],
        data: memoryview,
    ) -> None:
        key = (message.volume, message.region)
        highest = max([0, *message.stale, *(view for view, _, _ in entries)])
        try:
            for _ in range(UNKNOWN_MAX):
                if highest <= copy.views_known:
                    break
                await self._clock.sleep(UNKNOWN_S)
            else:
                return  # the owner begins anew
            await self._store.transfer_views(key, message.session, entries, data, message.stale)
        except StorageError as error:
            log.warning("transfer.refused", volume=key[0], region=key[1], error=str(error))
            return
        finally:
            self._taking[key] -= 1
            if not self._taking[key]:
                del self._taking[key]
        ack = wire.TransferViewsAck(
            message.volume, message.region, message.epoch, message.session, message.number
        )
        self._io.bus.send(peer, ack)
