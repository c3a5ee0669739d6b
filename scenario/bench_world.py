"""shell: what `make bench` starts and reads: a cluster, nbdkit, `attach`, fio, and /proc.

Everything runs on 127.0.0.1 below one temporary directory and is stopped by its own pid.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from admin.client import ClusterClient
from admin.local import LocalCluster, LocalNode, node_pid, read_cluster
from admin.spawn import last_line, pause, start_alone, stop_nodes
from base.clock import RealClock
from base.errors import ConfigError, LinkLost, NoSpace, RequestTimeout, StorageError
from base.units import NS_PER_MS, MiB
from scenario.bench_figures import Load, Run, cpu_per_io_us, parse_fio

READY_SECONDS: Final = 60
WHOLE_SECONDS: Final = 120
STOP_SECONDS: Final = 30
SETTLE_SECONDS: Final = 8
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_clock = RealClock()


def now_ms() -> float:
    """Of this process's clock."""
    return _clock.now_ns() / NS_PER_MS


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_base_port(count: int = 24) -> int:
    """As many free ports in a row above it. NoSpace when there are none."""
    for base in range(41_000, 59_000, 32):
        with suppress(OSError):
            for port in range(base + 1, base + 1 + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
    raise NoSpace(f"no {count} ports in a row are free on 127.0.0.1")


# --- /proc ----------------------------------------------------------------------------------------


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes with their ended children's; ended ones count 0."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            text = Path(f"/proc/{pid}/stat").read_text()
            ticks += sum(map(int, text[text.rindex(")") + 2 :].split()[11:15]))
    return ticks / TICKS_PER_S


def machine_busy_seconds() -> float:
    """Time that all cores together were busy since the machine started."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_S


def memory_mib(pid: int) -> dict[str, float]:
    """rss and pss (shared pages by share) of one process; nothing when it cannot be read."""
    sizes: dict[str, float] = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss"):
                sizes[name.lower()] = int(rest.split()[0]) / 1024
    return sizes


# --- processes ------------------------------------------------------------------------------------


def stop_process(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Ask it to end, wait, and kill it if it does not."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


class Cluster:
    """`eightfold up` in a directory of its own, as an operator would start it."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self.directory = directory
        self._base_port = free_base_port()
        self._nodes = nodes
        self._errors = directory.parent / "up.stderr"
        self.ready_ms = 0.0
        self.cluster: LocalCluster
        self.client: ClusterClient
        self._up: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until every node serves hosts; `ready_ms` is counted from the start of the command."""
        began_ms = now_ms()
        with self._errors.open("wb") as errors:
            self._up = subprocess.Popen(
                [
                    sys.executable, "-m", "admin.cli", "up", "--json",
                    "--dir", str(self.directory), "--nodes", str(self._nodes),
                    "--base-port", str(self._base_port),
                ],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        self._wait_ready()
        self.ready_ms = now_ms() - began_ms
        self.cluster = read_cluster(self.directory)
        self.client = ClusterClient(self.cluster, 10.0)

    def _wait_ready(self) -> None:
        assert self._up is not None
        assert self._up.stdout is not None
        handle = self._up.stdout.fileno()
        until_ms = now_ms() + READY_SECONDS * 1000
        pending = b""
        while now_ms() < until_ms:
            if not select.select([handle], [], [], 0.1)[0]:
                continue
            received = os.read(handle, 65_536)
            if not received:
                raise LinkLost(f"`eightfold up` ended: {last_line(self._errors)}")
            *lines, pending = (pending + received).split(b"\n")
            if any(json.loads(line).get("event") == "ready" for line in lines):
                return
        raise RequestTimeout(f"the cluster was not ready within {READY_SECONDS} s")

    def stop(self) -> None:
        """All of it, however far it came."""
        if self._up is None:
            return
        if hasattr(self, "client"):
            self.client.close()
        stop_process(self._up, signal.SIGTERM)
        if hasattr(self, "cluster"):
            stop_nodes(self.cluster)

    def pids(self) -> list[int]:
        """Of the nodes that run."""
        return [pid for node in self.cluster.nodes if (pid := node_pid(node)) is not None]

    def create(
        self, name: str, size_bytes: int, owner: int | None = None, replicant: int | None = None
    ) -> None:
        """A volume, until hosts can use it."""
        spec: dict[str, Any] = {"name": name, "size_bytes": size_bytes}
        if owner is not None:
            spec["owner"] = owner
        if replicant is not None:
            spec["replicant"] = replicant
        self.client.create_volume(spec)
        until_ms = now_ms() + WHOLE_SECONDS * 1000
        while self.client.volume(name)["state"] == "creating":
            if now_ms() > until_ms:
                raise RequestTimeout(f"volume {name} was not ready within {WHOLE_SECONDS} s")
            pause(0.005)

    def uri(self, node: int, volume: str) -> str:
        """For NBD clients."""
        local = self.cluster.node(node)
        return f"nbd://{local.host}:{local.nbd_port}/{volume}"

    def wait_whole(self) -> float:
        """Until every node is up and every region has its copies; the milliseconds it took."""
        began_ms = now_ms()
        short = "no node answers"
        while now_ms() - began_ms < WHOLE_SECONDS * 1000:
            with suppress(StorageError):
                status = self.client.status()
                regions = status["regions"]
                short = ", ".join(f"{regions[key]} {key}" for key in sorted(regions))
                short = f"{status['nodes_alive']} of {status['nodes_total']} nodes, regions {short}"
                if (
                    status["nodes_alive"] == status["nodes_total"]
                    and regions["normal"] == regions["total"]
                ):
                    return now_ms() - began_ms
            pause(0.05)
        raise RequestTimeout(f"the cluster was not whole again within {WHOLE_SECONDS} s: {short}")

    def busiest(self, spared: int) -> LocalNode:
        """The node that owns most regions, but not `spared`."""
        rows = [row for row in self.client.nodes() if row["id"] != spared]
        chosen = max(rows, key=lambda row: (row["regions_owned"], -row["id"]))
        return self.cluster.node(chosen["id"])

    def start_node(self, node: LocalNode) -> None:
        """One that was killed."""
        start_alone(self.cluster, node)

    def settle(self) -> None:
        """Wait until the nodes have next to nothing left to do, but not forever."""
        until_ms = now_ms() + SETTLE_SECONDS * 1000
        while now_ms() < until_ms:
            before_s, began_ms = cpu_seconds(self.pids()), now_ms()
            pause(0.4)
            used_s = cpu_seconds(self.pids()) - before_s
            if used_s < 0.12 * (now_ms() - began_ms) / 1000:
                return


class Server:
    """One other program that serves NBD, until it is stopped."""

    def __init__(self, command: list[str], uri: str, address: str | tuple[str, int], log: Path):
        self.uri = uri
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._wait(address, log)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Its own."""
        return self._process.pid

    def _wait(self, address: str | tuple[str, int], log: Path) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        until_ms = now_ms() + READY_SECONDS * 1000
        while now_ms() < until_ms:
            if self._process.poll() is not None:
                raise LinkLost(f"it ended at once: {last_line(log)}")
            with suppress(OSError), socket.socket(family) as probe:
                probe.connect(address)
                return
            pause(0.02)
        raise RequestTimeout(f"it did not listen within {READY_SECONDS} s: {last_line(log)}")

    def stop(self) -> None:
        """By its pid."""
        stop_process(self._process, signal.SIGTERM)


def start_nbdkit(directory: Path, size_bytes: int) -> Server:
    """nbdkit's memory plugin. ConfigError when it is not installed."""
    require("nbdkit")
    port = free_port()
    return Server(
        ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "memory", str(size_bytes)],
        f"nbd://127.0.0.1:{port}/", ("127.0.0.1", port), directory / "nbdkit.log",
    )  # fmt: skip


