"""plan: the line of a copy: which epochs numbered the records that it has committed, and up to
which seq each.

Epochs grow along a line, and the records of one epoch stand side by side in it. So a few pairs say
whether a record of that name is on it: two copies that both have the record have the same records
before it. That is how an owner knows what a returning copy has in common with it, also when an
operator opened an older copy meanwhile and the newer one comes back with records that nobody else
has.

Only the newest pairs are kept. What left before the oldest of them cannot be told from what never
belonged here, and is filled anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LINE_MAX: Final = 32  # pairs that are kept

EpochEnd = tuple[int, int]  # (epoch, seq of its last record)


class EpochLine:
    """Epochs that are over, ascending; the one that goes on is the caller's commit point."""

    __slots__ = ("ends",)

    def __init__(self, ends: Iterable[EpochEnd] = ()) -> None:
        self.ends: tuple[EpochEnd, ...] = tuple(ends)[-LINE_MAX:]

    def end(self, epoch: int, seq: int) -> None:
        """The epoch has no record behind that one."""
        if seq:
            self.ends = (*self.ends, (epoch, seq))[-LINE_MAX:]

    def has(self, seq: int, epoch: int, committed: int, committed_epoch: int) -> bool:
        """Whether the record (epoch, seq) is on the line that goes on up to that commit point.
        Every line begins with the empty region, seq 0."""
        if not seq:
            return True
        first = 0  # behind it the epoch begins
        for ended, last in self.ends:
            if ended == epoch:
                return first < seq <= last
            first = last
        return epoch == committed_epoch and first < seq <= committed
