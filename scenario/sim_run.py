"""shell: `eightfold sim run`: the canary, the sweep with its progress, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from admin import output
from base.clock import RealClock
from base.units import NS_PER_S
from scenario.goals import GOALS
from scenario.kept import Kept, write_kept
from scenario.mutations import CANARY
from scenario.pool import LocalPool, Pool
from scenario.search import CANARY_SEEDS, Search, canary
from scenario.sweep import Finding, Sweep, Tally, heading

FOUND: Final = 1
REFUSED: Final = 2
VOID: Final = 3
INTERRUPTED: Final = 130
PLAIN_EVERY_S: Final = 15  # where there is no terminal, so many seconds between lines
GOALS_SHOWN: Final = 20


@dataclass(slots=True)
class SimRun:
    """One call of the command."""

    sweep: Sweep
    jobs: int
    minutes: float = 0
    keep_going: bool = False
    scheduler: str = ""
    save: Path | None = None
    canary: bool = False
    as_json: bool = False
    _saved: dict[str, str] = field(default_factory=dict)

    def run(self) -> int:
        """The exit code."""
        self._say(self._heading())
        if self.canary and not self._canary():
            return VOID
        tally, clock = Tally(), RealClock()
        begin_ns = clock.now_ns()
        interrupted = False
        pool = self._pool()
        try:
            with self._progress() as show:
                Search(
                    self.sweep, pool, self.keep_going, self.minutes, self._found, show
                ).run(tally)  # fmt: skip
        except KeyboardInterrupt:
            interrupted = True
        finally:
            pool.close()
        summary = tally.summary((clock.now_ns() - begin_ns) / NS_PER_S, GOALS[self.sweep.level])
        self._report(summary, interrupted)
        if tally.refused:
            return REFUSED
        return FOUND if tally.findings else INTERRUPTED if interrupted else 0

    def _pool(self) -> Pool:
        if self.scheduler:
            from scenario.dask_pool import DaskPool

            return DaskPool(self.scheduler)
        return LocalPool(self.jobs)

    def _heading(self) -> str:
        sweep = self.sweep
        parts = [
            f"level {sweep.level}", f"seeds {sweep.seeds}", f"profiles {', '.join(sweep.profiles)}",
            *([f"mutation {sweep.mutation}"] if sweep.mutation else []),
            *(f"{name}={value}" for name, value in sweep.options),
            self.scheduler or f"{self.jobs} processes",
        ]  # fmt: skip
        return "; ".join(parts)

    def _canary(self) -> bool:
        """Whether a bug that was put in on purpose was seen."""
        name = CANARY
        pool = self._pool()
        try:
            seen = canary(self.sweep, pool, name)
        finally:
            pool.close()
        if seen is not None:
            self._say(f"canary {name}: seen by seed {seen.request.seed}, {seen.rule or 'failed'}")
            return True
        text = f"the run is void: {CANARY_SEEDS} seeds did not see the canary {name}"
        if self.as_json:
            output.emit({"void": text})
        output.warn(f"error: {text}")
        return False

    def _found(self, finding: Finding) -> None:
        request = finding.result.request
        if self.save is not None:
            kept = Kept(request, finding.text, finding.result.trace)
            self._saved[finding.line] = str(write_kept(self.save, kept))
        if self.as_json:
            return
        output.say(
            f"\nseed {request.seed} of profile {request.profile}: {heading(finding)}\n"
            f"  {finding.text}\n  repeat it: {finding.line}"
        )
        if finding.line in self._saved:
            output.say(f"  kept as {self._saved[finding.line]}")

    def _report(self, summary: dict[str, Any], interrupted: bool) -> None:
        if self.as_json:
            sweep = self.sweep
            about = {
                "level": sweep.level, "seeds": str(sweep.seeds), "profiles": sweep.profiles,
                "mutation": sweep.mutation, "interrupted": interrupted, "saved": self._saved,
            }  # fmt: skip
            output.emit({**about, **summary})
            return
        if interrupted:
            output.say("\ninterrupted; until then:")
        output.table("", ("", ""), rows_of(summary))
        if self.keep_going and len(summary["failures"]) > 1:
            output.say(f"{len(summary['failures'])} failures:")
            for each in summary["failures"]:
                output.say(f"  {each['line']}  # {each['rule'] or each['what']}")

    def _say(self, text: str) -> None:
        if not self.as_json:
            output.say(text)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[Tally, float], None]]:
        """A line that is written over on a terminal; else one now and then."""
        total, goals = len(self.sweep.seeds), len(GOALS[self.sweep.level])
        if self.as_json:
            yield lambda tally, elapsed_s: None
            return
        if not sys.stderr.isatty():
            last = [0.0]

            def plain(tally: Tally, elapsed_s: float) -> None:
                if elapsed_s - last[0] >= PLAIN_EVERY_S:
                    last[0] = elapsed_s
                    output.warn(progress_line(tally, elapsed_s, total, goals, self.minutes))

            yield plain
            return
        from rich.console import Console

        with Console(stderr=True).status("starting") as status:
            yield lambda tally, elapsed_s: status.update(
                progress_line(tally, elapsed_s, total, goals, self.minutes)
            )


def progress_line(tally: Tally, elapsed_s: float, total: int, goals: int, minutes: float) -> str:
    """How far it is, how fast, and when it will be over."""
    rate = tally.runs / elapsed_s if elapsed_s else 0.0
    left_s = (total - tally.runs) / rate if rate else None
    if minutes:
        until_s = max(0.0, minutes * 60 - elapsed_s)
        left_s = until_s if left_s is None else min(left_s, until_s)
    reached = f", {len(tally.goals)} of {goals} goals" if goals else ""
    failures = f"{len(tally.findings)} failure" + "s" * (len(tally.findings) != 1)
    return (
        f"{tally.runs:,} of {total:,} seeds, {rate:.1f}/s,"
        f" {tally.virtual_ms / 3_600_000:,.2f} virtual hours, {failures}{reached},"
        f" {'?' if left_s is None else duration(left_s)} left"
    )


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rows_of(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary for people."""
    by_profile = ", ".join(f"{name} {count:,}" for name, count in summary["by_profile"].items())
    rows = [
        ("runs", f"{summary['runs']:,} ({by_profile or 'none'}), {summary['seeds_per_s']:.1f}/s"),
        ("done twice", f"{summary['repeated']:,}, to compare traces"),
        ("failures", f"{len(summary['failures'])}"),
        ("events", f"{summary['events']:,}, {summary['operations']:,} host operations"),
        (
            "virtual time",
            f"{summary['virtual_s'] / 3600:,.2f} h in {duration(summary['elapsed_s'])}:"
            f" {summary['speed']:,.0f} x real time, {summary['speed_per_process']:,.0f} x for each"
            " process",
        ),
        ("longest answer", f"{summary['longest_ms']:,} ms virtual"),
    ]
    if summary["faults"]:
        told = ", ".join(f"{name} {count:,}" for name, count in summary["faults"].items())
        rows.append(("faults", told))
    if summary["goals"] or summary["goals_missed"]:
        missed = summary["goals_missed"]
        rows.append(("goals", f"{len(summary['goals'])} reached, {len(missed)} never"))
        rows += [("", f"never: {goal}") for goal in missed[:GOALS_SHOWN]]
    for each in summary["slowest"]:
        rows.append(("slowest", f"{each['wall_ms']:,} ms: {each['line']}"))
    return rows
