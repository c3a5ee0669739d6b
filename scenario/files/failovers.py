"""plan: how each loss of nodes was met: detect, fence, takeover, first answer, redundant again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from base.units import NS_PER_MS, NS_PER_US
from scenario.files.receipts import APPLIED, Receipt
from scenario.files.runner import Line
from scenario.files.seen import OUTCOMES, Answers, Note, Track

LOSSES: Final = ("kill", "power_cut", "stop", "pause", "cut", "partition")
LINKS: Final = ("cut", "partition")
_US_PER_MS: Final = NS_PER_MS // NS_PER_US
_OK: Final = OUTCOMES.index("ok")


@dataclass(frozen=True, slots=True)
class Failover:
    """How one loss of nodes was met, in milliseconds after it struck; None: it was not seen.

    detected: another node first suspected one of them. fenced: the catalog called the first of them
    down, and what they owned got a new epoch: nothing of theirs counts any more. taken_over: the
    last of the regions that they owned is served by another node. acknowledged: the first answer
    that a host got from a region that was taken over. redundant: every region had its copies again.
    """

    name: str
    at_ms: int
    nodes: tuple[int, ...]
    detected_ms: int | None = None
    fenced_ms: int | None = None
    taken_over_ms: int | None = None
    acknowledged_ms: int | None = None
    redundant_ms: int | None = None
    moved: int = 0  # regions


def failovers(
    receipts: Sequence[Receipt],
    log: Sequence[Line],
    notes: Sequence[Note] = (),
    answers: Answers | None = None,
    track: Track | None = None,
) -> tuple[Failover, ...]:
    """Of every strike that took nodes away, up to the next one. What nodes say (`notes`) is exact;
    without it the looks of the runner (`log`) must do."""
    struck = [each for each in receipts if each.verb in LOSSES and APPLIED in each.at_ms]
    found: list[Failover] = []
    for place, receipt in enumerate(struck):
        at_ms = receipt.at_ms[APPLIED]
        later = [each.at_ms[APPLIED] for each in struck[place + 1 :]]
        until_ms = min((ms for ms in later if ms > at_ms), default=1 << 62)
        lost = _Loss(
            receipt, at_ms, until_ms,
            [line for line in log if at_ms <= line.at_ms < until_ms],
            [note for note in notes if at_ms <= note.at_ms < until_ms],
        )  # fmt: skip
        found.append(lost.met(answers or Answers(), track or Track()))
    return tuple(found)


@dataclass(slots=True)
class _Loss:
    """One strike, and what was said between it and the next."""

    receipt: Receipt
    at_ms: int
    until_ms: int
    lines: list[Line]
    notes: list[Note]

    def met(self, answers: Answers, track: Track) -> Failover:
        nodes = self.receipt.places.nodes
        down = [each.at_ms for each in self.lines if _about(each, "node down", nodes)]
        moved = [each.at_ms for each in self.lines if _about(each, "owner moved", nodes)]
        opened = self._opened(answers, track)
        fenced = self._first("node.declared_down", down)
        wave = [ms for ms in moved if fenced is None or ms <= fenced + 100]
        again = [each.at_ms for each in self.lines if each.event == "redundant again"]
        # A node that was thrown out and returned opens regions too, but that is no takeover.
        taken = max(opened.values(), default=max(wave, default=None))
        if fenced is None and not moved:
            taken, opened = None, {}
        return Failover(
            self.receipt.name, self.at_ms, nodes,
            detected_ms=self._after(self._first("node.suspected", down)),
            fenced_ms=self._after(fenced),
            taken_over_ms=self._after(taken),
            acknowledged_ms=self._after(_first_answer(answers, opened, self.until_ms)),
            redundant_ms=self._after(again[0] if again else None),
            moved=len(moved),
        )  # fmt: skip

    @property
    def _silent(self) -> tuple[int, ...]:
        """Who of the nodes cannot have said anything: of links, each side has its own view."""
        return () if self.receipt.verb in LINKS else self.receipt.places.nodes

    def _after(self, at_ms: int | None) -> int | None:
        return None if at_ms is None else at_ms - self.at_ms

    def _first(self, event: str, otherwise: list[int]) -> int | None:
        """When this was first said of one of the nodes; else the first of the others."""
        nodes = self.receipt.places.nodes
        said = [
            note.at_ms
            for note in self.notes
            if note.event == event
            and note.number("node") in nodes
            and note.node not in self._silent
        ]
        return min(said, default=min(otherwise, default=None))

    def _opened(self, answers: Answers, track: Track) -> dict[tuple[int, int], int]:
        """By (place of the volume, region) of what the nodes owned: when another served it."""
        nodes = self.receipt.places.nodes
        places = {name: place for place, (_, name) in enumerate(answers.volumes)}
        numbers = {number: place for place, (number, _) in enumerate(answers.volumes)}
        owners = {
            (places[name], region): owner
            for name, region, owner in track.owned_by(nodes, self.at_ms)
            if name in places
        }
        found: dict[tuple[int, int], int] = {}
        for note in self.notes:
            if note.event == "region.opened" and note.node not in self._silent:
                key = (numbers.get(note.number("volume"), -1), note.number("region"))
                if owners.get(key, note.node) != note.node:
                    found.setdefault(key, note.at_ms)
        return found


def _about(line: Line, event: str, nodes: tuple[int, ...]) -> bool:
    return line.event == event and line.node in nodes


def _first_answer(
    answers: Answers, opened: dict[tuple[int, int], int], until_ms: int
) -> int | None:
    """The first answer from one of these regions after it was opened."""
    times = [
        end_us // _US_PER_MS
        for end_us, outcome, *key in zip(
            answers.end_us, answers.outcome, answers.volume, answers.region, strict=True
        )
        if outcome == _OK
        and (since_ms := opened.get((key[0], key[1]))) is not None
        and since_ms * _US_PER_MS <= end_us < until_ms * _US_PER_MS
    ]
    return min(times, default=None)
