"""shell: one connection to an MQTT broker, for the management plane and for the `mqtt` bus.

The only module that knows aiomqtt. Messages arrive in a callback, in order, without a task or a
queue for each: aiomqtt's own queue has no bound, or discards when it has one. What is published
waits in a queue of ours with a bound, and what does not fit is refused, so the caller knows.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import aiomqtt
import structlog

from base.errors import ConfigError
from base.units import MiB
from transport.bus import OnFailure

log = structlog.get_logger()

CONNECT_S: Final = 5.0
KEEPALIVE_S: Final = 10  # a broker that says nothing for so long is gone
BACKOFF_MS_MIN: Final = 50
BACKOFF_MS_MAX: Final = 2_000
QUEUED_BYTES_MAX: Final = 64 * MiB

GOODBYE_S: Final = 1.0

_EXPECTED: Final = (aiomqtt.MqttError, OSError, ValueError)
# What it would say goes to the log in our form, or nowhere.
_SILENT: Final = logging.getLogger("eightfold.broker")
_SILENT.disabled = True

OnBrokerMessage = Callable[[str, bytes], None]
OnBrokerUp = Callable[[], None]
OnBrokerDown = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is, and how to be let in."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class LastWill:
    """What the broker publishes for us when we are lost. Drawn anew for each connection."""

    topic: str
    payload: bytes
    retain: bool


def tls_context(
    ca_file: Path | None, cert_file: Path | None, key_file: Path | None
) -> ssl.SSLContext:
    """What the broker must prove, and by what it knows us. ConfigError names the file."""
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        if cert_file is not None:
            context.load_cert_chain(str(cert_file), None if key_file is None else str(key_file))
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(each) for each in (ca_file, cert_file, key_file) if each is not None)
        raise ConfigError(f"mqtt: {files}: {error}") from None
    return context


def _inbox(
    on_message: OnBrokerMessage, on_failure: OnFailure
) -> type[asyncio.Queue[aiomqtt.Message]]:
    """A queue that holds nothing: what is put is handed on, and nobody ever gets anything."""

    class Inbox(asyncio.Queue[aiomqtt.Message]):
        def put_nowait(self, item: aiomqtt.Message) -> None:
            try:
                on_message(item.topic.value, item.payload)
            except Exception as error:  # noqa: BLE001 - else the loop reports it, out of nowhere
                on_failure("broker.receiver", error)

    return Inbox


class BrokerConnection:
    """Connected as often as it takes, from `run` until that is cancelled.

    identifier: no two clients of a broker may have the same.
    on_up comes after all subscriptions; on_down(reason) only after it. on_failure(name, error): a
    bug, in a receiver.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        identifier: str,
        subscriptions: Sequence[str],
        on_message: OnBrokerMessage,
        on_up: OnBrokerUp,
        on_down: OnBrokerDown,
        on_failure: OnFailure,
        rng: random.Random,
        will: Callable[[], LastWill | None] = lambda: None,
    ) -> None:
        self.up = False
        self._address = address
        self._identifier = identifier
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._on_failure = on_failure
        self._rng = rng
        self._will = will
        self._current: aiomqtt.Client | None = None
        self._waiting: deque[tuple[str, bytes, bool]] = deque()
        self._waiting_bytes = 0
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # -- sending -------------------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """Not yet handed to the socket."""
        return self._waiting_bytes

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send at most once, in order. False: the broker is away, or too much waits already."""
        if not self.up or self._waiting_bytes + len(payload) > QUEUED_BYTES_MAX:
            return False
        self._waiting.append((topic, payload, retain))
        self._waiting_bytes += len(payload)
        self._idle.clear()
        self._work.set()
        return True

    async def drain(self, seconds: float) -> None:
        """Wait until all that was published has left, or the broker or the time is gone."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            while self._waiting:
                topic, payload, retain = self._waiting[0]
                await client.publish(topic, payload, qos=0, retain=retain, timeout=math.inf)
                self._waiting.popleft()
                self._waiting_bytes -= len(payload)
            self._idle.set()
            self._work.clear()
            await self._work.wait()

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, serve, and begin again when the broker is lost; for ever."""
        failures = 0
        while True:
            reason, was_up = await self._once()
            failures = 0 if was_up else failures + 1
            if failures <= 1:  # a broker that stays away is named once
                log.warning("broker.lost" if was_up else "broker.missed", reason=reason)
            ceiling_ms = min(BACKOFF_MS_MAX, BACKOFF_MS_MIN << min(failures, 16))
            # Jitter: eight nodes that lost the same broker must not come back in step.
            await asyncio.sleep(ceiling_ms * (0.5 + 0.5 * self._rng.random()) / 1000)

    async def _once(self) -> tuple[str, bool]:
        """One connection: why it ended, and whether it ever was up."""
        client = self._current = self._client()
        was_up = False
        try:
            await client.__aenter__()
            if self._subscriptions:
                await client.subscribe([(each, 0) for each in self._subscriptions])
            was_up = self.up = True
            self._on_up()
            async with asyncio.TaskGroup() as both:  # whichever fails takes the other along
                both.create_task(self._send(client))
                both.create_task(_until_lost(client))
            reason = "disconnected"
        except BaseExceptionGroup as group:
            others = group.split(_EXPECTED)[1]
            if others is not None:
                raise others from None
            reason = str(group.exceptions[0])
        except _EXPECTED as error:
            reason = str(error) or type(error).__name__
        finally:
            self.up = False
            self._waiting.clear()
            self._waiting_bytes = 0
            self._idle.set()
            await _leave(client)
        if was_up:
            self._on_down(reason)
        return reason, was_up

    def _client(self) -> aiomqtt.Client:
        address = self._address
        will = self._will()
        client = aiomqtt.Client(
            address.host,
            address.port,
            username=address.user or None,
            password=address.password or None,
            tls_context=address.tls,
            identifier=self._identifier,
            will=None if will is None else aiomqtt.Will(will.topic, will.payload, 0, will.retain),
            clean_session=True,
            keepalive=KEEPALIVE_S,
            timeout=CONNECT_S,
            queue_type=_inbox(self._on_message, self._on_failure),
            logger=_SILENT,
        )
        client._loop = cast(asyncio.AbstractEventLoop, WatchedLoop(client._loop))
        return client


class WatchedLoop:
    """The loop as aiomqtt sees it, when it asks for a socket to be watched a turn later.

    By then the socket may be closed, and its number that of another connection. uvloop says so with
    an error in a callback, for which a node ends; but there is nothing left to be watched, and
    aiomqtt hears from the socket itself that it is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        """As the loop's."""
        if callback in (self._loop.add_reader, self._loop.add_writer):
            return self._loop.call_soon_threadsafe(_watch, callback, *args)
        return self._loop.call_soon_threadsafe(callback, *args)


def _watch(add: Callable[..., object], number: int, ready: Callable[[], None]) -> None:
    try:
        add(number, ready)
    except (RuntimeError, OSError, ValueError) as error:
        log.debug("broker.left", reason=str(error))


async def _until_lost(client: aiomqtt.Client) -> None:
    """Raises MqttError when the connection is over."""
    async for _ in client.messages:
        pass


async def _leave(client: aiomqtt.Client) -> None:
    """Say goodbye if somebody listens, and leave nothing behind, whatever state it is in.

    aiomqtt keeps the socket when it fails half-way, and futures whose errors nobody would look at:
    the loop would report them later, out of nowhere.
    """
    client.timeout = GOODBYE_S
    try:
        await client.__aexit__(None, None, None)
    except _EXPECTED as error:
        log.debug("broker.left", reason=str(error))
    finally:
        client._client.disconnect()
        for future in (client._connected, client._disconnected):
            if future.done() and not future.cancelled():
                future.exception()
