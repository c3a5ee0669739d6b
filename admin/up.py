"""shell: `eightfold up` and `down`: all nodes of a directory in one terminal."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from admin import live, output
from admin.broker_process import start_broker, stop_broker
from admin.client import ClusterClient
from admin.local import (
    UP_PID_FILE,
    LocalCluster,
    LocalNode,
    node_pid,
    process_state,
    read_cluster,
    running_pid,
    write_pid_file,
)
from admin.spawn import NodeProcesses, last_line, pause, stop_nodes
from base.clock import RealClock
from base.errors import LinkLost, NotConnected, NotFound, RequestTimeout, StorageError
from base.units import NS_PER_MS, NS_PER_S

READY_SECONDS: Final = 60
SAMPLE_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 0.5  # a node that takes longer is shown as silent


class StopAsked(Exception):
    """SIGINT or SIGTERM: raised in the main thread, wherever it waits."""


def _ask_to_stop(number: int, frame: FrameType | None) -> NoReturn:
    raise StopAsked


class Up:
    """One running `up`: the processes, the connections, and what each node said last."""

    def __init__(
        self,
        directory: Path,
        *,
        config_file: Path | None,
        nodes: int | None,
        base_port: int | None,
        as_json: bool,
        entry: str | None = None,
    ) -> None:
        self._clock = RealClock()
        self._started_ns = self._clock.now_ns()
        self._as_json = as_json
        self._processes = NodeProcesses(
            directory, config_file=config_file, nodes=nodes, base_port=base_port, entry=entry
        )
        try:
            self._numbers = self._processes.wait_prepared()
        except BaseException:
            self._processes.close()
            raise
        self.cluster: LocalCluster = read_cluster(directory)
        self.client = ClusterClient(self.cluster, ANSWER_SECONDS)
        self._samples: dict[int, live.Sample] = {}
        self._ended: dict[int, int] = {}

    def start(self) -> int:
        """Start all nodes and wait until each serves hosts; the milliseconds that it took.

        LinkLost when one ended instead; its last words are in the text.
        """
        write_pid_file(self.cluster.directory / UP_PID_FILE, os.getpid())
        if self.cluster.mqtt.get("embedded"):
            start_broker(self.cluster)
        self._processes.start(self._numbers)
        until_ns = self._clock.now_ns() + READY_SECONDS * NS_PER_S
        waiting = [node for node in self.cluster.nodes if node.node in self._numbers]
        with output.progress("starting nodes", quiet=self._as_json) as bar:
            while waiting:
                bar(len(self._numbers) - len(waiting), len(self._numbers))
                self._note_events(0)
                for node in waiting:
                    if node.node in self._ended:
                        raise LinkLost(
                            f"node {node.name} ended at once: {last_line(node.log_path)}"
                        )
                if self._clock.now_ns() > until_ns:
                    names = ", ".join(node.name for node in waiting)
                    raise RequestTimeout(
                        f"{names} not ready after {READY_SECONDS} s; see {waiting[0].log_path}"
                    )
                waiting = [node for node in waiting if not self._is_ready(node)]
        return (self._clock.now_ns() - self._started_ns) // NS_PER_MS

    def _is_ready(self, node: LocalNode) -> bool:
        client = self.client.clients[node.node]
        try:
            answer = client.call("GET", "/v1/ready", seconds=2.0, wait_ms=200)
        except (NotConnected, LinkLost, RequestTimeout):
            pause(0.02)
            return False
        return bool(answer["ready"])

    def _note_events(self, seconds: float) -> None:
        for event in self._processes.events(seconds):
            if event["event"] == "exited":
                self._ended[event["node"]] = event["status"]
                if self._as_json:
                    output.emit(event)

    def watch(self) -> NoReturn:
        """Show the table once a second, until StopAsked is raised. Without a terminal there is
        nobody to look, and asking eight nodes every second costs about a hundredth of a core."""
        if self._as_json or not sys.stdout.isatty():
            while True:
                self._note_events(SAMPLE_SECONDS)
        from rich.live import Live

        with Live(self._table(), auto_refresh=False, screen=False) as drawn:
            while True:
                self._note_events(SAMPLE_SECONDS)
                drawn.update(self._table(), refresh=True)

    def _table(self) -> Any:
        rows = [self._row(node) for node in self.cluster.nodes]
        first = self.cluster.nodes[0]
        footer = (
            f"nbd://{first.host}:{first.nbd_port}/VOLUME at {first.name}, likewise at the others;"
            f" directory {self.cluster.directory}; Ctrl-C stops all"
        )
        return live.draw(f"cluster {self.cluster.name}", rows, footer)

    def _row(self, node: LocalNode) -> list[str]:
        pid = node_pid(node)
        if pid is None:
            code = self._ended.get(node.node)
            return live.row(node.name, ended_as(code), None, None, None)
        if process_state(pid) in "Tt":
            return live.row(node.name, "paused", pid, None, None)
        before = self._samples.get(node.node)
        try:
            answer = self.client.clients[node.node].call("GET", "/v1/statistics")
        except NotConnected:
            return live.row(node.name, "starting", pid, None, None)
        except StorageError:
            return live.row(node.name, "silent", pid, None, None)
        now = live.Sample(self._clock.now_ns(), answer)
        self._samples[node.node] = now
        return live.row(node.name, "ready", pid, before, now)

    def stop(self) -> list[int]:
        """Stop every node of the directory, also those started by hand. The ones killed for it."""
        self.client.close()
        killed = self._processes.stop()
        _, late = stop_nodes(self.cluster)
        stop_broker(self.cluster)  # after the nodes: they say that they stop
        (self.cluster.directory / UP_PID_FILE).unlink(missing_ok=True)
        return sorted({*killed, *late})


def ended_as(code: int | None) -> str:
    """Of an exit code, below 0 the signal."""
    if code is None:
        return "down"
    if code < 0:
        return f"down ({signal.Signals(-code).name})"
    return f"down (exit {code})" if code else "stopped"


def run_up(
    directory: Path,
    *,
    config_file: Path | None,
    nodes: int | None,
    base_port: int | None,
    as_json: bool,
    entry: str | None = None,
) -> int:
    """Start, watch, stop. Exit code: 0 when every node stopped by itself when it was told to."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ask_to_stop)
    running: Up | None = None
    failure: StorageError | None = None
    try:
        running = Up(
            directory,
            config_file=config_file,
            nodes=nodes,
            base_port=base_port,
            as_json=as_json,
            entry=entry,
        )
        took_ms = running.start()
        if as_json:
            ready = {"event": "ready", "took_ms": took_ms, "directory": str(directory)}
            output.emit({**ready, "nodes": [_described(n) for n in running.cluster.nodes]})
        else:
            output.say(f"{len(running.cluster.nodes)} nodes ready after {took_ms} ms")
        running.watch()
    except StopAsked:
        pass
    except StorageError as error:
        failure = error
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a clean stop is bounded: let it end
    killed = running.stop() if running is not None else []
    if failure is not None:
        raise failure
    if as_json:
        output.emit({"event": "stopped", "killed": killed})
    elif killed:
        output.say("had to be killed: " + ", ".join(f"n{number}" for number in killed))
    else:
        output.say("all nodes stopped")
    return 1 if killed else 0


def _described(node: LocalNode) -> dict[str, Any]:
    return {
        "id": node.node,
        "name": node.name,
        "host": node.host,
        "nbd_port": node.nbd_port,
        "admin_port": node.admin_port,
        "pid": node_pid(node),
    }


def run_down(cluster: LocalCluster, seconds: float = 30.0) -> tuple[list[int], list[int]]:
    """Stop the `up` of the directory, or its nodes when none runs: (stopped, killed).

    NotFound when nothing runs.
    """
    running = [node.node for node in cluster.nodes if node_pid(node) is not None]
    up = running_pid(cluster.directory / UP_PID_FILE)
    if up is None and not running:
        raise NotFound(f"nothing runs in {cluster.directory}; start it with `eightfold up`")
    if up is not None:
        os.kill(up, signal.SIGTERM)
        clock = RealClock()
        until_ns = clock.now_ns() + int(seconds * NS_PER_S)
        while running_pid(cluster.directory / UP_PID_FILE) and clock.now_ns() < until_ns:
            pause(0.05)
    _, killed = stop_nodes(cluster)
    stop_broker(cluster)
    return [number for number in running if number not in killed], killed
