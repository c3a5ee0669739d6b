"""step: copies that this node's own disks refuse for good, and who gets no new ones meanwhile.

A disk that is full or dead keeps pages of a region in the cache and the journal, and what cannot be
destaged holds both up. Where another copy is in sync this one leaves: the owner goes on without it,
and a rebuild puts a copy elsewhere. Where none is, it stays, and waits for room or for an operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from base.units import NS_PER_MS, NS_PER_S
from cluster.entries import DropCopies, encode, pack_rows
from node.effects import Note
from node.roles import NONE

if TYPE_CHECKING:
    from node.core import NodeCore

GOOD_NS: Final = 2_000 * NS_PER_MS  # refused for so long is refused for good
FORGET_NS: Final = 3_000 * NS_PER_MS  # destaging tries again sooner than that
PROPOSAL_NS: Final = 900 * NS_PER_MS
HOLD_NS: Final = 10 * NS_PER_S  # how long its node gets no new copies; doubled at each turn
HOLD_MAX_NS: Final = 600 * NS_PER_S


@dataclass(slots=True)
class _Hold:
    until_ns: int
    length_ns: int


class Refused:
    """Of one node: what its disks refuse, and what it has seen of the others."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._since: dict[tuple[int, int], tuple[int, int]] = {}  # by region: (first, last) refusal
        self._holds: dict[int, _Hold] = {}

    def failed(self, volume: int, region: int, now_ns: int) -> None:
        """No disk took a page of the region. To be called at each try."""
        key = (volume, region)
        first_ns, last_ns = self._since.get(key, (now_ns, now_ns))
        if now_ns - last_ns > FORGET_NS:
            first_ns = now_ns  # it was taken meanwhile
        self._since[key] = (first_ns, now_ns)
        if now_ns - first_ns >= GOOD_NS:
            self._leave(volume, region, now_ns)

    def _leave(self, volume: int, region: int, now_ns: int) -> None:
        core = self._core
        copy = core.copies.get(volume, {}).get(region)
        if copy is None or copy.role == NONE:
            self._since.pop((volume, region), None)
            return
        joins = copy.joiner == core.self_id
        if not core.active or (not joins and len(copy.members) < 2):
            return
        core.effects.append(Note("copy.refused", volume=volume, region=region, epoch=copy.epoch))
        rows = pack_rows([region], [core.self_id], [copy.epoch])
        entry = encode(DropCopies(copy.volume, rows))
        core.propose(entry, None, now_ns, timeout_ns=PROPOSAL_NS, repeatable=True)

    def dropped(self, node: int, now_ns: int) -> None:
        """The catalog let a copy of that node go."""
        hold = self._holds.get(node)
        if hold is None or now_ns > hold.until_ns + hold.length_ns:
            self._holds[node] = _Hold(now_ns + HOLD_NS, HOLD_NS)
        elif now_ns >= hold.until_ns:  # else it is one more region of the same disks
            length_ns = min(2 * hold.length_ns, HOLD_MAX_NS)
            self._holds[node] = _Hold(now_ns + length_ns, length_ns)

    def nodes(self, now_ns: int) -> int:
        """Bits of the nodes that get no new copies now."""
        return sum(1 << node for node, hold in self._holds.items() if now_ns < hold.until_ns)
