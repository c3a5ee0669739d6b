"""Real processes, but of a fake node: what starts, watches and stops them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from admin.client import ClusterClient
from admin.local import LocalCluster, node_pid, read_cluster, running_pid
from admin.spawn import NodeProcesses, pause, stop_nodes
from base.errors import AlreadyExists, ConfigError, NotConnected

pytestmark = [pytest.mark.processes]
ENTRY = "tests.admin.fake_node:run"


def base_port() -> int:
    for base in range(31_000 + os.getpid() % 40 * 32, 32_700, 32):
        try:
            for port in range(base + 1, base + 25):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[NodeProcesses]:
    started = NodeProcesses(tmp_path, nodes=3, base_port=base_port(), entry=ENTRY)
    yield started
    started.close()


def wait_up(cluster: LocalCluster) -> None:
    client = ClusterClient(cluster)
    for node in cluster.nodes:
        for _ in range(500):
            try:
                client.clients[node.node].call("GET", "/v1/ready")
                break
            except NotConnected:
                pause(0.02)
        else:
            raise AssertionError(f"{node.name} is not up")
    client.close()


def wait_event(processes: NodeProcesses, wanted: str) -> Any:
    for _ in range(200):
        for event in processes.events(0.1):
            if event["event"] == wanted:
                return event
    raise AssertionError(f"no event {wanted}")


def test_nodes_start_and_stop_cleanly(processes: NodeProcesses, tmp_path: Path) -> None:
    processes.start(processes.wait_prepared())
    cluster = read_cluster(tmp_path)
    wait_up(cluster)
    assert all(node_pid(node) for node in cluster.nodes)
    assert "up" in cluster.nodes[0].log_path.read_text()
    assert processes.stop() == []
    assert [node_pid(node) for node in cluster.nodes] == [None, None, None]


def test_killed_node_is_told_with_its_signal(processes: NodeProcesses, tmp_path: Path) -> None:
    processes.start(processes.wait_prepared())
    cluster = read_cluster(tmp_path)
    wait_up(cluster)
    pid = node_pid(cluster.nodes[1])
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    event = wait_event(processes, "exited")
    assert (event["node"], event["status"]) == (1, -signal.SIGKILL)


def test_second_cluster_on_one_directory_is_refused(
    processes: NodeProcesses, tmp_path: Path
) -> None:
    processes.wait_prepared()
    second = NodeProcesses(tmp_path, entry=ENTRY)
    with pytest.raises(AlreadyExists, match="already runs in"):
        second.wait_prepared()
    second.close()


def test_paused_node_is_stopped_all_the_same(processes: NodeProcesses, tmp_path: Path) -> None:
    processes.start(processes.wait_prepared())
    cluster = read_cluster(tmp_path)
    wait_up(cluster)
    pid = node_pid(cluster.nodes[2])
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert stop_nodes(cluster)[0] == [0, 1, 2]


def test_nodes_stop_when_their_starter_is_gone(tmp_path: Path) -> None:
    processes = NodeProcesses(tmp_path, nodes=3, base_port=base_port(), entry=ENTRY)
    processes.start(processes.wait_prepared())
    cluster = read_cluster(tmp_path)
    wait_up(cluster)
    processes.close()
    assert [node_pid(node) for node in cluster.nodes] == [None, None, None]


def test_wrong_configuration_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("journal: {segments: 1}\n")
    processes = NodeProcesses(tmp_path / "d", config_file=tmp_path / "c.yaml", entry=ENTRY)
    with pytest.raises(ConfigError, match=r"journal\.segments: is not an option"):
        processes.wait_prepared()
    processes.close()
    assert not (tmp_path / "d").exists()


def test_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    base = base_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 2))
        taken.listen()
        processes = NodeProcesses(tmp_path, nodes=3, base_port=base, entry=ENTRY)
        with pytest.raises(ConfigError, match=r"node n1: mesh_port: 127\.0\.0\.1:\d+: Address"):
            processes.wait_prepared()
        processes.close()


def test_up_tells_when_it_is_ready_and_stops_on_sigterm(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from admin.up import run_up;"
        f"sys.exit(run_up(Path({str(tmp_path)!r}), config_file=None, nodes=3,"
        f" base_port={base_port()}, as_json=True, entry={ENTRY!r}))"
    )
    up = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    ready = json.loads(up.stdout.readline())
    assert (ready["event"], len(ready["nodes"])) == ("ready", 3)
    assert running_pid(tmp_path / "up.pid") == up.pid
    up.send_signal(signal.SIGTERM)
    rest = [json.loads(line) for line in up.stdout.read().splitlines()]
    up.stdout.close()
    assert up.wait(20) == 0
    assert rest[-1] == {"event": "stopped", "killed": []}


def test_node_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from admin.up import run_up;"
        "from base.errors import StorageError\n"
        "try:\n"
        f"    run_up(Path({str(tmp_path)!r}), config_file=None, nodes=2, base_port={base_port()},"
        " as_json=True, entry='tests.processes.failing_node:run')\n"
        "except StorageError as error:\n"
        "    sys.exit(str(error))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 1
    assert "ended at once: node n" in answer.stderr
    assert "disk 3 is missing" in answer.stderr
