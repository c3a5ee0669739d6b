"""shell: a page that the disks of this node have lost comes back from another copy of its region.

The rules that keep it right, whatever is written meanwhile:

1. A member in sync of the same epoch is asked, and answers only when it has applied every record
   that this node had when it asked. What it reads was compared with its own checksums.
2. The answer says as of which record it is. This node waits until it has applied that one too: the
   records between are in its cache then, and only sectors that are not are taken.
3. Was the page destaged meanwhile, or is a record of it journalled and not applied, it begins anew.
4. A block of which the cache has nothing must fit the checksum that this node expects: an answer
   that does not is wrong, whatever the other node thinks of it.
5. It goes the way of a write: journalled, cached, destaged. That writes over what was wrong, and a
   crash anywhere is harmless.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from base.clock import Clock
from base.errors import MediaError, RequestTimeout, StorageError
from base.tasks import Supervisor
from base.units import BLOCK_BYTES, NS_PER_MS
from node.checkpoint import COMPLETE, Key
from node.effects import Note
from node.page_checksums import BLOCK_SHIFT, block_bits
from node.region_copy import RegionCopy
from node.region_pages import HOLE
from node.roles import COPY, OWNER
from node.stored_region import StoredRegion
from transport import messages as wire

if TYPE_CHECKING:
    from node.io_path import IoPath
    from node.region_store import RegionStore

log = structlog.get_logger()

RIGHT, LATER, WRONG, NO_PAGE = range(4)  # outcomes of a PageReply
REPAIRS_MAX = 16  # pages that this node asks for at the same time; more wait
ANSWERS_MAX = 64  # requests of others that are read for at the same time; more are told: later
ANSWER_MS = 500
PAUSE_MS = 20
GIVE_UP_MS = 10_000
BAD_ANSWERS_MAX = 8


class PageRepair:
    """Asks for pages, and answers those who ask. One for each node."""

    def __init__(
        self, *, io: IoPath, store: RegionStore, clock: Clock, supervisor: Supervisor
    ) -> None:
        self._io = io
        self._store = store
        self._clock = clock
        self._supervisor = supervisor
        self._running: dict[tuple[Key, int], asyncio.Future[StorageError | None]] = {}
        self._asked: dict[int, asyncio.Future[wire.PageReply | None]] = {}
        self._slots = asyncio.Semaphore(REPAIRS_MAX)
        self._next = 0
        self._answering = 0
        store.reads.repair = self.repair
        io.on_message(wire.PageRequest, self._on_request)
        io.on_message(wire.PageReply, self._on_reply)

    # ------------------------------------------------------------------ who lost it

    async def repair(self, key: Key, page: int, error: MediaError) -> None:
        """Get the page back. MediaError when no copy has it; RequestTimeout, NotFound. Several
        readers of one page share the work."""
        future = self._running.get((key, page))
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._running[key, page] = future
            self._supervisor.start(self._run(key, page, error, future), name="repair_page")
        outcome = await asyncio.shield(future)
        if outcome is not None:
            raise outcome

    def begin(self, key: Key, error: MediaError) -> None:
        """Nobody waits for it, but it must come back: a page could not be destaged."""
        if (key, error.page) not in self._running:
            future = asyncio.get_running_loop().create_future()
            self._running[key, error.page] = future
            run = self._run(key, error.page, error, future)
            self._supervisor.start(run, name="repair_page")

    async def _run(
        self, key: Key, page: int, cause: MediaError, future: asyncio.Future[StorageError | None]
    ) -> None:
        outcome: StorageError | None = None
        try:
            async with self._slots:
                await self._repair(key, page, cause)
        except StorageError as error:
            outcome = error
        except asyncio.CancelledError:
            future.cancel()
            raise
        finally:
            del self._running[key, page]
            region = self._store.regions.get(key)
            if region is not None:
                region.repairing.pop(page, None)
        future.set_result(outcome)

    async def _repair(self, key: Key, page: int, cause: MediaError) -> None:
        """Until it is done, or nobody is left to ask."""
        deadline_ns = self._clock.now_ns() + GIVE_UP_MS * NS_PER_MS
        wrong: dict[int, int] = {}  # bad answers by node
        while self._clock.now_ns() < deadline_ns:
            copy, region = self._copy(key), self._store.region(key)
            if copy is None or region.states is None or region.states[page] == HOLE:
                return  # given back meanwhile: the reader finds zeros
            peers = [node for node in copy.members if node != copy.self_id]
            if all(wrong.get(peer, 0) >= BAD_ANSWERS_MAX for peer in peers):
                async with self._store.destager.hold():
                    if not await self._wrong_sectors(region, page):
                        return  # a disk that was out of reach answers again
                self._lost(copy, page, cause)
            for peer in peers:
                if wrong.get(peer, 0) >= BAD_ANSWERS_MAX or not self._io.core.has_link(peer):
                    continue
                region.repairing[page] = None
                reply = await self._ask(peer, copy, page, region.applied_seq)
                if reply is None or self._store.regions.get(key) is not region:
                    continue
                if reply.outcome == WRONG:
                    wrong[peer] = BAD_ANSWERS_MAX
                elif reply.outcome == RIGHT:
                    taken = await self._take(region, page, reply)
                    if taken:
                        self._repaired(copy, page, peer, cause)
                        return
                    if taken is None:
                        wrong[peer] = wrong.get(peer, 0) + 1
            await self._clock.sleep(PAUSE_MS / 1000)
        raise RequestTimeout(f"{cause}; no other copy has answered within {GIVE_UP_MS} ms")

    def _copy(self, key: Key) -> RegionCopy | None:
        copy = self._io.core.copies.get(key[0], {}).get(key[1])
        return copy if copy is not None and copy.role in (OWNER, COPY) else None

    async def _ask(
        self, peer: int, copy: RegionCopy, page: int, at_least: int
    ) -> wire.PageReply | None:
        """None: no answer in time."""
        self._next += 1
        number = self._next
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(ANSWER_MS / 1000, lambda: _answered(future, None))
        try:
            # What is committed here goes before: the other may lack just the word of it.
            self._io.flush_records()
            request = wire.PageRequest(number, copy.volume, copy.region, copy.epoch, page, at_least)
            if not self._io.bus.send(peer, request):
                return None
            reply: wire.PageReply | None = await future
            return reply
        finally:
            timer.cancel()
            del self._asked[number]

    def _on_reply(self, peer: int, message: wire.PageReply) -> None:
        future = self._asked.get(message.request)
        if future is not None:
            _answered(future, message)

    async def _take(self, region: StoredRegion, page: int, reply: wire.PageReply) -> bool | None:
        """True: the page is right again. False: something came between, ask again. None: what came
        is not what must be there."""
        data = memoryview(reply.data)  # type: ignore[arg-type]
        if len(data) != region.page_bytes:
            return None
        for _ in range(ANSWER_MS // PAUSE_MS):
            if region.applied_seq >= reply.seq:
                break
            await self._clock.sleep(PAUSE_MS / 1000)
        store = self._store
        async with store.destager.hold():
            if (
                store.regions.get(region.key) is not region
                or region.applied_seq < reply.seq
                or page not in region.repairing
            ):
                return False
            mask = await self._wrong_sectors(region, page)
            # The disks took their time. From here on nothing is awaited.
            if page not in region.repairing or region.has_pending(page, region.full_mask):
                return False
            if not mask or region.states is None or region.states[page] == HOLE:
                return True
            if not store.journal.has_room(region.page_bytes):
                return False
            if not self._fits(region, page, mask, data):
                return None
            store.put_repaired(region.key, page, mask, data)
        return True

    async def _wrong_sectors(self, region: StoredRegion, page: int) -> int:
        """Mask of the blocks of the page that the disks do not give back."""
        mask = 0
        spare = memoryview(bytearray(BLOCK_BYTES))
        first = page * region.page_bytes >> BLOCK_SHIFT
        for number in range(region.page_bytes >> BLOCK_SHIFT):
            if region.states is None or not region.proven_blocks(
                first + number, first + number + 1
            ):
                continue
            try:
                await self._store.blocks.right_block(region, first + number, spare)
            except MediaError:
                mask |= block_bits(number)
        return mask

    @staticmethod
    def _fits(region: StoredRegion, page: int, mask: int, data: memoryview) -> bool:
        dirty = region.dirty.get(page)
        known = 0 if dirty is None else dirty.mask
        for number in range(region.page_bytes >> BLOCK_SHIFT):
            bits = block_bits(number)
            if mask & bits and not known & bits:
                at = number << BLOCK_SHIFT
                part = data[at : at + BLOCK_BYTES]
                if not region.sums.is_right(page * region.page_bytes + at, part):
                    return False
        return True

    def _repaired(self, copy: RegionCopy, page: int, peer: int, cause: MediaError) -> None:
        self._store.blocks.counters.repaired_pages += 1
        self._io.effects.append(
            Note("page.repaired", volume=copy.volume, region=copy.region, page=page, source=peer,
                 cause=str(cause))
        )  # fmt: skip
        self._io.turn_soon()

    def _lost(self, copy: RegionCopy, page: int, cause: MediaError) -> None:
        self._store.blocks.counters.lost_pages += 1
        self._io.effects.append(
            Note("page.lost", volume=copy.volume, region=copy.region, page=page, cause=str(cause))
        )
        self._io.turn_soon()
        raise MediaError(
            f"volume {copy.volume} region {copy.region} page {page}: no copy has right bytes of it"
            f" any more; here: {cause}",
            page=page,
        )

    # ------------------------------------------------------------------ who has it

    def _on_request(self, peer: int, message: wire.PageRequest) -> None:
        key = (message.volume, message.region)
        copy, region = self._copy(key), self._store.regions.get(key)
        if (
            self._io.store is None
            or copy is None
            or copy.epoch != message.epoch
            or region is None
            or region.session != COMPLETE
            or region.applied_seq < message.at_least
            or not 0 <= message.page < region.pages
            or self._answering >= ANSWERS_MAX
        ):
            self._io.bus.send(peer, wire.PageReply(message.request, LATER, 0, b""))
            return
        self._answering += 1
        self._supervisor.start(self._answer(peer, message, region), name="answer_page")

    async def _answer(self, peer: int, message: wire.PageRequest, region: StoredRegion) -> None:
        data = bytearray(region.page_bytes)
        at = message.page * region.page_bytes
        outcome = RIGHT
        try:
            await self._store.read(region.key, at, len(data), memoryview(data), alone=True)
        except MediaError:
            outcome = WRONG
        except StorageError:
            outcome = LATER
        finally:
            self._answering -= 1
        if outcome == RIGHT and (region.states is None or region.states[message.page] == HOLE):
            outcome = NO_PAGE
        body = data if outcome == RIGHT else b""
        # Nothing was awaited since the bytes were put together: they are as of the newest record.
        self._io.bus.send(peer, wire.PageReply(message.request, outcome, region.applied_seq, body))


def _answered(future: asyncio.Future[wire.PageReply | None], reply: wire.PageReply | None) -> None:
    if not future.done():
        future.set_result(reply)
