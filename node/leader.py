"""step: what the node that leads does beside agreeing.

It judges reports of silence, keeps the voters in step with who is up, and recruits new copies.

Detectors only suggest: whatever the leader proposes here, leases and epochs decide who may serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from base.ids import NodeId
from base.units import NS_PER_MS
from cluster import failover
from cluster import raft_types as rt
from cluster.catalog import Liveness
from cluster.entries import CutPair, NodeDown, encode
from node.effects import Note
from node.failback import Failback
from transport.messages import ReportDown, ReportStuck

if TYPE_CHECKING:
    from node.core import NodeCore

ALONE_NS = 1_000 * NS_PER_MS  # how long the leader waits for a second witness of a silence
CUT_NS = 1_500 * NS_PER_MS  # how long a pair may be silent to each other while both live
REPORT_VALID_NS = 400 * NS_PER_MS
REPROPOSE_NS = 500 * NS_PER_MS
RECRUIT_NS = 100 * NS_PER_MS
JOINS_PER_NODE_MAX = 64
VOTERS_LEAST = 3  # below it a node that comes and goes votes too


class Witness(NamedTuple):
    """One node that hears nothing of another: since when, and when it said so last."""

    first_ns: int
    last_ns: int
    incarnation: int


class HandOver(NamedTuple):
    """Somebody else is to lead: this leader and another node do not hear each other, and a node
    that the leader does not reach learns nothing of the catalog any more."""

    to: int


Verdict = NodeDown | CutPair | HandOver


class Leader:
    """Duties of the leader; idle state is kept by every node and begins anew with each term."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._reports: dict[tuple[int, int], dict[int, Witness]] = {}  # by accused life
        self._blank: dict[int, None] = {}  # voters that say that they have lost their store
        self._proposed: dict[object, int] = {}
        # Owners that wait in vain for a copy, and for whom, by life: when they said so last.
        self._stuck: dict[tuple[tuple[int, int], tuple[int, int]], int] = {}
        self._recruit_at_ns = 0
        self._whole_version = -1  # at which every region had its copies or a joiner
        self._low_since_ns = 0
        self._member_token = 0
        self.failback = Failback(core)

    def begin(self, now_ns: int) -> None:
        """This node leads from now on."""
        self._reports.clear()
        self._blank.clear()
        self._proposed.clear()
        self._stuck.clear()
        self._recruit_at_ns = now_ns
        self.failback.begin(now_ns)
        if not self._core.catalog.cluster_id and self._core.settings.form_entry:
            self._core.propose(self._core.settings.form_entry, None, now_ns)

    def report(self, reporter: int, report: ReportDown, now_ns: int) -> None:
        """Somebody hears nothing of a node."""
        key = (report.about, report.about_incarnation)
        witnesses = self._reports.setdefault(key, {})
        known = witnesses.get(reporter)
        first_ns = known.first_ns if known is not None else now_ns
        witnesses[reporter] = Witness(first_ns, now_ns, report.reporter_incarnation)
        self._judge(key, now_ns)

    def stuck(self, reporter: int, report: ReportStuck, now_ns: int) -> None:
        """An owner waits in vain for a copy on a node that everyone hears.

        Of two owners' word the node is down. One owner's word cuts the pair, so that the owner goes
        on without it; but who waits in vain for several nodes, and nobody else for them, does not
        hear the answers himself.
        """
        core = self._core
        about = (report.about, report.about_incarnation)
        mine = (reporter, report.reporter_incarnation)
        self._stuck = {key: at for key, at in self._stuck.items() if now_ns - at <= REPORT_VALID_NS}
        self._stuck[mine, about] = now_ns
        if core.muted or any(
            core.catalog.node_state(node) != (Liveness.UP, life) for node, life in (mine, about)
        ):
            return
        reporters = [by for by, whom in self._stuck if whom == about]
        waited_for = [whom for by, whom in self._stuck if by == mine]
        verdict: Verdict = CutPair(*mine, *about)
        if len(reporters) > 1:
            verdict = NodeDown(*about)
        elif len(waited_for) > 1:
            verdict = NodeDown(*mine)
        if now_ns - self._proposed.get(verdict, -REPROPOSE_NS) >= REPROPOSE_NS:
            self._proposed[verdict] = now_ns
            core.effects.append(
                Note("node.accused", node=report.about, waited_ms=report.waited_ms, by=reporter)
            )
            self._act_on(verdict, now_ns)

    def retracted(self, reporter: int, about: int) -> None:
        """The reporter hears the node again."""
        for key, witnesses in self._reports.items():
            if key[0] == about:
                witnesses.pop(reporter, None)

    def peer_blank(self, node: int) -> None:
        """A voter has lost its store: nobody needs to miss it to know that its life is over."""
        self._blank[node] = None

    def _end_blank_lives(self, now_ns: int) -> None:
        core = self._core
        for node in list(self._blank):
            state = core.catalog.node_state(node)
            if node not in core.raft.members.voters or state.liveness is not Liveness.UP:
                del self._blank[node]
                continue
            over = NodeDown(NodeId(node), state.incarnation)
            if now_ns - self._proposed.get(over, -REPROPOSE_NS) >= REPROPOSE_NS:
                self._proposed[over] = now_ns
                core.effects.append(Note("node.declared_down", node=node))
                core.propose(encode(over), None, now_ns, repeatable=True)

    def tick(self, now_ns: int) -> None:
        """To be called every tenth of a second or so while this node leads."""
        for key in sorted(self._reports):
            self._judge(key, now_ns)
        self._end_blank_lives(now_ns)
        self._keep_voters(now_ns)
        self._recruit(now_ns)
        live = self.trusted(now_ns)
        self.failback.tick(now_ns, live, lambda: self._avoided(now_ns), not self._reports)

    def _judge(self, key: tuple[int, int], now_ns: int) -> None:
        about, incarnation = key
        core = self._core
        if core.muted:
            return
        if core.catalog.node_state(about) != (Liveness.UP, incarnation):
            self._reports.pop(key, None)
            return
        witnesses = self._reports[key]
        for reporter in sorted(witnesses):
            if now_ns - witnesses[reporter].last_ns > REPORT_VALID_NS:
                del witnesses[reporter]
        if not witnesses:
            del self._reports[key]
            return
        for verdict in self._verdicts(about, incarnation, witnesses, now_ns):
            if now_ns - self._proposed.get(verdict, -REPROPOSE_NS) >= REPROPOSE_NS:
                self._proposed[verdict] = now_ns
                self._act_on(verdict, now_ns)

    def _act_on(self, verdict: Verdict, now_ns: int) -> None:
        core = self._core
        if isinstance(verdict, HandOver):
            core.effects.append(Note("leader.handed_over", to=verdict.to))
            core.agreement.step(rt.TransferLeadership(NodeId(verdict.to)), now_ns)
            return
        if isinstance(verdict, CutPair) and not failover.share_rows(
            core.catalog, verdict.reporter, verdict.about
        ):
            return  # an entry for each turn of a link that flaps would change nothing
        if isinstance(verdict, NodeDown):
            core.effects.append(Note("node.declared_down", node=verdict.node))
        else:
            core.effects.append(Note("pair.cut", reporter=verdict.reporter, about=verdict.about))
        core.propose(encode(verdict), None, now_ns, repeatable=True)

    def _verdicts(
        self, about: int, incarnation: int, witnesses: dict[int, Witness], now_ns: int
    ) -> list[Verdict]:
        """Down when the leader and another node hear nothing of it, or when nobody is left who
        could. A cut pair when a silence lasts between two that others hear; if the leader is one of
        them, another node leads first, and only when there is none who hears all, the other one is
        down."""
        core = self._core
        leader = core.self_id
        if leader in witnesses:
            # With only these two left there is no second witness to wait for.
            if len(witnesses) > 1 or len(core.catalog.up_nodes()) <= 2:
                return [NodeDown(about, incarnation)]
            if now_ns - witnesses[leader].first_ns < ALONE_NS:
                return []
            return [self._hand_over() or NodeDown(about, incarnation)]
        lasting = {
            reporter: witnesses[reporter].incarnation
            for reporter in sorted(witnesses)
            if now_ns - witnesses[reporter].first_ns >= CUT_NS
        }
        if about != leader:
            return [CutPair(other, life, about, incarnation) for other, life in lasting.items()]
        successor = self._hand_over() if lasting else None
        if successor is not None:
            return [successor]
        return [NodeDown(other, life) for other, life in lasting.items()]

    def _hand_over(self) -> HandOver | None:
        """To the first voter of whom nobody complains, and who complains of nobody."""
        core = self._core
        troubled = {about for about, _ in self._reports}
        troubled.update(reporter for each in self._reports.values() for reporter in each)
        for node in sorted(core.raft.members.voters):
            fit = node in core.catalog.up_nodes() and core.has_link(node)
            if fit and node != core.self_id and node not in troubled:
                return HandOver(node)
        return None

    def _keep_voters(self, now_ns: int) -> None:
        """One change at a time: who is down leaves the voters, who is up comes back as a learner
        and votes when it has caught up (section 4)."""
        core = self._core
        if not core.raft.may_change_members or not core.catalog.cluster_id:
            return
        members = core.raft.members
        up = core.catalog.up_nodes()
        change: rt.MemberChange | None = None
        for node in members.voters:
            if node not in up and core.catalog.node_state(node).liveness is Liveness.DOWN:
                change = rt.RemoveVoter(node)
                break
        else:
            change = self._promotion(members, up, now_ns)
            for other in core.catalog.nodes:
                known = other in members.voters + members.learners
                if change is None and not known and core.has_link(other):
                    change = rt.AddLearner(NodeId(other))
        if change is not None:
            self._member_token += 1
            core.change_members(-self._member_token, change, now_ns)

    def _promotion(
        self, members: rt.Members, up: tuple[int, ...], now_ns: int
    ) -> rt.MemberChange | None:
        """A learner that may vote, one of a failure domain that no voter is in before others. One
        that comes and goes waits, unless votes are scarce."""
        core = self._core
        if len(members.voters) >= core.settings.voters_max:
            return None
        domains = core.catalog.domains
        taken = [domains[voter] for voter in members.voters]
        damped = core.flapping.damped_nodes(now_ns) if len(members.voters) >= VOTERS_LEAST else 0
        ready = [node for node in members.learners if node in up and not damped >> node & 1]
        for node in sorted(ready, key=lambda each: (domains[each] in taken, each)):
            return rt.PromoteLearner(node)
        return None

    def _recruit(self, now_ns: int) -> None:
        """New copies for regions that have too few, a little after it is clear that they do."""
        core = self._core
        if now_ns < self._recruit_at_ns:
            return
        self._recruit_at_ns = now_ns + RECRUIT_NS
        if core.catalog.version == self._whole_version:
            return  # it had all copies then, and nothing has changed
        entries = failover.plan_recruits(
            core.catalog, limit_per_node=JOINS_PER_NODE_MAX, avoid=self._avoided(now_ns)
        )
        if not entries:
            self._low_since_ns = 0
            if not failover.lacks_copies(core.catalog):
                self._whole_version = core.catalog.version
            return
        if self._low_since_ns == 0:
            self._low_since_ns = now_ns
        if now_ns - self._low_since_ns < core.settings.recruit_after_ns:
            return
        for entry in entries:
            core.propose(encode(entry), None, now_ns)

    def trusted(self, now_ns: int) -> int:
        """Bits of the nodes that may get copies: those that are up, not damped, and whose disks did
        not refuse one; all that are up when the others have not two failure domains."""
        catalog = self._core.catalog
        up = catalog.up_mask
        trusted = up & ~self._core.flapping.damped_nodes(now_ns)
        trusted &= ~self._core.refused.nodes(now_ns)
        apart = {catalog.domains[node] for node in catalog.nodes if trusted >> node & 1}
        return trusted if len(apart) > 1 else up

    def _avoided(self, now_ns: int) -> list[int]:
        """By node, bits of those that are not to join its regions: what it cannot talk to, or could
        not too often, who comes and goes, and whose own disks refuse copies."""
        refused = self._core.refused.nodes(now_ns)
        bits = [~self.trusted(now_ns) & 0xFF | refused] * 8
        pairs = self._core.flapping.damped_pairs(now_ns)
        for (about, _), witnesses in self._reports.items():
            pairs += [(reporter, about) for reporter in witnesses]
        for first, second in pairs:
            bits[first] |= 1 << second
            bits[second] |= 1 << first
        return bits
