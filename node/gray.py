"""step: a node that runs and whose I/O does not: it takes itself out before others must find out.

Beacons come from a process, not from its disks. A node whose journal, consensus store or disk has
not returned a write, read or sync for `deadline_ns` *mutes* itself: it sends no beacon, grants no
lease, accuses nobody, and takes no part in consensus. So the others see silence, which they know
how to judge: they take over what it owns and elect another leader. When the I/O moves again the
node speaks again, and is told what became of it, as after a cut.

Time counts only while this node runs: what it did not see of it (it was stopped, or its loop was
late) may be time in which the answer waited to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from base.units import NS_PER_MS

STEP_MAX_NS: Final = 200 * NS_PER_MS  # counted of the time between two ticks


class IoHealth:
    """Whether this node's own I/O moves. deadline_ns 0: never asked.

    oldest: (number, device) of the I/O that waits longest, number 0 when none does; numbers are
    never used twice.
    """

    def __init__(self, deadline_ns: int, now_ns: int) -> None:
        self.oldest: Callable[[], tuple[int, str]] = lambda: (0, "")
        self.stuck = False
        self.device = ""  # which one does not answer
        self._deadline_ns = deadline_ns
        self._ticked_ns = now_ns
        self._number = 0
        self._waited_ns = 0

    def tick(self, now_ns: int) -> bool:
        """Look again; True when `stuck` changed."""
        if not self._deadline_ns:
            return False
        since_ns, self._ticked_ns = self._ticked_ns, now_ns
        number, device = self.oldest()
        if not number or number != self._number:
            self._number, self.device, self._waited_ns = number, device, 0
        else:
            self._waited_ns += min(now_ns - since_ns, STEP_MAX_NS)
        stuck = self._waited_ns >= self._deadline_ns
        changed, self.stuck = stuck != self.stuck, stuck
        return changed


class PeerHealth:
    """Copies that beacon and do not acknowledge: what this node, as an owner, waits for.

    A peer is stuck when records have waited for it for `deadline_ns`, it has acknowledged nothing
    of any region meanwhile, and this node's own journal has them. deadline_ns 0: never.
    """

    def __init__(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._looked_ns = 0
        self._waited_ns: dict[int, int] = {}

    def acknowledged(self, peer: int) -> None:
        """The peer has acknowledged something."""
        self._waited_ns.pop(peer, None)

    def look(self, lagging: set[int], now_ns: int) -> dict[int, int]:
        """lagging: peers without which some record cannot be committed now. Those that are stuck,
        with the ns that were waited, ascending."""
        passed_ns = min(now_ns - self._looked_ns, STEP_MAX_NS)
        self._looked_ns = now_ns
        waited = self._waited_ns
        self._waited_ns = {peer: waited.get(peer, -passed_ns) + passed_ns for peer in lagging}
        if not self._deadline_ns:
            return {}
        return {
            peer: self._waited_ns[peer]
            for peer in sorted(lagging)
            if self._waited_ns[peer] >= self._deadline_ns
        }
