"""Changes of members one at a time (thesis chapter 4), learners, nodes that lost their store."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from base.ids import NOBODY, NodeId
from cluster.consensus import Raft
from cluster.raft_log import RaftLog
from cluster.raft_types import (
    TICK,
    AddLearner,
    BecameLeader,
    EntryKind,
    HardState,
    MemberChange,
    Members,
    MembersChanged,
    PeerBlank,
    Persist,
    Persisted,
    PromoteLearner,
    ProposeMembers,
    RaftConfig,
    Received,
    Refusal,
    RemoveVoter,
    SendTo,
    Snapshot,
    changed,
)
from tests.cluster.raft_network import FAST, MS, Network
from transport.messages import AppendEntries, AppendReply, RequestVote, VoteReply

N0, N1, N2, N3 = NodeId(0), NodeId(1), NodeId(2), NodeId(3)


def try_change(network: Network, node: int, change: MemberChange) -> str | None:
    """Propose it; the reason when it is refused at once."""
    token, network.next_token = network.next_token, network.next_token + 1
    network.step(node, ProposeMembers(token, change))
    return network.refused.get(token)


def others(network: Network, node: int) -> list[int]:
    return [other for other in network.running if other != node]


# ---------------------------------------------------------------- the rule of one change


def test_a_new_leader_changes_no_members_before_its_own_term_has_committed() -> None:
    """The bug that Ongaro reported in 2015: n0 of four appends a change that it alone holds; n1 is
    elected and would change the members too; the two majorities need not meet."""
    network = Network(4, nodes=5)
    first = network.leader()
    network.split([first], others(network, first))
    assert try_change(network, first, AddLearner(NodeId(4))) is None
    assert network.run(2000, lambda: any(n != first for n in network.leaders))
    second = next(n for n in network.leaders if n != first)
    reason = try_change(network, second, RemoveVoter(NodeId(first)))
    assert reason == Refusal.TERM_NOT_COMMITTED
    assert network.run(200, lambda: network.raft(second).may_change_members)
    assert try_change(network, second, RemoveVoter(NodeId(first))) is None


def test_a_second_change_waits_for_the_first_to_commit() -> None:
    network = Network(4)
    leader = network.leader()
    one, two, _ = others(network, leader)
    assert try_change(network, leader, RemoveVoter(NodeId(one))) is None
    assert try_change(network, leader, RemoveVoter(NodeId(two))) == Refusal.CHANGE_IN_PROGRESS


def test_cutting_the_log_brings_the_older_configuration_back() -> None:  # thesis 4.1
    network = Network(3, nodes=4)
    first = network.leader()
    rest = others(network, first)
    network.split([first], rest)
    try_change(network, first, AddLearner(N3))
    assert network.raft(first).members.learners == (N3,)
    network.run(500)
    network.commit(b"over it")
    network.heal()
    assert network.run(1000, network.converged), network.describe()
    assert network.raft(first).members == Members((N0, N1, N2))
    changes = [e for e in network.machines[NodeId(first)].history if isinstance(e, MembersChanged)]
    assert changes == [MembersChanged((N0, N1, N2), (N3,)), MembersChanged((N0, N1, N2), ())]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (RemoveVoter(NodeId(7)), Refusal.NOT_A_MEMBER),
        (PromoteLearner(NodeId(7)), Refusal.NOT_A_MEMBER),
        (PromoteLearner(N1), Refusal.ALREADY_A_MEMBER),
        (AddLearner(N1), Refusal.ALREADY_A_MEMBER),
        (AddLearner(N2), Refusal.ALREADY_A_MEMBER),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(change: MemberChange, reason: Refusal) -> None:
    assert changed(Members((N0, N1), (N2,)), change) == reason


def test_the_last_voter_cannot_be_removed() -> None:
    assert changed(Members((N0,), (N1,)), RemoveVoter(N0)) == Refusal.LAST_VOTER


def test_a_learner_that_lacks_entries_is_not_promoted() -> None:
    network = Network(2, nodes=3, config=replace(FAST, promote_lag_max=0))
    network.crash(2)
    network.change(AddLearner(N2))
    leader = network.leader()
    assert try_change(network, leader, PromoteLearner(N2)) == Refusal.LEARNER_BEHIND
    network.start(2)
    assert network.run(1000, network.converged)
    network.change(PromoteLearner(N2))
    assert network.raft(leader).members.voters == (N0, N1, N2)


def test_a_removal_that_would_leave_no_majority_is_refused() -> None:
    network = Network(3)
    leader = network.leader()
    alive, dead = others(network, leader)
    network.crash(dead)
    network.run(150)
    reason = try_change(network, leader, RemoveVoter(NodeId(alive)))
    assert reason == Refusal.NO_QUORUM_LEFT


# ---------------------------------------------------------------- removing


@pytest.mark.parametrize("seed", range(20))
def test_eight_shrink_one_by_one_to_two_and_to_one_while_nodes_die(seed: int) -> None:
    network = Network(8, seed=seed)
    rng = random.Random(seed)
    for count in range(7, 0, -1):
        victim = rng.choice(network.running)
        if count == 1 and victim in network.leaders:
            victim = others(network, victim)[0]  # of two, only the leader can go on alone
        network.crash(victim)
        network.change(RemoveVoter(NodeId(victim)))
        network.commit(b"%d left" % count)
        assert len(network.raft(network.leader()).members.voters) == count
    assert network.payloads(network.leader())[-1] == b"1 left"


def test_of_two_voters_the_follower_alone_elects_nobody() -> None:
    network = Network(2)
    network.crash(network.leader())
    network.run(3000)
    assert network.leaders == []


@pytest.mark.parametrize("seed", range(10))
def test_a_removed_leader_steps_down_and_another_takes_over_at_once(seed: int) -> None:
    network = Network(3, seed=seed)
    first = network.leader()
    network.commit(b"before")
    network.run(100)
    network.change(RemoveVoter(NodeId(first)))
    took = network.now_ns
    assert network.run(60, lambda: bool(network.leaders) and first not in network.leaders)
    assert (network.now_ns - took) // MS < 60
    network.commit(b"after")
    assert first not in network.raft(network.leaders[0]).members.voters


def test_a_removed_node_learns_of_it_and_is_quiet() -> None:
    network = Network(4)
    leader = network.leader()
    gone = others(network, leader)[0]
    network.change(RemoveVoter(NodeId(gone)))
    assert network.run(100, lambda: NodeId(gone) not in network.raft(gone).members.voters)
    network.record_sent = True
    network.run(2000)
    assert [m for a, _, m in network.sent if a == gone and isinstance(m, RequestVote)] == []


@pytest.mark.parametrize("seed", range(10))
def test_a_removed_node_that_does_not_know_disrupts_nobody(seed: int) -> None:  # thesis 4.2.3
    network = Network(4, seed=seed)
    leader = network.leader()
    gone = others(network, leader)[0]
    network.split([gone], [n for n in range(4) if n != gone])
    network.change(RemoveVoter(NodeId(gone)))
    network.heal()
    network.run(3000)
    assert network.leaders == [leader]
    assert len(network.leader_of_term) == 1
    assert NodeId(gone) in network.raft(gone).members.voters  # nobody told it


def test_who_alone_holds_the_own_removal_can_still_lead_until_it_commits() -> None:
    """Thesis 4.2.2: n0 of two appends its own removal and crashes. n1 cannot be elected with n0's
    vote, for n0's log is longer; so n0 has to lead once more."""
    network = Network(2)
    first = network.leader()
    other = 1 - first
    network.split([first], [other])
    try_change(network, first, RemoveVoter(NodeId(first)))
    network.run(30)
    network.crash(first)
    network.heal()
    network.start(first)
    assert network.run(3000, lambda: network.leaders == [other]), network.describe()
    network.commit(b"alone")
    assert network.raft(other).members.voters == (NodeId(other),)


