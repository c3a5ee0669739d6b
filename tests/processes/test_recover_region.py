"""Both copies are lost and only the one that is known to be old comes back."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable

import pytest

from admin.spawn import pause
from base.units import KiB, MiB
from host.nbd_client import NbdClient
from tests.processes.live_cluster import LiveCluster, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(200)]

SIZE = 1 * MiB  # one region
BLOCK = 64 * KiB
SHAPE = {
    "volumes": {"l2_entries": 8, "l3_entries": 8},
    # So slow that no third node has the region before its owner is killed.
    "rebuild": {"bytes_per_s": 256 * KiB},
}


def write_all(cluster: LiveCluster, node: int, value: int) -> None:
    async def main() -> None:
        client = await NbdClient.connect(cluster.uri("v", node))
        for at in range(0, SIZE, BLOCK):
            await client.write(at, bytes([value]) * BLOCK)
        await client.close()

    asyncio.run(main())


def read_all(cluster: LiveCluster, node: int) -> set[int]:
    """The bytes that are in the volume."""

    async def main() -> set[int]:
        client = await NbdClient.connect(cluster.uri("v", node))
        found = set(await client.read(0, SIZE))
        await client.close()
        return found

    return asyncio.run(main())


def test_old_copy_opens_at_an_operators_word_only_and_the_newer_one_is_overwritten(
    start_cluster: Callable[..., LiveCluster],
) -> None:
    cluster = start_cluster(**SHAPE)
    cluster.create("v", SIZE)
    row = cluster.rows("v")[0]
    owner, old = row["copies"]
    rest = [node for node in range(8) if node not in (owner, old)]
    witness = rest[0]

    def region() -> dict[str, object]:
        return cluster.rows("v", at=witness)[0]

    write_all(cluster, witness, 1)
    cluster.signal(old, signal.SIGKILL)
    wait_until(lambda: region()["copies"] == [owner], f"n{old} to be out")
    write_all(cluster, witness, 2)
    assert region()["copies"] == [owner], "a third node has a copy: the test comes too late"
    cluster.signal(owner, signal.SIGKILL)
    wait_until(lambda: region()["state"] == "offline", "the region to be offline")
    cluster.start_node(old)
    cluster.wait_ready(old)
    pause(1)  # it has every chance to open, and must not take it
    assert region()["state"] == "offline"

    refused = cluster.run("region", "recover", "v", "0", succeeds=False)
    assert f"n{owner}" in refused, refused
    assert region()["state"] == "offline"
    told = json.loads(cluster.run("region", "recover", "v", "0", "--accept-loss"))
    assert [each["node"] for each in told["opened"]] == [old]
    assert told["opened"][0]["waited_for"] == [owner]
    assert not told["opened"][0]["empty"]
    assert cluster.client.losses("v")[0]["region"] == 0
    wait_until(lambda: region()["state"] != "offline", "the region to be open")
    assert read_all(cluster, witness) == {1}

    write_all(cluster, witness, 3)
    cluster.start_node(owner)
    cluster.wait_ready(owner)
    cluster.wait_whole()
    for node in cluster.alive():
        assert read_all(cluster, node) == {3}
