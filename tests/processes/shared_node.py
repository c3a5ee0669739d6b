"""A node without a cluster: every process serves the same bytes out of one shared file.

Enough for the demo to be told from beginning to end; `LOSES` makes it lose what one node wrote.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from admin.local import node_pid, read_cluster
from host.export import MappedExports
from host.memory_volume import MemoryVolume
from host.nbd_target import NbdTarget
from node.cluster_directory import read_secret
from node.config import FILE_NAME, load, node_config
from tests.admin.fake_node import FakeView

SIZE_BYTES = 16 << 20
REGIONS = 8


class SharedView(FakeView):
    """Node 1 owns most regions; when it is dead node 2 does."""

    def __init__(self, directory: Path, node: int) -> None:
        super().__init__(node, 3)
        self.directory = directory

    def _owner(self, region: int) -> int:
        busy = 1 if node_pid(read_cluster(self.directory).node(1)) else 2
        return busy if region else 0

    async def create_volume(self, spec: Any) -> Any:
        return await self.volume(spec["name"])

    async def volume(self, name: str) -> Any:
        counts = {"total": REGIONS, "normal": REGIONS, "joining": 0, "degraded": 0, "offline": 0}
        return {"name": name, "state": "normal", "size_bytes": SIZE_BYTES, "regions": counts}

    async def regions(self, name: str, first: int, count: int) -> Any:
        return [{"region": region, "owner": self._owner(region)} for region in range(REGIONS)]


def run(directory: Path, node: int) -> int:
    """A node process until SIGTERM."""
    return asyncio.run(_run(directory, node))


def run_losing(directory: Path, node: int) -> int:
    """The same, but node 1 keeps what is written to it to itself."""
    return asyncio.run(_run(directory, node, private=node == 1))


async def _run(directory: Path, node: int, private: bool = False) -> int:
    from admin.http import serve

    config = node_config(load(directory / FILE_NAME), directory, node)
    path = directory / ("private" if private else "shared")
    with open(path, "ab") as file:
        os.truncate(file.fileno(), SIZE_BYTES)
    volume = MemoryVolume("demo", SIZE_BYTES)
    volume._bytes = np.memmap(path, np.uint8, "r+", shape=(SIZE_BYTES,)).data
    volume._used = bytearray(b"\x01" * len(volume._used))
    target = NbdTarget(MappedExports({"demo": volume}))
    await target.listen_tcp(config.options.host, config.options.nbd_port)
    view = SharedView(directory, node)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, view.stopped.set)
    token = read_secret(config.token_path).decode()
    server = await serve(
        view, host=config.options.host, port=config.options.admin_port, token=token
    )
    await view.stopped.wait()
    await target.stop()
    await server.close()
    return 0