def test_a_node_comes_back_as_learner_and_then_as_voter() -> None:
    network = Network(3)
    leader = network.leader()
    gone = others(network, leader)[0]
    network.crash(gone)
    network.change(RemoveVoter(NodeId(gone)))
    network.commit(b"meanwhile")
    network.start(gone)
    network.change(AddLearner(NodeId(gone)))
    assert network.run(1000, network.converged)
    network.change(PromoteLearner(NodeId(gone)))
    network.crash(leader)
    network.commit(b"with its vote")
    assert network.run(1000, network.converged)
    assert network.payloads(gone) == [b"meanwhile", b"with its vote"]


# ---------------------------------------------------------------- learners


def test_a_learner_receives_the_log_but_is_not_counted() -> None:
    network = Network(2, nodes=3)
    network.change(AddLearner(N2))
    leader = network.leader()
    network.commit(b"x")
    assert network.run(100, network.converged)
    assert network.payloads(2) == [b"x"]
    network.split([leader, 2], [1 - leader])
    token = network.propose(leader, b"y")
    network.run(1000)
    assert token in network.lost


def test_a_learner_never_campaigns() -> None:
    network = Network(2, nodes=3)
    network.change(AddLearner(N2))
    network.run(100)
    network.crash(0)
    network.crash(1)
    network.record_sent = True
    network.run(2000)
    assert network.sent == []


