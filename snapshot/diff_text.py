"""plan: a difference of two views as text: JSON for programs, a summary, a map of the volume.

For `snapshot diff A B [--json|--summary|--map]`. Offsets and lengths are bytes, as hosts and backup
tools count them; a page that only in part belongs to the volume is named as far as it does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from base.units import format_size
from snapshot.diff import extents, relate
from snapshot.exception_table import Pages
from snapshot.tree import SnapshotTree

EXTENTS_A_LINE: Final = 1000
_SHADES: Final = "·░▒▓█"
_PLAIN: Final = ".:+*#"


@dataclass(frozen=True, slots=True)
class Difference:
    """pages: that differ, ascending, all within the volume. older and newer: views; either order
    is right, a difference has no direction but when it is applied."""

    older: int
    newer: int
    pages: Pages
    page_bytes: int
    size_bytes: int

    @property
    def changed_bytes(self) -> int:
        """Of the volume, in pages that differ."""
        whole = len(self.pages) * self.page_bytes
        over = 0
        if len(self.pages):
            over = max((int(self.pages[-1]) + 1) * self.page_bytes - self.size_bytes, 0)
        return whole - over


def byte_extents(difference: Difference) -> Pages:
    """Rows of (offset, length), i64[n, 2], ascending."""
    runs = extents(difference.pages) * difference.page_bytes
    if len(runs):
        runs[-1, 1] = min(int(runs[-1, 1]), difference.size_bytes - int(runs[-1, 0]))
    return runs


def summary_text(tree: SnapshotTree, difference: Difference) -> str:
    """What differs, and what was looked at to know it."""
    older, newer = tree[difference.older].name, tree[difference.newer].name
    relation = relate(tree, difference.older, difference.newer)
    runs = len(extents(difference.pages))
    part = 100 * difference.changed_bytes / difference.size_bytes
    looked_at = ", ".join(tree[view].name for view in relation.between) or "none"
    if difference.older == difference.newer:
        way = "one view"
    elif relation.method == 500:
        way = "method 500, one is up the tree of the other"
    else:
        way = f"method 550, their paths meet at {tree[relation.common].name}"
    return (
        f"{older} → {newer} of {tree[tree.base].name}\n"
        f"  changed: {len(difference.pages):,} pages in {runs:,} extents, "
        f"{format_size(difference.changed_bytes)} of {format_size(difference.size_bytes)} "
        f"({part:.3g} %)\n"
        f"  found by: {way}\n"
        f"  looked at: {looked_at}\n"
    )


def json_lines(tree: SnapshotTree, difference: Difference) -> Iterator[str]:
    """Lines of one JSON object; EXTENTS_A_LINE extents to a line, so that nothing as large as the
    difference is made at once."""
    head = {
        "volume": tree[tree.base].name,
        "from": tree[difference.older].name,
        "to": tree[difference.newer].name,
        "size_bytes": difference.size_bytes,
        "page_bytes": difference.page_bytes,
        "changed_bytes": difference.changed_bytes,
    }
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "extents": [\n'
    runs = byte_extents(difference)
    for at in range(0, len(runs), EXTENTS_A_LINE):
        part = json.dumps(runs[at : at + EXTENTS_A_LINE].tolist(), separators=(",", ":"))
        yield part[1:-1] + ("\n" if at + EXTENTS_A_LINE >= len(runs) else ",\n")
    yield "]}\n"


def map_text(
    difference: Difference, *, width: int = 64, lines_max: int = 16, plain: bool = False
) -> str:
    """The volume from left to right and down. A sign is a part of it, and darker the more of it has
    changed; one changed page is enough to be seen."""
    shades = _PLAIN if plain else _SHADES
    volume_pages = -(-difference.size_bytes // difference.page_bytes)
    sign_pages = max(-(-volume_pages // (width * lines_max)), 1)
    signs = -(-volume_pages // sign_pages)
    counts = np.bincount(difference.pages // sign_pages, minlength=signs)
    steps = len(shades) - 1
    levels = -(-counts * steps // sign_pages)  # rounded up: nothing is lost
    drawn = "".join(shades[min(int(level), steps)] for level in levels)
    lines = [drawn[at : at + width] for at in range(0, signs, width)]
    marks = [format_size(at * sign_pages * difference.page_bytes) for at in range(0, signs, width)]
    wide = max(len(mark) for mark in marks)
    legend = f"a sign is {format_size(sign_pages * difference.page_bytes)}; "
    if sign_pages == 1:
        legend += f"{shades[0]} the same  {shades[-1]} changed"
    else:
        legend += f"{shades[0]} the same  " + "  ".join(
            f"{shades[step]} ≤ {100 * step // steps} %" for step in range(1, steps + 1)
        )
    body = [f"{mark:>{wide}} |{line}|" for mark, line in zip(marks, lines, strict=True)]
    return "\n".join([legend, *body]) + "\n"
