"""codec: every wire message in one place. Field order is the format; tags are never reused.

Tags: 0x01 handshake of a link, before anything else; 0x10 membership and leases, 0x20 replication,
0x30 state transfer (0x30, 0x32 and 0x34 are used up), 0x40 consensus, 0x50 host I/O, 0x60 catalog
and admin. `data` is bulk that travels beside the body. Host operations and replicated records are
packed by `transport.operation` into `data`, many to a message: everything that one turn of the loop
produced for one peer is one message. Those that travel with every operation or beacon are not
frozen, for a frozen dataclass takes four times as long to make; nobody changes them either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from base.device import Buffer
from transport.wire import wire

Bulk = Buffer | Sequence[Buffer]


@wire(tag=0x01)
@dataclass(frozen=True, slots=True)
class Hello:
    """Dialer to acceptor, first of all. `receiver` is -1 when the dialer knows only an address.
    `last_session`: of this pair, as far as the dialer remembers. Reply: Challenge."""

    cluster_id: str
    sender: int
    receiver: int
    incarnation: int
    last_session: int
    nonce: bytes  # 32 bytes, never used before


@wire(tag=0x02)
@dataclass(frozen=True, slots=True)
class Challenge:
    """Acceptor to dialer: prove that you know the secret. Reply: Proof."""

    sender: int
    incarnation: int
    session: int
    nonce: bytes  # 32 bytes, never used before


@wire(tag=0x03)
@dataclass(frozen=True, slots=True)
class Proof:
    """Dialer to acceptor: the MAC of the handshake in the dialer's role. Reply: Welcome."""

    mac: bytes


@wire(tag=0x04)
@dataclass(frozen=True, slots=True)
class Welcome:
    """Acceptor to dialer: the MAC of the handshake in the acceptor's role. The link is up."""

    mac: bytes


@wire(tag=0x05)
@dataclass(frozen=True, slots=True)
class Refused:
    """Acceptor to dialer instead of an answer: why not. The connection ends."""

    text: str


@wire(tag=0x10)
@dataclass(slots=True)
class Beacon:
    """Every node to every other, each beacon interval: I am alive, and what I heard last of you.

    `number` grows within one incarnation. `heard_number` is the receiver's last beacon that the
    sender has acknowledged; it is a lease when `lease` is set, running from the moment that the
    receiver *sent* that beacon, on the receiver's clock (section 5, P4).
    """

    incarnation: int
    number: int
    heard_incarnation: int
    heard_number: int
    lease: bool
    catalog_version: int


@wire(tag=0x20)
@dataclass(slots=True)
class ReplicateBatch:
    """Owner to copies: records of any number of regions, in order. `data`: packed records."""

    incarnation: int  # of the sender
    count: int
    data: Bulk


@wire(tag=0x21)
@dataclass(slots=True)
class ReplicateAcks:
    """Copy to owner: for each (volume, region, epoch, seq, synced_seq, session): everything up to
    seq is journalled here, and everything up to synced_seq survives a power cut. session: of the
    state transfer when the sender is a joiner, else 0."""

    incarnation: int  # of the owner's life that the answer is for
    acks: tuple[tuple[int, int, int, int, int, int], ...]


@wire(tag=0x22)
@dataclass(frozen=True, slots=True)
class ReplicateRefused:
    """Copy to owner: not taken. `reason`: see node.region_copy.Refusal. `epoch` and `prepared` are
    the copy's own, so that the owner knows where to go on."""

    incarnation: int
    volume: int
    region: int
    epoch: int
    prepared: int
    reason: int


@wire(tag=0x23)
@dataclass(slots=True)
class CommitPoints:
    """Owner to copies when no record will carry it soon: (volume, region, epoch, committed,
    record epoch of the last committed record)."""

    points: tuple[tuple[int, int, int, int, int], ...]


@wire(tag=0x24)
@dataclass(frozen=True, slots=True)
class SyncRequest:
    """Make everything that this node has acknowledged survive a power cut. Reply: SyncReply."""

    request: int


@wire(tag=0x25)
@dataclass(frozen=True, slots=True)
class SyncReply:
    """All that was acknowledged before the request is synced. A failed sync answers nothing."""

    request: int


@wire(tag=0x26)
@dataclass(frozen=True, slots=True)
class OwnerReleased:
    """Last owner to its successor: for each (volume, region, epoch): I served the region until I
    applied this epoch, and answer nothing of an older one any more. Lost, it costs a wait: the
    successor then opens when the leases that it granted have ended."""

    regions: tuple[tuple[int, int, int], ...]


@wire(tag=0x31)
@dataclass(frozen=True, slots=True)
class TransferReply:
    """Joiner to owner. `outcome`: 0 begun, pages are wanted; 1 begun, the stream is enough; 2
    refused, also as the answer to TransferAsk."""

    volume: int
    region: int
    epoch: int
    session: int
    outcome: int


