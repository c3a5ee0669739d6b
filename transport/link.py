"""shell: one connection of the mesh, and the table of links that a node or a client has.

A connection is in its handshake, then up, then dead. Only the link table calls the receiver, so one
place keeps the promises of `transport.bus`: a connection that was replaced or ended is marked dead
before anybody is told, and nothing that it still parses is delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final, cast

import structlog

from base.device import Buffer
from base.errors import AccessDenied, ConfigError, RemoteProtocolError
from base.ids import NodeId
from base.place import Address
from base.tasks import Supervisor
from base.units import KiB, MiB
from transport.bus import BusStatistics, LinkStatistics, OnFailure, OnLink, OnMessage, is_client
from transport.codec import FRAME_BYTES_MAX, FrameDecoder, encode, encode_into
from transport.handshake import (
    HANDSHAKE_TAGS,
    MESSAGE_TAGS,
    NONCE_BYTES,
    Accepting,
    Dialing,
    Established,
    Identity,
)
from transport.messages import Refused

log = structlog.get_logger()

Handshake = Dialing | Accepting

HANDSHAKE_BODY_BYTES_MAX: Final = 1 * KiB
HANDSHAKE_RECEIVE_BYTES: Final = 2 * KiB
REFUSALS_LOGGED_A_SECOND: Final = 20
FLUSH_JOIN_BYTES_MAX: Final = 192 * KiB
CLOSE_S: Final = 1.0  # what is queued may take this long to leave when a bus closes
CALM_S: Final = 1.0  # a link that lived this long is not part of a series of failures


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds and times of the links of one node or client."""

    queued_bytes_max: int = 64 * MiB  # per peer, waiting to be sent
    handshake_timeout_ms: int = 2_000
    connect_timeout_ms: int = 2_000
    backoff_min_ms: int = 20
    backoff_max_ms: int = 500
    clients_max: int = 64
    handshakes_max: int = 64  # connections that have not yet proven who they are
    unacknowledged_timeout_ms: int = 10_000  # TCP_USER_TIMEOUT: a peer that takes nothing is gone

    def __post_init__(self) -> None:
        if self.queued_bytes_max < FRAME_BYTES_MAX:
            raise ConfigError(
                f"queued_bytes_max: {self.queued_bytes_max} is less than the largest frame, "
                f"{FRAME_BYTES_MAX}"
            )
        if not 0 < self.backoff_min_ms <= self.backoff_max_ms:
            raise ConfigError("backoff_min_ms must be positive and at most backoff_max_ms")


def address_text(address: Address) -> str:
    """For messages to people."""
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


