"""shell: what operators ask about snapshots at this node: the port `SnapshotView`.

A point in time is asked for by an entry of the catalog; the leader ends it (`node.gates`), and this
node sees that in its own catalog. The answer is given then, for only then can the snapshot be read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from admin.snapshot_view import Differing, SnapshotMade, SnapshotSpec, ViewRow
from base.errors import CutAbandoned, InvalidRequest, NoQuorum, Overloaded
from base.units import NS_PER_MS
from cluster.entries import BeginCut, encode
from cluster.snapshots import Snapshots
from snapshot.diff import extents
from snapshot.draw import KINDS
from snapshot.exception_table import Pages
from snapshot.refs import ref_of, split_ref
from snapshot.tree import SnapshotState, SnapshotTree, View, ViewKind
from volume.virtual_volume import VirtualVolume

if TYPE_CHECKING:
    from node.daemon import Node

PROPOSE_NS: Final = 10_000 * NS_PER_MS
LOOK_S: Final = 0.002  # between two looks at the catalog
DIFFERENCE_MS: Final = 15_000  # for the regions that are looked at at once
REGIONS_AT_ONCE: Final = 8192
AGAIN_S: Final = 0.01  # before a volume that is being cut is asked for again
_MS: Final = 1000


class SnapshotAdmin:
    """See `admin.snapshot_view.SnapshotView`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def _snapshots(self) -> Snapshots:
        return self._node.core.catalog.snapshots

    # ------------------------------------------------------------------ looking

    def _row(self, volume: VirtualVolume, tree: SnapshotTree, view: View) -> ViewRow:
        base = view.kind is ViewKind.BASE
        about = self._snapshots.about(volume.volume, view.view)
        parent = tree.parent(view.view)
        return ViewRow(
            volume=volume.name,
            name=view.name,
            ref=ref_of(volume.name, "" if base else view.name),
            view=view.view,
            kind=KINDS[view.kind],  # type: ignore[typeddict-item]
            state=view.state.name.lower(),  # type: ignore[typeddict-item]
            size_bytes=volume.size_bytes if base else about.size_bytes,
            branch=view.branch,
            origin=view.origin,
            copy_of=view.copy_of,
            parent=tree[parent].name if parent else "",
            taken_ms=about.taken_ms,
            rule=about.rule,
            expires_ms=about.expires_ms,
            retained_ms=about.retained_ms,
            source_cluster=about.source_cluster or self._node.core.catalog.cluster_id,
            source_volume=about.source_volume or int(volume.volume),
            source_view=about.source_view or view.view,
        )

    def _tree(self, volume: VirtualVolume) -> SnapshotTree:
        tree = self._snapshots.trees.get(volume.volume)
        return tree if tree is not None else SnapshotTree(volume.name)

    async def list_all(self) -> list[ViewRow]:
        """Every snapshot."""
        volumes = self._node.core.catalog.volume_manager.list_volumes()
        return [
            row
            for volume in sorted(volumes, key=lambda each: each.name)
            for row in self._family(volume)
            if row["kind"] != "base"
        ]

    def _family(self, volume: VirtualVolume) -> list[ViewRow]:
        tree = self._tree(volume)
        return [self._row(volume, tree, view) for view in tree]

    async def family(self, volume: str) -> list[ViewRow]:
        """A volume and its snapshots."""
        return self._family(self._node.core.catalog.volume_by_name(volume))

    async def show(self, volume: str, snapshot: str) -> ViewRow:
        """One snapshot."""
        found = self._node.core.catalog.volume_by_name(volume)
        tree = self._tree(found)
        return self._row(found, tree, tree.named(snapshot))

    # ------------------------------------------------------------------ comparing

    async def differences(
        self, volume: str, one: str, other: str, offset: int, count: int
    ) -> Differing:
        """Of regions from that byte on, some at a time until there are enough extents."""
        found = self._node.core.catalog.volume_by_name(volume)
        tree = self._tree(found)
        first, second = self._readable(tree, one), self._readable(tree, other)
        size_bytes, page_bytes = found.size_bytes, found.page_bytes
        region, regions = offset // found.region_bytes, len(found.table)
        parts: list[Pages] = [np.zeros(0, dtype=np.int64)]
        runs = extents(parts[0])
        while region < regions and len(runs) <= count:
            end = min(region + REGIONS_AT_ONCE, regions)
            changed = await self._node.exports.questions.differing(
                found.volume, first, second, region, end, DIFFERENCE_MS
            )
            parts.append(changed[changed >= -(-offset // page_bytes)])
            runs = extents(np.concatenate(parts))
            region = end
        following = region * found.region_bytes if region < regions else -1
        if len(runs) > count:
            following = int(runs[count, 0]) * page_bytes
        bounds = [
            [page * page_bytes, min(pages * page_bytes, size_bytes - page * page_bytes)]
            for page, pages in runs[:count].tolist()
        ]
        return Differing(
            volume=volume,
            one=one,
            other=other,
            size_bytes=size_bytes,
            page_bytes=page_bytes,
            extents=bounds,
            next_offset=following,
        )

    def _readable(self, tree: SnapshotTree, name: str) -> int:
        view = tree.named(name)
        if view.state is not SnapshotState.ACTIVE:
            raise InvalidRequest(
                f"snapshot {ref_of(tree[tree.base].name, name)} is {view.state.name.lower()}:"
                " it cannot be compared with anything"
            )
        return view.view

    # ------------------------------------------------------------------ taking

    async def create(self, spec: SnapshotSpec) -> SnapshotMade:
        """One point in time, begun, awaited, and told."""
        clock = self._node.ports.clock
        begun_ns, taken_ms = clock.now_ns(), clock.wall_ns() // NS_PER_MS
        name = spec.get("name", "") or _name_of(taken_ms)
        entry = BeginCut(
            tuple((*self._writable(each), name) for each in spec["volumes"]),
            taken_ms,
            request=spec.get("request", 0),
            source_cluster=spec.get("source_cluster", ""),
            source_volume=spec.get("source_volume", 0),
            source_view=spec.get("source_view", 0),
        )
        result = await self._begin(encode(entry), begun_ns + PROPOSE_NS)
        cut, members = result["cut"], result["members"]
        await self._ended(cut, begun_ns + PROPOSE_NS)
        rows = [self._made(int(volume), int(view), name) for volume, view in members]
        return SnapshotMade(
            cut=cut,
            took_ms=round((clock.now_ns() - begun_ns) / NS_PER_MS, 2),
            held_ms=round(self._node.core.gates.held_ns.get(cut, 0) / NS_PER_MS, 2),
            snapshots=rows,
        )

    def _writable(self, text: str) -> tuple[int, int]:
        """(volume, view) of what is to be cut."""
        name, snapshot = split_ref(text)
        volume = self._node.core.catalog.volume_by_name(name)
        tree = self._tree(volume)
        view = tree.named(snapshot) if snapshot else tree[tree.base]
        if not view.writable:
            raise InvalidRequest(
                f"{text} is read-only: a snapshot of it would never differ from it"
            )
        return int(volume.volume), view.view

    async def _begin(self, entry: bytes, deadline_ns: int) -> Any:
        clock = self._node.ports.clock
        while True:
            try:
                return await self._node.control.propose(entry, PROPOSE_NS)
            except Overloaded:
                # Another point in time of one of these volumes is being made.
                if clock.now_ns() > deadline_ns:
                    raise
            await clock.sleep(AGAIN_S)

    async def _ended(self, cut: int, deadline_ns: int) -> None:
        clock = self._node.ports.clock
        while cut in self._snapshots.cuts:
            if clock.now_ns() > deadline_ns:
                raise NoQuorum("the snapshot was begun and has not been ended; it may yet be made")
            await clock.sleep(LOOK_S)

    def _made(self, volume: int, number: int, name: str) -> ViewRow:
        found = self._node.core.catalog.volume_manager.volume(volume)
        view = self._snapshots.view(volume, number)
        if view.state is SnapshotState.STALE:
            raise CutAbandoned(
                f"snapshot {ref_of(found.name, name)} was not made: an owner of the volume did not"
                " take part in time, or a region went offline"
            )
        return self._row(found, self._tree(found), view)


def _name_of(taken_ms: int) -> str:
    moment = datetime.fromtimestamp(taken_ms / _MS, UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{taken_ms % _MS:03}"
