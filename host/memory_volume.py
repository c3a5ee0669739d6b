"""plan: a volume in memory, for tests of targets and for measuring a target alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from base.errors import StorageError
from base.units import KiB
from host.export import ALLOCATION, HOLE, ZERO, Hole, HostRequest, RequestKind, StatusResult

_GRAIN_BYTES = 4 * KiB  # allocation is kept in this unit


class MemoryVolume:
    """Answers at once; with `hold`, keeps requests in `held` until `release` lets them go.

    Reads hand out windows into the memory itself, so a read that runs beside an overlapping write
    of the same host may see part of it, as on any disk.
    """

    def __init__(
        self,
        name: str,
        size_bytes: int,
        *,
        block_min_bytes: int = 512,
        read_only: bool = False,
        description: str = "a volume in memory",
    ) -> None:
        assert size_bytes % block_min_bytes == 0
        self.name = name
        self.size_bytes = size_bytes
        self.block_min_bytes = block_min_bytes
        self.read_only = read_only
        self.description = description
        self.contexts: tuple[str, ...] = (ALLOCATION,)
        self.hold = False
        self.held: list[HostRequest] = []
        self.fail_with: StorageError | None = None
        self.flushes = 0
        self.synced_writes = 0
        # Not a bytearray: that would touch every page of a large volume at once.
        self._bytes = np.zeros(size_bytes, np.uint8).data
        self._used = bytearray(-(-size_bytes // _GRAIN_BYTES))  # 1: grain is allocated

    def submit(self, request: HostRequest) -> None:
        """VolumeView's: execute it, or hold it."""
        if self.hold:
            self.held.append(request)
            return
        self.execute(request)

    def release(self, count: int | None = None) -> None:
        """Execute the oldest `count` held requests, or all."""
        going = self.held[:count]
        del self.held[: len(going)]
        for request in going:
            self.execute(request)

    def execute(self, request: HostRequest) -> None:
        """Do what is asked now, and answer."""
        if self.fail_with is not None:
            request.done(self.fail_with)
            return
        kind, offset, end = request.kind, request.offset, request.offset + request.length
        if kind == RequestKind.READ:
            request.done(None, self._read(offset, end))
            return
        if kind == RequestKind.WRITE:
            self._bytes[offset:end] = request.data
            first, last = offset // _GRAIN_BYTES, -(-end // _GRAIN_BYTES)
            self._used[first:last] = b"\x01" * (last - first)
            self.synced_writes += request.fua
        elif kind == RequestKind.STATUS:
            request.done(None, self.status(request.context, offset, end))
            return
        elif kind == RequestKind.FLUSH:
            self.flushes += 1
        else:
            self._zero(offset, end, allocate=request.no_hole)
        request.done(None)

    def status(self, context: str, offset: int, end: int) -> StatusResult:
        """(length, flags) of the runs in [offset, end). Every context but ALLOCATION is all 0."""
        if context != ALLOCATION:
            return [(end - offset, 0)]
        return [
            (stop - start, 0 if used else HOLE | ZERO)
            for start, stop, used in self._runs(offset, end)
        ]

    def _read(self, offset: int, end: int) -> list[memoryview | Hole]:
        used = self._used[offset // _GRAIN_BYTES : -(-end // _GRAIN_BYTES)]
        if all(used):
            return [self._bytes[offset:end]]
        return [
            self._bytes[start:stop] if used else Hole(stop - start)
            for start, stop, used in self._runs(offset, end)
        ]

    def _runs(self, offset: int, end: int) -> Iterator[tuple[int, int, bool]]:
        at = offset
        while at < end:
            grain = at // _GRAIN_BYTES
            used = self._used[grain]
            edge = self._used.find(1 - used, grain)
            stop = end if edge < 0 else min(end, edge * _GRAIN_BYTES)
            yield at, stop, bool(used)
            at = stop

    def _zero(self, offset: int, end: int, *, allocate: bool) -> None:
        first, last = -(-offset // _GRAIN_BYTES), end // _GRAIN_BYTES
        for start in range(offset, end, 1 << 20):
            stop = min(end, start + (1 << 20))
            self._bytes[start:stop] = bytes(stop - start)
        if allocate:
            first, last = offset // _GRAIN_BYTES, -(-end // _GRAIN_BYTES)
        if last > first:
            self._used[first:last] = bytes([allocate]) * (last - first)
