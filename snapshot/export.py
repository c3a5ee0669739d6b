"""plan: what a backup of a snapshot consists of: runs of pages in ascending order, data or zeros.

A full one names the pages that have contents, and leaves out what reads as zeros. A difference
names the pages that lie elsewhere in its base, and says of each whether it is zeros now. Regions
without a table, or without contents, are not looked at; the rest is, CHUNK_PAGES at a time.

Pages are named, not places: whoever copies them reads the view, and may do so while the volume is
written. What was zeros when the plan was made is zeros for ever, because a write owes the snapshot
a zero exception first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest
from snapshot.backup_stream import BackupHeader
from snapshot.cow import Tables, locate_many
from snapshot.diff import changed_pages
from snapshot.entry import BASE, KIND_SHIFT, ZERO
from snapshot.exception_table import Pages, TableShape
from snapshot.tree import SnapshotState, SnapshotTree, ViewKind

Mask = NDArray[np.bool_]
# Of the base volume now, by region: pages that have contents; None for a region with none.
Written = Callable[[int], Mask | None]

CHUNK_PAGES: Final = 1 << 16  # resolved at a time
RUN_PAGES_MAX: Final = 64  # 1 MiB of 16 KiB pages: what is read at a time

_KIND: Final = np.uint64(KIND_SHIFT)


@dataclass(frozen=True, slots=True)
class PageRun:
    """Pages that follow one another, all with contents or all zeros."""

    first: int
    pages: int
    zero: bool


def check_export(tree: SnapshotTree, view: int, base: int = 0) -> None:
    """InvalidRequest unless both are points in time of which a backup can be made. base 0: none."""
    for each in (view, base) if base else (view,):
        at = tree[each]
        if at.writable:
            raise InvalidRequest(
                f"{at.name} is writable and never one point in time: take a snapshot of it"
            )
        if at.state is not SnapshotState.ACTIVE:
            raise InvalidRequest(f"{at.name} is {at.state.name.lower()} and no point in time")
    if view == base:
        raise InvalidRequest(f"{tree[view].name} cannot be its own base")


def header_of(
    tree: SnapshotTree, view: int, base: int, *, cluster: str, volume_id: int, size_bytes: int,
    block_bytes: int, taken_ms: int,
) -> BackupHeader:  # fmt: skip
    """Of the stream of that view, since that base; 0 for a full one."""
    check_export(tree, view, base)
    return BackupHeader(
        cluster, volume_id, tree[tree.base].name, view, tree[view].name, size_bytes, block_bytes,
        base, tree[base].name if base else "", taken_ms,
    )  # fmt: skip


def plan_export(
    tree: SnapshotTree,
    tables: Tables,
    view: int,
    base: int,
    shape: TableShape,
    written: Written,
    *,
    from_page: int = 0,
    run_pages_max: int = RUN_PAGES_MAX,
) -> Iterator[PageRun]:
    """The runs of the view since the base, 0 for all of it, from a page on. Runs of zeros are as
    long as they are, those of data at most run_pages_max. InvalidRequest as for `check_export`."""
    check_export(tree, view, base)
    if base:
        candidates = _changed_pages(tree, tables, base, view, from_page)
    else:
        candidates = _all_pages(tree, tables, view, shape, written, from_page)
    parts = _parts(tree, tables, view, shape, written, candidates)
    return _runs(parts if base else _with_contents(parts), run_pages_max)


def _with_contents(parts: Iterator[tuple[Pages, Mask]]) -> Iterator[tuple[Pages, Mask]]:
    """What a full backup names."""
    for pages, zero in parts:
        if not zero.all():
            yield pages[~zero], zero[~zero]


def _parts(
    tree: SnapshotTree,
    tables: Tables,
    view: int,
    shape: TableShape,
    written: Written,
    candidates: Iterator[Pages],
) -> Iterator[tuple[Pages, Mask]]:
    """The candidates, and whether they are zeros."""
    for pages in candidates:
        kinds = locate_many(tree, tables, view, pages) >> _KIND
        zero = kinds == ZERO
        in_base = np.flatnonzero(kinds == BASE)
        regions = pages[in_base] // shape.region_pages
        edges = np.flatnonzero(np.diff(regions)) + 1
        for at in np.split(in_base, edges) if len(in_base) else ():
            region = int(pages[at[0]]) // shape.region_pages
            has = written(region)
            zero[at] = True if has is None else ~has[pages[at] - region * shape.region_pages]
        yield pages, zero


def _all_pages(
    tree: SnapshotTree, tables: Tables, view: int, shape: TableShape, written: Written, first: int
) -> Iterator[Pages]:
    """Pages from `first` on, of regions that can have contents, a few regions at a time."""
    found = [
        tables[each].regions() for each in tree.path(view) if tree[each].kind is not ViewKind.BASE
    ]
    excepted = set(np.unique(np.concatenate(found)).tolist())
    at_a_time = max(CHUNK_PAGES // shape.region_pages, 1)
    taken: list[Pages] = []
    for region in range(first // shape.region_pages, shape.regions):
        if region not in excepted and written(region) is None:
            continue
        start = region * shape.region_pages
        taken.append(np.arange(max(start, first), start + shape.region_pages, dtype=np.int64))
        if len(taken) == at_a_time:
            yield np.concatenate(taken)
            taken = []
    if taken:
        yield np.concatenate(taken)


def _changed_pages(
    tree: SnapshotTree, tables: Tables, base: int, view: int, first: int
) -> Iterator[Pages]:
    """Pages from `first` on that differ, so many at a time."""
    pages = changed_pages(tree, tables, base, view)
    pages = pages[np.searchsorted(pages, first) :]
    for at in range(0, len(pages), CHUNK_PAGES):
        yield pages[at : at + CHUNK_PAGES]


def _runs(parts: Iterator[tuple[Pages, Mask]], run_pages_max: int) -> Iterator[PageRun]:
    """Join what follows one another, across regions, and cut data that is too long."""
    first, count, zeros = 0, 0, False
    for pages, zero in parts:
        edges = np.flatnonzero((np.diff(pages) != 1) | (np.diff(zero.astype(np.int8)) != 0)) + 1
        starts = [0, *edges.tolist()]
        for at, end in zip(starts, [*edges.tolist(), len(pages)], strict=True):
            start, kind = int(pages[at]), bool(zero[at])
            if count and (start != first + count or kind != zeros):
                yield from _cut(first, count, zeros, run_pages_max)
                count = 0
            if not count:
                first, zeros = start, kind
            count += end - at
            # What is whole goes at once, so that no run is kept longer than it has to be.
            if not zeros:
                whole = count // run_pages_max * run_pages_max
                yield from _cut(first, whole, zeros, run_pages_max)
                first, count = first + whole, count - whole
    yield from _cut(first, count, zeros, run_pages_max)


def _cut(first: int, count: int, zero: bool, run_pages_max: int) -> Iterator[PageRun]:
    step = count if zero else run_pages_max
    for at in range(0, count, max(step, 1)):
        yield PageRun(first + at, min(step, count - at), zero)
