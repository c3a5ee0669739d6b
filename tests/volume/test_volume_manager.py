from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import AlreadyExists, InvalidRequest, NoSpace, NotFound, StorageError
from base.ids import NOBODY
from base.units import KiB, MiB, TiB
from volume.physical_disk import Loop, build_inventory
from volume.provisioning_group import ProvisioningGroup
from volume.virtual_volume import VolumeShape
from volume.volume_manager import CreatePlan, VolumeManager

REGION = 64 * KiB
SMALL = build_inventory(1, 2, "same", 2 * MiB, 128 * KiB, 0)  # 8 disks of 16 chunklets: 16 MiB
STEP = 16 * KiB


def ring(regions: int, nodes: int = 8, copies: int = 2, first: int = 0) -> NDArray[np.uint8]:
    owner = (np.arange(regions) + first) % nodes
    columns = [(owner + copy) % nodes for copy in range(copies)]
    return np.stack(columns, axis=1).astype(np.uint8)


def cluster(nodes: int = 3, **group: Any) -> VolumeManager:
    manager = VolumeManager()
    for node in range(nodes):
        manager.add_node(node, SMALL)
    manager.create_group(ProvisioningGroup("g", **{"step_bytes": STEP, "row_size": 2, **group}))
    return manager


def plan(manager: VolumeManager, name: str = "v", regions: int = 6, **changes: Any) -> CreatePlan:
    copies = changes.get("copies", 2)
    wanted: dict[str, Any] = {
        "name": name, "size_bytes": regions * REGION, "group": "g", "copies": copies,
        "page_bytes": 4 * KiB, "l2_entries": 4, "l3_entries": 4, "policy": "synced",
        "placement": ring(regions, len(manager.nodes), copies),
    }  # fmt: skip
    return manager.plan_create(**{**wanted, **changes})


def create(manager: VolumeManager, name: str = "v", regions: int = 6, **changes: Any) -> None:
    manager.apply(plan(manager, name, regions, **changes), version=10)


# Golden numbers.


def test_1_tib_of_16_mib_regions_is_65536_entries_by_ruling_r6() -> None:
    assert VolumeShape(16 * KiB, 32, 32).region_bytes == 16 * MiB
    assert VolumeShape(16 * KiB, 32, 32).regions_for(TiB) == 65_536


def test_8192_regions_of_1_tib_are_a_node_s_share_as_owner_by_ruling_r6() -> None:
    manager = VolumeManager()
    for node in range(8):
        manager.add_node(node, build_inventory())
    manager.create_group(ProvisioningGroup("g"))
    tracemalloc.start()
    began = time.process_time()
    made = manager.apply(
        manager.plan_create("big", TiB, "g", 2, 16 * KiB, 32, 32, "synced", ring(65_536)),
        version=3,
    )
    took = time.process_time() - began
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.bincount(made.table.owner).tolist() == [8_192] * 8
    assert took < 0.5 * 4  # tracing memory costs several times the work itself
    assert peak_bytes < 30 * MiB
    assert manager.check() == []


# Creating.


def test_a_created_volume_has_its_copies_where_the_placement_says() -> None:
    manager = cluster()
    create(manager, regions=4)
    table = manager.volume("v").table
    assert table.owner.tolist() == [0, 1, 2, 0]
    assert table.in_sync.tolist() == [0b011, 0b110, 0b101, 0b011]
    assert table.slot_node.tolist() == [
        [0, 1, NOBODY], [1, 2, NOBODY], [2, 0, NOBODY], [0, 1, NOBODY],
    ]  # fmt: skip
    assert (set(table.epoch.tolist()), set(table.version.tolist())) == ({1}, {10})
    assert manager.check() == []


def test_a_volume_can_be_created_with_a_copy_still_to_be_recruited() -> None:
    manager = cluster()
    placement = ring(2, 3)
    placement[1, 1] = NOBODY
    create(manager, regions=2, placement=placement)
    assert manager.volume("v").table.in_sync.tolist() == [0b011, 0b010]
    assert manager.check() == []


def test_planning_changes_nothing() -> None:
    manager = cluster()
    before = manager.to_bytes()
    plan(manager)
    assert manager.to_bytes() == before


