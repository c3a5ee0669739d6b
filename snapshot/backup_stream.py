"""codec: a backup of one view as a stream: header, extents in ascending order, trailer.

A *full* stream has what a view holds; what it does not name reads as zeros. An *incremental* one
has what changed since its *base*, another view of the same volume that it names. Little endian:

    header   magic 8 · version u16 · length u32 · fields · names · crc u32
    extent   tag u8 · 0 u8×3 · crc u32 · offset u64 · length u64 · (DATA) length bytes
    trailer  tag u8 · 0 u8×3 · crc u32 · extents u64 · data bytes u64 · hash 32

A crc is CRC32C, of an extent over its head, the crc left out, and its data: it says *where* a
stream is broken. The hash says *whether* it is whole. It is a chain, link[0] = SHA-256(header),
link[n] = SHA-256(link[n-1] + extent n), hash = SHA-256(last link + head of the trailer), so what a
writer or a reader has to remember to go on at an extent is 32 bytes and a few numbers
(`ResumePoint`), with no need to read again what a tape or a pipe has taken already.

No extent is longer than EXTENT_BYTES_MAX and nothing is ever sought: memory is bounded by one
extent and one chunk of the caller's, at any size of volume.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import google_crc32c

from base.errors import InvalidRequest
from base.units import BLOCK_BYTES, SECTOR_BYTES, MiB
from snapshot.tree import NAME_BYTES_MAX

MAGIC: Final = b"8FBACKUP"
VERSION: Final = 1
EXTENT_BYTES_MAX: Final = MiB
SIZE_BYTES_MAX: Final = 1 << 62
BLOCK_BYTES_MAX: Final = EXTENT_BYTES_MAX

DATA: Final = ord("D")
ZERO: Final = ord("Z")
END: Final = ord("E")

_FRONT: Final = struct.Struct("<8sHI")
_FIELDS: Final = struct.Struct("<QIIIIQ4B")
_EXTENT: Final = struct.Struct("<B3sIQQ")
_CRC: Final = struct.Struct("<I")
_POINT: Final = struct.Struct("<QQQQQ32s32s")
_HASH_BYTES: Final = 32
_BODY_BYTES_MAX: Final = _FIELDS.size + 4 * 255
_POINT_TEXT: Final = "eightfold-backup-1:"

Chunk = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class BackupHeader:
    """What the stream is a backup of. view, base_view: numbers, which a volume gives out once, and
    names; base_view 0 and no name: a full backup. taken_ms: when the view was made, by the wall
    clock of its cluster, 0 when unknown. Every extent begins at a multiple of block_bytes, and ends
    at one or at the end of the volume."""

    cluster: str
    volume_id: int
    volume: str
    view: int
    name: str
    size_bytes: int
    block_bytes: int = BLOCK_BYTES
    base_view: int = 0
    base_name: str = ""
    taken_ms: int = 0

    @property
    def full(self) -> bool:
        """It needs no base."""
        return self.base_view == 0


@dataclass(frozen=True, slots=True)
class DataExtent:
    """Contents from a byte offset on."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ZeroExtent:
    """Bytes that read as zeros."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class BackupTrailer:
    """The stream is whole. zero_bytes is counted, not stored."""

    extents: int
    data_bytes: int
    zero_bytes: int
    digest: bytes


Extent = DataExtent | ZeroExtent
Event = BackupHeader | DataExtent | ZeroExtent | BackupTrailer


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """An edge between two extents. position: bytes of the stream before it; offset: the first byte
    of the volume that no extent before it has; stream: link[0], which tells streams apart."""

    position: int
    extents: int
    data_bytes: int
    zero_bytes: int
    offset: int
    link: bytes
    stream: bytes

    def to_text(self) -> str:
        """One line for a file beside the stream."""
        packed = _POINT.pack(
            self.position, self.extents, self.data_bytes, self.zero_bytes, self.offset, self.link,
            self.stream,
        )  # fmt: skip
        return _POINT_TEXT + (packed + _CRC.pack(google_crc32c.value(packed))).hex()

    @classmethod
    def from_text(cls, text: str) -> ResumePoint:
        """What `to_text` made. InvalidRequest when it is none, or damaged."""
        plain = text.strip()
        try:
            packed = bytes.fromhex(plain.removeprefix(_POINT_TEXT))
        except ValueError:
            packed = b""
        if not plain.startswith(_POINT_TEXT) or len(packed) != _POINT.size + _CRC.size:
            raise InvalidRequest("backup resume point: these are not the bytes of one")
        body = packed[: _POINT.size]
        if _CRC.unpack_from(packed, _POINT.size)[0] != google_crc32c.value(body):
            raise InvalidRequest("backup resume point: its checksum is wrong")
        return cls(*_POINT.unpack(body))


# ---------------------------------------------------------------------------------- header


def header_faults(header: BackupHeader) -> list[str]:
    """Rules that a header breaks, each with its thing; none for a good one."""
    faults: list[str] = []
    names = {"cluster": header.cluster, "volume": header.volume, "view": header.name}
    if not header.full:
        names["base"] = header.base_name
    for thing, name in names.items():
        if not 0 < len(name.encode("utf-8", "replace")) <= NAME_BYTES_MAX or not name.isprintable():
            faults.append(f"{thing} {name!r} is no name: 1 to {NAME_BYTES_MAX} printable bytes")
    if header.full and header.base_name:
        faults.append(f"base {header.base_name} has no number")
    if not header.full and header.base_view == header.view:
        faults.append(f"view {header.name} is its own base")
    if not header.full and header.base_name == header.name:
        faults.append(f"view and base are both called {header.name}")
    if not 0 < header.view < 1 << 28:
        faults.append(f"view number {header.view} is not in 1 … 2²⁸ - 1")
    if not 0 <= header.base_view < 1 << 28:
        faults.append(f"base number {header.base_view} is not in 1 … 2²⁸ - 1")
    if not 0 <= header.volume_id < 1 << 32:
        faults.append(f"volume number {header.volume_id} is not in 0 … 2³² - 1")
    if not 0 <= header.taken_ms < 1 << 64:
        faults.append(f"time {header.taken_ms} ms is not in 0 … 2⁶⁴ - 1")
    size, block = header.size_bytes, header.block_bytes
    if not 0 < size <= SIZE_BYTES_MAX or size % SECTOR_BYTES:
        faults.append(f"size of {size} bytes is no multiple of {SECTOR_BYTES} up to 2⁶²")
    if not SECTOR_BYTES <= block <= BLOCK_BYTES_MAX or block & block - 1:
        faults.append(f"block of {block} bytes is no power of two from {SECTOR_BYTES} to 1 MiB")
    return faults


def encode_header(header: BackupHeader) -> bytes:
    """InvalidRequest when it breaks a rule."""
    faults = header_faults(header)
    if faults:
        raise InvalidRequest(f"backup header: {faults[0]}")
    texts = (header.cluster, header.volume, header.name, header.base_name)
    names = [text.encode() for text in texts]
    fields = _FIELDS.pack(
        header.size_bytes, header.block_bytes, header.volume_id, header.view, header.base_view,
        header.taken_ms, *(len(name) for name in names),
    )  # fmt: skip
    body = fields + b"".join(names)
    front = _FRONT.pack(MAGIC, VERSION, len(body)) + body
    return front + _CRC.pack(google_crc32c.value(front))


def _decode_header(front: bytes, body: bytes) -> BackupHeader:
    """`body`: what follows the front, its crc left out. The crc was right."""
    size, block, volume_id, view, base_view, taken_ms, *lengths = _FIELDS.unpack_from(body)
    if _FIELDS.size + sum(lengths) != len(body):
        raise InvalidRequest(f"backup header: its names are not {len(body) - _FIELDS.size} bytes")
    names: list[str] = []
    at = _FIELDS.size
    for length in lengths:
        try:
            names.append(body[at : at + length].decode())
        except UnicodeDecodeError:
            raise InvalidRequest("backup header: a name is no UTF-8") from None
        at += length
    cluster, volume, name, base_name = names
    header = BackupHeader(
        cluster, volume_id, volume, view, name, size, block, base_view, base_name, taken_ms
    )
    faults = header_faults(header)
    if faults:
        raise InvalidRequest(f"backup header: {faults[0]}")
    assert encode_header(header)[: _FRONT.size] == front, "a header has one form"
    return header


# ---------------------------------------------------------------------------------- extents


def _head(tag: int, offset: int, length: int, data: bytes = b"") -> bytes:
    plain = _EXTENT.pack(tag, b"\0\0\0", 0, offset, length)
    crc = google_crc32c.extend(google_crc32c.value(plain), data)
    return _EXTENT.pack(tag, b"\0\0\0", crc, offset, length)


def _link(before: bytes, head: bytes, data: bytes = b"") -> bytes:
    digest = hashlib.sha256(before)
    digest.update(head)
    digest.update(data)
    return digest.digest()


def _start(header: bytes) -> ResumePoint:
    link = hashlib.sha256(header).digest()
    return ResumePoint(len(header), 0, 0, 0, 0, link, link)


def _extent_fault(header: BackupHeader, point: ResumePoint, tag: int, at: int, length: int) -> str:
    """The rule that an extent breaks, "" for none."""
    end = at + length
    if not length:
        return "it is empty"
    if at < point.offset:
        return f"it begins before {point.offset}, where the one before it ended"
    if end > header.size_bytes:
        return f"it ends at {end}, behind the end of the volume at {header.size_bytes}"
    if at % header.block_bytes or (end % header.block_bytes and end != header.size_bytes):
        return f"it is not whole blocks of {header.block_bytes} bytes"
    if tag == DATA and length > EXTENT_BYTES_MAX:
        return f"its {length} bytes are more than {EXTENT_BYTES_MAX}"
    return ""


def _after(
    point: ResumePoint, head: bytes, tag: int, at: int, length: int, data: bytes
) -> ResumePoint:
    stored = length if tag == DATA else 0
    return replace(
        point,
        position=point.position + len(head) + stored,
        extents=point.extents + 1,
        data_bytes=point.data_bytes + stored,
        zero_bytes=point.zero_bytes + length - stored,
        offset=at + length,
        link=_link(point.link, head, data),
    )


class BackupWriter:
    """Makes the bytes of one stream, in order. `point` is where it could go on later: keep it after
    the bytes before it are safe. InvalidRequest for an extent that breaks a rule; nothing changed.
    """

    def __init__(self, header: BackupHeader, point: ResumePoint | None = None) -> None:
        """point: go on there, and do not call `begin`. InvalidRequest when it is a point of another
        stream: of another view, base, size, or any other field."""
        self._header = header
        self._begin = encode_header(header)
        self._start = _start(self._begin)
        if point is not None and point.stream != self._start.stream:
            raise InvalidRequest(
                f"backup of {header.volume} view {header.name} cannot go on there: "
                "the resume point belongs to another stream"
            )
        self.point = point or self._start

    def begin(self) -> bytes:
        """The header."""
        return self._begin

    def data(self, offset: int, data: bytes) -> list[bytes]:
        """Contents, as extents of at most EXTENT_BYTES_MAX; heads and contents alternate."""
        self._check(offset, len(data))  # the edges between its parts are edges of blocks
        made: list[bytes] = []
        for start in range(0, len(data), EXTENT_BYTES_MAX):
            part = data[start : start + EXTENT_BYTES_MAX]
            head = _head(DATA, offset + start, len(part), part)
            self.point = _after(self.point, head, DATA, offset + start, len(part), part)
            made += [head, part]
        return made

    def zero(self, offset: int, length: int) -> bytes:
        """Bytes that read as zeros, any number of them."""
        self._check(offset, length)
        head = _head(ZERO, offset, length)
        self.point = _after(self.point, head, ZERO, offset, length, b"")
        return head

    def finish(self) -> bytes:
        """The trailer. Nothing may follow."""
        head = _head(END, self.point.extents, self.point.data_bytes)
        return head + _link(self.point.link, head)

    def _check(self, offset: int, length: int) -> None:
        fault = _extent_fault(self._header, self.point, ZERO, offset, length)
        if fault:
            raise InvalidRequest(
                f"backup of {self._header.volume} view {self._header.name}: "
                f"extent at {offset}: {fault}"
            )


# ---------------------------------------------------------------------------------- reading


class BackupReader:
    """Any cut of the stream into chunks gives the same events. Each extent was checked before it is
    handed out, the whole only when the trailer has come: do not change anything that is in use for
    an extent alone; see `verify`.

    InvalidRequest names the place and the rule; a reader that refused refuses from then on.
    `point`: the edge behind the last good extent, for a stream that was cut short; None before the
    header, and when the hash was wrong.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._taken = 0  # bytes of the buffer that were used up in this call
        self._fault = ""
        self.header: BackupHeader | None = None
        self.point: ResumePoint | None = None
        self.trailer: BackupTrailer | None = None

    def receive_data(self, data: Chunk) -> list[Event]:
        """What the next bytes complete."""
        if self._fault:
            raise InvalidRequest(self._fault)
        self._buffer += data
        events: list[Event] = []
        try:
            while (event := self._next()) is not None:
                events.append(event)
        except InvalidRequest as error:
            self._fault = str(error)
            self._buffer.clear()
            self._taken = 0
            raise
        del self._buffer[: self._taken]
        self._taken = 0
        return events

    def close(self) -> BackupTrailer:
        """There are no more bytes. InvalidRequest when the trailer has not come."""
        if self._fault:
            raise InvalidRequest(self._fault)
        if self.trailer is None:
            raise InvalidRequest(f"{self._place()}: the stream is cut short, it has no trailer")
        return self.trailer

    def _place(self) -> str:
        if self.header is None or self.point is None:
            return "backup stream: header"
        return (
            f"backup of {self.header.volume} view {self.header.name}: "
            f"extent {self.point.extents} at byte {self.point.position} of the stream"
        )

    def _refuse(self, rule: str) -> InvalidRequest:
        return InvalidRequest(f"{self._place()}: {rule}")

    def _peek(self, count: int, skip: int = 0) -> bytes | None:
        """`count` bytes, when they are there; they stay."""
        first = self._taken + skip
        if len(self._buffer) < first + count:
            return None
        return bytes(memoryview(self._buffer)[first : first + count])

    def _next(self) -> Event | None:
        if self.trailer is not None:
            if len(self._buffer) > self._taken:
                raise InvalidRequest("backup stream: there are bytes behind the trailer")
            return None
        if self.header is None:
            return self._next_header()
        head = self._peek(_EXTENT.size)
        if head is None:
            return None
        tag, reserved, crc, first, second = _EXTENT.unpack(head)
        if tag not in (DATA, ZERO, END) or any(reserved):
            raise self._refuse(f"tag {head[:4].hex()} is not one of this format")
        if tag == END:
            return self._next_trailer(head, crc, first, second)
        return self._next_extent(head, tag, crc, first, second)

    def _next_header(self) -> BackupHeader | None:
        there = bytes(memoryview(self._buffer)[: len(MAGIC)])
        if there != MAGIC[: len(there)]:
            raise self._refuse("this is no backup stream")
        front = self._peek(_FRONT.size)
        if front is None:
            return None
        _, version, length = _FRONT.unpack(front)
        if version != VERSION:
            raise self._refuse(f"format version {version} is unknown, {VERSION} is known")
        if not _FIELDS.size <= length <= _BODY_BYTES_MAX:
            raise self._refuse(f"its length of {length} bytes is impossible")
        rest = self._peek(length + _CRC.size, _FRONT.size)
        if rest is None:
            return None
        body = rest[:length]
        if _CRC.unpack_from(rest, length)[0] != google_crc32c.value(front + body):
            raise self._refuse("its checksum is wrong")
        header = _decode_header(front, body)
        self.header, self.point = header, _start(front + rest)
        self._taken += len(front) + len(rest)
        return header

    def _next_extent(self, head: bytes, tag: int, crc: int, at: int, length: int) -> Extent | None:
        assert self.header is not None
        assert self.point is not None
        fault = _extent_fault(self.header, self.point, tag, at, length)
        if fault:
            raise self._refuse(fault)
        data = self._peek(length, len(head)) if tag == DATA else b""
        if data is None:
            return None
        self._check_crc(head, crc, data)
        self.point = _after(self.point, head, tag, at, length, data)
        self._taken += len(head) + len(data)
        return DataExtent(at, data) if tag == DATA else ZeroExtent(at, length)

    def _next_trailer(
        self, head: bytes, crc: int, extents: int, data_bytes: int
    ) -> BackupTrailer | None:
        assert self.point is not None
        self._check_crc(head, crc, b"")
        digest = self._peek(_HASH_BYTES, len(head))
        if digest is None:
            return None
        if digest != _link(self.point.link, head):
            # Some extent is not what was written although its checksum is right: trust no edge.
            refusal = self._refuse("the hash of the trailer is not that of the stream")
            self.point = None
            raise refusal
        if extents != self.point.extents or data_bytes != self.point.data_bytes:
            raise self._refuse(
                f"the trailer counts {extents} extents with {data_bytes} bytes of data, there were "
                f"{self.point.extents} with {self.point.data_bytes}"
            )
        self._taken += len(head) + len(digest)
        self.trailer = BackupTrailer(extents, data_bytes, self.point.zero_bytes, digest)
        return self.trailer

    def _check_crc(self, head: bytes, crc: int, data: bytes) -> None:
        plain = head[:4] + bytes(_CRC.size) + head[8:]
        if crc != google_crc32c.extend(google_crc32c.value(plain), data):
            raise self._refuse("its checksum is wrong")


