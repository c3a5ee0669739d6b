"""shell: a small NBD client of our own, for the demo, for tests and where no other is installed."""

from __future__ import annotations

import asyncio
import io
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

from base.device import Buffer
from base.errors import (
    ConfigError,
    InvalidRequest,
    LinkLost,
    NoSpace,
    NotConnected,
    RequestTimeout,
    StorageError,
)
from base.units import MiB
from host import nbd_wire as wire
from host.nbd_client_protocol import ClientHandshake, ExportInfo, Listing, Pending, ReplyReader

_COPY_BYTES: Final = 1 * MiB
_ZEROS: Final = bytes(_COPY_BYTES)
_CLOSE_TIMEOUT_S: Final = 2.0  # for a server that takes nothing any more
_STATUS_BYTES_MAX: Final = 1 << 31  # asked for at once; lengths travel in 32 bits

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)


class NbdClient:
    """One connection to one export, with at most `requests_in_flight_max` requests on their way.

    Every call raises the StorageError that stands for the server's answer, LinkLost when the
    connection ends before the answer, NotConnected when it had ended before the call. Offsets and
    lengths must be multiples of `info.block_min_bytes`. A caller that is cancelled leaves its
    request on its way.
    """

    def __init__(self, protocol: _ClientProtocol, info: ExportInfo, in_flight_max: int) -> None:
        self.info = info
        self._protocol = protocol
        self._in_flight_max = in_flight_max

    @classmethod
    async def connect(
        cls,
        uri: str,
        *,
        requests_in_flight_max: int = 32,
        structured: bool = True,
        timeout_ms: int = 10_000,
    ) -> NbdClient:
        """Connect to nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH.

        ConfigError: not such an address. NotConnected: nobody there. RequestTimeout: no handshake
        within `timeout_ms`. NotFound, AccessDenied, Stopping: the server refused the export.
        """
        if requests_in_flight_max < 1:
            raise ConfigError(f"requests_in_flight_max: {requests_in_flight_max}, at least 1")
        address, export = parse_uri(uri)
        handshake = ClientHandshake(export, structured=structured)
        protocol = await _dial(address, handshake, timeout_ms)
        info = handshake.finished
        assert isinstance(info, ExportInfo)
        return cls(protocol, info, requests_in_flight_max)

    @property
    def size_bytes(self) -> int:
        """Size of the export when the connection was made."""
        return self.info.size_bytes

    @property
    def connected(self) -> bool:
        """The connection has not ended."""
        return self._protocol.ended is None

    async def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes from `offset`."""
        into = bytearray(length)
        await self.read_into(offset, memoryview(into))
        return into

    async def read_into(self, offset: int, into: memoryview) -> None:
        """Fill `into`; more than the server takes at once is read in pieces, one by one."""
        for at in range(0, len(into), self.info.request_bytes_max):
            piece = into[at : at + self.info.request_bytes_max]
            await (await self.start_read(offset + at, piece))

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write; more than the server takes at once goes in pieces, one by one."""
        whole = memoryview(data)
        for at in range(0, len(whole), self.info.request_bytes_max):
            piece = whole[at : at + self.info.request_bytes_max]
            await (await self.start_write(offset + at, piece, fua=fua))

    async def flush(self) -> None:
        """Every write answered before survives a power cut afterwards."""
        await (await self._start(wire.CMD_FLUSH, 0, 0))

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """The range is not needed any more."""
        await (await self._start(wire.CMD_TRIM, offset, length, flags=_fua(fua)))

    async def zero(
        self, offset: int, length: int, *, no_hole: bool = False, fua: bool = False
    ) -> None:
        """The range reads as zeros afterwards, and stays allocated with `no_hole`."""
        await (await self.start_zero(offset, length, no_hole=no_hole, fua=fua))

    async def block_status(
        self, offset: int, length: int, *, only_one: bool = False
    ) -> list[tuple[int, int]]:
        """(length, flags) from `offset` on, at least one; may end early. Flags: HOLE, ZERO."""
        if self.info.context_id is None:
            raise InvalidRequest("the server offers no base:allocation")
        flags = wire.CMD_FLAG_REQ_ONE if only_one else 0
        pending: Pending = await (
            await self._start(wire.CMD_BLOCK_STATUS, offset, length, flags=flags)
        )
        return pending.extents

    async def map(self) -> list[tuple[int, int, int]]:
        """(offset, length, flags) of the whole export, neighbours of the same flags joined."""
        extents: list[tuple[int, int, int]] = []
        at = 0
        while at < self.size_bytes:
            for length, flags in await self.block_status(
                at, min(_STATUS_BYTES_MAX, self.size_bytes - at)
            ):
                if extents and extents[-1][2] == flags:
                    offset, before, _ = extents[-1]
                    extents[-1] = (offset, before + length, flags)
                else:
                    extents.append((at, length, flags))
                at += length
        return extents

    async def start_read(self, offset: int, into: memoryview) -> asyncio.Future[Any]:
        """Send one read as soon as there is room; the future ends when `into` is full."""
        return await self._start(wire.CMD_READ, offset, len(into), into=into)

    async def start_write(
        self, offset: int, data: Buffer, *, fua: bool = False
    ) -> asyncio.Future[Any]:
        """Send one write as soon as there is room; `data` must not change until the future ends."""
        return await self._start(wire.CMD_WRITE, offset, len(data), flags=_fua(fua), data=data)

    async def start_zero(
        self, offset: int, length: int, *, no_hole: bool = False, fua: bool = False
    ) -> asyncio.Future[Any]:
        """Send one write-zeroes as soon as there is room."""
        flags = _fua(fua) | (wire.CMD_FLAG_NO_HOLE if no_hole else 0)
        return await self._start(wire.CMD_WRITE_ZEROES, offset, length, flags=flags)

    async def copy_in(self, path: str | Path, progress: Progress | None = None) -> int:
        """Write a file to the start of the export, zeros as zeros; returns the file's size.

        A last piece of a block is padded with zeros. NoSpace: the file is larger than the export.
        """
        with _open_file(path, "rb") as source:
            total = os.fstat(source.fileno()).st_size
            if total > self.size_bytes:
                raise NoSpace(f"{path} has {total} bytes, the export {self.size_bytes}")
            window: deque[asyncio.Future[Any]] = deque()
            can_zero = self.info.offers(wire.EXPORT_SEND_WRITE_ZEROES)
            try:
                for offset in range(0, total, _COPY_BYTES):
                    piece = os.pread(source.fileno(), min(_COPY_BYTES, total - offset), offset)
                    piece += bytes(-len(piece) % self.info.block_min_bytes)
                    if can_zero and piece == _ZEROS[: len(piece)]:
                        window.append(await self.start_zero(offset, len(piece)))
                    else:
                        window.append(await self.start_write(offset, piece))
                    while window and window[0].done():
                        window.popleft().result()
                    if progress is not None:
                        progress(min(offset + _COPY_BYTES, total), total)
                while window:
                    await window.popleft()
            finally:
                await asyncio.gather(*window, return_exceptions=True)
        await self.flush()
        return total

    async def copy_out(self, path: str | Path, progress: Progress | None = None) -> int:
        """Write the whole export to a file, sparse where the export is; returns its size."""
        total = self.size_bytes
        extents = [(0, total, 0)]
        if self.info.context_id is not None:
            extents = await self.map()
        with _open_file(path, "wb") as target:
            target.truncate(total)
            window: deque[tuple[asyncio.Future[Any], int, bytearray]] = deque()

            async def land() -> None:
                future, at, buffer = window.popleft()
                await future
                os.pwrite(target.fileno(), buffer, at)

            try:
                for start, length, flags in extents:
                    if flags & wire.STATE_ZERO:
                        continue
                    for at in range(start, start + length, _COPY_BYTES):
                        buffer = bytearray(min(_COPY_BYTES, start + length - at))
                        future = await self.start_read(at, memoryview(buffer))
                        window.append((future, at, buffer))
                        while window and (window[0][0].done() or len(window) > self._in_flight_max):
                            await land()
                        if progress is not None:
                            progress(at + len(buffer), total)
                while window:
                    await land()
            finally:
                await asyncio.gather(*[entry[0] for entry in window], return_exceptions=True)
        return total

    async def close(self) -> None:
        """Say goodbye and wait until the connection is gone. Requests on their way: LinkLost."""
        await self._protocol.close()

    async def _start(
        self,
        command: int,
        offset: int,
        length: int,
        *,
        flags: int = 0,
        data: Buffer | None = None,
        into: memoryview | None = None,
    ) -> asyncio.Future[Any]:
        await self._protocol.wait_for_room(self._in_flight_max)
        return self._protocol.send(command, offset, length, flags, data, into)


