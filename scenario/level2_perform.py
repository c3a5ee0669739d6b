"""shell: perform one requested run of level 2. Never raises for a broken rule: that is a result."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final

from base.errors import InvalidRequest, StorageError
from base.units import NS_PER_S
from scenario.faults import nearest
from scenario.level2 import Level2Run, world
from scenario.level2_options import LEVEL2, Level2Options
from scenario.runs import FAILED, PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from scenario.state_checks import Violated

LINES_MAX: Final = 100_000  # of a trace that was asked for: the last ones
_BUGS: Final = (
    AssertionError, StorageError, RuntimeError, LookupError, ValueError, TypeError, AttributeError,
    ArithmeticError,
)  # fmt: skip


def perform(request: RunRequest) -> RunResult:
    """Run it. wall_ms is the only part of the result that does not follow from the request."""
    began_ns = time.perf_counter_ns()
    lines: list[str] = []

    def record(now_ns: int, kind: str, key: Any) -> None:
        if kind != "loop":
            lines.append(f"{now_ns / NS_PER_S:.6f} {kind} {key}")
            if len(lines) > 2 * LINES_MAX:
                del lines[:LINES_MAX]

    try:
        run = run_of(request, record if request.trace else None)
    except InvalidRequest as error:
        return RunResult(request, REFUSED, text=str(error))
    verdict, rule, text = _verdict(run)
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
        wall_ms=(time.perf_counter_ns() - began_ns) // 1_000_000,
        longest_ms=report.longest_ms,
        faults=report.performed,
        goals=report.goals,
        lines=tuple(lines[-LINES_MAX:]),
    )


def run_of(
    request: RunRequest, recorder: Callable[[int, str, Any], None] | None = None
) -> Level2Run:
    """The run, not yet begun. InvalidRequest: it does not apply, and why."""
    return Level2Run(
        request.seed,
        options_of(request),
        request.faults,
        allow_loss=request.allow_loss,
        recorder=recorder,
    )


def _verdict(run: Level2Run) -> tuple[str, str, str]:
    with world(run):
        try:
            run.run()
        except Violated as violated:
            text = str(violated)
            named = re.search(r"\bI\d+\b", text)
            return VIOLATED, named[0] if named else "", text
        except _BUGS as error:
            return FAILED, type(error).__name__, "".join(traceback.format_exception(error)[-6:])
    return PASSED, "", ""


def options_of(request: RunRequest) -> Level2Options:
    """What the profile draws, with what the request replaces. InvalidRequest names what is not."""
    profile = LEVEL2.get(request.profile)
    if profile is None:
        raise InvalidRequest(
            f"level 2 has no profile {request.profile}: {nearest(request.profile, LEVEL2)}"
        )
    options = profile(request.seed)
    names = {field.name: field.type for field in fields(options)}
    changed: dict[str, Any] = {}
    for name, value in request.options:
        if name not in names:
            raise InvalidRequest(f"there is no option {name}: {nearest(name, names)}")
        if type(value) not in (int, bool) or not 0 <= value <= 100_000_000:
            raise InvalidRequest(f"option {name} is a number from 0 up, not {value!r}")
        changed[name] = bool(value) if names[name] == "bool" else int(value)
    return replace(options, **changed)
