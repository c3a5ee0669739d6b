"""shell: what operators see of a cluster through this node, and ask of it: the `NodeView` port."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from admin.view import (
    AddressMap,
    BlockPlace,
    CatalogCopy,
    CopyPlace,
    HeldRows,
    LossRow,
    NodeRow,
    NodeState,
    Rebalancing,
    Recovered,
    RegionCounts,
    RegionDigest,
    RegionRow,
    RegionState,
    ResyncCounts,
    Statistics,
    Status,
    VolumeRow,
    VolumeSpec,
    VolumeState,
)
from base.errors import InvalidRequest
from base.ids import NOBODY, NodeId, VolumeId
from base.units import NODES_MAX, NS_PER_MS, NS_PER_S
from cluster.catalog import Liveness
from cluster.entries import CreateVolume, GrowVolume, Rebalance, RemoveVolume, encode
from cluster.loss import describe, entries_for, plan_openings, refusal
from cluster.membership import PeerState
from host.nbd_target import NbdTarget
from node.config import NodeConfig
from node.placement_view import Away, away_of, kept_rows, left_words, row_of
from node.region_check import RegionCheck
from node.region_copy import COPY, JOINER, OWNER
from node.roles import BY_DELTA, BY_FULL, BY_LOG, BY_NOTHING
from node.snapshot_admin import SnapshotAdmin
from volume.virtual_volume import VirtualVolume

if TYPE_CHECKING:
    from node.daemon import Node

PROPOSE_NS = 10_000 * NS_PER_MS
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _by_mode(counts: list[int]) -> ResyncCounts:
    return ResyncCounts(
        same_total=counts[BY_NOTHING],
        log_total=counts[BY_LOG],
        delta_total=counts[BY_DELTA],
        full_total=counts[BY_FULL],
    )


def _none(node: int) -> int:
    return -1 if node == NOBODY else int(node)


class OperatorView:
    """See admin.view.NodeView."""

    def __init__(
        self, node: Node, config: NodeConfig, target: NbdTarget, stop: asyncio.Event
    ) -> None:
        self._node = node
        self._config = config
        self._target = target
        self._stop = stop
        self._away: tuple[tuple[int, int], Away] | None = None  # (catalog version, live) and answer
        self._check = RegionCheck(node)
        self.snapshots = SnapshotAdmin(node)

    # ------------------------------------------------------------------ cluster

    def _counts(self, volumes: list[VirtualVolume]) -> RegionCounts:
        total = normal = joining = degraded = offline = 0
        for volume in volumes:
            table = volume.table
            copies = np.bitwise_count(table.in_sync)
            gone = table.offline
            full = ~gone & (copies >= volume.copies)
            filling = ~gone & ~full & (table.joiner != NOBODY)
            total += len(table)
            offline += int(gone.sum())
            normal += int(full.sum())
            joining += int(filling.sum())
            degraded += int((~gone & ~full & ~filling).sum())
        return RegionCounts(
            total=total, normal=normal, joining=joining, degraded=degraded, offline=offline
        )

    def _now_ns(self) -> int:
        return self._node.ports.clock.now_ns()

    def _placement(self) -> Away:
        """Recomputed when the catalog moves: a status may be asked for every second."""
        core = self._node.core
        live = core.duties.trusted(self._now_ns())
        key = (core.catalog.version, live)
        if self._away is None or self._away[0] != key:
            self._away = (key, away_of(core.catalog, live))
        return self._away[1]

    async def status(self) -> Status:
        """The cluster in a few numbers."""
        core = self._node.core
        away = self._placement()
        volumes = core.catalog.volume_manager.list_volumes()
        return Status(
            cluster=self._config.cluster.cluster.name,
            node=self._node.number,
            incarnation=core.incarnation,
            ready=core.active and core.leader_id != NOBODY,
            leader=_none(core.leader_id),
            term=core.raft.term,
            catalog_version=core.catalog.version,
            nodes_alive=len(core.catalog.up_nodes()),
            nodes_total=len(self._config.cluster.nodes),
            volumes=len(volumes),
            regions=self._counts(volumes),
            owners_away=away.owners,
            copies_away=away.copies,
            failback="running" if core.catalog.rebalancing else self._failback(),
            rebuild_bytes_total=self._node.rebuild.sent_bytes,
        )

    def _failback(self) -> Literal["auto", "manual"]:
        return self._config.cluster.rebuild.failback

    def _state_of(self, node: int) -> NodeState:
        core = self._node.core
        known = core.catalog.node_state(node)
        if known.liveness is Liveness.ABSENT:
            return "never_seen"
        if known.liveness is Liveness.DOWN:
            return "down"
        if core.flapping.hold_left_ns(node, self._now_ns()):
            return "damped"
        if node == core.self_id:
            return "alive"
        believed = core.membership.state(NodeId(node))
        return "suspect" if believed is PeerState.SUSPECT else "alive"

    async def nodes(self) -> list[NodeRow]:
        """Every node of the configuration."""
        core = self._node.core
        manager = core.catalog.volume_manager
        owned = np.zeros(256, dtype=np.int64)
        copied = np.zeros(NODES_MAX, dtype=np.int64)
        stale = np.zeros(256, dtype=np.int64)
        away, now_ns = self._placement(), self._now_ns()
        for volume in manager.list_volumes():
            table = volume.table
            owned += np.bincount(table.owner[~table.offline], minlength=256)
            for number in range(NODES_MAX):
                copied[number] += int((table.in_sync >> number & 1).sum())
            held = table.slot_node[table.stale_slots(np.arange(len(table)))]
            stale += np.bincount(held, minlength=256)
        disk_bytes = sum(disk.size_bytes for disk in self._node.inventory.disks)
        rows = []
        for options in sorted(self._config.cluster.nodes, key=lambda each: each.id):
            number = options.id
            free = 0
            if manager.has_node(number):
                chunklets = int(manager.storage(number).free_chunklets().sum())
                free = chunklets * self._node.inventory.chunklet_bytes
            rows.append(
                NodeRow(
                    id=number,
                    name=f"n{number}",
                    state=self._state_of(number),
                    leader=number == core.leader_id,
                    voter=number in core.raft.members.voters,
                    incarnation=max(0, core.catalog.node_state(number).incarnation),
                    host=options.host,
                    mesh_port=options.mesh_port,
                    nbd_port=options.nbd_port,
                    admin_port=options.admin_port,
                    failure_domain=options.failure_domain,
                    regions_owned=int(owned[number]),
                    regions_fair=away.fair[number],
                    regions_stale=int(stale[number]),
                    damped_s=-(-core.flapping.hold_left_ns(number, now_ns) // NS_PER_S),
                    regions_copied=int(copied[number] - owned[number]),
                    disk_bytes=disk_bytes,
                    free_bytes=free,
                )
            )
        return rows

    # ------------------------------------------------------------------ volumes

    def _row(self, volume: VirtualVolume) -> VolumeRow:
        counts = self._counts([volume])
        state: VolumeState = "normal"
        if counts["offline"]:
            state = "offline"
        elif counts["degraded"] or counts["joining"]:
            state = "degraded"
        return VolumeRow(
            name=volume.name,
            id=int(volume.volume),
            size_bytes=volume.size_bytes,
            state=state,
            copies=volume.copies,
            group=volume.group,
            page_bytes=volume.page_bytes,
            region_bytes=volume.region_bytes,
            l2_entries=volume.l2_entries,
            l3_entries=volume.l3_entries,
            degraded=str(volume.policy),
            regions=counts,
            regions_forced=len(self._node.core.catalog.losses_of(volume.volume)),
        )

    async def volumes(self) -> list[VolumeRow]:
        """By name."""
        volumes = self._node.core.catalog.volume_manager.list_volumes()
        return [self._row(volume) for volume in sorted(volumes, key=lambda each: each.name)]

    def _volume(self, name: str) -> VirtualVolume:
        return self._node.core.catalog.volume_by_name(name)

    async def volume(self, name: str) -> VolumeRow:
        """One volume."""
        return self._row(self._volume(name))

    async def create_volume(self, spec: VolumeSpec) -> VolumeRow:
        """Through the catalog."""
        defaults = self._config.cluster.volumes
        entry = CreateVolume(
            spec["name"],
            spec["size_bytes"],
            spec.get("group", defaults.group),
            spec.get("copies", defaults.copies),
            spec.get("page_bytes", defaults.page_bytes),
            spec.get("l2_entries", defaults.l2_entries),
            spec.get("l3_entries", defaults.l3_entries),
            spec.get("degraded", defaults.degraded),
            spec.get("owner", -1),
            spec.get("replicant", -1),
        )
        await self._node.control.propose(encode(entry), PROPOSE_NS)
        return await self.volume(spec["name"])

    async def grow_volume(self, name: str, size_bytes: int) -> VolumeRow:
        """Through the catalog."""
        volume = self._volume(name)
        if size_bytes < volume.size_bytes:
            raise InvalidRequest(
                f"volume {name} has {volume.size_bytes} bytes; it can grow, not shrink"
            )
        entry = GrowVolume(VolumeId(volume.volume), size_bytes)
        await self._node.control.propose(encode(entry), PROPOSE_NS)
        return await self.volume(name)

    async def remove_volume(self, name: str) -> None:
        """Through the catalog."""
        entry = RemoveVolume(VolumeId(self._volume(name).volume))
        await self._node.control.propose(encode(entry), PROPOSE_NS)

    async def losses(self, name: str) -> list[LossRow]:
        """What operators have given up of the volume."""
        volume = self._volume(name)
        return kept_rows(name, self._node.core.catalog.losses_of(volume.volume))

    async def recover(self, name: str, regions: list[int] | None, accept_loss: bool) -> Recovered:
        """Through the catalog, which voids what is not as the operator was told."""
        core = self._node.core
        volume = self._volume(name)
        openings = plan_openings(core.catalog, volume, regions)

        def left(node: int) -> str:
            return left_words(core, self._now_ns(), node)

        if openings and not accept_loss:
            raise InvalidRequest(refusal(name, openings, left))
        opened: list[LossRow] = []
        for entry in entries_for(volume, openings):
            result = await self._node.control.propose(encode(entry), PROPOSE_NS)
            done = np.frombuffer(result["regions"], dtype="<u4").tolist()
            for each in openings:
                if each.region in done:
                    text = describe(name, each, left, past=True)
                    opened.append(row_of(each, text))
        return Recovered(name=name, opened=opened, skipped=len(openings) - len(opened))

    async def rebalance(self) -> Rebalancing:
        """Through the catalog: whoever leads sees to it."""
        await self._node.control.propose(encode(Rebalance(True)), PROPOSE_NS)
        away = self._placement()
        return Rebalancing(rebalancing=True, owners_away=away.owners, copies_away=away.copies)

    async def regions(self, name: str, first: int, count: int) -> list[RegionRow]:
        """Rows of the region table."""
        volume = self._volume(name)
        table = volume.table
        rows = []
        for region in range(first, min(first + count, len(table))):
            row = table.row(region, 0)
            members = [node for node in range(NODES_MAX) if row.is_member(node)]
            members.sort(key=lambda node, owner=row.owner: (node != owner, node))  # type: ignore[misc]
            state: RegionState = "normal"
            if row.offline:
                state = "offline"
            elif len(members) < volume.copies:
                state = "joining" if row.joiner != NOBODY else "degraded"
            rows.append(
                RegionRow(
                    region=region,
                    state=state,
                    epoch=row.epoch,
                    owner=-1 if row.offline else _none(row.owner),
                    copies=members,
                    joiner=_none(row.joiner),
                )
            )
        return rows

    async def map_address(self, name: str, offset: int) -> AddressMap:
        """Every physical place of a byte."""
        volume = self._volume(name)
        manager = self._node.core.catalog.volume_manager
        blocks = manager.map_address(volume.volume, offset)
        region, inside = divmod(offset, volume.region_bytes)
        row = volume.table.row(region, self._node.number)
        copies: dict[int, CopyPlace] = {}
        for block in blocks:
            copy = copies.get(block.node)
            if copy is None:
                role: Any = block.role if block.role in ("owner", "joiner") else "replicant"
                copy = copies[block.node] = CopyPlace(
                    node=block.node,
                    role=role,
                    ld=block.ld,
                    ld_region=block.ld_region,
                    ld_offset=block.ld_region * volume.region_bytes + inside,
                    raid_level=block.raid,
                    blocks=[],
                )
            copy["blocks"].append(
                BlockPlace(
                    disk=block.disk,
                    cage=block.cage,
                    sled=block.sled,
                    slot=block.slot,
                    loop=str(block.path) if block.path else "-",
                    chunklet=block.chunklet,
                    disk_offset=block.disk_offset,
                )
            )
        return AddressMap(
            volume=name,
            offset=offset,
            region=region,
            region_offset=inside,
            page=inside // volume.page_bytes,
            epoch=row.epoch,
            copies=list(copies.values()),
        )

    # ------------------------------------------------------------------ this node

    async def statistics(self) -> Statistics:
        """Counters of this node."""
        node = self._node
        core, io = node.core, node.io
        roles = {OWNER: 0, COPY: 0, JOINER: 0}
        for by_region in core.copies.values():
            for copy in by_region.values():
                if copy.role in roles:
                    roles[copy.role] += 1
        store = node.store.statistics()
        journal, cache = store.journal, store.cache
        counters = self._target.counters
        usage = resource.getrusage(resource.RUSAGE_SELF)
        rows = await self.nodes()
        mine = next(row for row in rows if row["id"] == node.number)
        return Statistics(
            node=node.number,
            uptime_ms=(node.ports.clock.now_ns() - node.started_ns) // NS_PER_MS,
            regions_owned=mine["regions_owned"],
            regions_copied=mine["regions_copied"],
            regions_joining=roles[JOINER],
            host={
                "connections": counters.connections,
                "in_flight": counters.requests_in_flight,
                "reads_total": io.reads,
                "writes_total": io.writes,
                "read_bytes_total": io.read_bytes,
                "written_bytes_total": io.written_bytes,
                "flushes_total": io.flushes,
                "errors_total": io.router.errors,
                "waits_total": io.waits,
            },
            journal={
                "used_bytes": journal.used_bytes,
                "limit_bytes": node.journal.capacity_bytes,
                "appended_bytes_total": journal.next_lsn,
                "commits_total": journal.writes,
                "syncs_total": journal.syncs,
            },
            cache={
                "dirty_bytes": cache.dirty_bytes,
                "limit_bytes": self._config.cluster.cache.dirty_bytes_max,
                "destaged_bytes_total": cache.destaged_pages
                * self._config.cluster.volumes.page_bytes,
            },
            rebuild_bytes_total=node.rebuild.sent_bytes,
            resyncs=_by_mode(core.joins.resyncs),
            resync_bytes=_by_mode(core.joins.resync_bytes),
            cuts={
                "made_total": core.gates.made,
                "abandoned_total": core.gates.abandoned,
                "held_ms_total": core.gates.held_ns_total // NS_PER_MS,
                "held_ms_max": core.gates.held_ns_max // NS_PER_MS,
            },
            takeovers_total=core.takeovers,
            exposed_ms_total=core.exposed_ms(node.ports.clock.now_ns()),
            resident_bytes=_resident_bytes(),
            cpu_ms_total=int((usage.ru_utime + usage.ru_stime) * 1000),
        )

    async def check_catalog(self, *, with_bytes: bool) -> CatalogCopy:
        """The catalog of this node."""
        return self._check.catalog(with_bytes=with_bytes)

    async def check_regions(self, first: int, count: int) -> HeldRows:
        """What this node keeps."""
        return self._check.regions(first, count)

    async def check_digest(self, volume: int, region: int) -> RegionDigest:
        """Of the bytes of one region."""
        return await self._check.digest(volume, region)

    async def wait_ready(self) -> None:
        """Until this node serves hosts."""
        core, clock = self._node.core, self._node.ports.clock
        await self._node.control.ready.wait()
        while not core.active or core.leader_id == NOBODY:
            await clock.sleep(0.01)

    async def stop(self) -> None:
        """Begin a clean stop."""
        self._stop.set()
