"""codec: differences as RBD has them, `rbd diff v1` and `rbd diff v2`, which other tools read.

Format: Ceph documentation, "RBD Incremental Backup" (dev/rbd-diff). Little endian, a line first:

    f u32 n · name            the difference starts at this snapshot; without it, at nothing
    t u32 n · name            it ends at this one; without it, at the image as it was
    s u64 size                of the image at the end
    w u64 offset · u64 n · n  contents      z u64 offset · u64 n   zeros      e   the end

Metadata (f, t, s) come before data. Version 2 has the length of a record, u64, behind its tag, but
none behind `e`; so a reader can step over tags that it does not know.

There is no checksum: a first pass (`verify`) sees a stream that is cut short or out of shape, and
nothing else. What must be proof against rot is `snapshot.backup_stream`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from base.errors import InvalidRequest
from base.units import MiB

LINES: Final = {1: b"rbd diff v1\n", 2: b"rbd diff v2\n"}
IMAGE_LINE: Final = b"rbd image v"  # another format: a whole image with many differences
LINE_BYTES: Final = 12
NAME_BYTES_MAX: Final = 1024
PIECE_BYTES_MAX: Final = MiB
METADATA: Final = "fts"

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_PLACE: Final = struct.Struct("<QQ")

Chunk = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class RbdHeader:
    """What the metadata say, before the first contents. from_name "": a full one; to_name "": it
    ends at no snapshot. size_bytes -1: not said."""

    version: int
    from_name: str = ""
    to_name: str = ""
    size_bytes: int = -1


@dataclass(frozen=True, slots=True)
class RbdData:
    """Contents from an offset on: a record, or the next piece of a long one."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RbdZero:
    """Zeros."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class RbdEnd:
    """The stream is complete. records: data and zeros; skipped: of tags that are not known."""

    records: int
    data_bytes: int
    zero_bytes: int
    skipped: int


RbdEvent = RbdHeader | RbdData | RbdZero | RbdEnd


class RbdWriter:
    """Makes the bytes of one difference, in ascending order. InvalidRequest for what breaks a rule;
    nothing changed."""

    def __init__(self, header: RbdHeader) -> None:
        """InvalidRequest for a version, a name or a size that cannot be written."""
        if header.version not in LINES:
            raise InvalidRequest(f"rbd diff: version {header.version} is not 1 or 2")
        for name in (header.from_name, header.to_name):
            if len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX or "\0" in name:
                raise InvalidRequest(
                    f"rbd diff: {name!r} is no name of up to {NAME_BYTES_MAX} bytes"
                )
        if not 0 <= header.size_bytes < 1 << 63:
            raise InvalidRequest(f"rbd diff: a size of {header.size_bytes} bytes is impossible")
        self._header = header
        self._offset = 0

    def begin(self) -> bytes:
        """The line and the metadata."""
        made = LINES[self._header.version]
        for tag, name in (("f", self._header.from_name), ("t", self._header.to_name)):
            if name:
                packed = name.encode()
                made += self._record(tag, _U32.pack(len(packed)) + packed)
        return made + self._record("s", _U64.pack(self._header.size_bytes))

    def data(self, offset: int, data: bytes) -> list[bytes]:
        """One record: its head and the contents."""
        self._take(offset, len(data))
        return [self._record("w", _PLACE.pack(offset, len(data)), len(data)), data]

    def zero(self, offset: int, length: int) -> bytes:
        """One record."""
        self._take(offset, length)
        return self._record("z", _PLACE.pack(offset, length))

    def finish(self) -> bytes:
        """The end. Nothing may follow."""
        return b"e"

    def _record(self, tag: str, payload: bytes, more: int = 0) -> bytes:
        length = _U64.pack(len(payload) + more) if self._header.version == 2 else b""
        return tag.encode() + length + payload

    def _take(self, offset: int, length: int) -> None:
        if not length or offset < self._offset or offset + length > self._header.size_bytes:
            raise InvalidRequest(
                f"rbd diff: {length} bytes at {offset} are empty, before {self._offset} or behind "
                f"the end at {self._header.size_bytes}"
            )
        self._offset = offset + length


class RbdReader:
    """Any cut of the stream into chunks gives the same contents; long records come in pieces of at
    most PIECE_BYTES_MAX, so memory is bounded by one piece and one chunk of the caller's.

    InvalidRequest names the place and the rule; a reader that refused refuses from then on. Records
    need not ascend (images with striping do not), but must lie within the image.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._taken = 0
        self._fault = ""
        self._version = 0
        self._names: dict[str, str] = {}
        self._size = -1
        self._header_out = False
        self._offset = 0  # of the rest of the record whose contents are coming
        self._left = 0  # bytes of it
        self._skip = 0  # bytes of an unknown record
        self._position = 0  # bytes of the stream before the buffer
        self._records = self._data_bytes = self._zero_bytes = self._skipped = 0
        self.end: RbdEnd | None = None

    def receive_data(self, data: Chunk) -> list[RbdEvent]:
        """What the next bytes complete."""
        if self._fault:
            raise InvalidRequest(self._fault)
        self._buffer += data
        events: list[RbdEvent] = []
        try:
            while self._step(events):
                pass
        except InvalidRequest as error:
            self._fault = str(error)
            self._buffer.clear()
            raise
        del self._buffer[: self._taken]
        self._position += self._taken
        self._taken = 0
        return events

    def close(self) -> RbdEnd:
        """There are no more bytes. InvalidRequest when the end has not come."""
        if self._fault:
            raise InvalidRequest(self._fault)
        if self.end is None:
            raise self._refuse("the stream is cut short, its end is missing")
        return self.end

    def _refuse(self, rule: str) -> InvalidRequest:
        return InvalidRequest(f"rbd diff: at byte {self._position + self._taken}: {rule}")

    def _peek(self, count: int, skip: int = 0) -> bytes | None:
        first = self._taken + skip
        if len(self._buffer) < first + count:
            return None
        return bytes(memoryview(self._buffer)[first : first + count])

    def _step(self, events: list[RbdEvent]) -> bool:
        """Take one record or a piece of one; False: more bytes are needed."""
        there = len(self._buffer) - self._taken
        if self.end is not None:
            if there:
                raise self._refuse("there are bytes behind the end")
            return False
        if not self._version:
            return self._take_line()
        if self._skip:
            gone = min(self._skip, there)
            self._skip -= gone
            self._taken += gone
            return gone > 0
        if self._left:
            return self._take_piece(events, there)
        return self._take_record(events)

    def _take_line(self) -> bool:
        line = bytes(self._buffer[:LINE_BYTES])
        if line.startswith(IMAGE_LINE):
            raise self._refuse("this is a whole image (rbd export --export-format 2), not a diff")
        if not any(known.startswith(line) for known in LINES.values()) and not (
            IMAGE_LINE.startswith(line)
        ):
            raise self._refuse("this is no rbd diff of version 1 or 2")
        if len(line) < LINE_BYTES:
            return False
        self._version = 1 if line == LINES[1] else 2
        self._taken += LINE_BYTES
        return True

    def _take_piece(self, events: list[RbdEvent], there: int) -> bool:
        # Whole pieces or the end of the record, so that small chunks do not make small writes.
        count = min(self._left, PIECE_BYTES_MAX)
        if there < count:
            return False
        data = self._peek(count)
        assert data is not None
        events.append(RbdData(self._offset, data))
        self._offset += count
        self._left -= count
        self._taken += count
        self._data_bytes += count
        return True

    def _take_record(self, events: list[RbdEvent]) -> bool:
        first = self._peek(1)
        if first is None:
            return False
        tag = first.decode("latin-1")
        if tag == "e":
            self._show_header(events)
            self._taken += 1
            self.end = RbdEnd(self._records, self._data_bytes, self._zero_bytes, self._skipped)
            events.append(self.end)
            return True
        known = tag in "ftswz"
        if not known and self._version == 1:
            raise self._refuse(f"tag {first.hex()} is unknown, and version 1 cannot step over it")
        if known and tag in METADATA and self._header_out:
            raise self._refuse(f"metadata ({tag}) behind the first contents")
        head, length = 1, -1
        if self._version == 2:
            packed = self._peek(_U64.size, 1)
            if packed is None:
                return False
            head, length = 1 + _U64.size, _U64.unpack(packed)[0]
        if not known:
            self._taken += head
            self._skip = length
            self._skipped += 1
            return True
        if tag in "wz":
            return self._take_contents(events, tag, head, length)
        if tag == "s":
            return self._take_size(head, length)
        return self._take_name(tag, head, length)

    def _take_name(self, tag: str, head: int, length: int) -> bool:
        packed = self._peek(_U32.size, head)
        if packed is None:
            return False
        count = _U32.unpack(packed)[0]
        if not 0 < count <= NAME_BYTES_MAX:
            raise self._refuse(f"a snapshot's name of {count} bytes is not 1 to {NAME_BYTES_MAX}")
        self._check_length(tag, length, _U32.size + count)
        if tag in self._names:
            raise self._refuse(f"a second snapshot ({tag})")
        name = self._peek(count, head + _U32.size)
        if name is None:
            return False
        try:
            self._names[tag] = name.decode()
        except UnicodeDecodeError:
            raise self._refuse(f"the snapshot's name ({tag}) is no UTF-8") from None
        self._taken += head + _U32.size + count
        return True

    def _take_size(self, head: int, length: int) -> bool:
        self._check_length("s", length, _U64.size)
        packed = self._peek(_U64.size, head)
        if packed is None:
            return False
        size = _U64.unpack(packed)[0]
        if self._size >= 0:
            raise self._refuse("a second size (s)")
        if size >= 1 << 63:
            raise self._refuse(f"a size of {size} bytes is impossible")
        self._size = size
        self._taken += head + _U64.size
        return True

    def _take_contents(self, events: list[RbdEvent], tag: str, head: int, length: int) -> bool:
        packed = self._peek(_PLACE.size, head)
        if packed is None:
            return False
        offset, count = _PLACE.unpack(packed)
        self._check_length(tag, length, _PLACE.size + (count if tag == "w" else 0))
        if self._size < 0:
            raise self._refuse("contents before the size (s) of the image")
        if not count:
            raise self._refuse(f"a record of nothing at {offset}")
        if offset + count > self._size:
            raise self._refuse(
                f"{count} bytes at {offset} end behind the end of the image at {self._size}"
            )
        self._show_header(events)
        self._records += 1
        self._taken += head + _PLACE.size
        if tag == "w":
            self._offset, self._left = offset, count
        else:
            events.append(RbdZero(offset, count))
            self._zero_bytes += count
        return True

    def _check_length(self, tag: str, said: int, right: int) -> None:
        if said not in (-1, right):
            raise self._refuse(f"record {tag} says {said} bytes and has {right}")

    def _show_header(self, events: list[RbdEvent]) -> None:
        if not self._header_out:
            self._header_out = True
            names = self._names
            events.append(
                RbdHeader(self._version, names.get("f", ""), names.get("t", ""), self._size)
            )


def verify(chunks: Iterable[Chunk]) -> tuple[RbdHeader, RbdEnd]:
    """The first pass: shape and completeness; changes nothing."""
    reader = RbdReader()
    header: RbdHeader | None = None
    for chunk in chunks:
        for event in reader.receive_data(chunk):
            if isinstance(event, RbdHeader):
                header = event
    end = reader.close()
    assert header is not None, "a header comes before the end"
    return header, end


def contents_of(
    chunks: Iterable[Chunk], verified: tuple[RbdHeader, RbdEnd]
) -> Iterator[RbdData | RbdZero]:
    """The second pass, for applying it in order. InvalidRequest when the stream is not the one that
    was verified any more, as far as its shape tells."""
    reader = RbdReader()
    for chunk in chunks:
        for event in reader.receive_data(chunk):
            if isinstance(event, RbdData | RbdZero):
                yield event
            elif event not in verified:
                raise InvalidRequest("rbd diff: the stream has changed since it was verified")
    reader.close()
