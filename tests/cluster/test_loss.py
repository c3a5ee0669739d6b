from __future__ import annotations

import pytest

from base.errors import InvalidRequest, NoSpace
from cluster import entries as log
from cluster.loss import Opening, describe, entries_for, plan_openings, refusal
from tests.cluster.test_catalog import Cluster


def volume(cluster: Cluster):
    return cluster.catalog.volumes[1]


def lost_owner() -> tuple[Cluster, int, int]:
    """Region 0 waits for its owner (first); its replicant (second) left an epoch earlier."""
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.down(owner)
    cluster.up(replicant, intact=True)
    return cluster, owner, replicant


def test_the_newest_older_copy_would_open() -> None:
    cluster, owner, replicant = lost_owner()
    made = plan_openings(cluster.catalog, volume(cluster), [0])
    assert made == [Opening(0, 3, replicant, 1, (owner,))]
    assert made[0].lost_epochs == (2, 2)


def test_the_plan_is_carried_out_as_it_was_made() -> None:
    cluster, _, replicant = lost_owner()
    made = plan_openings(cluster.catalog, volume(cluster), None)
    for entry in entries_for(volume(cluster), made):
        assert cluster.apply(entry).refusal is None
    assert not cluster.table.offline.any()
    kept = cluster.catalog.losses_of(1)
    assert {region: loss.copy_epoch for region, loss in kept.items()} == {
        each.region: each.copy_epoch for each in made
    }
    assert cluster.catalog.row(1, 0).owner == replicant


def test_a_region_without_an_older_copy_would_open_empty() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.down(owner)
    made = plan_openings(cluster.catalog, volume(cluster), [0])[0]
    assert (made.copy_epoch, made.waits_for) == (0, (owner,))
    assert made.node not in (owner, replicant)


def test_a_copy_that_was_being_filled_is_not_taken() -> None:
    cluster, _, replicant = lost_owner()
    table = cluster.table
    table.slot_epoch[0, table.slot_of(0, replicant)] = 0
    made = plan_openings(cluster.catalog, volume(cluster), [0])[0]
    assert made.node != replicant
    assert made.copy_epoch == 0


def test_a_region_that_is_served_is_refused() -> None:
    cluster, _, _ = lost_owner()
    online = int((~cluster.table.offline).argmax())
    with pytest.raises(InvalidRequest, match="is not offline: n"):
        plan_openings(cluster.catalog, volume(cluster), [online])


def test_a_region_that_does_not_exist_is_refused() -> None:
    cluster, _, _ = lost_owner()
    with pytest.raises(InvalidRequest, match="has regions 0 to 15"):
        plan_openings(cluster.catalog, volume(cluster), [16])


def test_a_region_that_can_open_nowhere_is_refused() -> None:
    cluster = Cluster(nodes=2)
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.up(replicant, intact=True)
    cluster.join(0, replicant)
    cluster.down(owner)
    with pytest.raises(NoSpace, match="no node that is up has a whole copy"):
        plan_openings(cluster.catalog, volume(cluster), [0])


OPENING = Opening(7, 12, 5, 8, (3,))


def test_the_words_name_what_is_lost_and_who_has_it() -> None:
    assert describe("v1", OPENING, lambda _: ", down for 75 s") == (
        "v1 region 7 opens from the copy of n5, in sync until epoch 8: everything acknowledged in"
        " epochs 9 to 11 is lost; all of it is on n3, down for 75 s"
    )


def test_the_words_for_a_region_that_no_node_has() -> None:
    lost = OPENING._replace(copy_epoch=0, waits_for=())
    assert describe("v1", lost, lambda _: "") == (
        "v1 region 7 opens EMPTY on n5: everything ever written to it is lost; no node has newer"
        " data"
    )


def test_a_refusal_says_how_to_lose_nothing_and_how_to_go_on() -> None:
    text = refusal("v1", [OPENING] * 20, lambda _: "")
    assert "and 4 regions more" in text
    assert "`eightfold node start n3`" in text
    assert text.endswith("say --accept-loss")


def test_an_entry_for_a_forced_opening_is_conditional_on_both_epochs() -> None:
    cluster, _, _ = lost_owner()
    entry = entries_for(volume(cluster), [OPENING])[0]
    assert log.unpack_rows(entry.rows).tolist() == [(7, 12, 5)]
    assert int.from_bytes(entry.copy_epochs, "little") == 8
