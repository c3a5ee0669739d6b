from __future__ import annotations

import msgpack
import numpy as np
import pytest

from base.errors import InvalidRequest, NotFound
from base.ids import NOBODY
from base.units import GiB, TiB
from cluster import entries as log
from cluster.catalog import Catalog, Liveness
from cluster.effects import (
    Applied,
    NodeChanged,
    PairCut,
    RegionsChanged,
    RegionsLost,
    RegionsReduced,
    VolumeCreated,
    VolumeGrown,
    VolumeRemoved,
)
from volume.physical_disk import build_inventory
from volume.provisioning_group import ProvisioningGroup

PAGE = 4096
REGION = 16 * PAGE


def inventory_of(disk_regions: int) -> bytes:
    made = build_inventory(
        cages=1, sleds_per_cage=1, disk_bytes=disk_regions * REGION, chunklet_bytes=4 * REGION,
        spare_chunklets=0,
    )  # fmt: skip
    return log.plain_inventory(made.to_tuple())


INVENTORY = inventory_of(64)
GROUP = log.plain_group(ProvisioningGroup("g", row_size=1, step_bytes=PAGE).to_tuple())


class Cluster:
    """A catalog with its log, eight nodes up unless told otherwise."""

    def __init__(self, nodes: int = 8, domains: tuple[int, ...] = tuple(range(8))) -> None:
        self.catalog = Catalog()
        self.payloads: list[bytes] = []
        self.apply(log.FormCluster("c", tuple((n, domains[n]) for n in range(nodes)), (GROUP,)))
        for node in range(nodes):
            self.up(node, blank=True)

    def apply(self, entry: log.Entry) -> Applied:
        self.payloads.append(log.encode(entry))
        return self.catalog.apply(len(self.payloads), self.payloads[-1])

    def up(
        self, node: int, *, intact: bool = False, blank: bool = False, known: int | None = None
    ) -> Applied:
        """known: the version that its last life knew; None: the present one."""
        life = self.catalog.node_state(node).incarnation + 1
        acted_on = self.catalog.version if known is None else known
        return self.apply(log.NodeUp(node, life, intact, blank, INVENTORY, acted_on))

    def down(self, node: int) -> Applied:
        return self.apply(log.NodeDown(node, self.catalog.node_state(node).incarnation))

    def cut(self, reporter: int, about: int) -> Applied:
        lives = [self.catalog.node_state(node).incarnation for node in (reporter, about)]
        return self.apply(log.CutPair(reporter, lives[0], about, lives[1]))

    def create(self, regions: int = 16, copies: int = 2, owner: int = -1, name: str = "v"):
        entry = log.CreateVolume(name, regions * REGION, "g", copies, PAGE, 4, 4, "synced", owner)
        return self.apply(entry)

    @property
    def table(self):
        return self.catalog.volumes[1].table

    def pair_of(self, region: int) -> tuple[int, int]:
        """(owner, replicant) of a region of volume 1."""
        owner = int(self.table.owner[region])
        replicant = int(self.table.in_sync[region]) & ~(1 << owner)
        return owner, replicant.bit_length() - 1

    def join(self, region: int, node: int) -> None:
        applied = self.apply(log.recruits(1, np.array([region]), np.array([node])))
        assert applied.result == {"recruited": 1, "skipped": 0}

    def admit(self, region: int, node: int, epoch: int | None = None) -> Applied:
        now = int(self.table.epoch[region]) if epoch is None else epoch
        return self.apply(log.AdmitCopies(1, log.pack_rows([region], [node], [now])))


def regions_of(applied: Applied, kind: type) -> list[int]:
    return [int(r) for e in applied.effects if isinstance(e, kind) for r in e.regions]


# Forming, and lives of nodes.


def test_nothing_is_applied_before_the_cluster_is_formed() -> None:
    applied = Catalog().apply(1, log.encode(log.NodeDown(0, 0)))
    assert applied.refusal == ("invalid", "the cluster is not formed yet")


def test_a_cluster_is_formed_once() -> None:
    applied = Cluster().apply(log.FormCluster("again", ((0, 0),), ()))
    assert applied.refusal == ("exists", "the cluster is formed already: c")


