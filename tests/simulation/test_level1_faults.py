"""Faults at level 1: drawn or listed, within the budget or refused, each does what it says."""

from __future__ import annotations

import pytest

from scenario.goals import GOALS
from scenario.profiles import LEVEL1
from scenario.run_one import perform
from scenario.runs import PASSED, REFUSED, FaultEvent, RunRequest, RunResult
from tests.simulation.steady import Steady

pytestmark = pytest.mark.simulation

SMALL = (("nodes", 4), ("seconds", 3), ("regions", 2), ("durability_synced", 1))


def listed(*faults: FaultEvent, loss: bool = False) -> RunResult:
    return perform(RunRequest(1, "default", 5, faults=faults, options=SMALL, allow_loss=loss))


@pytest.mark.parametrize("profile", LEVEL1)
def test_faults_that_a_seed_drew_can_be_repeated_as_a_list(profile: str) -> None:
    drawn = perform(RunRequest(1, profile, 102))
    again = perform(RunRequest(1, profile, 102, faults=drawn.faults))
    assert drawn.verdict == PASSED
    assert (again.verdict, again.operations, again.faults) == (
        drawn.verdict, drawn.operations, drawn.faults,
    )  # fmt: skip


@pytest.mark.parametrize("profile", LEVEL1)
def test_a_run_has_the_same_trace_again(profile: str) -> None:
    request = RunRequest(1, profile, 101)
    assert perform(request).trace == perform(request).trace


def test_an_empty_list_of_faults_draws_none() -> None:
    assert listed().faults == ()


def test_a_loss_of_power_while_copies_are_missing_is_outside_of_the_budget() -> None:
    result = listed(FaultEvent(200, "kill", (1,), 2000), FaultEvent(700, "power_cut", (2,), 100))
    assert result.verdict == REFUSED
    assert "power_cut at 700 ms strikes while a region has too few copies" in result.text


def test_a_fault_outside_of_the_budget_is_performed_when_the_run_says_so() -> None:
    faults = FaultEvent(200, "kill", (1,), 2000), FaultEvent(700, "power_cut", (2,), 100)
    assert listed(*faults, loss=True).faults == faults


def test_a_fault_that_does_not_apply_any_more_is_not_on_record() -> None:
    faults = FaultEvent(200, "kill", (1,), 500), FaultEvent(300, "kill", (1,), 500)
    assert listed(*faults).faults == faults[:1]


def test_what_was_synced_survives_the_loss_of_power_of_all() -> None:
    result = listed(FaultEvent(1500, "power_cut_all", (), 300))
    assert result.verdict == PASSED, result.text
    assert "all machines lost power" in result.goals


def test_a_node_whose_sync_failed_stops_and_recovers() -> None:
    result = listed(FaultEvent(500, "sync_failure", (1,), 900))
    assert result.verdict == PASSED, result.text
    assert "a sync failed and the node stopped" in result.goals


def test_a_node_waits_calmly_for_a_region_that_opens_with_its_next_commit() -> None:
    run = Steady(1, nodes=4, regions=4)
    node = run.leader
    before_ns = node.core.next_tick_ns(node.clock_ns())
    copy = next(copy for by_region in node.core.copies.values() for copy in by_region.values())
    assert copy.open_at_ns <= node.clock_ns() < before_ns
    node.core.opening[copy] = None
    assert node.core.next_tick_ns(node.clock_ns()) > node.clock_ns()


@pytest.mark.parametrize("profile", LEVEL1)
def test_a_profile_reaches_no_goal_that_the_registry_does_not_have(profile: str) -> None:
    # Events that only an operator causes are no goals of a search.
    reached = perform(RunRequest(1, profile, 103)).goals
    assert set(reached) - set(GOALS[1]) <= {"regions.forced"}


@pytest.mark.parametrize(
    ("profile", "seed"),
    [("reconfiguration", 102)],  # a leader stepped down with the commit that it had to answer
)
def test_a_seed_that_once_found_something_passes(profile: str, seed: int) -> None:
    result = perform(RunRequest(1, profile, seed))
    assert result.verdict == PASSED, result.text
