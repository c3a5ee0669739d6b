"""Attaching over real sockets: the mesh, NBD, signals, and the arguments of the command."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from base.clock import RealClock
from base.errors import ConfigError, NotConnected, NotFound, RequestTimeout
from base.ids import NodeId
from base.place import Address, parse_address
from base.units import KiB
from host.attach import (
    AttachedVolume,
    AttachOptions,
    attach,
    main,
    read_secret,
    run,
    serve,
)
from host.nbd_client import NbdClient
from host.topology import Topology, pack_topology, unpack_query
from transport import operation as op
from transport.mesh import Mesh, MeshClient, MeshClientConfig, MeshConfig
from transport.messages import AdminReply, AdminRequest, HostBatch, HostReplies, SyncReply

SECRET = b"the secret of the cluster"
REGION = 64 * KiB


class Nodes:
    """Two nodes on Unix sockets that own a region each and share their bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.topology = Topology(1, 1, 2 * REGION, REGION, 512, False, b"\x00\x01", (0, 1))
        self.bytes = bytearray(2 * REGION)
        self.served = [0, 0]
        self.buses: dict[int, Mesh] = {}

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(str(self.directory / f"n{node}") for node in (0, 1))

    async def start(self) -> None:
        for node in (0, 1):
            peers = {NodeId(1 - node): self.addresses[1 - node]}
            config = MeshConfig(NodeId(node), 1, "test", SECRET, self.addresses[node], peers)
            bus = self.buses[node] = Mesh(config, rng=random.Random(node), on_failure=self.failed)
            bus.set_receiver(self.receiver(node), lambda peer, session: None)
            await bus.start()

    def failed(self, name: str, error: BaseException) -> None:
        raise error

    def receiver(self, node: int) -> Callable[[int, object], None]:
        return lambda peer, message: self.receive(node, peer, message)

    def receive(self, node: int, peer: int, message: Any) -> None:
        bus = self.buses[node]
        if isinstance(message, AdminRequest):
            known = unpack_query(message.arguments)
            result = pack_topology(self.topology)
            reply = AdminReply(message.request, "", "", result)
            if known[0] != "v":
                reply = AdminReply(message.request, "not_found", f"no volume {known[0]}", b"")
            bus.send(peer, reply)
        elif isinstance(message, HostBatch):
            self.operate(node, peer, message)
        else:
            bus.send(peer, SyncReply(message.request))

    def operate(self, node: int, peer: int, batch: HostBatch) -> None:
        out: list[Any] = []
        at = 0
        for _ in range(batch.count):
            record, at = op.unpack_request(memoryview(batch.data), at)  # type: ignore[arg-type]
            data, outcome = b"", op.OK
            start = record.region * REGION + record.offset
            self.served[node] += 1
            if self.topology.owners[record.region] != node:
                outcome = op.NOT_OWNER
            elif record.kind == op.READ:
                data = bytes(self.bytes[start : start + record.length])
            else:
                self.bytes[start : start + record.length] = bytes(record.data)
            out += [op.pack_reply(record.client, record.number, outcome, 0, 1, len(data)), data]
        self.buses[node].send(peer, HostReplies(batch.count, tuple(out)))

    async def close(self) -> None:
        for bus in self.buses.values():
            await bus.close()


def over_sockets(directory: Path, test: Callable[[Nodes], Awaitable[None]]) -> None:
    async def whole() -> None:
        nodes = Nodes(directory)
        await nodes.start()
        try:
            async with asyncio.timeout(20):
                await test(nodes)
        finally:
            await nodes.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def options(nodes: Nodes, **changes: Any) -> AttachOptions:
    values: dict[str, Any] = {
        "volume": "v", "listen": str(nodes.directory / "s"), "nodes": nodes.addresses,
        "cluster_id": "test", "secret": SECRET,
    }  # fmt: skip
    return AttachOptions(**(values | changes))


