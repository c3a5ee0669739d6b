"""shell: a cluster of containers that runs already, for a scenario: broken, looked at, left whole.

`docker compose up` has made it, and it stays when the scenario is over, without the volumes that
the scenario made. It is found by the labels of its containers; everything that is needed to use it
from outside is what the engine says of them: published ports, and the files that they were given.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from admin.client import ClusterClient
from admin.local import LocalCluster, LocalNode
from base.errors import AlreadyExists, ConfigError, InvalidRequest, NotFound, StorageError
from base.place import LOOPBACK
from base.units import NS_PER_MS, NS_PER_S
from node.config import ClusterConfig, load
from scenario.files.amounts import time_text
from scenario.files.container_engine import (
    BROKER_LABEL,
    NODE_LABEL,
    PROJECT_LABEL,
    Container,
    Engine,
    socket_of,
)
from scenario.files.islands import islands
from scenario.files.keeper import BROKER, RESUME
from scenario.files.models import Cluster
from scenario.files.process_cluster import ANSWER_S, CHANGE_S, OnFailure, ProcessCluster
from scenario.files.seen import Note, in_order, notes_of_log
from scenario.files.view import ALIVE, DEAD, PAUSED, ClusterView
from scenario.recorded_host import Door, NbdDoor

CONFIG_MOUNT: Final = "/run/secrets/cluster.yaml"
TOKEN_MOUNT: Final = "/run/secrets/token"
STATES_NS: Final = 100 * NS_PER_MS  # the engine is asked no more often
SILENT_MS: Final = 2_000  # a host leaves a path that answers nothing for so long
EVERYWHERE: Final = "0.0.0.0"
UNDO_S: Final = 30.0
_STATES: Final = {"running": ALIVE, "paused": PAUSED}


def differences(wanted: Cluster, config: ClusterConfig) -> list[str]:
    """What the scenario says of the cluster and the one that runs is not."""
    times, has = config.replication, len(config.nodes)
    found = [f"it has {has} nodes, and {wanted.nodes} are wanted"] if has != wanted.nodes else []
    for name, mine, theirs in (
        ("lease", time_text(wanted.lease), time_text(times.lease_ms)),
        ("grace", time_text(wanted.grace), time_text(times.grace_ms)),
        ("durability", wanted.durability, times.durability),
    ):
        if mine != theirs:
            found.append(f"its {name} is {theirs}, and {mine} is wanted")
    return found


def numbered(containers: list[Container]) -> dict[int, Container]:
    """By number of the node. NotFound, InvalidRequest: they are not one cluster."""
    if not containers:
        raise NotFound("no cluster runs in containers: start it with `docker compose up`")
    projects = sorted({each.labels.get(PROJECT_LABEL, "") for each in containers})
    if len(projects) > 1:
        raise InvalidRequest(f"several clusters are there: {', '.join(projects)}; keep one")
    found = {int(each.labels[NODE_LABEL]): each for each in containers}
    if len(found) < len(containers) or sorted(found) != list(range(len(found))):
        names = ", ".join(sorted(each.name for each in containers))
        raise InvalidRequest(f"these are not the nodes of one cluster, one each: {names}")
    return dict(sorted(found.items()))


class ContainerCluster(ProcessCluster):
    """See the module, and `ProcessCluster` for what is the same."""

    paused_as = "frozen by its engine"
    attempts_max = 1  # NBD: what had no answer may happen yet, so it is never sent again

    def __init__(self, wanted: Cluster, engine: Engine | None = None) -> None:
        """engine: else the one of DOCKER_HOST."""
        super().__init__(wanted)
        self._engine = engine or Engine(socket_of(os.environ.get("DOCKER_HOST", "")))
        self._containers: dict[int, Container] = {}
        self._states: dict[int, str] = {}
        self._states_ns = 0
        self._network = ""
        self._at: dict[int, str] = {}  # the network that each is connected to
        self._islands: set[str] = set()
        self._aliases: dict[int, str] = {}
        self._cut: dict[int, list[tuple[int, int]]] = {}  # by strike
        self._leases: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._broker: Container | None = None

    # ------------------------------------------------------------------ start and end

    def start(self) -> None:
        """Find it; it must be whole. StorageError says what is not so."""
        containers = numbered(self._engine.containers(NODE_LABEL))
        config = self._config_of(containers[0])
        wrong = differences(self._wanted, config)
        wrong += [f"{each.name} is {each.state}" for each in containers.values()
                  if each.state != "running"]  # fmt: skip
        networks = {each.networks for each in containers.values()}
        if len(networks) != 1 or len(min(networks)) != 1:
            wrong.append("its containers are not on one network")
        if wrong:
            raise InvalidRequest(f"the cluster of containers: {'; '.join(wrong)}")
        self._network = min(networks)[0]
        self._aliases = {node.id: node.host for node in config.nodes}
        self._at = dict.fromkeys(containers, self._network)
        project = containers[0].labels[PROJECT_LABEL]
        brokers = self._engine.containers(BROKER_LABEL)
        self._broker = next((b for b in brokers if b.labels.get(PROJECT_LABEL) == project), None)
        self.cluster = _outside(config, containers)
        self.client = ClusterClient(self.cluster, ANSWER_S)
        self.operator = ClusterClient(self.cluster, CHANGE_S)
        self._containers = containers
        for number in containers:
            self.wait(f"n{number} serves hosts", partial(self.is_ready, number))

    def _config_of(self, container: Container) -> ClusterConfig:
        for path in (CONFIG_MOUNT, TOKEN_MOUNT):
            if path not in container.mounts:
                raise ConfigError(f"{container.name}: nothing of this machine is at {path} in it")
        return load(Path(container.mounts[CONFIG_MOUNT]))

    def close(self) -> None:
        """Undo what still stands, and forget the volumes."""
        if not self._containers:
            return  # none was found, so nothing was done to it
        self._cut.clear()
        self._states_ns = 0
        with suppress(StorageError):
            self._look_at_states()
        undo: list[Callable[[], None]] = [self._shape, self._start_broker]
        for number, state in self._states.items():
            if state == PAUSED:
                undo.append(partial(self.signal, number, signal.SIGCONT))
            elif state == DEAD:
                undo.append(partial(self._start_node, number))
        for each in undo:
            with suppress(StorageError):  # the next one is undone all the same
                each()
        for name in self._volumes:
            with suppress(StorageError):
                self.wait(f"{name} is gone", partial(self._removed, name), UNDO_S)
        self.client.close()
        self.operator.close()

    def _removed(self, name: str) -> bool:
        self.operator.close()
        with suppress(NotFound):  # an earlier attempt did it
            self.operator.remove_volume(name)
        return True

    # ------------------------------------------------------------------ looking

    def _look_at_states(self) -> None:
        now_ns = self._clock.now_ns()
        if self._states and now_ns - self._states_ns < STATES_NS:
            return
        found = numbered(self._engine.containers(NODE_LABEL))
        self._states = {n: _STATES.get(each.state, DEAD) for n, each in found.items()}
        self._states_ns = now_ns

    def look(self) -> ClusterView:
        """As the node with the newest catalog sees it."""
        self._look_at_states()
        return super().look()

    def _state(self, node: LocalNode) -> str:
        return self._states.get(node.node, DEAD)

    def state(self, number: int) -> str:
        """ALIVE, PAUSED or DEAD, now."""
        self._states_ns = 0
        self._look_at_states()
        return self._states[number]

    def notes(self, begun_wall_ns: int) -> tuple[Note, ...]:
        """What the nodes have written since then, as the engine has kept it."""
        found: list[Note] = []
        for number, container in self._containers.items():
            with suppress(StorageError):  # it says nothing
                lines = self._engine.log_lines(container.id, begun_wall_ns // NS_PER_S)
                found += notes_of_log(lines, number, begun_wall_ns)
        return in_order(found)

    def pid(self, number: int) -> int | None:
        """Of its process, on the machine of the engine, while it runs."""
        return self._engine.pid(self._containers[number].id) or None

    # ------------------------------------------------------------------ doing

    def create(self, name: str, regions: int) -> int:
        """Its number. AlreadyExists: it is somebody else's."""
        try:
            return super().create(name, regions)
        except AlreadyExists:
            raise
        except StorageError:
            self._volumes = [*self._volumes, *([] if name in self._volumes else [name])]
            raise  # it may be there, or come yet: it is removed like the others

    def signal(self, number: int, which: signal.Signals) -> None:
        """A pause is one of the whole container. InvalidRequest: it does not run."""
        container = self._containers[number].id
        if which is signal.SIGSTOP:
            self._engine.pause(container)
        elif which is signal.SIGCONT:
            self._engine.unpause(container)
        else:
            self._engine.signal(container, which.name)
        self._states_ns = 0

    def lease(self, strike: int, kind: str, nodes: Iterable[int], for_ms: int) -> None:
        """Noted only: nobody but the runner ends what stands among containers."""
        self._leases[strike] = (kind, tuple(nodes))

    def end_lease(self, strike: int) -> None:
        """Its time is over now."""
        kind, nodes = self._leases.pop(strike, ("", ()))
        if kind == BROKER:
            self._start_broker()
        for number in nodes:
            if kind == RESUME:
                self.signal(number, signal.SIGCONT)
            else:
                self._start_node(number)

    def _start_node(self, number: int) -> None:
        """Again, on its own volume, once its last life has ended."""
        container = self._containers[number].id
        self.wait(f"n{number} has ended", lambda: not self._engine.pid(container), UNDO_S)
        self._engine.start(container)
        self._states_ns = 0

    def cut(self, strike: int, ways: list[tuple[int, int]], for_ms: int, *, reset: bool) -> None:
        """Nothing passes on these ways until `mend`. InvalidRequest: no networks are like that."""
        self._cut[strike] = ways
        try:
            self._shape()
        except InvalidRequest:
            del self._cut[strike]
            raise

    def mend(self, strike: int) -> None:
        """These ways pass, unless another strike has cut them too."""
        self._cut.pop(strike, None)
        self._shape()

    def door(self, name: str, rng: random.Random, failed: OnFailure) -> Door:
        """NBD at the published ports, at any node first."""
        nodes = self.cluster.nodes
        first = rng.randrange(len(nodes))
        addresses = [f"{n.host}:{n.nbd_port}" for n in (*nodes[first:], *nodes[:first])]
        return NbdDoor(addresses, name, self._clock, silent_ms=SILENT_MS)

    def _shape(self) -> None:
        """Networks are what all strikes together make of them."""
        ways = [way for ways in self._cut.values() for way in ways]
        groups = islands(ways, len(self._containers))
        wanted = {
            node: self._network if place == 0 else f"{self._network}-island-n{group[0]}"
            for place, group in enumerate(groups)
            for node in group
        }
        for name in sorted(set(wanted.values()) - {self._network} - self._islands):
            self._engine.make_network(name)
            self._islands.add(name)
        moving = [node for node in sorted(wanted) if wanted[node] != self._at[node]]
        for node in moving:
            self._engine.disconnect(self._at[node], self._containers[node].id)
        for node in moving:
            self._engine.connect(wanted[node], self._containers[node].id, self._aliases[node])
            self._at[node] = wanted[node]
        for name in sorted(self._islands - set(self._at.values())):
            self._engine.remove_network(name)
            self._islands.discard(name)

    # ------------------------------------------------------------------ the broker

    def broker_pid(self) -> int:
        """Of its process; 0: it does not run. NotFound: this cluster has none."""
        if self._broker is None:
            raise NotFound("this cluster has no broker in a container")
        return self._engine.pid(self._broker.id)

    def kill_broker(self) -> None:
        """At once."""
        if self._broker is None:
            raise NotFound("this cluster has no broker in a container")
        self._engine.signal(self._broker.id, "SIGKILL")

    def _start_broker(self) -> None:
        """Again, if it does not run."""
        if self._broker is not None and not self._engine.pid(self._broker.id):
            self._engine.start(self._broker.id)

    def joined_broker(self, since_ns: int) -> list[int]:
        """Nodes that have said since then, in time of day, that they are at the broker."""
        return [
            number
            for number, container in self._containers.items()
            if any('"broker.joined"' in line
                   for line in self._engine.log_lines(container.id, since_ns // NS_PER_S))
        ]  # fmt: skip


def _outside(config: ClusterConfig, containers: dict[int, Container]) -> LocalCluster:
    """As it is reached from here. InvalidRequest: a port is not published."""
    nodes = []
    for node in sorted(config.nodes, key=lambda each: each.id):
        ports = containers[node.id].ports
        for key in ("nbd_port", "admin_port"):
            if getattr(node, key) not in ports:
                raise InvalidRequest(f"n{node.id}: its {key} is not published")
        (host, nbd_port), (_, admin_port) = ports[node.nbd_port], ports[node.admin_port]
        host = LOOPBACK[0] if host == EVERYWHERE else host
        nodes.append(LocalNode(node.id, host, 0, nbd_port, admin_port, Path()))
    return LocalCluster(
        name=config.cluster.name, directory=Path(), secret_path=Path(),
        token_path=Path(containers[0].mounts[TOKEN_MOUNT]), cluster_id=config.cluster.name,
        nodes=tuple(nodes), endpoints="the published ports",
    )  # fmt: skip
