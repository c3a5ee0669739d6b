"""shell: the `Clock` port, and the real one. The only place that reads time in production.

Deciding code uses `now_ns` only: monotonic, integer, per process. `wall_ns` is for people.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Time as a node sees it. In simulation each node has its own, with its own rate and offset."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds; the zero is arbitrary."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, for people and logs only: it may jump either way."""

    async def sleep(self, seconds: float) -> None:
        """Wait that long on this clock."""

    def call_later(self, seconds: float, callback: object, *args: object) -> asyncio.TimerHandle:
        """Run a plain callback after that long on this clock."""


class RealClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """asyncio's own sleep."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: object, *args: object) -> asyncio.TimerHandle:
        """The running loop's own timer."""
        return asyncio.get_running_loop().call_later(seconds, callback, *args)  # type: ignore[arg-type]
