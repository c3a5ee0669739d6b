"""Differences from tables that were packed together out of regions."""

from __future__ import annotations

from array import array
from random import Random

import numpy as np

from base.errors import InvalidRequest
from snapshot.cow import locate
from snapshot.diff import changed_pages, needed
from snapshot.entry import ZERO_ENTRY
from snapshot.exception_table import ExceptionTable
from snapshot.packed_table import PackedTable, pack
from snapshot.tree import SnapshotState
from tests.snapshot.family import Family


def packed(table: ExceptionTable) -> PackedTable:
    """As an owner packs it: region by region, and no region without exceptions."""
    parts = []
    for region in table.regions().tolist():
        pages, entries = table.find(region)
        inside = array("H", (pages - region * table.shape.region_pages).tolist())
        parts.append((region, inside, array("Q", entries.tolist())))
    return pack(parts, table.shape.region_pages)


def random_family(rng: Random) -> Family:
    family = Family()
    for step in range(rng.randrange(5, 60)):
        views = list(family.tree)
        view = rng.choice(views)
        roll = rng.random()
        try:
            if view.writable and roll < 0.15:
                family.create(view.view, f"s{step}")
            elif not view.writable and roll < 0.5:
                family.branch(view.view, f"w{step}")
            elif not view.writable or (view.view != 1 and roll < 0.2):
                family.remove(view.view)
            elif view.writable and roll < 0.4:
                family.trim(view.view, rng.randrange(family.pages))
            elif view.writable:
                family.write(view.view, rng.randrange(family.pages))
        except InvalidRequest:
            continue
    return family


def test_needed_tables_are_enough_for_the_difference_of_any_two_views() -> None:
    rng, compared = Random(7), 0
    for _ in range(60):
        family = random_family(rng)
        views = [view.view for view in family.tree if view.state is SnapshotState.ACTIVE]
        for one in views:
            for other in views:
                if family.tree.base in (one, other) and one == other:
                    continue
                enough = needed(family.tree, one, other)
                nothing = pack([], family.shape.region_pages)
                some = {
                    view: packed(table) if view in enough else nothing
                    for view, table in family.tables.items()
                }
                found = set(changed_pages(family.tree, some, one, other).tolist())
                exact = set(changed_pages(family.tree, family.tables, one, other).tolist())
                assert exact <= found
                for page in found - exact:  # it came and went in between
                    assert locate(family.tree, family.tables, one, page) == ZERO_ENTRY
                    assert locate(family.tree, family.tables, other, page) == ZERO_ENTRY
                compared += bool(found)
    assert compared > 500


def test_within_the_branch_of_the_base_only_what_lies_between_is_needed() -> None:
    family = Family()
    views = [family.create(1, f"s{number}") for number in range(5)]
    assert needed(family.tree, views[1], views[3]) == views[1:3]
    assert needed(family.tree, views[3], 1) == views[3:]


def test_pages_without_an_exception_are_null() -> None:
    table = pack([(2, array("H", [1, 5]), array("Q", [7, 8]))], 10)
    assert table.gather(np.array([0, 21, 22, 25, 99])).tolist() == [0, 7, 0, 8, 0]
    assert pack([], 10).gather(np.array([3])).tolist() == [0]
