"""plan: the pages of one copy of one region: which are allocated, where their newest bytes are.

State of a page, one byte each:

| state  | meaning                                                                            |
|--------|------------------------------------------------------------------------------------|
| HOLE   | not allocated: reads as zeros, whatever is on disk there                           |
| FRESH  | allocated, and not on disk yet: the cache holds all of it                          |
| DISK   | on disk, newer sectors in the cache                                                |
| ABSENT | a joiner's: allocated at the owner, not received yet, but for the touched sectors  |

A checkpoint lists a page as allocated only when it is DISK (or ABSENT): a FRESH one is made again
by replay, with the zeros around what was written. Else a crash would show old bytes of the disk.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

import numpy as np

from base.device import Buffer
from base.errors import InvalidRequest
from base.units import SECTOR_BYTES, MiB
from node.cache import NO_LSN, Cache, Page, mask_runs
from node.journal_format import FillNote
from node.page_checksums import (
    BLOCK_SHIFT,
    BlockSums,
    block_bits,
    partial_blocks,
    put_sectors,
    take_sectors,
)
from node.page_seqs import Bools, bits_of, bools_of, newer_than, no_seqs
from transport.operation import NO_HOLE, TRIM, WRITE, ZERO, Record
from volume.raid import DiskExtent, DiskOk

HOLE: Final = 0
FRESH: Final = 1
DISK: Final = 2
ABSENT: Final = 3

ZEROS: Final = memoryview(bytes(MiB))
_SECTOR_SHIFT: Final = SECTOR_BYTES.bit_length() - 1


def fill_zeros(into: memoryview) -> None:
    """Zeros in all of it."""
    done, length = 0, len(into)
    while done < length:
        count = min(length - done, len(ZEROS))
        into[done : done + count] = ZEROS[:count]
        done += count


class ExtentPlans(Protocol):
    """What a region needs of its logical disk; `volume.logical_disk.LogicalDisk` is one."""

    def plan_read(self, offset: int, length: int, disk_ok: DiskOk = None) -> list[DiskExtent]:
        """Where the bytes are, in buffer order."""

    def plan_write(self, offset: int, length: int, disk_ok: DiskOk = None) -> list[DiskExtent]:
        """Everything to write, in buffer order."""


class RegionPlace(NamedTuple):
    """Shape of a region, and its place: it begins at byte `base` of the logical disk `plans`."""

    region_bytes: int
    page_bytes: int
    plans: ExtentPlans
    base: int


class RegionPages:
    """Page states and dirty pages of one region. `states` is None while nothing was written.

    seqs: by page, the last record that touched it (`node.page_seqs`); made with `states`.
    touched: while a state transfer runs, by page, the mask of sectors that the stream has written.
    transferring: pages of which received bytes are on their way to disk, or whose place on disk has
    what a snapshot is owed (`node.kept_pages`): they are not destaged. freed: pages given back
    since a checkpoint looked last. paused: its disks have failed; its pages are set `aside`.
    """

    __slots__ = (
        "aside", "base", "cache", "dirty", "freed", "full_mask", "key", "page_bytes", "pages",
        "paused", "plans", "repairing", "seqs", "states", "sums", "touched", "transferring",
        "unapplied", "versions",
    )  # fmt: skip

    keeps = False  # these are pages that snapshots keep

    def __init__(self, key: tuple[int, int], place: RegionPlace, cache: Cache) -> None:
        region_bytes, page_bytes, plans, base = place
        assert region_bytes % page_bytes == 0
        assert page_bytes % SECTOR_BYTES == 0
        self.key = key
        self.plans = plans
        self.base = base
        self.page_bytes = page_bytes
        self.pages = region_bytes // page_bytes
        self.full_mask = (1 << (page_bytes >> _SECTOR_SHIFT)) - 1
        self.sums = BlockSums(key, self.pages, page_bytes)
        self.cache = cache
        self.states: bytearray | None = None
        self.seqs: array[int] = no_seqs(0)
        self.dirty: dict[int, Page] = {}
        self.repairing: dict[int, None] = {}  # asked for elsewhere, and not destaged since
        self.unapplied: dict[int, Record] = {}  # records that are journalled, by seq
        self.touched: dict[int, int] | None = None
        self.transferring: dict[int, None] = {}
        self.freed: dict[int, None] = {}
        self.paused = False
        self.aside: list[Page] = []
        self.versions = 0  # grows when bytes on disk change: a slow read looks at it

    # -- operations of the stream, in order

    def apply(self, record: Record, lsn: int) -> None:
        """Carry out one committed record. InvalidRequest when it is not made of whole sectors of
        the region; nothing has changed then."""
        offset, length = record.offset, record.length
        if (offset | length) & (SECTOR_BYTES - 1) or offset + length > self.pages * self.page_bytes:
            raise InvalidRequest(f"{record!r}: not whole sectors within the region")
        self.cache.changed[self.key] = None
        states = self.states
        if states is None:
            states = self._make_states()
        kind = record.kind
        if kind == WRITE:
            page_bytes = self.page_bytes
            index, at = divmod(offset, page_bytes)
            if at + length <= page_bytes:
                if length:
                    self.seqs[index] = record.seq
                    self._write(states, index, at, record.data, length, lsn)
                return
            self.mark(record)
            view = memoryview(record.data)
            done = 0
            while done < length:
                count = min(page_bytes - at, length - done)
                self._write(states, index, at, view[done : done + count], count, lsn)
                done += count
                index += 1
                at = 0
            return
        self.mark(record)
        if kind == ZERO:
            self._clear(states, offset, length, lsn, hole=not record.flags & NO_HOLE, zero=True)
        else:
            assert kind == TRIM, kind
            self._clear(states, offset, length, lsn, hole=True, zero=False)

    def _make_states(self) -> bytearray:
        self.seqs = no_seqs(self.pages)
        self.states = bytearray(self.pages)
        return self.states

    def touched_by(self, record: Record) -> range:
        """Pages that the record changes."""
        size = self.page_bytes
        return range(record.offset // size, -(-(record.offset + record.length) // size))

    def mark(self, record: Record) -> None:
        """Note which pages the record changes, and nothing else."""
        if self.states is None:
            self._make_states()
        pages = self.touched_by(record)
        self.seqs[pages.start : pages.stop] = array("Q", (record.seq,)) * len(pages)

    def _write(
        self,
        states: bytearray,
        index: int,
        at: int,
        data: bytes | bytearray | memoryview,
        length: int,
        lsn: int,
    ) -> None:
        page = self.dirty.get(index)
        mask = ((1 << (length >> _SECTOR_SHIFT)) - 1) << (at >> _SECTOR_SHIFT)
        if page is None:
            page = self.cache.new_page(self, index, lsn)
            if states[index] == HOLE:
                states[index] = FRESH
                page.mask = self.full_mask
                end = at + length
                if at:
                    page.data[:at] = ZEROS[:at]
                if end < self.page_bytes:
                    page.data[end:] = ZEROS[: self.page_bytes - end]
            else:
                page.mask = mask
        else:
            page.mask |= mask
            page.newest = self.cache.stamp
            if page.sealed is not None:
                page.rewritten |= mask
                if page.redirty == NO_LSN:
                    page.redirty = lsn
        page.data[at : at + length] = data
        if self.touched is not None and states[index] == ABSENT:
            self._touch(states, index, mask)

    def _touch(self, states: bytearray, index: int, mask: int) -> None:
        assert self.touched is not None
        mask |= self.touched.get(index, 0)
        if mask == self.full_mask:
            states[index] = DISK  # every sector came by the stream: nothing is missing any more
            self.touched.pop(index, None)
        else:
            self.touched[index] = mask

    def _clear(
        self, states: bytearray, offset: int, length: int, lsn: int, *, hole: bool, zero: bool
    ) -> None:
        """Zeros from now on. hole: whole pages are given back. zero: holes that are not given back
        become allocated (NO_HOLE)."""
        page_bytes = self.page_bytes
        end = offset + length
        while offset < end:
            index, at = divmod(offset, page_bytes)
            count = min(page_bytes - at, end - offset)
            offset += count
            if states[index] == HOLE:
                if zero and not hole:
                    self._write(states, index, at, ZEROS[:count], count, lsn)
            elif hole and count == page_bytes:
                page = self.dirty.get(index)
                if page is not None:
                    self.cache.drop(page)
                states[index] = HOLE
                self.freed[index] = None
                if self.touched is not None:
                    self.touched.pop(index, None)
            else:
                self._write(states, index, at, ZEROS[:count], count, lsn)

    # -- what destage and state transfer say

    def page_destaged(self, index: int) -> None:
        """All that the cache held of the page when it was picked is on disk."""
        assert self.states is not None
        self.versions += 1
        self.repairing.pop(index, None)
        self.cache.changed[self.key] = None  # checksums at least
        if self.states[index] == FRESH:
            self.states[index] = DISK

    def is_busy(self, index: int) -> bool:
        """Not to be destaged now: received bytes of the page are on their way to disk and must not
        be overtaken, or the disks of the region have just failed, or a joiner has not received the
        rest of a block yet."""
        if self.paused or index in self.transferring:
            return True
        if self.cache.replaying and partial_blocks(self.dirty[index].mask):
            return True  # the rest may lie torn on disk, and a later entry gives it
        if self.touched is None or self.states is None or self.states[index] != ABSENT:
            return False
        return bool(partial_blocks(self.touched.get(index, 0)))

    def begin_transfer(self, allocated: bytes, wanted: Bools) -> None:
        """A state transfer brings `wanted`: those of them that are allocated at the owner are
        absent until they are received, the rest are holes. All other pages stay as they are."""
        if self.states is None:
            self._make_states()
        assert self.states is not None
        states = np.frombuffer(self.states, dtype=np.uint8).copy()
        present = bools_of(allocated, self.pages)
        freed = np.flatnonzero(wanted & ~present & (states != HOLE))
        states[wanted] = np.where(present[wanted], ABSENT, HOLE)
        self.states = bytearray(states.tobytes())
        np.frombuffer(self.seqs, dtype=np.uint64)[wanted] = 0
        self.forget(index for index in list(self.dirty) if wanted[index])
        self.touched = {}
        self.repairing.clear()
        self.freed.update(dict.fromkeys(freed.tolist()))
        self.versions += 1

    def forget(self, pages: Iterable[int]) -> None:
        """What the cache has of these pages is not wanted."""
        for index in pages:
            page = self.dirty.get(index)
            if page is not None:
                self.cache.drop(page)

    def allocated(self) -> Bools:
        """Pages that are not holes."""
        if self.states is None:
            return np.zeros(self.pages, dtype=np.bool_)
        return np.asarray(np.frombuffer(self.states, dtype=np.uint8) != HOLE)

    def changed_since(self, seq: int) -> Bools:
        """Pages that a record behind `seq` touched."""
        if self.states is None:
            return np.zeros(self.pages, dtype=np.bool_)
        return newer_than(self.seqs, seq)

    def untouched(self, index: int) -> int:
        """Mask of the sectors of a received page that must be written; 0: it is not wanted."""
        if self.touched is None or self.states is None or self.states[index] != ABSENT:
            return 0
        return self.full_mask & ~self.touched.get(index, 0)

    def page_received(self, index: int, seq: int = 0) -> None:
        """Its untouched sectors are on disk, as the record `seq` of the owner left them. A page
        that was trimmed meanwhile stays as it is."""
        assert self.states is not None
        self.versions += 1
        if self.states[index] == ABSENT and self.touched is not None:
            self.states[index] = DISK
            self.touched.pop(index, None)
            self.seqs[index] = max(self.seqs[index], seq)

    def absent_pages(self) -> int:
        """How many pages of the base are still missing."""
        return 0 if self.states is None else self.states.count(ABSENT)

    def clear(self) -> None:
        """Nothing of the region is here any more."""
        self.cache.drop_region(self)
        self.states = None
        self.seqs = no_seqs(0)
        self.touched = None
        self.freed.clear()
        self.repairing.clear()
        self.sums.clear()
        self.versions += 1

    # -- blocks of which the cache has a part

    def fill(self, page: Page, mask: int, sectors: Buffer) -> int:
        """Give a dirty page those of the sectors that it has not: they are what every record before
        has left there. Mask of those it took."""
        assert page.sealed is None
        missing = mask & ~page.mask
        if missing:
            taken = sectors
            if missing != mask:
                scratch = bytearray(self.page_bytes)
                put_sectors(scratch, mask, sectors)
                taken = take_sectors(scratch, missing)
            put_sectors(page.data, missing, taken)
            page.mask |= missing
            page.newest = self.cache.stamp
        return missing

    def refill(self, note: FillNote, lsn: int) -> None:
        """Replay of a note about blocks of which the cache had a part, or that were repaired."""
        page = self.dirty.get(note.page)
        if self.states is None or self.states[note.page] == HOLE:
            return  # a record before the note gave the page back after it
        if page is None:
            if not note.repaired:
                return  # what it was a part of is on disk
            page = self.cache.new_page(self, note.page, lsn)
        self.fill(page, int.from_bytes(note.mask, "little"), note.sectors)
        self.cache.changed[self.key] = None

    def has_pending(self, index: int, mask: int) -> bool:
        """A record that is journalled and not applied changes those blocks of the page."""
        low = index * self.page_bytes
        runs = mask_runs(mask)
        first, stop = low + runs[0][0], low + runs[-1][0] + runs[-1][1]
        return any(
            record.offset < stop and first < record.offset + record.length
            for record in self.unapplied.values()
        )

    def has_dirty(self, start: int, stop: int) -> bool:
        """The cache has something of the pages of those bytes."""
        dirty, page_bytes = self.dirty, self.page_bytes
        return any(index in dirty for index in range(start // page_bytes, -(-stop // page_bytes)))

    def received(self, index: int, page: memoryview, mask: int) -> tuple[Buffer, int]:
        """What to write of a received page, whole blocks: (its bytes, mask). mask: its sectors that
        the stream has not written; the others of such a block are in the cache still."""
        partial = partial_blocks(mask)
        if not partial:
            return page, mask
        merged = bytearray(page)
        touched = partial & ~mask
        dirty = self.dirty[index]
        assert touched & ~dirty.mask == 0, (self.key, index)
        put_sectors(merged, touched, take_sectors(dirty.data, touched))
        return merged, mask | partial

    def proven_blocks(self, first: int, stop: int) -> list[int]:
        """Of those blocks the ones that a read takes from disk, in whole or in part."""
        assert self.states is not None
        page_blocks = self.page_bytes >> BLOCK_SHIFT
        found: list[int] = []
        for block in range(first, stop):
            index, number = divmod(block, page_blocks)
            page = self.dirty.get(index)
            bits = block_bits(number)
            if self.states[index] >= DISK and (page is None or page.mask & bits != bits):
                found.append(block)
        return found

    # -- reading

    def disk_runs(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(first byte, byte behind) of what must come from disk, neighbours joined."""
        runs: list[tuple[int, int]] = []
        states, dirty, page_bytes = self.states, self.dirty, self.page_bytes
        if states is None:
            return runs
        end = offset + length
        at = offset
        while at < end:
            index = at // page_bytes
            stop = min((index + 1) * page_bytes, end)
            if states[index] >= DISK:
                page = dirty.get(index)
                if page is None or page.mask != self.full_mask:
                    if runs and runs[-1][1] == at:
                        runs[-1] = (runs[-1][0], stop)
                    else:
                        runs.append((at, stop))
            at = stop
        return runs

    def overlay(self, offset: int, into: memoryview) -> None:
        """Put what the cache has, and the zeros of holes, over what came from disk."""
        states, dirty, page_bytes = self.states, self.dirty, self.page_bytes
        end = offset + len(into)
        at = offset
        while at < end:
            index, first = divmod(at, page_bytes)
            stop = min((index + 1) * page_bytes, end)
            last = first + stop - at
            if states is None or states[index] == HOLE:
                fill_zeros(into[at - offset : stop - offset])
            elif (page := dirty.get(index)) is not None:
                view = memoryview(page.data)
                for start, count in mask_runs(page.mask):
                    low, high = max(start, first), min(start + count, last)
                    if low < high:
                        to = at - offset + low - first
                        into[to : to + high - low] = view[low:high]
            at = stop

    # -- space that was given back

    def freed_runs(self) -> list[tuple[int, int]]:
        """(first page, pages) of those in `freed` that are holes still; forgets them."""
        runs: list[tuple[int, int]] = []
        for index in sorted(self.freed):
            if self.states is None or self.states[index] != HOLE or index in self.transferring:
                continue
            if runs and sum(runs[-1]) == index:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((index, 1))
        self.freed.clear()
        return runs

    # -- bitmaps

    def bitmap(self) -> bytes:
        """Allocated pages, bit 0 of byte 0 is page 0; empty when none was ever written."""
        if self.states is None:
            return b""
        return bits_of(self.allocated())

    def disk_bitmap(self) -> bytes:
        """Allocated pages without those that are only in the cache: what a checkpoint holds."""
        if self.states is None:
            return b""
        return bits_of(np.frombuffer(self.states, dtype=np.uint8) >= DISK)

    def load(self, bitmap: bytes, seqs: array[int] | None = None) -> None:
        """From a checkpoint: those pages are on disk, the others are holes."""
        self.states = None
        if not bitmap and seqs is None:
            return
        self._make_states()
        if bitmap:
            present = bools_of(bitmap, self.pages)
            self.states = bytearray((present * np.uint8(DISK)).tobytes())
        if seqs is not None:
            self.seqs = seqs

    def load_seqs(self, seqs: array[int]) -> None:
        """As of the end of a state transfer, from the journal."""
        if self.states is None:
            self._make_states()
        self.seqs = seqs

    def runs(self) -> list[tuple[int, int, bool]]:
        """(offset, length, allocated) in bytes, ascending, without gaps, neighbours joined."""
        end = self.pages * self.page_bytes
        if self.states is None:
            return [(0, end, False)]
        allocated = np.frombuffer(self.states, dtype=np.uint8) != HOLE
        edges = np.flatnonzero(allocated[1:] != allocated[:-1]) + 1
        starts = [0, *(edges * self.page_bytes).tolist(), end]
        first = bool(allocated[0])
        return [
            (start, stop - start, first ^ bool(number & 1))
            for number, (start, stop) in enumerate(pairwise(starts))
        ]
