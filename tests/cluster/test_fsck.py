"""Space used twice or by nobody, and copies that do not fit the catalog, are found and named."""

from __future__ import annotations

from dataclasses import replace

from cluster import entries as log
from cluster.catalog import Catalog
from cluster.fsck import (
    Finding,
    HeldRegion,
    NodeCopy,
    check_catalog,
    check_node,
    compare_catalogs,
    compare_nodes,
)
from volume.physical_disk import build_inventory
from volume.provisioning_group import ProvisioningGroup

PAGE = 4096
REGION = 16 * PAGE
REGIONS = 5


def catalog_with_volumes(*, raid: int = 1) -> Catalog:
    """Three nodes with two mirrored volumes, v and w."""
    catalog = Catalog()
    size = 2 if raid else 1
    group = ProvisioningGroup("g", raid=raid, set_size=size, row_size=1, step_bytes=PAGE)
    made = build_inventory(
        cages=1, sleds_per_cage=1, disk_bytes=64 * REGION, chunklet_bytes=4 * REGION,
        spare_chunklets=0,
    )  # fmt: skip
    inventory = log.plain_inventory(made.to_tuple())
    entries: list[log.Entry] = [
        log.FormCluster("c", ((0, 0), (1, 1), (2, 2)), (log.plain_group(group.to_tuple()),))
    ]
    entries += [log.NodeUp(node, 0, False, True, inventory) for node in range(3)]
    entries += [
        log.CreateVolume(name, REGIONS * REGION, "g", 2, PAGE, 4, 4, "synced", -1)
        for name in ("v", "w")
    ]
    for index, entry in enumerate(entries, 1):
        assert catalog.apply(index, log.encode(entry)).refusal is None
    return catalog


def held_by(catalog: Catalog, node: int) -> list[HeldRegion]:
    held = []
    for volume in catalog.volume_manager.list_volumes():
        for region in volume.table.regions_of(node).tolist():
            row = volume.table.row(region, node)
            held.append(
                HeldRegion(int(volume.volume), region, row.ld, row.ld_region, True, 1, 10, "aa")
            )
    return held


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


def place_of(catalog: Catalog, volume: int, region: int) -> tuple[int, int, int]:
    table = catalog.volumes[volume].table
    slots = table.slot_node[region].tolist()
    return slots[0], int(table.slot_ld[region, 0]), int(table.slot_region[region, 0])


def test_a_catalog_that_adds_up_has_no_findings() -> None:
    assert check_catalog(catalog_with_volumes()) == []


def test_an_ld_region_with_two_users_names_both_and_the_chunklet() -> None:
    catalog = catalog_with_volumes()
    node, ld, place = place_of(catalog, 1, 0)
    table = catalog.volumes[2].table
    region = int(table.regions_of(node)[0])
    slot = table.slot_of(region, node)
    table.slot_ld[region, slot], table.slot_region[region, slot] = ld, place
    found = check_catalog(catalog)
    twice = only([finding for finding in found if "used twice" in finding.text])
    assert (twice.rule, twice.node, twice.volume, twice.region) == ("I13", node, "w", region)
    assert "volume v region 0" in twice.text
    assert "chunklet" in twice.text


def test_an_ld_region_without_a_user_is_a_leak() -> None:
    catalog = catalog_with_volumes()
    node, ld, disk = next(
        (node, number, ld)
        for node, storage in sorted(catalog.volume_manager.nodes.items())
        for number, ld in sorted(storage.lds.items())
        if ld.free_regions
    )
    disk.take(disk.free_indices(1))
    finding = only(check_catalog(catalog))
    assert finding.rule == "I14"
    assert f"n{node} LD {ld} region" in finding.text


def test_an_ld_region_that_counts_as_free_and_is_used_is_found() -> None:
    catalog = catalog_with_volumes()
    node, ld, place = place_of(catalog, 1, 3)
    catalog.volume_manager.logical_disk(node, ld).used[place] = False
    finding = only(check_catalog(catalog))
    assert "volume v region 3 lies on" in finding.text
    assert "counts as free" in finding.text


def test_a_chunklet_of_two_lds_is_found() -> None:
    catalog = catalog_with_volumes()
    storage = next(
        each for each in catalog.volume_manager.nodes.values() if len(each.lds) >= 1
    )  # fmt: skip
    number, ld = sorted(storage.lds.items())[0]
    twin = 99
    copied = ld.chunklets.copy()
    storage.lds[twin] = type(ld)(
        ld=twin, node=storage.node, group=ld.group, space=ld.space, raid=ld.raid,
        row_size=ld.row_size, step_bytes=ld.step_bytes, chunklet_bytes=4 * REGION,
        region_bytes=ld.region_bytes, chunklets=copied,
    )  # fmt: skip
    texts = [finding.text for finding in check_catalog(catalog)]
    assert any(f"by LD {number} and LD {twin}" in text for text in texts)


