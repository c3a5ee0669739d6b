"""plan: what an event does to the rows of one region table: which rows change, and to what.

Each rule reads the columns of a whole volume and answers with a `RowChange`; nothing is written
here. All rules keep these invariants, for every row:

- online: the owner is in sync and every in-sync member is up in the catalog;
- offline: nobody joins, and `in_sync` is the last in-sync set; only its members may open the row;
- lost: offline with an empty `in_sync`: the last member came back with a blank store, so no node
  holds what was acknowledged, and nothing but an operator's word can open the row again (if the
  set still named that node, its next intact life would open an empty copy);
- every change of owner or in-sync set, and every end of a join, is a new epoch: it fences whatever
  was sent before (rules P1, P6, P8 of the protocol).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.ids import NOBODY
from base.units import NODES_MAX
from cluster.effects import Regions
from cluster.placement import U8, first_of, spread_of
from volume.region_table import RegionTable

Bools = NDArray[np.bool_]
Preferences = Callable[[Regions], U8]  # regions -> their orders of preference

_NONE: Final[Regions] = np.zeros(0, dtype=np.intp)
_BITS: Final[U8] = np.array(
    [1 << node if node < NODES_MAX else 0 for node in range(256)], dtype=np.uint8
)
LOWEST: Final[U8] = np.array(
    [NOBODY] + [(mask & -mask).bit_length() - 1 for mask in range(1, 256)], dtype=np.uint8
)


@dataclass(slots=True)
class RowChange:
    """New values for some rows of one volume, each of which gets a new version.

    The epoch of every row grows by one. `release_regions`, `release_nodes`: pairs whose stale
    slots are to be given back afterwards. `reduced`: rows that go on with a copy that lost what it
    had not synced. `returned`: rows that go back to the copy that was the last to leave. `lost`:
    rows that no node holds any more. `whole`: who leaves a set in sync by this change holds all
    that was acknowledged until it is applied.
    """

    regions: Regions
    owner: U8
    in_sync: U8
    joiner: U8
    offline: Bools
    release_regions: Regions = field(default_factory=lambda: _NONE)
    release_nodes: U8 = field(default_factory=lambda: _NONE.astype(np.uint8))
    reduced: Regions = field(default_factory=lambda: _NONE)
    returned: Regions = field(default_factory=lambda: _NONE)
    lost: Regions = field(default_factory=lambda: _NONE)
    whole: bool = False


def rows_as_they_are(table: RegionTable, regions: Regions) -> RowChange:
    """A change that is none yet: copies of the rows' columns, for a rule to edit."""
    return RowChange(
        regions,
        table.owner[regions],
        table.in_sync[regions],
        table.joiner[regions],
        table.offline[regions],
    )


def bits_of(nodes: U8) -> U8:
    """One bit for each node; none for NOBODY."""
    return _BITS[nodes]


def _clear(mask: U8, node: int) -> U8:
    return mask & np.uint8(~(1 << node) & 0xFF)


def _heirs(candidates: U8, regions: Regions, preferences: Preferences) -> U8:
    """The new owner of each region; NOBODY without a candidate. One survivor of a node must not
    get all of its regions, so where there is a choice the placement makes it."""
    heirs = LOWEST[candidates]
    several = np.flatnonzero(np.bitwise_count(candidates) > 1)
    if len(several):
        heirs[several] = first_of(preferences(regions[several]), candidates[several])
    return heirs


def node_down(table: RegionTable, node: int, up: int, preferences: Preferences) -> RowChange:
    """The life of `node` is over. up: bits of the nodes that are up, without it.

    Its copies keep their slots: a stale copy is cheaper to bring up to date than a new one.
    """
    bit = np.uint8(1 << node)
    touched = ~table.offline & (((table.in_sync & bit) != 0) | (table.joiner == node))
    change = rows_as_they_are(table, np.flatnonzero(touched))
    change.joiner[change.joiner == node] = NOBODY
    owned = np.flatnonzero(change.owner == node)
    survivors = _clear(change.in_sync[owned], node) & np.uint8(up)
    heirs = _heirs(survivors, change.regions[owned], preferences)
    found = heirs != NOBODY
    change.owner[owned[found]] = heirs[found]
    # Nobody left in sync: the row waits for exactly the members that it had. The last owner's
    # number stays for people to read.
    closed = owned[~found]
    change.offline[closed] = True
    change.joiner[closed] = NOBODY
    remains = ~change.offline
    change.in_sync[remains] = _clear(change.in_sync[remains], node)
    change.whole = True
    return change


