"""Every command says what it is for, and so does every option of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer

from admin.cli import app
from scenario.cli import sim_app
from scenario.demos import demo_app
from scenario.files.commands import scenario_app


def commands() -> Iterator[tuple[str, typer.core.TyperCommand | typer.core.TyperGroup]]:
    waiting = [("eightfold", typer.main.get_command(app))]
    waiting.append(("eightfold sim", typer.main.get_command(sim_app)))
    waiting.append(("eightfold scenario", typer.main.get_command(scenario_app)))
    waiting.append(("eightfold demo", typer.main.get_command(demo_app)))
    while waiting:
        name, command = waiting.pop()
        yield name, command
        for sub, inner in sorted(getattr(command, "commands", {}).items()):
            waiting.append((f"{name} {sub}", inner))


EVERY = dict(commands())


def test_all_commands_are_found() -> None:
    assert {"eightfold up", "eightfold volume create", "eightfold sim run"} <= EVERY.keys()


@pytest.mark.parametrize("name", sorted(EVERY))
def test_command_has_help(name: str) -> None:
    assert (EVERY[name].help or "").strip().endswith("."), name


@pytest.mark.parametrize("name", sorted(EVERY))
def test_arguments_and_options_have_help(name: str) -> None:
    for each in EVERY[name].params:
        assert getattr(each, "help", None), f"{name}: {each.name}"


@pytest.mark.parametrize(
    "name", sorted(name for name, each in EVERY.items() if not hasattr(each, "commands"))
)
def test_command_can_answer_in_json(name: str) -> None:
    assert "--json" in [opt for each in EVERY[name].params for opt in each.opts]
