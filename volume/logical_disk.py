"""plan: logical disks: rows of RAID sets of chunklets, handed out as LD regions of one size.

Addresses run through a row: `step_bytes` on one set, then on the next set of the row, and so on
round; rows follow one behind the other. All nodes hold every LD of every node as two small arrays;
the look-up lists for I/O are built when an LD is first addressed, so only on the node that has it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest
from volume.raid import DiskExtent, DiskOk, RaidSet, SetHealth, level_of

STEP_BYTES_DEFAULT: Final = 128 * 1024
SNAPSHOT_EXTENT_PAGES: Final = 8  # 128 KiB of pages of 16 KiB: one step; see node.snapshot_space


class Space(IntEnum):
    """What an LD is for. The numbers are stored."""

    USER = 0  # pages of base volumes
    SNAPSHOT_ADMIN = 1  # exception tables [0074]
    SNAPSHOT_DATA = 2  # copied-out pages


class Location(NamedTuple):
    """Where a byte of an LD lies, on the first member that holds it.

    `set_index` counts all sets of the LD from 0; `run_bytes` follow without leaving the step.
    """

    set_index: int
    member: int
    disk: int
    chunklet: int
    disk_offset: int
    run_bytes: int


class LogicalDisk:
    """`chunklets` is i32[sets, set_size, 2]: (disk, chunklet) of every member of every set.

    `used` is bool[regions], one for each LD region of `region_bytes`.
    """

    __slots__ = (
        "_chunklet_bytes", "_level", "_row_bytes", "_sets", "chunklets", "free_regions", "group",
        "ld", "node", "raid", "region_bytes", "row_size", "size_bytes", "space", "step_bytes",
        "used",
    )  # fmt: skip

    def __init__(
        self,
        *,
        ld: int,
        node: int,
        group: str,
        space: Space,
        raid: int,
        row_size: int,
        step_bytes: int,
        chunklet_bytes: int,
        region_bytes: int,
        chunklets: NDArray[np.int32],
        used: NDArray[np.bool_] | None = None,
    ) -> None:
        assert chunklets.ndim == 3
        assert chunklets.shape[0] % row_size == 0
        assert chunklet_bytes % step_bytes == 0
        self.ld = ld
        self.node = node
        self.group = group
        self.space = space
        self.raid = raid
        self.row_size = row_size
        self.step_bytes = step_bytes
        self.region_bytes = region_bytes
        self.chunklets = chunklets
        self._chunklet_bytes = chunklet_bytes
        self._level = level_of(raid)
        set_bytes = self._level.data_members(chunklets.shape[1]) * chunklet_bytes
        self._row_bytes = row_size * set_bytes
        self.size_bytes = chunklets.shape[0] * set_bytes
        regions = self.size_bytes // region_bytes
        self.used = np.zeros(regions, dtype=np.bool_) if used is None else used
        assert self.used.shape == (regions,)
        self.free_regions = regions - int(np.count_nonzero(self.used))
        self._sets: list[RaidSet] | None = None

    @property
    def regions(self) -> int:
        """LD regions, used or not."""
        return len(self.used)

    @property
    def set_size(self) -> int:
        """Members of each RAID set."""
        return int(self.chunklets.shape[1])

    @property
    def rows(self) -> int:
        """Rows of `row_size` sets."""
        return int(self.chunklets.shape[0]) // self.row_size

    def free_indices(self, limit: int) -> NDArray[np.intp]:
        """The first free LD regions, at most `limit`, ascending."""
        return np.flatnonzero(~self.used)[:limit]

    def take(self, indices: NDArray[Any]) -> None:
        """Mark free LD regions used. Taking one twice is a bug."""
        assert not self.used[indices].any(), "an LD region is taken twice"
        self.used[indices] = True
        self.free_regions -= len(indices)

    def give_back(self, indices: NDArray[Any]) -> None:
        """Mark used LD regions free."""
        assert self.used[indices].all(), "a free LD region is given back"
        self.used[indices] = False
        self.free_regions += len(indices)

    def _raid_sets(self) -> list[RaidSet]:
        if self._sets is None:
            size, step = self._chunklet_bytes, self.step_bytes
            self._sets = [
                RaidSet(tuple((disk, number * size) for disk, number in members), step)
                for members in self.chunklets.tolist()
            ]
        return self._sets

    def raid_set(self, set_index: int) -> RaidSet:
        """One set, for showing and rebuilding."""
        return self._raid_sets()[set_index]

    def health(self, disk_ok: DiskOk) -> SetHealth:
        """The worst of its sets."""
        return max(self._level.degraded(each, disk_ok) for each in self._raid_sets())

    def _refuse(self, offset: int, length: int) -> InvalidRequest:
        return InvalidRequest(
            f"LD {self.ld} of node {self.node}: {length} bytes at {offset}"
            f" are not within its {self.size_bytes}"
        )

    def locate(self, offset: int) -> Location:
        """Set, chunklet and disk byte of one LD byte. InvalidRequest outside of the LD."""
        if not 0 <= offset < self.size_bytes:
            raise self._refuse(offset, 1)
        set_index, set_offset, run = self._set_address(offset)
        raid_set = (self._sets or self._raid_sets())[set_index]
        member, inner = self._level.members_at(raid_set, set_offset)[0]
        disk, first = raid_set.members[member]
        return Location(set_index, member, disk, first // self._chunklet_bytes, first + inner, run)

    def members_at(self, offset: int) -> list[Location]:
        """`locate`, for every member that holds the byte."""
        if not 0 <= offset < self.size_bytes:
            raise self._refuse(offset, 1)
        set_index, set_offset, run = self._set_address(offset)
        raid_set = self._raid_sets()[set_index]
        places: list[Location] = []
        for member, inner in self._level.members_at(raid_set, set_offset):
            disk, first = raid_set.members[member]
            chunklet = first // self._chunklet_bytes
            places.append(Location(set_index, member, disk, chunklet, first + inner, run))
        return places

    def _set_address(self, offset: int) -> tuple[int, int, int]:
        """(set, byte within the set's data, bytes left in this step)."""
        row, inside = divmod(offset, self._row_bytes)
        step, within = divmod(inside, self.step_bytes)
        turn, column = divmod(step, self.row_size)
        return (
            row * self.row_size + column,
            turn * self.step_bytes + within,
            self.step_bytes - within,
        )

    def plan_read(self, offset: int, length: int, disk_ok: DiskOk = None) -> list[DiskExtent]:
        """Where the bytes are, in buffer order. DeviceFailed when no disk that answers has some.

        disk_ok: by disk number, False for a disk that does not answer; None when all do.
        """
        row, inside = divmod(offset, self._row_bytes)
        step, within = divmod(inside, self.step_bytes)
        # Destaging calls this for every page: one step, one set, no loop.
        if 0 < length <= self.step_bytes - within and 0 <= offset <= self.size_bytes - length:
            turn, column = divmod(step, self.row_size)
            raid_set = (self._sets or self._raid_sets())[row * self.row_size + column]
            return self._level.plan_read(
                raid_set, turn * self.step_bytes + within, length, 0, disk_ok
            )
        return self._plan_steps(False, offset, length, disk_ok)

    def plan_write(self, offset: int, length: int, disk_ok: DiskOk = None) -> list[DiskExtent]:
        """Everything to write, in buffer order. A mirror writes each piece on every member."""
        row, inside = divmod(offset, self._row_bytes)
        step, within = divmod(inside, self.step_bytes)
        if 0 < length <= self.step_bytes - within and 0 <= offset <= self.size_bytes - length:
            turn, column = divmod(step, self.row_size)
            raid_set = (self._sets or self._raid_sets())[row * self.row_size + column]
            return self._level.plan_write(
                raid_set, turn * self.step_bytes + within, length, 0, disk_ok
            )
        return self._plan_steps(True, offset, length, disk_ok)

    def _plan_steps(
        self, write: bool, offset: int, length: int, disk_ok: DiskOk
    ) -> list[DiskExtent]:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise self._refuse(offset, length)
        plan = self._level.plan_write if write else self._level.plan_read
        sets = self._raid_sets()
        extents: list[DiskExtent] = []
        start = 0
        while start < length:
            set_index, set_offset, run = self._set_address(offset + start)
            piece = min(run, length - start)
            extents += plan(sets[set_index], set_offset, piece, start, disk_ok)
            start += piece
        return _joined(extents) if self.row_size == 1 else extents


def _joined(extents: list[DiskExtent]) -> list[DiskExtent]:
    """Neighbours that follow each other both on the disk and in the buffer become one I/O."""
    joined: list[DiskExtent] = []
    last: dict[int, int] = {}  # disk -> its newest extent in `joined`
    for extent in extents:
        at = last.get(extent.disk)
        before = joined[at] if at is not None else None
        if (
            before is not None
            and at is not None
            and before.offset + before.length == extent.offset
            and before.start + before.length == extent.start
        ):
            joined[at] = before._replace(length=before.length + extent.length)
        else:
            last[extent.disk] = len(joined)
            joined.append(extent)
    return joined
