"""plan: the figures of a report: stalls, throughput, exposure, what was sent to fill copies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from scenario.files.seen import OUTCOMES, Answers, Note, Track, spans_with_ends
from scenario.files.verdict import Result

STALL_MS_MIN: Final = 100
STALL_TIMES_MEDIAN: Final = 10
_OK, _OPEN = OUTCOMES.index("ok"), OUTCOMES.index("open")


@dataclass(frozen=True, slots=True)
class Stall:
    """A time during which operations waited unusually long. operations: how many of them. hosts:
    whose, ascending."""

    from_ms: float
    to_ms: float
    longest_ms: float
    operations: int
    hosts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resync:
    """What owners sent in order to fill copies, by mode: full, by log, by pages."""

    mode: str
    copies: int
    pages: int
    sent_bytes: int
    longest_ms: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """How long regions lacked a copy. span_ms: that some region did. region_ms: summed over the
    regions. longest_ms: of one region at one time."""

    span_ms: int
    region_ms: int
    longest_ms: int
    regions: int


def until_ms(result: Result) -> int:
    """Where the time of the report ends."""
    last = max((line.at_ms for line in result.log), default=0)
    return max(1, last, result.track.until_ms)


def latencies_ms(answers: Answers) -> list[float]:
    """Of what was answered."""
    return [
        (end_us - start_us) / 1000
        for start_us, end_us in zip(answers.start_us, answers.end_us, strict=True)
        if end_us >= 0
    ]


def quantile(values: list[float], part: float) -> float:
    """By rank, 0 <= part <= 1; 0 of nothing."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(part * len(ranked)))] if ranked else 0.0


def stall_threshold_ms(answers: Answers) -> float:
    """From where on a wait is a stall: ten times the median, and at least STALL_MS_MIN."""
    waits = latencies_ms(answers)
    return max(STALL_MS_MIN, STALL_TIMES_MEDIAN * median(waits)) if waits else STALL_MS_MIN


def stalls(answers: Answers, end_ms: int) -> list[Stall]:
    """Waits beyond the threshold, those that overlap as one, by time. What was never answered waits
    until end_ms."""
    least_ms = stall_threshold_ms(answers)
    waits = sorted(
        (start_us / 1000, end_us / 1000 if end_us >= 0 else float(end_ms), host)
        for start_us, end_us, host in zip(
            answers.start_us, answers.end_us, answers.host, strict=True
        )
        if (end_us / 1000 if end_us >= 0 else end_ms) - start_us / 1000 > least_ms
    )
    found: list[Stall] = []
    for start_ms, ended_ms, host in waits:
        last = found[-1] if found else None
        if last is not None and start_ms <= last.to_ms:
            found[-1] = Stall(
                last.from_ms, max(last.to_ms, ended_ms),
                max(last.longest_ms, ended_ms - start_ms), last.operations + 1,
                tuple(sorted({*last.hosts, host})),
            )  # fmt: skip
        else:
            found.append(Stall(start_ms, ended_ms, ended_ms - start_ms, 1, (host,)))
    return found


def per_second(answers: Answers, end_ms: int, bucket_ms: int) -> tuple[list[float], list[float]]:
    """Answers per second that were `ok`, and all others, in buckets of that length."""
    buckets = max(1, -(-end_ms // bucket_ms))
    good, bad = [0.0] * buckets, [0.0] * buckets
    for end_us, outcome in zip(answers.end_us, answers.outcome, strict=True):
        place = end_us // 1000 // bucket_ms
        if end_us >= 0 and place < buckets:
            (good if outcome == _OK else bad)[place] += 1000 / bucket_ms
    return good, bad


def exposure(track: Track) -> Exposure:
    """See there."""
    spans = track.exposed()
    covered, last_ms = 0, -1
    for _, _, from_ms, to_ms in sorted(spans, key=lambda span: span[2:]):
        covered += max(0, to_ms - max(from_ms, last_ms))
        last_ms = max(last_ms, to_ms)
    merged: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for volume, region, from_ms, to_ms in spans:
        runs = merged.setdefault((volume, region), [])
        if runs and runs[-1][1] == from_ms:
            runs[-1] = (runs[-1][0], to_ms)
        else:
            runs.append((from_ms, to_ms))
    longest = max((to - since for runs in merged.values() for since, to in runs), default=0)
    return Exposure(covered, sum(to - since for _, _, since, to in spans), longest, len(merged))


def owned(track: Track) -> list[list[tuple[int, int, int]]]:
    """Of every node: (from ms, to ms, regions that it owned), where it owned some."""
    moves: list[Counter[int]] = [Counter() for _ in track.nodes]
    for rows in track.regions.values():
        for spans in rows:
            for span, end_ms in spans_with_ends(spans, track.until_ms):
                if 0 <= span.owner < len(moves):
                    moves[span.owner][span.at_ms] += 1
                    moves[span.owner][end_ms] -= 1
    found: list[list[tuple[int, int, int]]] = []
    for changes in moves:
        times, count, runs = sorted(changes), 0, list[tuple[int, int, int]]()
        for at_ms, next_ms in pairwise(times):
            count += changes[at_ms]
            if count and next_ms > at_ms:
                runs.append((at_ms, next_ms, count))
        found.append(runs)
    return found


def exposed_steps(track: Track) -> list[tuple[int, int]]:
    """(ms, regions that lack a copy from then on)."""
    moves: Counter[int] = Counter()
    for _, _, from_ms, to_ms in track.exposed():
        moves[from_ms] += 1
        moves[to_ms] -= 1
    steps, count = [(0, 0)], 0
    for at_ms in sorted(moves):
        count += moves[at_ms]
        steps.append((at_ms, count))
    return steps


def resyncs(notes: tuple[Note, ...]) -> list[Resync]:
    """By mode, from what owners logged when a copy was in sync."""
    by_mode: dict[str, list[Note]] = {}
    for note in notes:
        if note.event == "copy.joined":
            by_mode.setdefault(str(note.fields.get("mode", "?")), []).append(note)
    return [
        Resync(
            mode, len(joined), sum(note.number("pages") for note in joined),
            sum(note.number("bytes") for note in joined),
            max(note.number("took_ms") for note in joined),
        )
        for mode, joined in sorted(by_mode.items())
    ]  # fmt: skip


def answered(answers: Answers) -> Counter[str]:
    """How many operations had which outcome."""
    return Counter(OUTCOMES[outcome] for outcome in answers.outcome)
