"""plan: the exception tables of one copy of one region, and its pages of snapshot data space.

A table here is what an L2 table and its L3 tables are in `snapshot.exception_table`, kept as two
sorted arrays: pages, and their entries. A region has few exceptions in most views (ten at 1 % of
change), and there are very many regions: 10 bytes an exception and about 300 bytes a table, where
tables of fixed fan-out take kilobytes. `for_table` gives what ExceptionTable.load_region takes.

What a page of snapshot data space goes through:

| is          | when                                                                            |
|-------------|---------------------------------------------------------------------------------|
| free        | in an extent of the region, in no table                                         |
| fresh       | in a table, its bytes are not all on disk: a checkpoint leaves its entry out,   |
|             | and replay makes it again from the record that owed it, on whatever page        |
| kept        | in a table and on disk                                                          |
| given back  | in no table, but the checkpoint on disk may have it: not to be written over     |
| leaving     | the checkpoint that is being written has it not; free when that one is on disk  |
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Container, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest
from node.snapshot_space import SnapshotSpace
from snapshot.entry import (
    BASE,
    KIND_SHIFT,
    NULL,
    PAGE,
    SKIP,
    ZERO_ENTRY,
    base_entry,
    kind_of,
    offset_of,
    page_entry,
)

_HEAD: Final = struct.Struct("<II")  # views, of which are stale
_VIEW: Final = struct.Struct("<II")  # view, exceptions
_STALE: Final = struct.Struct("<I")
_PAGES: Final = "H"
_KIND: Final = np.uint64(KIND_SHIFT)
PAGES_MAX: Final = 1 << 16  # of a region


class PageTable:
    """Exceptions of one view in one region, ascending by page. There are no null entries."""

    __slots__ = ("entries", "pages")

    def __init__(self) -> None:
        self.pages: array[int] = array(_PAGES)
        self.entries: array[int] = array("Q")

    def __len__(self) -> int:
        return len(self.pages)

    def get(self, page: int) -> int:
        """NULL when there is none."""
        pages = self.pages
        at = bisect_left(pages, page)
        return self.entries[at] if at < len(pages) and pages[at] == page else NULL

    def put(self, page: int, entry: int) -> None:
        """In place of what is there, if anything is."""
        pages = self.pages
        at = bisect_left(pages, page)
        if at < len(pages) and pages[at] == page:
            self.entries[at] = entry
        else:
            pages.insert(at, page)
            self.entries.insert(at, entry)

    def items(self) -> Iterator[tuple[int, int]]:
        """(page, entry), ascending."""
        return zip(self.pages, self.entries, strict=True)


class RegionViews:
    """Tables by view, oldest first, of the read-only snapshots (ROSS) of the base; its pages.

    space_number: what entries name as their space. stale: views that had to go without a page, as
    there was no space: they can never be read again. Page numbers of the space are the node's own,
    so tables of two copies of a region differ in them and in nothing else.
    """

    __slots__ = ("_extents", "_free", "_given_back", "_leaving", "_removed", "pages", "space",
                 "space_number", "stale", "tables")  # fmt: skip

    def __init__(self, pages: int, space: SnapshotSpace, space_number: int = 0) -> None:
        assert pages <= PAGES_MAX
        self.pages = pages
        self.space = space
        self.space_number = space_number
        self.tables: dict[int, PageTable] = {}
        self.stale: set[int] = set()
        self._removed: dict[int, int] = {}  # to whom it went, by view
        self._extents: dict[int, None] = {}
        self._free: list[int] = []
        self._given_back: list[int] = []
        self._leaving: list[int] = []

    # -- look-up

    def owes(self, view: int, page: int) -> bool:
        """A write of the page would take from that ROSS, the newest of its branch, what it has."""
        table = self.tables.get(view)
        return table is None or table.get(page) == NULL

    def locate(self, view: int, page: int) -> int:
        """Where a ROSS has the page: PAGE, ZERO, or BASE when no newer ROSS has it either [0095].
        NULL when that is not known any more. Newer views have higher numbers."""
        if view in self.stale:
            return NULL
        for number, table in self.tables.items():
            if number >= view:
                if number in self.stale:
                    return NULL  # even where it has an entry: it may be of after it went stale
                entry = table.get(page)
                if entry != NULL:
                    return entry
        return base_entry(page)

    def locate_all(self, view: int) -> NDArray[np.uint8] | None:
        """Kinds of what `locate` says of every page; None: of one of them it is not known."""
        kinds = np.full(self.pages, BASE, dtype=np.uint8)
        todo = np.ones(self.pages, dtype=np.bool_)
        if view in self.stale:
            return None
        for number, table in self.tables.items():
            if number < view:
                continue
            if number in self.stale and todo.any():
                return None
            pages = np.frombuffer(table.pages, dtype=np.uint16)
            found = (np.frombuffer(table.entries, dtype=np.uint64) >> _KIND).astype(np.uint8)
            fresh = todo[pages]
            kinds[pages[fresh]] = found[fresh]
            todo[pages] = False
        return kinds

    def charged(self, view: int) -> int:
        """The ROSS that is owed what a record takes from that one; 0: none. A record that was
        numbered before a removal may be applied after it."""
        while view in self._removed:
            view = self._removed[view]
        return view

    # -- change

    def has_room(self) -> bool:
        """`put_page` would find a page. Asks for more space when little is left."""
        return bool(self._free) or self.space.has_room()

    def put_zero(self, view: int, page: int) -> None:
        """The page had never been written, or was given back."""
        self._table(view).put(page, ZERO_ENTRY)

    def put_page(self, view: int, page: int) -> int | None:
        """A free page of the space for it, which the caller fills; None: there is no space, and
        nothing has changed."""
        if not self._free:
            extent = self.space.take()
            if extent is None:
                return None
            self._extents[extent] = None
            count = self.space.extent_pages
            self._free = list(range((extent + 1) * count - 1, extent * count - 1, -1))
        number = self._free.pop()
        self._table(view).put(page, page_entry(self.space_number, number))
        return number

    def lose(self, view: int) -> None:
        """There was no space for what the view had of a page, or it could not be read: it is no
        point in time any more, nor is what an older view would have found in it."""
        self._table(view)
        self.stale.add(view)

    def drop_page(self, view: int, page: int) -> None:
        """There are no contents for what `put_page` gave. The view is stale."""
        table = self._table(view)
        self._given_back.append(offset_of(table.get(page)))
        table.put(page, ZERO_ENTRY)
        self.stale.add(view)

    def take_out(self, view: int, page: int) -> int | None:
        """Something else is put in the place of that exception next. Its page, if it had one."""
        entry = self._table(view).get(page)
        if kind_of(entry) != PAGE:
            return None
        number = offset_of(entry)
        self._given_back.append(number)
        return number

    def _table(self, view: int) -> PageTable:
        table = self.tables.get(view)
        if table is None:
            table = PageTable()
            behind = [number for number in self.tables if number > view]
            self.tables[view] = table
            for number in behind:  # a late record of before a newer cut: rare
                self.tables[number] = self.tables.pop(number)
        return table

    def remove(self, view: int, older: int) -> list[int]:
        """Hand the exceptions of the view to the next older one where that has none (ruling R5):
        entries move, data does not. Pages of the space that nobody points at any more. older: 0
        when there is none. May be repeated."""
        table = self.tables.pop(view, None)
        self._removed[view] = older
        older = self.charged(older)
        if view in self.stale:
            self.stale.discard(view)
            if older:
                self.lose(older)  # what it lacks it would have found there
        freed = []
        for page, entry in table.items() if table is not None else ():
            if older and self.owes(older, page):
                self._table(older).put(page, entry)
            elif kind_of(entry) == PAGE:
                freed.append(offset_of(entry))
        self._given_back += freed
        return freed

    def clear(self) -> list[int]:
        """Nothing of any view is here any more. Extents, to be given back when a checkpoint that
        was begun later is on disk."""
        extents = list(self._extents)
        self.tables.clear()
        self.stale.clear()
        self._extents.clear()
        self._free, self._given_back, self._leaving = [], [], []
        return extents

    # -- checkpoint

    def pack(self, fresh: Container[int]) -> bytes:
        """For the region's entry in a checkpoint; empty when there is nothing to keep. fresh: pages
        of the space that are not on disk. What was given back until now is leaving."""
        self._leaving += self._given_back
        self._given_back = []
        if not self.tables:
            return b""
        parts = [_HEAD.pack(len(self.tables), len(self.stale))]
        parts += [_STALE.pack(view) for view in sorted(self.stale)]
        for view, table in self.tables.items():
            pages, entries = table.pages, table.entries
            if fresh:
                kept = [
                    (page, entry) for page, entry in table.items()
                    if kind_of(entry) != PAGE or offset_of(entry) not in fresh
                ]  # fmt: skip
                pages = array(_PAGES, [page for page, _ in kept])
                entries = array("Q", [entry for _, entry in kept])
            parts.append(_VIEW.pack(view, len(pages)))
            parts.append(np.asarray(pages).astype("<u2").tobytes())
            parts.append(np.asarray(entries).astype("<u8").tobytes())
        return b"".join(parts)

    def settled(self) -> None:
        """The checkpoint for which `pack` was called last is on disk."""
        if not self._leaving:
            return
        self._free += self._leaving
        self._leaving = []
        count = self.space.extent_pages
        by_extent: dict[int, int] = {}
        for number in self._free:
            by_extent[number // count] = by_extent.get(number // count, 0) + 1
        whole = {extent for extent, pages in by_extent.items() if pages == count}
        if whole:
            self._free = [number for number in self._free if number // count not in whole]
            for extent in whole:
                del self._extents[extent]
            self.space.give_back(sorted(whole))

    def load(self, packed: bytes) -> None:
        """Inverse of `pack`, at a start, of all that is on disk; claims its extents. InvalidRequest
        when it makes no sense; nothing has changed then."""
        tables, stale = _unpack(packed, self.pages) if packed else ({}, set())
        used = [
            offset_of(entry) for table in tables.values() for entry in table.entries
            if kind_of(entry) == PAGE
        ]  # fmt: skip
        if len(used) != len(set(used)):
            raise InvalidRequest("two exceptions of a region have the same page")
        count = self.space.extent_pages
        extents = sorted({number // count for number in used})
        self.space.claim(extents)
        self.tables, self.stale = tables, stale
        self._extents = dict.fromkeys(extents)
        taken = set(used)
        self._free = [
            number for extent in reversed(extents)
            for number in range((extent + 1) * count - 1, extent * count - 1, -1)
            if number not in taken
        ]  # fmt: skip

    # -- for others

    def for_table(self, view: int) -> bytes:
        """The exceptions of a view as `ExceptionTable.load_region` takes them."""
        table = self.tables.get(view) or PageTable()
        pairs = np.empty((len(table), 2), dtype="<u8")
        pairs[:, 0] = table.pages
        pairs[:, 1] = table.entries
        return pairs.tobytes()

    def used_pages(self) -> list[int]:
        """Pages of the space that are in tables, ascending."""
        return sorted(
            offset_of(entry)
            for table in self.tables.values()
            for entry in table.entries
            if kind_of(entry) == PAGE
        )

    def kinds(self) -> dict[tuple[int, int], int]:
        """Kinds of all exceptions by view and page: copies of a region have the same."""
        return {
            (view, page): kind_of(entry)
            for view, table in self.tables.items()
            for page, entry in table.items()
        }

    def check(self) -> list[str]:
        """Pages that are leaked or in two places. For tests and `fsck`."""
        used = self.used_pages()
        waiting = self._given_back + self._leaving
        have = sorted([*used, *self._free, *waiting])
        count = self.space.extent_pages
        want = sorted(e * count + at for e in self._extents for at in range(count))
        return [] if have == want else [f"pages {have} are known, and {want} are the region's"]


def _unpack(packed: bytes, region_pages: int) -> tuple[dict[int, PageTable], set[int]]:
    try:
        views, stale_views = _HEAD.unpack_from(packed)
        at = _HEAD.size
        stale = {_STALE.unpack_from(packed, at + 4 * each)[0] for each in range(stale_views)}
        at += 4 * stale_views
        tables: dict[int, PageTable] = {}
        for _ in range(views):
            view, count = _VIEW.unpack_from(packed, at)
            at += _VIEW.size
            pages = np.frombuffer(packed, dtype="<u2", count=count, offset=at)
            at += 2 * count
            entries = np.frombuffer(packed, dtype="<u8", count=count, offset=at)
            at += 8 * count
            wide = pages.astype(np.int64)
            if count and (np.any(wide[1:] <= wide[:-1]) or int(wide[-1]) >= region_pages):
                raise InvalidRequest("exceptions of a view are out of order or bounds")
            kinds = entries >> np.uint64(60)
            if np.any((kinds == NULL) | (kinds >= SKIP)):
                raise InvalidRequest("an exception of a view is none")
            if tables and view <= max(tables):
                raise InvalidRequest("views are out of order")
            table = tables[view] = PageTable()
            table.pages.frombytes(pages.astype("=u2").tobytes())
            table.entries.frombytes(entries.astype("=u8").tobytes())
    except (struct.error, ValueError) as error:
        raise InvalidRequest(f"these are no tables of views: {error}") from None
    if at != len(packed):
        raise InvalidRequest(f"{len(packed) - at} bytes follow behind tables of views")
    return tables, stale
