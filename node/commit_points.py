"""step: what an owner tells its copies when no record will soon, and what it waits for of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.units import NS_PER_MS
from node.effects import Send
from node.gray import PeerHealth
from node.region_copy import RegionCopy
from node.roles import OWNER, TRANSFER_POSITION
from transport import messages as wire

if TYPE_CHECKING:
    from node.core import NodeCore

COMMIT_POINT_NS = 40 * NS_PER_MS
RESEND_NS = 400 * NS_PER_MS


class CommitPoints:
    """For the regions that this node owns; `NodeCore.commit_dirty` says which to look at."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._next_ns = 0
        self._stuck: dict[RegionCopy, tuple[int, int]] = {}
        # Twice as long: a copy whose own disk hangs falls silent first, and that says more.
        self.peers = PeerHealth(2 * core.settings.io_deadline_ns)

    def forget(self, copy: RegionCopy) -> None:
        """The copy is gone."""
        self._stuck.pop(copy, None)

    def tick(self, now_ns: int) -> None:
        """To be called at each tick while anything is dirty."""
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + COMMIT_POINT_NS
            self._send(now_ns)

    def _resend(self, dirty: dict[RegionCopy, None], now_ns: int) -> None:
        """Records that wait for a copy longer than any healthy copy takes are sent again: the copy
        may have dropped them while it was not ready, or had no room for them."""
        core = self._core
        lagging: set[int] = set()
        for copy in dirty:
            if copy.role != OWNER or copy.committed == copy.prepared:
                self._stuck.pop(copy, None)
                continue
            core.commit_dirty[copy] = None
            behind = [p for p in copy.required if copy.acked.get(p, 0) < copy.journalled]
            lagging.update(behind)
            since_ns, committed = self._stuck.setdefault(copy, (now_ns, copy.committed))
            if committed != copy.committed:
                self._stuck[copy] = (now_ns, copy.committed)
            elif now_ns - since_ns >= RESEND_NS:
                self._stuck[copy] = (now_ns, copy.committed)
                for peer in copy.required:
                    if core.has_link(peer):
                        copy.resend(peer, copy.acked.get(peer, 0))
        for peer, waited_ns in self.peers.look(lagging, now_ns).items():
            core.detection.report_stuck(peer, waited_ns, now_ns)

    def _send(self, now_ns: int) -> None:
        core = self._core
        dirty, core.commit_dirty = core.commit_dirty, {}
        self._resend(dirty, now_ns)
        points: dict[int, list[tuple[int, int, int, int, int]]] = {}
        for copy in dirty:
            if copy.role != OWNER or copy.commit_told >= copy.committed:
                continue
            copy.commit_told = copy.committed
            point = (copy.volume, copy.region, copy.epoch, copy.committed, copy.committed_epoch)
            peers = copy.others
            if copy.transfer > TRANSFER_POSITION and copy.joiner not in peers:
                peers = (*peers, copy.joiner)
            for peer in peers:
                points.setdefault(peer, []).append(point)
        for peer in sorted(points):
            core.effects.append(Send(peer, wire.CommitPoints(tuple(points[peer]))))