def test_a_life_that_is_not_later_than_the_known_one_is_refused() -> None:
    cluster = Cluster()
    applied = cluster.apply(log.NodeUp(2, 0, True, False, INVENTORY))
    assert applied.refusal is not None
    assert "not later" in applied.refusal[1]


def test_a_node_that_does_not_belong_is_refused() -> None:
    applied = Cluster(nodes=3).apply(log.NodeUp(5, 1, False, True, INVENTORY))
    assert applied.refusal == ("not_found", "n5 does not belong to the cluster")


def test_a_node_with_other_disks_is_refused_unless_it_is_blank() -> None:
    cluster = Cluster()
    other = inventory_of(128)
    assert cluster.apply(log.NodeUp(1, 5, True, False, other)).refusal is not None
    assert cluster.apply(log.NodeUp(1, 5, False, True, other)).refusal is None


def test_the_state_of_a_node_follows_its_lives() -> None:
    cluster = Cluster()
    assert cluster.down(4).effects == [NodeChanged(4)]
    assert cluster.catalog.node_state(4) == (Liveness.DOWN, 0)
    assert cluster.catalog.up_nodes() == (0, 1, 2, 3, 5, 6, 7)
    cluster.up(4, intact=True)
    assert cluster.catalog.node_state(4) == (Liveness.UP, 1)


def test_a_verdict_on_an_earlier_life_is_void() -> None:
    cluster = Cluster()
    cluster.up(4, intact=True)
    applied = cluster.apply(log.NodeDown(4, 0))
    assert applied.refusal is not None
    assert applied.refusal[1].startswith("void: life 0 of n4 is not up")
    assert cluster.catalog.node_state(4) == (Liveness.UP, 1)


# A node goes down.


def test_the_other_member_takes_over_under_a_new_epoch() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    applied = cluster.down(owner)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch, row.offline) == (replicant, 1 << replicant, 2, False)
    assert 0 in regions_of(applied, RegionsChanged)


def test_a_lost_replicant_leaves_the_in_sync_set() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch) == (owner, 1 << owner, 2)


def test_a_row_without_a_member_left_is_offline_and_keeps_its_last_set() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(owner)
    cluster.down(replicant)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch, row.offline) == (replicant, 1 << replicant, 3, True)


def test_only_a_member_of_the_last_set_opens_an_offline_row() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(owner)
    cluster.down(replicant)
    cluster.up(owner, intact=True)
    assert cluster.catalog.row(1, 0).offline
    cluster.up(replicant, intact=True)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch, row.offline) == (replicant, 1 << replicant, 4, False)


def test_rows_of_other_nodes_keep_epoch_and_version_when_a_node_is_lost() -> None:
    cluster = Cluster()
    cluster.create()
    lost = cluster.pair_of(0)[0]
    others = np.flatnonzero(cluster.table.in_sync >> lost & 1 == 0)
    versions = cluster.table.version[others].copy()
    cluster.down(lost)
    assert (cluster.table.epoch[others] == 1).all()
    assert np.array_equal(cluster.table.version[others], versions)


def test_the_loss_of_a_joiner_ends_its_join_under_a_new_epoch() -> None:
    cluster = Cluster()
    cluster.create()
    cluster.down(cluster.pair_of(0)[1])
    joiner = next(n for n in cluster.catalog.up_nodes() if n != cluster.pair_of(0)[0])
    cluster.join(0, joiner)
    epoch = cluster.catalog.row(1, 0).epoch
    cluster.down(joiner)
    row = cluster.catalog.row(1, 0)
    assert (row.joiner, row.epoch) == (NOBODY, epoch + 1)


def test_a_joiner_stays_with_the_row_when_its_owner_moves() -> None:
    cluster = Cluster(nodes=3)
    cluster.create(copies=2)
    owner, replicant = cluster.pair_of(0)
    third = 3 - owner - replicant
    cluster.down(replicant)
    cluster.join(0, third)
    cluster.up(owner, intact=True)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.joiner) == (owner, third)


# A node comes back.


def test_an_intact_restart_keeps_its_place_under_a_new_epoch() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.up(owner, intact=True)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch) == (owner, 1 << owner | 1 << replicant, 2)


