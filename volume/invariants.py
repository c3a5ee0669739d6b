"""plan: invariants across volumes and LDs: no LD region has two users, none is lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from volume.logical_disk import Space
from volume.node_storage import NodeStorage
from volume.virtual_volume import VirtualVolume


def check_ld_regions(
    node: int, storage: NodeStorage | None, volumes: Sequence[VirtualVolume]
) -> list[str]:
    """Every used LD region of a node belongs to exactly one copy, of a volume of its kind."""
    faults: list[str] = []
    claimed: dict[int, list[NDArray[np.uint32]]] = {}
    lds = storage.lds if storage is not None else {}
    for volume in volumes:
        table = volume.table
        at = np.nonzero(table.slot_node == node)
        numbers, regions = table.slot_ld[at], table.slot_region[at]
        for number in np.unique(numbers).tolist():
            ld = lds.get(number)
            if ld is None:
                faults.append(f"volume {volume.name}: LD {number} of n{node} does not exist")
                continue
            if (ld.group, ld.region_bytes) != (volume.group, volume.region_bytes):
                faults.append(f"volume {volume.name}: LD {number} of n{node} is of another kind")
            claimed.setdefault(number, []).append(regions[numbers == number])
    for number, ld in sorted(lds.items()):
        none = np.empty(0, dtype=np.uint32)
        regions = np.concatenate([none, *claimed.get(number, [])])
        if len(regions) and int(regions.max()) >= ld.regions:
            faults.append(f"n{node} LD {number}: a region beyond its end is in use")
            continue
        count = np.bincount(regions, minlength=ld.regions)
        if np.any(count > 1):
            faults.append(f"n{node} LD {number}: region {count.argmax()} is used twice")
        if ld.space == Space.USER and np.any((count > 0) != ld.used):
            faults.append(f"n{node} LD {number}: its bitmap and the volumes do not agree")
    return faults
