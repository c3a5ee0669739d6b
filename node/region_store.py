"""shell: everything that this node keeps of its regions: journal, cache, disks and checkpoint.

The order of things that makes a crash at any point harmless:

1. A record is journalled; when it is committed it is applied to the cache, in the order of its
   region. A read sees cache over disk.
2. A page is destaged when its records and a note that they are committed are synced (I31).
3. A checkpoint first notes the trim point: the oldest record that is uncommitted or dirty. Then it
   notes the regions, a slice at a time: what happens meanwhile has higher lsns and is replayed.
   Then disks and journal are synced, then the slot is written and synced, and only then is the
   journal trimmed, and given-back pages are discarded.
4. Recovery is the checkpoint and a replay from its trim point (table in journal_format).

A replayed page may already be on disk in part or with later contents: replaying everything from the
trim point on, in order, ends in the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from base.clock import Clock
from base.device import BlockDevice, Buffer
from base.errors import NotFound, StorageError
from base.tasks import Supervisor
from base.units import NS_PER_MS
from node import store_recovery
from node.block_reader import BlockReader
from node.cache import Cache
from node.checkpoint import (
    COMPLETE,
    INCOMPLETE,
    Checkpoint,
    CheckpointSlots,
    Key,
    RegionEntry,
    RegionState,
    pack_payload,
    pack_region,
)
from node.destage import Destager
from node.disk_shelf import DiskShelf
from node.incoming_pages import IncomingPages
from node.journal import Journal
from node.journal_format import (
    CommitNote,
    FillNote,
    Lives,
    RegionDroppedNote,
    TransferBeginNote,
    TruncateNote,
    ViewRemovedNote,
)
from node.kept_pages import KeptPages, SnapshotPlace
from node.page_checksums import take_sectors
from node.page_seqs import bits_of, bools_of, pack_seqs
from node.recovery import RecoveredRegion
from node.region_pages import HOLE, RegionPages, RegionPlace
from node.region_reads import RegionReads
from node.stored_region import StoredRegion, StoreStatistics
from node.stored_region import StoreOptions as StoreOptions
from node.view_batches import Entry
from node.view_reads import ViewReads
from transport.operation import Record

log = structlog.get_logger()

BYTES_PER_MS = 20_000  # most that checkpoints write, on average, while the journal has room
SLICE = 256  # regions of a checkpoint that are packed in one turn of the loop
PINNED_PART = 8  # of the journal: records that wait for their commit longer hold it up
DISCARDS_MAX = 1024  # runs of pages that one checkpoint gives back


class RegionStore:
    """All copies of regions on one node. region_state(key): what the core wants back after a
    restart; asked while a checkpoint is taken, and consistent with what was applied so far.

    on_failure(error): the node must stop (P11). on_room(): host writes may be taken again.
    on_region_error(key, error): no disk takes dirty pages of the region. on_pinned(key): records of
    the region that nobody commits keep the journal from being trimmed. snapshot_place(key): where
    the region keeps what snapshots are owed; None: nowhere, and `cow_into` is not looked at.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        shelf: DiskShelf,
        checkpoint_device: BlockDevice,
        clock: Clock,
        supervisor: Supervisor,
        region_state: Callable[[Key], RegionState],
        on_failure: Callable[[BaseException], None],
        on_room: Callable[[], None] | None = None,
        on_region_error: Callable[[Key, StorageError], None] | None = None,
        on_pinned: Callable[[Key], None] | None = None,
        options: StoreOptions | None = None,
        snapshot_place: Callable[[Key], SnapshotPlace | None] = lambda _: None,
    ) -> None:
        options = options or StoreOptions()
        self.journal = journal
        self.shelf = shelf
        most = options.dirty_bytes_max
        self.cache = Cache(
            low_bytes=most * options.low_percent // 100,
            high_bytes=most * options.high_percent // 100,
            max_bytes=most,
        )
        self.slots = CheckpointSlots(checkpoint_device)
        self.clock = clock
        self._supervisor = supervisor
        self.region_state = region_state
        self.on_failure = on_failure
        self.on_room = on_room
        self.on_pinned = on_pinned
        self._options = options
        self.blocks = BlockReader(shelf)
        self.destager = Destager(
            self.cache, shelf, self.blocks, journal, clock, options.pace,
            checkpoint=self._checkpoint_or_fail,
            take_points=self._take_points, has_points=lambda: bool(self.unnoted),
            on_region_error=on_region_error, on_room=self._room,
        )  # fmt: skip
        journal.on_room = self._room
        self.regions: dict[Key, StoredRegion] = {}
        self.reads = RegionReads(self.regions, self.blocks, self.destager)
        self.read_now = self.reads.read_now
        self.read = self.reads.read
        self.views = ViewReads(self.regions, self.reads, self.blocks, self.destager)
        self.read_view = self.views.read
        self.snapshot_place = snapshot_place
        # Extents that nobody has any more.
        self._left: list[tuple[KeptPages, list[int], asyncio.Lock | None]] = []
        self._noted: list[KeptPages] = []  # by the checkpoint that is being taken
        self.entries: dict[Key, bytes] = {}  # packed, as in the newest checkpoint
        self.uncommitted: dict[int, None] = {}  # lsns of records that were not applied, ascending
        self._applied_lsn = -1  # the highest of all applied records
        self.unnoted: dict[Key, None] = {}  # regions with records that no note calls committed
        self.done: dict[Key, int] = {}  # lsns of TransferDone notes that are not synced yet
        self._leaving: list[asyncio.Lock] = []  # of transfers into regions that were dropped
        self._incoming = IncomingPages(self)
        self.is_blank = False  # this start found a new store: nothing that this node had is left
        self._checkpoint_lock = asyncio.Lock()
        self._checkpoint_again = asyncio.Lock()
        self._checkpoints = self._begun = 0
        self._last_checkpoint_ns = 0

    # -- regions

    def __contains__(self, key: Key) -> bool:
        return key in self.regions

    def keys(self) -> list[Key]:
        """Regions that this node keeps, in no order."""
        return list(self.regions)

    def open_region(self, key: Key, place: RegionPlace, *, complete: bool = True) -> None:
        """The catalog gives this node a copy. One that recovery has found stays as it is.

        complete False: for a joiner; it holds nothing until a transfer has ended.
        """
        if key in self.regions:
            return
        region = self.regions[key] = self.made_region(key, place)
        if not complete:
            region.session = INCOMPLETE
            self.cache.changed[key] = None

    def made_region(self, key: Key, place: RegionPlace) -> StoredRegion:
        """One with nothing in it."""
        return StoredRegion(key, place, self.cache, self.snapshot_place, self._note_removed)

    def _note_removed(self, key: Key, view: int, older: int) -> None:
        self.journal.append_note(ViewRemovedNote(*key, view, older))

    def drop_region(self, key: Key) -> None:
        """This node has no copy of it any more. Nothing happens when it is not here.

        Its place on disk may be used by another region after `settled` has returned.
        """
        region = self.regions.pop(key, None)
        if region is None:
            return
        self.forget(region)
        self.lose_views(region)
        region.clear()
        region.session = INCOMPLETE
        if region.lock is not None:
            self._leaving.append(region.lock)
        self.entries.pop(key, None)
        self.cache.changed.pop(key, None)
        self.journal.append_note(RegionDroppedNote(key[0], key[1]))

    async def settled(self) -> None:
        """Nothing of what was dropped before the call is on its way to a disk any more."""
        async with self.destager.hold():
            leaving, self._leaving = self._leaving, []
        for lock in leaving:
            async with lock:
                pass

    def forget(self, region: StoredRegion) -> None:
        for lsn in region.pending.values():
            self.uncommitted.pop(lsn, None)
        region.pending.clear()
        region.unapplied.clear()
        self.unnoted.pop(region.key, None)
        self.done.pop(region.key, None)

    def lose_views(self, region: StoredRegion) -> None:
        """This copy has nothing of snapshots any more."""
        extents = region.lose_views()
        if region.kept is not None:
            self._left.append((region.kept, extents, region.lock))

    def remove_view(self, key: Key, view: int, older: int) -> None:
        """A snapshot is being removed: what it has of the region goes to the older one, 0: to
        nobody (ruling R5). May be repeated."""
        kept = self.region(key).kept
        if kept is not None:
            kept.remove_view(view, older)
            self._note_removed(key, view, older)

    def region(self, key: Key) -> StoredRegion:
        region = self.regions.get(key)
        if region is None:
            raise NotFound(f"volume {key[0]} region {key[1]}: this node has no copy")
        return region

    def is_complete(self, key: Key) -> bool:
        """The copy is whole: it is no joiner's, and recovery did not find it worthless."""
        return self.region(key).session == COMPLETE

    def touch(self, key: Key) -> None:
        """The core's state of the region changed: the next checkpoint must contain it."""
        if key in self.regions:
            self.cache.changed[key] = None

    # -- records

    @property
    def has_room(self) -> bool:
        """Take host writes. When False, `on_room` says when to look again."""
        return self.cache.dirty_bytes < self.cache.max_bytes and not self.journal.is_crowded

    def _room(self) -> None:
        if self.on_room is not None and self.has_room:
            self.on_room()

    def append(self, record: Record, header: bytes, token: object) -> int:
        """Journal a record that was given its place in the sequence. Its lsn. The token comes back
        by the journal's on_journalled. The lsn is remembered until `apply` or `truncate`."""
        region = self.regions[record.volume, record.region]
        lsn = self.journal.append_operation(header, record.data, token)
        region.pending[record.seq] = lsn
        region.unapplied[record.seq] = record
        self.uncommitted[lsn] = None
        return lsn

    def apply(self, record: Record) -> None:
        """Carry out a committed record that was appended before. InvalidRequest when it is not
        whole sectors within the region; the I/O path has checked that."""
        key = (record.volume, record.region)
        region = self.regions[key]
        lsn = region.pending.pop(record.seq)
        del region.unapplied[record.seq]
        del self.uncommitted[lsn]
        cache = self.cache
        if record.cow_into:
            region.keep(record, lsn)
        region.apply(record, lsn)
        region.applied_seq = record.seq
        region.applied_epoch = record.epoch
        self.unnoted[key] = None
        if lsn > self._applied_lsn:
            self._applied_lsn = lsn
        if cache.dirty_bytes >= cache.high_bytes:
            self.destager.kick()

    def truncate(self, key: Key, from_seq: int) -> None:
        """Journal that records of the region from there on are void."""
        region = self.region(key)
        for seq in [seq for seq in region.pending if seq >= from_seq]:
            self.uncommitted.pop(region.pending.pop(seq), None)
            del region.unapplied[seq]
        self.cache.changed[key] = None
        self.journal.append_note(TruncateNote(key[0], key[1], from_seq))

    def note_commit_points(self, points: tuple[tuple[int, int, int, int, int], ...]) -> None:
        """Journal (volume, region, epoch, committed, committed epoch) that no record will carry
        soon. Costs nothing to lose: the core finds commit points again by its protocol."""
        self.journal.append_note(CommitNote(points))

    def _take_points(self) -> tuple[tuple[int, int, int, int, int], ...]:
        keys, self.unnoted = self.unnoted, {}
        regions = self.regions
        return tuple(
            (key[0], key[1], (region := regions[key]).applied_epoch, region.applied_seq,
             region.applied_epoch)
            for key in keys
        )  # fmt: skip

    # -- what is allocated

    def allocation(self, key: Key) -> list[tuple[int, int, bool]]:
        """(offset, length, allocated) in bytes, ascending, without gaps."""
        return self.region(key).runs()

    def page_bitmap(self, key: Key) -> bytes:
        """Allocated pages, bit 0 of byte 0 is page 0, always of the region's full length."""
        region = self.region(key)
        return region.bitmap() or bytes((region.pages + 7) // 8)

    # -- state transfer

    def pages_since(self, key: Key, seq: int, suspects: bytes) -> bytes:
        """At the owner: bitmap of the allocated pages that a record behind `seq` touched, or that
        are among the suspects of the joiner."""
        region = self.region(key)
        wanted = region.changed_since(seq)
        if suspects:
            wanted = wanted | bools_of(suspects, region.pages)
        return bits_of(wanted & region.allocated())

    def page_seqs(self, key: Key, pages: list[int]) -> tuple[int, ...]:
        """The last record that touched each of those pages."""
        region = self.region(key)
        if region.states is None:
            return (0,) * len(pages)
        seqs = region.seqs
        return tuple(seqs[page] for page in pages)

    def suspects(self, key: Key) -> bytes:
        """At an incomplete joiner: bitmap of pages that may be other than at the record since which
        a transfer was to bring what changed."""
        return bits_of(self.region(key).suspects())

    def suspects_of(self, key: Key, allocated: bytes, wanted: bytes) -> bytes:
        """At a joiner: bitmap of the pages that a transfer by delta must bring or make holes of."""
        return self.region(key).suspects_of(allocated, wanted)

    def begin_transfer(self, note: TransferBeginNote) -> None:
        """Take the stream on top of the note's base; see `IncomingPages.begin`."""
        self._incoming.begin(note)

    async def transfer_pages(
        self, key: Key, session: int, pages: tuple[int, ...], data: memoryview,
        seqs: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """Received pages; see `IncomingPages.write`."""
        await self._incoming.write(key, session, pages, data, seqs)

    def begin_views(self, key: Key, session: int, as_of: int) -> None:
        """What snapshots have begins to come; see `IncomingViews.begin`."""
        self._incoming.views.begin(key, session, as_of)

    async def transfer_views(
        self, key: Key, session: int, entries: list[Entry], data: memoryview,
        stale: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Received exceptions; see `IncomingViews.write`."""
        await self._incoming.views.write(key, session, entries, data, stale)

    async def end_transfer(self, key: Key, session: int) -> None:
        """The region is complete and synced when it returns; see `IncomingPages.end`."""
        await self._incoming.end(key, session)

    # -- checkpoint

    async def checkpoint(self) -> None:
        """Take one and trim the journal. DeviceFailed, NoSpace: the node must stop."""
        async with self._checkpoint_lock:
            self._begun += 1
            self.cache.wants_checkpoint = False
            trim_lsn = self._trim_point()
            stamp = self.destager.next_stamp()
            changed = list(self.cache.changed)
            freed: list[tuple[RegionPages, int, int]] = []
            left, self._left = self._left, []
            self._noted.clear()
            for start in range(0, len(changed), SLICE):
                if start:
                    await self.clock.sleep(0)
                for key in changed[start : start + SLICE]:
                    self._note_region(key, freed)
            payload = self._pack(self.journal.lives.trimmed(trim_lsn), trim_lsn)
            applied_lsn = max(self._applied_lsn, self.destager.fill_lsn, self.journal.written_lsn)
            await self.shelf.sync()
            # What is noted as committed must not be lost from the journal by a power cut. Entries
            # that wait for room are none of it.
            await self.journal.synced(applied_lsn)
            await self.slots.store(payload)
            for kept in self._noted:
                kept.settled()
            for kept, extents, lock in left:
                if lock is not None:
                    async with lock:  # what a transfer has on its way there arrives before
                        pass
                kept.views.space.give_back(extents)
            self.destager.noted(stamp)
            self.journal.trim(trim_lsn)
            self._room()
            self._checkpoints += 1
            self._last_checkpoint_ns = self.clock.now_ns()
            await self._discard(freed)

    async def checkpoint_again(self) -> None:
        """One that was begun after the call is on disk when it returns; many may wait for one."""
        wanted = self._begun + 1
        async with self._checkpoint_again:
            if self._begun < wanted:
                await self._checkpoint_or_fail()

    def put_repaired(self, key: Key, index: int, mask: int, page: Buffer) -> None:
        """Sectors of a page that another node gave back, as all records applied here left them.
        They go the way of everything: journal, cache, disk. The caller holds the destager."""
        region = self.region(key)
        dirty = region.dirty.get(index)
        missing = mask if dirty is None else mask & ~dirty.mask
        bits = missing.to_bytes((missing.bit_length() + 7) // 8, "little")
        note = FillNote(*key, index, True, bits, take_sectors(page, missing))
        lsn = self.destager.fill_lsn = self.journal.append_note(note)
        if dirty is None:
            dirty = self.cache.new_page(region, index, lsn)
        elif dirty.sealed is not None:
            self.cache.unseal(dirty)
        region.fill(dirty, missing, note.sectors)
        self.destager.kick()

    async def _checkpoint_or_fail(self) -> None:
        try:
            await self.checkpoint()
        except StorageError as error:
            self.on_failure(error)
            raise

    async def _discard(self, freed: list[tuple[RegionPages, int, int]]) -> None:
        """Give pages back that the checkpoint, which is synced now, has as holes. A hint: those
        beyond the bound just keep their space."""
        for number, (region, first, count) in enumerate(freed[:DISCARDS_MAX]):
            if number % 64 == 63:
                await self.clock.sleep(0)
            states = region.states
            found = self.regions.get(region.key)
            if found is not region or states is None or not found.may_discard():
                continue
            if states.count(HOLE, first, first + count) == count:
                at = region.base + first * region.page_bytes
                self.shelf.discard(region.plans, at, count * region.page_bytes)

    def _trim_point(self) -> int:
        lsn = self.journal.next_lsn
        if self.uncommitted:
            lsn = min(lsn, next(iter(self.uncommitted)))
        for page in self.cache.live_pages():
            oldest = page.oldest if page.sealed is None else page.sealed.oldest
            if oldest < lsn:
                lsn = oldest
        return min(lsn, *self.done.values()) if self.done else lsn

    def _note_region(self, key: Key, freed: list[tuple[RegionPages, int, int]]) -> None:
        """Bitmap and core state of one instant."""
        region = self.regions.get(key)
        if region is None or key not in self.cache.changed:
            return
        del self.cache.changed[key]
        state, applied = self.region_state(key), region.applied_seq
        incomplete = region.session != COMPLETE
        kept, bitmap = region.kept, region.disk_bitmap()
        if kept is not None and not (kept.missing or kept.filling):
            bitmap = kept.base_bitmap(bitmap)
            self._noted.append(kept)
        entry = RegionEntry(
            region.session,
            state,
            bitmap,
            applied,
            pack_seqs(region.seqs, applied),
            region.since if incomplete else (0, 0),
            region.suspect if incomplete else b"",
            region.sums.pack(),
            self.journal.next_lsn,
            kept.pack() if kept is not None else b"",
        )
        self.entries[key] = pack_region(key, entry)
        if region.freed:
            freed += [(region, first, count) for first, count in region.freed_runs()]

    def _pack(self, lives: Lives, trim_lsn: int) -> bytes:
        return pack_payload(Checkpoint(lives, trim_lsn, self.shelf.failed_disks, self.entries))

    def _unpin(self) -> None:
        """Ask for an end of records that wait for their commit while the journal fills up. Long
        before it is full: what ends them is a note, and needs room in it."""
        journal = self.journal
        limit = journal.next_lsn - journal.capacity_bytes // PINNED_PART
        if self.on_pinned is None or next(iter(self.uncommitted), limit) >= limit:
            return
        pinned = [
            key
            for key, region in self.regions.items()
            if region.pending and next(iter(region.pending.values())) < limit
        ]
        for key in pinned:
            self.on_pinned(key)

    def start(self) -> None:
        """Begin to destage and to take checkpoints; after `recover`, when the core is there."""
        self._last_checkpoint_ns = self.clock.now_ns()
        self._supervisor.start(self.destager.run(), name="destage")
        self._supervisor.start(self._checkpoint_loop(), name="checkpoint")

    async def _checkpoint_loop(self) -> None:
        options = self._options
        while True:
            journal = self.journal
            soon = journal.used_percent >= options.checkpoint_journal_percent // 2
            await self.clock.sleep(min(options.checkpoint_ms, 50 if soon else 200) / 1000)
            age_ms = (self.clock.now_ns() - self._last_checkpoint_ns) // NS_PER_MS
            if soon:
                self._unpin()
            if journal.used_percent >= options.checkpoint_journal_percent:
                advance = self._trim_point() - journal.trimmed_lsn
                due = journal.is_full or advance >= journal.capacity_bytes // 16
                # The page that keeps the trim point where it is may wait for just this.
                due = due or self.cache.wants_checkpoint
            else:
                # A large one is written less often: it must not take the disks from hosts.
                pause_ms = max(options.checkpoint_ms, self.slots.size_bytes // BYTES_PER_MS)
                due = age_ms >= pause_ms and bool(self.cache.changed)
            if not due:
                continue
            try:
                await self.checkpoint()
            except StorageError as error:
                self.on_failure(error)
                return

    async def close(self) -> None:
        """Orderly stop: destage everything and take a checkpoint, so that the next start has
        nothing to replay. The caller has stopped host I/O and then closes the devices."""
        await self.drain()
        await self.checkpoint()

    async def drain(self) -> None:
        """Destage all that is dirty now, whatever the pace. Stops at an error of a disk."""
        idle = 0
        while self.cache.pages:
            errors, done = self.destager.errors, self.destager.progress
            while await self.destager.turn():
                pass
            idle = idle + 1 if self.destager.progress == done else 0
            if self.destager.errors != errors or (idle > 1 and not self.cache.is_paused):
                return  # what waits for a record that is not committed yet stays in the journal
            if not self.cache.pages:
                return
            if self.journal.is_full:
                await self.checkpoint()
            else:
                lsn, stamp = self.destager.append_note()
                await self.journal.synced(lsn)
                self.destager.noted(stamp)

    def statistics(self) -> StoreStatistics:
        """A snapshot."""
        return StoreStatistics(
            self.cache.statistics(),
            self.journal.statistics(),
            len(self.regions),
            len(self.uncommitted),
            self._checkpoints,
            self.slots.size_bytes,
            self.destager.errors,
            tuple(self.shelf.failed_disks),
        )

    # -- recovery

    async def recover(
        self, place_of: Callable[[Key], RegionPlace | None]
    ) -> dict[Key, RecoveredRegion]:
        """Open what an earlier life left; see `node.store_recovery`."""
        return await store_recovery.recover(self, place_of)
