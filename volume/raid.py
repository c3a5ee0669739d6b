"""plan: RAID levels. A level is a strategy: where the bytes of one RAID set lie on its members.

A RAID set is chunklets on different disks. The level says how many members hold data of their own,
and answers with extents: which piece of the caller's buffer goes to or comes from which bytes of
which disk. Levels 0 and 1 need no other level's data to write, so their plans are extents only; a
level with parity adds what must be read first and computed, behind the same three questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from base.errors import ConfigError, DeviceFailed

SET_SIZE_MAX: Final = 16

DiskOk = Sequence[bool] | None  # by disk number; None: every disk answers


class DiskExtent(NamedTuple):
    """`length` bytes of the caller's buffer from `start`, at byte `offset` of a disk."""

    disk: int
    offset: int
    length: int
    start: int


class RaidSet(NamedTuple):
    """Members in order, each (disk, first byte of its chunklet); `step_bytes` per member."""

    members: tuple[tuple[int, int], ...]
    step_bytes: int


class SetHealth(IntEnum):
    """Can the set be read, and does it still have all its copies?"""

    NORMAL = 0
    DEGRADED = 1
    FAILED = 2


class RaidLevel(Protocol):
    """The strategy of one level. Offsets are bytes of the set's own data, from 0."""

    level: int
    set_size_min: int

    def data_members(self, set_size: int) -> int:
        """Members' worth of data in a set; the rest is redundancy."""

    def degraded(self, raid_set: RaidSet, disk_ok: DiskOk) -> SetHealth:
        """What the loss of those disks means to the set."""

    def members_at(self, raid_set: RaidSet, offset: int) -> tuple[tuple[int, int], ...]:
        """(member, byte within its chunklet) of every place that holds the byte."""

    def plan_read(
        self, raid_set: RaidSet, offset: int, length: int, start: int, disk_ok: DiskOk
    ) -> list[DiskExtent]:
        """Where to read it from. DeviceFailed when no disk that answers has it."""

    def plan_write(
        self, raid_set: RaidSet, offset: int, length: int, start: int, disk_ok: DiskOk
    ) -> list[DiskExtent]:
        """Everything to write. Members that do not answer are left out while one remains."""


class Raid0:
    """Data on one member only, `step_bytes` at a time in turn. Nothing survives a lost member:
    redundancy is the other node's copy."""

    level = 0
    set_size_min = 1

    def data_members(self, set_size: int) -> int:
        """All of them."""
        return set_size

    def degraded(self, raid_set: RaidSet, disk_ok: DiskOk) -> SetHealth:
        """Normal or failed; there is nothing between."""
        if disk_ok is None or all(disk_ok[disk] for disk, _ in raid_set.members):
            return SetHealth.NORMAL
        return SetHealth.FAILED

    def members_at(self, raid_set: RaidSet, offset: int) -> tuple[tuple[int, int], ...]:
        """One place."""
        step, within = divmod(offset, raid_set.step_bytes)
        turn, member = divmod(step, len(raid_set.members))
        return ((member, turn * raid_set.step_bytes + within),)

    def plan_read(
        self, raid_set: RaidSet, offset: int, length: int, start: int, disk_ok: DiskOk
    ) -> list[DiskExtent]:
        """One extent per step."""
        members = raid_set.members
        if len(members) == 1:
            disk, first = members[0]
            if disk_ok is not None and not disk_ok[disk]:
                raise DeviceFailed(f"RAID 0: disk {disk} does not answer")
            return [DiskExtent(disk, first + offset, length, start)]
        step_bytes = raid_set.step_bytes
        extents: list[DiskExtent] = []
        while length > 0:
            step, within = divmod(offset, step_bytes)
            turn, member = divmod(step, len(members))
            disk, first = members[member]
            if disk_ok is not None and not disk_ok[disk]:
                raise DeviceFailed(f"RAID 0: disk {disk} does not answer")
            piece = min(length, step_bytes - within)
            extents.append(DiskExtent(disk, first + turn * step_bytes + within, piece, start))
            offset += piece
            start += piece
            length -= piece
        return extents

    # Reading and writing touch the same bytes: there is one copy and no parity.
    plan_write = plan_read


class Raid1:
    """The same bytes on every member."""

    level = 1
    set_size_min = 2

    def data_members(self, set_size: int) -> int:
        """One."""
        return 1

    def degraded(self, raid_set: RaidSet, disk_ok: DiskOk) -> SetHealth:
        """Failed only when every member is."""
        if disk_ok is None:
            return SetHealth.NORMAL
        answering = sum(1 for disk, _ in raid_set.members if disk_ok[disk])
        if answering == len(raid_set.members):
            return SetHealth.NORMAL
        return SetHealth.DEGRADED if answering else SetHealth.FAILED

    def members_at(self, raid_set: RaidSet, offset: int) -> tuple[tuple[int, int], ...]:
        """Every member, at the same byte."""
        return tuple((member, offset) for member in range(len(raid_set.members)))

    def plan_read(
        self, raid_set: RaidSet, offset: int, length: int, start: int, disk_ok: DiskOk
    ) -> list[DiskExtent]:
        """One member, chosen by address so that steps take turns; the next one when it is away."""
        members = raid_set.members
        turn = offset // raid_set.step_bytes
        for attempt in range(len(members)):
            disk, first = members[(turn + attempt) % len(members)]
            if disk_ok is None or disk_ok[disk]:
                return [DiskExtent(disk, first + offset, length, start)]
        raise DeviceFailed(f"RAID 1: none of disks {_names(raid_set)} answers")

    def plan_write(
        self, raid_set: RaidSet, offset: int, length: int, start: int, disk_ok: DiskOk
    ) -> list[DiskExtent]:
        """Every member that answers."""
        extents = [
            DiskExtent(disk, first + offset, length, start)
            for disk, first in raid_set.members
            if disk_ok is None or disk_ok[disk]
        ]
        if not extents:
            raise DeviceFailed(f"RAID 1: none of disks {_names(raid_set)} answers")
        return extents


def _names(raid_set: RaidSet) -> str:
    return ", ".join(str(disk) for disk, _ in raid_set.members)


LEVELS: Final[dict[int, RaidLevel]] = {0: Raid0(), 1: Raid1()}


def level_of(raid: int) -> RaidLevel:
    """The strategy of a level. ConfigError names the levels there are."""
    level = LEVELS.get(raid)
    if level is None:
        raise ConfigError(f"raid: {raid!r} is not one of {', '.join(map(str, sorted(LEVELS)))}")
    return level
