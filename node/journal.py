"""shell: the append-only journal of a node: group commit, sync, trim, reading back.

Everything that one turn of the loop appends is one write. No future and no task per record: tokens
go to one callback, a list at a time, in the order in which they were appended. After a failed write
or sync nothing is tried again (P11): `on_failure` says so once and the node must stop. A full file
system is not a failure: entries wait, as they do when the ring is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from base.clock import Clock
from base.device import BlockDevice, Buffer
from base.errors import DeviceFailed, NoSpace
from base.tasks import Supervisor
from base.units import MiB
from node.journal_format import (
    ENTRY_BYTES,
    ENTRY_BYTES_MAX,
    JournalEntry,
    Lives,
    Note,
    entry_name,
    entry_places,
    pack_entry,
    pack_note,
    pack_operation,
    scan,
)

BATCH_BYTES_MAX: Final = 4 * MiB  # of one write
WINDOW_BYTES: Final = 4 * MiB  # read at once at recovery
BEHIND_BYTES: Final = 2 * ENTRY_BYTES_MAX  # looked through for entries behind the end
NO_SPACE_RETRY_S: Final = 0.5
CROWDED_PERCENT: Final = 75
ROOM_LEFT: Final = 16  # part of the ring that notes about half blocks leave free


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Positions are lsns, sizes bytes. `waits` counts turns in which entries found no room."""

    capacity_bytes: int
    used_bytes: int
    used_peak_bytes: int
    waiting_bytes: int
    next_lsn: int
    synced_lsn: int
    trimmed_lsn: int
    entries: int
    writes: int
    syncs: int
    waits: int


class _Batch:
    """Entries that lie one behind the other and are written at once."""

    __slots__ = ("buffers", "end", "last", "start", "tokens")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.last = -1
        self.buffers: list[Buffer] = []
        self.tokens: list[object] = []


