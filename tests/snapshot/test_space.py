"""Space of views against a count of readers page by page; what a write without space does."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest, NoSpace
from snapshot import cow
from snapshot.entry import PAGE, kind_of
from snapshot.remove import plan_removal
from snapshot.space import SpacePolicy, SpaceWatch, decide, losing, parse_policy, space_of
from snapshot.tree import SnapshotState, ViewKind
from tests.snapshot.family import Family
from tests.snapshot.test_snapshot_histories import step

STALE, STRICT = SpacePolicy.STALE, SpacePolicy.STRICT


def grown(seed: int, steps: int = 60) -> Family:
    rng = random.Random(seed)
    family = Family()
    for number in range(steps):
        step(family, rng, number)
    return family


def readers(family: Family) -> dict[int, set[int]]:
    """Views by entry of the page that they read."""
    found: dict[int, set[int]] = {}
    for each in family.tree:
        for page in range(family.pages):
            entry = family.location(each.view, page)
            if kind_of(entry) == PAGE:
                found.setdefault(entry, set()).add(each.view)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_exclusive_and_shared_pages_are_what_the_readers_of_each_page_say(seed: int) -> None:
    family = grown(seed)
    space = space_of(family.tree, family.tables)
    by_page = readers(family)
    assert set(space) == {each.view for each in family.tree} - {1}
    for view, found in space.items():
        own = [views for views in by_page.values() if view in views]
        assert found.exclusive_pages == sum(len(views) == 1 for views in own), view
        assert found.shared_pages == sum(len(views) > 1 for views in own), view


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 32))
def test_what_is_exclusive_is_what_a_removal_frees(seed: int) -> None:
    family = grown(seed)
    space = space_of(family.tree, family.tables)
    for each in family.tree:
        try:
            plan = plan_removal(family.tree, family.tables, each.view)
        except InvalidRequest:
            continue
        except AssertionError:
            assert each.kind is ViewKind.BASE
            continue
        assert plan.freed_pages == space[each.view].exclusive_pages


def test_two_snapshots_share_what_was_copied_out_for_the_newer() -> None:
    family = Family()
    for page in range(3):
        family.write(1, page)
    older = family.create(1, "a")
    family.write(1, 0)
    newer = family.create(1, "b")
    family.write(1, 0)
    family.write(1, 1)
    space = space_of(family.tree, family.tables)
    assert (space[older].exclusive_pages, space[older].shared_pages) == (1, 1)
    assert (space[newer].exclusive_pages, space[newer].shared_pages) == (1, 1)


def test_a_page_that_an_older_one_would_skip_to_is_shared_by_it() -> None:
    """The skip leads nowhere any more: what it had found is where it passes over now."""
    family = Family()
    family.write(1, 0)
    line = [family.create(1, name) for name in "abc"]
    family.write(1, 0)
    assert cow.remember(family.tree, family.tables, line[0], 0)
    family.remove(line[2])
    space = space_of(family.tree, family.tables)
    assert [(space[view].exclusive_pages, space[view].shared_pages) for view in line[:2]] == [
        (0, 1), (0, 1),
    ]  # fmt: skip


def test_branches_that_hang_deep_are_walked_without_recursion() -> None:
    family = Family()
    family.write(1, 0)
    view = 1
    for number in range(1200):
        ross = family.create(view, f"r{number}")
        view = family.branch(ross, f"w{number}")
    family.write(1, 0)
    space = space_of(family.tree, family.tables)
    assert {(each.exclusive_pages, each.shared_pages) for each in space.values()} == {(0, 1)}


# ---------------------------------------------------------------------------------- no space


def planned(family: Family, view: int, *pages: int, zero: bool = False) -> cow.WritePlan:
    return cow.plan_write(
        family.tree, family.tables, view, pages, cow_into=family.adopted[view],
        was_written=lambda page: page in family.base, zero=zero,
    )  # fmt: skip


def owing() -> tuple[Family, int]:
    family = Family()
    for page in range(3):
        family.write(1, page)
    return family, family.create(1, "a")


def test_a_write_that_has_space_goes_on_as_it_was() -> None:
    family, _ = owing()
    plan = planned(family, 1, 0, 1)
    for policy in SpacePolicy:
        decision = decide(family.tree, family.tables, plan, 2, policy)
        assert (decision.plan, decision.stale) == (plan, ())


def test_a_strict_write_without_space_fails_and_says_how_much() -> None:
    family, _ = owing()
    text = "write to base: 2 pages of snapshot space are needed and 1 are free, .* strict"
    with pytest.raises(NoSpace, match=text):
        decide(family.tree, family.tables, planned(family, 1, 0, 1), 1, STRICT)


def test_a_stale_write_without_space_owes_nothing_and_the_snapshot_goes_stale() -> None:
    family, ross = owing()
    decision = decide(family.tree, family.tables, planned(family, 1, 0, 1), 1, STALE)
    assert decision.stale == (ross,)
    assert (decision.plan.debts, decision.plan.space_pages) == ((), 0)


def test_a_debt_without_a_page_is_paid_all_the_same() -> None:
    """A zero exception takes no space: a page that was never written is not lost."""
    family, ross = owing()
    decision = decide(family.tree, family.tables, planned(family, 1, 0, 9), 0, STALE)
    assert [(debt.page, debt.owed) for debt in decision.plan.debts] == [(9, ross)]


def test_one_that_is_stale_already_is_not_named_again() -> None:
    family, ross = owing()
    family.tree.set_state(ross, SnapshotState.STALE)
    assert decide(family.tree, family.tables, planned(family, 1, 0), 0, STALE).stale == ()


def test_older_snapshots_that_find_the_page_through_it_go_stale_too() -> None:
    family, oldest = owing()
    family.write(1, 0)
    middle, newest = family.create(1, "b"), family.create(1, "c")
    view = family.branch(middle, "w")
    other = family.branch(oldest, "x")
    below = family.create(view, "d")
    assert losing(family.tree, family.tables, newest, 0) == {middle, newest, view, below}
    assert losing(family.tree, family.tables, newest, 1) == {
        oldest, middle, newest, view, other, below,
    }  # fmt: skip


def test_a_read_write_snapshot_overwrites_its_own_page_in_place() -> None:
    family, ross = owing()
    view = family.branch(ross, "w")
    family.write(view, 0)
    inner = family.create(view, "b")
    decision = decide(family.tree, family.tables, planned(family, view, 0), 0, STALE)
    assert (decision.plan.debts, decision.stale) == ((), (inner,))


def test_contents_that_have_no_place_themselves_fail_under_any_policy() -> None:
    family, ross = owing()
    view = family.branch(ross, "w")
    family.create(view, "b")
    with pytest.raises(NoSpace, match=r"write to w: .* no place for its own contents"):
        decide(family.tree, family.tables, planned(family, view, 0), 0, STALE)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 17))
def test_exactly_the_views_that_read_the_overwritten_page_go_stale(seed: int, page: int) -> None:
    family = grown(seed)
    for branch in [each.view for each in family.tree if each.writable]:
        before = {each.view: family.location(each.view, page) for each in family.tree}
        newer = [  # not adopted yet: the write is in them
            each.view for each in family.tree
            if each.branch == branch and each.view > family.adopted[branch]
        ]  # fmt: skip
        plan = planned(family, branch, page)
        try:
            decision = decide(family.tree, family.tables, plan, 0, STALE)
        except NoSpace:
            continue
        if decision.plan == plan:
            continue
        hit = {view for view, at in before.items() if at == before[branch]}
        assert set(decision.stale) == hit - {branch, *newer}


# ---------------------------------------------------------------------------------- warnings


def test_each_mark_is_warned_about_once() -> None:
    watch = SpaceWatch("vol")
    marks = [watch.step(used, 1000, STALE) for used in (700, 750, 800, 899, 900, 970, 1000)]
    assert [each.percent for each in marks if each] == [75, 90, 97]


def test_a_warning_tells_how_full_how_soon_and_what_then() -> None:
    warning = SpaceWatch("vol").step(3 << 29, 1 << 31, STALE, 1 << 20)
    assert warning is not None
    assert warning.text == (
        "snapshot space of vol is 75 % full: 1.5 GiB of 2 GiB, at 1 MiB/s it is full in 512 s; "
        "then snapshots go stale"
    )
    strict = SpaceWatch("vol").step(2 << 30, 1 << 31, STRICT, 1 << 20)
    assert strict is not None
    assert strict.text == "snapshot space of vol is 100 % full: 2 GiB of 2 GiB; then writes fail"


def test_use_that_goes_up_and_down_at_a_mark_warns_once() -> None:
    watch = SpaceWatch("vol")
    seen = [watch.step(used, 1000, STALE) for used in (750, 749, 750, 701, 750)]
    assert [each.percent for each in seen if each] == [75]


def test_use_that_was_clearly_below_warns_again() -> None:
    watch = SpaceWatch("vol")
    seen = [watch.step(used, 1000, STALE) for used in (760, 699, 760)]
    assert [each.percent for each in seen if each] == [75, 0, 75]


def test_use_that_falls_below_a_high_mark_warns_of_that_one_again() -> None:
    watch = SpaceWatch("vol")
    seen = [watch.step(used, 1000, STALE) for used in (950, 800, 950)]
    assert [each.percent for each in seen if each] == [90, 90]


def test_a_volume_without_a_limit_is_never_warned_about() -> None:
    assert SpaceWatch("vol").step(1 << 50, 0, STALE) is None


def test_a_policy_is_one_of_two_words() -> None:
    assert parse_policy("strict") is STRICT
    with pytest.raises(InvalidRequest, match="'lax' is no policy"):
        parse_policy("lax")
