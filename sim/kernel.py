"""shell: level 1 of the simulator: a discrete-event kernel that drives the cores of all nodes.

No asyncio, no sockets, no files: one heap of (time, number, call). A kernel node does what the real
shell of a node does — performs effects in order, journals, sends, applies — on models of disk and
network that are drawn from the seed. What a process kill leaves in a journal is kept per node in
`Durable`; a restart rebuilds the cores from it. Checkers hang on `Watch`.
"""

from __future__ import annotations

import heapq
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from base.ids import NodeId, node_name
from base.units import NS_PER_MS, NS_PER_US, SECTOR_BYTES, MiB
from cluster import raft_types as rt
from cluster.catalog import Catalog
from cluster.consensus import Raft
from cluster.entries import FormCluster, encode, plain_group, plain_inventory
from cluster.membership import Membership, MembershipConfig
from cluster.raft_log import RaftLog
from node import effects as fx
from node.client_table import ClientTable
from node.core import CoreSettings, NodeCore
from node.leases import LeaseTable
from node.region_copy import OWNER, RegionCopy
from sim.random import SeedStreams, SimRandom
from transport import messages as wire
from transport import operation as op
from transport.operation import Record
from volume.physical_disk import build_inventory
from volume.provisioning_group import ProvisioningGroup

_MASK64 = (1 << 64) - 1
_ONE_IN_50 = (1 << 32) // 50

Key = tuple[int, int]
Sectors = dict[int, bytes]


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
    page_bytes: int = 4096
    l2_entries: int = 2
    l3_entries: int = 4
    fetch_ns: int = 5 * NS_PER_US
    fetch_tail_ns: int = 2 * NS_PER_MS  # of one read in sixteen
    durability_synced: bool = False
    startup_grace_ms: int = 1500
    trace: bool = False


@dataclass(slots=True)
class DurableRegion:
    """What the disks and journal of one node hold of one region."""

    blocks: Sectors = field(default_factory=dict)
    committed: int = 0
    committed_epoch: int = 0
    clients: tuple[Any, ...] = ()
    log: list[tuple[Record, int]] = field(default_factory=list)  # (record, commit point with it)
    complete: bool = True
    place: tuple[int, int] | None = None
    synced: int = 0  # seq up to which a power cut would leave the records of `log`
    base: int = 0  # where the state transfer began that filled it: synced as a whole

    def holds(self, seq: int, epoch: int) -> bool:
        """Whether a restart finds the record of that name, or what it did."""
        if self.log and self.log[0][0].seq <= seq:
            at = seq - self.log[0][0].seq
            return at < len(self.log) and self.log[at][0].epoch == epoch
        return self.committed >= seq

    def now_synced(self, seq: int, epoch: int) -> None:
        """A sync ended that was asked for when the record of that name was the last one."""
        if seq > self.synced and self.holds(seq, epoch):
            self.synced = seq

    def complete_through_sync(self, seq: int) -> bool:
        """Whether a power cut would leave the record of that place."""
        return seq <= max(self.synced, self.base)


@dataclass(slots=True)
class Durable:
    """One node's disks: what a process kill leaves."""

    hard: rt.HardState
    raft: RaftLog
    incarnation: int = 0
    regions: dict[Key, DurableRegion] = field(default_factory=dict)


