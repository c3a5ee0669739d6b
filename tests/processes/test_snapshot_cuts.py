"""Real processes: points in time are made while hosts write, and owners die or hang meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from admin.spawn import pause
from base.units import MiB
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = 48 * MiB
HELD_MS = 50.0  # the promise; this machine may be busy, so the median is judged


def create(cluster: LiveCluster, node: int, *volumes: str, **more: Any) -> Any:
    spec = {"volumes": list(volumes), **more}
    return cluster.client.clients[node].call("POST", "/v1/snapshots", spec)


def test_snapshots_are_taken_while_hosts_write_and_whoever_fails(cluster: LiveCluster) -> None:
    cluster.create("v", SIZE, l2_entries=4)
    cluster.create("w", SIZE, l2_entries=4)
    host = CheckedHost(cluster.addresses(0), "v", SIZE)
    made: list[Any] = []

    def story() -> None:
        pause(0.5)
        made.extend(create(cluster, number % 8, "v", name=f"s{number}") for number in range(20))
        assert [row["ref"] for row in create(cluster, 3, "w", "v", name="both")["snapshots"]] == [
            "v@both", "w@both"
        ]  # fmt: skip
        # The same request at another node, as after an answer that was lost, is the same snapshot.
        once = create(cluster, 1, "v", name="once", request=5)
        again = create(cluster, 6, "v", name="once", request=5)
        assert (again["cut"], again["snapshots"]) == (once["cut"], once["snapshots"])
        # At the same time at all nodes: one after the other.
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda n: create(cluster, n, "v", name=f"p{n}"), range(8)))
        assert len({answer["cut"] for answer in answers}) == 8

        # An owner that dies is replaced, one that hangs is declared down: the cut is made, or
        # certainly not; writers go on either way.
        for victim, name in ((4, signal.SIGKILL), (5, signal.SIGSTOP)):
            with ThreadPoolExecutor(1) as thread:
                cluster.signal(victim, name)
                cut = thread.submit(cluster.run, "snapshot", "create", "v", f"lost{victim}")
                made_of_it = json.loads(cut.result())
            assert made_of_it["snapshots"][0]["state"] == "active"
        cluster.signal(5, signal.SIGCONT)

    async def main() -> None:
        await during(host, story)
        await host.check_all(cluster.addresses(2)[0])

    asyncio.run(main())
    assert host.wrong == []
    rows = json.loads(cluster.run("snapshot", "list", "v"))
    assert [row["name"] for row in rows[:2]] == ["s0", "s1"]
    assert {row["state"] for row in rows} == {"active"}
    held = sorted(each["held_ms"] for each in made)
    took = sorted(each["took_ms"] for each in made)
    print(f"held {held}\ntook {took}")
    assert held[len(held) // 2] < HELD_MS
    refusal = json.loads(cluster.run("volume", "remove", "w", "--yes", succeeds=False))
    assert "it has the snapshots both" in refusal["text"]
