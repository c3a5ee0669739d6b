"""A node that beacons and whose disk hangs, at level 1: it is taken out, and comes back."""

from __future__ import annotations

import pytest

from base.units import NS_PER_MS
from tests.simulation.steady import Steady
from transport.messages import ReplicateAcks

pytestmark = pytest.mark.simulation

# The deadline, a suspicion, an election if it led, and the time that clocks may differ by.
OUT_MS = 1500 + 400 + 2000
STALL_MS = OUT_MS + 600  # and the leases that still run


def victim_of(run: Steady, who: str) -> int:
    leader = run.leader.node
    return leader if who == "leader" else (leader + 1) % 8


@pytest.mark.parametrize("who", ["leader", "follower"])
@pytest.mark.parametrize("seed", range(2))
def test_a_node_whose_disk_hangs_is_taken_out_in_time(seed: int, who: str) -> None:
    run = Steady(seed, regions=8)
    victim = victim_of(run, who)
    run.forget_longest()
    began_ns = run.kernel.now_ns
    run.kernel.nodes[victim].hang_disk()
    run.wait("the node is out", 10, lambda: victim not in run.catalog.up_nodes())
    assert (run.kernel.now_ns - began_ns) // NS_PER_MS <= OUT_MS
    run.run_for(5000)
    assert run.longest_ms() <= STALL_MS
    run.kernel.nodes[victim].free_disk()
    run.wait("the node is back", 20, lambda: run.is_up(victim))
    run.finish()


def test_a_disk_that_hangs_for_less_than_the_deadline_takes_nobody_out() -> None:
    run = Steady(1, regions=8)
    victim = victim_of(run, "follower")
    life = run.kernel.nodes[victim].core.incarnation
    run.kernel.nodes[victim].hang_disk()
    run.run_for(1200)
    run.kernel.nodes[victim].free_disk()
    run.run_for(3000)
    assert run.is_up(victim)
    assert run.kernel.nodes[victim].core.incarnation == life
    run.finish()


def test_when_every_disk_hangs_nobody_is_accused() -> None:
    run = Steady(2, regions=8)
    version = run.catalog.version
    for node in run.kernel.nodes:
        node.hang_disk()
    run.run_for(5000)
    for node in run.kernel.nodes:
        node.free_disk()
    run.run_for(3000)
    assert run.catalog.up_nodes() == tuple(range(8))
    assert run.catalog.version - version < 50
    run.finish()


def test_a_copy_that_beacons_and_acknowledges_nothing_is_taken_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Steady(1, regions=8)
    victim = victim_of(run, "follower")
    life = run.kernel.nodes[victim].core.incarnation
    real = run.kernel.send

    def send(sender: int, receiver: int, message: object) -> None:
        mute = sender == victim and run.kernel.nodes[victim].core.incarnation == life
        if not (mute and isinstance(message, ReplicateAcks)):
            real(sender, receiver, message)

    monkeypatch.setattr(run.kernel, "send", send)
    run.forget_longest()
    began_ns = run.kernel.now_ns
    run.wait("the node is out", 10, lambda: run.kernel.nodes[victim].core.incarnation != life)
    assert (run.kernel.now_ns - began_ns) // NS_PER_MS <= 2 * 1500 + 1000
    run.run_for(3000)
    assert run.longest_ms() <= 2 * 1500 + 2000
    run.finish()
