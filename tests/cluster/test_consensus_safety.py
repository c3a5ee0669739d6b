"""Random histories of faults, each checked against figure 3 of the Raft paper as it runs (see
`raft_network`), and for liveness after everything is healed."""

from __future__ import annotations

import random

import pytest

from base.ids import NodeId
from cluster.raft_types import (
    AddLearner,
    MemberChange,
    PeerLost,
    PromoteLearner,
    ProposeMembers,
    RemoveVoter,
    TransferLeadership,
)
from tests.cluster.raft_network import Network


def random_cut(network: Network, rng: random.Random) -> None:
    nodes = list(network.machines)
    kind = rng.randrange(3)
    if kind == 0:
        rng.shuffle(nodes)
        at = rng.randrange(1, len(nodes))
        network.split(nodes[:at], nodes[at:])
    elif kind == 1:  # one direction only
        network.cut.add((rng.choice(nodes), rng.choice(nodes)))
    else:
        network.heal()


def random_change(network: Network, rng: random.Random, node: int) -> None:
    about = NodeId(rng.choice(list(network.machines)))
    changes: list[MemberChange] = [RemoveVoter(about), AddLearner(about), PromoteLearner(about)]
    change = rng.choice(changes)
    members = network.raft(node).members
    if isinstance(change, RemoveVoter) and len(members.voters) <= 2:
        return
    token, network.next_token = network.next_token, network.next_token + 1
    network.step(node, ProposeMembers(token, change))


def one_fault(network: Network, rng: random.Random, down_max: int) -> None:
    act = rng.randrange(12)
    down = [node for node in network.machines if node not in network.running]
    node = rng.choice(network.running)
    if act <= 1 and len(down) < down_max:
        network.crash(node)
    elif act <= 3 and down:
        network.start(rng.choice(down))
    elif act == 4:
        random_cut(network, rng)
    elif act == 5:
        network.compact(node)
    elif act == 6:
        network.step(node, TransferLeadership(NodeId(rng.choice(list(network.machines)))))
    elif act == 7:
        network.step(node, PeerLost(network.raft(node).leader))
    elif act == 8:
        random_change(network, rng, rng.choice(network.leaders or [node]))
    elif act == 9 and rng.random() < 0.3:
        network.machines[NodeId(node)].sync_stuck = True  # until it crashes


def end_in_peace(network: Network) -> None:
    network.loss = network.repeat = 0.0
    network.heal()
    for node in list(network.machines):
        if node in network.running and network.machines[node].sync_stuck:
            network.crash(node)
        if node not in network.running:
            network.start(node)
    assert network.run(5000, network.converged), "no convergence\n" + network.describe()
    network.commit(b"last words")
    assert network.run(5000, network.converged), "no convergence\n" + network.describe()
    network.check_log_matching()
    leader = network.leaders[0]
    kept = {index for index, _, _ in network.machines[NodeId(leader)].applied}
    members = network.raft(leader).members
    for index, entry in network.committed.items():
        if entry[1] == 0:
            assert index in kept, f"committed {index} is gone"
    for token, index in network.done.items():
        assert index in network.committed, f"acknowledged {token} was never committed"
    for node in (*members.voters, *members.learners):
        assert network.payloads(node) == network.payloads(leader)


def history(seed: int) -> Network:
    rng = random.Random(seed)
    count = rng.choice([3, 3, 4, 5])
    network = Network(
        count - rng.randrange(2),
        nodes=count,
        seed=seed,
        loss=rng.choice([0.0, 0.02, 0.1]),
        repeat=rng.choice([0.0, 0.05]),
        delay_ms=rng.choice([(0.5, 2.0), (0.5, 30.0)]),
        sync_ms=rng.choice([(0.1, 0.5), (0.5, 30.0)]),
    )
    down_max = (count - 1) // 2 if rng.random() < 0.7 else count - 1
    for number in range(60):
        network.run(rng.choice([1, 5, 20, 60]))
        for node in network.leaders:
            network.propose(node, b"%d.%d" % (seed, number))
        one_fault(network, rng, down_max)
    network.check_log_matching()
    end_in_peace(network)
    return network


@pytest.mark.parametrize("batch", range(8))
def test_random_faults_never_break_a_safety_property_of_raft(batch: int) -> None:
    done = lost = 0
    for seed in range(batch * 60, batch * 60 + 60):
        try:
            network = history(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        done += len(network.done)
        lost += len(network.lost)
    assert done > 40  # the histories do get work done,
    assert lost > 0  # and leaders do fall in the middle of it


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = history(77), history(77)
    assert (first.events, first.now_ns, first.committed) == (
        second.events,
        second.now_ns,
        second.committed,
    )
