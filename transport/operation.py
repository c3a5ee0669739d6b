"""codec: host operations as they travel and as they lie in the journal — the same bytes.

A *record* is one operation with its place in the sequence of its region. The owner packs its header
once; the same buffers go to its own journal and to every copy, and a copy appends what it received.
Layout of a record header, little endian, RECORD_BYTES long, then `data_length` bytes of data:

    crc u32 (CRC32C of the rest of the header) · kind u8 · flags u8 · 0 u16
    volume u32 · region u32
    epoch u32 (of the stream that carries it) · record_epoch u32 (when it was numbered) ·
    prev_epoch u32 (record_epoch of the record before it: log matching, P8)
    seq u64 · committed u64 (the sender's commit point)
    offset u32 (bytes in the region) · length u32 (bytes) · data_length u32
    client u64 · number u64 · low u64 (every operation of the client below it has been answered)
    cow_into u32 (the snapshot that is owed the old page; 0: none) ·
    view u32 (the read-write snapshot that is written; 0: the volume) · data_crc u32 (CRC32C)

(record_epoch, seq) names a record: two records of a region with the same name are the same, and so
is everything before them. (client, number) names an operation: it takes effect at most once (P10).
"""

from __future__ import annotations

import struct
from typing import Final

import google_crc32c

from base.device import Buffer
from base.errors import RemoteProtocolError
from base.units import MiB

WRITE: Final = 1
ZERO: Final = 2  # reads as zeros from now on, stays allocated
TRIM: Final = 3  # reads as zeros from now on, whole pages give their space back
READ: Final = 4  # a host request only, never a record
STATUS: Final = 5  # a host request only: which pages are allocated

SYNC: Final = 1  # flag: answered only when it survives a power cut (FUA)
NO_HOLE: Final = 2  # flag of ZERO: do not give space back

OPERATION_BYTES_MAX: Final = 1 * MiB  # the I/O path cuts longer requests
REGION_BYTES_MAX: Final = 1 << 31

_RECORD = struct.Struct("<BBHIIIIIQQIIIQQQIII")
_CRC = struct.Struct("<I")
RECORD_BYTES: Final = _CRC.size + _RECORD.size
_crc32c = google_crc32c.value


class Record:
    """One operation in the sequence of its region. Mutable only by the core that owns it."""

    __slots__ = (
        "client",
        "cow_into",
        "data",
        "data_crc",
        "dead",
        "epoch",
        "flags",
        "header",
        "kind",
        "length",
        "low",
        "number",
        "offset",
        "prev_epoch",
        "region",
        "seq",
        "view",
        "volume",
    )

    def __init__(
        self,
        volume: int,
        region: int,
        kind: int,
        flags: int,
        offset: int,
        length: int,
        client: int,
        number: int,
        low: int,
        data: Buffer,
        *,
        epoch: int = 0,
        prev_epoch: int = 0,
        seq: int = 0,
        data_crc: int = 0,
        cow_into: int = 0,
        view: int = 0,
    ) -> None:
        self.volume = volume
        self.region = region
        self.kind = kind
        self.flags = flags
        self.offset = offset
        self.length = length
        self.client = client
        self.number = number
        self.low = low
        self.data = data
        self.epoch = epoch  # record_epoch: the epoch in which it was numbered
        self.prev_epoch = prev_epoch
        self.seq = seq
        self.data_crc = data_crc
        self.cow_into = cow_into
        self.view = view  # the snapshot that is read or written; 0: the volume itself
        self.dead = False  # truncated: its journal acknowledgement means nothing any more
        self.header = b""  # as last packed or as received: copies journal what they were sent

    def unnumbered(self) -> Record:
        """The same operation without a place in a sequence. What was numbered before may still be
        part of a log: it must not change when the operation is tried again."""
        return Record(
            self.volume, self.region, self.kind, self.flags, self.offset, self.length,
            self.client, self.number, self.low, self.data, data_crc=self.data_crc,
            view=self.view,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"Record(v{self.volume} r{self.region} {self.epoch}.{self.seq} kind={self.kind} "
            f"{self.offset}+{self.length} by {self.client}/{self.number})"
        )


def pack_record(record: Record, epoch: int, committed: int) -> bytes:
    """The header of a record as the owner of `epoch` sends and journals it."""
    rest = _RECORD.pack(
        record.kind,
        record.flags,
        0,
        record.volume,
        record.region,
        epoch,
        record.epoch,
        record.prev_epoch,
        record.seq,
        committed,
        record.offset,
        record.length,
        len(record.data),
        record.client,
        record.number,
        record.low,
        record.cow_into,
        record.view,
        record.data_crc,
    )
    record.header = header = _CRC.pack(_crc32c(rest)) + rest
    return header


