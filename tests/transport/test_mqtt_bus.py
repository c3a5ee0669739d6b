"""What only the `mqtt` bus meets: a broker that is lost, and one that loses, repeats or lies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from base.errors import ConfigError
from base.ids import NodeId
from tests.transport.mosquitto import Mosquitto
from tests.transport.test_bus_conformance import SECRET, End, World
from transport.broker import BrokerAddress
from transport.messages import HostBatch, SyncRequest
from transport.mqtt import DATA, MqttBus, MqttBusConfig, client_config

pytestmark = pytest.mark.needs_tool("mosquitto")


def play(directory: Path, test: Callable[[World, End, End], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World("mqtt", directory)
        try:
            a, b = await world.nodes(2)
            await test(world, a, b)
        finally:
            await world.close()
        assert world.failures == []

    asyncio.run(main())


def stream_of(end: End) -> tuple[MqttBus, object]:
    assert isinstance(end.bus, MqttBus)
    (stream,) = end.bus._streams.values()
    return end.bus, stream


def test_broker_that_is_killed_ends_every_session_and_newer_ones_begin(tmp_path: Path) -> None:
    async def test(world: World, a: End, b: End) -> None:
        assert isinstance(world.broker, Mosquitto)
        for _ in range(2):
            session = a.bus.session(1)
            world.broker.kill()
            await a.until(lambda: a.links[-1] == (1, 0))
            await b.until(lambda: b.links[-1] == (0, 0))
            assert not a.bus.send(1, SyncRequest(1))
            world.broker.start()
            assert await a.linked(1) > session
            await b.linked(0)
            b.received.clear()
            a.bus.send(1, SyncRequest(2))
            await b.until(lambda: b.received)
            assert b.received == [(0, SyncRequest(2))]

    play(tmp_path, test)


@pytest.mark.parametrize("skew", [-1, 1])
def test_message_that_was_lost_or_came_twice_ends_the_session(tmp_path: Path, skew: int) -> None:
    async def test(world: World, a: End, b: End) -> None:
        a.bus.send(1, SyncRequest(1))
        await b.until(lambda: b.received)
        session = a.bus.session(1)
        _, stream = stream_of(a)
        stream._sent += skew  # type: ignore[attr-defined]
        a.bus.send(1, SyncRequest(2))
        assert await a.linked(1, newer_than=session)
        await b.linked(0, newer_than=session)
        assert b.received == [(0, SyncRequest(1))]

    play(tmp_path, test)


def test_stranger_at_the_broker_changes_nothing(tmp_path: Path) -> None:
    async def test(world: World, a: End, b: End) -> None:
        bus, _ = stream_of(a)
        rng = random.Random(1)
        for number in range(200):
            payload = rng.randbytes(number)
            bus._broker.publish("eightfold/test/bus/to/1/5", payload)
            bus._broker.publish("eightfold/test/bus/life/5", payload)
            bus._broker.publish("eightfold/test/bus/to/1/x", payload)
        bus._publish(1, DATA, (7, 7), 0, memoryview(b"of no stream"))
        session = a.bus.session(1)
        a.bus.send(1, SyncRequest(1))
        await b.until(lambda: b.received)
        assert b.received == [(0, SyncRequest(1))]
        assert a.bus.session(1) == session

    play(tmp_path, test)


def test_sender_waits_for_the_receiver_and_everything_arrives(tmp_path: Path) -> None:
    async def test(world: World, a: End, b: End) -> None:
        block = bytes(1 << 20)
        assert all(a.bus.send(1, HostBatch(number, block)) for number in range(20))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all(a.bus.send(1, HostBatch(20 + number, block)) for number in range(10))
        await b.until(lambda: len(b.received) == 30)
        assert [message.count for _, message in b.received] == list(range(30))  # type: ignore[attr-defined]

    play(tmp_path, test)


def test_impossible_configuration_is_refused() -> None:
    address = BrokerAddress("127.0.0.1", 1)
    with pytest.raises(ConfigError, match="cannot stand in a topic"):
        MqttBusConfig(NodeId(0), 1, "a/b", SECRET, address, (1,))
    with pytest.raises(ConfigError, match="is not another node"):
        MqttBusConfig(NodeId(0), 1, "c", SECRET, address, (0, 1))
    host = client_config("c", SECRET, address, [0, 1], random.Random(1))
    assert host.self_id >= 1 << 16
