"""shell: loops, sleds and cages of level 2 that are out of reach for a while.

The budget: when a node comes to miss disks all copies are in sync, and no fault strikes another
node before they are back: a mirror that keeps its members apart may cover it, and where none does
the other copy must. A node that cannot go on without its disks may stop, as a node that is lost,
and begins again; one that was killed meanwhile may find its disks missing when it starts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from scenario.runs import FaultEvent
from sim.cluster import SimNode
from sim.hardware import FcFabric
from volume.physical_disk import Loop

HARDWARE: Final = ("loop_down", "sled_pull", "cage_down")
# By what stood in the way of an I/O.
GOAL_OF: Final = {
    "loops": "an I/O met loops that were down",
    "sled": "an I/O met a sled that was pulled",
    "cage": "an I/O met a cage that was down",
}


def loops_of(event: FaultEvent) -> list[Loop]:
    """That it cuts."""
    side = str(event.detail("side", "A"))
    pair = int(event.detail("pair"))
    return [Loop(pair, each) for each in (("A", "B") if side == "both" else (side,))]


def take_away(node: SimNode, event: FaultEvent) -> Callable[[], None] | None:
    """Do it. What puts it back; None: the node has no such loop, sled or cage."""
    fabric = node.fabric
    cage, sled = int(event.detail("cage")), int(event.detail("sled"))
    disks = fabric.inventory.disks
    if event.kind == "loop_down":
        loops = loops_of(event)
        if not any(loops[0] in disk.loops for disk in disks):
            return None
        return _cut(fabric, loops)
    if event.kind == "cage_down":
        if not any(disk.cage == cage for disk in disks):
            return None
        fabric.pull_cage(cage)
        return lambda: fabric.put_back_cage(cage)
    if not any((disk.cage, disk.sled) == (cage, sled) for disk in disks):
        return None
    fabric.pull_sled(cage, sled)
    return lambda: fabric.put_back_sled(cage, sled)


def _cut(fabric: FcFabric, loops: list[Loop]) -> Callable[[], None]:
    def put(*, up: bool) -> None:
        for loop in loops:
            fabric.set_loop(loop, up)

    put(up=False)
    return partial(put, up=True)
