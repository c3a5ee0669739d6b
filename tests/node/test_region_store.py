"""The region store on simulated disks: transfers, full journals, mirrors, checkpoints, errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from base.errors import DeviceFailed, InvalidRequest, NoSpace, NotFound
from base.units import KiB
from node.checkpoint import (
    Checkpoint,
    CheckpointSlots,
    RegionEntry,
    RegionState,
    pack_payload,
    pack_region,
    unpack_region,
)
from node.destage import Destager
from node.journal_format import Lives, TransferBeginNote
from sim.device import CrashKind
from tests.node.store_world import PAGE, PAGES, REGION, Model, World, image_of
from transport.operation import TRIM, WRITE, Record
from volume.physical_disk import Loop

KEY = (1, 0)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(7, now_percent=50)
    yield made
    made.loop.close()


@pytest.fixture
def mirrored() -> Iterator[World]:
    made = World(7, now_percent=50, raid=1)
    yield made
    made.loop.close()


def run(world: World, body: Callable[[], Awaitable[None]]) -> None:
    world.loop.run_until_complete(body())  # type: ignore[arg-type]


async def begin(world: World, **options: Any) -> None:
    world.build(**options)
    world.found = await world.recover()  # type: ignore[attr-defined]


async def settle(world: World, seconds: float = 0.1) -> None:
    await world.store.clock.sleep(seconds)


async def write_committed(world: World, offset: int, length: int) -> Record:
    record = world.write(KEY, offset, length)
    await settle(world, 0.01)
    world.commit(KEY)
    return record


def test_a_new_store_is_blank_and_one_with_a_past_is_not(world: World) -> None:
    async def body() -> None:
        await begin(world)
        assert world.store.is_blank
        await begin(world)
        assert not world.store.is_blank

    run(world, body)


def test_a_store_whose_checkpoints_are_both_lost_is_refused(world: World) -> None:
    async def body() -> None:
        await begin(world)
        await write_committed(world, 0, PAGE)
        world.disks["checkpoint"].wipe()
        with pytest.raises(DeviceFailed, match="no checkpoint can be read"):
            await begin(world)

    run(world, body)


def test_an_orderly_stop_leaves_nothing_to_replay(world: World) -> None:
    async def body() -> None:
        await begin(world)
        await write_committed(world, 512, 5 * KiB)
        await world.store.close()
        await begin(world)
        recovered = world.found[KEY]  # type: ignore[attr-defined]
        assert (recovered.committed, recovered.replayed, recovered.tail) == (1, [], [])
        assert world.store.cache.pages == 0
        await world.check_all()

    run(world, body)


def test_a_region_that_the_catalog_has_no_more_is_not_recovered(world: World) -> None:
    async def body() -> None:
        await begin(world)
        await write_committed(world, 0, PAGE)
        world.keys = world.keys[1:]
        await begin(world)
        assert KEY not in world.store
        await world.store.checkpoint()
        world.keys = [KEY, *world.keys]
        found = await begin_again(world)
        assert KEY not in found

    run(world, body)


async def begin_again(world: World) -> dict[Any, Any]:
    world.build()
    return await world.store.recover(world.place)


def test_a_dropped_region_does_not_come_back(world: World) -> None:
    async def body() -> None:
        await begin(world)
        await write_committed(world, 0, PAGE)
        await world.store.checkpoint()
        world.store.drop_region(KEY)
        with pytest.raises(NotFound):
            world.store.allocation(KEY)
        await world.store.settled()
        await world.store.journal.synced()
        assert KEY not in await begin_again(world)

    run(world, body)


def test_a_full_journal_waits_and_goes_on(world: World) -> None:
    async def body() -> None:
        await begin(world, dirty_bytes_max=256 * PAGE, checkpoint_ms=5000)
        world.store.start()
        for number in range(60):  # 240 KiB through a ring of 48 KiB, without asking for room
            world.write(KEY, number % PAGES * PAGE, PAGE)
        seen = 0
        for _ in range(200):
            seen = max(seen, world.store.journal.statistics().waiting_bytes)
            world.commit(KEY)
            await settle(world, 0.02)
        assert seen > 0
        assert world.models[KEY].committed == 60
        assert not world.store.journal.is_full
        await world.check_all()
        await world.supervisor.close()

    run(world, body)


def test_nothing_reaches_a_disk_before_its_record_is_synced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I31, looked at from outside: on the devices."""
    destaged: list[int] = []
    real = Destager._write_now

    def watched(self: Destager, group: list[Any]) -> bool:
        last = max(record_lsns[page.region.key, page.index] for page in group)
        assert last <= world.store.journal.synced_lsn
        destaged.append(len(group))
        return real(self, group)

    monkeypatch.setattr(Destager, "_write_now", watched)
    record_lsns: dict[Any, int] = {}

    async def body() -> None:
        await begin(world)
        world.store.start()
        for number in range(60):
            page = number % 5
            if world.store.has_room:
                record = world.write(KEY, page * PAGE, PAGE)
                lsn = world.store.regions[KEY].pending[record.seq]
                await settle(world, 0.003)
                if world.store.cache.stamp:
                    before = dict(record_lsns)
                    world.commit(KEY)
                    dirty = world.store.regions[KEY].dirty[page]
                    # A sealed copy holds older records only.
                    record_lsns[KEY, page] = lsn if dirty.sealed is None else before[KEY, page]
        await settle(world, 1)
        await world.supervisor.close()

    run(world, body)
    assert destaged


