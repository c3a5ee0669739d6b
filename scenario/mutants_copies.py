"""plan: deliberate bugs in the replication of regions: commits, leases, joins, returns."""

from __future__ import annotations

from typing import Any, Final

from node import region_copy, state_transfer
from node.client_table import ClientTable
from node.core import NodeCore
from node.detection import Detection
from node.effects import Admit, Store
from node.epoch_line import EpochLine
from node.handover import HandOver
from node.leases import LeaseTable
from node.region_copy import RegionCopy
from node.roles import BEGAN, COPY, JOINER, OWNER, TRANSFER_ASKED
from scenario import directed
from scenario.mutant_kit import Mutation, Patches, options
from sim import kernel as kernel_module
from sim.durable import apply_sectors
from sim.kernel import KernelNode

# ---------------------------------------------------------------- commits


def _ack_before_copies(patch: Patches) -> None:
    def set_required(self: RegionCopy) -> None:
        self.required = ()
        self.read_peers = self.others

    patch.put(RegionCopy, "set_required", set_required)


def _drop_copy_alone(patch: Patches) -> None:
    real = Detection.__dict__["link"]

    def link(self: Detection, peer: int, session: int, now_ns: int) -> None:
        real(self, peer, session, now_ns)
        if session:
            return
        for copy in self._core.all_copies():
            if copy.role == OWNER:
                copy.required = tuple(node for node in copy.required if node != peer)
                copy.read_peers = tuple(node for node in copy.read_peers if node != peer)
                copy.commit()

    patch.put(Detection, "link", link)


def _copy_acks_early(patch: Patches) -> None:
    real = RegionCopy.__dict__["replicate"]

    def replicate(self: RegionCopy, *given: Any) -> None:
        real(self, *given)
        if self.role == COPY:
            self.journalled = self.prepared
            self.acknowledge()

    patch.put(RegionCopy, "replicate", replicate)


def _copy_ignores_epoch(patch: Patches) -> None:
    real = RegionCopy.__dict__["replicate"]

    def replicate(self: RegionCopy, sender: int, record: Any, epoch: int, committed: int) -> None:
        if epoch < self.epoch and self.role == COPY:
            epoch, sender = self.epoch, self.owner
        real(self, sender, record, epoch, committed)

    patch.put(RegionCopy, "replicate", replicate)


def _read_uncommitted(patch: Patches) -> None:
    real = KernelNode.__dict__["_read"]

    def read(self: KernelNode, token: Any) -> None:
        record = token[1]
        key = (record.volume, record.region)
        copy = self.core.copies.get(record.volume, {}).get(record.region)
        kept = self.store.get(key)
        if copy is None or kept is None:
            real(self, token)
            return
        dirty = dict(kept)
        for each in copy.tail():
            apply_sectors(dirty, each)
        self.store[key] = dirty
        real(self, token)
        self.store[key] = kept

    patch.put(KernelNode, "_read", read)


def _forget_operations(patch: Patches) -> None:
    patch.put(ClientTable, "__contains__", lambda _self, _name: False)


def _forget_operations_at_copies(patch: Patches) -> None:
    real = RegionCopy.__dict__["_apply"]

    def apply(self: RegionCopy, record: Any) -> None:
        if self.role == OWNER:
            real(self, record)
            return
        add = ClientTable.add
        try:
            ClientTable.add = lambda *_: None  # type: ignore[method-assign]
            real(self, record)
        finally:
            ClientTable.add = add  # type: ignore[method-assign]

    patch.put(RegionCopy, "_apply", apply)


def _match_by_number(patch: Patches) -> None:
    real = RegionCopy.__dict__["replicate"]

    def replicate(self: RegionCopy, sender: int, record: Any, epoch: int, committed: int) -> None:
        ours = epoch == self.epoch and sender == self.owner and self.role == COPY
        if ours and self.committed < record.seq <= self.prepared:
            self.matched = max(self.matched, record.seq)
            self.commit_up_to(committed)
            self._have_already(record)
            return
        if ours and record.seq == self.prepared + 1:
            record.prev_epoch = self.epoch_at(self.prepared)
        real(self, sender, record, epoch, committed)

    patch.put(RegionCopy, "replicate", replicate)


def _renumber_inherited(patch: Patches) -> None:
    real = RegionCopy.__dict__["_become_owner"]

    def become(self: RegionCopy, *given: Any) -> None:
        real(self, *given)
        self.in_flight = {}

    patch.put(RegionCopy, "_become_owner", become)


