"""A node loses power and is back before anybody noticed, and the other copy is killed meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from base.units import NS_PER_MS, NS_PER_S
from cluster.entries import CutPair, NodeDown, encode
from node.roles import NONE
from scenario.level2 import Level2Options, Level2Run, world
from scenario.state_checks import Violated
from sim.device import CrashKind
from sim.kernel import KernelNode
from tests.simulation.steady import Steady

pytestmark = pytest.mark.simulation


class BackUnnoticed(Steady):
    """Of region 0 the owner or the replicant (`lost`) loses power at the moment at which the other
    (`kept`) is killed, and the catalog hears of the second only."""

    def __init__(self, seed: int, *, owner: bool, how: str = "kill") -> None:
        super().__init__(seed, volumes=1, regions=4, nodes=5, writes_per_s=1000)
        row = self.row
        pair = [row.owner, next(n for n in range(8) if row.is_member(n) and n != row.owner)]
        self.lost, self.kept = pair if owner else reversed(pair)
        machine = self.kernel.nodes[self.lost]
        self.wait("there is something to be lost", 5, lambda: machine.durable.unsynced > 20)
        lives = [self.catalog.node_state(node).incarnation for node in (self.kept, self.lost)]
        entry: Any = NodeDown(self.kept, lives[0])
        if how == "kill":
            self.kernel.nodes[self.kept].kill()
        elif how == "cut":
            entry = CutPair(self.kept, lives[0], self.lost, lives[1])
        machine.kill()
        machine.durable.intact = False
        assert machine.durable.lose_unsynced(0)
        if self.leader is machine or not self.leader.core.raft.is_leader:
            self.wait("somebody leads", 10, lambda: self.leader.core.raft.is_leader)
        leader = self.leader
        leader.core.propose(encode(entry), lambda _answer: None, leader.clock_ns())
        leader.perform()
        self.wait("the other copy is out", 5, lambda: not self.row.is_member(self.kept))

    @property
    def row(self) -> Any:
        return self.catalog.row(1, 0)

    def back(self, node: int) -> KernelNode:
        self.start(node)
        self.wait("it is back", 10, lambda: self.is_up(node))
        return self.kernel.nodes[node]


@pytest.mark.parametrize("owner", [True, False], ids=["owner", "replicant"])
@pytest.mark.parametrize("seed", range(3))
def test_it_does_not_open_a_region_without_what_was_acknowledged(seed: int, owner: bool) -> None:
    run = BackUnnoticed(seed, owner=owner)
    lost = run.back(run.lost)
    run.run_for(2000)
    assert (run.row.offline, run.row.in_sync) == (True, 1 << run.kept)
    assert f"n{run.kept}" in str(lost.core.copy_for_host(1, 0, 0))
    run.back(run.kept)
    run.finish()


@pytest.mark.parametrize("seed", range(3))
def test_the_other_copy_may_be_back_first(seed: int) -> None:
    run = BackUnnoticed(seed, owner=True)
    run.back(run.kept)
    run.back(run.lost)
    assert run.row.owner == run.kept
    run.finish()


@pytest.mark.parametrize("seed", range(3))
def test_a_process_that_ends_before_it_has_told_leaves_what_was_known_to_the_next(
    seed: int,
) -> None:
    """By then its log has the entry by which the other copy left; nothing ever acted on it."""
    run = BackUnnoticed(seed, owner=True)
    machine = run.kernel.nodes[run.lost]
    out = run.catalog.version
    run.start(run.lost)
    while machine.durable.raft.last_index < out:
        run.kernel.run_until(run.kernel.now_ns + NS_PER_MS // 10)
    assert not run.is_up(run.lost)
    machine.kill()
    run.back(run.lost)
    assert (run.row.offline, run.row.in_sync) == (True, 1 << run.kept)
    run.back(run.kept)
    run.finish()


@pytest.mark.parametrize("seed", range(3))
def test_a_live_copy_that_was_cut_off_takes_the_region_back(seed: int) -> None:
    run = BackUnnoticed(seed, owner=True, how="cut")
    run.back(run.lost)
    run.wait("it serves", 5, lambda: run.row.owner == run.kept)
    run.finish()


def test_what_the_copy_that_left_had_prepared_is_kept_until_the_other_acts() -> None:
    run = BackUnnoticed(0, owner=True, how="cut")
    core, now_ns = run.kernel.nodes[run.kept].core, run.kernel.nodes[run.kept].clock_ns()
    run.wait("it has left", 5, lambda: core.copies[1][0].role == NONE)
    copy = core.copies[1][0]
    assert not core.may_forget_tail(copy, now_ns)
    minute_ns = copy.left_at_ns + 61 * NS_PER_S
    assert core.may_forget_tail(copy, minute_ns) == (not run.row.offline)
    assert core.may_forget_tail(copy, 11 * minute_ns)
    run.back(run.lost)
    run.wait("it serves", 5, lambda: run.row.owner == run.kept)
    lives = [run.catalog.node_state(node).incarnation for node in (run.kept, run.lost)]
    run.wait("all is whole", 20, run.redundant)
    replicant = next(n for n in range(8) if run.row.is_member(n) and n != run.kept)
    lives[1] = run.catalog.node_state(replicant).incarnation
    entry = CutPair(run.kept, lives[0], replicant, lives[1])
    leader = run.leader
    leader.core.propose(encode(entry), lambda _answer: None, leader.clock_ns())
    leader.perform()
    other = run.kernel.nodes[replicant]
    run.wait("it is out", 5, lambda: not run.row.is_member(replicant))
    run.run_for(300)
    assert other.core.may_forget_tail(other.core.copies[1][0], other.clock_ns()), "who stayed acts"
    run.finish()


def test_without_the_rule_a_checker_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = BackUnnoticed(0, owner=True)
    machine = run.kernel.nodes[run.lost]
    machine.durable.known = (1 << 63) - 1  # nothing can be said: as it was before
    with pytest.raises(Violated, match="I8"):
        run.back(run.lost)


def test_a_whole_node_says_what_its_last_life_knew_until_it_was_heard() -> None:
    """Level 2: the end of the log as the first start after the loss finds it, not a later one."""
    run = Level2Run(1, Level2Options(nodes=3))
    with world(run):
        run.cluster.start()
        run.wait("the cluster forms", 20, run.all_up)
        sim = run.nodes[1]
        assert sim.node is not None
        assert sim.node.core.known == 0, "nothing is lost"
        known = sim.node.consensus.state.last_index
        sim.kill(CrashKind.POWER_LOST)
        sim.boots += 1
        sim.start()
        run.wait("it reads its store", 5, lambda: sim.ready)
        assert (sim.node.core.intact, sim.node.core.known) == (False, known)
        sim.kill()
        run.step(2 * NS_PER_S)  # it is declared down
        sim.start()
        run.wait("it is heard", 10, run.all_up)
        assert sim.node.core.known == known
        assert sim.node.consensus.state.last_index > known
        sim.kill()
        sim.start()
        run.wait("it is back", 10, run.all_up)
        assert (sim.node.core.intact, sim.node.core.known) == (True, 0)
