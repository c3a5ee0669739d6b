"""Both copies lost at level 1: a copy known to be old opens nothing but at an operator's word."""

from __future__ import annotations

import pytest

from cluster.entries import encode
from cluster.loss import Opening, entries_for, plan_openings
from node.effects import Answer
from tests.simulation.steady import Steady

pytestmark = pytest.mark.simulation


class TwoLost(Steady):
    """The replicant of region 0 is lost, hosts write on, then the owner is lost too."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, volumes=1, regions=4)
        row = self.catalog.row(1, 0)
        self.owner = row.owner
        self.replicant = next(n for n in range(8) if row.is_member(n) and n != row.owner)
        self.kernel.nodes[self.replicant].kill()
        self.wait("the replicant is out", 5, lambda: not self.is_known(self.replicant))
        self.run_for(150)
        assert self.row.in_sync == 1 << self.owner, "nobody else joined meanwhile"
        self.kernel.nodes[self.owner].kill()
        self.wait("the owner is out", 10, lambda: self.row.offline)

    @property
    def row(self):
        return self.catalog.row(1, 0)

    def is_known(self, node: int) -> bool:
        return node in self.catalog.up_nodes()

    def back(self, node: int) -> None:
        self.start(node)
        self.wait("it is back", 10, lambda: self.is_up(node))

    def plan(self) -> Opening:
        return plan_openings(self.catalog, self.catalog.volumes[1], [0])[0]

    def force(self, opening: Opening) -> None:
        """At an operator's word, through some node."""
        answers: list[Answer] = []
        node = self.leader
        for entry in entries_for(self.catalog.volumes[1], [opening]):
            node.core.propose(encode(entry), answers.append, node.clock_ns())
        node.perform()
        self.wait("the word is answered", 10, lambda: answers)
        assert answers[0].error is None
        assert answers[0].result["skipped"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_an_old_copy_opens_nothing_by_itself(seed: int) -> None:
    run = TwoLost(seed)
    run.back(run.replicant)
    run.run_for(5000)
    assert run.row.offline
    core = run.kernel.nodes[run.replicant].core
    refusal = core.copy_for_host(1, 0, 0)
    assert f"n{run.owner}" in str(refusal)
    run.back(run.owner)
    assert run.row.owner == run.owner
    run.finish()


@pytest.mark.parametrize("first", ["owner", "replicant"])
def test_both_copies_may_return_in_any_order(first: str) -> None:
    run = TwoLost(5)
    nodes = [run.owner, run.replicant]
    for node in nodes if first == "owner" else reversed(nodes):
        run.back(node)
    run.finish()


@pytest.mark.parametrize("seed", range(3))
def test_an_old_copy_that_was_forced_open_serves_and_the_newer_one_joins_it(seed: int) -> None:
    run = TwoLost(seed)
    run.back(run.replicant)
    opening = run.plan()
    assert (opening.node, opening.waits_for) == (run.replicant, (run.owner,))
    run.force(opening)
    run.wait("it is served", 5, lambda: not run.row.offline)
    run.run_for(1000)
    run.back(run.owner)
    assert run.row.epoch > opening.epoch
    run.wait("all is whole", 20, run.redundant)
    run.wait("copies are identical", 10, run._identical)
    loss = run.catalog.losses_of(1)[0]
    assert (loss.node, loss.copy_epoch, loss.waited_for) == (
        opening.node, opening.copy_epoch, 1 << run.owner,
    )  # fmt: skip


def test_a_region_that_no_copy_is_left_of_opens_empty_at_an_operators_word() -> None:
    run = TwoLost(4)
    opening = run.plan()
    assert opening.copy_epoch == 0
    run.force(opening)
    run.wait("it is served", 5, lambda: not run.row.offline)
    for node in (run.owner, run.replicant):
        run.back(node)
    run.wait("all is whole", 20, run.redundant)
    run.wait("copies are identical", 10, run._identical)
