"""A small stand-in for the replication core over a real RegionStore on simulated disks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from base.tasks import Supervisor
from base.units import KiB
from node.checkpoint import RegionState
from node.destage import DestagePace
from node.disk_shelf import DiskShelf
from node.journal import Journal
from node.recovery import RecoveredRegion
from node.region_pages import RegionPlace
from node.region_store import RegionStore, StoreOptions
from sim.clock import SimClock
from sim.device import CrashKind, DiskTiming, SimDisks
from sim.event_loop import SimEventLoop
from sim.random import SeedStreams
from transport.operation import NO_HOLE, TRIM, WRITE, ZERO, Record, data_crc, pack_record
from volume.logical_disk import LogicalDisk, Space
from volume.physical_disk import build_inventory

PAGE = 4 * KiB
PAGES = 8
REGION = PAGE * PAGES
CHUNKLET = 64 * KiB
Key = tuple[int, int]


def build_ld(raid: int, disks: int = 4) -> LogicalDisk:
    """One LD over all disks: RAID 0 of single chunklets or RAID 1 of neighbours."""
    members = [[[d, 0]] for d in range(disks)]
    if raid == 1:
        members = [[[d, 0], [d + 1, 0]] for d in range(0, disks, 2)]
    return LogicalDisk(
        ld=0, node=0, group="g", space=Space.USER, raid=raid, row_size=len(members),
        step_bytes=8 * KiB, chunklet_bytes=CHUNKLET, region_bytes=REGION,
        chunklets=np.array(members, dtype=np.int32),
    )  # fmt: skip


@dataclass
class Model:
    """What one region must hold: records in order, and how many of them are committed."""

    records: list[Record] = field(default_factory=list)
    committed: int = 0
    journalled: int = 0
    epoch: int = 1
    dirty: bool = False

    def names(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((r.epoch, r.seq, r.number) for r in self.records)


def image_of(records: list[Record]) -> tuple[bytearray, list[bool]]:
    """Bytes and allocation of a region after those records, by brute force."""
    image, allocated = bytearray(REGION), [False] * PAGES
    for r in records:
        end = r.offset + r.length
        for page in range(PAGES):
            low, high = max(r.offset, page * PAGE), min(end, (page + 1) * PAGE)
            if low >= high:
                continue
            whole = high - low == PAGE
            if r.kind == WRITE:
                image[low:high] = r.data[low - r.offset : high - r.offset]
                allocated[page] = True
            else:
                image[low:high] = bytes(high - low)
                keep = r.kind == ZERO and r.flags & NO_HOLE
                if keep:
                    allocated[page] = True
                elif whole:
                    allocated[page] = False
    return image, allocated


class World:
    """One node's devices, its lives, and what they promised."""

    disk_bytes = CHUNKLET

    def __init__(
        self, seed: int, *, raid: int = 0, regions: int = 3, now_percent: int = 50,
        journal_bytes: int = 48 * KiB,
    ) -> None:  # fmt: skip
        self.rng = random.Random(seed)
        self.loop = SimEventLoop()
        self.disks = SimDisks(self.loop, SeedStreams(seed), DiskTiming(now_percent=now_percent))
        self.inventory = build_inventory(
            sleds_per_cage=1, disk_bytes=self.disk_bytes, chunklet_bytes=CHUNKLET, spare_chunklets=0
        )
        for number in range(4):
            disk = self.disks.add(f"d{number}", self.disk_bytes)
            disk.store_now(
                0, b"\xdd" * self.disk_bytes
            )  # an earlier user's bytes: nobody may see them
            disk.end_sync(disk.begin_sync())
        self.disks.add("journal", journal_bytes)
        self.disks.add("checkpoint", 64 * KiB)
        self.ld = build_ld(raid)
        self.keys: list[Key] = [(1, number) for number in range(regions)]
        self.models: dict[Key, Model] = {}
        self.histories: dict[Key, list[tuple[tuple[int, int, int], ...]]] = {
            key: [()] for key in self.keys
        }
        self.promised_kill: dict[Key, int] = dict.fromkeys(self.keys, 0)
        self.promised_cut: dict[Key, int] = dict.fromkeys(self.keys, 0)
        self.data: dict[tuple[Key, int, int, int], Record] = {}
        self.number = 0
        self.more: dict[str, Any] = {}  # arguments of the store
        self.adopted = True
        self.promised: dict[Key, int] = {}
        self.failures: list[BaseException] = []

    def place(self, key: Key) -> RegionPlace | None:
        return RegionPlace(REGION, PAGE, self.ld, key[1] * REGION) if key in self.keys else None

    def build(self, **options: Any) -> RegionStore:
        """Open the devices in a new life; to be called by code of the life's group."""
        clock = SimClock(self.loop)
        self.supervisor = Supervisor("node", self._task_failed)
        shelf = DiskShelf(self.inventory, [self.disks.open(f"d{n}") for n in range(4)])
        journal = Journal(
            self.disks.open("journal"), clock=clock, supervisor=self.supervisor,
            on_journalled=self._journalled, on_failure=self.failures.append,
        )  # fmt: skip
        pace = DestagePace(
            turn_pages=2, pause_ms=1, after_ms=self.rng.choice((3, 5, 50)), sync_ms=2, idle_ms=3,
            retry_ms=5,
        )  # fmt: skip
        sizes: dict[str, Any] = {
            "dirty_bytes_max": 16 * PAGE,
            "checkpoint_ms": self.rng.choice((2, 20)),
        }
        sizes |= {"pace": pace, **options}
        self.store = RegionStore(
            journal=journal, shelf=shelf, checkpoint_device=self.disks.open("checkpoint"),
            clock=clock, supervisor=self.supervisor, region_state=self.state_of,
            on_failure=self.failures.append,
            options=StoreOptions(**sizes), **self.more,
        )  # fmt: skip
        return self.store

    def _task_failed(self, name: str, error: BaseException) -> None:
        self.failures.append(error)

    def state_of(self, key: Key) -> RegionState:
        model = self.models[key]
        done = model.records[: model.committed]
        return RegionState(
            model.epoch, model.committed, done[-1].epoch if done else 0,
            tuple((r.client, r.number) for r in done),
        )  # fmt: skip

    # -- the stand-in for the core

    async def recover(self) -> dict[Key, RecoveredRegion]:
        found = await self.store.recover(self.place)
        for key in self.keys:
            self.models.setdefault(key, Model())
            self.store.open_region(key, self.place(key))  # type: ignore[arg-type]
        return found

    def submit(self, key: Key, kind: int, offset: int, length: int, flags: int = 0) -> Record:
        """Number a record and journal it."""
        model = self.models[key]
        self.number += 1
        data = self.rng.randbytes(length) if kind == WRITE else b""
        previous = model.records[-1].epoch if model.records else 0
        record = Record(
            key[0], key[1], kind, flags, offset, length, 9, self.number, 0, data,
            epoch=model.epoch, prev_epoch=previous, seq=len(model.records) + 1,
            data_crc=data_crc(data), cow_into=self.tag_of(key),
        )  # fmt: skip
        model.records.append(record)
        self.data[key, record.epoch, record.seq, record.number] = record
        history = self.histories[key]
        history.append(model.names())
        token = (key, record, len(history) - 1)
        self.store.append(record, pack_record(record, model.epoch, model.committed), token)
        return record

    def tag_of(self, key: Key) -> int:
        """The snapshot that a record numbered now owes what it takes."""
        return 0

    def write(self, key: Key, offset: int, length: int) -> Record:
        return self.submit(key, WRITE, offset, length)

    def _journalled(self, tokens: list[Any]) -> None:
        for key, record, event in tokens:
            self.promised_kill[key] = max(self.promised_kill[key], event)
            if not record.dead:
                self.models[key].journalled = record.seq

    def commit(self, key: Key, seq: int | None = None) -> None:
        """Commit and apply what is journalled, up to seq."""
        model = self.models[key]
        upto = model.journalled if seq is None else min(seq, model.journalled)
        while model.committed < upto:
            record = model.records[model.committed]
            model.committed += 1
            self.store.apply(record)

    def truncate(self, key: Key, from_seq: int) -> None:
        """A new epoch begins in which records from there on were never numbered."""
        model = self.models[key]
        if not model.committed < from_seq <= len(model.records):
            return
        for record in model.records[from_seq - 1 :]:
            record.dead = True
        del model.records[from_seq - 1 :]
        model.journalled = min(model.journalled, from_seq - 1)
        model.epoch += 1
        self.histories[key].append(model.names())
        self.store.truncate(key, from_seq)

    def sync(self) -> None:
        events = {key: len(history) - 1 for key, history in self.histories.items()}

        def synced() -> None:
            for key, event in events.items():
                self.promised_cut[key] = max(self.promised_cut[key], event)

        self.store.journal.request_sync(synced)

    def random_operation(self) -> None:
        rng = self.rng
        key = rng.choice(self.keys)
        choice = rng.randrange(20)
        if choice < 12:
            sectors = rng.choice((1, 2, 8, 8, 16, 20))
            first = rng.randrange(REGION // 512 - sectors + 1)
            if rng.random() < 0.5:
                first = first // 8 * 8
            kind = rng.choice((WRITE, WRITE, WRITE, TRIM, ZERO))
            flags = NO_HOLE if kind == ZERO and rng.random() < 0.5 else 0
            if self.store.has_room:
                self.submit(key, kind, first * 512, sectors * 512, flags)
        elif choice < 17:
            self.commit(key, self.models[key].committed + rng.randrange(1, 5))
        elif choice == 17:
            self.sync()
        elif choice == 18:
            model = self.models[key]
            if rng.random() < 0.3:
                self.truncate(key, model.committed + rng.randrange(1, 4))
            else:
                state = self.state_of(key)
                self.store.note_commit_points(
                    ((*key, state.epoch, state.committed, state.committed_epoch),)
                )
        else:
            self.models[key].epoch += 1

    # -- what must hold

    async def check_bytes(self, key: Key, records: list[Record]) -> None:
        image, allocated = image_of(records)
        into = memoryview(bytearray(b"\xee" * REGION))
        if not self.store.read_now(key, 0, REGION, into):
            await self.store.read(key, 0, REGION, into)
        if into != image:
            wrong = [
                at for at in range(0, REGION, 512) if into[at : at + 512] != image[at : at + 512]
            ]
            raise AssertionError(f"{key}: sectors at {wrong} differ")
        bits = np.unpackbits(
            np.frombuffer(self.store.page_bitmap(key), dtype=np.uint8), bitorder="little"
        )
        assert [bool(bit) for bit in bits[:PAGES]] == allocated, key

    async def check_all(self) -> None:
        """What can be read now is what was committed."""
        for key in self.keys:
            model = self.models[key]
            committed = model.records[: model.committed]
            await self.check_bytes(key, committed)

    async def adopt(self, found: dict[Key, RecoveredRegion], promised: dict[Key, int]) -> None:
        """Check what recovery says against the promises, and go on from it."""
        for key in self.keys:
            recovered = found.get(key, RecoveredRegion())
            assert recovered.complete, key
            old = self.models[key]
            tail = [record for record, _ in recovered.tail]
            # Clients first: the numbers of all that is committed, in order.
            numbers = [number for _, number in recovered.clients]
            numbers += [number for _, number, _ in recovered.replayed]
            assert len(numbers) == recovered.committed, key
            assert recovered.committed <= old.committed, key
            candidates = self.histories[key][promised[key] :]
            by_number = {number: name for names in candidates for *name, number in names}
            names = tuple((*by_number[number], number) for number in numbers) + tuple(
                (r.epoch, r.seq, r.number) for r in tail
            )
            assert names in candidates, (key, promised[key], names, candidates[:1])
            records = [self.data[(key, *name)] for name in names]
            for record, read in zip(records[recovered.committed :], tail, strict=True):
                assert bytes(read.data) == bytes(record.data)
            await self.check_bytes(key, records[: recovered.committed])
            event = max(at for at, each in enumerate(self.histories[key]) if each == names)
            del self.histories[key][event + 1 :]
            self.promised_kill[key] = self.promised_cut[key] = event
            for record in records:
                record.dead = False
            assert recovered.epoch <= old.epoch
            self.models[key] = Model(records, recovered.committed, len(records), old.epoch + 1)
            if recovered.committed:
                assert recovered.committed_epoch == records[recovered.committed - 1].epoch
        self.adopted = True

    def crash(self, kind: CrashKind) -> dict[Key, int]:
        """End the life. What it had promised for that kind of crash."""
        self.disks.crash(kind)
        promised = self.promised_kill if kind is CrashKind.KILL else self.promised_cut
        # When this life had not yet taken over from the one before, that one's promise counts too.
        self.promised = {
            key: promised[key] if self.adopted else min(promised[key], self.promised[key])
            for key in self.keys
        }
        self.adopted = False
        return self.promised
