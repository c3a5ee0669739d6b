"""The management plane of a node at a real Mosquitto."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from admin.mqtt_access import broker_address
from admin.mqtt_operator import MqttOperator
from admin.mqtt_plane import MqttPlane, PlaneOptions
from base.errors import ConfigError, InvalidRequest, NotConnected, NotFound
from base.log import EventTap
from tests.admin.fake_node import FakeView
from tests.transport.mosquitto import Mosquitto
from transport.broker import BrokerAddress, tls_context
from transport.mqtt_topics import Event, Message, Topic, encode

pytestmark = [
    pytest.mark.interop,
    pytest.mark.needs_tool("mosquitto", "mosquitto_passwd"),
    pytest.mark.timeout(90),
]

TOKEN = b"a token of the tests"
LIFE = "00000000000000aa"


class Site:
    """A broker, one node over a fake view, and what an operator heard."""

    def __init__(self, broker: Mosquitto, address: BrokerAddress) -> None:
        self.broker = broker
        self.address = address
        self.view = FakeView(node=2)
        self.tap = EventTap()
        self.heard: list[tuple[str, Message]] = []
        self.plane = self.new_plane()

    def new_plane(self, life: str = LIFE) -> MqttPlane:
        options = PlaneOptions(
            cluster="c1", node=2, life=life, incarnation=1, host="127.0.0.1", nbd_port=10811,
            admin_port=10819, version="0.1.0", statistics_ms=100,
        )  # fmt: skip
        rng = random.Random(1)
        return MqttPlane(self.view, self.address, options, token=TOKEN, tap=self.tap, rng=rng)

    def operator(self, token: bytes = TOKEN) -> MqttOperator:
        def note(topic: Topic, message: Message) -> None:
            self.heard.append((str(topic), message))

        return MqttOperator(
            self.address, "c1", token, rng=random.Random(5), on_message=note, connect_seconds=20
        )

    def events(self) -> list[Event]:
        return [message for _, message in self.heard if isinstance(message, Event)]


Story = Callable[[Site, MqttOperator], Awaitable[None]]


def play(site: Site, story: Story) -> None:
    """With the plane and an operator; nothing may end up in the loop's own complaints."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
        site.plane.start()
        try:
            async with site.operator() as operator:
                await operator.until(lambda: 2 in operator.statistics, 20)
                await story(site, operator)
        finally:
            await site.plane.close()

    asyncio.run(main())
    assert complaints == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    broker = Mosquitto(tmp_path)
    yield Site(broker, BrokerAddress("127.0.0.1", broker.port))
    broker.kill()


