"""step: committed records that an owner keeps for a copy that is away, within bounds.

A copy that comes back soon needs what was written meanwhile, and nothing is cheaper than to send it
those records again. So the owner of a region that is short of a copy, or whose former copy still
holds its place, trims its log later: as far as the bounds per region and per node allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.units import KiB, MiB
from transport.operation import RECORD_BYTES

if TYPE_CHECKING:
    from node.region_copy import RegionCopy


class KeptBytes:
    """What one node keeps, and how much it may. Bytes, with RECORD_BYTES for each record."""

    __slots__ = ("node_max", "records_max", "region_max", "used")

    def __init__(
        self, node_max: int = 32 * MiB, region_max: int = 512 * KiB, records_max: int = 1024
    ) -> None:
        self.node_max = node_max
        self.region_max = region_max
        self.records_max = records_max
        self.used = 0


class KeptLog:
    """Of one copy: its log holds (log_base, ...], and of that `first` up to `counted` is kept."""

    __slots__ = ("bytes", "counted", "first", "node", "wanted")

    def __init__(self, node: KeptBytes) -> None:
        self.node = node
        self.wanted = False
        self.bytes = 0
        self.first = 0  # records behind it are kept
        self.counted = 0

    def want(self, wanted: bool, log_base: int) -> None:
        """Begin to keep what is committed from now on, or stop it."""
        if wanted and not self.wanted:
            self.first = self.counted = log_base
        elif self.wanted and not wanted:
            self.node.used -= self.bytes
            self.bytes = 0
        self.wanted = wanted

    def keep_from(self, copy: RegionCopy) -> int:
        """Count what was committed since the last call; up to which seq the log may be trimmed."""
        log, base = copy.log, copy.log_base
        node = self.node
        for at in range(self.counted - base, copy.committed - base):
            record = log[at]
            if type(record.data) is memoryview:
                # A view would keep all that arrived together with it.
                record.data = bytes(record.data)
            size = RECORD_BYTES + len(record.data)
            self.bytes += size
            node.used += size
        self.counted = copy.committed
        while self.first < self.counted and (
            self.bytes > node.region_max
            or node.used > node.node_max
            or self.counted - self.first > node.records_max
        ):
            size = RECORD_BYTES + len(log[self.first - base].data)
            self.bytes -= size
            node.used -= size
            self.first += 1
        return self.first
