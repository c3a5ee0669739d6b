"""shell: level 1 of the simulator: a discrete-event kernel that drives the cores of all nodes.

No asyncio, no sockets, no files: one heap of (time, number, call). A kernel node does what the real
shell of a node does — performs effects in order, journals, sends, applies — on models of disk and
network that are drawn from the seed. What a process kill leaves in a journal is kept per node in
`Durable`; a restart rebuilds the cores from it. Checkers hang on `Watch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from base.ids import NOBODY, NodeId, node_name
from base.units import NS_PER_MS, NS_PER_S, NS_PER_US, SECTOR_BYTES, MiB
from cluster import raft_types as rt
from cluster.catalog import Catalog
from cluster.consensus import Raft
from cluster.entries import FormCluster, encode, plain_group, plain_inventory
from cluster.membership import Membership, MembershipConfig
from cluster.raft_log import RaftLog
from node import effects as fx
from node.core import CoreSettings, NodeCore
from node.flapping import FlapPolicy
from node.leases import LeaseTable
from node.region_copy import OWNER, RegionCopy
from node.roles import AHEAD, GAP, NOT_MEMBER, STALE
from sim.durable import Durable, DurableRegion, Key, Sectors, apply_sectors, clone, entries_behind
from sim.kernel_machine import JournalEntry, KernelMachine
from sim.kernel_network import KernelNetwork
from sim.kernel_transfers import KernelTransfers, PagesMessage
from sim.kernel_views import PAGE_SECTORS, Contents, RegionViews
from transport import messages as wire
from transport import operation as op
from transport.messages import Beacon
from transport.operation import Record
from volume.physical_disk import build_inventory
from volume.provisioning_group import ProvisioningGroup


class Watch(Protocol):
    """What a checker may hang on. Every call comes at the moment at which it happens."""

    def journalled(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """The record is in the journal of the node."""

    def committed(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """The owner commits the record: it is about to be answered."""

    def served(self, node: KernelNode, copy: RegionCopy) -> None:
        """The node answers a read of the region."""

    def configured(self, node: KernelNode) -> None:
        """The node has applied something of the catalog."""


@dataclass(slots=True)
class KernelConfig:
    """Sizes and times of a simulated cluster. Times in ns."""

    nodes: int = 8
    lease_ns: int = 400 * NS_PER_MS
    grace_ns: int = 500 * NS_PER_MS
    drift_ppm: int = 50_000
    clock_ppm_max: int = 20_000
    delay_ns: int = 150 * NS_PER_US
    delay_tail_ns: int = 2 * NS_PER_MS
    journal_ns: int = 60 * NS_PER_US
    sync_ns: int = 300 * NS_PER_US
    page_bytes: int = PAGE_SECTORS * SECTOR_BYTES
    l2_entries: int = 2
    l3_entries: int = 4
    fetch_ns: int = 5 * NS_PER_US
    fetch_tail_ns: int = 2 * NS_PER_MS  # of one read in sixteen
    durability_synced: bool = False
    startup_grace_ms: int = 1500
    io_deadline_ns: int = 1500 * NS_PER_MS
    flaps: FlapPolicy = field(default_factory=FlapPolicy)
    joins_max: int = 4
    snapshot_entries: int = 512
    trace: bool = False


class Kernel(KernelNetwork):
    """Heap, network and nodes of one run."""

    def __init__(self, seed: int, config: KernelConfig) -> None:
        super().__init__(
            seed,
            delay_ns=config.delay_ns,
            delay_tail_ns=config.delay_tail_ns,
            keep_trace=config.trace,
        )
        self.config = config
        self.watch: list[Watch] = []
        # Another copy than an owner has committed the record.
        self.on_settled: list[Callable[[RegionCopy, Record], None]] = []
        self.members = rt.Members(tuple(NodeId(node) for node in range(config.nodes)))
        group = ProvisioningGroup("default", step_bytes=32 * 1024)
        form = FormCluster(
            "kernel",
            tuple((NodeId(node), node) for node in range(config.nodes)),
            (plain_group(group.to_tuple()),),
        )
        self.form_entry = encode(form)
        self.inventory = plain_inventory(
            build_inventory(
                1, 1, "same", disk_bytes=4 * MiB, chunklet_bytes=64 * 1024, spare_chunklets=1
            ).to_tuple()
        )
        self.nodes = [KernelNode(self, node, self.new_disks()) for node in range(config.nodes)]

    def new_disks(self, *, blank: bool = False) -> Durable:
        """Disks with nothing on them. blank: of a machine that takes the place of another."""
        return Durable(
            rt.HardState(blank=blank), RaftLog(rt.Snapshot(0, 0, self.members)), blank=blank
        )

    def start(self) -> None:
        """Start every node."""
        for node in self.nodes:
            node.start()


class KernelNode(KernelMachine):
    """One node: its cores in this life, on a machine that outlives it."""

    def __init__(self, kernel: Kernel, node: int, durable: Durable) -> None:
        super().__init__(kernel, node, durable, kernel.config)
        self.kernel: Kernel = kernel
        self.core: NodeCore
        self.effects: list[fx.NodeEffect] = []
        self.store: dict[Key, Sectors] = {}
        self.views: dict[Key, RegionViews] = {}
        self.transfers: KernelTransfers
        self._acks: dict[int, dict[Key, fx.Ack]] = {}
        self._records: dict[int, list[tuple[Record, int, int]]] = {}
        self._tick_at_ns = 0
        self._persist_at_ns = 0

    def __repr__(self) -> str:
        return f"KernelNode({node_name(self.node)} life {self.life})"

    @property
    def owns_something(self) -> bool:
        """It serves a region."""
        return any(
            copy.role == OWNER and copy.serving
            for by_region in self.core.copies.values()
            for copy in by_region.values()
        )

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin a life from what the disks hold."""
        assert not self.alive
        kernel, config, durable = self.kernel, self.kernel.config, self.durable
        self.begin()
        self._next_incarnation()
        now_ns = self.clock_ns()
        raft_log = RaftLog(durable.raft.snapshot, entries_behind(durable.raft, 0))
        snapshot = raft_log.snapshot
        catalog = Catalog.from_bytes(snapshot.data) if snapshot.data else Catalog()
        self.effects = []
        leases = LeaseTable(
            incarnation=durable.incarnation,
            lease_ns=config.lease_ns,
            grace_ns=config.grace_ns,
            drift_ppm=config.drift_ppm,
            now_ns=now_ns,
        )
        peers = [NodeId(node) for node in range(config.nodes) if node != self.node]
        self.core = NodeCore(
            self_id=self.node,
            incarnation=durable.incarnation,
            intact=durable.intact,
            blank=durable.blank,
            known=max(0, durable.known),
            inventory=kernel.inventory,
            raft=Raft(
                self_id=NodeId(self.node),
                hard_state=durable.hard,
                log=raft_log,
                config=rt.RaftConfig(),
                rng=kernel.streams.stream(f"raft{self.node}.{self.life}"),
                blank=durable.hard.blank,
            ),
            catalog=catalog,
            membership=Membership(
                peers=peers,
                config=MembershipConfig(startup_grace_ms=config.startup_grace_ms),
                now_ns=now_ns,
            ),
            leases=leases,
            settings=CoreSettings(
                form_entry=b"" if durable.blank else kernel.form_entry,
                durability_synced=config.durability_synced,
                joins_max=config.joins_max,
                snapshot_entries=config.snapshot_entries,
                io_deadline_ns=config.io_deadline_ns,
                flaps=config.flaps,
            ),
            effects=self.effects,
            now_ns=now_ns,
        )
        self.core.io_health.oldest = self.oldest_io
        self._tick_at_ns = 0  # what the last life had asked for comes to nobody
        self._acks.clear()
        self._records.clear()
        self._recover()
        for other in sorted(kernel.endpoints):
            if other != self.node and kernel.endpoints[other].alive:
                kernel.after(NS_PER_MS, kernel.connect, *sorted((self.node, other)))
        self._call(self.core.tick)

    def _next_incarnation(self) -> None:
        durable = self.durable
        if durable.blank and not durable.incarnation:
            # As a real node does: it does not know its former lives, the wall clock has to do.
            durable.incarnation = (1 << 31) + self.wall_ns() // NS_PER_S
        durable.incarnation += 1
        if not durable.intact and durable.known < 0:
            durable.known = durable.raft.last_index

    def _recover(self) -> None:
        self.store.clear()
        self.views.clear()
        self.transfers = KernelTransfers(self)
        for key, kept in sorted(self.durable.regions.items()):
            if kept.complete or kept.since[0]:
                self.transfers.recover(key, kept)
            else:
                self.durable.put(key, None)  # as a real node does: nothing can be made of it

    # ------------------------------------------------------------------ events

    def deliver(self, life: int, sender: int, message: object) -> None:
        """A message arrived."""
        if (
            self.paused or self._step_ns or life != self.life
            or self._free_at_ns > self.network.now_ns or not self.alive
        ) and self.not_now(life, self.deliver, life, sender, message):  # fmt: skip
            return
        kind = type(message)
        core = self.core
        if kind is Beacon:
            # Most messages are beacons, and most of them change nothing but when silence begins:
            # no deadline comes nearer by them unless they have effects.
            since_ns, own_ns = self._anchor  # `clock_ns`, as in `perform`
            passed_ns = self.network.now_ns - since_ns
            own_ns += passed_ns + passed_ns * self._rate_ppm // 1_000_000
            core.detection.on_beacon(sender, message, own_ns)  # type: ignore[arg-type]
            if self.effects:
                self.perform()
            return
        if kind is list:
            for record, epoch, committed in message:  # type: ignore[attr-defined]
                core.replicate(sender, record, epoch, committed, self.clock_ns())
        elif kind is HostOps:
            for record in message.records:  # type: ignore[attr-defined]
                self._host_operation(sender, record)
        elif kind is wire.SyncRequest:
            reply = wire.SyncReply(message.request)  # type: ignore[attr-defined]
            self.sync(lambda: self.kernel.send(self.node, sender, reply))
        elif kind is PagesMessage:
            self.transfers.take_pages(sender, message)  # type: ignore[arg-type]
        elif kind is wire.TransferPagesAck:
            self.transfers.pages_held(sender, message)  # type: ignore[arg-type]
        else:
            goal = GOAL_OF.get(kind)
            if kind is wire.ReplicateRefused:
                goal = GOAL_OF_REFUSAL[message.reason]  # type: ignore[attr-defined]
            if goal is not None:
                self.kernel.goals[goal] = None
            core.message(sender, message, self.clock_ns())
        self.perform()

    def deliver_link(self, life: int, peer: int, session: int) -> None:
        """A link came or went."""
        if self.not_now(life, self.deliver_link, life, peer, session):
            return
        if session and session != self.kernel.session_of(self.node, peer):
            return
        if peer < 256:
            self._call(self.core.link, peer, session)

    def _call(self, call: Callable[..., Any], *arguments: Any) -> None:
        call(*arguments, self.clock_ns())
        self.perform()

    def _tick(self, life: int, due_ns: int) -> None:
        if due_ns != self._tick_at_ns:
            return  # an earlier one was asked for meanwhile
        if not self.not_now(life, self._tick, life, due_ns):
            self._tick_at_ns = 0
            self._call(self.core.tick)

    # ------------------------------------------------------------------ host I/O

    def _host_operation(self, sender: int, record: Record) -> None:
        token = (sender, record)
        if record.kind == op.READ:
            self._read(token)
        else:
            self.core.write(record, token, self.clock_ns())

    def _read(self, token: tuple[int, Record]) -> None:
        record = token[1]
        now_ns = self.clock_ns()
        copy = self.core.copy_for_host(record.volume, record.region, now_ns)
        if not isinstance(copy, RegionCopy):
            self._reply(token, op.NOT_OWNER, b"")
            return
        if not self.core.may_read(copy, now_ns):
            self.kernel.goals["a read waited for a lease or an opening"] = None
            self.core.wait_to_read(copy, token)
            return
        blocks = self.store.get((record.volume, record.region), {})
        data = b"".join(
            blocks.get(sector, ZEROS)
            for sector in range(
                record.offset // SECTOR_BYTES, (record.offset + record.length) // SECTOR_BYTES
            )
        )
        config = self.kernel.config
        fetch_ns = config.fetch_ns
        if self.rng.below(16) == 0:
            fetch_ns += self.rng.below(config.fetch_tail_ns)
        self.kernel.after(fetch_ns, self._answer_read, self.life, token, copy, copy.epoch, data)

    def _answer_read(
        self, life: int, token: tuple[int, Record], copy: RegionCopy, epoch: int, data: bytes
    ) -> None:
        if self.not_now(life, self._answer_read, life, token, copy, epoch, data):
            return
        if copy.epoch != epoch or not self.core.may_read(copy, self.clock_ns()):
            self.kernel.goals["a lease ended between the fetch and the answer of a read"] = None
            self._read(token)
            self.perform()
            return
        for watch in self.kernel.watch:
            watch.served(self, copy)
        self._reply(token, op.OK, data)

    def _reply(self, token: tuple[int, Record], outcome: int, data: bytes) -> None:
        sender, record = token
        packed = op.pack_reply(record.client, record.number, outcome, 0, 0, len(data))
        self.network.send(self.node, sender, wire.HostReplies(1, packed + data))

    # ------------------------------------------------------------------ effects

    def perform(self) -> None:
        """Perform what the cores asked for, in order, then send what this turn collected."""
        effects = self.effects
        if effects:
            for effect in effects:  # it grows meanwhile, and the loop goes on to what was added
                PERFORM[type(effect)](self, effect)
            effects.clear()
        if self._records:
            for peer, records in sorted(self._records.items()):
                self.network.send(self.node, peer, records)
            self._records.clear()
        if self._acks:
            for peer in sorted(self._acks):
                acks = tuple(
                    (ack.copy.volume, ack.copy.region, ack.epoch, ack.seq, ack.synced, ack.session)
                    for ack in self._acks[peer].values()
                )
                self.kernel.send(self.node, peer, wire.ReplicateAcks(0, acks))
            self._acks.clear()
        if self.journal and not self._journal_busy:
            self.write_journal()
        now_ns = self.network.now_ns
        since_ns, own_ns = self._anchor  # `clock_ns`, for which a call would cost as much again
        passed_ns = now_ns - since_ns
        own_ns += passed_ns + passed_ns * self._rate_ppm // 1_000_000
        wait_ns = self.core.next_tick_ns(own_ns) - own_ns
        due_ns = now_ns + wait_ns + wait_ns // 20 + 1000
        if self._tick_at_ns <= now_ns or due_ns < self._tick_at_ns:
            self._tick_at_ns = due_ns
            self.network.at(due_ns, self._tick, self.life, due_ns)

    def _store_effect(self, effect: fx.Store) -> None:
        copy, record = effect.copy, effect.record
        if effect.journal:
            self.journal.append(("record", copy, record, copy.committed))
        for peer in effect.peers:
            item = (clone(record), copy.epoch, copy.committed)
            self._records.setdefault(peer, []).append(item)
        if effect.peers:
            copy.commit_told = copy.committed

    def _apply_effect(self, effect: fx.Apply) -> None:
        copy, record = effect.copy, effect.record
        key = (copy.volume, copy.region)
        if copy.role == OWNER:
            self.core.commit_dirty[copy] = None
            for watch in self.kernel.watch:
                watch.committed(self, copy, record)
        else:
            for settled in self.kernel.on_settled:
                settled(copy, record)
        blocks = self.store.setdefault(key, {})
        if record.cow_into:
            self._save_views(key, blocks, record)
        apply_sectors(blocks, record)
        self.transfers.applied(key, record)

    def _save_views(self, key: Key, blocks: Sectors, record: Record) -> None:
        views = self.views.setdefault(key, RegionViews())
        views.overwrite(blocks, record, self.transfers.pages_of(record))

    def read_view(self, key: Key, view: int, page: int) -> Contents:
        """A page of a snapshot, as this node has it."""
        tree = self.core.catalog.snapshots.tree(key[0])
        views = self.views.get(key, NO_VIEWS)
        return views.read(tree, self.store.get(key, {}), view, page)

    def _ack_effect(self, effect: fx.Ack) -> None:
        copy = effect.copy
        self._acks.setdefault(effect.peer, {})[copy.volume, copy.region] = effect

    def _reply_effect(self, effect: fx.Reply) -> None:
        if effect.error is None:
            self._reply(effect.token, op.OK, b"")
        else:
            self._reply(effect.token, op.NOT_OWNER, b"")

    def _moved_effect(self, effect: fx.Moved) -> None:
        self._reply(effect.token, op.MOVED, b"")

    def _resume_effect(self, effect: fx.Resume) -> None:
        self._host_operation(*effect.token)

    def _sync_record(self, effect: fx.SyncRecord) -> None:
        self.sync(lambda: effect.copy.record_synced(effect.seq, effect.epoch, effect.era))

    def _truncate_effect(self, effect: fx.Truncate) -> None:
        self.journal.append(("truncate", effect.copy, effect.from_seq, 0))

    def _send_effect(self, effect: fx.Send) -> None:
        self.network.send(self.node, effect.peer, effect.message)

    def _send_beacons(self, effect: fx.SendBeacons) -> None:
        send, node = self.network.send, self.node
        for peer, beacon in effect.beacons:
            send(node, peer, beacon)

    def write_entry(self, entry: JournalEntry) -> None:
        """What the journal writes for one of its entries."""
        kind, copy, what, committed = entry
        key = (copy.volume, copy.region)
        durable = self.durable
        if kind == "record":
            if not what.dead:
                durable.append(key, what, committed)
        elif kind == "truncate":
            durable.truncate(key, what)
        elif kind == "drop":
            durable.put(key, None)
            return
        else:
            fresh = DurableRegion()
            if kind == "reset":
                fresh = durable.region(key).begun(what, self.transfers.pages_of)
            durable.put(key, fresh)
        durable.region(key).place = copy.place

    def entry_written(self, entry: JournalEntry) -> None:
        """The journal holds the entry."""
        kind, copy, record, _ = entry
        if kind == "record":
            copy.record_journalled(record)
            for watch in self.kernel.watch:
                watch.journalled(self, copy, record)

    def write_now(self, kind: str, copy: RegionCopy, what: Any = None) -> None:
        """An entry that must be there before what follows; all that was handed over goes first."""
        for entry in self.take_journal():
            self.write_entry(entry)
            if entry[0] == "record":
                self.kernel.after(1, self._late_written, self.life, entry)
        self.write_entry((kind, copy, what, 0))

    def _late_written(self, life: int, entry: JournalEntry) -> None:
        if not self.not_now(life, self._late_written, life, entry):
            self.entry_written(entry)
            self.perform()

    def _open_region(self, effect: fx.OpenRegion) -> None:
        copy = effect.copy
        if effect.fresh:
            self.store[copy.volume, copy.region] = {}
            self.views.pop((copy.volume, copy.region), None)
            self.transfers.forget((copy.volume, copy.region))
            self.write_now("fresh", copy)

    def _close_region(self, effect: fx.CloseRegion) -> None:
        key = (effect.copy.volume, effect.copy.region)
        self.store.pop(key, None)
        self.views.pop(key, None)
        self.transfers.forget(key)
        self.write_now("drop", effect.copy)

    def _persist(self, effect: fx.PersistRaft) -> None:
        request: rt.Persist = effect.request
        # One device: what was handed over first is on it first.
        self._persist_at_ns = max(self._persist_at_ns + 1, self.kernel.now_ns + self.sync_time_ns())
        self.kernel.at(self._persist_at_ns, self._persisted, self.life, request)

    def _persisted(self, life: int, request: rt.Persist) -> None:
        # A killed process may have had this write on its way: it is lost here, as a torn one is.
        if self.not_now(life, self._persisted, life, request) or self.hold_while_hung(
            self._persisted, life, request
        ):
            return
        durable = self.durable
        if request.hard_state is not None:
            durable.hard = request.hard_state
        if request.snapshot is not None:
            snapshot = request.snapshot
            kept = (
                entries_behind(durable.raft, snapshot.index)
                if durable.raft.last_index > snapshot.index >= durable.raft.start_index
                else ()
            )
            durable.raft = RaftLog(snapshot, kept)
        if request.truncate_from is not None:
            durable.raft.truncate(request.truncate_from)
        durable.raft.append(request.entries)
        self._call(self.core.raft_persisted, request.number)

    def _topology(self, _effect: fx.TopologyChanged) -> None:
        for watch in self.kernel.watch:
            watch.configured(self)

    def _new_life(self, effect: fx.NewLife) -> None:
        self.durable.incarnation = max(self.durable.incarnation, effect.above) + 1

        def begin() -> None:
            self._call(self.core.begin_life, self.durable.incarnation)

        self.sync(begin)

    def _life_counted(self, _effect: fx.LifeCounted) -> None:
        def counted() -> None:
            self.durable.intact, self.durable.blank = True, False
            self.durable.known = -1
            self._call(self.core.life_counted)

        self.sync(counted)

    def _note(self, effect: fx.Note) -> None:
        self.kernel.goals[effect.event] = None
        if effect.event == "region.opened":
            fields: dict[str, Any] = effect.fields
            if self.core.catalog.row(fields["volume"], fields["region"]).joiner != NOBODY:
                self.kernel.goals["a region opened while a copy joined it"] = None
        self.kernel.note(self.node, effect.event, sorted(effect.fields.items()))

    def _admit(self, effect: fx.Admit) -> None:
        self.core.joins.admit(effect)

    def _answer(self, effect: fx.Answer) -> None:
        if callable(effect.token):
            effect.token(effect)


