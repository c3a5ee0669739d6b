"""shell: faults that follow what the cluster does: they strike in a moment that few seeds draw.

A script is a generator over `Script`. It yields how many milliseconds it waits, or stops; what it
strikes is on record as a drawn fault would be. It looks at everything and changes nothing but by
faults and entries that a leader could propose. It may judge, too: by `Script.fail`. Everything
still follows from the seed, so a script meets another cluster in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from base.errors import InvalidRequest
from base.units import NS_PER_MS
from cluster.entries import MoveOwners, encode, pack_rows
from node.region_copy import RegionCopy
from node.roles import OWNER
from scenario.faults import nearest
from scenario.runs import Detail, FaultEvent
from sim.kernel import KernelNode

if TYPE_CHECKING:
    from scenario.level1 import SeedRun

POLL_MS: Final = 1
Steps = Iterator[int]


class Script:
    """One script in one run: what it may look at and do."""

    def __init__(self, run: SeedRun, steps: Callable[[Script], Steps], end_ns: int) -> None:
        self.run = run
        self.kernel = run.kernel
        self.rng = run.kernel.streams.stream("script")
        self._steps = steps(self)
        self._end_ns = end_ns

    def begin(self) -> None:
        """Let it look around as soon as hosts have begun."""
        self.kernel.after(50 * NS_PER_MS, self._go_on)

    def _go_on(self) -> None:
        wait_ms = next(self._steps, 0)
        if wait_ms and self.kernel.now_ns + wait_ms * NS_PER_MS < self._end_ns:
            self.kernel.after(wait_ms * NS_PER_MS, self._go_on)

    def fail(self, rule: str, text: str) -> None:
        """A rule that only this script knows to be broken."""
        self.run.checks.fail(rule, text)

    # ------------------------------------------------------------------ doing

    def strike(self, kind: str, *nodes: int, for_ms: int = 0, **details: int | str) -> None:
        """A fault, now."""
        given: tuple[Detail, ...] = tuple(sorted(details.items()))
        event = FaultEvent(self.run.faults.now_ms(), kind, nodes, for_ms, given)
        self.run.faults.strike(event)

    def move(self, volume: int, regions: list[int], owners: list[int]) -> None:
        """Have the leader propose other owners."""
        leader = self.leader()
        if leader is None or not regions:
            return
        epochs = [leader.core.catalog.row(volume, region).epoch for region in regions]
        entry = MoveOwners(volume, pack_rows(regions, owners, epochs))
        leader.core.propose(encode(entry), None, leader.clock_ns())
        leader.perform()

    # ------------------------------------------------------------------ looking

    def leader(self) -> KernelNode | None:
        """Who leads in the latest term."""
        found = [node for node in self.kernel.nodes if node.alive and node.core.raft.is_leader]
        return max(found, key=lambda node: node.core.raft.term, default=None)

    def copies(self, role: int) -> Iterator[tuple[KernelNode, RegionCopy]]:
        """Copies in that role, on nodes that live."""
        for node in self.kernel.nodes:
            if node.alive and node.core.active:
                for copy in node.core.all_copies():
                    if copy.role == role:
                        yield node, copy

    def admission(self) -> tuple[KernelNode, RegionCopy] | None:
        """An owner, not the leader, whose only copy besides a joiner it is, and whose proposal to
        admit that joiner may be on its way."""
        leader = self.leader()
        for node, copy in self.copies(OWNER):
            if copy.admission_out and copy.members == (node.node,) and node is not leader:
                return node, copy
        return None

    def pairs(self) -> Iterator[tuple[int, int, int, int]]:
        """(volume, region, owner, copy) of regions that have both, by the leader's catalog."""
        leader = self.leader()
        if leader is None:
            return
        for volume in self.run.host_volumes(leader):
            for region in range(len(leader.core.catalog.volumes[volume].table)):
                row = leader.core.catalog.row(volume, region)
                others = [
                    node.node
                    for node in self.kernel.nodes
                    if row.is_member(node.node) and node.node != row.owner
                ]
                if others and not row.offline:
                    yield volume, region, row.owner, others[0]


def _some_joins(script: Script) -> Steps:
    """Kill somebody, so that there will be joins."""
    node = script.kernel.nodes[script.rng.below(len(script.kernel.nodes))]
    if node.alive and node is not script.leader() and script.run.redundant():
        script.strike("kill", node.node, for_ms=250)
    yield 200


def _until_admission(script: Script) -> Iterator[int]:
    while script.admission() is None:
        if script.run.redundant():
            yield from _some_joins(script)
        yield POLL_MS


def cut_off_in_admission(script: Script) -> Steps:
    """The owner is cut off from all while its proposal to admit a joiner is on its way."""
    while True:
        yield from _until_admission(script)
        yield 4
        found = script.admission()
        if found is not None:
            owner = found[0].node
            others = [node.node for node in script.kernel.nodes if node.node != owner]
            script.strike("cut", owner, *others, for_ms=2500, heard=0)
            yield 3500


def flap_in_admission(script: Script) -> Steps:
    """The link to the joiner breaks while the proposal to admit it is on its way."""
    while True:
        yield from _until_admission(script)
        found = script.admission()
        if found is not None:
            script.strike("flap", found[0].node, found[1].joiner)
            yield 300