def test_reads_go_to_the_other_mirror_when_one_fails(mirrored: World) -> None:
    async def body() -> None:
        await begin(mirrored)
        await write_committed(mirrored, 0, REGION)
        await mirrored.store.close()
        mirrored.disks["d0"].fail_range(0, 64 * KiB, writes=False)
        await mirrored.check_all()
        assert mirrored.store.shelf.failed_disks == []

    run(mirrored, body)


def test_a_mirror_that_missed_a_write_is_never_read_again_not_even_after_a_restart(
    mirrored: World,
) -> None:
    async def body() -> None:
        await begin(mirrored)
        await write_committed(mirrored, 0, REGION)
        await mirrored.store.close()
        mirrored.disks["d1"].fail_range(0, 64 * KiB)
        await write_committed(mirrored, 0, REGION)
        await mirrored.store.close()
        assert mirrored.store.shelf.failed_disks == [1]
        mirrored.disks["d1"].heal()
        await begin(mirrored)
        assert mirrored.store.shelf.failed_disks == [1]
        await mirrored.check_all()

    run(mirrored, body)


def test_a_disk_takes_its_other_loop_and_without_both_it_misses_writes(mirrored: World) -> None:
    async def body() -> None:
        await begin(mirrored)
        shelf = mirrored.store.shelf
        shelf.set_loop(Loop(0, "A"), False)
        await write_committed(mirrored, 0, PAGE)
        await mirrored.store.drain()
        assert (shelf.failed_disks, mirrored.store.cache.pages) == ([], 0)
        shelf.set_loop(Loop(0, "B"), False)
        await write_committed(mirrored, 0, PAGE)
        await mirrored.store.drain()
        assert mirrored.store.cache.pages == 1  # no member is left: the page stays dirty
        shelf.set_loop(Loop(0, "B"), True)
        await mirrored.store.drain()
        assert (shelf.failed_disks, mirrored.store.cache.pages) == ([], 0)

    run(mirrored, body)


def test_a_full_disk_file_keeps_pages_dirty_until_there_is_space(world: World) -> None:
    async def body() -> None:
        errors: list[Any] = []
        await begin(world)
        world.store.destager.on_region_error = lambda key, error: errors.append((key, error))
        world.disks["d0"].wipe()
        world.disks["d0"].space_bytes = 0
        world.store.shelf._devices[0] = world.disks.open("d0")
        await write_committed(world, 0, PAGE)
        await world.store.drain()
        assert world.store.cache.pages == 1
        assert [type(error) for _, error in errors] == [NoSpace]
        world.disks["d0"].space_bytes = None
        await world.store.drain()
        assert world.store.cache.pages == 0
        await world.check_all()

    run(world, body)


def test_a_dead_disk_does_not_keep_other_regions_from_destaging(world: World) -> None:
    async def body() -> None:
        errors: list[Any] = []
        await begin(world)
        world.store.destager.on_region_error = lambda key, error: errors.append(key)
        world.store.start()
        world.disks["d0"].fail_range(0, 64 * KiB)  # steps of 8 KiB: pages 0 and 1 of every region
        for key in world.keys:
            world.write(key, 0, 3 * PAGE)
            await settle(world, 0.01)
            world.commit(key)
        await settle(world, 1)
        left = [(page.region.key, page.index) for page in world.store.cache.live_pages()]
        assert sorted(left) == [(key, page) for key in world.keys for page in (0, 1)]
        assert sorted(set(errors)) == world.keys
        world.disks["d0"].heal()
        await settle(world, 1)
        assert world.store.cache.pages == 0
        await world.check_all()
        await world.supervisor.close()

    run(world, body)


