"""shell: the commands `eightfold snapshot …`."""

from __future__ import annotations

import secrets
import shutil
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from admin import output
from admin.arguments import DIRECTORY, Directory, Json, Volume, client_of
from admin.output import reported
from base.errors import InvalidRequest
from base.units import format_size
from snapshot.draw import Column, draw_tree, relation_columns
from snapshot.refs import split_ref, split_snapshot
from snapshot.schedule import parse_duration
from snapshot.tree import SnapshotState, SnapshotTree, ViewKind

Ref = Annotated[str, typer.Argument(help="A snapshot, as v1@monday.", metavar="VOLUME@SNAPSHOT")]

snapshot_app = typer.Typer(
    no_args_is_help=True,
    help="Take points in time of volumes, look at them, and use them.\n\nA snapshot is called"
    " VOLUME@SNAPSHOT, by hosts too. It takes space only for what is overwritten later.",
)
_KINDS = {"base": ViewKind.BASE, "read-only": ViewKind.READ_ONLY, "read-write": ViewKind.READ_WRITE}


@snapshot_app.command("create")
@reported
def create(
    volume: Annotated[str, typer.Argument(help="A volume, or a read-write snapshot as v1@trial.")],
    name: Annotated[
        str | None, typer.Argument(help="Name of the snapshot; without one it is the time.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="Another volume, at the same point in time; may be repeated."),
    ] = None,
    expire: Annotated[str | None, typer.Option(help="Let it go at that age, as 2d.")] = None,
    retain: Annotated[
        str | None, typer.Option(help="Let nobody remove it before that age, as 12h.")
    ] = None,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Take a read-only snapshot, of one volume or of several at one point in time.

    Writes go on; for some milliseconds their answers wait. When the command ends the snapshot can
    be read. A write that was answered before the command began is in it, one that was sent after
    it ended is not; and if one is in it, so is everything that its writer had been told before.
    """
    spec: dict[str, Any] = {"volumes": [volume, *(group or [])], "request": secrets.randbits(62)}
    if name is not None:
        spec["name"] = name
    spec |= _ages(expire, retain)
    answer = client_of(directory).create_snapshot(spec)
    if as_json:
        output.emit(answer)
        return
    for row in answer["snapshots"]:
        output.say(f"{row['ref']} of {format_size(row['size_bytes'])}")
    output.say(f"ready after {answer['took_ms']:.1f} ms; answers waited {answer['held_ms']:.1f} ms")


@snapshot_app.command("list")
@reported
def list_(
    volume: Annotated[str | None, typer.Argument(help="Only those of this volume.")] = None,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """List snapshots, oldest first."""
    client = client_of(directory)
    rows = client.snapshots() if volume is None else client.family(volume)
    rows = [row for row in rows if row["kind"] != "base"]
    if as_json:
        output.emit(rows)
    elif not rows:
        output.say("there are no snapshots; take one with `eightfold snapshot create VOLUME`")
    else:
        columns = ("snapshot", "kind", "state", "size#", "taken", "expires", "rule")
        output.table(
            "",
            columns,
            [
                (
                    row["ref"], row["kind"], row["state"], format_size(row["size_bytes"]),
                    _instant(row["taken_ms"]), _instant(row["expires_ms"]), row["rule"],
                )
                for row in rows
            ],
        )  # fmt: skip


@snapshot_app.command("tree")
@reported
def tree(
    volume: Volume,
    relations: Annotated[
        bool, typer.Option("--relations", help="Show what each was taken from, and its parent.")
    ] = False,
    newest: Annotated[
        int, typer.Option(min=0, help="Of each branch only so many of the newest; 0: all.")
    ] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="ASCII only.")] = False,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Draw a volume with its snapshots: below each what hangs on it, the newest first."""
    rows = client_of(directory).family(volume)
    if as_json:
        output.emit(rows)
        return
    family = tree_of(rows)
    columns = [Column("taken", {row["view"]: _instant(row["taken_ms"], "") for row in rows}, False)]
    if relations:
        columns += relation_columns(family)
    output.say(draw_tree(family, columns, plain=plain, newest_max=newest).removesuffix("\n"))


@snapshot_app.command("show")
@reported
def show(ref: Ref, directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Show one snapshot."""
    row = client_of(directory).snapshot(*split_snapshot(ref))
    if as_json:
        output.emit(row)
        return
    rows = [
        ("snapshot", row["ref"]),
        ("kind", row["kind"]),
        ("state", row["state"]),
        ("size", f"{format_size(row['size_bytes'])} ({row['size_bytes']} bytes)"),
        ("taken", _instant(row["taken_ms"])),
        ("by rule", row["rule"] or "-"),
        ("parent", row["parent"]),
        ("expires", _instant(row["expires_ms"])),
        ("retained until", _instant(row["retained_ms"])),
    ]
    output.table("", ("", ""), rows)


@snapshot_app.command("set")
@reported
def set_(
    ref: Ref,
    expire: Annotated[
        str | None, typer.Option(help="Let it go so long from now, as 2d; never: not by itself.")
    ] = None,
    retain: Annotated[
        str | None, typer.Option(help="Let nobody remove it so long from now; never: anybody may.")
    ] = None,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Say when a snapshot goes by itself, and before when nothing removes it."""
    spec = _ages(expire, retain)
    if not spec:
        raise InvalidRequest("--expire and --retain: give one of them")
    row = client_of(directory).set_snapshot_ages(*split_snapshot(ref), spec)
    if as_json:
        output.emit(row)
    else:
        output.say(
            f"{ref} expires: {_instant(row['expires_ms'], 'never')}; retained until:"
            f" {_instant(row['retained_ms'])}"
        )


def _ages(expire: str | None, retain: str | None) -> dict[str, int]:
    given = {"expire_s": expire, "retain_s": retain}
    return {
        key: 0 if text == "never" else parse_duration(text)
        for key, text in given.items()
        if text is not None
    }


@snapshot_app.command("remove")
@reported
def remove(
    ref: Ref,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Remove a snapshot. The volume and all other snapshots stay what they are.

    What an older snapshot needs of it is handed over, and the rest is freed, while hosts go on.
    """
    client = client_of(directory)
    row = client.snapshot(*split_snapshot(ref))
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InvalidRequest(f"removing {ref} cannot be undone: say --yes")
        typer.confirm(f"Remove {row['ref']}, taken {_instant(row['taken_ms'])}?", abort=True)
    answer = client.remove_snapshot(*split_snapshot(ref))
    if as_json:
        output.emit(answer)
    elif answer["removed"]:
        output.say(f"{ref} removed")
    else:
        output.say(f"{ref} is being removed; it goes on by itself")


schedule_app = typer.Typer(
    no_args_is_help=True,
    help="Let snapshots be taken by themselves: `every 15m keep 8`, `on node-lost keep 3`."
    "\n\nA rule may end with `expire 2d` and `retain 1h`.",
)
snapshot_app.add_typer(schedule_app, name="schedule")
RuleText = Annotated[str, typer.Argument(help="A rule in quotes, as 'every 15m keep 8'.")]


@schedule_app.command("add")
@reported
def schedule_add(
    volume: Volume, rule: RuleText, directory: Directory = DIRECTORY, as_json: Json = False
) -> None:
    """Give a volume a rule. Its snapshots are called after it: every-15m-1, every-15m-2 …

    Periods end at multiples of the period by the clock. Of each rule the newest stay, as many as
    it keeps; older ones are removed.
    """
    _show_rules(client_of(directory).set_snapshot_rule(volume, rule, True), as_json=as_json)


@schedule_app.command("list")
@reported
def schedule_list(
    volume: Annotated[str | None, typer.Argument(help="Only those of this volume.")] = None,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """List the rules."""
    rows = client_of(directory).snapshot_rules()
    _show_rules([row for row in rows if volume in (None, row["volume"])], as_json=as_json)


@schedule_app.command("remove")
@reported
def schedule_remove(
    volume: Volume, rule: RuleText, directory: Directory = DIRECTORY, as_json: Json = False
) -> None:
    """Take a rule away. Snapshots that it has taken stay, until they expire."""
    _show_rules(client_of(directory).set_snapshot_rule(volume, rule, False), as_json=as_json)


def _show_rules(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        output.emit(rows)
    elif not rows:
        output.say("there are no rules")
    else:
        output.table("", ("volume", "rule"), [(row["volume"], row["rule"]) for row in rows])


@snapshot_app.command("diff")
@reported
def diff(
    one: Ref,
    other: Annotated[
        str,
        typer.Argument(
            help="Another one of the same volume, or the volume itself.",
            metavar="VOLUME[@SNAPSHOT]",
        ),
    ],
    as_map: Annotated[
        bool, typer.Option("--map", help="Draw the volume: the darker, the more has changed.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Say how much, and how it was found; the default.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="ASCII only.")] = False,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show where two points in time of a volume differ, page by page, never too little.

    It costs what has changed, not what the volume holds. --json names every extent.
    """
    volume, name = split_snapshot(one)
    second, against = split_ref(other)
    if second != volume:
        raise InvalidRequest(f"{one} and {other} are of different volumes: nothing relates them")
    client = client_of(directory)
    family = tree_of(client.family(volume))
    from admin.snapshot_differences import fetch  # it needs numpy, which other commands do not
    from snapshot import diff_text

    difference = fetch(client, family, name, against or volume)
    if as_json:
        for line in diff_text.json_lines(family, difference):
            sys.stdout.write(line)
        return
    if summary or not as_map:
        output.say(diff_text.summary_text(family, difference).removesuffix("\n"))
    if as_map:
        width = max(min(shutil.get_terminal_size((80, 24)).columns - 14, 128), 16)
        text = diff_text.map_text(difference, width=width, plain=plain)
        output.say(text.removesuffix("\n"))


def tree_of(rows: list[dict[str, Any]]) -> SnapshotTree:
    """The tree that `family` tells of. InvalidRequest when it tells of none."""
    views = [
        (
            row["view"], row["name"], _KINDS[row["kind"]], row["branch"], row["origin"],
            row["copy_of"], SnapshotState[row["state"].upper()],
        )
        for row in rows
    ]  # fmt: skip
    lines: dict[int, list[int]] = {row["view"]: [] for row in rows if row["kind"] != "read-only"}
    for row in rows:
        if row["kind"] == "read-only":
            lines[row["branch"]].append(row["view"])
    highest = max(row["view"] for row in rows)
    return SnapshotTree.from_tuple((highest + 1, views, list(lines.items())))


def _instant(ms: int, never: str = "-") -> str:
    if not ms:
        return never
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
