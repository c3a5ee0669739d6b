"""shell: the commands for when a cluster is not as it should be: open with a loss, bring home."""

from __future__ import annotations

from typing import Annotated

import typer

from admin import output
from admin.arguments import DIRECTORY, Directory, Json, Volume, client_of
from admin.output import reported
from base.errors import InvalidRequest

region_app = typer.Typer(
    no_args_is_help=True, help="Open regions whose last copies are not coming back."
)


@region_app.command("recover")
@reported
def region_recover(
    volume: Volume,
    region: Annotated[
        int | None, typer.Argument(min=0, help="An offline region; see `volume show --regions`.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every offline region of the volume.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Do it, and lose what the same command without it says."
        ),
    ] = False,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Open an offline region from an older copy, or empty when there is none.

    An offline region waits for a node that holds everything that was acknowledged, and opens by
    itself when that node returns: start it with `eightfold node start` and nothing is lost. When it
    will never return, this is the way out. Without --accept-loss nothing is done, and the answer
    says exactly what would be lost and which node still has it. A newer copy that returns later is
    overwritten. What was lost stays on record: see `eightfold volume show`.
    """
    if (region is None) != every:
        raise InvalidRequest("name one REGION, or say --all")
    client = client_of(directory)
    answer = client.recover(volume, None if region is None else [region], accept_loss)
    if as_json:
        output.emit(answer)
        return
    for row in answer["opened"]:
        output.say(row["text"])
    if answer["skipped"]:
        output.say(f"{answer['skipped']} regions were left alone: they changed meanwhile")
    if not answer["opened"] and not answer["skipped"]:
        output.say(f"no region of volume {volume} is offline")


@reported
def rebalance(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Bring copies and owners home now, a few regions at a time.

    After a failure the node that took a region over keeps it. With `failback: auto` in the
    configuration the cluster moves everything back by itself when all is whole; with `manual` it
    waits for this command. Hosts go on meanwhile. `eightfold status` shows what is left to move.
    """
    answer = client_of(directory).rebalance()
    if as_json:
        output.emit(answer)
    elif answer["owners_away"] or answer["copies_away"]:
        output.say(
            f"{answer['owners_away']} owners and {answer['copies_away']} copies go home; see"
            " `eightfold status`"
        )
    else:
        output.say("every owner and copy is at home")
