from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from base.ids import NodeId
from base.units import NS_PER_MS
from cluster import entries as log
from cluster import raft_types as rt
from cluster.catalog import Catalog
from node.core import CoreSettings
from node.effects import NodeEffect
from node.flapping import Flapping, FlapPolicy
from node.leader import ALONE_NS, CUT_NS, RECRUIT_NS, REPORT_VALID_NS, REPROPOSE_NS, Leader
from node.refused import Refused
from tests.cluster.test_failover import apply, make
from transport.messages import ReportDown, ReportStuck


@dataclass
class FakeRaft:
    """What the leader's duties ask of consensus."""

    members: rt.Members
    may_change_members: bool = True


@dataclass
class FakeAgreement:
    """Takes what it is told."""

    events: list[object] = field(default_factory=list)

    def step(self, event: object, now_ns: int) -> None:
        self.events.append(event)


@dataclass
class FakeCore:
    """n0, which leads; what it proposed and changed is kept."""

    catalog: Catalog
    raft: FakeRaft
    settings: CoreSettings = field(default_factory=lambda: CoreSettings(recruit_after_ns=0))
    self_id: int = 0
    incarnation: int = 10
    muted: bool = False
    effects: list[NodeEffect] = field(default_factory=list)
    proposed: list[object] = field(default_factory=list)
    changes: list[object] = field(default_factory=list)
    links: frozenset[int] = frozenset(range(8))
    flapping: Flapping = field(default_factory=lambda: Flapping(FlapPolicy(flaps_max=2)))
    agreement: FakeAgreement = field(default_factory=FakeAgreement)

    def __post_init__(self) -> None:
        self.refused = Refused(self)  # type: ignore[arg-type]

    def propose(self, entry: bytes, token: object, now_ns: int, repeatable: bool = False) -> None:
        self.proposed.append(log.decode(entry))

    def change_members(self, token: int, change: rt.MemberChange, now_ns: int) -> None:
        self.changes.append(change)

    def has_link(self, node: int) -> bool:
        return node in self.links


@pytest.fixture
def core() -> FakeCore:
    return FakeCore(make(), FakeRaft(rt.Members(tuple(NodeId(node) for node in range(8)))))


def accuse(leader: Leader, about: int, by: int, at_ns: int = 0, incarnation: int = 0) -> None:
    life = incarnation or 10 + about
    leader.report(by, ReportDown(about, life, 10 + by, 400, False), at_ns)


def leader_of(core: FakeCore) -> Leader:
    return Leader(core)  # type: ignore[arg-type]


def keep_accusing(leader: Leader, about: int, by: int, for_ns: int) -> None:
    for at_ns in range(0, for_ns + 1, 100 * NS_PER_MS):
        accuse(leader, about, by, at_ns)


def test_a_node_that_the_leader_and_another_do_not_hear_is_down(core: FakeCore) -> None:
    leader = leader_of(core)
    accuse(leader, 5, by=0)
    accuse(leader, 5, by=2)
    assert core.proposed == [log.NodeDown(5, 15)]


def test_a_node_that_only_the_leader_does_not_hear_is_not_down_at_once(core: FakeCore) -> None:
    leader = leader_of(core)
    accuse(leader, 5, by=0)
    assert core.proposed == []


def test_when_only_the_leader_does_not_hear_a_node_another_is_to_lead(core: FakeCore) -> None:
    """It would learn nothing of the catalog while this one leads."""
    leader = leader_of(core)
    keep_accusing(leader, 5, 0, ALONE_NS)
    assert core.proposed == []
    assert core.agreement.events == [rt.TransferLeadership(NodeId(1))]


def test_when_a_node_does_not_hear_the_leader_another_is_to_lead(core: FakeCore) -> None:
    leader = leader_of(core)
    keep_accusing(leader, 0, 5, CUT_NS - 1)
    assert core.agreement.events == []
    accuse(leader, 0, by=5, at_ns=CUT_NS)
    assert core.agreement.events == [rt.TransferLeadership(NodeId(1))]
    assert core.proposed == []


def test_who_complains_or_is_complained_of_is_not_to_lead(core: FakeCore) -> None:
    leader = leader_of(core)
    for at_ns in range(0, ALONE_NS + 1, 100 * NS_PER_MS):
        accuse(leader, 5, by=0, at_ns=at_ns)
        accuse(leader, 1, by=2, at_ns=at_ns)
    assert core.agreement.events == [rt.TransferLeadership(NodeId(3))]


def test_a_node_out_of_the_leaders_reach_is_down_when_nobody_else_could_lead(
    core: FakeCore,
) -> None:
    core.links = frozenset()
    leader = leader_of(core)
    keep_accusing(leader, 0, 5, CUT_NS)
    assert core.proposed == [log.NodeDown(5, 15)]


