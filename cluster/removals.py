"""plan: snapshots that are being removed: which they are, and when nobody has anything of one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.catalog import Catalog, Liveness
from snapshot.tree import SnapshotState


def being_removed(catalog: Catalog) -> list[tuple[int, int]]:
    """(volume, view), ascending."""
    return [
        (volume, view.view)
        for volume, tree in sorted(catalog.snapshots.trees.items())
        for view in tree
        if view.state is SnapshotState.REMOVING
    ]


def is_handed_over(catalog: Catalog, volume: int, reports: Mapping[int, int]) -> bool:
    """Every node that is up and has copies of the volume is through with it. reports: by node the
    life that said so. A node that is down sees in the catalog that the view is gone when it starts,
    and before it takes a record."""
    table = catalog.volume_manager.volume(volume).table
    for node in catalog.up_nodes():
        if np.any(table.slot_node == node):
            state = catalog.node_state(node)
            assert state.liveness is Liveness.UP
            if reports.get(node) != state.incarnation:
                return False
    return True
