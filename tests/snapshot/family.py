"""A volume family on two stores at once: the cores under test, and a model that keeps every view in
full. A page has two halves, so that writes of a part show what was merged into them."""

from __future__ import annotations

from collections.abc import Callable

from snapshot import cow
from snapshot.diff import changed_pages, relate
from snapshot.entry import BASE, PAGE, ZERO, kind_of, offset_of
from snapshot.exception_table import ExceptionTable, TableShape
from snapshot.tree import SnapshotState, SnapshotTree, ViewKind

Content = tuple[int, int]
ZEROS: Content = (0, 0)
SPACE = 9


class Family:
    def __init__(self, shape: TableShape | None = None) -> None:
        self.shape = shape or TableShape(regions=3, l2_entries=2, l3_entries=3)
        self.pages = self.shape.regions * self.shape.region_pages
        self.tree = SnapshotTree("base")
        self.tables: dict[int, ExceptionTable] = {}
        self.base: dict[int, Content] = {}
        self.space: dict[int, Content] = {}
        self.next_page = 0
        self.model: dict[int, list[Content]] = {self.tree.base: [ZEROS] * self.pages}
        self.adopted: dict[int, int] = {self.tree.base: 0}  # branch -> what operations are tagged
        self.value = 0

    # ------------------------------------------------------------------ operations

    def write(self, view: int, page: int, half: int | None = None, value: int = 0) -> None:
        self.value += 1
        value = value or self.value
        old = self.read(view, page)
        new = (value, value) if half is None else (value, old[1]) if half == 0 else (old[0], value)
        self._store(view, page, new, half is None, zero=False)

    def trim(self, view: int, page: int) -> None:
        self._store(view, page, ZEROS, whole=True, zero=True)

    def _store(self, view: int, page: int, new: Content, whole: bool, zero: bool) -> None:
        plan = cow.plan_write(
            self.tree, self.tables, view, [page], cow_into=self.adopted[view],
            was_written=lambda at: at in self.base, zero=zero,
        )  # fmt: skip
        taken = [self._take() for _ in range(plan.space_pages)]
        given = iter(taken)
        in_place = True
        for debt in plan.debts:
            if debt.copy_out:
                self.space[next(given)] = self.base[page]
            if debt.take_page:
                filled = ZEROS if whole else self._at(debt.fill_from)
                merged = tuple(n if n != o else o for n, o in zip(new, filled, strict=True))
                self.space[next(given)] = (merged[0], merged[1])
                in_place = False
        for entry in cow.apply(self.tables, plan, SPACE, taken, zero=zero):
            del self.space[offset_of(entry)]
        if self.tree[view].kind is ViewKind.BASE:
            if zero:
                self.base.pop(page, None)
            else:
                self.base[page] = new
        elif in_place and not zero:
            self.space[offset_of(self.tables[view].get(page))] = new
        self._model(view, page, new)

    def _model(self, view: int, page: int, new: Content) -> None:
        self.model[view][page] = new
        for member in self.tree.read_only_of(view):
            if self.tree[member].state is SnapshotState.CREATING:
                self.model[member][page] = new

    def _take(self) -> int:
        self.next_page += 1
        return self.next_page

    def create(self, view: int, name: str, *, adopt: bool = True) -> int:
        if any(
            self.tree[each].state is SnapshotState.CREATING for each in self.tree.read_only_of(view)
        ):
            self.adopt(view)
        made = self.tree.create_read_only(name, view)
        self.tables[made.view] = ExceptionTable(self.shape)
        self.model[made.view] = list(self.model[view])
        if adopt:
            self.adopt(view)
        return made.view

    def adopt(self, branch: int) -> None:
        newest = self.tree.newest(branch)
        if newest:
            self.adopted[branch] = newest
            self.tree.set_state(newest, SnapshotState.ACTIVE)

    def branch(self, ross: int, name: str) -> int:
        self.adopt(self.tree[ross].branch)
        made = self.tree.create_read_write(name, ross)
        self.tables[made.view] = ExceptionTable(self.shape)
        self.model[made.view] = list(self.model[ross])
        self.adopted[made.view] = 0
        return made.view

    def remove(self, view: int) -> None:
        self.adopt(self.tree[view].branch)
        self.tree.check_removal(view)
        for entry in cow.hand_over(self.tree, self.tables, view):
            del self.space[offset_of(entry)]
        branch = self.tree[view].branch
        self.tree.remove(view)
        del self.tables[view], self.model[view]
        if branch == view:
            del self.adopted[view]
        elif self.adopted[branch] == view:
            self.adopted[branch] = self.tree.newest(branch)

    def promote(self, view: int, target: int) -> None:
        """Copies the differences back, by ordinary writes."""
        for page in changed_pages(self.tree, self.tables, view, target).tolist():
            self._store(target, page, self.read(view, page), whole=True, zero=False)

    # ------------------------------------------------------------------ reading

    def _at(self, location: int) -> Content:
        kind = kind_of(location)
        if kind == ZERO:
            return ZEROS
        if kind == PAGE:
            return self.space[offset_of(location)]
        assert kind == BASE
        return self.base.get(offset_of(location), ZEROS)

    def location(self, view: int, page: int) -> int:
        return cow.locate(self.tree, self.tables, view, page)

    def read(self, view: int, page: int) -> Content:
        return self._at(self.location(view, page))

    # ------------------------------------------------------------------ what must hold

    def check(self, diff: Callable[[int, int], list[int]] | None = None) -> None:
        # One that is being removed is read by nobody any more.
        views = [each.view for each in self.tree if each.state is not SnapshotState.REMOVING]
        for view in views:
            seen = [self.read(view, page) for page in range(self.pages)]
            assert seen == self.model[view], self.tree[view]
        for one in views:
            for other in views:
                found = (diff or self.diff)(one, other)
                assert found == self.differing_locations(one, other), (one, other)
                differ = self.differing_contents(one, other)
                assert set(differ) <= set(found), (one, other)
        used = self.used_pages()
        assert sorted(used) == sorted(self.space), "a page is leaked, or used twice"
        for table in self.tables.values():
            assert table.check() == []
        assert self.tree.check() == []

    def diff(self, one: int, other: int) -> list[int]:
        return [int(page) for page in changed_pages(self.tree, self.tables, one, other)]

    def differing_locations(self, one: int, other: int) -> list[int]:
        return [
            page
            for page in range(self.pages)
            if self.location(one, page) != self.location(other, page)
        ]

    def differing_contents(self, one: int, other: int) -> list[int]:
        return [
            page for page in range(self.pages) if self.model[one][page] != self.model[other][page]
        ]

    def used_pages(self) -> list[int]:
        return [
            offset_of(entry)
            for table in self.tables.values()
            for entry in table.find()[1].tolist()
            if kind_of(entry) == PAGE
        ]

    def method(self, one: int, other: int) -> int:
        return relate(self.tree, one, other).method
