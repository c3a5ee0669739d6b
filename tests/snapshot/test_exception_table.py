from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import InvalidRequest
from snapshot.entry import NULL, REDIRECT_ENTRY, ZERO_ENTRY, kind_of, page_entry, skip_entry
from snapshot.exception_table import ExceptionTable, TableShape

SMALL = TableShape(regions=4, l2_entries=3, l3_entries=5)


def test_the_example_of_0069_makes_one_l1_two_l2_and_three_l3_tables() -> None:
    """[0069]: W1 and W4 share all three tables, W2 shares L1 and L2, W3 has an L2 of its own."""
    table = ExceptionTable(TableShape(regions=10, l2_entries=10, l3_entries=10))
    w1, w2, w3, w4 = 4, 17, 205, 8
    for page in (w1, w2, w3, w4):
        table.set(page, page_entry(1, page))
    counts = table.counts()
    assert (counts.l2_tables, counts.l3_tables, counts.exceptions) == (2, 3, 4)


def test_ten_by_ten_by_ten_addresses_a_thousand_locations() -> None:
    """Ruling R7: entry 0 of L1 is for locations 0–99, entry 1 for 100–199 [0064]."""
    table = ExceptionTable(TableShape(regions=10, l2_entries=10, l3_entries=10))
    table.set(99, ZERO_ENTRY)
    table.set(100, ZERO_ENTRY)
    assert table.regions().tolist() == [0, 1]
    assert table.shape.regions * table.shape.region_pages == 1000


def test_a_new_table_of_a_tebibyte_holds_no_l2_and_no_l3_table() -> None:
    counts = ExceptionTable(TableShape(regions=65_536)).counts()
    assert (counts.l2_tables, counts.l3_tables) == (0, 0)


def test_tables_go_with_their_last_entry_and_their_rows_are_used_again() -> None:
    table = ExceptionTable(SMALL)
    for turn in range(40):
        table.set(turn, ZERO_ENTRY)
        assert table.counts()[:3] == (1, 1, 1)
        table.set(turn, NULL)
    assert table.counts()[:3] == (0, 0, 0)
    assert table.check() == []


def test_a_skip_is_never_counted_as_an_exception() -> None:
    table = ExceptionTable(SMALL)
    table.set(3, skip_entry(7))
    assert (table.exceptions, table.skips) == (0, 1)
    assert table.find()[0].tolist() == []


def test_a_skip_does_not_travel_with_its_region() -> None:
    table = ExceptionTable(SMALL)
    table.set(3, skip_entry(7))
    table.set(4, REDIRECT_ENTRY)
    table.load_region(0, table.pack_region(0))
    assert [table.get(page) for page in (3, 4)] == [NULL, REDIRECT_ENTRY]


@given(
    st.lists(
        st.tuples(st.integers(0, 59), st.sampled_from([NULL, ZERO_ENTRY, 7, skip_entry(2)])),
        max_size=80,
    )
)
def test_a_table_is_a_dictionary(sets: list[tuple[int, int]]) -> None:
    table = ExceptionTable(SMALL)
    model: dict[int, int] = {}
    for page, kind in sets:
        entry = page_entry(kind, page) if kind == 7 else kind
        assert table.set(page, entry) == model.get(page, NULL)
        model[page] = entry
    pages = np.arange(60)
    assert table.gather(pages).tolist() == [model.get(page, NULL) for page in range(60)]
    real = {p: e for p, e in model.items() if e != NULL and kind_of(e) != kind_of(skip_entry(1))}
    found, entries = table.find()
    assert dict(zip(found.tolist(), entries.tolist(), strict=True)) == real
    assert found.tolist() == sorted(real)
    assert table.check() == []


def test_a_grown_table_has_its_old_entries_and_takes_new_ones() -> None:
    table = ExceptionTable(SMALL)
    table.set(2, ZERO_ENTRY)
    table.grow(6)
    table.set(89, ZERO_ENTRY)
    assert table.find()[0].tolist() == [2, 89]


def pairs(*values: int) -> bytes:
    return np.array(values, dtype="<u8").tobytes()


@pytest.mark.parametrize(
    ("packed", "rule"),
    [
        (b"12345678", "no pairs"),
        (pairs(1, 5, 1, 5), "out of order"),
        (pairs(15, ZERO_ENTRY), "out of order or bounds"),
        (pairs(2, 0), "null"),
    ],
)
def test_a_wrong_region_is_refused_and_nothing_changes(packed: bytes, rule: str) -> None:
    table = ExceptionTable(SMALL)
    table.set(1, ZERO_ENTRY)
    with pytest.raises(InvalidRequest, match=rule):
        table.load_region(0, packed)
    assert table.find()[0].tolist() == [1]
