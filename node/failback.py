"""step: fail-back: the leader brings copies and owners home when all is well, at a rate.

It waits until every region has its copies and nobody came or went for a while, then proposes a few
rows at a time; `cluster.failback` says which. It gives back the space of stale copies, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from base.units import NS_PER_MS, NS_PER_S
from cluster.entries import Rebalance, encode
from cluster.failback import homes_of, is_whole, plan_failback, plan_releases
from cluster.placement import U8
from node.effects import Note

if TYPE_CHECKING:
    from node.core import NodeCore

# Every move of an owner makes nodes that have not applied it yet wait for their next lease: few
# entries with several rows each cost less of that than many with one.
ROUND_NS = 500 * NS_PER_MS
CALM_NS = 2 * NS_PER_S
RELEASE_NS = 5 * NS_PER_S
JOINS_MAX = 4  # copies on their way home, of one node


class Failback:
    """What one leader knows of it. Idle state is kept by every node and begins anew each term."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.homes: dict[int, U8] = {}
        self._homes_of: tuple[object, ...] = ()
        self._round_ns = 0
        self._release_ns = 0
        self._calm_ns = 0
        self._nodes: tuple[object, ...] = ()
        self._idle_at: tuple[int, int] = (-1, 0)  # (catalog version, nodes) with nothing to do
        self._down_since_ns: dict[int, int] = {}

    def begin(self, now_ns: int) -> None:
        """This node leads from now on."""
        self._round_ns = self._release_ns = self._calm_ns = now_ns
        self._idle_at = (-1, 0)
        self._down_since_ns.clear()

    def tick(self, now_ns: int, live: int, avoid: Callable[[], list[int]], quiet: bool) -> None:
        """live: bits of the nodes that may get copies. quiet: nobody is accused. avoid: by owner,
        bits of the nodes that it cannot reach."""
        catalog = self._core.catalog
        up = catalog.up_mask
        for node in catalog.nodes:
            if up >> node & 1:
                self._down_since_ns.pop(node, None)
            else:
                self._down_since_ns.setdefault(node, now_ns)
        if now_ns < self._round_ns:
            return
        self._round_ns = now_ns + ROUND_NS
        nodes = (live, up)
        if nodes != self._nodes or not quiet or not is_whole(catalog):
            self._nodes = nodes
            self._calm_ns = now_ns
        if now_ns - self._calm_ns < CALM_NS:
            return
        self._find_homes(live)
        if now_ns >= self._release_ns:
            self._release_ns = now_ns + RELEASE_NS
            self._release(now_ns)
        if self._core.settings.failback or catalog.rebalancing:
            self._move(now_ns, live, avoid())

    def _find_homes(self, live: int) -> None:
        catalog = self._core.catalog
        volumes = catalog.volume_manager.list_volumes()
        key = (live, *((volume.volume, volume.regions) for volume in volumes))
        if key != self._homes_of:
            self._homes_of = key
            self.homes = {volume.volume: homes_of(catalog, volume, live) for volume in volumes}

    def _move(self, now_ns: int, live: int, avoid: list[int]) -> None:
        core = self._core
        catalog, settings = core.catalog, core.settings
        if self._idle_at == (catalog.version, live):
            return
        plan = plan_failback(
            catalog,
            self.homes,
            rows_max=max(1, settings.failback_per_s * ROUND_NS // NS_PER_S),
            joins_max=JOINS_MAX,
            avoid=avoid,
        )
        for entry in plan.entries:
            core.propose(encode(entry), None, now_ns)
        if plan.left:
            core.effects.append(Note("failback.planned", rows=plan.left))
        elif catalog.rebalancing:
            core.propose(encode(Rebalance(False)), None, now_ns)
        else:
            self._idle_at = (catalog.version, live)

    def _release(self, now_ns: int) -> None:
        core = self._core
        keep_ns = core.settings.stale_keep_ns
        expired = sum(
            1 << node for node, since in self._down_since_ns.items() if now_ns - since >= keep_ns
        )
        for entry in plan_releases(
            core.catalog, self.homes, expired=expired, keep_home=core.settings.failback
        ):
            core.propose(encode(entry), None, now_ns)
