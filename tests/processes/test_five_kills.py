"""Five of eight owners are killed in turn, while fio and our own host verify every byte."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from admin.spawn import pause
from base.clock import RealClock
from base.units import MiB
from host.nbd_client import NbdClient
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

SIZE = 64 * MiB
FIO_SECONDS = 60
KILLS = 5


def kill_in_turn(cluster: LiveCluster, spared: set[int], *, seconds: float) -> list[int]:
    """The busiest owner, five times, each after everything has all its copies again; spread over so
    many seconds."""
    clock = RealClock()
    began_ns = clock.now_ns()
    killed: list[int] = []
    for number in range(KILLS):
        due_ns = began_ns + int((number + 1) * seconds / (KILLS + 1) * 1e9)
        pause(max(0.5, (due_ns - clock.now_ns()) / 1e9))
        victim = cluster.busiest("v", set(cluster.alive()) - spared)
        assert victim in cluster.owners("v")
        cluster.signal(victim, signal.SIGKILL)
        killed.append(victim)
        cluster.wait_members(8 - len(killed))
        cluster.wait_whole()
    return killed


@contextmanager
def attached(cluster: LiveCluster, volume: str, directory: Path) -> Iterator[str]:
    """`eightfold attach` in a process of its own; the address of its socket."""
    path = directory / "attach.sock"
    command = [sys.executable, "-m", "admin.cli", "attach", volume, "--socket", str(path)]
    with (directory / "attach.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--dir", str(cluster.directory)], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: path.exists() or process.poll() is not None, "attach to listen", 30)
        assert process.poll() is None, (directory / "attach.log").read_text()
        yield f"nbd+unix:///{volume}?socket={path}"
        assert process.poll() is None, (directory / "attach.log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (directory / "attach.log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def fio(uri: str, directory: Path, *, seconds: int) -> Iterator[subprocess.Popen[bytes]]:
    """Random reads and writes for so long, each block verified as soon as it is read again."""
    output = directory / "fio.json"
    heard = (directory / "fio.err").open("wb")
    process = subprocess.Popen(
        [
            "fio", "--name=kills", "--ioengine=nbd", f"--uri={uri}", f"--size={SIZE}",
            "--rw=randwrite", "--bsrange=4k-64k", "--blockalign=4k", "--iodepth=8",
            "--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1", "--do_verify=1",
            "--time_based", f"--runtime={seconds}", "--rate_iops=600", "--randrepeat=1",
            "--output-format=json", f"--output={output}",
        ],
        cwd=directory, stdout=subprocess.DEVNULL, stderr=heard,
    )  # fmt: skip
    heard.close()
    try:
        yield process
        code = process.wait(seconds + 300)
        errors = (directory / "fio.err").read_text()
        assert code == 0, errors + output.read_text()[-2000:]
        assert "verify" not in errors
        text = output.read_text()
        job = json.loads(text[text.index("{") :])["jobs"][0]
        assert job["error"] == 0
        assert job["write"]["total_ios"] > 0
        assert job["read"]["total_ios"] > 0  # it verified
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.needs_tool("fio")
def test_fio_through_attach_sees_no_error_while_five_owners_are_killed(
    cluster: LiveCluster, tmp_path: Path
) -> None:
    cluster.create("v", SIZE)
    with attached(cluster, "v", tmp_path) as uri, fio(uri, tmp_path, seconds=FIO_SECONDS) as run:
        killed = kill_in_turn(cluster, set(), seconds=FIO_SECONDS - 5)
        assert len(set(killed)) == KILLS
        assert run.poll() is None, "fio ended before the last kill"


@pytest.mark.needs_tool("fio")
def test_fio_at_a_node_that_lives_sees_no_error_while_five_owners_are_killed(
    cluster: LiveCluster, tmp_path: Path
) -> None:
    cluster.create("v", SIZE)
    with fio(cluster.uri("v", 7), tmp_path, seconds=20) as run:
        assert len(set(kill_in_turn(cluster, {7}, seconds=15))) == KILLS
        assert run.poll() is None, "fio ended before the last kill"


def test_every_acknowledged_write_is_read_at_another_node_after_five_kills(
    cluster: LiveCluster,
) -> None:
    cluster.create("v", SIZE)
    host = CheckedHost(cluster.addresses(), "v", SIZE)

    async def main() -> None:
        await during(host, lambda: kill_in_turn(cluster, set(), seconds=12))
        assert len(cluster.alive()) == 3
        for number in cluster.alive():
            await host.check_all(cluster.addresses(number)[0])

    asyncio.run(main())
    assert host.wrong == []
    assert host.paths_lost >= 1
    assert host.writes > 100


def test_attach_keeps_what_it_acknowledged_when_nodes_die(
    cluster: LiveCluster, tmp_path: Path
) -> None:
    """Written through the attached socket with every path in use, read back at a node."""
    cluster.create("v", SIZE)
    block = 64 * 1024

    async def write_round(uri: str, value: int) -> None:
        client = await NbdClient.connect(uri)
        async with asyncio.TaskGroup() as group:
            for at in range(0, SIZE, 1 * MiB):
                group.create_task(client.write(at, bytes([value, at // MiB]) * (block // 2)))
        await client.close()

    async def read_back(uri: str, value: int) -> None:
        client = await NbdClient.connect(uri)
        for at in range(0, SIZE, 1 * MiB):
            assert await client.read(at, block) == bytes([value, at // MiB]) * (block // 2)
        await client.close()

    with attached(cluster, "v", tmp_path) as uri:
        for value, victim in enumerate((3, 5, 1), start=1):
            cluster.signal(victim, signal.SIGKILL)
            asyncio.run(write_round(uri, value))
            cluster.wait_members(8 - value)
            cluster.wait_whole()
            asyncio.run(read_back(cluster.uri("v", 0), value))
