"""shell: a store is opened again: checkpoint, replay, and what of each region is left.

Replay does to the pages what was done to them, in the same order, but for two things. Of a page
that a later transfer brought only the transfer counts: the bytes that came are on disk, and older
ones must not be written over them. And what an unfinished transfer had let through is only marked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import structlog

from base.errors import DeviceFailed
from node.checkpoint import (
    INCOMPLETE,
    Checkpoint,
    Key,
    RegionEntry,
    pack_payload,
    pack_region,
    unpack_region,
)
from node.journal_format import ENTRY_BYTES, KeptNote, Lives, TransferBeginNote
from node.page_seqs import bools_of, unpack_seqs
from node.recovery import Action, RecoveredRegion, Replay, Step, Survey
from node.region_pages import ABSENT, DISK, HOLE, RegionPlace
from node.stored_region import StoredRegion

if TYPE_CHECKING:
    from node.region_store import RegionStore

log = structlog.get_logger()


async def recover(
    store: RegionStore, place_of: Callable[[Key], RegionPlace | None]
) -> dict[Key, RecoveredRegion]:
    """Open what an earlier life left, and begin a new life of the journal. Once, before anything
    else. place_of: from the catalog; None: the region is not here any more.

    DeviceFailed when a device does not answer or the store is damaged. A crash in here changes
    nothing: the next start does it all again.
    """
    checkpoint = await store.slots.load()
    if checkpoint is None:
        await _require_blank(store)
        checkpoint = Checkpoint(Lives([(0, 0)]))
    for disk in checkpoint.failed_disks:
        store.shelf.set_failed(disk, True)
    known: dict[Key, RegionEntry] = {}
    places: dict[Key, RegionPlace | None] = {}
    for key, packed in checkpoint.entries.items():
        places[key] = place_of(key)
        if places[key] is not None:
            known[key] = unpack_region(packed)[1]
    survey = Survey(known)
    end = checkpoint.trim_lsn
    async for entries, behind in store.journal.recover(end, checkpoint.lives):
        survey.take(entries)
        end = behind
    # From here on replayed pages may be destaged: what they come from must be on the medium.
    await store.journal.make_durable(checkpoint.trim_lsn, end)
    # The new life is noted before it writes: entries that lie behind `end` now, left by a power
    # cut that took one before them, must never count.
    lives = checkpoint.lives.begin(end)
    checkpoint.lives = lives
    _note_no_further(checkpoint, end)
    await store.slots.store(pack_payload(checkpoint))
    store.journal.start(end, checkpoint.trim_lsn, lives)
    store.cache.noted = store.cache.stamp  # replayed pages: all that they need is synced
    replay = Replay(survey, known)
    for key in replay.regions:
        place = places[key] if key in places else place_of(key)
        if place is not None:
            region = store.regions[key] = store.made_region(key, place)
            _load(region, replay.first(key, known))
            region.sums.load(replay.first_sums(key))
            views = replay.views(key, known)
            if views is None:
                store.lose_views(region)
            elif views and (kept := region.kept_pages()) is not None:
                kept.load_packed(views)
            store.cache.changed[key] = None
            if key in known:
                store.entries[key] = checkpoint.entries[key]
    store.cache.replaying = True
    await _replay(store, replay, checkpoint.trim_lsn, end)
    store.cache.replaying = False
    store.cache.stamp += 1
    for region in store.regions.values():
        if region.kept is not None:
            region.kept.settle()
    return _recovered(store, replay)


def _note_no_further(checkpoint: Checkpoint, end: int) -> None:
    """A checkpoint counts entries that were still waiting to be written as noted. Those that the
    crash took are gone, and the new life gives their lsns to entries of which the checkpoint knows
    nothing: their checksums and commit points must count."""
    for key, packed in checkpoint.entries.items():
        entry = unpack_region(packed)[1]
        if entry.noted > end:
            checkpoint.entries[key] = pack_region(key, replace(entry, noted=end))


async def _require_blank(store: RegionStore) -> None:
    """No checkpoint is right only when the journal was never written: it is a new store."""
    head = memoryview(bytearray(ENTRY_BYTES))
    await store.journal.read_raw(0, head)
    if any(head):
        raise DeviceFailed("no checkpoint can be read, but the journal has entries")
    store.is_blank = True


def _load(region: StoredRegion, entry: RegionEntry) -> None:
    seqs = unpack_seqs(entry.seqs, entry.applied) if entry.seqs else None
    region.load(entry.bitmap, seqs)
    region.since, region.suspect = entry.since, entry.suspect


async def _replay(store: RegionStore, replay: Replay, trim_lsn: int, end: int) -> None:
    high_bytes = store.cache.high_bytes
    async for entries, _ in store.journal.recover(trim_lsn, store.journal.lives, check=False):
        for entry in entries:
            if entry.lsn >= end:
                return
            step = replay.take(entry)
            if step is None:
                continue
            region = store.regions.get(step.key)
            if region is None:
                continue
            _carry_out(region, step, entry.lsn)
            # It must not fill the memory. Pages of which a block is there in part stay until all is
            # replayed; so do those of a dead disk, and the region says so later.
            while store.cache.dirty_bytes >= high_bytes:
                errors = store.destager.errors
                if not await store.destager.turn() or store.destager.errors != errors:
                    high_bytes = store.cache.dirty_bytes + store.cache.high_bytes // 8


def _carry_out(region: StoredRegion, step: Step, lsn: int) -> None:
    record = step.record
    if step.action is Action.APPLY:
        assert record is not None
        if record.cow_into:
            region.keep(record, lsn)
        region.apply(record, lsn)
        if step.later:
            _keep_received(region, step)
    elif step.action is Action.MARK:
        assert record is not None
        region.mark(record)
    elif step.action is Action.TRANSFER:
        assert step.note is not None
        _transfer(region, step.note, step.done)
    elif step.action is Action.FILL:
        assert step.fill is not None
        region.refill(step.fill, lsn)
    elif step.action is Action.VIEWS:
        _views(region, step)
    elif step.seqs:
        region.load_seqs(unpack_seqs(step.seqs[1], step.seqs[0]))


def _views(region: StoredRegion, step: Step) -> None:
    kept = region.kept_pages()
    if kept is None or kept.missing:
        return
    if isinstance(step.views, KeptNote):
        kept.complete_from(step.views)
    elif step.views is not None:
        kept.remove_view(step.views.view, step.views.older)


def _keep_received(region: StoredRegion, step: Step) -> None:
    """Of the pages that the record touched, forget those that a later transfer brought."""
    assert step.record is not None
    assert region.states is not None
    for index in region.touched_by(step.record):
        if any(suspect[index >> 3] >> (index & 7) & 1 for suspect in step.later):
            region.forget((index,))
            region.states[index] = HOLE  # until the transfer says what it is


def _transfer(region: StoredRegion, note: TransferBeginNote, done: bool) -> None:
    region.begin_transfer(note.bitmap, bools_of(note.suspect, region.pages))
    region.since, region.suspect = note.since, note.suspect
    region.touched = None
    if done:
        assert region.states is not None
        states = np.frombuffer(region.states, dtype=np.uint8)
        region.states = bytearray(np.where(states == ABSENT, DISK, states).astype(np.uint8))


def _give_up_suspects(region: StoredRegion, some: bool) -> None:
    """Of an incomplete copy keep only what is sure: of the other pages the disks may hold bytes
    that nothing here knows of, so neither what the cache has nor the checksums go with them."""
    if not some:
        region.clear()
        region.since, region.suspect = (0, 0), b""
        return
    suspects = region.suspects()
    region.sums.forget_pages(suspects)
    if region.states is not None:
        for index in np.flatnonzero(suspects).tolist():
            if index in region.dirty:
                region.forget((index,))
                region.states[index] = HOLE


def _recovered(store: RegionStore, replay: Replay) -> dict[Key, RecoveredRegion]:
    found: dict[Key, RecoveredRegion] = {}
    for key, recovered in replay.regions.items():
        region = store.regions.get(key)
        if region is None:
            continue
        found[key] = recovered
        if recovered.complete:
            region.now_complete()
        else:
            region.session = INCOMPLETE
            _give_up_suspects(region, bool(recovered.since[0]))
        region.applied_seq = recovered.committed
        region.applied_epoch = recovered.committed_epoch
        for record, lsn in recovered.tail:
            region.pending[record.seq] = lsn
            region.unapplied[record.seq] = record
    lsns = [lsn for region in store.regions.values() for lsn in region.pending.values()]
    store.uncommitted = dict.fromkeys(sorted(lsns))
    log.info(
        "store.recovered",
        regions=len(found),
        incomplete=sum(not each.complete for each in found.values()),
        dirty_bytes=store.cache.dirty_bytes,
        replayed=sum(len(each.replayed) for each in found.values()),
        tail=len(lsns),
    )
    return found