def test_state_is_retained_and_says_what_the_node_does(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        async with site.operator() as late:  # came after everything was said
            await late.until(lambda: 2 in late.states, 10)
            state = late.states[2]
            assert (state.state, state.leader, state.term) == ("serving", 0, 3)
            assert (state.nbd_port, state.catalog_version) == (10811, 17)
        site.view.ready.clear()
        await operator.until(lambda: operator.states[2].state == "waiting", 10)
        site.plane.stopping()
        await operator.until(lambda: operator.states[2].state == "stopping", 10)
        await site.plane.close()
        await operator.until(lambda: operator.states[2].state == "stopped", 10)

    play(site, story)


def test_node_that_is_lost_is_declared_so_by_its_will(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        client = site.plane._broker._current
        assert client is not None
        client._client.socket().shutdown(socket.SHUT_RDWR)  # no goodbye, as by a kill
        await operator.until(
            lambda: [m for _, m in site.heard if getattr(m, "state", "") == "lost"], 20
        )
        await operator.until(lambda: operator.states[2].state == "serving", 20)

    play(site, story)


def test_statistics_come_again_and_again(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        first = operator.statistics[2].tick
        await operator.until(lambda: operator.statistics[2].tick >= first + 3, 10)
        assert operator.statistics[2].values["node"] == 2

    play(site, story)


def test_events_are_published_with_their_values_and_number(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        line = {
            "event": "region.failed_over", "level": "info", "timestamp": "2026", "region": 12,
            "big": 1 << 70, "why": "x" * 900, "exc_info": ValueError("never"),
        }  # fmt: skip
        site.tap(None, "info", dict(line))
        site.tap(None, "info", {"event": "Not an event", "level": "info"})
        site.tap(None, "info", {**line, "event": "link.lost"})
        await operator.until(lambda: len(site.events()) == 2, 10)
        first, second = site.events()
        assert first.name == "region.failed_over"
        assert first.values == {"region": 12, "big": str(1 << 70), "why": "x" * 500}
        assert (second.name, second.number) == ("link.lost", first.number + 1)
        assert site.heard[-1][0].startswith("eightfold/c1/node/2/")

    play(site, story)


def test_events_wait_for_the_broker_and_the_oldest_are_dropped(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        site.broker.kill()
        await until(lambda: not site.plane._broker.up)
        for number in range(300):
            site.tap(None, "info", {"event": "link.lost", "level": "info", "peer": number})
        site.broker.start()
        await operator.until(lambda: len(site.events()) >= 256 or site.plane._broker.up, 20)
        async with asyncio.timeout(20):
            while site.plane._events:
                await asyncio.sleep(0.05)
        numbers = [event.number for event in site.events()]
        assert numbers == sorted(numbers)
        assert not numbers or numbers[0] >= 300 - 256

    play(site, story)


def test_commands_are_answered_and_refusals_are_errors(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        assert (await operator.call(2, "status"))["catalog_version"] == 17
        made = await operator.call(2, "createVolume", body={"name": "v", "size_bytes": 1 << 30})
        assert made["name"] == "v"
        assert (await operator.call(2, "volume", path={"name": "v"}))["size_bytes"] == 1 << 30
        with pytest.raises(NotFound):
            await operator.call(2, "volume", path={"name": "w"})
        with pytest.raises(InvalidRequest, match="verb: explode"):
            await operator.call(2, "explode")
        assert (await operator.call(2, "stop"))["node"] == 2
        assert site.view.stopped.is_set()

    play(site, story)


def test_operator_without_the_token_is_refused(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        async with site.operator(b"a guess of the token") as stranger:
            with pytest.raises(Exception, match="does not know the token"):
                await stranger.call(2, "stop")
        assert not site.view.stopped.is_set()

    play(site, story)


def test_hostile_payloads_change_nothing(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        rng = random.Random(3)
        topic = "eightfold/c1/node/2/command"
        for number in range(200):
            operator._broker.publish(topic, rng.randbytes(number))
        operator._broker.publish(topic, msgpack.packb({"v": 1, "verb": "stop"}))
        operator._broker.publish(topic, bytes(1 << 20))
        operator._broker.publish("eightfold/c1/node/2/statistics", b"\xc1")
        # amqtt does this after a reconnection: what was retained, and nobody asked for.
        site.plane._received("eightfold/c1/node/2/state", encode(site.plane._state))
        assert (await operator.call(2, "status"))["node"] == 2
        assert not site.view.stopped.is_set()
        assert operator.refused == ["statistics: is not msgpack: Unpack failed: error = -1"] or (
            operator.refused[0].startswith("statistics: is not msgpack")
        )

    play(site, story)


def test_broker_that_was_killed_is_found_again_many_times(site: Site) -> None:
    async def story(site: Site, operator: MqttOperator) -> None:
        for _ in range(4):
            site.broker.kill()
            await until(lambda: not site.plane._broker.up)
            site.broker.start()
            operator.states.clear()
            await operator.until(lambda: 2 in operator.states, 20)
            assert (await operator.call(2, "status"))["node"] == 2

    play(site, story)


def test_password_is_wanted_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, user="eightfold", password="the right password")
    secret = tmp_path / "password"
    secret.write_text("the right password\n")
    secret.chmod(0o600)
    options = {
        "enabled": True, "port": broker.port, "user": "eightfold", "password_file": "password",
    }  # fmt: skip
    try:
        site = Site(broker, broker_address(tmp_path, options))

        async def story(site: Site, operator: MqttOperator) -> None:
            assert (await operator.call(2, "status"))["node"] == 2

        play(site, story)
        secret.write_text("a wrong password\n")
        wrong = Site(broker, broker_address(tmp_path, options))

        async def refused() -> None:
            operator = MqttOperator(
                wrong.address, "c1", TOKEN, rng=random.Random(1), connect_seconds=2
            )
            with pytest.raises(NotConnected):
                async with operator:
                    pass

        asyncio.run(refused())
    finally:
        broker.kill()
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it"):
        broker_address(tmp_path, options)


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.needs_tool("openssl")
def test_over_tls_the_broker_must_be_the_one_that_the_authority_vouches_for(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    broker = Mosquitto(tmp_path, certificates=tmp_path)
    try:
        context = tls_context(tmp_path / "ca.pem", None, None)
        site = Site(broker, BrokerAddress("localhost", broker.port, tls=context))

        async def story(site: Site, operator: MqttOperator) -> None:
            assert (await operator.call(2, "status"))["node"] == 2

        play(site, story)

        async def refused() -> None:
            unknown = BrokerAddress("localhost", broker.port, tls=tls_context(None, None, None))
            with pytest.raises(NotConnected):
                async with MqttOperator(
                    unknown, "c1", TOKEN, rng=random.Random(1), connect_seconds=2
                ):
                    pass

        asyncio.run(refused())
    finally:
        broker.kill()


def make_certificates(directory: Path) -> None:
    """An authority, and a broker on localhost."""
    extension = directory / "san"
    extension.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout broker.key -out broker.csr",
        "x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
        " -extfile san -out broker.pem",
    ):
        subprocess.run(
            ["openssl", *command.split()],
            cwd=directory, check=True, capture_output=True, timeout=60,
        )  # fmt: skip


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
