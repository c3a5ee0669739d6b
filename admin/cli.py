"""shell: the command line `eightfold`. Commands ask the JSON API of some node, or the directory.

The cluster is found by --dir, else by EIGHTFOLD_DIR, else it is ./eightfold-data. Imports beyond
Typer happen in the commands that need them, so that every command starts quickly.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from admin import output
from admin.arguments import (
    DIRECTORY,
    Directory,
    Json,
    Outside,
    Size,
    Volume,
    client_of,
    local_cluster,
    no_endpoint,
    set_outside,
)
from admin.backup_commands import backup_app
from admin.check_command import check
from admin.mqtt_cli import mqtt_app
from admin.node_commands import PROCESSES, health, node_app
from admin.output import reported
from admin.recovery_commands import rebalance, region_app
from admin.snapshot_commands import snapshot_app
from base.errors import InvalidRequest, StorageError
from base.units import format_size, parse_size
from snapshot.refs import split_ref

if TYPE_CHECKING:
    from admin.client import ClusterClient

POLL_SECONDS: Final = 0.2
REGIONS_SHOWN: Final = 64

app = typer.Typer(
    name="eightfold",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
volume_app = typer.Typer(no_args_is_help=True, help="Create, look at, grow and remove volumes.")
app.add_typer(node_app, name="node")
app.add_typer(volume_app, name="volume")
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(backup_app, name="backup")
app.add_typer(region_app, name="region")
app.add_typer(mqtt_app, name="mqtt")
app.command()(rebalance)
app.command()(check)
app.command()(health)


@app.callback()
def found_by(
    endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="EIGHTFOLD_ENDPOINT",
            metavar="HOST:PORT[,…]",
            help="Where the API of a node is; the cluster is found by it, and not by --dir.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="EIGHTFOLD_TOKEN_FILE", help="With --endpoint: the token of that cluster."
        ),
    ] = None,
) -> None:
    """A storage cluster that you can break: eight nodes, replicated regions, NBD hosts.

    Start with `eightfold up`, then in another terminal `eightfold volume create v1 10GiB`, and use
    nbd://127.0.0.1:10809/v1 with any NBD client. `eightfold demo` shows it all in a minute.
    """
    if endpoint is None and token_file is not None:
        raise InvalidRequest("--token-file belongs to --endpoint; with --dir the token is there")
    set_outside(None if endpoint is None else Outside(endpoint, token_file))


def _bytes(size: str, *, key: str) -> int:
    try:
        return parse_size(size)
    except ValueError as error:
        raise InvalidRequest(f"{key}: {error}") from None


# --- the cluster ---------------------------------------------------------------------------------


@app.command()
@reported
def up(
    directory: Directory = DIRECTORY,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration to start with; see configs/cluster.yaml for all of it."),
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Number of nodes of a new cluster.")] = None,
    base_port: Annotated[
        int | None, typer.Option(help="A new cluster uses 24 ports above this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start all nodes in this terminal and show a live table. Ctrl-C stops them cleanly.

    The first start makes the directory: configuration, secret, token, and the emulated disks of
    each node. Later starts find everything again, volumes included.
    """
    from admin.up import run_up

    no_endpoint("up")
    raise typer.Exit(
        run_up(directory, config_file=config, nodes=nodes, base_port=base_port, as_json=as_json)
    )


