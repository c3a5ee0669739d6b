"""plan: what the entries of the journal mean for each region; the table is in journal_format.

Two passes over the same entries. `Survey` learns what only later entries tell: the commit points,
the last reset of a region, what was truncated. `Replay` then goes through them again and says which
records to apply, in order, so that nothing has to be held in memory but the tails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from node.checkpoint import COMPLETE, Key, RegionEntry
from node.journal_format import (
    OPERATION,
    CommitNote,
    JournalEntry,
    Note,
    TransferBeginNote,
    TransferDoneNote,
    TruncateNote,
    unpack_note,
)
from transport.operation import Record, unpack_record

NEVER: Final = -1


@dataclass(slots=True)
class RecoveredRegion:
    """One region as an earlier life left it.

    tail: (record, lsn) beyond the commit point, in order, all journalled. clients: the client table
    as of the checkpoint (or the base of a transfer), to which `replayed` must be added: (client,
    number, low) of the records that were committed since, in order. complete False: the copy is
    worthless, its pages are gone.
    """

    epoch: int = 0  # the highest seen
    committed: int = 0
    committed_epoch: int = 0
    tail: list[tuple[Record, int]] = field(default_factory=list)
    clients: Any = ()
    replayed: list[tuple[int, int, int]] = field(default_factory=list)
    complete: bool = True


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

    def voids(self, lsn: int, seq: int) -> bool:
        """A later entry says that the record there does not count."""
        if lsn < self.reset_lsn:
            return True
        return any(at > lsn and from_seq <= seq for at, from_seq in self.truncates)


class Survey:
    """First pass. known: entries of the checkpoint, for regions that the catalog has here."""

    def __init__(self, known: dict[Key, RegionEntry]) -> None:
        self.regions: dict[Key, _Region] = {}
        for key, entry in known.items():
            state = entry.state
            self.regions[key] = _Region(
                state.epoch, state.committed, state.committed_epoch, entry.session, state.clients
            )

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
            else:
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
            self.regions[key] = _Region(
                epoch, note.base_seq, note.base_epoch, note.session, note.clients, lsn, note
            )
        elif isinstance(note, TransferDoneNote):
            if region.session == note.session:
                region.session = COMPLETE
        else:
            self.regions[key] = _Region(0, 0, 0, COMPLETE, (), lsn, None, True)


class _Progress:
    """Where the replay of one region stands."""

    __slots__ = ("base", "last", "recovered")

    def __init__(self, recovered: RecoveredRegion) -> None:
        self.recovered = recovered
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
            # A transfer that did not end leaves nothing: pages of its base are missing.
            recovered.complete = region.session == COMPLETE
            self._progress[key] = _Progress(recovered)

    @property
    def regions(self) -> dict[Key, RecoveredRegion]:
        """All that are here, complete or not."""
        return {key: progress.recovered for key, progress in self._progress.items()}

    def first_bitmap(self, key: Key, known: dict[Key, RegionEntry]) -> bytes:
        """Pages that are on disk before the first record is applied."""
        region = self._survey.regions[key]
        if region.begin is not None:
            return region.begin.bitmap
        if region.reset_lsn != NEVER or key not in known:
            return b""
        return known[key].bitmap

    def take(self, entry: JournalEntry) -> Record | None:
        """The next entry, in order. A record to apply now, or None."""
        if entry.kind != OPERATION:
            return None
        record, _, _, _ = unpack_record(entry.payload, 0)
        key = (record.volume, record.region)
        progress = self._progress.get(key)
        if progress is None or not progress.recovered.complete:
            return None
        region = self._survey.regions[key]
        seq = record.seq
        if seq <= progress.last or region.voids(entry.lsn, seq):
            return None
        recovered = progress.recovered
        expected = progress.last + 1 if progress.last != NEVER else progress.base + 1
        if seq > expected:
            recovered.complete = False
            recovered.tail.clear()
            return None
        progress.last = seq
        if seq > region.committed:
            record.data = bytes(record.data)  # it stays when the window it lies in is gone
            record.header = bytes(entry.payload[: len(entry.payload) - len(record.data)])
            recovered.tail.append((record, entry.lsn))
            return None
        if seq > progress.base:
            recovered.committed = seq
            recovered.committed_epoch = record.epoch
            recovered.replayed.append((record.client, record.number, record.low))
        return record
