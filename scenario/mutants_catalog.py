"""plan: deliberate bugs in agreement, lives, disks of the journal, and the space of the catalog."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from base.ids import NOBODY
from cluster.consensus import Raft
from cluster.raft_leader import LeaderSide
from cluster.raft_outbox import Outbox
from cluster.raft_types import HardState
from node.core import NodeCore
from node.region_copy import RegionCopy
from scenario import directed
from scenario.mutant_kit import Mutation, Patches, options
from sim.kernel import KernelNode
from sim.kernel_machine import KernelMachine
from volume.chunklet import ChunkletTable
from volume.logical_disk import LogicalDisk
from volume.node_storage import NodeStorage

# ---------------------------------------------------------------- agreement


def _vote_not_persisted(patch: Patches) -> None:
    real = Outbox.__dict__["persist_hard"]

    def persist(self: Outbox, hard: HardState) -> None:
        real(self, replace(hard, voted_for=NOBODY))

    patch.put(Outbox, "persist_hard", persist)


def _vote_twice(patch: Patches) -> None:
    real = Raft.__dict__["_on_request_vote"]

    def vote(self: Raft, sender: Any, request: Any) -> None:
        if not request.pre and self.leadership is None and self._hard.voted_for != self.self_id:
            self._hard = replace(self._hard, voted_for=NOBODY)
        real(self, sender, request)

    patch.put(Raft, "_on_request_vote", vote)


def _vote_for_shorter_log(patch: Patches) -> None:
    real = Raft.__dict__["_on_request_vote"]

    def vote(self: Raft, sender: Any, request: Any) -> None:
        longer = replace(
            request, last_log_index=self.log.last_index + 1, last_log_term=self.log.last_term + 1
        )
        real(self, sender, longer)

    patch.put(Raft, "_on_request_vote", vote)


def _no_pre_vote(patch: Patches) -> None:
    real = Raft.__dict__["_campaign"]
    patch.put(Raft, "_campaign", lambda self, *, pre: real(self, pre=False))


def _leader_counts_unsynced(patch: Patches) -> None:
    real = LeaderSide.__dict__["maybe_commit"]

    def commit(self: LeaderSide, leadership: Any) -> None:
        outbox, synced = self._raft.outbox, self._raft.outbox.durable_index
        outbox.durable_index = self._raft.log.last_index
        real(self, leadership)
        outbox.durable_index = min(outbox.durable_index, synced)

    patch.put(LeaderSide, "maybe_commit", commit)


def _act_before_synced(patch: Patches) -> None:
    real = Raft.__dict__["_apply"]

    def apply(self: Raft) -> None:
        synced, self.outbox.durable_index = self.outbox.durable_index, self.log.last_index
        real(self)
        self.outbox.durable_index = synced

    patch.put(Raft, "_apply", apply)


def _answer_before_synced(patch: Patches) -> None:
    real = Outbox.__dict__["say"]
    patch.put(
        Outbox, "say", lambda self, peer, message, *, needs=0: real(self, peer, message)
    )  # fmt: skip


def _change_members_early(patch: Patches) -> None:
    real = LeaderSide.__dict__["_members_after"]

    def after(self: LeaderSide, leadership: Any, change: Any) -> Any:
        raft = self._raft
        index, noop = raft.commit_index, leadership.noop_index
        raft.commit_index, leadership.noop_index = raft.log.last_index, 0
        answer = real(self, leadership, change)
        raft.commit_index, leadership.noop_index = index, noop
        return answer

    patch.put(LeaderSide, "_members_after", after)
    patch.put(Raft, "may_change_members", property(lambda self: self.leadership is not None))


# ---------------------------------------------------------------- lives and disks


def _same_incarnation(patch: Patches) -> None:
    real = KernelNode.__dict__["start"]

    def start(self: KernelNode) -> None:
        if self.durable.incarnation:
            self.durable.incarnation -= 1
        real(self)

    patch.put(KernelNode, "start", start)


def _hide_lost_power(patch: Patches) -> None:
    real = KernelMachine.__dict__["power_cut"]

    def cut(self: KernelMachine) -> None:
        real(self)
        self.durable.intact = True

    patch.put(KernelMachine, "power_cut", cut)


def _open_whatever_was_known(patch: Patches) -> None:
    real = KernelNode.__dict__["start"]

    def start(self: KernelNode) -> None:
        self.durable.known = (1 << 63) - 1
        real(self)

    patch.put(KernelNode, "start", start)


def _know_what_the_present_life_learnt(patch: Patches) -> None:
    real = KernelNode.__dict__["start"]

    def start(self: KernelNode) -> None:
        self.durable.known = -1
        real(self)

    patch.put(KernelNode, "start", start)


def _forget_loss_in_next_life(patch: Patches) -> None:
    real = NodeCore.__dict__["begin_life"]

    def begin(self: NodeCore, *given: int) -> None:
        self.counted = True
        real(self, *given)

    patch.put(NodeCore, "begin_life", begin)


def _go_on_after_failed_sync(patch: Patches) -> None:
    real = KernelMachine.__dict__["_synced"]

    def synced(self: KernelMachine, life: int, through: int, done: Any) -> None:
        if self.sync_fails and self.alive and life == self.life and not self.paused:
            self.sync_fails = False
            done()
            self.perform()
            return
        real(self, life, through, done)

    patch.put(KernelMachine, "_synced", synced)


def _sync_nothing(patch: Patches) -> None:
    patch.put(KernelMachine, "sync", lambda self, done: self.network.after(1, _done, self, done))


def _done(machine: KernelMachine, done: Any) -> None:
    if machine.alive:
        done()
        machine.perform()


# ---------------------------------------------------------------- space


def _leak_on_removal(patch: Patches) -> None:
    """The LD goes, its chunklets stay held."""
    patch.put(ChunkletTable, "release", lambda *_: None)


def _leak_ld_regions(patch: Patches) -> None:
    real = NodeStorage.__dict__["release"]

    def release(self: NodeStorage, lds: Any, regions: Any) -> None:
        if len(lds) > 1:
            real(self, lds[1:], regions[1:])

    patch.put(NodeStorage, "release", release)


def _give_region_twice(patch: Patches) -> None:
    patch.put(LogicalDisk, "take", lambda *_: None)


def _keep_removed_volumes(patch: Patches) -> None:
    """A node keeps what it had of a volume that is gone."""
    real = NodeCore.__dict__["_drop"]

    def drop(self: NodeCore, copy: RegionCopy) -> None:
        real(self, copy)
        if not self.catalog.volume_manager.has_volume(copy.volume):
            self.effects.pop()

    patch.put(NodeCore, "_drop", drop)


def _allocate_taken_chunklets(patch: Patches) -> None:
    """The allocator does not know what is in use: it opened before it had read that."""

    def allocate(self: ChunkletTable, numbers: Any, ld: int, *, from_spares: bool = False) -> None:
        pass

    patch.put(ChunkletTable, "allocate", allocate)


CHURN: Final = options(
    seconds=5, fault_every_ms=250, nodes=5, crashes=3, cuts=2, down_ms=150, cut_ms=600,
    writes_per_s=20, regions=2, sync_us=10_000,
)  # fmt: skip
REMOVALS: Final = options(seconds=3, nodes=4, remove_volumes=5, fault_every_ms=200, crashes=1)
POWER: Final = options(seconds=5, nodes=5, fault_every_ms=300, writes_per_s=200, down_ms=300)
LOSING: Final = options(
    seconds=5, nodes=5, hosts=4, writes_per_s=200, sync_us=10_000, fua_percent=0, flush_weight=1,
    durability_synced=False,
)  # fmt: skip

MUTATIONS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "vote-not-persisted", "stretch", "a vote is forgotten by a restart", ("I12", "code"),
        _vote_not_persisted, options=CHURN, seeds=400,
    ),
    Mutation(
        "vote-twice", "stretch", "a node votes for two candidates of one term", ("I12", "code"),
        _vote_twice, options=CHURN, seeds=200,
    ),
    Mutation(
        "vote-for-shorter-log", "stretch", "a node votes for a candidate that lacks entries",
        ("I12", "code"), _vote_for_shorter_log, seeds=200,
        options=(*CHURN, *options(nodes=3, cuts=4, cut_crash_percent=100)),
    ),
    Mutation(
        "leader-counts-unsynced", "stretch", "a leader counts its own entries before their sync",
        ("I12", "I6", "code"), _leader_counts_unsynced, options=CHURN, seeds=100,
    ),
    Mutation(
        "act-before-synced", "stretch", "an epoch is acted on before it is synced", ("I6",),
        _act_before_synced, options=CHURN, quick=True,
    ),
    Mutation(
        "answer-before-synced", "stretch", "entries are acknowledged before they are synced",
        ("I12", "I6", "code"), _answer_before_synced, options=CHURN, seeds=100,
    ),
    Mutation(
        "change-members-early", "stretch",
        "a change of voters before an entry of the leader's own term is committed",
        ("I12",), _change_members_early, quick=True,
        directed=directed.change_of_voters_before_the_own_term,
    ),
    Mutation(
        "no-pre-vote", "stretch", "a node that hears nobody campaigns without asking first",
        ("I26",), _no_pre_vote, script="deaf-node", options=CHURN, seeds=20, quick=True,
    ),
    Mutation(
        "same-incarnation", "17", "a restart is no new incarnation", ("I6",),
        _same_incarnation, options=CHURN, quick=True,
    ),
    Mutation(
        "hide-lost-power", "own", "a node that lost unsynced records says that it has everything",
        ("I8", "I9", "I7", "I2", "code"), _hide_lost_power, profile="power", seeds=60,
        options=(*POWER, *options(down_ms=30, sync_us=10_000, durability_synced=False,
                                  power_cut=6)),
    ),
    Mutation(
        "open-whatever-was-known", "own", "a copy that lost power opens though another has more",
        ("I8", "I9", "I7", "I2", "code"), _open_whatever_was_known, seeds=30,
        script="lose-power-beside-a-loss", options=LOSING,
    ),
    Mutation(
        "know-what-this-life-learnt", "own", "what a life learnt counts as known before its loss",
        ("I8", "I9", "I7", "I2", "code"), _know_what_the_present_life_learnt, seeds=30,
        script="lose-power-beside-a-loss", options=LOSING,
    ),
    Mutation(
        "forget-loss-in-next-life", "own", "a life that never counted takes its loss with it",
        ("I8",), _forget_loss_in_next_life, quick=True,
        directed=directed.blank_life_that_was_overtaken,
    ),
    Mutation(
        "go-on-after-failed-sync", "stretch", "a failed sync counts as done", ("I9", "I1"),
        _go_on_after_failed_sync, profile="power",
        options=(*POWER, *options(sync_failures=5, fua_percent=50)), seeds=40,
    ),
    Mutation(
        "sync-nothing", "stretch", "syncs end and nothing is synced", ("I9", "I1"), _sync_nothing,
        profile="power", options=(*POWER, *options(fua_percent=50)), quick=True,
    ),
    Mutation(
        "leak-on-removal", "24", "the chunklets of a removed volume stay held",
        ("I14", "I13", "code"), _leak_on_removal, options=REMOVALS,
    ),
    Mutation(
        "leak-ld-regions", "24", "the first region that is given back stays taken",
        ("I14", "I13", "code"), _leak_ld_regions, options=REMOVALS,
    ),
    Mutation(
        "give-region-twice", "24", "an LD region that was given counts as free",
        ("I13", "code"), _give_region_twice, options=REMOVALS, quick=True,
    ),
    Mutation(
        "allocate-taken-chunklets", "24", "the allocator opens before it knows what is in use",
        ("I13", "I14", "code"), _allocate_taken_chunklets, options=REMOVALS,
    ),
    Mutation(
        "keep-removed-volumes", "24", "a node keeps what it has of a volume that is gone",
        ("I15",), _keep_removed_volumes, options=REMOVALS, seeds=40,
    ),
)  # fmt: skip
