"""A real cluster for a test: eight node processes on small disks, in a directory of its own.

Every process is found by its pid file and start time and is stopped in `close`, whatever the test
did to it. What the nodes wrote to their logs is judged there too.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from admin.client import ClusterClient
from admin.local import LocalNode, node_pid, signal_node
from admin.spawn import pause, start_alone
from admin.up import Up
from base.errors import StorageError
from base.units import GiB, MiB
from node.config import ClusterConfig, default_cluster, render
from scenario.links import Links

WAIT_SECONDS = 120  # generous: what is waited for takes well under a second on an idle machine

SMALL: dict[str, Any] = {
    "disks": {"disk_bytes": 2 * GiB, "chunklet_bytes": 16 * MiB, "spare_chunklets": 2},
    "journal": {"segment_bytes": 8 * MiB, "segments_max": 4},
    "cache": {"dirty_bytes_max": 16 * MiB},
}


def free_base_port() -> int:
    """24 ports in a row above it are free."""
    for base in range(24_000 + os.getpid() % 200 * 32, 31_000, 32):
        try:
            for port in range(base + 1, base + 25):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


def small_config(nodes: int = 8, **sections: Any) -> ClusterConfig:
    """A configuration for small disks; sections replace those of SMALL key by key."""
    merged = {key: {**SMALL.get(key, {}), **sections.get(key, {})} for key in {**SMALL, **sections}}
    return default_cluster(nodes, free_base_port(), **merged)


def write_config(path: Path, nodes: int = 8, **sections: Any) -> Path:
    """The same as a file."""
    path.write_text(render(small_config(nodes, **sections)))
    return path


def relayed(config: ClusterConfig) -> tuple[ClusterConfig, Links]:
    """A relay, and the configuration that leads every link between nodes through it."""
    links = Links({node.id: (node.host, node.mesh_port) for node in config.nodes})
    nodes = [
        node.model_copy(update={"peer_addresses": links.addresses(node.id)})
        for node in config.nodes
    ]
    return config.model_copy(update={"nodes": tuple(nodes)}), links


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true answer. StorageErrors on the way count as no."""
    answer: Any = None
    for _ in range(int(seconds / 0.05)):
        try:
            answer = condition()
        except StorageError as error:
            answer, last = None, str(error)
        else:
            last = repr(answer)
        if answer:
            return answer
        pause(0.05)
    raise AssertionError(f"waited {seconds:g} s for {what}: {last}")