class Connection(asyncio.BufferedProtocol):
    """One socket. Handshake first; then frames both ways."""

    def __init__(self, table: LinkTable, handshake: Handshake) -> None:
        self.peer = -1  # known when up
        self.session = 0
        self.dead = False
        self.queued_bytes_peak = 0
        self.ended: asyncio.Future[None] = table.loop.create_future()
        self._table = table
        self._handshake: Handshake | None = handshake
        self._dialled = isinstance(handshake, Dialing)
        self._transport: asyncio.Transport | None = None
        self._decoder = FrameDecoder(
            body_bytes_max=HANDSHAKE_BODY_BYTES_MAX,
            data_bytes_max=0,
            receive_bytes=HANDSHAKE_RECEIVE_BYTES,
            tags=HANDSHAKE_TAGS,
            one_at_a_time=True,
        )
        self._pending: list[Buffer] = []
        self._pending_bytes = 0
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.get_buffer = self._decoder.get_buffer  # type: ignore[method-assign] # saves a call

    # -- life ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket is there: begin the handshake."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing only
        self._transport = transport
        if self.dead:
            transport.abort()  # given up meanwhile
            return
        table = self._table
        if not table.begin_handshake(self):
            self.end("too many connections that have not proven who they are", refused=True)
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            option = getattr(socket, "TCP_USER_TIMEOUT", None)
            if option is not None:
                timeout_ms = table.limits.unacknowledged_timeout_ms
                sock.setsockopt(socket.IPPROTO_TCP, option, timeout_ms)
        timeout_s = table.limits.handshake_timeout_ms / 1000
        self._timer = table.loop.call_later(
            timeout_s, lambda: self.end("the handshake took too long", refused=True)
        )
        if isinstance(self._handshake, Dialing):
            transport.writelines(encode(self._handshake.hello))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        handshaking = self._handshake is not None
        reason = "the other end left during the handshake" if handshaking else "connection lost"
        self.end(reason if exc is None else f"{reason}: {exc}", refused=handshaking)
        self._table.connection_gone(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def give_up(self) -> None:
        """The dial was cancelled. If there is a socket by now, the loop closes it and may tell
        nobody: whoever waits for its end would wait for ever."""
        self.end("the dial was given up")
        if self._transport is not None:
            self.connection_lost(None)

    def eof_received(self) -> bool:
        """The other end sends no more: a link is both ways or over."""
        self.end("closed by the other end", refused=self._handshake is not None)
        return False

    def end(self, reason: str, *, refused: bool = False, abort: bool = True) -> None:
        """Mark dead, tell the table, drop the socket. What is queued is lost."""
        if self.dead:
            return
        self.dead = True
        self._pending.clear()
        self._pending_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
        if refused:
            claimed = self._handshake.dialer if isinstance(self._handshake, Accepting) else -1
            self._table.count_refusal(reason, self._dialled, claimed)
        if abort:
            self.abort()
        self._table.connection_ended(self, reason)

    def finish(self) -> None:
        """Send what is queued, then close. Nothing more is delivered."""
        if self.dead:
            return
        self.flush()
        self.dead = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the socket now, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    # -- receiving -----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Where the next bytes go. Replaced per instance by the decoder's own."""
        return self._decoder.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived."""
        if self.dead:
            return
        self._table.bytes_received += nbytes
        messages = self._decoder.buffer_updated(nbytes)
        while self._handshake is not None and messages:
            if not self._shake(messages[0]):
                return
            messages = self._decoder.buffer_updated(0)
        if messages:
            self._table.deliver(self, messages)
        if self._decoder.error is not None:
            self.end(str(self._decoder.error), refused=self._handshake is not None)

    def _shake(self, message: object) -> bool:
        """One step of the handshake; False when that was the end of the connection."""
        assert self._transport is not None
        assert self._handshake is not None
        try:
            answer = self._handshake.receive(message)
        except (AccessDenied, RemoteProtocolError) as error:
            if not self._dialled:
                self._transport.writelines(encode(Refused(str(error))))
                self._transport.close()  # lets the reason leave; abort would cut it off
            self.end(str(error), refused=True, abort=self._dialled)
            return False
        if isinstance(answer, Established):
            self._up(answer)
        elif isinstance(answer, tuple):
            welcome, established = answer
            self._transport.writelines(encode(welcome))
            self._up(established)
        else:
            self._transport.writelines(encode(answer))
        return True

    def _up(self, established: Established) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._table.end_handshake(self)
        self._handshake = None
        self.peer = established.peer
        self.session = established.session
        self._decoder.widen(MESSAGE_TAGS)
        self._table.connection_up(self)

    # -- sending -------------------------------------------------------------------------------

    def queued_bytes(self) -> int:
        """Waiting here and in the transport."""
        waiting = self._pending_bytes
        if self._transport is not None and not self.dead:
            waiting += self._transport.get_write_buffer_size()
        return waiting

    def queue(self, message: object, bound: int) -> int:
        """Frame a message behind the others: its bytes, or 0 when the bound is exceeded."""
        pending = self._pending
        mark = len(pending)
        size = encode_into(pending, message)
        queued = self._pending_bytes + size
        # An unpaused transport holds less than its high-water mark, which is small.
        waiting = queued
        if self._paused and self._transport is not None:
            waiting += self._transport.get_write_buffer_size()
        if waiting > bound:
            del pending[mark:]
            return 0
        if waiting > self.queued_bytes_peak:
            self.queued_bytes_peak = waiting
        self._pending_bytes = queued
        if mark == 0 and not self._paused:
            self._table.flush_later(self)
        return size

    def flush(self) -> None:
        """Everything that is queued leaves in one call."""
        if self.dead or self._paused or not self._pending:
            return
        assert self._transport is not None
        pending, pending_bytes = self._pending, self._pending_bytes
        self._pending = []
        self._pending_bytes = 0
        if pending_bytes <= FLUSH_JOIN_BYTES_MAX:  # cheaper than a vector of many, measured
            self._transport.write(b"".join(pending))
        else:
            self._transport.writelines(pending)

    def pause_writing(self) -> None:
        """The socket takes no more: keep it here."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        self.flush()


class LinkTable:
    """All links of one node or client, and the sending half of `MessageBus`."""

    def __init__(
        self, identity: Identity, limits: LinkLimits, rng: random.Random, on_failure: OnFailure
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.loop: asyncio.AbstractEventLoop
        self._rng = rng
        self._on_failure = on_failure
        self._supervisor = Supervisor("mesh", on_failure)
        self._on_message: OnMessage | None = None
        self._on_link: OnLink | None = None
        self._links: dict[int, Connection] = {}
        self._shaking: dict[int, Connection] = {}  # in their handshake, by order of arrival
        self._leaving: dict[int, Connection] = {}  # every connection whose socket may be open
        self._last_session: dict[int, int] = {}
        self._peaks: dict[int, int] = {}
        self._dirty: list[Connection] = []
        self._closing = False
        self._frames_sent = self._frames_received = 0
        self._bytes_sent = self.bytes_received = 0
        self._sends_refused = self._links_refused = 0
        self._logged = (0, 0)  # second, refusals logged in it

    @property
    def self_id(self) -> NodeId:
        """Who we are."""
        return self.identity.self_id

    def set_receiver(self, on_message: OnMessage, on_link: OnLink) -> None:
        """See `MessageBus`."""
        self._on_message = on_message
        self._on_link = on_link

    # -- sending -------------------------------------------------------------------------------

    def send(self, peer: int, message: object) -> bool:
        """See `MessageBus`."""
        link = self._links.get(peer)
        if link is not None:
            size = link.queue(message, self.limits.queued_bytes_max)
            if size:
                self._frames_sent += 1
                self._bytes_sent += size
                return True
        self._sends_refused += 1
        return False

    def session(self, peer: int) -> int:
        """See `MessageBus`."""
        link = self._links.get(peer)
        return 0 if link is None else link.session

    def flush_later(self, link: Connection) -> None:
        """Write what `link` has at the end of this turn of the loop."""
        if not self._dirty:
            self.loop.call_soon(self.flush)
        self._dirty.append(link)

    def flush(self) -> None:
        """See `MessageBus`."""
        dirty = self._dirty
        self._dirty = []
        for link in dirty:
            link.flush()

    # -- receiving -----------------------------------------------------------------------------

    def deliver(self, link: Connection, messages: list[object]) -> None:
        """Hand over what one read brought, until the link is dead."""
        on_message = self._on_message
        assert on_message is not None
        peer = link.peer
        self._frames_received += len(messages)
        try:
            for message in messages:
                if link.dead:
                    return
                on_message(peer, message)
        except RemoteProtocolError as error:
            link.end(str(error))
        except Exception as error:  # noqa: BLE001 - a bug in the receiver: the node is to stop
            link.end("the receiver failed")
            self._on_failure("bus.receiver", error)

    def _tell_link(self, peer: int, session: int) -> None:
        if self._closing or self._on_link is None:
            return
        try:
            self._on_link(peer, session)
        except Exception as error:  # noqa: BLE001 - a bug in the receiver: the node is to stop
            self._on_failure("bus.receiver", error)

    # -- life of connections -------------------------------------------------------------------

    def last_session(self, peer: int) -> int:
        """The newest session number that this pair had; of ANYONE, that anybody had.

        Clients remember for themselves, and say it in their Hello: they are many and come and go.
        """
        if peer < 0:
            return max(self._last_session.values(), default=0)
        if is_client(peer):
            return self.session(peer)
        return self._last_session.get(peer, 0)

    def begin_handshake(self, connection: Connection) -> bool:
        """False when there are too many already, or the bus is closing."""
        self._leaving[id(connection)] = connection
        if self._closing or len(self._shaking) >= self.limits.handshakes_max:
            return False
        self._shaking[id(connection)] = connection
        return True

    def end_handshake(self, connection: Connection) -> None:
        """It is up, or dead."""
        self._shaking.pop(id(connection), None)

    def connection_up(self, link: Connection) -> None:
        """Authenticated: it takes the place of an older one of the same peer."""
        peer = link.peer
        older = self._links.get(peer)
        if older is not None:
            older.end("replaced by a newer session")
        if not is_client(peer):
            self._last_session[peer] = link.session
        self._links[peer] = link
        log.info("link.opened", node=self.self_id, peer=peer, session=link.session)
        self._tell_link(peer, link.session)

    def connection_ended(self, connection: Connection, reason: str) -> None:
        """Dead, whatever it was before."""
        self.end_handshake(connection)
        peer = connection.peer
        if self._links.get(peer) is not connection:
            return
        del self._links[peer]
        if not is_client(peer):
            self._peaks[peer] = max(self._peaks.get(peer, 0), connection.queued_bytes_peak)
        log.info(
            "link.closed", node=self.self_id, peer=peer, session=connection.session, reason=reason
        )
        self._tell_link(peer, 0)

    def connection_gone(self, connection: Connection) -> None:
        """Its socket is closed."""
        self._leaving.pop(id(connection), None)

    def count_refusal(self, reason: str, dialled: bool, claimed: int) -> None:
        """Count it, and log it unless somebody floods us."""
        if self._closing:
            return
        self._links_refused += 1
        second = int(self.loop.time())
        count = self._logged[1] + 1 if self._logged[0] == second else 1
        self._logged = (second, count)
        if count <= REFUSALS_LOGGED_A_SECOND:
            log.warning(
                "link.refused", node=self.self_id, dialled=dialled, claimed=claimed, reason=reason
            )

    def accepting(self, admits: Callable[[int], str]) -> Connection:
        """A connection that was accepted."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        handshake = Accepting(
            self.identity, last_session=self.last_session, admits=admits, nonce=nonce
        )
        return Connection(self, handshake)

    # -- dialling ------------------------------------------------------------------------------

    def keep_dialling(self, address: Address, receiver: int) -> None:
        """Have a link to that address from now on, as often as it takes."""
        self._supervisor.start(self._dial(address, receiver), name=f"dial.{address_text(address)}")

    async def _dial(self, address: Address, receiver: int) -> None:
        failures = 0
        while True:
            began = self.loop.time()
            reason = await self._dial_once(address, receiver)
            if self.loop.time() - began >= CALM_S and not reason:
                failures = 0
            failures += 1
            if reason and failures == 1:
                log.info("link.dial_failed", node=self.self_id, reason=reason)
            ceiling_ms = min(
                self.limits.backoff_max_ms, self.limits.backoff_min_ms << min(failures - 1, 16)
            )
            # Jitter: eight nodes that lost the same one must not come back in step.
            await asyncio.sleep(ceiling_ms * (0.5 + 0.5 * self._rng.random()) / 1000)

    def _admits_acceptor(self, peer: int) -> str:
        # Two addresses of one node would replace each other's links for ever.
        return "that node is linked by another address" if self.session(peer) else ""

    async def connect(self, link: Connection, address: Address, receiver: int) -> None:
        """Make the socket of a connection that was dialled. OSError."""
        if isinstance(address, str):
            await self.loop.create_unix_connection(lambda: link, address)
        else:
            await self.loop.create_connection(lambda: link, address[0], address[1])

    def admits_dialer(self, peer: int, peers: Container[int]) -> str:
        """Why a node takes no link from there; empty: it does."""
        if is_client(peer):
            clients = sum(1 for linked in self._links if is_client(linked))
            if clients >= self.limits.clients_max and peer not in self._links:
                return f"{clients} clients are linked already"
            return ""
        if peer not in peers:
            return f"node {peer} is not a peer of this one"
        if peer > self.self_id:
            return "the lower node id dials"
        return ""

    async def _dial_once(self, address: Address, receiver: int) -> str:
        """Connect, and return when that link is over: empty, or why there was none."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        handshake = Dialing(
            self.identity,
            receiver=receiver,
            last_session=self.last_session,
            admits=self._admits_acceptor,
            nonce=nonce,
        )
        link = Connection(self, handshake)
        timeout_s = self.limits.connect_timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_s):
                await self.connect(link, address, receiver)
        except (OSError, TimeoutError) as error:
            link.give_up()
            return f"{address_text(address)}: {error or 'no answer in time'}"
        except asyncio.CancelledError:
            link.give_up()
            raise
        await asyncio.shield(link.ended)  # cancelling us must not cancel it for `close`
        return "" if link.session else f"{address_text(address)}: the handshake failed"

    # -- end -----------------------------------------------------------------------------------

    async def close(self) -> None:
        """See `MessageBus`. Waits at most a second for what is queued to leave."""
        self._closing = True
        await self._supervisor.close()
        open_connections = list(self._leaving.values())
        for connection in open_connections:
            connection.finish()
        self._links.clear()
        deadline = self.loop.time() + CLOSE_S
        for connection in open_connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(connection.ended)
            if not connection.ended.done():
                connection.abort()
                await connection.ended

    def statistics(self) -> BusStatistics:
        """See `MessageBus`."""
        peers = sorted(self._peaks.keys() | self._links.keys())
        links: list[LinkStatistics] = []
        for peer in peers:
            link = self._links.get(peer)
            peak = self._peaks.get(peer, 0)
            if link is None:
                links.append(LinkStatistics(peer, 0, 0, peak))
            else:
                peak = max(peak, link.queued_bytes_peak)
                links.append(LinkStatistics(peer, link.session, link.queued_bytes(), peak))
        return BusStatistics(
            frames_sent=self._frames_sent,
            frames_received=self._frames_received,
            bytes_sent=self._bytes_sent,
            bytes_received=self.bytes_received,
            sends_refused=self._sends_refused,
            links_refused=self._links_refused,
            links=tuple(links),
        )
