"""shell: a node of level 2 that comes back with disks of some time ago (F30).

Its disks are copied while it runs. Later it dies, and stays away until the cluster has declared it
down and taken its vote away; then it begins again with the copies. What it had acknowledged since
is gone: the budget is that of a node that is lost for good. Nothing that it brings back may be
taken for new: its life is an old one, and its regions are stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scenario.runs import FaultEvent
from sim.cluster import SimNode
from sim.device import CrashKind, SparseImage

if TYPE_CHECKING:
    from scenario.level2_faults import NodeFaults

LOOK_MS: Final = 50
GOAL: Final = "a node came back with disks of some time ago"


class OldImages:
    """Of one run."""

    def __init__(self, faults: NodeFaults) -> None:
        self._faults = faults

    def strike(self, event: FaultEvent) -> bool:
        """Copy the disks. False: the node does not run."""
        sim = self._faults.nodes[event.nodes[0]]
        if not sim.active or sim.paused:
            return False
        images = {name: sim.disks[name].image() for name in sim.disks.names()}
        self._faults.after(int(event.detail("age_ms", 500)), self._put_away, event, sim, images)
        return True

    def _put_away(self, event: FaultEvent, sim: SimNode, images: dict[str, SparseImage]) -> None:
        faults = self._faults
        if event not in faults.standing:
            return
        alone = faults.standing == [event] and faults.run.judge.redundant()
        if not sim.active or sim.paused or sim is faults.stopping or not alone:
            faults.over(event)  # something else has struck since
            return
        faults.crash(sim, CrashKind.KILL, sent=False)
        faults.after(event.for_ms, self._look, event, sim, images)

    def _look(self, event: FaultEvent, sim: SimNode, images: dict[str, SparseImage]) -> None:
        faults = self._faults
        if event not in faults.standing:
            return
        if not self._is_out(sim):
            faults.after(LOOK_MS, self._look, event, sim, images)
            return
        for name, image in images.items():
            sim.disks[name].put_back(image)
        sim.boots += int(event.detail("rebooted"))
        faults.run.checks.rolled_back(sim)
        faults.goal(GOAL)
        faults.restart(sim)
        faults.over(event)

    def _is_out(self, sim: SimNode) -> bool:
        """The cluster has given it up: down in the catalog of every other node, and no voter."""
        others = [each for each in self._faults.nodes if each is not sim]
        for other in others:
            if other.node is None or not other.active:
                return False
            core = other.node.core
            if sim.number in core.catalog.up_nodes() or sim.number in core.raft.members.voters:
                return False
        return True
