"""Owners are killed and started again, round after round, under hosts whose history is judged."""

import random
import signal
from collections.abc import Callable

import pytest

from base.units import MiB
from tests.processes.live_cluster import LiveCluster
from tests.processes.recording import Recording

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = 16 * MiB
REGION = {"volumes": {"l2_entries": 8, "l3_entries": 8}}  # of 1 MiB: every node owns some
ROUNDS = 3


def test_history_is_right_when_the_hot_owner_is_killed_again_and_again(
    start_cluster: Callable[..., LiveCluster],
) -> None:
    """Each round ends whole; between kill and start, hosts go on at every node that lives."""
    cluster = start_cluster(**REGION)
    cluster.create("v", SIZE)
    recording = Recording(cluster, "v", SIZE)
    every = list(range(8))
    hosts = [
        recording.attached_host(trim_weight=3, zero_weight=3, hot_percent=20),
        recording.attached_host(hot_percent=90),
        recording.nbd_host(every, hot_percent=90),
        recording.nbd_host(every[4:] + every[:4], hot_percent=90),
        recording.nbd_host(every[2:] + every[:2]),
    ]
    rng = random.Random(3)

    def story() -> None:
        for number in range(ROUNDS):
            recording.wait_done(*hosts)
            owner = cluster.owners("v", at=cluster.alive()[0])[0]
            victims = [owner]
            cluster.signal(owner, signal.SIGKILL)
            cluster.wait_members(7)
            cluster.wait_whole()
            recording.wait_done(*hosts)
            if number % 2:  # its heir too, before it comes back
                left = [node for node in cluster.alive() if node != owner]
                heir = cluster.owners("v", at=left[rng.randrange(len(left))])[0]
                victims.append(heir)
                cluster.signal(heir, signal.SIGKILL)
                cluster.wait_members(6)
                cluster.wait_whole()
                recording.wait_done(*hosts)
            for victim in victims:
                cluster.start_node(victim)
            for victim in victims:
                cluster.wait_ready(victim)
            cluster.wait_members(8)
            cluster.wait_whole()

    recording.run(story)
    assert all(host.workload.refused == 0 for host in hosts)


def test_history_is_right_when_all_are_killed_at_once_and_started(
    start_cluster: Callable[..., LiveCluster],
) -> None:
    cluster = start_cluster(**REGION)
    cluster.create("v", SIZE)
    recording = Recording(cluster, "v", SIZE)
    hosts = [
        recording.attached_host(hot_percent=80),
        recording.nbd_host(list(range(8)), hot_percent=80),
    ]

    def story() -> None:
        recording.wait_done(*hosts, more=60)
        for number in range(8):
            cluster.signal(number, signal.SIGKILL)
        for number in range(8):
            cluster.start_node(number)
        for number in range(8):
            cluster.wait_ready(number)
        cluster.wait_whole()
        recording.wait_done(*hosts)

    recording.run(story)
