"""A host that waits too long is found when one thing was wrong, and excused when more was."""

from __future__ import annotations

import pytest

from base.units import NS_PER_MS
from scenario.checkers import Violation
from scenario.history import History, Kind, Outcome
from scenario.runs import FaultEvent
from scenario.stalls import SETTLE_MS, bound_ms, check_stalls

BEGUN_NS = 7_000 * NS_PER_MS
KILL = FaultEvent(4_000, "kill", (1,), 500)


def waited(*operations: tuple[int, int]) -> History:
    """Writes that began and were answered then, in ms after hosts began; -1: never."""
    history = History()
    for number, (start_ms, end_ms) in enumerate(operations, 1):
        row = history.invoke(
            Kind.WRITE, host=0, number=number, volume=1, block=number, value=number,
            now_ns=BEGUN_NS + start_ms * NS_PER_MS,
        )  # fmt: skip
        if end_ms >= 0:
            history.complete(row, Outcome.OK, now_ns=BEGUN_NS + end_ms * NS_PER_MS)
    return history


def check(
    history: History, *faults: FaultEvent, redundant: tuple[bool, ...] | None = None
) -> list[Violation]:
    whole = redundant or (True,) * len(faults)
    return check_stalls(history, faults, whole, BEGUN_NS, 2_000)


def test_wait_beyond_the_bound_is_found() -> None:
    history = waited((3_990, 5_900), (3_991, 6_000), (5_000, 5_001))
    (found,) = check(history, KILL)
    assert found.invariant == "I27"
    assert str(found).startswith("I27 volume 1 block 2: h0#2 wrote")
    assert "waited 2009 ms, only kill of (1,) was wrong, 2000 ms are allowed" in str(found)


def test_wait_while_nothing_was_wrong_is_found() -> None:
    later = FaultEvent(9_000, "kill", (1,), 500)
    (found,) = check(waited((1_000, 3_100)), later)
    assert "nothing was wrong" in str(found)


@pytest.mark.parametrize(
    "second",
    [
        FaultEvent(5_500, "pause", (2,), 100),  # while it waits
        FaultEvent(100, "cut", (2, 0), 3_800),  # stood until then
        FaultEvent(4_000 - SETTLE_MS, "kill", (2,)),  # its consequences are not over
    ],
)
def test_second_fault_excuses_it(second: FaultEvent) -> None:
    history = waited((3_991, 6_000))
    assert check(history, KILL)
    assert check(history, second, KILL) == []


def test_fault_of_long_ago_excuses_nothing() -> None:
    assert check(waited((3_991, 6_000)), FaultEvent(500, "kill", (2,), 100), KILL)


def test_fault_while_a_copy_was_missing_is_excused() -> None:
    assert check(waited((3_991, 6_000)), KILL, redundant=(False,)) == []


def test_what_only_slows_is_excused() -> None:
    assert check(waited((3_991, 6_000)), FaultEvent(4_000, "slow_disk", (1,), 500)) == []


def test_wait_that_never_ended_is_of_another_rule() -> None:
    assert check(waited((3_991, -1)), KILL) == []


def test_bound_grows_with_what_it_is_made_of() -> None:
    assert bound_ms(500, 2) == 2_008
    assert bound_ms(1_000, 0) > bound_ms(500, 0)
