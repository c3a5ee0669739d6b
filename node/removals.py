"""shell: snapshots that are being removed: handed over by every copy here, and told to the leader.

Every copy of a region hands over by itself what it has (`KeptPages.settle`), as soon as it sees in
the catalog that the view goes; this only goes through all of them. When each node that is up and
has copies of the volume has said that it is through, the leader takes the view out of the catalog.
A node that is down does it when it starts. A removal that is cut off begins again where nothing is
left to be done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.clock import Clock
from base.ids import NOBODY
from base.tasks import Supervisor
from cluster.entries import SnapshotRemoved, encode
from cluster.removals import being_removed, is_handed_over
from transport import messages as wire

if TYPE_CHECKING:
    from node.io_path import IoPath

SLICE = 64  # regions in one turn of the loop
AGAIN_S = 0.1  # until the leader is told again


class Removals:
    """Of one node; at the leader those of all."""

    def __init__(self, io: IoPath, clock: Clock, supervisor: Supervisor) -> None:
        self._io = io
        self._clock = clock
        self._supervisor = supervisor
        self._runs = False
        self._gone: dict[int, int] = {}  # by volume, how many views had gone
        self._reports: dict[tuple[int, int], dict[int, int]] = {}  # incarnations by node
        io.on_message(wire.ViewHandedOver, self.on_report)

    def look(self) -> None:
        """The catalog is another one. A node that was away may find that a view is gone already."""
        core = self._io.core
        if not self._runs and (being_removed(core.catalog) or self._gone_since()):
            self._runs = True
            self._supervisor.start(self._run(), name="remove_views")

    def _gone_since(self) -> set[int]:
        """Volumes that have lost views since `_settle` last went through."""
        trees = self._io.core.catalog.snapshots.trees
        return {
            volume
            for volume, tree in trees.items()
            if tree.highest - sum(1 for _ in tree) != self._gone.get(volume, 0)
        }

    async def _run(self) -> None:
        io = self._io
        try:
            while (wanted := being_removed(io.core.catalog)) or self._gone_since():
                if io.store is not None and io.core.active:
                    volumes = self._gone_since() | {volume for volume, _ in wanted}
                    for volume in volumes:
                        tree = io.core.catalog.snapshots.trees[volume]
                        self._gone[volume] = tree.highest - sum(1 for _ in tree)
                    await self._settle(volumes)
                    for volume, view in wanted:
                        self._tell(volume, view)
                    io.turn_soon()
                await self._clock.sleep(AGAIN_S)
        finally:
            self._runs = False

    async def _settle(self, volumes: set[int]) -> None:
        store = self._io.store
        assert store is not None
        done = 0
        for key in list(store.regions):
            region = store.regions.get(key)
            if region is None or region.kept is None or key[0] not in volumes:
                continue
            region.kept.settle()
            done += 1
            if done % SLICE == 0:
                await self._clock.sleep(0)

    def _tell(self, volume: int, view: int) -> None:
        core = self._io.core
        report = wire.ViewHandedOver(volume, view, core.incarnation)
        if core.leader_id == core.self_id:
            self.on_report(core.self_id, report)
        elif core.leader_id != NOBODY:
            self._io.bus.send(core.leader_id, report)

    # ------------------------------------------------------------------ leader

    def on_report(self, peer: int, report: wire.ViewHandedOver) -> None:
        """A node is through with a view."""
        core = self._io.core
        wanted = being_removed(core.catalog)
        for name in [name for name in self._reports if name not in wanted]:
            del self._reports[name]
        name = (report.volume, report.view)
        if core.leader_id != core.self_id or name not in wanted:
            return
        reports = self._reports.setdefault(name, {})
        reports[peer] = report.incarnation
        if is_handed_over(core.catalog, report.volume, reports):
            del self._reports[name]  # asked once for each round of reports
            entry = encode(SnapshotRemoved(report.volume, report.view))
            core.propose(entry, None, self._clock.now_ns(), repeatable=True)
