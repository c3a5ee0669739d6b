"""Fail-back at level 1: everything goes home, no host waits long, and no rule breaks on the way."""

from __future__ import annotations

import pytest

from base.units import NS_PER_MS
from cluster.entries import MoveOwners, encode, pack_rows
from node.handover import HandOver
from node.region_copy import RegionCopy
from node.roles import OWNER
from scenario.level1 import SeedOptions, SeedRun, Violated, swarm
from tests.simulation.steady import Steady

pytestmark = pytest.mark.simulation

STALL_MS = 100  # the promise of fail-back


def lose_and_return(run: Steady, node: int) -> None:
    run.kernel.nodes[node].kill()
    run.run_for(3000)
    run.start(node)
    run.wait("the node is back", 10, lambda: run.is_up(node))
    run.wait("all is whole", 10, run.redundant)


@pytest.mark.parametrize("seed", range(3))
def test_owners_go_home_and_no_host_waits_longer_than_promised(seed: int) -> None:
    run = Steady(seed, regions=16)
    before = run.owners()
    lose_and_return(run, 3)
    assert run.owners() != before
    run.forget_longest()
    run.wait("all owners are home", 30, lambda: run.owners() == before)
    assert run.longest_ms() < STALL_MS
    run.finish()


def test_copies_go_home_too() -> None:
    run = Steady(1, regions=16)
    before = [volume.table.in_sync.tolist() for volume in run.catalog.volumes.values()]
    lose_and_return(run, 3)
    run.wait(
        "all copies are home",
        60,
        lambda: (
            before == [volume.table.in_sync.tolist() for volume in run.catalog.volumes.values()]
        ),
    )
    run.finish()


class Moving(SeedRun):
    """A seed of faults with owners that move all the time, at any moment."""

    knows_all_faults = False

    moves = 0

    def __init__(self, seed: int, options: SeedOptions) -> None:
        super().__init__(seed, options)
        begin = self.faults.begin

        def begin_both(end_ns: int) -> None:
            begin(end_ns)
            self._faults_end_ns = end_ns
            self._draw = self.kernel.streams.stream("moves")
            self._move()

        self.faults.begin = begin_both  # type: ignore[method-assign]

    @property
    def told(self) -> int:
        """Regions that opened at a word, in the lives that go on."""
        return sum(node.core.handover.taken for node in self.kernel.nodes)

    def _move(self) -> None:
        kernel, draw = self.kernel, self._draw
        if kernel.now_ns >= self._faults_end_ns:
            return
        node = kernel.nodes[draw.below(len(kernel.nodes))]
        if node.alive and not node.paused and node.core.active:
            for number, volume in sorted(node.core.catalog.volumes.items()):
                region = draw.below(volume.regions)
                row = node.core.catalog.row(number, region)
                others = [n for n in range(8) if row.is_member(n) and n != row.owner]
                if others:
                    self.moves += 1
                    packed = pack_rows([region], others[:1], volume.table.epoch[[region]])
                    entry = encode(MoveOwners(number, packed))
                    node.core.propose(entry, None, node.clock_ns())
            node.perform()
        kernel.after(1 + draw.exponential(60 * NS_PER_MS), self._move)


def options_of(seed: int) -> SeedOptions:
    if seed % 2:
        return swarm(seed, seconds=4, nodes=8, lose_to=0)
    return SeedOptions(seconds=4, fault_every_ms=700, cuts=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_every_rule_holds_while_owners_move_under_faults(seed: int) -> None:
    run = Moving(seed, options_of(seed))
    run.run()
    assert run.moves > 5


def test_most_owners_that_move_open_at_a_word() -> None:
    run = Moving(2, options_of(2))
    run.run()
    assert run.told > run.moves // 3, (run.told, run.moves)


def breaks_i5(seed: int) -> bool:
    try:
        Moving(seed, options_of(seed)).run()
    except Violated as violated:
        return "I5" in str(violated)
    return False


def open_without_a_word(patch: pytest.MonkeyPatch) -> None:
    """A new owner does not wait for leases, whether or not the last one lives."""

    def configured(self: HandOver, copy: RegionCopy, _served: int, now_ns: int) -> None:
        if copy.role == OWNER and copy.opening:
            copy.open_at_ns = min(copy.open_at_ns, now_ns)
            self._core.advance(copy, now_ns)

    patch.setattr(HandOver, "configured", configured)


def take_the_word_for_any_epoch(patch: pytest.MonkeyPatch) -> None:
    def opened(self: HandOver, copy: RegionCopy, now_ns: int) -> None:
        if (copy.volume, copy.region) in self._released:
            copy.open_at_ns = min(copy.open_at_ns, now_ns)
            self._core.advance(copy, now_ns)

    patch.setattr(HandOver, "_open", opened)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [open_without_a_word, take_the_word_for_any_epoch])
def test_a_hand_over_that_is_wrong_is_found(
    broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)  # type: ignore[operator]
    assert any(breaks_i5(seed) for seed in range(60))
