"""shell: what snapshots have of a region, as a joiner's store receives it behind the pages.

Nothing is journalled but the end: pages go to disk where the region's tables say, and a checkpoint
has the tables before the note of the end is written. A crash before that leaves an incomplete copy,
of which no view counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.errors import InvalidRequest
from node.checkpoint import Key
from node.kept_pages import KeptPages
from node.stored_region import StoredRegion
from node.view_batches import Entry
from snapshot.entry import PAGE

if TYPE_CHECKING:
    from node.region_store import RegionStore

ROOM_S = 0.05
ROOM_LOOKS_MAX = 60


class IncomingViews:
    """Of all transfers into the regions of one store."""

    def __init__(self, store: RegionStore) -> None:
        self._store = store

    def begin(self, key: Key, session: int, as_of: int) -> None:
        """Every page of the base is here. Records behind `as_of` keep what they take from snapshots
        from now on; what earlier ones took comes. InvalidRequest: another session runs."""
        region = self._running(key, session)
        if region.keep_after >= 0:
            return  # a repeat
        region.keep_after = as_of
        if region.kept is not None:
            region.kept.missing = False
            region.kept.filling = True

    async def write(
        self, key: Key, session: int, entries: list[Entry], data: memoryview,
        stale: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Put received exceptions in place of those that were kept meanwhile. data: a page for each
        that has one. Returns when the pages are written. InvalidRequest: another session runs, or
        there is nowhere to keep them."""
        region = self._running(key, session)
        assert region.lock is not None
        async with region.lock:
            kept = self._kept(key, session)
            if kept is None:
                if entries or stale:
                    raise InvalidRequest(
                        f"volume {key[0]} region {key[1]}: this node has no snapshot space"
                    )
                return
            at = 0
            for view, page, kind in entries:
                if kind != PAGE:
                    kept.put_received(view, page, None)
                    continue
                whole = data[at : at + kept.page_bytes]
                at += kept.page_bytes
                await self._room(kept)
                kept = self._kept(key, session)
                assert kept is not None
                number = kept.put_received(view, page, whole)
                if number is not None:
                    await self._write(kept, number, whole)
                    kept = self._kept(key, session)
                    assert kept is not None
            for view in stale:
                kept.views.lose(view)

    async def _room(self, kept: KeptPages) -> None:
        """Wait a while for space that the catalog is to give: without it a view goes stale."""
        for _ in range(ROOM_LOOKS_MAX):
            if kept.views.has_room():
                return
            await self._store.clock.sleep(ROOM_S)

    async def _write(self, kept: KeptPages, number: int, whole: memoryview) -> None:
        offset = kept.base + number * kept.page_bytes
        if not self._store.shelf.write_now(kept.plans, offset, (whole,)):
            await self._store.shelf.write(kept.plans, offset, (whole,))

    def _kept(self, key: Key, session: int) -> KeptPages | None:
        region = self._running(key, session)
        if region.views_whole:
            raise InvalidRequest(f"volume {key[0]} region {key[1]}: all snapshots have come before")
        kept = region.kept_pages()
        if kept is not None and region.keep_after >= 0:
            kept.missing, kept.filling = False, True
        return kept

    def _running(self, key: Key, session: int) -> StoredRegion:
        region = self._store.region(key)
        if region.session != session or session <= 0:
            raise InvalidRequest(
                f"volume {key[0]} region {key[1]}: transfer session {session} does not run here"
            )
        return region

    async def end(self, key: Key, session: int) -> bool:
        """Make what came survive a power cut, when the disks are synced already. Whether anything
        came, or was kept meanwhile. InvalidRequest: another session runs."""
        region = self._running(key, session)
        kept = region.kept
        region.views_whole = True
        if kept is None:
            return False
        if region.keep_after < 0:
            raise InvalidRequest(f"volume {key[0]} region {key[1]}: no snapshots have come")
        kept.ended_filling()
        if not kept.views.tables:
            return False
        self._store.cache.changed[key] = None
        await self._store.checkpoint_again()
        self._running(key, session)
        return True