@wire(tag=0x33)
@dataclass(frozen=True, slots=True)
class TransferPagesAck:
    """Joiner to owner: these many pages of the session are held."""

    volume: int
    region: int
    epoch: int
    session: int
    pages: tuple[int, ...]


@wire(tag=0x35)
@dataclass(frozen=True, slots=True)
class TransferEnded:
    """Joiner to owner: the whole prefix of the session is held and synced."""

    volume: int
    region: int
    epoch: int
    session: int


@wire(tag=0x36)
@dataclass(frozen=True, slots=True)
class TransferAsk:
    """Owner to joiner: where does your copy stand? `line`: ends of epochs, (epoch, seq), of what
    the owner has committed, which goes on up to (committed_epoch, committed). The joiner drops what
    it has prepared beside that line. Reply: TransferPosition, or TransferReply that refuses."""

    volume: int
    region: int
    epoch: int
    session: int
    committed_epoch: int
    committed: int
    line: tuple[tuple[int, int], ...]


@wire(tag=0x37)
@dataclass(frozen=True, slots=True)
class TransferPosition:
    """Joiner to owner: my pages are as record (seq_epoch, seq) left them. Not complete: but for
    those in `data`, a bitmap of pages; seq 0: nothing of them can be used."""

    volume: int
    region: int
    epoch: int
    session: int
    complete: bool
    seq_epoch: int
    seq: int
    data: Bulk


@wire(tag=0x38)
@dataclass(frozen=True, slots=True)
class TransferBegin:
    """Owner to joiner: start numbered session `session` on top of the prefix that ends with record
    (base_epoch, base_seq). `mode`: see node.roles.MODE_NAMES. By nothing or by log the base is
    where the joiner stands, and `data` is empty. Else `data` is two bitmaps, one bit a page: what
    is allocated at the owner, and what the joiner is sent; pages that are in neither of them and
    that the joiner has are holes from now on. By delta the others stay as (since_epoch, since_seq)
    left them. Reply: TransferReply."""

    volume: int
    region: int
    epoch: int
    session: int
    mode: int
    base_epoch: int
    base_seq: int
    since_epoch: int
    since_seq: int
    line: tuple[tuple[int, int], ...]  # as in TransferAsk, of the base
    clients: tuple[tuple[int, int, tuple[int, ...]], ...]  # (client, low, numbers): P10
    data: Bulk


@wire(tag=0x39)
@dataclass(frozen=True, slots=True)
class TransferPages:
    """Owner to joiner: whole pages as of `as_of`. `seqs`: of each the last record that touched it.
    `data`: the pages, in the order of `pages`."""

    volume: int
    region: int
    epoch: int
    session: int
    as_of: int
    pages: tuple[int, ...]
    seqs: tuple[int, ...]
    data: Bulk


@wire(tag=0x3B)
@dataclass(frozen=True, slots=True)
class TransferViews:
    """Owner to joiner, when it holds every page: what snapshots have of the region, in batches
    numbered from 0. The first is empty and says as of which record, `as_of`, the others are: what
    later ones take the joiner keeps by itself.
    `entries`, `data`: see `node.view_batches`. `stale`: views that are no points in time here.
    Reply: TransferViewsAck."""

    volume: int
    region: int
    epoch: int
    session: int
    number: int
    as_of: int
    stale: tuple[int, ...]
    entries: bytes
    data: Bulk


@wire(tag=0x3C)
@dataclass(frozen=True, slots=True)
class TransferViewsAck:
    """Joiner to owner: that batch is held."""

    volume: int
    region: int
    epoch: int
    session: int
    number: int


@wire(tag=0x3A)
@dataclass(frozen=True, slots=True)
class TransferEnd:
    """Owner to joiner: every page was sent, none as of a later record than `as_of`; when that one
    is committed here, make all of it survive a power cut. Reply: TransferEnded."""

    volume: int
    region: int
    epoch: int
    session: int
    as_of: int


@wire(tag=0x3D)
@dataclass(frozen=True, slots=True)
class PageRequest:
    """Member to member: my disks have lost this page; what is in yours? It must be as record
    `at_least` left it, or a later one. Reply: PageReply with the same `request`."""

    request: int
    volume: int
    region: int
    epoch: int
    page: int
    at_least: int


@wire(tag=0x3E)
@dataclass(frozen=True, slots=True)
class PageReply:
    """`outcome`: 0 `data` is the page as record `seq` left it; 1 ask again a little later; 2 the
    disks here have it wrong too; 3 it is a hole as of record `seq`."""

    request: int
    outcome: int
    seq: int
    data: Bulk


@wire(tag=0x40)
@dataclass(frozen=True, slots=True)
class RequestVote:
    """Raft section 3.4 and 9.6: `pre` asks whether a vote would be granted, and changes nothing."""

    term: int
    candidate: int
    last_log_index: int
    last_log_term: int
    pre: bool


