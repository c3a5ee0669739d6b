"""shell: the clock of one simulated node, with a rate, a zero and a date of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from base.units import NS_PER_S
from sim.event_loop import START_NS, SimEventLoop, SimGroup

WALL_START_NS: Final = 1_700_000_000 * NS_PER_S
PPM: Final = 1_000_000


class SimClock:
    """The clock of one simulated node: its own rate, its own zero, its own idea of the date.

    rate_ppm: how much faster than true time it runs (5 % fast: 50,000); above -1,000,000.
    wall_offset_ns: error of the date. zero_ns: its reading when the simulation starts.
    A paused group's clock goes on, as a stopped process's does.
    """

    def __init__(
        self,
        loop: SimEventLoop,
        rate_ppm: int = 0,
        wall_offset_ns: int = 0,
        *,
        zero_ns: int = START_NS,
        group: SimGroup | None = None,
    ) -> None:
        self._loop = loop
        self._group = group
        self._true_ns = START_NS
        self._local_ns = zero_ns
        self._wall_ns = WALL_START_NS + wall_offset_ns - zero_ns
        self._rate = PPM
        self.set_rate(rate_ppm)

    def set_rate(self, rate_ppm: int) -> None:
        """Drift differently from now on. Timers that are already set keep their true time."""
        if rate_ppm <= -PPM:
            raise ValueError(f"a clock cannot drift by {rate_ppm} ppm: it must go forward")
        self._local_ns = self.now_ns()
        self._true_ns = self._loop.now_ns
        self._rate = PPM + rate_ppm

    @property
    def rate_ppm(self) -> int:
        """How much faster than true time it runs now."""
        return self._rate - PPM

    def jump_wall(self, delta_ns: int) -> None:
        """Move the date, and nothing else (F24)."""
        self._wall_ns += delta_ns

    def now_ns(self) -> int:
        """Monotonic nanoseconds of this node."""
        # Not the loop's property: this is asked at every step of every node.
        return self._local_ns + (self._loop._now_ns - self._true_ns) * self._rate // PPM

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 as this node believes."""
        return self._wall_ns + self.now_ns()

    def true_delay_ns(self, seconds: float) -> int:
        """How long that is in true time, rounded up: a timer is never early on its own clock."""
        return -(-max(0, round(seconds * NS_PER_S)) * PPM // self._rate)

    async def sleep(self, seconds: float) -> None:
        """Wait that long on this clock."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = self._loop.create_future()
        due_ns = self._loop.now_ns + self.true_delay_ns(seconds)
        handle = self._loop.call_at_ns(due_ns, _wake, future)
        try:
            await future
        finally:
            handle.cancel()

    def call_later(self, seconds: float, callback: object, *args: object) -> asyncio.TimerHandle:
        """Run a plain callback after that long on this clock, in the clock's group if any."""
        due_ns = self._loop.now_ns + self.true_delay_ns(seconds)
        call = cast("Callable[..., object]", callback)
        context = None if self._group is None else self._group.context
        return self._loop.call_at_ns(due_ns, call, *args, context=context)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
