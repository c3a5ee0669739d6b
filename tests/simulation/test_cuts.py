"""Level 1: points in time over all owners of several volumes, through kills and pauses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenario.level1 import SeedRun
from scenario.mutations import MUTATIONS, Caught, hunt
from scenario.profiles import LEVEL1
from scenario.run_one import perform

pytestmark = pytest.mark.simulation

CROWD = {
    "seconds": 2, "snapshot_every_ms": 60, "writes_per_s": 800, "hosts": 5, "tail_us": 20_000,
    "delay_us": 2_000, "regions": 2, "read_weight": 60,
}  # fmt: skip


@pytest.mark.parametrize("profile", ["default", "rough", "power"])
def test_no_snapshot_is_torn(profile: str) -> None:
    made = 0
    for seed in range(4):
        run = SeedRun(seed, replace(LEVEL1[profile](seed), **CROWD))
        run.run()
        assert run.cuts is not None
        made += sum(cut.made_ns < 1 << 62 for cut in run.cuts.cuts.values())
    assert made > 20


def test_a_gate_is_closed_for_a_moment_only() -> None:
    """Without faults, from the wish to the snapshot that can be read."""
    run = SeedRun(
        1,
        replace(
            LEVEL1["default"](1), nodes=8, crashes=0, pauses=0, seconds=4, snapshot_every_ms=100,
            writes_per_s=400,
        ),
    )  # fmt: skip
    run.run()
    assert run.cuts is not None
    took = sorted(cut.made_ns - cut.call_ns for cut in run.cuts.cuts.values())
    assert len(took) > 20
    assert took[len(took) * 99 // 100] < 50_000_000


@pytest.mark.parametrize("name", ["cut-without-gate", "activate-by-one", "adopt-before-commit"])
def test_ways_of_cutting_that_lose_are_seen(name: str) -> None:
    found = hunt(name, perform=perform)
    assert isinstance(found, Caught), name
    assert found.rule in MUTATIONS[name].rules
