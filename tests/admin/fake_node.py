"""A cluster that is only a view: what the API serves and `up` starts in tests."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from base.errors import AlreadyExists, InvalidRequest, NoSpace, NotFound
from node.cluster_directory import read_secret
from node.config import FILE_NAME, load, node_config
from tests.admin.fake_snapshots import FakeSnapshots

COUNTS = {"total": 4, "normal": 4, "joining": 0, "degraded": 0, "offline": 0}

LOSS = {
    "region": 2, "node": 5, "empty": False, "copy_epoch": 8, "lost_first_epoch": 9,
    "lost_last_epoch": 11, "short": False, "waited_for": [3],
    "text": "region 2 lost epochs 9 to 11",
}  # fmt: skip


class FakeView:
    """Keeps volumes in a dict. `fails` is raised by the next call, whatever it is."""

    def __init__(self, node: int = 0, nodes: int = 2) -> None:
        self.node = node
        self.nodes_total = nodes
        self.rows: dict[str, dict[str, Any]] = {}
        self.fails: BaseException | None = None
        self.ready = asyncio.Event()
        self.ready.set()
        self.stopped = asyncio.Event()
        self.bases: dict[int, Any] = {}
        self.snapshots = FakeSnapshots(self.rows)

    def _fail(self) -> None:
        error, self.fails = self.fails, None
        if error is not None:
            raise error

    async def status(self) -> Any:
        self._fail()
        return {
            "cluster": "fake", "node": self.node, "incarnation": 1, "ready": self.ready.is_set(),
            "leader": 0, "term": 3, "catalog_version": 17, "nodes_alive": self.nodes_total,
            "nodes_total": self.nodes_total, "volumes": len(self.rows), "regions": dict(COUNTS),
            "rebuild_bytes_total": 0, "owners_away": 0, "copies_away": 0, "failback": "auto",
        }  # fmt: skip

    async def nodes(self) -> Any:
        self._fail()
        return [
            {
                "id": number, "name": f"n{number}", "state": "alive", "leader": number == 0,
                "voter": True, "incarnation": 1, "host": "127.0.0.1", "mesh_port": 1,
                "nbd_port": 2, "admin_port": 3, "failure_domain": number, "regions_owned": 2,
                "regions_copied": 2, "regions_fair": 2, "regions_stale": 0, "damped_s": 0,
                "disk_bytes": 1 << 40, "free_bytes": 1 << 39,
            }
            for number in range(self.nodes_total)
        ]  # fmt: skip

    async def volumes(self) -> Any:
        self._fail()
        return [self.rows[name] for name in sorted(self.rows)]

    async def volume(self, name: str) -> Any:
        self._fail()
        if name not in self.rows:
            raise NotFound(f"there is no volume {name}")
        return self.rows[name]

    async def create_volume(self, spec: Any) -> Any:
        self._fail()
        if spec["name"] in self.rows:
            raise AlreadyExists(f"volume {spec['name']} exists")
        if spec["size_bytes"] > 1 << 50:
            raise NoSpace("1 TiB is free")
        shape = {"page_bytes": 16384, "l2_entries": 32, "l3_entries": 32, "copies": 2}
        self.rows[spec["name"]] = {
            "id": len(self.rows) + 1, "state": "normal", "group": "raid0", "degraded": "synced",
            "region_bytes": 1 << 24, "regions": dict(COUNTS), "regions_forced": 0, **shape, **spec,
        }  # fmt: skip
        return self.rows[spec["name"]]

    async def grow_volume(self, name: str, size_bytes: int) -> Any:
        row = await self.volume(name)
        if size_bytes < row["size_bytes"]:
            raise InvalidRequest("a volume cannot shrink")
        row["size_bytes"] = size_bytes
        return row

    async def remove_volume(self, name: str) -> None:
        await self.volume(name)
        del self.rows[name]

    async def regions(self, name: str, first: int, count: int) -> Any:
        await self.volume(name)
        return [
            {"region": region, "state": "normal", "epoch": 5, "owner": 0, "copies": [0, 1],
             "joiner": -1}
            for region in range(first, min(4, first + count))
        ]  # fmt: skip

    async def losses(self, name: str) -> Any:
        await self.volume(name)
        return [LOSS] if self.rows[name]["regions_forced"] else []

    async def recover(self, name: str, regions: Any, accept_loss: bool) -> Any:
        row = await self.volume(name)
        if not accept_loss:
            raise InvalidRequest("this would lose data: all of it; say --accept-loss")
        row["regions_forced"] = 1
        return {"name": name, "opened": [LOSS], "skipped": 0}

    async def rebalance(self) -> Any:
        self._fail()
        return {"rebalancing": True, "owners_away": 3, "copies_away": 1}

    async def map_address(self, name: str, offset: int) -> Any:
        row = await self.volume(name)
        if offset >= row["size_bytes"]:
            raise InvalidRequest(f"offset {offset} is past the end")
        block = {"disk": 3, "cage": 0, "sled": 0, "slot": 3, "loop": "A0", "chunklet": 9,
                 "disk_offset": 4096}  # fmt: skip
        copy = {"node": 0, "role": "owner", "ld": 1, "ld_region": 0, "ld_offset": offset,
                "raid_level": 0, "blocks": [block]}  # fmt: skip
        return {"volume": name, "offset": offset, "region": 0, "region_offset": offset,
                "page": offset // 16384, "epoch": 5, "copies": [copy]}  # fmt: skip

    async def statistics(self) -> Any:
        self._fail()
        return {
            "node": self.node, "uptime_ms": 1500, "regions_owned": 2, "regions_copied": 2,
            "regions_joining": 0,
            "host": {"connections": 1, "in_flight": 0, "reads_total": 10, "writes_total": 20,
                     "read_bytes_total": 40960, "written_bytes_total": 81920, "flushes_total": 1,
                     "errors_total": 0, "waits_total": 0},
            "journal": {"used_bytes": 1024, "limit_bytes": 4096, "appended_bytes_total": 9999,
                        "commits_total": 5, "syncs_total": 2},
            "cache": {"dirty_bytes": 512, "limit_bytes": 2048, "destaged_bytes_total": 100},
            "rebuild_bytes_total": 0,
            "resyncs": {"same_total": 0, "log_total": 1, "delta_total": 2, "full_total": 3},
            "resync_bytes": {"same_total": 0, "log_total": 9, "delta_total": 8, "full_total": 7},
            "cuts": {"made_total": 3, "abandoned_total": 0, "held_ms_total": 9, "held_ms_max": 4},
            "takeovers_total": 0, "exposed_ms_total": 250,
            "resident_bytes": 50 << 20, "cpu_ms_total": 30,
        }  # fmt: skip

    async def check_catalog(self, *, with_bytes: bool) -> Any:
        self._fail()
        return {"node": self.node, "version": 17, "digest": 99, "catalog": "" * with_bytes}

    async def check_regions(self, first: int, count: int) -> Any:
        self._fail()
        return {"node": self.node, "version": 17, "total": 0, "rows": []}

    async def check_digest(self, volume: int, region: int) -> Any:
        raise NotFound(f"n{self.node} has no complete copy of region {region}")

    async def wait_ready(self) -> None:
        await self.ready.wait()

    async def stop(self) -> None:
        self.stopped.set()


def run(directory: Path, node: int) -> int:
    """A node process: the API over a FakeView until SIGTERM."""
    return asyncio.run(_run(directory, node))


async def _run(directory: Path, node: int) -> int:
    from admin.http import serve

    config = node_config(load(directory / FILE_NAME), directory, node)
    view = FakeView(node, len(config.cluster.nodes))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, view.stopped.set)
    server = await serve(
        view,
        host=config.options.host,
        port=config.options.admin_port,
        token=read_secret(config.token_path).decode(),
    )
    print("up", os.getpid(), flush=True)
    await view.stopped.wait()
    await server.close()
    return 0