def test_a_plan_made_on_another_state_is_a_bug() -> None:
    manager = cluster()
    old = plan(manager, "a")
    create(manager, "b")
    with pytest.raises(AssertionError, match="another state"):
        manager.apply(old, version=11)


def test_a_part_of_the_last_region_is_a_region() -> None:
    manager = cluster()
    create(manager, regions=2, size_bytes=REGION + 512)
    assert (manager.volume("v").size_bytes, manager.volume("v").regions) == (REGION + 512, 2)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"name": ""}, InvalidRequest, "not a volume name"),
        ({"name": ".v"}, InvalidRequest, "not a volume name"),
        ({"name": "-v"}, InvalidRequest, "not a volume name"),
        ({"name": "a/b"}, InvalidRequest, "not a volume name"),
        ({"name": "v\n"}, InvalidRequest, "not a volume name"),
        ({"name": "v" * 65}, InvalidRequest, "not a volume name"),
        ({"name": "old"}, AlreadyExists, "volume old"),
        ({"size_bytes": 0}, InvalidRequest, "size 0"),
        ({"size_bytes": 513}, InvalidRequest, "size 513"),
        ({"size_bytes": 1 << 60}, InvalidRequest, "at most"),
        ({"group": "none"}, NotFound, "group none"),
        ({"copies": 3}, InvalidRequest, "copies 3"),
        ({"page_bytes": 5000}, InvalidRequest, "page_bytes 5000"),
        ({"l2_entries": 0}, InvalidRequest, "l2_entries 0"),
        ({"l3_entries": 1 << 20}, InvalidRequest, "l3_entries"),
        ({"policy": "hope"}, InvalidRequest, "policy 'hope'"),
        ({"placement": ring(5, 3)}, InvalidRequest, "placement"),
        ({"placement": ring(6, 3).astype(float)}, InvalidRequest, "placement"),
        ({"placement": ring(6, 4)}, InvalidRequest, "on n3"),
        ({"placement": np.zeros((6, 2), dtype=np.uint8)}, InvalidRequest, "on one node"),
        ({"placement": np.full((6, 2), NOBODY, dtype=np.uint8)}, InvalidRequest, "region 0 on -"),
        ({"placement": np.full((6, 2), -1)}, InvalidRequest, "not a node"),
    ],
)
def test_a_bad_request_is_refused_and_changes_nothing(
    wrong: dict[str, Any], error: type[StorageError], text: str
) -> None:
    manager = cluster()
    create(manager, "old")
    before = manager.to_bytes()
    with pytest.raises(error, match=text) as caught:
        plan(manager, **{"name": "new", **wrong})
    assert caught.value.definite
    assert manager.to_bytes() == before


@pytest.mark.parametrize("name", ["v", "V-1.a_b", "_x", "0", "v" * 64])
def test_names_of_letters_digits_and_three_signs_are_taken(name: str) -> None:
    manager = cluster()
    create(manager, name)
    assert [volume.name for volume in manager.list_volumes()] == [name]


# Space.


def test_a_volume_larger_than_the_space_is_refused_with_what_is_free() -> None:
    manager = cluster(nodes=2)
    with pytest.raises(NoSpace, match=r"group g on n0: 16\.1 MiB needed, 16 MiB free"):
        plan(manager, regions=257)


def test_a_node_can_be_filled_to_its_free_bytes_and_no_further() -> None:
    manager = cluster(nodes=2)
    assert manager.free_bytes("g", 0, REGION) == 16 * MiB
    create(manager, regions=256)
    assert manager.free_bytes("g", 1, REGION) == 0
    with pytest.raises(NoSpace, match="0 B free"):
        plan(manager, "w", regions=1)


def test_spares_are_not_handed_out() -> None:
    manager = VolumeManager()
    manager.add_node(0, build_inventory(1, 1, "same", 2 * MiB, 128 * KiB, 4))
    manager.create_group(ProvisioningGroup("g", step_bytes=STEP, row_size=1))
    assert manager.free_bytes("g", 0, REGION) == 4 * 12 * 128 * KiB


def test_a_mirrored_group_has_half_of_the_space() -> None:
    assert cluster(raid=1, set_size=2).free_bytes("g", 0, REGION) == 8 * MiB


