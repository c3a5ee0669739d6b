"""plan: what the entries of the journal mean for each region; the table is in journal_format.

Two passes over the same entries. `Survey` learns what only later entries tell: the commit points,
the last reset of a region, what was truncated. `Replay` then goes through them again and says what
to do with each, in order, so that nothing has to be held in memory but the tails.

A transfer of the pages since a record is no reset. It stands in the middle of the sequence: what
was committed up to that record counts on, what came behind it is void, and of the pages that the
transfer brings nothing older may be written again, for the received bytes are on disk and in no
journal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple

from node.checkpoint import COMPLETE, Key, RegionEntry
from node.journal_format import (
    FILL,
    KEPT,
    OPERATION,
    TRANSFER_BEGIN,
    TRANSFER_DONE,
    VIEW_REMOVED,
    CommitNote,
    FillNote,
    JournalEntry,
    KeptNote,
    Note,
    RegionDroppedNote,
    TransferBeginNote,
    TransferDoneNote,
    TruncateNote,
    ViewRemovedNote,
    unpack_note,
)
from transport.operation import Record, unpack_record

NEVER: Final = -1
_BESIDE: Final = (FILL, KEPT, VIEW_REMOVED)  # they say nothing about what the others mean


@dataclass(slots=True)
class RecoveredRegion:
    """One region as an earlier life left it.

    tail: (record, lsn) beyond the commit point, in order, all journalled. clients: the client table
    as of the checkpoint (or the base of a transfer), to which `replayed` must be added: (client,
    number, low) of the records that were committed since, in order. ends: epochs that ended among
    those, (epoch, last seq). complete False: a state transfer did not end. Then the copy is
    worthless, or `since` says as of which record (seq, epoch) its pages are, but for suspects.
    """

    epoch: int = 0  # the highest seen
    committed: int = 0
    committed_epoch: int = 0
    tail: list[tuple[Record, int]] = field(default_factory=list)
    clients: Any = ()
    replayed: list[tuple[int, int, int]] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)
    complete: bool = True
    since: tuple[int, int] = (0, 0)

    def restart(self, note: TransferBeginNote) -> None:
        """A transfer put the copy onto another base."""
        self.committed, self.committed_epoch = note.base_seq, note.base_epoch
        self.clients = note.clients
        self.tail.clear()
        self.replayed.clear()
        self.ends.clear()


class Action(Enum):
    """What to do with an entry."""

    APPLY = 1  # the record, but not to those pages of it that a later transfer brought
    MARK = 2  # the record may have been applied to a copy that never became complete
    TRANSFER = 3  # the transfer of the note begins; `done`: what it brought is on disk
    SEQS = 4  # it has ended, and these are the page seqs of the region: (as of, packed)
    FILL = 5  # what the blocks of `fill` hold beside what the records before it wrote
    VIEWS = 6  # what `views` says of kept pages and tables


class Step(NamedTuple):
    """The action for one entry."""

    action: Action
    key: Key
    record: Record | None = None
    note: TransferBeginNote | None = None
    done: bool = False
    later: tuple[bytes, ...] = ()  # bitmaps of suspects of transfers that began behind the record
    seqs: tuple[int, bytes] = (0, b"")
    fill: FillNote | None = None
    views: KeptNote | ViewRemovedNote | None = None


@dataclass(slots=True)
class _Region:
    """What the survey has learned."""

    epoch: int
    committed: int
    committed_epoch: int
    session: int
    clients: Any
    reset_lsn: int = NEVER  # operations before it are void
    begin: TransferBeginNote | None = None  # the reset was this
    dropped: bool = False
    truncates: list[tuple[int, int]] = field(default_factory=list)  # (lsn, from_seq)
    since: tuple[int, int] = (0, 0)  # while incomplete
    # The last transfer began there; views: it has brought some, see TransferDoneNote.
    begun_lsn: int = NEVER
    views: bool = False
    sums: bytes = b""  # of the blocks that no later entry makes again
    # What stands before `noted` has made the sums and the commit point of the checkpoint already.
    noted: int = 0
    noted_commit: int = 0
    transfers: list[tuple[int, TransferBeginNote]] = field(default_factory=list)  # not of all pages

    def voids(self, lsn: int, seq: int) -> bool:
        """A later entry says that the record there does not count."""
        if lsn < self.reset_lsn:
            return True
        if any(at > lsn and seq > note.since[0] for at, note in self.transfers):
            return True
        return any(at > lsn and from_seq <= seq for at, from_seq in self.truncates)

    def later(self, lsn: int) -> tuple[bytes, ...]:
        """Suspects of the transfers of some pages that begin behind that entry."""
        return tuple(note.suspect for at, note in self.transfers if at > lsn)


class Survey:
    """First pass. known: entries of the checkpoint, for regions that the catalog has here."""

    def __init__(self, known: dict[Key, RegionEntry]) -> None:
        self.regions: dict[Key, _Region] = {}
        for key, entry in known.items():
            state = entry.state
            self.regions[key] = _Region(
                state.epoch, state.committed, state.committed_epoch, entry.session, state.clients,
                since=entry.since, sums=entry.sums,
                noted=entry.noted, noted_commit=state.committed,
            )  # fmt: skip

    def _region(self, key: Key) -> _Region:
        region = self.regions.get(key)
        if region is None:
            region = self.regions[key] = _Region(0, 0, 0, COMPLETE, ())
        region.dropped = False
        return region

    def take(self, entries: list[JournalEntry]) -> None:
        """The next entries, in order."""
        for entry in entries:
            if entry.kind == OPERATION:
                record, epoch, committed, _ = unpack_record(entry.payload, 0)
                region = self._region((record.volume, record.region))
                region.epoch = max(region.epoch, epoch)
                region.committed = max(region.committed, committed)
            elif entry.kind not in _BESIDE:
                self._note(entry.lsn, unpack_note(entry))

    def _note(self, lsn: int, note: Note) -> None:
        if isinstance(note, CommitNote):
            for volume, number, epoch, committed, committed_epoch in note.points:
                known = self.regions.get((volume, number))
                if known is not None and known.dropped:
                    continue  # said late: it must not bring the region back
                region = self._region((volume, number))
                region.epoch = max(region.epoch, epoch)
                if committed >= region.committed:
                    region.committed = committed
                    region.committed_epoch = committed_epoch
            return
        key = (note.volume, note.region)
        region = self._region(key)
        if isinstance(note, TruncateNote):
            region.truncates.append((lsn, note.from_seq))
        elif isinstance(note, TransferBeginNote):
            epoch = max(region.epoch, note.epoch)
            begun = _Region(
                epoch, note.base_seq, note.base_epoch, note.session, note.clients, lsn, note
            )
            begun.noted, begun.noted_commit = region.noted, region.noted_commit
            begun.begun_lsn = lsn
            if lsn < region.noted:
                begun.sums = region.sums
                begun.committed = max(begun.committed, region.noted_commit)
            if note.suspect:
                begun.reset_lsn, begun.begin = region.reset_lsn, region.begin
                begun.truncates, begun.since = region.truncates, note.since
                begun.sums = region.sums
                begun.transfers = [*region.transfers, (lsn, note)]
            self.regions[key] = begun
        elif isinstance(note, TransferDoneNote):
            if region.session == note.session:
                region.session = COMPLETE
                region.views = note.views
                if lsn >= region.noted:
                    region.sums = note.sums
        elif isinstance(note, RegionDroppedNote):
            self.regions[key] = _Region(0, 0, 0, COMPLETE, (), lsn, None, True)
            if lsn < region.noted:  # and it was made anew before that
                self.regions[key].sums, self.regions[key].noted = region.sums, region.noted


class _Progress:
    """Where the replay of one region stands."""

    __slots__ = ("base", "last", "recovered", "suspect")

    def __init__(self, recovered: RecoveredRegion, suspect: bytes) -> None:
        self.recovered = recovered
        self.suspect = suspect  # of the last transfer so far, as the checkpoint or a note says
        self.base = recovered.committed  # its clients are in the table already
        self.last = NEVER  # seq of the newest record seen


class Replay:
    """Second pass. `known` as for the survey, which has seen every entry."""

    def __init__(self, survey: Survey, known: dict[Key, RegionEntry]) -> None:
        self._survey = survey
        self._progress: dict[Key, _Progress] = {}
        for key, region in survey.regions.items():
            if region.dropped:
                continue
            recovered = RecoveredRegion(epoch=region.epoch, clients=region.clients)
            entry = known.get(key)
            if region.begin is not None:
                recovered.committed = region.begin.base_seq
                recovered.committed_epoch = region.begin.base_epoch
            elif entry is not None and region.reset_lsn == NEVER:
                recovered.committed = entry.state.committed
                recovered.committed_epoch = entry.state.committed_epoch
            recovered.complete = region.session == COMPLETE
            if not recovered.complete:
                recovered.since = region.since
            self._progress[key] = _Progress(recovered, entry.suspect if entry is not None else b"")

    @property
    def regions(self) -> dict[Key, RecoveredRegion]:
        """All that are here, complete or not."""
        return {key: progress.recovered for key, progress in self._progress.items()}

    def first(self, key: Key, known: dict[Key, RegionEntry]) -> RegionEntry:
        """The pages of the region before the first entry."""
        region = self._survey.regions[key]
        if region.begin is not None:
            return RegionEntry(bitmap=region.begin.bitmap)
        if region.reset_lsn != NEVER or key not in known:
            return RegionEntry()
        return known[key]

    def first_sums(self, key: Key) -> bytes:
        """Checksums of the blocks of the region before the first entry. Those that no entry makes
        again whole have kept them."""
        return self._survey.regions[key].sums

    def views(self, key: Key, known: dict[Key, RegionEntry]) -> bytes | None:
        """Tables of snapshots before the first entry; None: the copy is not complete. After a state
        transfer, those that it had brought: what a record of before its end would keep is there
        already."""
        region = self._survey.regions[key]
        entry = known.get(key)
        if region.session != COMPLETE:
            return None
        if entry is None or max(region.reset_lsn, region.begun_lsn) >= entry.noted:
            return None if region.views else b""
        # Of a session that had brought none until its end the checkpoint says that they miss.
        return entry.views if region.views or entry.session == COMPLETE else b""

    def _fill(self, entry: JournalEntry) -> Step | None:
        note = unpack_note(entry)
        assert isinstance(note, FillNote)
        key = (note.volume, note.region)
        progress = self._progress.get(key)
        region = self._survey.regions.get(key)
        if progress is None or region is None or entry.lsn < region.reset_lsn:
            return None
        later = region.later(entry.lsn)
        if not progress.recovered.complete and not later:
            if not progress.recovered.since[0]:
                return None
            later = (progress.suspect,)
        if any(suspect[note.page >> 3] >> (note.page & 7) & 1 for suspect in later):
            return None
        return Step(Action.FILL, key, fill=note)

    def _views(self, entry: JournalEntry) -> Step | None:
        note = unpack_note(entry)
        assert isinstance(note, KeptNote | ViewRemovedNote)
        key = (note.volume, note.region)
        progress = self._progress.get(key)
        region = self._survey.regions.get(key)
        if progress is None or region is None or entry.lsn < region.reset_lsn:
            return None
        return Step(Action.VIEWS, key, views=note)

    def take(self, entry: JournalEntry) -> Step | None:
        """What to do with the next entry, in order; None: nothing."""
        if entry.kind in (TRANSFER_BEGIN, TRANSFER_DONE):
            return self._transfer(entry)
        if entry.kind == FILL:
            return self._fill(entry)
        if entry.kind in (KEPT, VIEW_REMOVED):
            return self._views(entry)
        if entry.kind != OPERATION:
            return None
        record, _, _, _ = unpack_record(entry.payload, 0)
        key = (record.volume, record.region)
        progress = self._progress.get(key)
        if progress is None:
            return None
        region = self._survey.regions[key]
        seq = record.seq
        if seq <= progress.last or region.voids(entry.lsn, seq):
            return None
        recovered = progress.recovered
        later = region.later(entry.lsn)
        if not recovered.complete and not later:
            if not recovered.since[0]:
                return None
            if seq > recovered.since[0]:
                # Which of these were applied before the crash is not known, and none is needed.
                return Step(Action.MARK, key, record)
            # Of before a transfer that the checkpoint knows and the journal lost.
            later = (progress.suspect,)
        expected = progress.last + 1 if progress.last != NEVER else progress.base + 1
        if seq > expected:
            recovered.complete = False
            recovered.since = (0, 0)
            recovered.tail.clear()
            return None
        progress.last = seq
        if seq > region.committed:
            record.data = bytes(record.data)  # it stays when the window it lies in is gone
            record.header = bytes(entry.payload[: len(entry.payload) - len(record.data)])
            recovered.tail.append((record, entry.lsn))
            return None
        if seq > progress.base:
            if record.epoch != recovered.committed_epoch:
                recovered.ends.append((recovered.committed_epoch, recovered.committed))
            recovered.committed = seq
            recovered.committed_epoch = record.epoch
            recovered.replayed.append((record.client, record.number, record.low))
        return Step(Action.APPLY, key, record, later=later)

    def _transfer(self, entry: JournalEntry) -> Step | None:
        note = unpack_note(entry)
        assert isinstance(note, TransferBeginNote | TransferDoneNote)
        key = (note.volume, note.region)
        progress = self._progress.get(key)
        region = self._survey.regions[key]
        if progress is None or entry.lsn < region.reset_lsn:
            return None
        if isinstance(note, TransferDoneNote):
            return Step(Action.SEQS, key, seqs=(note.applied, note.seqs))
        if not note.suspect:
            return None
        progress.last = NEVER
        progress.base = note.base_seq
        progress.suspect = note.suspect
        progress.recovered.restart(note)
        # What a session did not bring that another followed, that other one brings.
        done = progress.recovered.complete or bool(region.later(entry.lsn))
        return Step(Action.TRANSFER, key, note=note, done=done)
