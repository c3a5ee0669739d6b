"""A real cluster and its embedded broker: what operators hear, and that no host depends on it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from admin.broker_process import broker_pid, start_broker
from admin.mqtt_access import broker_address
from admin.mqtt_operator import MqttOperator
from admin.spawn import pause
from base.units import MiB
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster, wait_until
from tests.transport.mosquitto import free_port
from transport.mqtt_topics import Event, Message, Topic

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(200)]

SIZE = 16 * MiB
SLOWEST_MS = 2000  # with nobody failing; a failover takes less, a host's time-out more


@pytest.fixture
def cluster(start_cluster: Callable[..., LiveCluster], tmp_path: Path) -> LiveCluster:
    password = tmp_path / "password"
    password.write_text("a password of the tests\n")
    password.chmod(0o600)
    return start_cluster(
        nodes=4,
        mqtt={
            "enabled": True, "embedded": True, "port": free_port(), "user": "eightfold",
            "password_file": str(password),
        },
    )  # fmt: skip


def operator(
    cluster: LiveCluster, on_message: Callable[[Topic, Message], None] = lambda topic, said: None
) -> MqttOperator:
    local = cluster.up.cluster
    address = broker_address(local.directory, local.mqtt)
    token = local.token().encode()
    return MqttOperator(
        address, local.cluster_id, token, rng=random.Random(os.urandom(8)), on_message=on_message,
        connect_seconds=30,
    )  # fmt: skip


def test_nodes_say_what_they_are_and_what_happens(cluster: LiveCluster) -> None:
    events: list[Event] = []

    def note(topic: Topic, message: Message) -> None:
        if isinstance(message, Event):
            events.append(message)

    async def main() -> None:
        async with operator(cluster, note) as asked:
            await asked.until(
                lambda: (
                    {n: s.state for n, s in asked.states.items()}
                    == dict.fromkeys(range(4), "serving")
                ),
                30,
            )
            made = await asked.call(1, "createVolume", body={"name": "v", "size_bytes": SIZE})
            assert made["size_bytes"] == SIZE
            cluster.wait_whole()
            victim = cluster.busiest("v")
            cluster.signal(victim)
            await asked.until(lambda: asked.states[victim].state == "lost", 30)
            await asked.until(lambda: any(e.name == "link.closed" for e in events), 30)
            cluster.start_node(victim)
            await asked.until(lambda: asked.states[victim].state == "serving", 60)
            status = await asked.call(victim, "status")
            assert status["node"] == victim
        assert '"catalog_version"' in cluster.run("mqtt", "call", "n0", "status")
        assert "serving" in cluster.run("mqtt", "watch", "--seconds", "1")

    asyncio.run(main())
    cluster.stop()
    assert broker_pid(cluster.up.cluster) is None


def test_no_host_sees_that_the_broker_is_killed_or_paused_and_comes_back(
    cluster: LiveCluster,
) -> None:
    cluster.create("v", SIZE)
    local = cluster.up.cluster

    def story() -> None:
        pause(1)
        for _ in range(2):
            pid = broker_pid(local)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: broker_pid(local) is None, "the end of the broker")
            pause(2)
            start_broker(local)
        pid = broker_pid(local)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        pause(3)
        os.kill(pid, signal.SIGCONT)
        pause(1)

    before = cluster.rows("v")
    host = CheckedHost(cluster.addresses(), "v", SIZE)

    async def main() -> None:
        await during(host, story)
        await host.check_all(cluster.addresses()[0])
        async with operator(cluster) as asked:
            await asked.until(
                lambda: [asked.states[n].state for n in sorted(asked.states)] == ["serving"] * 4, 60
            )

    asyncio.run(main())
    assert host.wrong == []
    assert host.paths_lost == 0
    assert host.writes > 50
    assert host.longest_ms < SLOWEST_MS
    assert cluster.rows("v") == before  # nobody took anything over
