"""step: the replication protocol of one copy of one region (section 5 of the design).

Primary–backup as in PacificA, the configuration kept by the catalog. Every record has a name
(record epoch, seq); equal names mean equal records and equal prefixes, because a copy takes a
record only behind the one that the owner had before it. The rules that are easy to forget:

- An owner commits when its own journal and *all* members have the record, a joiner included from
  before its admission is proposed until the outcome is known (P2, P3).
- Reads need a lease from every other member and from that joiner; the caller checks before the data
  is fetched and again after (P4). `read_peers` says whose.
- A new owner waits until every lease that this node granted to anyone has ended (`open_at_ns`) and
  until all that it had prepared is committed under the new epoch (P9). Only then does it serve.
- Within one epoch acknowledgements cover what was matched against this owner, not what happens to
  lie in the journal: `matched` falls back to the commit point at each new epoch (P8).
- A joiner takes the stream only on top of the prefix of a numbered session; a member refuses state
  transfer; an older session is ignored (P8).
- Operations are recognised by (client, number) after a failover (P10).

Nothing here reads a clock, sends, or touches a disk: effects say what the shell must do, in order.
"""

from __future__ import annotations

from collections import deque

from base.errors import NotOwner, RegionOffline
from base.ids import NOBODY
from node import state_transfer
from node.client_table import ClientState, ClientTable
from node.effects import (
    Ack,
    Adopted,
    Apply,
    Effect,
    Moved,
    Reply,
    Resume,
    Send,
    Store,
    SyncRecord,
    Token,
    Truncate,
)
from node.epoch_line import EpochEnd, EpochLine
from node.kept_log import KeptBytes, KeptLog
from node.roles import (
    AHEAD,
    COPY,
    GAP,
    JOINER,
    NONE,
    NOT_MEMBER,
    OWNER,
    ROLE_NAMES,
    STALE,
    TRANSFER_IDLE,
    TRANSFER_POSITION,
)
from transport.messages import ReplicateRefused
from transport.operation import SYNC, Record

PARKED_MAX = 256  # records of an epoch that this node's catalog does not know yet
JOINER_LAG_MAX = 4096  # records that an owner keeps for a joiner; beyond, the session starts anew

_NO_GAP = (0, -1)


