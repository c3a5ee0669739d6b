"""RAID sets and logical disks against a model that keeps the bytes of every disk."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import ConfigError, DeviceFailed, InvalidRequest
from base.units import KiB
from volume.logical_disk import LogicalDisk, Space
from volume.raid import DiskExtent, RaidSet, SetHealth, level_of

CHUNKLET = 64 * KiB
STEP = 8 * KiB
DISKS = 8


def logical_disk(
    raid: int, set_size: int, row_size: int, rows: int = 2, region_bytes: int = 32 * KiB
) -> LogicalDisk:
    """Members of a set on neighbouring disks; every chunklet different."""
    places = [(member % DISKS, 1 + member // DISKS) for member in range(rows * row_size * set_size)]
    chunklets = np.array(places, dtype=np.int32).reshape(rows * row_size, set_size, 2)
    return LogicalDisk(
        ld=3, node=0, group="g", space=Space.USER, raid=raid, row_size=row_size, step_bytes=STEP,
        chunklet_bytes=CHUNKLET, region_bytes=region_bytes, chunklets=chunklets,
    )  # fmt: skip


class Spindles:
    """Every byte of every disk."""

    def __init__(self) -> None:
        self.bytes = [bytearray(16 * CHUNKLET) for _ in range(DISKS)]

    def write(self, extents: list[DiskExtent], data: bytes) -> None:
        for disk, offset, length, start in extents:
            self.bytes[disk][offset : offset + length] = data[start : start + length]

    def read(self, extents: list[DiskExtent], length: int) -> bytes:
        into = bytearray(b"?" * length)
        for disk, offset, size, start in extents:
            into[start : start + size] = self.bytes[disk][offset : offset + size]
        return bytes(into)


SHAPES = st.sampled_from(
    [(0, 1, 1), (0, 1, 3), (0, 3, 1), (0, 2, 2), (1, 2, 1), (1, 2, 3), (1, 3, 2)]
)
WRITES = st.lists(
    st.tuples(st.integers(0, 1 << 30), st.integers(1, 5 * STEP), st.integers(1, 255)),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=150)
@given(shape=SHAPES, writes=WRITES)
def test_reading_gives_the_bytes_last_written_everywhere(
    shape: tuple[int, int, int], writes: list[tuple[int, int, int]]
) -> None:
    ld, spindles = logical_disk(*shape), Spindles()
    truth = bytearray(ld.size_bytes)
    for at, length, fill in writes:
        offset = at % (ld.size_bytes - length)
        data = bytes((fill + index) % 256 for index in range(length))
        truth[offset : offset + length] = data
        spindles.write(ld.plan_write(offset, length), data)
    whole = ld.plan_read(0, ld.size_bytes)
    assert spindles.read(whole, ld.size_bytes) == truth


@settings(deadline=None, max_examples=100)
@given(shape=SHAPES, at=st.integers(0, 1 << 30), length=st.integers(1, 6 * STEP))
def test_the_extents_of_a_read_cover_the_buffer_once_without_gap(
    shape: tuple[int, int, int], at: int, length: int
) -> None:
    ld = logical_disk(*shape)
    extents = ld.plan_read(at % (ld.size_bytes - length), length)
    covered = sorted((extent.start, extent.start + extent.length) for extent in extents)
    assert covered[0][0] == 0
    assert covered[-1][1] == length
    assert all(before[1] == after[0] for before, after in pairwise(covered))


@settings(deadline=None, max_examples=100)
@given(shape=SHAPES)
def test_no_two_bytes_of_an_ld_share_a_place_on_a_disk(shape: tuple[int, int, int]) -> None:
    ld = logical_disk(*shape)
    places = [
        (extent.disk, extent.offset)
        for offset in range(0, ld.size_bytes, STEP)
        for extent in ld.plan_write(offset, STEP)
    ]
    assert len(set(places)) == len(places)
    assert len(places) * STEP == ld.chunklets.size // 2 * CHUNKLET


@settings(deadline=None, max_examples=100)
@given(
    shape=st.sampled_from([(1, 2, 1), (1, 2, 3), (1, 3, 2)]),
    down=st.integers(0, DISKS - 1),
    at=st.integers(0, 1 << 30),
    length=st.integers(1, 6 * STEP),
)
def test_raid_1_reads_with_any_one_disk_down(
    shape: tuple[int, int, int], down: int, at: int, length: int
) -> None:
    ld, spindles = logical_disk(*shape), Spindles()
    offset = at % (ld.size_bytes - length)
    data = bytes((7 * index + 1) % 256 for index in range(length))
    spindles.write(ld.plan_write(offset, length), data)
    disk_ok = [disk != down for disk in range(DISKS)]
    extents = ld.plan_read(offset, length, disk_ok)
    assert all(extent.disk != down for extent in extents)
    assert spindles.read(extents, length) == data


def test_raid_1_writes_to_the_members_that_answer() -> None:
    ld = logical_disk(1, 2, 1)
    down_0 = [disk != 0 for disk in range(DISKS)]
    assert [extent.disk for extent in ld.plan_write(0, 512)] == [0, 1]
    assert [extent.disk for extent in ld.plan_write(0, 512, down_0)] == [1]


def test_raid_1_spreads_reads_over_its_members() -> None:
    ld = logical_disk(1, 2, 1)
    assert [ld.plan_read(step * STEP, 512)[0].disk for step in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(("raid", "down"), [(0, {0}), (1, {0, 1})])
def test_a_read_without_a_disk_that_answers_fails(raid: int, down: set[int]) -> None:
    ld = logical_disk(raid, 2, 1)
    with pytest.raises(DeviceFailed):
        ld.plan_read(0, 512, [disk not in down for disk in range(DISKS)])


@pytest.mark.parametrize(
    ("raid", "down", "health"),
    [
        (0, set(), SetHealth.NORMAL),
        (0, {1}, SetHealth.FAILED),
        (0, {2}, SetHealth.NORMAL),
        (1, {1}, SetHealth.DEGRADED),
        (1, {0, 1}, SetHealth.FAILED),
    ],
)
def test_a_set_says_what_the_loss_of_disks_means(
    raid: int, down: set[int], health: SetHealth
) -> None:
    disk_ok = [disk not in down for disk in range(DISKS)]
    assert level_of(raid).degraded(RaidSet(((0, 0), (1, 0)), STEP), disk_ok) is health


def test_an_ld_is_as_healthy_as_its_worst_set() -> None:
    ld = logical_disk(1, 2, 2, rows=1)
    assert ld.health(None) is SetHealth.NORMAL
    assert ld.health([disk != 3 for disk in range(DISKS)]) is SetHealth.DEGRADED


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^raid: 7"):
        level_of(7)


def test_addresses_move_to_the_next_set_after_a_step_and_to_the_next_row_at_its_end() -> None:
    ld = logical_disk(0, 1, 3, rows=2)
    assert [ld.locate(step * STEP).set_index for step in range(4)] == [0, 1, 2, 0]
    assert ld.locate(3 * CHUNKLET - 1).set_index == 2
    assert ld.locate(3 * CHUNKLET).set_index == 3


def test_locate_names_the_chunklet_and_the_byte_of_the_disk() -> None:
    ld = logical_disk(0, 1, 3, rows=2)
    place = ld.locate(4 * STEP + 5)  # second turn on set 1: disk 1, chunklet 1
    assert (place.set_index, place.disk, place.chunklet) == (1, 1, 1)
    assert (place.disk_offset, place.run_bytes) == (CHUNKLET + STEP + 5, STEP - 5)


@settings(deadline=None, max_examples=100)
@given(shape=SHAPES, at=st.integers(0, 1 << 30))
def test_locate_agrees_with_what_a_write_touches(shape: tuple[int, int, int], at: int) -> None:
    ld = logical_disk(*shape)
    offset = at % ld.size_bytes
    touched = [(extent.disk, extent.offset) for extent in ld.plan_write(offset, 1)]
    assert [(place.disk, place.disk_offset) for place in ld.members_at(offset)] == touched
    assert (ld.locate(offset).disk, ld.locate(offset).disk_offset) == touched[0]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (-8192, 4096), (1 << 40, 1)])
def test_an_extent_outside_of_the_ld_is_refused(offset: int, length: int) -> None:
    ld = logical_disk(0, 1, 2)
    for plan in (ld.plan_read, ld.plan_write):
        with pytest.raises(InvalidRequest, match="LD 3 of node 0"):
            plan(offset, length)


def test_an_extent_over_the_end_is_refused_and_one_up_to_the_end_is_not() -> None:
    ld = logical_disk(0, 1, 2)
    assert ld.plan_write(ld.size_bytes - 512, 512)
    with pytest.raises(InvalidRequest):
        ld.plan_write(ld.size_bytes - 512, 513)


def test_a_large_write_on_a_row_of_one_set_is_one_io() -> None:
    assert len(logical_disk(0, 1, 1).plan_write(0, CHUNKLET)) == 1
    assert len(logical_disk(1, 2, 1).plan_write(0, CHUNKLET)) == 2


def test_ld_regions_are_taken_lowest_first_and_come_back() -> None:
    ld = logical_disk(0, 1, 1)  # 128 KiB: four regions of 32 KiB
    ld.take(ld.free_indices(3))
    assert (ld.used.tolist(), ld.free_regions) == ([True, True, True, False], 1)
    ld.give_back(np.array([1]))
    assert (ld.free_indices(9).tolist(), ld.free_regions) == ([1, 3], 2)


def test_taking_an_ld_region_twice_is_a_bug() -> None:
    ld = logical_disk(0, 1, 1)
    ld.take(np.array([0]))
    with pytest.raises(AssertionError, match="taken twice"):
        ld.take(np.array([0, 1]))
