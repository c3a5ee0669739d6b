"""Logs that cannot be of one history are told apart from those that can."""

from __future__ import annotations

from base.ids import NodeId
from cluster import entries as log
from cluster.catalog import Catalog
from cluster.log_check import best_log, catalog_at, check_hard, compare_logs
from cluster.raft_log import RaftLog
from cluster.raft_types import Entry, EntryKind, HardState, Members, Snapshot

VOTERS = Members((NodeId(0), NodeId(1), NodeId(2)))
NOOP = EntryKind.NOOP


def form(name: str = "c") -> bytes:
    return log.encode(log.FormCluster(name, ((0, 0), (1, 1), (2, 2)), ()))


def log_of(*entries: Entry, snapshot: Snapshot | None = None) -> RaftLog:
    return RaftLog(snapshot or Snapshot(0, 0, VOTERS), entries)


def entries(*terms: int) -> list[Entry]:
    """The first one forms the cluster, the others say nothing."""
    made: list[Entry] = [(terms[0], EntryKind.NORMAL, form())]
    made += [(term, NOOP, b"") for term in terms[1:]]
    return made


def compacted(made: list[Entry], index: int) -> RaftLog:
    """The log of those entries with a snapshot at an index."""
    catalog = catalog_at(log_of(*made), index)
    snapshot = Snapshot(index, made[index - 1][0], VOTERS, catalog.to_bytes())
    return log_of(*made[index:], snapshot=snapshot)


def test_logs_of_one_history_match() -> None:
    made = entries(1, 1, 2, 2)
    # One is behind, one has a tail that never was committed, one has a snapshot.
    stale = [*made[:2], (1, NOOP, b""), (1, NOOP, b"")]
    assert compare_logs({0: log_of(*made), 1: log_of(*made[:1]), 2: log_of(*stale)}) == []
    assert compare_logs({0: log_of(*made), 1: compacted(made, 3), 2: compacted(made, 1)}) == []


def test_other_entry_of_the_same_term_is_found() -> None:
    other = [*entries(1, 1)[:1], (1, EntryKind.NORMAL, form("other"))]
    (found,) = compare_logs({0: log_of(*entries(1, 1)), 2: log_of(*other)})
    assert found.rule == "I12"
    assert "n0 and n2 have different entries 2 of term 1" in found.text


def test_other_term_before_an_equal_one_is_found() -> None:
    (found,) = compare_logs({0: log_of(*entries(1, 1, 3)), 1: log_of(*entries(1, 2, 3))})
    assert "entry 3 of one term, and entry 2 of terms 1 and 2" in found.text


def test_snapshot_that_its_log_did_not_make_is_found() -> None:
    made = entries(1, 1, 1)
    wrong = Catalog()
    wrong.pass_over(2)
    snapshot = Snapshot(2, 1, VOTERS, wrong.to_bytes())
    (found,) = compare_logs({0: log_of(*made), 1: log_of(made[2], snapshot=snapshot)})
    assert "the catalog of n1 at entry 2 is not what the log of n0 makes of it" in found.text


def test_entry_of_a_term_that_was_never_noted_is_found() -> None:
    made = log_of(*entries(1, 4))
    assert check_hard(1, HardState(4), made) == []
    assert (
        "n1 has entries of term 4 and has noted term 3" in check_hard(1, HardState(3), made)[0].text
    )


def test_best_log_has_what_a_majority_has() -> None:
    made = entries(1, 1, 2, 2)
    logs = {0: log_of(*made), 1: log_of(*made[:3]), 2: log_of(*made[:1])}
    assert best_log(logs) == (0, 3, True)
    # A later term wins over a longer log of an earlier one.
    assert best_log({0: log_of(*entries(1, 1, 1, 1)), 1: log_of(*entries(1, 1, 2))})[0] == 1
    # One voter of three: what it has may not be all.
    assert best_log({2: logs[2]}) == (2, 0, False)
    assert best_log({})[2] is False
