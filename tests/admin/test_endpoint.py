"""A cluster that is found by the address of a node, and the health of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from admin import endpoint, health
from admin.cli import app
from admin.endpoint import outside_cluster, parse_endpoints
from admin.local import LocalNode, read_cluster
from base.errors import AccessDenied, InvalidRequest, LinkLost, NotConnected
from tests.admin.test_cli import Cluster, shared, unused_port

__all__ = ["shared"]

runner = CliRunner()


def rows(host: str, *ports: int) -> list[dict[str, Any]]:
    return [
        {"id": number, "host": f"{host}{number}" if host == "n" else host,
         "mesh_port": port - 2, "nbd_port": port - 1, "admin_port": port}
        for number, port in enumerate(ports)
    ]  # fmt: skip


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("a-token-of-the-tests")
    return path


class Answers:
    """Who answers at which port, and which node that is."""

    def __init__(self, nodes: list[dict[str, Any]], at: dict[int, int]) -> None:
        self.nodes = nodes
        self.at = at
        self.asked: list[int] = []

    def ask(self, node: LocalNode, token: str) -> tuple[Any, Any]:
        self.asked.append(node.admin_port)
        if node.admin_port not in self.at:
            raise LinkLost("nobody listens behind the published port")
        return {"cluster": "c", "node": self.at[node.admin_port]}, self.nodes


def test_one_endpoint_leads_to_all_nodes_at_its_own_host(
    monkeypatch: pytest.MonkeyPatch, token: Path
) -> None:
    answers = Answers(rows("n", 17, 18, 19), {18: 1})
    monkeypatch.setattr(endpoint, "_ask", answers.ask)
    found = outside_cluster("127.0.0.1:18", token)
    assert [(node.node, node.host, node.nbd_port, node.admin_port) for node in found.nodes] == [
        (0, "127.0.0.1", 16, 17), (1, "127.0.0.1", 17, 18), (2, "127.0.0.1", 18, 19),
    ]  # fmt: skip


def test_nodes_that_are_reached_as_they_say_are_looked_for_where_they_say(
    monkeypatch: pytest.MonkeyPatch, token: Path
) -> None:
    nodes = rows("10.0.0.1", 17, 18)
    nodes[1]["host"] = "10.0.0.2"
    monkeypatch.setattr(endpoint, "_ask", Answers(nodes, {17: 0}).ask)
    assert [node.host for node in outside_cluster("10.0.0.1:17", token).nodes] == [
        "10.0.0.1", "10.0.0.2",
    ]  # fmt: skip


def test_next_endpoint_is_asked_when_one_is_silent(
    monkeypatch: pytest.MonkeyPatch, token: Path
) -> None:
    answers = Answers(rows("n", 17, 18), {18: 1})
    monkeypatch.setattr(endpoint, "_ask", answers.ask)
    assert len(outside_cluster("localhost:17, localhost:18", token).nodes) == 2
    assert answers.asked == [17, 18]


def test_ports_with_other_numbers_outside_are_used_as_they_were_given(
    monkeypatch: pytest.MonkeyPatch, token: Path
) -> None:
    monkeypatch.setattr(endpoint, "_ask", Answers(rows("n", 17, 18, 19), {50: 2, 51: 0}).ask)
    found = outside_cluster("localhost:50,localhost:51", token)
    assert [(node.node, node.admin_port) for node in found.nodes] == [(0, 51), (2, 50)]


def test_endpoints_that_are_all_silent_are_named(token: Path) -> None:
    port = unused_port()
    with pytest.raises(NotConnected, match=f"no node can be reached at 127.0.0.1:{port}: node at"):
        outside_cluster(f"127.0.0.1:{port}", token)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "/a/path", "host:1,", "h:99999"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"--endpoint: .+ is not HOST:PORT"):
        parse_endpoints(text)


# ------------------------------------------------------------------ through the command line


def run(cluster: Cluster, *arguments: str, port: int | None = None) -> Any:
    at = port or read_cluster(cluster.directory).node(1).admin_port
    given = ["--endpoint", f"127.0.0.1:{at}", "--token-file", str(cluster.directory / "token")]
    return runner.invoke(app, [*given, *arguments])


def test_commands_drive_a_cluster_from_outside(shared: Cluster) -> None:
    shared.view.rows.clear()
    assert run(shared, "volume", "create", "v1", "1GiB").exit_code == 0
    assert "v1" in run(shared, "volume", "list").stdout
    assert "elsewhere" in run(shared, "node", "list").stdout
    assert "dirty bytes" in run(shared, "node", "show", "n1").stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("node", "kill", "n1"), "this command needs the processes of the nodes"),
        (("node", "start", "n1"), "this command needs the processes of the nodes"),
        (("down",), "this command needs the processes of the nodes"),
        (("attach", "v1"), "this command needs the secret of the nodes"),
        (("mqtt", "watch"), "this command needs the address of the broker"),
        (("up",), "takes no --endpoint"),
        (("demo",), "takes no --endpoint"),
    ],
)
def test_command_that_needs_the_machine_is_refused_from_outside(
    shared: Cluster, arguments: tuple[str, ...], text: str
) -> None:
    result = run(shared, *arguments)
    assert result.exit_code == 1
    assert text in result.stderr


def test_endpoint_needs_a_token(shared: Cluster, tmp_path: Path) -> None:
    result = runner.invoke(app, ["--endpoint", "127.0.0.1:1", "status", "--dir", str(tmp_path)])
    assert "--endpoint needs --token-file" in result.stderr


def test_endpoint_of_one_command_is_forgotten_by_the_next(shared: Cluster) -> None:
    assert run(shared, "status").exit_code == 0
    assert shared.run("node", "kill", "n0").exit_code == 1  # of the directory, so not refused
    assert "--endpoint" not in shared.run("node", "kill", "n0").stderr


# ------------------------------------------------------------------ health


def test_health_of_all_nodes_is_the_worst_of_them(shared: Cluster) -> None:
    result = run(shared, "health")
    assert (result.exit_code, "serves" in result.stdout) == (0, True)
    both = shared.run("health")  # n0 of the directory does not run
    assert (both.exit_code, "silent" in both.stdout) == (1, True)


def test_node_that_waits_is_well_unless_it_has_to_serve(shared: Cluster) -> None:
    shared.view.ready.clear()
    try:
        assert run(shared, "health").exit_code == 0
        assert run(shared, "health", "--serving").exit_code == 1
    finally:
        shared.view.ready.set()


def test_container_is_well_when_its_node_answers(
    shared: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    port = read_cluster(shared.directory).node(1).admin_port
    assert health.main([f"127.0.0.1:{port}", str(shared.directory / "token")]) == 0
    assert capsys.readouterr().out == "serves hosts\n"


def test_container_is_unwell_when_its_node_is_silent_or_refuses(
    shared: Cluster, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = read_cluster(shared.directory).node(1).admin_port
    assert health.main([f"127.0.0.1:{port}", str(token)]) == 1
    assert "401" in capsys.readouterr().err
    assert health.main([f"127.0.0.1:{unused_port()}", str(token)]) == 1
    assert health.main(["127.0.0.1:1", "/no/such/file"]) == 1
    assert health.main(["no-address", str(token)]) == 1
    assert health.main([]) == 2


def test_wrong_token_is_not_taken_for_silence(shared: Cluster, token: Path) -> None:
    port = read_cluster(shared.directory).node(1).admin_port
    with pytest.raises(AccessDenied):
        outside_cluster(f"127.0.0.1:{port}", token)
