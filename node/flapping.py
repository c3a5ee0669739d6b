"""step: who goes down and up again too often, and how long it gets nothing for it.

A node that comes and goes costs more than it gives: every return fills copies that the next loss
makes stale. So whoever went down more than `flaps_max` times within `window_ns` is *damped*: it is
a member of the cluster and serves what only it has, but it gets no copies, no regions and no vote
until it has stayed up for `hold_ns`; each further loss doubles that, up to `hold_max_ns`. A pair of
nodes whose link is cut again and again is damped in the same way: neither joins the other's
regions. What a full window without a loss has passed over is forgotten.

Every node keeps this record from what it applies of the catalog, by its own clock, and the leader
decides by its own: a new leader has seen the same losses as the old one. The catalog has no clock,
and a record in it would cost an entry for each loss of a node that is to cost less. What a node
forgets when it restarts, it may once be too kind about; the bound is `flaps_max` more losses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from base.units import NS_PER_MS, NS_PER_S

# Detection takes longer than that: two losses closer together were applied, not seen (a node that
# was cut off catches up), and count as one.
APART_NS: Final = 300 * NS_PER_MS
LEVEL_MAX: Final = 32

Who = int | tuple[int, int]  # a node, or a pair of them in ascending order


@dataclass(frozen=True, slots=True)
class FlapPolicy:
    """flaps_max 0: nobody is ever damped."""

    flaps_max: int = 0
    window_ns: int = 600 * NS_PER_S
    hold_ns: int = 60 * NS_PER_S
    hold_max_ns: int = 3_600 * NS_PER_S


@dataclass(slots=True)
class _Record:
    losses_ns: list[int] = field(default_factory=list)  # at most flaps_max + 1, the newest last
    level: int = 0  # how often the hold was doubled, and one more; 0: not damped
    up_ns: int = -1  # since when it is up; -1: it is down


class Flapping:
    """The record of one node about all nodes and pairs."""

    def __init__(self, policy: FlapPolicy) -> None:
        self._policy = policy
        self._records: dict[Who, _Record] = {}

    def lost(self, who: Who, now_ns: int) -> bool:
        """It went down, or was cut. True: it is damped from now on, or for longer."""
        policy = self._policy
        record = self._records.setdefault(who, _Record())
        damped = self.hold_left_ns(who, now_ns) > 0
        record.up_ns = -1
        if record.losses_ns and now_ns - record.losses_ns[-1] < APART_NS:
            return False
        if record.losses_ns and now_ns - record.losses_ns[-1] > policy.window_ns and not damped:
            record.level = 0
        recent = [at for at in record.losses_ns if now_ns - at <= policy.window_ns]
        record.losses_ns = [*(recent[-policy.flaps_max :] if policy.flaps_max else ()), now_ns]
        if policy.flaps_max and (
            damped or record.level or len(record.losses_ns) > policy.flaps_max
        ):
            record.level = min(record.level + 1, LEVEL_MAX)
            return True
        return False

    def back(self, who: Who, now_ns: int) -> None:
        """It is up, or the link stands, as far as anyone knows."""
        record = self._records.get(who)
        if record is not None:
            record.up_ns = now_ns

    def hold_left_ns(self, who: Who, now_ns: int) -> int:
        """How long it must still stay up before it gets anything; 0: it is not damped."""
        record = self._records.get(who)
        if record is None or not record.level:
            return 0
        policy = self._policy
        hold_ns = min(policy.hold_ns << (record.level - 1), policy.hold_max_ns)
        if record.up_ns < 0:
            return hold_ns
        return max(0, record.up_ns + hold_ns - now_ns)

    def down_ns(self, who: Who, now_ns: int) -> int:
        """For how long it is down as this node saw it; -1: it did not see it go down."""
        record = self._records.get(who)
        return now_ns - record.losses_ns[-1] if record is not None and record.up_ns < 0 else -1

    def damped_nodes(self, now_ns: int) -> int:
        """Bits of the nodes that are damped now."""
        return sum(
            1 << who
            for who in self._records
            if isinstance(who, int) and self.hold_left_ns(who, now_ns)
        )

    def damped_pairs(self, now_ns: int) -> list[tuple[int, int]]:
        """Pairs that are damped now."""
        return [
            who
            for who in self._records
            if isinstance(who, tuple) and self.hold_left_ns(who, now_ns)
        ]
