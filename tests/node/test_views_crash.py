"""Snapshots in a store that is killed or loses power at random points: every view reads right."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.device import CrashKind
from tests.node.view_world import LineWorld, ViewWorld


def run_lives(
    seed: int, kinds: list[CrashKind], world_of: type[ViewWorld] = ViewWorld, **options: int
) -> ViewWorld:
    world = world_of(seed, **options)
    try:
        _run(world, kinds)
    finally:
        world.loop.close()
    return world


def _run(world: ViewWorld, kinds: list[CrashKind]) -> None:
    async def life(promised: dict[tuple[int, int], int]) -> None:
        store = world.build()
        await world.adopt(await world.recover(), promised)
        store.start()
        for _ in range(300):
            for _ in range(world.rng.randrange(1, 6)):
                world.random_operation()
            await store.clock.sleep(world.rng.randrange(2000) / 1e6)
            if world.rng.random() < 0.05:
                await world.check_all()

    promised = dict.fromkeys(world.keys, 0)
    for number, kind in enumerate(kinds):
        group = world.loop.group(f"life{number}")
        task = group.start(life(dict(promised)), name="life")
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
@given(
    st.integers(0, 1 << 30),
    st.sampled_from((0, 1)),
    st.sampled_from((0, 50, 100)),
    st.lists(st.sampled_from(CrashKind), min_size=1, max_size=5),
)
def test_every_view_survives_any_crash_ruling_r11(
    seed: int, raid: int, now_percent: int, kinds: list[CrashKind]
) -> None:
    run_lives(seed, kinds, raid=raid, now_percent=now_percent)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1 << 30), st.lists(st.sampled_from(CrashKind), min_size=1, max_size=4))
def test_with_little_space_a_view_is_right_or_stale_and_never_wrong(
    seed: int, kinds: list[CrashKind]
) -> None:
    run_lives(seed, kinds, space_pages=12)


def test_a_kept_page_that_is_being_completed_holds_the_trim_point() -> None:
    """A seed: the checkpoint that was taken meanwhile trimmed the record that had made it."""
    kinds = [CrashKind.POWER_LOST, CrashKind.POWER_TORN, CrashKind.KILL, CrashKind.KILL]
    assert run_lives(2131, kinds, raid=1, now_percent=50).seen


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from((0, 100)),
    st.lists(st.sampled_from(CrashKind), min_size=1, max_size=5),
)
def test_views_that_the_catalog_removes_leave_the_others_right_ruling_r5(
    seed: int, now_percent: int, kinds: list[CrashKind]
) -> None:
    run_lives(seed, kinds, LineWorld, now_percent=now_percent)
