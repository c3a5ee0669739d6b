from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.ids import NOBODY
from cluster.placement import first_of, place, preferences, recruit_targets, spread_of

APART = tuple(range(8))
EVERYONE = 0xFF
TIB = np.arange(65_536)
GOLDEN = [[1, 6, 2, 4, 7, 3, 0, 5], [3, 2, 4, 0, 5, 6, 7, 1], [6, 4, 0, 7, 1, 2, 5, 3]]


def shares(nodes: np.ndarray) -> list[int]:
    return np.bincount(nodes, minlength=8).tolist()


def test_each_of_eight_nodes_owns_exactly_an_eighth_of_a_tebibyte() -> None:
    placed = place(1, TIB, 2, nodes=range(8), live=EVERYONE, domains=APART)
    assert shares(placed[:, 0]) == [8192] * 8


def test_each_of_eight_nodes_replicates_exactly_an_eighth_of_a_tebibyte() -> None:
    placed = place(1, TIB, 2, nodes=range(8), live=EVERYONE, domains=APART)
    assert shares(placed[:, 1]) == [8192] * 8


def test_a_volume_of_sixteen_regions_is_spread_evenly_too() -> None:
    placed = place(9, np.arange(16), 2, nodes=range(8), live=EVERYONE, domains=APART)
    assert shares(placed[:, 0]) == [2] * 8


def test_the_replicants_of_one_owner_are_spread_over_all_others() -> None:
    placed = place(1, TIB, 2, nodes=range(8), live=EVERYONE, domains=APART)
    partners = np.bincount(placed[placed[:, 0] == 3, 1], minlength=8)
    assert partners[3] == 0
    assert np.delete(partners, 3).min() > 0.85 * 8192 / 7


@pytest.mark.parametrize("lost", range(8))
def test_the_loss_of_a_node_moves_only_its_own_regions(lost: int) -> None:
    full = place(5, TIB, 2, nodes=range(8), live=EVERYONE, domains=APART)
    less = place(5, TIB, 2, nodes=range(8), live=EVERYONE & ~(1 << lost), domains=APART)
    moved = (full != less).any(axis=1)
    assert np.array_equal(moved, (full == lost).any(axis=1))


def test_the_regions_of_a_lost_node_spread_over_all_survivors() -> None:
    less = place(5, TIB, 2, nodes=range(8), live=EVERYONE & ~4, domains=APART)
    owned = np.delete(np.bincount(less[:, 0], minlength=8), 2)
    assert owned.max() < 1.1 * owned.min()


def test_both_copies_never_share_a_failure_domain() -> None:
    domains = (0, 0, 1, 1, 2, 2, 3, 3)
    placed = place(2, TIB, 2, nodes=range(8), live=EVERYONE, domains=domains)
    of = np.array(domains)
    assert (of[placed[:, 0]] != of[placed[:, 1]]).all()


def test_shares_stay_balanced_with_two_nodes_to_a_failure_domain() -> None:
    domains = (0, 0, 1, 1, 2, 2, 3, 3)
    placed = place(2, TIB, 2, nodes=range(8), live=EVERYONE, domains=domains)
    replicated = shares(placed[:, 1])
    assert max(replicated) < 1.1 * min(replicated)


def test_a_copy_without_a_failure_domain_left_is_nobodys() -> None:
    placed = place(2, np.arange(20), 2, nodes=range(8), live=0b11, domains=(0,) * 8)
    assert (placed[:, 1] == NOBODY).all()


def test_a_pinned_owner_owns_all_and_replicants_are_still_spread() -> None:
    placed = place(
        2, TIB, 2, nodes=range(8), live=EVERYONE, domains=APART, pinned_owner=6
    )  # fmt: skip
    assert (placed[:, 0] == 6).all()
    assert min(np.delete(np.bincount(placed[:, 1], minlength=8), 6)) > 0.9 * 65_536 / 7


def test_different_volumes_are_placed_differently() -> None:
    first, second = (
        place(number, np.arange(64), 1, nodes=range(8), live=EVERYONE, domains=APART)
        for number in (1, 2)
    )
    assert not np.array_equal(first, second)


def test_the_place_of_a_region_is_fixed_for_ever() -> None:
    # Nodes of different versions of the program must agree: these numbers are a format.
    assert preferences(7, np.arange(3), range(8)).tolist() == GOLDEN


def test_the_order_of_a_region_does_not_depend_on_which_others_are_asked_for() -> None:
    every = preferences(3, np.arange(5000), range(7))
    some = np.array([4999, 0, 1234])
    assert np.array_equal(preferences(3, some, range(7)), every[some])


def test_a_volume_above_one_batch_is_placed_like_its_parts() -> None:
    regions = np.arange(65_530, 140_000)
    whole = place(3, regions, 2, nodes=range(8), live=EVERYONE, domains=APART)
    part = place(3, regions[70_000:], 2, nodes=range(8), live=EVERYONE, domains=APART)
    assert np.array_equal(whole[70_000:], part)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 1 << 31),
    st.sets(st.integers(0, 7), min_size=1).map(sorted),
    st.integers(0, 255),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
def test_orders_are_permutations_and_copies_are_live_and_apart(
    volume: int, nodes: list[int], live: int, domains: list[int]
) -> None:
    regions = np.arange(40)
    order = preferences(volume, regions, nodes)
    assert all(sorted(row) == nodes for row in order.tolist())
    placed = place(volume, regions, 3, nodes=nodes, live=live, domains=domains)
    able = {domains[node] for node in nodes if live >> node & 1}
    for row in placed.tolist():
        held = [node for node in row if node != NOBODY]
        assert len(held) == min(3, len(able))
        assert all(live >> node & 1 and node in nodes for node in held)
        assert len({domains[node] for node in held}) == len(held)


def test_first_of_takes_the_best_candidate_and_nobody_without_one() -> None:
    order = np.array([[2, 0, 1], [2, 0, 1], [1, 2, 0]], dtype=np.uint8)
    chosen = first_of(order, np.array([0b011, 0b000, 0b101], dtype=np.uint8))
    assert chosen.tolist() == [0, NOBODY, 2]


def test_spread_of_covers_the_failure_domains_of_all_members() -> None:
    domains = (0, 0, 1, 1, 2, 2, 3, 3)
    members = np.array([0b0000_0001, 0b0010_1000, 0], dtype=np.uint8)
    assert spread_of(members, domains).tolist() == [0b11, 0b0011_1100, 0]


def test_recruits_are_spread_evenly() -> None:
    order = preferences(4, np.arange(16_384), range(8))
    allowed = np.full(16_384, 0b1111_1011, dtype=np.uint8)
    chosen = recruit_targets(order, allowed, np.full(8, 16_384))
    counts = np.delete(np.bincount(chosen, minlength=8), 2)
    assert counts.max() < 1.1 * counts.min()


def test_recruits_never_exceed_the_room_of_a_node() -> None:
    order = preferences(4, np.arange(100), range(8))
    room = np.array([3, 0, 5, 0, 0, 0, 7, 1])
    chosen = recruit_targets(order, np.full(100, 0xFF, dtype=np.uint8), room)
    assert np.bincount(chosen, minlength=256)[:8].tolist() == room.tolist()


def test_recruits_fill_other_nodes_when_the_best_ones_are_full() -> None:
    order = preferences(4, np.arange(64), range(8))
    room = np.array([0, 0, 0, 0, 0, 64, 0, 0])
    chosen = recruit_targets(order, np.full(64, 0xFF, dtype=np.uint8), room)
    assert (chosen == 5).all()
