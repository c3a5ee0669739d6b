"""What the mesh does with strangers, and how it writes."""

import asyncio
import random
import socket
import struct
import tempfile
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from base.errors import ConfigError
from base.ids import NodeId
from transport.codec import FrameDecoder, encode
from transport.handshake import ANYONE, Dialing, Identity
from transport.link import Connection, LinkLimits
from transport.mesh import Mesh, MeshClient, MeshClientConfig, MeshConfig
from transport.messages import Challenge, HostBatch, Refused, SyncRequest, Welcome

SECRET = b"a secret of the cluster"


def no_failure(name: str, error: BaseException) -> None:
    raise AssertionError(name) from error


def mesh(node: int, peers: dict[int, Any], *, secret: bytes = SECRET, **limits: int) -> Mesh:
    config = MeshConfig(
        NodeId(node),
        1,
        "test",
        secret,
        ("127.0.0.1", 0),
        {NodeId(peer): address for peer, address in peers.items()},
        LinkLimits(**limits),
    )
    made = Mesh(config, rng=random.Random(node), on_failure=no_failure)
    made.set_receiver(lambda peer, message: None, lambda peer, session: None)
    return made


NOWHERE = ("127.0.0.1", 1)


def run(body: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await body

    asyncio.run(bounded())


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


class Stranger:
    """A raw connection that speaks frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = FrameDecoder()

    @classmethod
    async def to(cls, node: Mesh) -> "Stranger":
        return cls(*await asyncio.open_connection(*node.listening))

    def send(self, message: object) -> None:
        self.writer.writelines(encode(message))

    async def receive(self) -> object:
        while True:
            data = await self.reader.read(65_536)
            if not data:
                return None
            found = self._decoder.receive_data(data)
            if found:
                return found[0]

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionResetError:
            return


def test_a_wrong_secret_is_refused_and_logged_at_both_ends() -> None:
    async def body() -> None:
        with capture_logs() as logs:
            one = mesh(1, {0: NOWHERE})
            await one.start()
            zero = mesh(0, {1: one.listening}, secret=b"another secret entirely")
            await zero.start()
            await until(lambda: one.statistics().links_refused and zero.statistics().links_refused)
            assert one.session(0) == zero.session(1) == 0
            await zero.close()
            await one.close()
        refused = [line for line in logs if line["event"] == "link.refused"]
        assert {line["node"] for line in refused} == {0, 1}
        assert "secret" in next(line for line in refused if line["node"] == 1)["reason"]
        assert "another secret entirely" not in str(logs)

    run(body())


def test_garbage_on_the_port_ends_only_that_connection() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        zero = mesh(0, {1: one.listening})
        await zero.start()
        await until(lambda: zero.session(1))
        session = zero.session(1)
        for garbage in (b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n", bytes(100_000), b"\xff" * 20):
            stranger = await Stranger.to(one)
            stranger.writer.write(garbage)
            assert await read_to_end(stranger.reader) == b""
            await stranger.close()
        assert one.statistics().links_refused == 3
        assert zero.session(1) == one.session(0) == session
        await zero.close()
        await one.close()

    run(body())


def test_a_replayed_handshake_is_refused() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        identity = Identity(NodeId(0), 1, "test", SECRET)
        dialer = Dialing(
            identity,
            receiver=1,
            last_session=lambda _: 0,
            admits=lambda _: "",
            nonce=b"n" * 32,
        )
        honest = await Stranger.to(one)
        honest.send(dialer.hello)
        proof = dialer.receive(await honest.receive())
        honest.send(proof)
        assert isinstance(await honest.receive(), Welcome)
        assert one.session(0) == 1
        thief = await Stranger.to(one)
        thief.send(dialer.hello)
        assert isinstance(await thief.receive(), Challenge)
        thief.send(proof)
        assert isinstance(await thief.receive(), Refused)
        assert await thief.receive() is None
        assert one.session(0) == 1
        for stranger in (honest, thief):
            await stranger.close()
        await one.close()

    run(body())


@pytest.mark.parametrize(
    "first", [SyncRequest(1), HostBatch(1, b"data"), HostBatch(1, bytes(1 << 20))]
)
def test_a_message_before_the_handshake_is_refused(first: object) -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        received: list[object] = []
        one.set_receiver(lambda peer, message: received.append(message), lambda *_: None)
        await one.start()
        stranger = await Stranger.to(one)
        stranger.send(first)
        assert await read_to_end(stranger.reader) == b""
        assert received == []
        await stranger.close()
        await one.close()

    run(body())


def test_a_handshake_message_after_the_handshake_ends_the_link() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        zero = mesh(0, {1: one.listening})
        await zero.start()
        await until(lambda: zero.session(1))
        session = one.session(0)
        zero.send(1, Welcome(b"again"))
        await until(lambda: one.session(0) > session)
        await zero.close()
        await one.close()

    run(body())


def test_who_does_not_prove_itself_in_time_is_dropped() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE}, handshake_timeout_ms=30)
        await one.start()
        stranger = await Stranger.to(one)
        assert await read_to_end(stranger.reader) == b""
        assert one.statistics().links_refused == 1
        await stranger.close()
        await one.close()

    run(body())


def test_connections_without_proof_are_bounded() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE}, handshakes_max=2)
        await one.start()
        waiting = [await Stranger.to(one) for _ in range(2)]
        await until(lambda: len(one._shaking) == 2)
        third = await Stranger.to(one)
        assert await read_to_end(third.reader) == b""
        await waiting[0].close()
        await until(lambda: len(one._shaking) == 1)
        for stranger in (waiting[1], third):
            await stranger.close()
        await one.close()

    run(body())


def test_the_number_of_clients_is_bounded() -> None:
    async def body() -> None:
        node = mesh(0, {}, clients_max=1)
        await node.start()
        clients = []
        for seed in range(2):
            config = MeshClientConfig("test", SECRET, (node.listening,))
            client = MeshClient(config, rng=random.Random(seed), on_failure=no_failure)
            client.set_receiver(lambda *_: None, lambda *_: None)
            clients.append(client)
            await client.start()
            await until(lambda: clients[0].session(0))
        await until(lambda: clients[1].statistics().links_refused)
        assert clients[1].session(0) == 0
        await clients[0].close()
        await until(lambda: clients[1].session(0))
        await clients[1].close()
        await node.close()

    run(body())


def test_two_addresses_of_one_node_make_one_link() -> None:
    async def body() -> None:
        node = mesh(0, {})
        await node.start()
        port = node.listening[1]
        addresses = (("127.0.0.1", port), ("localhost", port))
        config = MeshClientConfig("test", SECRET, addresses)
        client = MeshClient(config, rng=random.Random(1), on_failure=no_failure)
        sessions: list[int] = []
        client.set_receiver(lambda *_: None, lambda _, session: sessions.append(session))
        await client.start()
        await until(lambda: client.statistics().links_refused >= 2)
        assert sessions == [1]
        await client.close()
        await node.close()

    run(body())


@pytest.mark.parametrize(
    ("sender", "rule"), [(5, "not a peer"), (2, "lower node id dials"), (1, "not a peer")]
)
def test_a_node_that_has_no_business_to_dial_is_refused(sender: int, rule: str) -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE, 2: NOWHERE})
        await one.start()
        dialer = Dialing(
            Identity(NodeId(sender), 1, "test", SECRET),
            receiver=ANYONE,
            last_session=lambda _: 0,
            admits=lambda _: "",
            nonce=b"n" * 32,
        )
        stranger = await Stranger.to(one)
        stranger.send(dialer.hello)
        answer = await stranger.receive()
        assert isinstance(answer, Refused)
        assert rule in answer.text
        await stranger.close()
        await one.close()

    run(body())


def test_a_newer_connection_of_a_peer_replaces_the_older() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        links: list[tuple[int, int]] = []
        one.set_receiver(lambda *_: None, lambda peer, session: links.append((peer, session)))
        await one.start()
        first = mesh(0, {1: one.listening})
        await first.start()
        await until(lambda: one.session(0) == 1)
        second = mesh(0, {1: one.listening})  # as after a restart that `one` has not noticed
        await second.start()
        await until(lambda: one.session(0) == 2)
        assert links[:3] == [(0, 1), (0, 0), (0, 2)]
        await first.close()
        await second.close()
        await one.close()

    run(body())


def test_all_that_one_turn_sends_to_a_peer_leaves_in_one_write() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        zero = mesh(0, {1: one.listening})
        await zero.start()
        await until(lambda: zero.session(1) and one.session(0))
        writes: list[int] = []
        transport = zero._links[1]._transport
        assert transport is not None

        class Counting:
            def write(self, data: bytes) -> None:
                writes.append(len(data))
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        zero._links[1]._transport = Counting()  # type: ignore[assignment]
        for number in range(32):
            zero.send(1, SyncRequest(number))
        assert writes == []
        await asyncio.sleep(0)
        assert len(writes) == 1
        await until(lambda: one.statistics().frames_received == 32)
        await zero.close()
        await one.close()

    run(body())


def test_a_peer_that_takes_nothing_fills_the_bound_and_then_is_refused() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        zero = mesh(0, {1: one.listening}, queued_bytes_max=42 << 20)
        await zero.start()
        await until(lambda: zero.session(1) and one.session(0))
        stuck: Connection = one._links[0]
        stuck._transport.pause_reading()  # type: ignore[union-attr]
        for number in range(40):  # in one turn: they lie in the transport afterwards
            assert zero.send(1, HostBatch(number, bytes(1 << 20)))
        await asyncio.sleep(0)
        sent = 40
        while zero.send(1, HostBatch(sent, bytes(1 << 20))):
            sent += 1
            await asyncio.sleep(0)
            assert sent < 100
        assert sent < 60  # what the sockets hold comes on top
        assert zero.statistics().links[0].queued_bytes <= 42 << 20
        assert zero.session(1)
        stuck._transport.resume_reading()  # type: ignore[union-attr]
        await until(lambda: one.statistics().frames_received == sent)
        await zero.close()
        await one.close()

    run(body())


def test_nothing_of_a_read_is_delivered_after_the_link_ended_in_the_middle_of_it() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        received: list[object] = []

        def on_message(peer: int, message: object) -> None:
            received.append(message)
            one._links[peer].end("by the test")

        one.set_receiver(on_message, lambda *_: None)
        await one.start()
        zero = mesh(0, {1: one.listening})
        await zero.start()
        await until(lambda: zero.session(1) and one.session(0))
        for number in range(10):
            zero.send(1, SyncRequest(number))
        await until(lambda: one.session(0) > 1)
        assert received == [SyncRequest(0)]
        await zero.close()
        await one.close()

    run(body())


def test_a_connection_reset_ends_the_session_at_once() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        dialer = Dialing(
            Identity(NodeId(0), 1, "test", SECRET),
            receiver=1,
            last_session=lambda _: 0,
            admits=lambda _: "",
            nonce=b"n" * 32,
        )
        peer = await Stranger.to(one)
        peer.send(dialer.hello)
        peer.send(dialer.receive(await peer.receive()))
        await peer.receive()
        assert one.session(0) == 1
        sock = peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.transport.abort()
        await until(lambda: one.session(0) == 0)
        await one.close()

    run(body())


def test_a_port_in_use_is_refused_with_its_name() -> None:
    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        config = MeshConfig(NodeId(2), 1, "test", SECRET, one.listening, {})
        two = Mesh(config, rng=random.Random(1), on_failure=no_failure)
        with pytest.raises(ConfigError, match=str(one.listening[1])):
            await two.start()
        await two.close()
        await one.close()

    run(body())


def test_a_directory_that_is_not_there_is_refused_with_its_name() -> None:
    async def body() -> None:
        config = MeshConfig(NodeId(2), 1, "test", SECRET, "/nowhere/n2.sock", {})
        two = Mesh(config, rng=random.Random(1), on_failure=no_failure)
        with pytest.raises(ConfigError, match=r"/nowhere/n2\.sock"):
            await two.start()
        await two.close()

    run(body())


def test_a_unix_socket_left_by_a_dead_process_is_taken_over_and_removed_at_close() -> None:
    async def body() -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/n1"
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(path)
            config = MeshConfig(NodeId(1), 1, "test", SECRET, path, {})
            one = Mesh(config, rng=random.Random(1), on_failure=no_failure)
            await one.start()
            await one.close()
            with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
                late.connect(path)

    run(body())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"secret": b"short"}, "secret"),
        ({"cluster_id": ""}, "cluster_id"),
        ({"peers": {3: NOWHERE}}, "peers"),
        ({"peers": {9: NOWHERE}}, "peers"),
    ],
)
def test_an_impossible_configuration_is_refused_by_key(change: dict[str, Any], key: str) -> None:
    values: dict[str, Any] = {
        "self_id": NodeId(3),
        "incarnation": 1,
        "cluster_id": "test",
        "secret": SECRET,
        "listen": NOWHERE,
        "peers": {},
    }
    with pytest.raises(ConfigError, match=key):
        MeshConfig(**(values | change))


def test_limits_that_could_not_carry_a_frame_are_refused() -> None:
    with pytest.raises(ConfigError, match="queued_bytes_max"):
        LinkLimits(queued_bytes_max=1000)
    with pytest.raises(ConfigError, match="backoff"):
        LinkLimits(backoff_min_ms=100, backoff_max_ms=50)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_close_does_not_wait_for_a_socket_whose_dial_was_cancelled(new_loop: Any) -> None:
    """Found with real processes: of eight that stopped together one waited for ever."""

    async def body() -> None:
        one = mesh(1, {0: NOWHERE})
        await one.start()
        zero = mesh(0, {1: one.listening})
        begin = zero.begin_handshake

        def begin_and_cancel(connection: Connection) -> bool:
            began = begin(connection)
            for task in asyncio.all_tasks():
                if "dial" in task.get_name():
                    task.cancel()  # the socket is made, and the dial has not been told so
            return began

        zero.begin_handshake = begin_and_cancel  # type: ignore[method-assign]
        await zero.start()
        await until(lambda: not any("dial" in task.get_name() for task in asyncio.all_tasks()))
        async with asyncio.timeout(5):
            await zero.close()
        await one.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(body())
