"""plan: snapshot data space of the nodes, as the catalog gives it: by group and by size of page.

The first cut of a volume gives every node one logical disk for copied-out pages of its kind, so
that a copy has where to put them before the first record that owes one; a node whose disks are new
gets it again. From then on each node asks for more when little is free (`node.snapshot_places`).
"""

from __future__ import annotations

from collections.abc import Iterable

from base.errors import InvalidRequest, NoSpace
from base.ids import NOBODY, node_name
from cluster.entries import GrowSnapshotSpace
from volume.volume_manager import VolumeManager

Pool = tuple[str, int]  # (group, bytes of a page)


def pools_of(manager: VolumeManager, volumes: Iterable[int]) -> list[Pool]:
    """The kinds of snapshot space that these volumes need."""
    found = {
        (manager.volume(volume).group, manager.volume(volume).page_bytes)
        for volume in volumes
        if manager.has_volume(volume)
    }
    return sorted(found)


def check_room(manager: VolumeManager, volumes: Iterable[int]) -> None:
    """NoSpace names a node that holds a copy of one of them and has no room for what its snapshots
    would be owed. NotFound."""
    for number in volumes:
        volume = manager.volume(number)
        for node in sorted({*volume.table.slot_node.ravel().tolist()} - {int(NOBODY)}):
            if not manager.has_snapshot_room(node, volume.group, volume.page_bytes):
                raise NoSpace(
                    f"volume {volume.name}: {node_name(node)} has no space for snapshots in group"
                    f" {volume.group}"
                )


def give(manager: VolumeManager, pools: Iterable[Pool], nodes: Iterable[int]) -> None:
    """To each of these nodes that has none: where a node has no room it goes without."""
    for group, page_bytes in pools:
        for node in nodes:
            if not manager.snapshot_disks(node, group, page_bytes):
                try:
                    manager.grow_snapshot_space(node, group, page_bytes)
                except NoSpace:
                    continue


def grow(manager: VolumeManager, entry: GrowSnapshotSpace) -> int:
    """How many logical disks there are now. InvalidRequest: it was asked before the last one."""
    have = len(manager.snapshot_disks(entry.node, entry.group, entry.page_bytes))
    if have != entry.lds:
        raise InvalidRequest(f"void: {node_name(entry.node)} has {have} disks for snapshots")
    manager.grow_snapshot_space(entry.node, entry.group, entry.page_bytes)
    return have + 1