@wire(tag=0x41)
@dataclass(frozen=True, slots=True)
class VoteReply:
    """Answer to RequestVote of the same term and kind."""

    term: int
    voter: int
    granted: bool
    pre: bool


@wire(tag=0x42)
@dataclass(slots=True)
class AppendEntries:
    """Raft section 3.5. entries: (term, kind, payload). An empty one is a heartbeat.

    `round_number` is echoed by the reply: check-quorum counts replies of recent rounds.
    `voter` tells the receiver whether the leader counts it; a node with a blank store accepts
    entries only as a learner.
    """

    term: int
    leader: int
    prev_index: int
    prev_term: int
    commit_index: int
    round_number: int
    voter: bool
    entries: tuple[tuple[int, int, bytes], ...]


@wire(tag=0x43)
@dataclass(slots=True)
class AppendReply:
    """match_index when ok; else the hint from which the leader should try. `blank`: the sender lost
    its store and must leave the voters before it may count again."""

    term: int
    follower: int
    ok: bool
    match_index: int
    hint_index: int
    round_number: int
    blank: bool


@wire(tag=0x44)
@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """Raft section 5: one piece of a snapshot of the catalog. Reply: SnapshotReply."""

    term: int
    leader: int
    last_index: int
    last_term: int
    offset: int
    total_bytes: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    voter: bool
    data: Bulk


@wire(tag=0x45)
@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """The next byte that the follower wants; `total_bytes` when it has it all."""

    term: int
    follower: int
    last_index: int
    next_offset: int


@wire(tag=0x46)
@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Raft section 3.10: the leader hands over; campaign at once."""

    term: int
    leader: int


@wire(tag=0x47)
@dataclass(frozen=True, slots=True)
class ProposeRequest:
    """Any node to the leader: put this catalog entry into the log. `request` is unique for the
    sender's incarnation; a repeat has one effect. Reply: ProposeReply."""

    request: int
    entry: bytes


@wire(tag=0x48)
@dataclass(frozen=True, slots=True)
class ProposeReply:
    """outcome: 0 applied (result: msgpack), 1 refused (code, text), 2 not the leader (leader), 3
    unknown: the leader lost its place before the entry committed."""

    request: int
    outcome: int
    leader: int
    index: int
    code: str
    text: str
    result: bytes


@wire(tag=0x49)
@dataclass(frozen=True, slots=True)
class ReportDown:
    """Any node to the leader: I hear nothing of `about` (that life of it) for `silent_ms`. Repeated
    until the catalog answers: while it is out, the reporter grants `about` no lease (P5)."""

    about: int
    about_incarnation: int
    reporter_incarnation: int
    silent_ms: int
    link_broken: bool


@wire(tag=0x4A)
@dataclass(frozen=True, slots=True)
class ReportStuck:
    """Owner to the leader: `about` (that life of it) beacons, and has acknowledged nothing of what
    waits for it for `waited_ms`. Repeated while it lasts."""

    about: int
    about_incarnation: int
    reporter_incarnation: int
    waited_ms: int


@wire(tag=0x50)
@dataclass(slots=True)
class HostBatch:
    """Ingress node or attached host to an owner: packed host requests. Answered one by one, in any
    order, by HostReplies. `data`: see transport.operation.pack_request."""

    count: int
    data: Bulk


@wire(tag=0x51)
@dataclass(slots=True)
class HostReplies:
    """Owner to ingress: packed answers. `data`: see transport.operation.pack_reply."""

    count: int
    data: Bulk


@wire(tag=0x60)
@dataclass(frozen=True, slots=True)
class AdminRequest:
    """A question to one node: `call` with msgpack arguments. Reply: AdminReply."""

    request: int
    call: str
    arguments: bytes


@wire(tag=0x61)
@dataclass(frozen=True, slots=True)
class AdminReply:
    """Empty code: `result` is msgpack. Else an error of base.errors by code and text."""

    request: int
    code: str
    text: str
    result: bytes


@wire(tag=0x62)
@dataclass(frozen=True, slots=True)
class CutAdopted:
    """A node to the leader: whatever it had numbered before it applied the entry of that cut is
    committed, as of that version of the catalog."""

    cut: int
    incarnation: int
    catalog_version: int


@wire(tag=0x63)
@dataclass(frozen=True, slots=True)
class NodeReady:
    """This life of the sender takes records from now on: what was sent to it before, over a link
    that stood already, it could not take."""

    incarnation: int


@wire(tag=0x64)
@dataclass(frozen=True, slots=True)
class ViewHandedOver:
    """A node to the leader: no copy of a region here has anything of that snapshot, which is being
    removed, any more. Repeated until the catalog says that it is gone."""

    volume: int
    view: int
    incarnation: int


Message = object  # any dataclass above; the registry in transport.wire knows them
