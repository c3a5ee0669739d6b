"""codec: what a host asks a node about a volume: its shape, the owner of each region, who is up.

Travels in AdminRequest and AdminReply under the call `CALL`, as msgpack arrays:

    arguments  [VOLUME or VOLUME@SNAPSHOT, the catalog version that the asker holds (0: none)]
    result     [version, volume id, size_bytes, region_bytes, block_min_bytes, read_only,
                owners: one byte a region, up nodes ascending, number of the snapshot or 0]
    or         [version] when the asker's version is not older: nothing else could have changed

A byte of `owners` is the id of the node that serves the region, NOBODY while it is offline.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgpack

from base.errors import RemoteProtocolError
from base.ids import NOBODY
from base.units import BLOCK_BYTES, NODES_MAX, SECTOR_BYTES
from transport.operation import REGION_BYTES_MAX

CALL: Final = "topology"
NAME_BYTES_MAX: Final = 255
REGIONS_MAX: Final = 1 << 22  # as a volume's region table
VERSION_MAX: Final = (1 << 63) - 1
VOLUME_MAX: Final = (1 << 32) - 1  # what an operation has room for
VIEW_MAX: Final = (1 << 28) - 1

_OWNERS: Final = bytes((*range(NODES_MAX), NOBODY))


@dataclass(frozen=True, slots=True)
class Topology:
    """One volume as the catalog of `version` shows it. Bounds are checked by whoever made it."""

    version: int
    volume: int
    size_bytes: int
    region_bytes: int
    block_min_bytes: int
    read_only: bool
    owners: bytes  # by region: a node, or NOBODY
    up_nodes: tuple[int, ...]  # ascending
    view: int = 0  # of the snapshot; 0: the volume itself

    @property
    def regions(self) -> int:
        """Regions of the volume; the last may be used in part only."""
        return len(self.owners)


def pack_query(name: str, known_version: int) -> bytes:
    """Arguments of the call. known_version: of the topology that the asker holds; 0: none."""
    arguments: bytes = msgpack.packb((name, known_version))
    return arguments


def unpack_query(arguments: bytes) -> tuple[str, int]:
    """(name of the volume, known version). RemoteProtocolError names the broken rule."""
    values = _unpack(arguments, "a topology question")
    if len(values) != 2:
        raise RemoteProtocolError(f"a topology question has {len(values)} fields instead of 2")
    name, version = values
    if type(name) is not str or not 0 < len(name.encode("utf-8", "replace")) <= NAME_BYTES_MAX:
        raise RemoteProtocolError("a topology question names no volume")
    return name, _whole(version, 0, VERSION_MAX, "known version")


def pack_unchanged(version: int) -> bytes:
    """Result for an asker whose version is not older than `version`, the answering node's."""
    result: bytes = msgpack.packb((version,))
    return result


def pack_topology(topology: Topology) -> bytes:
    """The whole result."""
    result: bytes = msgpack.packb(
        (
            topology.version,
            topology.volume,
            topology.size_bytes,
            topology.region_bytes,
            topology.block_min_bytes,
            topology.read_only,
            topology.owners,
            topology.up_nodes,
            topology.view,
        )
    )
    return result


def unpack_topology(result: bytes) -> Topology | None:
    """The topology, None when the node has nothing newer. RemoteProtocolError names the rule."""
    values = _unpack(result, "a topology")
    if len(values) == 1:
        _whole(values[0], 0, VERSION_MAX, "version")
        return None
    if len(values) != 9:
        raise RemoteProtocolError(f"a topology has {len(values)} fields instead of 9")
    version, volume, size_bytes, region_bytes, block_min_bytes, read_only, owners, up, view = values
    _whole(version, 0, VERSION_MAX, "version")
    _whole(volume, 0, VOLUME_MAX, "volume id")
    _whole(block_min_bytes, SECTOR_BYTES, BLOCK_BYTES, "block_min_bytes")
    if block_min_bytes & (block_min_bytes - 1):
        raise RemoteProtocolError(f"topology: block_min_bytes {block_min_bytes}: no power of two")
    _whole(region_bytes, block_min_bytes, REGION_BYTES_MAX, "region_bytes")
    _whole(size_bytes, block_min_bytes, region_bytes * REGIONS_MAX, "size_bytes")
    for key, value in (("region_bytes", region_bytes), ("size_bytes", size_bytes)):
        if value % block_min_bytes:
            raise RemoteProtocolError(f"topology: {key} {value}: not whole blocks")
    if type(read_only) is not bool:
        raise RemoteProtocolError("topology: read_only is not a truth value")
    return Topology(
        version,
        volume,
        size_bytes,
        region_bytes,
        block_min_bytes,
        read_only,
        _checked_owners(owners, -(-size_bytes // region_bytes)),
        _checked_nodes(up),
        _whole(view, 0, VIEW_MAX, "snapshot"),
    )


def _unpack(packed: bytes, what: str) -> tuple[Any, ...]:
    try:
        values = msgpack.unpackb(
            packed,
            use_list=False,
            max_array_len=NODES_MAX + 1,  # the fields of the whole
            max_bin_len=REGIONS_MAX,
            max_str_len=NAME_BYTES_MAX,
            max_ext_len=0,
            max_map_len=0,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"{what} is not msgpack: {error}") from None
    if type(values) is not tuple:
        raise RemoteProtocolError(f"{what} is not an array")
    return values


def _whole(value: Any, least: int, most: int, key: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise RemoteProtocolError(f"topology: {key} is not an integer from {least} to {most}")
    return value


def _checked_owners(owners: Any, regions: int) -> bytes:
    if type(owners) is not bytes or len(owners) != regions:
        raise RemoteProtocolError(
            f"topology: owners are not the {regions} bytes of as many regions"
        )
    if owners.translate(None, _OWNERS):
        raise RemoteProtocolError("topology: an owner is neither a node nor nobody")
    return owners


def _checked_nodes(up: Any) -> tuple[int, ...]:
    if type(up) is not tuple:
        raise RemoteProtocolError("topology: up nodes are not an array")
    nodes = tuple(_whole(node, 0, NODES_MAX - 1, "up node") for node in up)
    if any(first >= second for first, second in pairwise(nodes)):
        raise RemoteProtocolError("topology: up nodes are not ascending")
    return nodes
