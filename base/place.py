"""plan: where the parts of a node find each other, and what they have to know for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from base.errors import ConfigError

Address = tuple[str, int] | str  # TCP host and port, or the path of a Unix socket

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
# Where container engines mount secrets; they decide who may read them, and the node may not.
MOUNTED_SECRETS: Final = Path("/run/secrets")
SOCKET_PATH_BYTES_MAX: Final = 100  # the kernel takes 107 bytes; keep clear of it
_NAME: Final = "mesh.sock"


def local_socket(directory: Path, host: str) -> str | None:
    """Unix socket of the mesh of the node in this directory; None: it is reached by TCP only.

    A node that listens on loopback has all its peers on this machine. One message at a time wakes
    the other process sooner through a Unix socket; the two were not compared inside a cluster.
    """
    path = str((directory / _NAME).absolute())
    if host not in LOOPBACK or len(path.encode()) > SOCKET_PATH_BYTES_MAX:
        return None
    return path


def others_may_read(path: Path, mode: int) -> bool:
    """Whether a secret of this mode is open to others of the machine."""
    return bool(mode & 0o077) and path.parent != MOUNTED_SECRETS


def parse_address(text: str, key: str) -> Address:
    """HOST:PORT or [HOST]:PORT, or a path with a slash in it. ConfigError names the key."""
    if "/" in text:
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise ConfigError(f"{key}: {text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)
