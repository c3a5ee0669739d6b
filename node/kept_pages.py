"""plan: pages of the snapshot space of one region: what a write takes from a snapshot is kept here.

A record with `cow_into` makes, before it is applied, a *kept page* for each page that the snapshot
is owed: a dirty page of the cache whose place is in the snapshot space. It takes what the cache has
of the old contents. What only the disk has it *lacks*, and as long as it does, the base's page is
held back from the disk. The destager completes it (`node.destage`), with a note in the journal.

Kept pages never change once they are complete, and go to disk whole. Why a crash at any point is
harmless: docs/decisions/0016-copied-out-pages-belong-to-their-region.md.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import numpy as np

from base.device import Buffer
from base.errors import InvalidRequest
from base.units import BLOCK_BYTES, SECTOR_BYTES
from node.cache import Page
from node.journal_format import KeptNote
from node.page_checksums import BlockSums
from node.region_pages import FRESH, HOLE, ExtentPlans, RegionPages, RegionPlace
from node.region_views import RegionViews
from node.snapshot_space import SnapshotSpace
from transport.operation import Record

_LENGTH: Final = struct.Struct("<I")
_MISSING: Final = b"\0"


class ViewLine(NamedTuple):
    """Views of a volume by the catalog of this node. alive: snapshots that something may be kept
    for, ascending: those that are being removed are not among them. highest: of all numbers that
    were given; what is not higher and not alive is gone."""

    highest: int
    alive: tuple[int, ...]


def _nothing_gone() -> ViewLine:
    return _ALL_ALIVE


_ALL_ALIVE: Final = ViewLine(0, ())


def _not_noted(_view: int, _older: int) -> None:
    pass


class SnapshotPlace(NamedTuple):
    """The snapshot data space of a region's provisioning group on this node, and who has what.
    line(): the views of the region's volume; the same object while nothing has changed."""

    plans: ExtentPlans
    space: SnapshotSpace
    line: Callable[[], ViewLine] = _nothing_gone


