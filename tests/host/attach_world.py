"""A cluster of nodes that a test steers, and one attached volume, on virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from base.errors import (
    StorageError,
)
from base.units import KiB, MiB
from host.attach import AttachedVolume
from host.export import HostRequest, RequestKind
from host.router import pack_runs
from host.topology import CALL, Topology, pack_topology, pack_unchanged, unpack_query
from sim.clock import SimClock
from sim.event_loop import SimEventLoop
from transport import operation as op
from transport.messages import (
    AdminReply,
    AdminRequest,
    HostBatch,
    HostReplies,
    SyncReply,
    SyncRequest,
)
from transport.operation import Record
from transport.sim import SimLimits, SimNetwork

REGION = 64 * KiB
VOLUME = 3
NOBODY = 255
NOT_FOUND = ("not_found", "there is no volume v")


class Cluster:
    """What the nodes agree about, and what took effect, as if they replicated it."""

    def __init__(self, owners: list[int], up: tuple[int, ...]) -> None:
        self.topology = Topology(
            1, VOLUME, len(owners) * REGION, REGION, 512, False, bytes(owners), up
        )
        self.bytes = bytearray(1 * MiB)
        self.effects: list[tuple[int, int]] = []  # (client, number) of changes, in order

    def change(self, **changes: Any) -> None:
        now = self.topology
        values = {key: getattr(now, key) for key in Topology.__slots__} | changes
        values["version"] = changes.get("version", now.version + 1)
        self.topology = Topology(**values)

    def move(self, *owners: int, up: tuple[int, ...] | None = None) -> None:
        self.change(owners=bytes(owners), up_nodes=self.topology.up_nodes if up is None else up)

    def take_effect(self, record: Record) -> None:
        name = (record.client, record.number)
        if name in self.effects:
            return
        self.effects.append(name)
        at = record.region * REGION + record.offset
        data = bytes(record.data) or bytes(record.length)
        self.bytes[at : at + record.length] = data


class Node:
    """Answers at once, by the cluster's topology, unless the test replaces one of its answers."""

    def __init__(self, world: World, node: int) -> None:
        self.world = world
        self.node = node
        self.topology: Topology | None = None  # an older one than the cluster's
        self.refusal: tuple[str, str] | None = None
        self.asked: list[int] = []  # versions that askers knew
        self.batches: list[list[Record]] = []
        self.syncs: list[int] = []
        self.mute_topology = False
        self.mute_syncs = False
        self.on_record: Callable[[int, Record], None] = self.operate
        self.bus = world.network.bus(node, world.failed)
        self.bus.set_receiver(self.on_message, lambda peer, session: None)
        world.loop.run_until_complete(self.bus.start())

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    @property
    def names(self) -> list[tuple[int, int]]:
        return [(record.client, record.number) for record in self.records]

    def on_message(self, peer: int, message: object) -> None:
        if isinstance(message, HostBatch):
            view, at = memoryview(message.data), 0  # type: ignore[arg-type]
            batch = []
            for _ in range(message.count):
                record, at = op.unpack_request(view, at)
                batch.append(record)
            self.batches.append(batch)
            for record in batch:
                self.on_record(peer, record)
        elif isinstance(message, SyncRequest):
            self.syncs.append(message.request)
            if not self.mute_syncs:
                self.bus.send(peer, SyncReply(message.request))
        else:
            assert isinstance(message, AdminRequest)
            self.answer(peer, message)

    def answer(self, peer: int, question: AdminRequest) -> None:
        assert question.call == CALL
        name, known = unpack_query(question.arguments)
        assert name == "v"
        self.asked.append(known)
        topology = self.topology or self.world.cluster.topology
        if self.mute_topology:
            return
        if self.refusal is not None:
            self.bus.send(peer, AdminReply(question.request, *self.refusal, b""))
        elif known >= topology.version:
            self.bus.send(
                peer, AdminReply(question.request, "", "", pack_unchanged(topology.version))
            )
        else:
            self.bus.send(peer, AdminReply(question.request, "", "", pack_topology(topology)))

    def operate(self, peer: int, record: Record) -> None:
        cluster = self.world.cluster
        if cluster.topology.owners[record.region] != self.node:
            self.reply(peer, record, op.NOT_OWNER)
            return
        at = record.region * REGION + record.offset
        if record.kind == op.READ:
            self.reply(peer, record, op.OK, bytes(cluster.bytes[at : at + record.length]))
        elif record.kind == op.STATUS:
            self.reply(peer, record, op.OK, pack_runs([(record.length, record.region == 0)]))
        else:
            cluster.take_effect(record)
            self.reply(peer, record, op.OK)

    def reply(self, peer: int, record: Record, outcome: int, data: bytes = b"") -> None:
        head = op.pack_reply(record.client, record.number, outcome, 0, 1, len(data))
        self.bus.send(peer, HostReplies(1, (head, data)))


class World:
    """A cluster of nodes 0, 1, … and one attached volume."""

    def __init__(self, owners: list[int], nodes: int = 3, timeout_ms: int = 2_000) -> None:
        self.loop = SimEventLoop()
        self.network = SimNetwork(
            random.Random(5), loop=self.loop, limits=SimLimits(reconnect_us=2_000)
        )
        self.failures: list[BaseException] = []
        self.cluster = Cluster(owners, tuple(range(nodes)))
        self.nodes = [Node(self, node) for node in range(nodes)]
        self.view = AttachedVolume(
            "v",
            bus=self.network.client_bus(self.failed),
            clock=SimClock(self.loop),
            rng=random.Random(1),
            timeout_ms=timeout_ms,
        )
        self.client = int(self.view._bus.self_id)
        self.done: list[tuple[HostRequest, StorageError | None, Any]] = []

    def failed(self, name: str, error: BaseException) -> None:
        self.failures.append(error)

    def open(self) -> AttachedVolume:
        self.loop.run_until_complete(self.view.open())
        self.run_ms(20)  # all links are up
        for node in self.nodes:
            node.asked.clear()
        return self.view

    def run_ms(self, milliseconds: float) -> None:
        self.loop.run_until_ns(self.loop.now_ns + round(milliseconds * 1e6))

    def submit(
        self, kind: RequestKind, offset: int = 0, length: int = 0, data: bytes = b"", **more: Any
    ) -> HostRequest:
        """Give a request to the view; its outcome is `outcome(request)`."""

        def done(request: HostRequest, error: StorageError | None, result: Any) -> None:
            self.done.append((request, error, result))

        request = HostRequest(kind, offset, length or len(data), done, data)
        for key, value in more.items():
            setattr(request, key, value)
        self.loop.call_soon(self.view.submit, request)
        return request

    def write(self, offset: int, data: bytes, **more: Any) -> HostRequest:
        return self.submit(RequestKind.WRITE, offset, data=data, **more)

    def read(self, offset: int, length: int) -> HostRequest:
        return self.submit(RequestKind.READ, offset, length)

    def flush(self) -> HostRequest:
        return self.submit(RequestKind.FLUSH)

    def outcome(self, request: HostRequest) -> Any:
        """ "waits", None, the error, or the result."""
        for done, error, result in self.done:
            if done is request:
                if error is None and request.kind is RequestKind.READ:
                    return b"".join(bytes(part) for part in result)
                return error or result
        return "waits"

    def lose(self, node: int) -> None:
        """As kill -9: what it sent and nobody received is gone."""
        self.network.detach(node)

    def questions(self) -> int:
        return sum(len(node.asked) for node in self.nodes)
