"""plan: which nodes hold a region: a hash of (volume, region) over the live nodes [0058].

Every region has a fixed order of preference of all nodes of the cluster; its copies go to the
first live ones. So the loss of a node moves only its own regions, and they spread over all others.
The orders are balanced, not merely random: in every run of as many regions as there are nodes each
node stands exactly once in each place of the order, so a volume of 64 regions is spread as evenly
as one of 65,536. Everything is arrays of integers: one call for a volume of 1 TiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.ids import NOBODY
from base.units import NODES_MAX

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

_AT_ONCE: Final = 1 << 16  # regions placed at once: bounds the memory that it takes for a moment
_PLACE_SALT: Final = 0x8F01_D5A1_0C0F_FEE5
_TURN_SALT: Final = 0x51E5_77AB_2E8B_0001


def _mixed(words: U64) -> U64:
    """A bijection of 64-bit words that looks random (the finaliser of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return words ^ (words >> np.uint64(31))


def _shuffles(volume: int, blocks: U64, salt: int, count: int) -> NDArray[np.intp]:
    """One permutation of 0..count-1 for each block: shape (blocks, count)."""
    seed = _mixed(np.array([(volume << 32) ^ salt], dtype=np.uint64))
    rows = _mixed(blocks * np.uint64(0x9E37_79B9_7F4A_7C15) + seed)
    keys = _mixed(rows[:, None] + np.arange(1, count + 1, dtype=np.uint64)[None, :])
    return np.argsort(keys, axis=1, kind="stable")


def preferences(volume: int, regions: NDArray[Any], nodes: Sequence[int]) -> U8:
    """The order of preference of each region: u8[regions, nodes], best first.

    nodes: all nodes of the cluster, alive or not, ascending: the order of a region must not depend
    on who is alive.
    """
    assert list(nodes) == sorted(set(nodes))
    assert len(nodes) <= NODES_MAX
    count = len(nodes)
    ring = np.array(nodes, dtype=np.uint8)
    if len(regions) == 0 or count == 0:
        return np.zeros((len(regions), count), dtype=np.uint8)
    numbers = regions.astype(np.uint64)
    block, place = np.divmod(numbers, np.uint64(count))
    first = int(block.min())
    blocks = np.arange(first, int(block.max()) + 1, dtype=np.uint64)
    if len(blocks) > 4 * len(regions):  # few rows far apart: only their own blocks
        blocks, at = np.unique(block, return_inverse=True)
    else:
        at = (block - np.uint64(first)).astype(np.intp)
    who = _shuffles(volume, blocks, _PLACE_SALT, count)
    # A second shuffle says how far each later choice stands from the first one; it is the same for
    # all regions of the block, so that each place of the order is a permutation of the nodes too.
    turn = np.zeros((len(blocks), count), dtype=np.intp)
    if count > 1:
        turn[:, 1:] = _shuffles(volume, blocks, _TURN_SALT, count - 1) + 1
    spot = (place.astype(np.intp)[:, None] + turn[at]) % count
    return ring[np.take_along_axis(who[at], spot, axis=1)]


def first_of(order: U8, candidates: U8) -> U8:
    """The most preferred node among the candidates of each region; NOBODY when there is none.

    order: u8[regions, nodes]; candidates: u8[regions], a bit for each node.
    """
    chosen = np.full(len(order), NOBODY, dtype=np.uint8)
    for rank in range(order.shape[1]):
        node = order[:, rank]
        fits = (chosen == NOBODY) & ((candidates >> node) & 1).astype(bool)
        chosen[fits] = node[fits]
    return chosen


def domain_masks(domains: Sequence[int]) -> U8:
    """For each node: the bits of all nodes in its failure domain, its own included.

    domains: u8[NODES_MAX], the failure domain of each node number.
    """
    return np.array(
        [
            sum(1 << other for other in range(len(domains)) if domains[other] == domain)
            for domain in domains
        ],
        dtype=np.uint8,
    )


def spread_of(members: U8, domains: Sequence[int]) -> U8:
    """For each set of nodes (as bits): the bits of all nodes that share a failure domain with one
    of them. A further copy may go anywhere else."""
    return _spread_table(tuple(domains))[members]


@lru_cache(maxsize=64)
def _spread_table(domains: tuple[int, ...]) -> U8:
    table = np.zeros(256, dtype=np.uint8)
    masks = domain_masks(domains)
    for node in range(len(domains)):
        holds = (np.arange(256) >> node & 1).astype(bool)
        table[holds] |= masks[node]
    table.flags.writeable = False
    return table


def place(
    volume: int,
    regions: NDArray[Any],
    copies: int,
    *,
    nodes: Sequence[int],
    live: int,
    domains: Sequence[int],
    pinned_owner: int = -1,
) -> U8:
    """Who gets the copies of each region: u8[regions, copies], the owner first.

    nodes: all nodes of the cluster, ascending; live: bits of those that may get copies; domains:
    failure domain by node number. A place is NOBODY when too few failure domains are alive.
    pinned_owner: that node is the owner of all (tests and benchmarks); -1: by hash.
    """
    if len(regions) > _AT_ONCE:
        parts = [
            place(
                volume, regions[at : at + _AT_ONCE], copies, nodes=nodes, live=live,
                domains=domains, pinned_owner=pinned_owner,
            )
            for at in range(0, len(regions), _AT_ONCE)
        ]  # fmt: skip
        return np.concatenate(parts)
    order = preferences(volume, regions, nodes)
    placed = np.full((len(regions), copies), NOBODY, dtype=np.uint8)
    members = np.zeros(len(regions), dtype=np.uint8)
    for copy in range(copies):
        if copy == 0 and pinned_owner >= 0:
            chosen = np.full(len(regions), pinned_owner, dtype=np.uint8)
        else:
            chosen = first_of(order, np.uint8(live) & ~spread_of(members, domains))
        placed[:, copy] = chosen
        found = chosen != NOBODY
        members[found] |= np.left_shift(np.uint8(1), chosen[found])
    return placed


def recruit_targets(order: U8, allowed: U8, room: NDArray[np.int64]) -> U8:
    """A node for one more copy of each region, NOBODY for those that must wait.

    order: the regions' preferences; allowed: bits of the nodes that each may go to; room: i64[8],
    how many each node may take now. Earlier regions go first.
    """
    left = room.copy()
    chosen = np.full(len(order), NOBODY, dtype=np.uint8)
    for _ in range(NODES_MAX + 1):  # each turn fills at least one more node, or is the last
        open_mask = np.uint8(sum(1 << node for node in range(NODES_MAX) if left[node] > 0))
        waiting = np.flatnonzero((chosen == NOBODY) & (allowed & open_mask != 0))
        if len(waiting) == 0:
            break
        wish = first_of(order[waiting], allowed[waiting] & open_mask)
        for node in range(NODES_MAX):
            taken = waiting[wish == node][: max(0, int(left[node]))]
            chosen[taken] = node
            left[node] -= len(taken)
    return chosen
