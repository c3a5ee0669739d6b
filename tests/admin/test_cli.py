import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from admin.cli import app
from admin.http import serve
from admin.local import PID_FILE, node_pid, read_cluster, write_pid_file
from base.errors import NoQuorum, Overloaded
from node.cluster_directory import prepare, read_secret
from node.config import parse
from tests.admin.fake_node import FakeView

runner = CliRunner()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A directory of two nodes; only n1 answers, from a thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.view = FakeView(1)
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._up.wait(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        ports = [unused_port() for _ in range(6)]
        keys = ("mesh_port", "nbd_port", "admin_port")
        nodes = [
            {"id": number, **dict(zip(keys, ports[3 * number : 3 * number + 3], strict=True))}
            for number in (0, 1)
        ]
        prepare(self.directory, parse({"nodes": nodes}, source="test"))
        token = read_secret(self.directory / "token").decode()
        server = await serve(self.view, host="127.0.0.1", port=ports[5], token=token)
        self._up.set()
        await self._stop.wait()
        await server.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, *arguments: str) -> Any:
        return runner.invoke(app, [*arguments, "--dir", str(self.directory)])

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.view.rows.clear()
    shared.view.snapshots.clear()
    shared.view.fails = None
    (shared.directory / "n0" / PID_FILE).unlink(missing_ok=True)
    return shared


def test_status_tells_the_cluster_as_json(cluster: Cluster) -> None:
    assert cluster.json("status")["nodes_total"] == 2


def test_status_of_a_degraded_cluster_has_an_exit_code_of_its_own(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"total": 4, "normal": 3, "joining": 0, "degraded": 1, "offline": 0}
    monkeypatch.setattr("tests.admin.fake_node.COUNTS", short)
    result = cluster.run("status")
    assert result.exit_code == 3
    assert "3 of 4 whole, 1 degraded" in result.stdout


def test_volume_life_by_the_command_line(cluster: Cluster) -> None:
    made = cluster.json("volume", "create", "v1", "1GiB", "--copies", "1", "--page", "32KiB")
    assert (made["copies"], made["page_bytes"]) == (1, 32768)
    assert cluster.json("volume", "grow", "v1", "2GiB")["size_bytes"] == 2 << 30
    assert [row["name"] for row in cluster.json("volume", "list")] == ["v1"]
    assert cluster.json("volume", "remove", "v1", "--yes")["removed"] is True
    assert cluster.json("volume", "list") == []


def test_raid_is_short_for_the_group(cluster: Cluster) -> None:
    assert cluster.json("volume", "create", "v1", "1GiB", "--raid", "1")["group"] == "raid1"


def test_volume_show_lists_regions_when_asked(cluster: Cluster) -> None:
    cluster.json("volume", "create", "v1", "1GiB")
    shown = cluster.json("volume", "show", "v1", "--regions", "--first", "1", "--count", "2")
    assert [row["region"] for row in shown["table"]] == [1, 2]


def test_volume_map_shows_every_place(cluster: Cluster) -> None:
    cluster.json("volume", "create", "v1", "1GiB")
    assert cluster.json("volume", "map", "v1", "4KiB")["copies"][0]["blocks"][0]["chunklet"] == 9
    text = cluster.run("volume", "map", "v1", "4096").stdout
    assert "cage 0 sled 0 slot 3" in text


def test_tables_are_for_people(cluster: Cluster) -> None:
    cluster.json("volume", "create", "v1", "1GiB")
    assert "v1" in cluster.run("volume", "list").stdout
    assert "nbd://127.0.0.1:" in cluster.run("volume", "show", "v1").stdout
    assert "n0" in cluster.run("node", "list").stdout
    assert "dirty bytes" in cluster.run("node", "show", "n1").stdout