def test_a_failed_sync_of_a_disk_stops_the_node_before_the_journal_is_trimmed(
    world: World,
) -> None:
    async def body() -> None:
        await begin(world)
        world.store.start()
        await write_committed(world, 0, PAGE)
        trimmed = world.store.journal.trimmed_lsn
        world.disks["d0"].fail_sync_once()
        await settle(world, 1)
        assert [type(error) for error in world.failures] == [DeviceFailed]
        assert world.store.journal.trimmed_lsn == trimmed
        await world.supervisor.close()

    run(world, body)


def test_an_offset_outside_of_the_region_is_refused(world: World) -> None:
    async def body() -> None:
        await begin(world)
        with pytest.raises(InvalidRequest):
            world.store.read_now(KEY, REGION - 512, 1024, memoryview(bytearray(1024)))

    run(world, body)


# -- state transfer


def source(world: World) -> tuple[list[Record], bytes, bytes]:
    """Records of an owner, its bitmap and its bytes."""
    rng = world.rng
    records = [
        Record(1, 0, WRITE, 0, first * 512, 20 * 512, 1, 1, 0, rng.randbytes(20 * 512))
        for first in (0, 30)
    ]
    image, allocated = image_of(records)
    return records, bytes([sum(1 << page for page in range(PAGES) if allocated[page])]), image


def note(session: int, bitmap: bytes) -> TransferBeginNote:
    return TransferBeginNote(1, 0, 3, session, 2, 2, bitmap, ((5, 1),))


def pages_of(bitmap: bytes) -> list[int]:
    return [page for page in range(PAGES) if bitmap[0] >> page & 1]


async def send(world: World, session: int, pages: list[int], image: bytes | bytearray) -> None:
    data = b"".join(bytes(image[page * PAGE : (page + 1) * PAGE]) for page in pages)
    await world.store.transfer_pages(KEY, session, tuple(pages), memoryview(data))


async def join(world: World, session: int) -> tuple[list[Record], bytes, bytes]:
    """Begin a transfer on top of a base of two records."""
    base, bitmap, image = source(world)
    world.store.begin_transfer(note(session, bitmap))
    world.models[KEY] = Model(list(base), 2, 2, 3)
    return base, bitmap, image


def test_a_transfer_with_writes_going_on_ends_in_the_owners_bytes(world: World) -> None:
    async def body() -> None:
        await begin(world)
        await write_committed(world, 4 * PAGE, 4 * PAGE)  # of an earlier time: must vanish
        _, bitmap, image = await join(world, 5)
        with pytest.raises(NotFound):
            world.store.read_now(KEY, 0, 512, memoryview(bytearray(512)))
        await write_committed(world, 512, 1024)
        await send(world, 5, [0, 1], image)
        await send(world, 5, [0, 1], image)
        world.submit(KEY, TRIM, 2 * PAGE, PAGE)
        await write_committed(world, 2 * PAGE + 512, 512)
        await send(world, 5, pages_of(bitmap), image)
        await world.store.end_transfer(KEY, 5)
        await world.check_all()
        # And again after a power cut: the end of a transfer is synced.
        promised = [record.number for record in world.models[KEY].records[2:]]
        world.disks.crash(CrashKind.POWER_LOST)
        await begin(world)
        recovered = world.found[KEY]  # type: ignore[attr-defined]
        assert recovered.complete
        assert (recovered.clients, recovered.committed_epoch >= 2) == (((5, 1),), True)
        names = [number for _, number, _ in recovered.replayed]
        names += [record.number for record, _ in recovered.tail]
        assert names == promised
        await world.check_bytes(KEY, world.models[KEY].records[: recovered.committed])

    run(world, body)


def test_a_transfer_that_did_not_end_leaves_an_incomplete_region(world: World) -> None:
    async def body() -> None:
        await begin(world)
        await write_committed(world, 0, PAGE)
        _, bitmap, image = await join(world, 5)
        await send(world, 5, pages_of(bitmap), image)
        await world.store.checkpoint()
        await begin(world)
        assert not world.found[KEY].complete  # type: ignore[attr-defined]
        assert not world.store.is_complete(KEY)
        await world.store.checkpoint()
        await begin(world)
        assert not world.found[KEY].complete  # type: ignore[attr-defined]

    run(world, body)


def test_the_end_of_a_transfer_is_refused_while_pages_are_missing(world: World) -> None:
    async def body() -> None:
        await begin(world)
        _, bitmap, image = await join(world, 5)
        await send(world, 5, pages_of(bitmap)[1:], image)
        with pytest.raises(InvalidRequest, match="1 pages of the base are missing"):
            await world.store.end_transfer(KEY, 5)

    run(world, body)


