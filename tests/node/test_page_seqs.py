"""Which record touched a page last: exact in memory, rounded to the safe side in a checkpoint."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from node.page_seqs import (
    SEQ_BYTES,
    bitmap_bytes,
    bits_of,
    bools_of,
    newer_than,
    no_seqs,
    pack_seqs,
    unpack_seqs,
)

SEQS = st.lists(st.integers(0, 1 << 50), min_size=1, max_size=40)


@given(SEQS, st.integers(0, 1 << 50))
def test_a_page_comes_back_as_changed_no_earlier_and_little_later(
    seqs: list[int], committed: int
) -> None:
    seqs = [min(seq, committed) for seq in seqs]
    back = unpack_seqs(pack_seqs(array("Q", seqs), committed), committed)
    for was, now in zip(seqs, back, strict=True):
        if was:
            assert was <= now <= committed
            assert (committed - now) * 128 >= (committed - was) * 127 - 128
        else:
            assert now == 0


def test_the_newest_pages_come_back_exactly() -> None:
    seqs = array("Q", range(744, 1001))
    assert unpack_seqs(pack_seqs(seqs, 1000), 1000) == seqs


def test_a_page_that_is_ahead_of_the_commit_point_counts_as_changed_at_it() -> None:
    assert unpack_seqs(pack_seqs(array("Q", [9, 11]), 10), 10).tolist() == [9, 10]


def test_two_bytes_a_page_lie_in_a_checkpoint() -> None:
    assert len(pack_seqs(no_seqs(1024), 0)) == SEQ_BYTES * 1024


def test_pages_of_older_records_are_not_newer() -> None:
    assert newer_than(array("Q", [0, 4, 5, 6]), 5).tolist() == [False, False, False, True]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_bitmap_comes_back_as_it_was(pages: list[bool]) -> None:
    bitmap = bits_of(bools_of(bits_of(pages), len(pages)))  # type: ignore[arg-type]
    assert len(bitmap) == bitmap_bytes(len(pages))
    assert bools_of(bitmap, len(pages)).tolist() == pages
