"""codec: entries of the journal, and what recovery makes of each.

The journal is one ring of bytes. The *lsn* of an entry is its position in the endless sequence of
bytes of which the device holds the newest; it lies at `lsn % capacity`. Layout, little endian,
ENTRY_BYTES long, then `length` bytes of payload:

    magic u32 · crc u32 (CRC32C of the rest of the header and of the covered payload) ·
    kind u8 · 0 u8 · 0 u16 · length u32 · lsn u64 · life u32

The covered payload is all of it, but for OPERATION only the record header: the data of a record has
a CRC of its own in there. *life* counts the starts of this store. A life begins at a known lsn, and
the list of lives is in the checkpoint: an entry that an earlier life left behind the point at which
recovery had stopped carries the wrong life for its place, and is never taken for a new one.

Decisions of recovery. Reading starts at the trim point of the checkpoint, twice: the first pass
finds the end and the last reset of each region, the second applies.

| found                                        | decision                                          |
|----------------------------------------------|---------------------------------------------------|
| wrong magic, lsn or life                     | the end: what follows is of an earlier lap or life|
| wrong CRC of entry or data, or cut short     | the end: a torn write                             |
| valid entries behind the end                 | never read: something before them is missing      |
| OPERATION of a volume the catalog has not    | ignored                                           |
| OPERATION before the last reset of its region| ignored: its effect was thrown away               |
| OPERATION that a later TRUNCATE covers       | ignored                                           |
| OPERATION with a seq that was seen already   | ignored: the same record again                    |
| OPERATION that leaves a gap in seq           | the region is incomplete                          |
| OPERATION, seq <= commit point               | applied, in order                                 |
| OPERATION, seq > commit point                | kept as tail                                      |
| `committed` of an OPERATION, COMMIT          | raise the commit point and the epoch              |
| TRUNCATE                                     | voids earlier records from that seq on            |
| TRANSFER_BEGIN of all pages                  | reset: base bitmap, commit point, clients         |
| TRANSFER_BEGIN of the pages since a record   | the suspects are as received, or holes; commit    |
|                                              | point, clients                                    |
| OPERATION before such a one, seq > since     | ignored: of an earlier session, or cut off        |
| OPERATION before such a one, of a suspect    | ignored for that page: what came later is on disk |
| TRANSFER_DONE of that session                | the region is complete                            |
| TRANSFER_BEGIN of all without TRANSFER_DONE  | the region is incomplete: discarded               |
| TRANSFER_BEGIN since, without TRANSFER_DONE  | incomplete; pages beside the suspects and those   |
|                                              | of OPERATIONs behind it are as `since` left them  |
| REGION_DROPPED                               | reset: the region is not here                     |
| FILL before a TRANSFER_BEGIN that brings its | ignored: what came later is on disk               |
| page, or of an incomplete region             |                                                   |
| FILL of a page that replayed records changed | gives the rest of its blocks                      |
| FILL of another page                         | only if it was a repair; else it is on disk       |
| OPERATION that owes a snapshot a page        | kept before it is applied, unless the checkpoint  |
|                                              | has it already                                    |
| KEPT                                         | gives what those kept pages lacked                |
| VIEW_REMOVED                                 | hands the tables of the view over, again          |
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import google_crc32c
import msgpack

from base.device import Buffer
from base.errors import RemoteProtocolError
from base.units import MiB
from transport.operation import OPERATION_BYTES_MAX, RECORD_BYTES, data_crc, unpack_record

OPERATION: Final = 1
COMMIT: Final = 2
TRUNCATE: Final = 3
TRANSFER_BEGIN: Final = 4
TRANSFER_DONE: Final = 5
REGION_DROPPED: Final = 6
FILL: Final = 9
KEPT: Final = 10
VIEW_REMOVED: Final = 11

MAGIC: Final = 0x4A38E16F
_HEAD = struct.Struct("<II")
_REST = struct.Struct("<BBHIQI")
_ENTRY = struct.Struct("<IIBBHIQI")
ENTRY_BYTES: Final = _ENTRY.size
NOTE_BYTES_MAX: Final = 4 * MiB
ENTRY_BYTES_MAX: Final = ENTRY_BYTES + max(NOTE_BYTES_MAX, RECORD_BYTES + OPERATION_BYTES_MAX)

_crc32c: Callable[[bytes], int] = google_crc32c.value
_pack_rest = _REST.pack
_pack_head = _HEAD.pack

Life = tuple[int, int]  # (lsn at which it begins, number)


@dataclass(frozen=True, slots=True)
class CommitNote:
    """Points (volume, region, epoch, committed, record epoch of the last committed record).

    `epoch` is the highest that this copy has seen of the region; it needs no record to be kept.
    """

    points: tuple[tuple[int, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TruncateNote:
    """Every earlier record of the region with seq >= from_seq is void (P8)."""

    volume: int
    region: int
    from_seq: int


@dataclass(frozen=True, slots=True)
class TransferBeginNote:
    """A joiner starts on the base (base_epoch, base_seq) of a session.

    bitmap: allocated pages of the base, bit 0 of byte 0 is page 0. clients: the state of the
    client table at the base, opaque to the store. suspect: bitmap of the pages that the session
    brings or makes holes of; all others stay as the record `since` = (seq, epoch) left them. Empty:
    the region is emptied, and the session brings all.
    """

    volume: int
    region: int
    epoch: int
    session: int
    base_epoch: int
    base_seq: int
    bitmap: bytes
    clients: Any = ()
    since: tuple[int, int] = (0, 0)
    suspect: bytes = b""


@dataclass(frozen=True, slots=True)
class TransferDoneNote:
    """All pages of the session are on disk and synced. seqs: the page seqs of the region, packed as
    of the record `applied`; sums: the checksums of its blocks, as BlockSums packs them. Of what was
    received nothing else in the journal tells either. views: snapshots have something of the
    region, and a checkpoint that was taken since the session began has it."""

    volume: int
    region: int
    session: int
    applied: int = 0
    seqs: bytes = b""
    sums: bytes = b""
    views: bool = False


@dataclass(frozen=True, slots=True)
class FillNote:
    """What those sectors of a page held when every earlier record of those blocks was applied.

    Written before a block of which the cache has a part only is destaged whole: so that a replay
    makes again whole whatever may have been on its way to the disk. mask: little endian, a bit for
    each sector of the page. repaired: its disks had lost those sectors, and another node gave them.
    """

    volume: int
    region: int
    page: int
    repaired: bool
    mask: bytes
    sectors: bytes


@dataclass(frozen=True, slots=True)
class KeptNote:
    """What a page of a region held when the first write after these snapshots came to it, as far as
    it was on disk only. Synced before the page is written over. mask: as in FillNote."""

    volume: int
    region: int
    page: int
    views: tuple[int, ...]
    mask: bytes
    sectors: bytes


@dataclass(frozen=True, slots=True)
class ViewRemovedNote:
    """The exceptions of the view in that region went to the older one, 0: to nobody."""

    volume: int
    region: int
    view: int
    older: int


@dataclass(frozen=True, slots=True)
class RegionDroppedNote:
    """This node gave up its copy of the region."""

    volume: int
    region: int


Note = (
    CommitNote | TruncateNote | TransferBeginNote | TransferDoneNote | RegionDroppedNote | FillNote
    | KeptNote | ViewRemovedNote
)  # fmt: skip

_KIND_OF: Final[dict[type[Any], int]] = {
    CommitNote: COMMIT,
    TruncateNote: TRUNCATE,
    TransferBeginNote: TRANSFER_BEGIN,
    TransferDoneNote: TRANSFER_DONE,
    RegionDroppedNote: REGION_DROPPED,
    FillNote: FILL,
    KeptNote: KEPT,
    ViewRemovedNote: VIEW_REMOVED,
}


class JournalEntry(NamedTuple):
    """One valid entry. `payload` is a view into what was read; copy what must stay."""

    lsn: int
    kind: int
    payload: memoryview


def pack_operation(header: bytes, length: int, lsn: int, life: int) -> bytes:
    """Entry header and record header in one; the data, if any, goes behind it unchanged.

    length: of record header and data together.
    """
    rest = _pack_rest(OPERATION, 0, 0, length, lsn, life) + header
    return _pack_head(MAGIC, _crc32c(rest)) + rest


def pack_note(note: Note) -> tuple[int, bytes]:
    """(kind, payload)."""
    values: list[object]
    if isinstance(note, CommitNote):
        values = [note.points]
    elif isinstance(note, TruncateNote):
        values = [note.volume, note.region, note.from_seq]
    elif isinstance(note, TransferBeginNote):
        values = [
            note.volume, note.region, note.epoch, note.session, note.base_epoch, note.base_seq,
            note.bitmap, note.clients, note.since, note.suspect,
        ]  # fmt: skip
    elif isinstance(note, TransferDoneNote):
        values = [
            note.volume, note.region, note.session, note.applied, note.seqs, note.sums, note.views,
        ]  # fmt: skip
    elif isinstance(note, FillNote):
        values = [
            note.volume, note.region, note.page, note.repaired, note.mask, note.sectors,
        ]  # fmt: skip
    elif isinstance(note, KeptNote):
        values = [note.volume, note.region, note.page, note.views, note.mask, note.sectors]
    elif isinstance(note, ViewRemovedNote):
        values = [note.volume, note.region, note.view, note.older]
    else:
        values = [note.volume, note.region]
    payload: bytes = msgpack.packb(values)
    assert len(payload) <= NOTE_BYTES_MAX, len(payload)
    return _KIND_OF[type(note)], payload


def pack_entry(kind: int, payload: bytes, lsn: int, life: int) -> bytes:
    """A whole entry whose payload is covered by the entry's own CRC."""
    rest = _pack_rest(kind, 0, 0, len(payload), lsn, life) + payload
    return _pack_head(MAGIC, _crc32c(rest)) + rest


