"""shell: the `BlockDevice` port. Every disk byte goes through it; faults are wrappers around it.

Two ways to do I/O. The `*_now` calls finish before they return or change nothing and return False:
files on the page cache always can, a simulated disk with latency seldom does. The awaitable calls
always work. Callers try the first and fall back to the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class BlockDevice(Protocol):
    """A fixed number of bytes. Never-written bytes read as zeros.

    Offsets and lengths are in bytes and need no alignment. A write is not durable against a power
    cut before a later `sync` has returned; it survives the death of the process. Errors:
    `DeviceFailed`; after a failed `sync` the device must not be used again (P11).
    """

    @property
    def size_bytes(self) -> int:
        """Nominal size."""

    @property
    def name(self) -> str:
        """For messages to people."""

    def read_now(self, offset: int, into: memoryview) -> bool:
        """Fill `into` at once and return True, or return False and touch nothing."""

    def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:
        """Write the buffers one behind the other at once, or return False and write nothing."""

    async def read(self, offset: int, into: memoryview) -> None:
        """Fill `into`."""

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one behind the other. The buffers must not change until it returns."""

    async def sync(self) -> None:
        """Everything written before the call survives a power cut once this returns."""

    def discard(self, offset: int, length: int) -> None:
        """The range may read as zeros from now on, and its space may be freed. A hint."""

    def close(self) -> None:
        """Release it. Not a sync."""
