"""shell: searches for seeds that break a rule: sends runs to a pool, judges what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from base.clock import Clock, RealClock
from base.errors import InvalidRequest
from base.units import NS_PER_S
from scenario.pool import Answer, Job, Pool
from scenario.runs import REFUSED, RunRequest, RunResult
from scenario.sweep import Finding, Seeds, Sweep, Tally

WAIT_S: Final = 0.5
CANARY_SEEDS: Final = 200


@dataclass(slots=True)
class Search:
    """One sweep. keep_going: after a failure. minutes: then no more runs begin, 0: no limit.
    on_finding, on_progress: called as it goes on."""

    sweep: Sweep
    pool: Pool
    keep_going: bool = False
    minutes: float = 0
    on_finding: Callable[[Finding], None] = lambda finding: None
    on_progress: Callable[[Tally, float], None] = lambda tally, elapsed_s: None
    clock: Clock | None = None

    def run(self, tally: Tally) -> None:
        """Until all runs are done, the time is over, or something was found. An interrupt leaves
        in `tally` what was done until then."""
        clock = self.clock or RealClock()
        begin_ns = clock.now_ns()
        limit_ns = begin_ns + int(self.minutes * 60 * NS_PER_S) if self.minutes else 0
        requests: Iterator[RunRequest] | None = iter(self.sweep)
        firsts: dict[int, RunResult] = {}
        numbers = 0
        flying = 0
        while True:
            while requests is not None and flying < self.pool.width:
                request = next(requests, None)
                if request is None or (limit_ns and clock.now_ns() >= limit_ns):
                    requests = None
                    break
                numbers += 1
                flying += 1
                self.pool.send(Job(numbers, request))
            if not flying:
                return
            for answer in self.pool.receive(WAIT_S):
                flying -= 1
                finding = self._judge(answer, firsts, tally)
                if finding is not None:
                    self.on_finding(finding)
                    if not self.keep_going:
                        return
                elif answer.job.number > 0 and answer.job.number in firsts:
                    flying += 1
            self.on_progress(tally, (clock.now_ns() - begin_ns) / NS_PER_S)

    def _judge(self, answer: Answer, firsts: dict[int, RunResult], tally: Tally) -> Finding | None:
        """A repeated run has the negative number of the first one."""
        number, result = answer.job.number, answer.result
        if number < 0:
            return tally.add_repeated(firsts.pop(-number), result)
        finding = tally.add(result)
        if finding is None and self.sweep.is_repeated(result.request.seed):
            firsts[number] = replace(result, lines=())
            self.pool.send(Job(-number, answer.job.request, avoid=answer.worker))
        return finding


def canary(sweep: Sweep, pool: Pool, mutation: str) -> RunResult | None:
    """The run that saw the mutation. None when CANARY_SEEDS seeds all passed: then the checkers are
    blind, and what they let pass says nothing. InvalidRequest: there is no such mutation."""
    first = sweep.seeds.first
    seeds = Seeds(first, first + CANARY_SEEDS - 1)
    tally = Tally()
    Search(replace(sweep, seeds=seeds, mutation=mutation, repeat_percent=0), pool).run(tally)
    for finding in tally.findings:
        if finding.what == REFUSED:
            raise InvalidRequest(f"--canary: {finding.text}")
        return finding.result
    return None
