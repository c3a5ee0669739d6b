"""shell: pages on their way to a joiner, in the background, at a configured rate; both sides.

The owner reads pages as they are committed and sends them behind the records that led there; the
joiner writes of each page the sectors that the stream has not written since the session began. Few
pages are on their way at a time, so hosts wait behind one batch at the most.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from base.clock import Clock
from base.errors import StorageError
from base.tasks import Supervisor
from base.units import NS_PER_S, KiB
from node.effects import SendBegin
from node.region_copy import RegionCopy
from node.region_pages import RegionPlace
from node.roles import BY_DELTA, OWNER, TRANSFER_COPYING
from node.view_transfer import ViewTransfer
from transport import messages as wire

if TYPE_CHECKING:
    from node.io_path import IoPath
    from node.region_store import RegionStore

log = structlog.get_logger()

BATCH_BYTES = 256 * KiB
WINDOW = 2  # batches of one session that are not acknowledged


class Pace:
    """A token bucket over all sessions of a node: bytes per second, with half a second of burst."""

    def __init__(self, clock: Clock, bytes_per_s: int) -> None:
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._free_at_ns = 0

    @property
    def batch_bytes(self) -> int:
        """What one message carries: at a low rate less, so that a session is seen to get on."""
        if self._bytes_per_s <= 0:
            return BATCH_BYTES
        return min(BATCH_BYTES, self._bytes_per_s // 4)

    def claim(self, count: int) -> int:
        """When `count` bytes more may be sent."""
        now_ns = self._clock.now_ns()
        if self._bytes_per_s <= 0:
            return now_ns
        start_ns = max(self._free_at_ns, now_ns - NS_PER_S // 2)
        self._free_at_ns = start_ns + count * NS_PER_S // self._bytes_per_s
        return max(self._free_at_ns, now_ns)


class Rebuild:
    """Copies pages of regions between this node and others."""

    def __init__(
        self,
        *,
        io: IoPath,
        store: RegionStore,
        clock: Clock,
        supervisor: Supervisor,
        bytes_per_s: int,
    ) -> None:
        self._io = io
        self._store = store
        self._clock = clock
        self._supervisor = supervisor
        self._pace = Pace(clock, bytes_per_s)
        self._acks: dict[tuple[int, int], tuple[int, asyncio.Event, list[int]]] = {}
        self._wanted: dict[
            tuple[int, int], tuple[int, bytes]
        ] = {}  # (session, bitmap) at the owner
        self._taking: dict[tuple[int, int], int] = {}  # batches that a joiner is writing
        self.sent_bytes = 0
        self.views = ViewTransfer(io, store, clock, supervisor, self._pace)

    # ------------------------------------------------------------------ owner

    def begin(self, effect: SendBegin) -> None:
        """Tell the joiner how the session begins, and note which pages it is to get."""
        copy, store = effect.copy, self._store
        key = (copy.volume, copy.region)
        self._wake(key)  # what an older session waits for does not come any more
        data = b""
        if effect.mode >= BY_DELTA:
            allocated = wanted = store.page_bitmap(key)
            if effect.mode == BY_DELTA:
                wanted = store.pages_since(key, effect.since[0], effect.suspects)
            self._wanted[key] = (effect.session, wanted)
            data = allocated + wanted
        begin = wire.TransferBegin(
            copy.volume,
            copy.region,
            effect.epoch,
            effect.session,
            effect.mode,
            effect.base_epoch,
            effect.base,
            effect.since[1],
            effect.since[0],
            effect.line,
            effect.clients,
            data,
        )
        self._io.bus.send(effect.peer, begin)

    def copy(self, copy: RegionCopy, peer: int, session: int) -> None:
        """Send all pages that the joiner of the session wants, in the background."""
        number, wanted = self._wanted.pop((copy.volume, copy.region), (0, b""))
        if number == session:
            self._supervisor.start(self._copy(copy, peer, session, wanted), name="copy_pages")

    def _runs(self, copy: RegionCopy, session: int) -> bool:
        return copy.role == OWNER and copy.session == session and copy.transfer == TRANSFER_COPYING

    async def _copy(self, copy: RegionCopy, peer: int, session: int, wanted: bytes) -> None:
        key = (copy.volume, copy.region)
        io = self._io
        virtual = io.core.catalog.volume_manager.volume(copy.volume)
        page_bytes = virtual.page_bytes
        # Also those that have become holes meanwhile: the joiner waits for each, or for its trim.
        pages = [page for page in range(len(wanted) * 8) if wanted[page >> 3] >> (page & 7) & 1]
        batch = max(1, self._pace.batch_bytes // page_bytes)
        gate = asyncio.Event()
        waiting: list[int] = []  # batches not acknowledged, by their first page
        self._acks[key] = (session, gate, waiting)
        try:
            for at in range(0, len(pages), batch):
                part = pages[at : at + batch]
                due_ns = self._pace.claim(len(part) * page_bytes)
                # Else a session at a low rate looks like one that does not get on.
                io.core.joins.waits_until(copy, due_ns)
                wait_ns = due_ns - self._clock.now_ns()
                if wait_ns > 0:
                    await self._clock.sleep(wait_ns / NS_PER_S)
                while len(waiting) >= WINDOW and self._runs(copy, session):
                    gate.clear()
                    await gate.wait()
                if not self._runs(copy, session):
                    return
                waiting.append(part[0])
                if not await self._send(copy, peer, session, part, page_bytes):
                    return
            while waiting and self._runs(copy, session):
                gate.clear()
                await gate.wait()
            if self._runs(copy, session) and await self.views.send(
                copy, peer, session, lambda: self._runs(copy, session)
            ):
                io.core.joins.pages_copied(copy, peer, session, self._clock.now_ns())
                io.turn_soon()
        except StorageError as error:
            log.warning("transfer.failed", volume=key[0], region=key[1], error=str(error))
        finally:
            if self._acks.get(key, (0,))[0] == session:
                del self._acks[key]

    async def _send(
        self, copy: RegionCopy, peer: int, session: int, pages: list[int], page_bytes: int
    ) -> bool:
        """False: the link does not take it; the session begins anew when the link does."""
        io = self._io
        data = bytearray(len(pages) * page_bytes)
        view = memoryview(data)
        key = (copy.volume, copy.region)
        at = 0
        while at < len(pages):
            run = 1
            while at + run < len(pages) and pages[at + run] == pages[at] + run:
                run += 1
            piece = view[at * page_bytes : (at + run) * page_bytes]
            await self._store.read(key, pages[at] * page_bytes, len(piece), piece)
            at += run
        # Whatever is committed by now was sent to the joiner before this message leaves.
        io.drain()
        io.flush_records()
        message = wire.TransferPages(
            copy.volume, copy.region, copy.epoch, session, copy.committed, tuple(pages),
            self._store.page_seqs(key, pages), data,
        )  # fmt: skip
        self.sent_bytes += len(data)
        io.core.joins.sent(copy, session, len(pages), len(data))
        return io.bus.send(peer, message)

    def acknowledged(self, peer: int, message: wire.TransferPagesAck) -> None:
        """The joiner holds a batch."""
        key = (message.volume, message.region)
        copy = self._io.core.copies.get(key[0], {}).get(key[1])
        entry = self._acks.get(key)
        if copy is None or entry is None or entry[0] != message.session:
            return
        self._io.core.joins.alive(copy, self._clock.now_ns())
        if message.pages and message.pages[0] in entry[2]:
            entry[2].remove(message.pages[0])
        entry[1].set()

    def _wake(self, key: tuple[int, int]) -> None:
        if key in self._acks:
            self._acks[key][1].set()
        self.views.wake(key)

    def wake(self) -> None:
        """Configurations changed: sessions that are over must notice."""
        copies = self._io.core.copies
        for key in list(self._wanted):
            copy = copies.get(key[0], {}).get(key[1])
            if copy is None or copy.session != self._wanted[key][0]:
                del self._wanted[key]
        for key in list(self._acks):
            self._wake(key)

    # ------------------------------------------------------------------ joiner

    def received(self, peer: int, message: wire.TransferPages) -> None:
        """Pages from the owner."""
        copy = self._io.core.copies.get(message.volume, {}).get(message.region)
        if (
            copy is None
            or copy.complete
            or message.session != copy.session
            or message.epoch != copy.epoch
            or message.as_of > copy.prepared
        ):
            return
        key = (message.volume, message.region)
        if self._taking.get(key, 0) >= 2 * WINDOW:
            return  # of sessions that were given up while a disk stood still; the owner begins anew
        self._taking[key] = self._taking.get(key, 0) + 1
        self._supervisor.start(self._take(peer, message), name="take_pages")

    async def _take(self, peer: int, message: wire.TransferPages) -> None:
        key = (message.volume, message.region)
        try:
            await self._store.transfer_pages(
                key,
                message.session,
                message.pages,
                memoryview(message.data),  # type: ignore[arg-type]
                message.seqs,
            )
        except StorageError as error:
            log.warning("transfer.refused", volume=key[0], region=key[1], error=str(error))
            return
        finally:
            self._taking[key] -= 1
            if not self._taking[key]:
                del self._taking[key]
        ack = wire.TransferPagesAck(
            message.volume, message.region, message.epoch, message.session, message.pages
        )
        self._io.bus.send(peer, ack)

    async def end_transfer(self, copy: RegionCopy, session: int) -> None:
        """Make the session survive a power cut, then tell the core."""
        key = (copy.volume, copy.region)
        try:
            await self._store.end_transfer(key, session)
        except StorageError as error:
            log.warning("transfer.refused", volume=key[0], region=key[1], error=str(error))
            return
        copy.transfer_synced(session)
        self._io.turn_soon()

    # ------------------------------------------------------------------ places

    def place_of(self, key: tuple[int, int]) -> RegionPlace | None:
        """Where the catalog puts the copy of this node; None: it has none."""
        core = self._io.core
        manager = core.catalog.volume_manager
        if not manager.has_volume(key[0]):
            return None
        virtual = manager.volume(key[0])
        if key[1] >= len(virtual.table):
            return None
        row = virtual.table.row(key[1], core.self_id)
        if row.ld < 0:
            return None
        disk = manager.logical_disk(core.self_id, row.ld)
        return RegionPlace(
            virtual.region_bytes, virtual.page_bytes, disk, row.ld_region * virtual.region_bytes
        )

    def open_region(self, copy: RegionCopy, fresh: bool) -> None:
        """Make the place of a copy; a fresh one shows nothing of what lay there before."""
        key = (copy.volume, copy.region)
        if fresh and key in self._store:
            self._io.flush_records()
            self._store.drop_region(key)
        place = self.place_of(key)
        assert place is not None, copy
        self._store.open_region(key, place)
