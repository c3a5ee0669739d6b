"""The checkers of host histories: what they accept, what they reject, and that they agree."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from scenario.checkers import (
    Undecided,
    Violation,
    check_history,
    check_registers,
    search_register,
)
from scenario.history import History, Kind, Outcome, value_name, value_of
from sim.random import SimRandom

A, B, C = value_of(1, 1), value_of(2, 1), value_of(3, 1)


class Script:
    """Builds a history of one block from a text of events: who does what, in order."""

    def __init__(self) -> None:
        self.history = History()
        self.open: dict[str, int] = {}
        self.now_ns = 0

    def begin(self, name: str, kind: Kind, value: int = 0, block: int = 0) -> Script:
        self.now_ns += 1000
        self.open[name] = self.history.invoke(
            kind, host=len(self.open), number=1, volume=1, block=block, value=value,
            now_ns=self.now_ns,
        )  # fmt: skip
        return self

    def end(self, name: str, value: int = 0, outcome: Outcome = Outcome.OK) -> Script:
        self.now_ns += 1000
        self.history.complete(self.open.pop(name), outcome, now_ns=self.now_ns, value=value)
        return self

    def write(self, value: int, outcome: Outcome = Outcome.OK, block: int = 0) -> Script:
        return self.begin("w", Kind.WRITE, value, block).end("w", outcome=outcome)

    def read(self, value: int, block: int = 0) -> Script:
        return self.begin("r", Kind.READ, block=block).end("r", value)

    def violations(self) -> list[Violation]:
        found = check_registers(self.history)
        rows = range(len(self.history))
        for register, (_, block) in enumerate(self.history.registers):
            mine = [row for row in rows if self.history.register[row] == register]
            bad = any(violation.block == block for violation in found)
            assert search_register(self.history, mine, eager=False) is not bad
            assert search_register(self.history, mine, eager=True) is not bad
        return found


def test_reads_of_the_last_write_are_accepted() -> None:
    assert Script().read(0).write(A).read(A).write(B).read(B).violations() == []


def test_an_empty_history_is_accepted() -> None:
    assert check_history(History()) == []


def test_a_concurrent_read_may_return_either_value() -> None:
    for value in (A, B):
        script = Script().write(A).begin("r", Kind.READ).write(B).end("r", value)
        assert script.violations() == []


def test_a_stale_read_is_rejected() -> None:
    (violation,) = Script().write(A).write(B).read(A).violations()
    assert violation.reason.startswith("lost write")
    assert "h2#1 was there in between, but h1#1 was read" in violation.reason


def test_a_stale_read_after_a_newer_read_is_rejected() -> None:
    (violation,) = Script().write(A).write(B).read(B).read(A).violations()
    assert violation.reason == "stale read: h1#1 and h2#1 were both in force at one time"


def test_a_lost_write_that_leaves_zeros_is_rejected() -> None:
    (violation,) = Script().write(A).read(0).violations()
    assert violation.reason == "lost write: h1#1 was there, and zeros were read after it"


def test_a_read_of_a_value_that_nobody_wrote_is_rejected() -> None:
    (violation,) = Script().write(A).read(C).violations()
    assert "never written to this block" in violation.reason


def test_a_read_of_a_write_that_was_refused_is_rejected() -> None:
    (violation,) = Script().write(A, Outcome.FAILED).read(A).violations()
    assert "definitely refused" in violation.reason
    assert len(violation.rows) == 2


def test_a_read_before_the_write_was_invoked_is_rejected() -> None:
    (violation,) = Script().read(A).write(A).violations()
    assert "before its write was invoked" in violation.reason


def test_a_double_effect_of_a_repeated_write_is_rejected() -> None:
    (violation,) = Script().write(A).read(A).write(B).read(B).read(A).violations()
    assert violation.reason.startswith("stale read")


def test_reads_that_see_two_writes_in_opposite_orders_are_rejected() -> None:
    script = Script().begin("a", Kind.WRITE, A).begin("b", Kind.WRITE, B)
    script.read(A).read(B).read(A).end("a").end("b")
    assert len(script.violations()) == 1


def test_a_write_of_unknown_outcome_may_have_happened_or_not() -> None:
    for value in (A, B):
        script = Script().write(A).write(B, Outcome.INDEFINITE).read(value)
        assert script.violations() == []


def test_a_write_of_unknown_outcome_may_happen_later_but_only_once() -> None:
    unknown = Script().write(A, Outcome.INDEFINITE).write(B).read(B).read(A)
    assert unknown.violations() == []
    assert len(unknown.read(B).violations()) == 1


def test_a_write_still_open_at_the_end_counts_as_unknown() -> None:
    for value in (0, A):
        assert Script().begin("w", Kind.WRITE, A).read(value).violations() == []


def test_a_read_that_failed_says_nothing() -> None:
    script = Script().write(A).begin("r", Kind.READ).end("r", C, Outcome.INDEFINITE)
    assert script.violations() == []


def test_zeros_written_again_and_again_are_decided_by_the_search() -> None:
    good = Script().write(A).write(0).read(0).write(B).write(0).read(0).violations()
    assert good == []
    (violation,) = Script().write(A).write(0).read(0).write(B).read(0).violations()
    assert "no order" in violation.reason


def test_blocks_are_judged_apart() -> None:
    (violation,) = Script().write(A, block=1).read(0, block=2).read(0, block=1).violations()
    assert (violation.volume, violation.block) == (1, 1)


def test_a_phantom_read_is_reported_with_its_text() -> None:
    script = Script().begin("r", Kind.READ)
    script.history.phantom(script.open["r"], "sector 3 is noise", now_ns=5)
    (violation,) = check_history(script.history)
    assert violation.invariant == "I3"
    assert "sector 3 is noise" in violation.text


def test_the_counterexample_names_operations_times_and_outcomes() -> None:
    (violation,) = Script().write(A).write(B).read(A).violations()
    assert str(violation).splitlines() == [
        "I2 volume 1 block 0: lost write: h2#1 was there in between, "
        "but h1#1 was read before it and after it",
        "  h0#1 wrote volume 1 block 0 h1#1 [0.000001000 .. 0.000002000 s] ok",
        "  h0#1 wrote volume 1 block 0 h2#1 [0.000003000 .. 0.000004000 s] ok",
        "  h0#1 read volume 1 block 0 h1#1 [0.000005000 .. 0.000006000 s] ok",
    ]


def test_the_search_gives_up_in_words() -> None:
    script = Script()
    for index in range(12):
        script.begin(f"w{index}", Kind.WRITE, value_of(1, index + 1))
    for index in range(12):
        script.end(f"w{index}")
    script.read(C)
    rows = list(range(len(script.history)))
    with pytest.raises(Undecided, match="states"):
        search_register(script.history, rows, states_max=100)


def random_registers(rng: SimRandom, count: int, zeros: bool) -> History:
    """Small histories, each on a block of its own; about half of them are right."""
    history = History()
    for block in range(count):
        waiting: list[tuple[int, bool]] = []
        value, written = 0, [0]
        for step in range(rng.randint(4, 14)):
            if waiting and rng.chance(3, 5):
                row, is_read = waiting.pop(rng.below(len(waiting)))
                ahead = value_of(1, len(written) + rng.below(2))  # to be written yet, or never
                outcome = rng.weighted((8, 1, 1))
                # Mostly the present value, sometimes any: both verdicts must be common.
                seen = written[-1] if rng.chance(1, 2) else rng.choice([*written, ahead])
                history.complete(row, Outcome(outcome), now_ns=step, value=seen if is_read else 0)
                continue
            is_read = rng.chance(1, 2)
            if not is_read:
                value = 0 if zeros and rng.chance(1, 3) else value_of(1, len(written))
                written.append(value)
            row = history.invoke(
                Kind.READ if is_read else Kind.WRITE, host=0, number=step, volume=0, block=block,
                value=0 if is_read else value, now_ns=step,
            )  # fmt: skip
            waiting.append((row, is_read))
    return history


def disagreements(count: int, seed: int, *, zeros: bool = False) -> tuple[int, int]:
    """(registers on which the two checkers differ, registers found wrong)."""
    history = random_registers(SimRandom(seed), count, zeros)
    bad = {violation.block for violation in check_registers(history)}
    first_row = [0] * (len(history.registers) + 1)
    for row in range(len(history)):
        first_row[history.register[row] + 1] = row + 1
    differ = 0
    for register, (begin, stop) in enumerate(pairwise(first_row)):
        right = search_register(history, list(range(begin, stop)), eager=False)
        differ += right is (history.registers[register][1] in bad)
    return differ, len(bad)


def test_zones_and_search_agree_on_small_random_histories() -> None:
    differ, bad = disagreements(5_000, seed=1)
    assert differ == 0
    assert 1_000 < bad < 4_000


def test_eager_search_agrees_with_plain_search_when_zeros_repeat() -> None:
    differ, bad = disagreements(2_000, seed=2, zeros=True)
    assert differ == 0
    assert 200 < bad < 1_800


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_zones_and_search_agree_on_many_random_histories(seed: int) -> None:
    assert disagreements(24_000, seed=100 + seed)[0] == 0


def long_history(operations: int) -> History:
    """A right history: 16 hosts at once on 256 blocks."""
    rng, history = SimRandom(7), History()
    contents = [0] * 256
    waiting: list[tuple[int, int, bool]] = []
    for number in range(1, operations + 1):
        block, is_read = rng.below(256), rng.chance(1, 2)
        value = 0 if is_read else value_of(number % 16, number)
        row = history.invoke(
            Kind.READ if is_read else Kind.WRITE, host=number % 16, number=number, volume=1,
            block=block, value=value, now_ns=number,
        )  # fmt: skip
        waiting.append((row, block, is_read))
        if len(waiting) == 16:
            row, block, is_read = waiting.pop(rng.below(16))
            if not is_read:
                contents[block] = history.value[row]
            history.complete(row, Outcome.OK, now_ns=number, value=contents[block])
    return history


def test_a_hundred_thousand_operations_are_checked_in_half_a_second() -> None:
    history = long_history(100_000)
    began = time.process_time()
    assert check_history(history) == []
    assert time.process_time() - began < 0.5


def test_one_wrong_read_in_a_long_history_is_found() -> None:
    history = long_history(20_000)
    row = next(
        row
        for row in range(15_000, len(history))
        if history.kind[row] == Kind.READ and history.outcome[row] == Outcome.OK
    )
    older = next(
        other
        for other in range(len(history))
        if history.register[other] == history.register[row]
        and history.kind[other] == Kind.WRITE
        and history.value[other] != history.value[row]
    )
    history.value[row] = history.value[older]
    (violation,) = check_history(history)
    assert row in violation.rows
    assert value_name(history.value[older]) in violation.reason
