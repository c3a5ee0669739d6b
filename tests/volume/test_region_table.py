from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from base.ids import NOBODY
from volume.region_table import RegionRow, RegionTable


def table(*owners_and_copies: tuple[int, int]) -> RegionTable:
    """Region r: owner and replicant in sync, on LD 1 and 2, LD regions 10 r and 20 r."""
    made = RegionTable(len(owners_and_copies))
    for region, (owner, copy) in enumerate(owners_and_copies):
        made.owner[region] = owner
        made.in_sync[region] = 1 << owner | 1 << copy
        made.slot_node[region, :2] = owner, copy
        made.slot_ld[region, :2] = 1, 2
        made.slot_region[region, :2] = 10 * region, 20 * region
    made.epoch[:] = 4
    made.version[:] = 1 << 40
    return made


def test_a_row_shows_the_node_s_own_ld_region() -> None:
    made = table((0, 1), (1, 2))
    assert made.row(1, 2) == RegionRow(4, 1, 0b110, NOBODY, False, 1 << 40, 2, 20)
    assert made.row(1, 2).is_member(2)


def test_a_row_has_no_ld_region_for_a_node_without_a_copy() -> None:
    row = table((0, 1)).row(0, 5)
    assert (row.ld, row.ld_region, row.is_member(5)) == (-1, -1, False)


def test_slots_of_many_regions_agree_with_slot_of() -> None:
    made = table((0, 1), (1, 2), (2, 0))
    regions = np.array([2, 0, 1])
    assert made.slots_of(regions, 0).tolist() == [made.slot_of(int(r), 0) for r in regions]
    assert made.slots_of(regions, np.array([0, 1, 7])).tolist() == [1, 1, -1]


def test_regions_of_a_node_are_those_with_a_slot_there() -> None:
    assert table((0, 1), (1, 2), (2, 0)).regions_of(0).tolist() == [0, 2]


def test_a_copy_that_is_neither_in_sync_nor_joining_nor_owner_is_stale() -> None:
    made = table((0, 1), (0, 1), (0, 1))
    made.in_sync[:] = 0b01
    made.joiner[1] = 1
    assert made.stale_slots(np.arange(3))[:, 1].tolist() == [True, False, True]
    assert not made.stale_slots(np.arange(3))[:, [0, 2]].any()


def test_the_copy_of_an_owner_that_is_offline_is_not_stale() -> None:
    made = table((0, 1))
    made.in_sync[0] = 0b10
    made.offline[0] = True
    assert not made.stale_slots(np.arange(1)).any()


def test_growing_appends_the_rows() -> None:
    made = table((0, 1))
    made.grow(table((3, 4), (5, 6)))
    assert (len(made), made.owner.tolist()) == (3, [0, 3, 5])
    assert made.check() == []


def test_a_good_table_has_no_faults() -> None:
    assert table((0, 1), (7, 3)).check() == []


def test_an_offline_region_may_have_an_owner_that_is_not_in_sync() -> None:
    made = table((0, 1))
    made.in_sync[0] = 0b10
    assert made.check() == ["region 0 (and 0 more): the owner is not in sync"]
    made.offline[0] = True
    assert made.check() == []


@pytest.mark.parametrize(
    ("column", "at", "value", "fault"),
    [
        ("slot_node", (1, 1), 0, "two copies are on one node"),
        ("slot_node", (1, 1), 9, "a slot names a node above 7"),
        ("slot_node", (1, 1), NOBODY, "an in-sync copy has no slot"),
        ("in_sync", 1, 0b0111, "an in-sync copy has no slot"),
        ("owner", 1, 5, "the owner is not in sync"),
        ("owner", 1, NOBODY, "the owner is not in sync"),
        ("joiner", 1, 5, "no slot to join"),
        ("joiner", 1, 9, "no slot to join"),
        ("joiner", 1, 1, "the joiner is in sync already"),
        ("slot_ld", (1, 2), 1, "dirty empty slot"),
    ],
)
def test_check_names_a_broken_invariant(
    column: str, at: int | tuple[int, int], value: int, fault: str
) -> None:
    made = table((0, 1), (0, 1))
    getattr(made, column)[at] = value
    assert any(fault in line and line.startswith("region 1 ") for line in made.check())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 7), max_size=20), st.integers(0, 2**64 - 1), st.booleans())
def test_bytes_of_a_table_give_an_equal_table(owners: list[int], version: int, off: bool) -> None:
    made = table(*[(owner, (owner + 1) % 8) for owner in owners])
    made.version[:] = version
    made.offline[:] = off
    again = RegionTable.from_bytes(made.to_bytes())
    assert again.to_bytes() == made.to_bytes()
    assert [again.row(r, 3) for r in range(len(again))] == [
        made.row(r, 3) for r in range(len(made))
    ]


def test_a_table_from_bytes_can_be_written() -> None:
    again = RegionTable.from_bytes(table((0, 1)).to_bytes())
    again.owner[0] = 1
    assert again.row(0, 1).owner == 1


@pytest.mark.parametrize("cut", [0, 3, 8, -1])
def test_cut_bytes_are_refused(cut: int) -> None:
    with pytest.raises(InvalidRequest, match="region table"):
        RegionTable.from_bytes(table((0, 1)).to_bytes()[:cut])


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="region table"):
        RegionTable.from_bytes(table((0, 1)).to_bytes() + b"\0")
