"""plan: the disks of one node and the LDs made of them, as every node of the cluster knows them.

Questions (`plan_regions`) change nothing and raise NoSpace; `apply_allocation` and `release` cannot
fail. An LD that has no used region left is dissolved: its chunklets are free for any group again.
LD numbers are never reused, so an old number can never mean another LD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest, NoSpace
from base.ids import node_name
from base.units import format_size
from volume.chunklet import NO_LD, ChunkletState, ChunkletTable
from volume.logical_disk import LogicalDisk, Space
from volume.physical_disk import NodeInventory
from volume.provisioning_group import ProvisioningGroup, choose_chunklets, rows_possible
from volume.raid import level_of


@dataclass(frozen=True, slots=True)
class PoolKey:
    """LDs that can stand in for each other: one group, one use, one region size."""

    group: str
    space: Space
    region_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class NewLogicalDisk:
    """An LD that an allocation makes. `chunklets` is i32[sets, set_size, 2]."""

    ld: int
    key: PoolKey
    chunklets: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class NodeAllocation:
    """LD regions on one node: `ld` u32[k] and `ld_region` u32[k], ascending, and what to make."""

    node: int
    ld: NDArray[np.uint32]
    ld_region: NDArray[np.uint32]
    new: NewLogicalDisk | None


class NodeStorage:
    """One node's inventory, chunklet tables (by disk) and LDs (by number)."""

    __slots__ = ("_plain_inventory", "inventory", "lds", "next_ld", "node", "tables")

    def __init__(self, node: int, inventory: NodeInventory, next_ld: int = 0) -> None:
        self.node = node
        self.inventory = inventory
        self._plain_inventory = inventory.to_tuple()  # it never changes
        self.tables = [
            ChunkletTable.blank(disk.chunklets, disk.spare_chunklets) for disk in inventory.disks
        ]
        self.lds: dict[int, LogicalDisk] = {}
        self.next_ld = next_ld

    def pool(self, key: PoolKey) -> list[LogicalDisk]:
        """The LDs of a pool, oldest first."""
        return [
            ld
            for _, ld in sorted(self.lds.items())
            if ld.group == key.group
            and ld.space == key.space
            and ld.region_bytes == key.region_bytes
        ]

    def free_chunklets(self) -> NDArray[np.int64]:
        """Per disk; spares are not free."""
        return np.array([t.count(ChunkletState.FREE) for t in self.tables], dtype=np.int64)

    def free_in_lds(self, key: PoolKey) -> int:
        """Free LD regions in LDs that exist."""
        return sum(ld.free_regions for ld in self.pool(key))

    def rows_free(self, group: ProvisioningGroup) -> int:
        """Rows that free chunklets can still make."""
        return rows_possible(self.free_chunklets(), group.set_size, group.row_size)

    def rows_needed(self, group: ProvisioningGroup, key: PoolKey, count: int) -> int:
        """Rows to make so that `count` regions fit."""
        missing = count - self.free_in_lds(key)
        if missing <= 0:
            return 0
        return -(-missing * key.region_bytes // group.row_bytes(self.inventory.chunklet_bytes))

    def free_bytes(self, group: ProvisioningGroup, key: PoolKey, budget: int | None) -> int:
        """What could be allocated, in whole regions. budget: bytes of new LDs allowed, or None."""
        row_bytes = group.row_bytes(self.inventory.chunklet_bytes)
        rows = self.rows_free(group)
        if budget is not None:
            rows = min(rows, budget // row_bytes)
        regions = self.free_in_lds(key) + rows * row_bytes // key.region_bytes
        return regions * key.region_bytes

    def plan_regions(
        self, group: ProvisioningGroup, key: PoolKey, count: int, rows: int
    ) -> NodeAllocation:
        """`count` LD regions: from LDs that exist, oldest first, then from a new LD of `rows`.

        rows: at least `rows_needed`; 0 when nothing is to be made. NoSpace says what is free.
        """
        lds: list[NDArray[np.uint32]] = []
        regions: list[NDArray[np.uint32]] = []
        left = count
        for ld in self.pool(key):
            if left and ld.free_regions:
                indices = ld.free_indices(left)
                lds.append(np.full(len(indices), ld.ld, dtype=np.uint32))
                regions.append(indices.astype(np.uint32))
                left -= len(indices)
        new: NewLogicalDisk | None = None
        if left:
            assert rows >= self.rows_needed(group, key, count)
            chunklets = choose_chunklets(group, self.inventory, self.tables, rows)
            if chunklets is None:
                raise self.no_space(group, key, count, None)
            new = NewLogicalDisk(self.next_ld, key, chunklets)
            lds.append(np.full(left, new.ld, dtype=np.uint32))
            regions.append(np.arange(left, dtype=np.uint32))
        none = np.empty(0, dtype=np.uint32)
        return NodeAllocation(
            self.node, np.concatenate([none, *lds]), np.concatenate([none, *regions]), new
        )

    def no_space(
        self, group: ProvisioningGroup, key: PoolKey, count: int, budget: int | None
    ) -> NoSpace:
        """The refusal, with what is free."""
        free = self.free_bytes(group, key, budget)
        return NoSpace(
            f"group {group.name} on {node_name(self.node)}: {format_size(count * key.region_bytes)}"
            f" needed, {format_size(free)} free"
        )

    def apply_allocation(self, allocation: NodeAllocation, group: ProvisioningGroup) -> None:
        """Take what was planned. The plan was made on this very state, so it cannot fail."""
        assert allocation.node == self.node
        new = allocation.new
        if new is not None:
            assert new.ld == self.next_ld
            self.next_ld += 1
            self._make(new, group)
        for ld in np.unique(allocation.ld):
            self.lds[int(ld)].take(allocation.ld_region[allocation.ld == ld])

    def _make(self, new: NewLogicalDisk, group: ProvisioningGroup) -> None:
        for disk, numbers in _by_disk(new.chunklets):
            self.tables[disk].allocate(numbers, new.ld)
        self.lds[new.ld] = LogicalDisk(
            ld=new.ld,
            node=self.node,
            group=group.name,
            space=new.key.space,
            raid=group.raid,
            row_size=group.row_size,
            step_bytes=group.step_bytes,
            chunklet_bytes=self.inventory.chunklet_bytes,
            region_bytes=new.key.region_bytes,
            chunklets=new.chunklets,
        )

    def release(self, lds: NDArray[Any], regions: NDArray[Any]) -> None:
        """Give LD regions back, and dissolve the LDs that this leaves empty."""
        for number in np.unique(lds):
            ld = self.lds[int(number)]
            ld.give_back(regions[lds == number])
            if ld.free_regions == ld.regions:
                for disk, numbers in _by_disk(ld.chunklets):
                    self.tables[disk].release(numbers, ld.ld)
                del self.lds[ld.ld]

    def to_plain(self) -> list[object]:
        """Plain lists, ints and bytes, in a fixed order."""
        return [
            self.node,
            self._plain_inventory,
            self.next_ld,
            [table.state.tobytes() for table in self.tables],
            [_ld_to_plain(ld) for _, ld in sorted(self.lds.items())],
        ]

    @classmethod
    def from_plain(cls, plain: Any, groups: dict[str, ProvisioningGroup]) -> NodeStorage:
        """Inverse of `to_plain`. ValueError, TypeError, KeyError or InvalidRequest if it is not."""
        node, inventory, next_ld, states, lds = plain
        storage = cls(int(node), NodeInventory.from_tuple(inventory), int(next_ld))
        if len(states) != len(storage.tables):
            raise ValueError("a chunklet table for every disk is wanted")
        for table, raw in zip(storage.tables, states, strict=True):
            state = np.frombuffer(raw, dtype=np.uint8)
            if state.shape != table.state.shape:
                raise ValueError("a chunklet table has another length than its disk")
            table.state[:] = state
        for each in lds:
            ld = storage._ld_from_plain(each, groups)
            if ld.ld in storage.lds or ld.ld >= storage.next_ld:
                raise ValueError("an LD number is used twice or was never given")
            storage.lds[ld.ld] = ld
            for disk, numbers in _by_disk(ld.chunklets):
                if not (0 <= disk < len(storage.tables) and numbers.min() >= 0):
                    raise ValueError("an LD lies on a disk or chunklet that does not exist")
                table = storage.tables[disk]
                if numbers.max() >= len(table) or np.any(table.ld[numbers] != NO_LD):
                    raise ValueError("an LD lies on a chunklet that is missing or taken")
                table.ld[numbers] = ld.ld
        return storage

    def _ld_from_plain(self, plain: Any, groups: dict[str, ProvisioningGroup]) -> LogicalDisk:
        number, group_name, space, region_bytes, sets, chunklets, packed = plain
        group = groups[group_name]
        if (
            not (type(number) is int and 0 <= number < NO_LD and type(sets) is int and sets > 0)
            or sets % group.row_size
        ):
            raise ValueError("an LD has no possible number or rows")
        if type(region_bytes) is not int or region_bytes <= 0 or group.fits(self.inventory):
            raise ValueError("an LD does not fit its group")
        shape = (sets, group.set_size, 2)
        places = np.frombuffer(chunklets, dtype="<i4").astype(np.int32).reshape(shape)
        data = level_of(group.raid).data_members(group.set_size)
        regions = sets * data * self.inventory.chunklet_bytes // region_bytes
        if len(packed) != -(-regions // 8):
            raise ValueError("an LD's bitmap has another length than its regions")
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=regions)
        return LogicalDisk(
            ld=number,
            node=self.node,
            group=group_name,
            space=Space(space),
            raid=group.raid,
            row_size=group.row_size,
            step_bytes=group.step_bytes,
            chunklet_bytes=self.inventory.chunklet_bytes,
            region_bytes=region_bytes,
            chunklets=places,
            used=bits.astype(np.bool_),
        )

    def check(self) -> list[str]:
        """Broken invariants of chunklets and LDs, in words."""
        faults: list[str] = []
        where = node_name(self.node)
        for disk, table in enumerate(self.tables):
            faults += [f"{where} disk {disk}: {fault}" for fault in table.check()]
        claimed = [np.zeros(len(table), dtype=np.int64) for table in self.tables]
        for number, ld in sorted(self.lds.items()):
            for disk, numbers in _by_disk(ld.chunklets):
                np.add.at(claimed[disk], numbers, 1)
                if (self.tables[disk].ld[numbers] != number).any():
                    faults.append(f"{where} LD {number}: a chunklet of disk {disk} is not its own")
            disks = np.sort(ld.chunklets[:, :, 0], axis=1)
            if (disks[:, 1:] == disks[:, :-1]).any():
                faults.append(f"{where} LD {number}: two members of a RAID set are on one disk")
            if ld.free_regions != ld.regions - int(np.count_nonzero(ld.used)):
                faults.append(f"{where} LD {number}: its count of free regions is wrong")
        for disk, count in enumerate(claimed):
            if (count > 1).any():
                faults.append(f"{where} disk {disk}: chunklet {count.argmax()} is used twice")
            if ((count > 0) != (self.tables[disk].ld != NO_LD)).any():
                faults.append(f"{where} disk {disk}: a chunklet is held for an LD that is gone")
        return faults


def _by_disk(chunklets: NDArray[np.int32]) -> list[tuple[int, NDArray[np.int32]]]:
    places = chunklets.reshape(-1, 2)
    return [(int(disk), places[places[:, 0] == disk, 1]) for disk in np.unique(places[:, 0])]


def _ld_to_plain(ld: LogicalDisk) -> list[object]:
    return [
        ld.ld,
        ld.group,
        int(ld.space),
        ld.region_bytes,
        int(ld.chunklets.shape[0]),
        ld.chunklets.astype("<i4", copy=False).tobytes(),
        np.packbits(ld.used).tobytes(),
    ]


def require_fit(group: ProvisioningGroup, storage: NodeStorage) -> None:
    """InvalidRequest when the node's disks cannot carry LDs of the group."""
    reason = group.fits(storage.inventory)
    if reason is not None:
        raise InvalidRequest(f"group {group.name} on {node_name(storage.node)}: {reason}")
