"""shell: what the region store keeps of one region, its options and its statistics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from base.units import MiB
from node.cache import Cache, CacheStatistics
from node.checkpoint import COMPLETE, Key
from node.destage import DestagePace
from node.journal import JournalStatistics
from node.region_pages import RegionPages, RegionPlace

_PACE = DestagePace()


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
    seq. `session`: as in the checkpoint. `begun_lsn`: of the running transfer's first note."""

    __slots__ = ("applied_epoch", "applied_seq", "begun_lsn", "lock", "pending", "session")

    def __init__(self, key: Key, place: RegionPlace, cache: Cache) -> None:
        super().__init__(key, place, cache)
        self.session = COMPLETE
        self.pending: dict[int, int] = {}
        self.applied_seq = 0  # the newest record that was applied
        self.applied_epoch = 0
        self.begun_lsn = -1
        self.lock: asyncio.Lock | None = None  # made for a transfer
