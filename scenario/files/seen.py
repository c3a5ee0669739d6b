"""plan: what was seen of a run beside its receipts: who owned what when, answers, notes of nodes.

All of it is plain values, so that a run can be kept as JSON and drawn again later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from base.units import NS_PER_MS, NS_PER_US
from scenario.files.view import ClusterView
from scenario.history import History, Outcome

NOTES_MAX: Final = 5000
# What nodes say themselves and a report has use for.
NOTED: Final = frozenset(
    (
        "node.suspected", "node.accused", "node.declared_down", "node.joined", "node.damped",
        "leader.elected", "region.opened", "copy.joined", "copy.refused", "disk.failed",
        "page.repaired", "page.lost", "block.rejected", "node.stopping",
    )
)  # fmt: skip
KINDS: Final = ("write", "read", "flush")  # by `history.Kind`
OUTCOMES: Final = ("ok", "failed", "unknown", "open")  # by `history.Outcome`


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the log of a node. node: whose log. fields: numbers and texts."""

    at_ms: int
    node: int
    event: str
    fields: dict[str, int | float | str | bool | None] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A field as a number; -1 when it is none."""
        value = self.fields.get(name)
        return int(value) if isinstance(value, int | float) else -1


@dataclass(frozen=True, slots=True)
class NodeSpan:
    """A node from some time on, until its next span."""

    at_ms: int
    process: str  # of `view`: ALIVE, PAUSED, DEAD
    up: bool  # by the catalog


@dataclass(frozen=True, slots=True)
class RegionSpan:
    """A region from some time on. owner: -1 for nobody. copies: nodes that the catalog calls up and
    that have all of it, the owner too."""

    at_ms: int
    owner: int
    copies: int
    joiner: int = -1


@dataclass(slots=True)
class Track:
    """A cluster over time, from the views that a runner was shown. regions: by volume, in order.
    leaders: (since ms, node; -1 for nobody). until_ms: the last look."""

    nodes: list[list[NodeSpan]] = field(default_factory=list)
    regions: dict[str, list[list[RegionSpan]]] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)  # copies, by volume
    leaders: list[tuple[int, int]] = field(default_factory=list)
    until_ms: int = 0

    def look(self, at_ms: int, view: ClusterView) -> None:
        """Keep what is new."""
        self.until_ms = at_ms
        up = {node.number for node in view.nodes if node.up}
        while len(self.nodes) < len(view.nodes):
            self.nodes.append([])
        for spans, node in zip(self.nodes, view.nodes, strict=True):
            if not spans or (spans[-1].process, spans[-1].up) != (node.process, node.up):
                spans.append(NodeSpan(at_ms, node.process, node.up))
        if not self.leaders or self.leaders[-1][1] != view.leader:
            self.leaders.append((at_ms, view.leader))
        for volume in view.volumes:
            rows = self.regions.setdefault(volume.name, [])
            self.wanted[volume.name] = volume.copies
            while len(rows) < len(volume.regions):
                rows.append([])
            for history, region in zip(rows, volume.regions, strict=False):
                copies = len({region.owner, *region.replicants} & up)
                now = (region.owner, copies, region.joiner)
                last = history[-1] if history else None
                if last is None or (last.owner, last.copies, last.joiner) != now:
                    history.append(RegionSpan(at_ms, *now))

    def owned_by(self, nodes: Iterable[int], at_ms: int) -> list[tuple[str, int, int]]:
        """(volume, region, owner) of all that these nodes owned just before that time."""
        whose = set(nodes)
        found: list[tuple[str, int, int]] = []
        for name, rows in self.regions.items():
            for number, spans in enumerate(rows):
                before = [span for span in spans if span.at_ms <= at_ms]
                if before and before[-1].owner in whose:
                    found.append((name, number, before[-1].owner))
        return found

    def exposed(self) -> list[tuple[str, int, int, int]]:
        """(volume, region, from ms, to ms) of every time that a region lacked a copy."""
        return [
            (name, number, span.at_ms, end_ms)
            for name, rows in self.regions.items()
            for number, spans in enumerate(rows)
            for span, end_ms in spans_with_ends(spans, self.until_ms)
            if span.copies < self.wanted.get(name, 2) and end_ms > span.at_ms
        ]


def spans_with_ends(spans: list[Any], until_ms: int) -> Iterator[tuple[Any, int]]:
    """Each span and when the next one began."""
    for place, span in enumerate(spans):
        yield span, spans[place + 1].at_ms if place + 1 < len(spans) else until_ms


@dataclass(slots=True)
class Answers:
    """What hosts asked for and when they were answered, one entry per operation in every list.
    start_us and end_us: since the hosts began; end -1: it was not answered. kind, outcome: places
    in KINDS and OUTCOMES. volume: place in `volumes`. region: the first that it touched."""

    volumes: list[tuple[int, str]] = field(default_factory=list)  # (number in the catalog, name)
    host: list[int] = field(default_factory=list)
    start_us: list[int] = field(default_factory=list)
    end_us: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    outcome: list[int] = field(default_factory=list)
    volume: list[int] = field(default_factory=list)
    region: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.host)


def answers_of(
    history: History,
    volumes: dict[int, str],
    *,
    hosts: int,
    begun_ns: int,
    until_ms: int,
    region_bytes: int,
    block_bytes: dict[int, int],
) -> Answers:
    """Of what the first `hosts` hosts began until then. volumes: names by number. begun_ns: when
    the hosts began, on the clock of the history. block_bytes: by host."""
    found = Answers(sorted(volumes.items()))
    places = {number: place for place, (number, _) in enumerate(found.volumes)}
    seen: set[tuple[int, int]] = set()
    for row in range(len(history)):
        host, number = history.host[row], history.number[row]
        start_us = (history.start_ns[row] - begun_ns) // NS_PER_US
        if host >= hosts or (host, number) in seen or not 0 <= start_us <= until_ms * 1000:
            continue
        seen.add((host, number))
        volume, block = history.registers[history.register[row]]
        end_ns = history.end_ns[row]
        found.host.append(host)
        found.start_us.append(start_us)
        found.end_us.append(-1 if end_ns < 0 else (end_ns - begun_ns) // NS_PER_US)
        found.kind.append(history.kind[row])
        found.outcome.append(Outcome.OPEN if end_ns < 0 else history.outcome[row])
        found.volume.append(places.get(volume, 0))
        found.region.append(max(0, block) * block_bytes.get(host, 512) // region_bytes)
    return found


def note_of(at_ms: int, node: int, event: Mapping[str, Any]) -> Note | None:
    """One event of a node's log; None when no report has use for it."""
    name = str(event.get("event", ""))
    if name not in NOTED:
        return None
    kept = {
        key: value
        for key, value in event.items()
        if key not in ("event", "level", "timestamp")
        and (value is None or isinstance(value, int | float | str | bool))
    }
    return Note(at_ms, node, name, kept)


def notes_of_log(lines: Iterable[str], node: int, begun_wall_ns: int) -> list[Note]:
    """Of the log file of a node, as `base.log` writes it. begun_wall_ns: when the hosts began.
    Lines that are no events are left out."""
    found: list[Note] = []
    for line in lines:
        try:
            event = json.loads(line)
            at = datetime.fromisoformat(event["timestamp"])
        except (ValueError, KeyError, TypeError):
            continue
        note = note_of(int(at.timestamp() * 1000) - begun_wall_ns // NS_PER_MS, node, event)
        if note is not None:
            found.append(note)
    return found


def in_order(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Those since the hosts began, by time; no more than NOTES_MAX."""
    since = sorted((note for note in notes if note.at_ms >= 0), key=lambda note: note.at_ms)
    return tuple(since[:NOTES_MAX])
