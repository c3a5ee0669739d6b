"""A node process that finds a disk missing."""

from pathlib import Path

from base.errors import DeviceFailed


def run(directory: Path, node: int) -> int:
    raise DeviceFailed("disk 3 is missing")
