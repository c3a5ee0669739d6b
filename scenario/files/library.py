"""plan: where scenario files are, and by which name one is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from base.errors import NotFound
from scenario.faults import nearest

LIBRARY: Final = Path(__file__).resolve().parents[2] / "configs" / "scenarios"
SCHEMA: Final = LIBRARY / "schema.json"


def names(directory: Path = LIBRARY) -> list[str]:
    """Of all scenarios there, ascending."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def find(what: str, directory: Path = LIBRARY) -> Path:
    """A file, or one of the library by its name. NotFound names the nearest."""
    path = Path(what)
    if path.is_file():
        return path
    known = names(directory)
    if what in known:
        return directory / f"{what}.yaml"
    raise NotFound(
        f"{what} is neither a file nor a scenario of the library: {nearest(what, known)}"
    )
