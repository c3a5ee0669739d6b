"""Shrinking, against rules that say which runs fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from scenario.runs import FaultEvent, RunRequest
from scenario.shrink import Shrinker, size

VALUES = {"seconds": 12, "hosts": 4, "nodes": 8, "regions": 3, "grow": True}
FAULTS = tuple(FaultEvent(100 * at, "kill", (at % 8,), 900) for at in range(40))
REQUEST = RunRequest(1, "swarm", 7, faults=FAULTS)


@dataclass
class Judged:
    fails: Callable[[RunRequest], bool]
    runs_max: int = 10_000
    runs: int = 0

    def __call__(self, requests: Sequence[RunRequest]) -> list[bool]:
        said = [self.fails(each) for each in requests[: self.runs_max - self.runs]]
        self.runs += len(said)
        return said


def has(*times_ms: int) -> Callable[[RunRequest], bool]:
    return lambda request: set(times_ms) <= {fault.at_ms for fault in request.faults or ()}


def shrunk(
    fails: Callable[[RunRequest], bool], width: int = 1, runs_max: int = 10_000
) -> RunRequest:
    return Shrinker(REQUEST, VALUES, Judged(fails, runs_max), width).run()


@pytest.mark.parametrize("needed", [(0,), (3900,), (300, 3500), (100, 200, 2000, 2100)])
@pytest.mark.parametrize("width", [1, 3])
def test_only_the_faults_that_matter_are_left(needed: tuple[int, ...], width: int) -> None:
    left = shrunk(has(*needed), width).faults or ()
    assert tuple(fault.at_ms for fault in left) == needed


def test_failure_that_needs_no_fault_has_none_left() -> None:
    assert shrunk(lambda request: True).faults == ()


def test_faults_keep_their_order() -> None:
    left = shrunk(lambda request: len(request.faults or ()) >= 5).faults or ()
    assert list(left) == sorted(left, key=lambda fault: fault.at_ms)


def test_fault_stands_no_longer_than_it_must() -> None:
    left = shrunk(lambda request: any(each.for_ms >= 100 for each in request.faults or ())).faults
    assert left is not None
    assert [100 <= each.for_ms < 200 for each in left] == [True]


def test_options_become_as_small_as_the_failure_allows() -> None:
    options = dict(shrunk(lambda request: dict(request.options).get("hosts", 4) >= 2).options)
    assert options == {"seconds": 1, "hosts": 2, "regions": 1, "nodes": 3, "grow": False}


def test_nodes_that_faults_name_are_kept() -> None:
    assert dict(shrunk(has(600)).options)["nodes"] == 7


def test_run_lasts_until_its_last_fault() -> None:
    assert dict(shrunk(has(3900)).options)["seconds"] == 4


def test_budget_ends_it_with_the_smallest_so_far() -> None:
    left = shrunk(has(300, 3500), runs_max=12).faults or ()
    assert {300, 3500} <= {fault.at_ms for fault in left}
    assert 2 < len(left) < 40


def test_few_runs_are_needed_for_few_faults() -> None:
    judged = Judged(has(300, 3500))
    Shrinker(REQUEST, VALUES, judged).run()
    assert judged.runs < 120


def test_size_counts_what_is_there() -> None:
    assert size(replace(REQUEST, options=(("hosts", 1),)), VALUES).startswith(
        "40 faults of 36.0 s in all, 12 seconds, 8 nodes, 1 hosts"
    )
