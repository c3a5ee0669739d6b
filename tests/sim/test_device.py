"""Simulated disks: what reads see, what crashes leave, and every fault."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.device import BlockDevice
from base.errors import DeviceFailed, InvalidRequest, NoSpace
from sim.device import CrashKind, DiskTiming, SimDevice, SimDisk, SimDisks
from sim.event_loop import SimEventLoop
from sim.random import SeedStreams

SIZE = 1 << 20
Body = Callable[[SimDevice], Awaitable[None]]


def disks_of(loop: SimEventLoop, seed: int = 1, **timing: int) -> SimDisks:
    disks = SimDisks(loop, SeedStreams(seed), DiskTiming(**timing))
    disks.add("d", SIZE)
    return disks


def contents(disk: SimDisk, offset: int, length: int) -> bytes:
    into = bytearray(length)
    disk.load(offset, memoryview(into))
    return bytes(into)


def run(loop: SimEventLoop, body: Body, **timing: int) -> SimDisk:
    disks = disks_of(loop, **timing)
    device = disks.open("d")
    loop.run_until_complete(body(device))  # type: ignore[arg-type]
    return disks["d"]


def test_a_device_is_a_block_device(loop: SimEventLoop) -> None:
    device: BlockDevice = disks_of(loop).open("d")
    assert (device.name, device.size_bytes) == ("d", SIZE)


def test_bytes_never_written_read_as_zeros(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        into = bytearray(b"x" * 9000)
        await device.read(100, memoryview(into))
        assert into == bytes(9000)

    run(loop, body)


def test_a_write_is_read_back_over_page_edges(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        await device.write(4000, [b"ab" * 100, memoryview(b"cd" * 5000)])
        into = bytearray(10_200)
        await device.read(4000, memoryview(into))
        assert into == b"ab" * 100 + b"cd" * 5000

    assert run(loop, body).pages_bytes == 4 * 4096


def test_operations_take_time_and_both_ways_are_taken(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        answers = Counter(device.write_now(0, [b"x"]) for _ in range(200))
        assert min(answers[True], answers[False]) > 50
        before_ns = loop.now_ns
        await device.write(0, [b"y"])
        assert loop.now_ns > before_ns

    run(loop, body)


def test_a_refused_immediate_call_changes_nothing(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        into = bytearray(b"keep")
        assert device.write_now(0, [b"x"]) is False
        assert device.read_now(0, memoryview(into)) is False
        assert into == b"keep"

    assert contents(run(loop, body, now_percent=0), 0, 1) == b"\0"


def test_a_write_arrives_although_its_caller_was_cancelled(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        task = loop.create_task(device.write(0, [b"x"]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(1)

    assert contents(run(loop, body), 0, 1) == b"x"


def crash_after(
    loop: SimEventLoop, kind: CrashKind, seed: int, *, sync: bool = False, flying: bool = False
) -> SimDisk:
    """Crash after a write of eight sectors, or in the middle of it."""
    disks = disks_of(loop, seed=seed)
    device = disks.open("d")

    async def body() -> None:
        task = loop.create_task(device.write(256, [b"x" * 4096]))
        await asyncio.sleep(0 if flying else 1)
        if not flying:
            await task
        if sync:
            await device.sync()
        disks.crash(kind)
        loop.abandon([task])

    loop.run_until_complete(body())
    return disks["d"]


def sectors(disk: SimDisk) -> set[bytes]:
    edges = [0, 256, *range(512, 4352, 512), 4352]
    pieces = [contents(disk, a, b - a) for a, b in pairwise(edges)]
    assert all(len(set(piece)) == 1 for piece in pieces), "a sector was written in part"
    assert not any(pieces[0])
    return {piece[:1] for piece in pieces[1:]}


def test_a_kill_keeps_what_was_written(loop: SimEventLoop) -> None:
    disk = crash_after(loop, CrashKind.KILL, 1)
    assert sectors(disk) == {b"x"}
    assert disk.durable_bytes(256, 1) == b"\0"


def test_a_power_cut_after_a_kill_still_loses_what_was_not_synced(loop: SimEventLoop) -> None:
    disk = crash_after(loop, CrashKind.KILL, 1)
    disk.crash(CrashKind.POWER_LOST)
    assert sectors(disk) == {b"\0"}


@pytest.mark.parametrize("kind", list(CrashKind))
def test_what_was_synced_survives_every_crash(loop: SimEventLoop, kind: CrashKind) -> None:
    for seed in range(10):
        assert sectors(crash_after(loop, kind, seed, sync=True)) == {b"x"}


def test_a_power_cut_leaves_all_none_or_some_sectors(loop: SimEventLoop) -> None:
    left = [sectors(crash_after(loop, CrashKind.POWER_TORN, seed)) for seed in range(60)]
    for fate in ({b"x"}, {b"\0"}, {b"x", b"\0"}):
        assert left.count(fate) > 5


def test_a_power_cut_may_lose_all_that_was_not_synced(loop: SimEventLoop) -> None:
    for seed in range(10):
        assert sectors(crash_after(loop, CrashKind.POWER_LOST, seed)) == {b"\0"}


def test_a_write_on_its_way_may_be_torn_by_a_kill(loop: SimEventLoop) -> None:
    left = [sectors(crash_after(loop, CrashKind.KILL, seed, flying=True)) for seed in range(60)]
    for fate in ({b"x"}, {b"\0"}, {b"x", b"\0"}):
        assert left.count(fate) > 5


def test_a_sync_covers_what_had_arrived_when_it_was_called(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        await device.write(0, [b"a"])
        task = loop.create_task(device.sync())
        await asyncio.sleep(0)
        device.disk.store_now(1, b"b")
        await task

    disk = run(loop, body)
    assert disk.durable_bytes(0, 2) == b"a\0"
    assert contents(disk, 0, 2) == b"ab"


def test_a_handle_of_a_former_life_is_refused(loop: SimEventLoop) -> None:
    disks = disks_of(loop)
    device = disks.open("d")
    disks.crash(CrashKind.KILL)
    with pytest.raises(DeviceFailed, match="crashed"):
        device.write_now(0, [b"x"])
    assert disks.open("d").write_now(0, [b"x"]) in (True, False)


def test_errors_in_a_range_hit_what_touches_it(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        device.disk.fail_range(1000, 10, reads=False)
        with pytest.raises(DeviceFailed, match="write error at bytes 1009"):
            await device.write(1009, [b"x"])
        await device.write(1010, [b"x"])
        await device.read(1000, memoryview(bytearray(10)))
        device.disk.heal()
        await device.write(1009, [b"x"])

    run(loop, body)


def test_a_latent_error_is_cured_by_a_write_of_all_of_it(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        device.disk.latent_error(512, 512)
        into = memoryview(bytearray(1))
        await device.write(512, [b"x"])
        with pytest.raises(DeviceFailed, match="read error"):
            await device.read(600, into)
        await device.write(512, [b"x" * 512])
        await device.read(600, into)
        assert bytes(into) == b"x"

    run(loop, body)


def test_a_failed_sync_calls_lost_writes_clean(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        await device.write(0, [b"x"])
        device.disk.fail_sync_once()
        with pytest.raises(DeviceFailed, match="sync failed"):
            await device.sync()
        await device.sync()

    disk = run(loop, body)
    assert contents(disk, 0, 1) == b"x"
    disk.crash(CrashKind.POWER_TORN)
    assert contents(disk, 0, 1) == b"\0"


def test_a_full_disk_refuses_new_pages_and_takes_old_ones(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        await device.write(0, [b"x"])
        device.disk.space_bytes = 4096
        with pytest.raises(NoSpace):
            await device.write(4096, [b"x"])
        await device.write(1, [b"y"])

    run(loop, body)


def test_a_slow_disk_takes_longer_and_never_answers_at_once(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        device.disk.slow_factor = 1000
        assert not any(device.write_now(0, [b"x"]) for _ in range(50))
        before_ns = loop.now_ns
        await device.write(0, [b"x"])
        assert loop.now_ns - before_ns >= 1000 * device.disk.timing.write_ns

    run(loop, body)


def test_a_dead_disk_fails_everything(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        writing = loop.create_task(device.write(0, [b"x"]))
        await asyncio.sleep(0)
        device.disk.dead = True
        with pytest.raises(DeviceFailed, match="dead"):
            await writing
        with pytest.raises(DeviceFailed, match="dead"):
            await device.sync()

    assert contents(run(loop, body), 0, 1) == b"\0"


def test_rot_changes_what_is_read(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        await device.write(0, [b"\x0f"])
        device.disk.rot(0, 0x10)

    assert contents(run(loop, body), 0, 1) == b"\x1f"


def test_a_discard_reads_as_zeros_and_is_durable_after_a_sync_only(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        await device.write(0, [b"x" * 10_000])
        await device.sync()
        device.discard(100, 9000)

    disk = run(loop, body)
    assert contents(disk, 99, 9002) == b"x" + bytes(9000) + b"x"
    disk.crash(CrashKind.POWER_LOST)
    assert contents(disk, 0, 10_000) == b"x" * 10_000


def test_reaching_beyond_the_end_is_refused(loop: SimEventLoop) -> None:
    device = disks_of(loop).open("d")
    with pytest.raises(InvalidRequest, match="lie outside"):
        device.write_now(SIZE - 1, [b"xx"])
    with pytest.raises(InvalidRequest):
        device.read_now(-1, memoryview(bytearray(1)))


def test_a_closed_handle_is_refused(loop: SimEventLoop) -> None:
    device = disks_of(loop).open("d")
    device.close()
    with pytest.raises(DeviceFailed, match="closed"):
        device.discard(0, 1)


def test_a_wiped_disk_is_blank(loop: SimEventLoop) -> None:
    disk = crash_after(loop, CrashKind.KILL, 1, sync=True)
    disk.wipe()
    assert contents(disk, 0, 8192) == bytes(8192)


def test_one_name_is_one_disk(loop: SimEventLoop) -> None:
    disks = disks_of(loop)
    assert disks.names() == ["d"]
    with pytest.raises(ValueError, match="already"):
        disks.add("d", 1)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("wds"), st.integers(0, 9000), st.integers(1, 6000))),
    st.integers(0, 1000),
)
def test_after_any_power_cut_each_byte_is_its_synced_or_a_later_value(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    loop = SimEventLoop()
    disks = disks_of(loop, seed=seed)
    disk = disks["d"]
    possible: list[set[int]] = [{0} for _ in range(15_000)]
    present = bytearray(15_000)
    for number, (step, offset, length) in enumerate(steps):
        if step == "s":
            disk.end_sync(disk.begin_sync())
            possible = [{value} for value in present]
            continue
        value = number % 255 + 1 if step == "w" else 0
        if step == "w":
            disk.store_now(offset, bytes([value]) * length)
        else:
            disk.drop(offset, length)
        for place in range(offset, offset + length):
            present[place] = value
            possible[place].add(value)
    assert contents(disk, 0, 15_000) == present
    disks.crash(CrashKind.POWER_TORN)
    left = contents(disk, 0, 15_000)
    assert all(value in values for value, values in zip(left, possible, strict=True))
    loop.close()


def test_a_lost_write_is_answered_and_leaves_what_was_there(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        await device.write(0, [b"old"])
        device.disk.lose_writes(1)
        await device.write(0, [b"new"])
        await device.sync()

    assert contents(run(loop, body), 0, 3) == b"old"


def test_a_misdirected_write_lands_elsewhere_and_leaves_its_place(loop: SimEventLoop) -> None:
    async def body(device: SimDevice) -> None:
        device.disk.misdirect_write(4096)
        await device.write(512, [b"data"])

    disk = run(loop, body)
    assert (contents(disk, 512, 4), contents(disk, 4608, 4)) == (bytes(4), b"data")


def test_a_stale_read_returns_what_was_there_and_the_next_one_does_not(loop: SimEventLoop) -> None:
    seen = []

    async def body(device: SimDevice) -> None:
        await device.write(0, [b"old"])
        device.disk.stale_reads(1)
        await device.write(0, [b"new"])
        for _ in range(2):
            into = bytearray(3)
            await device.read(0, memoryview(into))
            seen.append(bytes(into))

    run(loop, body)
    assert seen == [b"old", b"new"]
