"""plan: what the disks and the journal of a node of level 1 hold, and what a crash leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from base.units import SECTOR_BYTES
from cluster import raft_types as rt
from cluster.raft_log import RaftLog
from node.client_table import ClientTable
from node.epoch_line import EpochEnd, EpochLine
from sim.kernel_views import RegionViews
from transport import operation as op
from transport.operation import Record

Key = tuple[int, int]
Sectors = dict[int, bytes]


@dataclass(slots=True)
class ResetNote:
    """Where a state transfer began. since (0, 0): the region was emptied; else it is as that record
    (seq, epoch) left it, but for the pages of `suspect`."""

    base_seq: int
    base_epoch: int
    clients: tuple[Any, ...]
    line: tuple[EpochEnd, ...]
    since: tuple[int, int]
    suspect: frozenset[int]
    page_sectors: int


@dataclass(slots=True)
class Rolled:
    """A region after replay up to a commit point."""

    blocks: Sectors
    seqs: dict[int, int]
    clients: ClientTable
    line: EpochLine
    committed: int
    committed_epoch: int
    tail: list[Record]
    views: RegionViews


@dataclass(slots=True)
class DurableRegion:
    """What the disks and journal of one node hold of one region."""

    blocks: Sectors = field(default_factory=dict)
    seqs: dict[int, int] = field(default_factory=dict)
    line: tuple[EpochEnd, ...] = ()
    committed: int = 0
    committed_epoch: int = 0
    clients: tuple[Any, ...] = ()
    # (record, commit point with it, its position in the journal of the node)
    log: list[tuple[Record, int, int]] = field(default_factory=list)
    complete: bool = True
    since: tuple[int, int] = (0, 0)  # while incomplete
    suspect: frozenset[int] = frozenset()
    place: tuple[int, int] | None = None
    views: RegionViews = field(default_factory=RegionViews)
    base: int = 0  # where the state transfer began that filled it: synced as a whole

    def holds(self, seq: int, epoch: int) -> bool:
        """Whether a restart finds the record of that name, or what it did."""
        if self.log and self.log[0][0].seq <= seq:
            at = seq - self.log[0][0].seq
            return at < len(self.log) and self.log[at][0].epoch == epoch
        return self.committed >= seq

    def is_synced(self, seq: int, through: int) -> bool:
        """Whether a power cut would leave the record of that place. through: the position up to
        which the journal of the node is synced."""
        if not self.log or seq < self.log[0][0].seq:
            return seq <= max(self.base, self.committed)
        at = seq - self.log[0][0].seq
        return at < len(self.log) and self.log[at][2] < through

    def known(self) -> int:
        """The highest commit point that the journal names."""
        return max([self.committed, *(point for _, point, _ in self.log)])

    def rolled(self, committed: int, pages_of: Callable[[Record], range]) -> Rolled:
        """With every record up to that one applied; what is behind it is the tail."""
        state = Rolled(
            dict(self.blocks), dict(self.seqs), ClientTable(self.clients), EpochLine(self.line),
            self.committed, self.committed_epoch, [], self.views.copy(),
        )  # fmt: skip
        for record, _, _ in self.log:
            fresh = clone(record)
            if record.seq > committed:
                state.tail.append(fresh)
                continue
            state.views.overwrite(state.blocks, fresh, pages_of(fresh))
            apply_sectors(state.blocks, fresh)
            state.seqs.update(dict.fromkeys(pages_of(fresh), fresh.seq))
            state.clients.add(record.client, record.number, record.low)
            if record.epoch != state.committed_epoch:
                state.line.end(state.committed_epoch, state.committed)
            state.committed, state.committed_epoch = record.seq, record.epoch
        return state

    def begun(self, note: ResetNote, pages_of: Callable[[Record], range]) -> DurableRegion:
        """The region once a state transfer has begun."""
        made = DurableRegion(
            place=self.place, line=note.line, committed=note.base_seq,
            committed_epoch=note.base_epoch, base=note.base_seq, clients=note.clients,
            complete=False, since=note.since, suspect=note.suspect,
        )  # fmt: skip
        if note.since[0]:
            old = self.rolled(note.since[0] if self.complete else 0, pages_of)
            size = note.page_sectors
            made.blocks = {
                at: value for at, value in old.blocks.items() if at // size not in note.suspect
            }
            made.views = old.views
            made.views.drop_pages(note.suspect)
            made.seqs = {page: seq for page, seq in old.seqs.items() if page not in note.suspect}
        return made


class Durable:
    """One node's disks. What is written is here at once, as the page cache of a machine is after
    the death of a process; what is not synced can be taken back by a power cut."""

    def __init__(self, hard: rt.HardState, raft: RaftLog, *, blank: bool = False) -> None:
        self.hard = hard
        self.raft = raft
        self.blank = blank  # not told to the catalog yet, and so is what `intact` says
        self.intact = not blank
        self.known = -1  # while not intact: the last index of the log when the loss was found
        self.incarnation = 0
        self.regions: dict[Key, DurableRegion] = {}
        self.synced_through = 0  # journal positions below that one survive a power cut
        self._undo: list[Callable[[], object]] = []  # of entries from there on, in their order

    @property
    def position(self) -> int:
        """Of the next entry of the journal."""
        return self.synced_through + len(self._undo)

    def synced(self, through: int) -> None:
        """A sync ended that was asked for when the journal was that long."""
        count = through - self.synced_through
        if count > 0:
            del self._undo[:count]
            self.synced_through = through

    def lose_unsynced(self, keep: int) -> int:
        """A power cut: of the unsynced entries the first `keep` are left. How many are lost."""
        lost = 0
        while len(self._undo) > keep:
            self._undo.pop()()
            lost += 1
        self.synced_through += len(self._undo)
        self._undo.clear()
        return lost

    @property
    def unsynced(self) -> int:
        """Entries that a power cut could take."""
        return len(self._undo)

    # ------------------------------------------------------------------ entries

    def region(self, key: Key) -> DurableRegion:
        """What is kept of a region, made when nothing is."""
        kept = self.regions.get(key)
        if kept is None:
            kept = self.regions[key] = DurableRegion()
        return kept

    def append(self, key: Key, record: Record, committed: int) -> None:
        """A record of the region."""
        log = self.region(key).log
        log.append((clone(record), committed, self.position))
        self._undo.append(log.pop)

    def truncate(self, key: Key, from_seq: int) -> None:
        """Records from there on are void."""
        kept = self.region(key)
        before = kept.log
        kept.log = [entry for entry in before if entry[0].seq < from_seq]
        self._undo.append(lambda: setattr(kept, "log", before))

    def put(self, key: Key, fresh: DurableRegion | None) -> None:
        """Another state of the region as a whole; None: nothing is kept of it any more."""
        before = self.regions.pop(key, None)
        if fresh is not None:
            self.regions[key] = fresh
        self._undo.append(lambda: self._put_back(key, before))

    def _put_back(self, key: Key, before: DurableRegion | None) -> None:
        self.regions.pop(key, None)
        if before is not None:
            self.regions[key] = before


def entries_behind(log: RaftLog, index: int) -> tuple[rt.Entry, ...]:
    """The entries of a log behind that index and behind its snapshot."""
    first = max(index, log.snapshot.index) + 1
    return tuple(log.entry(at) for at in range(first, log.last_index + 1))


def clone(record: Record) -> Record:
    """A record of one's own: what another node does with its copy is not seen."""
    made: Record = object.__new__(Record)  # by hand: each record of a host is cloned four times
    made.volume = record.volume
    made.region = record.region
    made.kind = record.kind
    made.flags = record.flags
    made.offset = record.offset
    made.length = record.length
    made.client = record.client
    made.number = record.number
    made.low = record.low
    made.data = record.data
    made.epoch = record.epoch
    made.prev_epoch = record.prev_epoch
    made.seq = record.seq
    made.data_crc = 0
    made.cow_into = record.cow_into
    made.dead = False
    made.header = b""
    return made


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
