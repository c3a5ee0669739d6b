"""Checksums of blocks: what they see, and what they cost nothing to keep."""

from __future__ import annotations

import pytest

from base.errors import InvalidRequest
from base.units import BLOCK_BYTES
from node.page_checksums import (
    BlockSums,
    block_bits,
    partial_blocks,
    put_sectors,
    take_sectors,
)

PAGE = 4 * BLOCK_BYTES


def sums(volume: int = 1, region: int = 0) -> BlockSums:
    return BlockSums((volume, region), 8, PAGE)


def page(fill: int = 7) -> bytearray:
    return bytearray([fill]) * PAGE


def test_nothing_is_wrong_where_nothing_is_expected() -> None:
    assert sums().is_right(0, memoryview(page()))


def test_a_flipped_bit_is_wrong() -> None:
    kept, data = sums(), page()
    kept.wrote(PAGE, data, (1 << 32) - 1)
    data[BLOCK_BYTES + 5] ^= 4
    assert kept.wrong_blocks(PAGE, memoryview(data)) == [5]
    assert not kept.is_right(PAGE + BLOCK_BYTES, memoryview(data)[BLOCK_BYTES : 2 * BLOCK_BYTES])


def test_the_bytes_before_a_write_are_wrong_after_it() -> None:
    kept = sums()
    kept.wrote(0, page(1), block_bits(0))
    kept.wrote(0, page(2), block_bits(0))
    assert kept.wrong_blocks(0, memoryview(page(1))[:BLOCK_BYTES]) == [0]


@pytest.mark.parametrize("other", [(1, 0, 1), (1, 1, 0), (2, 0, 0)])
def test_equal_bytes_at_another_address_have_another_checksum(other: tuple[int, int, int]) -> None:
    volume, region, block = other
    data = bytes(BLOCK_BYTES)
    assert sums().of(0, data) != sums(volume, region).of(block, data)


def test_only_the_blocks_of_the_mask_are_expected() -> None:
    kept = sums()
    kept.wrote(0, page(1), block_bits(2))
    assert [kept.is_known(block) for block in range(4)] == [False, False, True, False]


def test_a_doubted_block_is_unknown_to_a_checkpoint_only_and_until_it_is_written() -> None:
    kept, again = sums(), sums()
    kept.wrote(0, page(1), (1 << 32) - 1)
    kept.doubt(0, 1 << 9)
    assert kept.wrong_blocks(0, memoryview(page(2))) == [0, 1, 2, 3]
    again.load(kept.pack())
    assert again.wrong_blocks(0, memoryview(page(2))) == [0, 2, 3]
    kept.wrote(0, page(1), block_bits(1))
    again.load(kept.pack())
    assert again.wrong_blocks(0, memoryview(page(2))) == [0, 1, 2, 3]


def test_what_is_packed_comes_back() -> None:
    kept = sums()
    kept.wrote(2 * PAGE, page(3), block_bits(1))
    again = sums()
    again.load(kept.pack())
    assert again.pack() == kept.pack()
    assert again.wrong_blocks(2 * PAGE, memoryview(page(4))) == [9]


def test_nothing_known_packs_to_nothing() -> None:
    assert sums().pack() == b""


def test_checksums_of_another_shape_are_refused() -> None:
    kept = sums()
    kept.wrote(0, page(), block_bits(0))
    with pytest.raises(InvalidRequest, match="are not the checksums of 16 pages"):
        BlockSums((1, 0), 16, PAGE).load(kept.pack())


def test_partial_blocks_are_those_of_which_some_sectors_are_missing() -> None:
    assert partial_blocks(0xFF) == 0
    assert partial_blocks(0x0F) == 0xFF
    assert partial_blocks(0x1_FF) == 0xFF00
    assert partial_blocks(0) == 0


def test_sectors_that_were_taken_go_back_to_their_places() -> None:
    data = bytearray(i // 512 for i in range(BLOCK_BYTES))
    into = bytearray(BLOCK_BYTES)
    put_sectors(into, 0b1010, take_sectors(data, 0b1010))
    assert [into[at] for at in range(0, BLOCK_BYTES, 512)] == [0, 1, 0, 3, 0, 0, 0, 0]
