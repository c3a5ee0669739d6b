"""plan: which page answers a read of a view, and what a write owes before it may overwrite.

Only the newest ROSS of the written branch can be owed a copy-out: every older one finds what it
needs in it. A look-up goes from the view asked for to newer ones, then to the writable view, then,
for an RWSS, to the ROSS that it hangs on (ruling R2, [0095]).

A write to a page that the RWSS owns *moves* the page to the owed ROSS; one to a page that it only
inherits leaves a *redirect* there (ruling R4): a pointer to the inherited page itself would be
wrong as soon as the base is overwritten in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from snapshot.entry import (
    BASE,
    BASE_ENTRY,
    KIND_SHIFT,
    NULL,
    PAGE,
    REDIRECT,
    REDIRECT_ENTRY,
    SKIP,
    ZERO,
    ZERO_ENTRY,
    base_entry,
    kind_of,
    page_entry,
    skip_entry,
    volume_of,
)
from snapshot.exception_table import U64, Exceptions, ExceptionTable, Pages
from snapshot.tree import SnapshotState, SnapshotTree, ViewKind

Tables = Mapping[int, ExceptionTable]  # by view; the base has none
SomeTables = Mapping[int, Exceptions]  # to look up in only

_KIND: Final = np.uint64(KIND_SHIFT)


# ---------------------------------------------------------------------------------- look-up


def locate(tree: SnapshotTree, tables: Tables, view: int, page: int) -> int:
    """Where the page of a view is: an entry of kind PAGE, ZERO or BASE."""
    while True:
        found, at = search_branch(tree, tables, view, page)
        kind = kind_of(found)
        if kind in (PAGE, ZERO):
            return found
        branch = tree[at].branch
        if tree[branch].kind is ViewKind.BASE:
            assert kind == NULL, "the base's branch has no parent to redirect to"
            return base_entry(page)
        view = tree[branch].origin


def search_branch(tree: SnapshotTree, tables: Tables, view: int, page: int) -> tuple[int, int]:
    """The first exception from the view on in its own branch, and the view that has it; NULL and
    the writable view when there is none. Skips shorten the way; one to a view that is gone, or that
    has nothing there any more, costs the ordinary search and no more."""
    at = tree[view]
    branch = at.branch
    if not at.writable:
        line = tree.read_only_of(branch)
        place = line.index(view)
        while place < len(line):
            entry = tables[line[place]].get(page)
            kind = kind_of(entry)
            if kind == SKIP:
                place = _skipped_to(tree, line, place, volume_of(entry))
            elif kind != NULL:
                return entry, line[place]
            else:
                place += 1
    if tree[branch].kind is ViewKind.BASE:
        return NULL, branch
    return tables[branch].get(page), branch


def _skipped_to(tree: SnapshotTree, line: tuple[int, ...], place: int, target: int) -> int:
    """Where a search goes on from a skip. One to a view that is being removed is not followed: what
    was found there may have been handed to an older neighbour, which lies in between."""
    if target in line[place:] and tree[target].state is not SnapshotState.REMOVING:
        return line.index(target, place)
    return place + 1


def remember(tree: SnapshotTree, tables: Tables, view: int, page: int) -> bool:
    """Keep where a search from a ROSS ended, if that was another ROSS and not its next one.

    Never an end at the writable view: the next write there would make it wrong (ruling R10). Never
    in the newest ROSS, whose null entry says that it is still owed the page. True: a skip was set.
    """
    at = tree[view]
    if at.writable:
        return False
    entry, found = search_branch(tree, tables, view, page)
    if entry == NULL or found in (view, tree.parent(view)) or tree[found].writable:
        return False
    if tree[found].state is SnapshotState.REMOVING:
        return False
    tables[view].set(page, skip_entry(found))
    return True


def locate_many(tree: SnapshotTree, tables: SomeTables, view: int, pages: Pages) -> U64:
    """`locate` for an array of pages."""
    answer = np.zeros(len(pages), dtype=np.uint64)
    todo = np.arange(len(pages))
    while True:
        branch = tree[view].branch
        line = tree.read_only_of(branch)
        members = [] if tree[view].writable else list(line[line.index(view) :])
        redirected: list[Pages] = []
        base = tree[branch].kind is ViewKind.BASE
        for member in members if base else [*members, branch]:
            entries = tables[member].gather(pages[todo])
            kinds = entries >> _KIND
            here = (kinds == PAGE) | (kinds == ZERO)
            answer[todo[here]] = entries[here]
            away = kinds == REDIRECT
            if away.any():
                redirected.append(todo[away])
            todo = todo[~(here | away)]
        if base:
            answer[todo] = np.uint64(BASE_ENTRY) | pages[todo].astype(np.uint64)
            assert not redirected, "the base's branch has no parent to redirect to"
            return answer
        todo = np.sort(np.concatenate([todo, *redirected]))
        if not len(todo):
            return answer
        view = tree[branch].origin


# ---------------------------------------------------------------------------------- write


@dataclass(frozen=True, slots=True)
class PageDebt:
    """What one page of a write owes before its new contents may be put anywhere.

    copy_out: the present contents of the base's page go to a new page of snapshot data space first.
    owed: the ROSS that gets an exception, 0 for none. exception: that entry, NULL when it is the
    page that `copy_out` makes. take_page: the RWSS gets a new page for the new contents. fill_from:
    where what the write leaves of the page comes from, for a write of a part; NULL: from nowhere,
    it is overwritten in place.
    """

    page: int
    owed: int = 0
    copy_out: bool = False
    exception: int = NULL
    take_page: bool = False
    fill_from: int = NULL


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What a write of some pages of one writable view owes. space_pages: new pages of snapshot data
    space that `apply` will be given."""

    view: int
    debts: tuple[PageDebt, ...]
    space_pages: int


