"""shell: disks that exist in memory only, with seeded latency, and with what a crash leaves.

A `SimDisk` is the medium: what is durable, what the operating system holds unsynced, in the order
in which it was written, and its faults. It outlives the node. A `SimDevice` is one life's open
handle on it, and what the node is given as its `BlockDevice`.

What a crash leaves, by kind:

| | completed, unsynced writes | writes on their way |
|---|---|---|
| KILL | all stay, unsynced | each: none, all or some of its sectors, then unsynced |
| POWER_TORN | each: none, all or some of its sectors | as KILL, then as the others |
| POWER_LOST | none | none |

A sector of 512 bytes, counted from the beginning of the disk, is written whole or not at all.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from base.device import Buffer
from base.errors import DeviceFailed, InvalidRequest, NoSpace
from base.units import NS_PER_MS, NS_PER_US, SECTOR_BYTES, KiB, MiB
from sim.event_loop import SimEventLoop
from sim.random import SeedStreams, SimRandom

_PAGE: Final = 4 * KiB  # of the sparse images; nothing outside can see it
_UNSYNCED_MAX_BYTES: Final = 64 * MiB  # beyond it the oldest half is written back, as systems do


class CrashKind(enum.Enum):
    """What happened to the machine under a disk; the table is in the module's text."""

    KILL = "kill"
    POWER_TORN = "power_torn"
    POWER_LOST = "power_lost"


@dataclass(frozen=True, slots=True)
class DiskTiming:
    """How long operations take, before the disk's slow factor.

    Each takes its base, plus an exponential delay with that mean, plus the time of its bytes.
    now_percent: how often a `*_now` call is answered at once, as from the page cache.
    """

    read_ns: int = 80 * NS_PER_US
    write_ns: int = 20 * NS_PER_US
    sync_ns: int = 2 * NS_PER_MS
    jitter_ns: int = 50 * NS_PER_US
    mib_ns: int = 500 * NS_PER_US
    now_percent: int = 50


