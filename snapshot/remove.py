"""plan: the removal of a view, region by region, and what it will have moved and freed.

What the view has of its own goes to the older neighbour that lacks it, or is freed (ruling R5);
pointers move, data does not. A view in state REMOVING is read by nobody, so it may be taken apart
while the branch is written. A *cursor* says how far that is: regions before it are done. A step is
whole regions, which an owner puts into its journal as one record, so that a removal that was cut
off goes on at the last cursor that was kept; a step that is done again finds nothing to do.

Meanwhile a write must not owe its copy-out to a part that is done, or the entry would go down with
the view; nor to the older neighbour for a part that is not, which has yet to be given what the view
holds: `charged` tells. For the same reason two neighbours are never removed at one time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from base.errors import InvalidRequest
from base.units import format_size
from snapshot.cow import Tables, hand_over
from snapshot.entry import KIND_SHIFT, NULL, PAGE, SKIP
from snapshot.exception_table import ExceptionTable
from snapshot.tree import SnapshotState, SnapshotTree, ViewKind

STEP_PAGES_MAX: Final = 4096  # one journal record; a region is never split, and may be more

_KIND: Final = np.uint64(KIND_SHIFT)


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """What is left to do from a cursor on. older: who is given what it lacks, 0 for nobody.

    moved: exceptions that are handed over, moved_pages of them with a page of snapshot data space.
    freed_pages: pages that nobody needs any more. dropped: exceptions without a page that nobody
    needs. table_bytes: of the tables of the view, which go in the end.
    """

    view: int
    older: int
    cursor: int
    regions: int
    regions_left: int
    moved: int
    moved_pages: int
    freed_pages: int
    dropped: int
    table_bytes: int


@dataclass(frozen=True, slots=True)
class RemovalStep:
    """Whole regions, ascending, and the cursor behind them. pages: exceptions that are in them."""

    view: int
    regions: tuple[int, ...]
    pages: int
    cursor: int


def check(tree: SnapshotTree, view: int) -> None:
    """InvalidRequest when the view cannot be removed now; it names what is in the way. One that is
    being removed already may go on."""
    tree.check_removal(view)
    at = tree[view]
    assert at.kind is not ViewKind.BASE, "a base goes with its volume"
    if at.state is SnapshotState.CREATING:
        raise InvalidRequest(f"{at.name} cannot be removed: it is being made")
    for each in tree.read_only_of(at.branch):
        if each != view and tree[each].state is SnapshotState.REMOVING:
            raise InvalidRequest(
                f"{at.name} cannot be removed: {tree[each].name} of its branch is being removed"
            )


def plan_removal(tree: SnapshotTree, tables: Tables, view: int, cursor: int = 0) -> RemovalPlan:
    """Changes nothing. InvalidRequest as for `check`."""
    check(tree, view)
    table = tables[view]
    older = 0 if tree[view].writable else tree.older(view)
    pages, entries = table.find()
    rest = pages >= cursor * table.shape.region_pages
    pages, entries = pages[rest], entries[rest]
    lacks = np.zeros(len(pages), dtype=np.bool_)
    if older:
        kinds = tables[older].gather(pages) >> _KIND
        lacks = (kinds == NULL) | (kinds == SKIP)
    has_page = entries >> _KIND == PAGE
    regions = table.regions()
    return RemovalPlan(
        view, older, cursor, table.shape.regions,
        regions_left=int(np.count_nonzero(regions >= cursor)),
        moved=int(np.count_nonzero(lacks)),
        moved_pages=int(np.count_nonzero(lacks & has_page)),
        freed_pages=int(np.count_nonzero(~lacks & has_page)),
        dropped=int(np.count_nonzero(~lacks & ~has_page)),
        table_bytes=table.counts().table_bytes,
    )  # fmt: skip


def next_step(
    table: ExceptionTable,
    view: int,
    cursor: int,
    mine: Sequence[int] | None = None,
    pages_max: int = STEP_PAGES_MAX,
) -> RemovalStep:
    """The next regions from a cursor on: as many as hold pages_max exceptions, at least one. mine:
    regions of the owner that asks, ascending; None for all. No regions: all is done, and the cursor
    is behind the last region."""
    there = table.regions()
    todo = there[there >= cursor]
    if mine is not None:
        todo = todo[np.isin(todo, np.asarray(mine, dtype=todo.dtype))]
    taken: list[int] = []
    pages = 0
    for region in todo.tolist():
        count = len(table.find(region)[0])
        if taken and pages + count > pages_max:
            break
        taken.append(region)
        pages += count
    behind = taken[-1] + 1 if len(taken) < len(todo) else table.shape.regions
    return RemovalStep(view, tuple(taken), pages, behind)


def apply_step(tree: SnapshotTree, tables: Tables, step: RemovalStep) -> list[int]:
    """Hand these regions over. Returns entries whose pages are free now. May be repeated."""
    at = tree[step.view]
    assert at.state is SnapshotState.REMOVING, "a view that is read is not taken apart"
    table = tables[step.view]
    freed: list[int] = []
    for region in step.regions:
        freed += hand_over(tree, tables, step.view, table.find(region)[0].tolist())
        table.drop_region(region)  # skips: nobody will search from here again
    return freed


def finish(tree: SnapshotTree, tables: dict[int, ExceptionTable], view: int) -> None:
    """Take the view out of the tree when all of its regions are done."""
    assert not len(tables[view].regions()), "exceptions would go down with the view"
    tree.remove(view)
    del tables[view]


def charged(tree: SnapshotTree, cow_into: int, region: int, cursors: Mapping[int, int]) -> int:
    """The ROSS that a write tagged with `cow_into` owes its copy-outs of that region now; 0: none.

    cursors: of the views that are being removed, as far as this owner has come with them.
    """
    while cow_into and tree[cow_into].state is SnapshotState.REMOVING:
        if region >= cursors.get(cow_into, 0):
            return cow_into
        cow_into = tree.older(cow_into)
    return cow_into


def removal_text(tree: SnapshotTree, plan: RemovalPlan, page_bytes: int) -> str:
    """For `snapshot remove --dry-run`."""
    at = tree[plan.view]
    kind = "read-write" if at.writable else "read-only"
    lines = [f"remove {at.name}: {kind}, {at.state.name.lower()}, of {tree[tree.base].name}"]
    if plan.cursor:
        lines.append(f"  goes on at region {plan.cursor} of {plan.regions}")
    if plan.older:
        older = tree[plan.older].name
        lines.append(
            f"  handed to {older}: {plan.moved:,} exceptions, {plan.moved_pages:,} with a page; "
            "no data is moved"
        )
    elif at.writable:
        lines.append("  handed over: nothing, no snapshot was taken of it")
    else:
        lines.append("  handed over: nothing, it is the oldest of its branch")
    tables = format_size(plan.table_bytes)
    lines += [
        f"  freed: {plan.freed_pages:,} × {format_size(page_bytes)}"
        f" = {format_size(plan.freed_pages * page_bytes)}",
        f"  dropped: {plan.dropped:,} exceptions without a page",
        f"  given up: {tables} of tables; {plan.regions_left:,} of {plan.regions:,} regions to do",
    ]
    return "\n".join(lines) + "\n"
