"""Each rule about agreement, lives, leases and space is broken by hand once, and seen."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from base.ids import NodeId
from node.region_copy import PARKED_MAX, RegionCopy
from node.roles import OWNER
from scenario.catalog_checks import LOG_MAX, WAITING_MAX, CatalogChecks
from scenario.level1 import SeedRun
from scenario.profiles import SeedOptions
from scenario.state_checks import Violated
from sim.kernel import KernelNode


@pytest.fixture
def run() -> SeedRun:
    """A short run that is over: three nodes, one volume, everything redundant."""
    options = SeedOptions(
        nodes=3, seconds=1, hosts=1, volumes=1, regions=2, crashes=0, pauses=0, writes_per_s=20
    )
    made = SeedRun(1, options)
    made.run()
    return made


def checks_of(run: SeedRun) -> CatalogChecks:
    return run.catalog_checks


def leader_of(run: SeedRun) -> KernelNode:
    return next(node for node in run.kernel.nodes if node.core.raft.is_leader)


def owned(run: SeedRun) -> tuple[KernelNode, RegionCopy]:
    for node in run.kernel.nodes:
        for by_region in node.core.copies.values():
            for copy in by_region.values():
                if copy.role == OWNER:
                    return node, copy
    raise AssertionError("nobody owns anything")


def test_a_run_that_is_over_has_no_findings(run: SeedRun) -> None:
    for node in run.kernel.nodes:
        checks_of(run).configured(node)
    assert checks_of(run).findings() == []


def test_a_catalog_that_is_not_synced_is_seen(run: SeedRun) -> None:
    node = run.kernel.nodes[0]
    node.durable.raft.truncate(node.core.catalog.version)
    with pytest.raises(Violated, match=r"I6 .* has not synced it"):
        checks_of(run).configured(node)


def test_a_catalog_that_falls_back_is_seen(run: SeedRun) -> None:
    node = run.kernel.nodes[0]
    node.core.catalog.version -= 1
    with pytest.raises(Violated, match=r"I6 .* fell back to catalog"):
        checks_of(run).configured(node)


def test_an_incarnation_that_is_used_twice_is_seen(run: SeedRun) -> None:
    node = run.kernel.nodes[0]
    node.life += 1
    with pytest.raises(Violated, match=r"I6 .* incarnation 1, 1 was there before"):
        checks_of(run).configured(node)


def test_a_term_that_falls_is_seen(run: SeedRun) -> None:
    node = run.kernel.nodes[0]
    checks_of(run)._terms[node.node] += 1
    with pytest.raises(Violated, match=r"I6 .* fell back from term"):
        checks_of(run).configured(node)


def test_two_leaders_of_one_term_are_seen(run: SeedRun) -> None:
    leader = leader_of(run)
    other = next(node for node in run.kernel.nodes if node is not leader)
    other.core.raft.leadership = leader.core.raft.leadership
    checks_of(run).configured(leader)
    with pytest.raises(Violated, match=r"I12 .* both lead term"):
        checks_of(run).configured(other)


def test_a_leader_without_a_committed_entry_is_seen(run: SeedRun) -> None:
    checks_of(run)._highest = 10_000
    with pytest.raises(Violated, match=r"I12 .* leads without the committed entry 10000"):
        checks_of(run).configured(leader_of(run))


def test_a_vote_that_is_not_on_the_disk_of_the_voter_is_seen(run: SeedRun) -> None:
    leader = leader_of(run)
    voter = next(node for node, yes in leader.core.raft._votes.items() if yes)
    kept = run.kernel.nodes[voter].durable
    kept.hard = replace(kept.hard, voted_for=NodeId(7))
    checks_of(run)._leaders.clear()
    with pytest.raises(Violated, match=r"I12 .* by a vote of .* a vote for n7"):
        checks_of(run).configured(leader)


def test_another_entry_at_one_place_is_seen(run: SeedRun) -> None:
    node = run.kernel.nodes[0]
    checks_of(run)._entries[node.core.catalog.version] = 77
    with pytest.raises(Violated, match=r"I12 .* others another"):
        checks_of(run).configured(node)


def test_an_entry_that_no_majority_has_synced_is_seen(run: SeedRun) -> None:
    leader = leader_of(run)
    checks_of(run)._highest = 0
    for node in run.kernel.nodes:
        if node is not leader:
            node.durable.raft.truncate(leader.core.catalog.version)
    with pytest.raises(Violated, match=r"I12 .* only 1 voters have synced"):
        checks_of(run).configured(leader)


def test_a_lease_that_outlives_a_takeover_is_seen(run: SeedRun) -> None:
    node, copy = owned(run)
    other = next(each for each in run.kernel.nodes if each is not node)
    theirs = SimpleNamespace(
        volume=copy.volume, region=copy.region, epoch=copy.epoch - 1, role=OWNER, serving=True
    )
    other.core.copies.setdefault(copy.volume, {})[copy.region] = cast(Any, theirs)
    other.core.leases.lease_until_ns[node.node] = other.clock_ns() + 1000
    checks_of(run)._opened.clear()
    with pytest.raises(Violated, match=r"I10 .* has a lease of it for another 1000 ns"):
        checks_of(run).served(node, copy)


def test_a_number_of_a_volume_with_two_names_is_seen(run: SeedRun) -> None:
    checks_of(run)._volumes[1] = "another"
    with pytest.raises(Violated, match=r"I15 .* volume 1 was another"):
        checks_of(run).configured(run.kernel.nodes[0])


def test_a_volume_that_comes_back_is_seen(run: SeedRun) -> None:
    checks_of(run)._gone[1] = 2
    with pytest.raises(Violated, match=r"I15 .* was removed and is back"):
        checks_of(run).configured(run.kernel.nodes[0])


@pytest.mark.parametrize(
    ("name", "length"), [("log", LOG_MAX), ("waiting", WAITING_MAX), ("_parked", PARKED_MAX)]
)
def test_a_queue_beyond_its_bound_is_seen(run: SeedRun, name: str, length: int) -> None:
    node, copy = owned(run)
    setattr(copy, name, deque([cast(Any, None)] * (length + 1)))
    with pytest.raises(Violated, match=r"I30"):
        checks_of(run).journalled(node, copy, cast(Any, None))


def test_what_a_node_keeps_of_a_removed_volume_is_a_finding(run: SeedRun) -> None:
    run.kernel.nodes[0].durable.region((9, 0))
    (finding,) = checks_of(run).findings()
    assert finding.text == "n0 keeps region 0 of volume #9, which is gone"


def test_logs_of_two_histories_are_seen_after_healing(run: SeedRun) -> None:
    assert checks_of(run).log_findings() == []
    raft = run.kernel.nodes[1].durable.raft
    term, kind, _ = raft.entry(raft.last_index)
    raft._entries[-1] = (term, kind, b"another")
    with pytest.raises(Violated, match=r"I12 .* have different entries"):
        run._check_space()


def test_log_of_a_term_that_was_never_noted_is_seen_after_healing(run: SeedRun) -> None:
    durable = run.kernel.nodes[2].durable
    durable.hard = replace(durable.hard, term=0)
    with pytest.raises(Violated, match=r"I6 .* has noted term 0 only"):
        run._check_space()
