"""Level 2: the disks of one node take no writes any more: its copies leave, all others go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from base.units import NS_PER_MS, NS_PER_S
from node.disk_shelf import disk_name
from node.refused import Refused
from scenario.level2 import Level2Options, Level2Run, world

pytestmark = pytest.mark.simulation

QUIET = Level2Options(
    nodes=4, crashes=False, pauses=False, slow=False, stops=False, destage_after_ms=20, seconds=6,
    heal_s=12,
)  # fmt: skip
VICTIM = 1


class RefusingDisks(Level2Run):
    """Every disk of n1 refuses every write from half a second on, until the end. full: for want of
    space, as a file that cannot grow."""

    knows_all_faults = False

    def __init__(self, seed: int, options: Level2Options, *, full: bool = False) -> None:
        super().__init__(seed, options)
        self.full = full
        self.owned = 0
        self.at_end: list[tuple[int, int]] = []  # (owner, in sync) of every region

    def _start_hosts(self) -> None:
        super()._start_hosts()
        at_ns = self.loop.now_ns + 500 * NS_PER_MS
        self.loop.call_at_ns(at_ns, self._refuse, context=self.loop.outside)
        end_ns = self.loop.now_ns + self.options.seconds * NS_PER_S - NS_PER_MS
        self.loop.call_at_ns(end_ns, self._look, context=self.loop.outside)

    def _look(self) -> None:
        for table in self.tables():
            self.at_end += zip(table.owner.tolist(), table.in_sync.tolist(), strict=True)

    def _refuse(self) -> None:
        sim = self.nodes[VICTIM]
        self.owned = sum(int((t.owner == VICTIM).sum()) for t in self.tables())
        for number in range(len(sim.names)):
            disk = sim.disks[disk_name(number)]
            if self.full:
                disk.space_bytes = 0
            else:
                disk.fail_range(0, disk.size_bytes, reads=False, writes=True)

    def tables(self) -> list[Any]:
        node = self.nodes[0].node
        assert node is not None
        return [volume.table for volume in node.core.catalog.volumes.values()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("full", [False, True], ids=["failed", "full"])
def test_copies_leave_a_node_whose_disks_take_nothing(seed: int, full: bool) -> None:
    run = RefusingDisks(seed, replace(QUIET, writes_per_s=150), full=full)
    with world(run):
        report = run.run()
        assert run.owned > 0
        assert run.at_end
        left = [owner != VICTIM and not in_sync >> VICTIM & 1 for owner, in_sync in run.at_end]
        # A full disk still takes what goes over old pages.
        assert any(left) if full else all(left)
        assert all(in_sync.bit_count() == 2 for _, in_sync in run.at_end), "built elsewhere"
        assert run.nodes[VICTIM].lives == 1, "the node itself goes on"
        assert report.operations > 0


def test_without_a_word_of_the_node_its_copies_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refused, "_leave", lambda *given: None)
    run = RefusingDisks(0, replace(QUIET, writes_per_s=150))
    with world(run):
        run.run()
        assert any(in_sync >> VICTIM & 1 for _, in_sync in run.at_end)
