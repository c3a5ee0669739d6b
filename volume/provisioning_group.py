"""plan: provisioning groups: the policy by which LDs grow, and the choice of their chunklets.

The choice is a pure function of the node's disks, so that every node makes the same one for a node
that is not itself: balanced over the disks, members of a set on different disks and, where
possible, different loops, cages and sleds [0034].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.errors import ConfigError
from base.units import BLOCK_BYTES
from volume.chunklet import ChunkletTable
from volume.logical_disk import STEP_BYTES_DEFAULT
from volume.physical_disk import NodeInventory
from volume.raid import SET_SIZE_MAX, level_of

ROW_SIZE_MAX: Final = 32
STEP_BYTES_MAX: Final = 16 * 1024 * 1024
BYTES_MAX: Final = 1 << 60

_NAME: Final = re.compile(r"(?![.-])[A-Za-z0-9._-]{1,64}\Z")

# Why not to put a member there, worst first. Steps are wide enough that no sum of lesser reasons
# (512 members of a row, 65,536 free chunklets) outweighs a greater one.
_SAME_DISK: Final = 1 << 60
_SAME_LOOP: Final = 1 << 50
_SAME_CAGE: Final = 1 << 45
_SAME_SLED: Final = 1 << 40
_SAME_ROW: Final = 1 << 20


def is_name(name: object) -> bool:
    """1 to 64 of letters, digits, dot, underscore and hyphen; not starting with dot or hyphen."""
    return isinstance(name, str) and _NAME.match(name) is not None


@dataclass(frozen=True, slots=True)
class ProvisioningGroup:
    """How the LDs of a group are made, on every node. ConfigError names the key and the rule.

    set_size: chunklets of a RAID set. row_size: sets of a row. step_bytes: bytes before an address
    moves to the next set. growth_bytes: an LD is made at least this large while there is space (0:
    one row). warning_bytes, limit_bytes: of the group's LDs on all nodes together (0: none).
    """

    name: str
    raid: int = 0
    set_size: int = 1
    row_size: int = 4
    step_bytes: int = STEP_BYTES_DEFAULT
    growth_bytes: int = 0
    warning_bytes: int = 0
    limit_bytes: int = 0

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ConfigError(f"group.name: {self.name!r} is not a name")
        numbers = {
            "raid": self.raid, "set_size": self.set_size, "row_size": self.row_size,
            "step_bytes": self.step_bytes, "growth_bytes": self.growth_bytes,
            "warning_bytes": self.warning_bytes, "limit_bytes": self.limit_bytes,
        }  # fmt: skip
        for key, value in numbers.items():
            if type(value) is not int or not 0 <= value <= BYTES_MAX:
                raise ConfigError(f"group.{key}: {value!r} is not a whole number of a sane size")
        least = level_of(self.raid).set_size_min
        if not least <= self.set_size <= SET_SIZE_MAX:
            raise ConfigError(
                f"group.set_size: {self.set_size} is not between {least} and {SET_SIZE_MAX}"
                f" for RAID {self.raid}"
            )
        if not 1 <= self.row_size <= ROW_SIZE_MAX:
            raise ConfigError(
                f"group.row_size: {self.row_size} is not between 1 and {ROW_SIZE_MAX}"
            )
        if not BLOCK_BYTES <= self.step_bytes <= STEP_BYTES_MAX or self.step_bytes % BLOCK_BYTES:
            raise ConfigError(
                f"group.step_bytes: {self.step_bytes} is not a multiple of {BLOCK_BYTES}"
                f" up to {STEP_BYTES_MAX}"
            )
        if self.limit_bytes and self.warning_bytes > self.limit_bytes:
            raise ConfigError("group.warning_bytes: is above limit_bytes and would never be given")

    def row_bytes(self, chunklet_bytes: int) -> int:
        """Data of one row of sets."""
        return self.row_size * level_of(self.raid).data_members(self.set_size) * chunklet_bytes

    def fits(self, inventory: NodeInventory) -> str | None:
        """Why the group cannot have LDs on such a node, or None."""
        if len(inventory.disks) < self.set_size:
            return f"set_size {self.set_size} needs as many disks; there are {len(inventory.disks)}"
        if inventory.chunklet_bytes % self.step_bytes:
            return (
                f"step_bytes {self.step_bytes} does not divide"
                f" a chunklet of {inventory.chunklet_bytes} bytes"
            )
        return None

    def to_tuple(self) -> tuple[object, ...]:
        """Plain values in field order."""
        return (
            self.name, self.raid, self.set_size, self.row_size, self.step_bytes,
            self.growth_bytes, self.warning_bytes, self.limit_bytes,
        )  # fmt: skip


def rows_possible(free: NDArray[Any], set_size: int, row_size: int) -> int:
    """Rows that can be made of so many free chunklets per disk.

    S sets fit when sum(min(free, S)) >= S * set_size: a disk gives each set one chunklet at most.
    That sum is the least, over all k, of S * k and what is free on all but the k fullest disks; so
    for each k below set_size, that rest has to do for the set_size - k other members of S sets.
    """
    fullest_first = sorted(free.tolist(), reverse=True)
    if len(fullest_first) < set_size:
        return 0
    rest = sum(fullest_first)
    sets = rest // set_size
    for full in range(1, set_size):
        rest -= fullest_first[full - 1]
        sets = min(sets, rest // (set_size - full))
    return int(sets) // row_size


def _penalties(inventory: NodeInventory) -> NDArray[np.int64]:
    """i64[disks, disks]: how bad the second is as company for the first in one set."""
    loops = np.array([(d.primary.pair * 2 + (d.primary.side == "B")) for d in inventory.disks])
    cages = np.array([d.cage for d in inventory.disks])
    sleds = np.array([d.cage * 1024 + d.sled for d in inventory.disks])

    def same(column: NDArray[Any]) -> NDArray[np.int64]:
        equal: NDArray[np.int64] = np.equal.outer(column, column).astype(np.int64)
        return equal

    penalties: NDArray[np.int64] = (
        same(loops) * _SAME_LOOP + same(cages) * _SAME_CAGE + same(sleds) * _SAME_SLED
    )
    np.fill_diagonal(penalties, _SAME_DISK)
    return penalties


def _choose_disks(
    free: NDArray[np.int64], penalties: NDArray[np.int64], rows: int, row_size: int, set_size: int
) -> list[int] | None:
    """A disk for every member in order, or None when this way of choosing gets stuck."""
    free = free.copy()
    chosen: list[int] = []
    for _ in range(rows):
        worth = np.where(free > 0, free, -_SAME_DISK)
        for _ in range(row_size):
            score = worth.copy()
            for _ in range(set_size):
                disk = int(score.argmax())  # the lowest number of the best
                if score[disk] <= -(_SAME_DISK >> 1):
                    return None
                chosen.append(disk)
                score -= penalties[disk]
                free[disk] -= 1
                worth[disk] = worth[disk] - _SAME_ROW - 1 if free[disk] else -_SAME_DISK
    return chosen


def choose_chunklets(
    group: ProvisioningGroup, inventory: NodeInventory, tables: list[ChunkletTable], rows: int
) -> NDArray[np.int32] | None:
    """i32[rows * row_size, set_size, 2] of free (disk, chunklet), or None when there are too few.

    It first keeps members on different loops and cages. When that would leave chunklets that no
    set can use, it takes from the fullest disks only, which always finds all there is.
    """
    numbers = [table.free_numbers() for table in tables]
    free = np.array([len(each) for each in numbers], dtype=np.int64)
    if rows > rows_possible(free, group.set_size, group.row_size):
        return None
    shape = (rows, group.row_size, group.set_size)
    chosen = _choose_disks(free, _penalties(inventory), *shape)
    if chosen is None:
        apart = np.diag(np.full(len(tables), _SAME_DISK, dtype=np.int64))
        sets = rows * group.row_size
        # One long row of its own: no penalty but the same disk, so the fullest disk always wins.
        chosen = _choose_disks(free, apart, sets, 1, group.set_size)
    assert chosen is not None, "rows_possible promised more than the fullest disks give"
    disks = np.array(chosen, dtype=np.int32)
    places = np.empty((len(disks), 2), dtype=np.int32)
    places[:, 0] = disks
    for disk, available in enumerate(numbers):
        mine = np.flatnonzero(disks == disk)
        places[mine, 1] = available[: len(mine)]
    return places.reshape(rows * group.row_size, group.set_size, 2)
