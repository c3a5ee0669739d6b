"""plan: the chunklets of one physical disk: their states, who uses them, which are spare."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest


class ChunkletState(IntEnum):
    """What a chunklet is good for now. The numbers are stored: never give one a new meaning."""

    FREE = 0
    USED = 1
    SPARE = 2  # reserved for rebuild
    FAILED = 3
    LOGGING = 4  # its disk is away; changes are noted elsewhere
    PLAYBACK = 5  # its disk is back; noted changes are being applied
    RELOCATING = 6  # its contents are moving to another chunklet
    PRESERVED = 7  # dirty data whose disks are gone


NO_LD: Final = 0xFFFF_FFFF  # "no logical disk uses it" in one unsigned word

_S = ChunkletState
# As numbers, for comparisons of whole arrays: a member of an enumeration is slow to look up.
_FREE, _USED, _SPARE, _FAILED = (int(s) for s in (_S.FREE, _S.USED, _S.SPARE, _S.FAILED))
_LAST: Final = max(int(state) for state in ChunkletState)
# Moves made by `change`. Taking and releasing are `allocate` and `release` and nothing else, so
# that a chunklet never has an LD in a state that cannot have one.
_MOVES_HELD: Final = {
    _S.USED: (_S.FAILED, _S.LOGGING, _S.RELOCATING, _S.PRESERVED),
    _S.LOGGING: (_S.PLAYBACK, _S.FAILED, _S.PRESERVED),
    _S.PLAYBACK: (_S.USED, _S.LOGGING, _S.FAILED),
    _S.RELOCATING: (_S.USED, _S.FAILED),
    _S.PRESERVED: (_S.USED, _S.FAILED),
    _S.FAILED: (_S.USED, _S.PRESERVED),
}
_MOVES_UNHELD: Final = {
    _S.FREE: (_S.SPARE, _S.FAILED),
    _S.SPARE: (_S.FREE, _S.FAILED),
    _S.FAILED: (_S.FREE, _S.SPARE),
}


class ChunkletTable:
    """One disk's chunklets: `state` u8[n] and `ld` u32[n], the LD that uses each (or NO_LD)."""

    __slots__ = ("ld", "state")

    def __init__(self, state: NDArray[np.uint8], ld: NDArray[np.uint32]) -> None:
        assert state.shape == ld.shape
        self.state = state
        self.ld = ld

    @classmethod
    def blank(cls, chunklets: int, spares: int) -> ChunkletTable:
        """All free, but for the last `spares` of the disk."""
        assert 0 <= spares <= chunklets
        state = np.full(chunklets, ChunkletState.FREE, dtype=np.uint8)
        if spares:
            state[-spares:] = ChunkletState.SPARE
        return cls(state, np.full(chunklets, NO_LD, dtype=np.uint32))

    def __len__(self) -> int:
        return len(self.state)

    def count(self, state: ChunkletState) -> int:
        """How many are in that state."""
        return int(np.count_nonzero(self.state == int(state)))

    def free_numbers(self) -> NDArray[np.intp]:
        """The free ones, ascending."""
        return np.flatnonzero(self.state == _FREE)

    def allocate(self, numbers: NDArray[Any], ld: int, *, from_spares: bool = False) -> None:
        """Give free chunklets (or spares, for a rebuild) to an LD. Taking a used one is a bug."""
        wanted = _SPARE if from_spares else _FREE
        assert np.all(self.state[numbers] == wanted), "a chunklet is taken twice"
        assert len(np.unique(numbers)) == len(numbers), "a chunklet is listed twice"
        self.state[numbers] = _USED
        self.ld[numbers] = ld

    def release(self, numbers: NDArray[Any], ld: int) -> None:
        """Take chunklets back from the LD that has them. A failed one stays failed."""
        assert np.all(self.ld[numbers] == ld), "a chunklet is released by a stranger"
        self.ld[numbers] = NO_LD
        held = self.state[numbers]
        self.state[numbers] = np.where(held == _FAILED, np.uint8(_FAILED), np.uint8(_FREE))

    def change(self, number: int, state: ChunkletState) -> None:
        """Move one chunklet to another state; its LD keeps it. InvalidRequest if it cannot move."""
        if not 0 <= number < len(self.state):
            raise InvalidRequest(f"chunklet {number}: the disk has {len(self.state)}")
        now = ChunkletState(int(self.state[number]))
        moves = _MOVES_UNHELD if self.ld[number] == NO_LD else _MOVES_HELD
        if state not in moves.get(now, ()):
            raise InvalidRequest(f"chunklet {number}: {now.name} cannot become {state.name}")
        self.state[number] = state

    def check(self) -> list[str]:
        """Broken invariants, in words; empty when all is well."""
        faults: list[str] = []
        unknown = self.state > _LAST
        if unknown.any():
            number = unknown.argmax()
            faults.append(f"chunklet {number} is in unknown state {self.state[number]}")
        held = self.ld != NO_LD
        idle = (self.state == _FREE) | (self.state == _SPARE)
        claimed = held & idle
        if claimed.any():
            faults.append(f"chunklet {claimed.argmax()} belongs to an LD and is free or spare")
        lost = ~held & ~idle & (self.state != _FAILED)
        if lost.any():
            faults.append(f"chunklet {lost.argmax()} is in use and belongs to no LD")
        return faults
