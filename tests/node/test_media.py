"""Disks that lie, lose and rot, on one node: what is wrong is mended or said, never given out."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from base.errors import MediaError
from sim.device import CrashKind, SimDevice
from tests.node.store_world import PAGE, REGION, World, image_of

KEY = (1, 0)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(7, now_percent=50, regions=1)
    yield made
    made.loop.close()


@pytest.fixture
def mirrored() -> Iterator[World]:
    made = World(7, now_percent=50, raid=1, regions=1)
    yield made
    made.loop.close()


def run(world: World, body: Callable[[], Awaitable[None]]) -> None:
    world.loop.run_until_complete(body())  # type: ignore[arg-type]


async def begin(world: World, **options: Any) -> None:
    world.build(**options)
    await world.recover()


async def write_committed(world: World, offset: int, length: int) -> None:
    world.write(KEY, offset, length)
    await world.store.clock.sleep(0.1)
    world.commit(KEY)


async def filled(world: World) -> None:
    """The region is written and on disk, and nothing of it is in the cache."""
    await begin(world)
    await write_committed(world, 0, REGION)
    await world.store.close()
    assert world.store.cache.pages == 0


async def read(world: World, offset: int, length: int) -> bytes:
    into = memoryview(bytearray(length))
    await world.store.read(KEY, offset, length, into)
    return bytes(into)


def image(world: World) -> bytes:
    model = world.models[KEY]
    return bytes(image_of(model.records[: model.committed])[0])


def place(world: World, offset: int, member: int = 0) -> tuple[str, int]:
    """Name of the disk and byte on it, of a byte of the region."""
    where = world.ld.members_at(offset)[member]
    return f"d{where.disk}", where.disk_offset


def test_rot_is_never_given_out(world: World) -> None:
    async def body() -> None:
        await filled(world)
        disk, at = place(world, PAGE)
        world.disks[disk].rot(at + 17)
        with pytest.raises(MediaError, match=r"volume 1 region 0 page 1: disk 0"):
            await read(world, PAGE, PAGE)
        with pytest.raises(MediaError):
            await read(world, PAGE + 2048, 512)  # not the sector that rotted, but its block
        assert await read(world, 0, PAGE) == image(world)[:PAGE]

    run(world, body)


def test_rot_is_mended_from_the_other_member_of_the_mirror(mirrored: World) -> None:
    async def body() -> None:
        await filled(mirrored)
        disk, at = place(mirrored, PAGE)
        mirrored.disks[disk].rot(at + 17)
        for _ in range(4):
            assert await read(mirrored, 0, REGION) == image(mirrored)
        assert mirrored.store.blocks.counters.mended_blocks == 1
        before = memoryview(bytearray(PAGE))
        mirrored.disks[disk].load(at, before)
        assert before == image(mirrored)[PAGE : 2 * PAGE]

    run(mirrored, body)


def test_good_bytes_are_not_mended_from_bad_ones(mirrored: World) -> None:
    async def body() -> None:
        await filled(mirrored)
        for page in range(REGION // PAGE):
            disk, at = place(mirrored, page * PAGE, member=page % 2)
            mirrored.disks[disk].rot(at + page)
        assert await read(mirrored, 0, REGION) == image(mirrored)
        for disk in mirrored.disks.names():
            mirrored.disks[disk].heal()
        assert await read(mirrored, 0, REGION) == image(mirrored)

    run(mirrored, body)


def test_both_members_wrong_is_an_error_that_names_the_page(mirrored: World) -> None:
    async def body() -> None:
        await filled(mirrored)
        for member in (0, 1):
            disk, at = place(mirrored, 3 * PAGE, member)
            mirrored.disks[disk].rot(at)
        with pytest.raises(MediaError, match="volume 1 region 0 page 3"):
            await read(mirrored, 3 * PAGE, PAGE)

    run(mirrored, body)


def test_a_latent_error_is_cured_by_the_write_that_mends_it(mirrored: World) -> None:
    async def body() -> None:
        await filled(mirrored)
        disk, at = place(mirrored, 0)
        mirrored.disks[disk].latent_error(at + 512, 512)
        assert await read(mirrored, 0, PAGE) == image(mirrored)[:PAGE]
        mirrored.disks[disk].check(mirrored.disks[disk].life, at, PAGE, write=False)
        assert mirrored.store.shelf.failed_disks == []

    run(mirrored, body)


def test_a_write_that_was_answered_and_never_stored_is_seen(world: World) -> None:
    async def body() -> None:
        await filled(world)
        disk, at = place(world, 0)
        old = memoryview(bytearray(PAGE))
        world.disks[disk].load(at, old)
        await write_committed(world, 0, PAGE)
        await world.store.close()
        world.disks[disk].store_now(at, bytes(old))
        with pytest.raises(MediaError):
            await read(world, 0, PAGE)

    run(world, body)


def test_bytes_that_landed_elsewhere_are_seen_at_both_places(world: World) -> None:
    async def body() -> None:
        await filled(world)
        first, second = (place(world, page * PAGE) for page in (0, 1))
        old, new = (memoryview(bytearray(PAGE)) for _ in range(2))
        world.disks[first[0]].load(first[1], old)
        await write_committed(world, 0, PAGE)
        await world.store.close()
        world.disks[first[0]].load(first[1], new)
        world.disks[first[0]].store_now(first[1], bytes(old))
        world.disks[second[0]].store_now(second[1], bytes(new))
        for page in (0, 1):
            with pytest.raises(MediaError):
                await read(world, page * PAGE, PAGE)

    run(world, body)


def test_what_is_expected_of_a_disk_survives_a_restart(world: World) -> None:
    async def body() -> None:
        await filled(world)
        disk, at = place(world, 2 * PAGE)
        world.disks[disk].rot(at)
        await begin(world)
        with pytest.raises(MediaError):
            await read(world, 2 * PAGE, PAGE)

    run(world, body)


def test_a_part_of_a_block_is_not_destaged_over_rot(world: World) -> None:
    async def body() -> None:
        await filled(world)
        disk, at = place(world, 0)
        world.disks[disk].rot(at + 4095)
        errors: list[Any] = []
        world.store.destager.on_region_error = lambda key, error: errors.append(error)
        await write_committed(world, 512, 512)
        await world.store.drain()
        assert [type(error) for error in errors] == [MediaError]
        assert world.store.cache.pages == 1
        with pytest.raises(MediaError):
            await read(world, 0, PAGE)

    run(world, body)


def test_a_block_that_is_written_whole_after_its_rest_was_lost_goes_to_disk(world: World) -> None:
    """What was set aside can never be completed, and needs no repair that would do it."""

    async def body() -> None:
        await filled(world)
        disk, at = place(world, 0)
        world.disks[disk].rot(at + 4095)
        await write_committed(world, 512, 512)
        await world.store.drain()
        assert world.store.cache.pages == 1
        await write_committed(world, 0, PAGE)
        world.store.start()
        await world.store.clock.sleep(5)
        assert world.store.cache.pages == 0
        assert await read(world, 0, PAGE) == image(world)[:PAGE]

    run(world, body)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from((0, 50, 100)), st.sampled_from(CrashKind))
def test_a_torn_destage_is_made_whole_by_replay_and_is_no_damage(
    seed: int, now_percent: int, kind: CrashKind
) -> None:
    world = World(seed, raid=0, now_percent=now_percent, regions=2, journal_bytes=96 * 1024)
    try:

        async def life() -> None:
            await begin(world)
            world.store.start()
            for _ in range(60):
                for key in world.keys:
                    at = world.rng.randrange(REGION // 512 - 3)
                    if world.store.has_room:
                        world.write(key, at * 512, world.rng.randrange(1, 4) * 512)
                await world.store.clock.sleep(0.002)
                for key in world.keys:
                    world.commit(key)
                world.sync()

        group = world.loop.group("life")
        group.start(life(), name="life")
        world.loop.run_until_ns(world.rng.randrange(1, 200_000_000))
        assert not world.failures
        promised = world.crash(kind)
        group.drop()

        async def after() -> None:
            world.build()
            await world.adopt(await world.recover(), promised)
            await world.store.close()
            await world.check_all()
            assert world.store.blocks.counters.wrong_blocks == 0

        world.loop.run_until_complete(after())
    finally:
        world.loop.close()


class Liar(SimDevice):
    """Loses or misplaces some of what is written to it."""

    rng = random.Random(0)
    lie_percent = 0

    def write_now(self, offset: int, buffers: Any) -> bool:
        if self.rng.randrange(100) >= self.lie_percent:
            return super().write_now(offset, buffers)
        length = sum(map(len, buffers))
        if self.rng.random() < 0.5:
            room = self.size_bytes - length
            self.disk.store_now(self.rng.randrange(room // 512 + 1) * 512, b"".join(buffers))
        return True  # lost, and what is there now is another write's


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.sampled_from((0, 50, 100)), st.booleans())
@example(10411, 0, False)  # the rest of a block, read between a checkpoint and its destage
def test_whatever_one_disk_of_each_mirror_does_the_bytes_are_right(
    seed: int, now_percent: int, restart: bool
) -> None:
    """Disks 0 and 2 rot, lose, misplace and refuse; their mirrors 1 and 3 do not."""
    world = World(seed, raid=1, now_percent=now_percent, regions=2, journal_bytes=96 * 1024)
    rng = world.rng
    try:

        async def body() -> None:
            await begin(world)
            for number in (0, 2):
                liar = Liar(world.loop, world.disks[f"d{number}"])
                liar.rng, liar.lie_percent = rng, 20
                world.store.shelf._devices[number] = liar
            world.store.start()
            for _ in range(60):
                for _ in range(3):
                    world.random_operation()
                await world.store.clock.sleep(rng.randrange(4000) / 1e6)
                bad = world.disks[rng.choice(("d0", "d2"))]
                what = rng.randrange(4)
                if what == 0:
                    bad.rot(rng.randrange(bad.size_bytes))
                elif what == 1:
                    bad.latent_error(rng.randrange(bad.size_bytes // 512) * 512, 512)
                if rng.random() < 0.3:
                    await world.check_all()
            await world.check_all()

        group = world.loop.group("life")
        task = group.start(body(), name="life")
        world.loop.run_until_ns(world.loop.now_ns + 2_000_000_000)
        assert task.done()
        task.result()
        assert not world.failures
        if restart:
            promised = world.crash(CrashKind.KILL)
            group.drop()

            async def after() -> None:
                world.build()
                await world.adopt(await world.recover(), promised)
                await world.check_all()

            world.loop.run_until_complete(after())
    finally:
        world.loop.close()
