from __future__ import annotations

import numpy as np

from cluster import entries as log
from cluster.catalog import Catalog
from cluster.failover import (
    plan_recruits,
)
from volume.physical_disk import build_inventory
from volume.provisioning_group import ProvisioningGroup

PAGE = 4096
REGION = 16 * PAGE
DISKS = build_inventory(
    cages=1, sleds_per_cage=1, disk_bytes=256 * REGION, chunklet_bytes=4 * REGION,
    spare_chunklets=0,
)  # fmt: skip
INVENTORY = log.plain_inventory(DISKS.to_tuple())
GROUP = log.plain_group(ProvisioningGroup("g", row_size=1, step_bytes=PAGE).to_tuple())


def apply(catalog: Catalog, entry: log.Entry) -> object:
    applied = catalog.apply(catalog.version + 1, log.encode(entry))
    assert applied.refusal is None, applied.refusal
    return applied.result


def make(regions: int = 256, nodes: int = 8, copies: int = 2, owner: int = -1) -> Catalog:
    catalog = Catalog()
    apply(catalog, log.FormCluster("c", tuple((n, n) for n in range(nodes)), (GROUP,)))
    for node in range(nodes):
        apply(catalog, log.NodeUp(node, 10 + node, False, True, INVENTORY))
    size = regions * REGION
    apply(catalog, log.CreateVolume("v", size, "g", copies, PAGE, 4, 4, "synced", owner))
    return catalog


def planned_rows(planned: list[log.RecruitCopies]) -> dict[int, int]:
    """region -> node, of one volume."""
    found: dict[int, int] = {}
    for entry in planned:
        regions = np.frombuffer(entry.regions, dtype="<u4").tolist()
        found.update(zip(regions, entry.nodes, strict=True))
    return found


def test_nothing_is_recruited_while_every_row_is_whole() -> None:
    assert plan_recruits(make(), 100) == []


def test_every_row_that_lost_a_copy_gets_a_joiner_on_a_live_node_without_one() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    table = catalog.volumes[1].table
    wanting = np.flatnonzero(np.bitwise_count(table.in_sync) == 1)
    rows = planned_rows(plan_recruits(catalog, 1000))
    assert sorted(rows) == wanting.tolist()
    assert all(node != 3 and not table.in_sync[r] >> node & 1 for r, node in rows.items())


def test_planned_recruits_all_qualify() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    for entry in plan_recruits(catalog, 5):
        assert apply(catalog, entry) == {"recruited": len(entry.nodes), "skipped": 0}
    assert catalog.check() == []


def test_recruits_are_spread_over_the_live_nodes() -> None:
    catalog = make(regions=1024)
    apply(catalog, log.NodeDown(3, 13))
    counts = np.bincount(list(planned_rows(plan_recruits(catalog, 1000)).values()), minlength=8)
    assert counts[3] == 0
    assert np.delete(counts, 3).min() > 256 / 7 / 2


def test_no_node_receives_or_sends_more_than_the_limit() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    rows = planned_rows(plan_recruits(catalog, 4))
    owners = catalog.volumes[1].table.owner[sorted(rows)]
    assert max(np.bincount(owners)) == 4
    assert max(np.bincount(list(rows.values()))) == 4


def test_joins_that_are_under_way_count() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    for entry in plan_recruits(catalog, 1000):
        apply(catalog, entry)
    apply(catalog, log.NodeDown(4, 14))
    table = catalog.volumes[1].table
    joining = np.bincount(table.joiner[table.joiner != 255], minlength=8)
    sending = np.bincount(table.owner[table.joiner != 255], minlength=8)
    limit = int(max(joining.max(), sending.max())) + 2
    rows = planned_rows(plan_recruits(catalog, limit))
    assert rows
    joining += np.bincount(list(rows.values()), minlength=8)
    sending += np.bincount(table.owner[sorted(rows)], minlength=8)
    assert max(joining.max(), sending.max()) <= limit


def test_a_busy_node_gets_nothing() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    busy = [0, 4, 0, 0, 0, 0, 0, 0]
    rows = planned_rows(plan_recruits(catalog, 4, busy))
    assert rows
    assert 1 not in rows.values()
    assert 1 not in catalog.volumes[1].table.owner[sorted(rows)]


def test_a_node_that_still_has_an_older_copy_is_preferred() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    apply(catalog, log.NodeUp(3, 20, True, False, INVENTORY))
    rows = planned_rows(plan_recruits(catalog, 1000))
    assert rows
    assert set(rows.values()) == {3}


def test_rows_wait_for_a_busy_node_with_an_older_copy() -> None:
    catalog = make()
    apply(catalog, log.NodeDown(3, 13))
    apply(catalog, log.NodeUp(3, 20, True, False, INVENTORY))
    assert list(planned_rows(plan_recruits(catalog, 4)).values()) == [3] * 4


