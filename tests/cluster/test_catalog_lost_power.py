"""Who may open a region when a node came back without what it had not synced.

`first` and `second` hold region 0, `first` owns it. A node that lost power says which version
of the catalog its last life may have acted on (`known`).
"""

from __future__ import annotations

import numpy as np
import pytest

from base.ids import NOBODY
from cluster import entries as log
from cluster.catalog import Catalog
from cluster.loss import describe, entries_for, plan_openings
from tests.cluster.test_catalog import Cluster


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.create()
    return made


def row_of(cluster: Cluster, node: int = int(NOBODY)):
    return cluster.catalog.row(1, 0, node)


def third_of(cluster: Cluster, *others: int) -> int:
    return next(node for node in cluster.catalog.up_nodes() if node not in others)


# Nobody noticed the loss of power before the other copy left.


@pytest.mark.parametrize("lost", [0, 1], ids=["the owner", "the replicant"])
def test_a_copy_that_never_acted_alone_waits_for_the_one_that_left(
    cluster: Cluster, lost: int
) -> None:
    pair = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(pair[1 - lost])
    applied = cluster.up(pair[lost], known=known)
    row = row_of(cluster)
    assert (row.offline, row.in_sync, row.owner) == (True, 1 << pair[1 - lost], pair[1 - lost])
    assert applied.result["returned"] >= 1
    assert applied.result["reduced"] < applied.result["returned"] + applied.result["reduced"]
    assert cluster.catalog.check() == []


