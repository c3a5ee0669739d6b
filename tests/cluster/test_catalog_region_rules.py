"""Rules for rows that the present entries cannot make: three copies, and members that are down."""

from __future__ import annotations

import numpy as np

from base.ids import NOBODY
from cluster import region_rules as rules
from cluster.placement import preferences
from volume.region_table import RegionTable


def table_of(owner: int, members: int, regions: int = 1, *, offline: bool = False) -> RegionTable:
    table = RegionTable(regions)
    table.owner[:] = owner
    table.in_sync[:] = members
    table.epoch[:] = 1
    table.offline[:] = offline
    return table


def order(regions: np.ndarray) -> np.ndarray:
    return preferences(1, regions, range(8))


def test_a_row_that_opens_leaves_members_that_are_down_behind() -> None:
    table = table_of(2, 0b0111, offline=True)
    change = rules.node_up(table, 1, 0b1000, order, intact=True, blank=False, known=9)
    assert (change.owner[0], change.in_sync[0], change.offline[0]) == (1, 0b0010, False)


def test_a_blank_member_leaves_the_row_to_wait_for_the_others() -> None:
    table = table_of(1, 0b0110, offline=True)
    change = rules.node_up(table, 1, 0b1000, order, intact=False, blank=True, known=9)
    assert (change.owner[0], change.in_sync[0], change.offline[0]) == (2, 0b0100, True)
    assert len(change.lost) == 0


def test_a_member_that_lost_writes_opens_the_row_when_all_others_are_down() -> None:
    table = table_of(2, 0b0110, offline=True)
    change = rules.node_up(table, 1, 0b1000, order, intact=False, blank=False, known=9)
    assert (change.owner[0], change.in_sync[0], change.offline[0]) == (1, 0b0010, False)
    assert change.reduced.tolist() == [0]


def test_of_a_cut_pair_without_the_owner_the_lower_number_stays() -> None:
    change = rules.cut_pair(table_of(0, 0b0111), 2, 1)
    assert (change.owner[0], change.in_sync[0]) == (0, 0b0011)


def test_the_survivors_of_a_lost_owner_share_its_regions() -> None:
    table = table_of(0, 0b0111, 1000)
    change = rules.node_down(table, 0, 0b0110, order)
    heirs = np.bincount(change.owner, minlength=8)
    assert heirs[1] + heirs[2] == 1000
    assert min(heirs[1], heirs[2]) > 400


def test_a_cut_between_a_member_and_a_joiner_changes_nothing() -> None:
    table = table_of(0, 0b0011)
    table.joiner[:] = 2
    assert len(rules.cut_pair(table, 1, 2).regions) == 0


def test_the_first_mention_of_a_region_counts() -> None:
    table = table_of(0, 0b0001, 4)
    regions, nodes = rules.recruit(
        table,
        np.array([2, 1, 2]),
        np.array([3, 4, 5], dtype=np.uint8),
        2,
        0xFF,
        tuple(range(8)),
    )
    assert (regions.tolist(), nodes.tolist()) == ([1, 2], [4, 3])


def test_bits_of_nobody_are_none() -> None:
    assert rules.bits_of(np.array([0, 7, NOBODY], dtype=np.uint8)).tolist() == [1, 128, 0]
