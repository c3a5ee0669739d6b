"""plan: what the step cores of a node ask their shell to do.

Cores append to one list per node, in the order in which the shell must perform. One list for all
regions, not one per call: a turn of the loop that commits sixteen records hands the shell one list.
These objects live for one turn, so they are plain slotted classes, not frozen ones: freezing costs
three times the construction on the hot path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from base.errors import StorageError
from node.roles import BY_DELTA
from transport.messages import Beacon, TransferBegin
from transport.operation import Record

if TYPE_CHECKING:
    from node.region_copy import RegionCopy

Token = Any  # opaque to the cores: what the shell needs in order to answer


class Store:
    """Journal the record here when `journal`, and send it to `peers` as of the copy's epoch."""

    __slots__ = ("copy", "journal", "peers", "record")

    def __init__(
        self, copy: RegionCopy, record: Record, peers: tuple[int, ...], journal: bool
    ) -> None:
        self.copy = copy
        self.record = record
        self.peers = peers
        self.journal = journal


class Apply:
    """The record is committed: put it into cache and tables now, before anything that follows."""

    __slots__ = ("copy", "record")

    def __init__(self, copy: RegionCopy, record: Record) -> None:
        self.copy = copy
        self.record = record


class Adopted:
    """All that an owner had numbered when a cut began is committed: see `node.gates`."""

    __slots__ = ("copy",)

    def __init__(self, copy: RegionCopy) -> None:
        self.copy = copy


class Ack:
    """Tell the owner how far this copy has journalled; the last one of a turn covers the others."""

    __slots__ = ("copy", "epoch", "peer", "seq", "session", "synced")

    def __init__(self, copy: RegionCopy, peer: int, seq: int, synced: int, session: int) -> None:
        self.copy = copy
        self.peer = peer
        self.epoch = copy.epoch
        self.seq = seq
        self.synced = synced
        self.session = session  # of the state transfer, for a joiner; else 0


class Reply:
    """The host operation behind the token is over. error None: it took effect."""

    __slots__ = ("error", "token")

    def __init__(self, token: Token, error: StorageError | None) -> None:
        self.token = token
        self.error = error


class Moved:
    """The region left this node with the operation in flight: it must be sent again unchanged."""

    __slots__ = ("owner", "token")

    def __init__(self, token: Token, owner: int) -> None:
        self.token = token
        self.owner = owner


class Resume:
    """The region answers again: give the operation behind the token to it once more."""

    __slots__ = ("token",)

    def __init__(self, token: Token) -> None:
        self.token = token


class SyncRecord:
    """Sync the journal, then call `record_synced` of the copy with this seq, epoch and era."""

    __slots__ = ("copy", "epoch", "era", "seq")

    def __init__(self, copy: RegionCopy, seq: int) -> None:
        self.copy = copy
        self.epoch = copy.epoch
        self.era = copy.era
        self.seq = seq


class Truncate:
    """Journal that records of the region from `from_seq` on are void."""

    __slots__ = ("copy", "from_seq")

    def __init__(self, copy: RegionCopy, from_seq: int) -> None:
        self.copy = copy
        self.from_seq = from_seq


class Send:
    """Send a message to a node."""

    __slots__ = ("message", "peer")

    def __init__(self, peer: int, message: object) -> None:
        self.peer = peer
        self.message = message


class SendBeacons:
    """Send to each of these nodes its own beacon: one effect, since most messages are beacons."""

    __slots__ = ("beacons",)

    def __init__(self, beacons: list[tuple[int, Beacon]]) -> None:
        self.beacons = beacons  # (peer, beacon)


class SendPosition:
    """Joiner: tell the owner where this copy stands, with the suspects of the store when it is not
    complete. Position and store are of the same moment: effects are performed in order."""

    __slots__ = ("copy", "epoch", "peer", "position", "session")

    def __init__(self, copy: RegionCopy, peer: int, session: int) -> None:
        self.copy = copy
        self.peer = peer
        self.epoch = copy.epoch
        self.session = session
        self.position = copy.position()  # (complete, seq, epoch)


