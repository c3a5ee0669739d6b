"""plan: where a node keeps what snapshots are owed: its logical disks for that, one behind another.

All regions of one provisioning group and one size of page share a space. The catalog gives the node
disks for it (`cluster.snapshot_space`); none is ever taken away, so pages keep their numbers. When
little is free the space looks whether the catalog has given more, and asks for it if not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from base.errors import InvalidRequest
from cluster.catalog import Catalog
from node.checkpoint import Key
from node.kept_pages import SnapshotPlace, ViewLine
from node.snapshot_space import LOW_PART, SnapshotSpace
from snapshot.tree import SnapshotState, SnapshotTree
from volume.logical_disk import SNAPSHOT_EXTENT_PAGES, LogicalDisk
from volume.raid import DiskExtent, DiskOk

Pool = tuple[str, int]  # (group, bytes of a page)
NO_VIEWS = ViewLine(0, ())


class SnapshotDisks:
    """The logical disks of one space as one range of bytes."""

    def __init__(self) -> None:
        self.disks: list[LogicalDisk] = []
        self._starts: list[int] = []
        self.size_bytes = 0

    def add(self, disk: LogicalDisk) -> None:
        """Behind the others. What does not fill an extent is not used."""
        self.disks.append(disk)
        self._starts.append(self.size_bytes)
        self.size_bytes += disk.regions * disk.region_bytes

    def plan_read(self, offset: int, length: int, disk_ok: DiskOk = None) -> list[DiskExtent]:
        """As `LogicalDisk.plan_read`."""
        return self._plan(False, offset, length, disk_ok)

    def plan_write(self, offset: int, length: int, disk_ok: DiskOk = None) -> list[DiskExtent]:
        """As `LogicalDisk.plan_write`."""
        return self._plan(True, offset, length, disk_ok)

    def _plan(self, write: bool, offset: int, length: int, disk_ok: DiskOk) -> list[DiskExtent]:
        if offset < 0 or offset + length > self.size_bytes:
            raise InvalidRequest(
                f"{length} bytes at {offset} are not within {self.size_bytes} of snapshot space"
            )
        found: list[DiskExtent] = []
        done = 0
        while done < length:
            at = bisect_right(self._starts, offset + done) - 1
            disk, inside = self.disks[at], offset + done - self._starts[at]
            count = min(length - done, disk.regions * disk.region_bytes - inside)
            plan = disk.plan_write if write else disk.plan_read
            extents = plan(inside, count, disk_ok)
            if done:
                extents = [each._replace(start=each.start + done) for each in extents]
            found += extents
            done += count
        return found


class SnapshotPlaces:
    """Of one node. catalog(): as it is now. on_low(pool, disks): the node should ask for more room;
    disks: how many it has."""

    def __init__(
        self,
        node: int,
        catalog: Callable[[], Catalog],
        on_low: Callable[[Pool, int], None] = lambda _pool, _disks: None,
    ) -> None:
        self._node = node
        self._catalog = catalog
        self._on_low = on_low
        self._places: dict[Pool, SnapshotPlace] = {}
        self._lines: dict[int, tuple[SnapshotTree, int, ViewLine]] = {}  # by volume

    def place_of(self, key: Key) -> SnapshotPlace | None:
        """The space of a region; None: the catalog has given this node none of its kind."""
        manager = self._catalog().volume_manager
        if not manager.has_volume(key[0]):
            return None
        volume = manager.volume(key[0])
        pool = (volume.group, volume.page_bytes)
        place = self._places.get(pool)
        if place is None or self._replaced(place, pool):
            disks = SnapshotDisks()
            space = SnapshotSpace(0)
            space.more = lambda: self._look(pool)
            place = self._places[pool] = SnapshotPlace(disks, space)
        if not place.space.extents:
            self._add(place, pool)
        if not place.space.extents:
            return None
        number = key[0]
        return place._replace(line=lambda: self._line(number))

    def _line(self, volume: int) -> ViewLine:
        tree = self._catalog().snapshots.trees.get(volume)
        if tree is None:
            return NO_VIEWS
        kept = self._lines.get(volume)
        if kept is None or kept[0] is not tree or kept[1] != tree.changes:
            alive = tuple(
                view
                for view in tree.read_only_of(tree.base)
                if tree[view].state is not SnapshotState.REMOVING
            )
            kept = self._lines[volume] = (tree, tree.changes, ViewLine(tree.highest, alive))
        return kept[2]

    def _disks(self, pool: Pool) -> Sequence[LogicalDisk]:
        return self._catalog().volume_manager.snapshot_disks(self._node, *pool)

    def _replaced(self, place: SnapshotPlace, pool: Pool) -> bool:
        """The node has come back with blank disks meanwhile."""
        assert isinstance(place.plans, SnapshotDisks)
        have, now = place.plans.disks, self._disks(pool)
        return bool(have) and [disk.ld for disk in now[: len(have)]] != [disk.ld for disk in have]

    def _add(self, place: SnapshotPlace, pool: Pool) -> None:
        disks = place.plans
        assert isinstance(disks, SnapshotDisks)
        for disk in self._disks(pool)[len(disks.disks) :]:
            disks.add(disk)
            place.space.grow(disk.regions)

    def look(self) -> None:
        """The catalog is another one: it may have given room, or take a wish for some now."""
        for pool, place in self._places.items():
            if place.space.extents:
                self._look(pool)

    def _look(self, pool: Pool) -> None:
        """Called when an extent is taken and little is left."""
        place = self._places[pool]
        self._add(place, pool)
        if place.space.free * LOW_PART <= place.space.extents:
            assert isinstance(place.plans, SnapshotDisks)
            self._on_low(pool, len(place.plans.disks))

    def usage(self) -> dict[Pool, tuple[int, int]]:
        """(bytes in use, all bytes) by pool; whole extents."""
        return {
            pool: (
                (place.space.extents - place.space.free) * SNAPSHOT_EXTENT_PAGES * pool[1],
                place.space.extents * SNAPSHOT_EXTENT_PAGES * pool[1],
            )
            for pool, place in sorted(self._places.items())
        }


__all__ = ["Pool", "SnapshotDisks", "SnapshotPlaces"]
