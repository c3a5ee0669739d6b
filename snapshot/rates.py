"""plan: how fast a volume changes, by part of the volume and interval of time [00116].

What is counted are pages that differ between two points in time: a page that is written a thousand
times in an interval counts once. That is what a snapshot, a backup or a mirror of that interval
costs, and it needs no structure beside the exception tables.

Memory is bounded at any size of volume and any number of intervals: neighbouring regions share a
column when there are too many, and the oldest interval goes when there are too many of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest
from base.units import format_size
from snapshot.cow import Tables
from snapshot.diff import changed_pages
from snapshot.exception_table import Pages
from snapshot.tree import SnapshotTree

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]

INTERVALS_MAX: Final = 96
COLUMNS_MAX: Final = 4096

_MS: Final = 1000
_STEP: Final = 4  # a darker sign means at least that many times as fast
_SHADES: Final = " ·░▒▓█"
_PLAIN: Final = " .-+*#"


def changed_by_region(pages: Pages, region_pages: int, regions: int) -> Counts:
    """Changed pages of each region, i64[regions], from page numbers of the volume."""
    counts: Counts = np.bincount(pages // region_pages, minlength=regions).astype(np.int64)
    assert len(counts) == regions, "a page lies behind the end of the volume"
    return counts


class ChangeHistory:
    """Changed pages by interval and column. An interval is [start, end) in ms of the wall clock;
    they come in the order of time, and gaps between them are allowed."""

    def __init__(
        self,
        regions: int,
        region_pages: int,
        page_bytes: int,
        *,
        intervals_max: int = INTERVALS_MAX,
        columns_max: int = COLUMNS_MAX,
    ) -> None:
        """regions: of the volume. A column is as many whole regions as it takes to have no more
        than columns_max of them."""
        self.regions = regions
        self.page_bytes = page_bytes
        self.column_regions = -(-regions // columns_max)
        self.columns = -(-regions // self.column_regions)
        self.column_bytes = self.column_regions * region_pages * page_bytes
        self._counts: Counts = np.zeros((intervals_max, self.columns), dtype=np.int64)
        self._spans: Counts = np.zeros((intervals_max, 2), dtype=np.int64)
        self._first = 0  # row of the oldest interval
        self.intervals = 0

    def add(self, start_ms: int, end_ms: int, by_region: Counts) -> None:
        """One more interval. InvalidRequest when it has no length, or is not behind the last one:
        a wall clock may have been set back."""
        if end_ms <= start_ms:
            raise InvalidRequest(f"the interval from {start_ms} to {end_ms} ms has no length")
        if self.intervals:
            last = int(self._spans[self._row(self.intervals - 1), 1])
            if start_ms < last:
                raise InvalidRequest(f"an interval from {start_ms} ms on begins before {last} ms")
        assert by_region.shape == (self.regions,)
        rows = len(self._spans)
        if self.intervals == rows:
            self._first = (self._first + 1) % rows
        else:
            self.intervals += 1
        row = self._row(self.intervals - 1)
        starts = np.arange(0, self.regions, self.column_regions)
        self._counts[row] = np.add.reduceat(by_region, starts)
        self._spans[row] = (start_ms, end_ms)

    def _row(self, interval: int) -> int:
        return (self._first + interval) % len(self._spans)

    def _order(self) -> NDArray[np.int64]:
        return (self._first + np.arange(self.intervals)) % len(self._spans)

    def spans_ms(self) -> Counts:
        """(start, end) of each interval, oldest first, i64[intervals, 2]."""
        spans: Counts = self._spans[self._order()]
        return spans

    def rates(self) -> Rates:
        """Bytes per second of each column in each interval, oldest first."""
        order = self._order()
        seconds = (self._spans[order, 1] - self._spans[order, 0]) / _MS
        rates: Rates = self._counts[order] * self.page_bytes / seconds[:, None]
        return rates


def history_of_branch(
    tree: SnapshotTree,
    tables: Tables,
    line: Sequence[int],
    taken_ms: Mapping[int, int],
    region_pages: int,
    regions: int,
    page_bytes: int,
    *,
    intervals_max: int = INTERVALS_MAX,
) -> ChangeHistory:
    """From views of one tree in the order of time, each with its instant: one interval between each
    two, the newest of them. InvalidRequest when instants do not rise."""
    line = line[-intervals_max - 1 :]
    history = ChangeHistory(regions, region_pages, page_bytes, intervals_max=intervals_max)
    for older, newer in pairwise(line):
        pages = changed_pages(tree, tables, older, newer)
        counts = changed_by_region(pages, region_pages, regions)
        history.add(taken_ms[older], taken_ms[newer], counts)
    return history


# ---------------------------------------------------------------------------------- heat map


def draw_heat_map(history: ChangeHistory, *, width: int = 64, plain: bool = False) -> str:
    """A line for each interval, oldest first; the volume from left to right, in at most `width`
    signs. A sign is the fastest of the columns that it stands for: a hot spot is never averaged
    away. plain: ASCII only."""
    if not history.intervals:
        return "no interval has been seen yet\n"
    assert width > 0
    rates = history.rates()
    sign_columns = -(-history.columns // width)
    starts = np.arange(0, history.columns, sign_columns)
    hot: Rates = np.maximum.reduceat(rates, starts, axis=1)
    most = float(hot.max())
    shades = _PLAIN if plain else _SHADES
    levels = np.where(hot > 0, 1, 0)
    for level in range(2, len(shades)):
        levels += hot * float(_STEP ** (len(shades) - 1 - level)) >= most
    if not most:
        levels[:] = 0
    spans = history.spans_ms()
    now = int(spans[-1, 1])
    ages = [_age(now - int(end)) for _, end in spans]
    wide = max(len(age) for age in ages)
    lines = [_legend(history, sign_columns, most, shades)]
    for age, row, interval in zip(ages, levels.tolist(), rates, strict=True):
        total = format_size(_ceil(float(interval.sum())))
        signs = "".join(shades[level] for level in row)
        lines.append(f"{age:>{wide}} |{signs}| {total}/s")
    return "\n".join(lines) + "\n"


def _legend(history: ChangeHistory, sign_columns: int, most: float, shades: str) -> str:
    size = format_size(history.column_bytes)
    one = f"a sign is {sign_columns} × {size}" if sign_columns > 1 else f"a sign is {size}"
    if not most:
        return f"{one}; nothing has changed"
    per = "the fastest of them" if sign_columns > 1 else "it"
    steps = "  ".join(
        f"{shades[level]} ≥ {format_size(_ceil(most / _STEP ** (len(shades) - 1 - level)))}/s"
        for level in range(len(shades) - 1, 1, -1)
    )
    return f"{one}; {per} changes at: {steps}  {shades[1]} less"


def _ceil(rate: float) -> int:
    return int(-(-rate // 1))


def _age(milliseconds: int) -> str:
    """How long before the end of the last interval: "now", "-90s", "-15m", "-2h30m", "-3d04h"."""
    seconds = milliseconds // _MS
    if not seconds:
        return "now"
    if seconds < 100:
        return f"-{seconds}s"
    minutes = seconds // 60
    if minutes < 100:
        return f"-{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"-{hours}h{minutes:02}m"
    return f"-{hours // 24}d{hours % 24:02}h"
