"""plan: the view that a scenario has of a simulated cluster of level 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cluster.catalog import Catalog
from scenario.files.view import (
    ALIVE,
    DEAD,
    PAUSED,
    ClusterView,
    DiskPlace,
    NodeNow,
    RegionNow,
    VolumeNow,
)
from sim.cluster import SimNode

NODES_BITS: Final = 8


@dataclass(slots=True)
class SimView:
    """Looks at nodes; what did not change since the last look is not built again."""

    nodes: list[SimNode]
    disks: tuple[DiskPlace, ...]
    _key: tuple[Any, ...] = ()
    _volumes: tuple[VolumeNow, ...] = ()
    _last: tuple[Any, ...] = ()
    _view: ClusterView | None = None
    _up: tuple[int, ...] = ()

    def look(self) -> ClusterView:
        """Now. The catalog is that of the leader, else the newest of a node that lives."""
        cores = [
            sim.node.core for sim in self.nodes if sim.alive and sim.ready and sim.node is not None
        ]
        leaders = [core for core in cores if core.raft.is_leader and core.active]
        leader = max(leaders, key=lambda core: (core.raft.term, core.catalog.version), default=None)
        catalogs = [core.catalog for core in ([leader] if leader is not None else cores)]
        if catalogs:
            self._read(max(catalogs, key=lambda catalog: catalog.version))
        processes = tuple(_process(sim) for sim in self.nodes)
        led = -1 if leader is None else int(leader.self_id)
        key = (self._key, processes, led)
        if self._view is None or key != self._last:
            self._last = key
            nodes = tuple(
                NodeNow(number, process, number in self._up)
                for number, process in enumerate(processes)
            )
            self._view = ClusterView(nodes, self._volumes, led, self.disks)
        return self._view

    def _read(self, catalog: Catalog) -> None:
        key = (id(catalog), catalog.version)
        if key == self._key:
            return
        self._key = key
        self._up = tuple(int(node) for node in catalog.up_nodes())
        self._volumes = tuple(_volume(volume) for _, volume in sorted(catalog.volumes.items()))


def _process(sim: SimNode) -> str:
    if not sim.alive:
        return DEAD
    return PAUSED if sim.paused and not sim._stolen else ALIVE


def _volume(volume: Any) -> VolumeNow:
    table = volume.table
    rows = zip(
        table.owner.tolist(), table.in_sync.tolist(), table.joiner.tolist(),
        table.offline.tolist(), strict=True,
    )  # fmt: skip
    return VolumeNow(
        str(volume.name),
        tuple(
            RegionNow(
                -1 if offline or owner >= NODES_BITS else owner,
                tuple(n for n in range(NODES_BITS) if in_sync >> n & 1 and n != owner),
                joiner if joiner < NODES_BITS else -1,
            )
            for owner, in_sync, joiner, offline in rows
        ),
        int(volume.copies),
    )