def plan_write(
    tree: SnapshotTree,
    tables: Tables,
    view: int,
    pages: Sequence[int],
    *,
    cow_into: int,
    was_written: Callable[[int], bool],
    zero: bool = False,
) -> WritePlan:
    """What a write of these pages owes, in order. zero: it is a trim, or zeros, of whole pages.

    cow_into: the ROSS that was the newest of the branch when the operation was numbered, 0 for
    none. The tree may have a newer one by now, which then has this write in it.
    was_written(page): the base has contents there; a page that never had any owes a zero exception
    and no copy. A page that owes nothing and is overwritten in place is not in the plan.
    """
    assert tree[view].writable, "only writable views are written"
    assert not cow_into or tree[cow_into].branch == view, "a write owes its own branch only"
    owed_table = tables[cow_into] if cow_into else None
    base = tree[view].kind is ViewKind.BASE
    debts: list[PageDebt] = []
    for page in pages:
        owed = cow_into
        if owed_table is not None and kind_of(owed_table.get(page)) not in (NULL, SKIP):
            owed = 0
        debt: PageDebt | None
        if base:
            debt = _debt_of_base(page, owed, was_written) if owed else None
        else:
            debt = _debt_of_snapshot(tree, tables, view, page, owed, zero)
        if debt is not None:
            debts.append(debt)
    count = sum(debt.copy_out + debt.take_page for debt in debts)
    return WritePlan(view, tuple(debts), count)


def _debt_of_base(page: int, owed: int, was_written: Callable[[int], bool]) -> PageDebt:
    if was_written(page):
        return PageDebt(page, owed, copy_out=True)
    return PageDebt(page, owed, exception=ZERO_ENTRY)


def _debt_of_snapshot(
    tree: SnapshotTree, tables: Tables, view: int, page: int, owed: int, zero: bool
) -> PageDebt | None:
    own = tables[view].get(page)
    exception = NULL
    if owed:
        exception = own if own != NULL else REDIRECT_ENTRY
    if kind_of(own) == PAGE and not owed and not zero:
        return None  # its own page, which nobody else sees: overwritten in place
    if zero:
        return PageDebt(page, owed, exception=exception, fill_from=ZERO_ENTRY)
    source = own if own != NULL else locate(tree, tables, tree[view].origin, page)
    return PageDebt(page, owed, exception=exception, take_page=True, fill_from=source)


def apply(
    tables: Tables, plan: WritePlan, space: int, space_pages: Sequence[int], *, zero: bool = False
) -> list[int]:
    """Put the exceptions of a plan, with these new pages in the order of its debts: for each page
    first the one that is copied out to, or the one that the RWSS takes.

    Returns entries whose pages nobody points at any more. `zero` as for the plan.
    """
    assert len(space_pages) == plan.space_pages, "a plan takes exactly the pages that it counted"
    given = iter(space_pages)
    freed: list[int] = []
    for debt in plan.debts:
        exception = page_entry(space, next(given)) if debt.copy_out else debt.exception
        if debt.owed:
            before = tables[debt.owed].set(debt.page, exception)
            assert kind_of(before) in (NULL, SKIP), "the newest ROSS had the page already"
        if debt.take_page:
            tables[plan.view].set(debt.page, page_entry(space, next(given)))
        elif zero and plan.view in tables:
            before = tables[plan.view].set(debt.page, ZERO_ENTRY)
            if kind_of(before) == PAGE and not debt.owed:
                freed.append(before)
    return freed


# ---------------------------------------------------------------------------------- removal


def hand_over(
    tree: SnapshotTree, tables: Tables, view: int, pages: Sequence[int] | None = None
) -> list[int]:
    """Give exceptions of a view that is being removed to its older neighbour, where that has none
    of its own; entries whose pages are free now are returned (ruling R5). Data never moves.

    pages: some of them; None for all. May be repeated: what was handed over is gone from the view.
    """
    at = tree[view]
    table = tables[view]
    older = 0 if at.writable else tree.older(view)
    if pages is None:
        pages = table.find()[0].tolist()
    freed: list[int] = []
    for page in pages:
        entry = table.set(page, NULL)
        if kind_of(entry) in (NULL, SKIP):
            continue
        if older and kind_of(tables[older].get(page)) in (NULL, SKIP):
            tables[older].set(page, entry)
        elif kind_of(entry) == PAGE:
            freed.append(entry)
    return freed


__all__ = [
    "BASE", "PageDebt", "SomeTables", "Tables", "WritePlan", "apply", "hand_over", "locate",
    "locate_many", "plan_write", "remember", "search_branch",
]  # fmt: skip
