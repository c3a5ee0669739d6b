"""Tables of a region and pages of the snapshot space: against dicts, and through checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from node.region_views import RegionViews
from node.snapshot_space import SnapshotSpace
from snapshot.entry import BASE, NULL, PAGE, ZERO_ENTRY, kind_of, offset_of, page_entry
from snapshot.exception_table import ExceptionTable, TableShape

PAGES = 24


def test_extents_are_given_out_lowest_first_and_once() -> None:
    space = SnapshotSpace(4 * 8 + 3)
    assert [space.take() for _ in range(5)] == [0, 1, 2, 3, None]
    space.give_back([2, 1])
    assert space.free_pages == 16
    assert [space.take(), space.take(), space.take()] == [1, 2, None]


def test_an_extent_that_two_regions_claim_is_refused_and_nothing_is_taken() -> None:
    space = SnapshotSpace(32)
    space.claim([1, 1])
    with pytest.raises(InvalidRequest, match="two regions"):
        space.claim([0, 1])
    with pytest.raises(InvalidRequest, match="not in a space"):
        space.claim([0, 4])
    assert space.free == 3
    assert space.take() == 0


def test_a_look_up_begins_at_the_view_asked_for_ruling_r2() -> None:
    views = RegionViews(PAGES, SnapshotSpace(64))
    old = views.put_page(2, 5)
    new = views.put_page(3, 5)
    assert old is not None
    assert new is not None
    assert views.locate(2, 5) == page_entry(0, old)
    assert views.locate(3, 5) == page_entry(0, new)
    assert kind_of(views.locate(4, 5)) == BASE
    views.put_zero(3, 6)
    assert views.locate(2, 6) == ZERO_ENTRY


def test_a_late_record_of_an_older_cut_finds_its_place_before_the_newer_one() -> None:
    views = RegionViews(PAGES, SnapshotSpace(64))
    views.put_zero(7, 1)
    views.put_page(4, 1)
    assert list(views.tables) == [4, 7]
    assert kind_of(views.locate(4, 1)) == PAGE


def test_without_space_those_that_would_have_found_the_page_are_stale_and_no_others() -> None:
    views = RegionViews(PAGES, SnapshotSpace(8))
    views.put_zero(2, 3)
    for page in range(10, 18):
        assert views.put_page(4, page) is not None
    assert views.put_page(4, 3) is None
    views.lose(4)
    assert views.locate(4, 10) == NULL
    assert views.locate(2, 3) == ZERO_ENTRY
    assert views.locate(3, 10) == NULL
    assert views.locate(3, 5) == NULL  # it would have been found in 4, or not
    assert kind_of(views.locate(5, 3)) == BASE
    views.remove(4, 3)
    assert views.stale == {3}
    assert views.check() == []


def test_a_page_that_was_given_back_is_written_over_only_after_a_checkpoint_without_it() -> None:
    views = RegionViews(PAGES, SnapshotSpace(8))
    for page in range(8):
        views.put_page(2, page)
    views.pack(())
    views.settled()
    views.remove(2, 0)
    assert views.put_page(3, 0) is None
    assert views.pack(()) == b""  # without it, but that is not on disk yet
    assert views.put_page(3, 0) is None
    views.settled()
    assert views.space.free == 1
    assert views.put_page(3, 0) in range(8)


def test_what_is_given_back_while_a_checkpoint_is_written_waits_for_the_next() -> None:
    views = RegionViews(PAGES, SnapshotSpace(8))
    for page in range(8):
        views.put_page(2, page)
    views.pack(())
    views.remove(2, 0)
    views.settled()
    assert views.put_page(3, 0) is None
    views.pack(())
    views.settled()
    assert views.put_page(3, 0) is not None


def test_a_fresh_page_is_left_out_of_a_checkpoint() -> None:
    views = RegionViews(PAGES, SnapshotSpace(64))
    one, two = views.put_page(2, 0), views.put_page(2, 1)
    views.put_zero(2, 9)
    assert one is not None
    assert two is not None
    again = RegionViews(PAGES, SnapshotSpace(64))
    again.load(views.pack({two}))
    assert again.used_pages() == [one]
    assert again.locate(2, 9) == ZERO_ENTRY
    assert again.owes(2, 1)
    assert again.check() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-1],
        lambda packed: packed + b"\0",
        lambda packed: packed[:16] + b"\xff\xff" + packed[18:],
        lambda packed: packed[:4],
    ],
)
def test_a_spoiled_codec_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    views = RegionViews(PAGES, SnapshotSpace(64))
    views.put_page(2, 3)
    views.put_zero(2, 4)
    space = SnapshotSpace(64)
    with pytest.raises(InvalidRequest):
        RegionViews(PAGES, space).load(spoil(views.pack(())))
    assert space.free == space.extents


def test_two_exceptions_on_one_page_are_refused() -> None:
    views = RegionViews(PAGES, SnapshotSpace(64))
    number = views.put_page(2, 3)
    assert number is not None
    views.tables[2].put(4, page_entry(0, number))
    with pytest.raises(InvalidRequest, match="same page"):
        RegionViews(PAGES, SnapshotSpace(64)).load(views.pack(()))


def test_a_late_record_of_a_removed_view_is_charged_to_the_one_it_went_to() -> None:
    views = RegionViews(PAGES, SnapshotSpace(64))
    views.remove(4, 3)
    views.remove(3, 2)
    assert [views.charged(view) for view in (5, 4, 3, 2)] == [5, 2, 2, 2]
    views.remove(2, 0)
    assert views.charged(4) == 0


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 1 << 30))
def test_random_histories_end_as_plain_dicts_and_never_lose_or_share_a_page(seed: int) -> None:
    rng = random.Random(seed)
    space = SnapshotSpace(8 * 8, extent_pages=rng.choice((1, 4, 8)))
    regions = [RegionViews(PAGES, space) for _ in range(2)]
    models: list[dict[int, dict[int, int]]] = [{}, {}]
    newest = 1
    for _ in range(200):
        at = rng.randrange(2)
        views, model = regions[at], models[at]
        choice = rng.randrange(12)
        if choice == 0:
            newest += 1
            for plain in models:
                plain[newest] = {}
        elif choice < 9 and newest in model:
            page = rng.randrange(PAGES)
            if page in model[newest]:
                assert not views.owes(newest, page)
                continue
            assert views.owes(newest, page)
            if rng.random() < 0.2:
                views.put_zero(newest, page)
                model[newest][page] = ZERO_ENTRY
            elif (number := views.put_page(newest, page)) is not None:
                model[newest][page] = page_entry(0, number)
        elif choice == 9 and model:
            gone = rng.choice(sorted(model))
            if gone == newest:
                continue
            entries = model.pop(gone)
            older = max((each for each in model if each < gone), default=0)
            views.remove(gone, older)
            if older:
                model[older] = {**entries, **model[older]}
        elif choice == 10:
            views.pack(())
            if rng.random() < 0.8:
                views.settled()
        _same(regions, models)
    packed = [views.pack(()) for views in regions]
    fresh = SnapshotSpace(8 * 8, extent_pages=space.extent_pages)
    again = [RegionViews(PAGES, fresh) for _ in range(2)]
    for views, part in zip(again, packed, strict=True):
        views.load(part)
    _same(again, models)


def _same(regions: list[RegionViews], models: list[dict[int, dict[int, int]]]) -> None:
    used = [number for views in regions for number in views.used_pages()]
    assert len(used) == len(set(used))
    for views, model in zip(regions, models, strict=True):
        assert views.check() == []
        found = {view: dict(table.items()) for view, table in views.tables.items()}
        assert found == {view: model[view] for view in sorted(model) if model[view]}


def test_tables_of_fixed_fan_out_take_what_for_table_gives() -> None:
    views = RegionViews(PAGES, SnapshotSpace(64))
    numbers = [views.put_page(2, page) for page in (3, 17, 4)]
    views.put_zero(2, 0)
    table = ExceptionTable(TableShape(regions=2, l2_entries=4, l3_entries=6))
    table.load_region(1, views.for_table(2))
    pages, entries = table.find(1)
    assert pages.tolist() == [24, 27, 28, 41]
    numbers_in_order = [numbers[0], numbers[2], numbers[1]]
    assert [offset_of(entry) for entry in entries.tolist()][1:] == numbers_in_order
    assert table.pack_region(1) == views.for_table(2)
    assert np.all(table.gather(np.array([24])) == np.uint64(ZERO_ENTRY))


def test_the_look_up_of_all_pages_says_what_that_of_each_says() -> None:
    rng, unknown = random.Random(4), 0
    for _ in range(200):
        views = RegionViews(PAGES, SnapshotSpace(512))
        for _ in range(rng.randrange(40)):
            view, page = rng.randrange(2, 7), rng.randrange(PAGES)
            if views.owes(view, page):
                (views.put_zero if rng.random() < 0.4 else views.put_page)(view, page)
        if rng.random() < 0.3:
            views.lose(rng.randrange(2, 7))
        for view in range(2, 8):
            each = [views.locate(view, page) for page in range(PAGES)]
            kinds = views.locate_all(view)
            if NULL in each:
                assert kinds is None
                unknown += 1
            else:
                assert kinds is not None
                assert kinds.tolist() == [kind_of(entry) for entry in each]
    assert unknown
