"""plan: where the parts of a node on this machine find each other."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
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
