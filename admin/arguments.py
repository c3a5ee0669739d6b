"""shell: what commands share: their usual arguments, and the client of the cluster they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from admin.local import DIRECTORY_DEFAULT, DIRECTORY_VARIABLE, read_cluster
from admin.output import closed_after

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


def client_of(directory: Path) -> ClusterClient:
    """A client that is closed when the command ends."""
    from admin.client import ClusterClient

    return closed_after(ClusterClient(read_cluster(directory)))