def _open_before_tail(patch: Patches) -> None:
    real = RegionCopy.__dict__["advance"]

    def advance(self: RegionCopy, now_ns: int) -> None:
        self.open_target = min(self.open_target, self.committed)
        real(self, now_ns)

    patch.put(RegionCopy, "advance", advance)


def _forget_tail_at_takeover(patch: Patches) -> None:
    real = RegionCopy.__dict__["_become_owner"]

    def become(self: RegionCopy, again: bool, new_epoch: bool, *given: Any) -> None:
        if new_epoch and not again and self.prepared > self.committed:
            self.truncate(self.committed + 1)
        real(self, again, new_epoch, *given)

    patch.put(RegionCopy, "_become_owner", become)


def _never_sync_again(patch: Patches) -> None:
    patch.put(RegionCopy, "_have_already", lambda self, _record: self.acknowledge())


def _drop_early_commit_point(patch: Patches) -> None:
    real = RegionCopy.__dict__["commit_point"]

    def point(self: RegionCopy, sender: int, epoch: int, *more: int) -> None:
        if epoch <= self.epoch:
            real(self, sender, epoch, *more)

    patch.put(RegionCopy, "commit_point", point)


def _park_without_bound(patch: Patches) -> None:
    patch.put(region_copy, "PARKED_MAX", 1 << 30)


def _never_trim_log(patch: Patches) -> None:
    patch.put(RegionCopy, "trim_log", lambda _self: None)


# ---------------------------------------------------------------- leases


def _read_without_lease(patch: Patches) -> None:
    patch.put(NodeCore, "may_read", lambda _self, copy, _now_ns: copy.serving)


def _check_lease_once(patch: Patches) -> None:
    real = KernelNode.__dict__["_answer_read"]

    def answer(self: KernelNode, life: int, token: Any, copy: Any, epoch: int, data: bytes) -> None:
        if self.not_now(life, self._answer_read, life, token, copy, epoch, data):
            return
        held = self.core.may_read
        self.core.may_read = lambda copy, now_ns: True  # type: ignore[method-assign]
        real(self, life, token, copy, copy.epoch, data)
        self.core.may_read = held  # type: ignore[method-assign]

    patch.put(KernelNode, "_answer_read", answer)


class _WallLeases(LeaseTable):
    """Leases that run on the wall clock."""

    machine: KernelNode

    def beacon(self, peer: int, now_ns: int, catalog_version: int) -> Any:
        sent = super().beacon(peer, now_ns, catalog_version)
        self._sent_ns[peer][sent.number] = self.machine.wall_ns()
        return sent

    def holds(self, peers: tuple[int, ...], now_ns: int) -> bool:
        return super().holds(peers, self.machine.wall_ns())


def _lease_on_wall_clock(patch: Patches) -> None:
    starting: list[KernelNode] = []
    real = KernelNode.__dict__["start"]

    def made(**given: Any) -> LeaseTable:
        leases = _WallLeases(**given)
        leases.machine = starting[-1]
        return leases

    def start(self: KernelNode) -> None:
        starting.append(self)
        real(self)
        starting.pop()

    patch.put(kernel_module, "LeaseTable", made)
    patch.put(KernelNode, "start", start)


def _grace_below_lease(patch: Patches) -> None:
    real = LeaseTable.__dict__["beacon"]

    def beacon(self: LeaseTable, peer: int, now_ns: int, version: int) -> Any:
        sent = real(self, peer, now_ns, version)
        if peer in self.granted_until_ns:
            latest_ns = now_ns + self.lease_ns // 8
            self.granted_until_ns[peer] = min(self.granted_until_ns[peer], latest_ns)
        return sent

    patch.put(LeaseTable, "beacon", beacon)


def _open_without_waiting(patch: Patches) -> None:
    patch.put(LeaseTable, "all_granted_until_ns", lambda _self: 0)


def _joiner_gives_no_lease(patch: Patches) -> None:
    real = RegionCopy.__dict__["set_required"]

    def set_required(self: RegionCopy) -> None:
        real(self)
        self.read_peers = self.others

    patch.put(RegionCopy, "set_required", set_required)


def _take_lease_of_earlier_life(patch: Patches) -> None:
    real = LeaseTable.__dict__["heard"]

    def heard(self: LeaseTable, peer: int, beacon: Any, *, known: bool) -> None:
        mine, self.incarnation = self.incarnation, beacon.heard_incarnation
        real(self, peer, beacon, known=known)
        self.incarnation = mine

    patch.put(LeaseTable, "heard", heard)


