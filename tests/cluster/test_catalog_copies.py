"""Copies that change places, give their space back, or open at an operator's word."""

from __future__ import annotations

import numpy as np
import pytest

from base.ids import NOBODY
from cluster import entries as log
from cluster.catalog import Catalog, Loss, Pins
from cluster.effects import Applied, CopiesDropped, RegionsForced
from tests.cluster.test_catalog import Cluster, regions_of


def rehome(cluster: Cluster, node: int, region: int = 0) -> Applied:
    return cluster.apply(log.rehomes(1, np.array([region]), np.array([node])))


def release(cluster: Cluster, node: int, region: int = 0, epoch: int = 0) -> Applied:
    now = epoch or int(cluster.table.epoch[region])
    return cluster.apply(log.ReleaseCopies(1, log.pack_rows([region], [node], [now])))


def force(cluster: Cluster, node: int, copy_epoch: int, epoch: int = 0) -> Applied:
    now = epoch or int(cluster.table.epoch[0])
    rows = log.pack_rows([0], [node], [now])
    return cluster.apply(log.ForceOpen(1, rows, copy_epoch.to_bytes(4, "little")))


def third_of(cluster: Cluster, *others: int) -> int:
    return next(node for node in cluster.catalog.up_nodes() if node not in others)


# A copy on another node instead.


def test_a_member_stays_until_the_copy_that_replaces_it_is_in_sync() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    third = third_of(cluster, owner, replicant)
    assert rehome(cluster, third).result == {"recruited": 1, "skipped": 0}
    row = cluster.catalog.row(1, 0)
    assert (row.in_sync, row.joiner, row.epoch) == (1 << owner | 1 << replicant, third, 1)


def test_the_entry_that_admits_a_replacement_lets_the_other_member_go() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    third = third_of(cluster, owner, replicant)
    rehome(cluster, third)
    cluster.admit(0, third)
    row = cluster.catalog.row(1, 0, replicant)
    assert (row.owner, row.in_sync, row.epoch) == (owner, 1 << owner | 1 << third, 2)
    assert row.ld == -1, "what it held is given back"
    assert cluster.catalog.check() == []


def test_a_replacement_for_a_member_that_died_meanwhile_costs_no_other() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    third = third_of(cluster, owner, replicant)
    rehome(cluster, third)
    cluster.down(owner)
    cluster.admit(0, third)
    assert cluster.catalog.row(1, 0).in_sync == 1 << replicant | 1 << third


def test_no_replacement_goes_where_the_owner_has_its_failure_domain() -> None:
    cluster = Cluster(domains=(0, 0, 1, 1, 2, 2, 3, 3))
    cluster.create()
    owner, _ = cluster.pair_of(0)
    assert rehome(cluster, owner ^ 1).result["recruited"] == 0


def test_a_replacement_in_the_failure_domain_of_the_replicant_takes_its_place() -> None:
    cluster = Cluster(domains=(0, 0, 1, 1, 2, 2, 3, 3))
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    assert rehome(cluster, replicant ^ 1).result["recruited"] == 1
    cluster.admit(0, replicant ^ 1)
    assert cluster.catalog.row(1, 0).in_sync == 1 << owner | 1 << (replicant ^ 1)


@pytest.mark.parametrize("how", ["moved", "lost"])
def test_a_replacement_does_not_join_an_owner_in_its_own_failure_domain(how: str) -> None:
    cluster = Cluster(domains=(0, 0, 1, 1, 2, 2, 3, 3))
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    rehome(cluster, replicant ^ 1)
    if how == "lost":
        cluster.down(owner)
    else:
        cluster.apply(log.MoveOwners(1, log.pack_rows([0], [replicant], [1])))
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.joiner) == (replicant, NOBODY)


def test_a_region_that_is_short_of_copies_gets_no_replacement() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    assert rehome(cluster, third_of(cluster, owner)).result["recruited"] == 0


def test_a_sole_copy_is_never_replaced() -> None:
    cluster = Cluster()
    cluster.create(copies=1)
    owner = int(cluster.table.owner[0])
    assert rehome(cluster, third_of(cluster, owner)).result["recruited"] == 0


# Space of stale copies.


def test_a_stale_copy_gives_its_space_back_when_it_is_released() -> None:
    cluster = Cluster()
    cluster.create()
    _, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    assert release(cluster, replicant).result == {"released": 1, "skipped": 0}
    assert cluster.catalog.row(1, 0, replicant).ld == -1


def test_a_copy_in_sync_is_never_released() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    for node in (owner, replicant):
        assert release(cluster, node).result["released"] == 0
    assert cluster.catalog.check() == []


def test_a_release_for_another_epoch_is_void() -> None:
    cluster = Cluster()
    cluster.create()
    _, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    assert release(cluster, replicant, epoch=1).result["released"] == 0


def test_an_offline_region_keeps_its_stale_copies() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.down(owner)
    assert release(cluster, replicant).result["released"] == 0


def test_a_stale_copy_is_known_by_its_last_epoch_in_sync() -> None:
    cluster = Cluster()
    cluster.create()
    _, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.down(third_of(cluster))
    slot = cluster.table.slot_of(0, replicant)
    assert cluster.table.slot_epoch[0, slot] == 1


# Copies that the disks of their nodes refuse.


def drop(cluster: Cluster, node: int, region: int = 0, epoch: int = 0) -> Applied:
    now = epoch or int(cluster.table.epoch[region])
    return cluster.apply(log.DropCopies(1, log.pack_rows([region], [node], [now])))


