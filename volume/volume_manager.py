"""plan: the volume manager: create, grow, remove, recruit. The single entry to this floor.

It lives inside the replicated catalog, equal on every node: it knows the disks of all nodes, so
that any of them expands a small catalog entry into the same arrays. Every refusal is raised by a
`plan_*` (or by the planning half of `allocate_slots` and its like) before anything has changed; a
plan holds the finished arrays, and applying it cannot fail half way. A plan is good only for the
state that it was made on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from base.errors import AlreadyExists, InvalidRequest, NoSpace, NotFound
from base.ids import NOBODY, VolumeId, node_name
from base.units import NODES_MAX, MiB
from volume.address_map import LoopUp, PhysicalBlock, physical_blocks
from volume.invariants import check_ld_regions
from volume.logical_disk import SNAPSHOT_EXTENT_PAGES, LogicalDisk, Space
from volume.node_storage import NodeAllocation, NodeStorage, PoolKey, require_fit
from volume.physical_disk import NodeInventory
from volume.provisioning_group import ProvisioningGroup
from volume.region_table import SLOTS, RegionTable
from volume.virtual_volume import (
    COPIES_MAX,
    DegradedPolicy,
    VirtualVolume,
    VolumeShape,
    check_name,
)

REGION_BYTES_DEFAULT: Final = 16 * MiB
SNAPSHOT_EXTENTS_WANTED: Final = 64
GROUPS_MAX: Final = 64
VOLUMES_MAX: Final = 4096

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class CreatePlan:
    """A volume to be, with the LD regions of all its copies."""

    volume: VolumeId
    name: str
    size_bytes: int
    shape: VolumeShape
    copies: int
    policy: DegradedPolicy
    group: str
    placement: NDArray[np.uint8]  # u8[regions, copies], owner first
    allocations: tuple[NodeAllocation, ...]  # by node
    generation: int


@dataclass(frozen=True, slots=True, eq=False)
class GrowPlan:
    """More regions for a volume; none when the last region had room."""

    volume: VolumeId
    size_bytes: int
    placement: NDArray[np.uint8]
    allocations: tuple[NodeAllocation, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class RemovePlan:
    """A volume to give up, with all its space."""

    volume: VolumeId
    generation: int


@dataclass(frozen=True, slots=True)
class GroupUse:
    """How full a group is, over all nodes, in bytes of its LDs."""

    ld_bytes: int
    used_bytes: int
    warning: bool
    limit_bytes: int


Plan = CreatePlan | GrowPlan | RemovePlan


class VolumeManager:
    """Nodes' disks, groups and volumes. Volumes are named by name or by number in every call."""

    def __init__(self) -> None:
        self.groups: dict[str, ProvisioningGroup] = {}
        self.nodes: dict[int, NodeStorage] = {}
        self.volumes: dict[int, VirtualVolume] = {}
        self.next_volume = 1  # numbers are never reused (I15)
        self._by_name: dict[str, int] = {}
        self._generation = 0  # of the state that a plan was made on; not part of the state

    # Nodes and groups.

    def has_node(self, node: int) -> bool:
        """Has the node reported its disks?"""
        return node in self.nodes

    def add_node(self, node: int, inventory: NodeInventory) -> None:
        """Take a node's disks in, all chunklets free."""
        if not 0 <= node < NODES_MAX:
            raise InvalidRequest(f"node {node} is not between 0 and {NODES_MAX - 1}")
        if node in self.nodes:
            raise AlreadyExists(f"{node_name(node)} has reported its disks already")
        storage = NodeStorage(node, inventory)
        for _, group in sorted(self.groups.items()):
            require_fit(group, storage)
        self.nodes[node] = storage
        self._generation += 1

    def replace_inventory(
        self,
        node: int,
        inventory: NodeInventory,
        version: int | None = None,
        *,
        accept_loss: bool = False,
    ) -> None:
        """The node came back with blank disks: its LDs are gone, and its slots are empty.

        InvalidRequest while it counts as an owner, member or joiner of a region. With accept_loss
        those regions lose it all the same, and the ones that had nobody else go offline for good:
        that is for an operator to say. version: stamped on the rows that change.
        """
        storage = NodeStorage(node, inventory, next_ld=self.storage(node).next_ld)
        for _, group in sorted(self.groups.items()):
            require_fit(group, storage)
        bit = np.uint8(1 << node)
        for volume in self.list_volumes():
            table = volume.table
            counted = (table.in_sync & bit != 0) | (table.owner == node) | (table.joiner == node)
            if counted.any() and not accept_loss:
                raise InvalidRequest(
                    f"{node_name(node)} still counts as a copy of {np.count_nonzero(counted)}"
                    f" regions of volume {volume.name}: drop it there first"
                )
        for volume in self.list_volumes():
            _forget_node(volume.table, node, version)
        self.nodes[node] = storage
        self._generation += 1

    def create_group(self, group: ProvisioningGroup) -> None:
        """A new pool of LDs. Refused when it exists or cannot have LDs on some node."""
        if group.name in self.groups:
            raise AlreadyExists(f"group {group.name} exists")
        if len(self.groups) >= GROUPS_MAX:
            raise InvalidRequest(f"there are {GROUPS_MAX} groups, and no more are possible")
        for _, storage in sorted(self.nodes.items()):
            require_fit(group, storage)
        self.groups[group.name] = group
        self._generation += 1

    # Look-ups.

    def storage(self, node: int) -> NodeStorage:
        """Disks and LDs of one node, or NotFound."""
        storage = self.nodes.get(node)
        if storage is None:
            raise NotFound(f"{node_name(node)} has not reported its disks")
        return storage

    def group(self, name: str) -> ProvisioningGroup:
        """The policy of a group, or NotFound."""
        group = self.groups.get(name)
        if group is None:
            raise NotFound(f"group {name} does not exist")
        return group

    def volume(self, volume: int | str) -> VirtualVolume:
        """By number or by name, or NotFound."""
        if isinstance(volume, str):
            found = self.volumes.get(self._by_name.get(volume, 0))  # 0 is never given
        else:
            found = self.volumes.get(volume)
        if found is None:
            raise NotFound(f"volume {volume} does not exist")
        return found

    def has_volume(self, volume: int | str) -> bool:
        """Does it exist?"""
        return (volume in self._by_name) if isinstance(volume, str) else (volume in self.volumes)

    def list_volumes(self) -> list[VirtualVolume]:
        """All, oldest first."""
        return [volume for _, volume in sorted(self.volumes.items())]

    def logical_disk(self, node: int, ld: int) -> LogicalDisk:
        """One LD, or NotFound."""
        found = self.storage(node).lds.get(ld)
        if found is None:
            raise NotFound(f"LD {ld} of {node_name(node)} does not exist")
        return found

    def group_use(self, name: str) -> GroupUse:
        """How full the group is."""
        group = self.group(name)
        ld_bytes = used_bytes = 0
        for ld in self._lds_of(name):
            ld_bytes += ld.size_bytes
            used_bytes += (ld.regions - ld.free_regions) * ld.region_bytes
        warning = bool(group.warning_bytes) and ld_bytes >= group.warning_bytes
        return GroupUse(ld_bytes, used_bytes, warning, group.limit_bytes)

    def free_bytes(self, group: str, node: int, region_bytes: int = REGION_BYTES_DEFAULT) -> int:
        """User space that volumes with such regions could still take on the node."""
        policy = self.group(group)
        key = PoolKey(group, Space.USER, region_bytes)
        return self.storage(node).free_bytes(policy, key, self._budget(policy))

    def _lds_of(self, group: str) -> Iterator[LogicalDisk]:
        for _, storage in sorted(self.nodes.items()):
            for _, ld in sorted(storage.lds.items()):
                if ld.group == group:
                    yield ld

    def _budget(self, group: ProvisioningGroup) -> int | None:
        """Bytes of LDs that the group may still make; None when it has no limit."""
        if not group.limit_bytes:
            return None
        made: int = sum(ld.size_bytes for ld in self._lds_of(group.name))
        return max(0, group.limit_bytes - made)

    # Snapshot space. An LD region of it is one extent; only the node knows which are used.

    def snapshot_disks(self, node: int, group: str, page_bytes: int) -> list[LogicalDisk]:
        """LDs for copied-out pages of that size, oldest first; none when the node is unknown."""
        storage = self.nodes.get(node)
        return [] if storage is None else storage.pool(_snapshot_key(group, page_bytes))

    def has_snapshot_room(self, node: int, group: str, page_bytes: int) -> bool:
        """The node has such LDs, or could be given one."""
        policy = self.group(group)
        key = _snapshot_key(group, page_bytes)
        storage = self.storage(node)
        return bool(storage.pool(key)) or storage.free_bytes(policy, key, self._budget(policy)) > 0

    def grow_snapshot_space(self, node: int, group: str, page_bytes: int) -> None:
        """One LD more, of at least one extent; where there is so much, of `growth_bytes` and of
        SNAPSHOT_EXTENTS_WANTED. NoSpace comes before anything changes."""
        policy = self.group(group)
        key = _snapshot_key(group, page_bytes)
        storage, budget = self.storage(node), self._budget(policy)
        row_bytes = policy.row_bytes(storage.inventory.chunklet_bytes)
        least = -(-key.region_bytes // row_bytes)
        wish = max(policy.growth_bytes, SNAPSHOT_EXTENTS_WANTED * key.region_bytes)
        rows = max(least, -(-wish // row_bytes))
        rows = min(rows, storage.rows_free(policy))
        if budget is not None:
            rows = min(rows, budget // row_bytes)
        if rows < least:
            raise storage.no_space(policy, key, 1, budget)
        count = rows * row_bytes // key.region_bytes
        storage.apply_allocation(storage.plan_regions(policy, key, count, rows), policy)
        self._generation += 1

    # Volumes.

    def plan_create(
        self,
        name: str,
        size_bytes: int,
        group: str,
        copies: int,
        page_bytes: int,
        l2_entries: int,
        l3_entries: int,
        policy: DegradedPolicy | str,
        placement: NDArray[Any],
    ) -> CreatePlan:
        """A volume whose region r has its owner on placement[r, 0] and its copy on placement[r, 1].

        placement: u8[regions, copies] with `VolumeShape.regions_for(size_bytes)` rows; NOBODY after
        the owner means that the copy is still to be recruited.
        """
        check_name(name)
        shape = VolumeShape(page_bytes, l2_entries, l3_entries)
        regions = shape.regions_for(size_bytes)
        if type(copies) is not int or not 1 <= copies <= COPIES_MAX:
            raise InvalidRequest(f"copies {copies!r} is not between 1 and {COPIES_MAX}")
        try:
            degraded = DegradedPolicy(policy)
        except ValueError:
            raise InvalidRequest(
                f"policy {policy!r} is not one of {', '.join(DegradedPolicy)}"
            ) from None
        if name in self._by_name:
            raise AlreadyExists(f"volume {name} exists")
        if len(self.volumes) >= VOLUMES_MAX:
            raise InvalidRequest(f"there are {VOLUMES_MAX} volumes, and no more are possible")
        self.group(group)
        placed = self._checked_placement(placement, regions, copies)
        allocations = self._plan_allocations(group, shape.region_bytes, placed)
        return CreatePlan(
            VolumeId(self.next_volume), name, size_bytes, shape, copies, degraded, group, placed,
            allocations, self._generation,
        )  # fmt: skip

    def plan_grow(self, volume: int | str, new_size: int, placement: NDArray[Any]) -> GrowPlan:
        """More bytes at the end. placement: as in `plan_create`, for the new regions only."""
        found = self.volume(volume)
        regions = found.shape.regions_for(new_size)
        if new_size <= found.size_bytes:
            raise InvalidRequest(
                f"volume {found.name} has {found.size_bytes} bytes and can only grow;"
                f" {new_size} is not more"
            )
        placed = self._checked_placement(placement, regions - found.regions, found.copies)
        allocations = self._plan_allocations(found.group, found.region_bytes, placed)
        return GrowPlan(found.volume, new_size, placed, allocations, self._generation)

    def plan_remove(self, volume: int | str) -> RemovePlan:
        """Give up the volume and every LD region of its copies, stale ones too."""
        return RemovePlan(self.volume(volume).volume, self._generation)

    def apply(self, plan: Plan, version: int) -> VirtualVolume:
        """Carry out a plan made on this very state. version: catalog version, stamped on new rows.

        Returns the volume; after a removal, as it was.
        """
        assert plan.generation == self._generation, "the plan was made on another state"
        self._generation += 1
        if isinstance(plan, RemovePlan):
            return self._remove(plan)
        if isinstance(plan, GrowPlan):
            volume = self.volumes[plan.volume]
            volume.table.grow(self._take(plan.placement, plan.allocations, volume.group, version))
            volume.size_bytes = plan.size_bytes
            return volume
        table = self._take(plan.placement, plan.allocations, plan.group, version)
        volume = VirtualVolume(
            plan.volume, plan.name, plan.size_bytes, plan.shape, plan.copies, plan.policy,
            plan.group, table,
        )  # fmt: skip
        self.volumes[plan.volume] = volume
        self._by_name[plan.name] = plan.volume
        self.next_volume = plan.volume + 1
        return volume

    def _remove(self, plan: RemovePlan) -> VirtualVolume:
        volume = self.volumes.pop(plan.volume)
        del self._by_name[volume.name]
        table = volume.table
        for node, storage in sorted(self.nodes.items()):
            rows, slots = np.nonzero(table.slot_node == node)
            if len(rows):
                storage.release(table.slot_ld[rows, slots], table.slot_region[rows, slots])
        return volume

    def _take(
        self,
        placement: NDArray[np.uint8],
        allocations: tuple[NodeAllocation, ...],
        group: str,
        version: int,
    ) -> RegionTable:
        """Take the planned LD regions and write the rows that use them."""
        table = RegionTable(len(placement))
        table.owner[:] = placement[:, 0]
        table.epoch[:] = 1
        table.version[:] = version
        table.slot_node[:, : placement.shape[1]] = placement
        for allocation in allocations:
            self.nodes[allocation.node].apply_allocation(allocation, self.groups[group])
            rows, slots = np.nonzero(placement == allocation.node)
            table.slot_ld[rows, slots] = allocation.ld
            table.slot_region[rows, slots] = allocation.ld_region
            table.slot_epoch[rows, slots] = 1
            table.in_sync[rows] |= np.uint8(1 << allocation.node)
        return table

    def _checked_placement(
        self, placement: NDArray[Any], regions: int, copies: int
    ) -> NDArray[np.uint8]:
        given = np.asarray(placement)
        if given.shape != (regions, copies) or given.dtype.kind not in "ui":
            raise InvalidRequest(
                f"placement: {regions} regions of {copies} node numbers are wanted,"
                f" not {given.dtype} of shape {given.shape}"
            )
        known = np.zeros(256, dtype=np.bool_)
        known[sorted(self.nodes)] = True
        if given.size and not (int(given.min()) >= 0 and int(given.max()) <= NOBODY):
            raise InvalidRequest("placement: a number is not a node")
        # A copy of its own: the caller's array may change between plan and apply.
        placed: NDArray[np.uint8] = given.astype(np.uint8, copy=True)
        present = known[placed]
        present[:, 1:] |= placed[:, 1:] == NOBODY
        if not present.all():
            region, column = (int(each[0]) for each in np.nonzero(~present))
            node = node_name(int(placed[region, column]))
            raise InvalidRequest(f"placement: region {region} on {node}, which has no disks here")
        if copies == COPIES_MAX:
            twice = np.flatnonzero(placed[:, 0] == placed[:, 1])
            if len(twice):
                raise InvalidRequest(f"placement: both copies of region {twice[0]} on one node")
        return placed

    def _plan_allocations(
        self, group_name: str, region_bytes: int, nodes: NDArray[np.uint8]
    ) -> tuple[NodeAllocation, ...]:
        """LD regions for every place in `nodes` that names a node. NoSpace names the first node
        that cannot, or the group when its limit stands in the way."""
        group = self.group(group_name)
        key = PoolKey(group_name, Space.USER, region_bytes)
        counts = np.bincount(nodes.ravel(), minlength=256)
        wanted = [(s, int(counts[n])) for n, s in sorted(self.nodes.items()) if counts[n]]
        least: list[int] = []
        for storage, count in wanted:
            rows = storage.rows_needed(group, key, count)
            if rows > (storage.rows_free(group) if rows else 0):
                raise storage.no_space(group, key, count, self._budget(group))
            least.append(rows)
        row_bytes = [group.row_bytes(s.inventory.chunklet_bytes) for s, _ in wanted]
        budget = self._budget(group)
        spare: int | None = None
        if budget is not None:
            spare = budget - sum(rows * size for rows, size in zip(least, row_bytes, strict=True))
            if spare < 0:
                raise NoSpace(
                    f"group {group.name}: its LDs may grow by {budget} bytes up to its limit of"
                    f" {group.limit_bytes}; {budget - spare} more are needed"
                )
        allocations: list[NodeAllocation] = []
        for (storage, count), rows, size in zip(wanted, least, row_bytes, strict=True):
            extra = 0
            if rows:
                # Growth beyond the need is a wish: it yields to what is free and to the limit.
                extra = max(0, -(-group.growth_bytes // size) - rows)
                extra = min(extra, storage.rows_free(group) - rows)
                if spare is not None:
                    extra = min(extra, spare // size)
                    spare -= extra * size
            allocations.append(storage.plan_regions(group, key, count, rows + extra))
        return tuple(allocations)

    # Copies that come and go.

    def allocate_slots(
        self,
        volume: int | str,
        regions: NDArray[Any],
        nodes: NDArray[Any] | int,
        version: int,
    ) -> None:
        """Give each listed region a slot on its node (or all on one), for a copy to be recruited.

        A region that has a slot there keeps it. When all three are taken, a stale one is freed.
        Rows get the version; `joiner` is for the caller to set. NoSpace or InvalidRequest come
        before anything changes.
        """
        found = self.volume(volume)
        table = found.table
        rows, per_row = self._pairs(found, regions, nodes)
        if len(np.unique(rows)) != len(rows):
            raise InvalidRequest(f"volume {found.name}: a region is listed twice")
        new = table.slots_of(rows, per_row) < 0
        rows_new, nodes_new = rows[new], per_row[new]
        empty = table.slot_node[rows_new] == NOBODY
        stale = table.stale_slots(rows_new)
        has_empty = empty.any(axis=1)
        blocked = np.flatnonzero(~has_empty & ~stale.any(axis=1))
        if len(blocked):
            raise InvalidRequest(
                f"volume {found.name} region {rows_new[blocked[0]]}: all {SLOTS} slots are in use"
            )
        allocations = self._plan_allocations(found.group, found.region_bytes, nodes_new)
        # Of two stale ones not that which may be the only one with all that was acknowledged.
        spared = stale & (table.slot_node[rows_new] != table.left[rows_new][:, None])
        freed = np.where(spared.any(axis=1), spared.argmax(axis=1), stale.argmax(axis=1))
        slots = np.where(has_empty, empty.argmax(axis=1), freed)
        for allocation in allocations:
            self.nodes[allocation.node].apply_allocation(allocation, self.groups[found.group])
        # Only now, so that an LD whose last region is freed here and taken above is not dissolved.
        self._free(table, rows_new[~has_empty], slots[~has_empty])
        for allocation in allocations:
            mine = nodes_new == allocation.node
            table.slot_node[rows_new[mine], slots[mine]] = allocation.node
            table.slot_ld[rows_new[mine], slots[mine]] = allocation.ld
            table.slot_region[rows_new[mine], slots[mine]] = allocation.ld_region
        # A copy that is being filled is of no epoch until it is in sync.
        joining = table.slots_of(rows, per_row)
        table.slot_epoch[rows, joining] = 0
        table.slot_short[rows, joining] = False
        table.version[rows] = version
        self._generation += 1

    def release_slots(
        self,
        volume: int | str,
        regions: NDArray[Any],
        nodes: NDArray[Any] | int,
        version: int | None = None,
    ) -> int:
        """Free the stale copies of the regions on those nodes; returns how many there were.

        A region without a slot there is passed over. InvalidRequest, and nothing changes, when one
        is an owner, member or joiner. version: stamped on the rows that change.
        """
        found = self.volume(volume)
        table = found.table
        rows, per_row = self._pairs(found, regions, nodes)
        pairs = np.unique(rows * 256 + per_row)
        rows, per_row = pairs // 256, (pairs % 256).astype(np.uint8)
        slots = table.slots_of(rows, per_row)
        held = slots >= 0
        rows, slots = rows[held], slots[held]
        stale = table.stale_slots(rows)[np.arange(len(rows)), slots]
        if not stale.all():
            region = rows[~stale][0]
            raise InvalidRequest(
                f"volume {found.name} region {region}: the copy on"
                f" {node_name(int(per_row[held][~stale][0]))} is in use"
            )
        self._free(table, rows, slots)
        if version is not None:
            table.version[rows] = version
        self._generation += 1
        return len(rows)

    def _pairs(
        self, volume: VirtualVolume, regions: NDArray[Any], nodes: NDArray[Any] | int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        rows = np.asarray(regions, dtype=np.int64).reshape(-1)
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < volume.regions):
            raise InvalidRequest(f"volume {volume.name} has regions 0 to {volume.regions - 1}")
        wanted = np.asarray(nodes, dtype=np.int64)
        if wanted.ndim and wanted.shape != rows.shape:
            raise InvalidRequest("regions and nodes are lists of different length")
        for node in np.unique(wanted).tolist():
            self.storage(node)
        return rows, np.broadcast_to(wanted, rows.shape).astype(np.uint8)

    def _free(self, table: RegionTable, rows: NDArray[Any], slots: NDArray[Any]) -> None:
        """Empty those slots and give their LD regions back."""
        nodes = table.slot_node[rows, slots]
        for node in np.unique(nodes).tolist():
            mine = nodes == node
            at = rows[mine], slots[mine]
            self.nodes[node].release(table.slot_ld[at], table.slot_region[at])
        table.left[rows[table.left[rows] == nodes]] = NOBODY
        table.slot_node[rows, slots] = NOBODY
        table.slot_ld[rows, slots] = 0
        table.slot_region[rows, slots] = 0
        table.slot_epoch[rows, slots] = 0
        table.slot_short[rows, slots] = False

    # Showing, keeping, checking.

    def map_address(
        self, volume: int | str, offset: int, loop_up: LoopUp | None = None
    ) -> list[PhysicalBlock]:
        """Every physical block behind one byte of a volume: owner first, then the other copies.

        loop_up(node, loop) says which loops are up; None takes all of them to be.
        """
        return physical_blocks(self.volume(volume), self.nodes, offset, loop_up)

    def to_bytes(self) -> bytes:
        """The whole state. Equal histories give equal bytes, on every node."""
        state = [
            _FORMAT,
            self.next_volume,
            [group.to_tuple() for _, group in sorted(self.groups.items())],
            [storage.to_plain() for _, storage in sorted(self.nodes.items())],
            [volume.to_plain() for volume in self.list_volumes()],
        ]
        packed: bytes = msgpack.packb(state)
        return packed

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> VolumeManager:
        """Inverse of `to_bytes`. InvalidRequest when it is not one, or breaks an invariant."""
        manager = cls()
        try:
            state = msgpack.unpackb(data)
            stored_format, manager.next_volume, groups, nodes, volumes = state
            if stored_format != _FORMAT or type(manager.next_volume) is not int:
                raise InvalidRequest(f"catalog state: not of format {_FORMAT}")
            for plain in groups:
                group = ProvisioningGroup(*plain)
                manager.groups[group.name] = group
            for plain in nodes:
                storage = NodeStorage.from_plain(plain, manager.groups)
                if storage.node in manager.nodes or not 0 <= storage.node < NODES_MAX:
                    raise ValueError(f"node {storage.node} is there twice or cannot be")
                manager.nodes[storage.node] = storage
            for plain in volumes:
                volume = VirtualVolume.from_plain(plain)
                manager.volumes[volume.volume] = volume
                manager._by_name[volume.name] = volume.volume
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise InvalidRequest(f"catalog state: {error!r}") from None
        faults = manager.check()
        if faults:
            raise InvalidRequest(f"catalog state: {faults[0]}")
        return manager

    def check(self) -> list[str]:
        """All invariants of this floor, in words; empty when all is well."""
        faults: list[str] = []
        for _, storage in sorted(self.nodes.items()):
            faults += storage.check()
        for volume in self.list_volumes():
            faults += [f"volume {volume.name}: {fault}" for fault in volume.table.check()]
            if volume.regions != volume.shape.regions_for(volume.size_bytes):
                faults.append(f"volume {volume.name}: its table and its size do not agree")
        for node in range(NODES_MAX):
            faults += check_ld_regions(node, self.nodes.get(node), self.list_volumes())
        names = {volume.name: number for number, volume in self.volumes.items()}
        if names != self._by_name or any(n >= self.next_volume for n in self.volumes):
            faults.append("volume names or numbers do not agree")
        return faults


def _snapshot_key(group: str, page_bytes: int) -> PoolKey:
    return PoolKey(group, Space.SNAPSHOT_DATA, SNAPSHOT_EXTENT_PAGES * page_bytes)


def _forget_node(table: RegionTable, node: int, version: int | None) -> None:
    """Strike a node from every row: its copies are gone."""
    bit = np.uint8(1 << node)
    slots = table.slot_node == node
    member = table.in_sync & bit != 0
    touched = slots.any(axis=1) | member | (table.owner == node) | (table.joiner == node)
    table.slot_node[slots] = NOBODY
    table.slot_ld[slots] = 0
    table.slot_region[slots] = 0
    table.slot_epoch[slots] = 0
    table.slot_short[slots] = False
    table.left[member | (table.left == node)] = NOBODY
    table.in_sync[member] &= np.uint8(~bit)
    table.joiner[table.joiner == node] = NOBODY
    # No owner is chosen here: the catalog does that. Until it has, the region is offline.
    orphan = table.owner == node
    table.owner[orphan] = NOBODY
    table.offline[orphan] = True
    if version is not None:
        table.version[touched] = version
