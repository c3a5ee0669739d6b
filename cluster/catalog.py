"""plan: the catalog: what exists, who is up and who owns what, the same on every node.

A deterministic state machine behind the consensus log. `apply` never fails half way: an entry is
decoded and checked, then everything it needs is planned on arrays (any refusal is raised there and
becomes the result, the same on every node), and only then written. No clock, no randomness, no
floats, no iteration over sets. What happens to region rows is in `cluster.region_rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from base.errors import AlreadyExists, InvalidRequest, NoSpace, NotFound, StorageError
from base.ids import NOBODY, VolumeId, node_name
from base.units import NODES_MAX, format_size
from cluster import entries as log
from cluster import region_rules as rules
from cluster import snapshot_space
from cluster.effects import (
    Applied,
    CopiesDropped,
    Effect,
    NodeChanged,
    PairCut,
    Regions,
    RegionsChanged,
    RegionsForced,
    RegionsLost,
    RegionsReduced,
    RegionsReturned,
    VolumeCreated,
    VolumeGrown,
    VolumeRemoved,
)
from cluster.placement import U8, place, preferences
from cluster.region_rules import RowChange
from cluster.snapshots import Snapshots
from snapshot.refs import split_ref
from snapshot.tree import View, ViewKind
from volume.region_table import RegionRow
from volume.virtual_volume import VirtualVolume, VolumeShape
from volume.volume_manager import VolumeManager

_FORMAT: Final = 4


class Liveness(IntEnum):
    """What the catalog says of a node. The numbers are stored."""

    ABSENT = 0  # belongs to the cluster and has never reported
    UP = 1
    DOWN = 2


class NodeState(NamedTuple):
    """A node and the last of its lives that the catalog knows."""

    liveness: Liveness
    incarnation: int  # -1 when it was never up


class Loss(NamedTuple):
    """What an operator accepted for one region: everything that was acknowledged in epochs after
    `copy_epoch` and before `epoch` is lost. The checkers hold the cluster to it (I34)."""

    version: int  # of the catalog
    epoch: int  # the region's new one
    node: int  # whose copy opened
    copy_epoch: int  # the last epoch of that copy; 0: it opened empty
    waited_for: int  # bits of the nodes that had all of it; 0: it was lost already
    short: bool = False  # the copy had lost what it had not synced: more may be missing


class Pins(NamedTuple):
    """The nodes that an operator named for every region of a volume; -1: none."""

    owner: int
    replicant: int


NO_PINS: Final = Pins(-1, -1)


class InvolvedRows(NamedTuple):
    """The rows of one volume in which a node is member, joiner or waited for; ascending."""

    volume: VolumeId
    regions: Regions


Outcome = tuple[Any, list[Effect]]


class Catalog:
    """Replicated state. Everything but `apply`, `pass_over` and `from_bytes` only reads."""

    def __init__(self) -> None:
        self.version = 0  # index of the last applied entry
        self.cluster_id = ""
        self.nodes: tuple[int, ...] = ()  # of the cluster, ascending
        self.domains: tuple[int, ...] = tuple(range(NODES_MAX))  # by node number
        self.volume_manager = VolumeManager()
        self.snapshots = Snapshots()
        self.rebalancing = False  # an operator wants copies and owners to go home
        self.lives = [NodeState(Liveness.ABSENT, -1)] * NODES_MAX  # by node; to read only
        self.up_mask = 0  # a bit for each node that is up
        self._up: tuple[int, ...] = ()  # the same, ascending
        # Version at which each pair was last cut; symmetric.
        self._cuts: NDArray[np.uint64] = np.zeros((NODES_MAX, NODES_MAX), dtype=np.uint64)
        self._pins: dict[int, Pins] = {}
        self._losses: dict[int, dict[int, Loss]] = {}  # by volume and region, the last one

    # Applying.

    def apply(self, index: int, payload: bytes) -> Applied:
        """Carry out the entry at `index` of the log, or refuse it; `version` becomes `index`."""
        assert index > self.version, "entries are applied in order, once"
        try:
            result, effects = self._dispatch(log.decode(payload), index)
        except StorageError as error:
            if not error.definite:
                raise  # a bug: only what certainly did not happen can be refused
            self.version = index
            return Applied(refusal=(error.code, str(error)))
        self.version = index
        return Applied(result=result, effects=effects)

    def pass_over(self, index: int) -> None:
        """An entry of the log that is not for the catalog (consensus has some of its own)."""
        assert index > self.version, "entries are applied in order, once"
        self.version = index

    def _dispatch(self, entry: log.Entry, index: int) -> Outcome:
        if isinstance(entry, log.FormCluster):
            return self._form(entry)
        if not self.cluster_id:
            raise InvalidRequest("the cluster is not formed yet")
        match entry:
            case log.NodeUp():
                return self._node_up(entry, index)
            case log.NodeDown():
                return self._node_down(entry, index)
            case log.CutPair():
                return self._cut_pair(entry, index)
            case log.CreateGroup():
                group = log.group_of(entry.group)
                self.volume_manager.create_group(group)
                return group.name, []
            case log.CreateVolume():
                return self._create_volume(entry, index)
            case log.GrowVolume():
                return self._grow_volume(entry, index)
            case log.RemoveVolume():
                plan = self.volume_manager.plan_remove(entry.volume)
                name = self.volume_manager.volume(entry.volume).name
                self.snapshots.check_removable(entry.volume, name)
                removed = self.volume_manager.apply(plan, index)
                self._pins.pop(removed.volume, None)
                self._losses.pop(removed.volume, None)
                self.snapshots.forget(removed.volume)
                return {"volume": removed.volume}, [VolumeRemoved(removed.volume)]
            case log.RecruitCopies() | log.RehomeCopies():
                return self._recruit(entry, index)
            case log.AdmitCopies() | log.CancelJoins() | log.MoveOwners() | log.DropCopies():
                return self._change_rows(entry, index)
            case log.ReleaseCopies():
                return self._release(entry, index)
            case log.ForceOpen():
                return self._force_open(entry, index)
            case log.Rebalance():
                self.rebalancing = entry.wanted
                return {"rebalancing": entry.wanted}, []
            case log.GrowSnapshotSpace():
                return {"lds": snapshot_space.grow(self.volume_manager, entry)}, []
            case log.BeginCut():
                return self._begin_cut(entry, index)
            case _:
                return self.snapshots.apply(entry, index, self.volume_manager)

    def _begin_cut(self, entry: log.BeginCut, index: int) -> Outcome:
        manager = self.volume_manager
        volumes = [volume for volume, _, _ in entry.members]
        snapshot_space.check_room(manager, volumes)
        outcome = self.snapshots.apply(entry, index, manager)
        pools = snapshot_space.pools_of(manager, volumes)
        snapshot_space.give(manager, pools, sorted(manager.nodes))
        return outcome

    def _form(self, entry: log.FormCluster) -> Outcome:
        if self.cluster_id:
            raise AlreadyExists(f"the cluster is formed already: {self.cluster_id}")
        nodes = tuple(node for node, _ in entry.nodes)
        if list(nodes) != sorted(set(nodes)):
            raise InvalidRequest("the nodes of a cluster are listed once each, ascending")
        groups = [log.group_of(each) for each in entry.groups]
        names = [group.name for group in groups]
        if len(names) != len(set(names)):
            raise InvalidRequest("two groups have the same name")
        for group in groups:
            self.volume_manager.create_group(group)
        self.cluster_id = entry.cluster_id
        self.nodes = nodes
        domains = list(range(log.DOMAINS_MAX, log.DOMAINS_MAX + NODES_MAX))
        for node, domain in entry.nodes:
            domains[node] = domain
        self.domains = tuple(domains)
        return entry.cluster_id, [NodeChanged(node) for node in nodes]

    # Nodes that come and go.

    def _node_up(self, entry: log.NodeUp, index: int) -> Outcome:
        node, manager = entry.node, self.volume_manager
        if node not in self.nodes:
            raise NotFound(f"{node_name(node)} does not belong to the cluster")
        known = self.lives[node]
        if entry.incarnation <= known.incarnation:
            raise InvalidRequest(
                f"{node_name(node)}: life {entry.incarnation} is not later than the known"
                f" {known.incarnation}"
            )
        if entry.intact and entry.blank:
            raise InvalidRequest(f"{node_name(node)}: a blank store cannot be intact")
        inventory = log.inventory_of(entry.inventory)
        known_disks = manager.has_node(node)
        if known_disks and not entry.blank and manager.storage(node).inventory != inventory:
            raise InvalidRequest(
                f"{node_name(node)}: its disks are not those that it reported before, and its store"
                " is not blank"
            )
        up = self.up_mask & ~(1 << node)
        changes: list[tuple[VirtualVolume, RowChange, Regions]] = []
        for volume in manager.list_volumes():
            table = volume.table
            change = rules.node_up(
                table, node, up, self._order_of(volume), intact=entry.intact, blank=entry.blank,
                known=entry.known,
            )  # fmt: skip
            emptied = table.regions_of(node) if entry.blank else change.regions
            changes.append((volume, change, emptied))
        # Both refuse before they change anything, and they are the last that can.
        if not known_disks:
            manager.add_node(node, inventory)
        elif entry.blank:
            manager.replace_inventory(node, inventory, index, accept_loss=True)
        snapshot_space.give(manager, snapshot_space.pools_of(manager, self.snapshots.trees), [node])
        self._set_life(node, NodeState(Liveness.UP, entry.incarnation))
        effects: list[Effect] = [NodeChanged(node)]
        counts = {"changed": 0, "reduced": 0, "returned": 0, "lost": 0}
        for volume, change, emptied in changes:
            self._write(volume, change, index)
            if not entry.intact:
                volume.table.note_lost_power(node)
            changed = np.union1d(change.regions, emptied)
            _note(effects, counts, volume, changed, change)
        return counts, effects

    def _node_down(self, entry: log.NodeDown, index: int) -> Outcome:
        node = entry.node
        self._require_up(node, entry.incarnation)
        up = self.up_mask & ~(1 << node)
        changes = [
            (volume, rules.node_down(volume.table, node, up, self._order_of(volume)))
            for volume in self.volume_manager.list_volumes()
        ]
        self._set_life(node, NodeState(Liveness.DOWN, entry.incarnation))
        effects: list[Effect] = [NodeChanged(node)]
        counts = {"changed": 0, "offline": 0}
        for volume, change in changes:
            self._write(volume, change, index)
            counts["offline"] += int(np.count_nonzero(change.offline))
            _note(effects, counts, volume, change.regions, change)
        return counts, effects

    def _cut_pair(self, entry: log.CutPair, index: int) -> Outcome:
        first, second = entry.reporter, entry.about
        if first == second:
            raise InvalidRequest(f"{node_name(first)} cannot be cut off from itself")
        self._require_up(first, entry.reporter_incarnation)
        self._require_up(second, entry.about_incarnation)
        changes = [
            (volume, rules.cut_pair(volume.table, first, second))
            for volume in self.volume_manager.list_volumes()
        ]
        self._cuts[first, second] = self._cuts[second, first] = index
        effects: list[Effect] = [PairCut(first, second)]
        counts = {"changed": 0}
        for volume, change in changes:
            self._write(volume, change, index)
            _note(effects, counts, volume, change.regions, change)
        return counts, effects

    def _set_life(self, node: int, state: NodeState) -> None:
        self.lives[node] = state
        self._count_up()

    def _count_up(self) -> None:
        self._up = tuple(n for n in self.nodes if self.lives[n].liveness is Liveness.UP)
        self.up_mask = sum(1 << n for n in self._up)

    def _require_up(self, node: int, incarnation: int) -> None:
        state = self.lives[node]
        if state != (Liveness.UP, incarnation):
            raise InvalidRequest(
                f"void: life {incarnation} of {node_name(node)} is not up; the catalog has it"
                f" {state.liveness.name.lower()} with life {state.incarnation}"
            )

    # Volumes.

    def _create_volume(self, entry: log.CreateVolume, index: int) -> Outcome:
        manager = self.volume_manager
        if manager.has_volume(entry.name):
            raise AlreadyExists(f"volume {entry.name} exists")
        if entry.owner >= 0 and not self.up_mask >> entry.owner & 1:
            raise InvalidRequest(
                f"volume {entry.name}: {node_name(entry.owner)} is to own it and is not up"
            )
        among = self._pinned_nodes(entry)
        shape = VolumeShape(entry.page_bytes, entry.l2_entries, entry.l3_entries)
        regions = np.arange(shape.regions_for(entry.size_bytes))
        placement = self._place_in_space(
            entry.name, manager.next_volume, regions, entry.copies, entry.group,
            shape.region_bytes, entry.owner, among,
        )  # fmt: skip
        plan = manager.plan_create(
            entry.name, entry.size_bytes, entry.group, entry.copies, entry.page_bytes,
            entry.l2_entries, entry.l3_entries, entry.policy, placement,
        )  # fmt: skip
        volume = manager.apply(plan, index).volume
        if entry.owner >= 0:
            self._pins[volume] = Pins(entry.owner, entry.replicant)
        return {"volume": volume}, [VolumeCreated(volume)]

    def _pinned_nodes(self, entry: log.CreateVolume) -> int:
        """Bits of the nodes that may hold copies of the new volume."""
        if entry.replicant < 0:
            return self.up_mask
        if entry.copies != 2 or entry.owner < 0 or entry.replicant == entry.owner:
            raise InvalidRequest(
                f"volume {entry.name}: a replicant is named only for two copies, with another owner"
            )
        if not self.up_mask >> entry.replicant & 1:
            raise InvalidRequest(
                f"volume {entry.name}: {node_name(entry.replicant)} is to hold it and is not up"
            )
        return 1 << entry.owner | 1 << entry.replicant

    def _grow_volume(self, entry: log.GrowVolume, index: int) -> Outcome:
        manager = self.volume_manager
        found = manager.volume(entry.volume)
        regions = np.arange(found.regions, found.shape.regions_for(entry.size_bytes))
        placement = self._place_in_space(
            found.name, found.volume, regions, found.copies, found.group, found.region_bytes, -1,
            self.up_mask,
        )  # fmt: skip
        plan = manager.plan_grow(found.volume, entry.size_bytes, placement)
        manager.apply(plan, index)
        return {"volume": found.volume}, [VolumeGrown(found.volume)]

    def _place_in_space(
        self, name: str, number: int, regions: NDArray[Any], copies: int, group: str,
        region_bytes: int, owner: int, among: int,
    ) -> U8:  # fmt: skip
        """Placement by hash over the nodes that are up and have the space for their share. Nodes
        that lack it are left out, then the shares are larger: at most one round for each node."""
        room = self.room(group, region_bytes)
        live = among
        # A hopeless size is refused before it is placed: the arrays would be as large as it.
        rounds = NODES_MAX + 1 if len(regions) * copies <= int(room.sum()) else 0
        for _ in range(rounds):
            placed = place(
                number, regions, copies, nodes=self.nodes, live=live, domains=self.domains,
                pinned_owner=owner,
            )  # fmt: skip
            if (placed == NOBODY).any():
                break
            shares = np.bincount(placed.ravel(), minlength=NODES_MAX)
            short = [node for node in range(NODES_MAX) if shares[node] > room[node]]
            if not short:
                return placed
            live &= ~sum(1 << node for node in short)
            if owner in short:
                break
        apart = len({self.domains[node] for node in self.up_nodes()})
        if apart < copies:
            raise NoSpace(
                f"volume {name}: {copies} copies want as many failure domains; {apart} are up"
            )
        free = ", ".join(
            f"{node_name(node)} {format_size(int(room[node]) * region_bytes)}"
            for node in self.up_nodes()
        )
        raise NoSpace(
            f"volume {name}: {copies} copies of {format_size(len(regions) * region_bytes)}"
            f" do not fit into group {group}; free are {free}"
        )

    # Copies that join, and owners that move.

    def _recruit(self, entry: log.RecruitCopies | log.RehomeCopies, index: int) -> Outcome:
        manager = self.volume_manager
        volume = manager.volume(entry.volume)
        asked = np.frombuffer(entry.regions, dtype="<u4").astype(np.intp)
        rule = rules.rehome if isinstance(entry, log.RehomeCopies) else rules.recruit
        regions, nodes = rule(
            volume.table,
            asked,
            np.frombuffer(entry.nodes, dtype=np.uint8),
            volume.copies,
            self.up_mask,
            self.domains,
        )
        limit = len(regions)
        while limit:  # halves each time: at most 17 rounds
            try:
                manager.allocate_slots(volume.volume, regions[:limit], nodes[:limit], index)
                break
            except NoSpace:
                if limit == 1:
                    raise
                limit //= 2
        volume.table.joiner[regions[:limit]] = nodes[:limit]
        counts = {"recruited": limit, "skipped": len(asked) - limit}
        effects: list[Effect] = []
        if limit:
            effects.append(RegionsChanged(volume.volume, regions[:limit]))
        return counts, effects

    def _change_rows(
        self,
        entry: log.AdmitCopies | log.CancelJoins | log.MoveOwners | log.DropCopies,
        index: int,
    ) -> Outcome:
        volume = self.volume_manager.volume(entry.volume)
        rows = log.unpack_rows(entry.rows)
        match entry:
            case log.AdmitCopies():
                change = rules.admit(
                    volume.table, rows, volume.copies, self.domains, self._order_of(volume)
                )
            case log.CancelJoins():
                change = rules.cancel_joins(volume.table, rows)
            case log.MoveOwners():
                change = rules.move_owners(volume.table, rows, self.up_mask)
            case log.DropCopies():
                change = rules.drop(volume.table, rows, self.up_mask, self._order_of(volume))
        self._write(volume, change, index)
        result = {
            "regions": change.regions.astype("<u4").tobytes(),
            "skipped": len(rows) - len(change.regions),
        }
        effects: list[Effect] = []
        if len(change.regions):
            effects.append(RegionsChanged(volume.volume, change.regions))
            if isinstance(entry, log.DropCopies):
                dropped = (change.release_regions, change.release_nodes)
                effects.append(CopiesDropped(volume.volume, *dropped))
        return result, effects

    def _release(self, entry: log.ReleaseCopies, index: int) -> Outcome:
        volume = self.volume_manager.volume(entry.volume)
        rows = log.unpack_rows(entry.rows)
        regions, nodes = rules.release(volume.table, rows)
        self.volume_manager.release_slots(volume.volume, regions, nodes, index)
        effects: list[Effect] = []
        if len(regions):
            effects.append(RegionsChanged(volume.volume, regions))
        return {"released": len(regions), "skipped": len(rows) - len(regions)}, effects

    def _force_open(self, entry: log.ForceOpen, index: int) -> Outcome:
        manager = self.volume_manager
        volume, rows = manager.volume(entry.volume), log.unpack_rows(entry.rows)
        table = volume.table
        epochs = np.frombuffer(entry.copy_epochs, dtype="<u4")
        change, held = rules.force_open(table, rows, epochs, self.up_mask)
        empty = np.flatnonzero(held == 0)
        if len(empty):  # refuses before it changes anything
            regions = change.regions[empty]
            manager.allocate_slots(volume.volume, regions, change.owner[empty], index)
        slots = table.slots_of(change.regions, change.owner)
        short = (slots >= 0) & table.slot_short[change.regions, slots]
        losses = self._losses.setdefault(volume.volume, {}) if len(held) else {}
        for at, region in enumerate(change.regions.tolist()):
            losses[region] = Loss(
                index, int(table.epoch[region]) + 1, int(change.owner[at]), int(held[at]),
                int(table.in_sync[region]), bool(short[at]),
            )  # fmt: skip
        self._write(volume, change, index)
        effects: list[Effect] = []
        if len(held):
            effects.append(RegionsChanged(volume.volume, change.regions))
            effects.append(RegionsForced(volume.volume, change.regions))
        opened = change.regions.astype("<u4").tobytes()
        return {"regions": opened, "skipped": len(rows) - len(held)}, effects

    def _write(self, volume: VirtualVolume, change: RowChange, index: int) -> None:
        """Cannot fail: a `RowChange` is finished arrays."""
        table, regions = volume.table, change.regions
        if len(regions):
            rules.part_joiners(change, self.domains)
            gone = table.in_sync[regions] & ~change.in_sync
            fewer = gone != 0
            one = np.bitwise_count(gone) == 1
            whole = rules.LOWEST[gone] if change.whole else np.full(len(gone), NOBODY, np.uint8)
            table.left[regions[fewer]] = np.where(one, whole, NOBODY)[fewer]
            table.left_version[regions[fewer]] = index
            table.owner[regions] = change.owner
            table.in_sync[regions] = change.in_sync
            table.joiner[regions] = change.joiner
            table.offline[regions] = change.offline
            table.epoch[regions] += np.uint32(1)
            table.version[regions] = index
            table.note_members(regions)
        if len(change.release_regions):
            self.volume_manager.release_slots(
                volume.volume, change.release_regions, change.release_nodes, index
            )

    def _order_of(self, volume: VirtualVolume) -> Callable[[Regions], U8]:
        return lambda regions: preferences(volume.volume, regions, self.nodes)

    # Questions.

    @property
    def volumes(self) -> dict[int, VirtualVolume]:
        """All volumes by number. To read only."""
        return self.volume_manager.volumes

    def volume_by_name(self, name: str) -> VirtualVolume:
        """The volume, or NotFound."""
        return self.volume_manager.volume(name)

    def find_view(self, name: str) -> tuple[VirtualVolume, View | None]:
        """What a host means by `VOLUME` (None: the volume itself) or `VOLUME@SNAPSHOT`. NotFound
        names what is missing; InvalidRequest."""
        volume_name, snapshot = split_ref(name)
        volume = self.volume_manager.volume(volume_name)
        if not snapshot:
            return volume, None
        view = self.snapshots.named(volume.volume, volume.name, snapshot)
        if view.kind is ViewKind.BASE:
            raise NotFound(f"there is no snapshot {snapshot} of volume {volume_name}")
        return volume, view

    def node_state(self, node: int) -> NodeState:
        """Liveness and incarnation by this version of the catalog."""
        return self.lives[node]

    def up_nodes(self) -> tuple[int, ...]:
        """Nodes that are up, ascending."""
        return self._up

    def cut_version(self, first: int, second: int) -> int:
        """Version at which the pair was last cut; 0: never."""
        return int(self._cuts[first, second])

    def row(self, volume: int, region: int, node: int = int(NOBODY)) -> RegionRow:
        """One region, with the LD region of `node` if it has one. NotFound, InvalidRequest."""
        found = self.volume_manager.volume(volume)
        if not 0 <= region < found.regions:
            raise InvalidRequest(f"volume {found.name} has regions 0 to {found.regions - 1}")
        return found.table.row(region, node)

    def rows_involving(self, node: int) -> list[InvolvedRows]:
        """Of each volume the rows in which the node is in sync (or waited for) or joins. Stale
        copies are not among them: see `RegionTable.regions_of`."""
        bit = np.uint8(1 << node)
        involved: list[InvolvedRows] = []
        for volume in self.volume_manager.list_volumes():
            table = volume.table
            rows = np.flatnonzero((table.in_sync & bit != 0) | (table.joiner == node))
            if len(rows):
                involved.append(InvolvedRows(volume.volume, rows))
        return involved

    def room(self, group: str, region_bytes: int) -> NDArray[np.int64]:
        """i64[8]: regions of that size that each node can still take; 0 unless it is up."""
        room = np.zeros(NODES_MAX, dtype=np.int64)
        for node in self.up_nodes():
            free = self.volume_manager.free_bytes(group, node, region_bytes)
            room[node] = free // region_bytes
        return room

    def pins_of(self, volume: int) -> Pins:
        """The nodes that an operator named for every region of the volume."""
        return self._pins.get(volume, NO_PINS)

    def losses_of(self, volume: int) -> dict[int, Loss]:
        """By region, the last loss that an operator accepted. To read only."""
        return self._losses.get(volume, {})

    def check(self) -> list[str]:
        """Broken invariants, in words; empty when all is well."""
        faults = self.volume_manager.check() + self.snapshots.check()
        down = np.uint8(~self.up_mask & 0xFF)
        for volume in self.volume_manager.list_volumes():
            table = volume.table
            for broken, rule in (
                (~table.offline & (table.in_sync & down != 0), "a member is not up"),
                (table.offline & (table.joiner != NOBODY), "a node joins an offline region"),
                (rules.bits_of(table.joiner) & down != 0, "the joiner is not up"),
                (table.epoch == 0, "there is no epoch 0"),
            ):
                rows = np.flatnonzero(broken)
                if len(rows):
                    faults.append(f"volume {volume.name} region {rows[0]}: {rule}")
        return faults

    # Snapshots of the whole catalog, for consensus.

    def to_bytes(self) -> bytes:
        """Canonical: equal logs give equal bytes, on every node."""
        packed: bytes = msgpack.packb(
            [
                _FORMAT,
                self.version,
                self.cluster_id,
                list(self.nodes),
                list(self.domains),
                [[int(state.liveness), state.incarnation] for state in self.lives],
                self._cuts.astype("<u8").tobytes(),
                self.volume_manager.to_bytes(),
                [[number, *pins] for number, pins in sorted(self._pins.items())],
                [
                    [number, region, *loss]
                    for number, losses in sorted(self._losses.items())
                    for region, loss in sorted(losses.items())
                ],
                self.rebalancing,
                self.snapshots.to_plain(),
            ]
        )
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Catalog:
        """Inverse of `to_bytes`; InvalidRequest when it is not one."""
        try:
            (
                form, version, cluster_id, nodes, domains, lives, cuts, volumes, pins, losses,
                rebalancing, snapshots,
            ) = msgpack.unpackb(data)  # fmt: skip
            if form != _FORMAT or type(version) is not int or type(cluster_id) is not str:
                raise ValueError("unknown format")
            catalog = cls()
            catalog.version = version
            catalog.cluster_id = cluster_id
            catalog.nodes = tuple(nodes)
            catalog.domains = tuple(domains)
            catalog.lives = [NodeState(Liveness(state), life) for state, life in lives]
            matrix = np.frombuffer(cuts, dtype="<u8").astype(np.uint64)
            catalog._cuts = matrix.reshape(NODES_MAX, NODES_MAX)
            if len(catalog.lives) != NODES_MAX or len(catalog.domains) != NODES_MAX:
                raise ValueError(f"{NODES_MAX} nodes are wanted")
            catalog._count_up()
            catalog.volume_manager = VolumeManager.from_bytes(volumes)
            catalog.rebalancing = rebalancing
            catalog.snapshots = Snapshots.from_plain(snapshots)
            catalog._pins = {number: Pins(owner, other) for number, owner, other in pins}
            for number, region, *loss in losses:
                catalog._losses.setdefault(number, {})[region] = Loss(*loss)
        except (
            ValueError, TypeError, IndexError, RecursionError, msgpack.UnpackException,
        ) as error:  # fmt: skip
            raise InvalidRequest(f"catalog snapshot: {error}") from None
        return catalog


def _note(
    effects: list[Effect],
    counts: dict[str, int],
    volume: VirtualVolume,
    changed: Regions,
    change: RowChange,
) -> None:
    """Say what changed in one volume."""
    if len(changed):
        counts["changed"] += len(changed)
        effects.append(RegionsChanged(volume.volume, changed))
    if len(change.reduced):
        counts["reduced"] += len(change.reduced)
        effects.append(RegionsReduced(volume.volume, change.reduced))
    if len(change.returned):
        counts["returned"] += len(change.returned)
        effects.append(RegionsReturned(volume.volume, change.returned))
    if len(change.lost):
        counts["lost"] += len(change.lost)
        effects.append(RegionsLost(volume.volume, change.lost))
