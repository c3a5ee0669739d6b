"""A World whose records owe snapshots: what each view must hold is told by the tags of records."""

from __future__ import annotations

from typing import Any

import numpy as np

from base.errors import NotFound
from base.units import KiB
from node.kept_pages import SnapshotPlace, ViewLine
from node.recovery import RecoveredRegion
from node.region_store import RegionStore
from node.snapshot_space import SnapshotSpace
from tests.node.store_world import CHUNKLET, REGION, Key, World, image_of
from transport.operation import Record
from volume.logical_disk import LogicalDisk, Space


class ViewWorld(World):
    """views: those that can be read, oldest first, by region. newest: what records are tagged with.
    removed: (view, next older one) of those that are gone."""

    disk_bytes = 2 * CHUNKLET

    def __init__(self, seed: int, *, space_pages: int = 64, **options: Any) -> None:
        super().__init__(seed, **options)
        self.view_disk = LogicalDisk(
            ld=1, node=0, group="g", space=Space.SNAPSHOT_DATA, raid=0, row_size=4,
            step_bytes=8 * KiB, chunklet_bytes=CHUNKLET, region_bytes=4 * CHUNKLET,
            chunklets=np.array([[[disk, 1]] for disk in range(4)], dtype=np.int32),
        )  # fmt: skip
        self.space_pages = space_pages
        self.newest: dict[Key, int] = dict.fromkeys(self.keys, 0)
        self.views: dict[Key, list[int]] = {key: [] for key in self.keys}
        self.removed: dict[Key, list[tuple[int, int]]] = {key: [] for key in self.keys}
        self.next_view = 2
        self.seen = 0  # views that were read and right

    def build(self, **options: Any) -> RegionStore:
        space = SnapshotSpace(self.space_pages, extent_pages=2)
        self.more = {"snapshot_place": lambda key: SnapshotPlace(self.view_disk, space)}
        return super().build(**options)

    def tag_of(self, key: Key) -> int:
        return self.newest[key]

    async def recover(self) -> dict[Key, RecoveredRegion]:
        found = await super().recover()
        for key, gone in self.removed.items():
            for view, older in gone:  # the catalog says so still
                self.store.remove_view(key, view, older)
        return found

    def create(self, key: Key) -> int:
        self.newest[key] = self.next_view
        self.views[key].append(self.next_view)
        self.next_view += 1
        return self.newest[key]

    def remove(self, key: Key, view: int) -> None:
        """Not the newest. Records that owe it may be on their way still."""
        views = self.views[key]
        if view == self.newest[key]:
            return
        at = views.index(view)
        older = views[at - 1] if at else 0
        views.remove(view)
        self.removed[key].append((view, older))
        self.store.remove_view(key, view, older)

    def random_operation(self) -> None:
        roll = self.rng.random()
        key = self.rng.choice(self.keys)
        if roll < 0.03 and len(self.views[key]) < 4:
            self.create(key)
        elif roll < 0.05 and self.views[key]:
            self.remove(key, self.rng.choice(self.views[key]))
        else:
            super().random_operation()

    async def check_bytes(self, key: Key, records: list[Record]) -> None:
        await super().check_bytes(key, records)
        await self.check_views(key, records)

    async def check_views(self, key: Key, committed: list[Record]) -> None:
        """Every view reads as the records left it that were numbered before it."""
        kept = self.store.regions[key].kept
        stale_views = kept.views.stale if kept is not None else set()
        assert kept is None or kept.views.check() == []
        for view in self.views[key]:
            image, _ = image_of([record for record in committed if record.cow_into < view])
            into = memoryview(bytearray(b"\xee" * REGION))
            try:
                await self.store.read_view(key, view, 0, into)
            except NotFound:
                assert any(stale >= view for stale in stale_views), (key, view)
                continue
            wrong = [
                at for at in range(0, REGION, 512) if into[at : at + 512] != image[at : at + 512]
            ]
            assert not wrong, (key, view, wrong)
            self.seen += 1


class LineWorld(ViewWorld):
    """Views go by the catalog only: each copy hands over by itself when it looks next."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.lines: dict[Key, ViewLine] = {key: ViewLine(0, ()) for key in self.keys}

    def build(self, **options: Any) -> RegionStore:
        store = super().build(**options)
        space = SnapshotSpace(self.space_pages, extent_pages=2)

        def place(key: Key) -> SnapshotPlace:
            return SnapshotPlace(self.view_disk, space, lambda: self.lines[key])

        store.snapshot_place = place
        return store

    def _changed(self, key: Key) -> None:
        self.lines[key] = ViewLine(self.next_view - 1, tuple(self.views[key]))

    def create(self, key: Key) -> int:
        made = super().create(key)
        self._changed(key)
        return made

    def remove(self, key: Key, view: int) -> None:
        """Any one. Before records are tagged with an older one than the newest every copy has
        handed over: the catalog waits for that."""
        self.views[key].remove(view)
        self._changed(key)
        if view == self.newest[key]:
            self.newest[key] = self.views[key][-1] if self.views[key] else 0
            kept = self.store.regions[key].kept if key in self.store.regions else None
            if kept is not None:
                kept.settle()
