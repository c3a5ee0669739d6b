"""Dirty pages: their masks, their order, sealing, and what may be destaged when."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import InvalidRequest
from node.cache import POOL_BYTES_IDLE, Cache, Page, contents, mask_runs
from node.region_pages import ABSENT, DISK, FRESH, HOLE, RegionPages, RegionPlace
from tests.node.store_world import PAGE, PAGES, REGION, build_ld
from transport.operation import NO_HOLE, TRIM, WRITE, ZERO, Record

FULL = 0xFF


def cache() -> Cache:
    return Cache(low_bytes=PAGE, high_bytes=4 * PAGE, max_bytes=8 * PAGE)


def region(held: Cache | None = None, number: int = 0) -> RegionPages:
    return RegionPages(
        (1, number), RegionPlace(REGION, PAGE, build_ld(0), 0), cache() if held is None else held
    )


def apply(
    pages: RegionPages, kind: int, offset: int, length: int, lsn: int, flags: int = 0, fill: int = 1
) -> None:
    data = bytes([fill]) * length if kind == WRITE else b""
    pages.apply(Record(1, 0, kind, flags, offset, length, 1, 1, 0, data), lsn)


def note_all(held: Cache) -> None:
    held.noted = held.stamp
    held.stamp += 1


def finish(held: Cache, group: list[Page] | None) -> None:
    assert group is not None
    for page in group:
        held.finish(page)


@given(st.integers(0, (1 << 70) - 1))
def test_runs_of_a_mask_are_its_set_bits_and_never_touch(mask: int) -> None:
    runs = mask_runs(mask)
    rebuilt = 0
    for start, count in runs:
        rebuilt |= ((1 << (count // 512)) - 1) << (start // 512)
    assert rebuilt == mask
    assert all(one[0] + one[1] < two[0] for one, two in pairwise(runs))


def test_a_partial_write_of_a_hole_makes_a_whole_page_of_zeros_around_it() -> None:
    pages = region()
    pages.cache.new_page(pages, 0, 0).data[:] = b"\xaa" * PAGE  # a used buffer goes to the pool
    pages.cache.drop(pages.dirty[0])
    apply(pages, WRITE, 1024, 512, 7)
    page = pages.dirty[0]
    assert page.data == bytes(1024) + b"\x01" * 512 + bytes(PAGE - 1536)
    assert (page.mask, pages.states) == (FULL, bytearray([FRESH] + [HOLE] * (PAGES - 1)))


def test_a_cache_that_became_clean_gives_its_buffers_back() -> None:
    held = Cache(low_bytes=1, high_bytes=1 << 30, max_bytes=1 << 30)
    for number in range(1000):
        apply(region(held, number), WRITE, 0, PAGE, number)
    note_all(held)
    while (group := held.next_group()) is not None:
        finish(held, group)
    assert sum(map(len, held._pool.values())) * PAGE == POOL_BYTES_IDLE


def test_a_partial_write_of_a_page_on_disk_is_dirty_in_its_sectors_only() -> None:
    pages = region()
    pages.load(b"\x01")
    apply(pages, WRITE, 1024, 1024, 7)
    assert pages.dirty[0].mask == 0b1100


def test_a_trim_of_a_whole_page_forgets_its_dirty_bytes() -> None:
    pages = region()
    apply(pages, WRITE, 0, PAGE, 1)
    apply(pages, TRIM, 0, PAGE, 2)
    assert (pages.dirty, pages.cache.dirty_bytes, pages.states[0]) == ({}, 0, HOLE)  # type: ignore[index]


def test_a_trim_of_part_of_a_page_is_zeros_and_gives_nothing_back() -> None:
    pages = region()
    apply(pages, WRITE, 0, PAGE, 1)
    apply(pages, TRIM, 512, 1024, 2)
    assert pages.dirty[0].data == b"\x01" * 512 + bytes(1024) + b"\x01" * (PAGE - 1536)


def test_zeros_without_a_hole_allocate_and_zeros_with_one_give_back() -> None:
    pages = region()
    apply(pages, ZERO, 0, PAGE, 1, NO_HOLE)
    assert pages.states is not None
    assert pages.states[0] == FRESH
    apply(pages, ZERO, 0, PAGE, 2)
    assert pages.states[0] == HOLE


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 100), (REGION - 512, 1024)])
def test_an_operation_that_is_not_whole_sectors_of_the_region_changes_nothing(
    offset: int, length: int
) -> None:
    pages = region()
    with pytest.raises(InvalidRequest, match="not whole sectors"):
        apply(pages, WRITE, offset, length, 1)
    assert (pages.states, pages.dirty) == (None, {})


def test_nothing_is_destaged_before_it_was_noted() -> None:
    held = cache()
    apply(region(held), WRITE, 0, PAGE, 5)
    assert held.next_group() is None
    note_all(held)
    assert held.next_group() is not None


def test_a_page_that_no_record_told_of_waits_for_a_note_too() -> None:
    """Else it never goes to disk and holds the journal: nothing that is committed is left to tell.
    Scenario rebuild-under-load, seed 6, with a journal of 256 KiB."""
    held = cache()
    pages = region(held)
    assert not held.waits_for_note()
    apply(pages, WRITE, 0, PAGE, 5)
    assert held.waits_for_note()
    note_all(held)
    assert not held.waits_for_note()
    held.stamp += 1
    apply(pages, WRITE, 0, PAGE, 6)
    page = pages.dirty[0]
    held.seal(page)
    assert page.sealed is not None
    assert held.waits_for_note() == (page.sealed.newest > held.noted)
    note_all(held)
    assert not held.waits_for_note()


def test_the_oldest_page_goes_first_and_takes_its_full_neighbours_along() -> None:
    held = cache()
    one, two = region(held, 1), region(held, 2)
    apply(one, WRITE, 3 * PAGE, PAGE, 1)
    apply(two, WRITE, 0, PAGE, 2)
    apply(one, WRITE, 2 * PAGE, PAGE, 3)
    apply(one, WRITE, 4 * PAGE, 2 * PAGE, 4)
    apply(one, WRITE, 7 * PAGE, PAGE, 5)
    note_all(held)
    order = []
    while (group := held.next_group()) is not None:
        order.append([(page.region.key[1], page.index) for page in group])
        finish(held, group)
    assert order == [[(1, 2), (1, 3), (1, 4), (1, 5)], [(2, 0)], [(1, 7)]]
    assert (held.dirty_bytes, held.pages) == (0, 0)


def test_a_page_that_never_rests_is_sealed_and_keeps_what_came_after() -> None:
    held = cache()
    pages = region(held)
    apply(pages, WRITE, 0, 512, 1, fill=1)
    note_all(held)
    apply(pages, WRITE, 0, 512, 2, fill=2)
    assert held.next_group() is None  # sealed now, with both
    apply(pages, WRITE, 512, 512, 3, fill=3)
    note_all(held)
    group = held.next_group()
    assert group is not None
    data, mask = contents(group[0])
    assert (data[:1024], mask) == (b"\x02" * 512 + bytes(512), FULL)
    finish(held, group)
    page = pages.dirty[0]
    assert (page.data[:1024], page.oldest) == (b"\x02" * 512 + b"\x03" * 512, 3)
    assert pages.states is not None
    assert pages.states[0] == DISK


def test_a_sealed_page_holds_its_oldest_record_back() -> None:
    held = cache()
    pages = region(held)
    apply(pages, WRITE, 0, 512, 1)
    held.seal(pages.dirty[0])
    apply(pages, WRITE, 0, 512, 9)
    assert [page.sealed and page.sealed.oldest for page in held.live_pages()] == [1]


def test_a_page_on_its_way_to_disk_still_holds_its_oldest_record_back() -> None:
    held = cache()
    pages = region(held)
    apply(pages, WRITE, 0, 512, 1)
    held.seal(pages.dirty[0])
    note_all(held)
    assert held.next_group() == [pages.dirty[0]]
    assert list(held.live_pages()) == [pages.dirty[0]]
    held.finish(pages.dirty[0])
    assert list(held.live_pages()) == []


def test_a_sealed_page_whose_destage_failed_lets_the_others_go_first() -> None:
    held = cache()
    one, two = region(held, 1), region(held, 2)
    for pages in (one, two):
        apply(pages, WRITE, 0, 512, 1)
        held.seal(pages.dirty[0])
    note_all(held)
    held.put_back([one.dirty[0]])
    assert held.next_group() == [two.dirty[0]]
    finish(held, [two.dirty[0]])
    assert (held.next_group(), list(held.live_pages())) == (None, [one.dirty[0]])
    held.resume(one)
    assert held.next_group() == [one.dirty[0]]


def test_a_page_of_a_failed_region_that_has_not_failed_itself_is_tried_first() -> None:
    held = cache()
    pages = region(held)
    for index in (0, 2, 4):
        apply(pages, WRITE, index * PAGE, 512, 1)
    note_all(held)
    order = []
    for _ in range(4):
        group = held.next_group()
        assert group is not None
        order.append(group[0].index)
        held.put_back(group)
        assert held.next_group() is None
        held.resume(pages)
    assert order == [0, 2, 4, 0]


def test_a_page_trimmed_on_its_way_stays_trimmed() -> None:
    held = cache()
    pages = region(held)
    apply(pages, WRITE, 0, PAGE, 1)
    note_all(held)
    group = held.next_group()
    assert group is not None
    apply(pages, TRIM, 0, PAGE, 2)
    finish(held, group)
    assert pages.states is not None
    assert (pages.states[0], held.pages, held.dirty_bytes) == (HOLE, 0, 0)


def test_a_page_whose_destage_failed_is_tried_again_after_the_others() -> None:
    held = cache()
    one, two = region(held, 1), region(held, 2)
    apply(one, WRITE, 0, PAGE, 1)
    apply(two, WRITE, 0, PAGE, 2)
    note_all(held)
    group = held.next_group()
    assert group is not None
    held.put_back(group)
    order = [held.next_group()[0].region.key[1]]  # type: ignore[index]
    finish(held, [two.dirty[0]])
    assert (held.next_group(), list(held.live_pages())) == (None, [one.dirty[0]])
    held.resume(one)
    while (group := held.next_group()) is not None:
        order.append(group[0].region.key[1])
        finish(held, group)
    assert order == [2, 1]


def test_a_checkpoint_bitmap_leaves_out_what_is_only_in_the_cache() -> None:
    pages = region()
    pages.load(b"\x01")
    apply(pages, WRITE, PAGE, PAGE, 1)
    assert (pages.bitmap(), pages.disk_bitmap()) == (b"\x03", b"\x01")


def test_runs_of_allocation_cover_the_region_and_alternate() -> None:
    pages = region()
    assert pages.runs() == [(0, REGION, False)]
    apply(pages, WRITE, PAGE, 2 * PAGE, 1)
    assert pages.runs() == [
        (0, PAGE, False),
        (PAGE, 2 * PAGE, True),
        (3 * PAGE, REGION - 3 * PAGE, False),
    ]


def every_page(pages: RegionPages) -> Any:
    return np.ones(pages.pages, dtype=np.bool_)


def test_a_joiner_wants_only_sectors_that_the_stream_has_not_written() -> None:
    pages = region()
    pages.begin_transfer(b"\x03", every_page(pages))
    assert pages.states == bytearray([ABSENT, ABSENT] + [HOLE] * (PAGES - 2))
    apply(pages, WRITE, 512, 1024, 1)
    assert [pages.untouched(page) for page in (0, 1, 2)] == [0b11111001, FULL, 0]
    apply(pages, WRITE, PAGE, PAGE, 2)
    assert (pages.untouched(1), pages.absent_pages()) == (0, 1)
    pages.page_received(0)
    assert (pages.untouched(0), pages.absent_pages()) == (0, 0)


def test_a_page_trimmed_during_a_transfer_is_not_wanted_any_more() -> None:
    pages = region()
    pages.begin_transfer(b"\x01", every_page(pages))
    apply(pages, TRIM, 0, PAGE, 1)
    assert (pages.untouched(0), pages.absent_pages(), pages.bitmap()) == (0, 0, b"\x00")
