"""shell: one node put together out of its parts, and the process around it.

`run_node` is the same in production and in simulation: everything that touches the world — bus,
devices, clock, random numbers — is passed in. `run_process` opens files and sockets and runs it.

Start: read the consensus store; begin a new life; join the mesh; report the life to the catalog;
once the catalog has taken it in, recover the regions from the disks; then serve.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

from base.clock import Clock, RealClock
from base.device import BlockDevice
from base.errors import ConfigError, MediaError, StorageError
from base.ids import NodeId
from base.log import EventTap, configure
from base.tasks import Supervisor
from base.units import NODES_MAX, NS_PER_MS, NS_PER_S, MiB
from cluster import raft_types as rt
from cluster.catalog import Catalog
from cluster.consensus import Raft
from cluster.entries import FormCluster, GrowSnapshotSpace, encode, plain_group, plain_inventory
from cluster.membership import Membership, MembershipConfig
from cluster.raft_log import RaftLog
from host.nbd_target import NbdLimits, NbdTarget
from node import effects as fx
from node import state_transfer
from node.checkpoint import RegionState
from node.client_table import ClientTable
from node.config import ClusterConfig, NodeConfig, load, node_config
from node.consensus_store import ConsensusStore, Life
from node.control_loop import ControlLoop
from node.core import CoreSettings, NodeCore
from node.destage import DestagePace
from node.disk_shelf import DiskShelf, open_disks
from node.epoch_line import EpochLine
from node.exports import NodeExports
from node.file_device import FileDevice, SyncThreads
from node.flapping import FlapPolicy
from node.io_path import IoPath
from node.journal import Journal
from node.leases import LeaseTable
from node.operator_view import OperatorView
from node.outside import bus_of, management_plane
from node.page_repair import PageRepair
from node.rebuild import Rebuild
from node.recovery import RecoveredRegion
from node.region_store import RegionStore, StoreOptions
from node.removals import Removals
from node.roles import JOINER, NONE
from node.snapshot_places import Pool, SnapshotPlaces
from node.snapshot_rules import SnapshotRules
from node.timed_device import IoWatch
from transport.bus import MessageBus
from volume.physical_disk import NodeInventory

log = structlog.get_logger()

CONSENSUS_BYTES: Final = 256 * MiB  # sparse: two halves, each with room for the largest catalog
CHECKPOINT_BYTES: Final = 1024 * MiB  # sparse: two slots, each for 512 GiB of data
VOTERS_FIVE: Final = 5
GROW_NS: Final = 5 * NS_PER_S  # for the answer to a wish for snapshot space
GROW_AGAIN_S: Final = 2
FORMED_MARK: Final = "formed"  # in the cluster directory: there is a cluster to come back to


@dataclass(slots=True)
class NodePorts:
    """The world of one node.

    boot_id: another one than in the last life means that memory was lost with the power. formed:
    the cluster exists, so a store that holds nothing has lost something; mark_formed notes it.
    """

    bus: MessageBus | None
    clock: Clock
    rng: random.Random
    disks: list[BlockDevice]
    journal: BlockDevice
    checkpoint: BlockDevice
    consensus: BlockDevice
    boot_id: str
    formed: bool
    mark_formed: Callable[[], None] = lambda: None


class Node:
    """One node. `start`, then serve, then `stop`; `failed` is set when it must not go on."""

    def __init__(
        self, number: int, config: ClusterConfig, ports: NodePorts, on_failure: Callable[[], None]
    ) -> None:
        self.number = number
        self.config = config
        self.io_watch = IoWatch(ports.clock)
        over = self.io_watch.over
        self.ports = replace(
            ports,
            disks=[over(disk) for disk in ports.disks],
            journal=over(ports.journal),
            checkpoint=over(ports.checkpoint),
            consensus=over(ports.consensus),
        )
        self.failed: BaseException | None = None
        self._on_failure = on_failure
        self._leaving: asyncio.Task[None] | None = None
        self.supervisor = Supervisor(f"n{number}", self._task_failed)
        self.inventory: NodeInventory = config.inventory()
        self.core: NodeCore
        self.io: IoPath
        self.store: RegionStore
        self.journal: Journal
        self.consensus: ConsensusStore
        self.control: ControlLoop
        self.exports: NodeExports
        self.rebuild: Rebuild
        self.shelf: DiskShelf
        self.snapshot_places: SnapshotPlaces
        self.removals: Removals
        self.snapshot_rules: SnapshotRules
        self._growing: dict[Pool, None] = {}
        self.started_ns = ports.clock.now_ns()

    # ------------------------------------------------------------------ life

    async def begin(self) -> int:
        """Read the consensus store and begin a new life. The incarnation, for the mesh."""
        ports = self.ports
        self.consensus = ConsensusStore(
            ports.consensus,
            supervisor=self.supervisor,
            on_persisted=self._persisted,
            on_failure=self.fail,
        )
        known = await self.consensus.load()
        if not known:
            lost = ports.formed  # the cluster has had this node before, with a store
            await self.consensus.format(
                rt.Snapshot(0, 0, first_members(self.config)),
                rt.HardState(blank=lost),
                Life(intact=not lost, blank=lost),
            )
        last = self.consensus.state.life
        self._blank = last.blank
        # What an earlier life did not live to tell the catalog is still to be told.
        same = last.clean or last.boot_id == ports.boot_id
        self._intact = last.intact and same
        # A life that never told has never acted: what it learnt was not known before the loss.
        acted_on = self.consensus.state.last_index if last.intact else last.known
        # A blank node does not know its former incarnations: time makes it larger than them all.
        floor = ports.clock.wall_ns() // 1_000_000_000 if self._blank else 0
        life = Life(
            max(last.incarnation, floor) + 1, ports.boot_id, clean=False,
            intact=self._intact, blank=self._blank, known=0 if self._intact else acted_on,
        )  # fmt: skip
        await self.consensus.set_life(life)
        return life.incarnation

    async def start(self) -> None:
        """Wire everything and begin. Does not wait for the cluster."""
        state = self.consensus.state
        snapshot = state.snapshot
        assert snapshot is not None
        config, ports = self.config, self.ports
        bus = ports.bus
        assert bus is not None
        now_ns = ports.clock.now_ns()
        effects: list[fx.NodeEffect] = []
        raft_options = config.consensus
        self.core = NodeCore(
            self_id=self.number,
            incarnation=state.life.incarnation,
            intact=self._intact,
            blank=self._blank,
            known=state.life.known,
            inventory=plain_inventory(self.inventory.to_tuple()),
            raft=Raft(
                self_id=NodeId(self.number),
                hard_state=state.hard,
                log=RaftLog(snapshot, tuple(state.entries)),
                config=rt.RaftConfig(
                    election_min_ms=raft_options.election_ms_min,
                    election_max_ms=raft_options.election_ms_max,
                    heartbeat_ms=raft_options.heartbeat_ms,
                ),
                rng=ports.rng,
                blank=state.hard.blank,
            ),
            catalog=Catalog.from_bytes(snapshot.data) if snapshot.data else Catalog(),
            membership=Membership(
                peers=[NodeId(node.id) for node in config.nodes if node.id != self.number],
                config=MembershipConfig(
                    beacon_ms=config.membership.beacon_ms,
                    suspect_after_ms=config.membership.suspect_ms,
                ),
                now_ns=now_ns,
            ),
            leases=LeaseTable(
                incarnation=state.life.incarnation,
                lease_ns=config.replication.lease_ms * NS_PER_MS,
                grace_ns=config.replication.grace_ms * NS_PER_MS,
                drift_ppm=config.replication.drift_ppm,
                now_ns=now_ns,
            ),
            settings=CoreSettings(
                durability_synced=config.replication.durability == "synced",
                joins_max=config.rebuild.joins_in_flight_max,
                snapshot_entries=raft_options.snapshot_entries,
                form_entry=_form_entry(config),
                voters_max=VOTERS_FIVE if raft_options.voters == "five" else NODES_MAX,
                failback=config.rebuild.failback == "auto",
                failback_per_s=config.rebuild.failback_regions_per_s,
                stale_keep_ns=config.rebuild.stale_keep_s * NS_PER_S,
                flaps=_flap_policy(config),
                io_deadline_ns=config.membership.io_deadline_ms * NS_PER_MS,
            ),
            effects=effects,
            now_ns=now_ns,
            store_ready=False,
        )
        self.core.io_health.oldest = self.io_watch.oldest
        self.control = ControlLoop(
            core=self.core,
            clock=ports.clock,
            consensus=self.consensus,
            supervisor=self.supervisor,
            recover=self._recover,
        )
        self.io = IoPath(
            core=self.core,
            bus=bus,
            clock=ports.clock,
            supervisor=self.supervisor,
            timeout_ns=config.host.request_timeout_ms * NS_PER_MS,
            on_control=self.control.perform,
            requests_max=config.mesh.requests_in_flight_max,
            bytes_max=config.mesh.bytes_in_flight_max,
        )
        self.control.io = self.io
        self.snapshot_places = SnapshotPlaces(
            self.number, lambda: self.core.catalog, self._space_low
        )
        self._make_store()
        self.removals = Removals(self.io, ports.clock, self.supervisor)
        self.snapshot_rules = SnapshotRules(self.io, ports.clock, self.supervisor)
        self.exports = NodeExports(self.core, self.io)
        self.control.on_topology = self._topology_changed
        bus.set_receiver(self.io.message, self.io.link)
        await bus.start()
        self.control.start()

    def _make_store(self) -> None:
        config, ports = self.config, self.ports
        cache = config.cache
        self.shelf = DiskShelf(self.inventory, ports.disks, on_disk_error=self._disk_error)
        self.journal = Journal(
            ports.journal,
            clock=ports.clock,
            supervisor=self.supervisor,
            on_journalled=self.io.journalled,
            on_failure=self.fail,
        )
        self.store = RegionStore(
            journal=self.journal,
            shelf=self.shelf,
            checkpoint_device=ports.checkpoint,
            clock=ports.clock,
            supervisor=self.supervisor,
            region_state=self._region_state,
            snapshot_place=self.snapshot_places.place_of,
            on_failure=self.fail,
            on_room=self.io.room_again,
            on_region_error=self._region_error,
            on_pinned=self._region_pinned,
            options=StoreOptions(
                dirty_bytes_max=cache.dirty_bytes_max,
                high_percent=cache.destage_high_percent,
                low_percent=cache.destage_low_percent,
                pace=DestagePace(after_ms=cache.destage_after_ms),
            ),
        )
        self.rebuild = Rebuild(
            io=self.io,
            store=self.store,
            clock=ports.clock,
            supervisor=self.supervisor,
            bytes_per_s=config.rebuild.bytes_per_s,
        )
        self.io.pages = self.rebuild
        self.repair = PageRepair(
            io=self.io, store=self.store, clock=ports.clock, supervisor=self.supervisor
        )

    async def stop(self) -> None:
        """Orderly: no new requests, everything to the disks, and say so in the store.

        `failed` is set when that did not succeed: then the next start recovers from the log.
        """
        log.info("node.stopping", node=self.number)
        self.io.router.stopping = True
        self.control.stop()
        bus = self.ports.bus
        assert bus is not None
        try:
            if self.failed is None and self.io.store is not None:
                # A task of its own: a failure ends it, for what it waits for may then never come.
                self._leaving = self.supervisor.start(self._leave(bus), name="leave")
                await asyncio.gather(self._leaving, return_exceptions=True)
        finally:
            await bus.close()
            self.io.router.close()
            await self.supervisor.close()
            self.shelf.close()
            for device in (self.ports.journal, self.ports.checkpoint, self.ports.consensus):
                device.close()
        log.info("node.stopped", node=self.number)

    async def _leave(self, bus: MessageBus) -> None:
        await self.store.close()
        clean = replace(self.consensus.state.life, clean=True)
        await bus.close()
        await self.consensus.set_life(clean)

    # ------------------------------------------------------------------ callbacks

    def fail(self, error: BaseException) -> None:
        """This node must not go on; a restart recovers from its log (P11)."""
        if self.failed is None:
            self.failed = error
            log.error("node.failed", node=self.number, error=f"{type(error).__name__}: {error}")
            if self._leaving is not None:
                self._leaving.cancel()
            self._on_failure()

    def _task_failed(self, name: str, error: BaseException) -> None:
        log.error("task.failed", node=self.number, task=name, exc_info=error)
        self.fail(error)

    def callback_failed(self, _loop: object, context: dict[str, Any]) -> None:
        """A callback of the loop ended with an error: what it left undone nobody will do."""
        error = context.get("exception")
        of = context.get("task") or context.get("future") or context.get("handle")
        log.error(
            "callback.failed",
            node=self.number,
            what=context["message"],
            of=None if of is None else repr(of)[:500],
            exc_info=error,
        )
        if error is not None and not isinstance(error, OSError):  # else a transport, and it closes
            self.fail(error)

    def _persisted(self, number: int) -> None:
        self.core.raft_persisted(number, self.ports.clock.now_ns())
        self.io.turn_soon()

    def _disk_error(self, disk: int, error: Exception, failed: bool) -> None:
        log.warning("disk.failed", node=self.number, disk=disk, left=failed, error=str(error))

    def _region_error(self, key: tuple[int, int], error: StorageError) -> None:
        log.error("region.failed", volume=key[0], region=key[1], error=str(error))
        if self.io.store is None:
            return
        if not isinstance(error, MediaError):
            self.core.refused.failed(*key, self.ports.clock.now_ns())
            self.io.turn_soon()
            return
        copy = self.core.copies.get(key[0], {}).get(key[1])
        if copy is not None and copy.role == JOINER:
            state_transfer.page_lost(copy)
            self.io.turn_soon()
        elif copy is not None and copy.role == NONE:
            # Nobody repairs a stale copy, and its page holds the journal of the whole node.
            full = self.journal.is_full and self.rebuild.place_of(key) is not None
            if full and state_transfer.give_up(copy):
                self.core.effects.append(fx.OpenRegion(copy, True))
                self.io.turn_soon()
        else:
            self.repair.begin(key, error)

    def _region_pinned(self, key: tuple[int, int]) -> None:
        copy = self.core.copies.get(key[0], {}).get(key[1])
        if copy is not None and self.core.may_forget_tail(copy, self.ports.clock.now_ns()):
            state_transfer.give_up_tail(copy)
            self.io.drain()

    def _space_low(self, pool: Pool, disks: int) -> None:
        if pool not in self._growing and self.core.active:
            self._growing[pool] = None
            self.supervisor.start(self._grow_space(pool, disks), name="grow_space")

    async def _grow_space(self, pool: Pool, disks: int) -> None:
        """One logical disk more for snapshots. A refusal is said, and holds for a while."""
        entry = GrowSnapshotSpace(NodeId(self.number), *pool, disks)
        try:
            await self.control.propose(encode(entry), GROW_NS)
        except StorageError as error:
            log.warning(
                "snapshot_space.refused", group=pool[0], page_bytes=pool[1], error=str(error)
            )
            await self.ports.clock.sleep(GROW_AGAIN_S)
        finally:
            del self._growing[pool]

    def _topology_changed(self) -> None:
        self.exports.refresh()
        self.rebuild.wake()
        self.snapshot_places.look()
        self.removals.look()
        self.snapshot_rules.look()

    # ------------------------------------------------------------------ recovery

    def _region_state(self, key: tuple[int, int]) -> RegionState:
        self.io.drain()
        copy = self.core.copies.get(key[0], {}).get(key[1])
        if copy is None:
            return RegionState()
        return RegionState(
            copy.epoch, copy.committed, copy.committed_epoch, self.io.opaque_state(copy)
        )

    async def _recover(self) -> None:
        """Give the core what the disks hold; the catalog is current."""
        recovered = await self.store.recover(self.rebuild.place_of)
        for key in sorted(recovered):
            self._restore(key, recovered[key])
        self.io.store = self.store
        self.store.start()
        self.ports.mark_formed()
        self.core.store_recovered(self.ports.clock.now_ns())
        self.io.turn_soon()

    def _restore(self, key: tuple[int, int], found: RecoveredRegion) -> None:
        """One region, if what the disks hold is of the place that the catalog means."""
        row = self.core.catalog.row(key[0], key[1], self.number)
        place = (row.ld, row.ld_region)
        state: tuple[Any, ...] = ()
        line: tuple[tuple[int, int], ...] = ()
        known = None
        if found.clients:
            known = (int(found.clients[0]), int(found.clients[1]))
            state = tuple((int(c), int(low), tuple(n)) for c, low, n in found.clients[2])
            line = tuple((int(epoch), int(seq)) for epoch, seq in found.clients[3])
        elif row.joiner != self.number:
            # Younger than the last checkpoint. Its space cannot have been given away and come back
            # meanwhile, for then this node would be a joiner.
            known = place
        if known != place or not (found.complete or found.since[0]):
            self.store.drop_region(key)
            return
        clients = ClientTable(state)
        for client, number, low in found.replayed:
            clients.add(client, number, low)
        restored = EpochLine(line)
        for epoch, seq in found.ends:
            restored.end(epoch, seq)
        committed = (found.committed, found.committed_epoch) if found.complete else found.since
        copy = self.core.restore_copy(
            key[0],
            key[1],
            committed=committed[0],
            committed_epoch=committed[1],
            tail=[record for record, _ in found.tail] if found.complete else [],
            clients=clients.state(),
            complete=found.complete,
            line=restored.ends,
            since=found.since if not found.complete else (0, 0),
        )
        copy.place = place


def first_members(config: ClusterConfig) -> rt.Members:
    """Who votes in a new cluster: all nodes, or five of as many failure domains as there are."""
    nodes = sorted(config.nodes, key=_by_id)
    if config.consensus.voters == "five":
        seen: list[int] = []
        rank = {}
        for node in nodes:
            rank[node.id] = (seen.count(node.failure_domain), node.id)
            seen.append(node.failure_domain)
        chosen = sorted(nodes, key=lambda node: rank[node.id])[:VOTERS_FIVE]
    else:
        chosen = nodes
    voters = tuple(sorted(NodeId(node.id) for node in chosen))
    learners = tuple(NodeId(node.id) for node in nodes if node.id not in voters)
    return rt.Members(voters, learners)


def _flap_policy(config: ClusterConfig) -> FlapPolicy:
    beacons = config.membership
    return FlapPolicy(
        flaps_max=beacons.flaps_max,
        window_ns=beacons.flap_window_s * NS_PER_S,
        hold_ns=beacons.damped_s * NS_PER_S,
        hold_max_ns=beacons.damped_s_max * NS_PER_S,
    )


def _by_id(node: Any) -> int:
    return int(node.id)


def _form_entry(config: ClusterConfig) -> bytes:
    nodes = tuple((NodeId(n.id), n.failure_domain) for n in sorted(config.nodes, key=_by_id))
    groups = tuple(plain_group(g.provisioning_group().to_tuple()) for g in config.groups)
    return encode(FormCluster(config.cluster.id or config.cluster.name, nodes, groups))


# ---------------------------------------------------------------------- the process


def _open_ports(config: NodeConfig, threads: SyncThreads) -> NodePorts:
    """Open, or on the first start make, the files of a node. ConfigError names the file."""
    consensus_path = config.consensus_directory / "store"
    new = not consensus_path.exists()
    try:
        for directory in (
            config.disks_directory,
            config.journal_directory,
            config.consensus_directory,
        ):
            directory.mkdir(parents=True, exist_ok=True)
        if new:
            # What an earlier node left here is not ours to replay.
            for stale in (config.journal_directory / "ring", config.journal_directory / "slots"):
                stale.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    options = config.cluster.journal
    disks = open_disks(config.disks_directory, config.cluster.inventory(), threads, create=new)
    journal = FileDevice(
        config.journal_directory / "ring",
        options.segment_bytes * options.segments_max,
        create=new,
        threads=threads,
    )
    checkpoint = FileDevice(
        config.journal_directory / "slots", CHECKPOINT_BYTES, create=new, threads=threads
    )
    consensus = FileDevice(consensus_path, CONSENSUS_BYTES, create=new, threads=threads)
    return NodePorts(
        bus=None,
        clock=RealClock(),
        rng=random.Random(os.urandom(16)),
        disks=disks,
        journal=journal,
        checkpoint=checkpoint,
        consensus=consensus,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        formed=(config.cluster_directory / FORMED_MARK).exists(),
        mark_formed=(config.cluster_directory / FORMED_MARK).touch,
    )


async def _serve(config: NodeConfig, stop: asyncio.Event, tap: EventTap) -> int:
    from node.cluster_directory import read_secret

    cluster = config.cluster
    threads = SyncThreads(name=f"sync-{config.name}")
    node = Node(config.node, cluster, _open_ports(config, threads), stop.set)
    asyncio.get_running_loop().set_exception_handler(node.callback_failed)
    incarnation = await node.begin()
    node.ports.bus = bus_of(config, incarnation, node.ports.rng, node.fail)
    await node.start()
    try:
        target = NbdTarget(
            node.exports,
            limits=NbdLimits(
                connections_max=cluster.host.connections_max,
                requests_in_flight_max=cluster.host.requests_in_flight_max,
                bytes_in_flight_max=cluster.host.bytes_in_flight_max,
            ),
        )
        await target.listen_tcp(config.options.listens_at, config.options.nbd_port)
        view = OperatorView(node, config, target, stop)
        from admin.http import serve  # late: it costs 50 ms that the data path need not wait for

        api = await serve(
            view,
            host=config.options.listens_at,
            port=config.options.admin_port,
            token=read_secret(config.token_path).decode(),
            node=config.name,
            body_bytes_max=cluster.admin.body_bytes_max,
        )
    except BaseException:
        # Somebody else has a port, say. What runs already must not be left to the collector.
        await node.stop()
        raise
    plane = management_plane(config, view, incarnation, tap) if cluster.mqtt.enabled else None
    log.info("node.started", node=config.node, incarnation=incarnation)
    await stop.wait()
    node.core.stopping = True
    if plane is not None:
        plane.stopping()
    await target.stop()
    await api.close()
    await node.stop()
    if plane is not None:
        await plane.close()
    threads.close()
    return 0 if node.failed is None else 1


def run_process(directory: Path, node_id: int) -> int:
    """Run one node of the cluster in this directory until SIGTERM. Exit code."""
    if not __debug__:
        raise ConfigError("asserts guard the data: do not run a node with -O")
    import uvloop

    config = node_config(load(directory / "cluster.yaml"), directory, node_id)
    log_options, tap = config.cluster.log, EventTap()
    configure(level=log_options.level, as_json=log_options.format == "json", tap=tap)
    structlog.contextvars.bind_contextvars(node=config.name)

    async def main() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, stop.set)
        return await _serve(config, stop, tap)

    return uvloop.run(main())