def node_up(
    table: RegionTable,
    node: int,
    up: int,
    preferences: Preferences,
    *,
    intact: bool,
    blank: bool,
    known: int,
) -> RowChange:
    """A new life of `node` begins. up: bits of the other nodes that are up.

    An intact store holds all it ever acknowledged: it stays where it was, under a new epoch, and
    opens the rows that waited for it. A store that lost unsynced writes steps back where another
    member is up. Where it is the only member the copy that left last may be better. known: no
    earlier life of the node acted on a later version of the catalog. Until the other copy left,
    each acknowledgement needed both, and if it left at a later version than `known`, none was given
    since: the other copy has them all, and the row goes back to it (`returned`). Else nobody has
    all, this copy is still the best there is, and it goes on alone (`reduced`).
    A blank store is nobody's copy: where it was the only member the row is lost.
    """
    bit = np.uint8(1 << node)
    member = (table.in_sync & bit) != 0
    change = rows_as_they_are(table, np.flatnonzero(member | (table.joiner == node)))
    change.joiner[change.joiner == node] = NOBODY
    mine = (change.in_sync & bit) != 0
    others = _clear(change.in_sync, node)
    others_up = others & np.uint8(up)
    if blank:
        _step_back(change, mine & (others != 0), node, others, others_up, preferences)
        lost = mine & (others == 0)
        change.owner[lost] = NOBODY
        change.in_sync[lost] = 0
        change.offline[lost] = True
        change.joiner[lost] = NOBODY
        change.lost = change.regions[lost]
        return change
    stays = mine
    if not intact:
        _step_back(change, mine & (others_up != 0), node, others, others_up, preferences)
        left = table.left[change.regions]
        unknown = table.left_version[change.regions] > np.uint64(known)
        returned = mine & (others == 0) & (left != NOBODY) & unknown
        _give_back(change, returned, left, up)
        stays = mine & (others_up == 0) & ~returned
        change.reduced = change.regions[stays]
    # Members that are down when the row opens did not follow: they are not in sync any more.
    opening = stays & (change.offline | (not intact))
    change.in_sync[opening] = others_up[opening] | bit
    change.owner[opening] = node
    change.offline[opening] = False
    return change


def _give_back(change: RowChange, rows: Bools, left: U8, up: int) -> None:
    """The copy that left last is the only one that has everything: it serves, or is waited for."""
    change.returned = change.regions[rows]
    heirs = bits_of(left[rows])
    away = heirs & np.uint8(up) == 0
    change.owner[rows] = left[rows]
    change.in_sync[rows] = heirs
    change.offline[rows] = away
    joiner = change.joiner[rows]
    change.joiner[rows] = np.where(away | (joiner == left[rows]), NOBODY, joiner)


def _step_back(
    change: RowChange, rows: Bools, node: int, others: U8, others_up: U8, preferences: Preferences
) -> None:
    """`node` leaves the in-sync set of rows that have another member. Where no other member is up
    the row waits for one of them (no history of these rules leads there: an offline row has one
    member only)."""
    change.in_sync[rows] = others[rows]
    owned = np.flatnonzero(rows & ((change.owner == node) | change.offline))
    alive = others_up[owned] != 0
    candidates = np.where(alive, others_up[owned], others[owned])
    change.owner[owned] = _heirs(candidates, change.regions[owned], preferences)
    change.offline[owned] = ~alive
    change.joiner[owned[~alive]] = NOBODY