def start_attach(cluster: Cluster, volume: str) -> Server:
    """`eightfold attach` on a socket beside the cluster."""
    path = str(cluster.directory.parent / f"{volume}.sock")
    return Server(
        [
            sys.executable, "-m", "admin.cli", "attach", volume, "--socket", path,
            "--dir", str(cluster.directory), "--json",
        ],
        f"nbd+unix:///{volume}?socket={path}", path, cluster.directory.parent / "attach.log",
    )  # fmt: skip


def require(tool: str) -> None:
    """ConfigError names it when it is not installed."""
    if shutil.which(tool) is None:
        raise ConfigError(f"{tool} is not installed")


# --- the client -----------------------------------------------------------------------------------


def start_fio(
    uri: str, rw: str, block_bytes: int, in_flight: int, area_bytes: int, seconds: float
) -> subprocess.Popen[str]:
    """fio's nbd engine over one connection. seconds 0: go over the area once."""
    require("fio")
    more = ["--time_based", f"--runtime={seconds:g}s"] if seconds else ["--refill_buffers"]
    return subprocess.Popen(
        [
            "fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}",
            f"--bs={block_bytes}", f"--iodepth={in_flight}", f"--size={area_bytes}",
            "--norandommap", "--randrepeat=0", "--group_reporting", "--output-format=json", *more,
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def end_fio(process: subprocess.Popen[str], seconds: float) -> dict[str, float]:
    """What it measured, as `parse_fio` says. RequestTimeout after so long."""
    try:
        text, _ = process.communicate(timeout=seconds + WHOLE_SECONDS)
    except subprocess.TimeoutExpired:
        raise RequestTimeout("fio did not end") from None
    finally:
        stop_process(process, signal.SIGKILL)
    return parse_fio(text)


def fill(uri: str, area_bytes: int) -> None:
    """Write the whole area once, so that reads read data and writes overwrite."""
    end_fio(start_fio(uri, "write", MiB, 4, area_bytes, 0), WHOLE_SECONDS)


def measure(
    load: Load, uri: str, target: str, number: int, pids: list[int], area_bytes: int, seconds: float
) -> Run:
    """One run. pids: every process of the target."""
    cpu_s, busy_s, began_ms = cpu_seconds(pids), machine_busy_seconds(), now_ms()
    process = start_fio(uri, load.rw, load.block_bytes, load.in_flight, area_bytes, seconds)
    seen = end_fio(process, seconds)
    used_s = cpu_seconds(pids) - cpu_s
    client_s = seen["client_cores"] * seen["seconds"]
    rest_s = machine_busy_seconds() - busy_s - used_s - client_s
    took_s = (now_ms() - began_ms) / 1000  # fio's start and end too: more than it says it ran
    if seen["errors"]:
        raise LinkLost(f"{load.name} on {target}: fio ended with error {seen['errors']:.0f}")
    return Run(
        load.name, target, number, seen["io_per_s"], seen["mb_per_s"], seen["p50_us"],
        seen["p99_us"], seen["longest_ms"], int(seen["ios"]),
        cpu_per_io_us(used_s, int(seen["ios"])), max(0.0, rest_s / took_s),
    )  # fmt: skip


def disturbed(uri: str, area_bytes: int, victim: int, number: signal.Signals) -> dict[str, float]:
    """A QD1 writer for four seconds; after one of them the signal goes to the victim's pid."""
    process = start_fio(uri, "randwrite", 4096, 1, area_bytes, 4)
    try:
        pause(1.0)
        os.kill(victim, number)
    except BaseException:
        stop_process(process, signal.SIGKILL)
        raise
    return end_fio(process, 4)
