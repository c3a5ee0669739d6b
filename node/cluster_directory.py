"""shell: the directory of a cluster on one machine: what lies in it, and who may use it.

    cluster.yaml   every option, written by the first `up`
    secret, token  0600; made by the first `up`
    lock           held by `up` while its nodes run
    n0/ … n7/      lock and pid of the node process while it runs, its log, disks and journal

Locks are advisory `flock`s: the kernel drops them with the process, however it dies. A pid file
alone proves nothing, so it also names the start time of the process.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from admin.local import LOCK_FILE, LOG_FILE, PID_FILE, write_pid_file
from base.errors import AlreadyExists, ConfigError
from base.place import others_may_read
from base.units import MiB
from node.config import (
    FILE_NAME,
    ClusterConfig,
    NodeConfig,
    default_cluster,
    load,
    node_config,
    render,
)

LOG_BYTES_MAX: Final = 16 * MiB  # a longer log is set aside, once, when its node starts
SECRET_BYTES: Final = 32

# Changing one of these would make what is on the disks unreadable.
_FIXED: Final = ("cluster.id", "cluster.data_directory", "disks", "journal.segment_bytes")


def prepare(directory: Path, config: ClusterConfig) -> ClusterConfig:
    """Write what is missing to start nodes: configuration, secret, token. ConfigError: it cannot.

    The secret and the token of an earlier call are kept. Returns the configuration with an id.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not config.cluster.id:
            named = config.cluster.model_copy(update={"id": secrets.token_hex(8)})
            config = config.model_copy(update={"cluster": named})
        for name in (config.cluster.secret_file, config.admin.token_file):
            _make_secret(directory / name)
        _replace(directory / FILE_NAME, render(config))
        for node in config.nodes:
            node_config(config, directory, node.id).directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from None
    return config


def adopt(directory: Path, config_file: Path) -> None:
    """Write the configuration that every node of a deployment is handed beside the node's data.

    Secrets are handed out too, so none are made. ConfigError: it cannot be read or written, breaks
    a rule, or describes other disks than there are.
    """
    config = choose(directory, config_file=config_file)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(directory / FILE_NAME, render(config))
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from None


def choose(
    directory: Path,
    *,
    config_file: Path | None = None,
    nodes: int | None = None,
    base_port: int | None = None,
) -> ClusterConfig:
    """The configuration to start with; changes nothing. ConfigError says why there is none.

    A new directory takes `config_file`, else the defaults. A used one keeps its own; `config_file`
    may change options, but not those that describe what is on the disks.
    """
    own = directory / FILE_NAME
    if not own.exists():
        if config_file is not None:
            return load(config_file)
        given = {"nodes": nodes, "base_port": base_port}
        return default_cluster(**{key: each for key, each in given.items() if each is not None})
    current = load(own)
    if nodes is not None and nodes != len(current.nodes):
        raise ConfigError(
            f"{directory}: holds a cluster of {len(current.nodes)} nodes, not {nodes};"
            " choose another directory"
        )
    if config_file is None:
        return current
    wanted = load(config_file)
    if not wanted.cluster.id:
        same = wanted.cluster.model_copy(update={"id": current.cluster.id})
        wanted = wanted.model_copy(update={"cluster": same})
    _refuse_other_layout(current, wanted, config_file)
    return wanted


def _refuse_other_layout(current: ClusterConfig, wanted: ClusterConfig, source: Path) -> None:
    if {node.id for node in current.nodes} != {node.id for node in wanted.nodes}:
        raise ConfigError(f"{source}: nodes: the cluster in this directory has other ids")
    for path in _FIXED:
        was: object = current
        now: object = wanted
        for part in path.split("."):
            was, now = getattr(was, part), getattr(now, part)
        if was != now:
            raise ConfigError(f"{source}: {path}: cannot change once a cluster has been started")


def _make_secret(path: Path) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        read_secret(path)
        return
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(SECRET_BYTES) + "\n")


def read_secret(path: Path) -> bytes:
    """The secret or token in a file. ConfigError when it is missing, short or open to others."""
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            secret = stream.read(4096).strip()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if others_may_read(path, mode):
        raise ConfigError(f"{path}: others may read it (mode {mode:04o}); run chmod 600 on it")
    if len(secret) < 16:
        raise ConfigError(f"{path}: a secret has at least 16 characters")
    return secret


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


def claim_directory(directory: Path) -> IO[str]:
    """Hold the cluster directory until the file is closed or the process ends.

    AlreadyExists when another `up` holds it; it says which process.
    """
    return _claim(directory / LOCK_FILE, f"a cluster already runs in {directory}")


def claim_node(config: NodeConfig) -> IO[str]:
    """Hold the directory of one node and write its pid file. AlreadyExists when it runs already."""
    held = _claim(config.directory / LOCK_FILE, f"node {config.name} already runs")
    write_pid_file(config.directory / PID_FILE, os.getpid())
    return held


def check_free(config: ClusterConfig, directory: Path) -> None:
    """That no node of the cluster runs and nobody else has its ports. AlreadyExists, ConfigError.

    A port may still be taken between this and its use; the node then says so itself.
    """
    for options in config.nodes:
        node = node_config(config, directory, options.id)
        _claim(node.directory / LOCK_FILE, f"node {node.name} already runs").close()
        for key in ("mesh_port", "nbd_port", "admin_port"):
            _check_port(options.listens_at, getattr(options, key), f"node {node.name}: {key}")


def _check_port(host: str, port: int, where: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{where}: {host}:{port}: {getattr(error, 'strerror', None) or error};"
                " choose other ports with --base-port or in the configuration"
            ) from None


def _claim(path: Path, refusal: str) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.seek(0)
        holder = stream.read(64).strip()
        stream.close()
        raise AlreadyExists(f"{refusal} (process {holder or 'unknown'})") from None
    stream.seek(0)
    stream.truncate()
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream


def open_log(config: NodeConfig) -> int:
    """File descriptor of the node's log, for appending."""
    path = config.directory / LOG_FILE
    try:
        config.directory.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            os.replace(path, path.with_name(path.name + ".1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def run_claimed(directory: Path, node: int, run: Callable[[Path, int], int]) -> int:
    """Run one node in this process, holding its directory. Returns what `run` returns.

    The pid file goes when the node stops by itself; after a kill it stays and names a process that
    is no more.
    """
    config = node_config(load(directory / FILE_NAME), directory, node)
    held = claim_node(config)
    try:
        return run(directory, node)
    finally:
        (config.directory / PID_FILE).unlink(missing_ok=True)
        held.close()
