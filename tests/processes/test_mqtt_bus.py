"""Node processes that reach each other only by a broker."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from admin.spawn import pause
from base.units import MiB
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster
from tests.transport.mosquitto import Mosquitto

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.needs_tool("mosquitto"),
    pytest.mark.timeout(200),
]

SIZE = 16 * MiB


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    started = Mosquitto(tmp_path)
    yield started
    started.kill()


def test_killed_owner_is_replaced_and_refilled_over_the_broker(
    broker: Mosquitto, start_cluster: Callable[..., LiveCluster]
) -> None:
    cluster = start_cluster(
        nodes=4,
        cluster={"transport": "mqtt"},
        mqtt={"enabled": True, "port": broker.port},
    )
    cluster.create("v", SIZE)
    victim = cluster.busiest("v")

    def story() -> None:
        pause(1)
        cluster.signal(victim)
        cluster.wait_members(3)
        cluster.wait_whole()
        assert victim not in cluster.owners("v")
        cluster.start_node(victim)
        cluster.wait_ready(victim)
        cluster.wait_members(4)
        cluster.wait_whole()

    host = CheckedHost(cluster.addresses(victim), "v", SIZE)

    async def main() -> None:
        await during(host, story)
        for number in cluster.alive():
            await host.check_all(cluster.addresses(number)[0])

    asyncio.run(main())
    assert host.wrong == []
    assert host.writes > 0
    assert host.paths_lost >= 1
    for number in cluster.alive():
        assert cluster.log_lines(number)  # and they are judged at the end
    broker_lines = [line for line in cluster.log_lines(0) if line.get("event") == "link.opened"]
    assert broker_lines
    assert not list(cluster.directory.glob("n*/mesh.sock"))
