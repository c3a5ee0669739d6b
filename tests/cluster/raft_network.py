"""A network of Raft cores on one seeded heap of events: delays, loss, repeats, cuts, crashes that
lose what was not synced, wiped stores. It checks the safety properties of the paper as it runs."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from base.ids import NodeId
from cluster.consensus import Raft
from cluster.raft_log import RaftLog
from cluster.raft_types import (
    TICK,
    Apply,
    ApplySnapshot,
    BecameLeader,
    Compacted,
    EntryKind,
    HardState,
    LeaderChanged,
    LostLeadership,
    Members,
    MembersChanged,
    PeerBlank,
    Persist,
    Persisted,
    ProposalDone,
    ProposalLost,
    ProposalRefused,
    Propose,
    ProposeMembers,
    RaftConfig,
    RaftEffect,
    RaftEvent,
    Received,
    SendTo,
    Snapshot,
)
from transport.messages import AppendReply, InstallSnapshot, RequestVote, SnapshotReply, VoteReply

MS = 1_000_000
FAST = RaftConfig(
    election_min_ms=100,
    election_max_ms=200,
    heartbeat_ms=20,
    keep_entries=2,
    snapshot_chunk_bytes=16,
    append_entries_max=3,
    inflight_max=3,
)


@dataclass
class Store:
    """What survives a crash."""

    hard: HardState = field(default_factory=HardState)
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(0, 0, Members((NodeId(0),))))
    entries: list[tuple[int, int, bytes]] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.snapshot.index + len(self.entries)

    def term_at(self, index: int) -> int:
        at = index - self.snapshot.index
        if at == 0:
            return self.snapshot.term
        return self.entries[at - 1][0] if 0 < at <= len(self.entries) else -1

    def perform(self, request: Persist) -> None:
        if request.hard_state is not None:
            assert request.hard_state.term >= self.hard.term
            self.hard = request.hard_state
        if request.snapshot is not None:
            drop = request.snapshot.index - self.snapshot.index
            assert drop > 0
            self.snapshot = request.snapshot
            del self.entries[:drop]
        if request.truncate_from is not None:
            del self.entries[request.truncate_from - self.snapshot.index - 1 :]
        if request.entries:
            assert request.first_index == self.last_index + 1
            self.entries.extend(request.entries)


@dataclass
class Machine:
    """One node: its core while it runs, its store always."""

    node: NodeId
    store: Store
    raft: Raft | None = None
    incarnation: int = 0
    blank: bool = False
    pending: list[Persist] = field(default_factory=list)
    applied: list[tuple[int, int, bytes]] = field(default_factory=list)
    tick_ns: int = -1
    commit_index: int = 0
    sync_stuck: bool = False
    history: list[RaftEffect] = field(default_factory=list)


class Network:
    """Nodes 0 to voters-1 vote from the start; there can be more nodes, without a role."""

    def __init__(
        self,
        voters: int,
        *,
        seed: int = 0,
        nodes: int | None = None,
        config: RaftConfig = FAST,
        loss: float = 0.0,
        repeat: float = 0.0,
        delay_ms: tuple[float, float] = (0.5, 2.0),
        sync_ms: tuple[float, float] = (0.5, 3.0),
        start: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.config = config
        self.loss, self.repeat = loss, repeat
        self.delay_ms, self.sync_ms = delay_ms, sync_ms
        self.now_ns = 0
        self.members = Members(tuple(NodeId(n) for n in range(voters)))
        self.heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.sequence = 0
        self.cut: set[tuple[int, int]] = set()
        self.leader_of_term: dict[int, int] = {}
        self.committed: dict[int, tuple[int, int, bytes]] = {}
        self.catalog: dict[int, tuple[int, bytes]] = {}
        self.done: dict[int, int] = {}
        self.lost: set[int] = set()
        self.refused: dict[int, str] = {}
        self.stores_wiped = False
        self.sent: list[tuple[int, int, object]] = []
        self.record_sent = False
        self.next_token = 1
        self.events = 0
        self.machines = {
            NodeId(n): Machine(NodeId(n), Store(snapshot=Snapshot(0, 0, self.members)))
            for n in range(nodes or voters)
        }
        if start:
            for node in self.machines:
                self.start(node)

    # ------------------------------------------------------------ the world

    def later(self, delay_ns: int, act: Callable[..., None], *args: Any) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now_ns + delay_ns, self.sequence, act, args))

    def start(self, node: int) -> None:
        machine = self.machines[NodeId(node)]
        assert machine.raft is None
        store = machine.store
        machine.incarnation += 1
        machine.pending, machine.tick_ns, machine.commit_index = [], -1, store.snapshot.index
        machine.sync_stuck = False
        machine.applied = decode_catalog(store.snapshot.data)
        machine.raft = Raft(
            self_id=machine.node,
            hard_state=store.hard,
            log=RaftLog(store.snapshot, store.entries),
            config=self.config,
            rng=random.Random(self.rng.randrange(1 << 30)),
            blank=machine.blank,
        )
        self.step(machine.node, TICK)

    def crash(self, node: int) -> None:
        """Lose what is not synced; some of it may have reached the device all the same."""
        machine = self.machines[NodeId(node)]
        assert machine.raft is not None
        for request in machine.pending[: self.rng.randrange(0, len(machine.pending) + 1)]:
            machine.store.perform(request)
        machine.raft, machine.pending = None, []

    def wipe(self, node: int) -> None:
        """Crash and lose the store as well."""
        self.crash(node)
        machine = self.machines[NodeId(node)]
        machine.store, machine.blank = Store(snapshot=Snapshot(0, 0, self.members)), True
        self.stores_wiped = True

    def split(self, *sides: Iterable[int]) -> None:
        """Only nodes of one side hear each other."""
        side_of = {node: number for number, side in enumerate(sides) for node in side}
        self.cut = {
            (a, b)
            for a in self.machines
            for b in self.machines
            if side_of.get(a, -1 - a) != side_of.get(b, -1 - b)
        }

    def heal(self) -> None:
        self.cut = set()

    def run(self, ms: float, until: Callable[[], bool] | None = None) -> bool:
        """Let virtual time pass; stop early when `until` holds. Returns whether it did."""
        end = self.now_ns + int(ms * MS)
        while self.heap and self.heap[0][0] <= end:
            self.now_ns, _, act, args = heapq.heappop(self.heap)
            self.events += 1
            act(*args)
            if until is not None and until():
                return True
        self.now_ns = end
        return until is not None and until()

    # ------------------------------------------------------------ one step

    def step(self, node: int, event: RaftEvent) -> list[RaftEffect]:
        machine = self.machines[NodeId(node)]
        raft = machine.raft
        assert raft is not None
        effects = raft.step(self.now_ns, event)
        for effect in effects:
            self.perform(machine, raft, effect)
        if raft.commit_index > machine.commit_index:
            self.check_commit(machine, raft)
        if raft.next_wake_ns != machine.tick_ns:
            machine.tick_ns = raft.next_wake_ns
            delay = max(0, raft.next_wake_ns - self.now_ns)
            self.later(delay, self.tick, machine.node, machine.incarnation, raft.next_wake_ns)
        return effects

    def tick(self, node: NodeId, incarnation: int, at_ns: int) -> None:
        machine = self.machines[node]
        current = machine.incarnation == incarnation and machine.tick_ns == at_ns
        if machine.raft is not None and current:
            machine.tick_ns = -1
            self.step(node, TICK)

    def perform(self, machine: Machine, raft: Raft, effect: RaftEffect) -> None:
        if isinstance(effect, SendTo):
            self.check_durable(machine, raft, effect.message)
            self.send(machine, effect)
        elif isinstance(effect, Persist):
            machine.pending.append(effect)
            delay = int(self.rng.uniform(*self.sync_ms) * MS)
            self.later(delay, self.synced, machine.node, machine.incarnation, effect.number)
        elif isinstance(effect, Apply):
            entry = (effect.term, effect.payload)
            assert self.catalog.setdefault(effect.index, entry) == entry, "state machine safety"
            assert not machine.applied or machine.applied[-1][0] < effect.index
            machine.applied.append((effect.index, *entry))
        elif isinstance(effect, ApplySnapshot):
            machine.applied = decode_catalog(effect.snapshot)
            for index, term, payload in machine.applied:
                assert self.catalog[index] == (term, payload), "a snapshot of another history"
        elif isinstance(effect, BecameLeader):
            self.check_new_leader(machine, raft, effect.term)
        elif isinstance(effect, ProposalDone):
            self.done[effect.token] = effect.index
            assert raft.applied_index >= effect.index
        elif isinstance(effect, ProposalLost):
            self.lost.add(effect.token)
        elif isinstance(effect, ProposalRefused):
            self.refused[effect.token] = str(effect.reason)
        if isinstance(
            effect, BecameLeader | LostLeadership | LeaderChanged | MembersChanged | PeerBlank
        ):
            machine.history.append(effect)

    def synced(self, node: NodeId, incarnation: int, number: int) -> None:
        machine = self.machines[node]
        if machine.raft is None or machine.incarnation != incarnation or machine.sync_stuck:
            return
        if not machine.pending or machine.pending[0].number > number:
            return
        while machine.pending and machine.pending[0].number <= number:
            machine.store.perform(machine.pending.pop(0))
        if not machine.store.hard.blank:
            machine.blank = False
        self.step(node, Persisted(number))

    def send(self, machine: Machine, effect: SendTo) -> None:
        if self.record_sent:
            self.sent.append((machine.node, effect.peer, effect.message))
        receiver = self.machines.get(effect.peer)
        if receiver is None or receiver.raft is None:
            return
        for _ in range(2 if self.rng.random() < self.repeat else 1):
            if self.rng.random() < self.loss:
                continue
            delay = int(self.rng.uniform(*self.delay_ms) * MS)
            lives = (machine.incarnation, receiver.incarnation)
            self.later(delay, self.deliver, machine.node, effect.peer, lives, effect.message)

    def deliver(self, a: NodeId, b: NodeId, lives: tuple[int, int], message: object) -> None:
        sender, receiver = self.machines[a], self.machines[b]
        if (a, b) in self.cut or receiver.raft is None or sender.raft is None:
            return
        if (sender.incarnation, receiver.incarnation) == lives:  # a link has one session
            self.step(b, Received(a, message))

    # ------------------------------------------------------------ what must hold (Raft figure 3)

    def check_new_leader(self, machine: Machine, raft: Raft, term: int) -> None:
        assert self.leader_of_term.setdefault(term, machine.node) == machine.node, "two leaders"
        for index, entry in self.committed.items():  # leader completeness
            if index > raft.log.start_index:
                assert index <= raft.log.last_index, f"leader lacks committed {index}"
                assert raft.log.entry(index) == entry, f"leader has another entry at {index}"

    def check_commit(self, machine: Machine, raft: Raft) -> None:
        for index in range(machine.commit_index + 1, raft.commit_index + 1):
            if index <= raft.log.start_index:
                continue
            entry = raft.log.entry(index)
            if index not in self.committed:
                self.committed[index] = entry
            assert self.committed[index] == entry, f"two entries committed at {index}"
        machine.commit_index = raft.commit_index
        if raft.is_leader and not self.stores_wiped:
            index = raft.commit_index
            holders = [
                voter
                for voter in raft.members.voters
                if self.machines[voter].store.term_at(index) == raft.log.term_at(index)
                or self.machines[voter].store.snapshot.index >= index
            ]
            assert len(holders) >= raft.members.quorum, f"{index} is durable on {holders} only"

    def check_durable(self, machine: Machine, raft: Raft, message: Any) -> None:
        """Raft section 5 and figure 2: persistent state is updated before responding."""
        store = machine.store
        if isinstance(message, RequestVote):
            if not message.pre:
                assert (store.hard.term, store.hard.voted_for) == (message.term, machine.node)
            return
        if isinstance(message, VoteReply):
            if not message.pre:
                assert store.hard.term >= message.term
            if message.granted and not message.pre:
                assert store.hard.voted_for != 255
                assert not store.hard.blank
            return
        assert store.hard.term == message.term, f"{message} before its term is synced"
        if isinstance(message, AppendReply) and message.ok:
            index = message.match_index
            assert store.snapshot.index >= index or store.term_at(index) == raft.log.term_at(index)
        if isinstance(message, SnapshotReply):
            assert raft.outbox.durable_index <= store.last_index

    def check_log_matching(self) -> None:
        """Raft section 5.3: same index and term, same entry and same prefix."""
        running = [m.raft for m in self.machines.values() if m.raft is not None]
        for at, one in enumerate(running):
            for two in running[at + 1 :]:
                low = max(one.log.start_index, two.log.start_index)
                same = False
                for index in range(min(one.log.last_index, two.log.last_index), low, -1):
                    same = same or one.log.term_at(index) == two.log.term_at(index)
                    if same:
                        assert one.log.entry(index) == two.log.entry(index), "log matching"

    # ------------------------------------------------------------ what tests ask and do

    def raft(self, node: int) -> Raft:
        raft = self.machines[NodeId(node)].raft
        assert raft is not None, f"n{node} is down"
        return raft

    @property
    def running(self) -> list[int]:
        return [node for node, machine in self.machines.items() if machine.raft is not None]

    @property
    def leaders(self) -> list[int]:
        return [node for node in self.running if self.raft(node).is_leader]

    def leader(self, ms: float = 3000) -> int:
        """The one leader that a majority follows; waits for it."""

        def settled() -> bool:
            return any(self.raft(node).may_change_members for node in self.leaders)

        assert self.run(ms, settled), "no leader\n" + self.describe()
        return max(
            (node for node in self.leaders if self.raft(node).may_change_members),
            key=lambda node: self.raft(node).term,
        )

    def propose(self, node: int, payload: bytes) -> int:
        token, self.next_token = self.next_token, self.next_token + 1
        self.step(node, Propose(token, payload))
        return token

    def commit(self, payload: bytes, ms: float = 3000) -> int:
        """Have the leader commit it everywhere that runs and is connected."""
        for _ in range(10):
            token = self.propose(self.leader(), payload)
            if token not in self.refused:
                break
            self.run(50)  # leadership is being handed over
        assert self.run(ms, lambda: token in self.done), "not committed\n" + self.describe()
        return token

    def change(self, change: Any, ms: float = 3000) -> int:
        token, self.next_token = self.next_token, self.next_token + 1
        self.step(self.leader(), ProposeMembers(token, change))
        assert token not in self.refused, self.refused[token]
        assert self.run(ms, lambda: token in self.done), "not committed\n" + self.describe()
        return token

    def compact(self, node: int) -> None:
        raft, machine = self.raft(node), self.machines[NodeId(node)]
        if raft.applied_index > raft.log.snapshot.index:
            self.step(node, Compacted(raft.applied_index, encode_catalog(machine.applied)))

    def converged(self) -> bool:
        """One leader; every member that runs has applied all of its log."""
        if len(self.leaders) != 1:
            return False
        leader = self.raft(self.leaders[0])
        members = (*leader.members.voters, *leader.members.learners)
        return all(
            self.raft(node).applied_index == leader.log.last_index
            for node in members
            if node in self.running
        )

    def payloads(self, node: int) -> list[bytes]:
        return [payload for _, _, payload in self.machines[NodeId(node)].applied]

    def describe(self) -> str:
        return "\n".join(self.raft(node).describe() for node in self.running)


def encode_catalog(applied: list[tuple[int, int, bytes]]) -> bytes:
    return b"\n".join(b"%d %d %s" % (i, t, payload.hex().encode()) for i, t, payload in applied)


def decode_catalog(data: bytes) -> list[tuple[int, int, bytes]]:
    lines = [line.split(b" ") for line in data.split(b"\n") if line]
    return [(int(i), int(t), bytes.fromhex(p.decode())) for i, t, p in lines]


def count_sent(network: Network, kind: type[Any]) -> int:
    return sum(1 for _, _, message in network.sent if isinstance(message, kind))


__all__ = ["FAST", "MS", "EntryKind", "InstallSnapshot", "Machine", "Network", "Store"]
