"""One fact of Raft per test, with the section that states it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from base.errors import ConfigError, RemoteProtocolError
from base.ids import NOBODY, NodeId
from cluster.raft_types import (
    TICK,
    Apply,
    ApplySnapshot,
    BecameLeader,
    LeaderChanged,
    LostLeadership,
    Members,
    PeerLost,
    Persist,
    Persisted,
    ProposalDone,
    ProposalRefused,
    Propose,
    RaftConfig,
    Refusal,
    SendTo,
    TransferLeadership,
)
from tests.cluster.raft_lone import N0, N1, N2, Lone, append_of, entry, of_kind, said
from tests.cluster.raft_network import FAST, MS, Network, count_sent
from transport.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    RequestVote,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)

# ---------------------------------------------------------------- persistence (figure 2)


def test_a_vote_leaves_only_after_it_is_synced() -> None:  # Raft figure 2
    lone = Lone()
    effects = lone.hear(N1, RequestVote(1, 1, 0, 0, False))
    assert said(effects) == []
    assert of_kind(effects, Persist)
    assert said(lone.sync()) == [VoteReply(1, N0, True, False)]


def test_a_vote_request_leaves_only_after_the_own_vote_is_synced() -> None:
    lone = Lone()
    assert {m.pre for m in said(lone.wait(200)) if isinstance(m, RequestVote)} == {True}
    assert said(lone.hear(N1, VoteReply(1, N1, True, True))) == []
    requests = said(lone.sync())
    assert requests == [RequestVote(1, 0, 0, 0, False)] * 2


def test_entries_are_acknowledged_only_after_they_are_synced() -> None:
    lone = Lone(term=1)
    assert said(lone.append(entry(1))) == []
    assert said(lone.sync()) == [AppendReply(1, N0, True, 1, 0, 1, False)]


def test_a_heartbeat_is_answered_while_entries_wait_for_a_slow_sync() -> None:
    lone = Lone(entry(1), term=1)
    assert said(lone.append(entry(1), prev_index=1, prev_term=1)) == []
    heartbeat = lone.append(prev_index=1, prev_term=1, round_number=2)
    assert said(heartbeat) == [AppendReply(1, N0, True, 1, 0, 2, False)]


def test_an_acknowledgement_of_an_overtaken_sync_says_nothing_about_the_new_entries() -> None:
    lone = Lone(term=1)
    lone.append(entry(1), entry(1))  # persist 1, on its way
    overtaken = lone.number
    lone.hear(N2, append_of(entry(2), entry(2), term=2, leader=2))  # truncates both
    assert said(lone.tell(Persisted(overtaken))) == []
    assert lone.raft.outbox.durable_index == 0
    assert said(lone.sync()) == [AppendReply(2, N0, True, 2, 0, 1, False)]


def test_a_leader_sends_entries_while_it_syncs_them_itself() -> None:  # thesis 10.2.1
    lone = Lone()
    lone.lead()
    for peer in (N1, N2):
        lone.ack(peer, 0)
    sent = said(lone.tell(Propose(1, b"x")))
    assert len([m for m in sent if isinstance(m, AppendEntries) and m.entries]) == 2


def test_a_leader_counts_itself_only_after_its_own_sync() -> None:
    lone = Lone()
    lone.lead()
    lone.ack(N1, 1)
    assert lone.raft.commit_index == 0
    lone.sync()
    assert lone.raft.commit_index == 1


def test_an_entry_is_applied_only_when_it_is_durable_here_too() -> None:
    lone = Lone()
    lone.lead()
    lone.sync()
    lone.tell(Propose(7, b"x"))
    lone.ack(N1, 2)
    effects = lone.ack(N2, 2)
    assert lone.raft.commit_index == 2
    assert not of_kind(effects, Apply)
    effects = lone.sync()
    assert [e for e in effects if isinstance(e, Apply | ProposalDone)] == [
        Apply(2, 1, b"x"),
        ProposalDone(7, 2),
    ]


def test_messages_held_for_a_stuck_device_are_bounded() -> None:
    lone = Lone(term=1, config=replace(FAST, held_max=5))
    for number in range(20):
        lone.append(entry(1), round_number=number)
    assert lone.raft.outbox.waiting == 5


# ---------------------------------------------------------------- elections


def test_a_node_votes_once_in_a_term() -> None:  # Raft section 5.2
    lone = Lone()
    lone.hear(N1, RequestVote(1, 1, 0, 0, False))
    lone.hear(N2, RequestVote(1, 2, 0, 0, False))
    assert said(lone.sync()) == [VoteReply(1, N0, True, False), VoteReply(1, N0, False, False)]


def test_a_vote_survives_a_restart() -> None:  # Raft section 5.2
    lone = Lone(term=3, voted_for=N1)
    assert said(lone.hear(N2, RequestVote(3, 2, 9, 3, False))) == [VoteReply(3, N0, False, False)]
    assert said(lone.hear(N1, RequestVote(3, 1, 9, 3, False))) == [VoteReply(3, N0, True, False)]


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(2, 2, True), (1, 3, True), (1, 2, False), (9, 1, False)],
)
@pytest.mark.parametrize("pre", [False, True])
def test_a_vote_goes_only_to_a_log_that_is_as_up_to_date(
    last_index: int, last_term: int, granted: bool, pre: bool
) -> None:  # Raft section 5.4.1
    lone = Lone(entry(1), entry(2), term=2)
    effects = lone.hear(N1, RequestVote(3, 1, last_index, last_term, pre)) + lone.sync()
    assert [reply.granted for reply in said(effects) if isinstance(reply, VoteReply)] == [granted]


def test_a_pre_vote_changes_nothing() -> None:  # thesis 9.6
    lone = Lone(term=1)
    effects = lone.hear(N1, RequestVote(5, 1, 0, 0, True))
    assert effects == [SendTo(N1, VoteReply(5, N0, True, True))]
    assert lone.raft.term == 1


def test_a_node_that_hears_a_leader_refuses_pre_votes() -> None:  # thesis 4.2.3
    lone = Lone(term=1)
    lone.append()
    lone.wait(99)
    assert said(lone.hear(N2, RequestVote(2, 2, 0, 0, True))) == [VoteReply(1, N0, False, True)]
    lone.wait(1)
    assert said(lone.hear(N2, RequestVote(2, 2, 0, 0, True))) == [VoteReply(2, N0, True, True)]


def test_a_leader_of_an_older_term_protects_nobody() -> None:
    lone = Lone(term=1)
    lone.append()
    lone.hear(N2, RequestVote(2, 2, 0, 0, False))
    lone.sync()
    assert said(lone.hear(N1, RequestVote(3, 1, 0, 0, True))) == [VoteReply(3, N0, True, True)]


def test_a_leader_commits_entries_of_earlier_terms_only_by_one_of_its_own() -> None:
    """Raft section 5.4.2 and figure 8: an old entry on a majority may still be overwritten."""
    lone = Lone(entry(1), entry(2), term=3)
    lone.lead()
    lone.sync()
    lone.ack(N1, 2)
    lone.ack(N2, 2)
    assert lone.raft.commit_index == 0
    lone.ack(N1, 3)
    assert lone.raft.commit_index == 3


def test_a_higher_term_ends_leadership_and_says_that_outcomes_are_unknown() -> None:
    lone = Lone()
    lone.lead()
    lone.tell(Propose(5, b"x"))
    effects = lone.hear(N1, AppendReply(9, N1, False, 0, 1, 1, False))
    assert LostLeadership() in effects
    assert [type(e).__name__ for e in effects if hasattr(e, "token")] == ["ProposalLost"]
    assert lone.raft.term == 9


def test_a_leader_without_a_majority_steps_down_within_an_election_timeout() -> None:
    network = Network(3)  # thesis 6.2
    leader = network.leader()
    network.split([leader], [n for n in range(3) if n != leader])
    assert network.run(140, lambda: not network.raft(leader).is_leader)


def test_answers_that_arrive_late_do_not_keep_a_leader() -> None:
    lone = Lone()
    lone.lead()
    for _ in range(6):
        lone.wait(20)
        lone.hear(N1, AppendReply(1, N1, True, 1, 0, 1, False))  # of the first round, each time
    assert not lone.raft.is_leader


def test_an_idle_cluster_sends_nothing_but_heartbeats() -> None:
    network = Network(8)
    network.leader()
    network.run(100)
    network.record_sent = True
    network.run(1000)
    assert count_sent(network, AppendEntries) == count_sent(network, AppendReply) == 50 * 7
    assert len(network.sent) == 2 * 50 * 7


def test_a_returning_node_does_not_depose_the_leader() -> None:  # thesis 9.6
    network = Network(3)
    leader = network.leader()
    away = (leader + 1) % 3
    network.split([away], [n for n in range(3) if n != away])
    network.run(3000)
    term = network.raft(leader).term
    network.heal()
    network.run(3000)
    assert network.leaders == [leader]
    assert network.raft(leader).term == term == network.raft(away).term


@pytest.mark.parametrize("seed", range(10))
def test_a_cut_in_one_direction_ends_in_one_lasting_leader(seed: int) -> None:
    """A follower that can speak but not hear, and one that can hear but not speak."""
    network = Network(5, seed=seed)
    leader = network.leader()
    deaf, mute = [n for n in range(5) if n != leader][:2]
    network.cut = {(a, b) for a in range(5) for b in range(5) if b == deaf or a == mute}
    network.run(1000)
    terms = max(network.leader_of_term)
    network.run(3000)
    assert max(network.leader_of_term) == terms
    assert len(network.leaders) == 1
    network.commit(b"still at work")


@pytest.mark.parametrize("seed", range(10))
def test_a_leader_that_can_only_speak_is_replaced(seed: int) -> None:
    network = Network(5, seed=seed)
    deaf = network.leader()
    network.cut = {(a, deaf) for a in range(5)}
    assert network.run(1000, lambda: bool(network.leaders) and deaf not in network.leaders)
    network.run(1000)
    term = max(network.leader_of_term)
    network.run(2000)
    assert max(network.leader_of_term) == term


def test_a_chain_of_three_keeps_its_leader() -> None:
    network = Network(3)
    leader = network.leader()
    far = (leader + 1) % 3
    network.cut = {(leader, far), (far, leader)}
    network.run(3000)
    assert network.leaders == [leader]
    assert len(network.leader_of_term) == 1


def test_a_broken_link_to_the_leader_brings_the_election_forward() -> None:
    network = Network(5, config=RaftConfig())
    dead = network.leader(5000)
    network.run(1000)
    network.crash(dead)
    for node in network.running:
        network.step(node, PeerLost(NodeId(dead)))
    assert network.run(450, lambda: bool(network.leaders)), network.describe()


def test_a_broken_link_of_one_node_deposes_nobody() -> None:
    network = Network(3)
    leader = network.leader()
    other = (leader + 1) % 3
    network.run(50)
    network.step(other, PeerLost(NodeId(leader)))
    network.run(1000)
    assert network.leaders == [leader]
    assert len(network.leader_of_term) == 1


def test_who_leads_is_told_and_so_is_that_nobody_does() -> None:
    lone = Lone(term=1)
    assert LeaderChanged(N1) in lone.append()
    assert LeaderChanged(NOBODY) in lone.wait(200)


def test_a_single_voter_leads_and_commits_alone() -> None:
    network = Network(1)
    network.commit(b"alone")
    assert network.payloads(0) == [b"alone"]


# ---------------------------------------------------------------- replication


def test_a_gap_is_refused_with_the_end_of_the_own_log() -> None:  # Raft section 5.3
    lone = Lone(entry(1), term=1)
    (reply,) = said(lone.append(entry(1), prev_index=9, prev_term=1))
    assert reply == AppendReply(1, N0, False, 9, 2, 1, False)


def test_a_conflict_is_refused_with_the_start_of_its_whole_term() -> None:  # Raft section 5.3
    lone = Lone(entry(1), entry(2), entry(2), entry(2), term=3)
    (reply,) = said(lone.append(prev_index=4, prev_term=3, term=3))
    assert reply == AppendReply(3, N0, False, 4, 2, 1, False)


def test_conflicting_entries_are_replaced_and_matching_ones_kept() -> None:
    lone = Lone(entry(1), entry(1, b"old"), term=2)
    (persist, *_) = lone.append(entry(1), entry(2, b"new"), term=2)
    assert persist == Persist(1, None, 2, 2, (entry(2, b"new"),), None)


def test_a_delayed_repeat_does_not_cut_what_came_after_it() -> None:  # Raft section 5.3
    lone = Lone(term=1)
    lone.append(entry(1), entry(1))
    lone.append(entry(1))
    assert lone.raft.log.last_index == 2


def test_a_follower_commits_no_further_than_the_message_proves() -> None:
    lone = Lone(entry(1), entry(1), term=2)
    lone.append(prev_index=1, prev_term=1, commit_index=2, term=2)
    assert lone.raft.commit_index == 1


def test_a_leader_finds_a_divergent_follower_in_one_step_per_term() -> None:
    lone = Lone(*[entry(1)] * 10, *[entry(4)] * 10, term=4)
    lone.lead()
    probe = next(m for m in said(lone.wait(20)) if isinstance(m, AppendEntries))
    assert probe.prev_index == 20
    sent = said(lone.hear(N1, AppendReply(5, N1, False, 20, 11, 1, False)))
    assert [(m.prev_index, m.prev_term) for m in sent if isinstance(m, AppendEntries)] == [(10, 1)]


def test_appends_on_the_way_and_their_size_are_bounded() -> None:
    config = replace(FAST, append_entries_max=2, inflight_max=3)
    lone = Lone(*[entry(1)] * 50, term=1, config=config)
    lone.lead()
    lone.hear(N1, AppendReply(2, N1, False, 50, 1, 1, False))
    sent = [m for m in said(lone.ack(N1, 2)) if isinstance(m, AppendEntries)]
    assert [(m.prev_index, len(m.entries)) for m in sent] == [(2, 2), (4, 2), (6, 2)]
    assert said(lone.tell(Propose(1, b"more"))) == []


def test_one_large_entry_travels_though_it_exceeds_the_size_of_a_batch() -> None:
    config = replace(FAST, append_bytes_max=10)
    network = Network(3, config=config)
    network.commit(b"x" * 1000)
    assert network.run(1000, network.converged)
    assert network.payloads(0) == network.payloads(1) == [b"x" * 1000]


def test_the_commit_index_is_told_at_once() -> None:
    network = Network(3, config=replace(FAST, heartbeat_ms=50), delay_ms=(1, 1), sync_ms=(1, 1))
    network.leader()
    network.run(60)
    token = network.propose(network.leader(), b"x")
    assert network.run(3, lambda: token in network.done)
    assert network.run(1, network.converged)


def test_entries_lost_on_the_way_are_sent_again() -> None:
    network = Network(3)
    leader = network.leader()
    network.loss = 1.0
    token = network.propose(leader, b"x")
    network.run(30)
    network.loss = 0.0
    assert network.run(60, lambda: token in network.done)


# ---------------------------------------------------------------- proposals


def test_a_proposal_to_a_follower_is_refused() -> None:
    assert Lone().tell(Propose(3, b"x")) == [ProposalRefused(3, Refusal.NOT_LEADER)]


def test_a_proposal_that_is_too_large_is_refused() -> None:
    lone = Lone(config=replace(FAST, entry_bytes_max=10))
    lone.lead()
    assert lone.tell(Propose(3, b"x" * 11)) == [ProposalRefused(3, Refusal.TOO_LARGE)]


def test_uncommitted_proposals_are_bounded() -> None:
    lone = Lone(config=replace(FAST, proposals_max=3))
    lone.lead()
    lone.tell(Propose(1, b""))
    lone.tell(Propose(2, b""))
    assert lone.tell(Propose(3, b"")) == [ProposalRefused(3, Refusal.OVERLOADED)]


# ---------------------------------------------------------------- handing over (thesis 3.10)


def test_leadership_is_handed_over_without_waiting_for_a_timeout() -> None:
    network = Network(3)
    leader = network.leader()
    to = (leader + 1) % 3
    network.step(leader, TransferLeadership(NodeId(to)))
    assert network.run(50, lambda: network.leaders == [to]), network.describe()


def test_no_proposal_is_taken_while_leadership_is_handed_over() -> None:
    lone = Lone()
    lone.lead()
    lone.tell(TransferLeadership(N1))
    assert lone.tell(Propose(1, b"")) == [ProposalRefused(1, Refusal.TRANSFERRING)]


def test_the_target_is_brought_up_to_date_before_it_campaigns() -> None:
    lone = Lone()
    lone.lead()
    assert said(lone.tell(TransferLeadership(N1))) == []
    assert TimeoutNow(1, N0) in said(lone.ack(N1, 1))


def test_a_leader_goes_on_when_the_target_does_not_take_over() -> None:
    lone = Lone()
    lone.lead()
    lone.sync()
    lone.tell(TransferLeadership(N1))
    for _ in range(6):
        lone.wait(20)
        lone.ack(N2, 1)
    assert not of_kind(lone.tell(Propose(1, b"")), ProposalRefused)


# ---------------------------------------------------------------- snapshots (Raft section 7)


def full(network: Network, entries: int) -> int:
    leader = network.leader()
    for number in range(entries):
        network.commit(b"%d" % number)
    return leader


def test_a_follower_whose_log_is_gone_gets_the_snapshot_in_pieces() -> None:
    network = Network(3)
    leader = network.leader()
    away = (leader + 1) % 3
    network.crash(away)
    full(network, 20)
    network.compact(leader)
    network.record_sent = True
    network.start(away)
    assert network.run(1000, network.converged), network.describe()
    assert network.payloads(away) == network.payloads(leader)
    pieces = [m for _, _, m in network.sent if isinstance(m, InstallSnapshot)]
    assert len(pieces) > 3
    assert max(len(bytes(piece.data)) for piece in pieces) == 16  # type: ignore[arg-type]


def test_lost_pieces_are_sent_again_and_repeats_do_not_multiply() -> None:
    network = Network(3, seed=3)
    leader = network.leader()
    away = (leader + 1) % 3
    network.crash(away)
    full(network, 30)
    network.compact(leader)
    network.loss, network.repeat, network.record_sent = 0.1, 0.3, True
    network.start(away)
    assert network.run(5000, network.converged), network.describe()
    pieces = count_sent(network, InstallSnapshot)
    total = len(network.raft(leader).log.snapshot.data)
    assert pieces < 3 * total / 16


def test_the_end_of_a_snapshot_is_acknowledged_only_after_it_is_synced() -> None:
    lone = Lone(term=1)
    piece = InstallSnapshot(1, 1, 5, 1, 0, 4, (0, 1, 2), (), True, b"data")
    effects = lone.hear(N1, piece)
    assert said(effects) == []
    assert not of_kind(effects, ApplySnapshot)
    effects = lone.sync()
    assert said(effects) == [SnapshotReply(1, N0, 5, 4)]
    assert of_kind(effects, ApplySnapshot) == [ApplySnapshot(5, 1, b"data")]


def test_a_transfer_goes_on_where_it_stopped() -> None:
    lone = Lone(term=1)
    lone.hear(N1, InstallSnapshot(1, 1, 5, 1, 0, 4, (0, 1, 2), (), True, b"da"))
    lone.wait(50)
    (reply,) = said(lone.hear(N1, InstallSnapshot(1, 1, 5, 1, 0, 4, (0, 1, 2), (), True, b"da")))
    assert reply == SnapshotReply(1, N0, 5, 2)


def test_pieces_of_two_leaders_are_never_put_together() -> None:
    lone = Lone(term=1)
    lone.hear(N1, InstallSnapshot(1, 1, 5, 1, 0, 4, (0, 1, 2), (), True, b"da"))
    second = InstallSnapshot(2, 2, 5, 1, 2, 4, (0, 1, 2), (), True, b"TA")
    effects = lone.hear(N2, second) + lone.sync()
    assert said(effects) == [SnapshotReply(2, N0, 5, 0)]


def test_a_snapshot_that_the_log_covers_already_replaces_nothing() -> None:  # Raft section 7
    lone = Lone(entry(1), entry(1), entry(1), term=1)
    lone.hear(N1, InstallSnapshot(1, 1, 2, 1, 0, 4, (0, 1, 2), (), True, b"data"))
    assert (lone.raft.log.last_index, lone.raft.commit_index) == (3, 2)


def test_a_restart_begins_behind_the_snapshot() -> None:
    network = Network(3)
    full(network, 10)
    assert network.run(1000, network.converged)
    for node in range(3):
        network.compact(node)
    network.run(50)
    for node in range(3):
        network.crash(node)
        network.start(node)
    network.commit(b"more")
    assert network.run(1000, network.converged)
    assert network.payloads(0) == network.payloads(2) == [b"%d" % n for n in range(10)] + [b"more"]


# ---------------------------------------------------------------- hostile input, bounds, people


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        (N2, RequestVote(1, 1, 0, 0, False)),
        (N1, "gossip"),
        (N1, append_of(entry(2))),
        (N1, append_of((1, 9, b""))),
        (N1, append_of((1, 2, b"\x05\x00"))),
        (N1, append_of(prev_index=-1)),
        (N1, InstallSnapshot(1, 1, 5, 1, 0, 1 << 60, (0, 1), (), True, b"")),
        (N1, InstallSnapshot(1, 1, 5, 1, 3, 4, (0, 1), (), True, b"data")),
        (N1, InstallSnapshot(1, 1, 5, 1, 0, 4, (), (), True, b"data")),
        (N1, InstallSnapshot(1, 1, 5, 1, 0, 4, (0, 0), (), True, b"data")),
        (N1, InstallSnapshot(1, 1, -5, 1, 0, 4, (0, 1), (), True, b"data")),
    ],
)
def test_what_no_correct_node_sends_is_refused_and_changes_nothing(
    sender: NodeId, message: object
) -> None:
    lone = Lone(term=1)
    before = lone.raft.describe()
    with pytest.raises(RemoteProtocolError):
        lone.hear(sender, message)
    assert lone.raft.describe() == before


def test_a_second_leader_of_the_own_term_is_refused() -> None:
    lone = Lone()
    lone.lead()
    with pytest.raises(RemoteProtocolError, match="n1 claims to lead our own term 1"):
        lone.append()


def test_an_acknowledgement_of_entries_that_never_were_is_refused() -> None:
    lone = Lone()
    lone.lead()
    with pytest.raises(RemoteProtocolError, match="n1 holds entries that we never had"):
        lone.ack(N1, 9)


def test_configurations_survive_the_way_through_an_entry() -> None:
    members = Members((N0, N2), (N1,))
    assert Members.decode(members.encode()) == members


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"heartbeat_ms": 0}, "heartbeat_ms"),
        ({"election_max_ms": 1000}, "election_max_ms"),
        ({"heartbeat_ms": 600}, "heartbeat_ms"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RaftConfig(**settings)


def test_a_tick_before_its_time_costs_next_to_nothing() -> None:
    lone = Lone()
    lone.lead()
    step, now_ns = lone.raft.step, lone.now_ms * MS
    best = 1.0
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(1000):
            step(now_ns, TICK)
        best = min(best, (time.perf_counter() - begin) / 1000)
    assert best < 2e-6


def test_the_state_can_be_read_by_people() -> None:
    lone = Lone(entry(1), term=1)
    assert lone.raft.describe() == (
        "n0 follower of nobody, term 1; log 1..1, snapshot 0, synced 1, committed 0, applied 0; "
        "voters n0 n1 n2"
    )
    assert BecameLeader(2) in lone.lead()
    assert lone.raft.describe().splitlines()[1] == (
        "  n1 voter: probe, holds 0, next 2, 0 on the way, followed 0 ms ago"
    )