def _count_leases_at_accusation(patch: Patches) -> None:
    """What was granted is noted when the accusation goes out; the beacons go on granting."""
    noted: dict[int, int] = {}

    def withhold(self: LeaseTable, peer: int, _version: int) -> None:
        noted.setdefault(id(self), max(self.granted_until_ns.values()))

    def all_granted(self: LeaseTable) -> int:
        return noted.pop(id(self), max(self.granted_until_ns.values()))

    patch.put(LeaseTable, "withhold", withhold)
    patch.put(LeaseTable, "all_granted_until_ns", all_granted)


def _grant_before_counted(patch: Patches) -> None:
    real = LeaseTable.__dict__["beacon"]

    def beacon(self: LeaseTable, *given: int) -> Any:
        self.granting = True
        self.floor = 0
        return real(self, *given)

    patch.put(LeaseTable, "beacon", beacon)


def _forget_floor(patch: Patches) -> None:
    real = LeaseTable.__dict__["beacon"]

    def beacon(self: LeaseTable, *given: int) -> Any:
        self.floor = 0
        return real(self, *given)

    patch.put(LeaseTable, "beacon", beacon)


def _resume_same_epoch(patch: Patches) -> None:
    real = NodeCore.__dict__["tick"]

    def tick(self: NodeCore, now_ns: int) -> None:
        if not self.active and self.incarnation > 1 and self.catalog.volumes:
            self.activate(now_ns)
            for copy in self.all_copies():
                if copy.role == OWNER:
                    copy.open_at_ns = now_ns
        real(self, now_ns)

    patch.put(NodeCore, "tick", tick)


def _release_without_serving(patch: Patches) -> None:
    patch.put(
        HandOver, "served", lambda _self, copy: copy.epoch if copy.role == OWNER else 0
    )  # fmt: skip


def _release_of_any_epoch(patch: Patches) -> None:
    def released(self: HandOver, peer: int, message: Any, now_ns: int) -> None:
        for volume, region, _ in message.regions:
            copy = self._core.copies.get(volume, {}).get(region)
            if copy is not None and copy.role == OWNER and copy.opening:
                copy.open_at_ns = min(copy.open_at_ns, now_ns)
                self._core.advance(copy, now_ns)

    patch.put(HandOver, "on_released", released)


# ---------------------------------------------------------------- joins and returns


def _admit_before_filled(patch: Patches) -> None:
    real = state_transfer.answered

    def answered(copy: RegionCopy, peer: int, session: int, outcome: int) -> None:
        real(copy, peer, session, outcome)
        if outcome == BEGAN and copy.filling is not None and not copy.admitting:
            state_transfer._start_admission(copy)

    patch.put(state_transfer, "answered", answered)


def _admit_without_waiting(patch: Patches) -> None:
    def begin(copy: RegionCopy) -> None:
        copy.admitting = copy.admission_out = True
        copy.effects.append(Admit(copy, copy.epoch, copy.joiner))

    def set_required(self: RegionCopy) -> None:
        self.required = self.read_peers = self.others

    patch.put(state_transfer, "_start_admission", begin)
    patch.put(RegionCopy, "set_required", set_required)


def _restart_with_admission_out(patch: Patches) -> None:
    def restart(copy: RegionCopy) -> None:
        if copy.transfer:
            copy.transfer = TRANSFER_ASKED
            copy.admitting = copy.admission_out = False
            copy.set_required()
            copy.commit()

    patch.put(state_transfer, "restart", restart)


def _no_stream_to_joiner(patch: Patches) -> None:
    real = Store.__dict__["__init__"]

    def init(self: Store, copy: RegionCopy, record: Any, peers: Any, journal: bool) -> None:
        real(self, copy, record, tuple(peer for peer in peers if peer != copy.joiner), journal)

    patch.put(Store, "__init__", init)


def _any_session(patch: Patches) -> None:
    real = state_transfer.begin

    def begin(copy: RegionCopy, sender: int, message: Any) -> None:
        if copy.role == JOINER and message.session <= copy.session:
            copy.session = message.session - 1
        real(copy, sender, message)

    patch.put(state_transfer, "begin", begin)


def _keep_divergent_tail(patch: Patches) -> None:
    def follow(copy: RegionCopy, message: Any) -> None:
        copy.matched = copy.prepared
        copy.commit_up_to(copy.prepared)

    patch.put(state_transfer, "_follow_line", follow)


def _any_position_is_on_the_line(patch: Patches) -> None:
    patch.put(EpochLine, "has", lambda _self, seq, _epoch, committed, _ce: seq <= committed)


