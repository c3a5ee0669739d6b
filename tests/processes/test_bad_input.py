"""What is wrong is refused by name and logged, and nothing else suffers."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from admin.local import node_pid
from admin.spawn import pause
from base.errors import LinkLost, StorageError
from base.units import KiB, MiB
from host.nbd_client import NbdClient
from node.config import default_cluster, render
from tests.processes.checked_host import CheckedHost, during
from tests.processes.live_cluster import LiveCluster, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(400)]

SIZE = 32 * MiB


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """One cluster for the tests that leave it whole."""
    cluster = LiveCluster(tmp_path_factory.mktemp("bad") / "c")
    cluster.create("v", SIZE)
    try:
        yield cluster
    finally:
        cluster.close()


def processes(cluster: LiveCluster) -> list[int | None]:
    return [node_pid(node) for node in cluster.up.cluster.nodes]


def last_words(cluster: LiveCluster, number: int) -> str:
    """Of a node that is expected to end by itself."""
    wait_until(lambda: node_pid(cluster.node(number)) is None, f"the end of n{number}")
    return cluster.node(number).log_path.read_text().strip().splitlines()[-1]


def forget_last_words(cluster: LiveCluster, number: int) -> None:
    """They were asked for: the judgement of the logs must not find them."""
    path = cluster.node(number).log_path
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if line.startswith("{")))


# --- before anything starts ----------------------------------------------------------------------


def up_refused(*arguments: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "admin.cli", "up", "--json", *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert answer.returncode == 1, answer.stdout
    assert "Traceback" not in answer.stderr
    return answer.stderr


def test_a_configuration_with_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    text = render(default_cluster(8, 24_000)).replace("lease_ms:", "leese_ms:")
    (tmp_path / "c.yaml").write_text(text)
    said = up_refused("--dir", str(tmp_path / "d"), "--config", str(tmp_path / "c.yaml"))
    assert "replication.leese_ms: is not an option" in said
    assert not (tmp_path / "d").exists()


def test_a_directory_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = up_refused("--dir", str(tmp_path / "file" / "d"), "--base-port", "24000")
    assert str(tmp_path / "file") in said
    assert "Not a directory" in said


def test_a_directory_that_is_not_writable_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o500)
    # Modes do not stop root, but nobody makes directories in there.
    place = Path("/proc/eightfold") if os.geteuid() == 0 else tmp_path / "d"
    said = up_refused("--dir", str(place), "--base-port", "24000")
    assert str(place) in said
    assert "Permission denied" in said or "No such file or directory" in said


def test_a_second_cluster_on_one_directory_is_refused(shared: LiveCluster) -> None:
    said = up_refused("--dir", str(shared.directory))
    assert "a cluster already runs in" in said
    assert len(shared.alive()) == 8


def test_a_port_in_use_is_refused_by_name(shared: LiveCluster, tmp_path: Path) -> None:
    base = shared.node(0).mesh_port - 1
    said = up_refused("--dir", str(tmp_path / "d"), "--base-port", str(base))
    assert f"node n0: mesh_port: 127.0.0.1:{base + 1}: Address already in use" in said


# --- one node ------------------------------------------------------------------------------------


def test_a_second_process_of_one_node_is_refused(shared: LiveCluster) -> None:
    assert "node n3 already runs" in shared.run("node", "start", "n3", succeeds=False)
    answer = subprocess.run(
        [sys.executable, "-m", "node", "--dir", str(shared.directory), "--id", "3"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert answer.returncode == 2
    assert "node n3 already runs (process" in answer.stderr
    assert len(shared.alive()) == 8


@pytest.fixture
def without_n3(shared: LiveCluster) -> Iterator[LiveCluster]:
    """Stopped; it must come back whatever was done to it meanwhile."""
    shared.signal(3, signal.SIGTERM)
    shared.wait_whole()
    yield shared
    if node_pid(shared.node(3)) is not None:
        shared.signal(3, signal.SIGKILL)
    forget_last_words(shared, 3)
    shared.start_node(3)
    shared.wait_ready(3)
    shared.wait_members(8)
    shared.wait_whole()


def start_refused(cluster: LiveCluster) -> str:
    with suppress(LinkLost):  # it may end before or after it has said that it runs
        cluster.start_node(3)
    return last_words(cluster, 3)


def test_a_missing_disk_file_is_refused_by_name(without_n3: LiveCluster) -> None:
    disk = without_n3.node(3).directory / "disks" / "disk-002.img"
    aside = disk.rename(disk.with_name("aside"))
    assert "disk-002.img: the file of" in start_refused(without_n3)
    aside.rename(disk)


def test_a_disk_file_of_the_wrong_size_is_refused_by_name(without_n3: LiveCluster) -> None:
    disk = without_n3.node(3).directory / "disks" / "disk-001.img"
    size = disk.stat().st_size
    os.truncate(disk, size - 512)
    said = start_refused(without_n3)
    assert f"disk-001.img: has {size - 512} bytes; the configuration says {size}" in said
    os.truncate(disk, size)


@pytest.mark.parametrize("port", ["mesh_port", "nbd_port", "admin_port"])
def test_a_port_that_somebody_took_is_told_by_name(without_n3: LiveCluster, port: str) -> None:
    number = getattr(without_n3.node(3), port)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", number))
        taken.listen()
        said = start_refused(without_n3)
    assert "node n3" in said or "eightfold:" in said
    assert str(number) in said


def secret_refused(cluster: LiveCluster, node: int) -> bool:
    lines = cluster.log_lines(node)
    return any(line.get("event") == "link.refused" and "secret" in line["reason"] for line in lines)


def test_a_node_with_another_secret_is_refused_and_logged(without_n3: LiveCluster) -> None:
    path = without_n3.directory / "secret"
    right = path.read_text()
    path.write_text("0" * 64 + "\n")
    try:
        without_n3.start_node(3)
        wait_until(lambda: without_n3.client.clients[3].call("GET", "/v1/status"), "n3 to run")
    finally:
        path.write_text(right)
    for node in (0, 7):  # one that dials n3, and one that n3 dials: lower ids dial
        wait_until(lambda n=node: secret_refused(without_n3, n), f"n{node} to refuse n3")
    assert without_n3.status(3)["ready"] is False
    assert without_n3.status(0)["nodes_alive"] == 7
    without_n3.signal(3, signal.SIGTERM)


def test_a_wrong_token_is_401_and_logged(shared: LiveCluster) -> None:
    for header in ({"Authorization": "Bearer wrong"}, {}):
        link = http.client.HTTPConnection("127.0.0.1", shared.node(1).admin_port, timeout=30)
        link.request("DELETE", "/v1/volumes/v", headers=header)
        response = link.getresponse()
        assert (response.status, b"token" in response.read()) == (401, True)
        link.close()
    shared.wait_logged(1, "admin.refused", reason="wrong token")
    assert [row["name"] for row in shared.client.volumes()] == ["v"]


def test_a_volume_larger_than_the_space_is_refused_with_what_is_free(shared: LiveCluster) -> None:
    said = shared.run("volume", "create", "big", "1TiB", succeeds=False)
    assert "free" in said
    assert [row["name"] for row in shared.client.volumes()] == ["v"]


# --- garbage -------------------------------------------------------------------------------------


def ends(port: int, data: bytes, *, hang_up: bool) -> bool:
    """The other end closes the connection of whoever sends this and then nothing, or hangs up."""
    link = socket.create_connection(("127.0.0.1", port), timeout=60)
    with link, suppress(ConnectionResetError, BrokenPipeError):
        link.sendall(data)
        if hang_up:
            link.shutdown(socket.SHUT_WR)
        while link.recv(65_536):
            pass
    return True


def frames(real: bytes) -> list[bytes]:
    noise = Random(7).randbytes
    return [
        noise(10_000), b"\x00" * 5_000, b"\xff" * 100_000, real[: len(real) // 2] + noise(3_000),
        b"GET / HTTP/1.1\r\n\r\n" * 20,
    ]  # fmt: skip


NBD_HELLO = b"\x00\x00\x00\x03" + b"IHAVEOPT" + b"\x00\x00\x00\x07" + b"\xff\xff\xff\xff"


@pytest.mark.parametrize("port", ["mesh_port", "nbd_port", "admin_port"])
def test_garbage_ends_its_connection_and_nothing_else(shared: LiveCluster, port: str) -> None:
    before = processes(shared)
    number = getattr(shared.node(2), port)
    host = CheckedHost(shared.addresses(2), "v", SIZE)

    def story() -> None:
        for data in frames(NBD_HELLO):
            if port == "admin_port" and data.startswith(b"GET"):
                continue  # that is a request there
            # An HTTP request may be long in coming; for hosts and nodes there is a time limit.
            assert ends(number, data, hang_up=port == "admin_port")
        pause(0.5)

    async def main() -> None:
        client = await NbdClient.connect(f"nbd://{shared.addresses()[0]}/v")
        await client.zero(0, SIZE)  # others have written here before
        await client.close()
        await during(host, story)
        await host.check_all(shared.addresses(5)[0])

    asyncio.run(main())
    assert host.wrong == []
    assert host.paths_lost == 0
    assert processes(shared) == before
    shared.wait_members(8)


def test_an_nbd_request_that_is_no_request_ends_only_its_connection(shared: LiveCluster) -> None:
    where = shared.node(2)
    with socket.create_connection((where.host, where.nbd_port), timeout=60) as link:
        assert link.recv(18, socket.MSG_WAITALL).startswith(b"NBDMAGICIHAVEOPT")
        option = b"\x00\x00\x00\x01" + b"\x00\x00\x00\x01" + b"v"  # EXPORT_NAME, zeroes wanted
        link.sendall(b"\x00\x00\x00\x01" + b"IHAVEOPT" + option)
        link.recv(10 + 124, socket.MSG_WAITALL)
        link.sendall(Random(3).randbytes(64 * KiB))
        with suppress(ConnectionResetError):
            while link.recv(65_536):
                pass
    shared.wait_members(8)


# --- a majority is lost --------------------------------------------------------------------------


async def write_all(client: NbdClient, value: int) -> list[str]:
    """One block in each region; the errors."""
    errors = []

    async def write(at: int) -> None:
        try:
            await client.write(at, bytes([value]) * (64 * KiB))
        except StorageError as error:
            errors.append(f"{error.code}: {error}")

    async with asyncio.TaskGroup() as group:
        for at in range(0, client.size_bytes, 1 * MiB):
            group.create_task(write(at))
    return errors


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused"])
def test_without_a_majority_writes_fail_in_time_and_go_on_when_it_returns(
    start_cluster: Callable[..., LiveCluster], how: signal.Signals
) -> None:
    cluster = start_cluster(host={"request_timeout_ms": 5000})
    size = 8 * 16 * MiB
    cluster.create("v", size)
    lost = (3, 4, 5, 6, 7)

    async def main() -> None:
        client = await NbdClient.connect(cluster.uri("v", 0))
        assert await write_all(client, 1) == []
        for number in lost:
            cluster.signal(number, how)
        async with asyncio.timeout(100):
            errors = await write_all(client, 2)
        assert errors, "some region lay on nodes that are gone"
        assert all("EIO" in each for each in errors), errors
        assert any(
            word in each for each in errors for word in ("no majority", "did not answer", "offline")
        ), errors
        for number in lost:
            if how == signal.SIGSTOP:
                cluster.signal(number, signal.SIGCONT)
            else:
                cluster.start_node(number)
        for number in range(8):
            cluster.wait_ready(number)
        cluster.wait_whole()
        for _ in range(10):
            errors = await write_all(client, 3)
            if not errors:
                break
        assert errors == []
        for number in range(8):
            other = await NbdClient.connect(cluster.uri("v", number))
            for at in range(0, size, 1 * MiB):
                assert await other.read(at, 64 * KiB) == b"\x03" * (64 * KiB)
            await other.close()
        await client.close()

    asyncio.run(main())


# --- a full disk under the journal ---------------------------------------------------------------


def test_a_full_disk_under_the_journal_makes_writes_wait_and_loses_nothing(
    start_cluster: Callable[..., LiveCluster],
) -> None:
    cluster = start_cluster(entry="tests.processes.full_disk_node:run")
    cluster.create("v", SIZE)
    victim = cluster.busiest("v")
    mark = cluster.directory / f"full-n{victim}"
    host = CheckedHost(cluster.addresses((victim + 1) % 8), "v", SIZE)

    def story() -> None:
        pause(1)
        mark.write_text("")
        pause(3)
        before = host.writes
        pause(1)
        assert host.writes - before < 200, "writes went on without their journal"
        mark.unlink()
        wait_until(lambda: host.writes > before + 100, "writes to go on")

    async def main() -> None:
        await during(host, story)
        for number in cluster.alive():
            await host.check_all(cluster.addresses(number)[0])

    asyncio.run(main())
    assert host.wrong == []
    assert len(cluster.alive()) == 8
    # And what was acknowledged survives the death of all.
    for number in range(8):
        cluster.signal(number)
    cluster.stop()
    cluster.start()
    cluster.wait_whole()
    asyncio.run(host.check_all(cluster.addresses(victim)[0]))
    assert host.wrong == []