# ---------------------------------------------------------------------------------- two passes


@dataclass(frozen=True, slots=True)
class Verified:
    """A stream that was read to its end, and nothing was wrong with it."""

    header: BackupHeader
    trailer: BackupTrailer


def verify(chunks: Iterable[Chunk]) -> Verified:
    """The first pass: changes nothing. InvalidRequest names the place and the rule."""
    reader = BackupReader()
    for chunk in chunks:
        reader.receive_data(chunk)
    trailer = reader.close()
    assert reader.header is not None
    return Verified(reader.header, trailer)


def extents_of(chunks: Iterable[Chunk], verified: Verified) -> Iterator[Extent]:
    """The second pass over the same stream, for applying it. InvalidRequest when it is not the one
    that was verified any more: the copy that is being made must then not be put to use."""
    reader = BackupReader()
    for chunk in chunks:
        for event in reader.receive_data(chunk):
            if isinstance(event, DataExtent | ZeroExtent):
                yield event
            elif event not in (verified.header, verified.trailer):
                raise InvalidRequest(
                    f"backup of {verified.header.volume} view {verified.header.name}: "
                    "the stream has changed since it was verified"
                )
    reader.close()


def last_good_point(chunks: Iterable[Chunk]) -> ResumePoint | None:
    """Where a stream that was cut short or damaged can be gone on with: what is behind the position
    is to be cut off. None: not even the header is good, or the stream is whole already."""
    reader = BackupReader()
    try:
        for chunk in chunks:
            reader.receive_data(chunk)
    except InvalidRequest:
        pass
    return None if reader.trailer is not None else reader.point
