"""shell: a state transfer at the joiner, as its store sees it: begun, pages written, ended.

A crash at any point leaves a copy that says of itself that it is incomplete, and of which pages it
can still be sure. The order of things: the note of the beginning is synced before the first page is
written over what was there; pages and disks are synced before the note of the end is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from base.errors import InvalidRequest
from node.cache import mask_runs
from node.checkpoint import Key
from node.incoming_views import IncomingViews
from node.journal_format import TransferBeginNote, TransferDoneNote
from node.page_seqs import bools_of, pack_seqs
from node.stored_region import StoredRegion

if TYPE_CHECKING:
    from node.region_store import RegionStore


class IncomingPages:
    """Transfers into the regions of one store."""

    def __init__(self, store: RegionStore) -> None:
        self._store = store
        self.views = IncomingViews(store)

    def begin(self, note: TransferBeginNote) -> None:
        """Take the stream on top of the note's base from now on. An older session that still runs
        is over. Without suspects in the note the region is emptied; else only they are."""
        store = self._store
        key = (note.volume, note.region)
        region = store.region(key)
        store.forget(region)
        store.lose_views(region)
        if note.suspect:
            wanted = bools_of(note.suspect, region.pages)
        else:
            region.clear()
            wanted = np.ones(region.pages, dtype=np.bool_)
        region.begin_transfer(note.bitmap, wanted)
        region.sums.forget_pages(wanted)
        region.session = note.session
        region.since, region.suspect = note.since, note.suspect
        region.applied_seq, region.applied_epoch = note.base_seq, note.base_epoch
        region.lock = region.lock or asyncio.Lock()
        region.begun_lsn = store.journal.append_note(note)
        store.cache.changed[key] = None

    async def write(
        self, key: Key, session: int, pages: tuple[int, ...], data: memoryview,
        seqs: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Write received pages, each whole, in that order, without the sectors that the stream has
        written since the transfer began. seqs: of each, the last record that touched it; none where
        they are not known. Repeats do nothing. Returns when the pages are written.

        InvalidRequest: another session runs, or the data has another length.
        """
        store = self._store
        region = self._session(key, session)
        page_bytes = region.page_bytes
        if (
            len(data) != len(pages) * page_bytes
            or (seqs and len(seqs) != len(pages))
            or any(not 0 <= page < region.pages for page in pages)
        ):
            raise InvalidRequest(f"{len(pages)} pages do not match {len(data)} bytes")
        assert region.lock is not None
        async with region.lock:
            # A power cut must not leave new pages under a region that looks like the old one.
            if region.begun_lsn > store.journal.synced_lsn:
                await store.journal.synced()
            # What the old contents had on its way to these disks must not arrive after the new.
            async with store.destager.hold():
                pass
            self._session(key, session)
            await self._write(region, session, pages, data, seqs)

    async def _write(
        self,
        region: StoredRegion,
        session: int,
        pages: tuple[int, ...],
        data: memoryview,
        seqs: tuple[int, ...],
    ) -> None:
        page_bytes, shelf = region.page_bytes, self._store.shelf
        for number, index in enumerate(pages):
            mask = region.untouched(index)
            if not mask:
                continue
            page, mask = region.received(
                index, data[number * page_bytes : (number + 1) * page_bytes], mask
            )
            whole = memoryview(page)
            at = region.base + index * page_bytes
            region.transferring[index] = None
            try:
                for start, count in mask_runs(mask):
                    part = (whole[start : start + count],)
                    if not shelf.write_now(region.plans, at + start, part):
                        await shelf.write(region.plans, at + start, part)
                        self._session(region.key, session)
            finally:
                del region.transferring[index]
            region.sums.wrote(index * page_bytes, page, mask)
            region.page_received(index, seqs[number] if seqs else region.applied_seq)
        self._store.cache.changed[region.key] = None

    def _session(self, key: Key, session: int) -> StoredRegion:
        region = self._store.region(key)
        if region.session != session or session <= 0:
            raise InvalidRequest(
                f"volume {key[0]} region {key[1]}: transfer session {session} does not run here"
            )
        return region

    async def end(self, key: Key, session: int) -> None:
        """The region is complete and synced when it returns. InvalidRequest when another session
        runs, or when pages of the base have neither been received nor trimmed."""
        store = self._store
        region = self._session(key, session)
        assert region.lock is not None
        async with region.lock:
            missing = region.absent_pages()
            if missing:
                raise InvalidRequest(
                    f"volume {key[0]} region {key[1]}: {missing} pages of the base are missing"
                )
            doubts = region.sums.doubts_written
            await store.shelf.sync()
        # Not within the lock: a checkpoint waits for it before it gives extents to others.
        has_views = await self.views.end(key, session)
        async with region.lock:
            self._session(key, session)
            # What was destaged meanwhile the journal makes again, but for blocks that a checkpoint
            # has doubted; and the note says what their checksums are.
            while doubts != region.sums.doubts_written:
                doubts = region.sums.doubts_written
                await store.shelf.sync()
                self._session(key, session)
            # Pages that the stream has trimmed or filled were not received. So what was applied
            # must be known as committed wherever the end of the transfer is.
            _, stamp = store.destager.append_note()
            applied = region.applied_seq
            note = TransferDoneNote(
                key[0], key[1], session, applied, pack_seqs(region.seqs, applied),
                region.sums.pack(), has_views,
            )  # fmt: skip
            store.done[key] = store.journal.append_note(note)
            await store.journal.synced()
            store.destager.noted(stamp)
            self._session(key, session)
            store.done.pop(key, None)
            region.now_complete()
            store.cache.changed[key] = None
