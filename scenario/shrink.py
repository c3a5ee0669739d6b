"""plan: makes a failing run smaller: fewer faults, shorter ones, less of everything else.

Faults first, by delta debugging (Zeller and Hildebrandt 2002, ddmin): halves, then finer parts,
until no single fault can be left out. Then how long each stands, then hosts, seconds, regions,
nodes. A smaller run counts when it ends with the same verdict on the same rule. All of it again
until nothing changes, or the budget is used up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from scenario.runs import FaultEvent, RunRequest

# Whether each of some runs still breaks the same rule. Fewer answers: the budget is used up.
Judge = Callable[[Sequence[RunRequest]], Sequence[bool]]

# What may become smaller, in the order in which it is tried, and the least that makes sense.
LEAST: Final[dict[str, int]] = {
    "seconds": 1, "hosts": 1, "volumes": 1, "writes_per_s": 1, "regions": 1, "nodes": 3,
    "flap_every_ms": 0, "lose_to": 0, "grow": 0, "zero_weight": 0, "trim_weight": 0,
    "fua_percent": 0, "clock_ppm": 0,
}  # fmt: skip
ROUNDS_MAX: Final = 8


@dataclass(slots=True)
class Shrinker:
    """request: with listed faults, known to fail. values: of its options, as drawn and replaced.
    width: how many runs the judge does at a time."""

    request: RunRequest
    values: Mapping[str, int | bool]
    judge: Judge
    width: int = 1
    on_smaller: Callable[[RunRequest], None] = lambda request: None
    _over: bool = field(default=False)

    def run(self) -> RunRequest:
        """The smallest that was found."""
        for _ in range(ROUNDS_MAX):
            before = self.request
            self._drop_faults()
            self._shorten_faults()
            self._reduce_options()
            if self._over or self.request == before:
                break
        return self.request

    # ------------------------------------------------------------------ judging

    def _first(self, candidates: Iterator[RunRequest]) -> bool:
        """Take the first one that still fails, in their order."""
        while not self._over:
            batch = [each for _, each in zip(range(self.width), candidates, strict=False)]
            if not batch:
                return False
            said = self.judge(batch)
            self._over = len(said) < len(batch)
            for candidate, fails in zip(batch, said, strict=False):
                if fails:
                    self.request = candidate
                    self.on_smaller(candidate)
                    return True
        return False

    # ------------------------------------------------------------------ faults

    def _drop_faults(self) -> None:
        if self.request.faults and self._first(iter([replace(self.request, faults=())])):
            return
        parts = 2
        while not self._over and len(self._faults()) >= 2:
            faults = self._faults()
            parts = min(parts, len(faults))
            if self._first(self._without(parts, alone=True)):
                parts = 2
            elif self._first(self._without(parts, alone=False)):
                parts = max(2, parts - 1)
            elif parts >= len(faults):
                return
            else:
                parts *= 2

    def _faults(self) -> tuple[FaultEvent, ...]:
        return self.request.faults or ()

    def _without(self, parts: int, *, alone: bool) -> Iterator[RunRequest]:
        """alone: each part by itself; else all but each part."""
        faults = self._faults()
        edges = [len(faults) * at // parts for at in range(parts + 1)]
        if parts == 2 and not alone:
            return  # the halves, once more
        for start, stop in pairwise(edges):
            left = faults[start:stop] if alone else faults[:start] + faults[stop:]
            yield replace(self.request, faults=left)

    def _shorten_faults(self) -> None:
        for at in range(len(self._faults())):
            while self._faults()[at].for_ms > 1 and self._first(self._shorter(at)):
                pass

    def _shorter(self, at: int) -> Iterator[RunRequest]:
        faults = self._faults()
        longest_ms = faults[at].for_ms
        for for_ms in sorted({1, longest_ms // 8, longest_ms // 4, longest_ms // 2} - {0}):
            if for_ms < longest_ms:
                changed = replace(faults[at], for_ms=for_ms)
                yield replace(self.request, faults=(*faults[:at], changed, *faults[at + 1 :]))

    # ------------------------------------------------------------------ the rest

    def _reduce_options(self) -> None:
        for name, least in LEAST.items():
            if name not in self.values:
                continue
            least = max(least, self._needed(name))
            while self._value(name) > least and self._first(self._less(name, least)):
                pass

    def _value(self, name: str) -> int:
        return int(dict(self.request.options).get(name, self.values[name]))

    def _needed(self, name: str) -> int:
        """What the listed faults need: nodes that they name, seconds until the last one."""
        faults = self._faults()
        if name == "nodes":
            return 1 + max((node for fault in faults for node in fault.nodes), default=0)
        if name == "seconds":
            return 1 + max((fault.at_ms for fault in faults), default=0) // 1000
        return 0

    def _less(self, name: str, least: int) -> Iterator[RunRequest]:
        now = self._value(name)
        boolean = isinstance(self.values[name], bool)
        for value in sorted({least, (least + now) // 2, now - 1}):
            if least <= value < now:
                options = dict(self.request.options)
                options[name] = bool(value) if boolean else value
                yield replace(self.request, options=tuple(options.items()))


def size(request: RunRequest, values: Mapping[str, int | bool]) -> str:
    """For people: how large a run is."""
    options = {**values, **dict(request.options)}
    faults = request.faults or ()
    stood_ms = sum(fault.for_ms for fault in faults)
    said = [f"{len(faults)} faults of {stood_ms / 1000:.1f} s in all"]
    said += [
        f"{options[name]} {name}"
        for name in ("seconds", "nodes", "hosts", "volumes", "regions", "writes_per_s")
        if name in options
    ]
    return ", ".join(said)