def unpack_note(entry: JournalEntry) -> Note:
    """The note of an entry whose CRC was right. RemoteProtocolError when it makes no sense: it was
    written by another version."""
    try:
        values = msgpack.unpackb(entry.payload, use_list=False, strict_map_key=False)
        if entry.kind == COMMIT:
            return CommitNote(tuple((v, r, e, c, ce) for v, r, e, c, ce in values[0]))
        if entry.kind == TRUNCATE:
            return TruncateNote(*values)
        if entry.kind == TRANSFER_BEGIN:
            return TransferBeginNote(*values)
        if entry.kind == TRANSFER_DONE:
            return TransferDoneNote(*values)
        if entry.kind == REGION_DROPPED:
            return RegionDroppedNote(*values)
        if entry.kind == FILL:
            return FillNote(*values)
        if entry.kind == KEPT:
            return KeptNote(*values)
        if entry.kind == VIEW_REMOVED:
            return ViewRemovedNote(*values)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"journal entry {entry.lsn}: {error}") from None
    raise RemoteProtocolError(f"journal entry {entry.lsn}: kind {entry.kind} is unknown")


class Lives:
    """Which life of the store wrote at which lsn. `lives` ascend by both."""

    __slots__ = ("lives",)

    def __init__(self, lives: list[Life]) -> None:
        assert lives
        self.lives = lives

    @property
    def newest(self) -> int:
        """Number of the last life."""
        return self.lives[-1][1]

    def at(self, lsn: int) -> int:
        """The life whose entries lie at that lsn."""
        for start, life in reversed(self.lives):
            if start <= lsn:
                return life
        return self.lives[0][1]

    def begin(self, lsn: int) -> Lives:
        """With one more life, that begins at lsn: nobody's entries behind it are valid."""
        kept = [(start, life) for start, life in self.lives if start < lsn]
        return Lives([*kept, (lsn, self.newest + 1)])

    def trimmed(self, lsn: int) -> Lives:
        """Without those that end at or before lsn."""
        lives = self.lives
        first = 0
        while first + 1 < len(lives) and lives[first + 1][0] <= lsn:
            first += 1
        return Lives(lives[first:])


