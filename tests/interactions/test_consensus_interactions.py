"""Runs `consensus_*.txt`: Raft nodes on a seeded network, driven by commands in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from base.ids import NOBODY, NodeId, node_name
from cluster.raft_types import (
    AddLearner,
    BecameLeader,
    LeaderChanged,
    LostLeadership,
    MemberChange,
    Members,
    MembersChanged,
    PeerBlank,
    PeerLost,
    PromoteLearner,
    ProposeMembers,
    RaftConfig,
    RaftEffect,
    RemoveVoter,
    TransferLeadership,
)
from tests.cluster.raft_network import Network

HERE = Path(__file__).parent
# The times of production; a short log and small pieces, so that snapshots are seen at work.
CONFIG = RaftConfig(keep_entries=1, snapshot_chunk_bytes=16)
CHANGES: dict[str, Callable[[NodeId], MemberChange]] = {
    "remove": RemoveVoter,
    "learn": AddLearner,
    "promote": PromoteLearner,
}


def in_words(node: NodeId, effect: RaftEffect) -> str | None:
    name = node_name(node)
    if isinstance(effect, BecameLeader):
        return f"{name} leads term {effect.term}"
    if isinstance(effect, LostLeadership):
        return f"{name} leads no longer"
    if isinstance(effect, LeaderChanged):
        known = "nobody" if effect.leader == NOBODY else node_name(effect.leader)
        return None if effect.leader == node else f"{name} follows {known}"
    if isinstance(effect, MembersChanged):
        return f"{name} has {Members(effect.voters, effect.learners)}"
    if isinstance(effect, PeerBlank):
        return f"{name} finds {node_name(effect.peer)} blank"
    return None


class Words:
    """One cluster, with the times of production; each command answers with lines."""

    def __init__(self) -> None:
        self.network = Network(1)

    def __call__(self, command: str) -> list[str]:
        verb, *words = command.split()
        act: Callable[..., list[str]] = getattr(self, "do_" + verb.replace("-", "_"))
        before = {node: len(m.history) for node, m in self.network.machines.items()}
        lines = act(*words)
        news = []
        for node, machine in self.network.machines.items():
            for effect in machine.history[before.get(node, 0) :]:
                text = in_words(node, effect)
                news += [text] if text else []
        return news + lines

    @staticmethod
    def node(word: str) -> NodeId:
        return NodeId(int(word.removeprefix("n")))

    def do_cluster(self, voters: str, nodes: str = "0", seed: str = "1") -> list[str]:
        self.network = Network(int(voters), nodes=int(nodes) or None, seed=int(seed), config=CONFIG)
        return []

    def do_run(self, ms: str) -> list[str]:
        self.network.run(int(ms))
        return []

    def do_show(self, *names: str) -> list[str]:
        nodes = [self.node(name) for name in names] or self.network.running
        return [line for n in nodes for line in self.network.raft(n).describe().splitlines()]

    def do_crash(self, name: str) -> list[str]:
        self.network.crash(self.node(name))
        return []

    def do_wipe(self, name: str) -> list[str]:
        self.network.wipe(self.node(name))
        return []

    def do_start(self, name: str) -> list[str]:
        self.network.start(self.node(name))
        return []

    def do_split(self, *words: str) -> list[str]:
        sides = [side.split() for side in " ".join(words).split("|")]
        self.network.split(*[[self.node(name) for name in side] for side in sides])
        return []

    def do_heal(self) -> list[str]:
        self.network.heal()
        return []

    def outcome(self, token: int) -> list[str]:
        network = self.network
        network.run(300, lambda: token in network.done or token in network.lost)
        if token in network.refused:
            return [f"refused: {network.refused[token]}"]
        if token in network.lost:
            return ["outcome unknown"]
        return [f"done at {network.done[token]}" if token in network.done else "no answer yet"]

    def do_propose(self, name: str, *words: str) -> list[str]:
        token = self.network.propose(self.node(name), " ".join(words).encode())
        return self.outcome(token)

    def do_change(self, name: str, verb: str, about: str) -> list[str]:
        network = self.network
        token, network.next_token = network.next_token, network.next_token + 1
        change = CHANGES[verb](self.node(about))
        network.step(self.node(name), ProposeMembers(token, change))
        return self.outcome(token)

    def do_transfer(self, name: str, to: str) -> list[str]:
        self.network.step(self.node(name), TransferLeadership(self.node(to)))
        self.network.run(100)
        return []

    def do_link_lost(self, name: str, peer: str) -> list[str]:
        self.network.step(self.node(name), PeerLost(self.node(peer)))
        return []

    def do_compact(self, name: str) -> list[str]:
        self.network.compact(self.node(name))
        return []

    def do_catalog(self, name: str) -> list[str]:
        return [payload.decode() for payload in self.network.payloads(self.node(name))]


@pytest.mark.parametrize("path", sorted(HERE.glob("consensus_*.txt")), ids=lambda p: p.stem)
def test_the_interaction_goes_as_written(
    path: Path, check_interaction: Callable[[Path, Callable[[str], list[str]]], None]
) -> None:
    check_interaction(path, Words())
