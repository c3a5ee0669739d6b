from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import ConfigError
from base.units import KiB, MiB
from volume.chunklet import ChunkletTable
from volume.physical_disk import NodeInventory, build_inventory
from volume.provisioning_group import ProvisioningGroup, choose_chunklets, rows_possible


def small(cages: int = 1, sleds: int = 2, wiring: str = "same") -> NodeInventory:
    return build_inventory(cages, sleds, wiring, 2 * MiB, 128 * KiB, 0)  # 16 chunklets a disk


def tables(inventory: NodeInventory, taken: list[int] | None = None) -> list[ChunkletTable]:
    """Blank tables, with the first `taken[disk]` chunklets of each disk in use."""
    made = [ChunkletTable.blank(disk.chunklets, disk.spare_chunklets) for disk in inventory.disks]
    for table, count in zip(made, taken or [0] * len(made), strict=True):
        table.allocate(np.arange(count), 0)
    return made


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("name", {"name": "-g"}),
        ("raid", {"raid": 2}),
        ("set_size", {"set_size": 0}),
        ("set_size", {"raid": 1, "set_size": 1}),
        ("set_size", {"set_size": 17}),
        ("row_size", {"row_size": 0}),
        ("row_size", {"row_size": 33}),
        ("step_bytes", {"step_bytes": 0}),
        ("step_bytes", {"step_bytes": 6 * KiB}),
        ("growth_bytes", {"growth_bytes": -1}),
        ("warning_bytes", {"warning_bytes": 2, "limit_bytes": 1}),
        ("limit_bytes", {"limit_bytes": "1T"}),
    ],
)
def test_an_impossible_policy_is_refused_with_its_key(key: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=key):
        ProvisioningGroup(**{"name": "g", **wrong})


def test_a_set_larger_than_the_number_of_disks_does_not_fit_a_node() -> None:
    group = ProvisioningGroup("g", set_size=5)
    assert "needs as many disks" in (group.fits(small(sleds=1)) or "")
    assert group.fits(small()) is None


def test_a_step_that_does_not_divide_a_chunklet_does_not_fit_a_node() -> None:
    assert "does not divide" in (ProvisioningGroup("g", step_bytes=96 * KiB).fits(small()) or "")


def test_mirror_members_are_on_different_loops_and_sleds() -> None:
    inventory = small()
    group = ProvisioningGroup("g", raid=1, set_size=2, row_size=4)
    chosen = choose_chunklets(group, inventory, tables(inventory), rows=8)
    assert chosen is not None
    for left, right in chosen[:, :, 0].tolist():
        one, two = inventory.disks[left], inventory.disks[right]
        assert one.primary != two.primary
        assert one.sled != two.sled


def test_mirror_members_are_in_different_cages_when_there_are_two() -> None:
    inventory = small(cages=2)
    group = ProvisioningGroup("g", raid=1, set_size=2, row_size=2)
    chosen = choose_chunklets(group, inventory, tables(inventory), rows=8)
    assert chosen is not None
    cages = [[inventory.disks[disk].cage for disk in each] for each in chosen[:, :, 0].tolist()]
    assert all(left != right for left, right in cages)


def test_rows_use_different_disks_and_the_load_is_even() -> None:
    inventory = small()
    chosen = choose_chunklets(
        ProvisioningGroup("g", row_size=4), inventory, tables(inventory), rows=10
    )
    assert chosen is not None
    disks = chosen[:, 0, 0].reshape(10, 4)
    assert all(len(set(row)) == 4 for row in disks.tolist())
    assert np.bincount(disks.ravel()).tolist() == [5] * 8


def test_a_row_uses_different_disks_even_when_one_disk_has_far_more_room() -> None:
    inventory = small()
    group = ProvisioningGroup("g", row_size=4)
    chosen = choose_chunklets(group, inventory, tables(inventory, [0] + [12] * 7), rows=4)
    assert chosen is not None
    assert all(len(set(row)) == 4 for row in chosen[:, 0, 0].reshape(4, 4).tolist())


def test_the_choice_is_the_same_each_time() -> None:
    inventory = small(wiring="split")
    group = ProvisioningGroup("g", raid=1, set_size=2)
    first, second = (choose_chunklets(group, inventory, tables(inventory), 5) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.tobytes() == second.tobytes()


@settings(deadline=None, max_examples=150)
@given(
    taken=st.lists(st.integers(0, 16), min_size=8, max_size=8),
    raid_and_size=st.sampled_from([(0, 1), (0, 3), (1, 2), (1, 3)]),
    row_size=st.integers(1, 4),
    wiring=st.sampled_from(["same", "split"]),
)
def test_every_row_that_is_possible_is_found_with_members_on_distinct_disks(
    taken: list[int], raid_and_size: tuple[int, int], row_size: int, wiring: str
) -> None:
    inventory = small(wiring=wiring)
    raid, set_size = raid_and_size
    group = ProvisioningGroup("g", raid=raid, set_size=set_size, row_size=row_size)
    made = tables(inventory, taken)
    rows = rows_possible(np.array([16 - count for count in taken]), set_size, row_size)
    assert choose_chunklets(group, inventory, made, rows + 1) is None
    if rows == 0:
        return
    chosen = choose_chunklets(group, inventory, made, rows)
    assert chosen is not None
    assert all(len(set(each)) == set_size for each in chosen[:, :, 0].tolist())
    places = [tuple(place) for place in chosen.reshape(-1, 2).tolist()]
    assert len(set(places)) == len(places)
    assert all(number >= taken[disk] for disk, number in places)


@settings(deadline=None, max_examples=100)
@given(free=st.lists(st.integers(0, 5), min_size=1, max_size=5), set_size=st.integers(1, 3))
def test_rows_possible_agrees_with_taking_from_the_fullest_disks_one_set_at_a_time(
    free: list[int], set_size: int
) -> None:
    left, sets = sorted(free, reverse=True), 0
    while len(left) >= set_size and left[set_size - 1] > 0:
        left = sorted([count - 1 for count in left[:set_size]] + left[set_size:], reverse=True)
        sets += 1
    assert rows_possible(np.array(free), set_size, 1) == sets