def move_while_owner_lags(script: Script) -> Steps:
    """Regions get another owner while the one that they have hears nothing of the leader, and is
    heard by its successor."""
    while True:
        leader = script.leader()
        for volume, region, owner, copy in list(script.pairs()):
            if leader is not None and script.run.redundant() and leader.node not in (owner, copy):
                script.strike("cut", leader.node, owner, for_ms=2000, direction="out", heard=0)
                script.move(volume, [region], [copy])
                yield 3500
                break
        yield 50


def move_to_and_fro(script: Script) -> Steps:
    """Owners change places with their copies all the time."""
    while True:
        leader = script.leader()
        moves: dict[int, list[tuple[int, int]]] = {}
        for volume, region, _, copy in script.pairs():
            if script.rng.below(2):
                moves.setdefault(volume, []).append((region, copy))
        if leader is not None:
            for volume, rows in moves.items():
                script.move(volume, [region for region, _ in rows], [copy for _, copy in rows])
        yield 100 + script.rng.below(300)


def lose_what_waits(script: Script) -> Steps:
    """An owner loses touch with its copy, goes on for a moment, and dies."""
    while True:
        found = list(script.pairs())
        if found and script.run.redundant():
            _, _, owner, copy = found[script.rng.below(len(found))]
            script.strike("cut", owner, copy, for_ms=150, heard=0)
            yield 100
            script.strike("kill", owner, for_ms=700)
            yield 1500
        yield 20


def restart_beside_old_owner(script: Script) -> Steps:
    """A new owner serves, restarts, and hears the old one, which knows nothing of it, before it
    hears anybody else."""
    while True:
        leader = script.leader()
        found = [
            (owner, copy)
            for _, _, owner, copy in script.pairs()
            if leader is not None and leader.node not in (owner, copy)
        ]
        if not found or not script.run.redundant():
            yield 20
            continue
        owner, copy = found[script.rng.below(len(found))]
        rest = [node.node for node in script.kernel.nodes if node.node not in (owner, copy)]
        script.strike("cut", owner, *rest, for_ms=4000, heard=0)
        for _ in range(1500):
            if any(
                node.node == copy and each.serving and each.committed_epoch == each.epoch
                for node, each in script.copies(OWNER)
                if script.kernel.nodes[owner].core.copies.get(each.volume, {}).get(each.region)
                in [old for _, old in script.copies(OWNER)]
            ):
                break
            yield POLL_MS
        yield 60
        script.strike("cut", copy, *rest, for_ms=500, heard=0)
        script.strike("kill", copy, for_ms=10)
        yield 3000


def lose_power_beside_a_loss(script: Script) -> Steps:
    """A copy dies, and its owner loses power while the entry that says so is on its way; now and
    then the owner dies once more when it has that entry, before the catalog has taken it in."""
    while True:
        leader = script.leader()
        found = [
            (owner, copy)
            for _, _, owner, copy in script.pairs()
            if leader is not None and leader.node not in (owner, copy)
        ]
        if leader is None or not found or not script.run.redundant():
            yield 10
            continue
        owner, copy = found[script.rng.below(len(found))]
        machine, before = script.kernel.nodes[owner], leader.core.raft.log.last_index
        script.strike("kill", copy, for_ms=1500)
        while leader.alive and leader.core.raft.log.last_index == before:
            yield POLL_MS
        if machine.durable.raft.last_index > before:
            yield 2500  # it may have gone on alone: what it loses now nobody has, as promised
            continue
        script.strike("power_cut", owner, for_ms=3)
        for _ in range(300):
            if machine.alive and machine.core.counted:
                break
            if machine.alive and machine.durable.raft.last_index > before:
                script.strike("kill", owner, for_ms=3)
                break
            yield POLL_MS
        yield 2500


def deaf_node(script: Script) -> Steps:
    """A node hears nobody and is heard. The others have a leader and keep it."""
    leader = script.leader()
    while leader is None or not script.run.redundant():
        yield 20
        leader = script.leader()
    deaf = next(node.node for node in script.kernel.nodes if node is not leader)
    others = [node.node for node in script.kernel.nodes if node.node != deaf]
    term = leader.core.raft.term
    script.strike("cut", deaf, *others, for_ms=3000, direction="in", heard=0)
    yield 2800
    now = max(node.core.raft.term for node in script.kernel.nodes if node.node != deaf)
    if now > term + 1:
        script.fail("I26", f"terms went from {term} to {now} because n{deaf} hears nobody")


SCRIPTS: Final[dict[str, Callable[[Script], Steps]]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        cut_off_in_admission,
        flap_in_admission,
        move_while_owner_lags,
        move_to_and_fro,
        lose_what_waits,
        restart_beside_old_owner,
        lose_power_beside_a_loss,
        deaf_node,
    )
}


def script_of(name: str) -> Callable[[Script], Steps]:
    """InvalidRequest names the nearest one that there is."""
    found = SCRIPTS.get(name)
    if found is None:
        raise InvalidRequest(f"there is no script {name}: {nearest(name, SCRIPTS)}")
    return found


__all__ = ["SCRIPTS", "Script", "script_of"]
