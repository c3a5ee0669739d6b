"""Every fault that there is, at every level that has it: it happens, and every rule holds."""

from __future__ import annotations

import pytest

from scenario.faults import FAULTS
from scenario.run_one import perform
from scenario.runs import PASSED, REFUSED, Detail, FaultEvent, RunRequest

pytestmark = pytest.mark.simulation

SMALL: tuple[tuple[str, int | bool], ...] = (("nodes", 4), ("seconds", 3), ("regions", 2))
OF_LEVEL: dict[int, tuple[tuple[str, int | bool], ...]] = {
    1: (*SMALL, ("durability_synced", True), ("remove_volumes", 1)),
    2: (*SMALL, ("writes_per_s", 150), ("destage_after_ms", 20), ("mirrored_disks", True)),
}
DETAILS: dict[str, tuple[Detail, ...]] = {
    "partition": (("groups", "01|23"),),
    "delay": (("us", 20_000),),
    "drift": (("ppm", 40_000),),
    "drift_far": (("ppm", 400_000),),
    "wall_jump": (("ms", 7_000_000),),
    "cap": (("kib_per_s", 60),),
    "memory": (("kib", 16),),
    "disk_error": (("device", "journal"), ("what", "writes")),
    "disk_full": (("device", "disk1"),),
    **dict.fromkeys(("loss", "duplicate", "reorder", "corrupt"), (("permille", 50),)),
    **dict.fromkeys(
        ("disk_latent", "disk_dead", "disk_rot", "disk_lost_write", "disk_misdirect",
         "disk_stale_read"),
        (("device", "disk1"),),
    ),
}  # fmt: skip


def sample(kind: str) -> FaultEvent:
    fault = FAULTS[kind]
    nodes = tuple(range(1, 1 + max(fault.nodes[0], min(fault.nodes[1], 2))))
    for_ms = 400 if fault.standing else 0
    return FaultEvent(800, kind, nodes, for_ms, DETAILS.get(kind, ()))


@pytest.mark.parametrize(
    ("level", "kind"),
    [
        (level, kind.name)
        for kind in FAULTS.values()
        for level in kind.levels
        if not kind.out_of_contract
    ],
)
def test_a_fault_happens_and_every_rule_holds(level: int, kind: str) -> None:
    event = sample(kind)
    result = perform(RunRequest(level, "default", 5, faults=(event,), options=OF_LEVEL[level]))
    assert (result.verdict, result.faults) == (PASSED, (event,)), result.text


@pytest.mark.parametrize("level", FAULTS["drift_far"].levels)
def test_a_clock_beyond_the_contract_is_said_to_be_outside_of_it(level: int) -> None:
    request = RunRequest(level, "default", 5, faults=(sample("drift_far"),))
    result = perform(request)
    assert (result.verdict, "outside of what the cluster promises" in result.text) == (
        REFUSED, True,
    )  # fmt: skip