def test_a_restart_that_lost_writes_steps_back_behind_a_member_that_is_up() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    applied = cluster.up(owner)
    row = cluster.catalog.row(1, 0, owner)
    assert (row.owner, row.in_sync, row.epoch) == (replicant, 1 << replicant, 2)
    assert row.ld >= 0, "its stale copy keeps its space"
    assert regions_of(applied, RegionsReduced) == []


def test_a_sole_member_that_lost_writes_goes_on_and_says_so() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    applied = cluster.up(owner)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch, row.offline) == (owner, 1 << owner, 3, False)
    assert 0 in regions_of(applied, RegionsReduced)


def test_a_blank_member_leaves_and_gives_its_space_back() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.up(owner, blank=True)
    row = cluster.catalog.row(1, 0, owner)
    assert (row.owner, row.in_sync, row.epoch, row.ld) == (replicant, 1 << replicant, 2, -1)
    assert cluster.catalog.check() == []


def test_a_blank_sole_member_means_that_the_row_is_lost() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    applied = cluster.up(owner, blank=True)
    row = cluster.catalog.row(1, 0)
    assert row.offline
    assert row.owner == NOBODY
    assert 0 in regions_of(applied, RegionsLost)
    lost = cluster.table.offline & (cluster.table.in_sync == 0)
    assert np.count_nonzero(lost) == applied.result["lost"]


def test_no_later_life_opens_a_lost_row() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.up(owner, blank=True)
    cluster.up(owner, intact=True)  # its store survived this time, but it is an empty one
    cluster.up(replicant, intact=True)  # an older copy
    assert cluster.catalog.row(1, 0).offline


def test_a_joiner_that_restarts_must_begin_anew() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    cluster.up(replicant, intact=True)
    cluster.join(0, replicant)
    epoch = cluster.catalog.row(1, 0).epoch
    cluster.up(replicant, intact=True)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.joiner, row.epoch) == (owner, NOBODY, epoch + 1)


# Cut pairs.


@pytest.mark.parametrize("by_owner", [True, False])
def test_of_a_cut_pair_the_owner_stays(by_owner: bool) -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    applied = cluster.cut(owner, replicant) if by_owner else cluster.cut(replicant, owner)
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.in_sync, row.epoch) == (owner, 1 << owner, 2)
    assert isinstance(applied.effects[0], PairCut)


def test_a_cut_between_owner_and_joiner_ends_the_join() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.cut(owner, replicant)
    cluster.join(0, replicant)
    cluster.cut(replicant, owner)
    row = cluster.catalog.row(1, 0)
    assert (row.joiner, row.epoch) == (NOBODY, 3)


def test_a_cut_without_common_rows_is_recorded_for_its_reporter() -> None:
    cluster = Cluster()
    applied = cluster.cut(2, 6)
    assert applied.effects == [PairCut(2, 6)]
    assert cluster.catalog.cut_version(6, 2) == cluster.catalog.version


def test_a_cut_of_an_earlier_life_is_void() -> None:
    cluster = Cluster()
    cluster.up(6, intact=True)
    applied = cluster.apply(log.CutPair(2, 0, 6, 0))
    assert applied.refusal is not None
    assert cluster.catalog.cut_version(2, 6) == 0


# Joining and moving.


def test_a_recruit_joins_without_a_new_epoch() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    third = next(n for n in cluster.catalog.up_nodes() if n != owner)
    cluster.join(0, third)
    row = cluster.catalog.row(1, 0, third)
    assert (row.joiner, row.epoch, row.in_sync) == (third, 2, 1 << owner)
    assert row.ld >= 0


@pytest.mark.parametrize("case", ["whole", "owner", "down", "joining", "offline", "beyond"])
def test_a_recruit_that_does_not_qualify_is_skipped(case: str) -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    region, node = 0, next(n for n in range(8) if n not in (owner, replicant))
    if case != "whole":
        cluster.down(replicant)
    if case == "owner":
        node = owner
    elif case == "down":
        node = replicant
    elif case == "joining":
        cluster.join(0, node)
        node = next(n for n in range(8) if n not in (owner, replicant, node))
    elif case == "offline":
        cluster.down(owner)
    elif case == "beyond":
        region = 16
    before = cluster.table.to_bytes()
    applied = cluster.apply(log.recruits(1, np.array([region]), np.array([node])))
    assert applied.result == {"recruited": 0, "skipped": 1}
    assert cluster.table.to_bytes() == before


