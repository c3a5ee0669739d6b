"""plan: how much snapshot data space each view takes, and what happens when there is no more.

A page of snapshot data space stands in one table and may be read by many views. It is *exclusive*
to a view when no other one reads it: that is what its removal frees. Otherwise it is *shared* by
all that read it. The pages of the base itself are user space, and are not counted here.

When a write owes a copy-out and there is no space, the policy of the volume decides. STRICT: the
write fails, NoSpace, and nothing has changed. STALE: the write succeeds, and every view that would
have read the old contents is marked stale: not only the snapshot that was owed, but the older ones
that find the page through it, and whatever hangs on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest, NoSpace
from base.units import format_size
from snapshot.cow import PageDebt, Tables, WritePlan
from snapshot.entry import KIND_SHIFT, NULL, PAGE, REDIRECT, SKIP, kind_of
from snapshot.exception_table import Pages
from snapshot.tree import SnapshotState, SnapshotTree, ViewKind

Mask = NDArray[np.bool_]

_KIND: Final = np.uint64(KIND_SHIFT)


class SpacePolicy(StrEnum):
    """Of a volume, when a copy-out has no space. The words are stored."""

    STALE = "stale"
    STRICT = "strict"


def parse_policy(text: str) -> SpacePolicy:
    """InvalidRequest names the word."""
    try:
        return SpacePolicy(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no policy: it is stale or strict") from None


# ---------------------------------------------------------------------------------- who takes it


@dataclass(frozen=True, slots=True)
class ViewSpace:
    """Pages of snapshot data space that a view reads: alone, and with others. exceptions and
    table_bytes: of its own tables."""

    exclusive_pages: int
    shared_pages: int
    exceptions: int
    table_bytes: int


def space_of(tree: SnapshotTree, tables: Tables) -> dict[int, ViewSpace]:
    """Of every view but the base, exactly. One pass over all exceptions and, for each read-write
    snapshot, one copy of a bit per page that has any exception; as many copies are held at a time
    as branches hang one on another."""
    hanging = _hanging(tree)
    found = [tables[each.view].find()[0] for each in tree if each.kind is not ViewKind.BASE]
    pages: Pages = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    reads: dict[int, int] = {}
    # Each walk of a branch stops at whatever hangs on it, and goes on when that has been walked.
    walks = [_walk(tree, tables, hanging, pages, reads, tree.base, np.zeros(len(pages), np.bool_))]
    while walks:
        inner = next(walks[-1], None)
        if inner is None:
            walks.pop()
        else:
            walks.append(_walk(tree, tables, hanging, pages, reads, *inner))
    answer: dict[int, ViewSpace] = {}
    for view in sorted(reads):
        exclusive = exclusive_pages(tree, tables, view, hanging.get(view, ()))
        counts = tables[view].counts()
        answer[view] = ViewSpace(
            exclusive, reads[view] - exclusive, counts.exceptions, counts.table_bytes
        )
    return answer


def _hanging(tree: SnapshotTree) -> dict[int, list[int]]:
    hanging: dict[int, list[int]] = {}
    for each in tree:
        if each.origin:
            hanging.setdefault(each.origin, []).append(each.view)
    return hanging


def _walk(
    tree: SnapshotTree,
    tables: Tables,
    hanging: Mapping[int, list[int]],
    pages: Pages,
    reads: dict[int, int],
    branch: int,
    origin: Mask,
) -> Iterator[tuple[int, Mask]]:
    """Count what the views of a branch read, from the writable one to the oldest. origin: whether
    the ROSS that it hangs on reads a page of snapshot data space, by place in `pages`."""
    now = origin.copy()
    line = tree.read_only_of(branch)
    members = [] if branch == tree.base else [branch]
    for view in (*members, *reversed(line)):
        own, entries = tables[view].find()
        at = np.searchsorted(pages, own)
        kinds = entries >> _KIND
        now[at] = np.where(kinds == REDIRECT, origin[at], kinds == PAGE)
        reads[view] = int(np.count_nonzero(now))
        for inner in hanging.get(view, ()):
            yield inner, now


def exclusive_pages(
    tree: SnapshotTree, tables: Tables, view: int, hanging: list[int] | tuple[int, ...]
) -> int:
    """Pages that only this view reads. hanging: the RWSSes on it."""
    own, entries = tables[view].find()
    alone = entries >> _KIND == PAGE
    at = tree[view]
    below = tree.newest(view) if at.writable else tree.older(view)
    if below:
        kinds = tables[below].gather(own) >> _KIND
        alone &= (kinds != NULL) & (kinds != SKIP)
    for inner in hanging:
        alone &= tables[inner].gather(own) >> _KIND != NULL
        for ross in tree.read_only_of(inner):
            alone &= tables[ross].gather(own) >> _KIND != REDIRECT
    return int(np.count_nonzero(alone))


# ---------------------------------------------------------------------------------- no space


@dataclass(frozen=True, slots=True)
class SpaceDecision:
    """How a write goes on: by this plan, after these views have been marked stale."""

    plan: WritePlan
    stale: tuple[int, ...]


def decide(
    tree: SnapshotTree, tables: Tables, plan: WritePlan, free_pages: int, policy: SpacePolicy
) -> SpaceDecision:
    """What a write does with that much free space. NoSpace, and nothing has changed: by policy, or
    because new contents of a read-write snapshot have no place themselves."""
    if plan.space_pages <= free_pages:
        return SpaceDecision(plan, ())
    name = tree[plan.view].name
    short = f"{plan.space_pages} pages of snapshot space are needed and {free_pages} are free"
    if policy is SpacePolicy.STRICT:
        raise NoSpace(f"write to {name}: {short}, and its policy is strict")
    kept = tuple(debt for debt in plan.debts if not _can_be_dropped(tables, plan, debt))
    rest = sum(debt.copy_out + debt.take_page for debt in kept)
    if rest > free_pages:
        raise NoSpace(f"write to {name}: {short}, and there is no place for its own contents")
    stale: set[int] = set()
    for debt in plan.debts:
        if debt not in kept:
            stale |= losing(tree, tables, debt.owed, debt.page)
    fresh = tuple(view for view in sorted(stale) if tree[view].state is not SnapshotState.STALE)
    return SpaceDecision(replace(plan, debts=kept, space_pages=rest), fresh)


def _can_be_dropped(tables: Tables, plan: WritePlan, debt: PageDebt) -> bool:
    """Whether the page can be overwritten in place instead: the base's own, or one that an RWSS has
    already. One that it only inherits it has to take."""
    if not debt.owed:
        return False
    if debt.copy_out:
        return True
    return debt.take_page and kind_of(tables[plan.view].get(debt.page)) == PAGE


def losing(tree: SnapshotTree, tables: Tables, owed: int, page: int) -> set[int]:
    """Views that read, through this ROSS, the page that its writable view is about to overwrite.

    The ROSS has no exception there. They are itself, older ones up to the first that has one, what
    hangs on any of these and lacks the page, and so on down.
    """
    hanging = _hanging(tree)
    lost: set[int] = set()
    waiting = [owed]
    while waiting:
        start = waiting.pop()
        if start in lost:
            continue
        line = tree.read_only_of(tree[start].branch)
        for ross in reversed(line[: line.index(start) + 1]):
            if ross != start and kind_of(tables[ross].get(page)) not in (NULL, SKIP):
                break
            lost.add(ross)
            for inner in hanging.get(ross, ()):
                waiting += [
                    view for view in tree.read_only_of(inner)
                    if kind_of(tables[view].get(page)) == REDIRECT
                ]  # fmt: skip
                if kind_of(tables[inner].get(page)) == NULL:
                    lost.add(inner)
                    newest = tree.newest(inner)
                    if newest and kind_of(tables[newest].get(page)) in (NULL, SKIP):
                        waiting.append(newest)
    return lost


# ---------------------------------------------------------------------------------- warnings


@dataclass(frozen=True, slots=True)
class SpaceWarning:
    """percent: the mark that was passed, 0 when use is below all marks again. text: for people."""

    percent: int
    text: str


@dataclass(slots=True)
class SpaceWatch:
    """Warns once at each mark, and again only after use was clearly below it: `rearm_percent`
    points. Marks ascend, in 1 … 100."""

    volume: str
    marks: tuple[int, ...] = (75, 90, 97)
    rearm_percent: int = 5
    passed: int = 0  # the highest mark that was warned about

    def step(
        self, used_bytes: int, limit_bytes: int, policy: SpacePolicy, bytes_per_s: int = 0
    ) -> SpaceWarning | None:
        """bytes_per_s: how fast copy-outs fill it now, 0 when unknown. A limit of 0: none."""
        if limit_bytes <= 0:
            self.passed = 0
            return None
        above = [mark for mark in self.marks if used_bytes * 100 >= mark * limit_bytes]
        reached = above[-1] if above else 0
        if reached > self.passed:
            self.passed = reached
            return SpaceWarning(reached, self._text(used_bytes, limit_bytes, policy, bytes_per_s))
        if self.passed and used_bytes * 100 < (self.passed - self.rearm_percent) * limit_bytes:
            self.passed = reached
            if not reached:
                used = f"{format_size(used_bytes)} of {format_size(limit_bytes)}"
                return SpaceWarning(0, f"snapshot space of {self.volume} is enough again: {used}")
        return None

    def _text(self, used: int, limit: int, policy: SpacePolicy, bytes_per_s: int) -> str:
        text = (
            f"snapshot space of {self.volume} is {used * 100 // limit} % full: "
            f"{format_size(used)} of {format_size(limit)}"
        )
        if bytes_per_s and used < limit:
            seconds = (limit - used) // bytes_per_s
            text += f", at {format_size(bytes_per_s)}/s it is full in {seconds} s"
        then = "snapshots go stale" if policy is SpacePolicy.STALE else "writes fail"
        return f"{text}; then {then}"
