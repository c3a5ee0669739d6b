"""What every bus promises, on each of its kinds."""

import asyncio
import random
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from base.errors import InvalidRequest, RemoteProtocolError
from base.ids import NodeId
from base.place import Address
from base.units import MiB
from tests.transport.mosquitto import Mosquitto
from transport.broker import BrokerAddress
from transport.bus import MessageBus, is_client
from transport.link import LinkLimits
from transport.mesh import Mesh, MeshClient, MeshClientConfig, MeshConfig
from transport.messages import AdminRequest, HostBatch, SyncReply, SyncRequest
from transport.mqtt import MqttBus, MqttBusConfig, client_config
from transport.sim import SimLimits, SimNetwork

SECRET = b"a secret of the cluster"
needs_mosquitto = pytest.mark.needs_tool("mosquitto")
KINDS = [
    "tcp", "unix", "tcp-uvloop", "unix-uvloop", "sim", "sim-objects",
    pytest.param("mqtt", marks=needs_mosquitto), pytest.param("mqtt-uvloop", marks=needs_mosquitto),
]  # fmt: skip


class End:
    """A bus and everything that it told its receiver."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.links: list[tuple[int, int]] = []
        self.events: list[tuple[int, object]] = []
        self.received: list[tuple[int, object]] = []
        self.on_receive: Callable[[int, object], None] = lambda peer, message: None
        self._changed = asyncio.Event()
        bus.set_receiver(self._on_message, self._on_link)

    def _on_message(self, peer: int, message: object) -> None:
        self.received.append((peer, message))
        self.events.append((peer, message))
        self._changed.set()
        self.on_receive(peer, message)

    def _on_link(self, peer: int, session: int) -> None:
        self.links.append((peer, session))
        self.events.append((peer, session))
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def linked(self, peer: int, newer_than: int = 0) -> int:
        await self.until(lambda: self.bus.session(peer) > newer_than)
        return self.bus.session(peer)


class World:
    """Nodes 0, 1, … of one cluster, over one kind of bus."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.ends: dict[int, End] = {}
        self.clients: list[End] = []
        self.failures: list[str] = []
        self.addresses: dict[int, Address] = {}
        self.queued_bytes_max = 48 * MiB
        self.network: SimNetwork | None = None
        self.broker: Mosquitto | None = None
        if kind.startswith("mqtt"):
            self.broker = Mosquitto(directory)
        if kind.startswith("sim"):
            self.network = SimNetwork(
                random.Random(7),
                limits=SimLimits(queued_bytes_max=self.queued_bytes_max, reconnect_us=2_000),
                through_codec=kind == "sim",
            )

    def _failed(self, name: str, error: BaseException) -> None:
        self.failures.append(f"{name}: {error}")

    async def node(self, node: int, count: int, incarnation: int = 1) -> End:
        if self.network is not None:
            bus: MessageBus = self.network.bus(node, self._failed)
        elif self.broker is not None:
            peers = tuple(n for n in range(count) if n != node)
            bus = MqttBus(
                MqttBusConfig(
                    NodeId(node), incarnation, "test", SECRET, self._at_broker(), peers,
                    LinkLimits(queued_bytes_max=self.queued_bytes_max, handshake_timeout_ms=1000),
                ),
                rng=random.Random(node),
                on_failure=self._failed,
            )  # fmt: skip
        else:
            bus = Mesh(
                MeshConfig(
                    NodeId(node),
                    incarnation,
                    "test",
                    SECRET,
                    self.addresses.get(node, self._fresh_address(node)),
                    # A node needs the addresses of those that it dials only: the higher ones.
                    {
                        NodeId(n): self.addresses.get(n, ("127.0.0.1", 1))
                        for n in range(count)
                        if n != node
                    },
                    LinkLimits(queued_bytes_max=self.queued_bytes_max),
                ),
                rng=random.Random(node),
                on_failure=self._failed,
            )
        end = self.ends[node] = End(bus)
        await bus.start()
        if isinstance(bus, Mesh):
            self.addresses[node] = bus.listening
        return end

    def _at_broker(self) -> BrokerAddress:
        assert self.broker is not None
        return BrokerAddress("127.0.0.1", self.broker.port)

    def _fresh_address(self, node: int) -> Address:
        if self.kind.startswith("unix"):
            return str(self.directory / f"n{node}")
        return ("127.0.0.1", 0)

    async def nodes(self, count: int) -> list[End]:
        for node in reversed(range(count)):  # the lower dials: it must know the higher's port
            await self.node(node, count)
        ends = [self.ends[node] for node in range(count)]
        for end in ends:
            for other in ends:
                if other is not end:
                    await end.linked(other.bus.self_id)
        return ends

    async def client(self) -> End:
        if self.network is not None:
            bus: MessageBus = self.network.client_bus(self._failed)
        elif self.broker is not None:
            rng = random.Random(99 + len(self.clients))
            config = client_config("test", SECRET, self._at_broker(), sorted(self.ends), rng)
            bus = MqttBus(config, rng=rng, on_failure=self._failed)
        else:
            bus = MeshClient(
                MeshClientConfig("test", SECRET, tuple(self.addresses.values())),
                rng=random.Random(99 + len(self.clients)),
                on_failure=self._failed,
            )
        end = End(bus)
        self.clients.append(end)
        await bus.start()
        return end

    def break_link(self, one: int, other: int) -> None:
        if self.network is not None:
            self.network.reset(one, other)
        else:
            mesh = self.ends[one].bus
            assert isinstance(mesh, Mesh | MqttBus)
            mesh._links[other].end("broken by the test")

    async def close(self) -> None:
        for end in [*self.clients, *self.ends.values()]:
            await end.bus.close()
        if self.broker is not None:
            self.broker.kill()


