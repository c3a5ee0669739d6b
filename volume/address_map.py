"""plan: from a byte of a volume to every spindle that holds it, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from base.errors import InvalidRequest
from base.ids import NOBODY
from volume.node_storage import NodeStorage
from volume.physical_disk import Loop, path_for
from volume.virtual_volume import VirtualVolume

LoopUp = Callable[[int, Loop], bool]  # (node, loop)


@dataclass(frozen=True, slots=True)
class PhysicalBlock:
    """One place of one byte. `path` is the loop an I/O would take now, None when both are down.

    role: owner, replicant, joiner or stale. set_index counts the RAID sets of the LD, and its row
    is `row`; disk_offset is in bytes from the start of the disk.
    """

    node: int
    role: str
    region: int
    ld: int
    ld_region: int
    raid: int
    row: int
    set_index: int
    member: int
    disk: int
    cage: int
    sled: int
    slot: int
    path: str | None
    chunklet: int
    disk_offset: int


def _role(volume: VirtualVolume, region: int, node: int) -> str:
    table = volume.table
    if int(table.owner[region]) == node:
        return "owner"
    if int(table.in_sync[region]) >> node & 1:
        return "replicant"
    return "joiner" if int(table.joiner[region]) == node else "stale"


def physical_blocks(
    volume: VirtualVolume,
    nodes: Mapping[int, NodeStorage],
    offset: int,
    loop_up: LoopUp | None = None,
) -> list[PhysicalBlock]:
    """Owner first, then replicant, joiner and stale copies; of each, every member that has it."""
    if not 0 <= offset < volume.size_bytes:
        raise InvalidRequest(
            f"volume {volume.name} has bytes 0 to {volume.size_bytes - 1}, not {offset}"
        )
    region, within = divmod(offset, volume.region_bytes)
    table = volume.table
    blocks: list[PhysicalBlock] = []
    for slot_index, node in enumerate(table.slot_node[region].tolist()):
        if node == NOBODY:
            continue
        storage = nodes[node]
        ld = storage.lds[int(table.slot_ld[region, slot_index])]
        ld_region = int(table.slot_region[region, slot_index])
        for place in ld.members_at(ld_region * ld.region_bytes + within):
            disk = storage.inventory.disks[place.disk]

            def is_up(loop: Loop, node: int = node) -> bool:
                return loop_up is None or loop_up(node, loop)

            path = path_for(disk, is_up)
            blocks.append(
                PhysicalBlock(
                    node,
                    _role(volume, region, node),
                    region,
                    ld.ld,
                    ld_region,
                    ld.raid,
                    place.set_index // ld.row_size,
                    place.set_index,
                    place.member,
                    place.disk,
                    disk.cage,
                    disk.sled,
                    disk.slot,
                    str(path) if path else None,
                    place.chunklet,
                    place.disk_offset,
                )
            )
    order = ("owner", "replicant", "joiner", "stale")
    blocks.sort(key=lambda block: (order.index(block.role), block.node, block.member))
    return blocks
