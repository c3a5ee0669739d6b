"""Targets: what they may be, and whom they mean in a cluster as it is."""

from __future__ import annotations

from typing import Any

import pytest

from scenario.files.targets import (
    CAGES,
    DISKS,
    FORMS,
    LOOPS,
    NODES,
    SLEDS,
    NoTarget,
    parse,
    resolve,
)
from scenario.files.view import (
    ALIVE,
    DEAD,
    PAUSED,
    ClusterView,
    DiskPlace,
    NodeNow,
    RegionNow,
    VolumeNow,
)
from sim.random import SimRandom

# n1 owns two regions of vol0, n4 is dead, n5 is paused, n2 leads.
VIEW = ClusterView(
    tuple(NodeNow(n, {4: DEAD, 5: PAUSED}.get(n, ALIVE), n != 4) for n in range(6)),
    (
        VolumeNow("vol0", (RegionNow(0, (3,)), RegionNow(1, (2,)), RegionNow(1, (0,)))),
        VolumeNow("log", (RegionNow(-1, (), 5), RegionNow(3, (4,)))),
    ),
    leader=2,
    disks=tuple(DiskPlace(disk, disk // 4, disk // 2 % 2) for disk in range(8)),
)


def nodes(text: str, seed: int = 1, **more: Any) -> tuple[int, ...]:
    return resolve(parse(text), VIEW, SimRandom(seed), **more).nodes


@pytest.mark.parametrize(
    ("text", "whom"),
    [
        ("n3", (3,)),
        ("node 3", (3,)),
        ("the leader", (2,)),
        ("owner of vol0 region 2", (1,)),
        ("owner of vol0", (1,)),
        ("the replicant of vol0 region 0", (3,)),
        ("joiner of log region 0", (5,)),
        ("every node", (0, 1, 2, 3, 4, 5)),
        ("n1 and the leader and n1", (1, 2)),
        ("every node except the leader and n0", (1, 3, 4, 5)),
    ],
)
def test_target_means_these_nodes(text: str, whom: tuple[int, ...]) -> None:
    assert nodes(text) == whom


@pytest.mark.parametrize("seed", range(20))
def test_random_node_runs(seed: int) -> None:
    assert nodes("a random node", seed)[0] in (0, 1, 2, 3)


@pytest.mark.parametrize("seed", range(20))
def test_random_role_is_that_of_a_node_that_runs(seed: int) -> None:
    assert nodes("a random owner", seed)[0] in (0, 1, 3)
    assert nodes("a random replicant", seed)[0] in (0, 2, 3)
    assert nodes("a random follower", seed)[0] in (0, 1, 3)
    assert nodes("a random owner except n1 and n0", seed) == (3,)


def test_random_draws_differ_between_seeds_and_not_within_one() -> None:
    drawn = [nodes("2 random nodes", seed) for seed in range(20)]
    assert len(set(drawn)) > 3
    assert drawn == [nodes("2 random nodes", seed) for seed in range(20)]
    assert all(len(set(pair)) == 2 for pair in drawn)


def test_rest_is_who_is_in_no_other_group() -> None:
    assert nodes("the rest", taken=(0, 5)) == (1, 2, 3, 4)


def test_target_of_a_step_is_whom_it_hit() -> None:
    assert nodes("the target of first", hit={"first": (4,)}) == (4,)


@pytest.mark.parametrize(
    "text",
    [
        "owner of log region 0", "joiner of vol0 region 0", "owner of nothing",
        "owner of vol0 region 9", "5 random nodes", "the target of first", "n7",
    ],
)  # fmt: skip
def test_nobody_is_not_somebody(text: str) -> None:
    with pytest.raises(NoTarget, match=r"nobody is"):
        nodes(text)


@pytest.mark.parametrize(
    ("text", "disks"),
    [
        ("disk 2 of n3", ((3, 2),)),
        ("every disk of cage 1 of n3", ((3, 4), (3, 5), (3, 6), (3, 7))),
        ("every disk of sled 0 of cage 1 of n3", ((3, 4), (3, 5))),
        ("disk 0 of n1 and n2", ((1, 0), (2, 0))),
    ],
)
def test_target_means_these_disks(text: str, disks: tuple[tuple[int, int], ...]) -> None:
    assert resolve(parse(text), VIEW, SimRandom(1)).disks == disks


def test_half_of_the_disks_is_drawn_from_that_cage() -> None:
    drawn = [
        resolve(parse("half of the disks of cage 1 of n2"), VIEW, SimRandom(seed)).disks
        for seed in range(20)
    ]
    assert all(len(pairs) == 2 and {disk // 4 for _, disk in pairs} == {1} for pairs in drawn)
    assert len(set(drawn)) > 2


def test_disks_of_no_node_are_those_of_a_random_one() -> None:
    found = {
        resolve(parse("half of the disks of cage 1"), VIEW, SimRandom(seed)).nodes
        for seed in range(40)
    }
    assert found == {(0,), (1,), (2,), (3,)}


def test_disk_that_no_node_has_is_nobody() -> None:
    with pytest.raises(NoTarget):
        resolve(parse("disk 9 of n1"), VIEW, SimRandom(1))


def test_sleds_and_loops_are_named_with_their_node() -> None:
    assert resolve(parse("sled 1 of cage 0 of n2"), VIEW, SimRandom(1)).sleds == ((2, 0, 1),)
    assert resolve(parse("every sled of cage 1 of n2"), VIEW, SimRandom(1)).sleds == (
        (2, 1, 0), (2, 1, 1),
    )  # fmt: skip
    assert resolve(parse("cage 1 of n2"), VIEW, SimRandom(1)).cages == ((2, 1),)
    assert resolve(parse("both loops of n2"), VIEW, SimRandom(1)).loops == ((2, "A"), (2, "B"))
    assert resolve(parse("loop B of the leader"), VIEW, SimRandom(1)).text() == "loop B of n2"


@pytest.mark.parametrize("text", FORMS)
def test_every_form_that_is_told_can_be_parsed(text: str) -> None:
    assert parse(text).means in (NODES, DISKS, SLEDS, CAGES, LOOPS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ownr of vol0 region 3", "did you mean owner of vol0 region 3?"),
        ("the laeder", "did you mean the leader?"),
        ("disk 2 of cage", "is no target"),
        ("loop A of cage 1 of n3", "a loop is one of a node"),
        ("sled 0 of n3", "say which cage"),
        ("a random disk of the rest", "one group of a partition"),
        (7, "is no target"),
        ("n" * 300, "is no target"),
    ],
)
def test_what_is_no_target_is_refused_with_the_nearest_form(text: object, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    assert why in str(refused.value)


def test_resolving_changes_nothing() -> None:
    before = repr(VIEW)
    nodes("half of the nodes")
    assert repr(VIEW) == before