def cut_pair(table: RegionTable, first: int, second: int) -> RowChange:
    """Two live nodes cannot talk. The owner of a row stays; of two that are not owner the lower."""
    low, high = min(first, second), max(first, second)
    both = np.uint8(1 << low | 1 << high)
    members = ~table.offline & ((table.in_sync & both) == both)
    joining = ((table.owner == low) & (table.joiner == high)) | (
        (table.owner == high) & (table.joiner == low)
    )
    change = rows_as_they_are(table, np.flatnonzero(members | joining))
    paired = (change.in_sync & both) == both
    leaves = np.where(change.owner == high, low, high).astype(np.uint8)
    change.in_sync = np.where(paired, change.in_sync & ~bits_of(leaves), change.in_sync)
    ended = ((change.owner == low) & (change.joiner == high)) | (
        (change.owner == high) & (change.joiner == low)
    )
    change.joiner[ended] = NOBODY
    change.whole = True
    return change


def recruit(
    table: RegionTable,
    regions: Regions,
    nodes: U8,
    copies: int,
    up: int,
    domains: tuple[int, ...],
) -> tuple[Regions, U8]:
    """Regions that want a copy and may have it on the given node, ascending, and those nodes.

    A join begins without a new epoch: nothing that is under way has to be fenced for it.
    """
    regions, nodes = _first_mention(table, regions, nodes)
    bit = bits_of(nodes)
    in_sync = table.in_sync[regions]
    fits = (
        ~table.offline[regions]
        & (table.joiner[regions] == NOBODY)
        & (bit & np.uint8(up) & ~spread_of(in_sync, domains) != 0)
        & (np.bitwise_count(in_sync) < copies)
    )
    return regions[fits], nodes[fits]


def rehome(
    table: RegionTable,
    regions: Regions,
    nodes: U8,
    copies: int,
    up: int,
    domains: tuple[int, ...],
) -> tuple[Regions, U8]:
    """Regions with just enough copies that may have one of them on the given node instead,
    ascending, and those nodes. The members stay until the joiner is in sync (`admit`)."""
    regions, nodes = _first_mention(table, regions, nodes)
    bit = bits_of(nodes)
    in_sync = table.in_sync[regions]
    stays = spread_of(bits_of(table.owner[regions]), domains)
    # Of the members that are not the owner one leaves; it may be in the joiner's failure domain.
    shared = in_sync & spread_of(bit, domains)
    fits = (
        ~table.offline[regions]
        & (table.joiner[regions] == NOBODY)
        & (bit & np.uint8(up) & ~in_sync & ~stays != 0)
        & (np.bitwise_count(shared) <= 1)
        & (np.bitwise_count(in_sync) == copies)
        & (copies > 1)
    )
    return regions[fits], nodes[fits]


def _first_mention(table: RegionTable, regions: Regions, nodes: U8) -> tuple[Regions, U8]:
    """Each region that exists once, ascending, with the node that was first given for it."""
    unique, at = np.unique(regions, return_index=True)
    known = unique < len(table)
    return unique[known].astype(np.intp), nodes[at[known]]


def matching(table: RegionTable, rows: NDArray[Any]) -> tuple[Regions, U8]:
    """Regions and nodes of those packed rows that are online and still at the given epoch."""
    unique, at = np.unique(rows["region"], return_index=True)
    known = unique < len(table)
    regions, rows = unique[known].astype(np.intp), rows[at[known]]
    current = (table.epoch[regions] == rows["epoch"]) & ~table.offline[regions]
    return regions[current], rows["node"][current]


def admit(
    table: RegionTable,
    rows: NDArray[Any],
    copies: int,
    domains: tuple[int, ...],
    preferences: Preferences,
) -> RowChange:
    """Joiners become members. Where that makes one too many, another leaves by the same entry and
    gives its space back: at no time has a region fewer copies for it, or two in one failure domain.
    Stale copies stay: their node may come back, and they are cheap to bring up to date."""
    regions, nodes = matching(table, rows)
    joined = (table.joiner[regions] == nodes) & (nodes != NOBODY)
    regions, nodes = regions[joined], nodes[joined]
    change = rows_as_they_are(table, regions)
    change.joiner[:] = NOBODY
    many = np.flatnonzero(np.bitwise_count(change.in_sync) >= copies)
    if len(many):
        mayleave = change.in_sync[many] & ~bits_of(change.owner[many])
        near = mayleave & spread_of(bits_of(nodes[many]), domains)
        candidates = np.where(near != 0, near, mayleave).astype(np.uint8)
        order = preferences(regions[many])
        leaves = first_of(order[:, ::-1], candidates)  # the least preferred
        change.in_sync[many] &= ~bits_of(leaves)
        gone = leaves != NOBODY
        change.release_regions = regions[many][gone]
        change.release_nodes = leaves[gone]
    change.in_sync |= bits_of(nodes)
    return change


