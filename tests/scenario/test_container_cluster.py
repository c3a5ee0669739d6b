"""What a scenario does to containers, and that it is undone, by an engine that only notes."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import InvalidRequest, NotFound
from scenario.files.container_cluster import ContainerCluster
from scenario.files.container_engine import BROKER_LABEL, NODE_LABEL, PROJECT_LABEL, Container
from scenario.files.keeper import BROKER, RESUME, START
from scenario.files.models import Cluster
from tests.tidy.tree import ROOT

CONFIG = ROOT / "configs" / "compose" / "cluster.yaml"


class NotingEngine:
    """Eight containers and a broker on one network. `done`: what was asked of it, in order."""

    def __init__(self, token: Path) -> None:
        self.done: list[str] = []
        self.dead: set[str] = set()
        self.paused: set[str] = set()
        self.networks = {"net"}
        self.at = {f"n{number}": "net" for number in range(8)}
        self._mounts = {"/run/secrets/cluster.yaml": str(CONFIG), "/run/secrets/token": str(token)}

    def containers(self, label: str) -> list[Container]:
        names = ["broker"] if label == BROKER_LABEL else sorted(self.at)
        return [self._container(name) for name in names]

    def _container(self, name: str) -> Container:
        state = "exited" if name in self.dead else "paused" if name in self.paused else "running"
        labels = {NODE_LABEL: name[1:], PROJECT_LABEL: "p"}
        number = 0 if name == "broker" else int(name[1:])
        ports = {10809 + number: ("0.0.0.0", 20000 + number), 10817 + number: ("0.0.0.0", 1)}
        return Container(
            name, f"p-{name}", state, "", labels, ports, (self.at.get(name, "net"),), self._mounts
        )

    def pid(self, container: str) -> int:
        return 0 if container in self.dead else 7

    def signal(self, container: str, name: str) -> None:
        self.done.append(f"{name} {container}")
        self.dead.add(container)

    def pause(self, container: str) -> None:
        self.done.append(f"pause {container}")
        self.paused.add(container)

    def unpause(self, container: str) -> None:
        self.done.append(f"unpause {container}")
        self.paused.discard(container)

    def start(self, container: str) -> None:
        self.done.append(f"start {container}")
        self.dead.discard(container)

    def disconnect(self, network: str, container: str) -> None:
        assert self.at[container] == network
        self.at[container] = ""

    def connect(self, network: str, container: str, alias: str) -> None:
        assert network in self.networks
        assert alias == container
        self.done.append(f"{container} to {network}")
        self.at[container] = network

    def make_network(self, name: str) -> None:
        self.networks.add(name)

    def remove_network(self, name: str) -> None:
        assert name not in self.at.values(), "somebody is connected"
        self.networks.remove(name)


class Operator:
    def __init__(self) -> None:
        self.volumes = {"vol0"}

    def remove_volume(self, name: str) -> None:
        if name not in self.volumes:
            raise NotFound(name)
        self.volumes.remove(name)

    def close(self) -> None:
        return


@pytest.fixture
def engine(tmp_path: Path) -> NotingEngine:
    (tmp_path / "token").write_text("a-token-of-the-tests")
    return NotingEngine(tmp_path / "token")


@pytest.fixture
def cluster(engine: NotingEngine, monkeypatch: pytest.MonkeyPatch) -> ContainerCluster:
    monkeypatch.setattr(ContainerCluster, "is_ready", lambda *_: True)
    made = ContainerCluster(Cluster(), engine)  # type: ignore[arg-type]
    made.start()
    return made


def test_nodes_are_reached_at_the_published_ports(cluster: ContainerCluster) -> None:
    assert [(node.host, node.nbd_port) for node in cluster.cluster.nodes][3] == ("127.0.0.1", 20003)


def test_cluster_that_is_not_whole_is_refused_and_left_alone(engine: NotingEngine) -> None:
    engine.dead.add("n3")
    made = ContainerCluster(Cluster(), engine)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="p-n3 is exited"):
        made.start()
    made.close()
    assert engine.done == []


def test_faults_end_when_their_time_is_over(
    cluster: ContainerCluster, engine: NotingEngine
) -> None:
    cluster.lease(0, START, [1], 100)
    cluster.signal(1, signal.SIGKILL)
    cluster.lease(1, RESUME, [2], 100)
    cluster.signal(2, signal.SIGSTOP)
    cluster.lease(2, BROKER, [], 100)
    cluster.kill_broker()
    assert [cluster.state(number) for number in (0, 1, 2)] == ["alive", "dead", "paused"]
    for strike in range(3):
        cluster.end_lease(strike)
    assert engine.done == [
        "SIGKILL n1", "pause n2", "SIGKILL broker", "start n1", "unpause n2", "start broker",
    ]  # fmt: skip
    assert [cluster.state(number) for number in (0, 1, 2)] == ["alive"] * 3


def test_cut_off_nodes_share_a_network_and_come_back(
    cluster: ContainerCluster, engine: NotingEngine
) -> None:
    others = (0, 1, 2, 3, 4, 5)
    ways = [(a, b) for one in (6, 7) for other in others for a, b in ((one, other), (other, one))]
    cluster.cut(4, ways, 100, reset=False)
    assert {engine.at["n6"], engine.at["n7"]} == {"net-island-n6"}
    assert {engine.at[f"n{number}"] for number in others} == {"net"}
    cluster.mend(4)
    assert set(engine.at.values()) == {"net"}
    assert engine.networks == {"net"}


def test_cut_that_no_networks_make_is_refused_and_forgotten(
    cluster: ContainerCluster, engine: NotingEngine
) -> None:
    with pytest.raises(InvalidRequest, match="would still reach"):
        cluster.cut(4, [(0, 1)], 100, reset=False)
    cluster.mend(5)
    assert set(engine.at.values()) == {"net"}


def test_whatever_stands_is_undone_at_the_end(
    cluster: ContainerCluster, engine: NotingEngine
) -> None:
    cluster.signal(1, signal.SIGKILL)
    cluster.signal(2, signal.SIGSTOP)
    cluster.kill_broker()
    ways = [way for other in range(7) for way in ((7, other), (other, 7))]
    cluster.cut(0, ways, 100, reset=False)
    operator: Any = Operator()
    cluster.operator = operator
    cluster._volumes = ["vol0", "never made"]
    cluster.close()
    assert (engine.dead, engine.paused, engine.networks) == (set(), set(), {"net"})
    assert set(engine.at.values()) == {"net"}
    assert operator.volumes == set()


def test_one_failure_does_not_keep_the_rest_from_being_undone(
    cluster: ContainerCluster, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.signal(1, signal.SIGSTOP)
    cluster.signal(2, signal.SIGSTOP)
    really = engine.unpause

    def unpause(container: str) -> None:
        if container == "n1":
            raise InvalidRequest("the engine is tired")
        really(container)

    monkeypatch.setattr(engine, "unpause", unpause)
    cluster.close()
    assert engine.paused == {"n1"}


def test_port_that_is_not_published_is_named(engine: NotingEngine) -> None:
    listed = engine.containers

    def without(label: str) -> list[Container]:
        return [replace(each, ports={}) for each in listed(label)]

    engine.containers = without  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest, match="n0: its nbd_port is not published"):
        ContainerCluster(Cluster(), engine).start()  # type: ignore[arg-type]
