"""shell: node processes of a cluster on this machine, as its directory shows them to an operator.

A pid is reused sooner or later, so a pid file names the start time of its process too, and nothing
is signalled unless both agree.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from base.errors import ConfigError, NotFound

CONFIG_FILE: Final = "cluster.yaml"
LOCK_FILE: Final = "lock"
PID_FILE: Final = "pid"
LOG_FILE: Final = "log"
UP_PID_FILE: Final = "up.pid"

DIRECTORY_DEFAULT: Final = "eightfold-data"
DIRECTORY_VARIABLE: Final = "EIGHTFOLD_DIR"


@dataclass(frozen=True, slots=True)
class LocalNode:
    """One node as the configuration of the cluster names it."""

    node: int
    host: str
    mesh_port: int
    nbd_port: int
    admin_port: int
    directory: Path

    @property
    def name(self) -> str:
        """n0 to n7."""
        return f"n{self.node}"

    @property
    def log_path(self) -> Path:
        """Its log file."""
        return self.directory / LOG_FILE


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """What the directory says about the cluster, without checking every option again."""

    name: str
    directory: Path
    token_path: Path
    secret_path: Path
    cluster_id: str
    nodes: tuple[LocalNode, ...]
    mqtt: dict[str, Any] = field(default_factory=dict)  # the section of the configuration
    endpoints: str = ""  # when it was found by these addresses; then there is no directory

    @property
    def where(self) -> str:
        """For messages."""
        return f"at {self.endpoints}" if self.endpoints else f"in {self.directory}"

    def node(self, number: int) -> LocalNode:
        """NotFound names the nodes there are."""
        for each in self.nodes:
            if each.node == number:
                return each
        known = ", ".join(each.name for each in self.nodes)
        raise NotFound(f"there is no node n{number}; nodes are {known}")

    def token(self) -> str:
        """ConfigError when it cannot be read."""
        try:
            return self.token_path.read_text().strip()
        except OSError as error:
            raise ConfigError(f"{self.token_path}: cannot be read: {error.strerror}") from None


def read_cluster(directory: Path) -> LocalCluster:
    """The cluster in a directory. NotFound when there is none, ConfigError when it is damaged."""
    import yaml

    path = directory / CONFIG_FILE
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(path.read_text(), Loader=loader)
    except FileNotFoundError:
        raise NotFound(
            f"there is no cluster in {directory}; start one with `eightfold up`,"
            f" or name its directory with --dir or {DIRECTORY_VARIABLE}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    try:
        return _cluster(directory, document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}: is not a cluster configuration: {error!r}") from None


def _cluster(directory: Path, document: Any) -> LocalCluster:
    about = document.get("cluster") or {}
    data = directory / str(about.get("data_directory", "."))
    nodes = tuple(
        LocalNode(
            node=int(each["id"]),
            host=str(each.get("host", "127.0.0.1")),
            mesh_port=int(each["mesh_port"]),
            nbd_port=int(each["nbd_port"]),
            admin_port=int(each["admin_port"]),
            directory=data / f"n{int(each['id'])}",
        )
        for each in document["nodes"]
    )
    token = (document.get("admin") or {}).get("token_file", "token")
    return LocalCluster(
        name=str(about.get("name", "eightfold")),
        directory=directory,
        token_path=directory / str(token),
        secret_path=directory / str(about.get("secret_file", "secret")),
        cluster_id=str(about.get("id") or about.get("name", "eightfold")),
        nodes=tuple(sorted(nodes, key=lambda each: each.node)),
        mqtt=dict(document.get("mqtt") or {}),
    )


def process_start(pid: int) -> str | None:
    """When the process started, as text that never changes during its life; None: no such process.

    A process that has ended and waits to be collected counts as gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_by_ps(pid)
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else fields[19]


def _start_by_ps(pid: int) -> str | None:
    answer = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None


def process_state(pid: int) -> str:
    """One letter as ps shows it: R, S, T (stopped) …; "-" when it is not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "-"
    return text[text.rindex(")") + 2]


def write_pid_file(path: Path, pid: int) -> None:
    """Name a running process so that it can be told from a later one with the same pid."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps({"pid": pid, "start": process_start(pid)}) + "\n")
    os.replace(beside, path)


def running_pid(path: Path) -> int | None:
    """The pid in the file while that very process runs, else None."""
    try:
        noted = json.loads(path.read_text())
        pid, start = int(noted["pid"]), str(noted["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if pid > 0 and process_start(pid) == start else None


def node_pid(node: LocalNode) -> int | None:
    """The pid of the node's process while it runs."""
    return running_pid(node.directory / PID_FILE)


def signal_node(node: LocalNode, number: signal.Signals) -> int:
    """Send the signal to the node's own process and return its pid. NotFound: it does not run."""
    pid = node_pid(node)
    if pid is None:
        raise NotFound(
            f"node {node.name} does not run; start it with `eightfold node start {node.name}`"
        )
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise NotFound(f"node {node.name} ended just now") from None
    return pid
