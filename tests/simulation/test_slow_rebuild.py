"""Level 2: a rebuild at a rate so low that one page takes longer than a session may stand still."""

from __future__ import annotations

import pytest

import node.rebuild
from base.clock import Clock, RealClock
from base.units import KiB
from node.joins import Joins
from node.rebuild import BATCH_BYTES, Pace
from node.region_copy import RegionCopy
from scenario.level2 import Level2Options, Level2Run, world
from scenario.state_checks import Violated

pytestmark = pytest.mark.simulation

RATE = 1536  # a page of 4 KiB in 2.7 s
OPTIONS = Level2Options(
    nodes=4, seconds=3, regions=2, writes_per_s=20, crashes=0, pauses=0, slow=0, stops=0
)


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def pace(clock: Clock, _bytes_per_s: int) -> Pace:
        return Pace(clock, RATE)

    monkeypatch.setattr(node.rebuild, "Pace", pace)


def lose_one_for_good(seed: int) -> None:
    """Nobody writes: what the joiner acknowledges is the page before the one that waits."""
    run = Level2Run(seed, OPTIONS)
    with world(run):
        run.run()
        first = run.nodes[0].node
        assert first is not None
        (volume,) = first.core.catalog.volumes.values()
        lost = int(volume.table.owner[0])
        run.nodes[lost].kill()
        others = [sim for sim in run.nodes if sim.number != lost]

        def whole() -> bool:
            for sim in others:
                assert sim.node is not None
                catalog = sim.node.core.catalog
                if lost in catalog.up_nodes():
                    return False
                for volume in catalog.volumes.values():
                    if any(bin(bits).count("1") < 2 for bits in volume.table.in_sync.tolist()):
                        return False
            return True

        run.wait("everything has two copies again", 100, whole)


def test_a_slow_rebuild_ends() -> None:
    lose_one_for_good(1)


def test_taking_a_slow_session_for_a_stuck_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def alive(self: Joins, copy: RegionCopy, now_ns: int) -> None:
        if copy in self.running:
            self.running[copy] = now_ns

    monkeypatch.setattr(Joins, "alive", alive)
    with pytest.raises(Violated, match="two copies again"):
        lose_one_for_good(1)


def test_a_message_is_smaller_at_a_low_rate() -> None:
    assert Pace(RealClock(), 0).batch_bytes == BATCH_BYTES
    assert Pace(RealClock(), 64 * KiB).batch_bytes == 16 * KiB
