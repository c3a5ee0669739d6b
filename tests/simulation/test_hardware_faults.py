"""Level 2: loops, sleds and cages out of reach; hosts go on, and copies are equal in the end."""

from __future__ import annotations

import pytest

from scenario.goals import GOALS
from scenario.level2_hardware import GOAL_OF
from scenario.run_one import perform
from scenario.runs import PASSED, Detail, FaultEvent, RunRequest, RunResult

pytestmark = pytest.mark.simulation

BUSY = (
    ("nodes", 3), ("seconds", 3), ("regions", 4), ("writes_per_s", 150), ("read_weight", 60),
    ("destage_after_ms", 20), ("codec", False), ("cages", 2), ("sleds", 2), ("split_loops", True),
)  # fmt: skip
PLACES: dict[str, tuple[Detail, ...]] = {
    "loop_down": (("pair", 0), ("side", "both")),
    "sled_pull": (("cage", 0), ("sled", 0)),
    "cage_down": (("cage", 0),),
}
SEEN = {"loop_down": "loops", "sled_pull": "sled", "cage_down": "cage"}


def after(*faults: FaultEvent, mirrored: bool = False) -> RunResult:
    options = (*BUSY, ("mirrored_disks", mirrored))
    result = perform(RunRequest(2, "default", 5, faults=faults, options=options))
    assert result.verdict == PASSED, result.text
    return result


def away(kind: str, node: int, at_ms: int, for_ms: int) -> FaultEvent:
    return FaultEvent(at_ms, kind, (node,), for_ms, PLACES[kind])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("kind", PLACES)
def test_disks_are_out_of_reach_and_nothing_is_lost(kind: str, mirrored: bool) -> None:
    faults = tuple(away(kind, node, 600 + 700 * node, 400) for node in range(3))
    result = after(*faults, mirrored=mirrored)
    assert GOAL_OF[SEEN[kind]] in result.goals
    assert faults[0] in result.faults
    # Mirrors keep their members apart by cage, and so by sled, and not by pair of loops.
    assert ("a disk left its mirrors" in result.goals) == (mirrored and kind != "loop_down")


def test_no_other_node_is_struck_while_one_misses_disks() -> None:
    gone = away("cage_down", 1, 600, 800)
    early, own = FaultEvent(900, "kill", (2,), 50), FaultEvent(1000, "kill", (1,), 100)
    late = FaultEvent(2500, "kill", (2,), 50)
    assert after(gone, early, own, late).faults == (gone, own, late)


def test_one_loop_of_a_pair_is_enough() -> None:
    one = FaultEvent(600, "loop_down", (1,), 2000, (("pair", 0), ("side", "A")))
    assert GOAL_OF["loops"] not in after(one).goals


def test_a_sled_that_the_node_does_not_have_is_not_on_record() -> None:
    assert after(FaultEvent(600, "sled_pull", (1,), 500, (("cage", 7), ("sled", 0)))).faults == ()


def test_profile_of_hardware_reaches_its_goals() -> None:
    reached = {g for seed in range(12) for g in perform(RunRequest(2, "hardware", seed)).goals}
    assert reached >= set(GOAL_OF.values())
    assert set(GOAL_OF.values()) <= set(GOALS[2])
