"""step: contents of snapshots at level 1: exceptions and copied-out pages of one copy of a region.

A record says itself what it owes (`Record.cow_into`), so that replay, copies and heirs do the same
whatever their catalog knows by then. Pages of the snapshot space have numbers of this copy only.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from base.units import SECTOR_BYTES
from snapshot import cow
from snapshot.entry import PAGE, ZERO, ZERO_ENTRY, kind_of, offset_of, page_entry
from snapshot.exception_table import ExceptionTable, TableShape
from snapshot.tree import SnapshotState, SnapshotTree, ViewKind
from transport.operation import Record

PAGE_SECTORS: Final = 8  # of every volume of level 1
BASE_VIEW: Final = 1
SPACE: Final = 1
SHAPE: Final = TableShape(1, 8, 8)  # reaches further than any region of level 1

Contents = tuple[bytes | None, ...]  # sectors of a page; None: zeros
PageViews = dict[int, Contents | None]  # of one page, by view; None: it reads as zeros


class RegionViews:
    """What older views of one region's pages hold. Pages are counted from the region's first."""

    __slots__ = ("_free", "_next", "pages", "tables")

    def __init__(self) -> None:
        self.tables: dict[int, ExceptionTable] = {}
        self.pages: dict[int, Contents] = {}  # of the snapshot space, by number
        self._free: list[int] = []
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self.tables)

    def copy(self) -> RegionViews:
        """One of its own with the same views."""
        made = RegionViews()
        for page in self.excepted():
            made.put_page(page, self.page_views(page))
        return made

    # ------------------------------------------------------------------ writes

    def overwrite(self, blocks: dict[int, bytes], record: Record, pages: Iterable[int]) -> None:
        """The committed record is about to be put into these pages: save what it owes."""
        owed = record.cow_into
        if not owed:
            return
        self.tables.setdefault(owed, ExceptionTable(SHAPE))
        plan = cow.plan_write(
            line_of(owed), self.tables, BASE_VIEW, list(pages), cow_into=owed,
            was_written=lambda page: contents(blocks, page) != NOTHING,
        )  # fmt: skip
        taken = [self.save(contents(blocks, debt.page)) for debt in plan.debts if debt.copy_out]
        cow.apply(self.tables, plan, SPACE, taken)

    def save(self, found: Contents) -> int:
        """A page of the snapshot space with these contents."""
        if self._free:
            number = self._free.pop()
        else:
            number = self._next
            self._next += 1
        self.pages[number] = found
        return number

    # ------------------------------------------------------------------ reads

    def read(self, tree: SnapshotTree, blocks: dict[int, bytes], view: int, page: int) -> Contents:
        """A page of a view of that tree."""
        tables = {each.view: self.tables.get(each.view, EMPTY) for each in tree}
        entry = cow.locate(tree, tables, view, page)
        if kind_of(entry) == PAGE:
            return self.pages[offset_of(entry)]
        return NOTHING if kind_of(entry) == ZERO else contents(blocks, page)

    # ------------------------------------------------------------------ transfers

    def excepted(self) -> list[int]:
        """Pages that have exceptions in any view."""
        found = {page for table in self.tables.values() for page in table.find()[0].tolist()}
        return sorted(found)

    def page_views(self, page: int) -> PageViews:
        """Exceptions of one page, with what they point at."""
        found: PageViews = {}
        for view, table in self.tables.items():
            entry = table.get(page)
            if kind_of(entry) == PAGE:
                found[view] = self.pages[offset_of(entry)]
            elif kind_of(entry) == ZERO:
                found[view] = None
        return found

    def put_page(self, page: int, views: PageViews) -> None:
        """These are the exceptions of the page, in place of those that it had."""
        self.drop_pages((page,))
        for view, found in sorted(views.items()):
            table = self.tables.setdefault(view, ExceptionTable(SHAPE))
            table.set(page, ZERO_ENTRY if found is None else page_entry(SPACE, self.save(found)))

    def drop_pages(self, pages: Iterable[int]) -> None:
        """No exceptions of these pages, and no pages that they point at."""
        for page in pages:
            for table in self.tables.values():
                entry = table.set(page, 0)
                if kind_of(entry) == PAGE:
                    del self.pages[offset_of(entry)]
                    self._free.append(offset_of(entry))

    def check(self) -> list[str]:
        """Pages of the snapshot space that nobody points at, or two; broken tables."""
        faults = [fault for table in self.tables.values() for fault in table.check()]
        used = [
            offset_of(entry)
            for table in self.tables.values()
            for entry in table.find()[1].tolist()
            if kind_of(entry) == PAGE
        ]
        if len(used) != len(set(used)):
            faults.append("a page of the snapshot space is used twice")
        if set(used) != set(self.pages):
            faults.append(f"pages {sorted(set(used) ^ set(self.pages))} are leaked or missing")
        if len(self.pages) + len(self._free) != self._next:
            faults.append("a page of the snapshot space is neither used nor free")
        return faults


EMPTY: Final = ExceptionTable(SHAPE)
NOTHING: Final[Contents] = (None,) * PAGE_SECTORS


def contents(blocks: dict[int, bytes], page: int) -> Contents:
    """Sectors of a page of the base."""
    first = page * PAGE_SECTORS
    return tuple(blocks.get(at) for at in range(first, first + PAGE_SECTORS))


def as_bytes(found: Contents) -> bytes:
    """What a host would read."""
    return b"".join(sector or bytes(SECTOR_BYTES) for sector in found)


@lru_cache(maxsize=1024)
def line_of(owed: int) -> SnapshotTree:
    """As much of a family's tree as a write to the base looks at."""
    made, active = int(ViewKind.READ_ONLY), int(SnapshotState.ACTIVE)
    return SnapshotTree.from_tuple(
        (
            owed + 1,
            ((BASE_VIEW, "base", 0, BASE_VIEW, 0, 0, active),
             (owed, "owed", made, BASE_VIEW, 0, 0, active)),
            ((BASE_VIEW, (owed,)),),
        )
    )  # fmt: skip