def test_a_recruit_in_the_owners_failure_domain_is_skipped() -> None:
    cluster = Cluster(nodes=3, domains=(0, 0, 1))
    cluster.create(owner=0)
    cluster.down(2)
    applied = cluster.apply(log.recruits(1, np.arange(16), np.ones(16)))
    assert applied.result == {"recruited": 0, "skipped": 16}


def test_recruits_beyond_the_space_are_left_for_later() -> None:
    cluster = Cluster(nodes=3)
    cluster.create(regions=200, owner=0)
    cluster.down(1)
    cluster.create(regions=60, copies=1, owner=2, name="filler")
    wanting = np.flatnonzero(np.bitwise_count(cluster.table.in_sync) == 1)
    room = int(cluster.catalog.room("g", REGION)[2])
    assert 0 < room < len(wanting), "the test needs a full node"
    applied = cluster.apply(log.recruits(1, wanting, np.full(len(wanting), 2)))
    assert 0 < applied.result["recruited"] <= room
    assert cluster.catalog.check() == []


def test_an_admitted_joiner_is_in_sync_under_a_new_epoch() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    third = next(n for n in cluster.catalog.up_nodes() if n != owner)
    cluster.join(0, third)
    applied = cluster.admit(0, third)
    row = cluster.catalog.row(1, 0)
    assert (row.in_sync, row.joiner, row.epoch) == (1 << owner | 1 << third, NOBODY, 3)
    assert np.frombuffer(applied.result["regions"], dtype="<u4").tolist() == [0]


def test_a_stale_copy_keeps_its_space_when_another_is_admitted() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    third = next(n for n in cluster.catalog.up_nodes() if n != owner)
    cluster.join(0, third)
    cluster.admit(0, third)
    assert cluster.catalog.row(1, 0, replicant).ld >= 0
    assert cluster.catalog.check() == []


@pytest.mark.parametrize("wrong", ["epoch", "node"])
def test_admission_at_another_epoch_or_of_another_node_is_void(wrong: str) -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    third, fourth = [n for n in cluster.catalog.up_nodes() if n != owner][:2]
    cluster.join(0, third)
    before = cluster.table.to_bytes()
    applied = (
        cluster.admit(0, third, epoch=1) if wrong == "epoch" else cluster.admit(0, fourth)
    )  # fmt: skip
    assert applied.result["skipped"] == 1
    assert cluster.table.to_bytes() == before


def test_a_cancelled_join_is_fenced() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.down(replicant)
    third = next(n for n in cluster.catalog.up_nodes() if n != owner)
    cluster.join(0, third)
    cluster.apply(log.CancelJoins(1, log.pack_rows([0], [third], [2])))
    row = cluster.catalog.row(1, 0)
    assert (row.joiner, row.epoch) == (NOBODY, 3)


def test_an_owner_moves_to_another_member() -> None:
    cluster = Cluster()
    cluster.create()
    owner, replicant = cluster.pair_of(0)
    cluster.apply(log.MoveOwners(1, log.pack_rows([0], [replicant], [1])))
    row = cluster.catalog.row(1, 0)
    assert (row.owner, row.epoch, row.in_sync) == (replicant, 2, 1 << owner | 1 << replicant)


def test_an_owner_never_moves_to_a_node_without_a_copy_in_sync() -> None:
    cluster = Cluster()
    cluster.create()
    stranger = next(n for n in range(8) if n not in cluster.pair_of(0))
    applied = cluster.apply(log.MoveOwners(1, log.pack_rows([0], [stranger], [1])))
    assert applied.result["skipped"] == 1
    assert cluster.catalog.row(1, 0).epoch == 1


# Volumes.


def test_a_volume_is_created_grown_and_removed() -> None:
    cluster = Cluster()
    assert cluster.create(16).effects == [VolumeCreated(1)]
    assert cluster.apply(log.GrowVolume(1, 20 * REGION)).effects == [VolumeGrown(1)]
    assert cluster.catalog.volume_by_name("v").regions == 20
    assert cluster.apply(log.RemoveVolume(1)).effects == [VolumeRemoved(1)]
    with pytest.raises(NotFound):
        cluster.catalog.volume_by_name("v")