def test_everyone_that_lastingly_misses_a_node_is_cut_from_it(core: FakeCore) -> None:
    leader = leader_of(core)
    for at_ns in range(0, CUT_NS + 1, 100 * NS_PER_MS):
        accuse(leader, 5, by=2, at_ns=at_ns)
        accuse(leader, 5, by=3, at_ns=at_ns)
    assert core.proposed == [log.CutPair(2, 12, 5, 15), log.CutPair(3, 13, 5, 15)]


def test_a_node_that_the_leader_hears_is_cut_from_its_accuser_after_a_while(
    core: FakeCore,
) -> None:
    leader = leader_of(core)
    keep_accusing(leader, 5, 2, CUT_NS - 1)
    assert core.proposed == []
    accuse(leader, 5, by=2, at_ns=CUT_NS)
    assert core.proposed == [log.CutPair(2, 12, 5, 15)]


def test_a_pair_that_shares_no_region_is_not_cut(core: FakeCore) -> None:
    table = core.catalog.volumes[1].table
    table.in_sync[table.in_sync == (1 << 2 | 1 << 5)] = 1 << 2
    keep_accusing(leader_of(core), 5, 2, CUT_NS)
    assert core.proposed == []


def test_a_node_that_comes_and_goes_gets_no_joiner(core: FakeCore) -> None:
    for at in range(3):
        core.flapping.lost(6, at * 1000 * NS_PER_MS)
        core.flapping.back(6, at * 1000 * NS_PER_MS)
    apply(core.catalog, log.NodeDown(5, 15))
    leader_of(core).tick(3000 * NS_PER_MS)
    recruited = [entry for entry in core.proposed if isinstance(entry, log.RecruitCopies)]
    assert recruited
    assert all(6 not in entry.nodes for entry in recruited)


def test_a_node_whose_disks_refused_a_copy_gets_no_joiner_for_a_while(core: FakeCore) -> None:
    core.refused.dropped(6, 0)
    apply(core.catalog, log.NodeDown(5, 15))
    leader = leader_of(core)
    leader.tick(0)
    leader.tick(3000 * NS_PER_MS)
    early = [entry for entry in core.proposed if isinstance(entry, log.RecruitCopies)]
    assert early
    assert all(6 not in entry.nodes for entry in early)
    leader.tick(60_000 * NS_PER_MS)
    late = [entry for entry in core.proposed if isinstance(entry, log.RecruitCopies)]
    assert any(6 in entry.nodes for entry in late)


def test_a_node_that_comes_and_goes_does_not_vote(core: FakeCore) -> None:
    for at in range(3):
        core.flapping.lost(6, at * 1000 * NS_PER_MS)
    core.raft.members = rt.Members(tuple(NodeId(n) for n in range(8) if n != 6), (NodeId(6),))
    leader_of(core).tick(3000 * NS_PER_MS)
    assert core.changes == []


def test_where_votes_are_scarce_a_node_that_comes_and_goes_votes_all_the_same(
    core: FakeCore,
) -> None:
    for at in range(3):
        core.flapping.lost(6, at * 1000 * NS_PER_MS)
    core.raft.members = rt.Members((NodeId(0), NodeId(1)), (NodeId(6),))
    leader_of(core).tick(3000 * NS_PER_MS)
    assert core.changes == [rt.PromoteLearner(NodeId(6))]


def test_of_two_nodes_that_are_left_one_word_is_enough(core: FakeCore) -> None:
    for node in range(2, 8):
        apply(core.catalog, log.NodeDown(node, 10 + node))
    leader = leader_of(core)
    accuse(leader, 1, by=0)
    assert core.proposed == [log.NodeDown(1, 11)]


def test_a_report_about_an_earlier_life_says_nothing(core: FakeCore) -> None:
    leader = leader_of(core)
    for by in (0, 2):
        accuse(leader, 5, by=by, incarnation=3)
    assert core.proposed == []


def test_a_report_that_was_not_repeated_is_forgotten(core: FakeCore) -> None:
    leader = leader_of(core)
    accuse(leader, 5, by=2)
    accuse(leader, 5, by=0, at_ns=REPORT_VALID_NS + 1)
    assert core.proposed == []


def test_a_report_that_was_taken_back_is_forgotten(core: FakeCore) -> None:
    leader = leader_of(core)
    accuse(leader, 5, by=2)
    leader.retracted(2, 5)
    accuse(leader, 5, by=0)
    assert core.proposed == []


def test_a_verdict_is_proposed_again_only_after_a_while(core: FakeCore) -> None:
    leader = leader_of(core)
    accuse(leader, 5, by=0)
    accuse(leader, 5, by=2)
    accuse(leader, 5, by=3, at_ns=1)
    assert len(core.proposed) == 1
    for by in (0, 2):
        accuse(leader, 5, by=by, at_ns=REPROPOSE_NS)
    assert len(core.proposed) == 2


def test_a_voter_that_is_down_is_removed(core: FakeCore) -> None:
    apply(core.catalog, log.NodeDown(5, 15))
    leader_of(core).tick(0)
    assert core.changes == [rt.RemoveVoter(NodeId(5))]


