"""Jumps of the wall clocks change nothing that hosts see; where they decide, it is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from base.units import NS_PER_S
from scenario import run_one
from scenario.history import History, Kind, Outcome
from scenario.metamorphic import EVERY, OF_THEM, digest, first_difference, is_due, twins
from scenario.run_one import perform
from scenario.runs import PASSED, VIOLATED, FaultEvent, RunRequest
from sim.kernel import KernelNode

KILL = FaultEvent(700, "kill", (1,), 50)
SHORT = (("seconds", 2),)


def test_one_seed_in_so_many_is_due_and_no_run_of_a_list() -> None:
    due = [seed for seed in range(2 * EVERY) if is_due(RunRequest(1, "swarm", seed))]
    assert due == [OF_THEM, OF_THEM + EVERY]
    assert not is_due(RunRequest(1, "swarm", OF_THEM, faults=()))


def test_twins_differ_in_how_far_clocks_jump_and_in_nothing_else() -> None:
    calm, jumping = twins(RunRequest(2, "swarm", 17), (KILL,), 3, 2000)
    assert calm.faults is not None
    assert jumping.faults is not None
    assert KILL in calm.faults
    assert [fault.at_ms for fault in calm.faults] == sorted(fault.at_ms for fault in calm.faults)
    assert [replace(fault, details=()) for fault in calm.faults] == [
        replace(fault, details=()) for fault in jumping.faults
    ]
    jumps = [abs(int(f.detail("ms"))) for f in jumping.faults if f.kind == "wall_jump"]
    assert min(jumps) >= 3_600_000
    assert not any(fault.detail("ms") for fault in calm.faults)


def history(at_ns: int) -> History:
    made = History()
    row = made.invoke(Kind.WRITE, host=0, number=1, volume=1, block=2, value=5, now_ns=at_ns)
    made.complete(row, Outcome.OK, now_ns=at_ns + 10)
    return made


def test_another_time_of_an_answer_is_another_history() -> None:
    assert digest(history(7)) == digest(history(7))
    assert digest(history(7)) != digest(history(8))
    assert first_difference(history(0), history(0)) == ""
    assert "block 2" in first_difference(history(0), history(NS_PER_S))
    assert first_difference(history(0), History()) == "1 rows / 0 rows"


@pytest.mark.parametrize("level", [1, 2])
def test_wall_clocks_decide_nothing(level: int) -> None:
    result = perform(RunRequest(level, "default", OF_THEM, options=SHORT))
    assert result.verdict == PASSED, result.text
    assert result.operations


def test_clock_that_hosts_can_feel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beacons of a node come at another time once its wall clock was set."""
    clock_ns = KernelNode.clock_ns

    def mixed(node: KernelNode) -> int:
        return clock_ns(node) + 20_000_000 * (node.wall_offset_ns != 0)

    monkeypatch.setattr(KernelNode, "clock_ns", mixed)
    monkeypatch.setattr(run_one, "is_due", lambda request: request.faults is None)
    results = [perform(RunRequest(1, "default", seed, options=SHORT)) for seed in range(3)]
    seen = [result for result in results if result.verdict == VIOLATED]
    assert seen
    assert seen[0].rule == "I29"
    assert "hosts see another history when wall clocks jump" in seen[0].text


def test_leases_on_the_wall_clock_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_one, "is_due", lambda request: request.faults is None)
    rules = [
        perform(RunRequest(1, "default", seed, "lease-on-wall-clock", options=SHORT)).rule
        for seed in range(2)
    ]
    assert "I29" in rules
