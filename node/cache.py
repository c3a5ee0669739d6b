"""plan: the write-back cache: dirty pages, their order, and what to destage next.

A dirty page is a buffer of one page with a mask of valid 512-byte sectors: a host may write less
than a page, and what it did not write is still on disk. Three rules keep it right:

- A page is destaged only when all its records are synced in the journal (I31), and the knowledge
  that they are committed is too. Without the second, a restart could call a record uncommitted of
  which the disk has bytes already, and then be told by another node that it never was.
- A page that is written all the time would never be that: it is *sealed*. The contents of now are
  set aside as a copy that waits for the sync; later writes go to the live page.
- A page stays in the cache, and holds back the trim point of the journal by its oldest record,
  until it was written to every disk that keeps it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from base.units import SECTOR_BYTES, KiB, MiB

if TYPE_CHECKING:
    from node.region_pages import RegionPages

POOL_BYTES_MAX: Final = 16 * MiB  # of page buffers kept for reuse: new memory costs page faults
POOL_BYTES_IDLE: Final = 2 * MiB  # once nothing is dirty
GROUP_BYTES_MAX: Final = 512 * KiB  # of neighbours that are destaged together
NO_LSN: Final = -1


class Sealed:
    """A copy of a dirty page, on its way to disk or waiting for the sync of its records."""

    __slots__ = ("data", "mask", "newest", "oldest")

    def __init__(self, data: bytes, mask: int, oldest: int, newest: int) -> None:
        self.data = data
        self.mask = mask
        self.oldest = oldest
        self.newest = newest


class Page:
    """One dirty page. `oldest`: lsn of the first record in it. `since` and `newest`: the cache's
    stamp when the first and the last one were applied.

    While `sealed` is set, `redirty` is the first record that came after the sealing, and
    `rewritten` the sectors that such records wrote. `live` ends when the page leaves the cache:
    queues may still hold it.

    mask: of the sectors that entries of the journal from `oldest` on give back after a crash. Only
    blocks of which that are all may go to disk: what it then holds, a replay makes again whole.
    """

    __slots__ = (
        "born_ns", "data", "failed", "index", "live", "mask", "newest", "oldest", "queued",
        "redirty", "region", "rewritten", "sealed", "since",
    )  # fmt: skip

    def __init__(self, region: RegionPages, index: int, data: bytearray, lsn: int, now: int):
        self.region = region
        self.index = index
        self.data = data
        self.mask = 0
        self.oldest = lsn
        self.since = self.newest = region.cache.stamp
        self.born_ns = now
        self.sealed: Sealed | None = None
        self.redirty = NO_LSN
        self.rewritten = 0
        self.live = True
        self.queued = True  # new_page puts it there
        self.failed = 0  # when its destage failed last, among all failures


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Sizes in bytes of whole pages."""

    dirty_bytes: int
    dirty_peak_bytes: int
    dirty_pages: int
    destaged_pages: int
    sealed_pages: int