# ---------------------------------------------------------------- a store was lost


def blank_node(config: RaftConfig = FAST, hard: HardState | None = None) -> Raft:
    raft = Raft(
        self_id=N0,
        hard_state=hard or HardState(),
        log=RaftLog(Snapshot(0, 0, Members((N0, N1, N2)))),
        config=config,
        rng=random.Random(1),
        blank=hard is None,
    )
    raft.step(0, TICK)
    raft.step(0, Persisted(1 if hard is None else 0))
    return raft


def append_from_n1(*, voter: bool) -> Received:
    entry = (1, int(EntryKind.NORMAL), b"x")
    return Received(N1, AppendEntries(1, 1, 0, 0, 0, 1, voter, (entry,)))


def synced(raft: Raft, now_ns: int, event: Received) -> list[object]:
    """What is said in answer, once everything is synced."""
    effects = raft.step(now_ns, event)
    for persist in [e for e in effects if isinstance(e, Persist)]:
        effects += raft.step(now_ns, Persisted(persist.number))
    return [effect.message for effect in effects if isinstance(effect, SendTo)]


@pytest.mark.parametrize("pre", [False, True])
def test_a_blank_node_gives_no_vote(pre: bool) -> None:
    answer = synced(blank_node(), 0, Received(N1, RequestVote(1, 1, 99, 1, pre)))
    assert [reply.granted for reply in answer if isinstance(reply, VoteReply)] == [False]


def test_a_blank_node_does_not_campaign() -> None:
    raft = blank_node()
    for ms in range(1000):
        assert raft.step(ms * MS, TICK) == []


def test_a_blank_node_takes_no_entries_while_it_is_counted_as_a_voter() -> None:
    raft = blank_node()
    for ms in (0, 5000):
        assert synced(raft, ms * MS, append_from_n1(voter=True)) == [
            AppendReply(1, N0, False, 0, 1, 1, True)
        ]
    assert raft.log.last_index == 0


def test_a_blank_node_takes_entries_as_a_learner_and_is_blank_no_longer() -> None:
    raft = blank_node()
    assert synced(raft, 200 * MS, append_from_n1(voter=False)) == [
        AppendReply(1, N0, True, 1, 0, 1, False)
    ]
    assert not raft.blank


