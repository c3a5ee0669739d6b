"""Faults of level 2: what each does to whole nodes, and that lists of them can be repeated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenario.faults import FAULTS
from scenario.level2 import Level2Report, run_seed
from scenario.level2_faults import PERFORM
from scenario.level2_options import LEVEL2, WEIGHTS, Level2Options
from scenario.run_one import perform
from scenario.runs import PASSED, REFUSED, FaultEvent, RunRequest, RunResult

SHORT = (("nodes", 3), ("seconds", 3), ("codec", False))
DISKS = (*SHORT, ("mirrored_disks", True), ("writes_per_s", 150), ("destage_after_ms", 20))


def after(*faults: FaultEvent, options: tuple[tuple[str, int | bool], ...] = SHORT) -> RunResult:
    """The run of seed 1 with these faults; every rule held."""
    result = perform(RunRequest(2, "default", 1, faults=faults, options=options))
    assert result.verdict == PASSED, result.text
    return result


def test_every_fault_of_level_2_can_be_performed_and_every_weight_names_one() -> None:
    assert sorted(PERFORM) == sorted(name for name, kind in FAULTS.items() if 2 in kind.levels)
    assert set(WEIGHTS) <= set(PERFORM)


@pytest.mark.parametrize("profile", sorted(LEVEL2))
def test_listed_faults_of_a_run_give_the_same_run_again(profile: str) -> None:
    drawn = perform(RunRequest(2, profile, 3))
    listed = perform(RunRequest(2, profile, 3, faults=drawn.faults))
    assert drawn.verdict == PASSED, drawn.text
    assert (listed.faults, listed.operations) == (drawn.faults, drawn.operations)


def test_unknown_profile_is_refused_with_the_nearest_name() -> None:
    result = perform(RunRequest(2, "disk", 1))
    assert (result.verdict, "did you mean disks?" in result.text) == (REFUSED, True)


def test_fault_that_only_level_1_can_do_is_refused() -> None:
    result = perform(RunRequest(2, "default", 1, faults=(FaultEvent(1, "lose", (0,)),)))
    assert (result.verdict, "level 2 cannot do it" in result.text) == (REFUSED, True)


def test_kill_strikes_in_the_middle_of_a_journal_write() -> None:
    slow = tuple(FaultEvent(90, "slow_disk", (node,), 2900, (("factor", 50),)) for node in range(3))
    kills = tuple(
        FaultEvent(200 * at, "kill", (at % 3,), 40, (("events", 7 * at),)) for at in range(1, 14)
    )
    busy = (*SHORT, ("now_percent", 0), ("writes_per_s", 200), ("read_weight", 5))
    assert "a crash met a journal write on its way" in after(*slow, *kills, options=busy).goals


@pytest.mark.parametrize("keep", ["torn", "lost"])
def test_flushed_data_survives_a_power_cut_of_all_machines(keep: str) -> None:
    cut = FaultEvent(1200, "power_cut_all", (), 300, (("keep", keep),))
    result = after(
        cut, options=(*SHORT, ("fua_percent", 50), ("zero_weight", 0), ("trim_weight", 0))
    )
    assert "all machines lost power" in result.goals


def test_node_whose_journal_cannot_be_synced_stops_and_recovers() -> None:
    fault = FaultEvent(800, "sync_failure", (1,), 500, (("device", "journal"),))
    busy = (*SHORT, ("fua_percent", 50), ("writes_per_s", 150))
    assert "a node stopped: sync_failure of journal" in after(fault, options=busy).goals


@pytest.mark.parametrize("device", ["journal", "consensus"])
def test_node_whose_device_takes_no_writes_stops_and_recovers(device: str) -> None:
    details = (("device", device), ("what", "writes"))
    # Of all three nodes one leads: its consensus store is written whenever the catalog changes.
    faults = (
        FaultEvent(800, "disk_error", (1,), 900, details),
        FaultEvent(1000, "kill", (2,), 700),
    )
    assert f"a node stopped: disk_error of {device}" in after(*faults, options=DISKS).goals


def test_dead_disk_under_a_mirror_leaves_it_and_nothing_is_lost() -> None:
    faults = tuple(
        FaultEvent(600, "disk_dead", (node,), 1000, (("device", "disk0"),)) for node in range(3)
    )
    assert "a disk left its mirrors" in after(*faults, options=DISKS).goals


def test_full_journal_makes_writes_wait_and_go_on() -> None:
    fault = FaultEvent(200, "disk_full", (1,), 1500, (("device", "journal"),))
    result = after(fault, options=(*DISKS, ("journal_kib", 256)))
    assert "the journal was full and writes waited" in result.goals


def test_disks_are_reached_over_the_other_loop_when_one_is_cut() -> None:
    result = after(FaultEvent(500, "loop_cut", (0,), 1500, (("side", "A"),)), options=DISKS)
    assert "disks were reached over one loop only" in result.goals


@pytest.mark.parametrize("kind", ["loss", "duplicate", "reorder", "corrupt"])
def test_what_happens_to_frames_is_not_seen_above_the_bus(kind: str) -> None:
    fault = FaultEvent(300, kind, (0,), 2000, (("permille", 100),))
    assert after(fault, options=(*SHORT[:2], ("codec", True))).faults == (fault,)


def test_wall_clock_that_jumps_changes_nothing() -> None:
    jumps = tuple(
        FaultEvent(500 * at, "wall_jump", (at % 3,), 0, (("ms", 7_000_000 * (-1) ** at),))
        for at in range(1, 5)
    )
    assert after(*jumps).operations == after().operations


def test_clocks_that_change_their_rate_within_the_contract_keep_every_rule() -> None:
    drifts = tuple(
        FaultEvent(400 * at, "drift", (at % 3,), 300, (("ppm", 45_000 * (-1) ** at),))
        for at in range(1, 6)
    )
    assert len(after(*drifts).faults) == len(drifts)


def test_three_nodes_are_simulated_faster_than_time() -> None:
    options = replace(Level2Options(), nodes=3, seconds=1)
    report: Level2Report = run_seed(1, options)
    assert report.virtual_s > 1
