"""shell: the commands `eightfold backup …`: snapshots into streams, streams into volumes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from admin import output
from admin.arguments import DIRECTORY, Directory, Json, client_of
from admin.output import closed_after, reported
from admin.snapshot_commands import Ref, tree_of
from base.errors import InvalidRequest, NotFound, StorageError
from base.units import format_size
from snapshot.refs import ref_of, split_snapshot

if TYPE_CHECKING:
    from admin.client import ClusterClient
    from snapshot.backup_import import ImportTarget

backup_app = typer.Typer(
    no_args_is_help=True,
    help="Write snapshots into files, pipes and URLs, and make volumes of them again.\n\nA backup"
    " is full, or the difference since another snapshot; hosts go on meanwhile.",
)
FORMATS: Final = ("eightfold", "rbd", "rbd-v2")
Stream = Annotated[
    str, typer.Argument(help="A file, - for a pipe, or a URL as s3://bucket/name (needs fsspec).")
]


@backup_app.command("export")
@reported
def export(
    ref: Ref,
    target: Stream,
    since: Annotated[
        str | None, typer.Option(help="Only what differs from this older snapshot of it.")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="eightfold; or rbd, rbd-v2: as `rbd export-diff` does.")
    ] = "eightfold",
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Write a snapshot to TARGET: all of it, or with --since what has changed.

    An export to a file that was cut off goes on where it was when it is called again. What reads as
    zeros takes no space. The format rbd has no checksums and keeps no resume point.
    """
    from snapshot.export import header_of
    from snapshot.rbd_stream import RbdHeader

    if format_ not in FORMATS:
        raise InvalidRequest(f"--format: {format_} is not one of {', '.join(FORMATS)}")
    volume, name = split_snapshot(ref)
    client = client_of(directory)
    rows = client.family(volume)
    tree = tree_of(rows)
    view = tree.named(name)
    base = tree.named(since).view if since is not None else 0
    row = next(each for each in rows if each["view"] == view.view)
    header: Any = header_of(
        tree, view.view, base, cluster=row["source_cluster"], volume_id=row["source_volume"],
        size_bytes=row["size_bytes"], block_bytes=4096, taken_ms=row["taken_ms"],
    )  # fmt: skip
    if format_ != "eightfold":
        version = 2 if format_ == "rbd-v2" else 1
        header = RbdHeader(version, since or "", name, row["size_bytes"])
    files, backup = import_module("host.backup_files"), import_module("host.backup")
    opened = files.open_target(target, resumable=format_ == "eightfold")
    extents = [(0, row["size_bytes"])] if since is None else differing(client, ref, since)
    quiet = as_json or target == "-"
    with output.progress(f"exporting {ref}", quiet=quiet) as bar:
        moved = backup.run_export(_addresses(client), ref, header, extents, opened, bar)
    _tell(moved, f"{ref} exported to {target}", {"view": ref, "since": since, "target": target},
          as_json=as_json, piped=target == "-")  # fmt: skip


def differing(client: ClusterClient, ref: str, since: str) -> Iterator[tuple[int, int]]:
    """(offset, length) of what differs, ascending, within the snapshot."""
    volume, name = split_snapshot(ref)
    size_bytes = client.snapshot(volume, name)["size_bytes"]
    offset = 0
    while offset >= 0:
        answer = client.differences(volume, since, name, offset)
        for start, length in answer["extents"]:
            if start < size_bytes:  # the volume may have grown since
                yield start, min(length, size_bytes - start)
        offset = answer["next_offset"]


@backup_app.command("verify")
@reported
def verify(source: Stream, as_json: Json = False) -> None:
    """Read a whole backup, and say what it is of and whether it is good. Changes nothing.

    Exit code 0 when it is. A stream of the format rbd has no checksums: only its shape is checked.
    """
    opened = closed_after(import_module("host.backup_files").Source(source))
    about, _, _ = _verified(opened)
    if as_json:
        output.emit(about)
        return
    output.say(f"{source} is whole and good" if about["checked"] else f"{source} is whole")
    output.table("", ("", ""), [(key.replace("_", " "), value) for key, value in about.items()])


