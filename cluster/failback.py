"""plan: how copies and owners go back to where the placement wants them, a few at a time.

A row's *home* is where a new volume would be placed over the nodes that may hold copies now. After
a loss and a return rows are away from home: the heir still owns them, or a third node holds the
copy that the returned node had. Nothing here is urgent, and nothing takes redundancy away: an owner
moves to a member in sync; a member leaves only by the entry that admits its replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from base.ids import NOBODY
from base.units import NODES_MAX
from cluster.catalog import Catalog
from cluster.effects import Regions
from cluster.entries import MoveOwners, RehomeCopies, ReleaseCopies, pack_rows, rehomes
from cluster.failover import joins_in_progress
from cluster.placement import U8, place, spread_of
from cluster.region_rules import LOWEST, bits_of
from volume.virtual_volume import VirtualVolume

RELEASES_MAX: Final = 2_000  # rows of one entry


@dataclass(frozen=True, slots=True)
class FailbackPlan:
    """Entries to propose now. `left`: rows that are away from home and could move, these ones
    included: 0 means that there is nothing to do until the catalog changes."""

    entries: tuple[MoveOwners | RehomeCopies, ...]
    left: int


def homes_of(catalog: Catalog, volume: VirtualVolume, live: int) -> U8:
    """u8[regions, copies]: where each row belongs over those nodes (bits), the owner first. NOBODY
    where too few failure domains are left."""
    pins = catalog.pins_of(volume.volume)
    owner = pins.owner if pins.owner >= 0 and live >> pins.owner & 1 else -1
    among = live
    if owner >= 0 and pins.replicant >= 0 and live >> pins.replicant & 1:
        among = 1 << owner | 1 << pins.replicant
    return place(
        volume.volume, np.arange(volume.regions), volume.copies, nodes=catalog.nodes, live=among,
        domains=catalog.domains, pinned_owner=owner,
    )  # fmt: skip


def is_whole(catalog: Catalog) -> bool:
    """Whether every row that is served has its copies."""
    return not any(
        (~volume.table.offline & (np.bitwise_count(volume.table.in_sync) < volume.copies)).any()
        for volume in catalog.volume_manager.list_volumes()
    )


def plan_failback(
    catalog: Catalog,
    homes: dict[int, U8],
    *,
    rows_max: int,
    joins_max: int,
    avoid: Sequence[int] = (),
) -> FailbackPlan:
    """At most `rows_max` rows in all: owners that move, and copies that begin to move.

    homes: `homes_of` by volume. joins_max: rows that a node may be joining, or be sending as their
    owner, at a time. avoid: by owner, bits of nodes that it cannot reach now.
    """
    receiving, sending = joins_in_progress(catalog)
    shunned = np.zeros(256, dtype=np.uint8)
    shunned[: len(avoid)] = avoid
    balance = _Balance(catalog, joins_max - receiving, joins_max - sending)
    entries: list[MoveOwners | RehomeCopies] = []
    left = 0
    for volume in catalog.volume_manager.list_volumes():
        home = homes.get(volume.volume)
        if home is None or len(home) != volume.regions or volume.copies < 2:
            continue
        movable = _movable(volume, home)
        regions, owners = _owner_moves(volume, home, movable)
        left += len(regions)
        take = min(len(regions), rows_max)
        if take:
            epochs = volume.table.epoch[regions[:take]]
            rows = pack_rows(regions[:take], owners[:take], epochs)
            entries.append(MoveOwners(volume.volume, rows))
            rows_max -= take
        movable[regions] = False
        found = _copy_moves(catalog, volume, home, movable, shunned, balance)
        left += len(found[0])
        take = min(len(found[0]), rows_max)
        if take:
            nodes = np.array(found[1][:take])
            entries.append(rehomes(volume.volume, np.array(found[0][:take]), nodes))
            rows_max -= take
    return FailbackPlan(tuple(entries), left)


def _movable(volume: VirtualVolume, home: U8) -> NDArray[np.bool_]:
    """Rows that are whole, at rest, and have a home."""
    table = volume.table
    return np.asarray(
        ~table.offline
        & (table.joiner == NOBODY)
        & (np.bitwise_count(table.in_sync) == volume.copies)
        & (home != NOBODY).all(axis=1)
    )


def _mask_of(home: U8) -> U8:
    mask: U8 = np.bitwise_or.reduce(bits_of(home), axis=1).astype(np.uint8)
    return mask


def _owner_moves(volume: VirtualVolume, home: U8, movable: NDArray[np.bool_]) -> tuple[Regions, U8]:
    """Rows whose owner should be another of their members, and which."""
    table = volume.table
    first = bits_of(home[:, 0])
    at_home = movable & (table.owner != home[:, 0]) & (table.in_sync & first != 0)
    # An owner that is to leave hands over first, to a member that stays.
    stays = table.in_sync & _mask_of(home) & ~bits_of(table.owner)
    guest = movable & ~at_home & (bits_of(table.owner) & _mask_of(home) == 0) & (stays != 0)
    regions = np.flatnonzero(at_home | guest)
    owners = np.where(guest[regions], LOWEST[stays[regions]], home[regions, 0])
    return regions, owners.astype(np.uint8)


class _Balance:
    """What copies weigh on each node while a plan is made."""

    def __init__(
        self, catalog: Catalog, receive: NDArray[np.int64], send: NDArray[np.int64]
    ) -> None:
        self.receive = receive.tolist()
        self.send = send.tolist()
        self.copies = [0] * NODES_MAX
        for volume in catalog.volume_manager.list_volumes():
            for node in catalog.nodes:
                self.copies[node] += int(np.count_nonzero(volume.table.in_sync >> node & 1))


def _copy_moves(
    catalog: Catalog,
    volume: VirtualVolume,
    home: U8,
    movable: NDArray[np.bool_],
    shunned: U8,
    balance: _Balance,
) -> tuple[list[int], list[int]]:
    """Rows that get a joiner at home, and that node.

    A node at home that still holds an older copy gets it back: that is cheap. Without one a whole
    region would travel, so it does only where it makes the numbers of copies more even.
    """
    table = volume.table
    missing = _mask_of(home) & ~table.in_sync
    away = table.in_sync & ~_mask_of(home) & ~bits_of(table.owner)
    candidates = np.flatnonzero(movable & (missing != 0) & (away != 0))
    room = catalog.room(volume.group, volume.region_bytes).tolist() if len(candidates) else []
    beside = spread_of(bits_of(table.owner), catalog.domains)
    up = catalog.up_mask
    found: tuple[list[int], list[int]] = [], []
    for region in candidates.tolist():
        owner = int(table.owner[region])
        allowed = int(missing[region]) & up & ~int(shunned[owner]) & ~int(beside[region])
        leaver = int(away[region]).bit_length() - 1
        if balance.send[owner] <= 0:
            continue
        for node in sorted(
            (int(each) for each in home[region] if allowed >> int(each) & 1),
            key=lambda each, at=region: table.slot_of(at, each) < 0,  # type: ignore[misc]
        ):
            held = table.slot_of(region, node) >= 0
            evener = balance.copies[node] + 1 < balance.copies[leaver]
            if balance.receive[node] <= 0 or not (held or (evener and room[node] > 0)):
                continue
            found[0].append(region)
            found[1].append(node)
            balance.receive[node] -= 1
            balance.send[owner] -= 1
            balance.copies[node] += 1
            balance.copies[leaver] -= 1
            room[node] -= not held
            break
    return found


def plan_releases(
    catalog: Catalog, homes: dict[int, U8], *, expired: int, keep_home: bool
) -> list[ReleaseCopies]:
    """Stale copies that nobody will bring up to date, of rows that are whole and at rest.

    expired: bits of the nodes whose stale copies have been kept long enough. Of the other nodes a
    stale copy stays while the node is down, and while it is up if the row belongs there (keep_home:
    fail-back will make use of it).
    """
    up = np.uint8(catalog.up_mask)
    planned: list[ReleaseCopies] = []
    for volume in catalog.volume_manager.list_volumes():
        table = volume.table
        rest = ~table.offline & (table.joiner == NOBODY)
        rest &= np.bitwise_count(table.in_sync) >= volume.copies
        rows = np.flatnonzero(rest)
        home = homes.get(volume.volume)
        belongs = np.zeros(len(rows), dtype=np.uint8)
        if keep_home and home is not None and len(home) == volume.regions:
            belongs = _mask_of(home)[rows]
        spent = np.uint8(expired) | (up & ~belongs)
        nodes = table.slot_node[rows]
        gone = table.stale_slots(rows) & (bits_of(nodes) & spent[:, None] != 0)
        at, slot = np.nonzero(gone)
        at, slot = at[:RELEASES_MAX], slot[:RELEASES_MAX]
        if len(at):
            regions = rows[at]
            packed = pack_rows(regions, nodes[at, slot], table.epoch[regions])
            planned.append(ReleaseCopies(volume.volume, packed))
    return planned
