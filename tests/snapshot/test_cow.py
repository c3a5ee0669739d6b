"""Golden tests of the rulings on the seed: what a write owes, who answers a read."""

from __future__ import annotations

from snapshot import cow
from snapshot.entry import NULL, PAGE, REDIRECT, SKIP, ZERO, kind_of
from snapshot.tree import SnapshotState
from tests.snapshot.family import Family


def kinds(family: Family, view: int, pages: int = 6) -> list[int]:
    return [kind_of(family.tables[view].get(page)) for page in range(pages)]


def test_only_the_first_write_to_a_page_copies_it_out() -> None:
    """[0061]"""
    family = Family()
    family.write(1, 0)
    ross = family.create(1, "a")
    family.write(1, 0)
    family.write(1, 0)
    assert len(family.space) == 1
    assert kinds(family, ross) == [PAGE, 0, 0, 0, 0, 0]
    family.check()


def test_only_the_newest_snapshot_is_charged() -> None:
    family = Family()
    family.write(1, 0)
    older = family.create(1, "a")
    newer = family.create(1, "b")
    family.write(1, 0)
    assert (family.tables[older].exceptions, family.tables[newer].exceptions) == (0, 1)
    family.check()


def test_a_page_that_was_never_written_owes_a_zero_exception_and_no_copy() -> None:
    family = Family()
    ross = family.create(1, "a")
    family.write(1, 2)
    assert kinds(family, ross)[2] == ZERO
    assert family.space == {}
    family.check()


def test_a_page_that_is_given_back_is_copied_out_first() -> None:
    family = Family()
    family.write(1, 2)
    ross = family.create(1, "a")
    family.trim(1, 2)
    assert kinds(family, ross)[2] == PAGE
    family.check()


def test_ruling_r4_an_inherited_page_is_redirected_and_never_pointed_at() -> None:
    """base → ROSS A → RWSS W → ROSS B; write W; write base; read B."""
    family = Family()
    family.write(1, 0)
    a = family.create(1, "A")
    w = family.branch(a, "W")
    b = family.create(w, "B")
    family.write(w, 0)
    family.write(1, 0)
    assert kinds(family, b)[0] == REDIRECT
    assert family.read(b, 0) == (1, 1)
    family.check()


def test_ruling_r4_a_page_of_its_own_moves_to_the_snapshot() -> None:
    family = Family()
    a = family.create(1, "A")
    w = family.branch(a, "W")
    family.write(w, 0)
    own = family.tables[w].get(0)
    b = family.create(w, "B")
    family.write(w, 0, half=1)
    assert family.tables[b].get(0) == own
    assert family.tables[w].get(0) not in (own, NULL)
    family.check()


def test_a_part_of_an_inherited_page_is_merged_with_the_rest_of_it() -> None:
    family = Family()
    family.write(1, 0, value=7)
    w = family.branch(family.create(1, "A"), "W")
    family.write(w, 0, half=0, value=8)
    assert family.read(w, 0) == (8, 7)
    family.check()


def test_an_operation_numbered_before_a_snapshot_is_in_it() -> None:
    family = Family()
    family.write(1, 0)
    older = family.create(1, "a")
    newer = family.create(1, "b", adopt=False)
    family.write(1, 0, value=5)
    assert family.read(newer, 0) == (5, 5)
    assert family.read(older, 0) == (1, 1)
    family.check()


def test_ruling_r5_a_removed_snapshot_gives_to_the_older_one_what_that_lacks() -> None:
    family = Family()
    for page in (0, 1):
        family.write(1, page)
    older = family.create(1, "a")
    family.write(1, 0)
    middle = family.create(1, "b")
    family.write(1, 0)
    family.write(1, 1)
    kept = family.tables[middle].get(1)
    family.remove(middle)
    assert family.tables[older].get(1) == kept
    assert len(family.space) == 2
    family.check()


def test_a_removal_may_stop_and_go_on() -> None:
    family = Family()
    for page in range(4):
        family.write(1, page)
    family.create(1, "a")
    middle = family.create(1, "b")
    for page in range(4):
        family.write(1, page)
    family.tree.set_state(middle, SnapshotState.REMOVING)
    cow.hand_over(family.tree, family.tables, middle, [0, 2])
    family.check()
    family.remove(middle)
    family.check()


def chain_with_exception_at_the_fourth() -> tuple[Family, list[int]]:
    family = Family()
    family.write(1, 0)
    line = [family.create(1, f"s{number}") for number in range(4)]
    family.write(1, 0)
    return family, line


def test_a_skip_leads_to_the_fourth_snapshot_at_once() -> None:
    """[0097]"""
    family, line = chain_with_exception_at_the_fourth()
    assert cow.remember(family.tree, family.tables, line[0], 0)
    assert kinds(family, line[0])[0] == SKIP
    family.check()


def test_ruling_r10_a_skip_to_a_snapshot_that_is_removed_leads_nobody_astray() -> None:
    family, line = chain_with_exception_at_the_fourth()
    cow.remember(family.tree, family.tables, line[0], 0)
    family.remove(line[3])
    family.check()


def test_ruling_r10_a_search_that_ends_at_the_writable_view_is_not_remembered() -> None:
    family = Family()
    family.write(1, 0)
    line = [family.create(1, f"s{number}") for number in range(3)]
    assert not cow.remember(family.tree, family.tables, line[0], 0)


def test_i33_an_older_snapshot_gains_no_exception_by_writes() -> None:
    family, line = chain_with_exception_at_the_fourth()
    before = [family.tables[view].exceptions for view in line[:3]]
    for page in range(family.pages):
        family.write(1, page)
    assert [family.tables[view].exceptions for view in line[:3]] == before


def test_a_promote_leaves_the_snapshot_and_all_newer_ones_as_they_were() -> None:
    family = Family()
    family.write(1, 0)
    first = family.create(1, "a")
    family.write(1, 0)
    family.write(1, 3)
    family.create(1, "b")
    family.write(1, 0)
    family.promote(first, 1)
    assert family.model[1] == family.model[first]
    family.check()
