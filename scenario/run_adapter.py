"""shell: one run of either level from a request to a result that says what came of it."""

from __future__ import annotations

import gc
import re
from dataclasses import asdict, fields, replace
from typing import Any, Final

from base.clock import RealClock
from base.errors import InvalidRequest
from base.units import NS_PER_MS
from scenario import level1, level2
from scenario.faults import nearest
from scenario.runs import FAILED, PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from scenario.sim_state import NodeNow, level1_nodes, level2_nodes
from scenario.state_checks import Violated
from scenario.trace_text import Event, Recorder, event_of_level2

PROFILES: Final = {1: ("default", "swarm"), 2: ("default", "swarm")}


class Stopped(Violated):
    """The event was reached at which the run was to stop."""


def about(level: int, profile: str) -> str:
    """What the profile draws."""
    return {
        "default": "crashes and pauses, one at a time",
        "swarm": "every option drawn from the seed: faults on and off, times short and long",
    }[profile]


def level1_run(request: RunRequest) -> level1.SeedRun:
    """The run, not yet begun. InvalidRequest: it does not apply."""
    check(request)
    return level1.SeedRun(request.seed, _options(request))


def level2_run(request: RunRequest) -> level2.Level2Run:
    """The run, not yet begun. InvalidRequest: it does not apply."""
    check(request)
    return level2.Level2Run(request.seed, _options(request))


def check(request: RunRequest) -> None:
    """InvalidRequest says why the request does not apply."""
    if request.level not in PROFILES:
        raise InvalidRequest(f"there is no level {request.level}: levels are 1 and 2")
    known = PROFILES[request.level]
    if request.profile not in known:
        raise InvalidRequest(
            f"there is no profile {request.profile}: {nearest(request.profile, known)}"
        )
    if request.faults is not None or request.mutation:
        raise InvalidRequest("listed faults and mutations are not known to these levels")
    _options(request)


def _options(request: RunRequest) -> Any:
    if request.level == 1:
        drawn: Any = (
            level1.swarm(request.seed, seconds=4)
            if request.profile == "swarm"
            else level1.SeedOptions(seconds=4, fault_every_ms=700)
        )
        drawn.trace = request.trace
    else:
        drawn = level2.swarm(request.seed) if request.profile == "swarm" else level2.Level2Options()
    names = {field.name for field in fields(drawn)}
    for name, _ in request.options:
        if name not in names:
            raise InvalidRequest(f"there is no option {name}: {nearest(name, names)}")
    return replace(drawn, **dict(request.options))


class Watched:
    """One run with a recorder on its trace; `nodes` tells what they hold when it has ended."""

    def __init__(self, request: RunRequest, recorder: Recorder | None = None) -> None:
        self.request = request
        self._recorder = recorder
        self._run: Any = None
        self._nodes: list[NodeNow] = []

    def nodes(self) -> list[NodeNow]:
        """What every node held when the run ended."""
        return self._nodes

    def _level1(self) -> None:
        run = self._run = level1_run(self.request)
        recorder = self._recorder

        def record(at_ns: int, node: int, kind: str, key: object) -> None:
            if recorder is not None and recorder.take(Event(at_ns, node, kind, key)):
                raise Stopped("as asked")

        if recorder is not None:
            run.kernel.recorder = record
        collecting = gc.isenabled()
        gc.disable()
        try:
            run.run()
        finally:
            if collecting:
                gc.enable()
            self._nodes = level1_nodes(run)

    def _level2(self) -> None:
        run = self._run = level2_run(self.request)
        recorder = self._recorder

        def record(at_ns: int, kind: str, key: Any) -> None:
            if (
                recorder is not None
                and kind != "loop"
                and recorder.take(event_of_level2(at_ns, kind, key))
            ):
                run.checks.violation = Stopped("as asked")
                run.loop.stop()

        if recorder is not None:
            run.loop.recorder = record
        with level2.world(run):
            try:
                run.run()
            finally:
                self._nodes = level2_nodes(run)

    def perform(self) -> RunResult:
        """Run it. Never raises for a broken rule: the verdict says it."""
        clock, request = RealClock(), self.request
        begin_ns = clock.now_ns()
        verdict, text = PASSED, ""
        try:
            if request.level == 1:
                self._level1()
            else:
                self._level2()
        except InvalidRequest as error:
            if self._run is None:
                return RunResult(request, REFUSED, text=str(error))
            verdict, text = FAILED, f"{type(error).__name__}: {error}"
        except Violated as violated:
            verdict, text = VIOLATED, str(violated)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the verdict of this run
            verdict, text = FAILED, f"{type(error).__name__}: {error}"
        report = self._run.report()
        rule = re.search(r"\bI\d+\b", text)
        return RunResult(
            request, verdict, rule=rule.group() if rule else "", text=text, trace=report.trace,
            events=report.events, operations=report.operations,
            virtual_ms=int(report.virtual_s * 1000), longest_ms=report.longest_ms,
            wall_ms=(clock.now_ns() - begin_ns) // NS_PER_MS,
            lines=tuple(getattr(report, "lines", ())),
        )  # fmt: skip


def option_values(request: RunRequest) -> dict[str, int | bool]:
    """The options of the run, as drawn and replaced. InvalidRequest: it does not apply."""
    return asdict(_options(request))


def perform(request: RunRequest) -> RunResult:
    """Run it. Never raises for a broken rule: the verdict says it."""
    return Watched(request).perform()