def test_the_number_of_a_removed_volume_is_never_given_again() -> None:
    cluster = Cluster()
    cluster.create()
    cluster.apply(log.RemoveVolume(1))
    assert cluster.create().result == {"volume": 2}
    assert cluster.apply(log.RemoveVolume(1)).refusal is not None


def test_a_name_in_use_is_refused() -> None:
    cluster = Cluster()
    cluster.create()
    assert cluster.create().refusal == ("exists", "volume v exists")


def test_a_volume_larger_than_the_space_is_refused_with_what_is_free() -> None:
    refusal = Cluster().create(regions=100_000).refusal
    assert refusal is not None
    assert refusal[0] == "no_space"
    assert "n7 16 MiB" in refusal[1]


def test_a_volume_avoids_nodes_that_are_full() -> None:
    cluster = Cluster(nodes=4)
    cluster.create(regions=256, copies=1, owner=3, name="filler")
    cluster.create(regions=40, name="w")
    table = cluster.catalog.volume_by_name("w").table
    assert (table.in_sync & 8 == 0).all()


def test_a_volume_with_more_copies_than_live_failure_domains_is_refused() -> None:
    cluster = Cluster(nodes=2)
    cluster.down(1)
    refusal = cluster.create().refusal
    assert refusal is not None
    assert "2 copies want as many failure domains; 1 are up" in refusal[1]


def test_a_pinned_owner_owns_every_region() -> None:
    cluster = Cluster()
    cluster.create(owner=5)
    assert (cluster.table.owner == 5).all()


# Snapshots, questions, size.


def test_a_snapshot_restores_everything() -> None:
    cluster = Cluster()
    cluster.create()
    cluster.cut(1, 2)
    cluster.down(3)
    restored = Catalog.from_bytes(cluster.catalog.to_bytes())
    assert restored.to_bytes() == cluster.catalog.to_bytes()
    assert restored.cut_version(2, 1) == cluster.catalog.cut_version(1, 2)
    assert (restored.up_nodes(), restored.up_mask) == ((0, 1, 2, 4, 5, 6, 7), 0b11110111)


def test_damaged_snapshots_are_refused() -> None:
    image = Cluster(nodes=2).catalog.to_bytes()
    for length in range(0, len(image), 7):
        with pytest.raises(InvalidRequest):
            Catalog.from_bytes(image[:length])


def test_a_snapshot_with_a_node_that_cannot_be_is_refused() -> None:
    parts = msgpack.unpackb(Cluster(nodes=2).catalog.to_bytes())
    parts[3] = [0, 9]
    with pytest.raises(InvalidRequest):
        Catalog.from_bytes(msgpack.packb(parts))


def test_entries_that_are_not_for_the_catalog_move_its_version() -> None:
    cluster = Cluster()
    cluster.catalog.pass_over(100)
    assert cluster.catalog.version == 100


def test_rows_involving_a_node_are_those_where_it_is_member_or_joiner() -> None:
    cluster = Cluster()
    cluster.create()
    for node in range(8):
        wanted = np.flatnonzero(cluster.table.in_sync >> node & 1).tolist()
        found = {r.volume: r.regions.tolist() for r in cluster.catalog.rows_involving(node)}
        assert found == ({1: wanted} if wanted else {})


def test_a_tebibyte_survives_the_loss_of_a_node_in_one_entry() -> None:
    catalog = Catalog()
    disks = build_inventory(cages=1, sleds_per_cage=4, disk_bytes=64 * GiB)
    inventory = log.plain_inventory(disks.to_tuple())
    group = log.plain_group(ProvisioningGroup("g").to_tuple())
    entries: list[log.Entry] = [log.FormCluster("c", tuple((n, n) for n in range(8)), (group,))]
    entries += [log.NodeUp(node, 1, False, True, inventory) for node in range(8)]
    entries += [log.CreateVolume("v", TiB, "g", 2, 16384, 32, 32, "synced", -1)]
    for index, entry in enumerate(entries, start=1):
        assert catalog.apply(index, log.encode(entry)).refusal is None
    applied = catalog.apply(len(entries) + 1, log.encode(log.NodeDown(3, 1)))
    assert applied.result == {"changed": 16_384, "offline": 0}
    owned = np.delete(np.bincount(catalog.volumes[1].table.owner, minlength=8), 3)
    assert owned.max() < 1.1 * owned.min()
