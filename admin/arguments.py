"""shell: what commands share: their usual arguments, and the cluster that they are for.

It is found by its directory, or by the address of a node (`--endpoint`).
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from admin.local import (
    DIRECTORY_DEFAULT,
    DIRECTORY_VARIABLE,
    LocalCluster,
    read_cluster,
)
from admin.output import closed_after
from base.errors import InvalidRequest

if TYPE_CHECKING:
    from admin.client import ClusterClient

Directory = Annotated[
    Path,
    typer.Option("--dir", envvar=DIRECTORY_VARIABLE, help="The directory of the cluster."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too (on standard error).")]
Node = Annotated[str, typer.Argument(help="A node, as n3 or 3.")]
Volume = Annotated[str, typer.Argument(help="Name of the volume.")]
Size = Annotated[str, typer.Argument(help="Bytes, or as 10GiB, 512MiB, 1.5TiB.")]

DIRECTORY: Final = Path(DIRECTORY_DEFAULT)


@dataclass(frozen=True, slots=True)
class Outside:
    """What `eightfold --endpoint` was told. token_file: else that of the directory."""

    endpoints: str
    token_file: Path | None


_OUTSIDE: ContextVar[Outside | None] = ContextVar("outside", default=None)


def set_outside(outside: Outside | None) -> None:
    """For the command that follows."""
    _OUTSIDE.set(outside)


def local_cluster(directory: Path, needs: str) -> LocalCluster:
    """The cluster of the directory. InvalidRequest when an endpoint was given: the command `needs`
    what only the directory has."""
    outside = _OUTSIDE.get()
    if outside is not None:
        raise InvalidRequest(
            f"this command needs {needs}, and --endpoint {outside.endpoints} has only the API;"
            " give --dir on the machine of the cluster"
        )
    return read_cluster(directory)


def no_endpoint(command: str) -> None:
    """InvalidRequest when an endpoint was given to a command that is for this machine alone."""
    if _OUTSIDE.get() is not None:
        raise InvalidRequest(f"{command} is for nodes of this machine; it takes no --endpoint")


def cluster_of(directory: Path) -> LocalCluster:
    """The cluster that the command is for."""
    outside = _OUTSIDE.get()
    if outside is None:
        return read_cluster(directory)
    from admin.endpoint import outside_cluster

    path = outside.token_file or directory / "token"
    if not path.exists():
        raise InvalidRequest(f"--endpoint needs --token-file: there is no {path}")
    return outside_cluster(outside.endpoints, path)


def client_of(directory: Path) -> ClusterClient:
    """A client that is closed when the command ends."""
    from admin.client import ClusterClient

    return closed_after(ClusterClient(cluster_of(directory)))
