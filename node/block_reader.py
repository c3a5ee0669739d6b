"""shell: whole blocks of a region from its disks, right or not at all, and what mends a wrong one.

A block that reads with an error, or whose bytes are not what was written last, is taken from
another member of its RAID set, and written back over the wrong one: that cures a latent sector
error and rot. Only bytes that were checked are ever written over others. Where no member has it,
MediaError says so, and the copy of the region on another node must help (`node.page_repair`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from base.errors import DeviceFailed, MediaError, NoSpace
from base.units import BLOCK_BYTES
from node.disk_shelf import DiskShelf
from node.page_checksums import BLOCK_SHIFT

if TYPE_CHECKING:
    from node.region_pages import RegionPages

log = structlog.get_logger()


@dataclass(slots=True)
class MediaCounters:
    """Since the start of the node. wrong: blocks that a disk gave back wrong or not at all; mended:
    those that another member of the RAID set gave back; repaired: pages that another node gave
    back; lost: pages of which no copy was right when a host wanted them."""

    wrong_blocks: int = 0
    mended_blocks: int = 0
    repaired_pages: int = 0
    lost_pages: int = 0


class WrongBlocks(Exception):
    """A read met blocks that are not what they must be, or that it could not read."""

    def __init__(self, blocks: list[int]) -> None:
        super().__init__(f"blocks {blocks}")
        self.blocks = blocks


class BlockReader:
    """on_mended(key, block, cause): a block was mended from another member."""

    def __init__(self, shelf: DiskShelf) -> None:
        self.shelf = self._shelf = shelf
        self.counters = MediaCounters()
        self.on_mended: Callable[[tuple[int, int], int, str], None] | None = None

    def read_now(self, region: RegionPages, offset: int, into: memoryview) -> bool:
        """Fill `into` with bytes of pages that are all on disk, clean and right; False: something
        else has to be done. Takes whole blocks around what is asked for, to check them."""
        length = len(into)
        if not (offset | length) & (BLOCK_BYTES - 1):
            return self._shelf.read_now(
                region.plans, region.base + offset, into
            ) and region.sums.is_right(offset, into)
        low = offset & ~(BLOCK_BYTES - 1)
        high = offset + length + BLOCK_BYTES - 1 & ~(BLOCK_BYTES - 1)
        whole = memoryview(bytearray(high - low))
        if not self._shelf.read_now(
            region.plans, region.base + low, whole
        ) or not region.sums.is_right(low, whole):
            return False
        into[:] = whole[offset - low : offset - low + length]
        return True

    async def read_run(
        self, region: RegionPages, offset: int, into: memoryview, *, any_member: bool
    ) -> list[int]:
        """Fill `into`, whole blocks, with what the disks say. Blocks that could not be read.

        any_member: of a mirror; else an error of the first is an error, so that it is mended.
        """
        read = self._shelf.read if any_member else self._shelf.read_first
        try:
            await read(region.plans, region.base + offset, into)
        except DeviceFailed:
            failed: list[int] = []
            for at in range(0, len(into), BLOCK_BYTES):
                part = into[at : at + BLOCK_BYTES]
                try:
                    await read(region.plans, region.base + offset + at, part)
                except DeviceFailed:
                    failed.append((offset + at) >> BLOCK_SHIFT)
            return failed
        return []

    async def right_block(self, region: RegionPages, block: int, into: memoryview) -> None:
        """Fill `into` with a block that is right, and mend members that have it wrong. MediaError
        when no member has it. The caller holds the destager: nothing is on its way to a disk."""
        offset = block << BLOCK_SHIFT
        wrong = []
        cause = ""
        found = False
        for extent in self._shelf.members(region.plans, region.base + offset, BLOCK_BYTES):
            other = memoryview(bytearray(BLOCK_BYTES))
            try:
                await self._shelf.read_member(extent, other)
            except DeviceFailed as error:
                cause = str(error)
                wrong.append(extent)
                continue
            if not region.sums.is_right(offset, other):
                cause = f"disk {extent.disk}: what byte {extent.offset} holds was not written there"
                wrong.append(extent)
            elif not found:
                found = True
                into[:] = other
        self.counters.wrong_blocks += len(wrong)
        key = region.key
        if not found:
            page = offset // region.page_bytes
            log.warning("block.rejected", volume=key[0], region=key[1], block=block, cause=cause)
            raise MediaError(
                f"volume {key[0]} region {key[1]} page {page}: {cause or 'no disk answers'}",
                page=page,
            )
        for extent in wrong:
            try:
                await self._shelf.write_member(extent, into)
            except (DeviceFailed, NoSpace) as error:
                log.warning("block.mend_failed", disk=extent.disk, error=str(error))
                continue
            self.counters.mended_blocks += 1
            log.warning(
                "block.mended", volume=key[0], region=key[1], block=block, disk=extent.disk,
                cause=cause,
            )  # fmt: skip
            if self.on_mended is not None:
                self.on_mended(key, block, cause)
