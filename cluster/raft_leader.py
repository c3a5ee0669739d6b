"""step: what a Raft node does while it leads: replicate, commit, change members, hand over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.errors import RemoteProtocolError
from base.ids import NOBODY, NodeId, node_name
from base.units import NS_PER_MS
from cluster.raft_peers import Flow, Leadership, Progress
from cluster.raft_types import (
    AddLearner,
    Entry,
    EntryKind,
    MemberChange,
    Members,
    PeerBlank,
    PromoteLearner,
    ProposalRefused,
    Refusal,
    SendTo,
    changed,
)
from transport.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    SnapshotReply,
    TimeoutNow,
)

if TYPE_CHECKING:
    from cluster.consensus import Raft


class LeaderSide:
    """The leader's half of `Raft`. Holds nothing but the next heartbeat: all else is the node's, or
    belongs to one `Leadership`."""

    __slots__ = ("_raft", "heartbeat_ns")

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self.heartbeat_ns = 0

    def begin(self, leadership: Leadership) -> None:
        """Commit what earlier terms left by an entry of our own (Raft section 5.4.2 and 8)."""
        self.heartbeat_ns = self._raft.now_ns + self._raft.config.heartbeat_ns
        leadership.noop_index = self._append((self._raft.term, EntryKind.NOOP, b""))
        self._broadcast(leadership)

    def tick(self, leadership: Leadership) -> None:
        """Every heartbeat: step down without a majority (thesis 6.2), else tell everyone."""
        raft, now_ns = self._raft, self._raft.now_ns
        if now_ns < self.heartbeat_ns:
            return
        self.heartbeat_ns = now_ns + raft.config.heartbeat_ns
        voters = raft.log.members.voters
        followed_ns = leadership.answers_of_quorum_ns(voters, raft.self_id, now_ns)
        if now_ns - followed_ns > raft.config.election_min_ns:
            raft.become_follower(raft.term, NOBODY)
            return
        if leadership.transfer_to is not None and now_ns >= leadership.transfer_deadline_ns:
            leadership.transfer_to = None  # it did not take over; go on leading
        leadership.next_round(now_ns)
        for peer, progress in leadership.progress.items():
            self._heartbeat(leadership, peer, progress)

    # ------------------------------------------------------------ sending

    def _heartbeat(self, leadership: Leadership, peer: NodeId, progress: Progress) -> None:
        log = self._raft.log
        if progress.flow is Flow.SNAPSHOT:
            # Keeps its election timer quiet; matches any log.
            self._send_append(leadership, peer, 0, ())
            if self._raft.now_ns - progress.sent_ns >= self._raft.config.heartbeat_ns:
                self._send_piece(peer, progress)  # the piece or its answer was lost
        elif log.term_at(progress.next_index - 1) < 0:
            self._start_snapshot(peer, progress)
        else:
            if progress.flow is Flow.PIPELINE and not progress.inflight:
                self.replicate(leadership, peer, progress)
            # In front of it stand all appends on the way: a refusal tells that one was lost.
            self._send_append(leadership, peer, progress.next_index - 1, ())

    def _broadcast(self, leadership: Leadership, *, even_empty: bool = False) -> None:
        for peer, progress in leadership.progress.items():
            self.replicate(leadership, peer, progress, even_empty=even_empty)

    def replicate(
        self,
        leadership: Leadership,
        peer: NodeId,
        progress: Progress,
        *,
        even_empty: bool = False,
    ) -> None:
        """Send what it lacks, as far as the flow allows."""
        raft, log, config = self._raft, self._raft.log, self._raft.config
        sent = False
        while progress.next_index <= log.last_index:
            if progress.flow is Flow.SNAPSHOT or progress.waiting:
                return
            if len(progress.inflight) >= config.inflight_max:
                return
            prev = progress.next_index - 1
            if log.term_at(prev) < 0:
                self._start_snapshot(peer, progress)
                return
            entries = log.slice(prev + 1, config.append_entries_max, config.append_bytes_max)
            self._send_append(leadership, peer, prev, entries)
            sent = True
            if progress.flow is Flow.PROBE:
                progress.waiting = True
                return
            progress.next_index += len(entries)
            progress.inflight.append(progress.next_index - 1)
        if even_empty and not sent and progress.flow is Flow.PIPELINE:
            self._send_append(leadership, peer, progress.next_index - 1, ())
        assert len(progress.inflight) <= raft.config.inflight_max

    def _send_append(
        self, leadership: Leadership, peer: NodeId, prev: int, entries: tuple[Entry, ...]
    ) -> None:
        raft = self._raft
        message = AppendEntries(
            term=raft.term,
            leader=raft.self_id,
            prev_index=prev,
            prev_term=raft.log.term_at(prev) if prev else 0,
            commit_index=raft.commit_index,
            round_number=leadership.round_number,
            # While a removal is not committed the next leader may not know of it, and still count
            # on what this peer promised: only a committed one makes it safe to start afresh.
            voter=raft.log.may_vote(peer, raft.commit_index),
            entries=entries,
        )
        raft.outbox.emit(SendTo(peer, message))

    def _start_snapshot(self, peer: NodeId, progress: Progress) -> None:
        progress.start_snapshot(self._raft.log.snapshot)
        self._send_piece(peer, progress)

    def _send_piece(self, peer: NodeId, progress: Progress) -> None:
        raft, snapshot = self._raft, progress.snapshot
        assert snapshot is not None
        progress.sent_ns = raft.now_ns
        end = progress.offset + raft.config.snapshot_chunk_bytes
        message = InstallSnapshot(
            term=raft.term,
            leader=raft.self_id,
            last_index=snapshot.index,
            last_term=snapshot.term,
            offset=progress.offset,
            total_bytes=len(snapshot.data),
            voters=snapshot.members.voters,
            learners=snapshot.members.learners,
            voter=raft.log.may_vote(peer, raft.commit_index),
            data=memoryview(snapshot.data)[progress.offset : end],
        )
        raft.outbox.emit(SendTo(peer, message))

    # ------------------------------------------------------------ answers

    def on_append_reply(self, leadership: Leadership, sender: NodeId, reply: AppendReply) -> None:
        """An answer of this term."""
        progress = leadership.progress.get(sender)
        if progress is None:
            return
        if reply.ok and reply.match_index > self._raft.log.last_index:
            raise RemoteProtocolError(f"{node_name(sender)} holds entries that we never had")
        if reply.blank:
            # It does not count as an answer: this peer can help to commit nothing.
            if not progress.blank:
                self._raft.outbox.emit(PeerBlank(sender))
            progress.forget()
            return
        progress.blank = False
        leadership.answered(progress, reply.round_number)
        if not reply.ok:
            if progress.back_up(reply.match_index, reply.hint_index):
                self.replicate(leadership, sender, progress)
            return
        if progress.advance(reply.match_index):
            self._advanced(leadership, sender, progress)
        elif progress.next_index <= self._raft.log.last_index:
            self.replicate(leadership, sender, progress)

    def on_snapshot_reply(
        self, leadership: Leadership, sender: NodeId, reply: SnapshotReply
    ) -> None:
        """An answer of this term."""
        progress = leadership.progress.get(sender)
        if progress is None or progress.snapshot is None:
            return
        snapshot = progress.snapshot
        if reply.last_index != snapshot.index:
            return
        if not 0 <= reply.next_offset <= len(snapshot.data):
            raise RemoteProtocolError(f"{node_name(sender)} wants a piece outside the snapshot")
        if reply.next_offset == len(snapshot.data):
            progress.advance(snapshot.index)
            self._advanced(leadership, sender, progress)
        elif reply.next_offset != progress.offset:
            # The same offset again is a repeated answer: to send the piece for each of them would
            # double the traffic for ever. The heartbeat repeats a piece that was lost.
            progress.offset = reply.next_offset
            self._send_piece(sender, progress)

    def _advanced(self, leadership: Leadership, peer: NodeId, progress: Progress) -> None:
        self.maybe_commit(leadership)
        if self._raft.leadership is not leadership or peer not in leadership.progress:
            return
        if leadership.transfer_to == peer:
            self._hand_over_if_ready(leadership, peer)
        self.replicate(leadership, peer, progress)

    # ------------------------------------------------------------ committing

    def maybe_commit(self, leadership: Leadership) -> None:
        """Commit what a majority holds; only entries of our own term are counted (Raft 5.4.2)."""
        raft = self._raft
        index = leadership.match_of_quorum(
            raft.log.members.voters, raft.self_id, raft.outbox.durable_index
        )
        if index <= raft.commit_index or raft.log.term_at(index) != raft.term:
            return
        raft.commit_to(index)
        self._broadcast(leadership, even_empty=True)
        if raft.log.members_index <= index:
            leadership.drop_removed(raft.log.members)
            if raft.self_id not in raft.log.members.voters:
                self._leave(leadership)

    def _leave(self, leadership: Leadership) -> None:
        # Thesis 4.2.2: a leader that is no voter steps down when its removal is committed. Whoever
        # holds most of the log need not wait for a timeout.
        raft = self._raft
        best = max(
            raft.log.members.voters,
            key=lambda node: (leadership.progress[node].match_index, -node),
        )
        raft.outbox.emit(SendTo(best, TimeoutNow(raft.term, raft.self_id)))
        raft.become_follower(raft.term, NOBODY)

    # ------------------------------------------------------------ proposals

    def _append(self, entry: Entry) -> int:
        log = self._raft.log
        log.append((entry,))
        self._raft.outbox.persist_entries(log.last_index, (entry,))
        return log.last_index

    def _refusal(self, leadership: Leadership) -> Refusal | None:
        if leadership.transfer_to is not None:
            return Refusal.TRANSFERRING  # thesis 3.10: the target must be able to catch up
        uncommitted = self._raft.log.last_index - self._raft.commit_index
        return Refusal.OVERLOADED if uncommitted >= self._raft.config.proposals_max else None

    def propose(self, leadership: Leadership, token: int, payload: bytes) -> None:
        """Put an entry into the log and send it."""
        reason = self._refusal(leadership)
        if len(payload) > self._raft.config.entry_bytes_max:
            reason = Refusal.TOO_LARGE
        if reason is not None:
            self._raft.outbox.emit(ProposalRefused(token, reason))
            return
        index = self._append((self._raft.term, EntryKind.NORMAL, payload))
        leadership.tokens[index] = token
        self._broadcast(leadership)

    def propose_members(self, leadership: Leadership, token: int, change: MemberChange) -> None:
        """Put a new configuration into the log; it is in force from then on (thesis 4.1)."""
        raft = self._raft
        members = self._members_after(leadership, change)
        if isinstance(members, Refusal):
            raft.outbox.emit(ProposalRefused(token, members))
            return
        index = self._append((raft.term, EntryKind.MEMBERS, members.encode()))
        leadership.tokens[index] = token
        leadership.cover(raft.self_id, members, index - 1, raft.now_ns)
        self._broadcast(leadership)

    def _members_after(self, leadership: Leadership, change: MemberChange) -> Members | Refusal:
        raft = self._raft
        reason = self._refusal(leadership)
        if reason is not None:
            return reason
        # Ongaro, raft-dev, 10 July 2015: without an own committed entry two leaders may count on
        # majorities of configurations that differ by two nodes and do not meet.
        if raft.commit_index < leadership.noop_index:
            return Refusal.TERM_NOT_COMMITTED
        if raft.commit_index < raft.log.members_index:
            return Refusal.CHANGE_IN_PROGRESS
        members = changed(raft.log.members, change)
        if isinstance(members, Refusal) or isinstance(change, AddLearner):
            return members
        if isinstance(change, PromoteLearner):
            progress = leadership.progress[change.node]
            lag = raft.log.last_index - progress.match_index
            if progress.blank or lag > raft.config.promote_lag_max:
                return Refusal.LEARNER_BEHIND
        return members if self._has_quorum(leadership, members) else Refusal.NO_QUORUM_LEFT

    def _has_quorum(self, leadership: Leadership, members: Members) -> bool:
        # A majority of the new voters answers now; else the change could never commit.
        raft = self._raft
        followed_ns = leadership.answers_of_quorum_ns(members.voters, raft.self_id, raft.now_ns)
        return raft.now_ns - followed_ns <= raft.config.election_min_ns

    # ------------------------------------------------------------ handing over

    def transfer(self, leadership: Leadership, to: NodeId) -> None:
        """Bring that voter up to date, take no proposals meanwhile, then let it campaign."""
        raft = self._raft
        if to == raft.self_id or to not in raft.log.members.voters:
            return
        leadership.transfer_to = to
        leadership.transfer_deadline_ns = raft.now_ns + raft.config.election_min_ms * NS_PER_MS
        self._hand_over_if_ready(leadership, to)

    def _hand_over_if_ready(self, leadership: Leadership, to: NodeId) -> None:
        raft = self._raft
        if leadership.progress[to].match_index == raft.log.last_index:
            raft.outbox.emit(SendTo(to, TimeoutNow(raft.term, raft.self_id)))

    # ------------------------------------------------------------ for people

    def describe_peers(self) -> list[str]:
        """One line for each peer."""
        raft, leadership = self._raft, self._raft.leadership
        assert leadership is not None
        lines = []
        for peer, progress in leadership.progress.items():
            silent_ms = (raft.now_ns - progress.answered_ns) // NS_PER_MS
            kind = "voter" if peer in raft.log.members.voters else "learner"
            lines.append(
                f"  {node_name(peer)} {kind}{' blank' if progress.blank else ''}: "
                f"{progress.flow.name.lower()}, holds {progress.match_index}, "
                f"next {progress.next_index}, {len(progress.inflight)} on the way, "
                f"followed {silent_ms} ms ago"
            )
        return lines
