from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshot.draw import Column, cells_of, draw_tree, relation_columns
from snapshot.tree import SnapshotState, SnapshotTree
from tests.snapshot.test_space import grown
from tests.snapshot.test_tree import figure_8


def active() -> SnapshotTree:
    tree, _ = figure_8()
    for each in tree:
        tree.set_state(each.view, SnapshotState.ACTIVE)
    return tree


FIGURE_8 = """\
volume            kind
2200              base
├─ 2204           read-only
│  └─ 2304        read-write
│     ├─ 2308     read-only
│     │  └─ 2306  read-write
│     └─ 2310     read-only
├─ 2210           read-only
│  └─ 2104        read-write
│     └─ 2106     read-only
├─ 2212           read-only
└─ 2206           read-only
"""


def test_figure_8_is_drawn() -> None:
    assert draw_tree(active()) == FIGURE_8


def test_figure_8_is_drawn_with_both_relations_and_in_ascii() -> None:
    tree = active()
    assert draw_tree(tree, relation_columns(tree), plain=True) == (
        "volume            kind        copy of  parent\n"
        "2200              base\n"
        "|- 2204           read-only   2200     2200\n"
        "|  `- 2304        read-write  2204     2204\n"
        "|     |- 2308     read-only   2304     2304\n"
        "|     |  `- 2306  read-write  2308     2308\n"
        "|     `- 2310     read-only   2304     2308\n"
        "|- 2210           read-only   2200     2204\n"
        "|  `- 2104        read-write  2210     2210\n"
        "|     `- 2106     read-only   2104     2104\n"
        "|- 2212           read-only   2200     2210\n"
        "`- 2206           read-only   2200     2212\n"
    )


def test_states_and_more_columns_are_shown_where_there_are_any() -> None:
    tree = SnapshotTree("vol")
    first = tree.create_read_only("first", tree.base).view
    second = tree.create_read_only("second", tree.base).view
    tree.set_state(first, SnapshotState.STALE)
    sizes = Column("exclusive", {first: "16 KiB", second: "1.5 GiB"})
    assert draw_tree(tree, [sizes]) == (
        "volume     kind       state     exclusive\n"
        "vol        base\n"
        "├─ second  read-only  creating    1.5 GiB\n"
        "└─ first   read-only  stale        16 KiB\n"
    )


def test_wide_names_keep_the_columns_in_line() -> None:
    tree = SnapshotTree("テープ")
    tree.create_read_only("e\u0301te\u0301", tree.base)
    lines = draw_tree(tree).splitlines()
    assert [cells_of(line[: line.index(kind)]) for line, kind in zip(
        lines, ("kind", "base", "read-only"), strict=True
    )] == [8, 8, 8]  # fmt: skip


def test_only_the_newest_are_drawn_and_those_that_something_hangs_on() -> None:
    tree = SnapshotTree("vol")
    line = [tree.create_read_only(f"s{number}", tree.base).view for number in range(2000)]
    tree.create_read_write("test", line[5])
    for each in tree:
        tree.set_state(each.view, SnapshotState.ACTIVE)
    assert draw_tree(tree, newest_max=2) == (
        "volume           kind\n"
        "vol              base\n"
        "├─ s1999         read-only\n"
        "├─ s1998         read-only\n"
        "├─ … 1,992 more\n"
        "├─ s5            read-only\n"
        "│  └─ test       read-write\n"
        "└─ … 5 more\n"
    )
    assert draw_tree(tree).count("\n") == 2003


def test_a_tree_may_be_deeper_than_python_recurses() -> None:
    tree = SnapshotTree("vol")
    view = tree.base
    for number in range(1200):
        ross = tree.create_read_only(f"r{number}", view).view
        view = tree.create_read_write(f"w{number}", ross).view
    assert draw_tree(tree).splitlines()[-1].split()[-2:] == ["w1199", "read-write"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_every_view_has_one_line_below_what_it_hangs_on(seed: int, plain: bool) -> None:
    tree = grown(seed, 40).tree
    lines = draw_tree(tree, plain=plain).splitlines()[1:]
    depth: list[str] = []
    seen = []
    for line in lines:
        name = next(word for word in line.split() if word[0].isalnum())
        level = line.index(name) // 3
        depth[level:] = [name]
        seen.append(name)
        at = tree.named(name)
        above = tree[at.origin or at.branch].name if level else name
        assert depth[level - 1 if level else 0] == above
    assert sorted(seen) == sorted(each.name for each in tree)


@pytest.mark.parametrize(("text", "cells"), [("", 0), ("vol", 3), ("ボ", 2), ("e\u0301", 1)])
def test_cells_of_a_terminal(text: str, cells: int) -> None:
    assert cells_of(text) == cells