def test_a_group_does_not_grow_over_its_limit() -> None:
    manager = cluster(nodes=2, limit_bytes=MiB)
    create(manager, "a", regions=8)  # 2 rows of 256 KiB on each node
    assert manager.group_use("g").ld_bytes == MiB
    assert manager.free_bytes("g", 0, REGION) == 0
    with pytest.raises(NoSpace, match="limit"):
        plan(manager, "b", regions=1)


def test_growth_beyond_the_need_yields_to_the_limit() -> None:
    manager = cluster(nodes=2, growth_bytes=MiB, limit_bytes=3 * 512 * KiB)
    create(manager, regions=1)
    assert [manager.storage(node).lds[0].size_bytes for node in (0, 1)] == [MiB, 512 * KiB]


def test_growth_beyond_the_need_yields_to_what_is_free() -> None:
    manager = cluster(nodes=2, growth_bytes=TiB)
    create(manager, regions=1)
    assert manager.storage(0).lds[0].size_bytes == 16 * MiB


def test_a_group_says_when_its_warning_is_reached() -> None:
    manager = cluster(nodes=2, warning_bytes=MiB)
    create(manager, "a", regions=4)
    assert not manager.group_use("g").warning
    create(manager, "b", regions=4)
    assert manager.group_use("g").warning
    assert manager.group_use("g").used_bytes == 16 * REGION


