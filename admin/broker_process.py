"""shell: starts and stops the embedded broker of a cluster directory from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Final

from admin.local import LocalCluster, running_pid
from admin.spawn import last_line, pause
from base.clock import RealClock
from base.errors import LinkLost, RequestTimeout
from base.units import NS_PER_S

PID_FILE: Final = "broker.pid"
LOG_FILE: Final = "broker.log"
START_SECONDS: Final = 20
STOP_SECONDS: Final = 5


def broker_pid(cluster: LocalCluster) -> int | None:
    """The pid of the embedded broker while it runs."""
    return running_pid(cluster.directory / PID_FILE)


def start_broker(cluster: LocalCluster) -> int:
    """Start it and wait until it listens; its pid. LinkLost: it ended, with its last words."""
    path = cluster.directory / LOG_FILE
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "admin.embedded_broker", "--dir", str(cluster.directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = (str(cluster.mqtt["host"]), int(cluster.mqtt["port"]))
    clock = RealClock()
    until_ns = clock.now_ns() + START_SECONDS * NS_PER_S
    while clock.now_ns() < until_ns:
        if process.poll() is not None:
            raise LinkLost(f"the broker ended at once: {last_line(path)}")
        if broker_pid(cluster) == process.pid and _listens(address):
            process.returncode = 0  # it is meant to go on: nobody here waits for it
            return process.pid
        pause(0.05)
    process.kill()
    process.wait()
    raise RequestTimeout(f"the broker did not come up; see {path}")


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 1.0).close()
    except OSError:
        return False
    return True


def stop_broker(cluster: LocalCluster) -> bool:
    """Stop it if it runs. False when it had to be killed."""
    pid = broker_pid(cluster)
    if pid is None:
        return True
    _signal(pid, signal.SIGTERM)
    _signal(pid, signal.SIGCONT)
    clock = RealClock()
    until_ns = clock.now_ns() + STOP_SECONDS * NS_PER_S
    while clock.now_ns() < until_ns:
        if broker_pid(cluster) is None:
            return True
        pause(0.05)
    _signal(pid, signal.SIGKILL)
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
