"""Removal of a view in steps, while its branch is written and read."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from snapshot import cow
from snapshot.entry import PAGE, REDIRECT, SKIP, kind_of, offset_of
from snapshot.exception_table import TableShape
from snapshot.remove import (
    RemovalStep,
    apply_step,
    charged,
    check,
    finish,
    next_step,
    plan_removal,
    removal_text,
)
from snapshot.tree import SnapshotState, ViewKind
from tests.snapshot.family import Content, Family

KiB16 = 16384


class RemovingFamily(Family):
    """One whose removals stop between steps, with writes in between."""

    def __init__(self) -> None:
        super().__init__(TableShape(regions=4, l2_entries=2, l3_entries=2))
        self.cursors: dict[int, int] = {}

    def _store(self, view: int, page: int, new: Content, whole: bool, zero: bool) -> None:
        tagged = self.adopted[view]
        region = page // self.shape.region_pages
        self.adopted[view] = charged(self.tree, tagged, region, self.cursors)
        try:
            super()._store(view, page, new, whole, zero)
        finally:
            self.adopted[view] = tagged

    def adopt(self, branch: int) -> None:
        newest = self.tree.newest(branch)
        if newest not in self.cursors:
            super().adopt(branch)

    def begin_removal(self, view: int) -> None:
        check(self.tree, view)
        self.tree.set_state(view, SnapshotState.REMOVING)
        self.cursors[view] = 0

    def step_removal(self, view: int, pages_max: int = 1) -> bool:
        """False: it is gone."""
        step = next_step(self.tables[view], view, self.cursors[view], pages_max=pages_max)
        for entry in apply_step(self.tree, self.tables, step):
            del self.space[offset_of(entry)]
        self.cursors[view] = step.cursor
        if step.cursor < self.shape.regions:
            return True
        branch = self.tree[view].branch
        finish(self.tree, self.tables, view)
        del self.model[view], self.cursors[view]
        if branch == view:
            del self.adopted[view]
        elif self.adopted[branch] == view:
            self.adopted[branch] = self.tree.newest(branch)
        return False


def three() -> tuple[RemovingFamily, list[int]]:
    family = RemovingFamily()
    for page in range(0, 16, 2):
        family.write(1, page)
    line = [family.create(1, "a")]
    family.write(1, 0)
    line.append(family.create(1, "b"))
    for page in range(12):
        family.write(1, page)
    line.append(family.create(1, "c"))
    return family, line


def test_a_skip_to_a_view_that_is_half_removed_leads_nobody_astray() -> None:
    """Ruling R10: the exception has gone to the older neighbour, which the skip passes over."""
    family = RemovingFamily()
    family.write(1, 0)
    line = [family.create(1, name) for name in "abc"]
    family.write(1, 0)
    assert cow.remember(family.tree, family.tables, line[0], 0)
    assert kind_of(family.tables[line[0]].get(0)) == SKIP
    family.begin_removal(line[2])
    assert apply_step(family.tree, family.tables, RemovalStep(line[2], (0,), 1, 1)) == []
    family.check()


def test_a_removal_goes_by_whole_regions_and_goes_on_at_its_cursor() -> None:
    family, (_, middle, _) = three()
    family.begin_removal(middle)
    cursors = []
    while family.step_removal(middle):
        cursors.append(family.cursors[middle])
        family.check()
    assert cursors == [1, 2]
    family.check()


def test_a_step_takes_as_many_regions_as_hold_its_pages() -> None:
    family, (_, middle, _) = three()
    table = family.tables[middle]
    assert next_step(table, middle, 0, pages_max=8) == RemovalStep(middle, (0, 1), 8, 2)
    assert next_step(table, middle, 2, pages_max=8) == RemovalStep(middle, (2,), 4, 4)
    assert next_step(table, middle, 3) == RemovalStep(middle, (), 0, 4)


def test_an_owner_takes_its_own_regions() -> None:
    family, (_, middle, _) = three()
    table = family.tables[middle]
    assert next_step(table, middle, 0, mine=[1, 3]) == RemovalStep(middle, (1,), 4, 4)


def test_a_step_that_is_done_again_finds_nothing_to_do() -> None:
    family, (_, middle, _) = three()
    family.begin_removal(middle)
    step = next_step(family.tables[middle], middle, 0, pages_max=1)
    for entry in apply_step(family.tree, family.tables, step):
        del family.space[offset_of(entry)]
    assert apply_step(family.tree, family.tables, step) == []
    family.check()


def test_a_write_to_a_part_that_is_done_is_charged_to_the_older_neighbour() -> None:
    family = RemovingFamily()
    for page in (0, 4):
        family.write(1, page)
    older, newest = family.create(1, "a"), family.create(1, "b")
    family.begin_removal(newest)
    assert charged(family.tree, newest, 0, {newest: 1}) == older
    assert charged(family.tree, newest, 1, {newest: 1}) == newest
    assert charged(family.tree, older, 1, {newest: 1}) == older
    assert charged(family.tree, newest, 1, {}) == newest


def test_nobody_is_charged_when_the_oldest_is_done() -> None:
    family = RemovingFamily()
    only = family.create(1, "a")
    family.begin_removal(only)
    assert charged(family.tree, only, 0, {only: 1}) == 0


def test_the_plan_counts_what_the_steps_then_do() -> None:
    family, (older, middle, _) = three()
    plan = plan_removal(family.tree, family.tables, middle)
    before = family.tables[older].exceptions
    pages = len(family.space)
    family.begin_removal(middle)
    while family.step_removal(middle, pages_max=100):
        pass
    assert family.tables[older].exceptions - before == plan.moved == 11
    assert pages - len(family.space) == plan.freed_pages == 1


def test_the_plan_from_a_cursor_on_is_what_is_left() -> None:
    family, (_, middle, _) = three()
    plan = plan_removal(family.tree, family.tables, middle, cursor=1)
    assert (plan.moved, plan.freed_pages, plan.regions_left) == (8, 0, 2)


def test_the_dry_run_tells_what_moves_and_what_is_freed() -> None:
    family, (oldest, middle, _) = three()
    plan = plan_removal(family.tree, family.tables, middle)
    assert removal_text(family.tree, plan, KiB16) == (
        "remove b: read-only, active, of base\n"
        "  handed to a: 11 exceptions, 5 with a page; no data is moved\n"
        "  freed: 1 × 16 KiB = 16 KiB\n"
        "  dropped: 0 exceptions without a page\n"
        "  given up: 176 B of tables; 3 of 4 regions to do\n"
    )
    plan = plan_removal(family.tree, family.tables, oldest)
    assert removal_text(family.tree, plan, KiB16).splitlines()[1:3] == [
        "  handed over: nothing, it is the oldest of its branch",
        "  freed: 1 × 16 KiB = 16 KiB",
    ]
    family.tree.set_state(middle, SnapshotState.REMOVING)
    text = removal_text(family.tree, plan_removal(family.tree, family.tables, middle, 2), KiB16)
    assert "b: read-only, removing" in text
    assert "  goes on at region 2 of 4\n" in text


def test_the_dry_run_of_a_read_write_snapshot() -> None:
    family = RemovingFamily()
    view = family.branch(family.create(1, "a"), "w")
    family.write(view, 3)
    text = removal_text(family.tree, plan_removal(family.tree, family.tables, view), KiB16)
    assert text.startswith("remove w: read-write, active, of base\n  handed over: nothing, no sn")


def test_a_view_with_dependants_has_no_plan() -> None:
    family = RemovingFamily()
    view = family.create(1, "a")
    family.branch(view, "w")
    with pytest.raises(InvalidRequest, match="a cannot be removed: it has the read-write"):
        plan_removal(family.tree, family.tables, view)


def test_neighbours_are_not_removed_at_one_time() -> None:
    family, (oldest, middle, _) = three()
    family.begin_removal(middle)
    with pytest.raises(InvalidRequest, match="a cannot be removed: b of its branch is being"):
        plan_removal(family.tree, family.tables, oldest)
    plan_removal(family.tree, family.tables, middle)


def test_one_that_is_being_made_is_not_removed() -> None:
    family = RemovingFamily()
    view = family.create(1, "a", adopt=False)
    with pytest.raises(InvalidRequest, match="a cannot be removed: it is being made"):
        plan_removal(family.tree, family.tables, view)


def walk(family: RemovingFamily, rng: random.Random, number: int) -> None:
    tree = family.tree
    running = sorted(family.cursors)
    writable = [each.view for each in tree if each.writable and each.view not in family.cursors]
    fixed = [
        each.view for each in tree
        if not each.writable and each.state is not SnapshotState.REMOVING
    ]  # fmt: skip
    page = rng.randrange(family.pages)
    draw = rng.randrange(100)
    if draw < 45:
        family.write(rng.choice(writable), page, rng.choice((None, 0, 1)))
    elif draw < 52:
        family.trim(rng.choice(writable), page)
    elif draw < 64:
        family.create(rng.choice(writable), f"r{number}")
    elif draw < 68 and fixed:
        family.branch(rng.choice(fixed), f"w{number}")
    elif draw < 78 and fixed:
        # Many at once: skips are what a removal can make wrong.
        for view in fixed:
            cow.remember(tree, family.tables, view, page)
    elif draw < 84:
        victim = rng.choice([each.view for each in tree])
        if tree[victim].kind is not ViewKind.BASE and victim not in family.cursors:
            try:
                family.begin_removal(victim)
            except InvalidRequest:
                return
    elif running:
        family.step_removal(rng.choice(running), rng.choice((1, 3, 100)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_every_view_reads_right_while_others_are_removed_in_steps(seed: int) -> None:
    rng = random.Random(seed)
    family = RemovingFamily()
    for number in range(80):
        walk(family, rng, number)
        if number % 5 == 4:
            family.check()
    for view in sorted(family.cursors):
        while family.step_removal(view):
            pass
    family.check()


def test_a_redirect_is_handed_over_and_moves_no_page() -> None:
    family = RemovingFamily()
    family.write(1, 0)
    w = family.branch(family.create(1, "A"), "W")
    older, newer = family.create(w, "B"), family.create(w, "C")
    family.write(w, 0)
    plan = plan_removal(family.tree, family.tables, newer)
    assert (plan.moved, plan.moved_pages, plan.freed_pages) == (1, 0, 0)
    family.begin_removal(newer)
    family.step_removal(newer)
    assert kind_of(family.tables[older].get(0)) == REDIRECT
    assert kind_of(family.tables[w].get(0)) == PAGE
    family.check()
