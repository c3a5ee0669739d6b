from __future__ import annotations

import numpy as np

from base.ids import NOBODY
from cluster import entries as log
from cluster.catalog import Catalog
from cluster.failback import FailbackPlan, homes_of, is_whole, plan_failback, plan_releases
from cluster.failover import plan_recruits
from tests.cluster.test_failover import GROUP, INVENTORY, REGION, apply, make

ALL = 0xFF


def plan(catalog: Catalog, rows_max: int = 10_000, joins_max: int = 10_000) -> FailbackPlan:
    homes = {n: homes_of(catalog, v, catalog.up_mask) for n, v in catalog.volumes.items()}
    return plan_failback(catalog, homes, rows_max=rows_max, joins_max=joins_max)


def admit_all(catalog: Catalog) -> None:
    """Every joiner gets in sync."""
    for number, volume in catalog.volumes.items():
        table = volume.table
        rows = np.flatnonzero(table.joiner != NOBODY)
        if len(rows):
            packed = log.pack_rows(rows, table.joiner[rows], table.epoch[rows])
            apply(catalog, log.AdmitCopies(number, packed))


def repair(catalog: Catalog) -> None:
    """Every region gets its copies again."""
    for _ in range(50):
        planned = plan_recruits(catalog, 1000)
        if not planned:
            return
        for entry in planned:
            apply(catalog, entry)
        admit_all(catalog)
    raise AssertionError("repair does not end")


def go_home(catalog: Catalog) -> int:
    """Carry out plans until there is nothing left to do; how many there were."""
    for turn in range(50):
        made = plan(catalog)
        if not made.entries:
            assert made.left == 0
            return turn
        for entry in made.entries:
            apply(catalog, entry)
        admit_all(catalog)
        assert is_whole(catalog)
        assert catalog.check() == []
        for members in catalog.volumes[1].table.in_sync.tolist():
            held = [catalog.domains[node] for node in range(8) if members >> node & 1]
            assert len(held) == len(set(held))
    raise AssertionError("fail-back does not end")


def lose_and_return(catalog: Catalog, node: int, *, blank: bool = False) -> None:
    life = catalog.node_state(node).incarnation
    apply(catalog, log.NodeDown(node, life))
    repair(catalog)
    apply(catalog, log.NodeUp(node, life + 1, not blank, blank, INVENTORY))
    repair(catalog)


def columns(catalog: Catalog) -> tuple[list[int], list[int]]:
    table = catalog.volumes[1].table
    return table.owner.tolist(), table.in_sync.tolist()


def test_there_is_nothing_to_do_where_everything_is_at_home() -> None:
    assert plan(make()) == FailbackPlan((), 0)


def test_owners_and_copies_are_where_they_were_before_a_loss() -> None:
    catalog = make()
    before = columns(catalog)
    lose_and_return(catalog, 3)
    assert columns(catalog) != before
    go_home(catalog)
    assert columns(catalog) == before


def test_a_blank_node_gets_its_share_of_copies_back() -> None:
    catalog = make(regions=256)
    lose_and_return(catalog, 3, blank=True)
    go_home(catalog)
    table = catalog.volumes[1].table
    copies = [int(np.count_nonzero(table.in_sync >> node & 1)) for node in range(8)]
    assert max(copies) - min(copies) <= 16, copies


def test_a_copy_without_an_older_one_at_home_travels_only_for_balance() -> None:
    catalog = make()
    lose_and_return(catalog, 3)
    table = catalog.volumes[1].table
    stale = table.stale_slots(np.arange(len(table)))
    table.slot_epoch[stale] = 0
    table.slot_node[stale] = NOBODY
    moved = sum(
        len(entry.nodes) for entry in plan(catalog).entries if isinstance(entry, log.RehomeCopies)
    )
    away = np.count_nonzero(table.in_sync >> 3 & 1 == 0)
    assert 0 < moved < away


def test_a_round_is_no_larger_than_its_rate() -> None:
    catalog = make()
    lose_and_return(catalog, 3)
    made = plan(catalog, rows_max=5)
    rows = sum(
        len(log.unpack_rows(e.rows)) if isinstance(e, log.MoveOwners) else len(e.nodes)
        for e in made.entries
    )
    assert rows == 5
    assert made.left > 5


def test_a_node_receives_no_more_copies_at_a_time_than_its_limit() -> None:
    catalog = make()
    lose_and_return(catalog, 3)
    for entry in plan(catalog, joins_max=4).entries:
        apply(catalog, entry)
    assert np.count_nonzero(catalog.volumes[1].table.joiner == 3) == 4


def test_a_volume_whose_owner_was_named_goes_back_to_it() -> None:
    catalog = make(owner=5)
    lose_and_return(catalog, 5)
    assert 5 not in catalog.volumes[1].table.owner
    go_home(catalog)
    assert (catalog.volumes[1].table.owner == 5).all()


def test_regions_that_are_short_of_copies_are_left_alone() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    table = catalog.volumes[1].table
    whole = np.bitwise_count(table.in_sync) == 2
    for entry in plan(catalog).entries:
        rows = (
            log.unpack_rows(entry.rows)["region"]
            if isinstance(entry, log.MoveOwners)
            else np.frombuffer(entry.regions, dtype="<u4")
        )
        assert whole[rows].all()


def test_copies_never_meet_in_one_failure_domain_on_their_way_home() -> None:
    catalog = Catalog()
    apply(catalog, log.FormCluster("c", tuple((n, n // 2) for n in range(8)), (GROUP,)))
    for node in range(8):
        apply(catalog, log.NodeUp(node, 1, False, True, INVENTORY))
    size = 128 * REGION
    apply(catalog, log.CreateVolume("v", size, "g", 2, 4096, 4, 4, "synced", -1))
    before = columns(catalog)
    for node in (0, 3, 6):
        lose_and_return(catalog, node)
        go_home(catalog)
    assert columns(catalog) == before


# Space of stale copies.


def releases(catalog: Catalog, *, expired: int = 0, keep_home: bool = True) -> int:
    homes = {n: homes_of(catalog, v, catalog.up_mask) for n, v in catalog.volumes.items()}
    planned = plan_releases(catalog, homes, expired=expired, keep_home=keep_home)
    return sum(apply(catalog, entry)["released"] for entry in planned)


def stale(catalog: Catalog, node: int) -> int:
    table = catalog.volumes[1].table
    held = table.stale_slots(np.arange(len(table))) & (table.slot_node == node)
    return int(np.count_nonzero(held))


def test_copies_of_a_node_that_is_down_are_kept_until_their_time_is_over() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    repair(catalog)
    assert releases(catalog) == 0
    held = stale(catalog, 3)
    assert releases(catalog, expired=1 << 3) == held > 0


def test_copies_of_a_returned_node_that_belongs_there_are_kept_for_fail_back() -> None:
    catalog = make()
    lose_and_return(catalog, 3)
    assert stale(catalog, 3) > 0
    assert releases(catalog) == 0


def test_copies_that_nobody_will_use_give_their_space_back() -> None:
    catalog = make()
    lose_and_return(catalog, 3)
    assert releases(catalog, keep_home=False) > 0
    assert stale(catalog, 3) == 0


def test_copies_of_regions_that_are_short_of_one_are_kept() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    assert releases(catalog, expired=1 << 3) == 0