def data_crc(data: Buffer) -> int:
    """CRC32C of the data of a record."""
    # The C library takes bytes only; a bytearray or a view is copied, which is cheaper than any
    # other way of summing it in Python.
    return int(_crc32c(data if type(data) is bytes else bytes(data)))


def unpack_record(buffer: memoryview, at: int) -> tuple[Record, int, int, int]:
    """(record, stream epoch, committed, position behind it). The data is a view into `buffer`.

    RemoteProtocolError when it is cut short, damaged or breaks a bound. The CRC of the data is not
    checked here: a frame or a journal entry around it covers it.
    """
    end = at + RECORD_BYTES
    if end > len(buffer):
        raise RemoteProtocolError("a record is cut short")
    head = bytes(buffer[at:end])
    if _CRC.unpack_from(head)[0] != _crc32c(head[4:]):
        raise RemoteProtocolError("the header of a record is damaged")
    (
        kind, flags, _, volume, region, epoch, record_epoch, prev_epoch, seq, committed, offset,
        length, data_length, client, number, low, cow_into, view, crc,
    ) = _RECORD.unpack_from(head, 4)  # fmt: skip
    stop = end + data_length
    if stop > len(buffer):
        raise RemoteProtocolError("the data of a record is cut short")
    if (
        not WRITE <= kind <= TRIM
        or offset + length > REGION_BYTES_MAX
        or data_length != (length if kind == WRITE else 0)
    ):
        raise RemoteProtocolError("a record breaks a bound")
    record = Record(
        volume, region, kind, flags, offset, length, client, number, low, buffer[end:stop],
        epoch=record_epoch, prev_epoch=prev_epoch, seq=seq, data_crc=crc, cow_into=cow_into,
        view=view,
    )  # fmt: skip
    record.header = head
    return record, epoch, committed, stop


_REQUEST = struct.Struct("<BBHIIIIIIQQQ")
REQUEST_BYTES: Final = _REQUEST.size


def pack_request(record: Record) -> bytes:
    """A host request on its way to an owner. Its data follows it; READ and STATUS have none."""
    return _REQUEST.pack(
        record.kind,
        record.flags,
        0,
        record.volume,
        record.region,
        record.view,
        record.offset,
        record.length,
        len(record.data),
        record.client,
        record.number,
        record.low,
    )


def unpack_request(buffer: memoryview, at: int) -> tuple[Record, int]:
    """(operation without a place in a sequence, position behind it)."""
    end = at + REQUEST_BYTES
    if end > len(buffer):
        raise RemoteProtocolError("a host request is cut short")
    (
        kind, flags, _, volume, region, view, offset, length, data_length, client, number, low,
    ) = _REQUEST.unpack_from(buffer, at)  # fmt: skip
    stop = end + data_length
    if stop > len(buffer):
        raise RemoteProtocolError("the data of a host request is cut short")
    if (
        not WRITE <= kind <= STATUS
        or length > OPERATION_BYTES_MAX
        or offset + length > REGION_BYTES_MAX
        or data_length != (length if kind == WRITE else 0)
    ):
        raise RemoteProtocolError("a host request breaks a bound")
    data = buffer[end:stop]
    return (
        Record(volume, region, kind, flags, offset, length, client, number, low, data, view=view),
        stop,
    )


_REPLY = struct.Struct("<QQHHII")
REPLY_BYTES: Final = _REPLY.size

OK: Final = 0
# Outcomes that an ingress acts on; every other is an error code of base.errors in the text.
NOT_OWNER: Final = 1  # definite; `hint` is the owner by the answering node's catalog
ERROR_DEFINITE: Final = 2
ERROR_INDEFINITE: Final = 3
MOVED: Final = 4  # the owner lost the region meanwhile: send the same again, unchanged


def pack_reply(
    client: int, number: int, outcome: int, hint: int, version: int, length: int
) -> bytes:
    """Answer to one host request; `length` bytes of data (READ, STATUS) or of error text follow.

    version: catalog version of the answering node, modulo 2**32, so that a stale ingress knows.
    """
    return _REPLY.pack(client, number, outcome, hint, version & 0xFFFFFFFF, length)


def unpack_reply(buffer: memoryview, at: int) -> tuple[int, int, int, int, int, memoryview, int]:
    """(client, number, outcome, hint, version, data, position behind it)."""
    end = at + REPLY_BYTES
    if end > len(buffer):
        raise RemoteProtocolError("a host reply is cut short")
    client, number, outcome, hint, version, length = _REPLY.unpack_from(buffer, at)
    stop = end + length
    if stop > len(buffer):
        raise RemoteProtocolError("the data of a host reply is cut short")
    return client, number, outcome, hint, version, buffer[end:stop], stop
