"""plan: the verdict of a run: what was expected, what was seen, and the one word for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from scenario.files.amounts import time_text
from scenario.files.failovers import Failover
from scenario.files.models import Expect
from scenario.files.receipts import Receipt
from scenario.files.runner import Line, Runner
from scenario.files.seen import Answers, Note, Track

PASS, INVARIANT, OBJECTIVE, INCONCLUSIVE, ERROR = range(5)  # exit codes
WORDS: Final = ("PASS", "INVARIANT FAILED", "OBJECTIVE MISSED", "INCONCLUSIVE", "ERROR")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a world counted. longest_stall_ms: the longest that a host waited for one answer."""

    operations: int = 0
    refused: int = 0
    unknown: int = 0
    longest_stall_ms: int = 0
    broken: str = ""  # the first invariant that did not hold, in words
    failed: str = ""  # why the run itself could not go on
    trace: str = ""  # of the simulator
    answers: Answers = field(default_factory=Answers)
    notes: tuple[Note, ...] = ()  # that nodes logged, by time


@dataclass(frozen=True, slots=True)
class Expected:
    """One expectation beside what was seen."""

    what: str
    wanted: str
    seen: str
    held: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """code: the exit code. reason: one line."""

    code: int
    reason: str
    expected: tuple[Expected, ...] = ()

    @property
    def word(self) -> str:
        """PASS and so on."""
        return WORDS[self.code]


@dataclass(frozen=True, slots=True)
class Result:
    """All that a report needs of one run."""

    scenario: str
    world: str
    seed: int
    verdict: Verdict
    figures: Figures
    receipts: tuple[Receipt, ...] = ()
    log: tuple[Line, ...] = ()
    failovers: tuple[Failover, ...] = ()
    command: str = ""  # that repeats it
    about: str = ""  # what the scenario says to look at
    mutation: str = ""  # a bug that was put in on purpose
    track: Track = field(default_factory=Track)


def judge(expect: Expect, runner: Runner, figures: Figures) -> Verdict:
    """The worst that is so: an error of the run, a broken invariant, a missing receipt, a missed
    objective. A run without evidence of its faults says nothing about its objectives."""
    expected = tuple(_expected(expect, runner, figures))
    if figures.failed:
        return Verdict(ERROR, figures.failed, expected)
    if figures.broken:
        return Verdict(INVARIANT, figures.broken, expected)
    unproven = why_inconclusive(runner)
    if unproven:
        return Verdict(INCONCLUSIVE, unproven[0], expected)
    missed = [each for each in expected if not each.held]
    if missed:
        first = missed[0]
        return Verdict(
            OBJECTIVE, f"{first.what}: {first.wanted} wanted, {first.seen} seen", expected
        )
    faults = sum(receipt.fault for receipt in runner.receipts)
    return Verdict(PASS, f"every invariant held, {faults} faults with receipts", expected)


def why_inconclusive(runner: Runner) -> list[str]:
    """What was to happen and of which nothing shows that it did."""
    found = [f"{name} never ran: what it waits for did not come" for name in runner.never_ran()]
    for receipt in runner.receipts:
        if not receipt.complete:
            why = receipt.why or "the run ended before"
            found.append(f"{receipt.name} ({receipt.verb}) was not {receipt.missing}: {why}")
    return found


def _most(what: str, most: int | None, seen: int) -> Iterator[Expected]:
    if most is not None:
        yield Expected(what, f"at most {most}", str(seen), seen <= most)


def _expected(expect: Expect, runner: Runner, figures: Figures) -> Iterator[Expected]:
    broken = figures.broken or "none broken"
    yield Expected("invariants", "all hold", broken, not figures.broken)
    least = expect.operations_min
    yield Expected(
        "operations", f"at least {least}", str(figures.operations), figures.operations >= least
    )
    if expect.longest_stall is not None:
        stall = figures.longest_stall_ms
        yield Expected(
            "longest stall", f"at most {time_text(expect.longest_stall)}", time_text(stall),
            stall <= expect.longest_stall,
        )  # fmt: skip
    if expect.redundant_within is not None:
        seen = runner.redundant_ms
        yield Expected(
            "redundant again", f"within {time_text(expect.redundant_within)}",
            "never" if seen is None else time_text(seen),
            seen is not None and seen <= expect.redundant_within,
        )  # fmt: skip
    yield from _most("refused operations", expect.refused_max, figures.refused)
    yield from _most("operations of unknown outcome", expect.unknown_max, figures.unknown)
    counts = runner.counts
    yield from _most("moves of owners", expect.owner_moves_max, counts["owner moved"])
    yield from _most("changes of the leader", expect.leader_changes_max, counts["leader changed"])
    for name in expect.seen:
        yield Expected(name, "seen", f"{counts[name]} times", counts[name] > 0)
    for name in expect.unseen:
        yield Expected(name, "not seen", f"{counts[name]} times", not counts[name])
