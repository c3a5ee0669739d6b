"""SIGSTOP of an owner for longer than its lease: it must not answer what others have overwritten.

Its process keeps the memory of having owned; only the clock tells it that its lease is over.
"""

import signal
from collections.abc import Callable

import pytest

from admin.spawn import pause
from base.units import NS_PER_MS, MiB
from tests.processes.live_cluster import LiveCluster, wait_until
from tests.processes.recording import Recording

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(200)]

SIZE = 16 * MiB
REGION = {"volumes": {"l2_entries": 8, "l3_entries": 8}}  # of 1 MiB: every node owns some
LEASE_MS = 400
LEASES = 3


def test_owner_stopped_for_three_leases_answers_nothing_stale(
    start_cluster: Callable[..., LiveCluster],
) -> None:
    cluster = start_cluster(**REGION)
    cluster.create("v", SIZE)
    victim = cluster.owners("v")[0]  # the hot blocks of all hosts lie in the first region
    others = [node for node in range(8) if node != victim]
    recording = Recording(cluster, "v", SIZE)
    busy = [
        recording.nbd_host(others, trim_weight=3, zero_weight=3),
        recording.nbd_host(others[3:]),
        recording.attached_host(),
    ]
    # Connected before the stop; what it asks waits in the socket of the stopped process.
    asker = recording.nbd_host(
        [victim], idle=True, read_weight=1, write_weight=0, flush_weight=0, trim_weight=0,
        zero_weight=0, queue_depth=32, interval_ns=NS_PER_MS, hot_percent=90, attempts_max=100,
    )  # fmt: skip

    def story() -> None:
        recording.open(asker)
        recording.wait_done(*busy)
        cluster.signal(victim, signal.SIGSTOP)
        pause(LEASES * LEASE_MS / 1000)
        wait_until(
            lambda: victim not in cluster.owners("v", at=others[0]),
            f"others to own what n{victim} did",
        )
        recording.wait_done(*busy)
        recording.work(asker)
        recording.wait_done(*busy)
        cluster.signal(victim, signal.SIGCONT)
        recording.wait_done(asker, *busy)
        cluster.wait_members(8)
        cluster.wait_whole()
        recording.wait_done(asker, *busy)

    recording.run(story)
    assert asker.workload.given_up == 0
