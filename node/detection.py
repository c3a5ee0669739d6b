"""step: beacons, leases and silence: what this node knows of its peers beside the catalog.

Detection only suggests. Whoever hears nothing of a peer tells the leader, and grants that peer no
lease meanwhile (P5); what comes of it is an entry of the catalog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.ids import NOBODY, Incarnation, NodeId
from base.units import NS_PER_MS
from cluster import raft_types as rt
from cluster.catalog import Liveness
from cluster.membership import (
    TICK,
    BeaconDue,
    DeclaredDown,
    LinkDown,
    LinkUp,
    MembershipEffect,
    PeerSuspected,
)
from node.effects import Note, Send, SendBeacons
from transport import messages as wire

if TYPE_CHECKING:
    from node.core import NodeCore

REPORT_NS = 100 * NS_PER_MS
_UP = Liveness.UP  # looked up once: each beacon asks for it


class Detection:
    """Feeds membership and leases of one node, and reports who is silent."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.links: dict[int, int] = {}  # session by peer, 0 when down
        self._suspects: dict[int, tuple[int, int, bool]] = {}
        self._next_report_ns = 0
        self._next_stuck_ns = 0

    def link(self, peer: int, session: int, now_ns: int) -> None:
        """The link to a node got this session number, or broke (0)."""
        self.links[peer] = session
        event = LinkUp(NodeId(peer)) if session else LinkDown(NodeId(peer))
        for effect in self._core.membership.step(now_ns, event):
            self.perform(effect, now_ns)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        membership = self._core.membership
        if now_ns >= membership.next_wake_ns:
            for effect in membership.step(now_ns, TICK):
                self.perform(effect, now_ns)
        if self._suspects and now_ns >= self._next_report_ns:
            self.send_reports(now_ns)

    def node_changed(self, node: int, now_ns: int) -> None:
        """The catalog has spoken of a node: no accusation of it stands any more."""
        core = self._core
        core.leases.answered(node)
        self._suspects.pop(node, None)
        state = core.catalog.node_state(node)
        if node != core.self_id and state.liveness is Liveness.DOWN:
            gone = DeclaredDown(NodeId(node), Incarnation(state.incarnation))
            for effect in core.membership.step(now_ns, gone):
                self.perform(effect, now_ns)

    def send_beacon(self, peer: int, now_ns: int) -> None:
        """One beacon, now."""
        core = self._core
        if core.io_health.stuck:
            return
        beacon = core.leases.beacon(peer, now_ns, core.catalog.version)
        core.effects.append(Send(peer, beacon))

    def on_beacon(self, peer: int, beacon: wire.Beacon, now_ns: int) -> None:
        """A peer is alive, and may have granted a lease."""
        core = self._core
        incarnation = beacon.incarnation
        state = core.catalog.lives[peer]
        known = state.incarnation == incarnation and state.liveness is _UP
        core.leases.heard(peer, beacon, known=known)
        if core.membership.still_heard(now_ns, peer, incarnation):
            return
        for effect in core.membership.heard(now_ns, NodeId(peer), Incarnation(incarnation)):
            self.perform(effect, now_ns)

    def perform(self, effect: MembershipEffect, now_ns: int) -> None:
        """What membership found out."""
        core = self._core
        if isinstance(effect, BeaconDue):
            if not core.io_health.stuck:
                beacon, version = core.leases.beacon, core.catalog.version
                beacons = [
                    (node, beacon(node, now_ns, version))
                    for node, session in sorted(self.links.items())
                    if session
                ]
                core.effects.append(SendBeacons(beacons))
            return
        peer = int(effect.peer)
        if isinstance(effect, PeerSuspected):
            self._on_suspected(peer, effect, now_ns)
        elif self._suspects.pop(peer, None) is not None:
            # Heard again before the catalog said anything. Lifting the ban is safe: how long a new
            # owner waits is computed from every lease granted until the change is applied.
            core.leases.answered(peer)
            core.duties.retracted(core.self_id, peer)

    def _on_suspected(self, peer: int, effect: PeerSuspected, now_ns: int) -> None:
        core = self._core
        if peer == core.leader_id:
            core.agreement.step(rt.PeerLost(NodeId(peer)), now_ns)
        state = core.catalog.node_state(peer)
        if state.liveness is not Liveness.UP:
            return
        if peer not in self._suspects:
            core.effects.append(
                Note(
                    "node.suspected",
                    node=peer,
                    silent_ms=effect.silent_ms,
                    link_broken=effect.link_broken,
                )
            )
        self._suspects[peer] = (state.incarnation, now_ns, effect.link_broken)
        core.leases.withhold(peer, core.catalog.version)
        self.send_reports(now_ns)

    def send_reports(self, now_ns: int) -> None:
        """Accuse before the leader whoever is silent, again and again until the catalog answers."""
        core = self._core
        self._next_report_ns = now_ns + REPORT_NS
        if core.muted:
            return
        for peer in sorted(self._suspects):
            incarnation, since_ns, broken = self._suspects[peer]
            state = core.catalog.node_state(NodeId(peer))
            if state.liveness is not Liveness.UP or state.incarnation != incarnation:
                del self._suspects[peer]
                continue
            silent_ms = (now_ns - since_ns) // NS_PER_MS
            report = wire.ReportDown(peer, incarnation, core.incarnation, silent_ms, broken)
            if core.leader_id == core.self_id:
                core.duties.report(core.self_id, report, now_ns)
            elif core.leader_id not in (NOBODY, peer):
                core.effects.append(Send(core.leader_id, report))
            else:
                # The leader may be the one that is silent, and hear us all the same.
                for other in sorted(self.links):
                    if self.links[other]:
                        core.effects.append(Send(other, report))

    def on_report(self, peer: int, report: wire.ReportDown, now_ns: int) -> None:
        """Somebody hears nothing of a node: a matter for the leader."""
        core = self._core
        if core.leader_id == core.self_id:
            core.duties.report(peer, report, now_ns)

    def report_stuck(self, peer: int, waited_ns: int, now_ns: int) -> None:
        """A peer beacons, and acknowledges nothing: say so, now and then."""
        core = self._core
        state = core.catalog.node_state(peer)
        if core.muted or state.liveness is not Liveness.UP or now_ns < self._next_stuck_ns:
            return
        if peer in self._suspects or not self.has_link(peer):
            return  # it is silent, which is another complaint
        self._next_stuck_ns = now_ns + REPORT_NS
        waited_ms = waited_ns // NS_PER_MS
        report = wire.ReportStuck(peer, state.incarnation, core.incarnation, waited_ms)
        if core.leader_id == core.self_id:
            core.duties.stuck(core.self_id, report, now_ns)
        elif core.leader_id != NOBODY:
            core.effects.append(Send(core.leader_id, report))

    def on_stuck(self, peer: int, report: wire.ReportStuck, now_ns: int) -> None:
        """An owner waits for a copy that does not acknowledge: a matter for the leader."""
        core = self._core
        if core.leader_id == core.self_id:
            core.duties.stuck(peer, report, now_ns)

    def has_link(self, peer: int) -> bool:
        """Whether the link to the peer is up."""
        return bool(self.links.get(peer))
