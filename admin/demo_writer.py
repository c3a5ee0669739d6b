"""shell: the demo's host: writes numbered blocks through NBD and remembers each answer.

It runs as a process of its own so that nothing else delays what it measures. It stands for a host
with several paths: it starts at one node and, when that connection breaks, sends what was not
answered again, unchanged, through another. `admin.demo` reads its JSON lines; a line on its
standard input, or its end, makes it finish: it then reads every block back and compares.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from base.clock import RealClock
from base.errors import LinkLost, NotConnected, RequestTimeout, Stopping, StorageError
from base.tasks import Supervisor
from base.units import NS_PER_MS, NS_PER_S, KiB

BLOCK_BYTES: Final = 4 * KiB
LANES: Final = 8  # writes in flight; each lane has blocks of its own
REPORT_SECONDS: Final = 0.1
GIVE_UP_SECONDS: Final = 30

# Another path may do better. (An indefinite one is sent again unchanged, before anything later.)
_PATH_LOST: Final = (LinkLost, NotConnected, RequestTimeout, Stopping)


def block_payload(block: int, version: int) -> bytes:
    """BLOCK_BYTES that no other block and no other version has in any sector."""
    seeded = random.Random(block << 32 | version)
    head = block.to_bytes(8, "little") + version.to_bytes(8, "little")
    return b"".join(head + seeded.randbytes(496) for _ in range(BLOCK_BYTES // 512))


class Writer:
    """All lanes, their answers, and the longest time that one write took."""

    def __init__(self, addresses: Sequence[str], export: str, offset: int, length: int) -> None:
        self._addresses = addresses
        self._export = export
        self._offset = offset
        self._blocks = length // BLOCK_BYTES
        self._clock = RealClock()
        self._path = 0
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self.acknowledged: dict[int, int] = {}  # block -> version
        self.wrong: dict[int, int] = {}  # block -> version that was acknowledged and is not there
        self.writes = 0
        self.longest_ms = 0.0
        self.paths_lost = 0
        self.stopping = False

    async def _connected(self, spent: Any) -> Any:
        """The client to use, which is another one than `spent`."""
        async with self._connecting:
            if self._client is not None and self._client is not spent:
                return self._client
            if spent is not None:
                self._client = None
                self.paths_lost += 1
                self._path += 1
                await spent.close()
            uri = f"nbd://{self._addresses[self._path % len(self._addresses)]}/{self._export}"
            try:
                connect = import_module("host.nbd_client").NbdClient.connect
                self._client = await connect(
                    uri, requests_in_flight_max=2 * LANES, timeout_ms=1000
                )  # fmt: skip
            except StorageError:
                self._path += 1
                raise
            return self._client

    async def _persist(self, call: str, offset: int, *arguments: Any) -> Any:
        """Until it is answered, by whatever path. The error of the last path after GIVE_UP."""
        until_ns = self._clock.now_ns() + GIVE_UP_SECONDS * NS_PER_S
        client: Any = self._client
        while True:
            try:
                if client is None:
                    client = await self._connected(None)
                return await getattr(client, call)(offset, *arguments)
            except _PATH_LOST:
                if self._clock.now_ns() > until_ns:
                    raise
            try:
                client = await self._connected(client)
            except _PATH_LOST:
                client = None
                await self._clock.sleep(0.005)

    async def lane(self, number: int) -> None:
        """Write random blocks of this lane, one at a time."""
        chooser = random.Random(number)
        mine = range(number, self._blocks, LANES)
        while not self.stopping:
            block = chooser.choice(mine)
            # Looked at before it is overwritten, else a later write would hide that one was lost.
            await self._check(block)
            version = self.acknowledged.get(block, 0) + 1
            payload = block_payload(block, version)
            began_ns = self._clock.now_ns()
            await self._persist("write", self._offset + block * BLOCK_BYTES, payload)
            took_ms = (self._clock.now_ns() - began_ns) / NS_PER_MS
            self.longest_ms = max(self.longest_ms, took_ms)
            self.acknowledged[block] = version
            self.writes += 1

    async def _check(self, block: int) -> None:
        version = self.acknowledged.get(block)
        if version is None:
            return
        found = await self._persist("read", self._offset + block * BLOCK_BYTES, BLOCK_BYTES)
        if bytes(found) != block_payload(block, version):
            self.wrong[block] = version

    async def check_all(self) -> None:
        """Read back every block that was acknowledged."""
        for block in sorted(self.acknowledged):
            await self._check(block)

    def report(self, **more: Any) -> None:
        """One JSON line."""
        numbers = {
            "writes": self.writes,
            "longest_ms": round(self.longest_ms, 1),
            "paths_lost": self.paths_lost,
        }
        os.write(1, json.dumps({**numbers, **more}).encode() + b"\n")

    async def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            await self._client.close()


async def _run(addresses: Sequence[str], export: str, offset: int, length: int) -> int:
    writer = Writer(addresses, export, offset, length)
    failures: list[str] = []

    def failed(name: str, error: BaseException) -> None:
        failures.append(f"{name}: {error!r}")
        writer.stopping = True

    def told() -> None:
        os.read(0, 4096)
        writer.stopping = True
        loop.remove_reader(0)

    loop = asyncio.get_running_loop()
    loop.add_reader(0, told)
    supervisor = Supervisor("writer", failed)
    lanes = [supervisor.start(writer.lane(n), name=f"lane{n}") for n in range(LANES)]
    while not writer.stopping:
        await asyncio.sleep(REPORT_SECONDS)
        writer.report()
    await asyncio.gather(*lanes, return_exceptions=True)
    try:
        await writer.check_all()
    except StorageError as error:
        failures.append(f"read back: {error}")
    wrong = sorted(writer.wrong)
    blocks = len(writer.acknowledged)
    writer.report(done=True, blocks=blocks, wrong=wrong[:100], failures=failures[:10])
    await writer.close()
    return 1 if wrong or failures else 0


def main(arguments: Sequence[str]) -> int:
    """EXPORT OFFSET LENGTH HOST:PORT…; the first address is the path to begin with."""
    export, offset, length, *addresses = arguments
    return asyncio.run(_run(addresses, export, int(offset), int(length)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
