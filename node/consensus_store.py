"""shell: persistence of consensus: term, vote, log, catalog snapshot, and the lives of the node.

One device in two halves. A half is a header and records one behind the other; each record carries
a CRC32C and the generation of its half, so that bytes of an older use are never taken for new ones.
Everything is appended to the current half and synced before the core hears of it (section 4). When
a snapshot makes most of the half useless, or it is full, the whole state is written to the other
half, synced, and only then is that half's header written, which makes it the current one.

    header: magic u32 · crc u32 · generation u64
    record: length u32 · crc u32 (over generation and payload) · generation u64 · msgpack payload
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import google_crc32c
import msgpack

from base.device import BlockDevice
from base.errors import DeviceFailed, NoSpace, StorageError
from base.ids import NodeId
from base.tasks import Supervisor
from base.units import KiB, MiB
from cluster.raft_types import Entry, HardState, Members, Persist, Snapshot

_HEADER = struct.Struct("<IIQ")
_RECORD = struct.Struct("<IIQ")
_MAGIC: Final = 0x43E51A70
_GENERATION = struct.Struct("<Q")
READ_BYTES: Final = 256 * KiB
BEHIND_BYTES: Final = 4 * MiB  # of the device, looked through for records behind the end
QUEUED_MAX: Final = 4096

HARD, SNAPSHOT, TRUNCATE, ENTRIES, LIFE = range(1, 6)


@dataclass(frozen=True, slots=True)
class Life:
    """The last life of this node. clean: it was stopped in order, with everything on its disks.
    intact, blank: what it had to tell the catalog and has not, as far as is known; known: while it
    is not intact, the last index of the log when the loss was found; see `node.own_life`."""

    incarnation: int = 0
    boot_id: str = ""
    clean: bool = True
    intact: bool = True
    blank: bool = False
    known: int = 0


@dataclass(slots=True)
class ConsensusState:
    """What the store holds. `entries` follow the snapshot."""

    hard: HardState = field(default_factory=HardState)
    snapshot: Snapshot | None = None
    entries: list[Entry] = field(default_factory=list)
    life: Life = field(default_factory=Life)

    @property
    def last_index(self) -> int:
        """Of the log. Nothing of the catalog was acted on beyond it."""
        return (self.snapshot.index if self.snapshot is not None else 0) + len(self.entries)

    def take(self, request: Persist) -> None:
        """Carry out one request, in the order that `Persist` states."""
        if request.hard_state is not None:
            self.hard = request.hard_state
        if request.snapshot is not None:
            self._take_snapshot(request.snapshot)
        base = self.snapshot.index if self.snapshot is not None else 0
        if request.truncate_from is not None:
            del self.entries[max(0, request.truncate_from - base - 1) :]
        if request.entries:
            assert request.first_index == base + len(self.entries) + 1, request.first_index
            self.entries.extend(request.entries)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        base = self.snapshot.index if self.snapshot is not None else 0
        self.entries = self.entries[max(0, snapshot.index - base) :]
        self.snapshot = snapshot


def _pack_snapshot(snapshot: Snapshot) -> list[Any]:
    members = snapshot.members
    return [
        SNAPSHOT, snapshot.index, snapshot.term, list(members.voters), list(members.learners),
        snapshot.data,
    ]  # fmt: skip


def _pack_hard(hard: HardState) -> list[Any]:
    return [HARD, hard.term, int(hard.voted_for), hard.blank]


def _pack_life(life: Life) -> list[Any]:
    return [
        LIFE, life.incarnation, life.boot_id, life.clean, life.intact, life.blank,
        life.known,
    ]  # fmt: skip


def _records_of(request: Persist) -> list[list[Any]]:
    records: list[list[Any]] = []
    if request.hard_state is not None:
        records.append(_pack_hard(request.hard_state))
    if request.truncate_from is not None:
        records.append([TRUNCATE, request.truncate_from])
    if request.entries:
        records.append([ENTRIES, request.first_index, [list(e) for e in request.entries]])
    return records


class ConsensusStore:
    """One node's consensus state on one device. A failed write or sync calls `on_failure` once and
    answers nothing any more (P11)."""

    def __init__(
        self,
        device: BlockDevice,
        *,
        supervisor: Supervisor,
        on_persisted: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._device = device
        self._supervisor = supervisor
        self._on_persisted = on_persisted
        self._on_failure = on_failure
        self._half_bytes = device.size_bytes // 2
        self._half = 0
        self._generation = 0
        self._at = 0
        self._queue: deque[Persist] = deque()
        self._running = False
        self._writing = asyncio.Lock()  # a life and the queue would else write at one place
        self._failed = False
        self.state = ConsensusState()

    async def load(self) -> bool:
        """Read the newest complete half. False: the device holds nothing of ours."""
        best: tuple[int, int] | None = None
        for half in (0, 1):
            head = bytearray(_HEADER.size)
            await self._device.read(half * self._half_bytes, memoryview(head))
            magic, crc, generation = _HEADER.unpack(head)
            right = crc == google_crc32c.value(_GENERATION.pack(generation))
            if magic == _MAGIC and right and (best is None or generation > best[0]):
                best = (generation, half)
        if best is None:
            return False
        self._generation, self._half = best
        self._at = _HEADER.size
        while (payload := await self._read_record()) is not None:
            self._replay(msgpack.unpackb(payload))
        return True

    async def _read_record(self) -> bytes | None:
        head = bytearray(_RECORD.size)
        if self._at + _RECORD.size > self._half_bytes:
            return None
        start = self._half * self._half_bytes + self._at
        await self._device.read(start, memoryview(head))
        length, crc, generation = _RECORD.unpack(head)
        if generation != self._generation or self._at + _RECORD.size + length > self._half_bytes:
            return None
        payload = bytearray(length)
        view = memoryview(payload)
        for at in range(0, length, READ_BYTES):
            await self._device.read(start + _RECORD.size + at, view[at : at + READ_BYTES])
        found = bytes(payload)
        if crc != google_crc32c.value(_GENERATION.pack(generation) + found):
            return None
        self._at += _RECORD.size + length
        return found

    async def damage(self) -> str:
        """After `load`: what of the device was written whole once and is not any more, in words;
        "" when nothing is. A torn end is no damage: nobody was told of what stood there."""
        for half in (0, 1):
            head = bytearray(_HEADER.size)
            await self._device.read(half * self._half_bytes, memoryview(head))
            magic, crc, generation = _HEADER.unpack(head)
            right = magic == _MAGIC and crc == google_crc32c.value(_GENERATION.pack(generation))
            if any(head) and not right:  # it lies in one sector, so it cannot be torn
                return f"the header of half {half} is damaged"
        if not self._at:
            return ""  # nothing was loaded
        behind = memoryview(bytearray(min(BEHIND_BYTES, self._half_bytes - self._at)))
        await self._device.read(self._half * self._half_bytes + self._at, behind)
        found = bytes(behind)
        mark, at = _GENERATION.pack(self._generation), 0
        while (at := found.find(mark, at + 1)) >= 0:
            start = at - _RECORD.size + _GENERATION.size
            if start < 0:
                continue
            length, crc, _ = _RECORD.unpack_from(found, start)
            payload = found[start + _RECORD.size : start + _RECORD.size + length]
            if length == len(payload) and crc == google_crc32c.value(mark + payload):
                return f"{start} bytes are damaged, whole records follow them"
        return ""

    def _replay(self, record: list[Any]) -> None:
        kind, state = record[0], self.state
        if kind == HARD:
            state.hard = HardState(record[1], NodeId(record[2]), record[3])
        elif kind == LIFE:
            state.life = Life(*record[1:])
        elif kind == SNAPSHOT:
            members = Members(
                tuple(NodeId(node) for node in record[3]), tuple(NodeId(n) for n in record[4])
            )
            state.snapshot = Snapshot(record[1], record[2], members, record[5])
            state.entries = []
        elif kind == TRUNCATE:
            state.take(Persist(0, None, record[1], 0, (), None))
        elif kind == ENTRIES:
            entries = tuple((term, kind, data) for term, kind, data in record[2])
            state.take(Persist(0, None, None, record[1], entries, None))
        else:
            raise DeviceFailed(f"{self._device.name}: record of unknown kind {kind}")

    async def format(
        self, snapshot: Snapshot, hard: HardState | None = None, life: Life | None = None
    ) -> None:
        """Begin a new store. `snapshot`: index 0 and the first members. hard, life: what a store
        that takes the place of a lost one knows from its first moment on, whatever follows."""
        self.state = ConsensusState(hard or HardState(), snapshot, life=life or Life())
        await self._write_half()

    async def set_life(self, life: Life) -> None:
        """Note and sync the present life, before anything is said in its name (P6, P7)."""
        async with self._writing:
            self.state.life = life
            await self._append([_pack_life(life)])

    def persist(self, request: Persist) -> None:
        """Queue a request; `on_persisted(number)` follows once it is synced."""
        if self._failed:
            return
        assert len(self._queue) < QUEUED_MAX, "consensus outruns its device"
        self._queue.append(request)
        if not self._running:
            self._running = True
            self._supervisor.start(self._write_queue(), name="consensus_store")

    async def _write_queue(self) -> None:
        try:
            while self._queue:
                async with self._writing:
                    requests = list(self._queue)
                    self._queue.clear()
                    await self._write(requests)
                self._on_persisted(requests[-1].number)
        except (StorageError, OSError) as error:
            self._failed = True
            self._on_failure(error)
        finally:
            self._running = False

    async def _write(self, requests: list[Persist]) -> None:
        records: list[list[Any]] = []
        whole = False
        for request in requests:
            self.state.take(request)
            whole = whole or request.snapshot is not None
            records += _records_of(request)
        if whole:
            await self._write_half()
        elif records:
            await self._append(records)

    def _pack(self, record: list[Any], generation: int) -> bytes:
        payload: bytes = msgpack.packb(record)
        crc = google_crc32c.value(_GENERATION.pack(generation) + payload)
        return _RECORD.pack(len(payload), crc, generation) + payload

    async def _append(self, records: list[list[Any]]) -> None:
        data = b"".join(self._pack(record, self._generation) for record in records)
        if self._at + len(data) > self._half_bytes:
            await self._write_half()
            return
        await self._device.write(self._half * self._half_bytes + self._at, [data])
        await self._device.sync()
        self._at += len(data)

    async def _write_half(self) -> None:
        """Write the whole state to the other half and make it the current one."""
        half, generation = 1 - self._half, self._generation + 1
        state = self.state
        assert state.snapshot is not None
        records = [_pack_life(state.life), _pack_hard(state.hard), _pack_snapshot(state.snapshot)]
        if state.entries:
            first = state.snapshot.index + 1
            records.append([ENTRIES, first, [list(entry) for entry in state.entries]])
        data = b"".join(self._pack(record, generation) for record in records)
        if _HEADER.size + len(data) > self._half_bytes:
            raise NoSpace(f"{self._device.name}: the catalog does not fit into half of it")
        base = half * self._half_bytes
        await self._device.write(base + _HEADER.size, [data])
        await self._device.sync()
        crc = google_crc32c.value(_GENERATION.pack(generation))
        await self._device.write(base, [_HEADER.pack(_MAGIC, crc, generation)])
        await self._device.sync()
        self._half, self._generation = half, generation
        self._at = _HEADER.size + len(data)
