"""shell: reading a view of a region: its own exception, else a newer one's, else the base [0095].

What a read-only view has never changes; where it is does: a page that was the base's own is copied
out while it is read. So after the base was read it is looked up again.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from base.errors import MediaError, NotFound
from base.units import BLOCK_BYTES
from node.block_reader import BlockReader
from node.cache import mask_runs
from node.checkpoint import COMPLETE, Key
from node.destage import Destager
from node.kept_pages import KeptPages
from node.page_checksums import BLOCK_SHIFT, block_bits
from node.region_pages import RegionPages, fill_zeros
from node.region_reads import READ_RETRIES_MAX, RegionReads
from node.stored_region import StoredRegion
from node.view_batches import Entry
from snapshot.entry import BASE, NULL, PAGE, base_entry, kind_of, offset_of


class ViewReads:
    """Of the regions of one store. `reads`: of what is not a snapshot."""

    def __init__(
        self,
        regions: dict[Key, StoredRegion],
        reads: RegionReads,
        blocks: BlockReader,
        destager: Destager,
    ) -> None:
        self._regions = regions
        self._reads = reads
        self._blocks = blocks
        self._destager = destager

    def _region(self, key: Key) -> StoredRegion:
        region = self._regions.get(key)
        if region is None or region.session != COMPLETE:
            raise NotFound(f"volume {key[0]} region {key[1]}: this node has no complete copy")
        if region.kept is not None and region.kept.missing:
            raise NotFound(f"volume {key[0]} region {key[1]}: this copy has no snapshots")
        return region

    @staticmethod
    def _locate(region: StoredRegion, view: int, index: int) -> int:
        """Where the view has the page. Nothing is kept before the first write that owes it."""
        kept = region.kept
        if kept is None:
            return base_entry(index)
        entry = kept.views.locate(view, index)
        if entry == NULL:
            raise NotFound(
                f"volume {region.key[0]} region {region.key[1]}: snapshot {view} went stale"
            )
        return entry

    def read_now(self, key: Key, view: int, offset: int, into: memoryview) -> bool:
        """Fill `into` at once; False: `read` must be awaited. NotFound as for `read`."""
        region = self._region(key)
        page_bytes = region.page_bytes
        done = 0
        while done < len(into):
            index, at = divmod(offset + done, page_bytes)
            count = min(page_bytes - at, len(into) - done)
            part = into[done : done + count]
            entry = self._locate(region, view, index)
            kind = kind_of(entry)
            if kind == BASE:
                if not self._reads.read_now(key, offset + done, count, part):
                    return False
            elif kind == PAGE:
                kept = region.kept
                assert kept is not None
                number = offset_of(entry)
                page = kept.dirty.get(number)
                if page is None:
                    if not self._blocks.read_now(kept, number * page_bytes + at, part):
                        return False
                elif page.mask == kept.full_mask:
                    part[:] = memoryview(page.data)[at : at + count]
                else:
                    return False
            else:
                fill_zeros(part)
            done += count
        return True

    def entries(self, key: Key) -> list[Entry]:
        """(view, page, kind) of everything that views have of the region, ascending by view; of
        those that are stale nothing. NotFound as for `read`."""
        kept = self._region(key).kept
        if kept is None:
            return []
        return [
            (view, page, kind)
            for (view, page), kind in kept.views.kinds().items()
            if view not in kept.views.stale
        ]

    def has(self, key: Key, view: int, page: int) -> bool:
        """The view has an exception of its own for that page, and is not stale."""
        kept = self._region(key).kept
        return kept is not None and view not in kept.views.stale and not kept.views.owes(view, page)

    def stale(self, key: Key) -> tuple[int, ...]:
        """Views that are no points in time at this copy, ascending."""
        kept = self._region(key).kept
        return () if kept is None else tuple(sorted(kept.views.stale))

    def runs(self, key: Key, view: int) -> list[tuple[int, int, bool]]:
        """(offset, length, allocated) of what the view has of the region, in bytes, ascending,
        without gaps. NotFound as for `read`."""
        region = self._region(key)
        allocated = np.zeros(region.pages, dtype=np.bool_)
        for offset, length, one in region.runs():
            allocated[offset // region.page_bytes : (offset + length) // region.page_bytes] = one
        if region.kept is not None:
            # Tools ask for a few sectors at a time: a look-up of each page would be their time.
            kinds = region.kept.views.locate_all(view)
            if kinds is None:
                raise NotFound(f"volume {key[0]} region {key[1]}: snapshot {view} went stale")
            away = kinds != BASE
            allocated[away] = kinds[away] == PAGE
        edges = np.flatnonzero(allocated[1:] != allocated[:-1]) + 1
        starts = [0, *edges.tolist(), region.pages]
        return [
            (start * region.page_bytes, (stop - start) * region.page_bytes, bool(allocated[start]))
            for start, stop in pairwise(starts)
        ]

    async def read(self, key: Key, view: int, offset: int, into: memoryview) -> None:
        """Fill `into` with what the view has at that byte of the region. The caller has looked that
        there is such a view. NotFound: this copy cannot say, another may; MediaError."""
        page_bytes = self._region(key).page_bytes
        done = 0
        while done < len(into):
            index, at = divmod(offset + done, page_bytes)
            count = min(page_bytes - at, len(into) - done)
            await self._read_page(key, view, index, at, into[done : done + count])
            done += count

    async def _read_page(self, key: Key, view: int, index: int, at: int, into: memoryview) -> None:
        for attempt in range(READ_RETRIES_MAX):
            region = self._region(key)
            entry = self._locate(region, view, index)
            if kind_of(entry) == PAGE:
                kept = region.kept
                assert kept is not None
                if attempt < READ_RETRIES_MAX - 1:
                    moved = not await self._read_kept(kept, offset_of(entry), index, at, into)
                else:
                    async with self._destager.hold():
                        moved = not await self._read_kept(kept, offset_of(entry), index, at, into)
                if moved:
                    continue
            elif kind_of(entry) == BASE:
                offset, length = index * region.page_bytes + at, len(into)
                if not self._reads.read_now(key, offset, length, into):
                    await self._reads.read(key, offset, length, into)
            else:
                fill_zeros(into)
            if self._region(key) is region and self._locate(region, view, index) == entry:
                return
        raise MediaError(
            f"volume {key[0]} region {key[1]} page {index}: it moves again and again", page=index
        )

    async def _read_kept(
        self, kept: KeptPages, number: int, index: int, at: int, into: memoryview
    ) -> bool:
        """False: it moved from cache to disk meanwhile."""
        page = kept.dirty.get(number)
        if page is not None and page.mask == kept.full_mask:
            into[:] = memoryview(page.data)[at : at + len(into)]
            return True
        place = kept if page is None else kept.owner
        first = number if page is None else index
        versions = place.versions
        whole = memoryview(bytearray(kept.page_bytes))
        await self._blocks_of(place, first, whole, 0 if page is None else page.mask)
        if kept.dirty.get(number) is not page or place.versions != versions:
            return False
        if page is not None:
            for start, count in mask_runs(page.mask):
                whole[start : start + count] = memoryview(page.data)[start : start + count]
        into[:] = whole[at : at + len(into)]
        return True

    async def _blocks_of(
        self, place: RegionPages, first: int, whole: memoryview, have: int
    ) -> None:
        """The blocks of a page of which `have` has not all; right ones or MediaError."""
        start = first * place.page_bytes
        if self._blocks.read_now(place, start, whole):
            return
        for low in range(0, len(whole), BLOCK_BYTES):
            part = whole[low : low + BLOCK_BYTES]
            number = low >> BLOCK_SHIFT
            if block_bits(number) & ~have:
                failed = await self._blocks.read_run(place, start + low, part, any_member=False)
                if failed or not place.sums.is_right(start + low, part):
                    raise MediaError(
                        f"volume {place.key[0]} region {place.key[1]}: a kept page is wrong",
                        page=first,
                    )