REPLICATION: Final = options(
    seconds=5, fault_every_ms=300, regions=2, nodes=5, writes_per_s=200, delay_us=150, lease_ms=400,
    grace_ms=500, tail_us=2000,
)  # fmt: skip
PARTED: Final = (*REPLICATION, *options(crashes=0, pauses=0, cuts=3, cut_ms=4000, read_weight=80))
STOPPED: Final = (
    *REPLICATION,
    *options(crashes=0, pauses=3, cuts=0, pause_ms=4000, fetch_tail_us=900_000, read_weight=90,
             lease_ms=200, grace_ms=250),
)  # fmt: skip
CRASHED: Final = (*REPLICATION, *options(crashes=3, pauses=0, cuts=0, down_ms=500))
SLOW: Final = (*CRASHED, *options(journal_us=20_000, delay_us=50))
FLAPPING: Final = (
    *CRASHED, *options(writes_per_s=60, down_ms=50, sync_us=10_000, delay_us=2000)
)  # fmt: skip
AGREEING: Final = options(sync_us=60_000, nodes=4, down_ms=300)  # the catalog takes its time
HANDED: Final = (
    *CRASHED,
    *options(delay_us=2000, tail_us=100_000, writes_per_s=400, regions=4, nodes=4, down_ms=100),
)  # fmt: skip
RETURNING: Final = (*PARTED, *options(regions=2, volumes=1, snapshot_entries=8, hosts=5))
WRITTEN: Final = options(
    seconds=12, hosts=5, writes_per_s=1500, read_weight=10, regions=1, volumes=1, nodes=3,
    delay_us=50, tail_us=100, journal_us=20, sync_us=100, fua_percent=0, durability_synced=False,
    fault_every_ms=100_000, flap_every_ms=0,
)  # fmt: skip
JUMPS: Final = (*PARTED, *options(wall_jumps=6, rough=True, down_max=4))

