"""A region store is killed or loses power at random points; what it promised must be there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.device import CrashKind
from tests.node.store_world import World


def run_lives(seed: int, *, raid: int, now_percent: int, kinds: list[CrashKind]) -> World:
    world = World(seed, raid=raid, now_percent=now_percent)
    try:
        _run(world, kinds)
    finally:
        world.loop.close()
    return world


def _run(world: World, kinds: list[CrashKind]) -> None:

    async def life(promised: dict[tuple[int, int], int]) -> None:
        store = world.build()
        found = await world.recover()
        await world.adopt(found, promised)
        store.start()
        for _ in range(400):
            for _ in range(world.rng.randrange(1, 6)):
                world.random_operation()
            await store.clock.sleep(world.rng.randrange(2000) / 1e6)
            if world.rng.random() < 0.05:
                await world.check_all()

    promised = dict.fromkeys(world.keys, 0)
    for number, kind in enumerate(kinds):
        group = world.loop.group(f"life{number}")
        task = group.start(life(dict(promised)), name="life")
        # Short lives too: a crash during recovery must change nothing.
        span_ms = world.rng.choice((1, 3, 10, 60, 300))
        world.loop.run_until_ns(world.loop.now_ns + world.rng.randrange(span_ms * 1_000_000))
        if task.done() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
        assert not world.failures, world.failures
        promised = world.crash(kind)
        group.drop()

    async def last() -> None:
        world.build()
        await world.adopt(await world.recover(), promised)
        await world.store.close()
        await world.check_all()

    world.loop.run_until_complete(last())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.integers(0, 1), st.sampled_from((0, 50, 100)))
def test_everything_journalled_survives_the_death_of_the_process(
    seed: int, raid: int, now_percent: int
) -> None:
    run_lives(seed, raid=raid, now_percent=now_percent, kinds=[CrashKind.KILL] * 4)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 1 << 30),
    st.integers(0, 1),
    st.sampled_from((0, 50, 100)),
    st.lists(st.sampled_from(CrashKind), min_size=1, max_size=5),
)
def test_everything_synced_survives_a_power_cut(
    seed: int, raid: int, now_percent: int, kinds: list[CrashKind]
) -> None:
    run_lives(seed, raid=raid, now_percent=now_percent, kinds=kinds)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_gives_the_same_records_twice(seed: int) -> None:
    kinds = [CrashKind.KILL, CrashKind.POWER_TORN]
    one, two = (run_lives(seed, raid=1, now_percent=50, kinds=kinds) for _ in range(2))
    assert one.histories == two.histories
