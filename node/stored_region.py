"""shell: what the region store keeps of one region, its options and its statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from base.units import MiB
from node.cache import Cache, CacheStatistics
from node.checkpoint import COMPLETE, Key
from node.destage import DestagePace
from node.journal import JournalStatistics
from node.kept_pages import KeptPages, SnapshotPlace
from node.page_seqs import Bools, bits_of, bools_of
from node.region_pages import RegionPages, RegionPlace
from transport.operation import Record

_PACE = DestagePace()
PlaceOfViews = Callable[[Key], SnapshotPlace | None]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes in bytes. checkpoint_ms: at most that long after something changed."""

    dirty_bytes_max: int = 64 * MiB
    high_percent: int = 50
    low_percent: int = 25
    checkpoint_ms: int = 5000
    checkpoint_journal_percent: int = 50
    pace: DestagePace = _PACE


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """For metrics and the dashboard. `regions`: open here; `checkpoint_bytes`: of the newest."""

    cache: CacheStatistics
    journal: JournalStatistics
    regions: int
    uncommitted: int
    checkpoints: int
    checkpoint_bytes: int
    destage_errors: int
    failed_disks: tuple[int, ...]


class StoredRegion(RegionPages):
    """What the store keeps beside the pages. `pending`: lsn of journalled, unapplied records by
    seq. `session`: as in the checkpoint. `begun_lsn`: of the running transfer's first note.
    `snapshot_place(key)`: where pages of snapshots go. `keep_after`: while a transfer brings views,
    the record as of which they come; -1: they have not begun to come. `views_whole`: all have come.

    `since`, `suspect`: of a copy that a state transfer has not made complete. But for the pages of
    `suspect`, and those that a record behind `since` touched, it is as the record `since`, which is
    (seq, epoch), left it. (0, 0): nothing of it can be used.
    """

    __slots__ = (
        "applied_epoch", "applied_seq", "begun_lsn", "keep_after", "kept", "lock",
        "note_removed", "pending", "session", "since", "snapshot_place", "suspect", "views_whole",
    )  # fmt: skip

    def __init__(
        self, key: Key, place: RegionPlace, cache: Cache, snapshot_place: PlaceOfViews,
        note_removed: Callable[[Key, int, int], None],
    ) -> None:  # fmt: skip
        super().__init__(key, place, cache)
        self.session = COMPLETE
        self.pending: dict[int, int] = {}
        self.applied_seq = 0  # the newest record that was applied
        self.applied_epoch = 0
        self.begun_lsn = -1
        self.keep_after = -1
        self.views_whole = False
        self.since = (0, 0)
        self.suspect = b""
        self.lock: asyncio.Lock | None = None  # made for a transfer
        self.kept: KeptPages | None = None  # what snapshots have; None: nothing yet
        self.snapshot_place = snapshot_place
        self.note_removed = note_removed

    def kept_pages(self) -> KeptPages | None:
        """What snapshots have of the region, made at the first need; None: there is nowhere."""
        if self.kept is None:
            place = self.snapshot_place(self.key)
            if place is not None:
                key, note = self.key, self.note_removed
                self.kept = KeptPages(self, place, lambda view, older: note(key, view, older))
        return self.kept

    def keep(self, record: Record, lsn: int) -> None:
        """What the record is about to take from a snapshot."""
        kept = self.kept_pages()
        if kept is not None and (self.session == COMPLETE or 0 <= self.keep_after < record.seq):
            kept.keep(record, lsn)

    def lose_views(self) -> list[int]:
        """A transfer brings another copy. Extents as `KeptPages.forget_all`."""
        self.keep_after = -1
        self.views_whole = False
        kept = self.kept_pages()
        if kept is None:
            return []
        kept.missing = True
        return kept.forget_all()

    def may_discard(self) -> bool:
        """No snapshot needs anything of what is on disk in the places of holes."""
        kept = self.kept
        return kept is None or (not self.transferring and kept.stamp <= self.cache.noted)

    def suspects(self) -> Bools:
        """Pages of an incomplete copy that may be other than the record `since` left them."""
        if not self.since[0]:
            return np.ones(self.pages, dtype=np.bool_)
        found = self.changed_since(self.since[0])
        return found | bools_of(self.suspect, self.pages) if self.suspect else found

    def suspects_of(self, allocated: bytes, wanted: bytes) -> bytes:
        """Bitmap of the pages that a transfer must bring when the owner has those two: what it says
        has changed, what is not sure here, and what only one of both has."""
        found = bools_of(wanted, self.pages) | (bools_of(allocated, self.pages) ^ self.allocated())
        if self.session != COMPLETE:
            found |= self.suspects()
        return bits_of(found)

    def now_complete(self) -> None:
        """A transfer has ended."""
        self.session = COMPLETE
        self.keep_after = -1
        self.touched = None
        self.since, self.suspect = (0, 0), b""
