"""plan: what hosts may see after every machine lost power at once: the checker of FLUSH and FUA.

A *loss point* is a moment at which all copies may have lost what they had not synced. Writes that
were acknowledged and not flushed may be gone behind it; each block may then stand at any value
between the flushed one and the last one. The rule, for one block and one loss point:

- A FLUSH that ended before the loss covers every write of its volume that had been acknowledged, to
  anybody, before the flush was invoked (NBD, `proto.md`). A write with FUA covers itself. Both only
  when nothing was lost between the write and the end of the flush.
- A value may be there after the loss unless a covered write certainly came after it: was invoked
  when every write of that value had been answered already.
- Only one value from before may be there. What was under way at the loss may happen, once, later;
  when it is answered it must have, unless that value may have come after it, before the loss, or
  it lies in several regions: then a part of it had been answered by its owner, and was lost.
- Between two loss points the block is a linearisable register that begins with that value.

Reads under way at a loss say nothing. All of it is cautious: what it rejects is wrong, what it lets
pass may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from scenario.checkers import Violation, check_history, check_phantoms, check_registers
from scenario.history import NEVER, History, Kind, Outcome, value_name

_CARRIED_HOST: Final = (1 << 24) - 1  # the host of the value that a block begins with


def check_with_losses(history: History) -> list[Violation]:
    """All of it, with the loss points of the history; without one the same as `check_history`."""
    losses = history.losses
    if not losses:
        return check_history(history)
    found: dict[tuple[int, int], Violation] = {}
    flushes = _flushes(history, losses)
    parted = _parted(history)
    pieces = [History() for _ in range(len(losses) + 1)]
    for register, rows in _by_register(history).items():
        violation = _split(history, register, rows, losses, flushes, pieces, parted)
        if violation is not None:
            found[violation.volume, violation.block] = violation
    for number, piece in enumerate(pieces):
        for violation in check_registers(piece):
            key = (violation.volume, violation.block)
            found.setdefault(key, _placed(violation, number))
    return [*check_phantoms(history), *(found[key] for key in sorted(found))]


def _placed(violation: Violation, piece: int) -> Violation:
    if piece == 0:
        return violation
    text = f"after loss {piece} of all power: {violation.text}"
    return replace(violation, text=text)


def _parted(history: History) -> set[tuple[int, int]]:
    """(host, number) of operations that lie in more than one region."""
    if not history.region_blocks:
        return set()
    region_of: dict[tuple[int, int], int] = {}
    found = set()
    for row in range(len(history)):
        if history.kind[row] == Kind.WRITE:
            name = (history.host[row], history.number[row])
            region = history.registers[history.register[row]][1] // history.region_blocks
            if region_of.setdefault(name, region) != region:
                found.add(name)
    return found


def _by_register(history: History) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row in range(len(history)):
        if history.kind[row] != Kind.FLUSH and history.outcome[row] != Outcome.FAILED:
            rows.setdefault(history.register[row], []).append(row)
    return rows


def _piece_of(losses: Sequence[int], position: int) -> int:
    """Into which piece an event falls: 0 before the first loss."""
    return sum(loss <= position for loss in losses)


def _flushes(history: History, losses: Sequence[int]) -> dict[tuple[int, int], list[int]]:
    """By volume and piece, where flushes that began and ended in it began; ascending."""
    found: dict[tuple[int, int], list[int]] = {}
    for row in range(len(history)):
        if history.kind[row] != Kind.FLUSH or history.outcome[row] != Outcome.OK:
            continue
        piece = _piece_of(losses, history.start[row])
        if piece == _piece_of(losses, history.end[row]):
            volume = history.registers[history.register[row]][0]
            found.setdefault((volume, piece), []).append(history.start[row])
    for starts in found.values():
        starts.sort()
    return found


class _Block:
    """One block on its way through the pieces."""

    def __init__(
        self, history: History, volume: int, flushes: dict[tuple[int, int], list[int]]
    ) -> None:
        self.history = history
        self.volume = volume
        self.flushes = flushes
        self.last_end: dict[int, int] = {0: -1}  # by value, when the last write of it was answered
        self.covered: list[tuple[int, int]] = []  # (start, row) of covered writes
        self.row_of: dict[int, int] = {}  # by value, a write of it

    def note(self, row: int, piece: int, same_piece: bool) -> None:
        """A write of this piece."""
        history = self.history
        value, end = history.value[row], history.end[row]
        self.row_of[value] = row
        known = self.last_end.get(value)
        self.last_end[value] = end if known is None else max(known, end)
        if same_piece and history.outcome[row] == Outcome.OK:
            flushed = self.flushes.get((self.volume, piece), [])
            if history.durable[row] or (flushed and flushed[-1] > end):
                self.covered.append((history.start[row], row))

    def carried(self, value: int, loss: int, piece: int) -> None:
        """The block began the piece with that value. A flush makes it safe like any write."""
        if (self.volume, piece) in self.flushes and value in self.row_of:
            self.covered.append((loss, self.row_of[value]))

    def follows(self, value: int, row: int) -> bool:
        """The last write of that value may have come after the write of that row."""
        written = self.row_of.get(value)
        return written is not None and self.history.end[written] > self.history.start[row]

    def superseded(self, value: int) -> int | None:
        """A covered write that certainly came after every write of that value."""
        end = self.last_end[value]
        for start, row in self.covered:
            if start > end and self.history.value[row] != value:
                return row
        return None


def _split(
    history: History,
    register: int,
    rows: list[int],
    losses: Sequence[int],
    flushes: dict[tuple[int, int], list[int]],
    pieces: list[History],
    parted: set[tuple[int, int]],
) -> Violation | None:
    """Deal the operations of one block out to the pieces; a violation of the rule of values."""
    volume, block = history.registers[register]
    state = _Block(history, volume, flushes)
    by_piece: dict[int, list[int]] = {}
    for row in rows:
        by_piece.setdefault(_piece_of(losses, history.start[row]), []).append(row)
    under_way: list[int] = []
    before: set[int] = set()  # of them, those that may have happened before the loss
    for number, piece in enumerate(pieces):
        mine = by_piece.get(number, [])
        stop = losses[number] if number < len(losses) else NEVER
        if number:
            fresh = {
                history.value[row] for row in [*mine, *under_way] if history.kind[row] == Kind.WRITE
            }
            seen: dict[int, int] = {}  # value from before -> the first read of it
            for row in mine:
                value = history.value[row]
                if _counts(history, row, stop) and value not in fresh and value in state.last_end:
                    seen.setdefault(value, row)
            broken = _carried(history, state, volume, block, seen)
            if broken is not None:
                return broken
            before = {
                row
                for row in under_way
                if any(state.follows(v, row) for v in seen)
                or (not history.durable[row] and (history.host[row], history.number[row]) in parted)
            }
            for value in seen:
                state.carried(value, losses[number - 1], number)
                if value:
                    _put(piece, volume, block, value)
        _deal(history, piece, volume, block, [*under_way, *mine], stop, before)
        for row in mine:
            if history.kind[row] == Kind.WRITE:
                state.note(row, number, history.end[row] < stop)
        under_way = [
            row for row in [*under_way, *mine]
            if history.kind[row] == Kind.WRITE and history.end[row] >= stop
        ]  # fmt: skip
    return None


def _counts(history: History, row: int, stop: int) -> bool:
    return (
        history.kind[row] == Kind.READ
        and history.outcome[row] == Outcome.OK
        and history.end[row] < stop
    )


def _carried(
    history: History, state: _Block, volume: int, block: int, seen: dict[int, int]
) -> Violation | None:
    for value, reader in seen.items():
        later = state.superseded(value)
        if later is not None:
            reason = (
                f"a flushed write was lost: {value_name(value)} was read after the loss, and"
                f" {value_name(history.value[later])} had been flushed after it"
            )
            return _violation(history, volume, block, reason, (later, reader))
    if len(seen) > 1:
        names = " and ".join(value_name(value) for value in seen)
        reason = f"two values from before the loss were read after it: {names}"
        return _violation(history, volume, block, reason, tuple(seen.values()))
    return None


def _violation(
    history: History, volume: int, block: int, reason: str, rows: tuple[int, ...]
) -> Violation:
    lines = [f"I1 volume {volume} block {block}: {reason}"]
    lines += [f"  {history.describe(row)}" for row in rows]
    return Violation("I1", volume, block, reason, rows, "\n".join(lines))


def _put(piece: History, volume: int, block: int, value: int) -> None:
    """The value that the block begins with, as a write that is over before anything else."""
    row = piece.invoke(
        Kind.WRITE, host=_CARRIED_HOST, number=0, volume=volume, block=block, value=value, now_ns=0
    )
    piece.complete(row, Outcome.OK, now_ns=0)


def _deal(
    history: History, piece: History, volume: int, block: int, rows: list[int], stop: int,
    before: set[int],
) -> None:  # fmt: skip
    """The operations of one piece, in the order of their events. before: these may have happened
    in an earlier one: they stay open, so they may happen in this one, and need not."""
    events: list[tuple[int, int, int]] = []  # (position, 0 begins or 1 ends, row)
    for row in rows:
        if history.kind[row] == Kind.READ and not _counts(history, row, stop):
            continue
        events.append((history.start[row], 0, row))
        if history.end[row] < stop and row not in before:
            events.append((history.end[row], 1, row))
    open_rows: dict[int, int] = {}
    for _, ends, row in sorted(events):
        if ends:
            piece.complete(
                open_rows[row], Outcome.OK, now_ns=history.end_ns[row], value=history.value[row]
            )
            continue
        kind = Kind(history.kind[row])
        open_rows[row] = piece.invoke(
            kind, host=history.host[row], number=history.number[row], volume=volume, block=block,
            value=0 if kind is Kind.READ else history.value[row], now_ns=history.start_ns[row],
        )  # fmt: skip
