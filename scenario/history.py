"""plan: what hosts saw, one row per operation and block, in arrays.

Every event (an operation is invoked, or completes) gets the next number of one order; the checkers
reason about that order only. Times are kept for people. A block is one register; its first contents
are zeros, the value 0.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Sequence
from typing import Final

from base.units import NS_PER_S

NEVER: Final = 1 << 62  # the end of an operation that never completed


class Kind(enum.IntEnum):
    """What a row did to its block."""

    WRITE = 0  # also of zeros: trim and write-zeroes are writes of the value 0
    READ = 1
    FLUSH = 2  # no block: `volume` only


class Outcome(enum.IntEnum):
    """How it ended for the host."""

    OK = 0
    FAILED = 1  # definite: it did not happen
    INDEFINITE = 2  # it may have happened, or may happen yet
    OPEN = 3  # not ended when the history did: judged as INDEFINITE


# Looked up once, as integers: every row asks for them.
_OPEN, _OK, _READ = int(Outcome.OPEN), Outcome.OK, int(Kind.READ)


class History:
    """Columns of equal length. Rows are numbered from 0 in the order of their invocation."""

    def __init__(self) -> None:
        self.kind = array("b")
        self.outcome = array("b")
        self.host = array("q")
        self.number = array("q")  # of the host's operation: rows of one operation share it
        self.register = array("q")  # index into `registers`
        self.value = array("q")  # written, or returned
        self.start = array("q")  # position in the order of events
        self.end = array("q")
        self.start_ns = array("q")
        self.end_ns = array("q")
        self.registers: list[tuple[int, int]] = []  # (volume, block)
        self.durable = array("b")  # a write with FUA: once acknowledged it survives a power cut
        self.losses: list[int] = []  # events at which all machines lost power
        self.phantoms: list[tuple[int, str]] = []  # (row, what was wrong): violations of I3, I4
        self.region_blocks = 0  # of the volumes, when an operation may lie in several; 0: never
        self._index: dict[tuple[int, int], int] = {}
        self._events = 0

    def __len__(self) -> int:
        return len(self.kind)

    def register_of(self, volume: int, block: int) -> int:
        """The number of that block's register; a new one when it is first named."""
        key = (volume, block)
        index = self._index.get(key)
        if index is None:
            index = self._index[key] = len(self.registers)
            self.registers.append(key)
        return index

    def invoke(
        self,
        kind: Kind,
        *,
        host: int,
        number: int,
        volume: int,
        block: int,
        value: int,
        now_ns: int,
        durable: bool = False,
    ) -> int:
        """A host has sent it. `value` is what a write writes; reads say 0. Returns the row."""
        return self.invoke_all(
            kind, host=host, number=number, volume=volume, blocks=(block,), value=value,
            now_ns=now_ns, durable=durable,
        )[0]  # fmt: skip

    def invoke_all(
        self,
        kind: Kind,
        *,
        host: int,
        number: int,
        volume: int,
        blocks: Sequence[int],
        value: int,
        now_ns: int,
        durable: bool = False,
    ) -> list[int]:
        """`invoke` for each of several blocks. Returns their rows."""
        first, count, event = len(self.kind), len(blocks), self._events
        self._events = event + count
        index = self._index
        for block in blocks:
            register = index.get((volume, block))
            self.register.append(self.register_of(volume, block) if register is None else register)
        # Whole columns at once: most operations are of several blocks.
        self.kind.extend((kind,) * count)
        self.outcome.extend((_OPEN,) * count)
        self.host.extend((host,) * count)
        self.number.extend((number,) * count)
        self.value.extend((value,) * count)
        self.durable.extend((durable,) * count)
        self.start.extend(range(event, event + count))
        self.end.extend((NEVER,) * count)
        self.start_ns.extend((now_ns,) * count)
        self.end_ns.extend((-1,) * count)
        return list(range(first, first + count))

    def complete(self, row: int, outcome: Outcome, *, now_ns: int, value: int = 0) -> None:
        """A host has its answer, once per row. `value` is what a read returned."""
        assert self.outcome[row] == _OPEN, f"row {row} has ended before"
        self.outcome[row] = outcome
        self.end_ns[row] = now_ns
        if outcome is _OK:
            self.end[row] = self._events
            if self.kind[row] == _READ:
                self.value[row] = value
        self._events += 1

    def power_lost(self) -> None:
        """All machines lose power now: what was acknowledged and not synced may be gone (F3)."""
        self.losses.append(self._events)
        self._events += 2  # room for what the checker puts there

    def phantom(self, row: int, text: str, *, now_ns: int) -> None:
        """A read returned bytes that no host wrote to that block: kept as a violation, and the
        read itself says nothing about order."""
        self.phantoms.append((row, text))
        self.complete(row, Outcome.FAILED, now_ns=now_ns)

    def describe(self, row: int) -> str:
        """One line for people: who did what to which block, when, and how it ended."""
        volume, block = self.registers[self.register[row]]
        kind = Kind(self.kind[row])
        outcome = Outcome(self.outcome[row])
        what = {Kind.WRITE: "wrote", Kind.READ: "read", Kind.FLUSH: "flushed"}[kind]
        value = "" if kind is Kind.FLUSH else f" {value_name(self.value[row])}"
        if kind is Kind.READ and outcome is not Outcome.OK:
            value = ""
        until = "..." if self.end_ns[row] < 0 else f"{self.end_ns[row] / NS_PER_S:.9f}"
        return (
            f"h{self.host[row]}#{self.number[row]} {what} volume {volume} block {block}{value} "
            f"[{self.start_ns[row] / NS_PER_S:.9f} .. {until} s] {outcome.name.lower()}"
        )


# A value names its write: whoever reads it knows which operation of which host it came from.
NUMBER_BITS: Final = 36


def value_of(writer: int, number: int) -> int:
    """The value that operation `number` (1..2**36-1) of host `writer` (0..2**24-1) writes."""
    assert 0 < number < 1 << NUMBER_BITS, number
    assert 0 <= writer < 1 << 24, writer
    return writer << NUMBER_BITS | number


def value_name(value: int) -> str:
    """For people: zeros, or the host and number of the write."""
    if value == 0:
        return "zeros"
    return f"h{value >> NUMBER_BITS}#{value & (1 << NUMBER_BITS) - 1}"
