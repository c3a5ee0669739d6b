"""A real node whose journal lies on a disk that is full while a file `full-n3` is in the directory
of the cluster: as little of a full file system as it takes, and no root."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.device import Buffer
from base.errors import NoSpace
from node import daemon
from node.file_device import FileDevice


def run(directory: Path, node: int) -> int:
    """A node process until SIGTERM."""
    mark = directory / f"full-n{node}"

    class FullDevice(FileDevice):
        def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:
            if self.name == "ring" and mark.exists():
                raise NoSpace(f"{self.name}: write at byte {offset}: No space left on device")
            return super().write_now(offset, buffers)

    opened: Any = daemon
    opened.FileDevice = FullDevice
    return daemon.run_process(directory, node)
