"""Random histories of a family against a model that keeps every view in full."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from snapshot import cow
from snapshot.tree import SnapshotTree
from tests.snapshot.family import Family


def step(family: Family, rng: random.Random, number: int) -> None:
    tree = family.tree
    writable = [each.view for each in tree if each.writable]
    fixed = [each.view for each in tree if not each.writable]
    view, page = rng.choice(writable), rng.randrange(family.pages)
    draw = rng.randrange(100)
    if draw < 40:
        family.write(view, page, rng.choice((None, 0, 1)))
    elif draw < 50:
        family.trim(view, page)
    elif draw < 66:
        family.create(view, f"r{number}", adopt=rng.random() < 0.7)
    elif draw < 70:
        family.adopt(view)
    elif draw < 76 and fixed:
        family.branch(rng.choice(fixed), f"w{number}")
    elif draw < 88 and fixed:
        victim = rng.choice([each.view for each in tree][1:])
        with contextlib.suppress(InvalidRequest):
            family.remove(victim)
    elif draw < 92 and fixed:
        cow.remember(tree, family.tables, rng.choice(fixed), page)
    elif draw < 95 and fixed:
        source = rng.choice(fixed)
        family.adopt(tree[source].branch)
        family.promote(source, tree[source].branch)
    elif fixed:
        table = family.tables[rng.choice(fixed)]
        region = rng.randrange(family.shape.regions)
        table.load_region(region, table.pack_region(region))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_every_view_reads_right_and_differences_are_exact(seed: int) -> None:
    rng = random.Random(seed)
    family = Family()
    for number in range(60):
        step(family, rng, number)
        if number % 6 == 5:
            family.check()
    family.check()
    plain = family.tree.to_tuple()
    assert SnapshotTree.from_tuple(plain).to_tuple() == plain


def test_the_model_sees_a_look_up_that_begins_at_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ruling R2: what [0096] says reads the wrong data of an older snapshot."""
    family = Family()
    first = family.create(1, "first")
    family.write(1, 0)
    family.create(1, "second")
    family.write(1, 0)
    family.check()
    newest = family.tree.newest(1)
    monkeypatch.setattr(
        "snapshot.cow.search_branch",
        lambda _tree, tables, _view, page: (tables[newest].get(page), newest),
    )
    assert family.read(first, 0) != family.model[first][0]
