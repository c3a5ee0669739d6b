"""`eightfold check --offline` on the files of real nodes, stopped in order and killed."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from admin.local import signal_node
from base.units import MiB
from tests.processes.checked_host import CheckedHost
from tests.processes.live_cluster import LiveCluster
from tests.processes.test_kill_and_restart import fill

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(400)]

SIZE = 16 * MiB


def offline(directory: Path, code: int) -> Any:
    """What the command says as JSON, from standard output, or on errors from standard error."""
    command = [sys.executable, "-m", "admin.cli", "check", "--json", "--offline", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout or done.stderr)


def contents(directory: Path) -> dict[str, int]:
    """When each file was written last."""
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def test_stopped_cluster_is_clean_and_damage_is_found(
    start_cluster: Callable[..., LiveCluster],
) -> None:
    cluster = start_cluster(nodes=3)
    directory = cluster.directory
    cluster.create("v", SIZE)
    fill(CheckedHost(cluster.addresses(0), "v", SIZE))
    refused = offline(directory, 1)
    assert "runs (process" in json.dumps(refused)
    cluster.stop()
    before = contents(directory)
    report = offline(directory, 0)
    assert report["clean"], report
    assert report["nodes"] == [0, 1, 2]
    assert report["compared"] >= 1
    assert report["blocks"] >= 1
    assert report["notes"] == []
    assert contents(directory) == before

    # Rot in every written page of one disk that holds something.
    path = max(sorted(directory.glob("n1/disks/*.img")), key=lambda each: each.stat().st_blocks)
    with path.open("r+b") as disk:
        size = path.stat().st_size
        at = 0
        while at < size:
            disk.seek(at)
            piece = disk.read(MiB)
            if any(piece):
                where = next(k for k, byte in enumerate(piece) if byte)
                disk.seek(at + where)
                disk.write(bytes([piece[where] ^ 255]))
            at += MiB
    report = offline(directory, 1)
    assert {(each["rule"], each["node"]) for each in report["problems"]} == {("I28", 1)}
    assert "eightfold check --data" in report["problems"][0]["advice"]

    (directory / "n2" / "journal" / "ring").rename(directory / "ring")
    report = offline(directory, 1)
    assert any(
        "n2: " in each["text"] and "cannot be read" in each["text"] for each in report["problems"]
    )
    (directory / "ring").rename(directory / "n2" / "journal" / "ring")


def test_killed_cluster_is_clean(start_cluster: Callable[..., LiveCluster]) -> None:
    cluster = start_cluster(nodes=3)
    cluster.create("v", SIZE)
    fill(CheckedHost(cluster.addresses(0), "v", SIZE))
    for number in range(3):  # all at once: nobody notices that another is gone
        signal_node(cluster.node(number), signal.SIGKILL)
    cluster.stop()
    report = offline(cluster.directory, 0)
    assert report["clean"], report
    assert report["compared"] >= 1, report
