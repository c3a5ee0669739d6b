"""plan: what operators see of placement and of losses, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from admin.view import LossRow
from base.ids import node_name
from base.units import NODES_MAX, NS_PER_S
from cluster.catalog import Catalog, Liveness, Loss
from cluster.failback import homes_of
from cluster.loss import Opening, describe
from cluster.region_rules import bits_of

if TYPE_CHECKING:
    from node.core import NodeCore


@dataclass(frozen=True, slots=True)
class Away:
    """Regions that are not at home. fair: by node, how many it would own if all were."""

    owners: int
    copies: int
    fair: tuple[int, ...]


def away_of(catalog: Catalog, live: int) -> Away:
    """Over the nodes that may have copies (bits): how far the cluster is from its placement."""
    owners = copies = 0
    fair = np.zeros(256, dtype=np.int64)
    for volume in catalog.volume_manager.list_volumes():
        table = volume.table
        home = homes_of(catalog, volume, live)
        fair += np.bincount(home[:, 0], minlength=256)
        served = ~table.offline
        owners += int(np.count_nonzero(served & (table.owner != home[:, 0])))
        wanted = np.bitwise_or.reduce(bits_of(home), axis=1)
        elsewhere = np.bitwise_count(table.in_sync & ~wanted)
        copies += int(elsewhere[served].sum())
    return Away(owners, copies, tuple(int(each) for each in fair[:NODES_MAX]))


def left_words(core: NodeCore, now_ns: int, node: int) -> str:
    """Behind the name of a node: since when it is gone."""
    state = core.catalog.node_state(node)
    if state.liveness is Liveness.UP:
        return " (up, with a store that lost it)"
    down_ns = core.flapping.down_ns(node, now_ns)
    if down_ns < 0:
        return f" (down since before {node_name(core.self_id)} started)"
    return f" (down for {down_ns // NS_PER_S} s)"


def row_of(opening: Opening, text: str) -> LossRow:
    """What opens, for programs."""
    first, last = opening.lost_epochs
    return LossRow(
        region=opening.region,
        node=opening.node,
        empty=not opening.copy_epoch,
        copy_epoch=opening.copy_epoch,
        lost_first_epoch=first,
        lost_last_epoch=last,
        short=opening.short,
        waited_for=list(opening.waits_for),
        text=text,
    )


def opening_of(region: int, loss: Loss) -> Opening:
    """A loss that the catalog keeps, as the opening that it came from."""
    waited = tuple(node for node in range(NODES_MAX) if loss.waited_for >> node & 1)
    return Opening(region, loss.epoch - 1, loss.node, loss.copy_epoch, waited, loss.short)


def kept_rows(name: str, losses: dict[int, Loss]) -> list[LossRow]:
    """What was given up of a volume, by region."""
    rows = []
    for region, loss in sorted(losses.items()):
        opening = opening_of(region, loss)
        text = describe(name, opening, lambda _node: "", past=True)
        rows.append(row_of(opening, f"{text} (catalog version {loss.version})"))
    return rows


__all__ = ["Away", "away_of", "kept_rows", "left_words", "opening_of", "row_of"]
