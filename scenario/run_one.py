"""shell: perform one simulated run: from a request to a result, in this process.

Never raises for a broken rule: that is a result. What cannot be run is one too, with the reason.
"""

from __future__ import annotations

import gc
import time
import traceback
from dataclasses import replace

from base.errors import InvalidRequest, StorageError
from scenario import level1
from scenario.faults import nearest
from scenario.mutations import applied
from scenario.profiles import LEVEL1, with_options
from scenario.runs import FAILED, PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from scenario.state_checks import Violated

LINES_MAX = 200_000


def perform(request: RunRequest) -> RunResult:
    """Run it. wall_ms is the only part of the result that does not follow from the request."""
    began_ns = time.perf_counter_ns()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with applied(request.mutation):
            result = _level1(request) if request.level == 1 else _refuse_level(request)
    except InvalidRequest as error:
        result = RunResult(request, REFUSED, text=str(error))
    finally:
        if collecting:
            gc.enable()
    return replace(result, wall_ms=(time.perf_counter_ns() - began_ns) // 1_000_000)


def _refuse_level(request: RunRequest) -> RunResult:
    raise InvalidRequest(f"there is no level {request.level}: levels are 1 and 2")


def _level1(request: RunRequest) -> RunResult:
    profile = LEVEL1.get(request.profile)
    if profile is None:
        raise InvalidRequest(
            f"level 1 has no profile {request.profile}: {nearest(request.profile, LEVEL1)}"
        )
    options = replace(with_options(profile(request.seed), request.options), trace=request.trace)
    run = level1.SeedRun(request.seed, options, request.faults, allow_loss=request.allow_loss)
    verdict, rule, text = PASSED, "", ""
    try:
        run.run()
    except Violated as violated:
        verdict, text = VIOLATED, str(violated)
        rule = _rule_of(text)
    except (AssertionError, StorageError, LookupError, ValueError, TypeError) as error:
        verdict, rule = FAILED, type(error).__name__
        text = "".join(traceback.format_exception(error)[-6:])
    if run.faults.refused:
        verdict, rule, text = REFUSED, "", run.faults.refused
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
        faults=report.performed,
        goals=report.goals,
        lines=tuple(report.lines[-LINES_MAX:]),
    )


def _rule_of(text: str) -> str:
    """The first word that is the name of an invariant."""
    for word in text.replace(":", " ").split():
        if word[0] == "I" and word[1:].isdigit():
            return word
    return ""
