"""shell: a cluster of node processes of this machine, for a scenario: started, broken, looked at.

Every link between nodes leads through the relay of `scenario.links`, so that no fault needs rights
that the user of this process does not have. Everything is in a directory of its own, and gone when
it is closed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from admin.client import ClusterClient
from admin.local import LocalCluster, LocalNode, node_pid, process_state, read_cluster, signal_node
from admin.spawn import NodeProcesses, pause, stop_nodes
from base.clock import RealClock
from base.errors import LinkLost, NoSpace, NotFound, RequestTimeout, StorageError
from base.place import LOOPBACK, local_socket
from base.units import NS_PER_S, GiB, MiB
from host.attach import AttachedVolume
from node.cluster_directory import read_secret
from node.config import ClusterConfig, default_cluster, render
from scenario.files.keeper import Keeper
from scenario.files.models import Cluster
from scenario.files.seen import Note, in_order, notes_of_log
from scenario.files.view import (
    ALIVE,
    DEAD,
    PAUSED,
    ClusterView,
    DiskPlace,
    NodeNow,
    RegionNow,
    VolumeNow,
)
from scenario.links import Links
from scenario.recorded_host import AttachedDoor, Door
from transport.mesh import MeshClient, MeshClientConfig

READY_S: Final = 60
ANSWER_S: Final = 1.0
CHANGE_S: Final = 30.0
LOOK_S: Final = 0.05
REGION_BYTES: Final = MiB
_TABLES: Final = {"l2_entries": 8, "l3_entries": 8}  # of pages of 16 KiB: a region of 1 MiB
OnFailure = Callable[[str, BaseException], None]
_PORTS: Final[list[int]] = list(range(24_000, 31_000, 32))


def _free_base_port() -> int:
    """25 ports in a row behind it are free. NoSpace: there are none."""
    first = os.getpid() % 200
    for base in [*_PORTS[first:], *_PORTS[:first]]:
        try:
            for port in range(base + 1, base + 26):
                with socket.socket() as probe:
                    probe.bind((LOOPBACK[0], port))
        except OSError:
            continue
        return base
    raise NoSpace("no 25 free ports in a row between 24000 and 31000")


def _config(wanted: Cluster) -> ClusterConfig:
    """Small disks, since a scenario is short."""
    return default_cluster(
        wanted.nodes,
        _free_base_port(),
        disks={
            "cages": wanted.cages,
            "sleds_per_cage": wanted.sleds,
            "disk_bytes": 2 * GiB,
            "chunklet_bytes": 16 * MiB,
            "spare_chunklets": 2,
        },
        journal={"segment_bytes": 8 * MiB, "segments_max": 4},
        cache={"dirty_bytes_max": 16 * MiB},
        volumes=_TABLES,
        replication={
            "lease_ms": wanted.lease,
            "grace_ms": wanted.grace,
            "durability": wanted.durability,
        },
    )


class ProcessCluster:
    """Made, then started; closed at the end, whatever happened."""

    paused_as = "in state T"
    attempts_max = 100  # of one operation of a host: what is repeated is known by its name

    def __init__(self, wanted: Cluster) -> None:
        self._wanted = wanted
        self._clock = RealClock()
        self._room: Path | None = None
        self._links: Links | None = None
        self._keeper: Keeper | None = None
        self._processes: NodeProcesses | None = None
        self._last: ClusterView | None = None
        self._volumes: list[str] = []
        self.cluster: LocalCluster
        self.client: ClusterClient  # for looks, which must not wait for a node that is paused
        self.operator: ClusterClient  # for changes, which take their time on a busy machine

    # ------------------------------------------------------------------ start and end

    def start(self) -> None:
        """All nodes, until each serves hosts. StorageError says which did not."""
        config = _config(self._wanted)
        self._room = Path(tempfile.mkdtemp(prefix="eightfold-scenario-"))
        self._links = Links({node.id: (node.host, node.mesh_port) for node in config.nodes})
        nodes = [
            node.model_copy(update={"peer_addresses": self._links.addresses(node.id)})
            for node in config.nodes
        ]
        path = self._room / "cluster.yaml"
        path.write_text(render(config.model_copy(update={"nodes": tuple(nodes)})))
        directory = self._room / "data"
        self._processes = NodeProcesses(directory, config_file=path)
        numbers = self._processes.wait_prepared()
        self._keeper = Keeper(directory, self._room)
        self.cluster = read_cluster(directory)
        self.client = ClusterClient(self.cluster, ANSWER_S)
        self.operator = ClusterClient(self.cluster, CHANGE_S)
        self._processes.start(numbers)
        for number in numbers:
            self.wait(f"n{number} serves hosts", partial(self.is_ready, number))

    def close(self) -> None:
        """Stop everything, also what was paused, and forget the directory."""
        if self._keeper is not None:
            self._keeper.close()
        if hasattr(self, "cluster"):
            for node in self.cluster.nodes:
                if node_pid(node) is not None and self._state(node) == PAUSED:
                    signal_node(node, signal.SIGCONT)
            self.client.close()
            self.operator.close()
        if self._processes is not None:
            self._processes.stop()
        if hasattr(self, "cluster"):
            stop_nodes(self.cluster)
        if self._links is not None:
            self._links.close()
        if self._room is not None:
            shutil.rmtree(self._room, ignore_errors=True)

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = READY_S) -> None:
        """RequestTimeout: it did not become so. Errors on the way count as not yet."""
        until_ns = self._clock.now_ns() + int(seconds * NS_PER_S)
        while self._clock.now_ns() < until_ns:
            try:
                if condition():
                    return
            except StorageError:
                pass  # it does not answer yet
            pause(LOOK_S)
        raise RequestTimeout(f"{what}: not within {seconds:g} s")

    # ------------------------------------------------------------------ looking

    def node(self, number: int) -> LocalNode:
        """By number."""
        return self.cluster.node(number)

    def pid(self, number: int) -> int | None:
        """Of its process, while it runs."""
        return node_pid(self.node(number))

    def _state(self, node: LocalNode) -> str:
        pid = node_pid(node)
        if pid is None:
            return DEAD
        return PAUSED if process_state(pid) in "Tt" else ALIVE

    def state(self, number: int) -> str:
        """ALIVE, PAUSED or DEAD."""
        return self._state(self.node(number))

    def ask(self, number: int, path: str, **query: Any) -> Any:
        """One node, about itself or as it sees the cluster."""
        return self.client.clients[number].call("GET", path, **query)

    def is_ready(self, number: int) -> bool:
        """It serves hosts."""
        return self.state(number) == ALIVE and bool(
            self.ask(number, "/v1/ready", wait_ms=200)["ready"]
        )

    def hears(self, number: int, other: int) -> bool:
        """Whether a node believes that the other one is there."""
        rows = self.ask(number, "/v1/nodes")
        return any(row["id"] == other and row["state"] in ("alive", "damped") for row in rows)

    def look(self) -> ClusterView:
        """As the node with the newest catalog sees it; the last view when nobody answers."""
        states = [self._state(node) for node in self.cluster.nodes]
        best: tuple[int, int, int] | None = None
        leader = -1
        for number, state in enumerate(states):
            if state != ALIVE:
                continue
            try:
                status = self.ask(number, "/v1/status")
            except StorageError:
                continue
            leads = status["leader"] == number
            leader = number if leads else leader
            best = max(best or (0, 0, 0), (status["catalog_version"], int(leads), number))
        if best is None:
            return self._unheard(states)
        try:
            return self._asked(best[2], states, leader)
        except StorageError:
            return self._unheard(states)

    def _unheard(self, states: list[str]) -> ClusterView:
        """Nobody answered: what was known last, with the processes as they are."""
        last = self._last
        nodes = tuple(
            NodeNow(number, state, last is not None and last.nodes[number].up)
            for number, state in enumerate(states)
        )
        return ClusterView(nodes, last.volumes if last else (), -1, self.disks)

    @property
    def disks(self) -> tuple[DiskPlace, ...]:
        """Of every node."""
        return self._wanted.disks()

    def _asked(self, number: int, states: list[str], leader: int) -> ClusterView:
        rows = {row["id"]: row["state"] for row in self.ask(number, "/v1/nodes")}
        nodes = tuple(
            NodeNow(each, state, rows.get(each) not in ("down", "never_seen", None))
            for each, state in enumerate(states)
        )
        volumes = tuple(self._volume(number, name) for name in self._volumes)
        self._last = ClusterView(nodes, volumes, leader, self.disks)
        return self._last

    def _volume(self, number: int, name: str) -> VolumeNow:
        rows = self.ask(number, f"/v1/volumes/{name}/regions", first=0, count=4096)
        return VolumeNow(
            name,
            tuple(
                RegionNow(
                    row["owner"],
                    tuple(node for node in row["copies"] if node != row["owner"]),
                    row["joiner"],
                )
                for row in rows
            ),
        )

    def notes(self, begun_wall_ns: int) -> tuple[Note, ...]:
        """What the nodes have logged since then."""
        found: list[Note] = []
        for node in self.cluster.nodes:
            try:
                with node.log_path.open(encoding="utf-8", errors="replace") as lines:
                    found += notes_of_log(lines, node.node, begun_wall_ns)
            except OSError:
                continue  # it never ran
        return in_order(found)

    # ------------------------------------------------------------------ doing

    def create(self, name: str, regions: int) -> int:
        """A volume that hosts can use at every node. Its number."""
        group = "raid1" if self._wanted.mirrored_disks else "raid0"
        spec = {"name": name, "size_bytes": regions * REGION_BYTES, "group": group, **_TABLES}
        self.operator.create_volume(spec)
        path = f"/v1/volumes/{name}"
        for node in self.cluster.nodes:
            self.wait(f"{name} is known at {node.name}", partial(self.ask, node.node, path))
        self._volumes.append(name)
        self.wait(f"{name} has its copies", lambda: self.look().redundant)
        found: dict[str, Any] = {}
        # One of the nodes may have been called down meanwhile, and not have caught up yet.
        self.wait(f"{name} has a number", lambda: found.update(self.operator.volume(name)) or found)
        return int(found["id"])

    def door(self, name: str, rng: random.Random, failed: OnFailure) -> Door:
        """How a host reaches a volume: attached, with links to all nodes. Not open yet."""
        about = self.cluster
        addresses = tuple(
            local_socket(node.directory, node.host) or (node.host, node.mesh_port)
            for node in about.nodes
        )
        config = MeshClientConfig(about.cluster_id, read_secret(about.secret_path), addresses)
        bus = MeshClient(config, rng=rng, on_failure=failed)
        return AttachedDoor(AttachedVolume(name, bus=bus, clock=self._clock, rng=rng))

    def signal(self, number: int, which: signal.Signals) -> None:
        """NotFound: it does not run."""
        signal_node(self.node(number), which)

    def lease(self, strike: int, kind: str, nodes: Iterable[int], for_ms: int) -> None:
        """Before a fault of processes strikes: it will be over after that time, whatever becomes of
        this process. kind: of `keeper`, what ends it."""
        if self._keeper is None:
            raise LinkLost("the cluster has not been started")
        self._keeper.lease(strike, kind, nodes, for_ms)

    def end_lease(self, strike: int) -> None:
        """Its time is over now."""
        if self._keeper is not None:
            self._keeper.end(strike)

    def cut(self, strike: int, ways: list[tuple[int, int]], for_ms: int, *, reset: bool) -> None:
        """Nothing passes on these ways until `mend`, and no longer than for_ms."""
        if self._links is None:
            raise LinkLost("the cluster has not been started")
        self._links.stand(strike, "reset" if reset else "cut", ways, for_ms)

    def broker_pid(self) -> int:
        """Of the process of the broker; 0: it does not run. NotFound: there is none."""
        raise NotFound("this cluster has no broker")

    def kill_broker(self) -> None:
        """At once. NotFound as above, as for the next one."""
        raise NotFound("this cluster has no broker")

    def joined_broker(self, since_ns: int) -> list[int]:
        """Nodes that have said since then, in time of day, that they are at the broker."""
        raise NotFound("this cluster has no broker")

    def mend(self, strike: int) -> None:
        """These ways pass, unless another strike has cut them too."""
        if self._links is not None:
            self._links.lift(strike)
