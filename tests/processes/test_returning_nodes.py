"""Each of eight nodes is killed and started in turn, under load: what comes back is brought up to
date with what changed while it was away, and then everything lies where it lay before."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from base.units import KiB, MiB
from tests.processes.live_cluster import LiveCluster, wait_until
from tests.processes.recording import Recording

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(400)]

SIZE = 32 * MiB
PAGE = 16 * KiB
REGION = 1 * MiB
SHAPE = {"volumes": {"l2_entries": 8, "l3_entries": 8}}
TIMES_MAX = 2  # bytes that a return may cost, of what changed
# Going home is to stall nobody for 100 ms; here eight processes, the hosts and whatever else runs
# share two cores. A move that waited for a lease or a time-out would take longer than this.
STALL_MS_MAX = 400


@dataclass
class Return:
    """What the return of one node cost."""

    node: int
    changed_bytes: int  # pages of its regions that hosts wrote while it was no copy of them
    resync_bytes: int
    modes: Counter[str]  # regions by the way in which they were brought up to date
    stall_ms: float  # the longest that a host waited while copies and owners went home

    def __str__(self) -> str:
        modes = ", ".join(f"{count} by {mode}" for mode, count in sorted(self.modes.items()))
        return (
            f"n{self.node}  changed {self.changed_bytes:>9}  resync {self.resync_bytes:>9}  "
            f"longest wait {self.stall_ms:>4.0f} ms  {modes}"
        )


def resyncs(cluster: LiveCluster) -> tuple[Counter[str], Counter[str]]:
    """(regions, bytes) by mode, of all nodes that live."""
    regions: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    for node in cluster.alive():
        answer = cluster.statistics(node)
        for counter, key in ((regions, "resyncs"), (sent, "resync_bytes")):
            counter.update({name.removesuffix("_total"): n for name, n in answer[key].items()})
    return regions, sent


def places(cluster: LiveCluster, at: int) -> list[tuple[int, list[int], int]]:
    return [(row["owner"], row["copies"], row["joiner"]) for row in cluster.rows("v", at)]


def kill_and_return(cluster: LiveCluster, recording: Recording, node: int) -> Return:
    other = (node + 1) % 8
    home = places(cluster, other)
    assert all(joiner == -1 for _, _, joiner in home)
    clock = recording.clock
    killed_ns = clock.now_ns()
    cluster.signal(node, signal.SIGKILL)
    cluster.wait_members(7)
    cluster.wait_whole()
    recording.wait_done(*recording.hosts, more=40)
    before = resyncs(cluster)
    cluster.start_node(node)
    cluster.wait_ready(node)
    ready_ns = clock.now_ns()
    wait_until(lambda: places(cluster, other) == home, f"everything to be where it was (n{node})")
    back_ns = clock.now_ns()
    after = resyncs(cluster)
    mine = {number for number, (_, copies, _) in enumerate(home) if node in copies}
    changed = {
        block
        for block in recording.blocks_written(killed_ns, back_ns)
        if block * PAGE // REGION in mine
    }
    return Return(
        node, len(changed) * PAGE, sum((after[1] - before[1]).values()), after[0] - before[0],
        recording.longest_ms(ready_ns, back_ns),
    )  # fmt: skip


def test_every_return_costs_at_most_twice_what_changed_and_stalls_no_host(
    start_cluster: Callable[..., LiveCluster],
) -> None:
    cluster = start_cluster(**SHAPE)
    cluster.create("v", SIZE)
    recording = Recording(cluster, "v", SIZE, block_bytes=PAGE)
    recording.nbd_host(range(8), blocks_max=1, hot_percent=30)
    recording.attached_host(blocks_max=1, hot_percent=0)
    returns: list[Return] = []

    def story() -> None:
        recording.wait_done(*recording.hosts, more=400)  # something to lose
        for node in range(8):
            returns.append(kill_and_return(cluster, recording, node))
            print(returns[-1])

    recording.run(story, sweep_at=[0, 5])
    for each in returns:
        assert each.modes["full"] == 0, each
        assert each.modes, each
        assert each.resync_bytes <= TIMES_MAX * each.changed_bytes, each
    assert sorted(each.stall_ms for each in returns)[len(returns) // 2] < STALL_MS_MAX, returns