class Kernel:
    """Heap, network and nodes of one run."""

    def __init__(self, seed: int, config: KernelConfig) -> None:
        self.seed = seed
        self.config = config
        self.streams = SeedStreams(seed)
        self.now_ns = 1_000_000_000
        self.events = 0
        self.trace_hash = 0
        self.trace: list[str] = []
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._seq = 0
        self._net_rng = self.streams.stream("network")
        self._last_delivery: dict[Key, int] = {}
        self.sessions: dict[Key, int] = {}
        self.cuts: set[Key] = set()
        self.endpoints: dict[int, Any] = {}
        self.watch: list[Watch] = []
        members = rt.Members(tuple(NodeId(node) for node in range(config.nodes)))
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
        self.nodes = [
            KernelNode(self, node, Durable(rt.HardState(), RaftLog(rt.Snapshot(0, 0, members))))
            for node in range(config.nodes)
        ]

    # ------------------------------------------------------------------ time

    def at(self, when_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call it at that time; ties in the order of asking."""
        self._seq += 1
        if when_ns < self.now_ns:
            when_ns = self.now_ns
        heapq.heappush(self._heap, (when_ns, self._seq, call, arguments))

    def after(self, delay_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call it that much later."""
        self.at(self.now_ns + delay_ns, call, *arguments)

    def run_until(self, when_ns: int, stop: Callable[[], bool] | None = None) -> None:
        """Run events up to that time, or until `stop()`, asked after each event."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= when_ns:
            now_ns, _, call, arguments = pop(heap)
            self.now_ns = now_ns
            self.events += 1
            self.trace_hash = (self.trace_hash * 0x100000001B3 + now_ns) & _MASK64
            call(*arguments)
            if stop is not None and stop():
                return
        self.now_ns = max(self.now_ns, when_ns)

    def note(self, node: int, kind: str, key: object) -> None:
        """One step of the trace: a running hash over time, node, kind and key."""
        text = f"{self.now_ns} {node} {kind} {key}"
        self.trace_hash = (self.trace_hash * 0x100000001B3 + zlib.crc32(text.encode())) & _MASK64
        if self.config.trace:
            self.trace.append(f"{self.now_ns / 1e9:12.6f} {node_name(node)} {kind} {key}")

    # ------------------------------------------------------------------ network

    def start(self) -> None:
        """Start every node."""
        for node in self.nodes:
            node.start()

    def connect(self, first: int, second: int) -> None:
        """A new session of the link of this pair, if both are up and not cut off."""
        if not self.reachable(first, second):
            return
        session = self.sessions.get((first, second), 0) + 1
        self.sessions[first, second] = self.sessions[second, first] = session
        self._link(first, second, session)
        self._link(second, first, session)

    def disconnect(self, first: int, second: int) -> None:
        """End the session: what is on its way is lost, both sides hear of it."""
        session = self.sessions.get((first, second), 0) + 1
        self.sessions[first, second] = self.sessions[second, first] = session
        for here, there in ((first, second), (second, first)):
            self._link(here, there, 0)

    def cut(self, first: int, second: int, *, one_way: bool, heard: bool) -> None:
        """Nothing of `first` reaches `second` any more, nor back unless `one_way`. heard: both ends
        learn at once that the link broke; else only silence tells."""
        self.note(first, "cut", (second, one_way, heard))
        self.cuts.add((first, second))
        if not one_way:
            self.cuts.add((second, first))
        if heard:
            self.disconnect(first, second)

    def mend(self, first: int, second: int) -> None:
        """End the cut. A new session begins: what was lost inside the old one stays lost."""
        self.note(first, "mend", second)
        self.cuts.discard((first, second))
        self.cuts.discard((second, first))
        self.disconnect(first, second)
        self.after(NS_PER_MS, self.connect, first, second)

    def reachable(self, first: int, second: int) -> bool:
        """Whether a link between the two can stand."""
        return (
            self.endpoints[first].alive
            and self.endpoints[second].alive
            and (first, second) not in self.cuts
            and (second, first) not in self.cuts
        )

    def _link(self, here: int, there: int, session: int) -> None:
        endpoint = self.endpoints[here]
        if endpoint.alive:
            self.after(50 * NS_PER_US, endpoint.deliver_link, endpoint.life, there, session)

    def send(self, sender: int, receiver: int, message: object) -> None:
        """In order within a session; lost when it ends before the message arrives."""
        if (sender, receiver) in self.cuts or receiver not in self.endpoints:
            return
        # One draw for both: its low half says how long, its high half whether there is a tail.
        config = self.config
        draw = self._net_rng.next64()
        delay_ns = config.delay_ns // 2 + ((draw & 0xFFFFFFFF) * config.delay_ns >> 32)
        if draw >> 32 < _ONE_IN_50:
            delay_ns += self._net_rng.below(config.delay_tail_ns)
        pair = (sender, receiver)
        when_ns = self.now_ns + delay_ns
        last_ns = self._last_delivery.get(pair, 0)
        if when_ns <= last_ns:
            when_ns = last_ns + 1
        self._last_delivery[pair] = when_ns
        self._seq += 1
        arguments = (sender, receiver, self.sessions.get(pair, 0), message)
        heapq.heappush(self._heap, (when_ns, self._seq, self._arrive, arguments))

    def _arrive(self, sender: int, receiver: int, session: int, message: object) -> None:
        if session == self.sessions.get((sender, receiver), 0):
            endpoint = self.endpoints[receiver]
            if endpoint.alive:
                endpoint.deliver(endpoint.life, sender, message)


class KernelNode:
    """One node: its cores in this life, and its disks over all lives."""

    def __init__(self, kernel: Kernel, node: int, durable: Durable) -> None:
        self.kernel = kernel
        self.node = node
        self.durable = durable
        self.alive = False
        self.paused = False
        self.life = 0
        self.core: NodeCore
        self.effects: list[fx.NodeEffect] = []
        self.store: dict[Key, Sectors] = {}
        rng = kernel.streams.stream(f"node{node}")
        ppm = kernel.config.clock_ppm_max
        self._rng: SimRandom = rng
        self._rate_ppm = rng.below(2 * ppm + 1) - ppm
        self._deferred: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._journal: list[tuple[str, RegionCopy, Any, int]] = []
        self._journal_busy = False
        self._acks: dict[int, dict[Key, fx.Ack]] = {}
        self._records: dict[int, list[tuple[Record, int, int]]] = {}
        self._tick_at_ns = 0
        self._persist_at_ns = 0
        kernel.endpoints[node] = self

    def __repr__(self) -> str:
        return f"KernelNode({node_name(self.node)} life {self.life})"

    def clock_ns(self, true_ns: int | None = None) -> int:
        """This node's own clock: it drifts."""
        if true_ns is None:
            true_ns = self.kernel.now_ns
        return true_ns + true_ns * self._rate_ppm // 1_000_000

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin a life from what the disks hold."""
        assert not self.alive
        kernel, config, durable = self.kernel, self.kernel.config, self.durable
        self.life += 1
        self.alive, self.paused = True, False
        self._deferred.clear()
        durable.incarnation += 1
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
            intact=True,
            blank=False,
            inventory=kernel.inventory,
            raft=Raft(
                self_id=NodeId(self.node),
                hard_state=durable.hard,
                log=raft_log,
                config=rt.RaftConfig(),
                rng=kernel.streams.stream(f"raft{self.node}.{self.life}"),
                blank=False,
            ),
            catalog=catalog,
            membership=Membership(
                peers=peers,
                config=MembershipConfig(startup_grace_ms=config.startup_grace_ms),
                now_ns=now_ns,
            ),
            leases=leases,
            settings=CoreSettings(
                form_entry=kernel.form_entry, durability_synced=config.durability_synced
            ),
            effects=self.effects,
            now_ns=now_ns,
        )
        self._recover()
        for other in sorted(kernel.endpoints):
            if other != self.node and kernel.endpoints[other].alive:
                kernel.after(NS_PER_MS, kernel.connect, *sorted((self.node, other)))
        self._call(self.core.tick)

    def _recover(self) -> None:
        self.store.clear()
        for (volume, region), kept in sorted(self.durable.regions.items()):
            if not kept.complete:
                continue
            blocks = dict(kept.blocks)
            known = max([kept.committed, *(point for _, point in kept.log)])
            clients = ClientTable(kept.clients)
            committed, epoch = kept.committed, kept.committed_epoch
            tail = []
            for record, _ in kept.log:
                fresh = clone(record)
                if record.seq <= known:
                    apply_sectors(blocks, fresh)
                    clients.add(record.client, record.number, record.low)
                    committed, epoch = record.seq, record.epoch
                else:
                    tail.append(fresh)
            self.store[volume, region] = blocks
            copy = self.core.restore_copy(
                volume, region, committed=committed, committed_epoch=epoch, tail=tail,
                clients=clients.state(), complete=True,
            )  # fmt: skip
            copy.place = kept.place

    def kill(self) -> None:
        """SIGKILL: memory is gone, the disks stay. The other ends of links hear of it."""
        assert self.alive
        self.alive = False
        kernel = self.kernel
        # What the journal was writing at that moment arrived in part: a prefix, in order.
        for entry in self._journal[: self._rng.below(len(self._journal) + 1)]:
            self._write_durable(*entry)
        self._journal = []
        self._journal_busy = False
        self._acks.clear()
        self._records.clear()
        kernel.note(self.node, "kill", self.life)
        for other in sorted(kernel.endpoints):
            if other != self.node:
                kernel.disconnect(self.node, other)

    def pause(self) -> None:
        """SIGSTOP: nothing runs, clocks go on, what arrives waits."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        if not self.paused or not self.alive:
            self.paused = False
            return
        self.paused = False
        while self._deferred and not self.paused:
            call, arguments = self._deferred.popleft()
            call(*arguments)

    # ------------------------------------------------------------------ events

    def deliver(self, life: int, sender: int, message: object) -> None:
        """A message arrived."""
        if self._not_now(life, self.deliver, life, sender, message):
            return
        kind = type(message)
        core = self.core
        if kind is wire.Beacon:
            # Most messages are beacons, and most of them change nothing but when silence begins:
            # no deadline comes nearer by them unless they have effects.
            core.detection.on_beacon(sender, message, self.clock_ns())  # type: ignore[arg-type]
            if self.effects:
                self.perform()
            return
        if kind is list:
            for record, epoch, committed in message:  # type: ignore[attr-defined]
                core.replicate(sender, clone(record), epoch, committed, self.clock_ns())
        elif kind is HostOps:
            for record in message.records:  # type: ignore[attr-defined]
                self._host_operation(sender, clone(record))
        elif kind is wire.SyncRequest:
            self.kernel.after(
                self.kernel.config.sync_ns, self.kernel.send, self.node, sender,
                wire.SyncReply(message.request),  # type: ignore[attr-defined]
            )  # fmt: skip
        elif kind is PagesMessage:
            self._take_pages(sender, message)  # type: ignore[arg-type]
        elif kind is wire.TransferPagesAck:
            self._pages_held(sender, message)  # type: ignore[arg-type]
        else:
            core.message(sender, message, self.clock_ns())
        self.perform()

    def deliver_link(self, life: int, peer: int, session: int) -> None:
        """A link came or went."""
        if self._not_now(life, self.deliver_link, life, peer, session):
            return
        if session and session != self.kernel.sessions.get((self.node, peer)):
            return
        if peer < 256:
            self._call(self.core.link, peer, session)

    def _not_now(self, life: int, call: Callable[..., None], *arguments: Any) -> bool:
        if not self.alive or life != self.life:
            return True
        if self.paused:
            self._deferred.append((call, arguments))
            return True
        return False

    def _call(self, call: Callable[..., Any], *arguments: Any) -> None:
        call(*arguments, self.clock_ns())
        self.perform()

    def _tick(self, life: int, due_ns: int) -> None:
        if due_ns != self._tick_at_ns:
            return  # an earlier one was asked for meanwhile
        self._tick_at_ns = 0
        if not self._not_now(life, self._tick, life, due_ns):
            self._call(self.core.tick)

    def _schedule(self) -> None:
        now_ns = self.clock_ns()
        wait_ns = self.core.next_tick_ns(now_ns) - now_ns
        due_ns = self.kernel.now_ns + wait_ns + wait_ns // 20 + 1000
        if self._tick_at_ns <= self.kernel.now_ns or due_ns < self._tick_at_ns:
            self._tick_at_ns = due_ns
            self.kernel.at(due_ns, self._tick, self.life, due_ns)

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
        if self._rng.below(16) == 0:
            fetch_ns += self._rng.below(config.fetch_tail_ns)
        self.kernel.after(fetch_ns, self._answer_read, self.life, token, copy, copy.epoch, data)

    def _answer_read(
        self, life: int, token: tuple[int, Record], copy: RegionCopy, epoch: int, data: bytes
    ) -> None:
        if self._not_now(life, self._answer_read, life, token, copy, epoch, data):
            return
        if copy.epoch != epoch or not self.core.may_read(copy, self.clock_ns()):
            self._read(token)
            self.perform()
            return
        for watch in self.kernel.watch:
            watch.served(self, copy)
        self._reply(token, op.OK, data)

    def _reply(self, token: tuple[int, Record], outcome: int, data: bytes) -> None:
        sender, record = token
        packed = op.pack_reply(record.client, record.number, outcome, 0, 0, len(data))
        self.kernel.send(self.node, sender, wire.HostReplies(1, packed + data))

    # ------------------------------------------------------------------ effects

    def perform(self) -> None:
        """Perform what the cores asked for, in order, then send what this turn collected."""
        effects = self.effects
        at = 0
        while at < len(effects):
            effect = effects[at]
            at += 1
            PERFORM[type(effect)](self, effect)
        effects.clear()
        if self._records:
            for peer in sorted(self._records):
                self.kernel.send(self.node, peer, self._records[peer])
            self._records.clear()
        if self._acks:
            for peer in sorted(self._acks):
                acks = tuple(
                    (ack.copy.volume, ack.copy.region, ack.epoch, ack.seq, ack.synced, ack.session)
                    for ack in self._acks[peer].values()
                )
                self.kernel.send(self.node, peer, wire.ReplicateAcks(0, acks))
            self._acks.clear()
        if self._journal and not self._journal_busy:
            self._journal_busy = True
            delay_ns = self.kernel.config.journal_ns // 2 + self._rng.below(
                self.kernel.config.journal_ns
            )
            self.kernel.after(delay_ns, self._journalled, self.life, len(self._journal))
        self._schedule()

    def _store_effect(self, effect: fx.Store) -> None:
        copy, record = effect.copy, effect.record
        if effect.journal:
            self._journal.append(("record", copy, record, copy.committed))
        for peer in effect.peers:
            item = (clone(record), copy.epoch, copy.committed)
            self._records.setdefault(peer, []).append(item)
        if effect.peers:
            copy.commit_told = copy.committed

    def _journalled(self, life: int, count: int) -> None:
        if self._not_now(life, self._journalled, life, count):
            return
        done, self._journal = self._journal[:count], self._journal[count:]
        self._journal_busy = False
        for entry in done:
            self._write_durable(*entry)
            kind, copy, record, _ = entry
            if kind == "record":
                copy.record_journalled(record)
                for watch in self.kernel.watch:
                    watch.journalled(self, copy, record)
        self.perform()

    def _write_durable(self, kind: str, copy: RegionCopy, what: Any, committed: int) -> None:
        key = (copy.volume, copy.region)
        kept = self.durable.regions.setdefault(key, DurableRegion())
        kept.place = copy.place
        if kind == "record":
            if not what.dead:
                kept.log.append((clone(what), committed))
        elif kind == "truncate":
            kept.log = [entry for entry in kept.log if entry[0].seq < what]
            kept.synced = min(kept.synced, what - 1)
        elif kind == "drop":
            del self.durable.regions[key]
        else:
            place = kept.place
            kept = DurableRegion(place=place)
            if kind == "reset":
                kept.committed, kept.committed_epoch = what.base_seq, what.base_epoch
                kept.base = what.base_seq
                kept.clients = what.clients
                kept.complete = False
            self.durable.regions[key] = kept

    def _apply_effect(self, effect: fx.Apply) -> None:
        copy, record = effect.copy, effect.record
        key = (copy.volume, copy.region)
        if copy.role == OWNER:
            self.core.commit_dirty[copy] = None
            for watch in self.kernel.watch:
                watch.committed(self, copy, record)
        blocks = self.store.setdefault(key, {})
        apply_sectors(blocks, record)
        filling = self._filling.get(key)
        if filling is not None:
            first = record.offset // SECTOR_BYTES
            filling.update(dict.fromkeys(range(first, first + record.length // SECTOR_BYTES)))

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
        # A sync covers what was written before it was asked for.
        kept = self.durable.regions.get((effect.copy.volume, effect.copy.region))
        covered = kept.log[-1][0] if kept is not None and kept.log else None

        def synced(life: int) -> None:
            if not self._not_now(life, synced, life):
                if kept is not None and covered is not None:
                    kept.now_synced(covered.seq, covered.epoch)
                effect.copy.record_synced(effect.seq, effect.epoch)
                self.perform()

        self.kernel.after(self.kernel.config.sync_ns, synced, self.life)

    def _truncate_effect(self, effect: fx.Truncate) -> None:
        self._journal.append(("truncate", effect.copy, effect.from_seq, 0))

    def _send_effect(self, effect: fx.Send) -> None:
        self.kernel.send(self.node, effect.peer, effect.message)

    # State transfer: one message carries all sectors of the region.

    @property
    def _filling(self) -> dict[Key, dict[int, None]]:
        filling: dict[Key, dict[int, None]] = self.__dict__.setdefault("filling", {})
        return filling

    def _send_begin(self, effect: fx.SendBegin) -> None:
        copy = effect.copy
        begin = wire.TransferBegin(
            copy.volume, copy.region, copy.epoch, effect.session, copy.committed_epoch,
            copy.committed, copy.clients.state(), b"",
        )  # fmt: skip
        self.kernel.send(self.node, effect.peer, begin)

    def _copy_pages(self, effect: fx.CopyPages) -> None:
        copy = effect.copy
        blocks = dict(self.store.get((copy.volume, copy.region), {}))
        message = PagesMessage(
            copy.volume, copy.region, copy.epoch, effect.session, copy.committed, blocks
        )
        self.kernel.after(
            self._rng.below(20 * NS_PER_MS), self.kernel.send, self.node, effect.peer, message
        )

    def _take_pages(self, sender: int, message: PagesMessage) -> None:
        copy = self.core.copies.get(message.volume, {}).get(message.region)
        if (
            copy is None
            or copy.complete
            or message.session != copy.session
            or message.epoch != copy.epoch
            or message.as_of > copy.prepared
        ):
            return
        key = (message.volume, message.region)
        touched = self._filling.setdefault(key, {})
        blocks = self.store.setdefault(key, {})
        durable = self.durable.regions[key]
        # Sectors of records that are received and not yet committed are filled by the stream too.
        for sector, value in message.blocks.items():
            durable.blocks[sector] = value
            if sector not in touched:
                blocks[sector] = value
        ack = wire.TransferPagesAck(
            message.volume, message.region, message.epoch, message.session, ()
        )
        self.kernel.send(self.node, sender, ack)

    def _pages_held(self, sender: int, message: wire.TransferPagesAck) -> None:
        copy = self.core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and copy.epoch == message.epoch:
            self.core.joins.pages_copied(copy, sender, message.session, self.clock_ns())

    def _reset_region(self, effect: fx.ResetRegion) -> None:
        copy = effect.copy
        key = (copy.volume, copy.region)
        self.store[key] = {}
        self._filling[key] = {}
        kept = ResetNote(effect.base_seq, effect.base_epoch, copy.clients.state())
        # The journal is in order: what stands before it of this region is void from here on.
        self._flush_journal()
        self._write_durable("reset", copy, kept, 0)

    def _flush_journal(self) -> None:
        """What was handed to the journal before is written before what follows."""
        done, self._journal = self._journal, []
        for entry in done:
            self._write_durable(*entry)
            kind, copy, record, _ = entry
            if kind == "record":
                self.kernel.after(1, self._late_journalled, self.life, copy, record)

    def _late_journalled(self, life: int, copy: RegionCopy, record: Record) -> None:
        if not self._not_now(life, self._late_journalled, life, copy, record):
            copy.record_journalled(record)
            for watch in self.kernel.watch:
                watch.journalled(self, copy, record)
            self.perform()

    def _end_transfer(self, effect: fx.EndTransfer) -> None:
        def ended(life: int) -> None:
            if self._not_now(life, ended, life):
                return
            copy = effect.copy
            if copy.session == effect.session and not copy.complete:
                self._filling.pop((copy.volume, copy.region), None)
                self.durable.regions[copy.volume, copy.region].complete = True
                copy.transfer_synced(effect.session)
                self.perform()

        self.kernel.after(self.kernel.config.sync_ns, ended, self.life)

    def _open_region(self, effect: fx.OpenRegion) -> None:
        copy = effect.copy
        if effect.fresh:
            self._flush_journal()
            self.store[copy.volume, copy.region] = {}
            self._write_durable("fresh", copy, None, 0)

    def _close_region(self, effect: fx.CloseRegion) -> None:
        key = (effect.copy.volume, effect.copy.region)
        self._flush_journal()
        self.store.pop(key, None)
        self.durable.regions.pop(key, None)

    def _persist(self, effect: fx.PersistRaft) -> None:
        request: rt.Persist = effect.request
        delay_ns = self.kernel.config.sync_ns // 2 + self._rng.below(self.kernel.config.sync_ns)
        # One device: what was handed over first is on it first.
        self._persist_at_ns = max(self._persist_at_ns + 1, self.kernel.now_ns + delay_ns)
        self.kernel.at(self._persist_at_ns, self._persisted, self.life, request)

    def _persisted(self, life: int, request: rt.Persist) -> None:
        # A killed process may have had this write on its way: it is lost here, as a torn one is.
        if self._not_now(life, self._persisted, life, request):
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

        def begin(life: int) -> None:
            if not self._not_now(life, begin, life):
                self._call(self.core.begin_life, self.durable.incarnation)

        self.kernel.after(self.kernel.config.sync_ns, begin, self.life)

    def _note(self, effect: fx.Note) -> None:
        self.kernel.note(self.node, effect.event, sorted(effect.fields.items()))

    def _admit(self, effect: fx.Admit) -> None:
        self.core.joins.admit(effect)

    def _answer(self, effect: fx.Answer) -> None:
        if callable(effect.token):
            effect.token(effect)


@dataclass(slots=True)
class ResetNote:
    """Where a state transfer began."""

    base_seq: int
    base_epoch: int
    clients: tuple[Any, ...]


@dataclass(slots=True)
class HostOps:
    """Host operations on their way to an owner."""

    records: list[Record]


@dataclass(slots=True)
class PagesMessage:
    """All sectors of a region as of a commit point."""

    volume: int
    region: int
    epoch: int
    session: int
    as_of: int
    blocks: Sectors


ZEROS = bytes(SECTOR_BYTES)

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
    fx.SendBegin: KernelNode._send_begin,
    fx.CopyPages: KernelNode._copy_pages,
    fx.ResetRegion: KernelNode._reset_region,
    fx.EndTransfer: KernelNode._end_transfer,
    fx.Admit: KernelNode._admit,
    fx.OpenRegion: KernelNode._open_region,
    fx.CloseRegion: KernelNode._close_region,
    fx.PersistRaft: KernelNode._persist,
    fx.Answer: KernelNode._answer,
    fx.TopologyChanged: KernelNode._topology,
    fx.NewLife: KernelNode._new_life,
    fx.Note: KernelNode._note,
}


def entries_behind(log: RaftLog, index: int) -> tuple[rt.Entry, ...]:
    """The entries of a log behind that index and behind its snapshot."""
    first = max(index, log.snapshot.index) + 1
    return tuple(log.entry(at) for at in range(first, log.last_index + 1))


def clone(record: Record) -> Record:
    """A record of one's own: what another node does with its copy is not seen."""
    return Record(
        record.volume, record.region, record.kind, record.flags, record.offset, record.length,
        record.client, record.number, record.low, record.data, epoch=record.epoch,
        prev_epoch=record.prev_epoch, seq=record.seq, cow_into=record.cow_into,
    )  # fmt: skip


def apply_sectors(blocks: Sectors, record: Record) -> None:
    """Put a committed record into a region of sectors."""
    first = record.offset // SECTOR_BYTES
    count = record.length // SECTOR_BYTES
    if record.kind == op.WRITE:
        data = bytes(record.data)
        for at in range(count):
            blocks[first + at] = data[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]
    else:
        for at in range(count):
            blocks.pop(first + at, None)


__all__ = ["Durable", "HostOps", "Kernel", "KernelConfig", "KernelNode", "clone", "replace"]
