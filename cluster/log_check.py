"""plan: whether the logs of consensus that nodes keep can be of one history.

Log matching: where two logs have an entry of the same term at the same index, that entry and all
before it are the same. It holds for entries that were never committed too, so nobody has to know
what was. And a snapshot is what its log made: replaying another node's entries up to its index ends
in the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from base.ids import NOBODY, node_name
from cluster.catalog import Catalog
from cluster.fsck import Finding
from cluster.raft_log import RaftLog
from cluster.raft_types import EntryKind, HardState


def compare_logs(logs: Mapping[int, RaftLog]) -> list[Finding]:
    """I12: what is wrong between the logs of the nodes, by number."""
    found: list[Finding] = []
    numbers = sorted(logs)
    for place, first in enumerate(numbers):
        for second in numbers[place + 1 :]:
            found += _compare(first, logs[first], second, logs[second])
    return found or _compare_snapshots(logs)


def _compare(first: int, ours: RaftLog, second: int, theirs: RaftLog) -> list[Finding]:
    low = max(ours.start_index, theirs.start_index)
    both = f"{node_name(first)} and {node_name(second)}"
    matched = 0  # the highest index at which the terms are equal
    for index in range(min(ours.last_index, theirs.last_index), low - 1, -1):
        mine, other = ours.term_at(index), theirs.term_at(index)
        if not matched and mine == other:
            matched = index
        if not matched:
            continue
        if mine != other:
            text = (
                f"{both} have entry {matched} of one term, and entry {index} of terms {mine} and"
                f" {other} before it"
            )
            return [Finding("I12", text, second)]
        if index > low and ours.entry(index) != theirs.entry(index):
            text = f"{both} have different entries {index} of term {mine}"
            return [Finding("I12", text, second)]
    return []


def _compare_snapshots(logs: Mapping[int, RaftLog]) -> list[Finding]:
    """An older snapshot, and its node's entries behind it, make the newer one. Entries that match
    are the same for all, so one older snapshot is enough."""
    found: list[Finding] = []
    numbers = sorted(logs, key=lambda node: (logs[node].snapshot.index, node))
    for place, second in enumerate(numbers):
        wanted = logs[second].snapshot
        # A log without that entry is behind; with another term it was never committed there.
        older = [
            first for first in numbers[:place] if logs[first].term_at(wanted.index) == wanted.term
        ]
        if older:
            found += _compare_snapshot(older[-1], logs[older[-1]], second, logs[second])
    return found


def _compare_snapshot(first: int, ours: RaftLog, second: int, theirs: RaftLog) -> list[Finding]:
    wanted = theirs.snapshot
    try:
        made = catalog_at(ours, wanted.index).to_bytes()
    except AssertionError as error:
        return [Finding("I12", f"the log of {node_name(first)} cannot be applied: {error}", first)]
    if made == (wanted.data or Catalog().to_bytes()):
        return []
    text = (
        f"the catalog of {node_name(second)} at entry {wanted.index} is not what the log of"
        f" {node_name(first)} makes of it"
    )
    return [Finding("I12", text, second)]


def catalog_at(log: RaftLog, index: int) -> Catalog:
    """The catalog with all entries up to `index`, which the log must have."""
    data = log.snapshot.data
    catalog = Catalog.from_bytes(data) if data else Catalog()
    for number in range(max(catalog.version, log.snapshot.index) + 1, index + 1):
        _, kind, payload = log.entry(number)
        if kind == EntryKind.NORMAL:
            catalog.apply(number, payload)
        else:
            catalog.pass_over(number)
    return catalog


def check_hard(node: int, hard: HardState, log: RaftLog) -> list[Finding]:
    """I6: no node has an entry of a term that it has not seen."""
    if log.last_term <= hard.term:
        return []
    text = (
        f"{node_name(node)} has entries of term {log.last_term} and has noted term {hard.term} only"
    )
    return [Finding("I6", text, node)]


def best_log(logs: Mapping[int, RaftLog]) -> tuple[int, int, bool]:
    """(node, index, certain): whose log has all that was committed, and up to where.

    The index is the highest that a majority of its voters has too; certain: a majority of them is
    among `logs`, so nothing that was committed can be missing. NOBODY, 0, False: there is no log.
    """
    if not logs:
        return int(NOBODY), 0, False
    node = max(logs, key=lambda each: (logs[each].last_term, logs[each].last_index, -each))
    log = logs[node]
    index = log.last_index
    while index > log.snapshot.index:
        members = log.members_at(index)
        held = sum(_has(logs.get(int(voter)), index, log) for voter in members.voters)
        if held >= members.quorum:
            break
        index -= 1
    members = log.members_at(index)
    certain = sum(int(voter) in logs for voter in members.voters) >= members.quorum
    return node, index, certain


def _has(log: RaftLog | None, index: int, best: RaftLog) -> bool:
    if log is None:
        return False
    return log.snapshot.index >= index or log.term_at(index) == best.term_at(index)