def _payload_is_right(kind: int, payload: memoryview, crc: int, rest: memoryview) -> bool:
    covered = payload[:RECORD_BYTES] if kind == OPERATION else payload
    if _crc32c(bytes(rest) + bytes(covered)) != crc:
        return False
    if kind != OPERATION:
        return True
    try:
        record, _, _, stop = unpack_record(payload, 0)
    except RemoteProtocolError:
        return False
    return stop == len(payload) and data_crc(record.data) == record.data_crc


def scan(
    buffer: memoryview, lsn: int, lives: Lives, *, check: bool = True
) -> tuple[list[JournalEntry], int, bool]:
    """Entries in `buffer`, whose first byte has that lsn.

    Returns (entries, lsn behind the last one, end): end is False when the next entry may only be
    cut short by the end of the buffer. check=False trusts the CRCs: a pass before has checked them.
    """
    entries: list[JournalEntry] = []
    at = 0
    size = len(buffer)
    while size - at >= ENTRY_BYTES:
        magic, crc, kind, _, _, length, entry_lsn, life = _ENTRY.unpack_from(buffer, at)
        if (
            magic != MAGIC
            or entry_lsn != lsn
            or length > ENTRY_BYTES_MAX - ENTRY_BYTES
            or life != lives.at(lsn)
        ):
            return entries, lsn, True
        start = at + ENTRY_BYTES
        stop = start + length
        if stop > size:
            return entries, lsn, False
        payload = buffer[start:stop]
        if check and not _payload_is_right(kind, payload, crc, buffer[at + 8 : start]):
            return entries, lsn, True
        entries.append(JournalEntry(lsn, kind, payload))
        lsn += ENTRY_BYTES + length
        at = stop
    return entries, lsn, False


def entry_places(buffer: memoryview) -> list[int]:
    """Where in the buffer the head of an entry may begin, at whatever byte."""
    found, mark, data, at = [], struct.pack("<I", MAGIC), bytes(buffer), -1
    while (at := data.find(mark, at + 1)) >= 0:
        if at + ENTRY_BYTES <= len(data):
            found.append(at)
    return found


def entry_name(buffer: memoryview, at: int) -> Life:
    """(lsn, life) that the head of an entry there names."""
    head = _ENTRY.unpack_from(buffer, at)
    return head[6], head[7]


def entry_bytes(payload_bytes: int) -> int:
    """Room that an entry takes in the ring."""
    return ENTRY_BYTES + payload_bytes


def as_bytes(data: Buffer) -> bytes:
    """The same bytes, as an object of their own."""
    return data if type(data) is bytes else bytes(data)
