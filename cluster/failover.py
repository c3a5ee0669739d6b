"""plan: who gets new copies after a loss.

Nothing here decides alone: every answer is an entry for the catalog, and an entry that comes too
late is void there. Who is down, `node.leader` judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.ids import NOBODY
from base.units import NODES_MAX
from cluster.catalog import Catalog
from cluster.effects import Regions
from cluster.entries import RecruitCopies, recruits
from cluster.placement import U8, preferences, recruit_targets, spread_of
from cluster.region_rules import bits_of
from volume.virtual_volume import VirtualVolume

ROWS_PER_ENTRY_MAX: Final = 2_000


def joins_in_progress(catalog: Catalog) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By node, i64[8] each: rows that it joins, and rows that it brings a joiner up to date for."""
    receiving = np.zeros(256, dtype=np.int64)
    sending = np.zeros(256, dtype=np.int64)
    for volume in catalog.volume_manager.list_volumes():
        joined = volume.table.joiner != NOBODY
        receiving += np.bincount(volume.table.joiner[joined], minlength=256)
        sending += np.bincount(volume.table.owner[joined], minlength=256)
    return receiving[:NODES_MAX], sending[:NODES_MAX]


def share_rows(catalog: Catalog, first: int, second: int) -> bool:
    """Whether a cut of that pair would change anything: both are members of a row, or one joins
    what the other owns."""
    both = np.uint8(1 << first | 1 << second)
    for volume in catalog.volume_manager.list_volumes():
        table = volume.table
        members = ~table.offline & (table.in_sync & both == both)
        joins = (table.owner == first) & (table.joiner == second)
        joins |= (table.owner == second) & (table.joiner == first)
        if (members | joins).any():
            return True
    return False


def plan_recruits(
    catalog: Catalog,
    limit_per_node: int,
    busy: Sequence[int] | None = None,
    avoid: Sequence[int] | None = None,
    rows_max: int = ROWS_PER_ENTRY_MAX,
) -> list[RecruitCopies]:
    """Entries that give rows with too few copies a joiner, at most `rows_max` rows each.

    limit_per_node: joins at a time that a node may receive, and joins that it may send as owner;
    those in the catalog count. busy: by node, further joins that the leader has proposed and not
    seen applied, counted on both sides. avoid: by owner, bits of nodes that it cannot reach now:
    without it a pair that was cut would be recruited again at once, for ever. A node that still
    has an older copy of a row is preferred; the row waits for it rather than go elsewhere.
    """
    receiving, sending = joins_in_progress(catalog)
    extra = np.zeros(NODES_MAX, dtype=np.int64)
    if busy is not None:
        extra[: len(busy)] = busy
    receive_left = np.maximum(limit_per_node - receiving - extra, 0)
    send_left = np.maximum(limit_per_node - sending - extra, 0)
    shunned = np.zeros(256, dtype=np.uint8)
    if avoid is not None:
        shunned[: len(avoid)] = avoid
    planned: list[RecruitCopies] = []
    for volume in catalog.volume_manager.list_volumes():
        if volume.copies < 2:
            continue
        regions, nodes = _recruits_of(catalog, volume, receive_left, send_left, shunned)
        receive_left -= np.bincount(nodes, minlength=NODES_MAX)
        send_left -= np.bincount(volume.table.owner[regions], minlength=NODES_MAX)
        for at in range(0, len(regions), rows_max):
            part = slice(at, at + rows_max)
            planned.append(recruits(volume.volume, regions[part], nodes[part]))
    return planned


def _wanting(volume: VirtualVolume) -> NDArray[Any]:
    """By row: it has too few copies, and nobody joins it."""
    table = volume.table
    few = np.bitwise_count(table.in_sync) < volume.copies
    wanting: NDArray[Any] = ~table.offline & (table.joiner == NOBODY) & few
    return wanting


def lacks_copies(catalog: Catalog) -> bool:
    """Some row has too few copies and no joiner, whether or not there is a place for one."""
    volumes = catalog.volume_manager.list_volumes()
    return any(volume.copies > 1 and bool(_wanting(volume).any()) for volume in volumes)


def _recruits_of(
    catalog: Catalog,
    volume: VirtualVolume,
    receive_left: NDArray[np.int64],
    send_left: NDArray[np.int64],
    shunned: U8,
) -> tuple[Regions, U8]:
    """Rows of one volume and the nodes to recruit for them."""
    table = volume.table
    rows = np.flatnonzero(_wanting(volume))
    if len(rows) == 0:
        return rows, rows.astype(np.uint8)
    room = catalog.room(volume.group, volume.region_bytes)
    held = bits_of(table.slot_node[rows]) * table.stale_slots(rows)
    older = np.bitwise_or.reduce(held, axis=1).astype(np.uint8)
    with_room = np.uint8(sum(1 << node for node in range(NODES_MAX) if room[node] > 0))
    allowed = (
        np.uint8(catalog.up_mask)
        & ~spread_of(table.in_sync[rows], catalog.domains)
        & ~shunned[table.owner[rows]]
        & (older | with_room)
    )
    # Rows that have nowhere to go must not use up their owner's turns.
    rows, older, allowed = (each[allowed != 0] for each in (rows, older, allowed))
    turn = _first_of_each_owner(table.owner[rows], send_left)
    rows, older, allowed = (each[turn] for each in (rows, older, allowed))
    order = preferences(volume.volume, rows, catalog.nodes)
    again = (older & allowed) != 0
    nodes = np.full(len(rows), NOBODY, dtype=np.uint8)
    nodes[again] = recruit_targets(order[again], older[again] & allowed[again], receive_left)
    left = receive_left - np.bincount(nodes[again], minlength=256)[:NODES_MAX]
    # An older copy's space is held already; a new copy needs a free region on its node.
    nodes[~again] = recruit_targets(order[~again], allowed[~again], np.minimum(left, room))
    found = nodes != NOBODY
    return rows[found], nodes[found]


def _first_of_each_owner(owners: U8, left: NDArray[np.int64]) -> Regions:
    """Positions of the first `left[owner]` rows of every owner, ascending."""
    parts = [np.flatnonzero(owners == node)[: int(left[node])] for node in range(NODES_MAX)]
    return np.sort(np.concatenate(parts))
