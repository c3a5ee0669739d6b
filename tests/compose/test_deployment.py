"""The files of the deployment in containers agree with each other and with what they promise."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.config import load
from tests.tidy.tree import ROOT

COMPOSE: Any = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
NODES = {name: each for name, each in COMPOSE["services"].items() if name != "broker"}
CONFIG = load(ROOT / "configs" / "compose" / "cluster.yaml")


def test_there_is_a_service_for_each_node_of_the_configuration() -> None:
    assert list(NODES) == [node.host for node in CONFIG.nodes]
    assert [each["command"][6] for each in NODES.values()] == [str(n.id) for n in CONFIG.nodes]


def test_published_ports_are_on_loopback_and_are_those_of_the_node() -> None:
    for node in CONFIG.nodes:
        wanted = [f"127.0.0.1:{port}:{port}" for port in (node.nbd_port, node.admin_port)]
        assert NODES[node.host]["ports"] == wanted
        health = NODES[node.host]["environment"]["EIGHTFOLD_HEALTH"]
        assert health == f"127.0.0.1:{node.admin_port}"


def test_nodes_listen_where_published_ports_lead() -> None:
    assert {node.listens_at for node in CONFIG.nodes} == {"0.0.0.0"}


def test_nothing_has_privileges_and_nothing_is_started_again_by_itself() -> None:
    for name, service in COMPOSE["services"].items():
        assert not {"privileged", "cap_add", "devices", "pid", "network_mode"} & service.keys()
        assert service["cap_drop"] == ["ALL"], name
        assert service["restart"] == "no", name
        assert service["deploy"]["restart_policy"] == {"condition": "none"}, name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name


def test_every_node_has_a_volume_and_a_place_of_its_own() -> None:
    for name, service in NODES.items():
        assert service["volumes"] == [f"{name}:/var/lib/eightfold"]
        assert service["deploy"]["placement"] == {
            "constraints": [f"node.labels.eightfold_{name} == true"]
        }
    assert sorted(COMPOSE["volumes"]) == sorted(NODES)


def test_secrets_come_from_files_and_are_those_of_the_configuration() -> None:
    assert all(each.keys() == {"file"} for each in COMPOSE["secrets"].values())
    named = (CONFIG.cluster.secret_file, CONFIG.admin.token_file, CONFIG.mqtt.password_file)
    assert {Path(each).name for each in named} <= COMPOSE["secrets"].keys()
    assert {str(Path(each).parent) for each in named} == {"/run/secrets"}


def test_stack_publishes_the_same_ports_where_a_node_is_placed() -> None:
    stack = yaml.safe_load((ROOT / "configs" / "compose" / "stack.yml").read_text())
    assert stack["services"].keys() == COMPOSE["services"].keys()
    for node in CONFIG.nodes:
        assert stack["services"][node.host]["ports"] == [
            {"target": port, "published": port, "mode": "host"}
            for port in (node.nbd_port, node.admin_port)
        ]
    modes = {each["deploy"]["endpoint_mode"] for each in stack["services"].values()}
    assert modes == {"dnsrr"}


def test_broker_is_where_nodes_look_for_it() -> None:
    assert CONFIG.mqtt.host in COMPOSE["services"]
    assert (
        f"listener {CONFIG.mqtt.port}\n"
        in (ROOT / "configs" / "compose" / "mosquitto.conf").read_text()
    )


def test_image_takes_its_base_as_an_argument_and_has_no_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "FROM ${BASE}" in lines
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001:10001"
    assert any(line.startswith("HEALTHCHECK ") for line in lines)


def test_secrets_are_made_once_and_their_directory_is_closed(tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    shutil.copy(ROOT / "configs" / "compose" / "secrets.sh", script)
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == {"secret", "token", "mqtt-password"}
    assert all(len(text) == 64 for text in made.values())
    assert len(set(made.values())) == 3
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


@pytest.mark.needs_tool("docker-compose")
def test_compose_file_is_valid() -> None:
    answer = subprocess.run(
        ["docker-compose", "-f", "docker-compose.yml", "config", "--quiet"],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr


@pytest.mark.needs_tool("docker")
def test_stack_is_valid_and_keeps_what_the_compose_file_says() -> None:
    answer = subprocess.run(
        ["docker", "stack", "config",
         "-c", "docker-compose.yml", "-c", "configs/compose/stack.yml"],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    merged = yaml.safe_load(answer.stdout)["services"]
    for node in CONFIG.nodes:
        service = merged[node.host]
        assert [port["mode"] for port in service["ports"]] == ["host", "host"]
        assert service["deploy"]["placement"]["constraints"]
        assert service["deploy"]["resources"]["limits"]
