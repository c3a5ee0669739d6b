"""plan: permits for requests and bytes on their way to one peer. Bounded waiting in order.

Pure bookkeeping: no clock, no loop. A claim is granted when both a request and its bytes are free
and nobody waits before it. A claim larger than all bytes together is granted when it is alone: else
one large request would wait for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PermitStatistics:
    """Held now, waiting now, and the most there ever was."""

    requests: int
    bytes: int
    waiting: int
    requests_peak: int
    bytes_peak: int
    waiting_peak: int


class Permits:
    """At most `requests_max` requests and `bytes_max` bytes at once; `waiting_max` may queue."""

    def __init__(self, requests_max: int, bytes_max: int, *, waiting_max: int = 65_536) -> None:
        assert requests_max > 0
        assert bytes_max > 0
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self._waiting_max = waiting_max
        self._requests = self._bytes = 0
        self._requests_peak = self._bytes_peak = self._waiting_peak = 0
        self._waiting: dict[int, tuple[int, Callable[[], None]]] = {}  # by ticket, in order
        self._next_ticket = 1
        self._granting = False

    def _fits(self, claim_bytes: int) -> bool:
        if self._requests >= self._requests_max:
            return False
        return self._bytes + claim_bytes <= self._bytes_max or self._requests == 0

    def _take(self, claim_bytes: int) -> None:
        self._requests += 1
        self._bytes += claim_bytes
        if self._requests > self._requests_peak:
            self._requests_peak = self._requests
        if self._bytes > self._bytes_peak:
            self._bytes_peak = self._bytes

    def try_claim(self, claim_bytes: int) -> bool:
        """Claim one request of that many bytes now, or return False and change nothing."""
        assert claim_bytes >= 0
        if self._waiting or not self._fits(claim_bytes):
            return False
        self._take(claim_bytes)
        return True

    def wait(self, claim_bytes: int, granted: Callable[[], None]) -> int:
        """Queue for a claim; `granted` is called, with the permit held, from a later `release`.

        Returns a ticket for `forget`. 0: so many wait already that nothing was queued.
        To be called after `try_claim` said no.
        """
        assert claim_bytes >= 0
        if len(self._waiting) >= self._waiting_max:
            return 0
        ticket = self._next_ticket
        self._next_ticket += 1
        self._waiting[ticket] = (claim_bytes, granted)
        self._waiting_peak = max(self._waiting_peak, len(self._waiting))
        return ticket

    def forget(self, ticket: int) -> bool:
        """Stop waiting. False when it was granted, or forgotten, before. Others may now fit."""
        if self._waiting.pop(ticket, None) is None:
            return False
        self._grant()
        return True

    def release(self, claim_bytes: int) -> None:
        """Give back one request of that many bytes, and grant what now fits, in order."""
        self._requests -= 1
        self._bytes -= claim_bytes
        assert self._requests >= 0, "released more than was claimed"
        assert self._bytes >= 0, "released more bytes than were claimed"
        self._grant()

    def _grant(self) -> None:
        if self._granting:  # a callback released: the loop below goes on with what that freed
            return
        self._granting = True
        granted: deque[Callable[[], None]] = deque()
        try:
            while True:
                while self._waiting:
                    ticket = next(iter(self._waiting))
                    claim_bytes, callback = self._waiting[ticket]
                    if not self._fits(claim_bytes):
                        break
                    del self._waiting[ticket]
                    self._take(claim_bytes)
                    granted.append(callback)
                if not granted:
                    return
                granted.popleft()()
        finally:
            self._granting = False

    def statistics(self) -> PermitStatistics:
        """Held, waiting and peaks."""
        return PermitStatistics(
            requests=self._requests,
            bytes=self._bytes,
            waiting=len(self._waiting),
            requests_peak=self._requests_peak,
            bytes_peak=self._bytes_peak,
            waiting_peak=self._waiting_peak,
        )
