"""codec: the server's side of NBD transmission, without I/O: requests in, replies out.

`RequestReader` owns the memory that a socket reads into: small writes are copied once out of its
ring, large ones are received straight into a buffer of their own. `check_request` is the one place
where a request is held against the rules. `encode_reply` appends a reply to a list of buffers and
never copies the data. Sections named in comments are those of the NBD protocol document. The
handshake that comes before is in `nbd_handshake.py`, constants in `nbd_wire.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from base.device import Buffer
from base.errors import RemoteProtocolError, StorageError
from base.units import KiB, MiB
from host import nbd_wire as wire
from host.export import (
    Hole,
    HostRequest,
    ReadResult,
    Reply,
    RequestKind,
    Result,
    StatusResult,
)
from host.nbd_handshake import Session

RING_BYTES: Final = 256 * KiB
DIRECT_BYTES: Final = 32 * KiB  # payloads above this are received into their own buffer
RING_BYTES_MIN: Final = 128 * KiB
_ROOM_MIN_BYTES: Final = 64 * KiB  # offer the socket at least this much, else move the rest down
_ZEROS: Final = memoryview(bytes(1 * MiB))

_KINDS: Final[dict[int, RequestKind]] = {
    wire.CMD_READ: RequestKind.READ,
    wire.CMD_WRITE: RequestKind.WRITE,
    wire.CMD_FLUSH: RequestKind.FLUSH,
    wire.CMD_TRIM: RequestKind.TRIM,
    wire.CMD_WRITE_ZEROES: RequestKind.ZERO,
    wire.CMD_BLOCK_STATUS: RequestKind.STATUS,
}

# "Command flags": FUA is ignored where it means nothing, every other flag belongs to one command.
_FLAGS_ALLOWED: Final[dict[int, int]] = {
    wire.CMD_READ: wire.CMD_FLAG_FUA | wire.CMD_FLAG_DF,
    wire.CMD_WRITE: wire.CMD_FLAG_FUA,
    wire.CMD_FLUSH: wire.CMD_FLAG_FUA,
    wire.CMD_TRIM: wire.CMD_FLAG_FUA,
    wire.CMD_WRITE_ZEROES: wire.CMD_FLAG_FUA | wire.CMD_FLAG_NO_HOLE,
    wire.CMD_BLOCK_STATUS: wire.CMD_FLAG_FUA | wire.CMD_FLAG_REQ_ONE,
}
_CHANGING: Final = frozenset({wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES})
_GROWING: Final = frozenset({wire.CMD_WRITE, wire.CMD_WRITE_ZEROES})


class Refusal:
    """A request that breaks a rule; its connection goes on. Answer it with `encode_refusal`."""

    __slots__ = ("cookie", "errno", "text")

    def __init__(self, cookie: int, errno: int, text: str) -> None:
        self.cookie = cookie
        self.errno = errno
        self.text = text


class Disconnect:
    """The client said that it will send no more; answer what is in flight, then close."""

    __slots__ = ()


Event = HostRequest | Refusal | Disconnect


def check_request(
    session: Session, command: int, flags: int, offset: int, length: int
) -> tuple[int, str] | None:
    """None when the request may be executed, else (NBD error value, the rule that it breaks)."""
    allowed = _FLAGS_ALLOWED.get(command)
    if allowed is None:
        return wire.NBD_EINVAL, f"command {command} is not offered"
    if flags & ~allowed:
        return wire.NBD_EINVAL, f"flags {flags:#x} are not allowed with command {command}"
    view = session.view
    if command in _CHANGING and view.read_only:
        return wire.NBD_EPERM, f"{view.name} is read-only"
    if command == wire.CMD_FLUSH:
        if offset or length:
            return wire.NBD_EINVAL, "a flush has neither offset nor length"
        return None
    if length == 0:
        return wire.NBD_EINVAL, "length 0"
    if command == wire.CMD_READ:
        if length > wire.REQUEST_BYTES_MAX:
            return wire.NBD_EINVAL, f"{length} bytes: {wire.REQUEST_BYTES_MAX} are allowed"
        if flags & wire.CMD_FLAG_DF and not session.structured:
            return wire.NBD_EINVAL, "DF needs structured replies"
    elif command == wire.CMD_BLOCK_STATUS and not session.contexts:
        return wire.NBD_EINVAL, "block status: no context was selected"
    if offset + length > view.size_bytes:
        errno = wire.NBD_ENOSPC if command in _GROWING else wire.NBD_EINVAL
        return errno, f"{offset}+{length} is beyond the end, {view.size_bytes}"
    if (offset | length) & (view.block_min_bytes - 1):
        return wire.NBD_EINVAL, f"{offset}+{length} is not aligned to {view.block_min_bytes}"
    return None


class RequestReader:
    """Turns a byte stream into checked requests.

    Shell: read into `get_buffer()`, call `received(count)`, then `take()` until None. A shell with
    too much in flight stops taking, and reading; the bytes wait in the ring. Raises
    RemoteProtocolError where the stream can no longer be followed: a bad magic, an oversized write.
    """

    __slots__ = (
        "_direct", "_direct_filled", "_end", "_pending", "_reply", "_ring", "_session",
        "_skip_bytes", "_start", "_view",
    )  # fmt: skip

    def __init__(self, session: Session, reply: Reply, *, ring_bytes: int = RING_BYTES) -> None:
        assert ring_bytes >= RING_BYTES_MIN
        self._session = session
        self._reply = reply
        self._ring = bytearray(ring_bytes)
        self._view = memoryview(self._ring)
        self._start = 0
        self._end = 0
        self._skip_bytes = 0  # payload of a refused write that is still to come
        self._pending: HostRequest | None = None  # the large write that is being received
        self._direct = memoryview(b"")
        self._direct_filled = 0

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; never empty while everything complete has been taken."""
        if self._pending is not None:
            return self._direct[self._direct_filled :]
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            return self._view
        if start and len(self._ring) - end < _ROOM_MIN_BYTES:
            self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes now stand in the buffer that `get_buffer` gave last."""
        if self._pending is not None:
            self._direct_filled += count
        else:
            self._end += count

    def receive_data(self, received: Buffer) -> list[Event]:
        """Feed bytes from elsewhere, and take everything that is complete."""
        rest = memoryview(received)
        events: list[Event] = []
        while len(rest):
            room = self.get_buffer()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            rest = rest[count:]
            self.received(count)
            while (event := self.take()) is not None:
                events.append(event)
        return events

    def take(self) -> Event | None:
        """The next complete request, or None until more has been received."""
        if self._pending is not None:
            return self._take_pending()
        start = self._start
        if self._skip_bytes:
            start = self._skip(start)
        ready = self._end - start
        if ready < 28:  # wire.REQUEST.size
            return None
        magic, flags, command, cookie, offset, length = wire.REQUEST.unpack_from(self._ring, start)
        if magic != wire.REQUEST_MAGIC:
            raise RemoteProtocolError(f"request magic {magic:#x}: the stream is out of step")
        start += 28
        if command == wire.CMD_WRITE:
            if length > wire.REQUEST_BYTES_MAX:
                raise RemoteProtocolError(
                    f"a write of {length} bytes: {wire.REQUEST_BYTES_MAX} are allowed"
                )
            if ready < 28 + length and length <= DIRECT_BYTES:
                return None
        elif command == wire.CMD_DISC:
            self._start = start
            return Disconnect()
        refused = check_request(self._session, command, flags, offset, length)
        if refused is not None:
            self._start = start
            if command == wire.CMD_WRITE:
                self._skip_bytes = length
                self._start = self._skip(start)
            return Refusal(cookie, refused[0], refused[1])
        if command == wire.CMD_WRITE:
            return self._take_write(start, flags, cookie, offset, length)
        self._start = start
        request = HostRequest(
            _KINDS[command], offset, length, self._reply, b"", (flags & 1) != 0, cookie
        )
        if flags & ~wire.CMD_FLAG_FUA:
            request.no_hole = bool(flags & wire.CMD_FLAG_NO_HOLE)
            request.only_one = bool(flags & wire.CMD_FLAG_REQ_ONE)
            request.no_fragment = bool(flags & wire.CMD_FLAG_DF)
        return request

    def _take_write(
        self, start: int, flags: int, cookie: int, offset: int, length: int
    ) -> HostRequest | None:
        end = start + length
        if end <= self._end:
            self._start = end
            payload: Buffer = bytes(self._view[start:end])
            return HostRequest(
                RequestKind.WRITE, offset, length, self._reply, payload, (flags & 1) != 0, cookie
            )
        # Not zeroed: it is handed out only when every byte of it has been received.
        self._direct = np.empty(length, np.uint8).data
        filled = self._end - start
        self._direct[:filled] = self._view[start : self._end]
        self._direct_filled = filled
        self._start = self._end = 0
        self._pending = HostRequest(
            RequestKind.WRITE, offset, length, self._reply, self._direct, (flags & 1) != 0, cookie
        )
        return None

    def _take_pending(self) -> HostRequest | None:
        request = self._pending
        assert request is not None
        if self._direct_filled < request.length:
            return None
        self._pending = None
        self._direct = memoryview(b"")
        return request

    def _skip(self, start: int) -> int:
        count = min(self._skip_bytes, self._end - start)
        self._skip_bytes -= count
        self._start = start + count
        return self._start


def encode_reply(
    out: list[Buffer],
    structured: bool,
    request: HostRequest,
    error: StorageError | None,
    result: Result,
) -> int:
    """Append the reply to anything but STATUS; returns its length in bytes.

    With structured replies a read is one data chunk, or data and hole chunks; other commands keep
    the short simple reply, which "Structured reply chunk message" allows, unless they failed.
    """
    cookie = request.cookie
    if error is not None:
        return encode_refusal(out, structured, cookie, wire.errno_of(error), str(error))
    if request.kind != RequestKind.READ:
        out.append(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie))
        return 16
    length = request.length
    pieces: ReadResult = result
    assert sum(map(len, pieces)) == length, "a view answered a read with another length"
    if structured:
        if len(pieces) > 1 or type(pieces[0]) is Hole:
            if not request.no_fragment:
                return _encode_chunks(out, request, pieces)
            pieces = _without_holes(pieces)
        # Magic, DONE, OFFSET_DATA, cookie, length of the rest, offset.
        out.append(
            wire.CHUNK_DATA.pack(
                wire.STRUCTURED_REPLY_MAGIC, 1, 1, cookie, length + 8, request.offset
            )
        )
        out += pieces  # type: ignore[arg-type]  # holes were replaced
        return length + 28
    out.append(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie))
    out += _without_holes(pieces)
    return length + 16


def _without_holes(pieces: ReadResult) -> list[Buffer]:
    plain: list[Buffer] = []
    for piece in pieces:
        if isinstance(piece, Hole):
            whole, rest = divmod(piece.length, len(_ZEROS))
            plain += [_ZEROS] * whole
            if rest:
                plain.append(_ZEROS[:rest])
        else:
            plain.append(piece)
    return plain


def _encode_chunks(out: list[Buffer], request: HostRequest, pieces: ReadResult) -> int:
    """One chunk for each run of data and for each hole ("Structured reply types")."""
    offset, end = request.offset, request.offset + request.length
    sent = 0
    at = 0
    while at < len(pieces):
        piece = pieces[at]
        run = len(piece)
        at += 1
        if isinstance(piece, Hole):
            done = int(offset + run == end)
            head = wire.CHUNK_HOLE.pack(
                wire.STRUCTURED_REPLY_MAGIC, done, wire.CHUNK_OFFSET_HOLE,
                request.cookie, 12, offset, run,
            )  # fmt: skip
            out.append(head)
            sent += len(head)
        else:
            buffers = [piece]
            while at < len(pieces) and not isinstance(follower := pieces[at], Hole):
                buffers.append(follower)
                run += len(follower)
                at += 1
            done = int(offset + run == end)
            head = wire.CHUNK_DATA.pack(
                wire.STRUCTURED_REPLY_MAGIC, done, wire.CHUNK_OFFSET_DATA,
                request.cookie, run + 8, offset,
            )  # fmt: skip
            out.append(head)
            out += buffers
            sent += len(head) + run
        offset += run
    return sent


def encode_refusal(out: list[Buffer], structured: bool, cookie: int, errno: int, text: str) -> int:
    """Append an error reply; with structured replies the client is told why in words."""
    if not structured:
        out.append(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, errno, cookie))
        return 16
    words = text.encode("utf-8", "replace")[: wire.STRING_BYTES_MAX].decode("utf-8", "ignore")
    encoded = words.encode()
    head = wire.CHUNK_ERROR_HEAD.pack(
        wire.STRUCTURED_REPLY_MAGIC, wire.CHUNK_FLAG_DONE, wire.CHUNK_ERROR,
        cookie, 6 + len(encoded), errno, len(encoded),
    )  # fmt: skip
    out.append(head + encoded)
    return len(head) + len(encoded)


def encode_status(
    out: list[Buffer], request: HostRequest, parts: Sequence[tuple[int, StatusResult]]
) -> int:
    """Append the reply to a STATUS: one chunk for each (context id, extents); returns its bytes."""
    sent = 0
    for number, (context_id, extents) in enumerate(parts, start=1):
        merged = _merge_extents(extents, request.length, only_one=request.only_one)
        body = b"".join([wire.STATUS_EXTENT.pack(length, flags) for length, flags in merged])
        head = wire.CHUNK.pack(
            wire.STRUCTURED_REPLY_MAGIC, int(number == len(parts)), wire.CHUNK_BLOCK_STATUS,
            request.cookie, 4 + len(body),
        )  # fmt: skip
        out.append(head + wire.U32.pack(context_id) + body)
        sent += len(head) + 4 + len(body)
    return sent


def _merge_extents(extents: StatusResult, limit: int, *, only_one: bool) -> list[tuple[int, int]]:
    """Neighbours of the same flags joined, cut at the end of the request, bounded in number."""
    merged: list[tuple[int, int]] = []
    covered = 0
    for length, flags in extents:
        assert length > 0, "a view answered with an empty status extent"
        if covered >= limit:
            break
        run = min(length, limit - covered)
        covered += run
        if merged and merged[-1][1] == flags:
            merged[-1] = (merged[-1][0] + run, flags)
        elif (only_one and merged) or len(merged) == wire.STATUS_EXTENTS_MAX:
            break
        else:
            merged.append((run, flags))
    assert merged, "a view answered a status request without extents"
    return merged
