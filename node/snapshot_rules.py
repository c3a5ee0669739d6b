"""shell: while this node leads: snapshots that rules ask for, and the end of those that are due."""

from __future__ import annotations

from typing import Final

import structlog

from base.clock import Clock
from base.tasks import Supervisor
from base.units import NS_PER_MS
from cluster.entries import BeginCut, encode
from cluster.snapshot_rules import RuleKeeper
from node.io_path import IoPath

log = structlog.get_logger()

LOOK_S: Final = 1.0


class SnapshotRules:
    """Of one node; does nothing while another one leads."""

    def __init__(self, io: IoPath, clock: Clock, supervisor: Supervisor) -> None:
        self._io = io
        self._clock = clock
        self._supervisor = supervisor
        self._keeper: RuleKeeper | None = None
        self._runs = False

    def look(self) -> None:
        """The catalog is another one: is there anything to look after?"""
        snapshots = self._io.core.catalog.snapshots
        if not self._runs and (snapshots.rules or snapshots.trees):
            self._runs = True
            self._supervisor.start(self._run(), name="snapshot_rules")

    async def _run(self) -> None:
        core = self._io.core
        while not core.stopping:
            if not core.active or not core.raft.is_leader:
                self._keeper = None
            else:
                if self._keeper is None:
                    self._keeper = RuleKeeper()
                self._act(self._keeper)
            await self._clock.sleep(LOOK_S)

    def _act(self, keeper: RuleKeeper) -> None:
        core, now_ns = self._io.core, self._clock.now_ns()
        for entry in keeper.look(core.catalog, self._clock.wall_ns() // NS_PER_MS):
            if isinstance(entry, BeginCut):
                volume, _, name = entry.members[0]
                log.info("snapshot.asked", volume=volume, name=name, rule=entry.rule)
            else:
                log.info("snapshot.expired", volume=entry.volume, view=entry.view)
            core.propose(encode(entry), None, now_ns)
        self._io.turn_soon()
