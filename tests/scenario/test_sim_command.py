"""`eightfold sim …` from the command line: exit codes, texts, JSON, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from scenario.cli import sim_app
from scenario.command import command
from scenario.runs import RunRequest, to_json

runner = CliRunner()
SHORT = ("--set", "seconds=1", "--set", "nodes=4")


def sim(*arguments: str) -> Any:
    return runner.invoke(sim_app, [*arguments])


def refused(*arguments: str) -> str:
    result = sim(*arguments)
    assert result.exit_code == 2, result.output
    return str(result.stderr)


@pytest.mark.simulation
def test_run_that_finds_nothing_says_how_much_it_did() -> None:
    result = sim(
        "run", "--seeds", "1..2", "--jobs", "1", *SHORT, "--repeat-percent", "100", "--json"
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["runs"], said["repeated"], said["failures"]) == (2, 2, [])


def test_run_without_an_amount_is_refused() -> None:
    assert "--minutes" in refused("run")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("run", "--seeds", "1", "--profile", "swam"), "did you mean swarm?"),
        (("run", "--seeds", "1", "--level", "3"), "there is no level 3"),
        (("run", "--seeds", "9..1"), "there is no seed in 9..1"),
        (("run", "--seeds", "1", "--set", "secnds=1"), "did you mean seconds?"),
        (("run", "--seeds", "1", "--set", "seconds"), "is not NAME=VALUE"),
        (("run", "--seeds", "1", "--set", "seconds=-1"), "is a whole number"),
        (("replay", "nothing.json"), "neither a seed nor a file"),
        (("replay", "1", "--node", "x"), "--node"),
        (("replay", "1", "--region", "x"), "--region"),
    ],
)
def test_what_does_not_apply_is_refused_with_the_reason(
    arguments: tuple[str, ...], text: str
) -> None:
    assert text in refused(*arguments)


def test_refusal_is_json_when_asked_for() -> None:
    assert json.loads(refused("run", "--json"))["code"] == "invalid"


@pytest.mark.simulation
def test_replay_of_a_seed_prints_its_trace_hash_each_time() -> None:
    first, second = (sim("replay", "3", *SHORT, "--json") for _ in range(2))
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["trace"] == json.loads(second.stdout)["trace"] != ""


@pytest.mark.simulation
def test_replay_stops_at_a_second_and_shows_every_node() -> None:
    result = sim("replay", "3", *SHORT, "--until", "2.5", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert len(said["nodes"]) == 4
    assert {row["role"] for row in said["copies"]} >= {"owner", "copy"}


@pytest.mark.simulation
def test_replay_says_when_no_event_matches() -> None:
    assert "no event with nonsense" in sim("replay", "3", *SHORT, "--until", "nonsense").stderr


def kept(directory: Path, **more: str) -> str:
    request = json.loads(
        to_json(RunRequest(1, "default", 3, options=(("seconds", 1), ("nodes", 4))))
    )
    path = directory / "kept.json"
    path.write_text(json.dumps({"request": request, "found": "a test", **more}))
    return str(path)


@pytest.mark.simulation
def test_kept_scenario_is_replayed(tmp_path: Path) -> None:
    assert sim("replay", kept(tmp_path)).exit_code == 0


@pytest.mark.simulation
def test_kept_scenario_with_another_trace_is_refused(tmp_path: Path) -> None:
    assert "the code moved on" in refused("replay", kept(tmp_path, trace="0123"))


@pytest.mark.simulation
def test_kept_scenario_with_another_trace_runs_anyway(tmp_path: Path) -> None:
    assert sim("replay", kept(tmp_path, trace="0123"), "--anyway").exit_code == 0


def test_kept_scenario_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    assert "kept.json: unknown field author" in refused("replay", kept(tmp_path, author="x"))


@pytest.mark.parametrize("name", ["profiles", "faults", "goals"])
def test_what_there_is_can_be_listed(name: str) -> None:
    result = sim(name, "--json")
    assert result.exit_code == 0
    assert isinstance(json.loads(result.stdout), list)


def test_every_fault_is_listed_with_what_it_takes() -> None:
    rows = {row["fault"]: row for row in json.loads(sim("faults", "--json").stdout)}
    assert "direction=both|out|in" in rows["cut"]["takes"]


def test_eightfold_has_the_commands_of_sim() -> None:
    context = typer.Context(command())
    group = command().get_command(context, "sim")
    assert group is not None
    assert {"run", "replay"} <= set(group.list_commands(context))  # type: ignore[attr-defined]


def test_help_of_eightfold_imports_no_simulator() -> None:
    code = (
        "import sys; sys.argv = ['eightfold', '--help']\n"
        "from scenario.command import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "parts = ('sim.', 'scenario.level', 'node.')\n"
        "sys.exit(any(name.startswith(parts) for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sim " in done.stdout