class RegionCopy:
    """One copy of one region on this node. All positions are sequence numbers of the region."""

    __slots__ = (
        "_gap", "_parked", "_parked_point", "acked", "admission_out", "admitting", "adopt_at",
        "clients", "commit_known", "commit_told", "committed", "committed_epoch", "complete",
        "cow_into", "effects", "end_at", "epoch", "era", "filling", "gated", "held", "in_flight",
        "joiner", "journalled", "kept", "left_at_ns", "line", "log", "log_base", "matched",
        "members", "offline", "open_at_ns", "open_target", "opening", "others", "owner", "place",
        "prepared", "prepared_epoch", "read_peers", "region", "required", "role", "self_id",
        "serving", "session", "since", "sole_synced", "spoiled", "suspended", "sync_asked",
        "synced", "synced_acked", "tokens", "transfer", "views_known", "volume", "waiting",
        "wants_sync_always",
    )  # fmt: skip

    def __init__(
        self, volume: int, region: int, self_id: int, effects: list[Effect],
        kept: KeptBytes | None = None,
    ) -> None:  # fmt: skip
        self.volume = volume
        self.region = region
        self.self_id = self_id
        self.effects = effects
        self.place: tuple[int, int] | None = None  # (LD, LD region): where its pages lie
        # Configuration, from the catalog only.
        self.epoch = 0
        self.owner = int(NOBODY)
        self.members: tuple[int, ...] = ()
        self.joiner = int(NOBODY)
        self.offline = False
        self.role = NONE
        self.left_at_ns = 0  # when it came to have no role
        self.wants_sync_always = False
        self.sole_synced = False
        self.suspended = False
        # The sequence: log holds (log_base, prepared]; up to `committed` it is applied.
        self.log: deque[Record] = deque()
        self.log_base = 0
        self.prepared = 0
        self.prepared_epoch = 0
        self.committed = 0
        self.committed_epoch = 0
        self.journalled = 0
        self.synced = 0
        self.era = 0  # grows when records are dropped: a sync of before says nothing of later ones
        self.matched = 0
        self.commit_known = 0  # the highest commit point that an owner has told this copy
        self.complete = True  # False: a state transfer into this copy has not ended
        self.since = (0, 0)  # then: the record (seq, epoch) as of which its pages are, see position
        self.spoiled = False  # a joiner whose disks have lost a page: it must be filled in full
        self.line = EpochLine()  # of what is committed; it ends with (committed_epoch, committed)
        self.clients = ClientTable()
        self._parked: deque[tuple[int, int, Record, int]] = deque()
        self._parked_point = (0, 0, 0, 0)  # the last commit point of such an epoch
        self._gap = _NO_GAP  # (epoch, matched) of the last refusal: one gap is said once
        # Owner only.
        self.others: tuple[int, ...] = ()  # every member but this node
        self.required: tuple[int, ...] = ()  # whose acknowledgement a commit needs
        self.read_peers: tuple[int, ...] = ()  # whose lease a read needs
        self.acked: dict[int, int] = {}
        self.synced_acked: dict[int, int] = {}
        self.serving = False
        self.opening = False
        self.open_at_ns = 0
        self.open_target = 0
        self.kept = KeptLog(kept or KeptBytes())  # for copies that are away
        self.tokens: dict[int, list[Token]] = {}
        self.in_flight: dict[tuple[int, int], int] = {}
        self.waiting: deque[Token] = deque()
        self.commit_told = 0
        self.sync_asked = 0
        # Snapshots: what an operation that is numbered now owes, and the gate of a cut.
        self.cow_into = 0
        self.views_known = 0  # the highest number of a view that this node's catalog has given
        self.gated = False
        self.held: list[Token] = []  # of committed operations, while the gate is closed
        self.adopt_at = -1  # with that record committed the copy has adopted the cut
        # State transfer, either side.
        self.session = 0
        self.transfer = TRANSFER_IDLE
        self.admitting = False  # commits and reads need the joiner
        self.admission_out = False  # and the catalog may have heard of it
        self.filling: state_transfer.Session | None = None  # owner: the last session that began
        self.end_at = -1  # joiner: the session may end once that record is committed here

    # ------------------------------------------------------------------ recovery and configuration

    def restore(
        self,
        *,
        committed: int,
        committed_epoch: int,
        tail: list[Record],
        clients: tuple[ClientState, ...],
        complete: bool,
        line: tuple[EpochEnd, ...] = (),
        since: tuple[int, int] = (0, 0),
    ) -> None:
        """What the journal and checkpoint of an earlier life say. Role and epoch come from the
        catalog. tail: records behind `committed`, in order, all journalled."""
        assert self.role == NONE
        self.committed = self.log_base = self.matched = committed
        self.committed_epoch = committed_epoch
        self.log = deque(tail)
        self.prepared = self.journalled = committed + len(tail)
        self.prepared_epoch = tail[-1].epoch if tail else committed_epoch
        assert all(record.seq == committed + 1 + at for at, record in enumerate(tail))
        self.clients = ClientTable(clients)
        self.complete = complete
        self.line = EpochLine(line)
        self.since = since

    def position(self) -> tuple[bool, int, int]:
        """(complete, seq, epoch): as which record this copy's pages are. Not complete: but for
        those that its store suspects; seq 0: no page of it can be used."""
        if self.spoiled:
            return False, 0, 0
        if self.complete:
            return True, self.committed, self.committed_epoch
        return False, *self.since

    def configure(
        self,
        *,
        epoch: int,
        owner: int,
        members: tuple[int, ...],
        joiner: int,
        offline: bool,
        now_ns: int,
        open_at_ns: int,
        sole_synced: bool = False,
        suspended: bool = False,
        keeps_log: bool = False,
    ) -> None:
        """Take the configuration that the catalog has for this region now.

        members: nodes in sync, ascending. open_at_ns: end of every lease that this node granted.
        suspended: policy `suspend` with too few members: writes wait. keeps_log: a copy is away
        that may come back.
        """
        assert epoch >= self.epoch, (self, epoch)
        previous_epoch, previous_joiner = self.epoch, self.joiner
        self.epoch = epoch
        self.owner = owner
        self.members = members
        self.joiner = joiner
        self.offline = offline
        self.sole_synced, self.suspended = sole_synced, suspended
        role = self._role_now()
        self.kept.want(keeps_log and role == OWNER, self.log_base)
        if epoch == previous_epoch and role == self.role and joiner == previous_joiner:
            return
        if epoch != previous_epoch:
            self.matched = self.committed
            self._forget_transfer()  # sessions are numbered within an epoch
        previous_role, self.role = self.role, role
        self.spoiled &= role == JOINER
        if role == OWNER:
            # With an epoch left out another may have served between: then it opens anew.
            again = previous_role == OWNER and epoch <= previous_epoch + 1
            self._become_owner(again, epoch != previous_epoch, now_ns, open_at_ns)
        else:
            self._leave_ownership()
            if role == NONE:
                self.left_at_ns = now_ns
                self._parked.clear()
            else:
                self._unpark()

    def _role_now(self) -> int:
        if self.self_id == self.owner and not self.offline:
            return OWNER
        if self.self_id in self.members and not self.offline:
            return COPY
        return JOINER if self.self_id == self.joiner else NONE

    def retire(self) -> None:
        """This life of the node ended (declared down): no role until the catalog gives one."""
        self.role = NONE
        self._leave_ownership()
        self.owner = int(NOBODY)
        self._forget_transfer()
        self._parked.clear()

    def _forget_transfer(self) -> None:
        self.session = 0
        self.transfer = TRANSFER_IDLE
        self.admitting = self.admission_out = False
        self.end_at = -1

    def reset_place(self) -> None:
        """The catalog gave this copy other space on disk: nothing of the old one is left."""
        self.start_at(0, 0, ClientTable())
        self.complete = True
        self.since = (0, 0)
        self.session = 0

    def _leave_ownership(self) -> None:
        self.serving = self.opening = False
        self.kept.want(False, self.log_base)
        self.required = self.others = self.read_peers = ()
        owner = self.owner
        for seq in sorted(self.tokens):
            for token in self.tokens[seq]:
                self.effects.append(Moved(token, owner))
        self.effects += [Moved(token, owner) for token in self.held]
        self.held.clear()
        self.adopt_at = -1
        self.tokens.clear()
        self.in_flight.clear()
        while self.waiting:
            self.effects.append(Resume(self.waiting.popleft()))
        self.acked.clear()
        self.synced_acked.clear()
        self.trim_log()

    def _become_owner(self, again: bool, new_epoch: bool, now_ns: int, open_at_ns: int) -> None:
        self.others = tuple(node for node in self.members if node != self.self_id)
        self.set_required()
        if not new_epoch:
            state_transfer.drive(self)
            return
        self.acked = {}
        self.synced_acked = {}
        self.sync_asked = 0
        assert self.complete, (self, "a copy without its prefix cannot own a region")
        if not again:
            self.serving = False
            self.opening = True
            self.open_at_ns = open_at_ns
            self.open_target = self.prepared
            self.in_flight = {(record.client, record.number): record.seq for record in self.tail()}
        # What is not committed goes out again under the new epoch, with the names it had (P9).
        for record in self.tail():
            self.effects.append(Store(self, record, self.others, journal=False))
        self.commit_told = -1
        self.commit()
        self.advance(now_ns)
        state_transfer.drive(self)

    def set_required(self) -> None:
        """Whose word a commit and a read need: the union while an admission is open (P3)."""
        joiner = (self.joiner,) if self.admitting else ()
        self.required = self.others + joiner
        self.read_peers = self.required

    def tail(self) -> list[Record]:
        """What is prepared here and not committed."""
        skip = self.committed - self.log_base
        return [record for at, record in enumerate(self.log) if at >= skip]

    # ------------------------------------------------------------------ host operations at owner

    def write(self, record: Record, token: Token) -> None:
        """A host operation (WRITE, ZERO, TRIM) for this region. The record has no place yet."""
        if self.role != OWNER:
            self.effects.append(Reply(token, self.refusal()))
            return
        if not self.serving or self.suspended:
            self.waiting.append(token)
            return
        name = (record.client, record.number)
        seq = self.in_flight.get(name)
        if seq is not None:
            self.tokens.setdefault(seq, []).append(token)
            return
        if name in self.clients:
            self._answer(token)
            return
        seq = self.prepared + 1
        record.seq = seq
        record.epoch = self.epoch
        record.prev_epoch = self.prepared_epoch
        record.cow_into = self.cow_into
        if self.wants_sync_always:
            record.flags |= SYNC
        self.prepared = seq
        self.prepared_epoch = self.epoch
        self.log.append(record)
        self.in_flight[name] = seq
        self.tokens[seq] = [token]
        peers = self.others
        if self.transfer > TRANSFER_POSITION:
            peers = (*peers, self.joiner)
            acked = self.acked.get(self.joiner, 0)
            if seq - acked > JOINER_LAG_MAX and acked < self.committed and not self.admission_out:
                state_transfer.restart(self)
                peers = self.others
        self.effects.append(Store(self, record, peers, journal=True))

    def refusal(self) -> NotOwner | RegionOffline:
        """Why this node does not serve the region."""
        if self.offline:
            waiting_for = ", ".join(f"n{node}" for node in self.members) or "an operator"
            return RegionOffline(
                volume=str(self.volume), region=self.region, waiting_for=waiting_for
            )
        return NotOwner(region=self.region, owner=self.owner)

    def wait_until_serving(self, token: Token) -> None:
        """A read that came while the region opens, or without a lease: resumed later."""
        self.waiting.append(token)

    def advance(self, now_ns: int) -> None:
        """Open the region when its time has come and its inherited tail is committed."""
        if self.opening and now_ns >= self.open_at_ns and self.committed >= self.open_target:
            self.opening = False
            self.serving = True
            state_transfer.drive(self)
        if self.serving:
            self.resume()

    def resume(self) -> None:
        """Hand everything that waits back to the I/O path."""
        for _ in range(len(self.waiting)):
            self.effects.append(Resume(self.waiting.popleft()))

    # ------------------------------------------------------------------ commit

    def record_journalled(self, record: Record) -> None:
        """The journal of this node holds the record: it survives the death of the process."""
        if record.dead:
            return
        # Also of a record that is committed and trimmed already: a joiner's may be, before its own
        # journal has it, and what it never acknowledged its owner would wait for.
        if record.seq > self.journalled:
            self.journalled = record.seq
        if self.role == OWNER:
            self.commit()
        elif self.role != NONE:
            self.acknowledge()
            if record.flags & SYNC:
                self.effects.append(SyncRecord(self, record.seq))
            if self.commit_known > self.committed:
                self.commit_up_to(self.commit_known)

    def record_synced(self, seq: int, epoch: int, era: int) -> None:
        """Every record up to seq that lay in the journal when `SyncRecord` was asked for in that
        epoch survives a power cut here."""
        if epoch != self.epoch:
            return  # another record may stand at that place by now; who needs it asks again
        if era != self.era:
            # Records were dropped meanwhile, and the same ones may have come again with a new
            # session: they lie elsewhere in the journal, behind what was synced.
            if self.journalled > self.synced:
                self.effects.append(SyncRecord(self, self.journalled))
            return
        self.synced = max(self.synced, min(seq, self.journalled))
        if self.role == OWNER:
            self.commit()
        elif self.role != NONE:
            self.acknowledge()

    def peer_acknowledged(self, peer: int, epoch: int, seq: int, synced: int, session: int) -> None:
        """A copy, or a joiner in this session, has journalled everything up to seq."""
        if epoch != self.epoch or self.role != OWNER:
            return
        if session != (self.session if peer == self.joiner else 0):
            return  # an answer of a session that was given up
        if seq > self.acked.get(peer, 0):
            self.acked[peer] = min(seq, self.prepared)
        if synced > self.synced_acked.get(peer, 0):
            self.synced_acked[peer] = synced
        self.commit()
        if peer == self.joiner:
            self.trim_log()
            state_transfer.caught_up(self)
            state_transfer.maybe_admit(self)

    def commit(self) -> None:
        """Commit and answer all that every node of `required` has."""
        limit = self.journalled
        acked = self.acked
        for peer in self.required:
            have = acked.get(peer, 0)
            if have < limit:
                limit = have
        if limit <= self.committed:
            return
        sole = self.sole_synced
        log = self.log
        while self.committed < limit:
            record = log[self.committed - self.log_base]
            if (record.flags & SYNC or sole) and not self._is_synced(record):
                break
            self._apply(record)
            self.in_flight.pop((record.client, record.number), None)
            tokens = self.tokens.pop(record.seq, None)
            if tokens is not None:
                for token in tokens:
                    self._answer(token)
        if 0 <= self.adopt_at <= self.committed:
            self.adopt_at = -1
            self.effects.append(Adopted(self))
        self.trim_log()

    def _answer(self, token: Token) -> None:
        if self.gated:
            self.held.append(token)
        else:
            self.effects.append(Reply(token, None))

    def _is_synced(self, record: Record) -> bool:
        seq = record.seq
        if self.synced < seq:
            if self.sync_asked < seq:
                self.sync_asked = self.journalled
                self.effects.append(SyncRecord(self, self.journalled))
            return False
        if not record.flags & SYNC:
            return True  # asked for by the policy of a sole copy: a joiner syncs nothing for it
        return all(self.synced_acked.get(peer, 0) >= seq for peer in self.required)

    def _apply(self, record: Record) -> None:
        if record.epoch != self.committed_epoch:
            self.line.end(self.committed_epoch, self.committed)
        self.committed = record.seq
        self.committed_epoch = record.epoch
        self.clients.add(record.client, record.number, record.low)
        self.effects.append(Apply(self, record))

    def trim_log(self) -> None:
        """Forget records that are committed and that nobody is going to ask for."""
        keep = self.committed
        if self.role == OWNER:
            if self.transfer > TRANSFER_POSITION:
                keep = min(keep, self.acked.get(self.joiner, self.log_base))
            if self.kept.wanted:
                keep = min(keep, self.kept.keep_from(self))
        log = self.log
        while self.log_base < keep:
            log.popleft()
            self.log_base += 1

    # ------------------------------------------------------------------ records at a copy

    def replicate(self, sender: int, record: Record, epoch: int, committed: int) -> None:
        """A record from the owner, and how far it has committed."""
        if epoch != self.epoch or record.cow_into > self.views_known:
            if epoch < self.epoch:
                self._refuse(sender, STALE)
            elif len(self._parked) < PARKED_MAX:
                # The catalog of this node lags behind the owner's: take it when it has caught up.
                self._parked.append((sender, epoch, record, committed))
            else:
                self._refuse(sender, AHEAD)
            return
        role = self.role
        if sender != self.owner or (role != COPY and role != JOINER):
            self._refuse(sender, NOT_MEMBER)
            return
        if role == JOINER and self.session == 0:
            return  # without the prefix of a session there is nothing to put it on
        seq = record.seq
        if seq <= self.committed:
            self._have_already(record)
            return
        if seq <= self.prepared:
            held = self.log[seq - self.log_base - 1]
            if held.epoch == record.epoch:
                self.matched = max(self.matched, seq)
                self.commit_up_to(committed)
                self._have_already(record)
                return
            self.truncate(seq)
        if seq != self.prepared + 1 or self.epoch_at(seq - 1) != record.prev_epoch:
            if self._gap != (epoch, self.matched):
                self._gap = (epoch, self.matched)
                self._refuse(sender, GAP)
            return
        self.log.append(record)
        self.prepared = self.matched = seq
        self.prepared_epoch = record.epoch
        self.effects.append(Store(self, record, (), journal=True))
        self.commit_up_to(committed)

    def _have_already(self, record: Record) -> None:
        self.acknowledge()
        if record.flags & SYNC and self.synced < record.seq <= self.journalled:
            # The life or the epoch in which it was journalled ended before it was synced.
            self.effects.append(SyncRecord(self, record.seq))

    def epoch_at(self, seq: int) -> int:
        """The epoch in the name of a record that the log holds, or of the last committed one."""
        if seq == self.committed:
            return self.committed_epoch
        return self.log[seq - self.log_base - 1].epoch

    def truncate(self, from_seq: int) -> None:
        """Drop what was prepared from there on: the epoch that numbered it lost (P8)."""
        assert from_seq > self.committed, (self, from_seq)
        while self.prepared >= from_seq:
            record = self.log.pop()
            record.dead = True
            self.prepared -= 1
        self.journalled = min(self.journalled, self.prepared)
        self.synced = min(self.synced, self.prepared)
        self.matched = min(self.matched, self.prepared)
        self.prepared_epoch = self.log[-1].epoch if self.log else self.committed_epoch
        self.era += 1
        self.effects.append(Truncate(self, from_seq))

    def commit_point(self, sender: int, epoch: int, committed: int, record_epoch: int) -> None:
        """The owner has committed up to the record (record_epoch, committed)."""
        if epoch > self.epoch:
            # It is told once, and a quiet region hears of it no more.
            self._parked_point = (sender, epoch, committed, record_epoch)
        if epoch != self.epoch or sender != self.owner or self.role in (OWNER, NONE):
            return
        if self.committed < committed <= self.prepared:
            if self.epoch_at(committed) == record_epoch:
                self.matched = max(self.matched, committed)
            self.commit_up_to(committed)

    def commit_up_to(self, committed: int) -> None:
        """At a copy: apply what its owner has committed and it is sure to hold."""
        if committed > self.commit_known:
            self.commit_known = committed
        # Nobody waits for the journal of a joiner, and it may have no room for what is committed:
        # a checkpoint of what was applied and not journalled would wait for that room for ever.
        limit = min(committed, self.matched, self.journalled)
        if limit <= self.committed:
            return
        while self.committed < limit:
            self._apply(self.log[self.committed - self.log_base])
        self.trim_log()
        if self.end_at >= 0:
            state_transfer.maybe_end(self)

    def acknowledge(self) -> None:
        """Tell the owner what this copy holds in its journal, as far as it matched the owner."""
        seq = min(self.journalled, self.matched)
        # Nothing beyond the commit point of an earlier epoch counts before it was matched.
        session = 0
        if self.role == JOINER:
            session = self.session
            if not session:
                return
        self.effects.append(Ack(self, self.owner, seq, min(self.synced, seq), session))

    def _refuse(self, sender: int, reason: int) -> None:
        refused = ReplicateRefused(0, self.volume, self.region, self.epoch, self.matched, reason)
        self.effects.append(Send(sender, refused))

    def know_views(self, highest: int) -> None:
        """The catalog of this node has given views numbers up to that one: records that owe one of
        them have where to keep what they take from it."""
        if highest > self.views_known:
            self.views_known = highest
            if self._parked:
                self._unpark()

    def _unpark(self) -> None:
        for _ in range(len(self._parked)):
            sender, epoch, record, committed = self._parked.popleft()
            if epoch >= self.epoch:
                self.replicate(sender, record, epoch, committed)
        self.commit_point(*self._parked_point)

    # ------------------------------------------------------------------ lost messages at the owner

    def refused(self, peer: int, epoch: int, prepared: int, reason: int) -> None:
        """A copy lacks what stands before a record. Stale: the catalog will tell this node why.
        Ahead: `NodeCore` sends again a little later."""
        if self.role != OWNER or epoch != self.epoch or reason != GAP:
            return
        if peer == self.joiner and prepared < self.log_base:
            state_transfer.restart(self)
            return
        self.resend(peer, prepared)

    def link_reset(self, peer: int) -> None:
        """A new session of the link to this peer: what was in flight on the old one is gone."""
        if self.role != OWNER:
            # The owner sends again what is not acknowledged. That it is synced here, which may be
            # all that a commit waits for, only this copy can say again.
            if (
                peer == self.owner
                and self.role in (COPY, JOINER)
                and self.prepared > self.committed
            ):
                self.acknowledge()
            return
        if peer in self.others:
            self.resend(peer, self.acked.get(peer, 0))
            self.commit_told = -1
        elif peer == self.joiner:
            state_transfer.restart(self)

    def resend(self, peer: int, after: int) -> None:
        """Send again what the log holds behind `after`. Whatever is committed a member has."""
        if peer != self.joiner:
            after = max(after, self.committed)
        for record in self.log:
            if record.seq > after:
                self.effects.append(Store(self, record, (peer,), journal=False))

    # ------------------------------------------------------------------ state transfer

    def transfer_synced(self, session: int) -> None:
        """All that the session brought to this joiner survives a power cut here."""
        state_transfer.synced(self, session)

    def start_at(self, base: int, base_epoch: int, clients: ClientTable) -> None:
        """Forget every record and begin at that place; what the journal still writes is void."""
        for record in self.log:
            record.dead = True
        self.log.clear()
        self.kept.want(False, base)
        self.log_base = self.prepared = self.committed = base
        self.journalled = self.synced = self.matched = base
        self.era += 1
        self.prepared_epoch = self.committed_epoch = base_epoch
        self.spoiled = False
        self.clients = clients
        self.line = EpochLine()
        self._gap = _NO_GAP

    # ------------------------------------------------------------------ for people

    def __repr__(self) -> str:
        return (
            f"RegionCopy(n{self.self_id} v{self.volume} r{self.region} e{self.epoch} "
            f"{ROLE_NAMES[self.role]} committed={self.committed} prepared={self.prepared})"
        )


__all__ = ["COPY", "JOINER", "JOINER_LAG_MAX", "NONE", "OWNER", "PARKED_MAX", "RegionCopy"]