class Cache:
    """Dirty pages of all regions of a node, in the order in which they became dirty.

    Bounds: at `max_bytes` callers stop taking host writes; what was admitted before that may still
    come in, so the real bound is max_bytes plus the permits of the I/O path. Destaging runs at full
    speed from `high_bytes` until it is down to `low_bytes`.

    changed: regions whose entry in the checkpoint is out of date, in order of their first change.
    """

    __slots__ = (
        "_failures", "_paused", "_peak", "_pool", "_pool_bytes", "_queue", "_sealed", "changed",
        "destaged", "dirty_bytes", "high_bytes", "low_bytes", "max_bytes", "noted", "now_ns",
        "pages", "replaying", "sealed_count", "stamp", "wants_checkpoint",
    )  # fmt: skip

    def __init__(self, *, low_bytes: int, high_bytes: int, max_bytes: int) -> None:
        self.changed: dict[tuple[int, int], None] = {}
        self.max_bytes = max_bytes
        self.stamp = 1  # grows with each note of what is committed
        self.noted = 0  # the newest that is synced: what was applied at it or before may go
        self.low_bytes = low_bytes
        self.high_bytes = high_bytes
        self.dirty_bytes = 0
        self.pages = 0
        self.destaged = 0
        self.sealed_count = 0
        self.now_ns = 0  # set by the shell now and then: ages are coarse
        self._peak = 0
        self._queue: deque[Page] = deque()
        self._sealed: deque[Page] = deque()
        self._paused: dict[RegionPages, None] = {}
        self._failures = 0
        self.replaying = False  # the journal is being replayed
        self.wants_checkpoint = False  # a page is held until one is on disk
        self._pool: dict[int, list[bytearray]] = {}  # by page size
        self._pool_bytes = 0

    def statistics(self) -> CacheStatistics:
        """A snapshot."""
        return CacheStatistics(
            self.dirty_bytes, self._peak, self.pages, self.destaged, self.sealed_count
        )

    # -- pages come and go

    def new_page(self, region: RegionPages, index: int, lsn: int) -> Page:
        """A dirty page with an empty mask. Its bytes are whatever the buffer held before."""
        size = region.page_bytes
        pool = self._pool.get(size)
        if pool:
            data = pool.pop()
            self._pool_bytes -= size
        else:
            data = bytearray(size)
        page = Page(region, index, data, lsn, self.now_ns)
        region.dirty[index] = page
        self._queue.append(page)
        self.pages += 1
        self.dirty_bytes += size
        if self.dirty_bytes > self._peak:
            self._peak = self.dirty_bytes
        return page

    def drop(self, page: Page) -> None:
        """The page is clean, or its contents are not wanted any more."""
        region = page.region
        size = region.page_bytes
        del region.dirty[page.index]
        page.live = False
        self.pages -= 1
        self.dirty_bytes -= size
        if self._pool_bytes + size <= POOL_BYTES_MAX:
            self._pool.setdefault(size, []).append(page.data)
            self._pool_bytes += size
        if not self.pages:
            # Nothing is dirty: what queues still hold is dead, and an idle node is a small one.
            self._queue.clear()
            self._sealed.clear()
            self._shrink_pool()

    def _shrink_pool(self) -> None:
        for size, pool in self._pool.items():
            while pool and self._pool_bytes > POOL_BYTES_IDLE:
                pool.pop()
                self._pool_bytes -= size

    def drop_region(self, region: RegionPages) -> None:
        """Forget every dirty page of the region."""
        for page in list(region.dirty.values()):
            self.drop(page)

    def live_pages(self) -> Iterator[Page]:
        """Every dirty page, once."""
        for page in self._queue:
            if page.live and page.sealed is None:
                yield page
        for page in self._sealed:
            if page.live and page.sealed is not None:
                yield page
        for region in self._paused:
            for page in region.aside:
                if page.live:
                    yield page

    # -- what to destage next

    @property
    def is_paused(self) -> bool:
        """Some region is left alone until `resume`."""
        return bool(self._paused)

    @property
    def oldest_born_ns(self) -> int | None:
        """When the page at the head became dirty; None when nothing is."""
        queue = self._queue
        while queue and (not queue[0].live or queue[0].sealed is not None):
            queue.popleft().queued = False
        if queue:
            return queue[0].born_ns
        # Sealed ones are older than anything that is not.
        return next((page.born_ns for page in self._sealed if page.live), None)

    def waits_for_note(self) -> bool:
        """What is to be destaged next waits for `noted` to grow, whatever it is that it holds."""
        noted = self.noted
        for page in self._sealed:
            if page.live and page.sealed is not None:
                if page.sealed.newest > noted:
                    return True
                break
        for page in self._queue:
            if page.live and page.sealed is None:
                return page.since > noted
        return False

    def next_group(self) -> list[Page] | None:
        """Neighbouring pages of one region, ascending, oldest first of all that may be destaged.

        None: nothing more may be destaged before `noted` grows; pages that changed since and were
        dirty before it have been sealed, so that one note is enough. The caller writes what
        `contents` says and then calls `finish` for each page.
        """
        noted = self.noted
        sealed = self._sealed
        for _ in range(len(sealed)):
            page = sealed[0]
            if not page.live or page.sealed is None:
                sealed.popleft()
                continue
            if page.sealed.newest > noted:
                break
            if page.region.is_busy(page.index):
                if page.region.paused:
                    page.region.aside.append(sealed.popleft())
                else:
                    sealed.rotate(-1)
                continue
            # It stays in the queue until `finish`: on its way, it still holds the trim point back.
            return [page]
        queue = self._queue
        for _ in range(len(queue)):
            page = queue[0]
            if not page.live or page.sealed is not None:
                queue.popleft().queued = False
                continue
            if page.since > noted:
                return None
            if page.region.is_busy(page.index):
                if page.region.paused:
                    queue.popleft().queued = False
                    page.region.aside.append(page)
                else:
                    queue.rotate(-1)
                continue
            queue.popleft().queued = False
            if page.newest > noted:
                self.seal(page)
                continue
            return self._with_neighbours(page, noted)
        return None

    def _with_neighbours(self, page: Page, noted: int) -> list[Page]:
        region = page.region
        full = region.full_mask
        if page.mask != full:
            return [page]
        dirty = region.dirty
        room = GROUP_BYTES_MAX // region.page_bytes - 1
        group = [page]
        at = page.index - 1
        while room > 0:
            other = dirty.get(at)
            if not self._joins(other, full, noted):
                break
            assert other is not None
            group.append(other)
            at -= 1
            room -= 1
        group.reverse()
        at = page.index + 1
        while room > 0:
            other = dirty.get(at)
            if not self._joins(other, full, noted):
                break
            assert other is not None
            group.append(other)
            at += 1
            room -= 1
        return group

    @staticmethod
    def _joins(page: Page | None, full: int, noted: int) -> bool:
        return (
            page is not None
            and page.mask == full
            and page.sealed is None
            and page.newest <= noted
            and not page.region.is_busy(page.index)
        )

    def seal(self, page: Page) -> Sealed:
        """Set the contents of now aside: writes that follow do not change what is destaged."""
        assert page.sealed is None
        page.sealed = Sealed(bytes(page.data), page.mask, page.oldest, page.newest)
        page.redirty = NO_LSN
        page.rewritten = 0
        self._sealed.append(page)
        self.sealed_count += 1
        return page.sealed

    def reseal(self, page: Page, data: bytes, mask: int) -> None:
        """Its sealed copy has more sectors now, and waits for the note of this stamp."""
        sealed = page.sealed
        assert sealed is not None
        page.sealed = Sealed(data, mask, sealed.oldest, self.stamp)
        self._sealed.remove(page)
        self._sealed.append(page)

    def postpone(self, page: Page) -> None:
        """Its sealed copy cannot go to disk yet: others first."""
        self._sealed.remove(page)
        self._sealed.append(page)

    def wait_for_note(self, page: Page) -> None:
        """Nothing of the page goes to disk before the note of this stamp is synced."""
        page.newest = self.stamp
        if page.sealed is not None:
            page.sealed.newest = self.stamp
            if page in self._sealed:
                self.postpone(page)

    def completed(self, page: Page) -> None:
        """It has all that it lacked; it waits as above."""
        page.since = page.newest = self.stamp

    def take_back(self, page: Page) -> None:
        """It was taken from the queue, and does not go to disk yet: it must hold the trim point."""
        self._enqueue(page)

    def unseal(self, page: Page) -> None:
        """Give up its sealed copy, none of which is on its way to a disk: the page has it all."""
        if page in self._sealed:
            self._sealed.remove(page)
        page.sealed = None
        page.redirty = NO_LSN
        page.rewritten = 0
        self._enqueue(page)

    def finish(self, page: Page) -> None:
        """The page, or its sealed copy, is on all its disks."""
        if not page.live:
            return
        self.destaged += 1
        page.region.page_destaged(page.index)
        if page.sealed is not None and page.redirty != NO_LSN:
            page.mask = page.rewritten
            page.oldest = page.redirty
            page.since = self.stamp
            page.sealed = None
            page.redirty = NO_LSN
            page.rewritten = 0
            page.born_ns = self.now_ns
            self._enqueue(page)
            return
        page.sealed = None
        self.drop(page)

    def put_back(self, group: list[Page]) -> None:
        """The destage of the group failed: its region is left alone until `resume`."""
        region = group[0].region
        region.paused = True
        self._paused[region] = None
        for page in group:
            self._failures += 1
            page.failed = self._failures
            if page.live and page.sealed is None:
                self._enqueue(page)  # a sealed one is in its queue still

    def resume(self, region: RegionPages) -> None:
        """Try the region again, and first the pages that failed longest ago or never."""
        region.paused = False
        self._paused.pop(region, None)
        aside, region.aside = region.aside, []
        for page in sorted(aside, key=lambda page: page.failed):
            if page.live and page.sealed is not None:
                self._sealed.append(page)
            elif page.live:
                self._enqueue(page)

    def _enqueue(self, page: Page) -> None:
        if not page.queued:
            page.queued = True
            self._queue.append(page)


def contents(page: Page) -> tuple[bytes | bytearray, int]:
    """(bytes, mask of sectors) to destage: the sealed copy when there is one."""
    sealed = page.sealed
    return (page.data, page.mask) if sealed is None else (sealed.data, sealed.mask)


@lru_cache(maxsize=4096)
def mask_runs(mask: int) -> tuple[tuple[int, int], ...]:
    """(first byte, bytes) of every run of set bits, one bit a sector, ascending."""
    runs: list[tuple[int, int]] = []
    at = 0
    while mask:
        skip = (mask & -mask).bit_length() - 1
        mask >>= skip
        at += skip
        count = (~mask & (mask + 1)).bit_length() - 1
        runs.append((at * SECTOR_BYTES, count * SECTOR_BYTES))
        mask >>= count
        at += count
    return tuple(runs)
