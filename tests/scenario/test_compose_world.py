"""What the world of containers refuses, and how it reads what an engine says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.errors import ConfigError, InvalidRequest, NotConnected, NotFound
from node.config import default_cluster
from scenario.files.container_cluster import differences, numbered
from scenario.files.container_engine import (
    NODE_LABEL,
    PROJECT_LABEL,
    Container,
    Engine,
    frames,
    socket_of,
)
from scenario.files.islands import islands
from scenario.files.loader import scenario_of
from scenario.files.models import Cluster
from scenario.files.world import COMPOSE, PROCESSES, SIM, cannot


def refusals(step: str, world: Any = COMPOSE) -> list[str]:
    text = f"scenario: x\nabout: y\ntimeline:\n  - {{at: 1s, for: 1s, {step}}}\n"
    return cannot(scenario_of(text, source="x"), world)


@pytest.mark.parametrize(
    "step",
    [
        "do: kill, target: n1",
        "do: stop, target: n1",
        "do: pause, target: the leader",
        "do: broker_kill",
        "do: cut, from: n1",
        "do: partition, groups: [n0 and n1, the rest]",
        "do: partition, groups: [2 random nodes, 3 random nodes]",
    ],
)
def test_faults_that_an_engine_can_cause_are_taken(step: str) -> None:
    assert refusals(step) == []


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("do: slow, target: n1", "slow cannot be done on compose; it can on sim"),
        ("do: cut, from: n1, behaviour: reset", "never a reset; it can on sim, processes"),
        ("do: cut, from: n1, direction: out", "both ways, and not out; it can on sim, processes"),
        ("do: cut, from: n1, to: n2", "cuts off all the rest, and not n2"),
        ("do: partition, groups: [n0, the rest], behaviour: reset", "never a reset"),
        ("do: partition, groups: [n0 and n1, n1 and n2]", "n1 cannot be on two networks"),
    ],
)
def test_what_no_engine_can_do_is_refused_before_the_start(step: str, why: str) -> None:
    (refusal,) = refusals(step)
    assert why in refusal


def test_only_the_world_with_a_broker_takes_it_away() -> None:
    for world in (SIM, PROCESSES):
        assert "it can on compose" in refusals("do: broker_kill", world)[0]


# ------------------------------------------------------------------ networks


def severed(*groups: str, nodes: int = 4) -> list[tuple[int, int]]:
    return [
        (one, other)
        for one in range(nodes)
        for other in range(nodes)
        if one != other and not any(str(one) in group and str(other) in group for group in groups)
    ]


def test_groups_become_networks_and_the_largest_stays() -> None:
    assert islands([], 4) == ((0, 1, 2, 3),)
    assert islands(severed("3", "012"), 4) == ((0, 1, 2), (3,))
    assert islands(severed("23", "01"), 4) == ((0, 1), (2, 3))
    assert islands(severed("23", "0"), 4) == ((2, 3), (0,), (1,))


def test_cuts_of_several_strikes_add_up() -> None:
    ways = severed("3", "012") + severed("0", "123")
    assert islands(ways, 4) == ((1, 2), (0,), (3,))


def test_link_cut_one_way_is_no_network() -> None:
    with pytest.raises(InvalidRequest, match="n1 would still reach n0"):
        islands([(0, 1)], 4)


def test_bridge_is_no_network() -> None:
    with pytest.raises(InvalidRequest, match="hear"):
        islands(severed("01", "12", nodes=3), 3)
    with pytest.raises(InvalidRequest, match="hear"):
        islands([(0, 2), (2, 0)], 3)


# ------------------------------------------------------------------ which cluster


def container(node: str, project: str = "p", state: str = "running") -> Container:
    labels = {NODE_LABEL: node, PROJECT_LABEL: project}
    return Container(node, f"{project}_n{node}", state, "", labels, {}, ("net",), {})


def test_containers_are_known_by_their_labels_and_not_by_names() -> None:
    assert list(numbered([container("1"), container("0")])) == [0, 1]


@pytest.mark.parametrize(
    ("containers", "error", "why"),
    [
        ([], NotFound, "docker compose up"),
        ([container("0"), container("0", "q")], InvalidRequest, "several clusters are there: p, q"),
        ([container("0"), container("0")], InvalidRequest, "one each: p_n0, p_n0"),
        ([container("0"), container("2")], InvalidRequest, "one each: p_n0, p_n2"),
    ],
)
def test_what_is_not_one_cluster_is_refused(
    containers: list[Container], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        numbered(containers)


def test_cluster_that_is_not_what_the_scenario_says_is_told() -> None:
    assert differences(Cluster(), default_cluster()) == []
    wanted = Cluster.model_validate({"nodes": 5, "grace": "800ms"})
    assert differences(wanted, default_cluster()) == [
        "it has 8 nodes, and 5 are wanted", "its grace is 500ms, and 800ms is wanted",
    ]  # fmt: skip


# ------------------------------------------------------------------ the engine


def test_engine_is_asked_over_a_socket_only() -> None:
    assert socket_of("") == "/var/run/docker.sock"
    assert socket_of("unix:///run/user/1000/docker.sock") == "/run/user/1000/docker.sock"
    for elsewhere in ("tcp://host:2375", "ssh://host", "unix://", "/var/run/docker.sock"):
        with pytest.raises(ConfigError, match="DOCKER_HOST"):
            socket_of(elsewhere)


def test_no_engine_is_told_by_the_path_of_its_socket(tmp_path: Path) -> None:
    with pytest.raises(NotConnected, match=r"no container engine answers at .*/none"):
        Engine(str(tmp_path / "none")).containers(NODE_LABEL)


def test_both_outputs_of_a_container_are_read_in_order() -> None:
    raw = b"\x01\0\0\0\0\0\0\x03ab\n" + b"\x02\0\0\0\0\0\0\x02c\n" + b"\x01\0\0"
    assert b"".join(frames(raw)) == b"ab\nc\n"


class FakeEngine:
    """Answers each connection with the next of what it was given, and keeps what it was asked."""

    def __init__(self, path: Path, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(4)
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            link, _ = self._socket.accept()
            with link:
                self.asked.append(link.recv(65536))
                link.sendall(answer)

    def close(self) -> None:
        self._thread.join(10)
        self._socket.close()


LISTED = b"""[{"Id": "abc", "Names": ["/eightfold-n3-1"], "State": "paused", "Status": "Up",
"Labels": {"eightfold.node": "3"}, "Mounts": [{"Source": "/a/token", "Destination": "/b"}],
"Ports": [{"IP": "127.0.0.1", "PrivatePort": 10809, "PublicPort": 11111, "Type": "tcp"},
{"PrivatePort": 9, "Type": "tcp"}], "NetworkSettings": {"Networks": {"net": {}}}}]"""


def replied(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(
        tmp_path / "s",
        replied("404 Not Found", b'{"message": "No such container: x"}'),
        replied("409 Conflict", b'{"message": "container x is not running"}'),
    )
    yield fake
    fake.close()


def test_container_is_read_as_the_engine_shows_it(tmp_path: Path) -> None:
    fake = FakeEngine(tmp_path / "s", replied("200 OK", LISTED))
    (found,) = Engine(str(tmp_path / "s")).containers(NODE_LABEL)
    fake.close()
    assert b"eightfold.node" in fake.asked[0]
    assert (found.name, found.state) == ("eightfold-n3-1", "paused")
    assert found.ports == {10809: ("127.0.0.1", 11111)}
    assert (found.networks, found.mounts) == (("net",), {"/b": "/a/token"})


def test_refusals_of_the_engine_are_passed_on_in_its_words(
    refusing: FakeEngine, tmp_path: Path
) -> None:
    engine = Engine(str(tmp_path / "s"))
    with pytest.raises(NotFound, match="No such container: x"):
        engine.start("x")
    with pytest.raises(InvalidRequest, match="container x is not running"):
        engine.signal("x", "SIGKILL")
    assert refusing.asked[1].startswith(b"POST /containers/x/kill?signal=SIGKILL ")
