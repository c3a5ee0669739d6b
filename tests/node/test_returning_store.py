"""A store that comes back is filled by the pages that changed: over cuts, crashes and other lines
it ends in the bytes of the owner, and is never sent more than what may differ."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.checkpoint import RegionState, unpack_region
from node.journal_format import TransferBeginNote
from node.page_seqs import bits_of, bools_of
from node.recovery import RecoveredRegion
from sim.device import CrashKind
from tests.node.store_world import PAGE, PAGES, REGION, Model, World, image_of
from transport.operation import NO_HOLE, TRIM, WRITE, ZERO, Record, data_crc, pack_record

KEY = (1, 0)


class Line:
    """The committed records of an owner: what a copy must hold, by brute force."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.records: list[Record] = []
        self.epoch = 1
        self.number = 0

    def grow(self, count: int) -> list[Record]:
        made = []
        for _ in range(count):
            rng = self.rng
            sectors = rng.choice((1, 2, 8, 8, 16, 20))
            first = rng.randrange(REGION // 512 - sectors + 1)
            if rng.random() < 0.5:
                first = first // 8 * 8
            kind = rng.choice((WRITE, WRITE, WRITE, TRIM, ZERO))
            flags = NO_HOLE if kind == ZERO and rng.random() < 0.5 else 0
            data = rng.randbytes(sectors * 512) if kind == WRITE else b""
            self.number += 1
            previous = self.records[-1].epoch if self.records else 0
            record = Record(
                *KEY, kind, flags, first * 512, sectors * 512, 9, self.number, 0, data,
                epoch=self.epoch, prev_epoch=previous, seq=len(self.records) + 1,
                data_crc=data_crc(data),
            )  # fmt: skip
            self.records.append(record)
            made.append(record)
        return made

    def fork(self, at: int) -> None:
        """An operator opened a copy that had no more than so many records."""
        del self.records[at:]
        self.epoch += 1

    def has(self, seq: int, epoch: int) -> bool:
        return seq <= len(self.records) and (not seq or self.records[seq - 1].epoch == epoch)

    def image(self) -> tuple[bytearray, np.ndarray[Any, Any]]:
        image, allocated = image_of(self.records)
        return image, np.array(allocated)

    def page_seqs(self) -> list[int]:
        return page_seqs_of(self.records)


def page_seqs_of(records: list[Record]) -> list[int]:
    seqs = [0] * PAGES
    for record in records:
        for page in range(record.offset // PAGE, -(-(record.offset + record.length) // PAGE)):
            seqs[page] = record.seq
    return seqs


class Joiner(World):
    """A store that takes records of a line, and pages of sessions."""

    def __init__(self, seed: int, now_percent: int) -> None:
        super().__init__(seed, now_percent=now_percent, regions=1)
        self.line = Line(random.Random(seed + 1))
        self.prepared = self.journalled = self.committed = 0
        self.epoch_of_last = 0
        self.complete = True
        self.since = (0, 0)
        self.session = 0
        self.history: list[Record] = []  # what this copy holds, perhaps of an older line
        self.before: list[Record] = []  # and if a power cut took the beginning of the last session
        self.models[KEY] = Model()

    def _journalled(self, tokens: list[Any]) -> None:
        for record in tokens:
            if not record.dead:
                self.journalled = record.seq

    def state_of(self, key: tuple[int, int]) -> RegionState:
        return RegionState(1, self.committed, self.epoch_of_last, ())

    # -- the stream

    def take(self, records: list[Record]) -> None:
        for record in records:
            self.store.append(record, pack_record(record, record.epoch, self.committed), record)
            self.prepared = record.seq
        self.history = list(self.line.records)

    def commit(self, key: tuple[int, int] = KEY, seq: int | None = None) -> None:
        upto = self.journalled if seq is None else min(seq, self.journalled)
        while self.committed < upto:
            record = self.line.records[self.committed]
            self.store.apply(record)
            self.committed, self.epoch_of_last = record.seq, record.epoch

    def drop_tail(self, last: int) -> None:
        if self.prepared > last:
            for record in self.line.records[last:]:
                record.dead = True
            self.prepared, self.journalled = last, min(last, self.journalled)
            self.store.truncate(KEY, last + 1)

    async def pause(self, ms: float) -> None:
        await self.store.clock.sleep(ms / 1000)

    # -- one session

    def position(self) -> tuple[int, int]:
        here = (self.committed, self.epoch_of_last) if self.complete else self.since
        return here if self.line.has(*here) else (0, 0)

    async def fill(self) -> int:
        """By delta from where this copy stands, else in full. Pages that were sent."""
        line, rng = self.line, self.rng
        since = self.position()
        image, allocated = line.image()
        wanted = allocated.copy()
        suspect = b""
        if since[0]:
            wanted &= np.array(line.page_seqs()) > since[0]
            if not self.complete:
                wanted |= allocated & bools_of(self.store.suspects(KEY), PAGES)
            suspect = self.store.suspects_of(KEY, bits_of(allocated), bits_of(wanted))
        self.session += 1
        self.before, self.history = self.history, list(line.records)
        base = line.records[-1]
        note = TransferBeginNote(
            *KEY, base.epoch, self.session, base.epoch, base.seq, bits_of(allocated), (), since,
            suspect,
        )  # fmt: skip
        self.store.begin_transfer(note)
        self.complete, self.since = False, since
        self.prepared = self.journalled = self.committed = base.seq
        self.epoch_of_last = base.epoch
        waiting = np.flatnonzero(wanted).tolist()
        rng.shuffle(waiting)
        sent = len(waiting)
        while waiting or rng.random() < 0.3:
            self.take(line.grow(rng.randrange(3)))
            await self.pause(rng.choice((0, 1, 3)))
            if rng.random() < 0.5:
                self.commit()
            part = sorted(waiting.pop() for _ in range(min(len(waiting), rng.randrange(1, 3))))
            image, _ = line.image()
            seqs = line.page_seqs()
            data = b"".join(bytes(image[page * PAGE : (page + 1) * PAGE]) for page in part)
            await self.store.transfer_pages(
                KEY, self.session, tuple(part), memoryview(data), tuple(seqs[p] for p in part)
            )
        while self.committed < len(line.records):
            await self.pause(1)
            self.commit()
        await self.store.end_transfer(KEY, self.session)
        self.complete = True
        return sent

    def _is_of(self, records: list[Record]) -> bool:
        last = records[self.committed - 1] if self.committed <= len(records) else None
        return last is not None and last.epoch == self.epoch_of_last

    def check_seqs(self) -> None:
        """What changed since any record is told to a later joiner, and little more."""
        exact = page_seqs_of(self.history[: self.committed])
        told = self.store.page_seqs(KEY, list(range(PAGES)))
        _, allocated = image_of(self.history[: self.committed])
        for page in np.flatnonzero(allocated).tolist():
            age = self.committed - exact[page]
            assert age * 127 // 128 - 1 <= self.committed - told[page] <= age, (page, exact, told)

    # -- lives

    async def live(self, found: dict[tuple[int, int], RecoveredRegion]) -> None:
        """Where the last life left the region."""
        state = found.get(KEY, RecoveredRegion())
        self.complete, self.since = state.complete, state.since
        self.committed, self.epoch_of_last = state.committed, state.committed_epoch
        if not self.complete and not self.since[0]:
            self.store.drop_region(KEY)
            self.complete, self.committed, self.epoch_of_last = True, 0, 0
        self.store.open_region(KEY, self.place(KEY))  # type: ignore[arg-type]
        self.prepared = self.journalled = self.committed + len(state.tail)
        if self.complete:
            if self.committed and not self._is_of(self.history):
                self.history = self.before
                assert self._is_of(self.history)
            await self.check_bytes(KEY, self.history[: self.committed])
            self.check_seqs()
        self.store.start()


def bound_of(joiner: Joiner) -> int:
    """Pages that changed since the copy left, and those that it is not sure of."""
    since = joiner.position()[0]
    changed = {page for page, seq in enumerate(joiner.line.page_seqs()) if seq > since}
    if since and not joiner.complete:
        suspects = bools_of(joiner.store.suspects(KEY), PAGES)
        changed |= set(np.flatnonzero(suspects).tolist())
    return len(changed)


async def one_life(joiner: Joiner, found: dict[tuple[int, int], RecoveredRegion]) -> None:
    rng, line = joiner.rng, joiner.line
    await joiner.live(found)
    for _ in range(3):
        if joiner.complete and line.has(joiner.committed, joiner.epoch_of_last):
            joiner.drop_tail(joiner.committed)
            if joiner.committed == len(line.records):
                await be_a_member(joiner)
        line.grow(rng.randrange(1, 10))  # and away
        most = bound_of(joiner)
        assert await joiner.fill() <= most
        await joiner.check_bytes(KEY, line.records)
        joiner.check_seqs()


async def be_a_member(joiner: Joiner) -> None:
    rng = joiner.rng
    for _ in range(rng.randrange(12)):
        joiner.take(joiner.line.grow(rng.randrange(1, 3)))
        await joiner.pause(rng.choice((0, 1, 5)))
        joiner.commit()
        if rng.random() < 0.1:
            await joiner.store.checkpoint()
    while joiner.committed < joiner.prepared:
        await joiner.pause(1)
        joiner.commit()


def run_lives(seed: int, now_percent: int, kinds: list[CrashKind], *, forks: bool) -> None:
    joiner = Joiner(seed, now_percent)
    try:
        for number, kind in enumerate(kinds):
            group = joiner.loop.group(f"life{number}")

            async def life() -> None:
                joiner.build()
                await one_life(joiner, await joiner.store.recover(joiner.place))

            task = group.start(life(), name="life")
            span_ms = joiner.rng.choice((3, 30, 100, 400))
            joiner.loop.run_until_ns(joiner.loop.now_ns + joiner.rng.randrange(span_ms * 1_000_000))
            if task.done() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]
            assert not joiner.failures, joiner.failures
            joiner.disks.crash(kind)
            group.drop()
            line = joiner.line
            if forks and joiner.rng.random() < 0.5 and line.records:
                line.fork(max(0, len(line.records) - joiner.rng.randrange(1, 12)))
                line.grow(joiner.rng.randrange(1, 6))
            for record in line.records:
                record.dead = False

        async def last() -> None:
            joiner.build()
            found = await joiner.store.recover(joiner.place)
            await joiner.live(found)
            joiner.drop_tail(joiner.committed)
            joiner.line.grow(1)
            await joiner.fill()
            await joiner.check_bytes(KEY, joiner.line.records)
            await joiner.store.close()
            joiner.build()
            await joiner.live(await joiner.store.recover(joiner.place))
            assert joiner.committed == len(joiner.line.records)

        joiner.loop.run_until_complete(last())
    finally:
        joiner.loop.close()


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from((0, 50, 100)),
    st.lists(st.sampled_from((CrashKind.KILL, CrashKind.KILL, *CrashKind)), min_size=1, max_size=5),
)
def test_a_copy_filled_by_deltas_over_crashes_ends_in_the_owners_bytes(
    seed: int, now_percent: int, kinds: list[CrashKind]
) -> None:
    run_lives(seed, now_percent, kinds, forks=False)


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from((0, 50, 100)),
    st.lists(st.sampled_from((CrashKind.KILL, CrashKind.KILL, *CrashKind)), min_size=2, max_size=6),
)
# Killed while entries that its checkpoint counts as noted wait for room in the journal: their lsns
# are given again, to the end of a transfer whose checksums must count.
@example(614, 0, [CrashKind.KILL, CrashKind.KILL, CrashKind.KILL])
def test_a_copy_filled_by_owners_of_different_lines_ends_in_the_bytes_of_the_last(
    seed: int, now_percent: int, kinds: list[CrashKind]
) -> None:
    run_lives(seed, now_percent, kinds, forks=True)


