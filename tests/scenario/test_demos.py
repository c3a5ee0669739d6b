"""Demos are scenarios of the library, told to people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scenario import demos
from scenario.files.library import names
from scenario.files.models import EVENTS
from scenario.report import files

runner = CliRunner()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are drawn in one of these tests; in the others their names will do."""
    monkeypatch.setattr(files, "write", lambda _result, reports: reports / "report.html")


def told(*arguments: str) -> Any:
    return runner.invoke(demos.demo_app, [*arguments])


def test_stories_are_of_the_library_and_explain_events_that_there_are() -> None:
    scenes = [name for story in demos.STORIES.values() for name, _ in story]
    assert set(scenes) <= set(names())
    assert set(demos.MEANS) <= set(EVENTS)


@pytest.mark.simulation
def test_story_is_told_with_what_events_mean_and_a_report_of_each_scenario(tmp_path: Path) -> None:
    done = told("failover", "--fast", "--reports", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert done.stdout.count(demos.MEANS["owner moved"]) == 1
    assert "taken over after" in done.stdout
    made = sorted(path.name for path in tmp_path.glob("*.html"))
    assert made == ["owner-killed-sim-1.html", "paused-owner-sim-1.html"]


@pytest.mark.simulation
@pytest.mark.usefixtures("undrawn")
def test_pace_is_that_of_the_scenario_and_no_pause_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(demos, "pause", pauses.append)
    assert told("splitbrain", "--reports", str(tmp_path)).exit_code == 0
    assert 10 < sum(pauses) < 60
    assert max(pauses) <= demos.LINE_S_MAX


@pytest.mark.simulation
@pytest.mark.usefixtures("undrawn")
def test_story_as_json_is_a_document_for_each_scenario(tmp_path: Path) -> None:
    done = told("disks", "--json", "--reports", str(tmp_path))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["scenario"] for each in found] == [name for name, _ in demos.STORIES["disks"]]
    assert all(each["verdict"]["word"] == "PASS" for each in found)


def test_story_that_there_is_not_is_refused_with_the_nearest() -> None:
    done = told("disk")
    assert done.exit_code == 1
    assert "did you mean disks?" in done.stderr


def test_demo_without_a_story_is_that_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def run(**values: Any) -> int:
        asked.update(values)
        return 0

    monkeypatch.setattr("admin.demo.run", run)
    assert told("--size", "16MiB", "--nodes", "3").exit_code == 0
    assert (asked["nodes"], asked["size_bytes"], asked["keep"]) == (3, 16 << 20, False)
