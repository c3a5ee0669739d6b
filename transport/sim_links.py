"""plan: links of the simulated bus: how they treat messages, and where each direction stands."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from base.units import MiB


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """How one direction of a link treats messages. Chances are 0.0 to 1.0 for each message.

    Delays are spread evenly over [min, 2 * mean - min]; with `tail_chance` up to `tail_us` come on
    top, small ones more often than large ones. bytes_per_s: what passes at most, 0: no bound; what
    comes faster waits, up to the bound on what is under way. A reordered message is delayed by up
    to `reordering_us` and does not hold back those behind it. A corrupted one has one bit turned.
    """

    delay_min_us: int = 40
    delay_mean_us: int = 100
    tail_chance: float = 0.0
    tail_us: int = 20_000
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reordering_us: int = 2_000
    corruption: float = 0.0
    bytes_per_s: int = 0

    def __post_init__(self) -> None:
        assert 0 <= self.delay_min_us <= self.delay_mean_us, "mean delay below the least"

    def delay_s(self, rng: random.Random) -> float:
        """One delay. One draw, of 53 bits, does for the chance of a tail and for the spread."""
        spread_us = 2 * (self.delay_mean_us - self.delay_min_us)
        draw, tail_chance = rng.random(), self.tail_chance
        if draw >= tail_chance:
            spread = (draw - tail_chance) / (1 - tail_chance)
            return (self.delay_min_us + spread_us * spread) / 1e6
        part = rng.random()
        delay_us = self.delay_min_us + spread_us * draw / tail_chance
        return (delay_us + self.tail_us * part * part * part) / 1e6


@dataclass(frozen=True, slots=True)
class SimLimits:
    """Times of links, and the bound on what is under way from one end to the other."""

    queued_bytes_max: int = 64 * MiB
    notice_us: int = 500  # until an end learns that its link broke
    reconnect_us: int = 20_000  # until a link comes back; up to twice that


@dataclass(slots=True)
class Direction:
    """One way of a pair."""

    sender: int
    receiver: int
    conditions: LinkConditions
    cut: bool = False
    clogged: bool = False
    session: int = 0  # that the counters below belong to
    not_before: float = 0.0  # nothing that keeps order arrives earlier
    free_at: float = 0.0  # when the last byte that was sent has left, where bytes_per_s is set
    opened: float = 0.0  # the receiver knows of the session from then on: nothing arrives earlier
    under_way_bytes: int = 0
    under_way_bytes_peak: int = 0
    swallowed_bytes: int = 0  # of these, what a cut took: a sender would wait for it
    held: list[tuple[int, int, Any, int]] = field(default_factory=list)
    sent: int = 0  # frames of the session
    received: int = 0

    def begin(self, session: int, now: float) -> None:
        self.session = session
        self.under_way_bytes = self.swallowed_bytes = 0
        self.sent = self.received = 0
        self.not_before = self.opened = self.free_at = now
        self.held.clear()


@dataclass(slots=True)
class Pair:
    """Both ways between two ends, and their sessions."""

    low: int
    high: int
    up_down: tuple[Direction, Direction]  # low to high, high to low
    last_session: int = 0
    dead_through: int = 0  # nothing of sessions up to this one is delivered
    connecting: bool = False
    attempt: int = 0  # of connecting; an older one is void

    def way(self, sender: int) -> Direction:
        return self.up_down[0 if sender == self.low else 1]

    def open_both_ways(self) -> bool:
        return not any(way.cut or way.clogged for way in self.up_down)
