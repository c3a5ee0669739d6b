"""step: the hand-over of a region to its next owner without a wait for leases (fail-back).

A new owner opens a region after the end of every lease that it ever granted (P4, P9): it cannot
know when the old owner stops. When the old owner lives it can say so. The one that *served* the
region in epoch e and then applies e + 1, which makes another member the owner, has left ownership
before anything else happens: it tells the successor, and that one need not wait for leases.

Why that is enough: while a node serves in epoch e nobody serves in an earlier one, for it waited
until then itself, or was told so by the one that did. So its word covers all earlier owners, and
only its word: a node that was still waiting, has skipped an epoch, or has begun a new life says
nothing, and the successor waits as after a loss. The word is about one epoch; it stays true for
ever, so it may come late, twice or never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.ids import NOBODY
from node.effects import Send
from node.region_copy import RegionCopy
from node.roles import OWNER
from transport.messages import OwnerReleased

if TYPE_CHECKING:
    from node.core import NodeCore

RELEASED_MAX = 4096  # words kept that came before this node applied the epoch


class HandOver:
    """Both halves, for all regions of one node."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._released: dict[tuple[int, int], int] = {}  # by region: epoch
        self._leaving: dict[int, list[tuple[int, int, int]]] = {}  # by successor
        self.given = self.taken = 0  # regions, in this life

    def served(self, copy: RegionCopy) -> int:
        """The epoch in which the copy serves right now, 0 when it does not. To be asked before it
        is configured, and given to `configured`."""
        return copy.epoch if copy.role == OWNER and copy.serving else 0

    def configured(self, copy: RegionCopy, served_epoch: int, now_ns: int) -> None:
        """The copy has a configuration that may be new."""
        if copy.role == OWNER:
            if copy.opening:
                self._open(copy, now_ns)
        elif served_epoch and copy.epoch == served_epoch + 1 and copy.owner != NOBODY:
            row = (copy.volume, copy.region, copy.epoch)
            self._leaving.setdefault(copy.owner, []).append(row)
            self.given += 1

    def send(self) -> None:
        """Tell successors, after everything that one entry of the catalog changed."""
        leaving, self._leaving = self._leaving, {}
        for peer in sorted(leaving):
            self._core.effects.append(Send(peer, OwnerReleased(tuple(leaving[peer]))))

    def on_released(self, peer: int, message: OwnerReleased, now_ns: int) -> None:
        """The last owner of some regions serves them no longer."""
        for volume, region, epoch in message.regions:
            self._released[volume, region] = epoch
            copy = self._core.copies.get(volume, {}).get(region)
            if copy is not None and copy.role == OWNER and copy.opening:
                self._open(copy, now_ns)
        while len(self._released) > RELEASED_MAX:
            del self._released[next(iter(self._released))]

    def _open(self, copy: RegionCopy, now_ns: int) -> None:
        """Let an opening region open now if this very epoch began with a word of its last owner."""
        if self._released.get((copy.volume, copy.region)) == copy.epoch:
            del self._released[copy.volume, copy.region]
            self.taken += 1
            copy.open_at_ns = min(copy.open_at_ns, now_ns)
            self._core.advance(copy, now_ns)
