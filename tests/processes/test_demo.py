"""The demo as it is told, over nodes that share one file instead of being a cluster."""

import json
from pathlib import Path
from typing import Any

import pytest

from admin import demo

pytestmark = [pytest.mark.processes, pytest.mark.slow]

STEPS = [
    "ready", "created", "copied", "writing", "killed", "taken_over", "stall", "repaired",
    "compared", "read_back", "stopped", "verdict",
]  # fmt: skip


def told(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    return {line["step"]: line for line in lines if "step" in line}


def run_demo(entry: str) -> int:
    return demo.run(
        nodes=3, size_bytes=16 << 20, seconds=0.5, as_json=True,
        entry=f"tests.processes.shared_node:{entry}",
    )  # fmt: skip


def test_demo_tells_every_step_and_finds_nothing_lost(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_demo("run") == 0
    steps = told(capfd)
    assert list(steps) == STEPS
    assert steps["killed"]["node"] == 1
    assert steps["compared"]["paths_lost"] == 1
    assert steps["compared"]["blocks"] > 0
    assert steps["verdict"]["good"] is True


@pytest.fixture(autouse=True)
def temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_demo_fails_when_acknowledged_writes_are_lost(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_demo("run_losing") == 1
    steps = told(capfd)
    assert steps["compared"]["wrong"]
    assert steps["verdict"]["good"] is False