def test_members_change_one_at_a_time(core: FakeCore) -> None:
    for node in (5, 6):
        apply(core.catalog, log.NodeDown(node, 10 + node))
    leader = leader_of(core)
    leader.tick(0)
    core.raft.may_change_members = False
    leader.tick(1)
    assert len(core.changes) == 1


def test_a_node_that_is_no_voter_begins_as_a_learner(core: FakeCore) -> None:
    core.raft.members = rt.Members(tuple(NodeId(node) for node in range(7)))
    leader_of(core).tick(0)
    assert core.changes == [rt.AddLearner(NodeId(7))]


def test_a_node_that_cannot_be_reached_is_not_made_a_learner(core: FakeCore) -> None:
    core.raft.members = rt.Members(tuple(NodeId(node) for node in range(7)))
    core.links = frozenset(range(7))
    leader_of(core).tick(0)
    assert core.changes == []


def test_a_learner_that_is_up_votes(core: FakeCore) -> None:
    members = rt.Members(tuple(NodeId(node) for node in range(7)), (NodeId(7),))
    core.raft.members = members
    leader_of(core).tick(0)
    assert core.changes == [rt.PromoteLearner(NodeId(7))]


def test_regions_with_too_few_copies_get_a_joiner(core: FakeCore) -> None:
    apply(core.catalog, log.NodeDown(5, 15))
    leader_of(core).tick(RECRUIT_NS)
    assert any(isinstance(entry, log.RecruitCopies) for entry in core.proposed)


def test_no_joiner_is_sought_before_it_is_clear_that_copies_are_missing(core: FakeCore) -> None:
    core.settings = CoreSettings(recruit_after_ns=200 * NS_PER_MS)
    apply(core.catalog, log.NodeDown(5, 15))
    leader = leader_of(core)
    leader.tick(RECRUIT_NS)
    assert core.proposed == []
    leader.tick(RECRUIT_NS + 200 * NS_PER_MS)
    assert core.proposed != []


def test_a_joiner_is_not_sought_among_nodes_that_its_owner_cannot_reach(core: FakeCore) -> None:
    apply(core.catalog, log.NodeDown(5, 15))
    leader = leader_of(core)
    for about in (1, 2, 3, 4, 6, 7):
        accuse(leader, about, by=0)
    core.proposed.clear()
    leader.tick(RECRUIT_NS)
    owners = core.catalog.volumes[1].table.owner
    recruited = [entry for entry in core.proposed if isinstance(entry, log.RecruitCopies)]
    assert recruited
    for entry in recruited:
        regions = [
            int.from_bytes(entry.regions[at : at + 4], "little")
            for at in range(0, len(entry.regions), 4)
        ]
        assert all(owners[region] != 0 for region in regions)


def test_a_leader_of_a_cluster_that_was_never_formed_forms_it() -> None:
    form = log.FormCluster("c", ((NodeId(0), 0),), ())
    settings = CoreSettings(form_entry=log.encode(form))
    core = FakeCore(Catalog(), FakeRaft(rt.Members((NodeId(0),))), settings)
    leader_of(core).begin(0)
    assert core.proposed == [form]


def test_a_leader_that_stops_in_order_accuses_nobody(core: FakeCore) -> None:
    leader = Leader(core)  # type: ignore[arg-type]
    core.muted = True
    for reporter in (0, 2):
        accuse(leader, about=1, by=reporter)
    assert core.proposed == []
    core.muted = False
    for reporter in (0, 2):
        accuse(leader, about=1, by=reporter)
    assert core.proposed != []


def stuck(leader: Leader, about: int, by: int, at_ns: int = 0) -> None:
    leader.stuck(by, ReportStuck(about, 10 + about, 10 + by, 3000), at_ns)


def test_a_copy_that_one_owner_waits_for_in_vain_is_cut_from_it(core: FakeCore) -> None:
    stuck(leader_of(core), 5, by=2)
    assert core.proposed == [log.CutPair(2, 12, 5, 15)]


def test_a_node_that_two_owners_wait_for_in_vain_is_down(core: FakeCore) -> None:
    leader = leader_of(core)
    stuck(leader, 5, by=2)
    stuck(leader, 5, by=3)
    assert core.proposed[-1] == log.NodeDown(5, 15)


def test_an_owner_that_alone_waits_for_several_nodes_is_down_itself(core: FakeCore) -> None:
    leader = leader_of(core)
    stuck(leader, 5, by=2)
    stuck(leader, 6, by=2)
    assert core.proposed[-1] == log.NodeDown(2, 12)


def test_a_wait_that_ended_says_nothing_of_a_later_one(core: FakeCore) -> None:
    leader = leader_of(core)
    stuck(leader, 5, by=2)
    stuck(leader, 5, by=3, at_ns=2 * REPORT_VALID_NS)
    assert core.proposed[-1] == log.CutPair(3, 13, 5, 15)


def test_a_wait_for_an_earlier_life_says_nothing(core: FakeCore) -> None:
    leader_of(core).stuck(2, ReportStuck(5, 14, 12, 3000), 0)
    assert core.proposed == []
