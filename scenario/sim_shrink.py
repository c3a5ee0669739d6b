"""shell: `eightfold sim shrink`: runs smaller and smaller requests until none of them fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from admin import output
from base.clock import RealClock
from base.errors import InvalidRequest
from base.units import NS_PER_S
from scenario import run_one as runs_of
from scenario.kept import Kept, write_kept
from scenario.pool import Job, LocalPool, Pool
from scenario.runs import PASSED, REFUSED, RunRequest, RunResult
from scenario.shrink import Shrinker, size
from scenario.sim_run import duration

WAIT_S: Final = 1.0


class Judge:
    """Has runs performed, and says which of them fail as the first one did."""

    def __init__(self, pool: Pool, like: RunResult, *, until_ns: int, runs_max: int) -> None:
        self.runs = 0
        self.last: RunResult = like  # the last one that failed alike
        self._pool = pool
        self._like = (like.verdict, like.rule)
        self._until_ns = until_ns
        self._runs_max = runs_max
        self._clock = RealClock()

    def __call__(self, requests: Sequence[RunRequest]) -> list[bool]:
        """Fewer answers than requests: the budget is used up."""
        left = self._runs_max - self.runs
        if self._clock.now_ns() >= self._until_ns:
            left = 0
        taken = requests[:left]
        self.runs += len(taken)
        results = perform_all(self._pool, taken)
        said = [(result.verdict, result.rule) == self._like for result in results]
        for result, alike in zip(results, said, strict=True):
            if alike:
                self.last = result
                break
        return said


def perform_all(pool: Pool, requests: Sequence[RunRequest]) -> list[RunResult]:
    """In the order of the requests."""
    for number, request in enumerate(requests):
        pool.send(Job(number, request))
    found: dict[int, RunResult] = {}
    while len(found) < len(requests):
        found.update({answer.job.number: answer.result for answer in pool.receive(WAIT_S)})
    return [found[number] for number in range(len(requests))]


@dataclass(slots=True)
class SimShrink:
    """One call of the command."""

    kept: Kept
    minutes: float
    runs_max: int
    jobs: int
    save: Path
    as_json: bool = False

    def run(self) -> int:
        """The exit code."""
        pool = LocalPool(self.jobs)
        try:
            return self._run(pool)
        finally:
            pool.close()

    def _run(self, pool: Pool) -> int:
        clock = RealClock()
        begin_ns = clock.now_ns()
        (first,) = perform_all(pool, [self.kept.request])
        if first.verdict == REFUSED:
            raise InvalidRequest(first.text)
        if first.verdict == PASSED:
            output.warn("it passes: there is nothing to make smaller")
            return 1
        # Level 2 has no list of what it performed: there only options become smaller.
        listed = self.kept.request
        if first.faults:
            listed = replace(listed, faults=first.faults, script="")
        (again,) = perform_all(pool, [listed])
        if (again.verdict, again.rule) != (first.verdict, first.rule):
            raise InvalidRequest(
                f"with its {len(first.faults)} faults as a list the run is {again.verdict}"
                f" {again.rule}, and was {first.verdict} {first.rule}: {again.text}"
            )
        values = runs_of.option_values(listed)
        judge = Judge(
            pool, again, until_ns=begin_ns + int(self.minutes * 60 * NS_PER_S),
            runs_max=self.runs_max,
        )  # fmt: skip
        self._say(f"{first.rule or first.verdict}: {size(listed, values)}")
        shrinker = Shrinker(
            listed, values, judge, self.jobs,
            lambda smaller: self._say(f"  {judge.runs} runs: {size(smaller, values)}"),
        )  # fmt: skip
        smallest = shrinker.run()
        # All options by name: what a profile draws from the seed may change one day.
        explicit = replace(smallest, options=tuple(runs_of.option_values(smallest).items()))
        path = write_kept(self.save, Kept(explicit, judge.last.text, ""))
        self._report(listed, smallest, judge, path, (clock.now_ns() - begin_ns) / NS_PER_S)
        return 0

    def _say(self, text: str) -> None:
        if not self.as_json:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _report(
        self, before: RunRequest, after: RunRequest, judge: Judge, path: Path, elapsed_s: float
    ) -> None:
        values = runs_of.option_values(before)
        if self.as_json:
            output.emit(
                {
                    "file": str(path), "runs": judge.runs, "elapsed_s": round(elapsed_s, 3),
                    "rule": judge.last.rule, "text": judge.last.text,
                    "faults": [len(before.faults or ()), len(after.faults or ())],
                    "options": dict(after.options),
                }
            )  # fmt: skip
            return
        output.table(
            "",
            ("", ""),
            [
                ("before", size(before, values)),
                ("after", size(after, values)),
                ("runs", f"{judge.runs} in {duration(elapsed_s)}"),
                ("broken", judge.last.text),
                ("repeat it", f"eightfold sim replay {path}"),
            ],
        )
