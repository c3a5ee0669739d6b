"""Snapshot space of a node: several logical disks as one range, that grows when it gets full."""

from __future__ import annotations

import pytest

from base.errors import InvalidRequest, NoSpace
from base.units import KiB, MiB
from cluster.catalog import Catalog
from cluster.entries import GrowSnapshotSpace
from cluster.snapshot_space import check_room, give, grow, pools_of
from node.snapshot_places import SnapshotDisks, SnapshotPlaces
from tests.volume.test_volume_manager import REGION, cluster, create
from volume.volume_manager import SNAPSHOT_EXTENTS_WANTED, VolumeManager

PAGE = 4 * KiB
POOL = ("g", PAGE)


def catalog_with(manager: VolumeManager) -> Catalog:
    catalog = Catalog()
    catalog.volume_manager = manager
    return catalog


def small() -> VolumeManager:
    manager = cluster(3)
    create(manager)
    return manager


def test_a_node_has_no_place_before_the_catalog_gives_it_one() -> None:
    manager = small()
    places = SnapshotPlaces(0, lambda: catalog_with(manager))
    assert places.place_of((1, 0)) is None
    assert places.place_of((9, 0)) is None
    give(manager, [POOL], [0])
    place = places.place_of((1, 0))
    assert place is not None
    other = places.place_of((1, 3))
    assert other is not None
    assert other.space is place.space
    assert place.space.extents == SNAPSHOT_EXTENTS_WANTED
    assert manager.check() == []


def test_space_that_runs_low_asks_once_it_has_looked_and_grows_where_the_catalog_has_more() -> None:
    manager = small()
    give(manager, [POOL], [0])
    asked: list[tuple[tuple[str, int], int]] = []
    places = SnapshotPlaces(
        0, lambda: catalog_with(manager), lambda pool, disks: asked.append((pool, disks))
    )
    place = places.place_of((1, 0))
    assert place is not None
    first = place.space.extents
    taken = [place.space.take() for _ in range(first // 2)]
    assert asked == []
    taken.append(place.space.take())
    assert asked == [(POOL, 1)]
    assert grow(manager, GrowSnapshotSpace(0, *POOL, 1)) == 2
    while len(taken) < first + 1:
        taken.append(place.space.take())
    assert place.space.extents == 2 * first
    assert sorted(each for each in taken if each is not None) == list(range(first + 1))
    assert places.usage() == {POOL: ((first + 1) * 8 * PAGE, 2 * first * 8 * PAGE)}


def test_a_wish_that_comes_twice_gives_one_disk() -> None:
    manager = small()
    give(manager, [POOL], [1])
    wish = GrowSnapshotSpace(1, *POOL, 1)
    grow(manager, wish)
    with pytest.raises(InvalidRequest, match="n1 has 2 disks"):
        grow(manager, wish)
    assert len(manager.snapshot_disks(1, *POOL)) == 2
    give(manager, [POOL], [1])  # it has some: nothing
    assert len(manager.snapshot_disks(1, *POOL)) == 2


def test_a_node_without_room_is_named_and_goes_without() -> None:
    manager = cluster(3)
    create(manager, regions=16 * MiB // REGION)  # two thirds of each node
    check_room(manager, [1])
    while True:
        try:
            manager.grow_snapshot_space(2, "g", 8 * KiB)
        except NoSpace:
            break
    with pytest.raises(NoSpace, match="volume v: n2 has no space for snapshots in group g"):
        check_room(manager, [1])
    give(manager, pools_of(manager, [1, 77]), [1, 2])
    assert len(manager.snapshot_disks(1, *POOL)) == 1
    assert manager.snapshot_disks(2, *POOL) == []
    assert manager.check() == []
    assert VolumeManager.from_bytes(manager.to_bytes()).to_bytes() == manager.to_bytes()


def test_a_range_over_two_disks_is_planned_on_both() -> None:
    manager = small()
    give(manager, [POOL], [0])
    grow(manager, GrowSnapshotSpace(0, *POOL, 1))
    disks = SnapshotDisks()
    for disk in manager.snapshot_disks(0, *POOL):
        disks.add(disk)
    edge = disks.disks[0].size_bytes
    found = disks.plan_write(edge - PAGE, 3 * PAGE)
    first, second = disks.disks
    apart = [
        *first.plan_write(edge - PAGE, PAGE),
        *(each._replace(start=each.start + PAGE) for each in second.plan_write(0, 2 * PAGE)),
    ]
    assert found == apart
    assert disks.plan_read(edge, PAGE) == second.plan_read(0, PAGE)
    with pytest.raises(InvalidRequest, match="not within"):
        disks.plan_read(2 * edge - PAGE, 2 * PAGE)
