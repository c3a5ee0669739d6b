"""A host that remembers: random writes, trims and zeroes, every answer held against a model.

It uses one node at a time. When its path breaks it sends what was not answered again, unchanged, at
the next node, before anything later to the same extent: as a host with several paths does.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from base.clock import RealClock
from base.errors import LinkLost, NotConnected, NotFound, RequestTimeout, Stopping, StorageError
from base.units import NS_PER_S, KiB
from host.nbd_client import NbdClient

SECTOR = 512
LANES = 6
EXTENT_BYTES_MAX = 96 * KiB
PATH_LOST = (LinkLost, NotConnected, RequestTimeout, Stopping, NotFound)


def payload(lane: int, number: int, length: int) -> bytes:
    """Every sector says who wrote it and when."""
    stamp = struct.pack("<QQ", lane, number)
    return b"".join(
        (stamp + struct.pack("<Q", k)) * 21 + stamp[:8] for k in range(length // SECTOR)
    )


class CheckedHost:
    """Lanes of their own extents of a volume; `model` is what must be read."""

    def __init__(
        self, addresses: Sequence[str], volume: str, size_bytes: int, *, seed: int = 1,
        give_up_seconds: int = 60,
    ) -> None:  # fmt: skip
        self._addresses = list(addresses)
        self._volume = volume
        self.seed = seed
        self._give_up_ns = give_up_seconds * NS_PER_S
        self._clock = RealClock()
        self._path = 0
        self._client: NbdClient | None = None
        self._connecting: asyncio.Lock
        self.model = bytearray(size_bytes)
        self.writes = 0
        self.reads = 0
        self.paths_lost = 0
        self.longest_ms = 0.0
        self.wrong: list[str] = []
        self.stopping = False

    async def _connected(self, spent: NbdClient | None) -> NbdClient:
        async with self._connecting:
            if self._client is not None and self._client is not spent and self._client.connected:
                return self._client
            if self._client is not None:
                self.paths_lost += 1
                self._path += 1
                await self._client.close()
                self._client = None
            address = self._addresses[self._path % len(self._addresses)]
            try:
                self._client = await NbdClient.connect(
                    f"nbd://{address}/{self._volume}", timeout_ms=2000
                )
            except StorageError:
                self._path += 1
                raise
            return self._client

    async def call(self, name: str, *arguments: Any) -> Any:
        """Until it is answered at one node or another. Errors that are answers are raised."""
        began_ns = self._clock.now_ns()
        client: NbdClient | None = None
        while True:
            try:
                client = await self._connected(client)
                answer = await getattr(client, name)(*arguments)
            except PATH_LOST:
                if self._clock.now_ns() - began_ns > self._give_up_ns:
                    raise
                await asyncio.sleep(0.01)
                continue
            took_ms = (self._clock.now_ns() - began_ns) / 1e6
            self.longest_ms = max(self.longest_ms, took_ms)
            return answer

    async def _lane(self, lane: int, stop_after: int | None) -> None:
        rng = random.Random(self.seed * 1000 + lane)
        span = len(self.model) // LANES // SECTOR * SECTOR
        first = lane * span
        number = 0
        while not self.stopping and (stop_after is None or number < stop_after):
            number += 1
            length = rng.choice((SECTOR, 4 * KiB, 4 * KiB, 20 * KiB, EXTENT_BYTES_MAX))
            unit = rng.choice((SECTOR, 4 * KiB))
            offset = first + rng.randrange((span - length) // unit) * unit
            kind = rng.random()
            if kind < 0.25:
                await self._check(offset, length)
                continue
            if kind < 0.32:
                data = bytes(length)
                await self.call("zero", offset, length)
            elif kind < 0.36:
                data = bytes(length)
                await self.call("trim", offset, length)
            else:
                data = payload(lane, number, length)
                await self.call("write", offset, data)
            self.model[offset : offset + length] = data
            self.writes += 1
            if number % 50 == 0:
                await self.call("flush")

    async def _check(self, offset: int, length: int) -> None:
        found = await self.call("read", offset, length)
        self.reads += 1
        self._compare(offset, found)

    def _compare(self, offset: int, found: bytearray) -> None:
        wanted = self.model[offset : offset + len(found)]
        if found == wanted:
            return
        for at in range(0, len(found), SECTOR):
            if found[at : at + SECTOR] != wanted[at : at + SECTOR]:
                was, want = bytes(found[at : at + 24]).hex(), bytes(wanted[at : at + 24]).hex()
                self.wrong.append(f"{offset + at}: {was} instead of {want}")
                return

    async def work(self, stop_after: int | None = None) -> None:
        """All lanes, until `stopping` is set or each has done so many."""
        self._connecting = asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                group.create_task(self._lane(lane, stop_after))  # the group owns them

    async def check_all(self, address: str) -> None:
        """Read the whole volume at this node and compare."""
        client = await NbdClient.connect(f"nbd://{address}/{self._volume}", timeout_ms=10_000)
        try:
            step = 1 << 20
            for offset in range(0, len(self.model), step):
                length = min(step, len(self.model) - offset)
                self._compare(offset, await client.read(offset, length))
        finally:
            await client.close()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def during(host: CheckedHost, story: Callable[[], None]) -> None:
    """Run `story` (blocking, in a thread) while the host works; then end the host."""
    loop = asyncio.get_running_loop()

    async def tell() -> None:
        try:
            await loop.run_in_executor(None, story)
        finally:
            host.stopping = True

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(host.work())
            group.create_task(tell())
    finally:
        await host.close()
