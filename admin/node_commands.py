"""shell: the commands about single nodes: look at them, ask how they are, kill and start them."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Annotated, Any, Final

import typer

from admin import output
from admin.arguments import (
    DIRECTORY,
    Directory,
    Json,
    Node,
    cluster_of,
    local_cluster,
)
from admin.output import closed_after, reported
from base.errors import InvalidRequest, NotConnected, StorageError
from base.units import format_size

HEALTH_SECONDS: Final = 5.0
PROCESSES: Final = "the processes of the nodes"

node_app = typer.Typer(no_args_is_help=True, help="Look at node processes, kill and start them.")


def _number(node: str) -> int:
    digits = node.removeprefix("n")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 3:
        raise InvalidRequest(f"{node!r} is not a node; nodes are called n0 to n7")
    return int(digits)


@node_app.command("list")
@reported
def node_list(directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """List the nodes: their process on this machine, and what the cluster thinks of them."""
    from admin.client import ClusterClient
    from admin.local import node_pid, process_state

    cluster = cluster_of(directory)
    known: dict[int, Any] = {}
    with suppress(NotConnected):  # nobody runs: the directory still says something
        known = {row["id"]: row for row in closed_after(ClusterClient(cluster)).nodes()}
    rows = []
    for node in cluster.nodes:
        pid, process = None, "elsewhere"
        if not cluster.endpoints:
            pid = node_pid(node)
            process = "not running" if pid is None else "running"
            if pid is not None and process_state(pid) in "Tt":
                process = "paused"
        local = {
            "id": node.node, "name": node.name, "process": process, "pid": pid,
            "host": node.host, "nbd_port": node.nbd_port, "admin_port": node.admin_port,
        }  # fmt: skip
        rows.append({**known.get(node.node, {"state": "unknown"}), **local})
    if as_json:
        output.emit(rows)
        return
    output.table(
        "",
        ("node", "process", "pid#", "state", "leader", "owned#", "fair#", "copies#", "stale#",
         "nbd", "free#"),
        [
            (
                row["name"], row["process"], row["pid"] or "-", _node_state(row),
                "leads" if row.get("leader") else "", row.get("regions_owned", "-"),
                row.get("regions_fair", "-"), row.get("regions_copied", "-"),
                row.get("regions_stale", "-"), f"{row['host']}:{row['nbd_port']}",
                format_size(row["free_bytes"]) if "free_bytes" in row else "-",
            )
            for row in rows
        ],
    )  # fmt: skip


def _node_state(row: dict[str, Any]) -> str:
    """With the time that a damped node must still stay up before it gets regions."""
    left = row.get("damped_s", 0)
    return f"{row['state']}, {left} s left" if row["state"] == "damped" else str(row["state"])


@node_app.command("show")
@reported
def node_show(node: Node, directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Show the counters of one node, and the last line of its log when it does not answer."""
    from admin.client import NodeClient
    from admin.local import node_pid
    from admin.spawn import last_line

    cluster = cluster_of(directory)
    local = cluster.node(_number(node))
    about: dict[str, Any] = {"name": local.name}
    if not cluster.endpoints:
        about |= {"pid": node_pid(local), "log": str(local.log_path)}
    try:
        client = closed_after(NodeClient(local, cluster.token(), 5.0))
        statistics = client.call("GET", "/v1/statistics")
    except NotConnected:
        if cluster.endpoints:
            raise
        statistics = None
        about["last_line"] = last_line(local.log_path)
    if as_json:
        output.emit({**about, "statistics": statistics})
        return
    rows: list[tuple[str, object]] = list(about.items())
    for key, value in (statistics or {}).items():
        if isinstance(value, dict):
            rows += [(f"{key} {name}", each) for name, each in value.items()]
        else:
            rows.append((key, value))
    output.table("", ("", "#"), [(key.replace("_", " "), value) for key, value in rows])


@node_app.command("kill")
@reported
def node_kill(
    node: Node,
    signal_name: Annotated[
        str, typer.Option("--signal", help="KILL, TERM (clean stop), STOP (pause) or CONT.")
    ] = "KILL",
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Send a signal to the process of a node: by default SIGKILL, which it cannot notice.

    The process is found by its pid file and its start time, so no other process can be hit.
    """
    from admin.local import signal_node

    wanted = signal_name.upper().removeprefix("SIG")
    if wanted not in ("KILL", "TERM", "STOP", "CONT"):
        raise InvalidRequest(f"--signal: {signal_name} is not KILL, TERM, STOP or CONT")
    local = local_cluster(directory, PROCESSES).node(_number(node))
    pid = signal_node(local, signal.Signals[f"SIG{wanted}"])
    if as_json:
        output.emit({"node": local.node, "pid": pid, "signal": wanted})
    else:
        output.say(f"sent SIG{wanted} to node {local.name}, process {pid}")


@node_app.command("start")
@reported
def node_start(node: Node, directory: Directory = DIRECTORY, as_json: Json = False) -> None:
    """Start one node again, on its own disks and journal. A running `up` shows and stops it too."""
    from admin.spawn import start_alone

    cluster = local_cluster(directory, PROCESSES)
    local = cluster.node(_number(node))
    pid = start_alone(cluster, local)
    if as_json:
        output.emit({"node": local.node, "pid": pid})
    else:
        output.say(f"node {local.name} started as process {pid}; its log is {local.log_path}")


@reported
def health(
    serving: Annotated[
        bool, typer.Option("--serving", help="Also that each of them serves hosts.")
    ] = False,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Ask every node how it is. Exit code 0 when all answer, 1 when one does not.

    A node that answers and does not serve waits for the cluster: it has no majority, or recovers.
    In a container the lighter `python -m admin.health HOST:PORT` asks a single node.
    """
    from admin.client import NodeClient

    cluster = cluster_of(directory)
    token = cluster.token()
    rows = []
    for node in cluster.nodes:
        client = closed_after(NodeClient(node, token, HEALTH_SECONDS))
        try:
            state = "serves" if client.call("GET", "/v1/ready")["ready"] else "waits"
            why = ""
        except StorageError as error:
            state, why = "silent", str(error)
        rows.append({"id": node.node, "name": node.name, "health": state, "why": why})
    if as_json:
        output.emit(rows)
    else:
        output.table(
            "", ("node", "health", ""), [(row["name"], row["health"], row["why"]) for row in rows]
        )
    well = ("serves",) if serving else ("serves", "waits")
    raise typer.Exit(0 if all(row["health"] in well for row in rows) else 1)
