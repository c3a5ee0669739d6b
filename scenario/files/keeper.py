"""shell: keeps the times to live of faults of processes, beside the runner and longer than it.

    python -m scenario.files.keeper CLUSTER ROOM

Before a node is paused or killed the runner takes a *lease* here, and when that ends the node is
resumed or started again, whether or not the runner still lives. Commands are JSON lines on standard
input. When the input closes without the word that all is well, the runner has died: then nodes that
are paused are resumed, all nodes of the cluster are stopped, and ROOM, its directory, is removed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from admin.local import node_pid, process_state, read_cluster, signal_node
from admin.spawn import pause, start_alone, stop_nodes
from base.clock import RealClock
from base.errors import LinkLost, StorageError
from base.units import NS_PER_MS, NS_PER_S

RESUME, START = "resume", "start"  # what ends a lease
BROKER = "broker"  # as START, of the broker; only a cluster that has one in a container knows it
COMMAND_BYTES_MAX: Final = 64 * 1024
END_SECONDS: Final = 30.0
REMOVE_TRIES: Final = 100  # nodes that are still ending write into the room


class Keeper:
    """The process, in the hands of a runner. Close it at the end, before nodes are stopped."""

    def __init__(self, cluster: Path, room: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scenario.files.keeper", str(cluster), str(room)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C, and whatever ends the runner, is not for it
        )

    def _tell(self, **command: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise LinkLost("the process that keeps times to live has ended") from None

    def lease(self, strike: int, kind: str, nodes: Iterable[int], for_ms: int) -> None:
        """To be taken before the fault strikes. kind: RESUME or START."""
        self._tell(do="lease", strike=strike, kind=kind, nodes=sorted(nodes), for_ms=for_ms)

    def end(self, strike: int) -> None:
        """Its time is over now, if it is not already."""
        self._tell(do="end", strike=strike)

    def close(self) -> None:
        """All is well: whoever calls this stops the nodes."""
        assert self._process.stdin is not None
        try:
            self._tell(do="close")
            self._process.stdin.close()
            self._process.wait(END_SECONDS)
        except (StorageError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


@dataclass(slots=True)
class _Lease:
    kind: str
    nodes: list[int]
    until_ns: int


class _Kept:
    """What the process does."""

    def __init__(self, cluster: Path, room: Path) -> None:
        self._cluster = read_cluster(cluster)
        self._room = room
        self._clock = RealClock()
        self._leases: dict[int, _Lease] = {}
        self._pending = b""

    def serve(self) -> int:
        """Until the input closes. Exit code: 0 when the runner said goodbye."""
        while True:
            now_ns = self._clock.now_ns()
            for strike in [n for n, each in self._leases.items() if each.until_ns <= now_ns]:
                self._end(strike)
            waits = [max(0, each.until_ns - now_ns) for each in self._leases.values()]
            wait_s = min(waits) / NS_PER_S if waits else None
            if not select.select([0], [], [], wait_s)[0]:
                continue
            received = os.read(0, COMMAND_BYTES_MAX)
            if not received:
                self._clear()
                return 1
            *lines, self._pending = (self._pending + received).split(b"\n")
            assert len(self._pending) <= COMMAND_BYTES_MAX, "not a command"
            for line in lines:
                if self._obey(json.loads(line)):
                    return 0

    def _obey(self, command: dict[str, Any]) -> bool:
        """Whether it was the last one."""
        if command["do"] == "lease":
            until_ns = self._clock.now_ns() + int(command["for_ms"]) * NS_PER_MS
            lease = _Lease(str(command["kind"]), [int(n) for n in command["nodes"]], until_ns)
            self._leases[int(command["strike"])] = lease
        elif command["do"] == "end":
            self._end(int(command["strike"]))
        return bool(command["do"] == "close")

    def _end(self, strike: int) -> None:
        lease = self._leases.pop(strike, None)
        for number in lease.nodes if lease is not None else ():
            node = self._cluster.node(number)
            try:
                if lease is not None and lease.kind == RESUME:
                    signal_node(node, signal.SIGCONT)
                else:
                    self._start(number)
            except StorageError as error:
                print(f"n{number}: {error}", file=sys.stderr)  # noqa: T201 the runner sees no receipt

    def _start(self, number: int) -> None:
        """Again, on what its last life left, once that has ended."""
        node = self._cluster.node(number)
        until_ns = self._clock.now_ns() + int(END_SECONDS * NS_PER_S)
        while node_pid(node) is not None and self._clock.now_ns() < until_ns:
            pause(0.02)
        start_alone(self._cluster, node)

    def _clear(self) -> None:
        """The runner is gone: nothing of its cluster stays."""
        for node in self._cluster.nodes:
            pid = node_pid(node)
            if pid is not None and process_state(pid) in "Tt":
                os.kill(pid, signal.SIGCONT)
        stop_nodes(self._cluster)
        for _ in range(REMOVE_TRIES):
            shutil.rmtree(self._room, ignore_errors=True)
            if not self._room.exists():
                return
            pause(0.1)


def main() -> int:
    """See the module."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _Kept(Path(sys.argv[1]), Path(sys.argv[2])).serve()


if __name__ == "__main__":
    sys.exit(main())
