"""shell: reading committed bytes of a region: cache over disks, checked block by block.

Nothing that comes from a disk is given out before its checksum was compared. What is wrong is
mended from another disk, else from the copy on another node (`repair`), and then read again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from base.errors import InvalidRequest, MediaError, NotFound
from base.units import BLOCK_BYTES
from node.block_reader import BlockReader, WrongBlocks
from node.checkpoint import COMPLETE, Key
from node.destage import Destager
from node.page_checksums import BLOCK_SHIFT
from node.region_pages import HOLE, fill_zeros
from node.stored_region import StoredRegion

READ_RETRIES_MAX = 8

Repair = Callable[[Key, int, MediaError], Awaitable[None]]


class RegionReads:
    """repair(key, page, error): get a page from another node; returns when the cache has it, and
    raises what the reader is to be told when that cannot be. None: nobody else can help."""

    def __init__(
        self, regions: Mapping[Key, StoredRegion], blocks: BlockReader, destager: Destager
    ) -> None:
        self._regions = regions
        self._blocks = blocks
        self._destager = destager
        self.repair: Repair | None = None

    def read_now(self, key: Key, offset: int, length: int, into: memoryview) -> bool:
        """Fill `into[:length]` with committed bytes at once; False: `read` must be awaited.

        NotFound; InvalidRequest outside of the region.
        """
        region = self._regions.get(key)
        if region is None or region.session != COMPLETE:
            raise NotFound(f"volume {key[0]} region {key[1]}: this node has no complete copy")
        states = region.states
        page_bytes = region.page_bytes
        if offset < 0 or offset + length > region.pages * page_bytes:
            raise InvalidRequest(f"{length} bytes at {offset} are not within the region")
        if len(into) != length:
            into = into[:length]
        if states is None:
            fill_zeros(into)
            return True
        index, at = divmod(offset, page_bytes)
        if at + length <= page_bytes:
            if states[index] == HOLE:
                fill_zeros(into)
                return True
            page = region.dirty.get(index)
            if page is None:
                return self._blocks.read_now(region, offset, into)
            if page.mask == region.full_mask:
                into[:] = memoryview(page.data)[at : at + length]
                return True
        for start, stop in region.disk_runs(offset, length):
            if region.has_dirty(start, stop):
                return self._mixed_now(region, offset, into)
            if not self._blocks.read_now(region, start, into[start - offset : stop - offset]):
                return False
        region.overlay(offset, into)
        return True

    def _mixed_now(self, region: StoredRegion, offset: int, into: memoryview) -> bool:
        """As read_now, where the cache has a part of a page and the disks have the rest."""
        low = offset & ~(BLOCK_BYTES - 1)
        high = offset + len(into) + BLOCK_BYTES - 1 & ~(BLOCK_BYTES - 1)
        whole = memoryview(bytearray(high - low))
        for start, stop in region.disk_runs(low, high - low):
            part = whole[start - low : stop - low]
            if not self._blocks.shelf.read_now(region.plans, region.base + start, part):
                return False
            if self._wrong(region, start, part):
                return False
        region.overlay(low, whole)
        into[:] = whole[offset - low : offset - low + len(into)]
        return True

    @staticmethod
    def _wrong(region: StoredRegion, start: int, part: memoryview) -> list[int]:
        """Of blocks that were read at `start` those that are wrong and would be given out."""
        wrong = region.sums.wrong_blocks(start, part)
        if not wrong:
            return wrong
        wanted = region.proven_blocks(wrong[0], wrong[-1] + 1)
        return [block for block in wrong if block in wanted]

    async def read(
        self, key: Key, offset: int, length: int, into: memoryview, *, alone: bool = False
    ) -> None:
        """As read_now, for disks that take their time, or give back what is wrong. The bytes are
        those of one instant between call and return.

        alone: do not ask another node. MediaError when nobody has right bytes of a page.
        """
        into = into[:length]
        for attempt in range(READ_RETRIES_MAX):
            try:
                if attempt < READ_RETRIES_MAX - 1:
                    if await self._read_once(key, offset, into, any_member=attempt > 0):
                        return
                else:
                    # Destaging moves bytes under us again and again: hold it for this one read.
                    async with self._destager.hold():
                        await self._read_once(key, offset, into, any_member=True)
                    return
            except WrongBlocks as wrong:
                if attempt == READ_RETRIES_MAX - 1:
                    raise MediaError(
                        f"volume {key[0]} region {key[1]}: {wrong} do not stay right"
                    ) from None
                await self._mend(key, wrong.blocks, alone)

    async def _read_once(
        self, key: Key, offset: int, into: memoryview, *, any_member: bool
    ) -> bool:
        """False: bytes moved from cache to disk meanwhile, so what was read may be older."""
        if self.read_now(key, offset, len(into), into):
            return True
        region = self._regions[key]
        versions = region.versions
        low = offset & ~(BLOCK_BYTES - 1)
        high = offset + len(into) + BLOCK_BYTES - 1 & ~(BLOCK_BYTES - 1)
        whole = into if high - low == len(into) else memoryview(bytearray(high - low))
        runs = region.disk_runs(low, high - low)
        failed: list[int] = []
        for start, stop in runs:
            part = whole[start - low : stop - low]
            failed += await self._blocks.read_run(region, start, part, any_member=any_member)
        if self._regions.get(key) is not region:
            raise NotFound(f"volume {key[0]} region {key[1]}: it was dropped during a read")
        if region.versions != versions:
            return False
        wanted = set(region.proven_blocks(failed[0], failed[-1] + 1)) if failed else set()
        wrong = [block for block in failed if block in wanted]
        for start, stop in runs:
            wrong += self._wrong(region, start, whole[start - low : stop - low])
        if wrong:
            raise WrongBlocks(sorted(set(wrong)))
        region.overlay(low, whole)
        if whole is not into:
            into[:] = whole[offset - low : offset - low + len(into)]
        return True

    async def _mend(self, key: Key, blocks: list[int], alone: bool) -> None:
        lost: dict[int, MediaError] = {}
        async with self._destager.hold():
            region = self._regions.get(key)
            if region is None:
                raise NotFound(f"volume {key[0]} region {key[1]}: it was dropped during a read")
            spare = memoryview(bytearray(BLOCK_BYTES))
            for block in blocks:
                if region.states is None or not region.proven_blocks(block, block + 1):
                    continue  # written or given back since
                try:
                    await self._blocks.right_block(region, block, spare)
                except MediaError as error:
                    lost.setdefault((block << BLOCK_SHIFT) // region.page_bytes, error)
        for page in sorted(lost):
            if alone or self.repair is None:
                raise lost[page]
            await self.repair(key, page, lost[page])