class SendBegin:
    """Owner: send TransferBegin of this session to the joiner, with the bitmaps of the store when
    pages are to follow. The base is of the moment at which this was asked for, as the store will be
    when it is performed; the copy may be further by then."""

    __slots__ = (
        "base", "base_epoch", "clients", "copy", "epoch", "line", "mode", "peer", "session",
        "since", "suspects",
    )  # fmt: skip

    def __init__(
        self, copy: RegionCopy, peer: int, mode: int, since: tuple[int, int], suspects: bytes
    ) -> None:
        self.copy = copy
        self.peer = peer
        self.epoch = copy.epoch
        self.session = copy.session
        self.mode = mode
        self.since = since  # (seq, epoch): where the joiner stands
        self.suspects = suspects
        by_pages = mode >= BY_DELTA
        self.base, self.base_epoch = (copy.committed, copy.committed_epoch) if by_pages else since
        self.line = copy.line.ends
        self.clients = copy.clients.state() if by_pages else ()


class CopyPages:
    """Owner: copy the wanted pages to the joiner in the background, then `pages_copied`."""

    __slots__ = ("copy", "peer", "session")

    def __init__(self, copy: RegionCopy, peer: int, session: int) -> None:
        self.copy = copy
        self.peer = peer
        self.session = session


class ResetRegion:
    """Joiner: begin at the base of the message: with the pages that it wants to come absent, and
    the rest as it is when `since` says so, else all of the region emptied."""

    __slots__ = ("begin", "copy")

    def __init__(self, copy: RegionCopy, begin: TransferBegin) -> None:
        self.copy = copy
        self.begin = begin


class EndTransfer:
    """Joiner: sync all that the session brought, journal its end, then `transfer_synced`."""

    __slots__ = ("copy", "session")

    def __init__(self, copy: RegionCopy, session: int) -> None:
        self.copy = copy
        self.session = session


class Admit:
    """Owner: propose to the catalog that the joiner is in sync (again and again until known)."""

    __slots__ = ("copy", "epoch", "joiner")

    def __init__(self, copy: RegionCopy, epoch: int, joiner: int) -> None:
        self.copy = copy
        self.epoch = epoch
        self.joiner = joiner


Effect = (
    Store | Apply | Ack | Reply | Moved | Resume | SyncRecord | Truncate | Send | SendPosition
    | SendBegin | CopyPages | ResetRegion | EndTransfer | Admit | Adopted
)  # fmt: skip


# ---------------------------------------------------------------- of the node, not of one region


class OpenRegion:
    """Make the place of this copy in the store: its LD region by the catalog."""

    __slots__ = ("copy", "fresh")

    def __init__(self, copy: RegionCopy, fresh: bool) -> None:
        self.copy = copy
        self.fresh = fresh  # nothing of an earlier use of this space may be seen


class CloseRegion:
    """The catalog gives this node no copy of the region any more: forget what it held."""

    __slots__ = ("copy",)

    def __init__(self, copy: RegionCopy) -> None:
        self.copy = copy


class PersistRaft:
    """Sync this to the consensus store, then answer with `raft_persisted`. `request`: Persist."""

    __slots__ = ("request",)

    def __init__(self, request: Any) -> None:
        self.request = request


class Answer:
    """A proposal of this node is over. error None: applied, with this result at this index."""

    __slots__ = ("error", "index", "result", "token")

    def __init__(self, token: Token, error: StorageError | None, index: int, result: Any) -> None:
        self.token = token
        self.error = error
        self.index = index
        self.result = result


class TopologyChanged:
    """Owners, volumes or nodes changed in the catalog that this node has applied."""

    __slots__ = ()


class NewLife:
    """The catalog says that this life of the node is over, though it runs: persist a higher
    incarnation, then call `begin_life` with it."""

    __slots__ = ("above",)

    def __init__(self, above: int) -> None:
        self.above = above


class LifeCounted:
    """The catalog knows what this node had lost when it started: persist that nothing is left to be
    said, then call `life_counted`."""

    __slots__ = ()


class RecoverStore:
    """The catalog is current: read what the disks hold, then call `store_recovered`."""

    __slots__ = ()


class Note:
    """Something worth one line of the log: `noun.past_verb` and fields."""

    __slots__ = ("event", "fields")

    def __init__(self, event: str, **fields: object) -> None:
        self.event = event
        self.fields = fields


NodeEffect = (
    Effect
    | SendBeacons
    | RecoverStore
    | OpenRegion
    | CloseRegion
    | PersistRaft
    | Answer
    | TopologyChanged
    | NewLife
    | LifeCounted
    | Note
)
