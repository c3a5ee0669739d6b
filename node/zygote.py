"""shell: starts node processes quickly: imports everything once, then forks one child per node.

Eight interpreters that each import NumPy, pydantic and Starlette need about four seconds of two
cores; one that imports and forks eight times needs less than one, and the children share its pages.
It forks while it has one thread and no event loop, because a fork copies neither safely.

`admin.spawn` starts it and speaks JSON lines with it: commands on standard input, events on its
output. When that pipe closes, however its other end died, the nodes are stopped cleanly.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from base.clock import RealClock
from base.errors import StorageError
from base.units import NS_PER_S
from node.cluster_directory import (
    check_free,
    choose,
    claim_directory,
    open_log,
    prepare,
    run_claimed,
)
from node.config import ClusterConfig, node_config

ENTRY: Final = "node.daemon:run_process"
PRELOADED: Final = ("admin.http", "uvloop")  # what a node imports late when it starts alone
STOP_SECONDS: Final = 10  # a node that has not stopped by then is killed
COMMAND_BYTES_MAX: Final = 4096

Run = Callable[[Path, int], int]


class Zygote:
    """The parent of the node processes. One thread, no loop but its own selector."""

    def __init__(self, directory: Path, config: ClusterConfig, run: Run, lock: IO[str]) -> None:
        self._directory = directory
        self._config = config
        self._run = run
        self._lock = lock
        self._clock = RealClock()
        self._children: dict[int, int] = {}  # pid -> node
        self._stop_by_ns: int | None = None
        self._killed: list[int] = []
        self._pending = b""
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)

    def serve(self) -> int:
        """Until told to stop and all children are gone. Exit code."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        while self._stop_by_ns is None or self._children:
            for key, _ in selector.select(None if self._stop_by_ns is None else 0.1):
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif not self._read_commands():
                    selector.unregister(0)
            self._collect()
            self._kill_late()
        self._tell(event="stopped", killed=sorted(self._killed))
        return 0

    def _read_commands(self) -> bool:
        received = os.read(0, COMMAND_BYTES_MAX)
        if not received:
            self._stop()
            return False
        *lines, self._pending = (self._pending + received).split(b"\n")
        assert len(self._pending) <= COMMAND_BYTES_MAX, "not a command"
        for line in lines:
            command = json.loads(line)
            if command["command"] == "start":
                self._start(int(command["node"]))
            else:
                self._stop()
        return True

    def _start(self, node: int) -> None:
        if node in self._children.values() or self._stop_by_ns is not None:
            self._tell(event="refused", node=node, code="exists", text=f"node n{node} runs already")
            return
        try:
            log = open_log(node_config(self._config, self._directory, node))
        except StorageError as error:
            self._tell(event="refused", node=node, code=error.code, text=str(error))
            return
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(node, log)
        os.close(log)
        self._children[pid] = node
        self._tell(event="started", node=node, pid=pid)

    def _become(self, node: int, log: int) -> NoReturn:
        """The child's life. It leaves by `_exit`, so that nothing of the parent runs twice."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            silent = os.open(os.devnull, os.O_RDONLY)
            for target, source in ((0, silent), (1, log), (2, log)):
                os.dup2(source, target)
            for spent in (silent, log, self._wake_read, self._wake_write, self._lock.fileno()):
                os.close(spent)
            code = run_claimed(self._directory, node, self._run)
        except StorageError as error:
            print(f"node n{node}: {error}", file=sys.stderr)  # noqa: T201 its log
            code = 2
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001 nothing may return into the parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _collect(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            node = self._children.pop(pid, None)
            if node is not None:
                code = os.waitstatus_to_exitcode(status)  # below 0: the signal that ended it
                self._tell(event="exited", node=node, pid=pid, status=code)

    def _stop(self) -> None:
        if self._stop_by_ns is not None:
            return
        self._stop_by_ns = self._clock.now_ns() + STOP_SECONDS * NS_PER_S
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a node that was stopped for a test could not end else

    def _kill_late(self) -> None:
        if self._stop_by_ns is not None and self._clock.now_ns() > self._stop_by_ns:
            self._killed = sorted({*self._killed, *self._children.values()})
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in sorted(self._children):
            os.kill(pid, number)  # not collected yet, so the pid is still its own

    def _tell(self, **event: Any) -> None:
        try:
            tell(**event)
        except BrokenPipeError:  # nobody listens any more; the closed input says so too
            self._stop()


def tell(**event: Any) -> None:
    """One event for `admin.spawn`."""
    os.write(1, json.dumps(event).encode() + b"\n")


def _resolve(entry: str) -> Run:
    module, _, function = entry.partition(":")
    for name in PRELOADED:
        importlib.import_module(name)
    run: Run = getattr(importlib.import_module(module), function)
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the directory, import, say so, and serve."""
    parser = argparse.ArgumentParser(prog="python -m node.zygote")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--base-port", type=int)
    parser.add_argument("--entry", default=ENTRY)
    asked = parser.parse_args(arguments)
    try:
        config = choose(
            asked.directory,
            config_file=asked.config,
            nodes=asked.nodes,
            base_port=asked.base_port,
        )
        lock = claim_directory(asked.directory)
        check_free(config, asked.directory)
        config = prepare(asked.directory, config)
    except StorageError as error:
        tell(event="refused", code=error.code, text=str(error))
        return 2
    tell(event="prepared", nodes=[node.id for node in config.nodes])
    run = _resolve(asked.entry)
    gc.collect()
    gc.freeze()  # else the first collection in each child copies every page it touches
    tell(event="ready")
    return Zygote(asked.directory, config, run, lock).serve()


if __name__ == "__main__":
    sys.exit(main())
