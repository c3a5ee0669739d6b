"""A node and a link that come and go for minutes, at level 1: what they cost is bounded."""

from __future__ import annotations

import pytest

from base.units import NS_PER_MS, NS_PER_S
from node.flapping import FlapPolicy
from tests.simulation.steady import Steady

pytestmark = [pytest.mark.simulation, pytest.mark.slow]

SECONDS = 240
# A tenth of the defaults in time, so that minutes stand for an hour.
POLICY = FlapPolicy(
    flaps_max=3, window_ns=60 * NS_PER_S, hold_ns=6 * NS_PER_S, hold_max_ns=360 * NS_PER_S
)
# Losses before it is damped, and one for each doubling that fits into the time.
ROUNDS_MAX = POLICY.flaps_max + 6


def epochs(run: Steady) -> int:
    """Every change of an owner, a set in sync, or an end of a join, of all regions, so far."""
    return sum(int(volume.table.epoch.sum()) for volume in run.catalog.volumes.values())


def of_node(run: Steady, node: int) -> int:
    """Regions that one loss and return of the node can touch."""
    return sum(
        int((volume.table.in_sync >> node & 1).sum()) for volume in run.catalog.volumes.values()
    )


def flap_node(run: Steady, node: int) -> None:
    """It is killed every four seconds and is down for one of them."""
    kernel = run.kernel
    if kernel.now_ns >= run.flap_until_ns:  # type: ignore[attr-defined]
        return
    if kernel.nodes[node].alive:
        kernel.nodes[node].kill()
        kernel.after(1 * NS_PER_S, flap_node, run, node)
    else:
        run.start(node)
        kernel.after(3 * NS_PER_S, flap_node, run, node)


def flap_link(run: Steady, first: int, second: int) -> None:
    """It is cut every eight seconds, for three of them, which is long enough to be judged."""
    kernel = run.kernel
    if kernel.now_ns >= run.flap_until_ns:  # type: ignore[attr-defined]
        return
    kernel.cut(first, second, one_way=False, heard=True)
    kernel.after(3 * NS_PER_S, kernel.mend, first, second)
    kernel.after(8 * NS_PER_S, flap_link, run, first, second)


def flapping_run(policy: FlapPolicy | None, what: str) -> tuple[Steady, int, int]:
    """The run, the changes of epochs that the flapping brought, and rows that it touches."""
    run = Steady(3, regions=8, writes_per_s=20, hosts=2, flaps=policy)
    run.flap_until_ns = run.kernel.now_ns + SECONDS * NS_PER_S  # type: ignore[attr-defined]
    first = (run.leader.node + 1) % 8
    row = next(
        volume.table.row(region, 0)
        for volume in run.catalog.volumes.values()
        for region in range(8)
        if volume.table.in_sync[region] >> first & 1
    )
    second = next(node for node in range(8) if row.is_member(node) and node != first)
    touched = of_node(run, first)
    before = epochs(run)
    if what == "node":
        flap_node(run, first)
    else:
        flap_link(run, first, second)
    run.kernel.run_until(run.flap_until_ns + 100 * NS_PER_MS)  # type: ignore[attr-defined]
    return run, epochs(run) - before, touched


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["node", "link"])
def test_what_flaps_for_minutes_changes_regions_a_bounded_number_of_times(what: str) -> None:
    run, changes, touched = flapping_run(POLICY, what)
    # A loss, a join elsewhere, a return and the way home: four epochs of a row, and its owner.
    assert changes <= 5 * touched * ROUNDS_MAX, (changes, touched)
    if what == "node":
        run.kernel.nodes[0].core.catalog.check()
    # Whoever is damped votes again, and joins again, when its time is over.
    run.wait("no hold stands any more", POLICY.hold_max_ns // NS_PER_S, run.redundant)
    run.finish()


@pytest.mark.timeout(300)
def test_without_damping_a_node_that_flaps_changes_regions_for_ever() -> None:
    _, damped, _ = flapping_run(POLICY, "node")
    _, undamped, _ = flapping_run(FlapPolicy(), "node")
    assert undamped > 3 * damped, (undamped, damped)
