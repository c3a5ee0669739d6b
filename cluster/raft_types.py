"""step: the words of consensus: its configuration, members, events and effects.

The core is `cluster.consensus`. A log entry is the tuple that travels: (term, kind, payload).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Protocol

from base.errors import ConfigError, RemoteProtocolError
from base.ids import NOBODY, NodeId, node_name
from base.units import NODES_MAX, NS_PER_MS, KiB, MiB

Entry = tuple[int, int, bytes]  # (term, EntryKind, payload), exactly as AppendEntries carries it

ENTRY_OVERHEAD_BYTES: Final = 24  # what one entry costs in a message beside its payload, at most


class EntryKind(IntEnum):
    """What a log entry is. Only `NORMAL` ones reach the catalog."""

    NORMAL = 0
    NOOP = 1  # a leader's first entry: commits what earlier terms left (Raft section 5.4.2)
    MEMBERS = 2  # the whole new configuration, in force as soon as it is in the log (thesis 4.1)


class Role(IntEnum):
    """What a node is at the moment. `PRE_CANDIDATE` asks without changing anything (thesis 9.6)."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class Refusal(StrEnum):
    """Why a proposal was refused. Always definite: nothing was put into the log."""

    NOT_LEADER = "not_leader"
    TRANSFERRING = "leadership_transfer_in_progress"
    OVERLOADED = "too_many_uncommitted_entries"
    TOO_LARGE = "entry_too_large"
    CHANGE_IN_PROGRESS = "member_change_in_progress"
    TERM_NOT_COMMITTED = "no_entry_of_this_term_committed"
    NOT_A_MEMBER = "not_a_member"
    ALREADY_A_MEMBER = "already_a_member"
    LAST_VOTER = "last_voter"
    LEARNER_BEHIND = "learner_behind"
    NO_QUORUM_LEFT = "no_quorum_left"


class RandomSource(Protocol):
    """The part of `random.Random` that elections need."""

    def randrange(self, start: int, stop: int, /) -> int:
        """An integer in [start, stop)."""


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Times in ms; sizes in bytes. ConfigError names the key that is out of bounds.

    An election timeout is drawn from [election_min_ms, election_max_ms). `urgent_*` replaces it for
    a few tries when the link to the leader is known to be broken.
    """

    election_min_ms: int = 1000
    election_max_ms: int = 2000
    heartbeat_ms: int = 200
    urgent_min_ms: int = 20
    urgent_max_ms: int = 140
    urgent_tries: int = 8
    append_entries_max: int = 256
    append_bytes_max: int = 1 * MiB
    inflight_max: int = 8  # appends on the way to one peer
    entry_bytes_max: int = 2 * MiB
    proposals_max: int = 4096  # uncommitted entries of one leader
    snapshot_chunk_bytes: int = 256 * KiB
    snapshot_bytes_max: int = 256 * MiB
    keep_entries: int = 1024  # left in memory behind a snapshot, for peers that lag a little
    promote_lag_max: int = 64  # entries that a learner may lack when it is promoted
    held_max: int = 4096  # messages that wait for a sync; the oldest is dropped beyond that

    def __post_init__(self) -> None:
        for name in self.__slots__:
            least = 0 if name in ("keep_entries", "promote_lag_max", "urgent_min_ms") else 1
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}")
        if self.election_max_ms <= self.election_min_ms:
            raise ConfigError("election_max_ms must be larger than election_min_ms")
        if self.urgent_max_ms <= self.urgent_min_ms:
            raise ConfigError("urgent_max_ms must be larger than urgent_min_ms")
        if self.heartbeat_ms * 2 > self.election_min_ms:
            raise ConfigError("heartbeat_ms must be at most half of election_min_ms")

    @property
    def election_min_ns(self) -> int:
        """The shortest election timeout; also how long a heard leader protects itself."""
        return self.election_min_ms * NS_PER_MS

    @property
    def heartbeat_ns(self) -> int:
        """Between two heartbeats of a leader."""
        return self.heartbeat_ms * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Members:
    """One configuration: who votes and who only listens. Both ascending, without repeats."""

    voters: tuple[NodeId, ...]
    learners: tuple[NodeId, ...] = ()

    def __post_init__(self) -> None:
        everyone = self.voters + self.learners
        assert self.voters == tuple(sorted(self.voters)), self.voters
        assert self.learners == tuple(sorted(self.learners)), self.learners
        assert len(set(everyone)) == len(everyone), everyone

    @property
    def quorum(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1

    def encode(self) -> bytes:
        """The payload of a `MEMBERS` entry: number of voters, voters, learners, one byte each."""
        return bytes([len(self.voters), *self.voters, *self.learners])

    @staticmethod
    def decode(payload: bytes) -> Members:
        """Back from `encode`. RemoteProtocolError when it is none."""
        if not payload or not 1 <= payload[0] <= len(payload) - 1:
            raise RemoteProtocolError(f"{bytes(payload[:16])!r} is no configuration of members")
        return checked_members(payload[1 : 1 + payload[0]], payload[1 + payload[0] :])

    def __str__(self) -> str:
        learners = " ".join(node_name(node) for node in self.learners)
        voters = " ".join(node_name(node) for node in self.voters)
        return f"voters {voters}" + (f", learners {learners}" if learners else "")


def checked_members(voters: bytes | tuple[int, ...], learners: bytes | tuple[int, ...]) -> Members:
    """Members that came over the wire. RemoteProtocolError when they break a rule."""
    everyone = [*voters, *learners]
    if not voters or len(everyone) > NODES_MAX or len(set(everyone)) != len(everyone):
        raise RemoteProtocolError(
            f"members {everyone}: 1 to {NODES_MAX} different nodes, one votes"
        )
    if not all(0 <= node < NOBODY for node in everyone):
        raise RemoteProtocolError(f"members {everyone}: a node id is out of range")
    return Members(
        tuple(NodeId(node) for node in sorted(voters)),
        tuple(NodeId(node) for node in sorted(learners)),
    )


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be synced before anything that depends on it is said (Raft figure 2).

    `blank`: the store was lost and the node has not yet been taken in again as a learner. It is
    part of the state, for a second restart must not turn a blank node into a voter that forgot.
    """

    term: int = 0
    voted_for: NodeId = NOBODY
    blank: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The catalog as of `index`, and who the members were. Index 0 with no data: a new cluster."""

    index: int
    term: int
    members: Members
    data: bytes = b""


# ---------------------------------------------------------------- changes of members


@dataclass(frozen=True, slots=True)
class RemoveVoter:
    """Take the node out of the configuration, as voter or learner. It may come back as learner."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Send the log to the node, without counting it."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class PromoteLearner:
    """Count the learner as a voter from now on."""

    node: NodeId


