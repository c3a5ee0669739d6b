"""Loops, sleds and cages that are cut and pulled."""

from __future__ import annotations

import pytest

from base.errors import DeviceFailed, InvalidRequest
from base.units import KiB
from sim.device import DiskTiming, SimDisks
from sim.event_loop import SimEventLoop
from sim.hardware import FabricDevice, FcFabric
from sim.random import SeedStreams
from volume.physical_disk import Loop, build_inventory

INVENTORY = build_inventory(
    cages=2, sleds_per_cage=2, wiring="split", disk_bytes=64 * KiB, chunklet_bytes=64 * KiB,
    spare_chunklets=0,
)  # fmt: skip


@pytest.fixture
def fabric() -> FcFabric:
    return FcFabric(INVENTORY)


@pytest.fixture
def devices(fabric: FcFabric, loop: SimEventLoop) -> list[FabricDevice]:
    disks = SimDisks(loop, SeedStreams(1), DiskTiming(now_percent=100))
    made = []
    for disk in INVENTORY.disks:
        disks.add(f"d{disk.disk}", disk.size_bytes)
        made.append(fabric.wrap(disk.disk, disks.open(f"d{disk.disk}")))
    return made


def answering(devices: list[FabricDevice]) -> list[int]:
    found = []
    for number, device in enumerate(devices):
        try:
            device.read_now(0, memoryview(bytearray(512)))
        except DeviceFailed:
            continue
        found.append(number)
    return found


def test_one_loop_of_a_pair_is_enough(fabric: FcFabric, devices: list[FabricDevice]) -> None:
    fabric.set_loop(Loop(0, "A"), False)
    assert answering(devices) == list(range(16))


def test_both_loops_of_a_pair_cost_half_of_the_sleds(
    fabric: FcFabric, devices: list[FabricDevice]
) -> None:
    fabric.set_loop(Loop(0, "A"), False)
    fabric.set_loop(Loop(0, "B"), False)
    assert answering(devices) == [4, 5, 6, 7, 12, 13, 14, 15]
    fabric.set_loop(Loop(0, "B"), True)
    assert answering(devices) == list(range(16))


def test_a_pulled_sled_takes_its_four_disks(fabric: FcFabric, devices: list[FabricDevice]) -> None:
    fabric.pull_sled(1, 0)
    assert answering(devices) == [*range(8), *range(12, 16)]
    with pytest.raises(DeviceFailed, match="sled 0 of cage 1 is pulled"):
        devices[8].write_now(0, [b"x" * 512])
    fabric.put_back_sled(1, 0)
    assert answering(devices) == list(range(16))


def test_a_cage_that_is_put_back_does_not_bring_back_a_pulled_sled(
    fabric: FcFabric, devices: list[FabricDevice]
) -> None:
    fabric.pull_sled(0, 1)
    fabric.pull_cage(0)
    assert answering(devices) == list(range(8, 16))
    fabric.put_back_cage(0)
    assert answering(devices) == [*range(4), *range(8, 16)]
    fabric.heal()
    assert answering(devices) == list(range(16))


def test_what_a_disk_held_is_there_when_it_comes_back(
    fabric: FcFabric, devices: list[FabricDevice]
) -> None:
    devices[0].write_now(0, [b"7" * 512])
    fabric.pull_cage(0)
    fabric.heal()
    into = bytearray(512)
    devices[0].read_now(0, memoryview(into))
    assert into == b"7" * 512


def test_what_does_not_exist_cannot_be_cut(fabric: FcFabric) -> None:
    with pytest.raises(InvalidRequest, match="cage 2"):
        fabric.pull_cage(2)
    with pytest.raises(InvalidRequest, match="cage 0 sled 2"):
        fabric.pull_sled(0, 2)
    with pytest.raises(InvalidRequest, match="loop C0"):
        fabric.set_loop(Loop(0, "C"), False)
