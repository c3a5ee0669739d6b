"""What the leader does about snapshots by itself, against a catalog of trees only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from base.errors import InvalidRequest, NotFound
from cluster.entries import BeginCut, RemoveSnapshot, SetSnapshotRule
from cluster.snapshot_rules import RuleKeeper, check_served
from cluster.snapshots import About, Snapshots

HOUR = 3_600_000


class World:
    """A catalog; what a keeper asks for is done at once."""

    def __init__(self, *rules: str) -> None:
        self.snapshots = Snapshots()
        self.up = (0, 1, 2)
        self.catalog: Any = SimpleNamespace(snapshots=self.snapshots, up_nodes=lambda: self.up)
        self.keeper = RuleKeeper()
        self.index = 0
        for rule in rules:
            self.snapshots.set_rule(SetSnapshotRule(1, rule, True), "v1")

    def look(self, now_ms: int, *, lost: bool = False) -> list[BeginCut | RemoveSnapshot]:
        entries = self.keeper.look(self.catalog, now_ms)
        for entry in [] if lost else entries:
            self.index += 1
            if isinstance(entry, BeginCut):
                cut = self.snapshots.begin(self.index, entry.members, lambda volume: "v1")
                self.snapshots.activate(self.index)
                self.snapshots._about[cut.members[0]] = About(
                    1, entry.taken_ms, entry.rule, entry.expires_ms, entry.retained_ms
                )
            else:
                self.snapshots.begin_removal(entry.volume, entry.view)
                self.snapshots.finish_removal(entry.volume, entry.view)
        return entries

    def names(self) -> list[str]:
        tree = self.snapshots.trees.get(1)
        return [view.name for view in tree if view.view != 1] if tree is not None else []


def test_a_period_takes_one_snapshot_and_keeps_the_newest() -> None:
    world = World("every 1h keep 2")
    for now_ms in range(HOUR // 2, 5 * HOUR, HOUR // 4):
        world.look(now_ms)
    assert world.names() == ["every-1h-3", "every-1h-4"]


def test_what_was_refused_is_asked_for_again() -> None:
    world = World("every 1h keep 2")
    world.look(1)
    assert len(world.look(HOUR, lost=True)) == 1
    world.look(HOUR + 1000)
    assert world.names() == ["every-1h-1"]
    assert world.look(HOUR + 2000) == []


def test_a_new_leader_takes_nothing_twice() -> None:
    world = World("every 1h keep 8")
    for now_ms in (1, HOUR):
        world.look(now_ms)
    world.keeper = RuleKeeper()
    world.look(HOUR + 5000)
    assert world.names() == ["every-1h-1"]
    world.look(2 * HOUR)
    assert world.names() == ["every-1h-1", "every-1h-2"]


def test_a_lost_node_is_an_event_once() -> None:
    world = World("on node-lost keep 3", "on node-returned keep 3")
    world.look(1000)
    world.up = (0, 2)
    world.look(2000)
    world.look(3000)
    assert world.names() == ["on-node-lost-1"]
    world.up = (0, 1, 2)
    world.look(4000)
    assert world.names() == ["on-node-lost-1", "on-node-returned-1"]


def test_what_has_expired_goes_without_a_rule_and_what_is_retained_stays() -> None:
    world = World()
    for index, (name, expires_ms, retained_ms) in enumerate(
        (("a", HOUR, 0), ("b", HOUR, 2 * HOUR), ("c", 0, 0)), start=1
    ):
        (member,) = world.snapshots.begin(index, ((1, 1, name),), lambda volume: "v1").members
        world.snapshots.activate(index)
        world.snapshots._about[member] = About(1, index, "", expires_ms, retained_ms)
    world.index = 3
    world.look(HOUR - 1)
    assert world.names() == ["a", "b", "c"]
    world.look(HOUR)
    assert world.names() == ["b", "c"]
    world.look(2 * HOUR)
    assert world.names() == ["c"]


def test_a_rule_that_is_gone_takes_nothing_and_is_not_there_to_be_taken_away() -> None:
    world = World("every 1h keep 2")
    world.look(1)
    world.snapshots.set_rule(SetSnapshotRule(1, "every 60m keep 2", False), "v1")
    world.look(HOUR)
    assert world.names() == []
    with pytest.raises(NotFound, match="volume v1 has no rule `every 1h keep 2`"):
        world.snapshots.set_rule(SetSnapshotRule(1, "every 1h keep 2", False), "v1")


def test_two_rules_of_one_name_are_refused() -> None:
    world = World("every 1h keep 2")
    with pytest.raises(InvalidRequest, match="would both take snapshots named every-1h-1"):
        world.snapshots.set_rule(SetSnapshotRule(1, "every 60m keep 3", True), "v1")
    assert world.snapshots.rules[1] == ("every 1h keep 2",)
    copy = Snapshots.from_plain(world.snapshots.to_plain())
    assert copy.rules == world.snapshots.rules


@pytest.mark.parametrize("rule", ["above 5MiB/s keep 3", "on space-low keep 1"])
def test_a_rule_that_nobody_would_act_on_is_refused(rule: str) -> None:
    with pytest.raises(InvalidRequest, match="not watched yet"):
        check_served(rule)
