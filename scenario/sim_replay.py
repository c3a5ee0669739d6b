"""shell: `eightfold sim replay`: one run again, with its trace, up to an event or its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from admin import output
from base.errors import InvalidRequest
from scenario import run_one as runs_of
from scenario import sim_state as state
from scenario.kept import Kept, rotten
from scenario.level1 import SeedRun
from scenario.runs import FAILED, PASSED, REFUSED, RunResult
from scenario.state_checks import Violated
from scenario.trace_text import Event, Recorder, Wanted, event_of_level2, stops_at

FOUND: Final = 1


class Stopped(Violated):
    """The event was reached at which the run was to stop."""


@dataclass(slots=True)
class Watching:
    """Hangs a recorder on the trace of a run, and tells what its nodes held at the end."""

    recorder: Recorder
    nodes: list[state.NodeNow] = field(default_factory=list)

    def began(self, run: Any) -> None:
        """The run is about to start."""
        if isinstance(run, SeedRun):
            run.kernel.recorder = self._level1
        else:
            run.loop.run_trace.recorder = partial(self._level2, run)

    def ended(self, run: Any) -> None:
        """It has ended; its nodes are still there."""
        how = state.level1_nodes if isinstance(run, SeedRun) else state.level2_nodes
        self.nodes = how(run)

    def _level1(self, at_ns: int, node: int, kind: str, key: object) -> None:
        if self.recorder.take(Event(at_ns, node, kind, key)):
            raise Stopped("as asked")

    def _level2(self, run: Any, at_ns: int, kind: str, key: Any) -> None:
        if self.recorder.take(event_of_level2(at_ns, kind, key)):
            run.checks.violation = Stopped("as asked")
            run.loop.stop()


@dataclass(slots=True)
class Replay:
    """One call of the command."""

    kept: Kept
    until: str = ""
    trace: bool = False
    node: int = -1
    region: tuple[int, int] | None = None
    anyway: bool = False
    as_json: bool = False

    def run(self) -> int:
        """The exit code. InvalidRequest: the run no longer applies."""
        show = output.say if self.trace and not self.as_json else None
        recorder = Recorder(Wanted(self.node, self.region), stops_at(self.until), show)
        watching = Watching(recorder)
        result = runs_of.perform(self.kept.request, watching)
        if result.verdict == REFUSED:
            raise InvalidRequest(result.text)
        if recorder.stopped_at is not None:
            self._show_state(recorder.stopped_at, recorder, watching.nodes)
            return 0
        if self.until:
            output.warn(f"no event with {self.until} was met; the run went to its end")
        why = "" if self.anyway else rotten(self.kept, result)
        if why:
            raise InvalidRequest(f"{why}; repeat it with --anyway, or shrink it anew")
        self._show_result(result, list(recorder.last))
        return 0 if result.verdict == PASSED else FOUND

    def _show_state(self, event: Event, recorder: Recorder, nodes: list[state.NodeNow]) -> None:
        node_rows, copy_rows = state.node_rows(nodes), state.copy_rows(nodes, self.region)
        if self.as_json:
            output.emit(
                {
                    "stopped_at": event.text(),
                    "nodes": _named(state.NODE_COLUMNS, node_rows),
                    "copies": _named(state.COPY_COLUMNS, copy_rows),
                    "last": list(recorder.last),
                }
            )
            return
        if not self.trace:
            for line in recorder.last:
                output.say(line)
        output.say(f"stopped at: {event.text().strip()}")
        output.table("", state.NODE_COLUMNS, node_rows)
        output.table("", state.COPY_COLUMNS, copy_rows)

    def _show_result(self, result: RunResult, last: list[str]) -> None:
        if self.as_json:
            output.emit({**result_plain(result), "last": last})
            return
        for line in result_lines(result, [] if self.trace else last):
            output.say(line)


def _named(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[dict[str, object]]:
    return [
        dict(zip((each.rstrip("#").replace(" ", "_") for each in columns), row, strict=True))
        for row in rows
    ]


def result_plain(result: RunResult) -> dict[str, Any]:
    """The verdict for programs."""
    return {
        "line": result.request.line(), "verdict": result.verdict, "rule": result.rule,
        "text": result.text, "trace": result.trace, "events": result.events,
        "operations": result.operations, "virtual_ms": result.virtual_ms,
        "wall_ms": result.wall_ms, "longest_ms": result.longest_ms, "goals": result.goals,
        "faults": [
            {
                "at_ms": each.at_ms, "kind": each.kind, "nodes": each.nodes,
                "for_ms": each.for_ms, "details": dict(each.details),
            }
            for each in result.faults
        ],
    }  # fmt: skip


def result_lines(result: RunResult, last: list[str]) -> list[str]:
    """The verdict for people: what was broken, the faults, and what came last before it."""
    lines = []
    if result.verdict != PASSED:
        if last:
            lines += [f"the last {len(last)} events:", *last, ""]
        if result.faults:
            lines += [f"{len(result.faults)} faults:", *map(fault_line, result.faults), ""]
    lines.append(
        f"{result.request.line()}\n  {result.virtual_ms / 1000:.3f} s virtual in"
        f" {result.wall_ms / 1000:.1f} s, {result.events:,} events,"
        f" {result.operations:,} host operations, longest answer {result.longest_ms} ms,"
        f" trace {result.trace}"
    )
    if result.verdict == PASSED:
        lines.append("every rule held")
    elif result.verdict == FAILED:
        lines.append(f"the run failed: {result.text}")
    else:
        lines.append(f"{result.rule or 'a rule'} is broken: {result.text}")
    return lines


def fault_line(fault: Any) -> str:
    """`  3.201 s cut n3 n4 for 1200 ms, direction=in`."""
    nodes = " ".join(f"n{node}" for node in fault.nodes)
    length = f" for {fault.for_ms} ms" if fault.for_ms else ""
    details = "".join(f", {name}={value}" for name, value in fault.details)
    return f"  {fault.at_ms / 1000:7.3f} s {fault.kind} {nodes}{length}{details}".rstrip()
