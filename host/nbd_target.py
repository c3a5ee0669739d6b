"""shell: the NBD target. Listens on TCP and Unix sockets and feeds requests to volume views.

A connection reads into its own ring, hands every complete request to the view in one turn, and
writes everything that was answered in one turn of the loop at once. What one client can hold is
bounded in requests, in bytes of requests, and in bytes of replies that it does not read; at each
bound the target stops reading from that client and from no other.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import structlog

from base.clock import Clock, RealClock
from base.device import Buffer
from base.errors import ConfigError, RemoteProtocolError, StorageError
from base.units import KiB, MiB
from host import nbd_wire as wire
from host.export import ExportTable, HostRequest, RequestKind, Result
from host.nbd_handshake import Ended, Handshake, Selected, Session
from host.nbd_protocol import (
    RING_BYTES,
    RING_BYTES_MIN,
    Disconnect,
    RequestReader,
    encode_refusal,
    encode_reply,
    encode_status,
)

log = structlog.get_logger()

_HANDSHAKE_BYTES = 4 * KiB  # buffer of a connection that has not chosen an export yet
_REFUSED_MAX = 16  # connections above the maximum that are told so; the rest are just closed
_JOIN_BELOW_BYTES = 16 * KiB  # mean size up to which copying replies together beats many pieces
_UNIX_PATH_BYTES_MAX = 107  # of sockaddr_un on Linux


@dataclass(frozen=True, slots=True)
class NbdLimits:
    """Bounds of one target; every one at least 1. All but the first are per connection."""

    connections_max: int = 256
    requests_in_flight_max: int = 512
    bytes_in_flight_max: int = 64 * MiB  # of reads and writes; one request may pass it
    unsent_bytes_max: int = 8 * MiB  # of replies that the client has not read
    ring_bytes: int = RING_BYTES
    handshake_timeout_ms: int = 10_000
    stall_timeout_ms: int = 60_000  # a client that reads nothing for so long is dropped
    drain_timeout_ms: int = 5_000  # how long `stop` waits for what is in flight

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name}: {getattr(self, field.name)}, at least 1")
        if self.ring_bytes < RING_BYTES_MIN:
            raise ConfigError(f"ring_bytes: {self.ring_bytes}, at least {RING_BYTES_MIN}")


@dataclass(slots=True)
class NbdCounters:
    """What a target has seen since it started, and holds now."""

    connections: int = 0  # now
    requests_in_flight: int = 0  # now, over all connections
    accepted: int = 0
    turned_away: int = 0  # above connections_max
    broken: int = 0  # ended because the client broke the protocol or was too slow
    requests: int = 0
    refused: int = 0  # requests that broke a rule


class NbdTarget:
    """Serves an export table. Start it with `listen_tcp` and `listen_unix`, any number of times."""

    def __init__(
        self, exports: ExportTable, *, clock: Clock | None = None, limits: NbdLimits | None = None
    ) -> None:
        self.exports = exports
        self.clock: Clock = clock or RealClock()
        self.limits = limits or NbdLimits()
        self.counters = NbdCounters()
        self.stopping = False
        self._servers: list[asyncio.Server] = []
        self._paths: list[Path] = []
        self._connections: dict[int, _Connection] = {}  # by number of arrival
        self._next_number = 0
        self._all_closed: asyncio.Future[None] | None = None

    async def listen_tcp(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen there; port 0 takes a free one. Returns the port. ConfigError: cannot."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _Connection(self), host, port, backlog=128)
        except OSError as error:
            raise ConfigError(f"nbd: cannot listen on {host}:{port}: {error.strerror}") from None
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        log.info("nbd.listened", host=host, port=bound)
        return bound

    async def listen_unix(self, path: str | Path) -> None:
        """Listen on that path; a socket that nobody listens on any more is replaced.

        ConfigError: the path is too long, in use, not a socket, or not writable.
        """
        path = Path(path)
        _clear_stale_socket(path)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_unix_server(
                lambda: _Connection(self), str(path), backlog=128
            )
        except OSError as error:
            raise ConfigError(f"nbd: cannot listen on {path}: {error.strerror}") from None
        self._servers.append(server)
        self._paths.append(path)
        log.info("nbd.listened", path=str(path))

    async def stop(self) -> None:
        """Take no new connection or request, answer what is in flight, close everything.

        New requests hear ESHUTDOWN. After `drain_timeout_ms` what remains is cut off.
        """
        self.stopping = True
        for server in self._servers:
            server.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        for number in sorted(self._connections):
            connection = self._connections.get(number)
            if connection is not None:
                connection.end_when_drained()
        if not self._connections:
            return
        self._all_closed = asyncio.get_running_loop().create_future()
        timer = self.clock.call_later(self.limits.drain_timeout_ms / 1000, self._cut_off)
        await self._all_closed
        timer.cancel()

    def _cut_off(self) -> None:
        for number in sorted(self._connections):
            self._connections[number].abort("the target stopped")

    def admit(self, connection: _Connection) -> tuple[int, str | None]:
        """The new connection's number, and why it must be refused, or None."""
        number = self._next_number
        self._next_number += 1
        self._connections[number] = connection
        self.counters.connections += 1
        if self.stopping:
            return number, "the target is stopping"
        if self.counters.connections > self.limits.connections_max:
            self.counters.turned_away += 1
            return number, f"too many connections: {self.limits.connections_max} are allowed"
        self.counters.accepted += 1
        return number, None

    def forget(self, number: int) -> None:
        """The connection is gone."""
        if self._connections.pop(number, None) is not None:
            self.counters.connections -= 1
        if not self._connections and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)