def test_volume_is_not_removed_without_a_yes(cluster: Cluster) -> None:
    cluster.json("volume", "create", "v1", "1GiB")
    result = cluster.run("volume", "remove", "v1")
    assert result.exit_code == 1
    assert "say --yes" in result.stderr
    assert "v1" in cluster.view.rows


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("volume", "show", "v9"), "there is no volume v9"),
        (("volume", "show", "a/b"), "is not a volume name"),
        (("volume", "create", "v1", "lots"), "SIZE: 'lots' is not a size"),
        (("volume", "create", "v1", "1", "--raid", "0", "--group", "x"), "give one of them"),
        (("volume", "create", "v1", "2048TiB"), "remove a volume, or ask for a smaller one"),
        (("node", "show", "x"), "'x' is not a node"),
        (("node", "show", "n7"), "nodes are n0, n1"),
        (("node", "kill", "n0"), "start it with `eightfold node start n0`"),
        (("node", "kill", "n0", "--signal", "HUP"), "is not KILL, TERM, STOP or CONT"),
        (("down",), "start it with `eightfold up`"),
    ],
)
def test_error_says_what_is_wrong_or_what_to_do(
    cluster: Cluster, arguments: tuple[str, ...], text: str
) -> None:
    result = cluster.run(*arguments)
    assert result.exit_code == 1
    assert text in result.stderr
    assert "Traceback" not in result.output


def test_error_is_json_when_asked(cluster: Cluster) -> None:
    cluster.view.fails = NoQuorum("1 of 2 answers")
    result = cluster.run("volume", "list", "--json")
    error = json.loads(result.stderr)
    assert (result.exit_code, error["code"], error["definite"]) == (1, "no_quorum", False)
    assert "node start" in error["next"]


def test_definite_refusal_of_every_node_is_reported(cluster: Cluster) -> None:
    cluster.view.fails = Overloaded("full")
    assert "repeat it in a moment" in cluster.run("volume", "list").stderr


def test_wrong_token_names_the_directory_option(cluster: Cluster) -> None:
    path = cluster.directory / "token"
    token = path.read_text()
    path.write_text("another-token-altogether")
    try:
        assert "check --dir" in cluster.run("status").stderr
    finally:
        path.write_text(token)


def test_no_cluster_in_the_directory_says_how_to_start_one(tmp_path: Path) -> None:
    result = runner.invoke(app, ["status", "--dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "`eightfold up`" in result.stderr


def test_directory_comes_from_the_environment_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIGHTFOLD_DIR", str(cluster.directory))
    assert runner.invoke(app, ["status"]).exit_code == 0


def test_node_kill_hits_only_the_process_of_the_pid_file(cluster: Cluster) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    path = cluster.directory / "n0" / PID_FILE
    try:
        path.write_text(json.dumps({"pid": sleeper.pid, "start": "1"}))  # of an earlier process
        assert cluster.run("node", "kill", "n0").exit_code == 1
        assert sleeper.poll() is None
        write_pid_file(path, sleeper.pid)
        assert node_pid(read_cluster(cluster.directory).node(0)) == sleeper.pid
        assert cluster.json("node", "kill", "n0") == {
            "node": 0, "pid": sleeper.pid, "signal": "KILL",
        }  # fmt: skip
        assert sleeper.wait(10) == -signal.SIGKILL
        assert node_pid(read_cluster(cluster.directory).node(0)) is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_pid_file_with_garbage_names_no_process(cluster: Cluster) -> None:
    path = cluster.directory / "n0" / PID_FILE
    for text in ("", "{}", "[1]", '{"pid": -1, "start": "0"}', f'{{"pid": {os.getpid()}}}'):
        path.write_text(text)
        assert node_pid(read_cluster(cluster.directory).node(0)) is None


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        inner = getattr(command, "commands", None)
        waiting += [((*path, name), each) for name, each in (inner or {}).items()]
        if not inner:
            found.append(path)
    return sorted(found)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command_explains_itself(command: tuple[str, ...]) -> None:
    result = runner.invoke(app, [*command, "--help"], env={"COLUMNS": "120", "TERM": "dumb"})
    assert result.exit_code == 0
    assert len(result.stdout.split()) > 25


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command_and_every_option_has_help(command: tuple[str, ...]) -> None:
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    assert found.help
    assert [each.name for each in found.params if not each.help] == []


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command_can_answer_in_json(command: tuple[str, ...]) -> None:
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    assert "--json" in [option for each in found.params for option in each.opts]


def test_command_line_imports_nothing_heavy() -> None:
    program = (
        "import sys, admin.cli, admin.client, admin.local;"
        "heavy = {'numpy', 'pydantic', 'starlette', 'uvicorn', 'structlog', 'yaml', 'httpx'};"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert answer.stderr.strip() == ""
