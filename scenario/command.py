"""shell: the console script: the commands of `admin.cli`, and those that lie on this floor.

What simulates is imported when a command of it is used or asked about, so that no other command
starts later for it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from admin import output
from admin.cli import app
from base.errors import StorageError
from scenario.demos import demo_app

GROUPS: Final = {  # name: (module, attribute, help)
    "sim": (
        "scenario.cli", "sim_app",
        "Search the simulator for seeds that break a rule, replay and shrink them.",
    ),
    "scenario": (
        "scenario.files.commands", "scenario_app",
        "Run scenario files: break a cluster on purpose and prove what happened.",
    ),
}  # fmt: skip


class _Later(TyperGroup):
    """A group of `GROUPS`; its commands are imported when somebody asks for them."""

    def _load(self) -> None:
        if not self.commands:
            module, attribute, _ = GROUPS[str(self.name)]
            group = typer.main.get_command(getattr(importlib.import_module(module), attribute))
            self.commands.update(getattr(group, "commands", {}))

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order in which they are told."""
        self._load()
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        self._load()
        return self.commands.get(cmd_name)


def command() -> TyperGroup:
    """All of `eightfold`."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    group.commands["demo"] = typer.main.get_command(demo_app)  # the same, and stories
    for name, (_, _, text) in GROUPS.items():
        group.commands[name] = _Later(name=name, help=text, no_args_is_help=True)
    return group


def main() -> None:
    """Entry point of the console script."""
    try:
        command()()
    except StorageError as error:  # before a command took over
        output.fail(error, as_json=False)
        sys.exit(1)
