"""Nodes die, pause, stop and come back under a host that checks every answer."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from admin.spawn import pause
from base.units import MiB
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(400)]

SIZE = 48 * MiB


def run(host: CheckedHost, cluster: LiveCluster, story: Callable[[], None]) -> None:
    """The host works during the story; then everything is read back at every node."""

    async def main() -> None:
        await during(host, story)
        for number in cluster.alive():
            await host.check_all(cluster.addresses(number)[0])

    asyncio.run(main())
    assert host.wrong == []
    assert host.writes > 0


def fill(host: CheckedHost, count: int = 150) -> None:
    async def main() -> None:
        try:
            await host.work(count)
        finally:
            await host.close()

    asyncio.run(main())
    assert host.wrong == []


def check(host: CheckedHost, cluster: LiveCluster) -> None:
    async def main() -> None:
        for number in cluster.alive():
            await host.check_all(cluster.addresses(number)[0])

    asyncio.run(main())
    assert host.wrong == []


def test_a_killed_owner_is_replaced_and_comes_back_and_is_refilled(cluster: LiveCluster) -> None:
    cluster.create("v", SIZE)
    victim = cluster.busiest("v")

    def story() -> None:
        pause(1)
        cluster.signal(victim, signal.SIGKILL)
        cluster.wait_members(7)
        cluster.wait_whole()
        assert victim not in cluster.owners("v")
        cluster.start_node(victim)
        cluster.wait_ready(victim)
        cluster.wait_members(8)
        cluster.wait_whole()
        pause(1)

    host = CheckedHost(cluster.addresses(victim), "v", SIZE)
    run(host, cluster, story)
    assert host.paths_lost >= 1


def test_a_returned_node_is_of_use_when_the_others_die(cluster: LiveCluster) -> None:
    """Killed and started, then each of the others is killed: its copies must be real."""
    cluster.create("v", SIZE)
    host = CheckedHost(cluster.addresses(7), "v", SIZE)
    fill(host)
    cluster.signal(0)
    cluster.wait_members(7)
    cluster.wait_whole()
    cluster.start_node(0)
    cluster.wait_ready(0)
    cluster.wait_members(8)
    for left, victim in ((7, 1), (6, 2), (5, 3), (4, 4), (3, 5)):
        cluster.signal(victim)
        cluster.wait_members(left)
        cluster.wait_whole()
    check(host, cluster)
    assert set(cluster.owners("v")) <= {0, 6, 7}


def test_a_node_told_to_stop_leaves_and_returns_without_an_error(cluster: LiveCluster) -> None:
    cluster.create("v", SIZE)
    victim = cluster.busiest("v")

    def story() -> None:
        pause(1)
        cluster.signal(victim, signal.SIGTERM)
        cluster.wait_whole()
        cluster.start_node(victim)
        cluster.wait_ready(victim)
        cluster.wait_members(8)
        cluster.wait_whole()
        pause(1)

    run(CheckedHost(cluster.addresses(victim), "v", SIZE), cluster, story)


def test_a_clean_stop_and_start_needs_no_copying(cluster: LiveCluster) -> None:
    cluster.create("v", SIZE)
    host = CheckedHost(cluster.addresses(), "v", SIZE)
    fill(host)
    before = cluster.client.regions("v", 0, 4096)
    assert cluster.stop() == []
    cluster.start()
    cluster.wait_whole()
    after = cluster.client.regions("v", 0, 4096)
    assert [sorted(row["copies"]) for row in after] == [sorted(row["copies"]) for row in before]
    assert [cluster.status(n)["rebuild_bytes_total"] for n in range(8)] == [0] * 8
    check(host, cluster)


def test_everything_is_there_after_many_restarts_of_all(cluster: LiveCluster) -> None:
    cluster.create("v", SIZE)
    host = CheckedHost(cluster.addresses(), "v", SIZE)
    for turn in range(3):
        host.seed = turn
        fill(host, 60)
        if turn % 2:
            cluster.stop()
        else:
            for number in cluster.alive():
                cluster.signal(number)
            cluster.stop()
        cluster.start()
        cluster.wait_whole()
        check(host, cluster)
