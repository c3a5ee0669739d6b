"""shell: the checkpoint of a node's regions: two slots on a small device, written in turn.

A slot is a header with a growing number and CRCs, and a payload: msgpack [format, lives, trim lsn,
failed disks, number of regions], then an entry per region, each behind its length (u32). The newest
slot whose CRCs are right counts. The other one is written next, so a crash in the middle of it
leaves the newest. An entry is msgpack [volume, region, session, epoch, committed, committed epoch,
clients, bitmap of pages on disk, last record applied, page seqs as of that record (two bytes a
page, `node.page_seqs`), since, bitmap of suspects, checksums (`node.page_checksums`), lsn], and
behind these the tables of snapshots (`node.kept_pages`), where there are any;
session: 0 complete, > 0 a joiner's, -1 incomplete; since, suspects: of `node.stored_region`, when
incomplete.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import google_crc32c
import msgpack

from base.device import BlockDevice
from base.errors import DeviceFailed, NoSpace
from node.journal_format import Lives
from node.page_seqs import SEQ_BYTES, bitmap_bytes

MAGIC: Final = 0x0C8EC401
FORMAT: Final = 5
SUM_BYTES: Final = 16  # checksums of the blocks of a page of 16 KiB
COMPLETE: Final = 0
INCOMPLETE: Final = -1

_HEADER = struct.Struct("<IIQQI")  # magic, format, number, payload bytes, CRC32C of the payload
_CRC = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size
_crc32c: Callable[[bytes], int] = google_crc32c.value

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RegionState:
    """What the replication core keeps of a region and wants back after a restart.

    clients: plain values for msgpack, opaque here.
    """

    epoch: int = 0
    committed: int = 0
    committed_epoch: int = 0
    clients: Any = ()


@dataclass(frozen=True, slots=True)
class RegionEntry:
    """One region of a checkpoint. bitmap: pages that are on disk; empty when none is. seqs: packed
    as of the record `applied`; empty when no page was ever touched. sums: as BlockSums packs them.
    noted: what stands before that lsn in the journal is in here already. views: tables of snapshots
    as KeptPages packs them.
    """

    session: int = COMPLETE
    state: RegionState = RegionState()
    bitmap: bytes = b""
    applied: int = 0
    seqs: bytes = b""
    since: tuple[int, int] = (0, 0)
    suspect: bytes = b""
    sums: bytes = b""
    noted: int = 0
    views: bytes = b""


@dataclass(slots=True)
class Checkpoint:
    """Contents of one slot. `entries` are packed by `pack_region`."""

    lives: Lives
    trim_lsn: int = 0
    failed_disks: list[int] = field(default_factory=list)
    entries: dict[Key, bytes] = field(default_factory=dict)


def pack_region(key: Key, entry: RegionEntry) -> bytes:
    """One entry, with its length in front."""
    state = entry.state
    views = (entry.views,) if entry.views else ()
    packed: bytes = msgpack.packb(
        (
            key[0], key[1], entry.session, state.epoch, state.committed, state.committed_epoch,
            state.clients, entry.bitmap, entry.applied, entry.seqs, entry.since, entry.suspect,
            entry.sums,
            entry.noted, *views,
        )
    )  # fmt: skip
    return _CRC.pack(len(packed)) + packed


def unpack_region(packed: bytes) -> tuple[Key, RegionEntry]:
    """Inverse of pack_region."""
    volume, region, session, epoch, committed, committed_epoch, clients, *pages = msgpack.unpackb(
        memoryview(packed)[_CRC.size :], use_list=False
    )
    state = RegionState(epoch, committed, committed_epoch, clients)
    return (volume, region), RegionEntry(session, state, *pages)


def pack_payload(checkpoint: Checkpoint) -> bytes:
    """The payload of a slot."""
    head: bytes = msgpack.packb(
        [
            FORMAT,
            checkpoint.lives.lives,
            checkpoint.trim_lsn,
            checkpoint.failed_disks,
            len(checkpoint.entries),
        ]
    )
    return b"".join((_CRC.pack(len(head)), head, *checkpoint.entries.values()))


def unpack_payload(payload: memoryview) -> Checkpoint:
    """Inverse of pack_payload; its CRC was right. DeviceFailed for another format."""
    (length,) = _CRC.unpack_from(payload)
    at = _CRC.size + length
    try:
        version, lives, trim_lsn, failed, count = msgpack.unpackb(
            payload[_CRC.size : at], use_list=True
        )
        if version != FORMAT:
            raise DeviceFailed(f"the checkpoint has format {version}; this program has {FORMAT}")
        entries: dict[Key, bytes] = {}
        for _ in range(count):
            (length,) = _CRC.unpack_from(payload, at)
            packed = bytes(payload[at : at + _CRC.size + length])
            entries[unpack_region(packed)[0]] = packed
            at += _CRC.size + length
    except (ValueError, TypeError, struct.error) as error:
        raise DeviceFailed(f"the checkpoint makes no sense: {error}") from None
    return Checkpoint(Lives([(start, life) for start, life in lives]), trim_lsn, failed, entries)


class CheckpointSlots:
    """Slot A is the first half of the device, slot B the second."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._slot_bytes = device.size_bytes // 2
        self._number = 0
        self._next_slot = 0
        self.size_bytes = 0  # of the newest payload

    async def load(self) -> Checkpoint | None:
        """The newest checkpoint, None when neither slot holds one."""
        newest: tuple[int, int, memoryview] | None = None
        for slot in (0, 1):
            found = await self._read(slot)
            if found is not None and (newest is None or found[0] > newest[0]):
                newest = (found[0], slot, found[1])
        if newest is None:
            return None
        self._number, slot, payload = newest
        self._next_slot = 1 - slot
        self.size_bytes = len(payload)
        return unpack_payload(payload)

    async def _read(self, slot: int) -> tuple[int, memoryview] | None:
        header = bytearray(HEADER_BYTES)
        await self._fill(slot * self._slot_bytes, memoryview(header))
        magic, version, number, length, crc = _HEADER.unpack_from(header)
        if (
            magic != MAGIC
            or _CRC.unpack_from(header, _HEADER.size)[0] != _crc32c(bytes(header[: _HEADER.size]))
            or length > self._slot_bytes - HEADER_BYTES
        ):
            return None
        if version != FORMAT:
            raise DeviceFailed(
                f"{self._device.name}: has format {version}; this program has {FORMAT}"
            )
        payload = memoryview(bytearray(length))
        await self._fill(slot * self._slot_bytes + HEADER_BYTES, payload)
        return (number, payload) if _crc32c(bytes(payload)) == crc else None

    async def damaged(self) -> list[int]:
        """Slots that hold something, and no whole checkpoint: torn by a crash, or damaged since."""
        found = []
        for slot in (0, 1):
            head = bytearray(HEADER_BYTES)
            await self._fill(slot * self._slot_bytes, memoryview(head))
            if any(head) and await self._read(slot) is None:
                found.append(slot)
        return found

    async def _fill(self, offset: int, into: memoryview) -> None:
        if not self._device.read_now(offset, into):
            await self._device.read(offset, into)

    async def store(self, payload: bytes) -> None:
        """Write a new checkpoint and sync it. NoSpace when it does not fit a slot; DeviceFailed."""
        if len(payload) > self._slot_bytes - HEADER_BYTES:
            raise NoSpace(
                f"{self._device.name}: a checkpoint of {len(payload)} bytes does not fit its slot"
                f" of {self._slot_bytes}"
            )
        header = _HEADER.pack(MAGIC, FORMAT, self._number + 1, len(payload), _crc32c(payload))
        header += _CRC.pack(_crc32c(header))
        offset = self._next_slot * self._slot_bytes
        if not self._device.write_now(offset, (header, payload)):
            await self._device.write(offset, (header, payload))
        await self._device.sync()
        self._number += 1
        self._next_slot = 1 - self._next_slot
        self.size_bytes = len(payload)


def checkpoint_bytes(regions_max: int, region_pages: int) -> int:
    """A device size that holds two checkpoints of that many regions of pages of 16 KiB, client
    tables of ordinary size included."""
    pages_bytes = 3 * bitmap_bytes(region_pages) + (SEQ_BYTES + SUM_BYTES) * region_pages
    return 2 * (HEADER_BYTES + 4096 + regions_max * (512 + pages_bytes))
