"""shell: the command `eightfold check`, of a cluster that runs and of one that is stopped."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from admin import output
from admin.arguments import DIRECTORY, Directory, Json, client_of
from admin.output import reported


@reported
def check(
    data: Annotated[
        bool, typer.Option("--data", help="Compare the bytes of all copies too; reads everything.")
    ] = False,
    offline: Annotated[
        Path | None,
        typer.Option(
            "--offline",
            metavar="DIRECTORY",
            help="Read the files of the stopped cluster in that directory instead, all of them.",
        ),
    ] = None,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Look for space used twice or by nobody, and for copies that differ. Changes nothing.

    Exit code 0 when every node answered and nothing is wrong, 1 otherwise.
    """
    if offline is not None:
        _offline(offline, as_json=as_json)
    from admin import check as checking
    from admin.spawn import pause

    with output.progress("checking", quiet=as_json) as bar:
        report = checking.run(client_of(directory), data=data, bar=bar, pause=pause)
    if as_json:
        output.emit(report.to_plain())
    else:
        for line in checking.lines(report):
            output.say(line)
    raise typer.Exit(0 if report.clean else 1)


def _offline(directory: Path, *, as_json: bool) -> None:
    # `node` stands above `admin`, which must not know it: the command looks it up when it is run.
    checking = import_module("node.offline_check")
    with output.progress("checking", quiet=as_json) as bar:
        report = checking.run(directory, bar)
    if as_json:
        output.emit(report.to_plain())
    else:
        for line in checking.lines(report):
            output.say(line)
    raise typer.Exit(0 if report.clean else 1)
