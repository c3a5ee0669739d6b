"""plan: cages, sleds of four disks, Fibre Channel loops, and the path that an I/O takes to a disk.

A node has cages; a cage holds sleds; a sled holds four disks. Loops come in pairs, A and B. With
wiring `same` every sled hangs on both loops of pair 0; with `split` every other sled hangs on both
loops of pair 1 instead, so that the loss of one pair costs half of the sleds [0028]. The inventory
of a node is what it reports into the catalog when it comes up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from base.errors import ConfigError, InvalidRequest
from base.units import BLOCK_BYTES, GiB, KiB, MiB, TiB

DISKS_PER_SLED: Final = 4  # [0028]
WIRINGS: Final = ("same", "split")
CAGES_MAX: Final = 16
SLEDS_PER_CAGE_MAX: Final = 10
CHUNKLETS_PER_DISK_MAX: Final = 65_536
CHUNKLET_BYTES_MIN: Final = 64 * KiB
DISK_BYTES_MAX: Final = 64 * TiB

CAGES_DEFAULT: Final = 1
SLEDS_PER_CAGE_DEFAULT: Final = 2
DISK_BYTES_DEFAULT: Final = 128 * GiB
CHUNKLET_BYTES_DEFAULT: Final = 256 * MiB  # [0034]

_FORMAT: Final = 1
_SIDES: Final = ("A", "B")


class Loop(NamedTuple):
    """One Fibre Channel loop of one node: its pair (0 or 1) and its side (A or B)."""

    pair: int
    side: str

    def __str__(self) -> str:
        return f"{self.side}{self.pair}"


class LoopState:
    """Which loops of one node are up. Every loop is, until it is said to be down."""

    __slots__ = ("_down",)

    def __init__(self) -> None:
        self._down: set[Loop] = set()

    def is_up(self, loop: Loop) -> bool:
        """Pass this method to `path_for`."""
        return loop not in self._down

    def set_up(self, loop: Loop, up: bool) -> None:
        """Note that the loop came up or went down. Saying it twice changes nothing."""
        if up:
            self._down.discard(loop)
        else:
            self._down.add(loop)

    def down(self) -> tuple[Loop, ...]:
        """The loops that are down, in order."""
        return tuple(sorted(self._down))


@dataclass(frozen=True, slots=True)
class DiskInventory:
    """One physical disk as its node reports it. `disk` counts from 0 within the node.

    `loops` has the primary path first. Spare chunklets are the last ones of the disk.
    """

    disk: int
    cage: int
    sled: int
    slot: int
    loops: tuple[Loop, Loop]
    size_bytes: int
    chunklet_bytes: int
    spare_chunklets: int

    @property
    def primary(self) -> Loop:
        """The path that is used while it is up."""
        return self.loops[0]

    @property
    def chunklets(self) -> int:
        """Whole chunklets on the disk; a remainder is not used."""
        return self.size_bytes // self.chunklet_bytes


@dataclass(frozen=True, slots=True)
class NodeInventory:
    """All disks of one node, by disk number. All have the same chunklet size."""

    disks: tuple[DiskInventory, ...]

    @property
    def chunklet_bytes(self) -> int:
        """Size of a chunklet on every disk of this node."""
        return self.disks[0].chunklet_bytes

    def to_tuple(self) -> tuple[object, ...]:
        """Plain tuples of ints and strings, as msgpack can carry them."""
        return (
            _FORMAT,
            tuple(
                (
                    disk.disk,
                    disk.cage,
                    disk.sled,
                    disk.slot,
                    tuple((loop.pair, loop.side) for loop in disk.loops),
                    disk.size_bytes,
                    disk.chunklet_bytes,
                    disk.spare_chunklets,
                )
                for disk in self.disks
            ),
        )

    @classmethod
    def from_tuple(cls, plain: object) -> NodeInventory:
        """Inverse of `to_tuple`; lists are as good as tuples. InvalidRequest names what is wrong.

        It comes from another node, so nothing about it is believed.
        """
        if not isinstance(plain, tuple | list) or len(plain) != 2 or plain[0] != _FORMAT:
            raise InvalidRequest(f"inventory: not a list of format {_FORMAT} and disks")
        rows = plain[1]
        disks_max = CAGES_MAX * SLEDS_PER_CAGE_MAX * DISKS_PER_SLED
        if not isinstance(rows, tuple | list) or not 1 <= len(rows) <= disks_max:
            raise InvalidRequest(f"inventory: a node has 1 to {disks_max} disks")
        inventory = cls(tuple(_disk_from_tuple(number, row) for number, row in enumerate(rows)))
        places = {(disk.cage, disk.sled, disk.slot) for disk in inventory.disks}
        if len(places) != len(inventory.disks):
            raise InvalidRequest("inventory: two disks claim the same cage, sled and slot")
        if any(disk.chunklet_bytes != inventory.chunklet_bytes for disk in inventory.disks):
            raise InvalidRequest("inventory: chunklet_bytes differs between disks of one node")
        return inventory


def _disk_from_tuple(number: int, row: object) -> DiskInventory:
    where = f"inventory: disk {number}"
    if not isinstance(row, tuple | list) or len(row) != 8:
        raise InvalidRequest(f"{where} is not a list of 8 fields")
    disk, cage, sled, slot, loops, size_bytes, chunklet_bytes, spares = row
    numbers = (disk, cage, sled, slot, size_bytes, chunklet_bytes, spares)
    if any(type(value) is not int for value in numbers):
        raise InvalidRequest(f"{where} has a field that is not a whole number")
    if disk != number:
        raise InvalidRequest(f"{where} calls itself {disk}: disks are numbered from 0 without gaps")
    if not (
        0 <= cage < CAGES_MAX and 0 <= sled < SLEDS_PER_CAGE_MAX and 0 <= slot < DISKS_PER_SLED
    ):
        raise InvalidRequest(f"{where} has no possible place: cage {cage} sled {sled} slot {slot}")
    try:
        paths = tuple(Loop(pair, side) for pair, side in loops)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{where} has loops that are not pairs") from None
    if (
        len(paths) != 2
        or any(type(path.pair) is not int or path.pair not in (0, 1) for path in paths)
        or any(path.side not in _SIDES for path in paths)
        or paths[0].pair != paths[1].pair
        or paths[0].side == paths[1].side
    ):
        raise InvalidRequest(f"{where} is not on loops A and B of one pair")
    try:
        _check_sizes(size_bytes, chunklet_bytes, spares)
    except ConfigError as error:
        raise InvalidRequest(f"{where}: {error}") from None
    return DiskInventory(
        disk, cage, sled, slot, (paths[0], paths[1]), size_bytes, chunklet_bytes, spares
    )


def _check_sizes(disk_bytes: int, chunklet_bytes: int, spare_chunklets: int) -> None:
    if chunklet_bytes < CHUNKLET_BYTES_MIN or chunklet_bytes % BLOCK_BYTES:
        raise ConfigError(
            f"chunklet_bytes: {chunklet_bytes} is not a multiple of {BLOCK_BYTES}"
            f" of at least {CHUNKLET_BYTES_MIN}"
        )
    if not chunklet_bytes <= disk_bytes <= DISK_BYTES_MAX:
        raise ConfigError(
            f"disk_bytes: {disk_bytes} is not between one chunklet ({chunklet_bytes})"
            f" and {DISK_BYTES_MAX}"
        )
    chunklets = disk_bytes // chunklet_bytes
    if chunklets > CHUNKLETS_PER_DISK_MAX:
        raise ConfigError(
            f"chunklet_bytes: {chunklet_bytes} makes {chunklets} chunklets of a disk;"
            f" at most {CHUNKLETS_PER_DISK_MAX} are possible"
        )
    if not 0 <= spare_chunklets < chunklets:
        raise ConfigError(
            f"spare_chunklets: {spare_chunklets} of {chunklets} chunklets leaves nothing to use"
        )


def spare_chunklets_default(chunklets: int) -> int:
    """One in 32, at least one; none on a disk of fewer than 8 chunklets."""
    return max(1, chunklets // 32) if chunklets >= 8 else 0


def build_inventory(
    cages: int = CAGES_DEFAULT,
    sleds_per_cage: int = SLEDS_PER_CAGE_DEFAULT,
    wiring: str = "same",
    disk_bytes: int = DISK_BYTES_DEFAULT,
    chunklet_bytes: int = CHUNKLET_BYTES_DEFAULT,
    spare_chunklets: int | None = None,
) -> NodeInventory:
    """The disks of a node with that hardware. ConfigError names the key and the rule.

    spare_chunklets: set aside on every disk; None takes `spare_chunklets_default`.
    """
    if not 1 <= cages <= CAGES_MAX:
        raise ConfigError(f"cages: {cages} is not between 1 and {CAGES_MAX}")
    if not 1 <= sleds_per_cage <= SLEDS_PER_CAGE_MAX:
        raise ConfigError(
            f"sleds_per_cage: {sleds_per_cage} is not between 1 and {SLEDS_PER_CAGE_MAX}"
        )
    if wiring not in WIRINGS:
        raise ConfigError(f"wiring: {wiring!r} is not one of {', '.join(WIRINGS)}")
    if wiring == "split" and cages * sleds_per_cage % 2:
        raise ConfigError(f"wiring: split needs two halves; {cages * sleds_per_cage} sleds are odd")
    spares = (
        spare_chunklets_default(disk_bytes // chunklet_bytes if chunklet_bytes > 0 else 0)
        if spare_chunklets is None
        else spare_chunklets
    )
    _check_sizes(disk_bytes, chunklet_bytes, spares)
    disks: list[DiskInventory] = []
    for sled_number in range(cages * sleds_per_cage):
        cage, sled = divmod(sled_number, sleds_per_cage)
        pair = sled_number % 2 if wiring == "split" else 0
        for slot in range(DISKS_PER_SLED):
            disk = len(disks)
            # Primary paths alternate, so that both loops carry load and mirrors can use both.
            primary, other = (0, 1) if disk % 2 == 0 else (1, 0)
            loops = (Loop(pair, _SIDES[primary]), Loop(pair, _SIDES[other]))
            disks.append(
                DiskInventory(disk, cage, sled, slot, loops, disk_bytes, chunklet_bytes, spares)
            )
    return NodeInventory(tuple(disks))


def path_for(disk: DiskInventory, loop_up: Callable[[Loop], bool]) -> Loop | None:
    """The loop that an I/O to the disk takes now: primary, else the other, else None."""
    for loop in disk.loops:
        if loop_up(loop):
            return loop
    return None
