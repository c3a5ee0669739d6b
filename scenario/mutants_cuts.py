"""plan: deliberate bugs in cuts: ways of making one point in time that lose."""

from __future__ import annotations

from typing import Any, Final

from cluster.effects import CutBegun
from node.core import NodeCore
from node.effects import Reply
from node.gates import Gates
from node.region_copy import RegionCopy
from node.roles import OWNER
from scenario.mutant_kit import Mutation, Options, Patches, options

CUT_RULES: Final = ("I18", "I19", "I20")

# Many hosts on little space: what one of them writes another one reads at once.
_CROWD: Final = options(
    seconds=2, snapshot_every_ms=60, writes_per_s=1000, hosts=5, tail_us=20_000, delay_us=2_000,
    regions=2, read_weight=60,
)  # fmt: skip
# Messages that are late by more than a cut takes: what a read showed is written elsewhere before.
_LATE: Final = options(
    seconds=2, snapshot_every_ms=60, writes_per_s=1000, hosts=8, tail_us=100_000, delay_us=2_000,
    regions=1, read_weight=60,
)  # fmt: skip
_LOST: Final = options(
    seconds=4, snapshot_every_ms=40, writes_per_s=400, hosts=5, tail_us=20_000, crashes=2,
    fault_every_ms=300, down_ms=600,
)  # fmt: skip


def _reads_pass(patch: Patches) -> None:
    def may_read(self: NodeCore, copy: RegionCopy, now_ns: int) -> bool:
        return copy.serving and self.leases.holds(copy.read_peers, now_ns)

    patch.put(NodeCore, "may_read", may_read)


def _writes_pass(patch: Patches) -> None:
    def answer(self: RegionCopy, token: Any) -> None:
        self.effects.append(Reply(token, None))

    patch.put(RegionCopy, "_answer", answer)


def _no_gate(patch: Patches) -> None:
    _reads_pass(patch)
    _writes_pass(patch)


def _activate_at_once(patch: Patches) -> None:
    patch.put(Gates, "_has_adopted", lambda *_: True)


def _activate_by_one(patch: Patches) -> None:
    def has_adopted(self: Gates, cut: int, node: int) -> bool:
        return bool(self._adopted.get(cut))

    patch.put(Gates, "_has_adopted", has_adopted)


def _adopt_before_commit(patch: Patches) -> None:
    def begun(self: Gates, effect: CutBegun, now_ns: int) -> None:
        for volume in effect.volumes:
            for copy in self._core.copies.get(volume, {}).values():
                self.configured(copy)
        self._report(now_ns)

    patch.put(Gates, "begun", begun)


def _tag_late(patch: Patches) -> None:
    real = Gates.__dict__["configured"]

    def configured(self: Gates, copy: RegionCopy) -> None:
        before = copy.cow_into
        real(self, copy)
        if copy.gated:
            copy.cow_into = before

    patch.put(Gates, "configured", configured)


def _tag_by_commit(patch: Patches) -> None:
    real = RegionCopy.__dict__["_apply"]

    def apply(self: RegionCopy, record: Any) -> None:
        if self.role == OWNER:
            record.cow_into = self.cow_into
        real(self, record)

    patch.put(RegionCopy, "_apply", apply)


def _heirs_open(patch: Patches) -> None:
    real = Gates.__dict__["configured"]

    def configured(self: Gates, copy: RegionCopy) -> None:
        real(self, copy)
        copy.gated = copy.gated and not copy.opening

    patch.put(Gates, "configured", configured)


def _heirs_forget_tags(patch: Patches) -> None:
    real = RegionCopy.__dict__["_become_owner"]

    def become(self: RegionCopy, *given: Any) -> None:
        for record in self.tail():
            record.cow_into = self.cow_into
        real(self, *given)

    patch.put(RegionCopy, "_become_owner", become)


def _cut(
    name: str, broken: str, patch: Any, given: Options = _CROWD, *, seeds: int = 60,
    quick: bool = False, rules: tuple[str, ...] = CUT_RULES,
) -> Mutation:  # fmt: skip
    return Mutation(
        name, "cut", broken, rules, patch, profile="default", options=given, seeds=seeds,
        quick=quick,
    )  # fmt: skip


MUTATIONS: Final = (
    _cut("cut-without-gate", "nothing is held back while a cut is made", _no_gate),
    _cut("gate-lets-reads-pass", "reads are answered while a cut is made", _reads_pass, _LATE),
    _cut("gate-lets-writes-pass", "writes are answered while a cut is made", _writes_pass),
    _cut(
        "activate-at-once", "a cut ends before any owner has adopted it", _activate_at_once,
        quick=True,
    ),
    _cut("activate-by-one", "a cut ends when one owner has adopted it", _activate_by_one),
    _cut(
        "adopt-before-commit", "an owner adopts a cut before its earlier operations are committed",
        _adopt_before_commit,
    ),
    _cut("tag-late", "operations are numbered into the cut until it is made", _tag_late),
    _cut("tag-by-commit", "what is in a cut is decided by the commit", _tag_by_commit),
    _cut("heir-opens-gate", "a new owner holds no replies back", _heirs_open, _LOST, seeds=700),
    _cut(
        "heir-retags-tail", "a new owner numbers what it inherited into another snapshot",
        _heirs_forget_tags, _LOST, seeds=300,
    ),
)  # fmt: skip