def test_a_blank_node_waits_until_every_older_leader_has_stepped_down() -> None:
    raft = blank_node()
    assert synced(raft, 199 * MS, append_from_n1(voter=False)) == []
    assert raft.blank


def test_a_blank_node_that_restarts_is_still_blank() -> None:
    first = blank_node()
    (persist,) = [
        effect
        for effect in first.step(0, append_from_n1(voter=True))
        if isinstance(effect, Persist)
    ]
    assert persist.hard_state == HardState(1, NOBODY, True)
    assert blank_node(hard=persist.hard_state).blank


def test_a_blank_node_helps_neither_to_elect_nor_to_commit() -> None:
    network = Network(3)
    leader = network.leader()
    lost, other = others(network, leader)
    network.commit(b"held by all")
    network.wipe(lost)
    network.start(lost)
    network.crash(other)
    token = network.propose(leader, b"held by one")
    network.run(3000)
    assert token in network.lost
    assert network.leaders == []
    network.start(other)
    network.commit(b"two real ones")


def test_a_leader_hears_that_a_voter_is_blank_and_forgets_what_it_held() -> None:
    network = Network(5)
    leader = network.leader()
    network.commit(b"x")
    network.run(100)
    lost = others(network, leader)[0]
    network.wipe(lost)
    network.start(lost)
    network.run(100)
    assert PeerBlank(NodeId(lost)) in network.machines[NodeId(leader)].history
    leadership = network.raft(leader).leadership
    assert leadership is not None
    assert leadership.progress[NodeId(lost)].match_index == 0


def test_a_blank_node_returns_through_removal_and_learning() -> None:
    network = Network(4)
    leader = network.leader()
    network.commit(b"x")
    lost = NodeId(others(network, leader)[0])
    network.wipe(lost)
    network.start(lost)
    network.run(100)
    network.change(RemoveVoter(lost))
    network.change(AddLearner(lost))
    assert network.run(1000, network.converged)
    network.change(PromoteLearner(lost))
    assert network.run(1000, network.converged)
    assert network.payloads(lost) == [b"x"]
    assert not network.raft(lost).blank


def test_a_removal_that_is_not_committed_does_not_make_a_blank_node_a_learner() -> None:
    """Else the next leader, which does not know of the removal, would count a voter that forgot."""
    network = Network(5)
    leader = network.leader()
    lost = NodeId(others(network, leader)[0])
    network.wipe(lost)
    network.start(lost)
    network.run(50)
    network.split([leader, lost], [n for n in range(5) if n not in (leader, lost)])
    try_change(network, leader, RemoveVoter(lost))
    network.record_sent = True
    network.run(80)
    flags = {m.voter for _, to, m in network.sent if to == lost and isinstance(m, AppendEntries)}
    assert flags == {True}


@pytest.mark.parametrize("seed", range(60))
def test_lost_stores_up_to_a_minority_lose_nothing_that_was_acknowledged(seed: int) -> None:
    """Wipe one of five at a time, at random moments, and bring it back through learning."""
    network = Network(5, seed=seed, loss=0.02, delay_ms=(0.5, 8.0))
    rng = random.Random(seed)
    for number in range(4):
        network.leader()
        network.run(rng.randrange(100))
        acknowledged = network.commit(b"%d" % number)
        lost = NodeId(rng.choice(network.running))
        network.wipe(lost)
        network.run(rng.randrange(50))
        network.start(lost)
        network.run(rng.randrange(200))
        network.change(RemoveVoter(lost))
        network.change(AddLearner(lost))
        assert network.run(3000, network.converged), network.describe()
        network.change(PromoteLearner(lost))
        assert network.done[acknowledged] in network.committed
    assert network.run(3000, network.converged), network.describe()
    expected = [b"0", b"1", b"2", b"3"]
    assert all(network.payloads(node) == expected for node in network.running)
    leaders = [e for m in network.machines.values() for e in m.history]
    assert any(isinstance(e, BecameLeader) for e in leaders)
