"""The catalogue of faults: what it refuses, and in which words."""

from __future__ import annotations

import pytest

from base.errors import InvalidRequest
from scenario.faults import EVENTS_MAX, FAULTS, check_faults, severed
from scenario.runs import FaultEvent


def refusal(fault: FaultEvent, *, level: int = 1, nodes: int = 4, loss: bool = False) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_faults([fault], level=level, nodes=nodes, allow_loss=loss)
    return str(caught.value)


def test_an_unknown_fault_is_refused_with_the_nearest_name() -> None:
    assert "did you mean power_cut?" in refusal(FaultEvent(1, "powercut", (0,)))


def test_a_fault_of_the_other_level_is_refused_with_the_level_that_has_it() -> None:
    assert "level 1 cannot do it, level 2 can" in refusal(FaultEvent(1, "stop", (0,)))


def test_a_node_that_there_is_not_is_named() -> None:
    assert "there is no node 4 among 4" in refusal(FaultEvent(1, "kill", (4,), 10))


def test_a_node_named_twice_is_refused() -> None:
    assert "names a node twice" in refusal(FaultEvent(1, "cut", (1, 1), 10))


def test_too_few_nodes_are_refused() -> None:
    assert "it takes 2 to 8 nodes, not 1" in refusal(FaultEvent(1, "cut", (1,), 10))


def test_a_fault_that_does_not_last_takes_no_time() -> None:
    assert "it has no for_ms" in refusal(FaultEvent(1, "flap", (0, 1), 10))


def test_a_time_before_the_hosts_begin_is_refused() -> None:
    assert "its times are not between 0 and" in refusal(FaultEvent(-1, "kill", (0,), 10))


def test_a_fault_outside_of_the_contract_needs_a_word() -> None:
    fault = FaultEvent(1, "drift_far", (0,), 10, (("ppm", 400_000),))
    assert "say --allow-loss" in refusal(fault)
    check_faults([fault], level=1, nodes=4, allow_loss=True)


def test_a_detail_that_is_missing_is_named() -> None:
    assert "us is missing" in refusal(FaultEvent(1, "delay", (0,), 10))


def test_a_detail_out_of_its_bounds_is_refused_with_the_bounds() -> None:
    fault = FaultEvent(1, "drift", (0,), 10, (("ppm", 60_000),))
    assert "ppm is a number from -50000 to 50000, not 60000" in refusal(fault)


def test_a_detail_that_there_is_not_is_refused_with_the_nearest() -> None:
    fault = FaultEvent(1, "slow", (0,), 10, (("facter", 5),))
    assert "did you mean factor?" in refusal(fault)


def test_groups_of_a_partition_name_nodes_of_the_cluster() -> None:
    fault = FaultEvent(1, "partition", (), 10, (("groups", "01|24"),))
    assert "there is no node 4 among 4" in refusal(fault)


def test_faults_out_of_order_are_refused() -> None:
    faults = [FaultEvent(9, "kill", (0,), 10), FaultEvent(5, "kill", (1,), 10)]
    with pytest.raises(InvalidRequest, match=r"fault 1 .kill.: 5 ms is before the fault ahead"):
        check_faults(faults, level=1, nodes=4)


def test_more_faults_than_a_run_can_hold_are_refused() -> None:
    faults = [FaultEvent(1, "kill", (0,), 10)] * (EVENTS_MAX + 1)
    with pytest.raises(InvalidRequest, match="are more than"):
        check_faults(faults, level=1, nodes=4)


def test_a_bridge_node_hears_both_groups() -> None:
    assert severed("01|12", 3) == [(0, 2)]


def test_every_fault_says_what_it_is() -> None:
    assert all(kind.text and kind.levels and kind.name == name for name, kind in FAULTS.items())