def _clear_stale_socket(path: Path) -> None:
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES_MAX:
        raise ConfigError(f"nbd: {path} is longer than {_UNIX_PATH_BYTES_MAX} bytes")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"nbd: cannot look at {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"nbd: {path} is in the way and not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        outcome = probe.connect_ex(str(path))
    if outcome != errno.ECONNREFUSED:
        raise ConfigError(f"nbd: {path} is in use")
    path.unlink(missing_ok=True)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Let the kernel notice a TCP client whose machine is gone, within about a minute."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class _Connection(asyncio.BufferedProtocol):
    """One client, from greeting to close."""

    __slots__ = (
        "__weakref__", "_bytes_in_flight", "_closed", "_counters", "_ending", "_flush_scheduled",
        "_handshake", "_in_turn", "_limits", "_loop", "_number", "_out", "_out_bytes", "_reader",
        "_reading", "_requests_in_flight", "_scratch", "_session", "_structured", "_target",
        "_timer", "_transport", "_writing_paused",
    )  # fmt: skip

    def __init__(self, target: NbdTarget) -> None:
        self._target = target
        self._limits = target.limits
        self._counters = target.counters
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._number = -1
        self._handshake: Handshake | None = Handshake(target.exports)
        self._scratch = memoryview(bytearray(_HANDSHAKE_BYTES))
        self._reader: RequestReader | None = None
        self._session: Session | None = None
        self._structured = False
        self._requests_in_flight = 0
        self._bytes_in_flight = 0
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._in_turn = False  # inside buffer_updated or a turn's end: it will write at its end
        self._flush_scheduled = False
        self._writing_paused = False
        self._reading = True
        self._ending = False  # no more requests; close when nothing is in flight
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    # -- what the loop calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._handshake is not None
        transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport = transport
        self._number, refusal = self._target.admit(self)
        if refusal is not None:
            over = self._counters.connections - self._limits.connections_max
            if over > _REFUSED_MAX or self._target.stopping:
                transport.abort()
                return
            self._handshake.refuse(refusal)
        _keep_alive(transport)
        transport.set_write_buffer_limits(high=self._limits.unsent_bytes_max)
        transport.write(Handshake.greeting())
        self._start_timer(self._limits.handshake_timeout_ms, "the handshake took too long")

    def get_buffer(self, sizehint: int) -> memoryview:
        reader = self._reader
        return self._scratch if reader is None else reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        reader = self._reader
        if reader is not None:
            reader.received(nbytes)
            self._turn()
            return
        assert self._handshake is not None
        self._handshake.feed(self._scratch[:nbytes])
        self._shake_hands()

    def eof_received(self) -> bool:
        # The client sends no more, but may still read: answer what is in flight, then close.
        self.end_when_drained()
        return not self._closed

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._start_timer(self._limits.stall_timeout_ms, "the client reads no replies")
        self._set_reading(False)

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._stop_timer()
        if self._closed:
            return
        if self._reader is None:
            self._start_timer(self._limits.handshake_timeout_ms, "the handshake took too long")
            self._shake_hands()
        elif not self._in_turn:
            self._schedule()

    def connection_lost(self, exc: Exception | None) -> None:
        # Requests in flight go on in the view; `_reply` drops their answers.
        self._closed = True
        self._stop_timer()
        self._out.clear()
        self._out_bytes = 0
        self._handshake = None
        self._reader = None
        self._target.forget(self._number)

    # -- handshake --

    def _shake_hands(self) -> None:
        assert self._transport is not None
        handshake = self._handshake
        while handshake is not None and not self._writing_paused and not self._closed:
            try:
                event = handshake.take()
            except RemoteProtocolError as error:
                self.abort(str(error))
                return
            if event is None:
                self._set_reading(True)
                return
            if event.buffer:
                self._transport.write(event.buffer)
            if isinstance(event, Ended):
                log.info("nbd.handshake_ended", connection=self._number, reason=event.reason)
                self._close()
                return
            if isinstance(event, Selected):
                self._begin(event.session, handshake.unused)
                return

    def _begin(self, session: Session, unused: bytes) -> None:
        self._handshake = None
        self._session = session
        self._structured = session.structured
        self._reader = RequestReader(session, self._reply, ring_bytes=self._limits.ring_bytes)
        if not self._writing_paused:
            self._stop_timer()
        log.info("nbd.connected", connection=self._number, volume=session.view.name)
        # A handshake holds less than one option and one read, which any ring takes.
        self._reader.get_buffer()[: len(unused)] = unused
        self._reader.received(len(unused))
        if self._target.stopping:
            self._ending = True
        self._turn()

    # -- transmission --

    def _turn(self) -> None:
        """Take requests while the bounds allow, write what was answered, set reading to match."""
        assert self._transport is not None
        self._in_turn = True
        try:
            more = True
            while more and not self._closed:
                more = self._take_requests()
                if self._out:
                    self._write_out()
                if self._writing_paused:
                    break
        except RemoteProtocolError as error:
            self._write_out()
            self.abort(str(error))
            return
        finally:
            self._in_turn = False
        if self._ending and self._requests_in_flight == 0:
            self._close()
        elif not self._closed:
            self._set_reading(not more and not self._writing_paused and not self._at_bound())

    def _at_bound(self) -> bool:
        return (
            self._requests_in_flight >= self._limits.requests_in_flight_max
            or self._bytes_in_flight >= self._limits.bytes_in_flight_max
        )

    def _take_requests(self) -> bool:
        """True when it stopped at the bound of unsent bytes, with perhaps more to take."""
        reader, session, limits = self._reader, self._session, self._limits
        if reader is None or session is None:
            return False
        take, submit = reader.take, session.view.submit
        counters = self._counters
        requests_max, bytes_max = limits.requests_in_flight_max, limits.bytes_in_flight_max
        unsent_max = limits.unsent_bytes_max
        while self._requests_in_flight < requests_max and self._bytes_in_flight < bytes_max:
            if self._out_bytes >= unsent_max:
                return True
            event = take()
            if type(event) is HostRequest:
                if self._ending:
                    self._refuse(event.cookie, wire.NBD_ESHUTDOWN, "the target is stopping")
                    continue
                counters.requests += 1
                counters.requests_in_flight += 1
                self._requests_in_flight += 1
                if event.kind <= 1:  # READ and WRITE
                    self._bytes_in_flight += event.length
                elif event.kind == RequestKind.STATUS:
                    event.context = session.contexts[0][1]
                submit(event)
            elif event is None:
                return False
            elif type(event) is Disconnect:
                self._ending = True
                return False
            else:
                counters.refused += 1
                self._refuse(event.cookie, event.errno, event.text)  # type: ignore[union-attr]
        return False

    def _refuse(self, cookie: int, errno_value: int, text: str) -> None:
        self._out_bytes += encode_refusal(self._out, self._structured, cookie, errno_value, text)

    def _reply(self, request: HostRequest, error: StorageError | None, result: Result) -> None:
        """Queue the answer; it leaves with all others of this turn."""
        kind = request.kind
        if kind == RequestKind.STATUS and error is None and not self._closed:
            if self._ask_next_context(request, result):
                return
            assert request.parts is not None
            self._out_bytes += encode_status(self._out, request, request.parts)
        elif not self._closed:
            self._out_bytes += encode_reply(self._out, self._structured, request, error, result)
        self._counters.requests_in_flight -= 1
        self._requests_in_flight -= 1
        if kind <= 1:
            self._bytes_in_flight -= request.length
        if not self._in_turn and not self._flush_scheduled:
            self._schedule()

    def _ask_next_context(self, request: HostRequest, result: Result) -> bool:
        """Keep this context's extents; ask for the next selected context, if there is one."""
        assert self._session is not None
        contexts = self._session.contexts
        parts = request.parts or []
        parts.append((contexts[len(parts)][0], result))
        if len(parts) == len(contexts):
            request.parts = parts
            return False
        follower = HostRequest(
            RequestKind.STATUS, request.offset, request.length, self._reply, cookie=request.cookie
        )
        follower.only_one = request.only_one
        follower.context = contexts[len(parts)][1]
        follower.parts = parts
        self._session.view.submit(follower)
        return True

    def _schedule(self) -> None:
        if not self._flush_scheduled and not self._closed:
            self._flush_scheduled = True
            self._loop.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._flush_scheduled = False
        if self._closed:
            return
        if self._out:
            self._write_out()
        if self._ending or not self._reading:
            self._turn()

    def _write_out(self) -> None:
        assert self._transport is not None
        out, count = self._out, self._out_bytes
        self._out = []
        self._out_bytes = 0
        if count <= len(out) * _JOIN_BELOW_BYTES:
            self._transport.write(b"".join(out))
        else:
            self._transport.writelines(out)

    # -- ends --

    def end_when_drained(self) -> None:
        """Take no more requests; close when what is in flight has been answered."""
        if self._closed or self._transport is None:
            return
        self._ending = True
        if self._reader is None:
            self._close()
        elif not self._in_turn:
            self._turn()

    def _close(self) -> None:
        """Close once all replies are sent, but do not wait for a client that reads none."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.close()
            self._start_timer(self._limits.stall_timeout_ms, "the client reads no replies")

    def abort(self, reason: str) -> None:
        """Cut the connection now; requests in flight go on and their answers are dropped."""
        if self._closed or self._transport is None:
            return
        self._counters.broken += 1
        log.warning("nbd.cut_off", connection=self._number, reason=reason)
        self._transport.abort()

    def _set_reading(self, wanted: bool) -> None:
        if wanted == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _start_timer(self, timeout_ms: int, reason: str) -> None:
        self._stop_timer()
        self._timer = self._target.clock.call_later(timeout_ms / 1000, self.abort, reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
