"""The ring of the journal: laps, torn ends, old lives, room, syncs, failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import StorageError
from base.tasks import Supervisor
from base.units import KiB
from node.journal import Journal
from node.journal_format import (
    ENTRY_BYTES,
    OPERATION,
    TRANSFER_BEGIN,
    CommitNote,
    JournalEntry,
    Lives,
    Note,
    RegionDroppedNote,
    TransferBeginNote,
    TransferDoneNote,
    TruncateNote,
    pack_entry,
    pack_note,
    scan,
    unpack_note,
)
from sim.clock import SimClock
from sim.device import CrashKind, DiskTiming, SimDisks
from sim.event_loop import SimEventLoop
from sim.random import SeedStreams
from transport.operation import RECORD_BYTES, WRITE, Record, data_crc, pack_record, unpack_record

CAPACITY = 16 * KiB


class Bench:
    """A journal on a simulated disk, in one life after the other."""

    def __init__(self, *, now_percent: int = 100, seed: int = 1) -> None:
        self.loop = SimEventLoop()
        self.disks = SimDisks(self.loop, SeedStreams(seed), DiskTiming(now_percent=now_percent))
        self.disk = self.disks.add("journal", CAPACITY)
        self.done: list[object] = []
        self.failures: list[BaseException] = []
        self.rooms = 0
        self.lives = Lives([(0, 0)])

    def open(self) -> Journal:
        self.journal = Journal(
            self.disks.open("journal"),
            clock=SimClock(self.loop),
            supervisor=Supervisor("test"),
            on_journalled=self.done.extend,
            on_failure=self.failures.append,
            on_room=self._room,
        )
        return self.journal

    def _room(self) -> None:
        self.rooms += 1

    async def begin(self, from_lsn: int = 0) -> list[tuple[int, bytes]]:
        """A new life: what recovery finds from that lsn on."""
        journal = self.open()
        found = []
        end = from_lsn
        async for entries, behind in journal.recover(from_lsn, self.lives):
            found += [(entry.lsn, bytes(entry.payload)) for entry in entries]
            end = behind
        self.lives = self.lives.begin(end)
        journal.start(end, from_lsn, self.lives)
        return found

    async def settle(self) -> None:
        await SimClock(self.loop).sleep(0.1)

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        self.loop.run_until_complete(body())  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


@pytest.fixture
def slow() -> Iterator[Bench]:
    made = Bench(now_percent=0)
    yield made
    made.loop.close()


def record(number: int, length: int = 100) -> Record:
    data = bytes([number % 256]) * length
    return Record(
        1, 2, WRITE, 0, 0, length, 3, number, 0, data, epoch=1, seq=number, data_crc=data_crc(data)
    )


def append(bench: Bench, number: int, length: int = 100) -> int:
    made = record(number, length)
    return bench.journal.append_operation(pack_record(made, 1, 0), made.data, number)


def numbers(found: list[tuple[int, bytes]]) -> list[int]:
    return [unpack_record(memoryview(payload), 0)[0].number for _, payload in found]


def test_everything_of_one_turn_is_one_write(bench: Bench) -> None:
    async def body() -> None:
        await bench.begin()
        for number in range(1, 6):
            append(bench, number)
        await bench.settle()
        assert (bench.disk.writes, bench.done) == (1, [1, 2, 3, 4, 5])

    bench.run(body)


@pytest.mark.parametrize("now_percent", [0, 50, 100])
def test_entries_come_back_in_order_over_the_end_of_the_ring(now_percent: int) -> None:
    bench = Bench(now_percent=now_percent)

    async def body() -> None:
        await bench.begin()
        lsns: list[int] = []
        for number in range(1, 301):
            lsns.append(append(bench, number, 37 * number % 700))
            if number % 7 == 0:
                await bench.settle()
                bench.journal.trim(lsns[-5])
        await bench.settle()
        assert bench.journal.next_lsn > 3 * CAPACITY
        bench.disks.crash(CrashKind.KILL)
        assert numbers(await bench.begin(lsns[290])) == list(range(291, 301))

    bench.run(body)
    bench.loop.close()


def test_bytes_of_an_earlier_lap_are_never_taken_for_new(bench: Bench) -> None:
    async def body() -> None:
        await bench.begin()
        size = ENTRY_BYTES + RECORD_BYTES + 100
        lap = CAPACITY // size
        for number in range(1, lap + 4):  # the same sizes: entries line up with the first lap's
            lsn = append(bench, number)
            await bench.settle()
            bench.journal.trim(lsn)
        bench.disks.crash(CrashKind.KILL)
        assert numbers(await bench.begin(lsn)) == [lap + 3]

    bench.run(body)


@given(st.integers(0, ENTRY_BYTES + RECORD_BYTES + 99), st.integers(1, 255))
@settings(deadline=None, max_examples=60)
def test_recovery_stops_before_an_entry_with_any_damaged_byte(at: int, flip: int) -> None:
    bench = Bench()

    async def body() -> None:
        await bench.begin()
        append(bench, 1)
        torn = append(bench, 2)
        append(bench, 3)
        await bench.settle()
        bench.disk.rot(torn + at, flip)
        assert numbers(await bench.begin()) == [1]

    bench.run(body)
    bench.loop.close()


def test_an_entry_behind_a_gap_never_comes_back_even_when_a_new_one_fills_the_gap(
    bench: Bench,
) -> None:
    async def body() -> None:
        await bench.begin()
        append(bench, 1)
        lost = append(bench, 2)
        append(bench, 3)
        await bench.settle()
        bench.disk.rot(lost + ENTRY_BYTES)
        assert numbers(await bench.begin()) == [1]
        assert append(bench, 4) == lost  # as long as the lost one: 3 lies right behind it
        await bench.settle()
        assert numbers(await bench.begin()) == [1, 4]
        assert numbers(await bench.begin(bench.journal.next_lsn)) == []

    bench.run(body)


def test_entries_wait_when_the_ring_is_full_and_go_on_when_it_is_trimmed(bench: Bench) -> None:
    async def body() -> None:
        await bench.begin()
        lsns = []
        for number in range(1, 41):
            lsns.append(append(bench, number, 1000))
            await bench.settle()
        journal = bench.journal
        held = len(bench.done)
        assert journal.is_full
        assert held < 40
        assert bench.rooms == 0
        journal.trim(lsns[held - 1])
        await bench.settle()
        assert held < len(bench.done) < 40
        assert bench.rooms == 0
        while len(bench.done) < 40:
            journal.trim(lsns[len(bench.done) - 1])
            await bench.settle()
        assert bench.done == list(range(1, 41))
        assert (journal.is_full, bench.rooms) == (False, 1)

    bench.run(body)


def test_a_write_that_takes_its_time_does_not_grow_beyond_the_room_that_there_was(
    slow: Bench,
) -> None:
    async def body() -> None:
        await slow.begin()
        append(slow, 1, 12 * KiB)
        await slow.settle()
        append(slow, 2, 3 * KiB)
        slow.journal.flush()  # it is on its way, and has not begun
        append(slow, 3, 3 * KiB)
        await slow.settle()
        assert slow.done == [1, 2]
        assert slow.journal.statistics().used_peak_bytes <= CAPACITY

    slow.run(body)


def test_a_full_file_system_makes_entries_wait_and_is_no_failure(bench: Bench) -> None:
    async def body() -> None:
        await bench.begin()
        bench.disk.space_bytes = 0
        append(bench, 1)
        await bench.settle()
        assert (bench.done, bench.journal.is_full, bench.failures) == ([], True, [])
        bench.disk.space_bytes = None
        await SimClock(bench.loop).sleep(1)
        assert (bench.done, bench.journal.is_full, bench.rooms) == ([1], False, 1)

    bench.run(body)


def test_a_sync_covers_what_was_appended_before_it_was_asked_for(slow: Bench) -> None:
    async def body() -> None:
        await slow.begin()
        lsn = append(slow, 1)
        await slow.journal.synced()
        assert slow.journal.synced_lsn == lsn
        slow.disks.crash(CrashKind.POWER_LOST)
        assert numbers(await slow.begin()) == [1]

    slow.run(body)


def test_syncs_asked_for_during_one_share_the_next(slow: Bench) -> None:
    async def body() -> None:
        await slow.begin()
        called: list[int] = []
        for number in range(10):
            append(slow, number)
            slow.journal.request_sync(lambda number=number: called.append(number))
            await SimClock(slow.loop).sleep(0.0002)
        await slow.settle()
        assert called == list(range(10))
        assert slow.disk.syncs < 6

    slow.run(body)


def test_a_sync_with_nothing_new_is_answered_without_the_disk(bench: Bench) -> None:
    async def body() -> None:
        await bench.begin()
        syncs = bench.disk.syncs
        await bench.journal.synced()
        assert bench.disk.syncs == syncs

    bench.run(body)


def test_a_sync_of_written_entries_does_not_wait_for_those_without_room(bench: Bench) -> None:
    async def body() -> None:
        await bench.begin()
        for number in range(1, 31):
            append(bench, number, 1000)
            await bench.settle()
        assert bench.journal.is_full
        called: list[str] = []
        bench.journal.request_sync(lambda: called.append("all"))
        bench.journal.request_sync(
            lambda: called.append("written"), up_to=bench.journal.written_lsn
        )
        await bench.settle()
        assert called == ["written"]

    bench.run(body)


@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_failure_is_told_once_and_nothing_is_tried_again(bench: Bench, what: str) -> None:
    async def body() -> None:
        await bench.begin()
        called: list[object] = []
        if what == "write":
            bench.disk.fail_range(0, CAPACITY)
        else:
            bench.disk.fail_sync_once()
        for number in range(3):
            append(bench, number)
            bench.journal.request_sync(lambda: called.append(1))
            await bench.settle()
        assert len(bench.failures) == 1
        assert isinstance(bench.failures[0], StorageError)
        assert called == []
        assert bench.disk.syncs == 0

    bench.run(body)


def test_what_a_failed_sync_left_behind_is_written_again_before_it_counts(bench: Bench) -> None:
    """After a failed sync a system calls those pages clean: the next sync passes over them."""

    async def body() -> None:
        await bench.begin()
        append(bench, 1)
        bench.disk.fail_sync_once()
        bench.journal.request_sync(lambda: None)
        await bench.settle()
        assert bench.failures
        bench.disks.crash(CrashKind.KILL)
        found = await bench.begin()
        await bench.journal.make_durable(0, bench.journal.next_lsn)
        bench.disks.crash(CrashKind.POWER_LOST)
        assert await bench.begin() == found != []

    bench.run(body)


NOTES: list[Note] = [
    CommitNote(((1, 2, 3, 4, 5), (6, 7, 8, 9, 10))),
    CommitNote(()),
    TruncateNote(1, 2, 3),
    TransferBeginNote(1, 2, 3, 4, 5, 6, b"\x81\x02", ((9, 1, (2, 3)),)),
    TransferDoneNote(1, 2, 3),
    RegionDroppedNote(1, 2),
]


@pytest.mark.parametrize("note", NOTES)
def test_a_note_comes_back_as_it_was(note: Note) -> None:
    kind, payload = pack_note(note)
    packed = pack_entry(kind, payload, 0, 7)
    entries, behind, _ = scan(memoryview(packed), 0, Lives([(0, 7)]))
    assert behind == len(packed)
    assert [unpack_note(entry) for entry in entries] == [note]


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_any_bytes_are_an_end_and_nothing_else(data: bytes) -> None:
    entries, lsn, _ = scan(memoryview(data), 5, Lives([(0, 1)]))
    assert (entries, lsn) == ([], 5)


def test_a_note_of_another_version_is_a_protocol_error() -> None:
    with pytest.raises(StorageError, match="journal entry 9"):
        unpack_note(JournalEntry(9, TRANSFER_BEGIN, memoryview(b"\x91\x01")))
    with pytest.raises(StorageError, match="kind 77"):
        unpack_note(JournalEntry(9, 77, memoryview(b"\x90")))


def test_a_life_is_forgotten_only_when_nothing_of_it_is_left() -> None:
    lives = Lives([(0, 0)]).begin(0).begin(100).begin(100).begin(200)
    assert lives.lives == [(0, 1), (100, 3), (200, 4)]
    assert [lives.at(lsn) for lsn in (0, 99, 100, 199, 200)] == [1, 1, 3, 3, 4]
    assert lives.trimmed(150).lives == [(100, 3), (200, 4)]
    assert lives.trimmed(200).lives == [(200, 4)]


def test_operations_are_marked_as_such(bench: Bench) -> None:
    async def body() -> None:
        await bench.begin()
        append(bench, 1)
        await bench.settle()
        async for entries, _ in bench.journal.recover(0, bench.lives):
            assert [entry.kind for entry in entries] == [OPERATION]

    bench.run(body)
