"""shell: the `mqtt` bus: every message between nodes passes a broker, for nodes that cannot dial
each other.

A connection of the mesh (`transport.link`: handshake, sessions, frames) runs unchanged over a
stream that is made of messages of the broker. A broker may lose or repeat a message, or hand over
what an earlier life was sent, so each one names its stream and its place in it; a gap ends the
connection, and the next one has a newer session. Each end says how much it has received: what is on
its way has a bound, in the broker too.

    topic    eightfold/<cluster>/bus/to/<receiver>/<sender>
    payload  kind u8, life of the dialer u64, stream u64, place u64, then bytes
    topic    eightfold/<cluster>/bus/life/<node>   u64, then 1 here or 0 gone (the last will)

Like the mesh it is authenticated, not sealed: the broker, and who may publish there, is trusted.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from base.device import Buffer
from base.errors import ConfigError
from base.ids import NodeId
from base.place import Address
from base.units import NODES_MAX, KiB, MiB
from transport.broker import BrokerAddress, BrokerConnection, LastWill
from transport.bus import CLIENT_ID_END, CLIENT_ID_MIN, OnFailure, is_client
from transport.handshake import Identity
from transport.link import CLOSE_S, Connection, LinkLimits, LinkTable
from transport.mqtt_topics import ROOT, is_cluster

CHUNK_BYTES_MAX: Final = 512 * KiB
WINDOW_BYTES: Final = 4 * MiB  # on its way, and not yet said to be received: writing pauses above
ACK_BYTES: Final = 512 * KiB  # the receiver says so at least this often
WINDOW_CHUNKS: Final = 512
ACK_CHUNKS: Final = 64
STREAMS_MAX: Final = 512

OPEN, DATA, ACK, END = range(1, 5)
_HEAD: Final = struct.Struct("<BQQQ")
_LIFE: Final = struct.Struct("<QB")


@dataclass(frozen=True, slots=True)
class MqttBusConfig:
    """A node, or an attached host, at the broker. `peers`: every other node."""

    self_id: NodeId
    incarnation: int
    cluster_id: str
    secret: bytes = field(repr=False)
    broker: BrokerAddress
    peers: tuple[int, ...]
    # Nobody answers a hello that the broker dropped: ask again soon.
    limits: LinkLimits = field(default_factory=lambda: LinkLimits(handshake_timeout_ms=1_000))

    def __post_init__(self) -> None:
        if not is_cluster(self.cluster_id):
            raise ConfigError(f"cluster_id: {self.cluster_id!r} cannot stand in a topic")
        for node in self.peers:
            if not 0 <= node < NODES_MAX or node == self.self_id:
                raise ConfigError(f"peers: {node} is not another node")


def client_config(
    cluster_id: str, secret: bytes, broker: BrokerAddress, nodes: Sequence[int], rng: random.Random
) -> MqttBusConfig:
    """An attached host under a random id. rng: seed it from the system."""
    client = NodeId(rng.randrange(CLIENT_ID_MIN, CLIENT_ID_END))
    return MqttBusConfig(client, 1, cluster_id, secret, broker, tuple(nodes))


class BrokerStream(asyncio.Transport):
    """What a `Connection` writes to instead of a socket."""

    def __init__(self, bus: MqttBus, peer: int, key: tuple[int, int], link: Connection) -> None:
        super().__init__()
        self.peer = peer
        self.key = key  # life of the dialer, number of the stream
        self.link = link
        self.open = True
        self._bus = bus
        self._sent = self._sent_bytes = 0
        self._acked = self._acked_bytes = 0
        self._received = self._received_bytes = 0
        self._said = self._said_bytes = 0
        self._paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is no socket."""
        return default

    def get_write_buffer_size(self) -> int:
        """On its way, as far as we know."""
        return self._sent_bytes - self._acked_bytes

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return not self.open

    def write(self, data: Buffer) -> None:
        """In chunks, at once."""
        view = memoryview(data)
        for at in range(0, len(view), CHUNK_BYTES_MAX):
            part = view[at : at + CHUNK_BYTES_MAX]
            if not self.open or not self._bus.publish(self, DATA, self._sent, part):
                self.lost()
                return
            self._sent += 1
            self._sent_bytes += len(part)
        full = self.get_write_buffer_size() > WINDOW_BYTES
        if not self._paused and (full or self._sent - self._acked > WINDOW_CHUNKS):
            self._paused = True
            self.link.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Joined: fewer messages of the broker matter more than a copy."""
        self.write(b"".join(list_of_data))

    def receive(self, kind: int, place: int, data: memoryview) -> None:
        """One message of the stream. A place that is not the next one is the end of it."""
        if kind == END:
            self.lost()
        elif kind == ACK:
            if len(data) != 8 or place > self._sent:
                self.abort()
                return
            self._acked = place
            self._acked_bytes = int.from_bytes(data, "little")
            light = self.get_write_buffer_size() <= WINDOW_BYTES // 2
            if self._paused and light and self._sent - self._acked <= WINDOW_CHUNKS // 2:
                self._paused = False
                self.link.resume_writing()
        elif kind == DATA:
            if place != self._received:
                self.abort()
                return
            self._received += 1
            self._received_bytes += len(data)
            self._take(data)
            if self.open and (
                self._received - self._said >= ACK_CHUNKS
                or self._received_bytes - self._said_bytes >= ACK_BYTES
            ):
                self._said, self._said_bytes = self._received, self._received_bytes
                counted = memoryview(self._received_bytes.to_bytes(8, "little"))
                self._bus.publish(self, ACK, self._received, counted)

    def _take(self, data: memoryview) -> None:
        while len(data) and self.open:
            target = self.link.get_buffer(len(data))
            count = min(len(target), len(data))
            target[:count] = data[:count]
            data = data[count:]
            self.link.buffer_updated(count)

    def abort(self) -> None:
        """End it, and say so to the other end."""
        if self.open:
            self._bus.publish(self, END, 0, memoryview(b""))
            self.lost()

    def close(self) -> None:
        """What was written is on its way already, and the end comes behind it."""
        self.abort()

    def lost(self) -> None:
        """It is over; the connection is told in a turn of its own, as a socket does."""
        if self.open:
            self.open = False
            self._bus.forget(self)
            self._bus.loop.call_soon(self.link.connection_lost, None)


class MqttBus(LinkTable):
    """The `MessageBus` over a broker. Nodes take connections of lower ids and of hosts.

    rng: jitter of reconnecting only. on_failure(name, error): a bug; the node is to stop.
    """

    def __init__(self, config: MqttBusConfig, *, rng: random.Random, on_failure: OnFailure) -> None:
        identity = Identity(config.self_id, config.incarnation, config.cluster_id, config.secret)
        super().__init__(identity, config.limits, rng, on_failure)
        self._config = config
        self._streams: dict[tuple[int, tuple[int, int]], BrokerStream] = {}
        self._next_stream = 0
        self._life = 0  # of this connection to the broker
        self._broker: BrokerConnection
        self._base = f"{ROOT}/{config.cluster_id}/bus"
        if not is_client(config.self_id):
            for peer in config.peers:
                self._peaks[peer] = 0  # listed in the statistics from the start

    async def start(self) -> None:
        """Go to the broker, and dial the higher ids by it; a host dials every node."""
        self.loop = asyncio.get_running_loop()
        config = self._config
        client = is_client(self.self_id)
        name = f"h{self.self_id}" if client else f"n{self.self_id}"
        subscriptions = [f"{self._base}/to/{self.self_id}/+", f"{self._base}/life/+"]
        self._broker = BrokerConnection(
            config.broker,
            identifier=f"eightfold-{config.cluster_id[:24]}-bus-{name}",
            subscriptions=subscriptions,
            on_message=self._received,
            on_up=self._broker_up,
            on_down=self._broker_down,
            on_failure=self._on_failure,
            rng=self._rng,
            will=self._will,
        )
        self._supervisor.start(self._broker.run(), name="broker")
        for peer in sorted(config.peers):
            if client or peer > self.self_id:
                self.keep_dialling(f"broker/{peer}", peer)

    def _will(self) -> LastWill:
        self._life = secrets.randbits(64)
        return LastWill(f"{self._base}/life/{self.self_id}", _LIFE.pack(self._life, 0), False)

    def _broker_up(self) -> None:
        self._broker.publish(f"{self._base}/life/{self.self_id}", _LIFE.pack(self._life, 1))

    def _broker_down(self, reason: str) -> None:
        for stream in list(self._streams.values()):
            stream.lost()

    # -- streams -------------------------------------------------------------------------------

    async def connect(self, link: Connection, address: Address, receiver: int) -> None:
        """A stream to `receiver` instead of a socket. OSError: the broker is away."""
        if not self._broker.up or len(self._streams) >= STREAMS_MAX:
            raise ConnectionRefusedError("the broker is away")
        self._next_stream += 1
        stream = BrokerStream(self, receiver, (self._life, self._next_stream), link)
        self._streams[receiver, stream.key] = stream
        self.publish(stream, OPEN, 0, memoryview(b""))
        link.connection_made(stream)

    def publish(self, stream: BrokerStream, kind: int, place: int, data: memoryview) -> bool:
        """One message of a stream. False: it did not leave."""
        return self._publish(stream.peer, kind, stream.key, place, data)

    def _publish(
        self, peer: int, kind: int, key: tuple[int, int], place: int, data: memoryview
    ) -> bool:
        payload = b"".join((_HEAD.pack(kind, *key, place), data))
        return self._broker.publish(f"{self._base}/to/{peer}/{self.self_id}", payload)

    def forget(self, stream: BrokerStream) -> None:
        """It is over."""
        self._streams.pop((stream.peer, stream.key), None)

    def _received(self, topic: str, payload: bytes) -> None:
        parts = topic.split("/")
        if len(parts) < 5 or not parts[-1].isdecimal() or len(parts[-1]) > 20:
            return
        sender = int(parts[-1])
        if parts[3] == "life" and len(payload) == _LIFE.size:
            self._heard_of(sender, *_LIFE.unpack(payload))
        elif parts[3] == "to" and len(payload) >= _HEAD.size and parts[4] == str(self.self_id):
            kind, life, number, place = _HEAD.unpack_from(payload)
            view = memoryview(payload)[_HEAD.size :]
            self._heard_from(sender, kind, (life, number), place, view)

    def _heard_of(self, peer: int, life: int, here: int) -> None:
        """Streams of another life than the one that is here, or of the one that is gone, are over.
        Which life a stream to us belongs to its key says; of those that we dialled, all are."""
        for stream in list(self._streams.values()):
            if stream.peer == peer:
                dialled_here = stream.key[0] == self._life
                if dialled_here or (stream.key[0] != life) == bool(here):
                    stream.lost()

    def _heard_from(
        self, peer: int, kind: int, key: tuple[int, int], place: int, data: memoryview
    ) -> None:
        stream = self._streams.get((peer, key))
        if stream is not None:
            stream.receive(kind, place, data)
        elif kind == OPEN and self._may_open():
            link = self.accepting(self._admits_dialer)
            stream = BrokerStream(self, peer, key, link)
            self._streams[peer, key] = stream
            link.connection_made(stream)
        elif kind in (OPEN, DATA):  # of an earlier life, or too many
            self._publish(peer, END, key, 0, memoryview(b""))

    def _may_open(self) -> bool:
        return (
            not self._closing and not is_client(self.self_id) and len(self._streams) < STREAMS_MAX
        )

    def _admits_dialer(self, peer: int) -> str:
        return self.admits_dialer(peer, self._config.peers)

    async def close(self) -> None:
        """End all links, let what was queued leave, and go."""
        self._closing = True
        for connection in list(self._leaving.values()):
            connection.finish()
        await self._broker.drain(CLOSE_S)
        for stream in list(self._streams.values()):
            stream.abort()
        await super().close()
