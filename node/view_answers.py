"""plan: what an owner knows of the views of its regions: where two differ, how deep pages lie.

`DIFFER` with (volume, one view, another, regions) answers (regions that were looked at, pages);
`DEPTH` with (volume, view, regions) answers (regions that were looked at, of each its runs of pages
of one depth). What is left out, because this node does not own it now or cannot say yet, is to be
asked again.

Numbers travel as u32, little endian; pages are of the volume, ascending. A region of which this
node has no copy, though the catalog says that it owns it, was never written: between two points in
time nothing has changed there. For the volume itself that is not certain before the node has looked
whether it still is the owner.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest, NotFound, RemoteProtocolError, StorageError
from node.core import NodeCore
from node.region_store import RegionStore
from node.region_views import RegionViews
from node.roles import OWNER
from snapshot.diff import changed_pages, needed
from snapshot.entry import REDIRECT, kind_of
from snapshot.exception_table import Pages
from snapshot.packed_table import PackedTable, pack
from snapshot.tree import SnapshotState, SnapshotTree

DIFFER: Final = "views.differ"
DEPTH: Final = "views.depth"
REGIONS_MAX: Final = 1024  # of one question: a few milliseconds of the loop of a node
PAGES_MAX: Final = 1 << 18  # of one answer, or those of its first region

_U32: Final = np.dtype("<u4")
_NOTHING: Final[NDArray[np.uint64]] = np.zeros(0, dtype=np.uint64)


class ViewAnswers:
    """One node that is asked."""

    def __init__(self, core: NodeCore, store: RegionStore) -> None:
        self._core = core
        self._store = store

    def differ(self, arguments: bytes, now_ns: int) -> bytes:
        """`DIFFER`. RemoteProtocolError for what is no question; NotFound: there is no such volume;
        InvalidRequest: a view went stale."""
        volume, one, other, packed = unpack(arguments, 4)
        asked = _asked(volume, packed, one, other)
        tree = self._tree(volume, one, other)
        if tree is None:
            return pack_differing(asked[:0], asked[:0])
        live = tree[one].writable or tree[other].writable
        virtual = self._core.catalog.volume_manager.volume(volume)
        region_pages = virtual.region_bytes // virtual.page_bytes
        looked: list[int] = []
        found: list[tuple[int, RegionViews]] = []
        views = needed(tree, one, other)
        room = PAGES_MAX
        for region in asked.tolist():
            state = self._views_of((volume, region), live, now_ns)
            if state is False:
                continue
            if isinstance(state, RegionViews):
                _check_stale(tree, state, views)
                room -= sum(len(state.tables[view]) for view in views if view in state.tables)
                if room < 0 and looked:
                    break
                found.append((region, state))
            looked.append(region)
        tables = {view: PackedTable(asked[:0], _NOTHING) for view in _path_views(tree, one, other)}
        for view in views:
            tables[view] = pack(_parts(found, view), region_pages)
        pages = changed_pages(tree, tables, one, other)
        return pack_differing(np.asarray(looked, dtype=np.int64), pages)

    def depth(self, arguments: bytes, now_ns: int) -> bytes:
        """`DEPTH`: 0 where nothing is allocated, else how many views were looked at to find it."""
        volume, view, packed = unpack(arguments, 3)
        asked = _asked(volume, packed, view)
        tree = self._tree(volume, view)
        looked: list[int] = []
        runs: list[bytes] = []
        for region in asked.tolist() if tree is not None else ():
            assert tree is not None
            state = self._views_of((volume, region), tree[view].writable, now_ns)
            if state is False:
                continue
            depths = self._depths(tree, view, (volume, region), state)
            edges = np.flatnonzero(np.diff(depths)) + 1
            starts = np.concatenate([[0], edges])
            lengths = np.diff(np.append(starts, len(depths)))
            runs.append(np.stack([lengths, depths[starts]], axis=1).astype(_U32).tobytes())
            looked.append(region)
        regions = np.asarray(looked, dtype=np.int64).astype(_U32).tobytes()
        answer: bytes = msgpack.packb((regions, runs))
        return answer

    def _depths(
        self, tree: SnapshotTree, view: int, key: tuple[int, int], state: RegionViews | bool
    ) -> NDArray[np.int64]:
        virtual = self._core.catalog.volume_manager.volume(key[0])
        depths = np.zeros(virtual.region_bytes // virtual.page_bytes, dtype=np.int64)
        path = tree.path(view)
        if isinstance(state, RegionViews):
            _check_stale(tree, state, path)
            for step, at in enumerate(path, start=1):
                table = state.tables.get(at)
                for page, entry in table.items() if table is not None else ():
                    # What is redirected lies where the branch hangs on, further down the path.
                    if not depths[page] and kind_of(entry) != REDIRECT:
                        depths[page] = step
        if key in self._store:
            for offset, length, allocated in self._store.allocation(key):
                part = depths[
                    offset // virtual.page_bytes : (offset + length) // virtual.page_bytes
                ]
                if allocated:
                    part[part == 0] = len(path)
        return depths

    def _tree(self, volume: int, *views: int) -> SnapshotTree | None:
        """None: the catalog of this node is behind."""
        if not self._core.catalog.volume_manager.has_volume(volume):
            raise NotFound(f"there is no volume {volume}")
        tree = self._core.catalog.snapshots.trees.get(volume)
        if tree is None or not all(
            view in tree and tree[view].state is SnapshotState.ACTIVE for view in views
        ):
            return None
        return tree

    def _views_of(self, key: tuple[int, int], live: bool, now_ns: int) -> RegionViews | bool:
        """What the region has of snapshots; True: nothing; False: this node cannot say."""
        core = self._core
        copy = core.copies.get(key[0], {}).get(key[1])
        if copy is None:
            if not live:
                owner = core.catalog.row(key[0], key[1], core.self_id).owner
                return core.active and owner == core.self_id
            found = core.copy_for_host(*key, now_ns)
            if isinstance(found, StorageError):
                return False
            copy = found
        if copy.role != OWNER or not core.may_read(copy, now_ns):
            return False
        if key not in self._store:
            return True
        kept = self._store.region(key).kept
        if kept is None:
            return True
        if kept.missing:
            return False
        kept.settle()  # what a view that is gone has left belongs to an older one
        return kept.views


def _asked(volume: Any, packed: Any, *views: Any) -> Pages:
    """The regions of a question."""
    if any(type(each) is not int for each in (volume, *views)):
        raise RemoteProtocolError("a question about views names them by number")
    asked = numbers(packed)
    if len(asked) > REGIONS_MAX:
        raise RemoteProtocolError(f"a question is about {REGIONS_MAX} regions at most")
    return asked


def _check_stale(tree: SnapshotTree, state: RegionViews, views: list[int]) -> None:
    """What was not kept for want of space cannot be told."""
    for view in views:
        if view in state.stale:
            raise InvalidRequest(
                f"snapshot {tree[view].name} of volume {tree[tree.base].name} is stale:"
                " there was no space for what it had"
            )


def _path_views(tree: SnapshotTree, one: int, other: int) -> list[int]:
    both = dict.fromkeys((*tree.path(one), *tree.path(other)))
    return [view for view in both if view != tree.base]


def _parts(
    found: list[tuple[int, RegionViews]], view: int
) -> Iterator[tuple[int, array[int], array[int]]]:
    for region, views in found:
        table = views.tables.get(view)
        if table is not None and len(table):
            yield region, table.pages, table.entries


# ---------------------------------------------------------------------------------- messages


def ask_differing(volume: int, one: int, other: int, regions: Pages) -> bytes:
    """Arguments of `DIFFER`; regions ascending, at most REGIONS_MAX."""
    packed: bytes = msgpack.packb((volume, one, other, regions.astype(_U32).tobytes()))
    return packed


def pack_differing(regions: Pages, pages: Pages) -> bytes:
    """Answer of `DIFFER`."""
    packed: bytes = msgpack.packb((regions.astype(_U32).tobytes(), pages.astype(_U32).tobytes()))
    return packed


def unpack_differing(answer: bytes) -> tuple[Pages, Pages]:
    """(regions that were looked at, pages that differ). RemoteProtocolError."""
    regions, pages = unpack(answer, 2)
    return numbers(regions), numbers(pages)


def ask_depth(volume: int, view: int, regions: Pages) -> bytes:
    """Arguments of `DEPTH`; regions ascending, at most REGIONS_MAX."""
    packed: bytes = msgpack.packb((volume, view, regions.astype(_U32).tobytes()))
    return packed


def unpack_depth(answer: bytes) -> tuple[Pages, list[tuple[int, Pages]]]:
    """(regions that were looked at, of each its rows of (pages, depth)). RemoteProtocolError."""
    packed, runs = unpack(answer, 2)
    regions = numbers(packed)
    if type(runs) is not list or len(runs) != len(regions):
        raise RemoteProtocolError("an answer about depths has not one for each region")
    rows = [numbers(each) for each in runs]
    if any(len(each) % 2 for each in rows):
        raise RemoteProtocolError("an answer about depths is not rows of two numbers")
    shaped = [each.reshape(-1, 2) for each in rows]
    return regions, list(zip(regions.tolist(), shaped, strict=True))


def unpack(packed: bytes, fields: int) -> Any:
    """A list of so many fields. RemoteProtocolError."""
    try:
        values = msgpack.unpackb(packed, use_list=True, max_ext_len=0, max_map_len=0)
    except (ValueError, RecursionError, msgpack.UnpackException):
        raise RemoteProtocolError("what is said about views is not msgpack") from None
    if type(values) is not list or len(values) != fields:
        raise RemoteProtocolError(f"what is said about views has not {fields} fields")
    return values


def numbers(packed: Any) -> Pages:
    """Of u32. RemoteProtocolError."""
    if type(packed) is not bytes or len(packed) % 4:
        raise RemoteProtocolError("what is said about views has no numbers where they belong")
    return np.frombuffer(packed, dtype=_U32).astype(np.int64)