Run = Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Run:
    kind: str = request.param

    def run_it(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            # Not the test's own directory: paths of Unix sockets are at most 107 bytes long.
            with tempfile.TemporaryDirectory() as directory:
                world = World(kind, Path(directory))
                try:
                    await test(world)
                finally:
                    await world.close()
                assert world.failures == []

        factory = uvloop.new_event_loop if kind.endswith("uvloop") else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())

    return run_it


def numbers(end: End) -> list[int]:
    return [message.request for _, message in end.received if isinstance(message, SyncRequest)]


def test_messages_arrive_in_order_in_both_directions(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        for number in range(200):
            assert a.bus.send(1, SyncRequest(number))
            assert b.bus.send(0, SyncRequest(1000 + number))
        await b.until(lambda: len(b.received) == 200)
        await a.until(lambda: len(a.received) == 200)
        assert numbers(b) == list(range(200))
        assert numbers(a) == list(range(1000, 1200))
        assert {peer for peer, _ in b.received} == {0}

    run(body)


def test_every_pair_of_nodes_is_linked_with_one_session_number(run: Run) -> None:
    async def body(world: World) -> None:
        ends = await world.nodes(4)
        for end in ends:
            for other in ends:
                one, two = end.bus.self_id, other.bus.self_id
                if one != two:
                    assert end.bus.session(two) == other.bus.session(one) > 0

    run(body)


def test_bulk_data_of_many_buffers_arrives_whole(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        parts = [bytes([n]) * (n * 1000) for n in range(60)]
        whole = b"".join(parts)
        assert a.bus.send(1, HostBatch(1, parts))
        assert a.bus.send(1, HostBatch(2, bytearray(b"small")))
        assert a.bus.send(1, HostBatch(3, b""))
        await b.until(lambda: len(b.received) == 3)
        assert [bytes(m.data) for _, m in b.received] == [whole, b"small", b""]

    run(body)


def test_the_largest_host_request_passes(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        data = random.Random(1).randbytes(MiB) * 32
        assert a.bus.send(1, HostBatch(1, data))
        assert a.bus.send(1, SyncRequest(5))
        await b.until(lambda: len(b.received) == 2)
        assert b.received[0][1].data == data
        assert b.received[1][1] == SyncRequest(5)

    run(body)


def test_a_message_sent_from_the_receiver_is_answered(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        b.on_receive = lambda peer, message: b.bus.send(peer, SyncReply(message.request))
        a.bus.send(1, SyncRequest(8))
        await a.until(lambda: a.received)
        assert a.received == [(1, SyncReply(8))]

    run(body)


def test_nothing_is_sent_without_a_link(run: Run) -> None:
    async def body(world: World) -> None:
        a, _ = await world.nodes(2)
        assert not a.bus.send(7, SyncRequest(1))
        assert not a.bus.send(0, SyncRequest(1))
        assert a.bus.session(7) == 0
        assert a.bus.statistics().sends_refused == 2

    run(body)


def test_a_link_beyond_its_bound_refuses_and_keeps_what_it_took(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        block = bytes(8 * MiB)
        taken = sum(a.bus.send(1, HostBatch(number, block)) for number in range(10))
        assert taken == 5
        assert a.bus.send(1, SyncRequest(5))
        await b.until(lambda: len(b.received) == taken + 1)
        assert [m.count for _, m in b.received[:-1]] == list(range(taken))
        a.bus.send(1, SyncRequest(6))
        await b.until(lambda: len(b.received) == taken + 2)
        link = a.bus.statistics().links[0]
        assert 40 * MiB < link.queued_bytes_peak <= world.queued_bytes_max

    run(body)


def test_a_message_too_large_for_a_frame_is_refused_and_the_link_goes_on(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        if world.kind != "sim-objects":
            with pytest.raises(InvalidRequest):
                a.bus.send(1, HostBatch(1, bytes(34 * MiB)))
        assert a.bus.send(1, SyncRequest(1))
        await b.until(lambda: b.received)
        assert b.received == [(0, SyncRequest(1))]

    run(body)


def test_a_broken_link_comes_back_with_a_newer_session(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        session = a.bus.session(1)
        for _ in range(3):
            world.break_link(0, 1)
            newer = await a.linked(1, newer_than=session)
            await b.linked(0, newer_than=session)
            session = newer
        for end, peer in ((a, 1), (b, 0)):
            sessions = [s for p, s in end.links if p == peer]
            assert sessions[1::2] == [0, 0, 0]
            assert sessions[0::2] == sorted(set(sessions[0::2]))

    run(body)


def test_nothing_of_an_older_session_arrives_after_a_newer_began(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        for turn in range(5):
            session = b.bus.session(0)
            for number in range(50):
                assert a.bus.send(1, AdminRequest(a.bus.session(1), str(number), b""))
            if turn % 2:
                await asyncio.sleep(0)
            world.break_link(turn % 2, 1 - turn % 2)
            await b.linked(0, newer_than=session)
            await a.linked(1, newer_than=session)
        a.bus.send(1, SyncRequest(1))
        await b.until(lambda: numbers(b))
        current = 0
        for _, event in b.events:
            if isinstance(event, int):
                current = event
            elif isinstance(event, AdminRequest):
                assert event.request == current

    run(body)


def test_a_node_that_stops_is_noticed_and_found_again(run: Run) -> None:
    async def body(world: World) -> None:
        ends = await world.nodes(3)
        for stopped in (0, 2):
            sessions = [end.bus.session(stopped) for end in ends]
            await world.ends[stopped].bus.close()
            for other in ends:
                if other.bus.self_id != stopped:
                    await other.until(
                        lambda other=other, stopped=stopped: other.bus.session(stopped) == 0
                    )
                    assert other.links[-1] == (stopped, 0)
            back = ends[stopped] = await world.node(stopped, 3, incarnation=2)
            for other in ends:
                if other is not back:
                    number = other.bus.self_id
                    await back.linked(number)
                    assert await other.linked(stopped) > sessions[number]
                    other.bus.send(stopped, SyncRequest(number))
            await back.until(lambda back=back: len(back.received) == 2)

    run(body)


def test_clients_reach_every_node_and_are_told_apart(run: Run) -> None:
    async def body(world: World) -> None:
        nodes = await world.nodes(2)
        clients = [await world.client() for _ in range(3)]
        for client in clients:
            assert is_client(client.bus.self_id)
            for node in (0, 1):
                await client.linked(node)
        for node in nodes:
            node.on_receive = lambda peer, message, node=node: node.bus.send(
                peer, SyncReply(message.request)
            )
        for number, client in enumerate(clients):
            client.bus.send(0, SyncRequest(number))
            client.bus.send(1, SyncRequest(number))
            await client.until(lambda client=client: len(client.received) == 2)
            assert sorted(client.received) == [(0, SyncReply(number)), (1, SyncReply(number))]

    run(body)


def test_a_client_that_leaves_is_noticed_and_forgotten(run: Run) -> None:
    async def body(world: World) -> None:
        (node,) = await world.nodes(1)
        client = await world.client()
        await client.linked(0)
        await node.linked(client.bus.self_id)
        await client.bus.close()
        await node.until(lambda: node.links[-1] == (client.bus.self_id, 0))
        assert not node.bus.send(client.bus.self_id, SyncReply(1))
        assert node.bus.statistics().links == ()

    run(body)


def test_a_client_finds_a_restarted_node_again_with_a_newer_session(run: Run) -> None:
    async def body(world: World) -> None:
        nodes = await world.nodes(2)
        client = await world.client()
        session = await client.linked(1)
        await nodes[1].bus.close()
        await client.until(lambda: client.links[-1] == (1, 0))
        await world.node(1, 2, incarnation=2)
        assert await client.linked(1) > session

    run(body)


def test_a_receiver_that_calls_it_a_protocol_error_ends_that_link_only(run: Run) -> None:
    async def body(world: World) -> None:
        ends = await world.nodes(3)

        def refuse(peer: int, message: object) -> None:
            if message == SyncRequest(13):
                raise RemoteProtocolError("thirteen is not a request")

        ends[1].on_receive = refuse
        session, other = ends[1].bus.session(0), ends[1].bus.session(2)
        ends[0].bus.send(1, SyncRequest(13))
        await ends[1].linked(0, newer_than=session)
        assert ends[1].bus.session(2) == other

    run(body)


def test_any_other_error_of_a_receiver_is_a_failure_of_the_node(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)

        def fail(peer: int, message: object) -> None:
            raise KeyError("a bug")

        b.on_receive = fail
        a.bus.send(1, SyncRequest(1))
        await b.until(lambda: world.failures)
        assert world.failures == ["bus.receiver: 'a bug'"]
        world.failures.clear()

    run(body)


def test_nothing_is_told_after_close(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        told = len(a.events)
        a.bus.send(1, SyncRequest(1))
        await a.bus.close()
        b.bus.send(0, SyncRequest(2))
        await b.until(lambda: b.links[-1] == (0, 0))
        assert len(a.events) == told
        assert b.received == [(0, SyncRequest(1))]  # what was queued still left
        assert not a.bus.send(1, SyncRequest(3))

    run(body)


def test_frames_and_bytes_are_counted(run: Run) -> None:
    async def body(world: World) -> None:
        a, b = await world.nodes(2)
        a.bus.send(1, HostBatch(1, bytes(5000)))
        a.bus.send(1, SyncRequest(1))
        await b.until(lambda: len(b.received) == 2)
        sent, received = a.bus.statistics(), b.bus.statistics()
        assert (sent.frames_sent, received.frames_received) == (2, 2)
        assert sent.bytes_sent > 5000
        assert received.bytes_received >= sent.bytes_sent
        assert [(link.peer, link.session) for link in sent.links] == [(1, a.bus.session(1))]

    run(body)