def test_a_copy_that_is_refused_leaves_and_gives_its_space_back() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    applied = drop(cluster, replicant)
    row = cluster.catalog.row(1, 0, replicant)
    assert (row.owner, row.in_sync, row.epoch, row.ld) == (owner, 1 << owner, 2, -1)
    dropped = [effect for effect in applied.effects if isinstance(effect, CopiesDropped)]
    assert [(e.regions.tolist(), e.nodes.tolist()) for e in dropped] == [([0], [replicant])]
    assert cluster.catalog.check() == []


def test_what_an_owner_is_refused_another_member_serves() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    drop(cluster, owner)
    row = cluster.catalog.row(1, 0, owner)
    assert (row.owner, row.in_sync, row.offline, row.ld) == (replicant, 1 << replicant, False, -1)
    assert cluster.catalog.check() == []


def test_a_last_copy_stays_whatever_its_disks_say() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    assert drop(cluster, owner).result["skipped"] == 1
    assert cluster.catalog.row(1, 0).in_sync == 1 << owner


def test_a_joiner_that_is_refused_joins_no_more() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    third = third_of(cluster, owner, replicant)
    cluster.down(replicant)
    cluster.join(0, third)
    drop(cluster, third)
    row = cluster.catalog.row(1, 0, third)
    assert (row.joiner, row.in_sync, row.ld) == (NOBODY, 1 << owner, -1)


@pytest.mark.parametrize("who", ["a stranger", "of an earlier epoch"])
def test_a_refusal_that_fits_no_copy_is_void(who: str) -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.apply(log.MoveOwners(1, log.pack_rows([0], [replicant], [1])))
    stranger = third_of(cluster, owner, replicant)
    applied = drop(cluster, stranger) if who == "a stranger" else drop(cluster, owner, epoch=1)
    assert applied.result["skipped"] == 1
    assert cluster.catalog.row(1, 0).epoch == 2


def test_a_copy_whose_disks_refused_it_is_not_waited_for_after_a_loss_of_power() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    known = cluster.catalog.version
    drop(cluster, replicant)
    cluster.up(owner, known=known)
    assert (cluster.catalog.row(1, 0).owner, cluster.catalog.row(1, 0).offline) == (owner, False)


# A loss that an operator accepts.


@pytest.fixture
def offline() -> tuple[Cluster, int, int]:
    """Region 0 waits for its last owner; the replicant has an older copy and is up."""
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.down(owner)
    cluster.up(replicant, intact=True)
    assert cluster.catalog.row(1, 0).offline
    return cluster, owner, replicant


Offline = tuple[Cluster, int, int]


def test_an_older_copy_opens_under_a_new_epoch_at_an_operators_word(offline: Offline) -> None:
    cluster, _, old = offline
    applied = force(cluster, old, copy_epoch=1)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.offline, row.epoch) == (old, 1 << old, False, 4)
    assert regions_of(applied, RegionsForced) == [0]


def test_the_catalog_keeps_what_was_lost(offline: Offline) -> None:
    cluster, owner, old = offline
    force(cluster, old, copy_epoch=1)
    kept = cluster.catalog.losses_of(1)[0]
    assert kept == Loss(cluster.catalog.version, 4, old, 1, 1 << owner)
    assert Catalog.from_bytes(cluster.catalog.to_bytes()).losses_of(1) == {0: kept}


def test_a_newer_copy_that_returns_later_is_not_in_sync(offline: Offline) -> None:
    cluster, owner, old = offline
    force(cluster, old, copy_epoch=1)
    cluster.up(owner, intact=True)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch) == (old, 1 << old, 4)


def test_a_newer_copy_that_returned_in_time_makes_the_word_void(offline: Offline) -> None:
    cluster, owner, old = offline
    epoch = int(cluster.table.epoch[0])
    cluster.up(owner, intact=True)
    assert force(cluster, old, copy_epoch=1, epoch=epoch).result["skipped"] == 1
    assert cluster.catalog.row(1, 0).owner == owner


def test_a_copy_of_another_epoch_than_the_operator_was_told_is_not_opened(
    offline: Offline,
) -> None:
    cluster, _, old = offline
    assert force(cluster, old, copy_epoch=2).result["skipped"] == 1
    assert cluster.catalog.row(1, 0).offline


def test_a_node_that_is_down_opens_nothing(offline: Offline) -> None:
    cluster, owner, _ = offline
    assert force(cluster, owner, copy_epoch=3).result["skipped"] == 1


def test_a_copy_that_was_being_filled_is_not_opened() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.up(replicant, intact=True)
    cluster.join(0, replicant)
    cluster.down(owner)
    assert force(cluster, replicant, copy_epoch=0).result["skipped"] == 1


def test_a_region_that_is_served_is_not_forced() -> None:
    cluster = Cluster()
    cluster.create()
    _, replicant = cluster.pair_of(0)
    assert force(cluster, replicant, copy_epoch=1).result["skipped"] == 1


def test_a_lost_region_opens_empty_on_a_node_without_a_copy() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.up(owner, blank=True)
    third = third_of(cluster, owner, replicant)
    force(cluster, third, copy_epoch=0)
    row = cluster.catalog.row(1, 0, third)
    assert (row.owner, row.in_sync, row.offline) == (third, 1 << third, False)
    assert row.ld >= 0
    assert cluster.catalog.losses_of(1)[0].waited_for == 0
    assert cluster.catalog.check() == []


def test_a_loss_goes_with_its_volume(offline: Offline) -> None:
    cluster, _, old = offline
    force(cluster, old, copy_epoch=1)
    cluster.apply(log.RemoveVolume(1))
    assert cluster.catalog.losses_of(1) == {}


def test_the_nodes_that_an_operator_named_for_a_volume_are_kept() -> None:
    cluster = Cluster()
    cluster.create(owner=5)
    assert Catalog.from_bytes(cluster.catalog.to_bytes()).pins_of(1) == Pins(5, -1)
    assert int(NOBODY) not in cluster.catalog.pins_of(1)
