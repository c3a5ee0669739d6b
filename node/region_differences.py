"""plan: pages in which two views differ, of regions that this node owns: what owners are asked.

`CALL` with (volume, one view, another, regions) answers (regions that were looked at, pages). What
is left out, because this node does not own it now or cannot say yet, is to be asked again.

Regions and pages travel as u32, little endian; pages are of the volume, ascending. A region of
which this node has no copy, though the catalog says that it owns it, was never written: between two
points in time nothing has changed there. For the volume itself that is not certain before the node
has looked whether it still is the owner.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from base.errors import NotFound, RemoteProtocolError, StorageError
from node.core import NodeCore
from node.region_store import RegionStore
from node.region_views import RegionViews
from node.roles import OWNER
from snapshot.diff import changed_pages, needed
from snapshot.exception_table import Pages
from snapshot.packed_table import PackedTable, pack
from snapshot.tree import SnapshotState, SnapshotTree

CALL: Final = "views.differ"
REGIONS_MAX: Final = 1024  # of one question: a few milliseconds of the loop of a node
PAGES_MAX: Final = 1 << 18  # of one answer, or those of its first region

_U32: Final = np.dtype("<u4")


def pack_question(volume: int, one: int, other: int, regions: Pages) -> bytes:
    """Arguments of the call; regions ascending, at most REGIONS_MAX."""
    packed: bytes = msgpack.packb((volume, one, other, regions.astype(_U32).tobytes()))
    return packed


def unpack_answer(result: bytes) -> tuple[Pages, Pages]:
    """(regions that were looked at, pages that differ). RemoteProtocolError."""
    regions, pages = _unpack(result, 2)
    return _numbers(regions), _numbers(pages)


def answer(arguments: bytes, core: NodeCore, store: RegionStore | None, now_ns: int) -> bytes:
    """See above. RemoteProtocolError for what is no question; NotFound: there is no such volume."""
    volume, one, other, packed = _unpack(arguments, 4)
    asked = _numbers(packed)
    if type(volume) is not int or type(one) is not int or type(other) is not int:
        raise RemoteProtocolError("a question about views names them by number")
    if len(asked) > REGIONS_MAX:
        raise RemoteProtocolError(f"a question is about {REGIONS_MAX} regions at most")
    manager = core.catalog.volume_manager
    if not manager.has_volume(volume):
        raise NotFound(f"there is no volume {volume}")
    tree = core.catalog.snapshots.trees.get(volume)
    if store is None or tree is None or not _readable(tree, one) or not _readable(tree, other):
        return _packed(asked[:0], asked[:0])  # the catalog of this node is behind
    live = tree[one].writable or tree[other].writable
    region_pages = manager.volume(volume).region_bytes // manager.volume(volume).page_bytes
    looked: list[int] = []
    found: list[tuple[int, RegionViews]] = []
    views = needed(tree, one, other)
    room = PAGES_MAX
    for region in asked.tolist():
        state = _views_of(core, store, (volume, region), live, now_ns)
        if state is False:
            continue
        if isinstance(state, RegionViews):
            room -= sum(len(state.tables[view]) for view in views if view in state.tables)
            if room < 0 and looked:
                break
            found.append((region, state))
        looked.append(region)
    tables = {view: PackedTable(asked[:0], _NOTHING) for view in _path_views(tree, one, other)}
    for view in views:
        tables[view] = pack(_parts(found, view), region_pages)
    pages = changed_pages(tree, tables, one, other)
    return _packed(np.asarray(looked, dtype=np.int64), pages)


_NOTHING: Final[NDArray[np.uint64]] = np.zeros(0, dtype=np.uint64)


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


def _readable(tree: SnapshotTree, view: int) -> bool:
    return view in tree and tree[view].state is SnapshotState.ACTIVE


def _views_of(
    core: NodeCore, store: RegionStore, key: tuple[int, int], live: bool, now_ns: int
) -> RegionViews | bool:
    """What the region has of snapshots; True: nothing; False: this node cannot say."""
    copy = core.copies.get(key[0], {}).get(key[1])
    if copy is None:
        if not live:
            owner = core.catalog.row(key[0], key[1], core.self_id).owner
            return core.active and owner == core.self_id
        refusal = core.copy_for_host(*key, now_ns)
        if isinstance(refusal, StorageError):
            return False
        copy = refusal
    if copy.role != OWNER or not core.may_read(copy, now_ns):
        return False
    if key not in store:
        return True
    kept = store.region(key).kept
    if kept is None:
        return True
    if kept.missing:
        return False
    kept.settle()  # what a view that is gone has left belongs to an older one
    return kept.views


def _packed(regions: Pages, pages: Pages) -> bytes:
    packed: bytes = msgpack.packb((regions.astype(_U32).tobytes(), pages.astype(_U32).tobytes()))
    return packed


def _unpack(packed: bytes, fields: int) -> Any:
    try:
        values = msgpack.unpackb(packed, use_list=True, max_ext_len=0, max_map_len=0)
    except (ValueError, RecursionError, msgpack.UnpackException):
        raise RemoteProtocolError("what is said about views is not msgpack") from None
    if type(values) is not list or len(values) != fields:
        raise RemoteProtocolError(f"what is said about views has not {fields} fields")
    return values


def _numbers(packed: Any) -> Pages:
    if type(packed) is not bytes or len(packed) % 4:
        raise RemoteProtocolError("what is said about views has no numbers where they belong")
    return np.frombuffer(packed, dtype=_U32).astype(np.int64)
