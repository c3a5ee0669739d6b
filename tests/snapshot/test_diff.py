from __future__ import annotations

import numpy as np
import pytest

from snapshot.diff import changed_pages, extents, relate
from snapshot.exception_table import TableShape
from tests.snapshot.family import Family
from tests.snapshot.test_tree import figure_8


def test_ruling_r1_the_exceptions_of_the_newer_snapshot_are_not_in_the_difference() -> None:
    family = Family()
    older = family.create(1, "a")
    family.write(1, 1)
    newer = family.create(1, "b")
    family.write(1, 2)
    assert family.diff(older, newer) == [1]


def test_ruling_r1_the_closed_interval_would_report_too_much() -> None:
    family = Family()
    older = family.create(1, "a")
    family.write(1, 1)
    newer = family.create(1, "b")
    family.write(1, 2)
    closed = {page for view in (older, newer) for page in family.tables[view].find()[0].tolist()}
    assert closed == {1, 2}


def test_ruling_r1_to_the_end_of_the_branch_it_is_the_difference_to_the_base() -> None:
    family = Family()
    older = family.create(1, "a")
    family.write(1, 1)
    family.create(1, "b")
    family.write(1, 2)
    assert family.diff(older, 1) == [1, 2]


def test_ruling_r3_a_snapshot_that_only_pins_an_inherited_page_makes_no_difference() -> None:
    family = Family()
    family.write(1, 0)
    a = family.create(1, "A")
    w = family.branch(a, "W")
    b = family.create(w, "B")
    family.write(w, 0)
    assert family.tables[b].exceptions == 1
    assert family.diff(a, b) == []
    assert family.diff(a, w) == [0]


@pytest.mark.parametrize(
    ("one", "other", "method", "between", "common"),
    [
        ("2206", "2204", 500, "2206 2212 2210", "2204"),  # [00103]
        ("2308", "2204", 500, "2308 2304", "2204"),  # [00104]
        ("2206", "2308", 550, "2206 2212 2210 2308 2304", "2204"),  # [00111]–[00113]
        ("2204", "2204", 500, "", "2204"),
    ],
)
def test_figure_8_pairs_are_told_apart_by_the_views_that_the_seed_names(
    one: str, other: str, method: int, between: str, common: str
) -> None:
    tree, number = figure_8()
    relation = relate(tree, number[one], number[other])
    assert relation.method == method
    assert [tree[view].name for view in relation.between] == between.split()
    assert tree[relation.common].name == common


def test_a_difference_of_one_region_is_that_part_of_the_whole() -> None:
    family = Family()
    older = family.create(1, "a")
    for page in (1, 7, 8, 17):
        family.write(1, page)
    parts = [
        changed_pages(family.tree, family.tables, older, 1, region).tolist()
        for region in range(family.shape.regions)
    ]
    assert parts == [[1], [7, 8], [17]]


def test_two_thousand_snapshots_of_one_branch_have_exact_differences() -> None:
    family = Family(TableShape(regions=1, l2_entries=2, l3_entries=2))
    line = []
    for number in range(2000):
        line.append(family.create(1, f"s{number}"))
        family.write(1, number % family.pages)
    assert family.diff(line[10], line[12]) == [2, 3]
    assert family.diff(line[0], line[1999]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("pages", "runs"),
    [
        ([], []),
        ([5], [[5, 1]]),
        ([0, 1, 2, 7, 9, 10], [[0, 3], [7, 1], [9, 2]]),
    ],
)
def test_neighbouring_pages_make_one_extent(pages: list[int], runs: list[list[int]]) -> None:
    assert extents(np.array(pages, dtype=np.int64)).tolist() == runs
