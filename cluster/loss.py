"""plan: the operator's way out of a region that waits for a copy that will not come back.

An offline region opens by itself when a member of its last set in sync returns, and from nothing
older. An operator may say otherwise. This plans what would open, from which copy, and says what
that loses; the entry (`ForceOpen`) carries both epochs, so nothing is lost but what was said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from base.errors import InvalidRequest, NoSpace
from base.ids import NOBODY, node_name
from base.units import NODES_MAX
from cluster.catalog import Catalog
from cluster.entries import ForceOpen, pack_rows
from cluster.placement import preferences
from volume.virtual_volume import VirtualVolume

ROWS_PER_ENTRY_MAX: Final = 2_000
LINES_MAX: Final = 16  # of a text for people; the rest is counted


class Opening(NamedTuple):
    """An offline region, and how it would open."""

    region: int
    epoch: int  # the region's present one; a higher one begins when it opens
    node: int  # where it opens
    copy_epoch: int  # the last epoch in which that node's copy was in sync; 0: it opens empty
    waits_for: tuple[int, ...]  # nodes that have all of it; none: it was lost already
    short: bool = False  # that node has lost power since, and what it had not synced

    @property
    def lost_epochs(self) -> tuple[int, int]:
        """First and last epoch of which everything acknowledged is lost."""
        return self.copy_epoch + 1, self.epoch - 1


def plan_openings(
    catalog: Catalog, volume: VirtualVolume, regions: Sequence[int] | None
) -> list[Opening]:
    """How each of those offline regions would open now; None: every offline one of the volume.

    The newest copy on a node that is up is taken, whose last epoch in sync is known; without one
    the region opens empty on a node that has no copy. InvalidRequest when a region is not offline
    or does not exist; NoSpace when one can open nowhere.
    """
    table = volume.table
    offline = np.flatnonzero(table.offline)
    if regions is None:
        regions = offline.tolist()
    for region in regions:
        if not 0 <= region < volume.regions:
            raise InvalidRequest(f"volume {volume.name} has regions 0 to {volume.regions - 1}")
        if not table.offline[region]:
            owner = node_name(int(table.owner[region]))
            raise InvalidRequest(
                f"volume {volume.name} region {region} is not offline: {owner} serves it, and"
                " nothing of it has to be given up"
            )
    room = catalog.room(volume.group, volume.region_bytes).tolist()
    return [_opening(catalog, volume, region, room) for region in sorted(set(regions))]


def _opening(catalog: Catalog, volume: VirtualVolume, region: int, room: list[int]) -> Opening:
    table = volume.table
    epoch, members = int(table.epoch[region]), int(table.in_sync[region])
    waits_for = tuple(node for node in range(NODES_MAX) if members >> node & 1)
    up = catalog.up_mask
    held = [
        (int(copy_epoch), not short, -int(node))
        for node, copy_epoch, short in zip(
            table.slot_node[region], table.slot_epoch[region], table.slot_short[region], strict=True
        )
        if node != NOBODY and copy_epoch and up >> int(node) & 1 and not members >> int(node) & 1
    ]
    if held:
        copy_epoch, good, node = max(held)
        return Opening(region, epoch, -node, copy_epoch, waits_for, not good)
    order = preferences(volume.volume, np.array([region]), catalog.nodes)[0].tolist()
    for node in order:
        if up >> node & 1 and room[node] > 0 and table.slot_of(region, node) < 0:
            room[node] -= 1
            return Opening(region, epoch, node, 0, waits_for)
    raise NoSpace(
        f"volume {volume.name} region {region}: no node that is up has a whole copy of it, and none"
        " without a copy has room for an empty one"
    )


def entries_for(volume: VirtualVolume, openings: Sequence[Opening]) -> list[ForceOpen]:
    """The entries that carry the plan out."""
    entries = []
    for at in range(0, len(openings), ROWS_PER_ENTRY_MAX):
        part = openings[at : at + ROWS_PER_ENTRY_MAX]
        rows = pack_rows(
            [each.region for each in part],
            [each.node for each in part],
            [each.epoch for each in part],
        )
        epochs = np.array([each.copy_epoch for each in part], dtype="<u4").tobytes()
        entries.append(ForceOpen(volume.volume, rows, epochs))
    return entries


def describe(name: str, opening: Opening, left: Callable[[int], str], *, past: bool = False) -> str:
    """One line: what opens, from what, and what is lost. left: of a node, when it left, in words
    that follow its name. past: it was done."""
    first, last = opening.lost_epochs
    opens, lost = ("opened", "was lost") if past else ("opens", "is lost")
    node = node_name(opening.node)
    if not opening.copy_epoch:
        what = f"{opens} EMPTY on {node}: everything ever written to it {lost}"
    else:
        what = f"{opens} from the copy of {node}, in sync until epoch {opening.copy_epoch}: "
        if opening.short:
            what += (
                f"its node has lost power since, so everything acknowledged until epoch {last} may"
                f" be lost but for what was flushed until epoch {opening.copy_epoch}"
            )
        elif first > last:
            what += "nothing was acknowledged after it"
        else:
            epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
            what += f"everything acknowledged in {epochs} {lost}"
    holds = "was" if past else "is"
    if opening.waits_for:
        nodes = " and ".join(f"{node_name(each)}{left(each)}" for each in opening.waits_for)
        return f"{name} region {opening.region} {what}; all of it {holds} on {nodes}"
    return f"{name} region {opening.region} {what}; no node {'had' if past else 'has'} newer data"


def refusal(name: str, openings: Sequence[Opening], left: Callable[[int], str]) -> str:
    """What an operator reads who has not said that the loss is accepted."""
    lines = [describe(name, each, left) for each in openings[:LINES_MAX]]
    if len(openings) > LINES_MAX:
        lines.append(f"and {len(openings) - LINES_MAX} regions more")
    nodes = dict.fromkeys(node for each in openings for node in each.waits_for)
    if nodes:
        names = " or ".join(f"`eightfold node start {node_name(node)}`" for node in sorted(nodes))
        advice = f"to lose nothing, bring back what they wait for: {names}"
    else:
        advice = "there is nothing to wait for"
    return "\n".join(["this would lose data:", *lines, f"{advice}; to lose it, say --accept-loss"])