def test_lsns_that_a_crash_took_are_not_noted_by_the_checkpoint() -> None:
    """A checkpoint is taken while entries wait for room; a kill takes them. In the next life other
    entries stand there, and a start after that must not take them for noted."""
    joiner = Joiner(7, 100)
    noted: list[int] = []

    async def crowd() -> None:
        joiner.build()
        await joiner.live(await joiner.store.recover(joiner.place))
        joiner.take(joiner.line.grow(30))
        await joiner.pause(0)
        journal = joiner.store.journal
        assert journal.is_full
        joiner.store.touch(KEY)
        await joiner.store.checkpoint()
        noted.append(unpack_region(joiner.store.entries[KEY])[1].noted)
        assert noted[0] == journal.next_lsn
        assert journal.statistics().waiting_bytes > 0

    async def look() -> None:
        joiner.build()
        await joiner.store.recover(joiner.place)
        again = await joiner.store.slots.load()
        assert again is not None
        noted.append(unpack_region(again.entries[KEY])[1].noted)
        assert noted[1] <= joiner.store.journal.next_lsn < noted[0]

    try:
        group = joiner.loop.group("first")
        task = group.start(crowd(), name="life")
        joiner.loop.run_until_ns(joiner.loop.now_ns + 1_000_000_000)
        task.result()
        joiner.disks.crash(CrashKind.KILL)
        group.drop()
        joiner.loop.run_until_complete(look())
    finally:
        joiner.loop.close()
