"""The history on which the checker is measured."""

from scenario.bench_sim import history_of
from scenario.checkers import check_history
from scenario.history import Kind


def test_history_has_reads_and_writes_and_no_fault() -> None:
    history = history_of(2000, seed=1)
    assert {Kind(kind) for kind in history.kind} == {Kind.READ, Kind.WRITE}
    assert len(history) == 2000
    assert check_history(history) == []


def test_history_with_one_read_changed_is_seen() -> None:
    history = history_of(2000, seed=1)
    reads = [row for row in range(2000) if history.kind[row] == Kind.READ and history.value[row]]
    history.value[reads[-1]] = 0
    assert check_history(history) != []
