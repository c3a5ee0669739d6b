"""codec: the client's side of NBD, without I/O: handshake and transmission.

Sections named in comments are those of the NBD protocol document; constants are in `nbd_wire.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from base.errors import (
    AccessDenied,
    InvalidRequest,
    NotFound,
    RemoteProtocolError,
    Stopping,
    StorageError,
)
from base.units import KiB
from host import nbd_wire as wire

RING_BYTES: Final = 64 * KiB
_REPLY_BYTES_MAX: Final = 512 * KiB  # longest option reply, error text or extent list we take
_OPTION_REPLIES_MAX: Final = 100_000  # in one handshake: a listing may be long


@dataclass(slots=True)
class ExportInfo:
    """What the server said about the export."""

    size_bytes: int = 0
    flags: int = 0
    block_min_bytes: int = 1
    request_bytes_max: int = wire.REQUEST_BYTES_MAX
    structured: bool = False
    context_id: int | None = None  # of base:allocation, when it was selected

    @property
    def read_only(self) -> bool:
        """Writes would be refused."""
        return bool(self.flags & wire.EXPORT_READ_ONLY)

    def offers(self, flag: int) -> bool:
        """One of the transmission flags."""
        return bool(self.flags & flag)


@dataclass(slots=True)
class Listing:
    """The exports that the server named: (name, description)."""

    exports: list[tuple[str, str]] = field(default_factory=list)


class ClientHandshake:
    """Feed it what arrives, send what `receive_data` returns, until `finished` is set.

    With `listing` it asks for the exports and aborts; else it selects `export`. Raises NotFound,
    AccessDenied, Stopping or InvalidRequest as the server refuses, RemoteProtocolError when it
    breaks the protocol.
    """

    def __init__(self, export: str = "", *, listing: bool = False, structured: bool = True) -> None:
        self.finished: ExportInfo | Listing | None = None
        self._export = export.encode()
        self._listing = Listing() if listing else None
        self._want_structured = structured
        self._info = ExportInfo()
        self._buffer = bytearray()
        self._asked = 0  # the option that we wait for; 0: the greeting
        self._replies = 0

    @property
    def unused(self) -> bytes:
        """What arrived behind the handshake."""
        return bytes(self._buffer)

    def receive_data(self, received: bytes | bytearray | memoryview) -> bytes:
        """Take what arrived; returns what to send."""
        self._buffer += received
        out = b""
        while self.finished is None and (piece := self._step()) is not None:
            out += piece
        return out

    def _step(self) -> bytes | None:
        return self._take_greeting() if self._asked == 0 else self._take_reply()

    def _take_greeting(self) -> bytes | None:
        if len(self._buffer) < wire.GREETING.size:
            return None
        magic, option_magic, flags = wire.GREETING.unpack_from(self._buffer)
        if magic != wire.GREETING_MAGIC or option_magic != wire.OPTION_MAGIC:
            raise RemoteProtocolError("this is no newstyle NBD server")
        if not flags & wire.FLAG_FIXED_NEWSTYLE:
            raise RemoteProtocolError("the server does not know fixed newstyle")
        del self._buffer[: wire.GREETING.size]
        mine = flags & (wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES)
        head = wire.CLIENT_FLAGS.pack(mine)
        if self._listing is not None:
            return head + self._ask(wire.OPT_LIST)
        if self._want_structured:
            return head + self._ask(wire.OPT_STRUCTURED_REPLY)
        return head + self._ask_go()

    def _ask(self, option: int, body: bytes = b"") -> bytes:
        self._asked = option
        return wire.OPTION.pack(wire.OPTION_MAGIC, option, len(body)) + body

    def _ask_go(self) -> bytes:
        name = wire.U32.pack(len(self._export)) + self._export
        asked = wire.U16.pack(1) + wire.U16.pack(wire.INFO_BLOCK_SIZE)
        return self._ask(wire.OPT_GO, name + asked)

    def _ask_context(self) -> bytes:
        query = wire.CONTEXT_ALLOCATION.encode()
        name = wire.U32.pack(len(self._export)) + self._export
        one = wire.U32.pack(1) + wire.U32.pack(len(query)) + query
        return self._ask(wire.OPT_SET_META_CONTEXT, name + one)

    def _take_reply(self) -> bytes | None:
        if len(self._buffer) < wire.OPTION_REPLY.size:
            return None
        magic, option, kind, length = wire.OPTION_REPLY.unpack_from(self._buffer)
        if magic != wire.OPTION_REPLY_MAGIC or option != self._asked:
            raise RemoteProtocolError(f"an option reply to {option} where {self._asked} was asked")
        if length > _REPLY_BYTES_MAX:
            raise RemoteProtocolError(f"an option reply of {length} bytes")
        end = wire.OPTION_REPLY.size + length
        if len(self._buffer) < end:
            return None
        self._replies += 1
        if self._replies > _OPTION_REPLIES_MAX:
            raise RemoteProtocolError(f"more than {_OPTION_REPLIES_MAX} option replies")
        body = bytes(self._buffer[wire.OPTION_REPLY.size : end])
        del self._buffer[:end]
        if kind & wire.REP_FLAG_ERROR:
            return self._refused(kind, body)
        if kind == wire.REP_ACK:
            return self._acknowledged()
        self._informed(kind, body)
        return b""

    def _refused(self, kind: int, body: bytes) -> bytes:
        if self._asked in (wire.OPT_STRUCTURED_REPLY, wire.OPT_SET_META_CONTEXT):
            return self._ask_go()  # an older server: go on without
        text = body.decode("utf-8", "replace") or f"the server refused with {kind:#x}"
        refusals: dict[int, type[StorageError]] = {
            wire.REP_ERR_UNKNOWN: NotFound,
            wire.REP_ERR_POLICY: AccessDenied,
            wire.REP_ERR_TLS_REQD: AccessDenied,
            wire.REP_ERR_SHUTDOWN: Stopping,
        }
        raise refusals.get(kind, InvalidRequest)(text)

    def _acknowledged(self) -> bytes:
        if self._asked == wire.OPT_LIST:
            self.finished = self._listing
            return self._ask(wire.OPT_ABORT)
        if self._asked == wire.OPT_STRUCTURED_REPLY:
            self._info.structured = True
            return self._ask_context()
        if self._asked == wire.OPT_SET_META_CONTEXT:
            return self._ask_go()
        if self._info.flags & wire.EXPORT_HAS_FLAGS == 0:
            raise RemoteProtocolError("the server named no size and flags of the export")
        self.finished = self._info
        return b""

    def _informed(self, kind: int, body: bytes) -> None:
        info = self._info
        if kind == wire.REP_SERVER and self._listing is not None:
            length = int.from_bytes(body[:4], "big")
            if len(body) < 4 + length:
                raise RemoteProtocolError("an export name that is longer than its reply")
            name = body[4 : 4 + length].decode("utf-8", "replace")
            self._listing.exports.append((name, body[4 + length :].decode("utf-8", "replace")))
        elif kind == wire.REP_META_CONTEXT and len(body) > 4:
            if body[4:] == wire.CONTEXT_ALLOCATION.encode():
                (info.context_id,) = wire.U32.unpack_from(body)
        elif kind == wire.REP_INFO and len(body) >= 2:
            (what,) = wire.U16.unpack_from(body)
            if what == wire.INFO_EXPORT and len(body) == wire.INFO_EXPORT_REPLY.size:
                _, info.size_bytes, info.flags = wire.INFO_EXPORT_REPLY.unpack(body)
            elif what == wire.INFO_BLOCK_SIZE and len(body) == wire.INFO_BLOCK_SIZE_REPLY.size:
                _, smallest, _, largest = wire.INFO_BLOCK_SIZE_REPLY.unpack(body)
                if smallest == 0 or smallest & (smallest - 1) or largest < smallest:
                    raise RemoteProtocolError(f"block sizes {smallest} to {largest}")
                info.block_min_bytes = smallest
                info.request_bytes_max = min(largest, wire.REQUEST_BYTES_MAX)
        else:
            raise RemoteProtocolError(f"an option reply of kind {kind:#x} to {self._asked}")


class Pending:
    """One request that was sent. When `take` returns it: `error`, or success.

    into: READ: where the bytes go. extents: BLOCK_STATUS: (length, flags). waiter: the shell's own.
    """

    __slots__ = (
        "command", "cookie", "covered", "error", "extents", "into", "length", "offset", "waiter",
    )  # fmt: skip

    def __init__(
        self, command: int, cookie: int, offset: int, length: int, into: memoryview | None
    ) -> None:
        self.command = command
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.into = into
        self.covered = 0
        self.extents: list[tuple[int, int]] = []
        self.error: StorageError | None = None
        self.waiter: Any = None


class ReplyReader:
    """Requests out, replies in. Read data is received straight into its destination.

    Read into `get_buffer()`, call `received(count)`, then `take()` until None. Raises
    RemoteProtocolError when the server breaks the protocol.
    """

    def __init__(self, info: ExportInfo) -> None:
        self._info = info
        self._ring = bytearray(RING_BYTES + _REPLY_BYTES_MAX)
        self._view = memoryview(self._ring)
        self._start = 0
        self._end = 0
        self._next_cookie = 1
        self.pending: dict[int, Pending] = {}  # by cookie, in order of sending
        self._direct: memoryview | None = None
        self._direct_filled = 0
        self._direct_for: Pending | None = None
        self._direct_last = False

    def request(
        self,
        command: int,
        offset: int,
        length: int,
        *,
        flags: int = 0,
        into: memoryview | None = None,
    ) -> tuple[Pending, bytes]:
        """Register a request; returns it and its header (a WRITE's data goes behind it)."""
        assert (into is not None and len(into) == length) == (command == wire.CMD_READ)
        cookie = self._next_cookie
        self._next_cookie += 1
        pending = Pending(command, cookie, offset, length, into)
        self.pending[cookie] = pending
        return pending, wire.REQUEST.pack(
            wire.REQUEST_MAGIC, flags, command, cookie, offset, length
        )

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._direct is not None:
            return self._direct[self._direct_filled :]
        start, end = self._start, self._end
        if start:
            self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes now stand in the buffer that `get_buffer` gave last."""
        if self._direct is not None:
            self._direct_filled += count
        else:
            self._end += count

    def receive_data(self, received: bytes | bytearray | memoryview) -> list[Pending]:
        """Feed bytes from elsewhere, and take every request that is answered."""
        rest = memoryview(received)
        answered: list[Pending] = []
        while len(rest):
            room = self.get_buffer()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            rest = rest[count:]
            self.received(count)
            while (pending := self.take()) is not None:
                answered.append(pending)
        return answered

    def take(self) -> Pending | None:
        """The next request that is answered in full, or None until more is received."""
        while True:
            if self._direct is not None:
                if self._direct_filled < len(self._direct):
                    return None
                pending = self._direct_for
                assert pending is not None
                self._direct = self._direct_for = None
                if self._direct_last:
                    return self._answered(pending)
            ready = self._end - self._start
            if ready < 4:
                return None
            (magic,) = wire.U32.unpack_from(self._ring, self._start)
            if magic == wire.SIMPLE_REPLY_MAGIC:
                if ready < wire.SIMPLE_REPLY.size:
                    return None
                answered = self._take_simple()
            elif magic == wire.STRUCTURED_REPLY_MAGIC and self._info.structured:
                if ready < wire.CHUNK.size:
                    return None
                complete, answered = self._take_chunk(ready)
                if not complete:
                    return None
            else:
                raise RemoteProtocolError(f"reply magic {magic:#x}: the stream is out of step")
            if answered is not None:
                return answered

    def _find(self, cookie: int) -> Pending:
        pending = self.pending.get(cookie)
        if pending is None:
            raise RemoteProtocolError(f"a reply to cookie {cookie}, which nobody waits for")
        return pending

    def _answered(self, pending: Pending) -> Pending:
        del self.pending[pending.cookie]
        if pending.error is None:
            if pending.command == wire.CMD_READ and pending.covered != pending.length:
                raise RemoteProtocolError(
                    f"a read of {pending.length} bytes was answered with {pending.covered}"
                )
            if pending.command == wire.CMD_BLOCK_STATUS and not pending.extents:
                raise RemoteProtocolError("block status was answered without extents")
        return pending

    def _take_simple(self) -> Pending | None:
        _, errno, cookie = wire.SIMPLE_REPLY.unpack_from(self._ring, self._start)
        pending = self._find(cookie)
        self._start += wire.SIMPLE_REPLY.size
        if errno:
            pending.error = wire.error_of(errno, "")
        elif pending.command == wire.CMD_READ:
            if self._info.structured:
                raise RemoteProtocolError("a simple reply to a read, with structured replies")
            self._begin_direct(pending, 0, pending.length, last=True)
            return None
        return self._answered(pending)

    def _begin_direct(self, pending: Pending, at: int, length: int, *, last: bool) -> None:
        assert pending.into is not None
        self._direct = pending.into[at : at + length]
        self._direct_for = pending
        self._direct_last = last
        self._direct_filled = min(length, self._end - self._start)
        stop = self._start + self._direct_filled
        self._direct[: self._direct_filled] = self._view[self._start : stop]
        self._start = stop
        pending.covered += length

    def _take_chunk(self, ready: int) -> tuple[bool, Pending | None]:
        """(False, None) until the chunk is there; else True and the request if that ended it."""
        _, flags, kind, cookie, length = wire.CHUNK.unpack_from(self._ring, self._start)
        pending = self._find(cookie)
        body = self._start + wire.CHUNK.size
        last = bool(flags & wire.CHUNK_FLAG_DONE)
        if kind == wire.CHUNK_OFFSET_DATA:
            if ready < wire.CHUNK_DATA.size:
                return False, None
            (offset,) = wire.U64.unpack_from(self._ring, body)
            self._check_piece(pending, offset, length - 8)
            self._start = body + 8
            self._begin_direct(pending, offset - pending.offset, length - 8, last=last)
            return True, None
        if length > _REPLY_BYTES_MAX:
            raise RemoteProtocolError(f"a reply chunk of kind {kind:#x} with {length} bytes")
        if ready < wire.CHUNK.size + length:
            return False, None
        self._start = body + length
        self._take_body(pending, kind, bytes(self._view[body : body + length]))
        return True, self._answered(pending) if last else None

    def _check_piece(self, pending: Pending, offset: int, length: int) -> None:
        if (
            pending.command != wire.CMD_READ
            or length <= 0
            or offset < pending.offset
            or offset + length > pending.offset + pending.length
            or pending.covered + length > pending.length
        ):
            raise RemoteProtocolError(f"a chunk {offset}+{length} that was not asked for")

    def _take_body(self, pending: Pending, kind: int, body: bytes) -> None:
        if kind & wire.CHUNK_FLAG_ERROR:
            if len(body) < 6:
                raise RemoteProtocolError("an error chunk without its error")
            errno, text_length = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:6], "big")
            text = body[6 : 6 + text_length].decode("utf-8", "replace")
            pending.error = wire.error_of(errno, text)
        elif kind == wire.CHUNK_OFFSET_HOLE and len(body) == 12:
            offset, length = int.from_bytes(body[:8], "big"), int.from_bytes(body[8:], "big")
            self._check_piece(pending, offset, length)
            assert pending.into is not None
            at = offset - pending.offset
            pending.into[at : at + length] = bytes(length)
            pending.covered += length
        elif (
            kind == wire.CHUNK_BLOCK_STATUS
            and pending.command == wire.CMD_BLOCK_STATUS
            and len(body) > 4
            and len(body) % 8 == 4
        ):
            pending.extents += list(wire.STATUS_EXTENT.iter_unpack(body[4:]))
            if not all(length for length, _ in pending.extents):
                raise RemoteProtocolError("an empty status extent")
        elif kind != wire.CHUNK_NONE or body:
            raise RemoteProtocolError(f"a chunk of kind {kind:#x} with {len(body)} bytes")