def test_a_chunklet_that_no_ld_uses_is_a_leak() -> None:
    catalog = catalog_with_volumes()
    table = catalog.volume_manager.nodes[0].tables[0]
    free = table.free_numbers()[:1]
    table.allocate(free, 77)
    finding = only(check_catalog(catalog))
    assert finding == Finding(
        "I14", f"n0 disk 0 chunklet {free[0]} is held and used by no LD", 0
    )  # fmt: skip


def test_two_members_of_a_raid_set_on_one_disk_are_found() -> None:
    catalog = catalog_with_volumes()
    storage = next(each for each in catalog.volume_manager.nodes.values() if each.lds)
    ld = sorted(storage.lds.items())[0][1]
    ld.chunklets[0, 1] = ld.chunklets[0, 0]
    assert "I32" in [finding.rule for finding in check_catalog(catalog)]


def test_two_members_in_one_failure_domain_are_found() -> None:
    catalog = catalog_with_volumes()
    catalog.domains = (5, 5, 5, *catalog.domains[3:])
    found = check_catalog(catalog)
    assert len(found) == 2 * REGIONS
    assert "share failure domain 5" in found[0].text


def test_a_node_that_keeps_what_the_catalog_gives_it_has_no_findings() -> None:
    catalog = catalog_with_volumes()
    assert all(check_node(catalog, node, held_by(catalog, node)) == [] for node in range(3))


def test_a_region_of_a_removed_volume_is_found() -> None:
    catalog = catalog_with_volumes()
    stray = HeldRegion(9, 3, 0, 0, True)
    finding = only(check_node(catalog, 1, [stray]))
    assert (finding.rule, finding.volume, finding.region) == ("I15", "#9", 3)


def test_a_region_that_the_catalog_gives_to_others_is_a_leak() -> None:
    catalog = catalog_with_volumes()
    table = catalog.volumes[1].table
    region = next(at for at in range(REGIONS) if table.slot_of(at, 2) < 0)
    finding = only(check_node(catalog, 2, [HeldRegion(1, region, 0, 0, True)]))
    assert finding.text == (
        f"n2 keeps volume v region {region}, and the catalog gives it no space there"
    )


def test_a_region_in_another_place_than_the_catalog_says_is_found() -> None:
    catalog = catalog_with_volumes()
    held = held_by(catalog, 0)
    held[0] = replace(held[0], ld_region=held[0].ld_region + 40)
    assert "the catalog has it on LD" in only(check_node(catalog, 0, held)).text


def test_two_regions_in_one_place_are_found() -> None:
    catalog = catalog_with_volumes()
    held = held_by(catalog, 0)
    held[1] = replace(held[1], ld=held[0].ld, ld_region=held[0].ld_region)
    assert any("used twice" in finding.text for finding in check_node(catalog, 0, held))


def test_a_member_that_is_not_complete_is_found() -> None:
    catalog = catalog_with_volumes()
    held = held_by(catalog, 0)
    held[0] = replace(held[0], complete=False)
    assert only(check_node(catalog, 0, held)).rule == "I8"


def test_catalogs_of_one_version_with_different_bytes_are_found() -> None:
    copies = [NodeCopy(0, 7, 1), NodeCopy(1, 7, 1), NodeCopy(2, 7, 5), NodeCopy(3, 8, 9)]
    finding = only(compare_catalogs(copies))
    assert finding.text == "version 7 of the catalog differs between n0 and n2"


def test_copies_with_different_bytes_at_one_commit_point_are_found() -> None:
    catalog = catalog_with_volumes()
    held = {node: held_by(catalog, node) for node in range(3)}
    held[2][0] = replace(held[2][0], digest="bb")
    found, moving = compare_nodes(catalog, held)
    assert "differs between" in only(found).text
    assert moving == []


def test_copies_at_different_commit_points_are_not_compared() -> None:
    catalog = catalog_with_volumes()
    held = {node: held_by(catalog, node) for node in range(3)}
    held[2][0] = replace(held[2][0], digest="bb", committed=11)
    found, moving = compare_nodes(catalog, held)
    assert found == []
    assert moving == [(held[2][0].volume, held[2][0].region)]
