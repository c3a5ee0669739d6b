"""shell: what a node answers to `eightfold check`: its catalog, what it keeps, digests of regions.

Only looks. A digest covers the bytes of a whole region at one commit point; it is read in pieces,
and given up when the region moves on meanwhile.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import TYPE_CHECKING

from admin.view import CatalogCopy, HeldRows, RegionDigest
from base.errors import NotFound
from base.units import MiB
from node.region_copy import RegionCopy

if TYPE_CHECKING:
    from node.daemon import Node

PIECE_BYTES = MiB
TRIES_MAX = 4


class RegionCheck:
    """See the module."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def catalog(self, *, with_bytes: bool) -> CatalogCopy:
        """The catalog of this node at this moment."""
        core = self._node.core
        data = core.catalog.to_bytes()
        return CatalogCopy(
            node=core.self_id,
            version=core.catalog.version,
            digest=zlib.crc32(data),
            catalog=base64.b64encode(data).decode() if with_bytes else "",
        )

    def regions(self, first: int, count: int) -> HeldRows:
        """What this node keeps, by volume and region, from the `first`-th on."""
        core, store = self._node.core, self._node.store
        keys = sorted(store.keys())
        rows: list[list[int]] = []
        for volume, region in keys[first : first + count]:
            copy = core.copies.get(volume, {}).get(region)
            ld, ld_region = (copy.place or (-1, -1)) if copy is not None else (-1, -1)
            committed = (copy.committed_epoch, copy.committed) if copy is not None else (0, 0)
            complete = store.is_complete((volume, region))
            rows.append([volume, region, ld, ld_region, int(complete), *committed])
        return HeldRows(
            node=core.self_id, version=core.catalog.version, total=len(keys), rows=rows
        )  # fmt: skip

    async def digest(self, volume: int, region: int) -> RegionDigest:
        """SHA-256 of a region at a commit point; "" when it moved on again and again. NotFound."""
        core, store = self._node.core, self._node.store
        key = (volume, region)
        for _ in range(TRIES_MAX):
            copy = core.copies.get(volume, {}).get(region)
            place = self._node.rebuild.place_of(key)
            if copy is None or place is None or key not in store or not store.is_complete(key):
                raise NotFound(f"n{core.self_id} has no complete copy of region {region}")
            before = _position(copy)
            digest = hashlib.sha256()
            for offset in range(0, place.region_bytes, PIECE_BYTES):
                piece = memoryview(bytearray(min(PIECE_BYTES, place.region_bytes - offset)))
                await store.read(key, offset, len(piece), piece)
                digest.update(piece)
                await self._node.ports.clock.sleep(0)
                if _position(copy) != before:
                    break
            if _position(copy) == before:
                break
        else:
            return RegionDigest(node=core.self_id, epoch=before[0], committed=before[1], digest="")
        return RegionDigest(
            node=core.self_id, epoch=before[0], committed=before[1], digest=digest.hexdigest()
        )


def _position(copy: RegionCopy) -> tuple[int, int]:
    return copy.committed_epoch, copy.committed