@dataclass(slots=True)
class HostOps:
    """Host operations on their way to an owner."""

    records: list[Record]


ZEROS = bytes(SECTOR_BYTES)
NO_VIEWS = RegionViews()

# Messages that tell of something rare.
GOAL_OF: dict[type, str] = {
    wire.InstallSnapshot: "a catalog was sent as a whole",
    wire.TransferEnded: "a copy was filled",
}
GOAL_OF_REFUSAL: dict[int, str] = {
    STALE: "a record of a stale epoch was refused",
    AHEAD: "a record of an epoch ahead was refused",
    GAP: "a record behind a gap was refused",
    NOT_MEMBER: "a record was refused by a node that is no member",
}

PERFORM: dict[type, Callable[[KernelNode, Any], None]] = {
    fx.Store: KernelNode._store_effect,
    fx.Apply: KernelNode._apply_effect,
    fx.Ack: KernelNode._ack_effect,
    fx.Reply: KernelNode._reply_effect,
    fx.Moved: KernelNode._moved_effect,
    fx.Resume: KernelNode._resume_effect,
    fx.SyncRecord: KernelNode._sync_record,
    fx.Truncate: KernelNode._truncate_effect,
    fx.Send: KernelNode._send_effect,
    fx.SendBeacons: KernelNode._send_beacons,
    fx.SendBegin: lambda node, effect: node.transfers.send_begin(effect),
    fx.SendPosition: lambda node, effect: node.transfers.send_position(effect),
    fx.CopyPages: lambda node, effect: node.transfers.copy_pages(effect),
    fx.ResetRegion: lambda node, effect: node.transfers.reset_region(effect),
    fx.EndTransfer: lambda node, effect: node.transfers.end_transfer(effect),
    fx.Admit: KernelNode._admit,
    fx.OpenRegion: KernelNode._open_region,
    fx.CloseRegion: KernelNode._close_region,
    fx.PersistRaft: KernelNode._persist,
    fx.Answer: KernelNode._answer,
    fx.TopologyChanged: KernelNode._topology,
    fx.NewLife: KernelNode._new_life,
    fx.LifeCounted: KernelNode._life_counted,
    fx.Note: KernelNode._note,
    fx.Adopted: lambda node, effect: node.core.gates.copy_adopted(effect.copy, node.clock_ns()),
}


__all__ = ["Durable", "HostOps", "Kernel", "KernelConfig", "KernelNode", "clone", "replace"]
