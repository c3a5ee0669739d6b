"""shell: starts, watches and stops the node processes of one cluster directory.

`up` keeps a zygote (`node.zygote`), a process of its own session so that Ctrl-C reaches only `up`,
and asks it for nodes. A single node can also be started without it. Nodes are known by what their
directory says about them, so one that was started by hand is stopped with the others.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from admin.local import (
    PID_FILE,
    LocalCluster,
    LocalNode,
    node_pid,
    running_pid,
)
from base.clock import RealClock
from base.errors import AlreadyExists, LinkLost, RequestTimeout, StorageError, from_code
from base.units import NS_PER_S

STOP_SECONDS: Final = 12  # two more than the zygote gives a node before it kills it
START_SECONDS: Final = 20
EVENT_BYTES_MAX: Final = 64 * 1024

# One thread per library: nodes have one loop each, and a fork copies no other thread.
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

Event = dict[str, Any]


def pause(seconds: float) -> None:
    """Wait without a loop: the command line has none."""
    select.select([], [], [], seconds)


class NodeProcesses:
    """The zygote and what it says. Close it, or its nodes stop when this process ends."""

    def __init__(
        self,
        directory: Path,
        *,
        config_file: Path | None = None,
        nodes: int | None = None,
        base_port: int | None = None,
        entry: str | None = None,
    ) -> None:
        """Start it; `wait_prepared` says whether the directory and configuration are good.

        entry: another `module:function(directory, node) -> exit code` to run as a node.
        """
        options = {
            "--config": config_file, "--nodes": nodes, "--base-port": base_port, "--entry": entry
        }  # fmt: skip
        command = [sys.executable, "-m", "node.lean", str(directory)]
        for name, value in options.items():
            if value is not None:
                command += [name, str(value)]
        self._clock = RealClock()
        self._pending = b""
        self._ended = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **_ENVIRONMENT},
        )

    @property
    def pid(self) -> int:
        """The zygote's own."""
        return self._process.pid

    def wait_prepared(self, seconds: float = START_SECONDS) -> list[int]:
        """Node ids, once the directory is ready and locked. Whatever refused it otherwise."""
        event = self._await(("prepared",), seconds)
        return [int(number) for number in event["nodes"]]

    def start(self, nodes: Sequence[int]) -> None:
        """Ask for node processes; `events` tells about each."""
        for node in nodes:
            self._send({"command": "start", "node": node})

    def events(self, seconds: float) -> list[Event]:
        """What happened meanwhile, at once when there is something. LinkLost: the zygote died."""
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        ready, _, _ = select.select([handle], [], [], seconds)
        if not ready or self._ended:
            return []
        received = os.read(handle, EVENT_BYTES_MAX)
        if not received:
            self._ended = True
            raise LinkLost("the process that starts nodes has ended" + self._last_words())
        *lines, self._pending = (self._pending + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        words = self._process.stderr.read(EVENT_BYTES_MAX).decode(errors="replace").strip()
        return ": " + words.splitlines()[-1] if words else ""

    def _await(self, wanted: tuple[str, ...], seconds: float) -> Event:
        until_ns = self._clock.now_ns() + int(seconds * NS_PER_S)
        while self._clock.now_ns() < until_ns:
            for event in self.events(0.1):
                if event["event"] == "refused":
                    raise from_code(event["code"], event["text"])
                if event["event"] in wanted:
                    return event
        raise RequestTimeout(f"nothing was heard of the node processes for {seconds:g} s")

    def _send(self, command: Event) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise LinkLost("the process that starts nodes has ended" + self._last_words()) from None

    def stop(self, seconds: float = STOP_SECONDS) -> list[int]:
        """Stop its nodes and the zygote. Returns the nodes that had to be killed."""
        killed: list[int] = []
        try:
            self._send({"command": "stop"})
            killed = self._await(("stopped",), seconds)["killed"]
        except StorageError:
            pass  # it died, or hangs: its nodes are still known by their directories
        self.close()
        return killed

    def close(self) -> None:
        """Let go: the zygote stops what is left when it sees its input close."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_alone(cluster: LocalCluster, node: LocalNode, seconds: float = START_SECONDS) -> int:
    """Start one node process that outlives this one; its pid. The last line of its log otherwise.

    AlreadyExists when it runs.
    """
    pid = node_pid(node)
    if pid is not None:
        raise AlreadyExists(f"node {node.name} already runs as process {pid}")
    node.directory.mkdir(parents=True, exist_ok=True)
    with node.log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "--dir", str(cluster.directory), "--id", str(node.node)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **_ENVIRONMENT},
        )
    clock = RealClock()
    until_ns = clock.now_ns() + int(seconds * NS_PER_S)
    while clock.now_ns() < until_ns:
        if running_pid(node.directory / PID_FILE) == process.pid:
            process.returncode = 0  # it is meant to go on: nobody here waits for it
            return process.pid
        if process.poll() is not None:
            raise LinkLost(f"node {node.name} ended at once: {last_line(node.log_path)}")
        pause(0.02)
    raise RequestTimeout(f"node {node.name} did not come up; see {node.log_path}")


def last_line(path: Path) -> str:
    """Of a log, for a message; at most 500 characters."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:500] if lines else f"its log {path} is empty"


def stop_nodes(cluster: LocalCluster, seconds: float = STOP_SECONDS) -> tuple[list[int], list[int]]:
    """Stop every node of the directory that runs: (stopped, killed because they did not stop)."""
    running = {node.node: pid for node in cluster.nodes if (pid := node_pid(node)) is not None}
    for pid in running.values():
        _signal(pid, signal.SIGTERM)
        _signal(pid, signal.SIGCONT)
    clock = RealClock()
    until_ns = clock.now_ns() + int(seconds * NS_PER_S)
    left = dict(running)
    while left and clock.now_ns() < until_ns:
        pause(0.05)
        left = {node.node: pid for node in cluster.nodes if (pid := node_pid(node)) is not None}
    for pid in left.values():
        _signal(pid, signal.SIGKILL)
    return sorted(set(running) - set(left)), sorted(left)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
