"""shell: `eightfold demo STORY`: scenarios of the library, told at a pace for people.

A story is played on the simulator, then told line by line as time passed in it; `--fast` does not
wait. What an event means is explained where it happens for the first time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from admin import output
from admin.cli import app
from admin.output import reported
from admin.spawn import pause
from base.errors import InvalidRequest
from scenario.faults import nearest

STORIES: Final = {
    "failover": (
        ("owner-killed", "First the simple case: the process of an owner is killed."),
        ("paused-owner", "Then the hard one: an owner sleeps, and wakes up as a zombie."),
    ),
    "splitbrain": (
        ("split-brain-five-three", "The network falls apart: five nodes here, three there."),
        ("one-way-link", "And a link that carries one direction only."),
    ),
    "disks": (
        ("disk-pulled", "A disk is pulled out of a running node."),
        ("bit-rot", "Bits turn on disks, and nobody says so."),
        ("both-loops-cut", "All disks of a node are out of reach at once."),
    ),
}
MEANS: Final = {
    "node down": "The others have agreed, in the catalog, that it is down. A new epoch begins for"
    " what it owned: whatever it still does does not count.",
    "owner moved": "The node with the other copy takes over. Before it answers anybody it waits for"
    " the end of every lease, so that no two nodes serve a region.",
    "redundancy lost": "Now a region has one copy only. The clock of exposure runs.",
    "redundant again": "Every region has two copies again; hosts went on meanwhile.",
    "node up": "It is back, with what it had, and is brought up to date.",
    "leader changed": "Another node leads the catalog. Hosts do not notice: their data does not"
    " wait for consensus.",
    "page repaired": "A checksum did not fit. The page came back from the copy on another node; no"
    " host has seen a wrong byte.",
    "disk left": "The node has given the disk up, and rebuilds from the mirror.",
    "node stopped itself": "Better no node than one that lies about what is safe on its disks.",
}
LINE_S_MAX: Final = 4.0  # the longest pause between two lines
READ_S: Final = 2.5  # for an explanation


def play(story: str, *, fast: bool, seed: int | None, reports: Path, as_json: bool) -> int:
    """All scenarios of a story; the first verdict that is not 0, as `scenario run` has them."""
    if story not in STORIES:
        raise InvalidRequest(f"there is no story {story}: {nearest(story, STORIES)}")
    # What simulates is imported when a story is told.
    from scenario.files import library, one_run
    from scenario.files.loader import read
    from scenario.report import files

    explained: set[str] = set()
    for name, opening in STORIES[story]:
        scenario = read(library.find(name))
        number = scenario.seed if seed is None else seed
        command = f"eightfold scenario run {name} --on sim --seed {number}"
        result = one_run.perform(scenario, on="sim", seed=number, command=command)
        report = files.write(result, reports)
        if as_json:
            output.emit({**one_run.plain(result), "story": story, "report": str(report)})
        else:
            _tell(result, opening, explained, fast=fast)
            output.say(f"\n{result.verdict.word}: {result.verdict.reason}.")
            output.say(f"Open {report} in a browser. Do it again: {command}\n")
        if result.verdict.code:
            return result.verdict.code
    return 0


def _tell(result: Any, opening: str, explained: set[str], *, fast: bool) -> None:
    def wait(seconds: float) -> None:
        if not fast:
            pause(min(seconds, LINE_S_MAX))

    output.say(f"== {opening}\n")
    output.say(" ".join(result.about.split()) + "\n")
    wait(LINE_S_MAX)
    told_ms = 0
    for line in result.log:
        wait((line.at_ms - told_ms) / 1000)
        told_ms = line.at_ms
        output.say(f"{line.at_ms / 1000:7.2f} s  {line.event}: {line.text}".rstrip(": "))
        if line.event in MEANS and line.event not in explained:
            explained.add(line.event)
            output.say(f"             {MEANS[line.event]}")
            wait(READ_S)
    counted = result.figures
    output.say(
        f"\nHosts got {counted.operations} answers and waited {counted.longest_stall_ms} ms at"
        " most; every byte that they read was checked."
    )
    for met in result.failovers:
        times = [
            f"{word} {ms} ms"
            for word, ms in (
                ("suspected after", met.detected_ms), ("fenced after", met.fenced_ms),
                ("taken over after", met.taken_over_ms),
                ("first answer after", met.acknowledged_ms),
                ("redundant after", met.redundant_ms),
            )
            if ms is not None
        ]  # fmt: skip
        if times:
            output.say(f"{met.name}: {', '.join(times)}.")
    wait(READ_S)


def _old(values: dict[str, Any]) -> None:
    """The demo with real processes, which has no name."""
    command = next(each for each in app.registered_commands if each.callback.__name__ == "demo")  # type: ignore[union-attr]
    assert command.callback is not None
    command.callback(**values)


demo_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@demo_app.command("demo")
@reported
def demo(
    story: Annotated[
        str,
        typer.Argument(
            metavar="[STORY]", help="failover, splitbrain or disks; else the processes."
        ),
    ] = "",
    fast: Annotated[bool, typer.Option("--fast", help="Of a story: do not wait.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of a story: in place of that of its files.")
    ] = None,
    reports: Annotated[Path, typer.Option(help="Of a story: the directory of its reports.")] = Path(
        "eightfold-reports"
    ),
    nodes: Annotated[
        int, typer.Option(min=3, max=8, help="Of the processes: number of nodes.")
    ] = 8,
    size: Annotated[str, typer.Option(help="Of the processes: size of the volume.")] = "256MiB",
    seconds: Annotated[
        float, typer.Option(help="Of the processes: seconds of writing before the kill.")
    ] = 3.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Of the processes: keep the directory.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, errors too (on standard error).")
    ] = False,
) -> None:
    """Show it all in a minute: start, write, kill the busiest node, repair, compare.

    With the name of a story: scenarios on the simulator, told at a pace for people, each with a
    report to open in a browser. Exit code 0 when nothing was lost.
    """
    if story:
        raise typer.Exit(play(story, fast=fast, seed=seed, reports=reports, as_json=as_json))
    _old({"nodes": nodes, "size": size, "seconds": seconds, "keep": keep, "as_json": as_json})