MUTATIONS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "ack-before-copies", "1", "the owner answers when its own journal has the record",
        ("I9",), _ack_before_copies, options=CRASHED, quick=True,
    ),
    Mutation(
        "drop-copy-alone", "2", "an owner whose link to a copy broke goes on without it, unasked",
        ("I5", "I9", "I8", "I1", "I2", "I10"), _drop_copy_alone, options=CRASHED, quick=True,
    ),
    Mutation(
        "admit-before-filled", "3", "a joiner is proposed before it has the pages",
        ("I8", "I1", "I2", "I9", "I26", "code"), _admit_before_filled, options=CRASHED,
    ),
    Mutation(
        "read-without-lease", "4", "reads are answered without a lease",
        ("I5", "I2", "I10"), _read_without_lease, options=PARTED, seeds=40,
    ),
    Mutation(
        "check-lease-once", "5", "the lease is checked before the fetch, not with the data in hand",
        ("I5",), _check_lease_once, options=STOPPED, seeds=100,
    ),
    Mutation(
        "lease-on-wall-clock", "6", "leases run on the wall clock, which jumps",
        ("I5", "I2", "I10", "I26", "I29"), _lease_on_wall_clock, options=JUMPS, seeds=40,
    ),
    Mutation(
        "grace-below-lease", "7", "the grace is shorter than the lease",
        ("I10", "I5"), _grace_below_lease, options=PARTED, seeds=100,
    ),
    Mutation(
        "copy-ignores-epoch", "8", "a copy takes records of an older epoch",
        ("I7", "I9"), _copy_ignores_epoch, directed=directed.record_of_the_owner_before,
    ),
    Mutation(
        "read-uncommitted", "9", "reads see what is prepared and not committed",
        ("I2",), _read_uncommitted, script="lose-what-waits", seeds=40,
        options=(*PARTED, *options(read_weight=60, hosts=5, regions=1, volumes=1)),
    ),
    Mutation(
        "copy-acks-early", "10", "a copy acknowledges before its journal has the record",
        ("I9",), _copy_acks_early, options=SLOW, quick=True,
    ),
    Mutation(
        "resume-same-epoch", "11", "a restarted owner serves by its old catalog",
        ("I5", "I6", "I7", "I8", "I9", "I10", "I26", "code"), _resume_same_epoch, options=CRASHED,
    ),
    Mutation(
        "forget-operations", "12", "repeats of operations are not recognised",
        ("I2",), _forget_operations, options=CRASHED, quick=True,
    ),
    Mutation(
        "forget-operations-at-copies", "13", "only the owner remembers operations",
        ("I2", "I11", "I26"), _forget_operations_at_copies, options=CRASHED, seeds=40,
    ),
    Mutation(
        "match-by-number", "14", "a copy compares records by number, not by name",
        ("I7", "I8", "I9", "I11", "code"), _match_by_number, script="move-to-and-fro",
        options=HANDED, quick=True,
    ),
    Mutation(
        "any-session", "14", "a joiner takes a session that is over",
        ("I9",), _any_session, directed=directed.begin_of_a_session_that_is_over, quick=True,
    ),
    Mutation(
        "restart-with-admission-out", "15", "an admission that may commit is forgotten",
        ("I9", "I8"), _restart_with_admission_out, script="flap-in-admission",
        options=(*FLAPPING, *AGREEING), seeds=160,
    ),
    Mutation(
        "joiner-gives-no-lease", "16", "reads do not need the joiner whose admission is out",
        ("I5", "I10"), _joiner_gives_no_lease, script="cut-off-in-admission",
        options=(*PARTED, *AGREEING), seeds=100,
    ),
    Mutation(
        "lease-of-earlier-life", "17", "answers to an earlier life count as leases",
        ("I5",), _take_lease_of_earlier_life, directed=directed.answer_to_an_earlier_life,
        quick=True,
    ),
    Mutation(
        "count-leases-at-accusation", "18", "leases granted after an accusation are not waited for",
        ("I10", "I5"), _count_leases_at_accusation, options=PARTED, seeds=400,
    ),
    Mutation(
        "open-without-waiting", "own", "a new owner waits for no lease", ("I10", "I5"),
        _open_without_waiting, options=PARTED, seeds=40,
    ),
    Mutation(
        "grant-before-counted", "own", "a restarted node grants leases before it knows the catalog",
        ("I2", "I10", "I5"), _grant_before_counted, script="restart-beside-old-owner",
        options=RETURNING, seeds=60,
    ),
    Mutation(
        "forget-floor", "own", "a lease is granted to an owner that has not heard of its successor",
        ("I10", "I5"), _forget_floor, script="move-while-owner-lags", options=PARTED, seeds=60,
    ),
    Mutation(
        "admit-without-waiting", "own", "commits never ask the joiner that is proposed",
        ("I9", "I8"), _admit_without_waiting, options=(*SLOW, *options(sync_us=100)), seeds=100,
    ),
    Mutation(
        "no-stream-to-joiner", "own", "a joiner gets the pages and not the records meanwhile",
        ("I8", "I9", "I11", "I26", "code"), _no_stream_to_joiner, options=CRASHED, quick=True,
    ),
    Mutation(
        "renumber-inherited", "own", "an operation whose first number is in the log gets another",
        ("I2",), _renumber_inherited, seeds=200,
        options=(*SLOW, *options(hosts=5, regions=1, volumes=1, fault_every_ms=150, nodes=3)),
    ),
    Mutation(
        "open-before-tail", "P9", "a new owner serves before its inherited records are committed",
        ("I2", "I8"), _open_before_tail, script="move-to-and-fro", seeds=40,
        options=(*HANDED, *options(delay_us=20_000, read_weight=60)),
    ),
    Mutation(
        "forget-tail-at-takeover", "own", "a new owner drops what it had prepared",
        ("I8", "I9", "I2", "code"), _forget_tail_at_takeover, options=SLOW, seeds=40,
    ),
    Mutation(
        "never-sync-again", "own", "a synced write that a copy has already is not synced again",
        ("I26",), _never_sync_again, directed=directed.record_whose_sync_was_interrupted,
        quick=True,
    ),
    Mutation(
        "drop-early-commit-point", "own", "a commit point of an epoch not known yet is dropped",
        ("I11",), _drop_early_commit_point, quick=True,
        directed=directed.commit_point_ahead_of_the_catalog,
    ),
    Mutation(
        "never-trim-log", "stretch", "records are kept in memory for ever", ("I30",),
        _never_trim_log, options=WRITTEN,
        seeds=6,
    ),
    Mutation(
        "park-without-bound", "stretch", "records of an epoch that is not known yet pile up",
        ("I30",), _park_without_bound, directed=directed.stream_ahead_of_the_catalog, quick=True,
    ),
    Mutation(
        "release-without-serving", "own", "an owner that never served says that it left",
        ("I10",), _release_without_serving, quick=True,
        directed=directed.word_of_an_owner_that_never_served,
    ),
    Mutation(
        "release-of-any-epoch", "own", "a word about another epoch opens the region",
        ("I10",), _release_of_any_epoch, directed=directed.word_about_another_epoch, quick=True,
    ),
    Mutation(
        "keep-divergent-tail", "own", "a returning copy keeps what the next epoch never had",
        ("I8",), _keep_divergent_tail, directed=directed.tail_beside_the_line, quick=True,
    ),
    Mutation(
        "any-position", "own", "a returning copy is caught up by log or changes from any position",
        ("I8", "I9", "I11", "I2", "I26", "code"), _any_position_is_on_the_line,
        profile="reconfiguration", seeds=200,
    ),
)  # fmt: skip
