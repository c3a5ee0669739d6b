"""plan: runs by hand for deliberate bugs that seeds do not come to: one sequence of events each.

Some rules guard against what links that keep their order, and volumes of two copies, never bring
about; others need four rare things in a row. Each run here passes over the code as it is, and
raises `Violated` with the mutation that names it: see `scenario.mutant_kit.Mutation.directed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from base.ids import NodeId
from base.units import NS_PER_MS
from cluster import raft_types as rt
from cluster.consensus import Raft
from cluster.raft_log import RaftLog
from node import state_transfer
from node.effects import Send
from node.handover import HandOver
from node.leases import LeaseTable
from node.region_copy import PARKED_MAX, RegionCopy
from node.roles import BY_FULL
from scenario.copies_by_hand import Copies, operation, pair
from scenario.state_checks import Violated
from sim.kernel import Kernel, KernelConfig
from transport import messages as wire
from transport.operation import SYNC

LEASE_NS = 400 * NS_PER_MS
GRACE_NS = 500 * NS_PER_MS


def _must(holds: bool, rule: str, text: str) -> None:
    if not holds:
        raise Violated(f"{rule} by hand: {text}")


# ---------------------------------------------------------------- copies


def record_of_the_owner_before() -> None:
    """The copy that n0 filled when it owned the region is by now one of n1. n0 does not know, and
    goes on sending, while what n1 sends is late."""
    world = Copies()
    world.configure(1, 0, (0, 1), joiner=2)
    world.write(0, 1)
    world.join(0)
    world.configure(3, 1, (1, 2), only=(1, 2))
    world.cut |= {(1, 2), (1, 0), (0, 1)}
    world.write(1, 2)
    world.write(0, 3)
    copy = world.copies[2]
    held = [record.number for record in copy.tail()]
    _must(3 not in held, "I7", f"{copy} took a record of epoch 1")
    _must(2 not in world.answers, "I9", f"n1 answered what {copy} does not hold")


def begin_of_a_session_that_is_over() -> None:
    """The first message of an older session comes when a later one has filled the joiner."""
    world = Copies()
    world.configure(1, 0, (0,), joiner=1)
    world.write(0, 1)
    world.join(0)
    joiner = world.copies[1]
    late = wire.TransferBegin(1, 0, 1, world.session - 1, BY_FULL, 0, 0, 0, 0, (), (), b"")
    _must(joiner.complete and joiner.prepared == 1, "I26", f"{joiner} was not filled")
    state_transfer.begin(joiner, 0, late)
    _must(joiner.complete, "I9", f"{joiner} is about to be a member and has emptied itself")


def tail_beside_the_line() -> None:
    """A copy returns with a record that nobody else has, and is asked where it stands."""
    world = pair()
    world.copies[1].commit_point(0, 1, 1, 1)
    world.cut |= {(0, 1), (1, 0)}
    world.write(0, 2)
    world.configure(2, 1, (1,), joiner=0)
    world.write(1, 3)
    world.cut.clear()
    world.join(1)
    world.run()
    done = [number for _, number in world.applied[0]]
    _must(2 not in done, "I8", f"n0 committed operation 2, which epoch 2 never had: {done}")


def commit_point_ahead_of_the_catalog() -> None:
    """A copy hears how far its owner committed before it hears of the epoch; then all is quiet."""
    world = pair()
    world.configure(2, 0, (0, 1), only=(0,))
    world.copies[1].commit_point(0, 2, 1, 1)
    world.configure(2, 0, (0, 1), only=(1,))
    copy = world.copies[1]
    _must(copy.committed == 1, "I11", f"{copy} never applies what its owner has committed")


def stream_ahead_of_the_catalog() -> None:
    """An owner goes on in an epoch that its copy has not heard of, for long."""
    world = pair()
    copy = world.copies[1]
    for number in range(2, 2 * PARKED_MAX):
        record = operation(number)
        record.epoch, record.seq, record.prev_epoch = 2, number, 2
        copy.replicate(0, record, 2, 1)
    parked = len(copy._parked)
    _must(parked <= PARKED_MAX, "I30", f"{copy} has {parked} records parked")


def record_whose_sync_was_interrupted() -> None:
    """A copy restarts between the journal write and the sync of a record that a host wants synced;
    then its owner sends it again."""
    world = pair()
    world.unsynced.add(1)
    world.write(0, 2, flags=SYNC)
    tail = []
    for number, flags in ((1, 0), (2, SYNC)):
        record = operation(number, flags=flags)
        record.epoch, record.seq, record.prev_epoch = 1, number, number - 1
        tail.append(record)
    world.copies[1] = RegionCopy(1, 0, 1, world.effects[1])
    world.copies[1].restore(
        committed=0, committed_epoch=0, tail=tail, clients=(), complete=True
    )  # fmt: skip
    world.unsynced.clear()
    world.configure(2, 0, (0, 1))
    _must(world.answers.get(2) == "ok", "I26", "a write waits for a sync that nobody asks for")


# ---------------------------------------------------------------- hand-over


@dataclass
class _Core:
    """The part of a node that a hand-over needs."""

    copies: dict[int, dict[int, RegionCopy]] = field(default_factory=dict)
    effects: list[Any] = field(default_factory=list)

    def advance(self, copy: RegionCopy, now_ns: int) -> None:
        copy.advance(now_ns)


class _Member:
    """One of three nodes with its copy of region 0 of volume 1."""

    def __init__(self, node: int) -> None:
        core: Any = _Core()
        self.core = core
        self.handover = HandOver(core)
        self.copy = RegionCopy(1, 0, node, core.effects)
        core.copies[1] = {0: self.copy}

    def configure(self, epoch: int, owner: int) -> None:
        served = self.handover.served(self.copy)
        self.copy.configure(
            epoch=epoch, owner=owner, members=(1, 2, 3), joiner=255, offline=False, now_ns=0,
            open_at_ns=GRACE_NS,
        )  # fmt: skip
        self.handover.configured(self.copy, served, 0)
        self.handover.send()

    def words(self) -> list[wire.OwnerReleased]:
        sent = [effect.message for effect in self.core.effects if isinstance(effect, Send)]
        return [message for message in sent if isinstance(message, wire.OwnerReleased)]


def word_of_an_owner_that_never_served() -> None:
    """n1 serves and is cut off; n2 inherits, still waits for the leases of n1, and is moved on."""
    second, third = _Member(2), _Member(3)
    for epoch, owner in ((4, 1), (5, 2), (6, 3)):
        for member in (second, third):
            member.configure(epoch, owner)
    for word in second.words():
        third.handover.on_released(2, word, 0)
    _must(not third.copy.serving, "I10", f"{third.copy} serves while n1 has leases")


def word_about_another_epoch() -> None:
    """n1 hands over to n3 in epoch 5; its word comes when n3 has inherited again, from n2."""
    third = _Member(3)
    for epoch, owner in ((4, 1), (5, 3), (6, 2), (7, 3)):
        third.configure(epoch, owner)
    third.handover.on_released(1, wire.OwnerReleased(((1, 0, 5),)), 0)
    _must(not third.copy.serving, "I10", f"{third.copy} serves while n2 has leases")


# ---------------------------------------------------------------- leases, consensus


def answer_to_an_earlier_life() -> None:
    """A peer goes on acknowledging the third beacon of the life before."""
    leases = LeaseTable(
        incarnation=2, lease_ns=LEASE_NS, grace_ns=GRACE_NS, drift_ppm=50_000, now_ns=0
    )  # fmt: skip
    for _ in range(5):
        leases.beacon(1, GRACE_NS, 0)
    leases.heard(1, wire.Beacon(1, 9, 1, 3, True, 0), known=True)
    _must(
        not leases.holds((1,), GRACE_NS), "I5", "a lease from a peer that acknowledged nothing yet"
    )


def blank_life_that_was_overtaken() -> None:
    """A machine without data begins with an incarnation that is too low, and takes a higher one."""
    kernel = Kernel(1, KernelConfig(nodes=3))
    node = kernel.nodes[0]
    node.durable = kernel.new_disks(blank=True)
    node.start()
    core = node.core
    core.begin_life(core.incarnation + 10, node.clock_ns())
    _must(core.blank and not core.intact, "I8", f"{node} is blank and says that it has everything")


def change_of_voters_before_the_own_term() -> None:
    """A leader that nobody has acknowledged an entry of its term yet is to change who votes."""
    nodes = tuple(NodeId(node) for node in range(4))
    raft = Raft(
        self_id=nodes[0], hard_state=rt.HardState(), rng=Random(1), config=rt.RaftConfig(),
        log=RaftLog(rt.Snapshot(0, 0, rt.Members(nodes))), blank=False,
    )  # fmt: skip
    now_ns = 0
    while raft.role is rt.Role.FOLLOWER:
        now_ns += 10 * NS_PER_MS
        effects = raft.step(now_ns, rt.TICK)
    for pre in (True, False):
        for peer in nodes[1:3]:
            vote = wire.VoteReply(raft.term + pre, peer, True, pre)
            effects = raft.step(now_ns, rt.Received(peer, vote))
        number = max((each.number for each in effects if isinstance(each, rt.Persist)), default=0)
        effects = raft.step(now_ns, rt.Persisted(number))
    assert raft.is_leader
    before = raft.log.members
    raft.step(now_ns, rt.ProposeMembers(1, rt.RemoveVoter(nodes[3])))
    _must(
        raft.log.members == before, "I12",
        f"{raft.log.members} stands behind no committed entry of term {raft.term}",
    )  # fmt: skip
