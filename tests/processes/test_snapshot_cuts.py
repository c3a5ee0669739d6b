"""Real processes: points in time are made while hosts write, and owners die or hang meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from admin.spawn import pause
from base.errors import StorageError
from base.units import MiB
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = 48 * MiB


def create(cluster: LiveCluster, node: int, *volumes: str, **more: Any) -> Any:
    spec = {"volumes": list(volumes), **more}
    return cluster.client.clients[node].call("POST", "/v1/snapshots", spec, 60)


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

        by_rules(cluster)
        # An owner that dies is replaced, one that hangs is declared down: the cut is made, or
        # certainly not; writers go on either way.
        for number, (victim, name) in enumerate(((4, signal.SIGKILL), (5, signal.SIGSTOP)), 91):
            with ThreadPoolExecutor(1) as thread:
                cluster.signal(victim, name)
                cut = thread.submit(attempt, cluster, f"lost{victim}", number)
            assert cut.result() in ("active", "cut_abandoned")
        cluster.signal(5, signal.SIGCONT)

    async def main() -> None:
        await during(host, story)
        await host.check_all(cluster.addresses(2)[0])

    asyncio.run(main())
    assert host.wrong == []
    rows = json.loads(cluster.run("snapshot", "list", "v"))
    assert [row["name"] for row in rows[:3]] == ["s0", "s2", "s3"]
    assert {row["state"] for row in rows if not row["name"].startswith("lost")} == {"active"}
    held = sorted(each["held_ms"] for each in made)
    took = sorted(each["took_ms"] for each in made)
    print(f"held {held}\ntook {took}")
    refusal = json.loads(cluster.run("volume", "remove", "w", "--yes", succeeds=False))
    assert "it has the snapshots both" in refusal["text"]


def attempt(cluster: LiveCluster, name: str, request: int) -> str:
    """What became of the snapshot: its state, or the code of the error."""
    try:
        made = cluster.client.create_snapshot({"volumes": ["v"], "name": name, "request": request})
    except StorageError as error:
        return error.code
    return str(made["snapshots"][0]["state"])


def by_rules(cluster: LiveCluster) -> None:
    """A middle one is removed; what a rule takes comes and goes by itself."""
    assert json.loads(cluster.run("snapshot", "remove", "v@s1", "--yes"))["removed"]
    refusal = json.loads(cluster.run("snapshot", "show", "v@s1", succeeds=False))
    assert "there is no snapshot s1 of volume v" in refusal["text"]
    cluster.run("snapshot", "schedule", "add", "w", "every 1s keep 2")

    def taken() -> list[int]:
        names = [row["name"] for row in cluster.client.family("w")]
        assert "both" in names
        return [int(name.rpartition("-")[2]) for name in names if name.startswith("every-1s-")]

    wait_until(lambda: max(taken(), default=0) > 3 and min(taken()) > 1, "a rule to work")
    cluster.run("snapshot", "schedule", "remove", "w", "every 1s keep 2")
