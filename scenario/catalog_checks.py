"""plan: rules about consensus, leases, space and bounds, checked on the state of level 1.

They hang on the kernel beside `scenario.state_checks`. What is checked at each event costs a few
look-ups; what walks over everything (`at_end`) runs once, after healing.
"""

from __future__ import annotations

from typing import Final

from base.ids import node_name
from cluster.fsck import Finding, HeldRegion, check_catalog, check_node
from cluster.log_check import check_hard, compare_logs
from node.region_copy import PARKED_MAX, RegionCopy
from node.roles import OWNER
from scenario.state_checks import StateChecks
from sim.kernel import Kernel, KernelNode
from transport.operation import Record

WAITING_MAX: Final = 4096  # host operations that wait at one region: hosts have few under way
LOG_MAX: Final = 8192  # records that one copy keeps in memory
HELD_MAX: Final = 4096  # messages of consensus that wait for a sync


class CatalogChecks:
    """I6, I10, I12 and I30 as they happen; I13, I14, I15 and I32 at the end."""

    def __init__(self, kernel: Kernel, state: StateChecks) -> None:
        self.kernel = kernel
        self.state = state
        self.fail = state.fail
        self._leaders: dict[int, int] = {}  # by term
        self._entries: dict[int, int] = {}  # term of the entry at each applied index
        self._highest = 0  # of all applied indexes
        self._lives: dict[int, tuple[int, int]] = {}  # by node: (life of the process, incarnation)
        self._terms: dict[int, int] = {}
        self._versions: dict[tuple[int, int], int] = {}  # by node and life: catalog version
        self._opened: dict[tuple[int, int], int] = {}  # by region, the latest epoch that was served
        self._volumes: dict[int, str] = {}  # every number that was ever given
        self._gone: dict[int, int] = {}  # removed numbers, and since which version
        self._seen: dict[tuple[int, int], dict[int, None]] = {}  # by node and life

    # ------------------------------------------------------------------ at each event

    def journalled(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """I30: nothing of a copy grows without a bound."""
        if len(copy.log) > LOG_MAX or len(copy.waiting) > WAITING_MAX:
            self.fail(
                "I30", f"{copy} keeps {len(copy.log)} records, {len(copy.waiting)} operations wait"
            )
        if len(copy._parked) > PARKED_MAX:
            self.fail("I30", f"{copy} has {len(copy._parked)} records parked")

    def committed(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """A new owner answers."""
        self._first_in_epoch(node, copy)

    def served(self, node: KernelNode, copy: RegionCopy) -> None:
        """A new owner answers."""
        self._first_in_epoch(node, copy)

    def _first_in_epoch(self, node: KernelNode, copy: RegionCopy) -> None:
        """I10: whoever served before has no lease of the new owner left. A copy that commits and
        does not serve yet tells nobody."""
        key = (copy.volume, copy.region)
        if not copy.serving or self._opened.get(key, 0) >= copy.epoch:
            return
        self._opened[key] = copy.epoch
        for other in self.kernel.nodes:
            if other is node or not other.alive:
                continue
            theirs = other.core.copies.get(copy.volume, {}).get(copy.region)
            if theirs is None or theirs.role != OWNER or not theirs.serving:
                continue
            until_ns = other.core.leases.lease_until_ns.get(node.node, 0)
            if theirs.epoch < copy.epoch and until_ns > other.clock_ns():
                self.fail(
                    "I10",
                    f"{node} serves {copy} and {other} has a lease of it for another"
                    f" {until_ns - other.clock_ns()} ns: {theirs}",
                )

    def configured(self, node: KernelNode) -> None:
        """I6, I12, I15: what the node has applied of the catalog."""
        raft, catalog, durable = node.core.raft, node.core.catalog, node.durable
        version = catalog.version
        if durable.raft.last_index < version:
            self.fail("I6", f"{node} acts on catalog {version} and has not synced it")
        if durable.hard.term < raft.term and raft.is_leader:
            self.fail("I6", f"{node} leads term {raft.term} and has not synced it")
        place = (node.node, node.life)
        if version < self._versions.get(place, 0):
            self.fail("I6", f"{node} fell back to catalog {version}")
        self._versions[place] = version
        self._check_life(node)
        if raft.term < self._terms.get(node.node, 0) and not durable.hard.blank:
            self.fail("I6", f"{node} fell back from term {self._terms[node.node]} to {raft.term}")
        self._terms[node.node] = raft.term
        self._check_entry(node, version)
        if raft.is_leader:
            self._check_leader(node)
        self._check_volumes(node, version)

    def _check_life(self, node: KernelNode) -> None:
        known_life, known = self._lives.get(node.node, (0, -1))
        incarnation = node.core.incarnation
        if node.core.blank and not node.core.counted:
            return  # it does not know its former lives, and counts for nothing until it does
        if incarnation < known or (incarnation == known and node.life != known_life):
            self.fail("I6", f"{node} has incarnation {incarnation}, {known} was there before")
        self._lives[node.node] = (node.life, incarnation)

    def _check_entry(self, node: KernelNode, version: int) -> None:
        """I12: an applied entry is on the disks of a majority, and no other is at its place."""
        log = node.core.raft.log
        term = log.term_at(version)
        if term < 0:
            return
        if self._entries.setdefault(version, term) != term:
            self.fail("I12", f"{node} applied entry {version} of term {term}, others another")
        if version <= self._highest:
            return
        self._highest = version
        # It may itself have changed who votes, or something behind it may have.
        for members in (log.members, log.members_at(version)):
            held = sum(self._has_synced(voter, version, term) for voter in members.voters)
            # A machine that was replaced since has taken its word with it, and its vote.
            gone = sum(self.kernel.nodes[voter].durable.blank for voter in members.voters)
            if held + gone >= members.quorum > len(members.voters) - held - gone:
                return
        self.fail("I12", f"{node} applied entry {version}, which only {held} voters have synced")

    def _has_synced(self, voter: int, version: int, term: int) -> bool:
        log = self.kernel.nodes[voter].durable.raft
        return log.term_at(version) == term or log.snapshot.index >= version

    def _check_leader(self, node: KernelNode) -> None:
        """I12: one leader in each term, and it has all that was committed."""
        raft = node.core.raft
        if raft.term not in self._leaders:
            self._check_votes(node)
        first = self._leaders.setdefault(raft.term, node.node)
        if first != node.node:
            self.fail("I12", f"{node_name(first)} and {node} both lead term {raft.term}")
        at, log = self._highest, raft.log
        newest = raft.term >= max(self._leaders)
        if newest and log.snapshot.index < at and log.term_at(at) != self._entries.get(at):
            self.fail("I12", f"{node} leads without the committed entry {at}")

    def _check_votes(self, node: KernelNode) -> None:
        """I12: whoever voted for the new leader has that on its disk, or is in a later term."""
        raft = node.core.raft
        for voter in sorted(voter for voter, granted in raft._votes.items() if granted):
            hard = self.kernel.nodes[voter].durable.hard
            if hard.term < raft.term or (hard.term == raft.term and hard.voted_for != node.node):
                self.fail(
                    "I12",
                    f"{node} leads term {raft.term} by a vote of {node_name(voter)}, on whose disk"
                    f" is term {hard.term} and a vote for {node_name(hard.voted_for)}",
                )

    def _check_volumes(self, node: KernelNode, version: int) -> None:
        """I15: a number of a volume means one volume, and one that is gone never comes back."""
        volumes = node.core.catalog.volumes
        for number, volume in volumes.items():
            if self._volumes.setdefault(number, volume.name) != volume.name:
                self.fail("I15", f"volume {number} was {self._volumes[number]}, now {volume.name}")
            if version >= self._gone.get(number, version + 1):
                self.fail("I15", f"volume {number}, {volume.name}, was removed and is back")
        here = self._seen.setdefault((node.node, node.life), {})
        for number in [number for number in here if number not in volumes]:
            del here[number]
            self._gone[number] = min(version, self._gone.get(number, version))
        here.update(dict.fromkeys(volumes))

    # ------------------------------------------------------------------ after healing

    def findings(self) -> list[Finding]:
        """I13, I14, I15, I32: what is wrong with space and copies, once everything is redundant."""
        found: list[Finding] = []
        checked: dict[tuple[int, int], None] = {}  # catalogs of one version and digest are one
        for node in self.kernel.nodes:
            if node.alive:
                catalog = node.core.catalog
                name = (catalog.version, self.state.agrees(node))
                if name not in checked:
                    checked[name] = None
                    found += check_catalog(catalog)
                found += check_node(catalog, node.node, _held(node))
        return found

    def log_findings(self) -> list[Finding]:
        """I12, I6: what the nodes' disks have of consensus is of one history."""
        found: list[Finding] = []
        for node in self.kernel.nodes:
            found += check_hard(node.node, node.durable.hard, node.durable.raft)
        return found + compare_logs({node.node: node.durable.raft for node in self.kernel.nodes})


def _held(node: KernelNode) -> list[HeldRegion]:
    held = []
    for (volume, region), kept in sorted(node.durable.regions.items()):
        ld, ld_region = kept.place or (-1, -1)
        held.append(
            HeldRegion(
                volume, region, ld, ld_region, kept.complete, kept.committed_epoch, kept.committed
            )
        )
    return held
