"""step: Raft, the agreement of the nodes about the catalog.

Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (extended
version), cited as Raft; Ongaro's thesis, cited as thesis. Beyond the paper: pre-vote (thesis 9.6),
check-quorum (thesis 6.2), hand-over (3.10), single-server membership changes with the condition of
2015 (a change only after an entry of the leader's own term has committed), learners (4.2.1), and
nodes that lost their store (`blank`).

Pure: time is an argument, randomness is passed in, the caller performs the effects in their order.
What leaves as an effect may be sent at once: see `cluster.raft_outbox`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from base.errors import RemoteProtocolError
from base.ids import NOBODY, NodeId, node_name
from base.units import NS_PER_MS
from cluster.raft_leader import LeaderSide
from cluster.raft_log import RaftLog
from cluster.raft_outbox import Outbox
from cluster.raft_peers import Leadership, SnapshotInbox
from cluster.raft_types import (
    Apply,
    ApplySnapshot,
    BecameLeader,
    Compacted,
    Entry,
    EntryKind,
    HardState,
    LeaderChanged,
    LostLeadership,
    Members,
    MembersChanged,
    PeerLost,
    Persisted,
    ProposalDone,
    ProposalLost,
    ProposalRefused,
    Propose,
    ProposeMembers,
    RaftConfig,
    RaftEffect,
    RaftEvent,
    RandomSource,
    Received,
    Refusal,
    Role,
    Snapshot,
    Tick,
    TransferLeadership,
    checked_members,
)
from transport.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    RequestVote,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)

_LONG_AGO: Final = -(1 << 62)
_KINDS: Final = frozenset(int(kind) for kind in EntryKind)


class Raft:
    """One node's part in the agreement. `step` is the only way in; it is not reentrant.

    The store gives `hard_state` and `log`; the caller has restored its catalog from `log.snapshot`.
    `blank`: the store was lost, while others may still count on what this node promised. Such a
    node neither votes nor campaigns nor takes entries as a voter; it comes back as a learner.
    """

    def __init__(
        self,
        *,
        self_id: NodeId,
        hard_state: HardState,
        log: RaftLog,
        config: RaftConfig,
        rng: RandomSource,
        blank: bool,
    ) -> None:
        self.self_id = self_id
        self.config = config
        self.log = log
        self.role = Role.FOLLOWER
        self.leader: NodeId = NOBODY
        self.commit_index = log.snapshot.index
        self.applied_index = log.snapshot.index
        self.next_wake_ns = 0  # a Tick before that changes nothing
        self.outbox = Outbox(durable_index=log.last_index, held_max=config.held_max)
        self.leadership: Leadership | None = None
        self.now_ns = 0
        self._hard = hard_state
        if blank and not hard_state.blank:
            self.set_hard(replace(hard_state, blank=True))
        self._rng = rng
        self._inbox = SnapshotInbox(config.snapshot_bytes_max)
        self._votes: dict[NodeId, bool] = {}
        self._announced = log.members
        self._heard_ns = _LONG_AGO  # when the leader of this term last spoke
        self._election_ns = 0
        self._urgent_tries = 0
        self._started_ns: int | None = None
        self._leader_side = LeaderSide(self)
        self._on_event: dict[type[Any], Callable[[Any], None]] = {
            Tick: self._on_tick,
            Received: self._on_received,
            Propose: self._on_propose,
            ProposeMembers: self._on_propose_members,
            Persisted: self._on_persisted,
            Compacted: self._on_compacted,
            TransferLeadership: self._on_transfer,
            PeerLost: self._on_peer_lost,
        }
        self._on_message: dict[type[Any], tuple[str, Callable[[NodeId, Any], None]]] = {
            RequestVote: ("candidate", self._on_request_vote),
            VoteReply: ("voter", self._on_vote_reply),
            AppendEntries: ("leader", self._on_append_entries),
            AppendReply: ("follower", self._on_append_reply),
            InstallSnapshot: ("leader", self._on_install_snapshot),
            SnapshotReply: ("follower", self._on_snapshot_reply),
            TimeoutNow: ("leader", self._on_timeout_now),
        }

    # ------------------------------------------------------------ for the caller

    def step(self, now_ns: int, event: RaftEvent) -> list[RaftEffect]:
        """Take one event; the effects, in the order in which to perform them.

        now_ns: this node's monotonic clock; never less than in the step before. Raises
        RemoteProtocolError, with nothing changed, for a message that no correct node can send.
        """
        if now_ns < self.next_wake_ns and type(event) is Tick:
            return []
        self.now_ns = now_ns
        if self._started_ns is None:
            self._started_ns = now_ns
            self._reset_election_timer()
        self._on_event[type(event)](event)
        leadership = self.leadership
        self.next_wake_ns = (
            self._election_ns if leadership is None else self._leader_side.heartbeat_ns
        )
        if self.log.members is not self._announced:
            before, self._announced = self._announced, self.log.members
            if before != self._announced:
                self.outbox.emit(MembersChanged(self.members.voters, self.members.learners))
        return self.outbox.finish(self.log)

    @property
    def term(self) -> int:
        """The latest term that this node knows."""
        return self._hard.term

    @property
    def blank(self) -> bool:
        """The store was lost and this node has not been taken in as a learner yet."""
        return self._hard.blank

    @property
    def members(self) -> Members:
        """The configuration in force here, committed or not."""
        return self.log.members

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self.leadership is not None

    @property
    def may_change_members(self) -> bool:
        """This node leads and the next `ProposeMembers` need not wait for an earlier entry."""
        leadership = self.leadership
        return (
            leadership is not None
            and self.commit_index >= leadership.noop_index
            and self.commit_index >= self.log.members_index
        )

    def describe(self) -> str:
        """The state for people: one line, and one more for each peer while this node leads."""
        role = self.role.name.lower().replace("_", "-")
        if self.role is Role.FOLLOWER:
            role += " of " + ("nobody" if self.leader == NOBODY else node_name(self.leader))
        log, durable = self.log, self.outbox.durable_index
        lines = [
            f"{node_name(self.self_id)} {role}{', blank' if self.blank else ''}, term {self.term}; "
            f"log {log.start_index + 1}..{log.last_index}, snapshot {log.snapshot.index}, "
            f"synced {durable}, committed {self.commit_index}, applied {self.applied_index}; "
            f"{log.members}"
        ]
        if self.leadership is not None:
            lines += self._leader_side.describe_peers()
        return "\n".join(lines)

    # ------------------------------------------------------------ time and elections

    def _on_tick(self, _event: Tick) -> None:
        if self.leadership is not None:
            self._leader_side.tick(self.leadership)
        elif self.now_ns >= self._election_ns:
            self.set_leader(NOBODY)
            if self._may_campaign():
                self._campaign(pre=True)
            else:
                self.role = Role.FOLLOWER
                self._reset_election_timer()

    def _reset_election_timer(self) -> None:
        config = self.config
        if self._urgent_tries > 0:
            self._urgent_tries -= 1
            delay_ms = self._rng.randrange(config.urgent_min_ms, config.urgent_max_ms)
        else:
            delay_ms = self._rng.randrange(config.election_min_ms, config.election_max_ms)
        self._election_ns = self.now_ns + delay_ms * NS_PER_MS

    def _may_campaign(self) -> bool:
        # Thesis 4.2.2: who is being removed may be the only one with the log to lead until the
        # removal commits. Once it has, its pre-votes find nobody who misses a leader.
        log = self.log
        return not self.blank and (
            self.self_id in log.members.voters
            or (self.commit_index < log.members_index and self.self_id in log.members_before.voters)
        )

    def _campaign(self, *, pre: bool) -> None:
        self.role = Role.PRE_CANDIDATE if pre else Role.CANDIDATE
        self._votes = {}
        self._reset_election_timer()
        term = self.term + 1
        if pre:
            self._votes[self.self_id] = True  # binds nobody, so it waits for no sync
        else:
            self.set_hard(HardState(term, self.self_id))
        request = RequestVote(
            term=term,
            candidate=self.self_id,
            last_log_index=self.log.last_index,
            last_log_term=self.log.last_term,
            pre=pre,
        )
        for peer in self.log.members.voters:
            if peer != self.self_id:
                self.outbox.say(peer, request)
        self._count_votes()

    def _count_votes(self) -> None:
        members = self.log.members
        granted = sum(1 for node in members.voters if self._votes.get(node, False))
        if granted < members.quorum:
            return
        if self.role is Role.PRE_CANDIDATE:
            self._campaign(pre=False)
        else:
            self._become_leader()

    def _on_request_vote(self, sender: NodeId, request: RequestVote) -> None:
        if not request.pre and request.term > self.term:
            self.become_follower(request.term, NOBODY)
        up_to_date = (request.last_log_term, request.last_log_index) >= (
            self.log.last_term,
            self.log.last_index,
        )
        if request.pre:
            # Thesis 4.2.3: a leader that is heard is not put in question.
            hears_leader = (
                self.leadership is not None
                or self.now_ns - self._heard_ns < self.config.election_min_ns
            )
            granted = (
                request.term > self.term and up_to_date and not hears_leader and not self.blank
            )
        else:
            granted = (
                request.term == self.term
                and self._hard.voted_for in (NOBODY, sender)
                and up_to_date
                and not self.blank
                and self.leadership is None
            )
            if granted:
                if self._hard.voted_for != sender:
                    self.set_hard(HardState(self.term, sender))
                self.role = Role.FOLLOWER
                self._urgent_tries = 0  # give the one that we elect the time to speak up
                self._reset_election_timer()
        term = request.term if request.pre and granted else self.term
        self.outbox.say(sender, VoteReply(term, self.self_id, granted, request.pre))

    def _on_vote_reply(self, sender: NodeId, reply: VoteReply) -> None:
        if reply.term > self.term and not (reply.pre and reply.granted):
            self.become_follower(reply.term, NOBODY)
            return
        if not reply.granted:
            return
        if reply.pre:
            counts = self.role is Role.PRE_CANDIDATE and reply.term == self.term + 1
        else:
            counts = self.role is Role.CANDIDATE and reply.term == self.term
        if counts:
            self._votes[sender] = True
            self._count_votes()

    def _on_timeout_now(self, sender: NodeId, message: TimeoutNow) -> None:
        if message.term > self.term:
            self.become_follower(message.term, sender)
        elif message.term == self.term and self.leadership is None and self._may_campaign():
            self._campaign(pre=False)  # thesis 3.10: the leader itself wants it

    def _on_peer_lost(self, event: PeerLost) -> None:
        if self.leadership is not None or event.peer != self.leader:
            return
        self._heard_ns = _LONG_AGO
        self._urgent_tries = self.config.urgent_tries
        self.set_leader(NOBODY)
        self._reset_election_timer()

    # ------------------------------------------------------------ roles

    def become_follower(self, term: int, leader: NodeId) -> None:
        """Fall back to follower, in a later term or in this one."""
        if term > self.term:
            self.set_hard(HardState(term, NOBODY, self.blank))
            self._heard_ns = _LONG_AGO  # the leader of an older term protects nobody
        leadership, self.leadership = self.leadership, None
        self.role = Role.FOLLOWER
        if leadership is not None:
            self._reset_election_timer()
            self.outbox.emit(LostLeadership())
            for token in leadership.tokens.values():
                self.outbox.emit(ProposalLost(token))
        self.set_leader(leader)

    def _become_leader(self) -> None:
        self.role = Role.LEADER
        self._urgent_tries = 0
        self.leadership = leadership = Leadership(self.now_ns)
        leadership.cover(self.self_id, self.log.members, self.log.last_index, self.now_ns)
        self.outbox.emit(BecameLeader(self.term))
        self.set_leader(self.self_id)
        self._leader_side.begin(leadership)

    def set_leader(self, leader: NodeId) -> None:
        """Say who leads when it is news."""
        if leader != self.leader:
            self.leader = leader
            self.outbox.emit(LeaderChanged(leader))

    def set_hard(self, hard: HardState) -> None:
        """Change what must be synced before anything else is said."""
        self._hard = hard
        self.outbox.persist_hard(hard)

    # ------------------------------------------------------------ following

    def _on_received(self, event: Received) -> None:
        sender, message = event.sender, event.message
        known = self._on_message.get(type(message))
        if known is None:
            raise RemoteProtocolError(f"{type(message).__name__} is no message of consensus")
        author, act = known
        if getattr(message, author) != sender or sender == self.self_id:
            raise RemoteProtocolError(
                f"{type(message).__name__} from {node_name(sender)} speaks for another node"
            )
        act(sender, message)

    def _follow(self, leader: NodeId, term: int) -> None:
        """A message of the leader of this term, or of a later one, is here."""
        if term == self.term and self.leadership is not None:
            raise RemoteProtocolError(f"{node_name(leader)} claims to lead our own term {term}")
        if term > self.term or self.role is not Role.FOLLOWER:
            self.become_follower(term, leader)
        self._heard_ns = self.now_ns
        self._urgent_tries = 0
        self.set_leader(leader)
        self._reset_election_timer()

    def _admit(self, voter: bool) -> bool | None:
        """Whether a node may take the leader's log. None: say nothing for now."""
        if not self.blank:
            return True
        if voter:
            return False
        # A leader that was cut off may still take us for the learner that we once were, before we
        # voted and lost our store. After this time check-quorum has made it step down.
        assert self._started_ns is not None
        if self.now_ns - self._started_ns < self.config.election_max_ms * NS_PER_MS:
            return None
        self.set_hard(replace(self._hard, blank=False))
        return True

    def _reply(self, leader: NodeId, round_number: int, ok: bool, match: int, hint: int) -> None:
        self.outbox.say(
            leader,
            AppendReply(
                term=self.term,
                follower=self.self_id,
                ok=ok,
                match_index=match,
                hint_index=hint,
                round_number=round_number,
                blank=self.blank,
            ),
            needs=match if ok else 0,
        )

    def _on_append_entries(self, sender: NodeId, message: AppendEntries) -> None:
        log, prev = self.log, message.prev_index
        self._check_entries(message)
        if message.term < self.term:
            self._reply(sender, message.round_number, False, prev, log.last_index + 1)
            return
        self._follow(sender, message.term)
        admitted = self._admit(message.voter)
        if not admitted:
            if admitted is False:
                self._reply(sender, message.round_number, False, prev, log.last_index + 1)
            return
        entries = message.entries
        if prev < log.start_index:
            # What the snapshot covers is committed, and so the same in the leader's log.
            entries = entries[log.start_index - prev :]
            prev = log.start_index
        elif log.term_at(prev) != message.prev_term:
            # Raft section 5.3, last paragraph: skip a whole term at once. What is committed here
            # is in the leader's log.
            hint = log.last_index + 1
            if prev <= log.last_index:
                hint = max(log.first_index_of_term_at(prev), self.commit_index + 1)
            self._reply(sender, message.round_number, False, message.prev_index, hint)
            return
        self._take_entries(prev, entries)
        match = prev + len(entries)
        self.commit_to(min(message.commit_index, match))
        self._reply(sender, message.round_number, True, match, 0)

    def _check_entries(self, message: AppendEntries) -> None:
        if message.prev_index < 0 or message.prev_term < 0 or message.commit_index < 0:
            raise RemoteProtocolError("AppendEntries with a negative index or term")
        term = message.prev_term
        for entry_term, kind, payload in message.entries:
            if not term <= entry_term <= message.term or kind not in _KINDS:
                raise RemoteProtocolError(
                    f"entry of term {entry_term} and kind {kind} after {term}"
                )
            term = entry_term
            if kind == EntryKind.MEMBERS:
                Members.decode(payload)

    def _take_entries(self, prev: int, entries: tuple[Entry, ...]) -> None:
        log = self.log
        for offset, entry in enumerate(entries):
            index = prev + 1 + offset
            if index <= log.last_index:
                if log.term_at(index) == entry[0]:
                    continue
                assert index > self.commit_index, "a committed entry would be overwritten"
                log.truncate(index)
                self.outbox.persist_truncation(index)
            fresh = entries[offset:]
            log.append(fresh)
            self.outbox.persist_entries(index, fresh)
            return

    def _on_install_snapshot(self, sender: NodeId, message: InstallSnapshot) -> None:
        piece = self._inbox.check(message)
        members = checked_members(message.voters, message.learners)
        if message.term < self.term:
            self._reply(sender, 0, False, 0, self.log.last_index + 1)
            return
        self._follow(sender, message.term)
        admitted = self._admit(message.voter)
        if not admitted:
            if admitted is False:
                self._reply(sender, 0, False, 0, self.log.last_index + 1)
            return
        index, log = message.last_index, self.log
        if index <= self.commit_index or log.term_at(index) == message.last_term:
            self.commit_to(index)
            self._inbox.clear()
            self._reply_snapshot(sender, message, message.total_bytes, index)
            return
        wanted = self._inbox.take(message, piece)
        if wanted < message.total_bytes:
            self._reply_snapshot(sender, message, wanted, 0)
            return
        snapshot = Snapshot(index, message.last_term, members, self._inbox.finish())
        log.replace(snapshot)
        self.outbox.persist_snapshot(snapshot, replaces_log=True)
        self.commit_index = index
        self._reply_snapshot(sender, message, message.total_bytes, index)

    def _reply_snapshot(
        self, leader: NodeId, message: InstallSnapshot, next_offset: int, needs: int
    ) -> None:
        reply = SnapshotReply(self.term, self.self_id, message.last_index, next_offset)
        self.outbox.say(leader, reply, needs=needs)

    # ------------------------------------------------------------ leading

    def _on_append_reply(self, sender: NodeId, reply: AppendReply) -> None:
        if reply.term > self.term:
            self.become_follower(reply.term, NOBODY)
        elif self.leadership is not None and reply.term == self.term:
            self._leader_side.on_append_reply(self.leadership, sender, reply)

    def _on_snapshot_reply(self, sender: NodeId, reply: SnapshotReply) -> None:
        if reply.term > self.term:
            self.become_follower(reply.term, NOBODY)
        elif self.leadership is not None and reply.term == self.term:
            self._leader_side.on_snapshot_reply(self.leadership, sender, reply)

    def _on_propose(self, event: Propose) -> None:
        if self.leadership is None:
            self.outbox.emit(ProposalRefused(event.token, Refusal.NOT_LEADER))
        else:
            self._leader_side.propose(self.leadership, event.token, event.payload)

    def _on_propose_members(self, event: ProposeMembers) -> None:
        if self.leadership is None:
            self.outbox.emit(ProposalRefused(event.token, Refusal.NOT_LEADER))
        else:
            self._leader_side.propose_members(self.leadership, event.token, event.change)

    def _on_transfer(self, event: TransferLeadership) -> None:
        if self.leadership is not None:
            self._leader_side.transfer(self.leadership, event.to)

    # ------------------------------------------------------------ durable, committed, applied

    def _on_persisted(self, event: Persisted) -> None:
        if not self.outbox.persisted(event.number, self.term):
            return
        if self.role is Role.CANDIDATE and self.outbox.hard_state_durable:
            self._votes[self.self_id] = True
            self._count_votes()
        elif self.leadership is not None:
            self._leader_side.maybe_commit(self.leadership)
        self._apply()

    def commit_to(self, index: int) -> None:
        """Entries up to there are committed."""
        if index > self.commit_index:
            self.commit_index = index
            self._apply()

    def _apply(self) -> None:
        # Only what is durable here as well: a node never acts on an epoch that it could forget.
        log, emit = self.log, self.outbox.emit
        limit = min(self.commit_index, self.outbox.durable_index)
        if self.applied_index < log.start_index <= limit:
            emit(ApplySnapshot(log.snapshot.index, log.snapshot.term, log.snapshot.data))
            self.applied_index = log.snapshot.index
        tokens = {} if self.leadership is None else self.leadership.tokens
        while self.applied_index < limit:
            self.applied_index = index = self.applied_index + 1
            term, kind, payload = log.entry(index)
            if kind == EntryKind.NORMAL:
                emit(Apply(index, term, payload))
            if index in tokens:
                emit(ProposalDone(tokens.pop(index), index))

    def _on_compacted(self, event: Compacted) -> None:
        index, log = event.index, self.log
        assert index <= self.applied_index, f"{index} is not applied yet"
        if index <= log.snapshot.index:
            return
        members = log.members_at(index)
        snapshot = Snapshot(index, log.term_at(index), members, event.snapshot)
        log.compact(snapshot, self.config.keep_entries)
        self.outbox.persist_snapshot(snapshot, replaces_log=False)
