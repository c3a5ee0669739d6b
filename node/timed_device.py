"""shell: which I/O of a node is on its way, and since when: how a stuck disk is noticed.

A wrapper of the `BlockDevice` port. A call that finishes at once is no matter of time; one that is
awaited is noted until it returns. `node.gray` decides what follows when one does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from base.clock import Clock
from base.device import BlockDevice, Buffer


class IoWatch:
    """Every I/O of one node that was begun and has not returned."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._number = 0
        self._running: dict[int, tuple[int, str]] = {}  # in the order of their start

    def over(self, device: BlockDevice) -> TimedDevice:
        """The same device, watched."""
        return TimedDevice(device, self)

    def begin(self, name: str) -> int:
        """An I/O starts; its number, for `end`."""
        self._number += 1
        self._running[self._number] = (self._clock.now_ns(), name)
        return self._number

    def end(self, number: int) -> None:
        """It returned, in whatever way."""
        del self._running[number]

    def oldest(self) -> tuple[int, str]:
        """(number, device) of the I/O that waits longest; number 0: none does."""
        for number, (_, name) in self._running.items():
            return number, name
        return 0, ""


class TimedDevice:
    """See `IoWatch.over`."""

    def __init__(self, device: BlockDevice, watch: IoWatch) -> None:
        self._device = device
        self._watch = watch
        # The hot path: a call less.
        self.read_now = device.read_now
        self.write_now = device.write_now

    @property
    def size_bytes(self) -> int:
        """Nominal size."""
        return self._device.size_bytes

    @property
    def name(self) -> str:
        """For messages to people."""
        return self._device.name

    async def read(self, offset: int, into: memoryview) -> None:
        """Fill `into`."""
        number = self._watch.begin(self.name)
        try:
            await self._device.read(offset, into)
        finally:
            self._watch.end(number)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one behind the other."""
        number = self._watch.begin(self.name)
        try:
            await self._device.write(offset, buffers)
        finally:
            self._watch.end(number)

    async def sync(self) -> None:
        """Everything written before the call survives a power cut once this returns."""
        number = self._watch.begin(self.name)
        try:
            await self._device.sync()
        finally:
            self._watch.end(number)

    def discard(self, offset: int, length: int) -> None:
        """A hint."""
        self._device.discard(offset, length)

    def close(self) -> None:
        """Release it. Not a sync."""
        self._device.close()