@backup_app.command("import")
@reported
def import_(
    source: Stream,
    volume: Annotated[
        str, typer.Argument(help="A new volume for a full backup; for a difference that volume.")
    ],
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Make a volume of a full backup, or bring a volume from one backup to the next.

    The whole stream is verified before anything is changed. A difference is taken only by a volume
    whose newest snapshot is the base of it, imported or the original, and that was not written
    since. In the end the volume has a snapshot of the same name as the one that was exported.
    """
    opened = closed_after(import_module("host.backup_files").Source(source))
    about, header, contents = _verified(opened)
    client = client_of(directory)
    plan = _plan(client, header, volume)
    if plan.make_volume:
        client.create_volume({"name": volume, "size_bytes": plan.size_bytes})
    elif plan.size_bytes > client.volume(volume)["size_bytes"]:
        client.grow_volume(volume, plan.size_bytes)
    backup = import_module("host.backup")
    with output.progress(f"importing into {volume}", quiet=as_json) as bar:
        try:
            moved = backup.run_import(_addresses(client), volume, contents, plan.size_bytes, bar)
        except StorageError:
            if plan.make_volume:
                client.remove_volume(volume)  # nobody shall take it for what it was to be
            raise
    spec: dict[str, Any] = {
        "volumes": [volume], "name": plan.snapshot, "request": secrets.randbits(62)
    }  # fmt: skip
    cluster, number, view = plan.source
    if cluster:
        spec |= {"source_cluster": cluster, "source_volume": number, "source_view": view}
    client.create_snapshot(spec)
    made = ref_of(volume, plan.snapshot)
    _tell(moved, f"{made} imported from {source}", {**about, "made": made},
          as_json=as_json, piped=False)  # fmt: skip


def _plan(client: ClusterClient, header: Any, volume: str) -> Any:
    from snapshot.backup_import import ImportPlan, plan_import
    from snapshot.backup_stream import BackupHeader

    target = _target(client, volume)
    if isinstance(header, BackupHeader):
        return plan_import(header, target)
    if not header.to_name:
        raise InvalidRequest("the stream ends at no snapshot: export it with one")
    # Names are all that such a stream knows of its base.
    known = target.sources.get(header.from_name, ("", 0, 0))
    assumed = BackupHeader(
        known[0], known[1], volume, 1, header.to_name, header.size_bytes,
        base_view=known[2] or int(bool(header.from_name)), base_name=header.from_name,
    )  # fmt: skip
    plan = plan_import(assumed, target)
    return ImportPlan(plan.volume, plan.make_volume, plan.size_bytes, plan.snapshot, ("", 0, 0))


def _target(client: ClusterClient, volume: str) -> ImportTarget:
    from snapshot.backup_import import ImportTarget

    try:
        rows = client.family(volume)
    except NotFound:
        return ImportTarget(volume, exists=False)
    base, *snapshots = rows
    mine = [each for each in snapshots if each["branch"] == base["view"]]
    newest = mine[-1]["name"] if mine else ""
    changed = bool(newest) and bool(client.differences(volume, newest, volume, 0)["extents"])
    return ImportTarget(
        volume,
        exists=True,
        size_bytes=base["size_bytes"],
        newest=newest,
        changed=changed,
        names=frozenset(each["name"] for each in snapshots),
        sources={
            each["name"]: (each["source_cluster"], each["source_volume"], each["source_view"])
            for each in snapshots
        },
    )


def _verified(source: Any) -> tuple[dict[str, Any], Any, Iterator[Any]]:
    """(what it is, its header, its contents by a second reading). InvalidRequest: it is broken."""
    from snapshot import backup_stream, rbd_stream

    first = next(source.chunks(), b"")
    if not first.startswith(b"rbd diff v"):
        good = backup_stream.verify(source.chunks())
        header, trailer = good.header, good.trailer
        about = {
            "format": "eightfold", "checked": True, "volume": header.volume, "view": header.name,
            "since": header.base_name, "size_bytes": header.size_bytes,
            "data_bytes": trailer.data_bytes, "zero_bytes": trailer.zero_bytes,
            "extents": trailer.extents, "hash": trailer.digest.hex(),
        }  # fmt: skip
        return about, header, backup_stream.extents_of(source.chunks(), good)
    read, end = rbd_stream.verify(source.chunks())
    for each in rbd_stream.contents_of(source.chunks(), (read, end)):
        length = each.length if isinstance(each, rbd_stream.RbdZero) else len(each.data)
        if (each.offset | length) % 512:
            raise InvalidRequest(
                f"rbd diff: {length} bytes at {each.offset} are not whole sectors of 512 bytes"
            )
    about = {
        "format": f"rbd diff v{read.version}", "checked": False, "volume": "",
        "view": read.to_name, "since": read.from_name, "size_bytes": read.size_bytes,
        "data_bytes": end.data_bytes, "zero_bytes": end.zero_bytes, "extents": end.records,
        "hash": "",
    }  # fmt: skip
    return about, read, rbd_stream.contents_of(source.chunks(), (read, end))


def _addresses(client: ClusterClient) -> list[str]:
    return [f"{node.host}:{node.nbd_port}" for node in client.cluster.nodes]


def _tell(moved: Any, text: str, about: dict[str, Any], *, as_json: bool, piped: bool) -> None:
    counts = {"data_bytes": moved.data_bytes, "zero_bytes": moved.zero_bytes,
              "extents": moved.extents, "resumed_bytes": moved.resumed_bytes}  # fmt: skip
    if as_json and not piped:
        output.emit({**about, **counts})
        return
    words = (
        f"{text}: {format_size(moved.data_bytes)} of data, {format_size(moved.zero_bytes)} of"
        f" zeros in {moved.extents} extents"
    )
    if moved.resumed_bytes:
        words += f", after {format_size(moved.resumed_bytes)} of an earlier call"
    (output.warn if piped else output.say)(words)