MemberChange = RemoveVoter | AddLearner | PromoteLearner


def changed(members: Members, change: MemberChange) -> Members | Refusal:
    """The configuration after one change, or why there is none."""
    node, voters, learners = change.node, members.voters, members.learners
    if isinstance(change, AddLearner):
        if node in voters or node in learners:
            return Refusal.ALREADY_A_MEMBER
        if len(voters) + len(learners) >= NODES_MAX:
            return Refusal.OVERLOADED
        return Members(voters, tuple(sorted((*learners, node))))
    if isinstance(change, PromoteLearner):
        if node not in learners:
            return Refusal.ALREADY_A_MEMBER if node in voters else Refusal.NOT_A_MEMBER
        rest = tuple(other for other in learners if other != node)
        return Members(tuple(sorted((*voters, node))), rest)
    if node not in voters and node not in learners:
        return Refusal.NOT_A_MEMBER
    if voters == (node,):
        return Refusal.LAST_VOTER
    return Members(
        tuple(other for other in voters if other != node),
        tuple(other for other in learners if other != node),
    )


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Free of cost before `Raft.next_wake_ns`."""


TICK: Final = Tick()


@dataclass(slots=True)  # each message makes one: freezing costs four times as much
class Received:
    """A message of `transport.messages`, tags 0x40 to 0x46, over an authenticated link."""

    sender: NodeId
    message: object


@dataclass(frozen=True, slots=True)
class Propose:
    """Put `payload` into the log. `token` is the caller's and comes back exactly once."""

    token: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ProposeMembers:
    """Change the members by one. `token` comes back as for `Propose`."""

    token: int
    change: MemberChange


@dataclass(frozen=True, slots=True)
class Persisted:
    """Every `Persist` up to this number is synced."""

    number: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """The caller holds the catalog as of `index` (applied already) as bytes."""

    index: int
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    """Hand over to that voter, if this node leads (thesis 3.10). No answer: watch LeaderChanged."""

    to: NodeId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The link to that peer broke, or membership suspects it. If it is the leader, the election
    starts soon instead of after the full timeout. Only timers depend on it, never safety."""

    peer: NodeId


RaftEvent = (
    Tick
    | Received
    | Propose
    | ProposeMembers
    | Persisted
    | Compacted
    | TransferLeadership
    | PeerLost
)


# ---------------------------------------------------------------- effects


@dataclass(slots=True)  # each message makes one: freezing costs four times as much
class SendTo:
    """Send it, at most once, in order if possible. It may be lost."""

    peer: NodeId
    message: object


@dataclass(frozen=True, slots=True)
class Persist:
    """Make this durable, in the order of numbers, then answer `Persisted(number)`; one answer may
    cover several. Within one request: the hard state; then the snapshot, which replaces the older
    one and drops every entry up to its index; then drop entries from `truncate_from` on; then
    append `entries`, of which the first has index `first_index`."""

    number: int
    hard_state: HardState | None
    truncate_from: int | None
    first_index: int
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True)
class Apply:
    """A committed `NORMAL` entry that is durable here; indexes ascend (with gaps)."""

    index: int
    term: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ApplySnapshot:
    """Replace the catalog by this one; it is durable here. Entries up to `index` are in it."""

    index: int
    term: int
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class BecameLeader:
    """This node leads in `term`. What earlier terms committed may not all be applied here yet."""

    term: int


@dataclass(frozen=True, slots=True)
class LostLeadership:
    """This node leads no longer; unanswered proposals follow as `ProposalLost`."""


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """Who leads as far as this node knows; NOBODY when it does not."""

    leader: NodeId


@dataclass(frozen=True, slots=True)
class ProposalDone:
    """Committed, and its `Apply` stands before this effect."""

    token: int
    index: int


@dataclass(frozen=True, slots=True)
class ProposalLost:
    """Indefinite: leadership ended first; the entry may yet commit."""

    token: int


@dataclass(frozen=True, slots=True)
class ProposalRefused:
    """Definite: not in the log, and never will be."""

    token: int
    reason: Refusal


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """The configuration in force here is another now; it may not be committed yet."""

    voters: tuple[NodeId, ...]
    learners: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class PeerBlank:
    """To the leader only: that voter lost its store. Remove it, then take it in as a learner."""

    peer: NodeId


RaftEffect = (
    SendTo
    | Persist
    | Apply
    | ApplySnapshot
    | BecameLeader
    | LostLeadership
    | LeaderChanged
    | ProposalDone
    | ProposalLost
    | ProposalRefused
    | MembersChanged
    | PeerBlank
)