class Journal:
    """One ring on one device of which every byte is used; its size is a configured number of
    segments. lsn: see journal_format. It writes nothing before `start`.

    on_journalled(tokens): these entries survive the death of the process now.
    on_failure(error): once; the node must stop.
    on_room(): entries had been waiting for room, and no longer do.
    """

    def __init__(
        self,
        device: BlockDevice,
        *,
        clock: Clock,
        supervisor: Supervisor,
        on_journalled: Callable[[list[object]], None],
        on_failure: Callable[[BaseException], None],
        on_room: Callable[[], None] | None = None,
    ) -> None:
        self._device = device
        self._clock = clock
        self._supervisor = supervisor
        self.on_journalled = on_journalled
        self.on_failure = on_failure
        self.on_room = on_room
        self._capacity = device.size_bytes
        self._crowded = self._capacity * CROWDED_PERCENT // 100
        self._lives: Lives | None = None
        self._life = 0
        self._next = 0  # lsn of the next entry
        self._last = -1  # lsn of the newest entry
        self._written = -1  # lsn of the newest entry that is written
        self._written_end = 0
        self._synced = -1
        self._trimmed = 0
        self._open = _Batch(0)  # takes what is appended
        self._full: deque[_Batch] = deque()  # older ones, closed because they were big enough
        self._scheduled = False
        self._writing = False
        self._starved = False  # the batch at the head found no room in the ring
        self._no_space = False  # the file system under the device is full
        self._syncing = False
        self._failed = False
        self._waiters: list[tuple[int, Callable[[], None]]] = []  # (lsn to be synced, who asks)
        self._entries = self._writes = self._syncs = self._waits = self._used_peak = 0

    # -- positions

    @property
    def capacity_bytes(self) -> int:
        """Of the whole ring."""
        return self._capacity

    @property
    def next_lsn(self) -> int:
        """The lsn that the next entry gets."""
        return self._next

    @property
    def written_lsn(self) -> int:
        """The newest entry that survives the death of the process; -1: none of this life."""
        return self._written

    @property
    def synced_lsn(self) -> int:
        """Every entry up to this lsn survives a power cut."""
        return self._synced

    @property
    def trimmed_lsn(self) -> int:
        """Nothing before it is needed any more."""
        return self._trimmed

    @property
    def lives(self) -> Lives:
        """For the checkpoint."""
        assert self._lives is not None, "the journal was not started"
        return self._lives

    @property
    def is_full(self) -> bool:
        """Entries are waiting for room."""
        return self._starved or self._no_space

    @property
    def is_crowded(self) -> bool:
        """Three quarters are in use: take no new host writes, so that what other nodes send and
        what ends operations in flight still finds room; else two full journals wait for each other.
        """
        return self._next - self._trimmed > self._crowded or self._no_space

    @property
    def used_percent(self) -> int:
        """Of the ring, entries that wait included; above 100 while some do."""
        return (self._next - self._trimmed) * 100 // self._capacity

    def has_room(self, payload_bytes: int) -> bool:
        """A note of that size would be written at once, and a little room be left."""
        used = self._next + payload_bytes + ENTRY_BYTES - self._trimmed
        return not self.is_full and used <= self._capacity - self._capacity // ROOM_LEFT

    @property
    def used_bytes(self) -> int:
        """Of the ring, by entries that are written and not trimmed."""
        return self._written_end - self._trimmed

    @property
    def waits(self) -> int:
        """Turns in which entries found no room."""
        return self._waits

    def statistics(self) -> JournalStatistics:
        """A snapshot for people and metrics."""
        return JournalStatistics(
            self._capacity,
            self._written_end - self._trimmed,
            self._used_peak,
            self._next - self._written_end,
            self._next,
            self._synced,
            self._trimmed,
            self._entries,
            self._writes,
            self._syncs,
            self._waits,
        )

    # -- appending

    def start(self, lsn: int, trimmed: int, lives: Lives) -> None:
        """Begin to write at `lsn`, the end that recovery has found. The checkpoint already holds
        `lives`, whose last one begins there; what recovery has read is synced."""
        assert self._lives is None, "started twice"
        assert lives.at(lsn) == lives.newest
        self._lives = lives
        self._life = lives.newest
        self._next = self._written_end = lsn
        self._trimmed = trimmed
        self._last = self._written = self._synced = lsn - 1
        self._open = _Batch(lsn)

    def append_operation(self, header: bytes, data: Buffer, token: object) -> int:
        """Journal a record; `header` and `data` as transport.operation packs them. Its lsn.

        The buffers must not change before the token came back.
        """
        length = len(header) + len(data)
        lsn = self._next
        batch = self._open
        batch.buffers.append(pack_operation(header, length, lsn, self._life))
        if length > len(header):
            batch.buffers.append(data)
        batch.tokens.append(token)
        self._appended(batch, lsn, lsn + ENTRY_BYTES + length)
        return lsn

    def append_note(self, note: Note, token: object = None) -> int:
        """Journal a note; a token of None is not handed back. Its lsn."""
        kind, payload = pack_note(note)
        lsn = self._next
        batch = self._open
        batch.buffers.append(pack_entry(kind, payload, lsn, self._life))
        if token is not None:
            batch.tokens.append(token)
        self._appended(batch, lsn, lsn + ENTRY_BYTES + len(payload))
        return lsn

    def _appended(self, batch: _Batch, lsn: int, end: int) -> None:
        assert end - lsn <= self._capacity, "an entry is larger than the journal"
        batch.last = self._last = lsn
        batch.end = self._next = end
        self._entries += 1
        if end - batch.start >= BATCH_BYTES_MAX or (end - batch.start) * 4 > self._capacity:
            self._full.append(batch)
            self._open = _Batch(end)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what was appended, as far as there is room. Runs by itself once a turn."""
        self._scheduled = False
        if self._writing or self._failed or self._lives is None:
            return
        starved = False
        had_no_space = self._no_space
        until = self._next  # what a callback appends belongs to the next turn
        while True:
            batch = self._full[0] if self._full else self._open
            if batch.end == batch.start or batch.start >= until:
                break
            if batch.end - self._trimmed > self._capacity:
                starved = True
                self._waits += 1
                break
            try:
                if not self._write_now(batch):
                    self._writing = True
                    # From here on it must not grow: there was room for what it holds now.
                    if batch is self._open:
                        self._full.append(batch)
                        self._open = _Batch(batch.end)
                    self._supervisor.start(self._write(batch), name="journal.write")
                    break
            except NoSpace:
                self._wait_for_space()
                break
            except DeviceFailed as error:
                self._fail(error)
                return
            self._done(batch)
        had_waited, self._starved = self._starved or had_no_space, starved
        if had_waited and not self.is_full and self.on_room is not None:
            self.on_room()
        self._start_sync()

    def _pieces(self, batch: _Batch) -> list[tuple[int, list[Buffer]]]:
        """(device offset, buffers): one, or two when the batch runs over the end of the ring."""
        offset = batch.start % self._capacity
        room = self._capacity - offset
        if batch.end - batch.start <= room:
            return [(offset, batch.buffers)]
        whole = memoryview(b"".join(batch.buffers))
        return [(offset, [whole[:room]]), (0, [whole[room:]])]

    def _write_now(self, batch: _Batch) -> bool:
        # A piece that was written before another said "not now" is simply written again.
        return all(self._device.write_now(offset, part) for offset, part in self._pieces(batch))

    async def _write(self, batch: _Batch) -> None:
        try:
            for offset, part in self._pieces(batch):
                await self._device.write(offset, part)
        except NoSpace:
            self._writing = False
            self._wait_for_space()
            return
        except DeviceFailed as error:
            self._fail(error)
            return
        self._writing = False
        self._done(batch)
        if not self._scheduled:
            self._schedule()

    def _done(self, batch: _Batch) -> None:
        if self._full:
            self._full.popleft()
        else:
            self._open = _Batch(batch.end)
        self._no_space = False
        self._writes += 1
        self._written = batch.last
        self._written_end = batch.end
        self._used_peak = max(self._used_peak, batch.end - self._trimmed)
        if batch.tokens:
            self.on_journalled(batch.tokens)

    def _wait_for_space(self) -> None:
        self._no_space = True
        self._waits += 1
        self._clock.call_later(NO_SPACE_RETRY_S, self._retry)

    def _retry(self) -> None:
        if not self._scheduled:
            self._schedule()

    def _fail(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self.on_failure(error)

    # -- sync and trim

    def request_sync(
        self, callback: Callable[[], None] | None = None, *, up_to: int | None = None
    ) -> None:
        """Call back when everything that is appended now (or the entry `up_to` and all before it)
        survives a power cut. One sync runs at a time and serves all who asked before it began.
        Never called back after a failure."""
        self._waiters.append((self._last if up_to is None else up_to, callback or _nothing))
        if not self._scheduled:
            self._schedule()

    def _start_sync(self) -> None:
        if self._syncing or not self._waiters or self._failed:
            return
        self._call_back()
        if self._somebody_waits():
            self._syncing = True
            self._supervisor.start(self._sync(), name="journal.sync")

    def _somebody_waits(self) -> bool:
        return any(lsn <= self._written for lsn, _ in self._waiters)

    def _call_back(self) -> None:
        # Most wait for the newest entry of their time, but not all: a checkpoint must not wait for
        # entries that themselves wait for the room that the checkpoint will make.
        ready = [waiter for waiter in self._waiters if waiter[0] <= self._synced]
        if ready:
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > self._synced]
            for _, callback in ready:
                callback()

    async def _sync(self) -> None:
        while not self._failed and self._somebody_waits():
            covered = self._written
            try:
                await self._device.sync()
            except DeviceFailed as error:
                self._fail(error)
                return
            self._syncs += 1
            self._synced = max(self._synced, covered)
            self._call_back()
        self._syncing = False

    async def synced(self, up_to: int | None = None) -> None:
        """request_sync, awaited. Never returns after a failure: the node is stopping then."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.request_sync(lambda: None if future.done() else future.set_result(None), up_to=up_to)
        await future

    def trim(self, lsn: int) -> None:
        """Entries before `lsn` are not needed any more: a synced checkpoint says so."""
        assert lsn <= self._next
        if lsn > self._trimmed:
            self._trimmed = lsn
            assert self._lives is not None
            self._lives = self._lives.trimmed(lsn)
            if not self._scheduled:
                self._schedule()

    # -- reading back, before `start`

    async def recover(
        self, from_lsn: int, lives: Lives, *, check: bool = True
    ) -> AsyncIterator[tuple[list[JournalEntry], int]]:
        """(entries, lsn behind them), a window at a time, from `from_lsn` to the torn or old end.

        Payloads are views into the window. check=False: CRCs were checked by a pass before.
        """
        lsn = from_lsn
        limit = from_lsn + self._capacity
        window = min(WINDOW_BYTES, self._capacity)
        while lsn < limit:
            buffer = memoryview(bytearray(min(window, limit - lsn)))
            await self._read(lsn, buffer)
            entries, behind, end = scan(buffer, lsn, lives, check=check)
            if entries:
                yield entries, behind
            if end or (behind == lsn and len(buffer) >= min(ENTRY_BYTES_MAX, limit - lsn)):
                return
            if behind == lsn:
                window = ENTRY_BYTES_MAX  # one entry that is longer than a window
            lsn = behind

    async def _read(self, lsn: int, into: memoryview) -> None:
        offset = lsn % self._capacity
        first = min(len(into), self._capacity - offset)
        for at, part in ((offset, into[:first]), (0, into[first:])):
            if len(part) and not self._device.read_now(at, part):
                await self._device.read(at, part)

    async def whole_behind(self, end: int, life: int) -> int:
        """The lsn of an entry that is whole and lies behind `end`, where recovery has stopped; -1:
        there is none near. life: the last that wrote. Such an entry means that what is before it is
        damaged, or that a power cut took it, or that the ring was used further than `end` says."""
        size = min(BEHIND_BYTES, self._capacity)
        buffer = memoryview(bytearray(size))
        await self._read(end, buffer)
        for at in entry_places(buffer):
            lsn, writer = entry_name(buffer, at)
            if lsn < end + at or (lsn - end - at) % self._capacity:
                continue
            if lsn == end + at and writer != life:
                continue  # an earlier life left it, and recovery has passed over it since
            entries, _, _ = scan(buffer[at:], lsn, Lives([(0, writer)]))
            if entries:
                return lsn
        return -1

    async def read_raw(self, offset: int, into: memoryview) -> None:
        """Bytes of the device, whatever they are."""
        await self._read(offset, into)

    async def make_durable(self, from_lsn: int, to_lsn: int) -> None:
        """Make what a former life has written survive a power cut, before it is acted on (I31).

        It is written once more: where a sync has failed, systems call the pages clean that they
        could not write, and a sync alone would pass over them (P11).
        """
        buffer = memoryview(bytearray(min(WINDOW_BYTES, max(1, to_lsn - from_lsn))))
        for lsn in range(from_lsn, to_lsn, len(buffer)):
            part = buffer[: to_lsn - lsn]
            await self._read(lsn, part)
            offset = lsn % self._capacity
            first = min(len(part), self._capacity - offset)
            await self._device.write(offset, [part[:first]])
            if first < len(part):
                await self._device.write(0, [part[first:]])
        await self._device.sync()


def _nothing() -> None:
    pass
