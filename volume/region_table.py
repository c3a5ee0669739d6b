"""plan: the region table of a volume [0038]: who serves each region, who holds a copy, and where.

One row per region, one NumPy column per fact, because a catalog operation on a volume is an array
operation: 1 TiB is 65,536 rows (ruling R6). The catalog writes `owner`, `in_sync`, `joiner`,
`epoch`, `version` and `offline` in place; the copy slots belong to the volume manager.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest
from base.ids import NOBODY
from base.units import NODES_MAX

SLOTS: Final = 3  # owner, replicant, and one that is being recruited or has fallen behind
REGIONS_MAX: Final = 1 << 22

_MAGIC: Final = b"RT03"
# Order and byte order are the format: equal tables have equal bytes on every machine.
_COLUMNS: Final[tuple[tuple[str, str, int], ...]] = (
    ("owner", "u1", 0),
    ("in_sync", "u1", 0),
    ("joiner", "u1", 0),
    ("epoch", "<u4", 0),
    ("version", "<u8", 0),
    ("offline", "?", 0),
    ("slot_node", "u1", SLOTS),
    ("slot_ld", "<u4", SLOTS),
    ("slot_region", "<u4", SLOTS),
    ("slot_epoch", "<u4", SLOTS),
    ("slot_short", "?", SLOTS),
    ("left", "u1", 0),
    ("left_version", "<u8", 0),
)
_ROW_BYTES: Final = sum(np.dtype(kind).itemsize * max(1, width) for _, kind, width in _COLUMNS)


@dataclass(frozen=True, slots=True)
class RegionRow:
    """One region as one node sees it. `ld` and `ld_region` are -1 when the node has no slot."""

    epoch: int
    owner: int
    in_sync: int  # bit per node, owner included
    joiner: int  # NOBODY: none
    offline: bool
    version: int
    ld: int
    ld_region: int

    def is_member(self, node: int) -> bool:
        """Does the node hold an in-sync copy?"""
        return bool(self.in_sync >> node & 1)


class RegionTable:
    """`owner` u8 (NOBODY: none), `in_sync` u8 of node bits, `joiner` u8 (NOBODY: none), `epoch`
    u32, `version` u64 (catalog version of the row's last change), `offline` bool, and the copies:
    `slot_node` u8[n, 3] (NOBODY: empty), `slot_ld` and `slot_region` u32[n, 3] (0 when empty),
    `slot_epoch` u32[n, 3]: the last epoch in which that copy was in sync, 0 when it never was;
    `slot_short` bool[n, 3]: its node has lost power since, and what it had not synced.

    `left` u8: the node that was the last to leave `in_sync`, when its copy holds all that had been
    acknowledged until then (NOBODY: no such copy); `left_version` u64: the catalog version at which
    the set last lost a member.

    A node in a slot that is neither in sync nor joining has a *stale* copy: its space is held.
    """

    __slots__ = (
        "epoch", "in_sync", "joiner", "left", "left_version", "offline", "owner", "slot_epoch",
        "slot_ld", "slot_node", "slot_region", "slot_short", "version",
    )  # fmt: skip

    owner: NDArray[np.uint8]
    in_sync: NDArray[np.uint8]
    joiner: NDArray[np.uint8]
    epoch: NDArray[np.uint32]
    version: NDArray[np.uint64]
    offline: NDArray[np.bool_]
    slot_node: NDArray[np.uint8]
    slot_ld: NDArray[np.uint32]
    slot_region: NDArray[np.uint32]
    slot_epoch: NDArray[np.uint32]
    slot_short: NDArray[np.bool_]
    left: NDArray[np.uint8]
    left_version: NDArray[np.uint64]

    def __init__(self, regions: int = 0) -> None:
        """Rows without owner or copy: whoever makes them fills them at once."""
        for name, kind, width in _COLUMNS:
            shape = (regions, width) if width else (regions,)
            setattr(self, name, np.zeros(shape, dtype=kind))
        self.owner[:] = NOBODY
        self.joiner[:] = NOBODY
        self.slot_node[:] = NOBODY
        self.left[:] = NOBODY

    def __len__(self) -> int:
        return len(self.owner)

    def slot_of(self, region: int, node: int) -> int:
        """The slot that the node's copy of the region is in, -1 when it has none."""
        slots = self.slot_node[region]
        for slot in range(SLOTS):
            if slots[slot] == node:
                return slot
        return -1

    def slots_of(self, regions: NDArray[Any], node: NDArray[Any] | int) -> NDArray[np.int8]:
        """`slot_of` for many regions; `node` is one node, or one per region."""
        nodes = np.asarray(node)
        hit = self.slot_node[regions] == (nodes[:, None] if nodes.ndim else nodes)
        return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int8)

    def regions_of(self, node: int) -> NDArray[np.intp]:
        """Regions of which the node has a copy in any state, ascending."""
        return np.flatnonzero((self.slot_node == node).any(axis=1))

    def stale_slots(self, regions: NDArray[Any]) -> NDArray[np.bool_]:
        """bool[len(regions), 3]: slots with a copy that no member or joiner uses."""
        nodes = self.slot_node[regions]
        taken = nodes != NOBODY
        shift = np.where(taken, nodes, 0).astype(np.uint8)
        member = (self.in_sync[regions][:, None] >> shift & 1).astype(np.bool_)
        joining = nodes == self.joiner[regions][:, None]
        owning = nodes == self.owner[regions][:, None]
        return np.asarray(taken & ~member & ~joining & ~owning, dtype=np.bool_)

    def note_members(self, regions: NDArray[Any]) -> None:
        """Those rows have a new epoch: whoever is in sync now is so in that epoch."""
        nodes = self.slot_node[regions]
        shift = np.where(nodes != NOBODY, nodes, 0).astype(np.uint8)
        member = (nodes != NOBODY) & (self.in_sync[regions][:, None] >> shift & 1 == 1)
        epochs = self.epoch[regions][:, None]
        self.slot_epoch[regions] = np.where(member, epochs, self.slot_epoch[regions])
        self.slot_short[regions] &= ~member

    def note_lost_power(self, node: int) -> None:
        """What the node had not synced is gone: none of its copies that is not in sync is whole."""
        self.left[self.left == node] = NOBODY
        stale = self.in_sync & np.uint8(1 << node) == 0
        self.slot_short |= (self.slot_node == node) & stale[:, None]

    def row(self, region: int, node: int) -> RegionRow:
        """The region with the given node's own LD region."""
        slot = self.slot_of(region, node)
        return RegionRow(
            int(self.epoch[region]),
            int(self.owner[region]),
            int(self.in_sync[region]),
            int(self.joiner[region]),
            bool(self.offline[region]),
            int(self.version[region]),
            int(self.slot_ld[region, slot]) if slot >= 0 else -1,
            int(self.slot_region[region, slot]) if slot >= 0 else -1,
        )

    def grow(self, more: RegionTable) -> None:
        """Append the rows of another table."""
        for name, _, _ in _COLUMNS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(more, name)]))

    def to_bytes(self) -> bytes:
        """Canonical: equal tables give equal bytes."""
        parts = [_MAGIC, len(self).to_bytes(4, "little")]
        for name, kind, _ in _COLUMNS:
            column = np.ascontiguousarray(getattr(self, name), dtype=kind)
            parts.append(column.tobytes())
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> RegionTable:
        """Inverse of `to_bytes`; InvalidRequest when it is not one."""
        if len(data) < 8 or bytes(data[:4]) != _MAGIC:
            raise InvalidRequest("region table: not in the format RT03")
        regions = int.from_bytes(data[4:8], "little")
        if regions > REGIONS_MAX or len(data) != 8 + regions * _ROW_BYTES:
            raise InvalidRequest(f"region table: {len(data)} bytes do not hold {regions} regions")
        table = cls()
        at = 8
        for name, kind, width in _COLUMNS:
            count = regions * max(1, width)
            # A bool that is neither 0 nor 1 would compare unequal to itself once written again.
            raw = "u1" if kind == "?" else kind
            column = np.frombuffer(data, dtype=raw, count=count, offset=at).astype(kind)
            setattr(table, name, column.reshape(regions, width) if width else column)
            at += count * np.dtype(kind).itemsize
        return table

    def check(self) -> list[str]:
        """Broken invariants, in words; empty when all is well."""
        faults: list[str] = []

        def report(broken: NDArray[Any], rule: str) -> None:
            rows = np.flatnonzero(broken)
            if len(rows):
                faults.append(f"region {rows[0]} (and {len(rows) - 1} more): {rule}")

        nodes = self.slot_node
        taken = nodes != NOBODY
        bits = np.where(taken, np.left_shift(1, np.where(taken, nodes, 0).astype(np.int64)), 0)
        held = np.bitwise_or.reduce(bits, axis=1)
        in_sync = self.in_sync.astype(np.int64)
        owned = self.owner < NODES_MAX
        owner_bit = np.where(owned, np.left_shift(1, np.where(owned, self.owner, 0)), 0)
        report((taken & (nodes >= NODES_MAX)).any(axis=1), "a slot names a node above 7")
        report(bits.sum(axis=1) != held, "two copies are on one node")
        report(in_sync & ~held != 0, "an in-sync copy has no slot")
        report(~self.offline & (owner_bit & in_sync == 0), "the owner is not in sync")
        joins = self.joiner != NOBODY
        joiner_bit = np.where(joins, np.left_shift(1, np.where(joins, self.joiner, 0) & 7), 0)
        report(joins & ((self.joiner >= NODES_MAX) | (joiner_bit & held == 0)), "no slot to join")
        report(joiner_bit & in_sync != 0, "the joiner is in sync already")
        used = self.slot_ld | self.slot_region | self.slot_epoch | self.slot_short
        report((~taken & (used != 0)).sum(axis=1) != 0, "dirty empty slot")
        later = (self.slot_epoch > self.epoch[:, None]).sum(axis=1)
        report(later != 0, "a copy is of a later epoch")
        left = self.left != NOBODY
        left_bit = np.where(left, np.left_shift(1, np.where(left, self.left, 0) & 7), 0)
        report(left & (left_bit & held == 0), "the copy that left last has no slot")
        return faults
