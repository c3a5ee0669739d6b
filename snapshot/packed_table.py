"""plan: the exceptions of one view in some regions, as two arrays: to compute a difference from.

What `ExceptionTable` answers when it is asked to search, from tables that are kept region by region
at their owners; nothing can be changed here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

import numpy as np

from snapshot.entry import NULL
from snapshot.exception_table import U64, Pages

_PAGE: Final = np.dtype("u2")


class PackedTable:
    """pages: of the volume, ascending; entries: theirs, none of them null."""

    __slots__ = ("entries", "pages")

    def __init__(self, pages: Pages, entries: U64) -> None:
        self.pages = pages
        self.entries = entries

    def find(self, region: int | None = None) -> tuple[Pages, U64]:
        """All pages and their entries. One region is all that there is, or none is asked for."""
        del region
        return self.pages, self.entries

    def gather(self, pages: Pages) -> U64:
        """Entries of these pages, NULL where there is none."""
        found = np.full(len(pages), NULL, dtype=np.uint64)
        if len(self.pages):
            at = np.searchsorted(self.pages, pages)
            at[at == len(self.pages)] = 0
            there = self.pages[at] == pages
            found[there] = self.entries[at[there]]
        return found


def pack(parts: Iterable[tuple[int, array[int], array[int]]], region_pages: int) -> PackedTable:
    """parts: (region, pages within it, their entries), ascending; arrays of types "H" and "Q"."""
    pages: list[Pages] = []
    entries: list[U64] = []
    for region, inside, found in parts:
        pages.append(np.frombuffer(inside, dtype=_PAGE) + np.int64(region * region_pages))
        entries.append(np.frombuffer(found, dtype=np.uint64))
    if not pages:
        return PackedTable(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64))
    return PackedTable(np.concatenate(pages), np.concatenate(entries))