async def list_exports(uri: str, *, timeout_ms: int = 10_000) -> list[tuple[str, str]]:
    """(name, description) of every export at that address; its export part is ignored."""
    address, _ = parse_uri(uri)
    handshake = ClientHandshake(listing=True)
    protocol = await _dial(address, handshake, timeout_ms)
    await protocol.close()
    listing = handshake.finished
    assert isinstance(listing, Listing)
    return listing.exports


def parse_uri(uri: str) -> tuple[str | tuple[str, int], str]:
    """(Unix path or (host, port), export name) of an NBD URI. ConfigError: it is none."""
    try:
        parts = urlsplit(uri)
        export = unquote(parts.path.removeprefix("/"))
        if parts.scheme == "nbd" and parts.hostname:
            return (parts.hostname, parts.port or 10809), export
        path = parse_qs(parts.query).get("socket", [""])[0]
    except ValueError:
        path = ""
        parts = urlsplit("")
    if parts.scheme == "nbd+unix" and path:
        return path, export
    raise ConfigError(f"{uri!r}: use nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH")


def _open_file(path: str | Path, mode: str) -> io.FileIO:
    return cast("io.FileIO", open(path, mode, buffering=0))


def _fua(fua: bool) -> int:
    return wire.CMD_FLAG_FUA if fua else 0


