"""Other people's NBD clients against snapshots, while a host writes to the volume."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from base.units import MiB
from tests.interop.test_cluster_tools import extents, run
from tests.processes.checked_host import CheckedHost
from tests.processes.live_cluster import LiveCluster, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = 24 * MiB
PAGE = 16 * 1024
COMPARE = ("qemu-img", "compare", "-f", "raw", "-F", "raw")


def bitmap(uri: str, context: str) -> list[tuple[int, int, int]]:
    printed = json.loads(run("nbdinfo", f"--map={context}", "--json", uri))
    return [(each["offset"], each["length"], each["type"]) for each in printed]


def pages_that_differ(one: Path, other: Path) -> set[int]:
    left, right = one.read_bytes(), other.read_bytes()
    return {at for at in range(0, SIZE, PAGE) if left[at : at + PAGE] != right[at : at + PAGE]}


def pages_of(runs: list[tuple[int, int, int]], kind: int) -> set[int]:
    return {
        at
        for offset, length, flags in runs
        if flags == kind
        for at in range(offset, offset + length, PAGE)
    }


@pytest.mark.needs_tool("qemu-img", "nbdinfo", "nbdcopy")
def test_what_tools_see_of_snapshots_while_a_host_writes(
    live_cluster: LiveCluster, tmp_path: Path
) -> None:
    """One cluster and one story, for a start costs more than all that is looked at."""
    live_cluster.create("s1", SIZE)
    host = CheckedHost(live_cluster.addresses(0), "s1", SIZE)
    raw = {name: tmp_path / name for name in ("monday", "tuesday")}

    async def cut(name: str) -> None:
        """Between two writes: what the model has is what the snapshot must have."""
        raw[name].write_bytes(bytes(host.model))
        await asyncio.to_thread(live_cluster.run, "snapshot", "create", "s1", name)

    async def main() -> None:
        await host.work(stop_after=40)
        await cut("monday")
        await host.work(stop_after=15)
        await cut("tuesday")
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(write_on(host))  # the group owns it
            await asyncio.to_thread(look, live_cluster, raw, tmp_path)
            assert not writing.done(), "it wrote all the while"
            writing.cancel()
        await host.close()

    asyncio.run(main())
    assert host.wrong == []


async def write_on(host: CheckedHost) -> None:
    """Over everything, again and again, and so slowly that the tools get the machine."""
    rng = Random(3)
    while True:
        await host.call("write", rng.randrange(SIZE // 4096) * 4096, rng.randbytes(4096))
        await asyncio.sleep(0.01)


def look(cluster: LiveCluster, raw: dict[str, Path], directory: Path) -> None:
    # Every view, at several nodes, is what was written before its cut, and cannot be written.
    for name, node in (("monday", 0), ("tuesday", 3)):
        assert "identical" in run(*COMPARE, raw[name], cluster.uri(f"s1@{name}", node))
    run("nbdcopy", cluster.uri("s1@monday", 6), directory / "out")
    assert (directory / "out").read_bytes() == raw["monday"].read_bytes()
    refused = run("nbdcopy", raw["monday"], cluster.uri("s1@monday", 1), succeeds=False)
    assert "read" in refused
    assert "nosuch" in run("nbdinfo", cluster.uri("s1@nosuch", 1), succeeds=False)
    look_at_list(cluster)
    look_at_maps(cluster, raw, directory)
    look_at_backups(cluster, raw, directory)
    look_at_attached(cluster, raw["monday"], directory / "attached.sock")


def look_at_attached(cluster: LiveCluster, raw: Path, socket: Path) -> None:
    """A host's own way to all nodes takes a snapshot like a volume."""
    command = [sys.executable, "-m", "admin.cli", "attach", "s1@monday", "--socket", str(socket)]
    with subprocess.Popen(
        [*command, "--dir", str(cluster.directory)], stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(socket.exists, "the socket of the attached snapshot")
            uri = f"nbd+unix:///s1@monday?socket={socket}"
            assert "identical" in run(*COMPARE, raw, uri)
        finally:
            process.terminate()


def look_at_backups(cluster: LiveCluster, raw: dict[str, Path], directory: Path) -> None:
    """Full and difference into another volume, which is then what the snapshots are."""
    full, difference, rbd = (directory / f"{name}.stream" for name in ("full", "next", "rbd"))
    cluster.run("backup", "export", "s1@monday", str(full))
    cluster.run("backup", "export", "s1@tuesday", str(difference), "--since", "monday")
    cluster.run("backup", "export", "s1@tuesday", str(rbd), "--format", "rbd")
    assert difference.stat().st_size < full.stat().st_size
    assert rbd.read_bytes()[:13] == b"rbd diff v1\nt"
    said = run_plain("verify", difference)
    assert (said["view"], said["since"], said["checked"]) == ("tuesday", "monday", True)
    assert "monday" in refused(cluster, difference, "s2")
    cluster.run("backup", "import", str(full), "s2")
    cluster.run("backup", "import", str(difference), "s2")
    for name, view in (("monday", "s2@monday"), ("tuesday", "s2@tuesday"), ("tuesday", "s2")):
        assert "identical" in run(*COMPARE, raw[name], cluster.uri(view, 2))
    cluster.run("backup", "import", str(rbd), "s3")
    assert "identical" in run(*COMPARE, raw["tuesday"], cluster.uri("s3", 6))
    assert "goes on from the newest snapshot" in refused(cluster, difference, "s2")
    assert "s2 exists" in refused(cluster, full, "s2")
    torn = directory / "torn"
    torn.write_bytes(full.read_bytes()[:-1])
    refused(cluster, torn, "s4")
    assert "s4" not in [row["name"] for row in cluster.client.volumes()]


def run_plain(*arguments: object) -> dict[str, object]:
    """A command that needs no cluster."""
    command = [sys.executable, "-m", "admin.cli", "backup", *map(str, arguments), "--json"]
    answer: dict[str, object] = json.loads(run(*command))
    return answer


def refused(cluster: LiveCluster, stream: Path, volume: str) -> str:
    answer = json.loads(cluster.run("backup", "import", str(stream), volume, succeeds=False))
    return str(answer["text"])


def look_at_list(cluster: LiveCluster) -> None:
    for node in (0, 7):
        listing = json.loads(run("nbdinfo", "--list", "--json", cluster.uri(node=node)))
        exports = {each["export-name"]: each for each in listing["exports"]}
        for name in ("s1@monday", "s1@tuesday"):
            assert exports[name]["is_read_only"]
            assert exports[name]["export-size"] == SIZE
        assert exports["s1@monday"]["contexts"] == [
            "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:tuesday"
        ]  # fmt: skip
        assert exports["s1"]["contexts"] == [
            "base:allocation", "qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"
        ]  # fmt: skip


def look_at_maps(cluster: LiveCluster, raw: dict[str, Path], directory: Path) -> None:
    uri = cluster.uri("s1@tuesday", 4)
    dirty = bitmap(uri, "qemu:dirty-bitmap:monday")
    assert sum(length for _, length, _ in dirty) == SIZE
    differing = pages_that_differ(raw["monday"], raw["tuesday"])
    assert differing <= pages_of(dirty, 1)
    assert len(pages_of(dirty, 1)) < SIZE // PAGE
    # The command names the same extents.
    said = json.loads(cluster.run("snapshot", "diff", "s1@monday", "s1@tuesday"))
    assert [tuple(each) for each in said["extents"]] == [
        (offset, length) for offset, length, kind in dirty if kind == 1
    ]
    # An incremental copy that is driven by nothing but the map.
    copy = bytearray(raw["monday"].read_bytes())
    full = directory / "full"
    run("nbdcopy", uri, full)
    new = full.read_bytes()
    for offset, length, kind in dirty:
        if kind == 1:
            copy[offset : offset + length] = new[offset : offset + length]
    assert bytes(copy) == raw["tuesday"].read_bytes()
    # Nothing is allocated where the depth is 0, and that is what base:allocation says.
    depth = bitmap(uri, "qemu:allocation-depth")
    holes = pages_of(depth, 0)
    assert holes <= pages_of(extents(uri), 3)
    assert {kind for _, _, kind in depth} <= {0, 1, 2}
