"""shell: writes dirty pages to the disks, oldest first, a bounded amount in one turn of the loop.

One group of pages is on its way at a time, so two versions of a page can never overtake each other.

Only whole blocks are written. Of a block that hosts wrote in part the rest is read, checked, and
noted in the journal first: so after a crash every block that may have been on its way is made again
whole, and a checksum that does not fit is damage and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from base.clock import Clock
from base.errors import DeviceFailed, MediaError, NoSpace, StorageError
from base.units import BLOCK_BYTES, NS_PER_MS, KiB
from node.block_reader import BlockReader
from node.cache import Cache, Page, contents, mask_runs
from node.disk_shelf import DiskShelf
from node.journal import Journal
from node.journal_format import CommitNote, FillNote, KeptNote
from node.kept_pages import KeptPages
from node.page_checksums import BLOCK_SHIFT, block_bits, partial_blocks, put_sectors, take_sectors
from node.region_pages import RegionPages

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DestagePace:
    """turn_*: most that is written without giving the loop back. pause_ms: between turns while the
    cache is not above its high mark. after_ms: no page stays dirty longer. sync_ms: least time
    between journal syncs that destaging asks for. retry_ms: pause after an error of a disk."""

    turn_pages: int = 32
    turn_bytes: int = 512 * KiB
    pause_ms: int = 2
    after_ms: int = 1000
    sync_ms: int = 50
    idle_ms: int = 200
    retry_ms: int = 1000
    journal_percent: int = 50  # of the ring in use: destage everything, so that it can be trimmed


class Destager:
    """Keeps the cache below its marks. `take_points`: commit points that changed since the last
    call, for a note in the journal; `has_points`: there are some. `on_region_error(key, error)`:
    dirty pages of the region cannot be written to any member of its disks; they stay dirty and are
    tried again. checkpoint: take one; awaited only when the journal has no room for a note."""

    def __init__(
        self,
        cache: Cache,
        shelf: DiskShelf,
        blocks: BlockReader,
        journal: Journal,
        clock: Clock,
        pace: DestagePace,
        *,
        checkpoint: Callable[[], Awaitable[None]],
        take_points: Callable[[], tuple[tuple[int, int, int, int, int], ...]],
        has_points: Callable[[], bool],
        on_region_error: Callable[[tuple[int, int], StorageError], None] | None,
        on_room: Callable[[], None] | None,
    ) -> None:
        self._cache = cache
        self._shelf = shelf
        self._blocks = blocks
        self._checkpoint = checkpoint
        self._journal = journal
        self._clock = clock
        self._pace = pace
        self._take_points = take_points
        self._has_points = has_points
        self.on_region_error = on_region_error
        self.on_room = on_room
        self._nap: asyncio.Future[None] | None = None
        self._full_speed = False
        self._sync_asked = False
        self._last_sync_ns = 0
        self._turn_lock = asyncio.Lock()
        self.errors = 0
        self.syncs = 0
        self._fill_stamp = 0  # when a page was completed last
        self.fill_lsn = -1  # of the newest note about the rest of a block
        self.filled = 0  # pages of which a part of a block was read before they went to disk

    def kick(self) -> None:
        """There is something to do: do not sleep on."""
        nap = self._nap
        if nap is not None and not nap.done():
            nap.set_result(None)

    async def run(self) -> None:
        """For ever."""
        pace = self._pace
        while True:
            self._cache.now_ns = self._clock.now_ns()
            if not self._has_work():
                await self._sleep(pace.idle_ms)
                continue
            more = await self.turn()
            if more:
                await self._clock.sleep(0 if self._full_speed else pace.pause_ms / 1000)
            else:
                if self._cache.pages:
                    self._ask_sync()
                await self._sleep(pace.sync_ms)

    def _has_work(self) -> bool:
        cache, pace = self._cache, self._pace
        dirty = cache.dirty_bytes
        if dirty >= cache.high_bytes or self._journal.used_percent >= pace.journal_percent:
            self._full_speed = dirty > 0
        elif dirty <= cache.low_bytes:
            self._full_speed = False
        if self._full_speed:
            return True
        born_ns = cache.oldest_born_ns
        return born_ns is not None and cache.now_ns - born_ns >= pace.after_ms * NS_PER_MS

    async def _sleep(self, duration_ms: int) -> None:
        loop = asyncio.get_running_loop()
        self._nap = loop.create_future()
        timer = self._clock.call_later(duration_ms / 1000, self.kick)
        try:
            await self._nap
        finally:
            timer.cancel()
            self._nap = None

    def _ask_sync(self) -> None:
        now = self._clock.now_ns()
        if self._sync_asked or now - self._last_sync_ns < self._pace.sync_ms * NS_PER_MS:
            return
        if self._journal.is_full:
            return  # a note would wait for room that only a checkpoint can make; it notes as well
        if (
            not self._has_points()
            and self._fill_stamp <= self._cache.noted
            and not self._cache.waits_for_note()
        ):
            return  # all that was applied is noted already, and what was read to complete blocks
        self._sync_asked = True
        self._last_sync_ns = now
        self.syncs += 1
        lsn, stamp = self.append_note()
        self._journal.request_sync(lambda: self._synced(stamp), up_to=lsn)

    def append_note(self) -> tuple[int, int]:
        """Journal which records are committed: once that is synced, all that was applied before may
        be destaged. (its lsn, the stamp for `noted`)."""
        return self._journal.append_note(CommitNote(self._take_points())), self.next_stamp()

    def next_stamp(self) -> int:
        """Close the present stamp: what is applied from now on gets a new one."""
        stamp = self._cache.stamp
        self._cache.stamp += 1
        return stamp

    def _synced(self, stamp: int) -> None:
        self._sync_asked = False
        self.noted(stamp)

    def noted(self, stamp: int) -> None:
        """It is synced that what was applied up to that stamp is committed: it may be destaged."""
        self._cache.noted = max(self._cache.noted, stamp)
        self.kick()

    @property
    def progress(self) -> int:
        """Grows with every page that went to disk or on its way there."""
        return self._cache.destaged + self.filled + self._cache.sealed_count

    def hold(self) -> asyncio.Lock:
        """While it is held, no page is on its way to a disk."""
        return self._turn_lock

    async def turn(self) -> bool:
        """Destage at most one turn's worth. False when nothing more may be destaged now."""
        async with self._turn_lock:
            return await self._turn()

    async def _turn(self) -> bool:
        cache, pace = self._cache, self._pace
        had_room = cache.dirty_bytes < cache.max_bytes
        pages = size = 0
        more = True
        while pages < pace.turn_pages and size < pace.turn_bytes:
            group = cache.next_group()
            if group is None:
                more = False
                break
            pages += len(group)
            size += len(group) * group[0].region.page_bytes
            if not await self._destage(group):
                more = False
                break
        if not had_room and cache.dirty_bytes < cache.max_bytes and self.on_room is not None:
            self.on_room()
        return more

    async def _destage(self, group: list[Page]) -> bool:
        """False: it has to wait for something, and so should the rest."""
        try:
            if group[0].region.keeps and group[0].mask != group[0].region.full_mask:
                await self._complete(group[0])
                return True
            if len(group) == 1 and partial_blocks(contents(group[0])[1]):
                return await self._fill(group[0])
            if not self._write_now(group):
                await self._write(group)
        except (DeviceFailed, MediaError, NoSpace) as error:
            self.errors += 1
            region = group[0].region
            key = region.key
            # The other regions go on: one dead disk must not fill the cache of the whole node.
            self._cache.put_back(group)
            self._clock.call_later(self._pace.retry_ms / 1000, self._go_on, region)
            log.warning("region.destage_failed", volume=key[0], region=key[1], error=str(error))
            if self.on_region_error is not None:
                self.on_region_error(key, error)
            return True
        finish = self._cache.finish
        for page in group:
            if page.live:
                data, mask = contents(page)
                page.region.sums.wrote(page.index * page.region.page_bytes, data, mask)
            finish(page)
        return True

    async def _fill(self, page: Page) -> bool:
        """Complete the blocks of which a page has a part. It goes to disk in a later turn: when the
        note of what was read is synced, or after a checkpoint that expects nothing of them. False:
        a record of those blocks is in the journal and not applied yet.
        """
        region = page.region
        page_bytes = region.page_bytes
        page_block = page.index * page_bytes >> BLOCK_SHIFT
        # Sealed it is in a queue, and holds back the trim point while disks take their time.
        sealed = page.sealed or self._cache.seal(page)
        wanted = partial_blocks(sealed.mask)
        whole = memoryview(bytearray(page_bytes))
        for start, count in mask_runs(wanted):
            for at in range(start, start + count, BLOCK_BYTES):
                number = at >> BLOCK_SHIFT
                try:
                    part = whole[at : at + BLOCK_BYTES]
                    await self._blocks.right_block(region, page_block + number, part)
                except MediaError:
                    if page.sealed is sealed and page.live:
                        if block_bits(number) & ~page.mask:
                            raise
                        # The cache has the whole block by now: so there is nothing to repair, and
                        # what is sealed could never be completed. What is newer goes instead.
                        self._cache.unseal(page)
                    return True
        if page.sealed is not sealed or not page.live:
            return True
        # The note must say what all records before it have left: else a replay would put old bytes
        # over theirs. So nothing that is still to be applied, and nothing that came after sealing.
        missing = wanted & ~page.mask
        room = self._journal.has_room(page_bytes)
        if room and missing and region.has_pending(page.index, wanted):
            self._cache.postpone(page)
            return False
        self.filled += 1
        if room and missing:
            self._note(page, missing, take_sectors(whole, missing))
        elif missing:
            # It has no room before pages go to disk, and what is still to be applied may wait for
            # that room: then the checkpoint must know that a crash may tear these blocks.
            region.sums.doubt(page.index * page_bytes, missing)
            self._cache.changed[region.key] = None
            await self._checkpoint()
        if region.dirty.get(page.index) is page:
            missing = wanted & ~sealed.mask
            merged = bytearray(sealed.data)
            put_sectors(merged, missing, take_sectors(whole, missing))
            self._cache.reseal(page, bytes(merged), sealed.mask | missing)
            self._fill_stamp = self._cache.stamp
        return True

    async def _complete(self, page: Page) -> None:
        """Give a kept page, and others of the same page of the base, what they lack of the disk.
        That place is not written before: so it holds what it held when they were kept."""
        kept = page.region
        assert isinstance(kept, KeptPages)
        self._cache.take_back(page)  # while the disk takes its time
        index = kept.page_of(page.index)
        region = kept.owner
        wanted = kept.wanted(index)
        whole = memoryview(bytearray(region.page_bytes))
        first_block = index * region.page_bytes >> BLOCK_SHIFT
        for at in range(0, region.page_bytes, BLOCK_BYTES):
            number = at >> BLOCK_SHIFT
            if block_bits(number) & wanted:
                part = whole[at : at + BLOCK_BYTES]
                try:
                    await self._blocks.right_block(region, first_block + number, part)
                except MediaError as error:
                    log.warning("view.lost", volume=region.key[0], region=region.key[1],
                                page=index, error=str(error))  # fmt: skip
                    kept.give_up(index)
                    return
        if not page.live:
            return  # removed or dropped meanwhile
        self.filled += 1
        views, pages = kept.views_of(index), list(kept.lacking[index])
        sectors = take_sectors(whole, wanted)
        mask = wanted.to_bytes((wanted.bit_length() + 7) // 8, "little")
        room = self._journal.has_room(region.page_bytes)
        if room:
            note = KeptNote(*region.key, index, views, mask, sectors)
            self.fill_lsn = self._journal.append_note(note)
        else:
            kept.hold_until_noted(index)
        kept.complete(index, views, wanted, sectors)
        kept.stamp = self._fill_stamp = self._cache.stamp
        base = region.dirty.get(index)
        if base is not None:
            self._cache.wait_for_note(base)
        for each in pages:
            self._cache.completed(each)
        if not room:
            await self._write_kept(kept, pages)

    async def _write_kept(self, kept: KeptPages, pages: list[Page]) -> None:
        """Without room for a note: to disk at once, where nothing points to them yet, and into a
        checkpoint, for which the base's page waits."""
        for page in pages:
            if page.live:
                await self._write([page])
                if page.live:
                    sealed = page.sealed
                    assert sealed is not None
                    at = page.index * kept.page_bytes
                    kept.sums.wrote(at, sealed.data, sealed.mask)
                    self._cache.finish(page)
        await self._checkpoint()

    def _note(self, page: Page, missing: int, sectors: bytes) -> None:
        """Journal what was read."""
        mask = missing.to_bytes((missing.bit_length() + 7) // 8, "little")
        note = FillNote(*page.region.key, page.index, False, mask, sectors)
        self.fill_lsn = self._journal.append_note(note)

    def _go_on(self, region: RegionPages) -> None:
        self._cache.resume(region)
        self.kick()

    def _write_now(self, group: list[Page]) -> bool:
        page = group[0]
        region = page.region
        shelf, plans = self._shelf, region.plans
        at = region.base + page.index * region.page_bytes
        if len(group) > 1:
            assert max(each.newest for each in group) <= self._cache.noted, "I31"
            return shelf.write_now(plans, at, [each.data for each in group])
        data, mask = contents(page)
        newest = page.newest if page.sealed is None else page.sealed.newest
        assert newest <= self._cache.noted, "I31"
        if mask == region.full_mask:
            return shelf.write_now(plans, at, (data,))
        view = memoryview(data)
        for start, count in mask_runs(mask):
            if not shelf.write_now(plans, at + start, (view[start : start + count],)):
                return False
        return True

    async def _write(self, group: list[Page]) -> None:
        """A disk takes its time: what is on its way must not change, so it is set aside first."""
        for page in group:
            if page.sealed is None:
                self._cache.seal(page)
        region = group[0].region
        plans = region.plans
        for page in group:
            sealed = page.sealed
            if sealed is None or not page.live:
                continue  # trimmed while those before it were on their way
            at = region.base + page.index * region.page_bytes
            view = memoryview(sealed.data)
            for start, count in mask_runs(sealed.mask):
                await self._shelf.write(plans, at + start, (view[start : start + count],))
