"""Real processes: owners go home without a stall, and a region opens at an operator's word."""

from __future__ import annotations

import asyncio
import json

import pytest

from admin.spawn import pause
from base.units import MiB
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = 48 * MiB
STALL_MS = 100.0  # the promise of fail-back


def test_owners_go_home_and_hosts_do_not_notice(cluster: LiveCluster) -> None:
    cluster.create("v", SIZE, l2_entries=4)
    before = cluster.owners("v")
    victim = cluster.busiest("v", {1, 2, 3, 4, 5, 6, 7})
    host = CheckedHost(cluster.addresses(0), "v", SIZE)
    longest: dict[str, float] = {}

    def story() -> None:
        pause(1)
        cluster.signal(victim)
        cluster.wait_members(7)
        cluster.wait_whole()
        assert victim not in cluster.owners("v")
        cluster.start_node(victim)
        cluster.wait_ready(victim)
        cluster.wait_members(8)
        cluster.wait_whole()
        host.longest_ms = 0.0
        wait_until(lambda: cluster.owners("v") == before, "every owner to be home")
        longest["home"] = host.longest_ms
        # What this machine does to a host when nothing happens.
        wait_until(lambda: cluster.status()["copies_away"] == 0, "every copy to be home")
        host.longest_ms = 0.0
        pause(5)
        longest["quiet"] = host.longest_ms

    async def main() -> None:
        await during(host, story)
        for number in cluster.alive():
            await host.check_all(cluster.addresses(number)[0])

    asyncio.run(main())
    assert host.wrong == []
    print(f"longest while owners moved: {longest}")
    assert longest["home"] < max(STALL_MS, 2 * longest["quiet"]), longest


def test_a_region_opens_at_an_operators_word_and_says_what_it_lost(cluster: LiveCluster) -> None:
    cluster.create("v", SIZE, owner=5, replicant=6)
    cluster.signal(5)
    cluster.signal(6)
    for number in (5, 6):
        wait_until(
            lambda n=number: cluster.client.nodes()[n]["state"] == "down", f"n{number} to be down"
        )
    assert cluster.status()["regions"]["offline"] > 0
    refused = json.loads(cluster.run("region", "recover", "v", "--all", succeeds=False))
    assert "to lose nothing, bring back what they wait for" in refused["text"]
    assert "down for" in refused["text"]
    answer = json.loads(cluster.run("region", "recover", "v", "--all", "--accept-loss"))
    assert answer["opened"]
    assert answer["skipped"] == 0
    assert cluster.status()["regions"]["offline"] == 0
    shown = json.loads(cluster.run("volume", "show", "v"))
    assert [each["region"] for each in shown["losses"]] == [
        each["region"] for each in answer["opened"]
    ]
    for number in (5, 6):
        cluster.start_node(number)
        cluster.wait_ready(number)
    cluster.wait_whole()