def test_rows_of_a_busy_blank_node_go_elsewhere() -> None:
    catalog = make()
    apply(catalog, log.NodeUp(3, 20, False, True, INVENTORY))
    counts = np.bincount(list(planned_rows(plan_recruits(catalog, 4)).values()), minlength=8)
    assert counts[3] == 4
    assert counts.sum() > 4


def test_a_node_that_its_owner_cannot_reach_is_avoided() -> None:
    catalog = make(owner=0)
    apply(catalog, log.CutPair(0, 10, 5, 15))
    assert set(planned_rows(plan_recruits(catalog, 1000)).values()) == {5}
    avoid = [1 << 5, 0, 0, 0, 0, 0, 0, 0]
    rows = planned_rows(plan_recruits(catalog, 1000, avoid=avoid))
    assert rows
    assert 5 not in rows.values()


def test_offline_rows_recruit_nobody() -> None:
    catalog = make(nodes=2)
    apply(catalog, log.NodeDown(0, 10))
    apply(catalog, log.NodeDown(1, 11))
    apply(catalog, log.NodeUp(0, 20, True, False, INVENTORY))
    assert plan_recruits(catalog, 1000) == []


def test_volumes_of_one_copy_recruit_nobody() -> None:
    catalog = make(copies=1)
    apply(catalog, log.NodeDown(3, 13))
    assert plan_recruits(catalog, 1000) == []


def test_rows_with_nowhere_to_go_do_not_hold_up_others() -> None:
    catalog = make(nodes=3, regions=64, owner=0)
    for node in (1, 2):
        size = int(catalog.room("g", REGION)[node]) * REGION
        filler = log.CreateVolume(f"f{node}", size, "g", 1, PAGE, 4, 4, "synced", node)
        apply(catalog, filler)
        apply(catalog, log.CutPair(0, 10, node, 10 + node))
    first = catalog.volumes[1].table.slot_node[:5, 1].tolist()
    assert 1 in first, "without such a row among the first the test shows nothing"
    rows = planned_rows(plan_recruits(catalog, 5, avoid=[1 << 1]))
    assert list(rows.values()) == [2] * 5


def test_entries_are_cut_into_batches() -> None:
    catalog = make(regions=1024)
    apply(catalog, log.NodeDown(3, 13))
    planned = plan_recruits(catalog, 1000, rows_max=100)
    assert [len(entry.nodes) for entry in planned] == [100, 100, 56]


def test_a_full_node_is_not_recruited() -> None:
    catalog = make(nodes=3, regions=64, owner=0)
    free = int(catalog.room("g", REGION)[1])
    size = free * REGION
    apply(catalog, log.CreateVolume("filler", size, "g", 1, PAGE, 4, 4, "synced", 1))
    apply(catalog, log.NodeDown(2, 12))
    assert catalog.room("g", REGION)[1] == 0
    assert plan_recruits(catalog, 1000) == []


def test_a_node_with_little_space_is_recruited_for_that_much_only() -> None:
    catalog = make(nodes=3, regions=64, owner=0)
    size = (int(catalog.room("g", REGION)[1]) - 8) * REGION
    apply(catalog, log.CreateVolume("filler", size, "g", 1, PAGE, 4, 4, "synced", 1))
    apply(catalog, log.NodeDown(2, 12))
    rows = planned_rows(plan_recruits(catalog, 1000))
    assert len(rows) == int(catalog.room("g", REGION)[1]) == 8


def test_the_limit_of_a_node_is_for_all_volumes_together() -> None:
    catalog = make(nodes=3, regions=64, owner=0)
    apply(catalog, log.CreateVolume("w", 64 * REGION, "g", 2, PAGE, 4, 4, "synced", 1))
    apply(catalog, log.NodeDown(2, 12))
    planned = plan_recruits(catalog, 40)
    nodes = [node for entry in planned for node in entry.nodes]
    owners = [
        int(catalog.volumes[entry.volume].table.owner[region])
        for entry in planned
        for region in np.frombuffer(entry.regions, dtype="<u4")
    ]
    assert {entry.volume for entry in planned} == {1, 2}
    assert max(np.bincount(nodes)) <= 40
    assert max(np.bincount(owners)) <= 40


def test_volumes_share_what_a_node_may_still_receive() -> None:
    # Three owners want copies on the one node that has room for them.
    catalog = make(nodes=4, regions=30, owner=0)
    for node in (1, 2):
        entry = log.CreateVolume(f"w{node}", 30 * REGION, "g", 2, PAGE, 4, 4, "synced", node)
        apply(catalog, entry)
    apply(catalog, log.NodeDown(3, 13))
    apply(catalog, log.NodeUp(3, 20, True, False, INVENTORY))
    planned = plan_recruits(catalog, 12)
    assert [node for entry in planned for node in entry.nodes] == [3] * 12
