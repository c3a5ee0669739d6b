"""plan: a virtual volume: its shape, its policy, and its region table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from base.errors import InvalidRequest
from base.ids import VolumeId
from base.units import BLOCK_BYTES, SECTOR_BYTES, KiB, MiB
from volume.provisioning_group import is_name
from volume.region_table import REGIONS_MAX, RegionTable

TABLE_ENTRIES_DEFAULT: Final = 32  # of an L2 and of an L3 table
TABLE_ENTRIES_MAX: Final = 4096
PAGE_BYTES_MIN: Final = 4 * KiB
PAGE_BYTES_MAX: Final = MiB
REGION_BYTES_MAX: Final = 1024 * MiB
COPIES_MAX: Final = 2
COPIES_DEFAULT: Final = 2


class DegradedPolicy(StrEnum):
    """What writes do while a region has one copy left."""

    SYNCED = "synced"  # acknowledged after the journal is synced
    SUSPEND = "suspend"  # wait until there are two copies again
    CONTINUE = "continue"  # acknowledged as before


@dataclass(frozen=True, slots=True)
class VolumeShape:
    """The numbers that are fixed when a volume is created. InvalidRequest names the broken rule."""

    page_bytes: int
    l2_entries: int
    l3_entries: int

    def __post_init__(self) -> None:
        page = self.page_bytes
        if not _whole(page) or not PAGE_BYTES_MIN <= page <= PAGE_BYTES_MAX or page & (page - 1):
            raise InvalidRequest(
                f"page_bytes {page!r} is not a power of two"
                f" between {PAGE_BYTES_MIN} and {PAGE_BYTES_MAX}"
            )
        for key, entries in (("l2_entries", self.l2_entries), ("l3_entries", self.l3_entries)):
            if not _whole(entries) or not 1 <= entries <= TABLE_ENTRIES_MAX:
                raise InvalidRequest(f"{key} {entries!r} is not between 1 and {TABLE_ENTRIES_MAX}")
        if self.region_bytes > REGION_BYTES_MAX:
            raise InvalidRequest(
                f"a region of {self.region_bytes} bytes is above {REGION_BYTES_MAX}:"
                " choose smaller pages or tables"
            )

    @property
    def region_bytes(self) -> int:
        """Reach of one L2 table."""
        return self.l2_entries * self.l3_entries * self.page_bytes

    def regions_for(self, size_bytes: int) -> int:
        """Regions of a volume of that size; the last one may be used in part only.

        Ruling R6: 1 TiB in regions of 16 MiB is 65,536, whatever the number of nodes.
        """
        if not _whole(size_bytes) or size_bytes <= 0 or size_bytes % SECTOR_BYTES:
            raise InvalidRequest(
                f"size {size_bytes!r} is not a positive multiple of {SECTOR_BYTES} bytes"
            )
        regions = -(-size_bytes // self.region_bytes)
        if regions > REGIONS_MAX:
            raise InvalidRequest(
                f"size {size_bytes} makes {regions} regions; at most {REGIONS_MAX} are possible"
            )
        return regions


def _whole(value: object) -> bool:
    return type(value) is int


def check_name(name: object) -> str:
    """The name, or InvalidRequest."""
    if not is_name(name):
        raise InvalidRequest(
            f"{name!r} is not a volume name: 1 to 64 of A-Z a-z 0-9 . _ -"
            " and not starting with . or -"
        )
    assert isinstance(name, str)
    return name


@dataclass(slots=True)
class VirtualVolume:
    """What a host uses. Only `size_bytes` and the table change after it was created."""

    volume: VolumeId
    name: str
    size_bytes: int
    shape: VolumeShape
    copies: int
    policy: DegradedPolicy
    group: str
    table: RegionTable
    block_bytes: int = BLOCK_BYTES  # what hosts are told to prefer
    sector_bytes: int = SECTOR_BYTES  # the least that they may address

    @property
    def page_bytes(self) -> int:
        """Unit of mapping and copy-on-write."""
        return self.shape.page_bytes

    @property
    def l2_entries(self) -> int:
        """Entries of an L2 table."""
        return self.shape.l2_entries

    @property
    def l3_entries(self) -> int:
        """Entries of an L3 table."""
        return self.shape.l3_entries

    @property
    def region_bytes(self) -> int:
        """Reach of one L2 table."""
        return self.shape.region_bytes

    @property
    def regions(self) -> int:
        """Rows of the region table."""
        return len(self.table)

    def to_plain(self) -> list[object]:
        """Plain values and the table's canonical bytes, in a fixed order."""
        shape = self.shape
        return [
            self.volume, self.name, self.size_bytes, shape.page_bytes, shape.l2_entries,
            shape.l3_entries, self.copies, str(self.policy), self.group, self.block_bytes,
            self.sector_bytes, self.table.to_bytes(),
        ]  # fmt: skip

    @classmethod
    def from_plain(cls, plain: Any) -> VirtualVolume:
        """Inverse of `to_plain`. ValueError, TypeError or InvalidRequest when it is not one."""
        number, name, size, page, l2, l3, copies, policy, group, block, sector, table = plain
        whole = (number, size, copies, block, sector)
        if any(not _whole(value) or value <= 0 for value in whole) or not isinstance(group, str):
            raise ValueError("a volume has a field of another type")
        if copies > COPIES_MAX:
            raise ValueError(f"a volume has {copies} copies")
        return cls(
            VolumeId(number), check_name(name), size, VolumeShape(page, l2, l3), copies,
            DegradedPolicy(policy), group, RegionTable.from_bytes(table), block, sector,
        )  # fmt: skip
