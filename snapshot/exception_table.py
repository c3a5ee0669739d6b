"""plan: the exception table of one view: which of its pages do not lie where its parent has them.

Three levels [0062]–[0067]: L1 has an entry per region, an L2 table belongs to one region and so to
the region's owner [0064], an L3 table has the entries themselves. L2 and L3 tables come into being
at the first exception below them and go with the last. Rows of all tables of a level lie in one
array, so that a difference is a scan of arrays; rows that became free are used again.

An entry is 8 bytes: kind, volume, page offset [0078]. A *skip* is a remembered answer of a search
[0097]; it is no exception and is never counted as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest
from snapshot.entry import KIND_SHIFT, NULL, SKIP, kind_of

U64 = NDArray[np.uint64]
Pages = NDArray[np.int64]

ABSENT: Final = 0  # row 0 of each pool stands for "no table"
_ROW: Final = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class TableShape:
    """Fan-outs, fixed when the volume is created (ruling R7). One region is one L2 table's reach:
    l2_entries × l3_entries pages [0064]."""

    regions: int
    l2_entries: int = 32
    l3_entries: int = 32

    @property
    def region_pages(self) -> int:
        """Pages of one region."""
        return self.l2_entries * self.l3_entries


class TableCounts(NamedTuple):
    """Tables that exist, and what they hold. bytes: of all entries of all three levels."""

    l2_tables: int
    l3_tables: int
    exceptions: int
    skips: int
    table_bytes: int


class Exceptions(Protocol):
    """What a difference asks of the exceptions of a view."""

    def find(self, region: int | None = None) -> tuple[Pages, U64]:
        """Pages that have an exception, ascending, and their entries: of a region, or of all."""

    def gather(self, pages: Pages) -> U64:
        """Entries of these pages, NULL where there is none."""


class ExceptionTable:
    """Entries by page number of the volume, 0 <= page < regions × region_pages.

    Setting NULL takes an entry away. An index outside of the volume is a bug of the caller.
    """

    __slots__ = (
        "_free2", "_free3", "_l1", "_l2", "_l3", "_page3", "_used2", "_used3", "exceptions",
        "shape", "skips",
    )  # fmt: skip

    def __init__(self, shape: TableShape) -> None:
        self.shape = shape
        self._l1 = np.zeros(shape.regions, dtype=_ROW)
        self._l2 = np.zeros((1, shape.l2_entries), dtype=_ROW)
        self._l3: U64 = np.zeros((1, shape.l3_entries), dtype=np.uint64)
        self._page3: Pages = np.full(1, -1, dtype=np.int64)  # first page of each L3 row, -1: free
        self._used2 = np.zeros(1, dtype=np.int32)  # entries in use by row
        self._used3 = np.zeros(1, dtype=np.int32)
        self._free2: list[int] = []
        self._free3: list[int] = []
        self.exceptions = 0
        self.skips = 0

    # ------------------------------------------------------------------ one page

    def get(self, page: int) -> int:
        """The entry of a page; NULL when there is none."""
        high, column = divmod(page, self.shape.l3_entries)
        region, middle = divmod(high, self.shape.l2_entries)
        second = self._l1[region]
        return int(self._l3[self._l2[second, middle], column]) if second else NULL

    def set(self, page: int, entry: int) -> int:
        """Put an entry, making the tables that lead to it; what was there before."""
        high, column = divmod(page, self.shape.l3_entries)
        region, middle = divmod(high, self.shape.l2_entries)
        second = int(self._l1[region])
        third = int(self._l2[second, middle]) if second else ABSENT
        before = int(self._l3[third, column]) if third else NULL
        if before == entry:
            return before
        if not third:
            if not second:
                second = self._new_l2()
                self._l1[region] = second
            third = self._new_l3(high * self.shape.l3_entries)
            self._l2[second, middle] = third
            self._used2[second] += 1
        self._l3[third, column] = entry
        self._used3[third] += (entry != NULL) - (before != NULL)
        self._count(before, -1)
        self._count(entry, 1)
        if not self._used3[third]:
            self._drop_l3(third)
            self._l2[second, middle] = ABSENT
            self._used2[second] -= 1
            if not self._used2[second]:
                self._free2.append(second)
                self._l1[region] = ABSENT
        return before

    def _count(self, entry: int, change: int) -> None:
        if entry == NULL:
            return
        if kind_of(entry) == SKIP:
            self.skips += change
        else:
            self.exceptions += change

    def _new_l2(self) -> int:
        if not self._free2:
            old = len(self._l2)
            self._l2 = np.concatenate([self._l2, np.zeros_like(self._l2)])
            self._used2 = np.concatenate([self._used2, np.zeros_like(self._used2)])
            self._free2.extend(range(2 * old - 1, old - 1, -1))
        return self._free2.pop()

    def _new_l3(self, page: int) -> int:
        if not self._free3:
            old = len(self._l3)
            self._l3 = np.concatenate([self._l3, np.zeros_like(self._l3)])
            self._used3 = np.concatenate([self._used3, np.zeros_like(self._used3)])
            self._page3 = np.concatenate([self._page3, np.full(old, -1, dtype=np.int64)])
            self._free3.extend(range(2 * old - 1, old - 1, -1))
        row = self._free3.pop()
        self._page3[row] = page
        return row

    def _drop_l3(self, row: int) -> None:
        self._page3[row] = -1
        self._free3.append(row)

    # ------------------------------------------------------------------ many pages

    def gather(self, pages: Pages) -> U64:
        """The entries of these pages, NULL where there is none."""
        high, column = np.divmod(pages, self.shape.l3_entries)
        region, middle = np.divmod(high, self.shape.l2_entries)
        found: U64 = self._l3[self._l2[self._l1[region], middle], column]
        return found

    def find(self, region: int | None = None) -> tuple[Pages, U64]:
        """All exceptions, of one region or of the volume: pages, ascending, and their entries."""
        rows = self._rows(region)
        entries = self._l3[rows]
        at, column = np.nonzero(entries)
        found = entries[at, column]
        pages: Pages = self._page3[rows][at] + column
        real = found >> np.uint64(KIND_SHIFT) != SKIP
        return pages[real], found[real]

    def _rows(self, region: int | None) -> NDArray[np.intp]:
        """Rows of L3 tables in the order of their pages."""
        if region is not None:
            rows = self._l2[self._l1[region]]
            some: NDArray[np.intp] = rows[rows != ABSENT].astype(np.intp)
            return some
        rows = np.flatnonzero(self._page3 >= 0)
        return rows[np.argsort(self._page3[rows], kind="stable")]

    def regions(self) -> NDArray[np.intp]:
        """Regions that have an L2 table, ascending."""
        return np.flatnonzero(self._l1)

    def counts(self) -> TableCounts:
        """What exists, for `snapshot show`."""
        second = int(np.count_nonzero(self._l1))
        third = int(np.count_nonzero(self._page3 >= 0))
        shape = self.shape
        size = 8 * (shape.regions + second * shape.l2_entries + third * shape.l3_entries)
        return TableCounts(second, third, self.exceptions, self.skips, size)

    # ------------------------------------------------------------------ regions as a whole

    def drop_region(self, region: int) -> None:
        """Forget every entry of a region."""
        pages, entries = self._all_of(region)
        for page in pages.tolist():
            self.set(page, NULL)
        assert self._l1[region] == ABSENT, entries

    def pack_region(self, region: int) -> bytes:
        """The exceptions of a region as bytes: u64 pairs (page within the region, entry), little
        endian, ascending. Skips are left out: whoever wants them finds them again."""
        pages, entries = self.find(region)
        pairs = np.empty((len(pages), 2), dtype="<u8")
        pairs[:, 0] = pages - region * self.shape.region_pages
        pairs[:, 1] = entries
        return pairs.tobytes()

    def load_region(self, region: int, packed: bytes) -> None:
        """Put what `pack_region` made in place of what the region has. InvalidRequest, and nothing
        changed, when the bytes are not such pairs."""
        if len(packed) % 16:
            raise InvalidRequest(f"exceptions of region {region}: {len(packed)} bytes are no pairs")
        pairs = np.frombuffer(packed, dtype="<u8").reshape(-1, 2)
        pages, entries = pairs[:, 0], pairs[:, 1]
        rising = bool(np.all(pages[1:] > pages[:-1]))
        if len(pages) and not (rising and int(pages[-1]) < self.shape.region_pages):
            raise InvalidRequest(f"exceptions of region {region}: pages are out of order or bounds")
        if not np.all(entries):
            raise InvalidRequest(f"exceptions of region {region}: an entry is null")
        self.drop_region(region)
        first = region * self.shape.region_pages
        for page, entry in zip(pages.tolist(), entries.tolist(), strict=True):
            self.set(first + page, entry)

    def _all_of(self, region: int) -> tuple[Pages, U64]:
        rows = self._rows(region)
        entries = self._l3[rows]
        at, column = np.nonzero(entries)
        return self._page3[rows][at] + column, entries[at, column]

    def grow(self, regions: int) -> None:
        """The volume has that many regions from now on; never fewer."""
        more = regions - self.shape.regions
        assert more >= 0, "a volume never shrinks"
        self._l1 = np.concatenate([self._l1, np.zeros(more, dtype=_ROW)])
        shape = self.shape
        self.shape = TableShape(regions, shape.l2_entries, shape.l3_entries)

    def check(self) -> list[str]:
        """What is wrong inside: leaked or doubly used tables, wrong counts. For `fsck`."""
        faults: list[str] = []
        used2 = self._l1[self._l1 != ABSENT].tolist()
        rows = self._l2[used2] if used2 else np.zeros((0, 1), dtype=_ROW)
        used3 = rows[rows != ABSENT].tolist()
        for level, used, free, size in (
            (2, used2, self._free2, len(self._l2)),
            (3, used3, self._free3, len(self._l3)),
        ):
            if len(set(used)) != len(used) or set(used) & set(free):
                faults.append(f"an L{level} table is used twice")
            if len(used) + len(free) != size - 1:
                faults.append(f"{size - 1 - len(used) - len(free)} L{level} tables are leaked")
        entries: Any = self._l3[used3] if used3 else np.zeros((0, 1), dtype=np.uint64)
        live = entries[entries != NULL]
        skips = int(np.count_nonzero(live >> np.uint64(KIND_SHIFT) == SKIP))
        if (len(live) - skips, skips) != (self.exceptions, self.skips):
            faults.append(f"{len(live)} entries exist, {self.exceptions} and {self.skips} counted")
        return faults
