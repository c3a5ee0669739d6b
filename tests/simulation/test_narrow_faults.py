"""Narrow links, damaged frames, no room for links or memory: each happens, and every rule holds."""

from __future__ import annotations

import pytest

from scenario.goals import GOALS
from scenario.run_one import perform
from scenario.runs import FAILED, PASSED, FaultEvent, RunRequest, RunResult
from sim import kernel_network

pytestmark = pytest.mark.simulation

SMALL = (("nodes", 4), ("seconds", 3), ("regions", 2), ("writes_per_s", 200))
WIDE = (("nodes", 3), ("seconds", 3), ("writes_per_s", 200), ("read_weight", 5))


def level1(*faults: FaultEvent) -> RunResult:
    return perform(RunRequest(1, "default", 5, faults=faults, options=SMALL))


def level2(*faults: FaultEvent) -> RunResult:
    result = perform(RunRequest(2, "default", 1, faults=faults, options=WIDE))
    assert result.verdict == PASSED, result.text
    return result


def test_damaged_frames_of_level_1_are_rejected_and_sent_again() -> None:
    fault = FaultEvent(300, "corrupt", (0,), 1500, (("permille", 50),))
    result = level1(fault)
    assert (result.verdict, result.faults) == (PASSED, (fault,)), result.text
    assert "a damaged frame was rejected" in result.goals
    assert "a damaged frame was rejected" in GOALS[1]


def test_a_codec_that_takes_what_is_damaged_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_network, "decode", lambda frame: frame)
    result = level1(FaultEvent(300, "corrupt", (0,), 1500, (("permille", 50),)))
    assert (result.verdict, "was taken for a message" in result.text) == (FAILED, True)


def test_frames_that_a_narrow_link_holds_back_are_bounded_and_arrive() -> None:
    caps = tuple(
        FaultEvent(400 + node, "cap", (node,), 1500, (("kib_per_s", 60),)) for node in range(3)
    )
    result = level2(*caps)
    assert result.faults == caps
    assert "a narrow link held frames back" in result.goals


def test_links_that_a_node_has_no_room_for_are_made_when_it_has() -> None:
    fault = FaultEvent(500, "no_links", (0, 1), 900)
    result = level2(fault)
    assert "a node refused links, and they were tried again" in result.goals
    assert result.faults == (fault,)


def test_a_node_without_room_in_memory_lets_writes_wait_and_dies() -> None:
    faults = tuple(
        FaultEvent(300 + 900 * node, "memory", (node,), 400, (("kib", 4),)) for node in range(3)
    )
    result = level2(*faults)
    assert result.faults == faults
    assert {"writes waited for memory", "a node ran out of memory"} <= set(result.goals)


def test_goals_of_these_faults_are_goals_of_searches() -> None:
    wanted = {
        "a damaged frame was rejected", "a narrow link held frames back",
        "a node refused links, and they were tried again", "writes waited for memory",
        "a node ran out of memory",
    }  # fmt: skip
    assert wanted <= set(GOALS[2])
