"""plan: the tree of a volume family as text, for `snapshot tree`.

The base is on top. Below a writable view are its read-only snapshots, newest first: a look-up goes
up the page. Below a read-only snapshot are the read-write ones that hang on it. *Parent* and *copy
of* are two relations; where they differ from what the drawing shows, ask for their columns.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from snapshot.tree import SnapshotState, SnapshotTree, View, ViewKind

KINDS: Final = {
    ViewKind.BASE: "base",
    ViewKind.READ_ONLY: "read-only",
    ViewKind.READ_WRITE: "read-write",
}
_LINES: Final = ("├─ ", "└─ ", "│  ", "   ", "…")
_PLAIN: Final = ("|- ", "`- ", "|  ", "   ", "...")


@dataclass(frozen=True, slots=True)
class Column:
    """One more column: its title, and what stands there by view; nothing where it has none."""

    title: str
    cells: Mapping[int, str]
    right: bool = True


def relation_columns(tree: SnapshotTree) -> tuple[Column, Column]:
    """What each was taken from, and where its look-up goes next."""
    names = {each.view: each.name for each in tree}
    parents = {each.view: names.get(tree.parent(each.view), "") for each in tree}
    copies = {each.view: names.get(each.copy_of, "") for each in tree}
    return Column("copy of", copies, right=False), Column("parent", parents, right=False)


def draw_tree(
    tree: SnapshotTree,
    columns: Sequence[Column] = (),
    *,
    plain: bool = False,
    newest_max: int = 0,
) -> str:
    """Lines, each ended. plain: ASCII only. newest_max: of each branch only that many of its newest
    snapshots, and those that something hangs on; 0 for all."""
    signs = _PLAIN if plain else _LINES
    rows = [["volume", "kind", "state", *(column.title for column in columns)]]
    for label, view in _rows(tree, signs, newest_max):
        if view is None:
            rows.append([label])
            continue
        state = "" if view.state is SnapshotState.ACTIVE else view.state.name.lower()
        cells = [column.cells.get(view.view, "") for column in columns]
        rows.append([label, KINDS[view.kind], state, *cells])
    if not any(row[2] for row in rows[1:] if len(row) > 1):
        rows = [row[:2] + row[3:] for row in rows]
        right = [False, False, *(column.right for column in columns)]
    else:
        right = [False, False, False, *(column.right for column in columns)]
    widths = [
        max(cells_of(row[at]) for row in rows if at < len(row)) for at in range(len(right))
    ]  # fmt: skip
    return "".join(f"{_line(row, widths, right)}\n" for row in rows)


def _rows(
    tree: SnapshotTree, signs: tuple[str, ...], newest_max: int
) -> Iterator[tuple[str, View | None]]:
    """(drawn name, view) from the top; no view: a line that stands for some that are left out.
    With a stack of its own: a tree may be deeper than Python likes to recurse."""
    tee, corner, bar, gap, dots = signs
    hanging: dict[int, list[int]] = {}
    for each in tree:
        if each.origin:
            hanging.setdefault(each.origin, []).append(each.view)
    # (what stands before the name, what stands before names below it, view, number left out)
    waiting: list[tuple[str, str, int, int]] = [("", "", tree.base, 0)]
    while waiting:
        before, below, view, left_out = waiting.pop()
        if left_out:
            yield f"{before}{dots} {left_out:,} more", None
            continue
        at = tree[view]
        yield before + at.name, at
        inner = (
            _shown(tree, view, hanging, newest_max)
            if at.writable
            else [(each, 0) for each in hanging.get(view, ())]
        )
        for place in range(len(inner) - 1, -1, -1):
            last = place == len(inner) - 1
            waiting.append(
                (below + (corner if last else tee), below + (gap if last else bar), *inner[place])
            )


def _shown(
    tree: SnapshotTree, branch: int, hanging: Mapping[int, list[int]], newest_max: int
) -> list[tuple[int, int]]:
    """ROSSes of a branch, newest first, as (view, 0); (0, count) stands for some in between."""
    shown: list[tuple[int, int]] = []
    for place, view in enumerate(reversed(tree.read_only_of(branch))):
        if not newest_max or place < newest_max or view in hanging:
            shown.append((view, 0))
        elif shown and shown[-1][1]:
            shown[-1] = (0, shown[-1][1] + 1)
        else:
            shown.append((0, 1))
    return shown


def cells_of(text: str) -> int:
    """Cells of a terminal that a text takes: wide signs take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts: list[str] = []
    for text, width, flush in zip(row, widths, right, strict=False):
        pad = " " * (width - cells_of(text))
        parts.append(pad + text if flush else text + pad)
    return "  ".join(parts).rstrip()
