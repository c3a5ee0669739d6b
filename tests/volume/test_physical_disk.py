from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import ConfigError, InvalidRequest
from base.units import GiB, KiB, MiB
from volume.physical_disk import (
    DISKS_PER_SLED,
    Loop,
    LoopState,
    NodeInventory,
    build_inventory,
    path_for,
)

A0, B0, A1, B1 = Loop(0, "A"), Loop(0, "B"), Loop(1, "A"), Loop(1, "B")


def paths(wiring: str, *down: Loop) -> list[str]:
    state = LoopState()
    for loop in down:
        state.set_up(loop, False)
    inventory = build_inventory(cages=1, sleds_per_cage=2, wiring=wiring)
    return [str(path_for(disk, state.is_up) or "-") for disk in inventory.disks]


def test_defaults_are_one_cage_of_two_sleds_of_four_disks_of_128_gib() -> None:
    inventory = build_inventory()
    assert len(inventory.disks) == 8
    assert {(d.size_bytes, d.chunklet_bytes, d.chunklets) for d in inventory.disks} == {
        (128 * GiB, 256 * MiB, 512)
    }
    assert [(d.cage, d.sled, d.slot) for d in inventory.disks[3:6]] == [
        (0, 0, 3), (0, 1, 0), (0, 1, 1),
    ]  # fmt: skip


def test_primary_paths_alternate_between_the_loops_of_pair_0_with_wiring_same() -> None:
    assert paths("same") == ["A0", "B0"] * 4


def test_second_sled_is_on_the_second_pair_with_wiring_split() -> None:
    assert paths("split") == ["A0", "B0", "A0", "B0", "A1", "B1", "A1", "B1"]


def test_every_disk_uses_the_other_loop_when_loop_a_is_down_with_wiring_same() -> None:
    assert paths("same", A0) == ["B0"] * 8


def test_only_the_sleds_of_its_pair_notice_a_lost_loop_with_wiring_split() -> None:
    assert paths("split", A0) == ["B0"] * 4 + ["A1", "B1", "A1", "B1"]
    assert paths("split", B1) == ["A0", "B0", "A0", "B0"] + ["A1"] * 4


def test_no_disk_has_a_path_when_both_loops_are_down_with_wiring_same() -> None:
    assert paths("same", A0, B0) == ["-"] * 8


def test_half_of_the_disks_keep_a_path_when_a_pair_is_down_with_wiring_split() -> None:
    assert paths("split", A1, B1) == ["A0", "B0", "A0", "B0", "-", "-", "-", "-"]


def test_a_disk_goes_back_to_its_primary_path_when_the_loop_is_up_again() -> None:
    state = LoopState()
    disk = build_inventory().disks[0]
    state.set_up(A0, False)
    assert (path_for(disk, state.is_up), state.down()) == (B0, (A0,))
    state.set_up(A0, True)
    assert (path_for(disk, state.is_up), state.down()) == (A0, ())


@pytest.mark.parametrize("wiring", ["same", "split"])
@pytest.mark.parametrize("cages", [1, 2, 3])
def test_wiring_split_halves_the_sleds_and_same_does_not(wiring: str, cages: int) -> None:
    inventory = build_inventory(cages=cages, sleds_per_cage=2, wiring=wiring)
    on_pair_1 = sum(disk.primary.pair for disk in inventory.disks)
    assert on_pair_1 == (cages * DISKS_PER_SLED if wiring == "split" else 0)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("cages", {"cages": 0}),
        ("cages", {"cages": 17}),
        ("sleds_per_cage", {"sleds_per_cage": -1}),
        ("wiring", {"wiring": "ring"}),
        ("wiring", {"wiring": "split", "sleds_per_cage": 1}),
        ("disk_bytes", {"disk_bytes": MiB}),
        ("disk_bytes", {"disk_bytes": 1 << 50}),
        ("chunklet_bytes", {"chunklet_bytes": 0}),
        ("chunklet_bytes", {"chunklet_bytes": 64 * KiB + 1}),
        ("chunklet_bytes", {"chunklet_bytes": 64 * KiB}),
        ("spare_chunklets", {"spare_chunklets": 512}),
        ("spare_chunklets", {"spare_chunklets": -1}),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(key: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        build_inventory(**wrong)


@pytest.mark.parametrize("wiring", ["same", "split"])
def test_an_inventory_survives_msgpack(wiring: str) -> None:
    inventory = build_inventory(cages=2, wiring=wiring, spare_chunklets=5)
    packed = msgpack.packb(inventory.to_tuple())
    assert NodeInventory.from_tuple(msgpack.unpackb(packed)) == inventory


def test_an_inventory_with_two_disks_in_one_slot_is_refused() -> None:
    disks = build_inventory().disks
    twice = NodeInventory((disks[0], replace(disks[1], slot=0)))
    with pytest.raises(InvalidRequest, match="same cage, sled and slot"):
        NodeInventory.from_tuple(twice.to_tuple())


def test_an_inventory_with_a_gap_in_disk_numbers_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="without gaps"):
        NodeInventory.from_tuple(NodeInventory(build_inventory().disks[1:]).to_tuple())


PLAIN = st.recursive(
    st.integers(-5, 1 << 40) | st.sampled_from(["A", "B", "x"]) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(disk=st.integers(0, 7), field=st.integers(0, 7), junk=PLAIN)
def test_an_inventory_with_junk_in_a_field_is_read_back_or_refused(
    disk: int, field: int, junk: object
) -> None:
    plain: Any = msgpack.unpackb(msgpack.packb(build_inventory().to_tuple()))
    plain[1][disk][field] = junk
    try:
        inventory = NodeInventory.from_tuple(plain)
    except InvalidRequest:
        return
    assert msgpack.unpackb(msgpack.packb(inventory.to_tuple())) == plain


@settings(deadline=None, max_examples=100)
@given(junk=PLAIN)
def test_junk_instead_of_an_inventory_is_refused(junk: object) -> None:
    with pytest.raises(InvalidRequest):
        NodeInventory.from_tuple(junk)
