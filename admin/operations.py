"""shell: the operations of the JSON API as one table: routes and document come from it."""

from __future__ import annotations

import asyncio
from typing import Final

from admin.operation import Ask, Operation, QueryNumber
from admin.snapshot_operations import SNAPSHOT_OPERATIONS
from admin.view import (
    REGIONS_MAX,
    AddressMap,
    CatalogCopy,
    GrowSpec,
    HeldRows,
    LossRow,
    NodeRow,
    NodeView,
    Ready,
    Rebalancing,
    Recovered,
    RecoverSpec,
    RegionDigest,
    RegionRow,
    Removed,
    Statistics,
    Status,
    VolumeRow,
    VolumeSpec,
    recover_spec,
    size_of,
    volume_spec,
)
from base.errors import InvalidRequest

OFFSET_MAX: Final = (1 << 63) - 1
WAIT_MS_MAX: Final = 60_000


async def _status(view: NodeView, ask: Ask) -> object:
    return await view.status()


async def _nodes(view: NodeView, ask: Ask) -> object:
    return await view.nodes()


async def _volumes(view: NodeView, ask: Ask) -> object:
    return await view.volumes()


async def _volume(view: NodeView, ask: Ask) -> object:
    return await view.volume(ask.path["name"])


async def _create(view: NodeView, ask: Ask) -> object:
    return await view.create_volume(volume_spec(ask.body))


async def _grow(view: NodeView, ask: Ask) -> object:
    for key in sorted(ask.body):
        if key != "size_bytes":
            raise InvalidRequest(f"{key}: is not a property; only size_bytes is")
    if "size_bytes" not in ask.body:
        raise InvalidRequest("size_bytes: is missing")
    size_bytes = size_of(ask.body["size_bytes"], key="size_bytes")
    return await view.grow_volume(ask.path["name"], size_bytes)


async def _remove(view: NodeView, ask: Ask) -> object:
    await view.remove_volume(ask.path["name"])
    return {"name": ask.path["name"], "removed": True}


async def _regions(view: NodeView, ask: Ask) -> object:
    return await view.regions(ask.path["name"], ask.query["first"], ask.query["count"])


async def _losses(view: NodeView, ask: Ask) -> object:
    return await view.losses(ask.path["name"])


async def _recover(view: NodeView, ask: Ask) -> object:
    regions, accept_loss = recover_spec(ask.body)
    return await view.recover(ask.path["name"], regions, accept_loss)


async def _rebalance(view: NodeView, ask: Ask) -> object:
    return await view.rebalance()


async def _map(view: NodeView, ask: Ask) -> object:
    return await view.map_address(ask.path["name"], ask.query["offset"])


async def _statistics(view: NodeView, ask: Ask) -> object:
    return await view.statistics()


async def _check_catalog(view: NodeView, ask: Ask) -> object:
    return await view.check_catalog(with_bytes=bool(ask.query["bytes"]))


async def _check_regions(view: NodeView, ask: Ask) -> object:
    return await view.check_regions(ask.query["first"], ask.query["count"])


async def _check_digest(view: NodeView, ask: Ask) -> object:
    return await view.check_digest(ask.query["volume"], ask.query["region"])


async def _ready(view: NodeView, ask: Ask) -> object:
    status = await view.status()
    ready = status["ready"]
    if not ready and ask.query["wait_ms"]:
        try:
            async with asyncio.timeout(ask.query["wait_ms"] / 1000):
                await view.wait_ready()
            ready = True
        except TimeoutError:
            pass
    return {"node": status["node"], "ready": ready}


async def _stop(view: NodeView, ask: Ask) -> object:
    status = await view.status()
    await view.stop()
    return {"node": status["node"], "ready": False}