def test_volumes_with_other_region_sizes_do_not_share_an_ld() -> None:
    manager = cluster(nodes=2)
    create(manager, "a", regions=1)
    create(manager, "b", regions=1, l2_entries=2, size_bytes=REGION // 2)
    assert [ld.region_bytes for ld in manager.storage(0).lds.values()] == [REGION, REGION // 2]
    assert manager.check() == []


# Growing and removing.


def test_growing_keeps_the_old_rows_and_stamps_the_new_ones() -> None:
    manager = cluster()
    create(manager, regions=3)
    old = manager.volume("v").table.slot_region[:3].tolist()
    manager.apply(manager.plan_grow("v", 5 * REGION, ring(2, 3, first=1)), version=20)
    table = manager.volume("v").table
    assert table.slot_region[:3].tolist() == old
    assert table.version.tolist() == [10, 10, 10, 20, 20]
    assert table.owner.tolist() == [0, 1, 2, 1, 2]
    assert manager.check() == []


def test_growing_inside_the_last_region_takes_no_space() -> None:
    manager = cluster()
    create(manager, regions=1, size_bytes=512)
    free = manager.free_bytes("g", 0, REGION)
    manager.apply(manager.plan_grow("v", REGION, ring(0, 3)), version=20)
    assert (manager.volume("v").size_bytes, manager.free_bytes("g", 0, REGION)) == (REGION, free)


@pytest.mark.parametrize("size_bytes", [6 * REGION, 512, 0, -512])
def test_a_volume_does_not_shrink(size_bytes: int) -> None:
    manager = cluster()
    create(manager, regions=6)
    with pytest.raises(InvalidRequest):
        manager.plan_grow("v", size_bytes, ring(0, 3))


def test_removing_a_volume_gives_back_all_of_its_space() -> None:
    manager = cluster()
    before = [manager.free_bytes("g", node, REGION) for node in range(3)]
    create(manager, regions=50)
    manager.apply(manager.plan_remove("v"), version=30)
    assert [manager.free_bytes("g", node, REGION) for node in range(3)] == before
    assert all(not manager.storage(node).lds for node in range(3))
    assert manager.check() == []


def test_space_of_a_removed_volume_can_go_to_another_group() -> None:
    manager = cluster(nodes=2)
    manager.create_group(ProvisioningGroup("m", raid=1, set_size=2, step_bytes=STEP))
    create(manager, regions=256)
    assert manager.free_bytes("m", 0, REGION) == 0
    manager.apply(manager.plan_remove("v"), version=30)
    assert manager.free_bytes("m", 0, REGION) == 8 * MiB


def test_a_volume_number_is_never_used_again() -> None:
    manager = cluster()
    create(manager)
    manager.apply(manager.plan_remove("v"), version=30)
    create(manager)
    assert manager.volume("v").volume == 2


def test_a_volume_number_is_never_used_again_after_a_restart() -> None:
    manager = cluster()
    create(manager)
    manager.apply(manager.plan_remove("v"), version=30)
    assert plan(VolumeManager.from_bytes(manager.to_bytes())).volume == 2


def test_an_ld_number_is_never_used_again_after_a_blank_replacement() -> None:
    manager = cluster()
    create(manager, regions=3)
    lose(manager, 1)
    manager.replace_inventory(1, SMALL)
    manager.allocate_slots("v", np.arange(1), 1, version=80)
    assert list(manager.storage(1).lds) == [1]


def test_an_ld_number_is_never_used_again() -> None:
    manager = cluster()
    create(manager)
    manager.apply(manager.plan_remove("v"), version=30)
    create(manager)
    assert list(manager.storage(0).lds) == [1]


@pytest.mark.parametrize("volume", ["v", 1, 0, -1])
def test_a_volume_that_does_not_exist_is_not_found(volume: int | str) -> None:
    with pytest.raises(NotFound, match=f"volume {volume} does not exist"):
        cluster().plan_remove(volume)


# Copies that come and go.


def lose(manager: VolumeManager, node: int) -> NDArray[np.intp]:
    """Drop a node from every region of v, as the catalog does; its regions."""
    table = manager.volume("v").table
    regions = table.regions_of(node)
    table.in_sync[regions] &= np.uint8(0xFF & ~(1 << node))
    for region in regions:
        if table.owner[region] == node:
            table.owner[region] = int(table.in_sync[region]).bit_length() - 1
    return regions


def test_a_recruited_copy_gets_an_empty_slot_and_the_stale_one_keeps_its_space() -> None:
    manager = cluster(nodes=4)
    create(manager, regions=4, placement=ring(4, 2))
    regions = lose(manager, 1)
    manager.allocate_slots("v", regions, 3, version=40)
    table = manager.volume("v").table
    assert table.slots_of(regions, 3).tolist() == [2] * 4
    assert (table.slots_of(regions, 1) >= 0).all()
    assert table.version.tolist() == [40] * 4
    assert manager.check() == []


def test_a_region_that_has_a_slot_on_the_node_keeps_it() -> None:
    manager = cluster()
    create(manager, regions=3)
    regions = lose(manager, 1)
    before = manager.volume("v").table.slot_region.tobytes()
    manager.allocate_slots("v", regions, 1, version=10)
    assert manager.volume("v").table.slot_region.tobytes() == before


def test_a_copy_that_is_filled_again_is_of_no_epoch() -> None:
    manager = cluster()
    create(manager, regions=3)
    regions = lose(manager, 1)
    table = manager.volume("v").table
    slots = table.slots_of(regions, 1)
    assert (table.slot_epoch[regions, slots] == 1).all()
    manager.allocate_slots("v", regions, 1, version=10)
    assert (table.slot_epoch[regions, slots] == 0).all()


def test_a_stale_slot_is_freed_when_no_slot_is_empty() -> None:
    manager = cluster(nodes=4)
    create(manager, regions=4, placement=ring(4, 2))
    manager.allocate_slots("v", np.arange(4), 2, version=40)
    regions = lose(manager, 1)
    free = manager.free_bytes("g", 1, REGION)
    manager.allocate_slots("v", regions, 3, version=50)
    assert (manager.volume("v").table.slots_of(regions, 1) < 0).all()
    assert manager.free_bytes("g", 1, REGION) == free + 4 * REGION
    assert manager.check() == []


def test_a_slot_in_use_is_never_freed_for_a_recruit() -> None:
    manager = cluster(nodes=4)
    create(manager, regions=1)
    manager.allocate_slots("v", np.arange(1), 2, version=40)
    manager.volume("v").table.joiner[0] = 2
    with pytest.raises(InvalidRequest, match="region 0: all 3 slots"):
        manager.allocate_slots("v", np.arange(1), 3, version=50)


def test_each_region_may_be_recruited_on_a_node_of_its_own() -> None:
    manager = cluster(nodes=4)
    create(manager, regions=4, placement=ring(4, 2))
    regions = np.array([3, 0, 2])
    manager.allocate_slots("v", regions, np.array([2, 3, 3]), version=40)
    assert manager.volume("v").table.slot_node[:, 2].tolist() == [3, NOBODY, 3, 2]
    assert manager.check() == []


def test_recruiting_without_space_changes_nothing() -> None:
    manager = cluster(nodes=3)
    create(manager, "fill", regions=256, copies=1, placement=np.full((256, 1), 2, dtype=np.uint8))
    create(manager, regions=3, placement=ring(3, 2))
    before = manager.to_bytes()
    with pytest.raises(NoSpace, match="n2"):
        manager.allocate_slots("v", np.arange(3), 2, version=40)
    assert manager.to_bytes() == before


@pytest.mark.parametrize(
    ("regions", "nodes", "error"),
    [
        ([0, 0], 2, InvalidRequest),
        ([6], 2, InvalidRequest),
        ([-1], 2, InvalidRequest),
        ([0, 1], [2], InvalidRequest),
        ([0], 5, NotFound),
        ([0], NOBODY, NotFound),
    ],
)
def test_impossible_recruits_are_refused_and_change_nothing(
    regions: list[int], nodes: Any, error: type[StorageError]
) -> None:
    manager = cluster()
    create(manager, regions=6)
    before = manager.to_bytes()
    with pytest.raises(error):
        manager.allocate_slots("v", np.array(regions), np.array(nodes), version=40)
    assert manager.to_bytes() == before


def test_releasing_frees_stale_copies_only_where_they_are() -> None:
    manager = cluster()
    create(manager, regions=3)
    regions = lose(manager, 1)
    assert manager.release_slots("v", np.arange(3), 1, version=60) == len(regions)
    assert manager.volume("v").table.regions_of(1).tolist() == []
    assert manager.check() == []


@pytest.mark.parametrize("node", [0, 1])
def test_a_copy_in_use_is_not_released(node: int) -> None:
    manager = cluster()
    create(manager, regions=1)
    before = manager.to_bytes()
    with pytest.raises(InvalidRequest, match=f"copy on n{node} is in use"):
        manager.release_slots("v", np.array([0]), node)
    assert manager.to_bytes() == before


# Nodes.


def test_a_node_is_taken_in_once() -> None:
    manager = cluster()
    assert manager.has_node(2)
    assert not manager.has_node(3)
    with pytest.raises(AlreadyExists, match="n2"):
        manager.add_node(2, SMALL)


@pytest.mark.parametrize("node", [-1, 8])
def test_a_ninth_node_is_refused(node: int) -> None:
    with pytest.raises(InvalidRequest, match="between 0 and 7"):
        cluster().add_node(node, SMALL)


def test_a_group_that_some_node_cannot_carry_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="group wide on n0: set_size 9"):
        cluster().create_group(ProvisioningGroup("wide", set_size=9, step_bytes=STEP))


def test_a_node_that_cannot_carry_a_group_is_refused() -> None:
    manager = cluster(set_size=6)
    with pytest.raises(InvalidRequest, match="group g on n3"):
        manager.add_node(3, build_inventory(1, 1, "same", 2 * MiB, 128 * KiB, 0))


def test_a_blank_replacement_empties_the_slots_of_the_node() -> None:
    manager = cluster()
    create(manager, regions=3)
    lose(manager, 1)
    manager.replace_inventory(1, SMALL, version=70)
    assert manager.volume("v").table.regions_of(1).tolist() == []
    assert manager.volume("v").table.version.tolist() == [70, 70, 10]
    assert manager.free_bytes("g", 1, REGION) == 16 * MiB
    assert manager.check() == []


def test_a_node_that_still_counts_is_not_replaced_by_a_blank_one() -> None:
    manager = cluster()
    create(manager, regions=3)
    before = manager.to_bytes()
    with pytest.raises(InvalidRequest, match="copy of 2 regions of volume v"):
        manager.replace_inventory(1, SMALL)
    assert manager.to_bytes() == before


def test_a_loss_that_an_operator_accepts_leaves_regions_offline_without_owner() -> None:
    manager = cluster()
    create(manager, regions=1, copies=1, placement=np.array([[1]], dtype=np.uint8))
    manager.replace_inventory(1, SMALL, version=70, accept_loss=True)
    row = manager.volume("v").table.row(0, 1)
    assert (row.owner, row.in_sync, row.offline, row.ld) == (NOBODY, 0, True, -1)
    assert manager.check() == []


# Showing.


def test_mapping_an_address_shows_every_member_of_every_copy_owner_first() -> None:
    manager = cluster(raid=1, set_size=2)
    create(manager, regions=3)
    blocks = manager.map_address("v", REGION + 5)
    assert [(block.node, block.role, block.member) for block in blocks] == [
        (1, "owner", 0), (1, "owner", 1), (2, "replicant", 0), (2, "replicant", 1),
    ]  # fmt: skip
    assert all(block.region == 1 and block.disk_offset % STEP == 5 for block in blocks)


def test_mapping_an_address_agrees_with_what_a_write_touches() -> None:
    manager = cluster(raid=1, set_size=2)
    create(manager, regions=12)
    for offset in range(0, 12 * REGION, 4 * KiB):
        blocks = [block for block in manager.map_address("v", offset) if block.role == "owner"]
        ld = manager.logical_disk(blocks[0].node, blocks[0].ld)
        touched = ld.plan_write(blocks[0].ld_region * REGION + offset % REGION, 512)
        assert [(b.disk, b.disk_offset) for b in blocks] == [(e.disk, e.offset) for e in touched]
        assert all(b.disk_offset // (128 * KiB) == b.chunklet for b in blocks)


def test_mapping_an_address_shows_the_path_that_is_left() -> None:
    manager = cluster()
    create(manager, regions=1)
    down = {(0, Loop(0, "A")), (1, Loop(0, "A")), (1, Loop(0, "B"))}
    blocks = manager.map_address("v", 0, lambda node, loop: (node, loop) not in down)
    assert [(block.node, block.path) for block in blocks] == [(0, "B0"), (1, None)]


def test_mapping_shows_stale_and_joining_copies_as_such() -> None:
    manager = cluster(nodes=4)
    create(manager, regions=1)
    lose(manager, 1)
    manager.allocate_slots("v", np.array([0]), 3, version=40)
    manager.volume("v").table.joiner[0] = 3
    assert [block.role for block in manager.map_address("v", 0)] == ["owner", "joiner", "stale"]


@pytest.mark.parametrize("offset", [-1, REGION])
def test_an_address_outside_of_the_volume_is_refused(offset: int) -> None:
    manager = cluster()
    create(manager, regions=1)
    with pytest.raises(InvalidRequest, match="volume v has bytes 0 to 65535"):
        manager.map_address("v", offset)


# Bytes and checks.


def test_the_state_survives_its_bytes() -> None:
    manager = cluster(raid=1, set_size=2)
    create(manager, "a", regions=7)
    create(manager, "b", regions=2)
    state = manager.to_bytes()
    again = VolumeManager.from_bytes(state)
    assert again.to_bytes() == state
    for each in (manager, again):
        each.apply(each.plan_remove("a"), version=50)
        create(each, "c", regions=9)
    assert again.to_bytes() == manager.to_bytes()


def test_cut_or_damaged_state_is_refused_or_read_whole() -> None:
    manager = cluster()
    create(manager, regions=3)
    good = manager.to_bytes()
    for cut in range(0, len(good), 7):
        with pytest.raises(StorageError):
            VolumeManager.from_bytes(good[:cut])
    with pytest.raises(StorageError):
        VolumeManager.from_bytes(good + b"\0")
    for at in range(0, len(good), 5):
        damaged = bytearray(good)
        damaged[at] ^= 0xFF
        try:
            read = VolumeManager.from_bytes(bytes(damaged))
        except StorageError:
            continue
        assert read.check() == []


def test_check_names_an_ld_region_used_twice() -> None:
    manager = cluster()
    create(manager, regions=6)
    table = manager.volume("v").table
    table.slot_region[3, 0] = table.slot_region[0, 0]
    assert any("used twice" in fault for fault in manager.check())


def test_check_names_a_lost_ld_region() -> None:
    manager = cluster()
    create(manager, regions=1)
    manager.storage(0).lds[0].take(np.array([3]))
    assert manager.check() == ["n0 LD 0: its bitmap and the volumes do not agree"]


def test_check_names_an_ld_that_does_not_exist() -> None:
    manager = cluster()
    create(manager, regions=1)
    manager.volume("v").table.slot_ld[0, 0] = 9
    assert "volume v: LD 9 of n0 does not exist" in manager.check()


def test_check_names_raid_members_on_one_disk() -> None:
    manager = cluster(raid=1, set_size=2)
    create(manager, regions=1)
    ld = manager.storage(0).lds[0]
    ld.chunklets[0, 1] = ld.chunklets[0, 0]
    faults = manager.check()
    assert any("on one disk" in fault for fault in faults)
    assert any("used twice" in fault for fault in faults)
