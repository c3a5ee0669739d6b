"""step: cuts: an owner's replies are held back while one point in time is made over many owners.

A node that applies `BeginCut` numbers every later operation of these volumes with the new snapshot
(`Record.cow_into`: not in it), and answers none of their hosts, neither reads nor writes. When all
it had numbered before is committed it has *adopted* the cut and says so to the leader. When every
owner has, the leader ends the cut by an entry, and replies leave. So whoever learns of anything
that is not in the snapshot learns it after every owner had adopted, and nothing that a host does
because of it can be in the snapshot (section 7, reply gating).

A gate opens by the catalog only. What a node adopted counts for one life of it; a successor has
applied `BeginCut` before it opens a region, and commits all that it inherited before it serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.ids import NOBODY
from base.units import NS_PER_MS
from cluster.catalog import Liveness
from cluster.effects import CutBegun, CutEnded
from cluster.entries import AbandonCut, ActivateCut, encode
from cluster.snapshots import Cut
from node.effects import Note, Reply, Send
from node.region_copy import RegionCopy
from node.roles import OWNER
from transport import messages as wire

if TYPE_CHECKING:
    from node.core import NodeCore

REPORT_NS = 40 * NS_PER_MS  # an adoption is told again until the cut ends: leaders change
HELD_KEPT = 256
CUT_NS = 5_000 * NS_PER_MS  # a leader gives a cut up that is not adopted by then


class Gates:
    """The cuts of which this node owns regions; at the leader all of them."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        # By cut, owned copies that had numbered more than they have committed.
        self._adopting: dict[int, dict[RegionCopy, None]] = {}
        self._next_report_ns = 0
        self._begun_ns: dict[int, int] = {}
        # By cut, of the last ones that ended: how long this node held replies back for them.
        self.held_ns: dict[int, int] = {}
        self.made = self.abandoned = self.held_ns_total = self.held_ns_max = 0
        # At the leader: (incarnation, catalog version) by cut and node, and since when it knows it.
        self._adopted: dict[int, dict[int, tuple[int, int]]] = {}
        self._since_ns: dict[int, int] = {}

    def __bool__(self) -> bool:
        """A cut is being made."""
        return bool(self._core.catalog.snapshots.cuts)

    # ------------------------------------------------------------------ every node

    def configured(self, copy: RegionCopy) -> None:
        """The copy has its configuration: whether its gate is closed, and what its writes owe."""
        snapshots = self._core.catalog.snapshots
        copy.cow_into = snapshots.newest(copy.volume)
        copy.know_views(snapshots.highest(copy.volume))
        copy.gated = snapshots.cut_of(copy.volume) is not None

    def changed(self, volume: int) -> None:
        """The tree of the volume is another one."""
        for copy in self._core.copies.get(volume, {}).values():
            self.configured(copy)

    def begun(self, effect: CutBegun, now_ns: int) -> None:
        """From now on nothing of these volumes is answered."""
        adopting = self._adopting.setdefault(effect.cut, {})
        self._begun_ns[effect.cut] = now_ns
        for volume in effect.volumes:
            for copy in self._core.copies.get(volume, {}).values():
                self.configured(copy)
                if copy.role == OWNER and copy.prepared > copy.committed:
                    copy.adopt_at = copy.prepared
                    adopting[copy] = None
        self._report(now_ns)

    def ended(self, effect: CutEnded, now_ns: int) -> None:
        """Replies may leave."""
        core = self._core
        held_ns = now_ns - self._begun_ns.pop(effect.cut, now_ns)
        self._count(effect, held_ns)
        self._adopting.pop(effect.cut, None)
        self._adopted.pop(effect.cut, None)
        self._since_ns.pop(effect.cut, None)
        for volume in effect.volumes:
            for copy in core.copies.get(volume, {}).values():
                self.configured(copy)
                self._open(copy)
        held_ms = round(held_ns / NS_PER_MS, 2)
        core.effects.append(Note("cut.ended", cut=effect.cut, made=effect.made, held_ms=held_ms))

    def _count(self, effect: CutEnded, held_ns: int) -> None:
        self.made += effect.made
        self.abandoned += not effect.made
        self.held_ns_total += held_ns
        self.held_ns_max = max(self.held_ns_max, held_ns)
        self.held_ns[effect.cut] = held_ns
        if len(self.held_ns) > HELD_KEPT:
            del self.held_ns[next(iter(self.held_ns))]

    def _open(self, copy: RegionCopy) -> None:
        if copy.gated:
            return
        held, copy.held = copy.held, []
        self._core.effects += [Reply(token, None) for token in held]
        if copy.waiting:
            self._core.waiting[copy] = None
            if copy.serving:
                copy.resume()

    def reset(self) -> None:
        """The catalog came as a whole: what is being cut, and what not any more, is to be seen."""
        core = self._core
        self._begun_ns.clear()
        self._adopting.clear()
        self._adopted.clear()
        self._since_ns.clear()
        for copy in core.all_copies():
            self.configured(copy)
            self._open(copy)
        for cut in core.catalog.snapshots.cuts.values():
            # Nobody knows what was numbered before the entry that this node never saw: all of it.
            adopting = self._adopting.setdefault(cut.cut, {})
            for volume in cut.volumes:
                for copy in core.copies.get(volume, {}).values():
                    if copy.role == OWNER and copy.prepared > copy.committed:
                        copy.adopt_at = copy.prepared
                        adopting[copy] = None

    def copy_adopted(self, copy: RegionCopy, now_ns: int) -> None:
        """All that the copy had numbered when its cut began is committed."""
        for adopting in self._adopting.values():
            adopting.pop(copy, None)
        self._report(now_ns)

    def tick(self, now_ns: int) -> None:
        """To be called at each tick while a cut is being made."""
        for adopting in self._adopting.values():
            for copy in [each for each in adopting if each.role != OWNER]:
                del adopting[copy]
        if now_ns >= self._next_report_ns:
            self._report(now_ns)
        if self._core.raft.is_leader:
            self.drive(now_ns)

    def _report(self, now_ns: int) -> None:
        core = self._core
        if not core.active:
            return
        self._next_report_ns = now_ns + REPORT_NS
        version = core.catalog.version
        for cut in core.catalog.snapshots.cuts:
            if self._adopting.get(cut):
                continue
            report = wire.CutAdopted(cut, core.incarnation, version)
            if core.leader_id == core.self_id:
                self.on_adopted(core.self_id, report, now_ns)
            elif core.leader_id != NOBODY:
                core.effects.append(Send(core.leader_id, report))

    # ------------------------------------------------------------------ leader

    def on_adopted(self, peer: int, report: wire.CutAdopted, now_ns: int) -> None:
        """A node has adopted a cut."""
        core = self._core
        if core.leader_id != core.self_id or report.cut not in core.catalog.snapshots.cuts:
            return
        adopted = self._adopted.setdefault(report.cut, {})
        adopted[peer] = max(adopted.get(peer, (0, 0)), (report.incarnation, report.catalog_version))
        self.drive(now_ns)

    def drive(self, now_ns: int) -> None:
        """End the cuts that every owner has adopted, and those that cannot be made."""
        core = self._core
        if not core.raft.is_leader:
            return
        for cut in core.catalog.snapshots.cuts.values():
            since_ns = self._since_ns.setdefault(cut.cut, now_ns)
            owners = self._owners(cut)
            if owners is None or now_ns - since_ns > CUT_NS:
                core.propose(encode(AbandonCut(cut.cut)), None, now_ns, repeatable=True)
                self._since_ns[cut.cut] = now_ns
            elif all(self._has_adopted(cut.cut, owner) for owner in owners):
                core.propose(encode(ActivateCut(cut.cut)), None, now_ns, repeatable=True)
                self._adopted.pop(cut.cut, None)  # asked once for each round of reports

    def _owners(self, cut: Cut) -> list[int] | None:
        """Nodes that own a region of the cut; None: a region is offline, or a volume is gone."""
        core = self._core
        owners: dict[int, None] = {}
        for volume in cut.volumes:
            if not core.catalog.volume_manager.has_volume(volume):
                return None
            table = core.catalog.volume_manager.volume(volume).table
            if table.offline.any():
                return None
            owners.update(dict.fromkeys(table.owner.tolist()))
        return sorted(owners)

    def _has_adopted(self, cut: int, node: int) -> bool:
        """In the life that is up, and knowing everybody's last change of owners: only so can
        nobody who was an owner before, and has not heard of the cut, commit anything more."""
        core = self._core
        incarnation, version = self._adopted.get(cut, {}).get(node, (-1, 0))
        state = core.catalog.node_state(node)
        return (
            state.liveness is Liveness.UP
            and state.incarnation == incarnation
            and version >= core.leases.floor
        )
