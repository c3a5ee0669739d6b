"""shell: block status contexts about snapshots, as hosts ask for them over NBD.

| context | says of each page |
|---|---|
| `qemu:dirty-bitmap:NAME` | bit 0: it may differ from what the snapshot NAME of the volume has |
| `qemu:allocation-depth` | 0: nothing is allocated; else how many views were looked at to find it |

Backup tools know both names and take them for what they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from base.errors import NotFound, StorageError
from base.tasks import Supervisor
from host.export import ALLOCATION, HostRequest
from node.view_questions import ViewQuestions
from snapshot.diff import extents
from snapshot.exception_table import Pages
from snapshot.tree import SnapshotState, SnapshotTree
from volume.virtual_volume import VirtualVolume

DIRTY: Final = "qemu:dirty-bitmap:"
DEPTH: Final = "qemu:allocation-depth"
NAMED_MAX: Final = 256  # newest snapshots whose contexts are offered; any other can be asked for
ANSWER_MS: Final = 15_000


class ViewStatus:
    """Of all views that are exported at one node."""

    def __init__(self, questions: ViewQuestions, supervisor: Supervisor) -> None:
        self._questions = questions
        self._supervisor = supervisor

    def contexts(self, tree: SnapshotTree | None, view: int) -> tuple[str, ...]:
        """What a view offers, by name."""
        if tree is None:
            return (ALLOCATION,)
        others = [
            f"{DIRTY}{each.name}"
            for each in tree
            if not each.writable and each.state is SnapshotState.ACTIVE and each.view != view
        ]
        depth = () if view == tree.base else (DEPTH,)
        return (ALLOCATION, *depth, *others[-NAMED_MAX:])

    @staticmethod
    def answers(tree: SnapshotTree | None, context: str) -> bool:
        """Whether it can be asked for, also when it was not offered."""
        name = context.removeprefix(DIRTY)
        return (
            tree is not None
            and name != context
            and any(each.name == name and each.state is SnapshotState.ACTIVE for each in tree)
        )

    def submit(
        self, volume: VirtualVolume, tree: SnapshotTree, view: int, ask: HostRequest
    ) -> None:
        """A STATUS of another context than ALLOCATION."""
        self._supervisor.start(self._answer(volume, tree, view, ask), name="view_status")

    async def _answer(
        self, volume: VirtualVolume, tree: SnapshotTree, view: int, ask: HostRequest
    ) -> None:
        first = ask.offset // volume.region_bytes
        end = -(-(ask.offset + ask.length) // volume.region_bytes)
        try:
            if ask.context == DEPTH:
                rows = await self._questions.depths(volume.volume, view, first, end, ANSWER_MS)
            else:
                name = ask.context.removeprefix(DIRTY)
                since = tree.named(name)
                if since.state is not SnapshotState.ACTIVE:
                    raise NotFound(f"snapshot {name} is {since.state.name.lower()}")
                pages = await self._questions.differing(
                    volume.volume, since.view, view, first, end, ANSWER_MS
                )
                region_pages = volume.region_bytes // volume.page_bytes
                rows = _flagged(pages, first * region_pages, end * region_pages)
        except StorageError as error:
            ask.done(error)
        else:
            start = first * volume.region_bytes
            ask.done(None, _cut(rows * np.array([volume.page_bytes, 1]), start, ask))


def _flagged(pages: Pages, first: int, end: int) -> Pages:
    """Rows of (pages, 1 where they are among `pages`, else 0) from `first` to `end`."""
    runs = extents(pages)
    rows: list[tuple[int, int]] = []
    at = first
    for start, count in runs.tolist():
        if start > at:
            rows.append((start - at, 0))
        rows.append((count, 1))
        at = start + count
    if at < end:
        rows.append((end - at, 0))
    return np.asarray(rows, dtype=np.int64).reshape(-1, 2)


def _cut(rows: Pages, start: int, ask: HostRequest) -> list[tuple[int, int]]:
    """Rows of (bytes, flags) from byte `start` on, as far as they lie in the request."""
    ends = start + np.cumsum(rows[:, 0])
    starts = ends - rows[:, 0]
    lengths = np.minimum(ends, ask.offset + ask.length) - np.maximum(starts, ask.offset)
    inside = lengths > 0
    return list(zip(lengths[inside].tolist(), rows[inside, 1].tolist(), strict=True))