_CHANGES: Final = ("invalid", "no_quorum", "not_leader", "timeout")

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("GET", "/v1/status", "status", "The cluster in a few numbers.", _status, Status),
    Operation("GET", "/v1/nodes", "nodes", "Every node, by id.", _nodes, list[NodeRow]),
    Operation(
        "GET", "/v1/volumes", "volumes", "Every volume, by name.", _volumes, list[VolumeRow]
    ),
    Operation(
        "POST", "/v1/volumes", "createVolume", "Create a volume. Sizes may be text, as 10GiB.",
        _create, VolumeRow, body=VolumeSpec,
        errors=(*_CHANGES, "exists", "not_found", "no_space"), status=201,
    ),
    Operation(
        "GET", "/v1/volumes/{name}", "volume", "One volume.", _volume, VolumeRow,
        errors=("not_found",),
    ),
    Operation(
        "DELETE", "/v1/volumes/{name}", "removeVolume", "Remove a volume with its contents.",
        _remove, Removed, errors=(*_CHANGES, "not_found"),
    ),
    Operation(
        "POST", "/v1/volumes/{name}/grow", "growVolume", "Make a volume larger while it is used.",
        _grow, VolumeRow, body=GrowSpec,
        errors=(*_CHANGES, "not_found", "no_space"),
    ),
    Operation(
        "GET", "/v1/volumes/{name}/regions", "regions", "Owner and copies of each region.",
        _regions, list[RegionRow], errors=("invalid", "not_found"),
        query=(
            QueryNumber("first", 0, OFFSET_MAX, 0, "First region of the answer."),
            QueryNumber("count", 1, REGIONS_MAX, 256, "Regions at most."),
        ),
    ),
    Operation(
        "GET", "/v1/volumes/{name}/losses", "losses", "What operators have given up of a volume.",
        _losses, list[LossRow], errors=("not_found",),
    ),
    Operation(
        "POST", "/v1/volumes/{name}/recover", "recover",
        "Open offline regions with what is left of them. Refused without accept_loss.",
        _recover, Recovered, body=RecoverSpec, errors=(*_CHANGES, "not_found", "no_space"),
    ),
    Operation(
        "POST", "/v1/rebalance", "rebalance", "Let copies and owners go home now.",
        _rebalance, Rebalancing, errors=_CHANGES, status=202,
    ),
    Operation(
        "GET", "/v1/volumes/{name}/map", "mapAddress", "Every physical place of one byte.",
        _map, AddressMap, errors=("invalid", "not_found"),
        query=(QueryNumber("offset", 0, OFFSET_MAX, None, "Byte offset in the volume."),),
    ),
    Operation(
        "GET", "/v1/statistics", "statistics", "Counters of this node.", _statistics, Statistics
    ),
    Operation(
        "GET", "/v1/check/catalog", "checkCatalog", "The catalog of this node, and its digest.",
        _check_catalog, CatalogCopy,
        query=(QueryNumber("bytes", 0, 1, 0, "1: with its bytes."),),
    ),
    Operation(
        "GET", "/v1/check/regions", "checkRegions", "The regions that this node keeps, and where.",
        _check_regions, HeldRows,
        query=(
            QueryNumber("first", 0, OFFSET_MAX, 0, "First region of the answer."),
            QueryNumber("count", 1, REGIONS_MAX, REGIONS_MAX, "Regions at most."),
        ),
    ),
    Operation(
        "GET", "/v1/check/digest", "checkDigest", "SHA-256 of this node's copy of a region.",
        _check_digest, RegionDigest, errors=("not_found",),
        query=(
            QueryNumber("volume", 1, OFFSET_MAX, None, "Number of the volume."),
            QueryNumber("region", 0, OFFSET_MAX, None, "Region of the volume."),
        ),
    ),
    Operation(
        "GET", "/v1/ready", "ready", "Wait until this node serves hosts, or the time is over.",
        _ready, Ready,
        query=(QueryNumber("wait_ms", 0, WAIT_MS_MAX, 0, "Longest wait for the answer."),),
    ),
    Operation(
        "POST", "/v1/stop", "stop", "Stop this node cleanly.", _stop, Ready, status=202
    ),
    *SNAPSHOT_OPERATIONS,
)  # fmt: skip

__all__ = ["OPERATIONS", "Ask", "Operation"]
