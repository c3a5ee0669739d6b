"""plan: what the disks must give back: a checksum for each 4 KiB block of one copy of one region.

A checksum covers the contents and the address (volume, region, block). It is kept apart from the
data, in memory and in the checkpoint, and always means the *newest* write: so rot, torn writes,
bytes that landed elsewhere and writes that were answered and never stored all show as a mismatch.

0 means unknown: nothing is expected, whatever is there is taken. A block is unknown until this copy
has written it whole. What may be trusted after a crash: docs/internals/storage.md.
"""

from __future__ import annotations

import struct
from array import array
from functools import lru_cache
from typing import Final

import google_crc32c
import numpy as np

from base.device import Buffer
from base.errors import InvalidRequest
from base.units import BLOCK_BYTES, SECTOR_BYTES
from node.page_seqs import Bools

UNKNOWN: Final = 0
BLOCK_SHIFT: Final = BLOCK_BYTES.bit_length() - 1
_IN_PLACE_OF_ZERO: Final = 0xFFFF_FFFF
_SPREAD: Final = 0x9E37_79B1  # odd: no two blocks of a region begin their CRC alike
_U32: Final = 0xFFFF_FFFF
_SECTORS: Final = BLOCK_BYTES // SECTOR_BYTES
_BLOCK_MASK: Final = (1 << _SECTORS) - 1
_TYPE: Final = "I"
_extend = google_crc32c.extend

assert array(_TYPE).itemsize == 4