def part_joiners(change: RowChange, domains: tuple[int, ...]) -> None:
    """End joins that the change leaves in the failure domain of the owner: a joiner that replaces
    a replicant may share the domain of that replicant only, and that one may own the region now."""
    beside = bits_of(change.joiner) & spread_of(bits_of(change.owner), domains)
    change.joiner[beside != 0] = NOBODY


def cancel_joins(table: RegionTable, rows: NDArray[Any]) -> RowChange:
    """Joins that end without a member."""
    regions, nodes = matching(table, rows)
    joined = (table.joiner[regions] == nodes) & (nodes != NOBODY)
    change = rows_as_they_are(table, regions[joined])
    change.joiner[:] = NOBODY
    return change


def move_owners(table: RegionTable, rows: NDArray[Any], up: int) -> RowChange:
    """Another member that is up serves from now on."""
    regions, nodes = matching(table, rows)
    able = bits_of(nodes) & table.in_sync[regions] & np.uint8(up)
    fits = (able != 0) & (table.owner[regions] != nodes)
    change = rows_as_they_are(table, regions[fits])
    change.owner = nodes[fits].copy()
    return change


def drop(table: RegionTable, rows: NDArray[Any], up: int, preferences: Preferences) -> RowChange:
    """Copies that their nodes cannot keep leave where another member is up, and give their space
    back; joins of such copies end. What an owner serves another member serves. A last copy stays:
    what it has in its journal is better than nothing."""
    regions, nodes = matching(table, rows)
    bits = bits_of(nodes)
    member = (table.in_sync[regions] & bits != 0) & (nodes != NOBODY)
    spared = table.in_sync[regions] & ~bits & np.uint8(up) != 0
    joins = (table.joiner[regions] == nodes) & (nodes != NOBODY)
    fits = (member & spared) | joins
    change = rows_as_they_are(table, regions[fits])
    change.joiner[joins[fits]] = NOBODY
    change.in_sync &= ~bits[fits]
    owned = np.flatnonzero(change.owner == nodes[fits])
    candidates = change.in_sync[owned] & np.uint8(up)
    change.owner[owned] = _heirs(candidates, change.regions[owned], preferences)
    change.release_regions, change.release_nodes = change.regions, nodes[fits]
    return change


def release(table: RegionTable, rows: NDArray[Any]) -> tuple[Regions, U8]:
    """Stale copies of regions that are served, and their nodes. An offline region keeps them: one
    of them may be all that is left."""
    regions, nodes = matching(table, rows)
    slots = table.slots_of(regions, nodes)
    stale = table.stale_slots(regions)[np.arange(len(regions)), slots] & (slots >= 0)
    return regions[stale], nodes[stale]


def force_open(
    table: RegionTable, rows: NDArray[Any], copy_epochs: NDArray[Any], up: int
) -> tuple[RowChange, NDArray[np.uint32]]:
    """Offline rows that open at an operator's word, each on the node given for it, and the epoch of
    the copy that it opens from; 0: the node has no copy, and the region opens empty."""
    unique, at = np.unique(rows["region"], return_index=True)
    known = unique < len(table)
    regions, rows, wanted = unique[known].astype(np.intp), rows[at[known]], copy_epochs[at[known]]
    nodes = rows["node"]
    slots = table.slots_of(regions, nodes)
    held = np.where(slots >= 0, table.slot_epoch[regions, slots], 0)
    # A copy of epoch 0 was being filled when its owner was lost: a mixture, worse than nothing.
    usable = (slots < 0) | (held > 0)
    fits = (
        table.offline[regions]
        & (table.epoch[regions] == rows["epoch"])
        & (bits_of(nodes) & np.uint8(up) != 0)
        & (held == wanted)
        & usable
    )
    change = rows_as_they_are(table, regions[fits])
    change.owner = nodes[fits].copy()
    change.in_sync = bits_of(nodes[fits])
    change.joiner[:] = NOBODY
    change.offline[:] = False
    return change, held[fits].astype(np.uint32)
