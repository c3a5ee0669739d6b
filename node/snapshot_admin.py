"""shell: what operators ask about snapshots at this node: the port `SnapshotView`.

A point in time is asked for by an entry of the catalog; the leader ends it (`node.gates`), and this
node sees that in its own catalog. The answer is given then, for only then can the snapshot be read.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from admin.snapshot_view import (
    AgesSpec,
    Differing,
    RemovedSnapshot,
    RuleRow,
    SnapshotMade,
    SnapshotSpec,
    ViewRow,
)
from base.errors import CutAbandoned, InvalidRequest, NoQuorum, Overloaded, StorageError
from base.units import NS_PER_MS
from cluster.entries import BeginCut, RemoveSnapshot, SetSnapshotAges, SetSnapshotRule, encode
from cluster.snapshot_rules import check_served, facts
from cluster.snapshots import Snapshots
from snapshot.diff import extents
from snapshot.draw import KINDS
from snapshot.exception_table import Pages
from snapshot.refs import ref_of, split_ref
from snapshot.retention import check_may_remove
from snapshot.tree import SnapshotState, SnapshotTree, View, ViewKind
from volume.virtual_volume import VirtualVolume

if TYPE_CHECKING:
    from node.daemon import Node

PROPOSE_NS: Final = 10_000 * NS_PER_MS
LOOK_S: Final = 0.002  # between two looks at the catalog
DIFFERENCE_MS: Final = 15_000  # for the regions that are looked at at once
REGIONS_AT_ONCE: Final = 8192
REMOVED_NS: Final = 8_000 * NS_PER_MS  # an answer that tells of a removal waits so long for its end
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
            expires_ms=_from(taken_ms, spec.get("expire_s", 0)),
            retained_ms=_from(taken_ms, spec.get("retain_s", 0)),
            request=spec.get("request", 0),
            source_cluster=spec.get("source_cluster", ""),
            source_volume=spec.get("source_volume", 0),
            source_view=spec.get("source_view", 0),
        )
        result = await self._begin(encode(entry), begun_ns + PROPOSE_NS)
        cut, members = result["cut"], result["members"]
        await self._ended(cut, clock.now_ns() + PROPOSE_NS)  # it may have waited for another one
        rows = [self._made(int(volume), int(view)) for volume, view in members]
        if not all(row["state"] == "active" for row in rows):
            await self._forget(members)
            refs = ", ".join(row["ref"] for row in rows)
            raise CutAbandoned(
                f"{refs} could not be made: an owner did not take part in time, or a region went"
                " offline; nothing was kept of it"
            )
        return SnapshotMade(
            cut=cut,
            took_ms=round((clock.now_ns() - begun_ns) / NS_PER_MS, 2),
            held_ms=round(self._node.core.gates.held_ns.get(cut, 0) / NS_PER_MS, 2),
            snapshots=rows,
        )

    # ------------------------------------------------------------------ keeping and removing

    async def set_ages(self, volume: str, snapshot: str, spec: AgesSpec) -> ViewRow:
        """Counted from now."""
        found, view = self._found(volume, snapshot)
        about = self._snapshots.about(found.volume, view.view)
        now_ms = self._now_ms()
        entry = SetSnapshotAges(
            int(found.volume),
            view.view,
            _from(now_ms, spec["expire_s"]) if "expire_s" in spec else about.expires_ms,
            _from(now_ms, spec["retain_s"]) if "retain_s" in spec else about.retained_ms,
        )
        await self._node.control.propose(encode(entry), PROPOSE_NS)
        return await self.show(volume, snapshot)

    async def remove(self, volume: str, snapshot: str) -> RemovedSnapshot:
        """Begun by the catalog; every copy hands over, and the leader ends it."""
        found, view = self._found(volume, snapshot)
        number = int(found.volume)
        if view.state is not SnapshotState.REMOVING:
            check_may_remove(
                self._tree(found), view.view, facts(self._snapshots, number)[view.view],
                self._now_ms(),
            )  # fmt: skip
            entry = RemoveSnapshot(number, view.view)
            await self._node.control.propose(encode(entry), PROPOSE_NS)
        clock = self._node.ports.clock
        deadline_ns = clock.now_ns() + REMOVED_NS
        while clock.now_ns() < deadline_ns:
            tree = self._snapshots.trees.get(number)
            if tree is None or view.view not in tree:
                return RemovedSnapshot(ref=ref_of(volume, snapshot), removed=True)
            await clock.sleep(AGAIN_S)
        return RemovedSnapshot(ref=ref_of(volume, snapshot), removed=False)

    def _found(self, volume: str, snapshot: str) -> tuple[VirtualVolume, View]:
        found = self._node.core.catalog.volume_by_name(volume)
        return found, self._tree(found).named(snapshot)

    def _now_ms(self) -> int:
        return self._node.ports.clock.wall_ns() // NS_PER_MS

    async def rules(self) -> list[RuleRow]:
        """Of all volumes, by name."""
        manager = self._node.core.catalog.volume_manager
        rows = [
            RuleRow(volume=manager.volume(number).name, rule=rule)
            for number, rules in self._snapshots.rules.items()
            for rule in rules
        ]
        return sorted(rows, key=lambda row: row["volume"])

    async def set_rule(self, volume: str, rule: str, wanted: bool) -> list[RuleRow]:
        """Through the catalog; whoever leads acts on it."""
        found = self._node.core.catalog.volume_by_name(volume)
        if wanted:
            check_served(rule)
        entry = SetSnapshotRule(int(found.volume), rule, wanted)
        await self._node.control.propose(encode(entry), PROPOSE_NS)
        return [row for row in await self.rules() if row["volume"] == volume]

    # ------------------------------------------------------------------ steps of taking one

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

    def _made(self, volume: int, number: int) -> ViewRow:
        found = self._node.core.catalog.volume_manager.volume(volume)
        return self._row(found, self._tree(found), self._snapshots.view(volume, number))

    async def _forget(self, members: list[tuple[int, int]]) -> None:
        """What an abandoned cut left is no point in time, and its name is wanted again."""
        for volume, view in members:
            with suppress(StorageError):  # then it stays, and says that it is stale
                entry = RemoveSnapshot(int(volume), int(view))
                await self._node.control.propose(encode(entry), PROPOSE_NS)


def _from(now_ms: int, seconds: int) -> int:
    return now_ms + seconds * _MS if seconds else 0


def _name_of(taken_ms: int) -> str:
    moment = datetime.fromtimestamp(taken_ms / _MS, UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{taken_ms % _MS:03}"