class LiveCluster:
    """Started when made."""

    def __init__(
        self, directory: Path, *, entry: str | None = None, relay: bool = False, **sections: Any
    ) -> None:
        """entry: another function to run as a node, as `module:function`. relay: `links` are in the
        hands of the test."""
        self.directory = directory
        self._entry = entry
        self._config = directory.with_name(directory.name + ".yaml")
        config = small_config(**sections)
        self._relay: Links | None = None
        if relay:
            config, self._relay = relayed(config)
        self._config.write_text(render(config))
        self.up: Up
        self.expected_errors: set[str] = set()  # events at level error that the test provokes
        self._open = False
        self.start()

    @property
    def links(self) -> Links:
        """Between nodes, when the cluster was made with `relay`."""
        assert self._relay is not None
        return self._relay

    # ------------------------------------------------------------------ the processes

    def start(self) -> None:
        """All of them, until each serves hosts."""
        fresh = not (self.directory / "cluster.yaml").exists()
        self.up = Up(
            self.directory,
            config_file=self._config if fresh else None,
            nodes=None,
            base_port=None,
            as_json=True,
            entry=self._entry,
        )
        self._open = True
        try:
            self.up.start()
        except BaseException:
            self.stop()
            raise
        self.client = ClusterClient(self.up.cluster, 10.0)

    def stop(self) -> list[int]:
        """Cleanly; the nodes that had to be killed for it."""
        if not self._open:
            return []
        self._open = False
        if hasattr(self, "client"):
            self.client.close()
        return self.up.stop()

    def node(self, number: int) -> LocalNode:
        return self.up.cluster.node(number)

    def alive(self) -> list[int]:
        return [node.node for node in self.up.cluster.nodes if node_pid(node) is not None]

    def signal(self, number: int, name: signal.Signals = signal.SIGKILL) -> None:
        """And wait until the process is gone, or stopped."""
        node = self.node(number)
        signal_node(node, name)
        if name in (signal.SIGKILL, signal.SIGTERM):
            wait_until(lambda: node_pid(node) is None, f"the end of n{number}")

    def start_node(self, number: int) -> None:
        """Again, on what its last life left. Does not wait until it serves."""
        start_alone(self.up.cluster, self.node(number))

    def wait_ready(self, number: int) -> None:
        client = self.client.clients[number]
        wait_until(
            lambda: client.call("GET", "/v1/ready", wait_ms=200)["ready"], f"n{number} to be ready"
        )

    def run(self, *arguments: str, succeeds: bool = True) -> str:
        """The command line, with --dir and --json; what it printed."""
        command = [sys.executable, "-m", "admin.cli", *arguments, "--dir", str(self.directory)]
        answer = subprocess.run(
            [*command, "--json"], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
        )
        assert (answer.returncode == 0) == succeeds, answer.stdout + answer.stderr
        return answer.stdout if succeeds else answer.stderr

    # ------------------------------------------------------------------ what it holds

    def create(self, name: str, size_bytes: int, **options: Any) -> None:
        """A volume that hosts can use at every node."""
        self.client.create_volume({"name": name, "size_bytes": size_bytes, **options})
        self.wait_whole()
        for number in self.alive():
            client = self.client.clients[number]
            wait_until(lambda c=client: c.call("GET", f"/v1/volumes/{name}"), f"{name} everywhere")

    def uri(self, volume: str = "", node: int = 0) -> str:
        where = self.node(node)
        return f"nbd://{where.host}:{where.nbd_port}/{volume}".removesuffix("/")

    def addresses(self, first: int = 0) -> list[str]:
        """HOST:PORT of every node, beginning with this one."""
        count = len(self.up.cluster.nodes)
        nodes = [self.node((first + k) % count) for k in range(count)]
        return [f"{node.host}:{node.nbd_port}" for node in nodes]

    def status(self, node: int | None = None) -> Any:
        client = self.client if node is None else self.client.clients[node]
        return client.call("GET", "/v1/status")

    def wait_whole(self, seconds: float = WAIT_SECONDS) -> None:
        """Every region has all its copies, as every node that lives sees it."""

        def whole() -> bool:
            for number in self.alive():
                regions = self.status(number)["regions"]
                if regions["normal"] != regions["total"]:
                    return False
            return True

        wait_until(whole, "every region to have all its copies", seconds)

    def wait_members(self, count: int) -> None:
        """Every node that lives counts so many as members."""
        for number in self.alive():
            wait_until(
                lambda n=number: self.status(n)["nodes_alive"] == count,
                f"n{number} to count {count} nodes",
            )

    def owners(self, volume: str, at: int | None = None) -> list[int]:
        """Of each region, as that node sees it, or any that answers."""
        return [row["owner"] for row in self.rows(volume, at)]

    def rows(self, volume: str, at: int | None = None) -> list[dict[str, Any]]:
        """Of `admin.view.RegionRow`, as that node sees it, or any that answers."""
        if at is None:
            return list(self.client.regions(volume, 0, 4096))
        path = f"/v1/volumes/{volume}/regions"
        return list(self.client.clients[at].call("GET", path, first=0, count=4096))

    def busiest(self, volume: str, among: set[int] | None = None) -> int:
        """The node that owns most regions; of equals the first."""
        owners = self.owners(volume)
        wanted = among if among is not None else set(self.alive())
        return max(sorted(wanted), key=owners.count)

    def statistics(self, node: int) -> Any:
        return self.client.clients[node].call("GET", "/v1/statistics")

    def log_lines(self, node: int) -> list[dict[str, Any]]:
        """Of all its lives. A line that is no JSON comes as {"no_json": …}."""
        lines = []
        for line in self.node(node).log_path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"no_json": line})
        return lines

    def wait_logged(self, node: int, event: str, **fields: Any) -> dict[str, Any]:
        """The first line of the node about this event with these fields."""

        def found() -> dict[str, Any] | None:
            for line in self.log_lines(node):
                if line.get("event") == event and fields.items() <= line.items():
                    return line
            return None

        line: dict[str, Any] = wait_until(found, f"{event} in the log of n{node}", 30)
        return line

    # ------------------------------------------------------------------ the end

    def complaints(self) -> list[str]:
        """Lines of the logs that no test asked for: errors, tracebacks, failed tasks."""
        found = []
        for node in self.up.cluster.nodes:
            for line in self.log_lines(node.node) if node.log_path.exists() else []:
                bad = line.get("level") in ("error", "critical") or "no_json" in line
                if bad and line.get("event") not in self.expected_errors:
                    found.append(f"{node.name}: {json.dumps(line)}")
        return found

    def close(self) -> None:
        """Stop everything; AssertionError when a node did not stop or logged an error."""
        killed = self.stop()
        if self._relay is not None:
            self._relay.close()
        left = {n.node: pid for n in self.up.cluster.nodes if (pid := node_pid(n)) is not None}
        for pid in left.values():
            os.kill(pid, signal.SIGKILL)
        complaints = self.complaints()
        assert not complaints, "\n".join(complaints[:20])
        assert not killed, f"nodes that had to be killed: {killed}"
        assert not left, f"nodes that ran on: {sorted(left)}"
