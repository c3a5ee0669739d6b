"""A search over seeds, with a pool that answers at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from base.errors import InvalidRequest
from scenario.pool import Answer, Job
from scenario.runs import PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from scenario.search import CANARY_SEEDS, Search, canary
from scenario.sweep import NOT_DETERMINISTIC, Finding, Seeds, Sweep, Tally


class FakePool:
    """Answers in the order of asking."""

    width = 4

    def __init__(self, verdict: Callable[[RunRequest], str]) -> None:
        self.verdict = verdict
        self.sent: list[Job] = []
        self.waiting: list[Job] = []
        self.changed = ""

    def send(self, job: Job) -> None:
        self.sent.append(job)
        self.waiting.append(job)

    def receive(self, seconds: float) -> list[Answer]:
        job = self.waiting.pop(0)
        trace = self.changed if job.avoid >= 0 and self.changed else "aa"
        return [Answer(job, RunResult(job.request, self.verdict(job.request), trace=trace), 0)]

    def close(self) -> None:
        self.waiting.clear()


def breaks_at(seed: int) -> Callable[[RunRequest], str]:
    return lambda request: VIOLATED if request.seed >= seed else PASSED


def sweep(last: int, percent: int = 0) -> Sweep:
    return Sweep(Seeds(0, last), 1, ("swarm",), repeat_percent=percent)


def search(pool: FakePool, sweep: Sweep, **settings: bool) -> tuple[Tally, list[Finding]]:
    tally, found = Tally(), []
    Search(sweep, pool, on_finding=found.append, **settings).run(tally)
    return tally, found


def test_all_seeds_are_run() -> None:
    tally, found = search(FakePool(breaks_at(1000)), sweep(49))
    assert tally.runs == 50
    assert found == []


def test_search_stops_at_the_first_failure() -> None:
    tally, found = search(FakePool(breaks_at(10)), sweep(49))
    assert [finding.result.request.seed for finding in found] == [10]
    assert tally.runs == 11


def test_search_that_keeps_going_finds_the_others() -> None:
    _, found = search(FakePool(breaks_at(45)), sweep(49), keep_going=True)
    assert [finding.result.request.seed for finding in found] == [45, 46, 47, 48, 49]


def test_every_run_is_done_twice_at_a_hundred_percent() -> None:
    pool = FakePool(breaks_at(1000))
    tally, _ = search(pool, sweep(9, percent=100))
    assert (tally.runs, tally.repeated, len(pool.sent)) == (10, 10, 20)


def test_repetition_avoids_the_process_of_the_first_run() -> None:
    pool = FakePool(breaks_at(1000))
    search(pool, sweep(0, percent=100))
    assert [job.avoid for job in pool.sent] == [-1, 0]


def test_other_trace_of_a_repetition_is_found() -> None:
    pool = FakePool(breaks_at(1000))
    pool.changed = "bb"
    _, found = search(pool, sweep(9, percent=100))
    assert [finding.what for finding in found] == [NOT_DETERMINISTIC]


def test_canary_that_is_seen_names_its_run() -> None:
    seen = canary(sweep(0), FakePool(breaks_at(7)), "bug")
    assert seen is not None
    assert (seen.request.seed, seen.request.mutation) == (7, "bug")


def test_canary_that_passes_everywhere_is_not_seen() -> None:
    pool = FakePool(breaks_at(10_000))
    assert canary(sweep(0), pool, "bug") is None
    assert len(pool.sent) == CANARY_SEEDS


def test_canary_that_there_is_not_is_refused_and_not_seen() -> None:
    with pytest.raises(InvalidRequest, match="--canary"):
        canary(sweep(0), FakePool(lambda request: REFUSED), "bug")


def test_no_run_begins_after_the_time_is_over() -> None:
    class Late:
        """Jumps a minute ahead with every look."""

        now = 0

        def now_ns(self) -> int:
            self.now += 60 * 10**9
            return self.now

    pool = FakePool(breaks_at(1000))
    tally = Tally()
    made = Search(sweep(49), pool, minutes=5, clock=Late())  # type: ignore[arg-type]
    made.run(tally)
    assert 0 < tally.runs < 8
