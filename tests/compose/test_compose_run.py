"""`make compose-test`: what it needs, and what it says when that is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from base.errors import NotFound
from scenario.files.compose_run import (
    ENDPOINTS,
    NOT_IN_IMAGES,
    QUICK_STEPS,
    SCENARIOS,
    compose_tool,
    main,
)
from scenario.files.library import find
from scenario.files.loader import read
from scenario.files.world import COMPOSE, cannot
from tests.compose.test_deployment import CONFIG
from tests.tidy.tree import ROOT


def tool(directory: Path, name: str, code: int = 0) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)


def test_the_five_scenarios_can_run_on_containers() -> None:
    assert len(SCENARIOS) == 5
    assert [cannot(read(find(name)), COMPOSE) for name in SCENARIOS] == [[]] * 5


def test_endpoints_are_those_of_the_configuration() -> None:
    ports = [int(each.rpartition(":")[2]) for each in ENDPOINTS.split(",")]
    assert ports == [node.admin_port for node in CONFIG.nodes]


def test_newer_compose_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/nowhere")
    with pytest.raises(NotFound, match="docker-compose"):
        compose_tool()
    tool(tmp_path, "docker", code=1)
    tool(tmp_path, "docker-compose")
    assert compose_tool() == ["docker-compose", "--compatibility"]
    tool(tmp_path, "docker")
    assert compose_tool() == ["docker", "compose"]


def test_no_engine_is_said_plainly_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    assert main([]) == 1
    told = capsys.readouterr()
    assert f"no container engine answers at {tmp_path}/none" in told.err
    assert "compose-test: FAILED" in told.out


def test_quick_run_keeps_steps_that_do_not_wait_for_those_that_are_left_out() -> None:
    for name in SCENARIOS:
        scenario = read(find(name))
        kept = scenario.timeline[:QUICK_STEPS]
        names = {step.name for step in kept}
        waits = [step.after.step for step in kept if step.after is not None and step.after.step]
        assert set(waits) <= names, name
        assert scenario.lasts_ms <= 12_000, name


def test_image_leaves_out_what_the_wheels_leave_out() -> None:
    assert f'if "{NOT_IN_IMAGES}" not in each' in (ROOT / "Dockerfile").read_text()