class Attached:
    """`attach` as a task, and a client of its socket."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.path = nodes.directory / "s"

    async def __aenter__(self) -> NbdClient:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[AttachedVolume] = loop.create_future()
        config = MeshClientConfig("test", SECRET, self.nodes.addresses)
        rng = random.Random(3)
        self.task = loop.create_task(
            attach(
                "v",
                bus=MeshClient(config, rng=rng, on_failure=self.nodes.failed),
                clock=RealClock(),
                rng=rng,
                listen=(str(self.path),),
                on_open=opened.set_result,
            )
        )
        self.view = await opened
        self.client = await NbdClient.connect(f"nbd+unix:///v?socket={self.path}")
        return self.client

    async def __aexit__(self, *raised: object) -> None:
        await self.client.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def test_a_client_of_the_local_socket_reaches_every_owner(tmp_path: Path) -> None:
    async def test(nodes: Nodes) -> None:
        async with Attached(nodes) as client:
            assert client.size_bytes == 2 * REGION
            await client.write(REGION - 512, b"a" * 1024)
            await client.flush()
            assert await client.read(REGION - 1024, 2048) == bytes(512) + b"a" * 1024 + bytes(512)
        assert nodes.served == [2, 2]

    over_sockets(tmp_path, test)


def test_a_client_does_not_notice_that_a_node_died(tmp_path: Path) -> None:
    async def test(nodes: Nodes) -> None:
        async with Attached(nodes) as client:
            await nodes.buses[1].close()
            write = asyncio.gather(client.write(REGION, b"a" * 512))
            nodes.topology = Topology(2, 1, 2 * REGION, REGION, 512, False, bytes(2), (0,))
            await write
            assert await client.read(REGION, 512) == b"a" * 512

    over_sockets(tmp_path, test)


def test_the_socket_is_gone_when_attaching_ends(tmp_path: Path) -> None:
    async def test(nodes: Nodes) -> None:
        async with Attached(nodes):
            assert (tmp_path / "s").exists()
        assert not (tmp_path / "s").exists()

    over_sockets(tmp_path, test)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serving_without_an_error(tmp_path: Path, number: signal.Signals) -> None:
    async def test(nodes: Nodes) -> None:
        opened: asyncio.Future[AttachedVolume] = asyncio.get_running_loop().create_future()
        serving = asyncio.gather(serve(options(nodes), on_open=opened.set_result))
        await opened
        os.kill(os.getpid(), number)
        await serving
        assert not (tmp_path / "s").exists()

    over_sockets(tmp_path, test)


def test_serving_an_unknown_volume_ends_with_not_found(tmp_path: Path) -> None:
    async def test(nodes: Nodes) -> None:
        with pytest.raises(NotFound, match="no volume w"):
            await serve(options(nodes, volume="w"))

    over_sockets(tmp_path, test)


def test_serving_on_a_path_that_is_taken_ends_with_the_reason(tmp_path: Path) -> None:
    async def test(nodes: Nodes) -> None:
        (tmp_path / "s").write_text("in the way")
        with pytest.raises(ConfigError, match="in the way"):
            await serve(options(nodes))

    over_sockets(tmp_path, test)


def test_a_wrong_secret_attaches_nothing(tmp_path: Path) -> None:
    async def test(nodes: Nodes) -> None:
        config = MeshClientConfig("test", b"another secret, as long", nodes.addresses)
        bus = MeshClient(config, rng=random.Random(1), on_failure=nodes.failed)
        view = AttachedVolume("v", bus=bus, clock=RealClock(), rng=random.Random(1))
        with pytest.raises((NotConnected, RequestTimeout)):
            await view.open(timeout_ms=200)
        await view.close()

    over_sockets(tmp_path, test)


def test_run_raises_what_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="secret"):
        run(options(Nodes(tmp_path), secret=b"short"))


# --- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:10801", ("127.0.0.1", 10801)),
        ("[::1]:1", ("::1", 1)),
        ("/run/n0", "/run/n0"),
    ],
)
def test_an_address_is_a_host_and_a_port_or_a_path(text: str, address: Address) -> None:
    assert parse_address(text, "--node") == address


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:65536", "host:-1"])
def test_an_address_that_is_none_is_refused_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(ConfigError, match="--node"):
        parse_address(text, "--node")


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == SECRET


def test_the_command_refuses_a_missing_secret_before_it_starts(tmp_path: Path) -> None:
    given = [
        "--volume", "v", "--socket", str(tmp_path / "s"), "--node", "127.0.0.1:1",
        "--cluster-id", "test", "--secret-file", str(tmp_path / "none"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="none: cannot be read"):
        main(given)