class SparseImage:
    """Bytes that are zero until written, in pages that exist only when they were."""

    __slots__ = ("pages",)

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def write(self, offset: int, data: Buffer) -> None:
        """Overwrite from `offset` on."""
        view = memoryview(data)
        while view:
            number, inside = divmod(offset, _PAGE)
            part = view[: _PAGE - inside]
            page = self.pages.get(number)
            if page is None:
                page = self.pages[number] = bytearray(_PAGE)
            page[inside : inside + len(part)] = part
            offset += len(part)
            view = view[len(part) :]

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into`."""
        position = 0
        while position < len(into):
            number, inside = divmod(offset + position, _PAGE)
            length = min(_PAGE - inside, len(into) - position)
            page = self.pages.get(number)
            into[position : position + length] = (
                bytes(length) if page is None else page[inside : inside + length]
            )
            position += length

    def copy(self) -> SparseImage:
        """An image of its own with the same contents."""
        made = SparseImage()
        made.pages = {number: bytearray(page) for number, page in self.pages.items()}
        return made

    def drop(self, offset: int, length: int) -> None:
        """Zeros over the range; whole pages cease to exist."""
        stop = offset + length
        while offset < stop:
            number, inside = divmod(offset, _PAGE)
            size = min(_PAGE - inside, stop - offset)
            if size == _PAGE:
                self.pages.pop(number, None)
            elif number in self.pages:
                self.pages[number][inside : inside + size] = bytes(size)
            offset += size


@dataclass(slots=True)
class _Write:
    offset: int
    data: bytes | None  # None: a discard of `length` bytes
    length: int

    def apply(self, image: SparseImage) -> None:
        if self.data is None:
            image.drop(self.offset, self.length)
        else:
            image.write(self.offset, self.data)

    def sectors(self) -> list[_Write]:
        """One write for each sector that it touches; a discard is one piece."""
        if self.data is None:
            return [self]
        parts: list[_Write] = []
        offset, stop = self.offset, self.offset + self.length
        while offset < stop:
            end = min(stop, (offset // SECTOR_BYTES + 1) * SECTOR_BYTES)
            piece = self.data[offset - self.offset : end - self.offset]
            parts.append(_Write(offset, piece, len(piece)))
            offset = end
        return parts


@dataclass(frozen=True, slots=True)
class _BadRange:
    start: int
    stop: int
    reads: bool
    writes: bool
    until_written: bool  # a latent sector error: a write of the whole range cures it (F16)

    def touches(self, offset: int, length: int) -> bool:
        return offset < self.stop and self.start < offset + length


class SimDisk:
    """One medium. Faults are set here, by name, and can all be switched off again."""

    def __init__(self, name: str, size_bytes: int, rng: SimRandom, timing: DiskTiming) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.timing = timing
        self.slow_factor = 1  # F23: multiplies every latency
        self.dead = False  # every operation fails until set to False
        self.space_bytes: int | None = None  # F22: bytes of pages that may exist; None: all
        self.syncs = 0  # completed
        self.writes = 0  # completed
        self._rng = rng
        self._durable = SparseImage()
        self._present = SparseImage()  # durable and unsynced together: what a read returns
        self._unsynced: list[_Write] = []
        self._unsynced_bytes = 0
        self._written_back = 0  # position in the order of all writes of the oldest unsynced one
        self._flying: dict[int, _Write] = {}  # by number, in the order of their beginning
        self._next = 0
        self._life = 0  # grows with each crash: handles of former lives are refused
        self._bad: list[_BadRange] = []
        self._sync_failures = 0
        self._lost_writes = 0
        self._misdirected: list[int] = []  # by how many bytes the next writes miss their place
        self._stale: SparseImage | None = None  # what reads return instead, `_stale_reads` times
        self._stale_reads = 0
        self.torn = 0  # crashes that met writes on their way
        # What faults have really done, for goals: writes that were lost or landed elsewhere, reads
        # that returned what was not there any more.
        self.lost = self.misplaced = self.stale = 0

    # -- faults ------------------------------------------------------------------------------

    def fail_range(
        self, offset: int, length: int, *, reads: bool = True, writes: bool = True
    ) -> None:
        """Operations that touch the range end in an error, and change nothing (F15)."""
        self._bad.append(_BadRange(offset, offset + length, reads, writes, False))

    def latent_error(self, offset: int, length: int) -> None:
        """Reads that touch the range fail until a write has covered all of it (F16)."""
        self._bad.append(_BadRange(offset, offset + length, True, False, True))

    def heal(self) -> None:
        """Switch off every fault. What was lost stays lost."""
        self._bad.clear()
        self._sync_failures = 0
        self.tell_the_truth()
        self.slow_factor = 1
        self.dead = False
        self.space_bytes = None

    def fail_sync_once(self) -> None:
        """The next sync fails, forgets what it should have made durable, and calls it clean: reads
        go on returning it, a later sync succeeds, a power cut shows the loss (F21)."""
        self._sync_failures += 1

    def lose_writes(self, count: int) -> None:
        """The next writes are answered and never stored: old contents stay (F20)."""
        self._lost_writes += count

    def misdirect_write(self, shift: int) -> None:
        """The next write lands `shift` bytes from its place, around the ends of the disk (F19)."""
        self._misdirected.append(shift)

    def stale_reads(self, count: int) -> None:
        """The next reads return what there is now, whatever is written meanwhile (F20)."""
        self._stale = self._present.copy()
        self._stale_reads = count

    def tell_the_truth(self) -> None:
        """Writes and reads to come are what they seem. What lies wrong already stays so, and so do
        ranges that fail."""
        self._lost_writes = self._stale_reads = 0
        self._misdirected.clear()
        self._stale = None

    def rot(self, offset: int, flip: int = 1) -> None:
        """Flip bits of one byte on the medium and in what is read (F17)."""
        for image in (self._durable, self._present):
            cell = bytearray(1)
            image.read(offset, memoryview(cell))
            cell[0] ^= flip
            image.write(offset, cell)

    def image(self) -> SparseImage:
        """A copy of what a read would return now, for `put_back`."""
        return self._present.copy()

    def put_back(self, image: SparseImage) -> None:
        """The disk holds what it held then, all of it durable (F30)."""
        self.wipe()
        self._durable, self._present = image.copy(), image.copy()

    def wipe(self) -> None:
        """A blank replacement (F29)."""
        self._life += 1
        self._flying.clear()
        self._durable, self._present = SparseImage(), SparseImage()
        self._forget_unsynced()

    def crash(self, kind: CrashKind) -> None:
        """End the present life; the table in the module's text says what is left."""
        self._life += 1
        flying, self._flying = list(self._flying.values()), {}
        self.torn += bool(flying)
        if kind is not CrashKind.POWER_LOST:
            for write in flying:
                for part in self._some(write):
                    self._store(part)
        if kind is CrashKind.KILL:
            return
        if kind is CrashKind.POWER_TORN:
            for write in self._unsynced:
                for part in self._some(write):
                    part.apply(self._durable)
        self._forget_unsynced()
        self._present = self._durable.copy()

    def _some(self, write: _Write) -> list[_Write]:
        """None, all, or a seeded choice of the sectors of a write."""
        fate = self._rng.below(3)
        if fate == 0:
            return []
        if fate == 1:
            return [write]
        return [part for part in write.sectors() if self._rng.chance(1, 2)]

    # -- what the handle calls ---------------------------------------------------------------

    def delay_ns(self, base_ns: int, length: int) -> int:
        """How long an operation takes now."""
        timing = self.timing
        jitter_ns = self._rng.exponential(timing.jitter_ns)
        return (base_ns + jitter_ns + length * timing.mib_ns // MiB) * self.slow_factor

    def answers_now(self) -> bool:
        """Whether a `*_now` call is answered at once this time."""
        return self.slow_factor == 1 and self._rng.chance(self.timing.now_percent, 100)

    def check(self, life: int, offset: int, length: int, *, write: bool) -> None:
        """Raise what an operation on that range must raise now."""
        if life != self._life:
            raise DeviceFailed(f"disk {self.name}: its node crashed, this handle is of before")
        if not 0 <= offset <= offset + length <= self.size_bytes:
            raise InvalidRequest(
                f"disk {self.name}: bytes {offset}+{length} lie outside its {self.size_bytes}"
            )
        if self.dead:
            raise DeviceFailed(f"disk {self.name}: dead")
        for bad in self._bad:
            if (bad.writes if write else bad.reads) and bad.touches(offset, length):
                what = "write" if write else "read"
                raise DeviceFailed(f"disk {self.name}: {what} error at bytes {offset}+{length}")
        if write and self.space_bytes is not None and length:
            pages = range(offset // _PAGE, (offset + length - 1) // _PAGE + 1)
            new = sum(number not in self._present.pages for number in pages)
            if (len(self._present.pages) + new) * _PAGE > self.space_bytes and new:
                raise NoSpace(f"disk {self.name}: all of its {self.space_bytes} bytes are in use")

    @property
    def life(self) -> int:
        """Number of crashes so far."""
        return self._life

    def load(self, offset: int, into: memoryview) -> None:
        """Read the present contents."""
        if self._stale is not None:
            self._stale.read(offset, into)
            now = bytearray(len(into))
            self._present.read(offset, memoryview(now))
            self.stale += into != now
            self._stale_reads -= 1
            if self._stale_reads <= 0:
                self._stale = None
            return
        self._present.read(offset, into)

    def begin_write(self, offset: int, data: bytes) -> int:
        """A write is on its way; a crash may leave parts of it. Returns its number."""
        self._next += 1
        self._flying[self._next] = _Write(offset, data, len(data))
        return self._next

    def end_write(self, number: int) -> None:
        """It has arrived."""
        write = self._flying.pop(number)
        self.writes += 1
        self._arrived(write)

    def forget_write(self, number: int) -> None:
        """It has failed, and left nothing."""
        self._flying.pop(number, None)

    def store_now(self, offset: int, data: bytes) -> None:
        """A write that takes no time."""
        self.writes += 1
        self._arrived(_Write(offset, data, len(data)))

    def _arrived(self, write: _Write) -> None:
        if self._lost_writes:
            self._lost_writes -= 1
            self.lost += 1
            return
        if self._misdirected:
            room = self.size_bytes - write.length
            shift = self._misdirected.pop(0)
            self.misplaced += 1
            write.offset = (write.offset + shift) % (room + 1)
        self._store(write)

    def _store(self, write: _Write) -> None:
        write.apply(self._present)
        self._unsynced.append(write)
        self._unsynced_bytes += len(write.data or b"")
        if self._bad and write.data is not None:
            offset, stop = write.offset, write.offset + write.length
            self._bad = [
                bad
                for bad in self._bad
                if not (bad.until_written and offset <= bad.start and bad.stop <= stop)
            ]
        if self._unsynced_bytes > _UNSYNCED_MAX_BYTES:
            self._write_back(len(self._unsynced) // 2 + 1)

    def begin_sync(self) -> int:
        """What the sync will cover: everything that has arrived, as a position in the order."""
        return self._written_back + len(self._unsynced)

    def end_sync(self, covered: int) -> None:
        """It has arrived: what it covers is durable. DeviceFailed when a failure was set."""
        count = max(0, covered - self._written_back)
        if self._sync_failures:
            self._sync_failures -= 1
            self._take(count)
            raise DeviceFailed(f"disk {self.name}: sync failed")
        self._write_back(count)
        self.syncs += 1

    def _take(self, count: int) -> list[_Write]:
        """The oldest unsynced writes; they are unsynced no longer."""
        taken = self._unsynced[:count]
        del self._unsynced[:count]
        self._written_back += len(taken)
        self._unsynced_bytes -= sum(len(write.data or b"") for write in taken)
        return taken

    def _write_back(self, count: int) -> None:
        for write in self._take(count):
            write.apply(self._durable)

    def _forget_unsynced(self) -> None:
        self._take(len(self._unsynced))

    def drop(self, offset: int, length: int) -> None:
        """Discard: reads as zeros from now on, durably so after the next sync."""
        self._store(_Write(offset, None, length))

    def durable_bytes(self, offset: int, length: int) -> bytes:
        """What a cut of power that loses everything unsynced would leave; for checkers (I9)."""
        into = bytearray(length)
        self._durable.read(offset, memoryview(into))
        return bytes(into)

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of completed writes that no sync has covered; discards count as none."""
        return self._unsynced_bytes

    def written_pages(self) -> list[int]:
        """Where something was written, ascending: offsets of pages of 4 KiB. For faults that are to
        hit data."""
        return [page * _PAGE for page in sorted(self._present.pages)]

    @property
    def pages_bytes(self) -> int:
        """Memory that the contents take, for capacity and for tests."""
        return len(self._present.pages) * _PAGE


class SimDevice:
    """A `BlockDevice` on a `SimDisk`, for one life of a node. Not usable after a crash or close."""

    def __init__(self, loop: SimEventLoop, disk: SimDisk) -> None:
        self._loop = loop
        self._disk = disk
        self._life = disk.life
        self._closed = False

    @property
    def size_bytes(self) -> int:
        """Nominal size."""
        return self._disk.size_bytes

    @property
    def name(self) -> str:
        """For messages to people."""
        return self._disk.name

    @property
    def disk(self) -> SimDisk:
        """The medium, for tests and faults."""
        return self._disk

    def _check(self, offset: int, length: int, *, write: bool) -> None:
        if self._closed:
            raise DeviceFailed(f"disk {self.name}: closed")
        self._disk.check(self._life, offset, length, write=write)

    def read_now(self, offset: int, into: memoryview) -> bool:
        """At once by a seeded choice, else False."""
        self._check(offset, len(into), write=False)
        if not self._disk.answers_now():
            return False
        self._disk.load(offset, into)
        return True

    def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:
        """At once by a seeded choice, else False."""
        data = b"".join(buffers)
        self._check(offset, len(data), write=True)
        if not self._disk.answers_now():
            return False
        self._disk.store_now(offset, data)
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        """Filled when the time is over, with the contents of then."""
        self._check(offset, len(into), write=False)
        await self._wait(self._disk.timing.read_ns, len(into))
        self._check(offset, len(into), write=False)
        self._disk.load(offset, into)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Arrives when the time is over, also when the caller was cancelled meanwhile."""
        data = b"".join(buffers)
        self._check(offset, len(data), write=True)
        number = self._disk.begin_write(offset, data)
        future: asyncio.Future[None] = self._loop.create_future()
        due_ns = self._loop.now_ns + self._disk.delay_ns(self._disk.timing.write_ns, len(data))
        self._at(due_ns, self._write_arrived, number, offset, len(data), future)
        await future

    def _write_arrived(
        self, number: int, offset: int, length: int, future: asyncio.Future[None]
    ) -> None:
        if self._life != self._disk.life:
            return  # the crash has decided what is left of it, and nobody waits any more
        try:
            self._disk.check(self._life, offset, length, write=True)
        except (DeviceFailed, NoSpace) as error:
            self._disk.forget_write(number)
            _answer(future, error)
        else:
            self._disk.end_write(number)
            _answer(future, None)

    async def sync(self) -> None:
        """What had arrived when it was called is durable when it returns."""
        self._check(0, 0, write=True)
        covered = self._disk.begin_sync()
        future: asyncio.Future[None] = self._loop.create_future()
        due_ns = self._loop.now_ns + self._disk.delay_ns(self._disk.timing.sync_ns, 0)
        self._at(due_ns, self._sync_arrived, covered, future)
        await future

    def _sync_arrived(self, covered: int, future: asyncio.Future[None]) -> None:
        if self._life != self._disk.life:
            return
        try:
            self._disk.check(self._life, 0, 0, write=True)
            self._disk.end_sync(covered)
        except DeviceFailed as error:
            _answer(future, error)
        else:
            _answer(future, None)

    async def _wait(self, base_ns: int, length: int) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        due_ns = self._loop.now_ns + self._disk.delay_ns(base_ns, length)
        self._at(due_ns, _answer, future, None)
        await future

    def _at(self, due_ns: int, callback: object, *args: object) -> None:
        # Outside of any group: a disk goes on when the process that asked it is stopped.
        self._loop.call_at_ns(due_ns, callback, *args, context=self._loop.outside)  # type: ignore[arg-type]

    def discard(self, offset: int, length: int) -> None:
        """The range reads as zeros from now on."""
        self._check(offset, length, write=True)
        self._disk.drop(offset, length)

    def close(self) -> None:
        """Nothing but `close` may be called afterwards."""
        self._closed = True


def _answer(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class SimDisks:
    """The disks of one node. They stay when the node goes."""

    def __init__(
        self, loop: SimEventLoop, streams: SeedStreams, timing: DiskTiming | None = None
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._timing = timing or DiskTiming()
        self._disks: dict[str, SimDisk] = {}

    def add(self, name: str, size_bytes: int) -> SimDisk:
        """A blank disk. Each draws from a stream of its own name."""
        if name in self._disks:
            raise ValueError(f"there is a disk {name} already")
        rng = self._streams.stream(f"disk/{name}")
        self._disks[name] = SimDisk(name, size_bytes, rng, self._timing)
        return self._disks[name]

    def __getitem__(self, name: str) -> SimDisk:
        return self._disks[name]

    def __contains__(self, name: str) -> bool:
        return name in self._disks

    def names(self) -> list[str]:
        """In the order in which they were added."""
        return list(self._disks)

    def open(self, name: str) -> SimDevice:
        """A handle for the present life of the node."""
        return SimDevice(self._loop, self._disks[name])

    def crash(self, kind: CrashKind) -> None:
        """All of them at once; every open handle is of a former life afterwards."""
        for disk in self._disks.values():
            disk.crash(kind)