class KeptSums(BlockSums):
    """As BlockSums, for few pages of a large space. Of a page all blocks are known or none is."""

    __slots__ = ("_pages",)

    def __init__(self, key: tuple[int, int], page_bytes: int) -> None:
        super().__init__(key, 0, page_bytes)
        self._pages: dict[int, array[int]] = {}

    def is_right(self, offset: int, data: memoryview) -> bool:
        """Whether whole blocks, read at `offset`, are all as they must be."""
        return not self.wrong_blocks(offset, data)

    def wrong_blocks(self, offset: int, data: memoryview) -> list[int]:
        """Of whole blocks, read at `offset`, those that are not as they must be; ascending."""
        wrong: list[int] = []
        first = offset // BLOCK_BYTES
        for number in range(len(data) // BLOCK_BYTES):
            page, at = divmod(first + number, self._page_blocks)
            want = self._pages.get(page)
            part = bytes(data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
            if want is not None and self.of(first + number, part) != want[at]:
                wrong.append(first + number)
        return wrong

    def wrote(self, offset: int, data: Buffer, mask: int) -> None:
        """The page at `offset` is on disk, whole."""
        first = offset // BLOCK_BYTES
        self._pages[first // self._page_blocks] = array(
            "I",
            [
                self.of(first + number, bytes(data[number * BLOCK_BYTES :][:BLOCK_BYTES]))
                for number in range(self._page_blocks)
            ],
        )

    def forget(self, page: int) -> None:
        """Whatever is there is taken."""
        self._pages.pop(page, None)

    def clear(self) -> None:
        """Nothing is known."""
        self._pages.clear()

    def pack_pages(self, pages: Iterable[int]) -> bytes:
        """Of those pages, which are all on disk."""
        return b"".join(np.asarray(self._pages[page], "<u4").tobytes() for page in pages)

    def load_pages(self, pages: list[int], packed: bytes) -> None:
        """Inverse of `pack_pages`. InvalidRequest when there are not as many."""
        if len(packed) != 4 * self._page_blocks * len(pages):
            raise InvalidRequest(f"{len(packed)} bytes are no checksums of {len(pages)} pages")
        values = np.frombuffer(packed, "<u4").astype(np.uint32).reshape(-1, self._page_blocks)
        self._pages = {
            page: array("I", row.tobytes()) for page, row in zip(pages, values, strict=True)
        }


class _Kept(NamedTuple):
    """Of a kept page that is not on disk: whose it is. was_on_disk: what the base's page was."""

    view: int
    page: int
    was_on_disk: bool


class KeptPages(RegionPages):
    """What snapshots keep of the pages of `owner`. Indexes of pages are those of the space.

    lacking: kept pages that lack something of the disk, by page of the owner. stamp: the cache's
    stamp when one was completed last. unnoted: pages of the owner that must not be overwritten
    before a checkpoint is on disk. missing: a state transfer brings another copy, and has not come
    to its snapshots: nothing is kept, and no view can be read here. filling: it brings them.
    """

    __slots__ = (
        "_kept_of", "_line", "_line_of", "_note_removed", "_noting", "_received", "_settled",
        "filling", "lacking", "missing", "owner", "stamp", "unnoted", "views",
    )  # fmt: skip

    keeps = True
    sums: KeptSums

    def __init__(
        self,
        owner: RegionPages,
        place: SnapshotPlace,
        note_removed: Callable[[int, int], None] = _not_noted,
    ) -> None:
        """note_removed(view, older): the view's exceptions went to the older one."""
        page_bytes = owner.page_bytes
        super().__init__(owner.key, RegionPlace(0, page_bytes, place.plans, 0), owner.cache)
        self.sums = KeptSums(owner.key, page_bytes)
        self.owner = owner
        self.views = RegionViews(owner.pages, place.space)
        self._line_of = place.line
        self._line = self._settled = _ALL_ALIVE
        self._note_removed = note_removed
        self.lacking: dict[int, list[Page]] = {}
        self.unnoted: dict[int, None] = {}
        self._noting: dict[int, None] = {}
        self._kept_of: dict[int, _Kept] = {}
        self.stamp = 0
        self.missing = self.filling = False
        self._received: dict[tuple[int, int], None] = {}  # (view, page), while it is being filled

    def keep(self, record: Record, lsn: int) -> None:
        """What the record is about to take from the snapshot that it names. One that is not whole
        sectors of the region takes nothing."""
        if self.missing:
            return
        owner, views = self.owner, self.views
        self.settle()
        view = self.charged(record.cow_into)
        if not view:
            return
        end = record.offset + record.length
        if (record.offset | end) & (SECTOR_BYTES - 1) or end > owner.pages * owner.page_bytes:
            return
        states = owner.states
        for index in owner.touched_by(record):
            if not views.owes(view, index):
                continue
            self.cache.changed[self.key] = None
            if states is None or states[index] == HOLE:
                views.put_zero(view, index)
                continue
            number = views.put_page(view, index)
            if number is None:
                self.lose(view, index)
                continue
            self.sums.forget(number)
            page = self.cache.new_page(self, number, lsn)
            dirty = owner.dirty.get(index)
            if dirty is not None:
                page.data[:] = dirty.data
                page.mask = dirty.mask
                page.oldest = min(lsn, dirty.oldest)
            self._kept_of[number] = _Kept(view, index, states[index] != FRESH)
            if page.mask != self.full_mask:
                self.lacking.setdefault(index, []).append(page)
                owner.transferring[index] = None

    def lose(self, view: int, index: int) -> None:
        """The view is no point in time any more. Before a checkpoint says so the page must stay:
        else a replay could keep what is there by then."""
        self.views.lose(view)
        self.cache.changed[self.key] = None
        self.hold_until_noted(index)

    def hold_until_noted(self, index: int) -> None:
        """The place of the base's page must stay as it is until a checkpoint is on disk."""
        self.unnoted[index] = None
        self.owner.transferring[index] = None
        self.cache.wants_checkpoint = True
        self.cache.changed[self.key] = None

    # -- completing

    def page_of(self, number: int) -> int:
        """The page of the owner that is kept there and is not on disk yet."""
        return self._kept_of[number].page

    def wanted(self, index: int) -> int:
        """Sectors of a page of the owner that some kept page lacks."""
        mask = 0
        for page in self.lacking.get(index, ()):
            mask |= self.full_mask & ~page.mask
        return mask

    def complete(self, index: int, views: Iterable[int], mask: int, sectors: Buffer) -> None:
        """Give the kept pages of these views the sectors that they lack."""
        left = []
        wanted = dict.fromkeys(views)
        for page in self.lacking.get(index, ()):
            if self._kept_of[page.index].view in wanted:
                self.fill(page, mask, sectors)
            if page.mask != self.full_mask:
                left.append(page)
        self._left(index, left)

    def _left(self, index: int, left: list[Page]) -> None:
        if left:
            self.lacking[index] = left
            return
        self.lacking.pop(index, None)
        if index not in self.unnoted and index not in self._noting:
            self.owner.transferring.pop(index, None)

    def views_of(self, index: int) -> tuple[int, ...]:
        """Views whose kept pages of that page lack something."""
        return tuple(self._kept_of[page.index].view for page in self.lacking.get(index, ()))

    def complete_from(self, note: KeptNote) -> None:
        """Replay of a note."""
        views = [self.charged(view) for view in note.views]
        self.complete(note.page, views, int.from_bytes(note.mask, "little"), note.sectors)

    def give_up(self, index: int) -> None:
        """What kept pages of that page lack cannot be read: their views are stale."""
        for page in self.lacking.get(index, ()):
            view = self._kept_of.pop(page.index).view
            self.views.drop_page(view, index)
            self.cache.drop(page)
            self.lose(view, index)
        self._left(index, [])

    # -- what destage says

    def is_busy(self, index: int) -> bool:
        """Not now: what it lacks may come with a later entry of the journal."""
        if self.paused:
            return True
        return self.cache.replaying and self.dirty[index].mask != self.full_mask

    def page_destaged(self, index: int) -> None:
        """A checkpoint may name it."""
        self.versions += 1
        if self._kept_of.pop(index).page in self.unnoted:
            self.cache.wants_checkpoint = True
        self.cache.changed[self.key] = None

    # -- state transfer

    def put_received(self, view: int, index: int, data: Buffer | None) -> int | None:
        """What the owner has kept of a page of that view; None: zeros. It takes the place of what
        was kept here meanwhile, of a later record. Where the caller has to write the page, or None:
        nowhere, it is not wanted any more or has no space."""
        view = self.charged(view)
        if not view or (view, index) in self._received:
            return None
        self._received[view, index] = None
        if not self.views.owes(view, index):
            number = self.views.take_out(view, index)
            if number is not None:
                self._forget_page(number)
        self.cache.changed[self.key] = None
        if data is None:
            self.views.put_zero(view, index)
            return None
        place = self.views.put_page(view, index)
        if place is None:
            self.views.lose(view)
        else:
            self.sums.wrote(place * self.page_bytes, data, self.full_mask)
        return place

    def ended_filling(self) -> None:
        """All that the transfer brings is here."""
        self.filling = False
        self._received.clear()

    def _forget_page(self, number: int) -> None:
        """No view has that page of the space any more."""
        self.sums.forget(number)
        page = self.dirty.get(number)
        if page is not None:
            self.cache.drop(page)
            index = self._kept_of.pop(number).page
            left = [each for each in self.lacking.get(index, ()) if each is not page]
            self._left(index, left)

    # -- removal

    def settle(self) -> None:
        """Hand over what the catalog says is gone, or being removed (ruling R5): to the next older
        view, the oldest first. It does not matter where in the sequence of records a copy does it:
        what a record owes to a view that is gone is charged to the one that has its exceptions.

        It is journalled, and a replay does it there: not before all that was kept for the older one
        is made again, and not after a record that owes it to the older one because of it."""
        line = self._line_of()
        if line is self._settled:
            return
        self._line = line
        if self.cache.replaying:
            return
        self._settled = line
        for view in [view for view in self.views.tables if self._is_gone(view)]:
            older = self._older(view)
            self.remove_view(view, older)
            self._note_removed(view, older)

    def _is_gone(self, view: int) -> bool:
        return view <= self._line.highest and view not in self._line.alive

    def _older(self, view: int) -> int:
        both = (*self._line.alive, *self.views.tables)
        return max((each for each in both if each < view), default=0)

    def charged(self, view: int) -> int:
        """The view that is owed what a record takes from that one; 0: none."""
        view = self.views.charged(view)
        if view and view not in self.views.tables and self._is_gone(view):
            return self._older(view)
        return view

    def remove_view(self, view: int, older: int) -> None:
        """Hand over what it has to the older one, or free it (ruling R5)."""
        older = self.views.charged(older)
        for number, kept in list(self._kept_of.items()):
            if kept.view == view and older and self.views.owes(older, kept.page):
                self._kept_of[number] = kept._replace(view=older)
        for number in self.views.remove(view, older):
            self._forget_page(number)
        self.versions += 1
        self.cache.changed[self.key] = None

    def forget_all(self) -> list[int]:
        """Nothing of any view is here any more. Extents, to be given back when a checkpoint that
        was begun later is on disk."""
        self.cache.drop_region(self)
        for index in (*self.lacking, *self.unnoted, *self._noting):
            self.owner.transferring.pop(index, None)
        self.lacking.clear()
        self.unnoted.clear()
        self._noting.clear()
        self._kept_of.clear()
        self._received.clear()
        self.filling = False
        self.sums.clear()
        self.versions += 1
        return self.views.clear()

    # -- checkpoint

    def base_bitmap(self, bitmap: bytes) -> bytes:
        """The bitmap of the owner's pages with which a replay makes the kept pages again that are
        not on disk: pages as they were when the first of these was kept."""
        if not self._kept_of:
            return bitmap
        pages = bytearray(bitmap or bytes((self.owner.pages + 7) // 8))
        seen: dict[int, None] = {}
        for kept in self._kept_of.values():
            if kept.page in seen:
                continue
            seen[kept.page] = None
            at, bit = kept.page >> 3, 1 << (kept.page & 7)
            pages[at] = pages[at] | bit if kept.was_on_disk else pages[at] & ~bit
        return bytes(pages)

    def pack(self) -> bytes:
        """For the region's entry in a checkpoint; empty when there is nothing to keep."""
        if self.missing or self.filling:
            return _MISSING
        fresh = {kept.page: None for kept in self._kept_of.values()}
        for index in [index for index in self.unnoted if index not in fresh]:
            del self.unnoted[index]
            self._noting[index] = None
        tables = self.views.pack(self.dirty)
        if not tables:
            return b""
        pages = [number for number in self.views.used_pages() if number not in self.dirty]
        return _LENGTH.pack(len(tables)) + tables + self.sums.pack_pages(pages)

    def settled(self) -> None:
        """The checkpoint for which `pack` was called last is on disk."""
        self.views.settled()
        noting, self._noting = self._noting, {}
        for index in noting:
            if index not in self.lacking and index not in self.unnoted:
                self.owner.transferring.pop(index, None)

    def load_packed(self, packed: bytes) -> None:
        """Inverse of `pack`. InvalidRequest when it makes no sense."""
        if packed == _MISSING:
            self.missing = True
        if not packed or self.missing:
            return
        (length,) = _LENGTH.unpack_from(packed)
        start = _LENGTH.size
        self.views.load(packed[start : start + length])
        self.sums.load_pages(self.views.used_pages(), packed[start + length :])