def test_pages_of_another_session_are_refused(world: World) -> None:
    async def body() -> None:
        await begin(world)
        _, _, image = await join(world, 5)
        with pytest.raises(InvalidRequest, match="session 4 does not run"):
            await send(world, 4, [0], image)
        with pytest.raises(InvalidRequest, match="do not match"):
            await world.store.transfer_pages(KEY, 5, (0,), memoryview(b"short"))

    run(world, body)


def test_a_power_cut_never_shows_new_pages_under_the_old_region(world: World) -> None:
    async def body() -> None:
        await begin(world)
        await write_committed(world, 0, REGION)
        await world.store.close()
        _, bitmap, image = await join(world, 5)
        await send(world, 5, pages_of(bitmap)[:2], image)
        world.disks.crash(CrashKind.POWER_LOST)
        await begin(world)
        assert not world.found[KEY].complete  # type: ignore[attr-defined]

    run(world, body)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from((0, 50, 100)), st.sampled_from(CrashKind))
@example(1511, 100, CrashKind.POWER_TORN)  # a block without room for its note, torn at the end
def test_a_transfer_cut_anywhere_is_complete_and_right_or_incomplete(
    seed: int, now_percent: int, kind: CrashKind
) -> None:
    world = World(seed, now_percent=now_percent, regions=1)
    ended: list[int] = []
    before: list[Record] = []

    async def life() -> None:
        await begin(world)
        world.store.start()
        await write_committed(world, 0, REGION)
        before.extend(world.models[KEY].records)
        await settle(world, world.rng.choice((0.0, 0.02)))
        _, bitmap, image = await join(world, 5)
        waiting = pages_of(bitmap)
        world.rng.shuffle(waiting)
        while waiting:
            for _ in range(world.rng.randrange(3)):
                first = world.rng.randrange(PAGES * 8 - 8)
                world.submit(KEY, world.rng.choice((WRITE, WRITE, TRIM)), first * 512, 4096)
            await settle(world, 0.002)
            world.commit(KEY)
            await send(world, 5, [waiting.pop()], image)
        await world.store.end_transfer(KEY, 5)
        await world.check_all()
        ended.append(world.models[KEY].committed)
        for _ in range(50):
            await write_committed(world, world.rng.randrange(60) * 512, 1024)

    group = world.loop.group("life")
    group.start(life(), name="life")
    world.loop.run_until_ns(world.loop.now_ns + world.rng.randrange(250_000_000))
    assert not world.failures
    world.disks.crash(kind)
    group.drop()

    async def after() -> None:
        world.build()
        recovered = (await world.store.recover(world.place)).get(KEY)
        if ended:
            assert recovered is not None
            assert recovered.complete
        if recovered is not None and recovered.complete:
            # One record is the region of before the transfer: none of its pages may have changed.
            records = world.models[KEY].records if recovered.committed >= 2 else before
            await world.check_bytes(KEY, records[: recovered.committed])

    world.loop.run_until_complete(after())
    world.loop.close()


# -- checkpoint slots


def test_a_region_entry_comes_back_as_it_was() -> None:
    entry = RegionEntry(-1, RegionState(3, 2**40, 2, ((7, 1, (2, 3)),)), b"\x01\x80")
    assert unpack_region(pack_region((4, 5), entry)) == ((4, 5), entry)


def test_a_torn_checkpoint_leaves_the_one_before(world: World) -> None:
    async def body() -> None:
        slots = CheckpointSlots(world.disks.open("checkpoint"))
        for trim_lsn in (1, 2, 3):
            await slots.store(pack_payload(Checkpoint(Lives([(0, 1)]), trim_lsn)))
        for _ in range(2):  # whichever slot the newest is in
            newest = await CheckpointSlots(world.disks.open("checkpoint")).load()
            assert newest is not None
            assert newest.trim_lsn == 3
        world.disks["checkpoint"].rot(40)  # slot A holds numbers 1 and 3
        older = await CheckpointSlots(world.disks.open("checkpoint")).load()
        assert older is not None
        assert older.trim_lsn == 2
        again = CheckpointSlots(world.disks.open("checkpoint"))
        await again.load()
        await again.store(pack_payload(Checkpoint(Lives([(0, 1)]), 4)))
        newest = await CheckpointSlots(world.disks.open("checkpoint")).load()
        assert newest is not None
        assert newest.trim_lsn == 4

    run(world, body)


def test_a_checkpoint_that_does_not_fit_its_slot_is_refused(world: World) -> None:
    async def body() -> None:
        with pytest.raises(NoSpace, match="does not fit its slot"):
            await CheckpointSlots(world.disks.open("checkpoint")).store(bytes(40 * KiB))

    run(world, body)