class BlockSums:
    """Checksums of the blocks of one region; offsets in bytes of the region.

    4 bytes for each block of 4 KiB, and nothing at all while none is known.
    """

    __slots__ = ("_blocks", "_doubted", "_page_blocks", "_seed", "_values", "doubts_written")

    def __init__(self, key: tuple[int, int], pages: int, page_bytes: int) -> None:
        assert page_bytes % BLOCK_BYTES == 0
        self._page_blocks = page_bytes >> BLOCK_SHIFT
        self._blocks = pages * self._page_blocks
        self._seed: int = google_crc32c.value(struct.pack("<QQ", *key))
        self._values: array[int] | None = None
        self._doubted: dict[int, None] = {}
        self.doubts_written = (
            0  # so often: a crash may tear such a block until the disks are synced
        )

    def of(self, block: int, data: bytes) -> int:
        """The checksum of a block with those contents at that place; never UNKNOWN."""
        return _extend((self._seed + block * _SPREAD) & _U32, data) or _IN_PLACE_OF_ZERO

    def is_right(self, offset: int, data: memoryview) -> bool:
        """Whether whole blocks, read at `offset`, are all as they must be."""
        values = self._values
        if values is None:
            return True
        if len(data) == BLOCK_BYTES:  # what most hosts read: no call that can be spared
            block = offset >> BLOCK_SHIFT
            want = values[block]
            found = _extend((self._seed + block * _SPREAD) & _U32, bytes(data))
            return not want or (found or _IN_PLACE_OF_ZERO) == want
        return not self.wrong_blocks(offset, data)

    def wrong_blocks(self, offset: int, data: memoryview) -> list[int]:
        """Of whole blocks, read at `offset`, those that are not as they must be; ascending."""
        values = self._values
        if values is None:
            return []
        first = offset >> BLOCK_SHIFT
        wrong: list[int] = []
        for number in range(len(data) >> BLOCK_SHIFT):
            want = values[first + number]
            if want:
                at = number << BLOCK_SHIFT
                if self.of(first + number, bytes(data[at : at + BLOCK_BYTES])) != want:
                    wrong.append(first + number)
        return wrong

    def is_known(self, block: int) -> bool:
        """Something is expected of the block."""
        return self._values is not None and self._values[block] != UNKNOWN

    def wrote(self, offset: int, data: Buffer, mask: int) -> None:
        """The sectors of `mask`, whole blocks of the page at `offset`, are on disk now."""
        assert not partial_blocks(mask)
        values = self._values
        if values is None:
            values = self._values = array(_TYPE, bytes(4 * self._blocks))
        block = offset >> BLOCK_SHIFT
        at = 0
        while mask:
            if mask & 1:
                values[block] = self.of(block, bytes(data[at : at + BLOCK_BYTES]))
                if self._doubted and block in self._doubted:
                    del self._doubted[block]
                    self.doubts_written += 1
            mask >>= _SECTORS
            at += BLOCK_BYTES
            block += 1

    def doubt(self, offset: int, mask: int) -> None:
        """The blocks that the mask of a page touches are unknown to a checkpoint from now on, until
        they are written: a crash may tear them. In this life they are what they were."""
        block = offset >> BLOCK_SHIFT
        while mask:
            if mask & _BLOCK_MASK:
                self._doubted[block] = None
            mask >>= _SECTORS
            block += 1

    def forget_pages(self, pages: Bools) -> None:
        """The blocks of those pages become unknown."""
        if self._values is not None:
            values = np.frombuffer(self._values, dtype=np.uint32).reshape(-1, self._page_blocks)
            values[pages] = UNKNOWN

    def clear(self) -> None:
        """Nothing is known."""
        self._values = None
        self._doubted.clear()

    def pack(self) -> bytes:
        """For a checkpoint: a bit for each page of which something is known, then the checksums of
        those pages. Empty when nothing is."""
        if self._values is None:
            return b""
        values = np.frombuffer(self._values, dtype=np.uint32)
        if self._doubted:
            values = values.copy()
            values[list(self._doubted)] = UNKNOWN
        values = values.reshape(-1, self._page_blocks)
        known = values.any(axis=1)
        packed = values[known].astype("<u4").tobytes()
        return np.packbits(known, bitorder="little").tobytes() + packed

    def load(self, packed: bytes) -> None:
        """Inverse of `pack`. InvalidRequest when it is of another shape of region."""
        if not packed:
            self._values = None
            return
        pages = self._blocks // self._page_blocks
        head = (pages + 7) // 8
        bits = np.frombuffer(packed[:head], dtype=np.uint8)
        rest = packed[head:]
        values = np.zeros((pages, self._page_blocks), dtype=np.uint32)
        if len(bits) == head:
            known = np.unpackbits(bits, count=pages, bitorder="little").astype(np.bool_)
            if len(rest) == 4 * self._page_blocks * int(np.count_nonzero(known)):
                values[known] = np.frombuffer(rest, dtype="<u4").reshape(-1, self._page_blocks)
                self._values = array(_TYPE, values.tobytes())
                return
        raise InvalidRequest(f"{len(packed)} bytes are not the checksums of {pages} pages")


@lru_cache(maxsize=4096)
def partial_blocks(mask: int) -> int:
    """All sectors of the blocks of which the mask of a page has some sectors and not all."""
    partial = shift = 0
    while mask >> shift:
        part = mask >> shift & _BLOCK_MASK
        if part and part != _BLOCK_MASK:
            partial |= _BLOCK_MASK << shift
        shift += _SECTORS
    return partial


def block_bits(number: int) -> int:
    """The sectors of one block of a page, counted from its first."""
    return _BLOCK_MASK << number * _SECTORS


def take_sectors(data: Buffer, mask: int) -> bytes:
    """The sectors of the mask, one behind the other."""
    parts: list[Buffer] = []
    at = 0
    while mask:
        if mask & 1:
            parts.append(data[at : at + SECTOR_BYTES])
        mask >>= 1
        at += SECTOR_BYTES
    return b"".join(parts)


def put_sectors(into: bytearray | memoryview, mask: int, sectors: Buffer) -> None:
    """Inverse of `take_sectors`: `sectors` begins with the first one of the mask."""
    at = position = 0
    while mask:
        if mask & 1:
            into[at : at + SECTOR_BYTES] = sectors[position : position + SECTOR_BYTES]
            position += SECTOR_BYTES
        mask >>= 1
        at += SECTOR_BYTES
