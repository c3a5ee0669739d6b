"""F30: a node comes back with what it had long ago; nothing of that is taken for new."""

from __future__ import annotations

import pytest

from node import state_transfer
from node.roles import BY_NOTHING
from scenario.level2_old_image import GOAL
from scenario.run_one import perform
from scenario.runs import PASSED, VIOLATED, FaultEvent, RunRequest, RunResult

pytestmark = pytest.mark.simulation

OPTIONS = (("nodes", 4), ("seconds", 4), ("regions", 4), ("writes_per_s", 150))


def returned(seed: int, *, rebooted: int = 0, more: tuple[FaultEvent, ...] = ()) -> RunResult:
    details = (("age_ms", 900), ("rebooted", rebooted))
    old = FaultEvent(500, "old_image", (1,), 100, details)
    return perform(RunRequest(2, "default", seed, faults=(old, *more), options=OPTIONS))


@pytest.mark.parametrize("rebooted", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_node_with_disks_of_some_time_ago_is_brought_up_to_date(seed: int, rebooted: int) -> None:
    result = returned(seed, rebooted=rebooted)
    assert result.verdict == PASSED, result.text
    assert GOAL in result.goals


def test_no_other_node_is_struck_before_it_is_back() -> None:
    kill = FaultEvent(1000, "kill", (2,), 100)
    result = returned(1, more=(kill,))
    assert (result.verdict, kill in result.faults, GOAL in result.goals) == (PASSED, False, True)


def test_taking_what_it_brings_for_new_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_transfer, "_choose", lambda *_: BY_NOTHING)
    results = [returned(seed) for seed in range(3)]
    assert VIOLATED in [result.verdict for result in results]


@pytest.mark.parametrize("seed", range(4))
def test_a_volume_that_was_removed_while_a_node_was_away_stays_removed(seed: int) -> None:
    faults = (
        FaultEvent(300, "kill", (1,), 2200),
        FaultEvent(900, "remove_volume"),
        FaultEvent(1200, "remove_volume"),
    )
    options = (("nodes", 4), ("seconds", 3), ("remove_volumes", 1))
    result = perform(RunRequest(1, "default", seed, faults=faults, options=options))
    assert (result.verdict, result.faults) == (PASSED, faults), result.text