async def _dial(
    address: str | tuple[str, int], handshake: ClientHandshake, timeout_ms: int
) -> _ClientProtocol:
    loop = asyncio.get_running_loop()
    protocol = _ClientProtocol(handshake)
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            if isinstance(address, str):
                await loop.create_unix_connection(lambda: protocol, address)
            else:
                await loop.create_connection(lambda: protocol, *address)
            await protocol.ready
    except TimeoutError:
        protocol.end(RequestTimeout(f"nbd: {address}: no handshake within {timeout_ms} ms"))
        raise RequestTimeout(f"nbd: {address}: no handshake within {timeout_ms} ms") from None
    except OSError as error:
        raise NotConnected(f"nbd: {address}: {error.strerror or error}") from None
    return protocol


class _ClientProtocol(asyncio.BufferedProtocol):
    """The connection of one client."""

    def __init__(self, handshake: ClientHandshake) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: StorageError | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._handshake = handshake
        self._reader: ReplyReader | None = None
        self._scratch = memoryview(bytearray(4096))
        self._transport: asyncio.Transport | None = None
        self._out: list[Buffer] = []
        self._rooms: deque[asyncio.Future[None]] = deque()  # callers that wait for room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch if self._reader is None else self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._reader is None:
                self._shake_hands(nbytes)
            else:
                self._reader.received(nbytes)
                self._take_replies()
        except StorageError as error:
            self.end(error)

    def _shake_hands(self, count: int) -> None:
        assert self._transport is not None
        answer = self._handshake.receive_data(self._scratch[:count])
        if answer:
            self._transport.write(answer)
        if self._handshake.finished is None:
            return
        if isinstance(self._handshake.finished, ExportInfo):
            self._reader = ReplyReader(self._handshake.finished)
            if self._handshake.unused:
                raise InvalidRequest("the server sent more than the handshake")
        if not self.ready.done():
            self.ready.set_result(None)

    def _take_replies(self) -> None:
        assert self._reader is not None
        while (pending := self._reader.take()) is not None:
            waiter: asyncio.Future[Any] = pending.waiter
            if not waiter.done():
                if pending.error is not None:
                    waiter.set_exception(pending.error)
                else:
                    waiter.set_result(pending)
            self._wake_one()

    def _wake_one(self) -> None:
        while self._rooms:
            room = self._rooms.popleft()
            if not room.done():
                room.set_result(None)
                return

    async def wait_for_room(self, in_flight_max: int) -> None:
        """Return when fewer than that many requests are on their way."""
        while self.ended is None:
            assert self._reader is not None
            if len(self._reader.pending) < in_flight_max:
                return
            room = self._loop.create_future()
            self._rooms.append(room)
            try:
                await room
            except asyncio.CancelledError:
                if room.done() and not room.cancelled():
                    self._wake_one()  # the room was this caller's: hand it on
                raise

    def send(
        self,
        command: int,
        offset: int,
        length: int,
        flags: int,
        data: Buffer | None,
        into: memoryview | None,
    ) -> asyncio.Future[Any]:
        """Queue one request; what one turn queued leaves together."""
        if self.ended is not None:
            raise NotConnected(str(self.ended))
        assert self._reader is not None
        pending, head = self._reader.request(command, offset, length, flags=flags, into=into)
        pending.waiter = self._loop.create_future()
        if not self._out:
            self._loop.call_soon(self._write_out)
        self._out.append(head)
        if data is not None:
            self._out.append(data)
        return cast("asyncio.Future[Any]", pending.waiter)

    def _write_out(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and self.ended is None:
            self._transport.writelines(out)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(LinkLost(f"nbd: the connection ended: {exc or 'closed by the server'}"))
        if not self._gone.done():
            self._gone.set_result(None)

    def end(self, error: StorageError) -> None:
        """Cut the connection; whoever waits for an answer hears LinkLost."""
        if self.ended is not None:
            return
        self.ended = error
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # whoever dialled may have given up already
        pending = list(self._reader.pending.values()) if self._reader is not None else []
        for request in pending:
            if not request.waiter.done():
                request.waiter.set_exception(LinkLost(str(error)))
                request.waiter.exception()  # a caller that went away does not want it
        if self._reader is not None:
            self._reader.pending.clear()
        while self._rooms:
            self._wake_one()
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Send DISC, close, and wait until the transport is gone."""
        if self._transport is None or self.ended is not None:
            return
        self._write_out()
        if self._reader is not None:
            _, head = self._reader.request(wire.CMD_DISC, 0, 0)
            self._reader.pending.popitem()
            self._transport.write(head)
        self._transport.close()
        timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self._transport.abort)
        await self._gone
        timer.cancel()