def test_the_copy_that_left_opens_the_region_when_it_is_back(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.up(first, known=known)
    cluster.up(second, intact=True)
    row = row_of(cluster)
    assert (row.offline, row.owner, row.in_sync) == (False, second, 1 << second)


def test_a_copy_that_left_and_is_back_already_serves_at_once(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.up(second, intact=True)
    cluster.up(first, known=known)
    row = row_of(cluster)
    assert (row.offline, row.owner, row.in_sync) == (False, second, 1 << second)


def test_a_join_that_nobody_can_have_begun_takes_nothing_from_the_copy_that_left(
    cluster: Cluster,
) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.up(second, intact=True)
    cluster.join(0, second)
    cluster.up(first, known=known)
    row = row_of(cluster)
    assert (row.owner, row.in_sync, row.joiner) == (second, 1 << second, NOBODY)
    slot = cluster.table.slot_of(0, second)
    assert cluster.table.slot_epoch[0, slot] == row.epoch


def test_a_live_copy_that_was_cut_off_from_the_owner_serves_instead(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.cut(second, first)
    assert row_of(cluster).in_sync == 1 << first
    cluster.up(first, known=known)
    assert (row_of(cluster).owner, row_of(cluster).offline) == (second, False)


def test_a_third_node_that_was_to_join_joins_the_copy_that_serves_instead(
    cluster: Cluster,
) -> None:
    first, second = cluster.pair_of(0)
    third = third_of(cluster, first, second)
    known = cluster.catalog.version
    cluster.cut(second, first)
    cluster.join(0, third)
    cluster.up(first, known=known)
    assert (row_of(cluster).owner, row_of(cluster).joiner) == (second, third)


def test_nobody_joins_a_region_that_waits_for_the_copy_that_left(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    third = third_of(cluster, first, second)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.join(0, third)
    cluster.up(first, known=known)
    assert (row_of(cluster).offline, row_of(cluster).joiner) == (True, NOBODY)


def test_a_region_that_waits_already_waits_for_the_copy_that_has_everything(
    cluster: Cluster,
) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.down(first)
    assert row_of(cluster).in_sync == 1 << first
    cluster.up(first, known=known)
    assert (row_of(cluster).offline, row_of(cluster).in_sync) == (True, 1 << second)


def test_the_last_of_several_copies_that_left_is_the_one(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    third = third_of(cluster, first, second)
    cluster.down(second)
    cluster.join(0, third)
    cluster.admit(0, third)
    known = cluster.catalog.version
    cluster.down(third)
    cluster.up(first, known=known)
    assert row_of(cluster).in_sync == 1 << third


def test_an_end_of_a_join_is_not_a_copy_that_left(cluster: Cluster) -> None:
    """The row is changed later than its last life knew, but it may have acted alone before that."""
    first, second = cluster.pair_of(0)
    third = third_of(cluster, first, second)
    cluster.down(second)
    cluster.join(0, third)
    known = cluster.catalog.version
    cluster.down(third)
    cluster.up(first, known=known)
    assert (row_of(cluster).offline, row_of(cluster).in_sync) == (False, 1 << first)


# Nobody has all of it: the copy that stayed goes on, as after a loss of all power.


def test_a_copy_that_may_have_acted_alone_goes_on(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    cluster.down(second)
    cluster.up(first, known=cluster.catalog.version)
    assert (row_of(cluster).offline, row_of(cluster).in_sync) == (False, 1 << first)


@pytest.mark.parametrize("blank", [False, True])
def test_no_region_goes_back_to_a_copy_that_lost_something_too(
    cluster: Cluster, blank: bool
) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.up(second, blank=blank)
    cluster.up(first, known=known)
    assert (row_of(cluster).offline, row_of(cluster).in_sync) == (False, 1 << first)


def test_all_power_lost_opens_every_region_once_all_are_back(cluster: Cluster) -> None:
    known = cluster.catalog.version
    nodes = cluster.catalog.nodes
    for node in nodes[:3]:
        cluster.down(node)  # a majority came back at once, and did not wait for these
    for node in reversed(nodes):
        cluster.up(node, known=known)
    assert not cluster.table.offline.any()
    assert cluster.catalog.check() == []


def test_two_that_lost_power_do_not_wait_for_each_other(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.up(first, known=known)
    cluster.up(second, known=known)
    assert (row_of(cluster).offline, row_of(cluster).in_sync) == (False, 1 << second)


def test_a_copy_that_steps_back_for_what_it_lost_is_not_waited_for(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.up(first, known=known)
    cluster.up(second, known=known)
    assert (row_of(cluster).offline, row_of(cluster).in_sync) == (False, 1 << second)


def test_a_copy_that_was_replaced_is_gone_and_not_waited_for(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    third = third_of(cluster, first, second)
    cluster.apply(log.rehomes(1, np.array([0]), np.array([third])))
    known = cluster.catalog.version
    cluster.admit(0, third)
    assert cluster.table.left[0] == NOBODY
    cluster.up(first, known=known)
    assert row_of(cluster).in_sync == 1 << third


# What it costs, and what is kept.


def test_the_copy_that_left_last_makes_no_room_while_another_can(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    others = [node for node in cluster.catalog.nodes if node not in (first, second)]
    cluster.down(second)
    cluster.join(0, others[0])
    epoch = int(cluster.table.epoch[0])
    cluster.apply(log.CancelJoins(1, log.pack_rows([0], [others[0]], [epoch])))
    cluster.join(0, others[1])
    assert row_of(cluster, second).ld >= 0
    assert row_of(cluster, others[0]).ld == -1


def test_an_operator_who_opens_it_hears_that_the_copy_lost_power(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.up(first, known=known)
    opening = plan_openings(cluster.catalog, cluster.catalog.volumes[1], [0])[0]
    assert (opening.node, opening.waits_for, opening.short) == (first, (second,), True)
    assert "has lost power since" in describe("v", opening, lambda _: "")
    for entry in entries_for(cluster.catalog.volumes[1], [opening]):
        cluster.apply(entry)
    assert (row_of(cluster).owner, row_of(cluster).offline) == (first, False)
    assert cluster.catalog.losses_of(1)[0].short
    assert not cluster.table.slot_short[0, cluster.table.slot_of(0, first)]


def test_a_region_that_was_forced_open_is_not_given_back(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    cluster.up(first, known=known)
    openings = plan_openings(cluster.catalog, cluster.catalog.volumes[1], [0])
    for entry in entries_for(cluster.catalog.volumes[1], openings):
        cluster.apply(entry)
    cluster.up(first, known=known)
    assert (row_of(cluster).offline, row_of(cluster).in_sync) == (False, 1 << first)


def test_a_catalog_that_was_sent_as_a_whole_knows_who_left_last(cluster: Cluster) -> None:
    first, second = cluster.pair_of(0)
    known = cluster.catalog.version
    cluster.down(second)
    sent = Catalog.from_bytes(cluster.catalog.to_bytes())
    entry = log.encode(log.NodeUp(first, 9, False, False, log.plain_inventory(
        sent.volume_manager.storage(first).inventory.to_tuple()), known))  # fmt: skip
    assert sent.apply(sent.version + 1, entry).result["returned"] >= 1
    assert sent.row(1, 0).in_sync == 1 << second
