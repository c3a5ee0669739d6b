"""shell: perform one simulated run: from a request to a result, in this process.

Never raises for a broken rule: that is a result. What cannot be run is one too, with the reason.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final, Protocol

from base.errors import InvalidRequest
from scenario import level1, level2
from scenario.faults import nearest
from scenario.level2_options import LEVEL2
from scenario.metamorphic import digest, first_difference, is_due, twins
from scenario.mutations import applied, mutation_of
from scenario.profiles import LEVEL1, with_options
from scenario.runs import FAILED, PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from scenario.state_checks import Violated

LINES_MAX = 200_000


PROFILES: Final[dict[int, dict[str, Callable[[int], Any]]]] = {
    1: dict(LEVEL1),
    2: dict(LEVEL2),
}


class Watch(Protocol):
    """Who looks at a run from outside: a replay."""

    def began(self, run: Any) -> None:
        """The run is about to start: a `level1.SeedRun` or a `level2.Level2Run`."""

    def ended(self, run: Any) -> None:
        """It has ended; its nodes are still there."""


def options_of(request: RunRequest) -> Any:
    """The options, as drawn and replaced. InvalidRequest: the request does not apply."""
    if request.level not in PROFILES:
        raise InvalidRequest(f"there is no level {request.level}: levels are 1 and 2")
    known = PROFILES[request.level]
    if request.profile not in known:
        raise InvalidRequest(
            f"level {request.level} has no profile {request.profile}:"
            f" {nearest(request.profile, known)}"
        )
    return with_options(known[request.profile](request.seed), request.options)


def option_values(request: RunRequest) -> dict[str, int | bool]:
    """The same by name."""
    return asdict(options_of(request))


def run_of(request: RunRequest) -> Any:
    """The run, not yet begun. InvalidRequest: the request does not apply."""
    options = options_of(request)
    if request.mutation:
        mutation_of(request.mutation)
    if request.level == 1:
        options = replace(options, trace=request.trace)
        return level1.SeedRun(
            request.seed, options, request.faults, allow_loss=request.allow_loss,
            script=request.script,
        )  # fmt: skip
    if request.script:
        raise InvalidRequest(f"script {request.script}: only level 1 has scripts")
    return level2.Level2Run(request.seed, options, request.faults, allow_loss=request.allow_loss)


def perform(request: RunRequest, watch: Watch | None = None) -> RunResult:
    """Run it. wall_ms is the only part of the result that does not follow from the request."""
    began_ns = time.perf_counter_ns()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with applied(request.mutation):
            result = _judged(request, run_of(request), watch)
    except InvalidRequest as error:
        result = RunResult(request, REFUSED, text=str(error))
    finally:
        if collecting:
            gc.enable()
    return replace(result, wall_ms=(time.perf_counter_ns() - began_ns) // 1_000_000)


def _judged(request: RunRequest, run: Any, watch: Watch | None) -> RunResult:
    verdict, rule, text = PASSED, "", ""
    if watch is not None:
        watch.began(run)
    try:
        _go(request, run, watch)
    except Violated as violated:
        verdict, text = VIOLATED, str(violated)
        rule = _rule_of(text)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the verdict of this run
        verdict, rule = FAILED, type(error).__name__
        text = "".join(traceback.format_exception(error)[-6:])
    if verdict == PASSED and is_due(request):
        text = _moved_by_wall_clocks(request, run)
        verdict, rule = (VIOLATED, "I29") if text else (PASSED, "")
    refused = run.faults.refused if request.level == 1 else ""
    if refused:
        verdict, rule, text = REFUSED, "", refused
    report = run.report()
    return RunResult(
        request,
        verdict,
        rule,
        text,
        trace=report.trace,
        events=report.events,
        operations=report.operations,
        virtual_ms=int(report.virtual_s * 1000),
        longest_ms=report.longest_ms,
        faults=getattr(report, "performed", ()),
        goals=getattr(report, "goals", ()),
        lines=tuple(getattr(report, "lines", ())[-LINES_MAX:]),
    )


def _go(request: RunRequest, run: Any, watch: Watch | None) -> None:
    if request.level == 1:
        try:
            run.run()
        finally:
            if watch is not None:
                watch.ended(run)
        return
    with level2.world(run):
        try:
            run.run()
        finally:
            if watch is not None:
                watch.ended(run)


def _moved_by_wall_clocks(request: RunRequest, first: Any) -> str:
    """I29: what jumps of the wall clocks have changed, in words; "" when nothing."""
    options = first.options
    last_ms = options.seconds * 1000
    calm, jumping = twins(request, tuple(first.faults.performed), options.nodes, last_ms)
    histories = []
    for twin in (calm, jumping):
        run = run_of(twin)
        try:
            _go(twin, run, None)
        except Violated as violated:
            return f"I29: with wall clocks that jump, {violated}" if twin is jumping else ""
        histories.append(run.history)
    if digest(histories[0]) == digest(histories[1]):
        return ""
    return (
        f"I29 in seed {request.seed}: hosts see another history when wall clocks jump:"
        f" {first_difference(*histories)}"
    )


def _rule_of(text: str) -> str:
    """The first word that is the name of an invariant."""
    for word in text.replace(":", " ").split():
        if word[0] == "I" and word[1:].isdigit():
            return word
    return ""
