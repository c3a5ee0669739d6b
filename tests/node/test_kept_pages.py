"""Copy-outs of a store, one at a time: what is kept, when, and what it holds back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest

from base.errors import InvalidRequest
from node.journal_format import TransferBeginNote
from node.kept_pages import KeptPages
from sim.device import CrashKind
from snapshot.entry import BASE, PAGE, ZERO, kind_of
from tests.node.store_world import PAGE as PAGE_BYTES
from tests.node.store_world import REGION, World
from tests.node.view_world import ViewWorld
from transport.operation import TRIM

KEY = (1, 0)


@pytest.fixture
def world() -> Iterator[ViewWorld]:
    made = ViewWorld(7, regions=1, now_percent=100, journal_bytes=256 * 1024)
    yield made
    made.loop.close()


def run(world: World, body: Callable[[], Awaitable[None]]) -> None:
    async def life() -> None:
        world.build(checkpoint_ms=10**6)
        await world.recover()
        await body()

    world.loop.run_until_complete(life())


def kept_of(world: ViewWorld) -> KeptPages:
    kept = world.store.regions[KEY].kept
    assert kept is not None
    return kept


async def journalled(world: ViewWorld) -> None:
    await world.store.journal.synced()
    world.commit(KEY)


async def view_bytes(world: ViewWorld, view: int) -> bytes:
    into = memoryview(bytearray(REGION))
    await world.store.read_view(KEY, view, 0, into)
    return bytes(into)


def test_a_page_that_is_on_disk_is_kept_before_its_place_is_written_ruling_r11(
    world: ViewWorld,
) -> None:
    async def body() -> None:
        old = world.write(KEY, 0, PAGE_BYTES)
        await journalled(world)
        await world.store.close()
        view = world.create(KEY)
        world.write(KEY, 512, 512)
        await journalled(world)
        kept, region = kept_of(world), world.store.regions[KEY]
        assert list(kept.lacking) == [0]
        assert region.is_busy(0)
        assert (await view_bytes(world, view))[:PAGE_BYTES] == old.data
        await world.store.drain()
        assert not kept.lacking
        assert not world.store.cache.pages
        assert (await view_bytes(world, view))[:PAGE_BYTES] == old.data
        await world.check_all()

    run(world, body)


def test_a_page_that_the_cache_has_whole_is_kept_without_a_read(world: ViewWorld) -> None:
    async def body() -> None:
        world.write(KEY, 0, PAGE_BYTES)
        await journalled(world)
        world.create(KEY)
        world.write(KEY, 0, 512)
        await journalled(world)
        assert not kept_of(world).lacking
        await world.check_all()

    run(world, body)


def test_a_page_that_was_never_written_owes_no_page_and_older_views_read_through(
    world: ViewWorld,
) -> None:
    async def body() -> None:
        first, second = world.create(KEY), world.create(KEY)
        world.write(KEY, PAGE_BYTES, 512)
        await journalled(world)
        views = kept_of(world).views
        assert kind_of(views.locate(second, 1)) == ZERO
        assert kind_of(views.locate(first, 1)) == ZERO
        assert kind_of(views.locate(first, 0)) == BASE
        assert views.used_pages() == []
        await world.check_all()

    run(world, body)


def test_a_second_write_and_a_trim_owe_nothing_more(world: ViewWorld) -> None:
    async def body() -> None:
        world.write(KEY, 0, PAGE_BYTES)
        await journalled(world)
        world.create(KEY)
        for _ in range(3):
            world.write(KEY, 0, 512)
        world.submit(KEY, TRIM, 0, PAGE_BYTES)
        await journalled(world)
        assert len(kept_of(world).views.used_pages()) == 1
        await world.store.close()
        await world.check_all()

    run(world, body)


def test_a_view_that_is_removed_hands_over_or_frees_ruling_r5(world: ViewWorld) -> None:
    async def body() -> None:
        world.write(KEY, 0, 2 * PAGE_BYTES)
        await journalled(world)
        old = world.create(KEY)
        world.write(KEY, 0, 512)
        await journalled(world)
        middle = world.create(KEY)
        world.write(KEY, 0, 2 * PAGE_BYTES)
        await journalled(world)
        world.create(KEY)
        world.remove(KEY, middle)
        views = kept_of(world).views
        assert kind_of(views.locate(old, 1)) == PAGE  # handed over
        assert len(views.used_pages()) == 2
        await world.check_all()
        await world.store.close()
        await world.check_all()

    run(world, body)


def test_a_transfer_brings_what_snapshots_have_and_a_start_finds_it(world: ViewWorld) -> None:
    old = bytes(range(256)) * (PAGE_BYTES // 256)

    async def body() -> None:
        world.write(KEY, 0, PAGE_BYTES)
        await journalled(world)
        view = world.create(KEY)
        world.write(KEY, 0, 512)
        await journalled(world)
        store, space = world.store, kept_of(world).views.space
        assert space.free < space.extents
        store.begin_transfer(TransferBeginNote(*KEY, 1, 5, 1, 2, b"\0"))
        await store.checkpoint()
        assert space.free == space.extents
        with pytest.raises(InvalidRequest, match="no snapshots have come"):
            await store.end_transfer(KEY, 5)
        store.begin_transfer(TransferBeginNote(*KEY, 1, 6, 1, 2, b"\0"))
        store.begin_views(KEY, 6, 2)
        entries = [(view, 0, PAGE), (view, 1, ZERO)]
        with pytest.raises(InvalidRequest, match="session 5 does not run"):
            await store.transfer_views(KEY, 5, entries, memoryview(old), ())
        await store.transfer_views(KEY, 6, entries, memoryview(old), ())
        await store.end_transfer(KEY, 6)
        with pytest.raises(InvalidRequest, match="session 6 does not run"):
            await store.transfer_views(KEY, 6, entries, memoryview(old), ())
        assert (await view_bytes(world, view))[: 2 * PAGE_BYTES] == old + bytes(PAGE_BYTES)
        world.crash(CrashKind.KILL)
        world.build(checkpoint_ms=10**6)
        await ViewWorld.recover(world)
        assert kept_of(world).views.kinds() == {(view, 0): PAGE, (view, 1): ZERO}
        assert (await view_bytes(world, view))[: 2 * PAGE_BYTES] == old + bytes(PAGE_BYTES)

    run(world, body)


def test_what_a_joiner_kept_of_later_records_yields_to_what_comes(world: ViewWorld) -> None:
    old = b"\x55" * PAGE_BYTES

    async def body() -> None:
        world.write(KEY, 0, 2 * PAGE_BYTES)
        await journalled(world)
        store, view = world.store, world.create(KEY)
        store.begin_transfer(TransferBeginNote(*KEY, 1, 5, 1, 1, b"\0"))
        store.begin_views(KEY, 5, 1)
        world.models[KEY].committed = 1
        world.write(KEY, 0, 512)
        world.write(KEY, PAGE_BYTES, 512)
        await journalled(world)
        assert kept_of(world).views.kinds() == {(view, 0): ZERO, (view, 1): ZERO}
        await store.transfer_views(KEY, 5, [(view, 0, PAGE)], memoryview(old), ())
        await store.end_transfer(KEY, 5)
        assert kept_of(world).views.kinds() == {(view, 0): PAGE, (view, 1): ZERO}
        assert (await view_bytes(world, view))[: 2 * PAGE_BYTES] == old + bytes(PAGE_BYTES)

    run(world, body)


def test_without_a_place_for_snapshots_nothing_is_kept() -> None:
    class Tagged(World):
        def tag_of(self, key: tuple[int, int]) -> int:
            return 2

    world = Tagged(7, regions=1)

    async def body() -> None:
        world.write(KEY, 0, PAGE_BYTES)
        await world.store.journal.synced()
        world.commit(KEY)
        assert world.store.regions[KEY].kept is None
        await world.store.close()
        await world.check_all()

    try:
        run(world, body)
    finally:
        world.loop.close()
