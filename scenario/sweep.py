"""plan: a sweep over seeds: which runs it consists of, and what all of their results say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from base.errors import InvalidRequest
from scenario.runs import PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from sim.random import SeedStreams

SEED_MAX: Final = (1 << 63) - 1
SLOWEST: Final = 5
FAILURES_MAX: Final = 1000

# What a finding is: the verdict of a run, or that its repetition went another way.
NOT_DETERMINISTIC: Final = "not deterministic"


@dataclass(frozen=True, slots=True)
class Seeds:
    """first..last, both of them included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"


def parse_seeds(text: str, *, today: int) -> Seeds:
    """`A..B`, one seed `A`, or `fresh:N`: N seeds that depend on `today`, any number that grows.

    InvalidRequest: it is none of these, or the range is empty.
    """
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?|fresh:(\d+)", text)
    if match is None:
        raise InvalidRequest(f"--seeds: {text} is not A..B, A or fresh:N")
    if match[3] is not None:
        first, count = today * 1_000_000, int(match[3])
        last = first + count - 1
    else:
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
    if last < first:
        raise InvalidRequest(f"--seeds: there is no seed in {text}")
    if last > SEED_MAX:
        raise InvalidRequest(f"--seeds: a seed is at most {SEED_MAX}")
    return Seeds(first, last)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to run: for each seed one profile, in turns. repeat_percent: of the runs are done twice,
    and must give the same trace."""

    seeds: Seeds
    level: int
    profiles: tuple[str, ...]
    mutation: str = ""
    options: tuple[tuple[str, int | bool], ...] = ()
    repeat_percent: int = 5

    def __iter__(self) -> Iterator[RunRequest]:
        for seed in range(self.seeds.first, self.seeds.last + 1):
            yield self.request(seed)

    def request(self, seed: int) -> RunRequest:
        """The run of that seed: the same whatever the range is."""
        profile = self.profiles[seed % len(self.profiles)]
        return RunRequest(self.level, profile, seed, self.mutation, None, self.options)

    def is_repeated(self, seed: int) -> bool:
        """Whether this seed is among those that are done twice."""
        return SeedStreams(seed).stream("repeat").below(100) < self.repeat_percent


@dataclass(frozen=True, slots=True)
class Finding:
    """A run that did not pass. what: a verdict, or NOT_DETERMINISTIC."""

    what: str
    result: RunResult
    text: str

    @property
    def line(self) -> str:
        """The one line that repeats it."""
        return self.result.request.line()


@dataclass(slots=True)
class Tally:
    """What all results so far say. Times of runs in ms, virtual and of the wall."""

    runs: int = 0
    repeated: int = 0
    events: int = 0
    operations: int = 0
    virtual_ms: int = 0
    wall_ms: int = 0
    longest_ms: int = 0
    by_profile: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    goals: dict[str, int] = field(default_factory=dict)  # runs that reached it
    slowest: list[RunResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, result: RunResult) -> Finding | None:
        """A run has ended. The finding, when it did not pass."""
        self.runs += 1
        self.events += result.events
        self.operations += result.operations
        self.virtual_ms += result.virtual_ms
        self.wall_ms += result.wall_ms
        self.longest_ms = max(self.longest_ms, result.longest_ms)
        _count(self.by_profile, result.request.profile)
        for fault in result.faults:
            _count(self.faults, fault.kind)
        for goal in result.goals:
            _count(self.goals, goal)
        bare = replace(result, faults=(), lines=())
        self.slowest = sorted([*self.slowest, bare], key=lambda each: -each.wall_ms)[:SLOWEST]
        if result.verdict == PASSED:
            return None
        return self._found(Finding(result.verdict, result, result.text))

    def add_repeated(self, first: RunResult, second: RunResult) -> Finding | None:
        """A run was done twice. The finding, when it went another way the second time."""
        self.repeated += 1
        for name in ("verdict", "rule", "trace", "events", "operations", "virtual_ms", "goals"):
            one, other = getattr(first, name), getattr(second, name)
            if one != other:
                text = f"{name} was {one!r}, and {other!r} in another process: {second.text}"
                return self._found(Finding(NOT_DETERMINISTIC, first, text.removesuffix(": ")))
        return None

    def _found(self, finding: Finding) -> Finding:
        if len(self.findings) < FAILURES_MAX:
            self.findings.append(finding)
        return finding

    @property
    def refused(self) -> bool:
        """Some request did not apply: nothing can be said about the code."""
        return any(finding.what == REFUSED for finding in self.findings)

    def summary(self, elapsed_s: float, goals: tuple[str, ...]) -> dict[str, Any]:
        """All of it as plain values. goals: that this level can reach."""
        return {
            "runs": self.runs,
            "repeated": self.repeated,
            "by_profile": dict(sorted(self.by_profile.items())),
            "elapsed_s": round(elapsed_s, 3),
            "seeds_per_s": round(self.runs / elapsed_s, 3) if elapsed_s else 0,
            "events": self.events,
            "operations": self.operations,
            "virtual_s": round(self.virtual_ms / 1000, 3),
            "speed": round(self.virtual_ms / 1000 / elapsed_s, 1) if elapsed_s else 0,
            "speed_per_process": round(self.virtual_ms / self.wall_ms, 1) if self.wall_ms else 0,
            "longest_ms": self.longest_ms,
            "faults": dict(sorted(self.faults.items())),
            "goals": dict(sorted(self.goals.items())),
            "goals_missed": sorted(set(goals) - self.goals.keys()),
            "slowest": [
                {"line": each.request.line(), "wall_ms": each.wall_ms} for each in self.slowest
            ],
            "failures": [
                {
                    "what": each.what, "rule": each.result.rule, "text": each.text,
                    "line": each.line,
                }
                for each in self.findings
            ],
        }  # fmt: skip


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def heading(finding: Finding) -> str:
    """What was found, in a few words."""
    if finding.what == VIOLATED:
        return f"{finding.result.rule or 'a rule'} is broken"
    return {
        NOT_DETERMINISTIC: "not deterministic",
        REFUSED: "refused",
    }.get(finding.what, "the run failed")