@app.command()
@reported
def down(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Stop a cluster that another terminal started, cleanly."""
    from admin.up import run_down

    stopped, killed = run_down(local_cluster(directory, PROCESSES))
    if as_json:
        output.emit({"stopped": stopped, "killed": killed})
    else:
        output.say(f"{len(stopped)} nodes stopped, {len(killed)} had to be killed")
    raise typer.Exit(1 if killed else 0)


@app.command()
@reported
def status(
    directory: Directory = DIRECTORY,
    wait: Annotated[
        bool, typer.Option(help="Wait until every region has all its copies again.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Longest wait, in seconds.")] = 600,
    as_json: Json = False,
) -> None:
    """Show whether the cluster is whole: nodes, leader, and regions by state.

    Exit code 0 when every region has all its copies, 3 when one is short of a copy, 4 when one is
    offline.
    """
    client = client_of(directory)
    answer = client.status()
    if wait and not _whole(answer):
        answer = _wait_whole(client, timeout, quiet=as_json)
    if as_json:
        output.emit(answer)
    else:
        _show_status(answer)
    regions = answer["regions"]
    if regions["offline"]:
        raise typer.Exit(4)
    raise typer.Exit(0 if _whole(answer) else 3)


def _whole(answer: dict[str, Any]) -> bool:
    return bool(answer["regions"]["normal"] == answer["regions"]["total"])


def _wait_whole(client: ClusterClient, seconds: float, *, quiet: bool) -> Any:
    from admin.spawn import pause
    from base.clock import RealClock

    clock = RealClock()
    until_ns = clock.now_ns() + int(seconds * 1e9)
    with output.progress("re-mirroring regions", quiet=quiet) as bar:
        while True:
            answer = client.status()
            bar(answer["regions"]["normal"], answer["regions"]["total"])
            if _whole(answer) or clock.now_ns() > until_ns:
                return answer
            pause(POLL_SECONDS)


def _show_status(answer: dict[str, Any]) -> None:
    regions = answer["regions"]
    leader = f"n{answer['leader']}" if answer["leader"] >= 0 else "nobody"
    states = [f"{regions[key]} {key}" for key in ("joining", "degraded", "offline") if regions[key]]
    rows = [
        ("cluster", f"{answer['cluster']}, as n{answer['node']} sees it"),
        ("nodes alive", f"{answer['nodes_alive']} of {answer['nodes_total']}"),
        ("leader", f"{leader}, term {answer['term']}, catalog {answer['catalog_version']}"),
        ("volumes", answer["volumes"]),
        ("regions", ", ".join([f"{regions['normal']} of {regions['total']} whole", *states])),
        ("placement", _placement(answer)),
    ]
    output.table("", ("", ""), rows)


def _placement(answer: dict[str, Any]) -> str:
    owners, copies, failback = answer["owners_away"], answer["copies_away"], answer["failback"]
    if not owners and not copies:
        return "every owner and copy is at home"
    text = f"{owners} owners and {copies} copies are away from home"
    if failback == "manual":
        return f"{text}; `eightfold rebalance` brings them back"
    return f"{text}; fail-back brings them back"


# --- volumes -------------------------------------------------------------------------------------


@volume_app.command("create")
@reported
def volume_create(
    name: Volume,
    size: Size,
    group: Annotated[
        str | None, typer.Option(help="Provisioning group; it decides the RAID level.")
    ] = None,
    raid: Annotated[
        int | None, typer.Option(help="Short for --group raid0 or --group raid1.")
    ] = None,
    copies: Annotated[int | None, typer.Option(help="Nodes that hold each region: 1 or 2.")] = None,
    page: Annotated[str | None, typer.Option(help="Page size, as 16KiB.")] = None,
    l2: Annotated[int | None, typer.Option(help="Entries of an L2 table.")] = None,
    l3: Annotated[int | None, typer.Option(help="Entries of an L3 table.")] = None,
    degraded: Annotated[
        str | None,
        typer.Option(help="Writes while one copy is left: synced, suspend or continue."),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(help="A node that owns every region, as n0; else they are spread by hash."),
    ] = None,
    replicant: Annotated[
        str | None, typer.Option(help="With --owner: the node that holds every second copy.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until hosts can use it.")] = True,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Create a volume. Space is taken when data is written, so it may be large.

    What is not said comes from `volumes` in the configuration. Page and table sizes cannot change
    later.
    """
    if raid is not None and group is not None:
        raise InvalidRequest("--raid and --group: give one of them")
    given = {
        "group": group if raid is None else f"raid{raid}", "copies": copies, "l2_entries": l2,
        "l3_entries": l3, "degraded": degraded,
        "page_bytes": None if page is None else _bytes(page, key="--page"),
        "owner": None if owner is None else _node_number(owner),
        "replicant": None if replicant is None else _node_number(replicant),
    }  # fmt: skip
    spec: dict[str, Any] = {"name": name, "size_bytes": _bytes(size, key="SIZE")}
    spec.update({key: value for key, value in given.items() if value is not None})
    client = client_of(directory)
    row = client.create_volume(spec)
    if wait and row["state"] == "creating":
        row = wait_created(client, name, quiet=as_json)
    _show_volume(row, as_json=as_json, client=client)


def wait_created(client: ClusterClient, name: str, *, quiet: bool, seconds: float = 60) -> Any:
    """Until no region of a new volume waits to be opened, or the time is over."""
    from admin.spawn import pause

    with output.progress(f"creating {name}", quiet=quiet) as bar:
        for _ in range(int(seconds / POLL_SECONDS) + 1):
            row = client.volume(name)
            bar(row["regions"]["normal"], row["regions"]["total"])
            if row["state"] != "creating":
                break
            pause(POLL_SECONDS)
    return row


def _show_volume(row: dict[str, Any], *, as_json: bool, client: ClusterClient) -> None:
    if as_json:
        output.emit(row)
        return
    regions = row["regions"]
    node = client.cluster.nodes[0]
    rows = [
        ("name", row["name"]),
        ("state", row["state"]),
        ("size", f"{format_size(row['size_bytes'])} ({row['size_bytes']} bytes)"),
        ("copies", f"{row['copies']}, in group {row['group']}"),
        ("one copy left", f"writes are {row['degraded']}"),
        ("page", format_size(row["page_bytes"])),
        ("regions", f"{regions['total']} of {format_size(row['region_bytes'])}"),
        ("whole", f"{regions['normal']} of {regions['total']}"),
        ("hosts", f"nbd://{node.host}:{node.nbd_port}/{row['name']}, or at any other node"),
    ]
    output.table("", ("", ""), rows)


@volume_app.command("list")
@reported
def volume_list(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """List the volumes."""
    rows = client_of(directory).volumes()
    if as_json:
        output.emit(rows)
    elif not rows:
        output.say("there are no volumes; create one with `eightfold volume create NAME SIZE`")
    else:
        output.table(
            "",
            ("name", "size#", "state", "copies#", "group", "regions#", "whole#"),
            [
                (
                    row["name"], format_size(row["size_bytes"]), row["state"], row["copies"],
                    row["group"], row["regions"]["total"],
                    output.percent(row["regions"]["normal"], row["regions"]["total"]),
                )
                for row in rows
            ],
        )  # fmt: skip


@volume_app.command("show")
@reported
def volume_show(
    name: Volume,
    regions: Annotated[
        bool, typer.Option(help="Show owner and copies of its regions too.")
    ] = False,
    first: Annotated[int, typer.Option(min=0, help="First region to show.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=4096, help="Regions to show.")] = REGIONS_SHOWN,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show one volume, and with --regions where its regions live."""
    client = client_of(directory)
    row = client.volume(name)
    losses = client.losses(name) if row["regions_forced"] else []
    if as_json:
        row["losses"] = losses
    if not regions:
        _show_volume(row, as_json=as_json, client=client)
        _show_losses(losses, quiet=as_json)
        return
    table = client.regions(name, first, count)
    if as_json:
        output.emit({**row, "table": table})
        return
    _show_volume(row, as_json=False, client=client)
    _show_losses(losses, quiet=False)
    output.table(
        "",
        ("region#", "state", "owner", "copies", "joining", "epoch#"),
        [
            (
                each["region"], each["state"], _node_name(each["owner"]),
                " ".join(_node_name(number) for number in each["copies"]),
                _node_name(each["joiner"]), each["epoch"],
            )
            for each in table
        ],
    )  # fmt: skip


def _show_losses(losses: list[dict[str, Any]], *, quiet: bool) -> None:
    if losses and not quiet:
        output.say("given up at an operator's word:")
        for each in losses:
            output.say(f"  {each['text']}")


def _node_number(name: str) -> int:
    if not name.removeprefix("n").isdigit():
        raise InvalidRequest(f"{name!r} is not a node; nodes are n0 to n7")
    return int(name.removeprefix("n"))


def _node_name(number: int) -> str:
    return f"n{number}" if number >= 0 else "-"


@volume_app.command("map")
@reported
def volume_map(
    name: Volume,
    offset: Annotated[str, typer.Argument(help="Byte offset, as 4096 or 3GiB.")],
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show every physical block that holds the byte at OFFSET: node, disk, chunklet, path."""
    answer = client_of(directory).map_address(name, _bytes(offset, key="OFFSET"))
    if as_json:
        output.emit(answer)
        return
    output.say(
        f"{name} + {answer['offset']}: region {answer['region']} + {answer['region_offset']},"
        f" page {answer['page']}, epoch {answer['epoch']}"
    )
    rows: list[tuple[object, ...]] = []
    for copy in answer["copies"]:
        head = (
            _node_name(copy["node"]),
            copy["role"],
            f"{copy['ld']}",
            f"RAID {copy['raid_level']}",
        )
        for block in copy["blocks"]:
            where = f"cage {block['cage']} sled {block['sled']} slot {block['slot']}"
            rows.append(
                (
                    *head,
                    block["disk"],
                    where,
                    block["loop"],
                    block["chunklet"],
                    block["disk_offset"],
                )
            )
        if not copy["blocks"]:
            rows.append((*head, "-", "nothing written yet", "-", "-", "-"))
    columns = ("node", "role", "LD#", "level", "disk#", "place", "loop", "chunklet#", "offset#")
    output.table("", columns, rows)


@volume_app.command("grow")
@reported
def volume_grow(
    name: Volume, size: Size, directory: Directory = DIRECTORY, as_json: Json = False
) -> None:
    """Make a volume larger, to SIZE in all. Hosts see the new size when they reconnect."""
    client = client_of(directory)
    _show_volume(client.grow_volume(name, _bytes(size, key="SIZE")), as_json=as_json, client=client)


@volume_app.command("remove")
@reported
def volume_remove(
    name: Volume,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Remove a volume with everything in it. It cannot be brought back."""
    client = client_of(directory)
    row = client.volume(name)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InvalidRequest(f"removing {name} loses its contents: say --yes")
        size = format_size(row["size_bytes"])
        typer.confirm(f"Remove volume {name} ({size}) and everything in it?", abort=True)
    answer = client.remove_volume(name)
    if as_json:
        output.emit(answer)
    else:
        output.say(f"volume {name} removed")


# --- hosts ---------------------------------------------------------------------------------------


@app.command()
@reported
def attach(
    volume: Annotated[str, typer.Argument(help="A volume, or a snapshot as v1@monday.")],
    socket: Annotated[
        Path | None, typer.Option(help="Where to listen; default: VOLUME.sock in the directory.")
    ] = None,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Serve a volume on one local NBD socket that survives the loss of any node. Ctrl-C ends it.

    A snapshot too: it is read-only.

    It sends each request straight to the node that owns the region. Use it with any NBD client as
    nbd+unix:///VOLUME?socket=PATH.
    """
    from importlib import import_module  # `host` stands beside `admin`: neither knows the other

    from base.place import local_socket

    local_cluster(directory, "the secret of the nodes")
    client = client_of(directory)
    name, snapshot = split_ref(volume)
    if snapshot:
        client.snapshot(name, snapshot)
    else:
        client.volume(name)
    path = socket or directory / f"{volume}.sock"
    arguments = ["--volume", volume, "--socket", str(path)]
    for node in client.cluster.nodes:
        local = local_socket(node.directory, node.host)
        arguments += ["--node", local or f"{node.host}:{node.mesh_port}"]
    arguments += ["--cluster-id", client.cluster.cluster_id]
    arguments += ["--secret-file", str(client.cluster.secret_path)]
    if as_json:
        output.emit({"volume": volume, "socket": str(path)})
    else:
        output.say(f"nbd+unix:///{volume}?socket={path}")
    client.close()
    raise typer.Exit(import_module("host.attach").main(arguments))


@app.command()
@reported
def demo(
    nodes: Annotated[int, typer.Option(min=3, max=8, help="Number of nodes.")] = 8,
    size: Annotated[str, typer.Option(help="Size of the volume.")] = "256MiB",
    seconds: Annotated[float, typer.Option(help="Seconds of writing before the kill.")] = 3.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory.")] = False,
    as_json: Json = False,
) -> None:
    """Show it all in a minute: start, write, kill the busiest node, repair, compare.

    Exit code 0 when every acknowledged byte was read back, 1 when anything was lost.
    """
    from admin.demo import run

    no_endpoint("demo")
    size_bytes = _bytes(size, key="--size")
    raise typer.Exit(
        run(nodes=nodes, size_bytes=size_bytes, seconds=seconds, keep=keep, as_json=as_json)
    )


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except StorageError as error:  # before a command took over
        output.fail(error, as_json=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
