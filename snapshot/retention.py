"""plan: which snapshots are to be removed at an instant, in what order, and why others stay.

A snapshot is due when it has expired, or when its rule keeps fewer than there are newer ones. It
stays all the same until its retention has ended, while it is exported, and while something hangs on
it. A stale snapshot is no point in time any more: it takes up no place among those that are kept,
or it would push a good one out.

The order can be carried out one by one, and oldest first: the oldest of a branch frees its pages,
where a newer one would hand them over to one that is removed next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from base.errors import InvalidRequest
from snapshot.schedule import Rule, check_ages, format_duration
from snapshot.tree import SnapshotState, SnapshotTree, View, ViewKind

_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What is known of one snapshot beside its place. Instants in ms of the wall clock. rule: text
    of the rule that took it, "" when somebody did. expires_ms: 0 for never; retained_ms: nothing
    removes it before."""

    taken_ms: int
    rule: str = ""
    expires_ms: int = 0
    retained_ms: int = 0
    exported: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """One snapshot, and the reason in words for people."""

    view: int
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """remove: in this order. held: due, but something holds them."""

    remove: tuple[Verdict, ...]
    held: tuple[Verdict, ...]


def facts_of(rule: Rule, taken_ms: int) -> SnapshotFacts:
    """Of a snapshot that a rule takes."""
    return SnapshotFacts(
        taken_ms,
        rule.to_text(),
        taken_ms + rule.expire_s * _MS if rule.expire_s else 0,
        taken_ms + rule.retain_s * _MS if rule.retain_s else 0,
    )


def plan_retention(
    tree: SnapshotTree, facts: Mapping[int, SnapshotFacts], rules: Mapping[str, Rule], now_ms: int
) -> RetentionPlan:
    """What goes now. rules: those of the volume, by text; snapshots of a rule that is gone go only
    when they expire. Views without facts are left alone."""
    due = _due(tree, facts, rules, now_ms)
    removed: set[int] = set()
    order: list[Verdict] = []
    held: dict[int, str] = {}
    waiting = sorted(due, key=lambda view: (facts[view].taken_ms, view))
    # Whatever went may have been the last thing that hung on another one: look again.
    while True:
        before = len(removed)
        for view in waiting:
            if view in removed:
                continue
            holds = _holds(tree, view, facts[view], removed, now_ms)
            if holds:
                held[view] = holds
            else:
                removed.add(view)
                held.pop(view, None)
                order.append(Verdict(view, tree[view].name, due[view]))
        if len(removed) == before:
            break
    stays = [Verdict(view, tree[view].name, held[view]) for view in waiting if view in held]
    return RetentionPlan(tuple(order), tuple(stays))


def _due(
    tree: SnapshotTree, facts: Mapping[int, SnapshotFacts], rules: Mapping[str, Rule], now_ms: int
) -> dict[int, str]:
    """Reasons by view."""
    due: dict[int, str] = {}
    newer: dict[str, int] = dict.fromkeys(rules, 0)
    known = [view for view in tree if view.view in facts and view.kind is not ViewKind.BASE]
    # Newest first, so that what has been counted is what is newer.
    for each in sorted(known, key=lambda at: (facts[at.view].taken_ms, at.view), reverse=True):
        if each.state in (SnapshotState.CREATING, SnapshotState.REMOVING):
            continue
        own = facts[each.view]
        if own.rule in rules and newer[own.rule] >= rules[own.rule].keep:
            due[each.view] = f"{newer[own.rule]} newer ones of: {own.rule}"
        elif own.expires_ms and own.expires_ms <= now_ms:
            due[each.view] = f"expired {_ago(now_ms - own.expires_ms)} ago"
        elif own.rule in rules and each.state is SnapshotState.ACTIVE:
            newer[own.rule] += 1
    return due


def _holds(
    tree: SnapshotTree, view: int, facts: SnapshotFacts, removed: set[int], now_ms: int
) -> str:
    """What keeps a view that is due, "" for nothing."""
    if now_ms < facts.retained_ms:
        return f"retained for another {_ago(facts.retained_ms - now_ms)}"
    if facts.exported:
        return "exported"
    names = [tree[each].name for each in _dependants(tree, tree[view]) if each not in removed]
    return f"needed by {', '.join(names)}" if names else ""


def _dependants(tree: SnapshotTree, view: View) -> tuple[int, ...]:
    return tree.read_only_of(view.view) if view.writable else tree.hanging_on(view.view)


def check_facts(name: str, facts: SnapshotFacts) -> None:
    """InvalidRequest for a snapshot that would expire before it may be removed."""
    check_ages(f"snapshot {name}", facts.expires_ms, facts.retained_ms)


def check_may_remove(tree: SnapshotTree, view: int, facts: SnapshotFacts, now_ms: int) -> None:
    """For somebody who asks. InvalidRequest names what holds the view: its dependants, its export,
    or its retention."""
    tree.check_removal(view)
    holds = _holds(tree, view, facts, set(), now_ms)
    if holds:
        raise InvalidRequest(f"{tree[view].name} cannot be removed: it is {holds}")


def _ago(milliseconds: int) -> str:
    """Roughly: whole units of the largest kind."""
    seconds = max(milliseconds // _MS, 0)
    for unit in (86_400, 3600, 60):
        if seconds >= unit:
            return format_duration(seconds // unit * unit)
    return f"{seconds}s"
