from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from snapshot.retention import (
    SnapshotFacts,
    Verdict,
    check_facts,
    check_may_remove,
    facts_of,
    plan_retention,
)
from snapshot.schedule import parse_rule
from snapshot.tree import SnapshotState, SnapshotTree
from tests.snapshot.test_tree import figure_8

RULE = parse_rule("every 15m keep 3")
RULES = {RULE.to_text(): RULE}
MINUTE = 60_000
DAY = 86_400_000


def line(count: int, **facts: int) -> tuple[SnapshotTree, dict[int, SnapshotFacts]]:
    """r1 … rN of the base, taken by the rule a quarter of an hour apart, r1 first."""
    tree = SnapshotTree("vol")
    known = {}
    for number in range(1, count + 1):
        view = tree.create_read_only(f"r{number}", tree.base).view
        tree.set_state(view, SnapshotState.ACTIVE)
        known[view] = replace(facts_of(RULE, number * 15 * MINUTE), **facts)
    return tree, known


def names(verdicts: tuple[Verdict, ...]) -> list[str]:
    return [each.name for each in verdicts]


def test_only_the_newest_of_a_rule_are_kept_and_the_oldest_goes_first() -> None:
    tree, facts = line(5)
    plan = plan_retention(tree, facts, RULES, 76 * MINUTE)
    assert names(plan.remove) == ["r1", "r2"]
    assert plan.remove[0].reason == "3 newer ones of: every 15m keep 3"
    assert plan.held == ()


def test_as_many_as_are_kept_stay() -> None:
    tree, facts = line(3)
    assert plan_retention(tree, facts, RULES, DAY).remove == ()


def test_a_stale_one_takes_no_place_of_a_good_one() -> None:
    tree, facts = line(4)
    tree.set_state(tree.named("r3").view, SnapshotState.STALE)
    assert plan_retention(tree, facts, RULES, DAY).remove == ()
    tree.set_state(tree.named("r1").view, SnapshotState.STALE)
    assert plan_retention(tree, facts, RULES, DAY).remove == ()


def test_a_stale_one_goes_when_enough_good_ones_are_newer() -> None:
    tree, facts = line(4)
    tree.set_state(tree.named("r1").view, SnapshotState.STALE)
    assert names(plan_retention(tree, facts, RULES, DAY).remove) == ["r1"]


@pytest.mark.parametrize("state", [SnapshotState.CREATING, SnapshotState.REMOVING])
def test_one_that_is_being_made_or_removed_is_neither_counted_nor_removed(
    state: SnapshotState,
) -> None:
    tree, facts = line(4)
    tree.set_state(tree.named("r4").view, state)
    assert plan_retention(tree, facts, RULES, DAY).remove == ()


def test_one_that_has_expired_goes_at_that_instant() -> None:
    tree, facts = line(2, expires_ms=DAY)
    assert plan_retention(tree, facts, RULES, DAY - 1).remove == ()
    plan = plan_retention(tree, facts, RULES, DAY + 2 * MINUTE)
    assert names(plan.remove) == ["r1", "r2"]
    assert plan.remove[0].reason == "expired 2m ago"


def test_nothing_goes_before_its_retention_has_ended() -> None:
    tree, facts = line(4, retained_ms=DAY)
    plan = plan_retention(tree, facts, RULES, DAY - 3 * MINUTE)
    assert plan.remove == ()
    assert [(each.name, each.reason) for each in plan.held] == [("r1", "retained for another 3m")]
    assert names(plan_retention(tree, facts, RULES, DAY).remove) == ["r1"]


def test_one_that_is_exported_stays() -> None:
    tree, facts = line(4, exported=True)
    assert plan_retention(tree, facts, RULES, DAY).held[0].reason == "exported"


def test_one_that_something_hangs_on_stays_and_it_is_named() -> None:
    tree, facts = line(4)
    tree.create_read_write("test", tree.named("r1").view)
    plan = plan_retention(tree, facts, RULES, DAY)
    assert plan.remove == ()
    assert plan.held[0].reason == "needed by test"


def test_what_hangs_on_it_goes_first_when_it_has_expired_too() -> None:
    tree, number = figure_8()
    for each in tree:
        tree.set_state(each.view, SnapshotState.ACTIVE)
    facts = {number[name]: SnapshotFacts(0, expires_ms=5) for name in number if name != "2200"}
    plan = plan_retention(tree, facts, {}, 5)
    assert sorted(names(plan.remove)) == sorted(set(number) - {"2200"})
    for each in plan.remove:
        tree.remove(each.view)


def test_snapshots_of_a_rule_that_is_gone_stay() -> None:
    tree, facts = line(9)
    assert plan_retention(tree, facts, {}, DAY).remove == ()


def test_snapshots_of_somebody_stay_and_count_for_no_rule() -> None:
    tree, facts = line(4)
    facts[tree.named("r4").view] = SnapshotFacts(60 * MINUTE)
    assert plan_retention(tree, facts, RULES, DAY).remove == ()


@settings(max_examples=60)
@given(st.integers(0, 9), st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)))
def test_a_plan_can_be_carried_out_and_then_nothing_is_due(
    count: int, stale: set[int], retained: set[int]
) -> None:
    tree, facts = line(count)
    for number in range(1, count + 1):
        view = tree.named(f"r{number}").view
        if number in stale:
            tree.set_state(view, SnapshotState.STALE)
        if number in retained:
            facts[view] = replace(facts[view], retained_ms=2 * DAY)
    good = [number for number in range(1, count + 1) if number not in stale]
    for each in plan_retention(tree, facts, RULES, DAY).remove:
        assert int(each.name[1:]) not in retained
        tree.remove(each.view)
        del facts[each.view]
    assert plan_retention(tree, facts, RULES, DAY).remove == ()
    left = [f"r{number}" for number in good[-RULE.keep :]]
    assert set(left) <= {each.name for each in tree}


def test_facts_follow_from_the_rule() -> None:
    rule = parse_rule("every 1h keep 2 expire 2d retain 1d")
    facts = facts_of(rule, 5)
    assert facts == SnapshotFacts(5, rule.to_text(), 2 * DAY + 5, DAY + 5)


def test_a_retention_beyond_the_expiry_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="snapshot x: its retention ends after it expires"):
        check_facts("x", SnapshotFacts(0, expires_ms=5, retained_ms=6))


def test_somebody_who_asks_is_told_what_holds_it() -> None:
    tree, number = figure_8()
    with pytest.raises(InvalidRequest, match=r"2308 cannot be removed: .*2306"):
        check_may_remove(tree, number["2308"], SnapshotFacts(0), 0)
    with pytest.raises(InvalidRequest, match="2212 cannot be removed: it is retained for another"):
        check_may_remove(tree, number["2212"], SnapshotFacts(0, retained_ms=DAY), 0)
    with pytest.raises(InvalidRequest, match="2212 cannot be removed: it is exported"):
        check_may_remove(tree, number["2212"], SnapshotFacts(0, exported=True), 0)
    check_may_remove(tree, number["2212"], SnapshotFacts(0, retained_ms=DAY), DAY)
