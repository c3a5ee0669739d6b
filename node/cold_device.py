"""shell: a device that is looked at and never changed: what is written stays in memory.

Under it may be a file of a stopped node, or the disk of a simulated one that runs. So recovery can
do all that it does, and nothing of it happens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from base.device import Buffer
from base.errors import ConfigError, DeviceFailed
from base.units import KiB, format_size

PAGE_BYTES: Final = 4 * KiB

Load = Callable[[int, memoryview], None]


class ColdDevice:
    """A `BlockDevice` over `load(offset, into)`. Nothing in it ever waits.

    keep False: what is written is forgotten too. For a journal, which recovery writes once more and
    does not read afterwards.
    """

    def __init__(self, name: str, size_bytes: int, load: Load, *, keep: bool = True) -> None:
        self._name = name
        self._size = size_bytes
        self._load = load
        self._keep = keep
        self._pages: dict[int, bytearray] = {}

    @property
    def size_bytes(self) -> int:
        """Of what is under it."""
        return self._size

    @property
    def name(self) -> str:
        """Of what is under it."""
        return self._name

    def read_now(self, offset: int, into: memoryview) -> bool:
        """What was written here, else what is under it. DeviceFailed."""
        self._load(offset, into)
        if self._pages:
            stop = offset + len(into)
            for number in range(offset // PAGE_BYTES, -(-stop // PAGE_BYTES)):
                page = self._pages.get(number)
                if page is not None:
                    start = number * PAGE_BYTES
                    low, high = max(start, offset), min(start + PAGE_BYTES, stop)
                    into[low - offset : high - offset] = page[low - start : high - start]
        return True

    def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:
        """Into memory."""
        if not self._keep:
            return True
        view = memoryview(b"".join(buffers))
        while view:
            number, inside = divmod(offset, PAGE_BYTES)
            part = view[: PAGE_BYTES - inside]
            page = self._pages.get(number)
            if page is None:
                page = self._pages[number] = bytearray(PAGE_BYTES)
                if len(part) < PAGE_BYTES:
                    start = number * PAGE_BYTES
                    self._load(start, memoryview(page)[: min(PAGE_BYTES, self._size - start)])
            page[inside : inside + len(part)] = part
            offset += len(part)
            view = view[len(part) :]
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        """As `read_now`."""
        self.read_now(offset, into)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """As `write_now`."""
        self.write_now(offset, buffers)

    async def sync(self) -> None:
        """Nothing here outlives the process."""

    def discard(self, offset: int, length: int) -> None:
        """A hint, not taken."""

    def close(self) -> None:
        """What is under it stays open: it belongs to others."""


class ColdFile:
    """A file, open for reading only. ConfigError: it is missing, or not of that size."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        held = os.fstat(self._fd).st_size
        if held != size_bytes:
            self.close()
            raise ConfigError(
                f"{path}: has {format_size(held)}, the configuration says {format_size(size_bytes)}"
            )

    def load(self, offset: int, into: memoryview) -> None:
        """Fill `into`. DeviceFailed."""
        done = 0
        while done < len(into):
            try:
                count = os.preadv(self._fd, [into[done:]], offset + done)
            except OSError as error:
                raise DeviceFailed(
                    f"{self.path}: read at byte {offset + done}: {error.strerror}"
                ) from None
            if not count:
                raise DeviceFailed(f"{self.path}: ends at byte {offset + done}")
            done += count

    def device(self, *, keep: bool = True) -> ColdDevice:
        """To be recovered from."""
        return ColdDevice(self.path.name, self.size_bytes, self.load, keep=keep)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
