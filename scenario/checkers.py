"""plan: is every block a linearisable register? What hosts saw decides, nothing else does.

Two checkers that share no idea. `check_registers` looks at zones: with every written value unique,
a value's operations span a time in which the register certainly held it, and the history is right
if and only if no two such times overlap and no other value fits inside one. It is near-linear.
`search_register` tries orders until one explains the history; it needs no unique values.
Sources: Gibbons and Korach 1997 (zones); Wing and Gong 1993, Lowe 2017 (search with memory).

Operations without an outcome may have happened at any time after their start, or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from scenario.history import NEVER, History, Kind, Outcome, value_name

Column = npt.NDArray[np.int64]

_INITIAL_ROW: Final = -1  # stands for the zeros that a register begins with
_STATES_MAX: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise. `rows` are the operations that cannot all be true together."""

    invariant: str  # I2, I3 ... of the list of invariants
    volume: int
    block: int
    reason: str
    rows: tuple[int, ...]
    text: str  # the reason and one line per operation, in order of their start

    def __str__(self) -> str:
        return self.text


class Undecided(RuntimeError):
    """The search gave up: more states than it was allowed."""


def check_history(history: History) -> list[Violation]:
    """All of it: phantom reads, then registers. Empty when the history is right."""
    return [*check_phantoms(history), *check_registers(history)]


def check_phantoms(history: History) -> list[Violation]:
    """I3, I4: bytes that were never written to that block, or parts of several writes."""
    return [
        _violation(history, "I3", history.register[row], f"phantom read: {text}", (row,))
        for row, text in history.phantoms
    ]


def check_registers(history: History) -> list[Violation]:
    """I1, I2, I17: at most one violation per register, by volume and block."""
    table = _Table(history)
    found: dict[int, Violation] = {}
    grouped: dict[int, list[int]] = {register: [] for register in table.repeated}
    if grouped:
        for number in table.rows.tolist():
            if history.register[number] in grouped:
                grouped[history.register[number]].append(number)
    for register, rows in grouped.items():
        if not search_register(history, rows):
            found[register] = _violation(
                history, "I2", register, "no order of these operations explains the reads",
                tuple(rows[:40]),
            )  # fmt: skip
    for check in (_unwritten, _too_early, _overlapping, _enclosed):
        for register, reason, named in check(history, table):
            if register not in found:
                found[register] = _violation(history, "I2", register, reason, named)
    return sorted(found.values(), key=lambda violation: (violation.volume, violation.block))


# -- zones ---------------------------------------------------------------------------------------


class _Table:
    """The rows that say something, grouped by (register, value); one zone per group.

    A zone runs between `first_end`, the earliest end, and `last_start`, the latest start, of the
    group. Forward (first_end < last_start): the register held the value all through it. Backward:
    the value was held at some instant in it, maybe only that.
    """

    def __init__(self, history: History) -> None:
        kind = np.array(history.kind, dtype=np.int64)
        outcome = np.array(history.outcome, dtype=np.int64)
        done = outcome == Outcome.OK
        writes = (kind == Kind.WRITE) & (outcome != Outcome.FAILED)
        rows = np.flatnonzero(((kind == Kind.READ) & done) | writes)
        register = np.array(history.register, dtype=np.int64)[rows]
        value = np.array(history.value, dtype=np.int64)[rows]
        self.rows = rows
        self.repeated = _repeated(register, value, writes[rows])
        if self.repeated:
            unique = ~np.isin(register, np.array(self.repeated, dtype=np.int64))
            rows, register, value = rows[unique], register[unique], value[unique]
        named = np.unique(register)
        count = len(named)
        register = np.concatenate([register, named])
        value = np.concatenate([value, np.zeros(count, np.int64)])
        start = np.array(history.start, dtype=np.int64)[rows]
        end = np.array(history.end, dtype=np.int64)[rows]
        start = np.concatenate([start, np.full(count, -2, np.int64)])
        end = np.concatenate([end, np.full(count, -1, np.int64)])
        is_write = np.concatenate([writes[rows], np.ones(count, np.bool_)])
        row = np.concatenate([rows, np.full(count, _INITIAL_ROW, np.int64)])
        order = np.lexsort((value, register))
        self.row, self.start, self.end = row[order], start[order], end[order]
        self.is_write = is_write[order]
        register, value = register[order], value[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = (register[1:] != register[:-1]) | (value[1:] != value[:-1])
        self.at = np.flatnonzero(new)  # where each group begins
        self.register, self.value = register[self.at], value[self.at]
        self.first_end = _reduce(np.minimum, self.end, self.at)
        self.last_start = _reduce(np.maximum, self.start, self.at)
        self.written = _reduce(np.add, self.is_write.astype(np.int64), self.at) > 0
        self.write_start = _reduce(np.add, np.where(self.is_write, self.start, 0), self.at)
        self._order()

    def _order(self) -> None:
        """Forward zones by register and beginning, with one number as the key of both."""
        self.stride = np.int64(max(int(self.last_start.max(initial=0)), 0) + 4)
        forward = np.flatnonzero(self.written & (self.first_end < self.last_start))
        key = self.register[forward] * self.stride + self.first_end[forward] + 2
        order = np.argsort(key, kind="stable")
        self.forward: Column = forward[order]
        self.forward_key: Column = key[order]
        # A write without an outcome that nobody has read may never have happened: no zone.
        known = self.written & (self.first_end < NEVER)
        self.backward: Column = np.flatnonzero(known & (self.first_end > self.last_start))

    def members(self, group: int) -> slice:
        stop = self.at[group + 1] if group + 1 < len(self.at) else len(self.row)
        return slice(int(self.at[group]), int(stop))

    def edges(self, group: int) -> list[int]:
        """The write of a group, and its operations with the earliest end and the latest start."""
        inside = self.members(group)
        rows = self.row[inside]
        chosen = [int(rows[np.argmin(self.end[inside])]), int(rows[np.argmax(self.start[inside])])]
        return [int(row) for row in rows[self.is_write[inside]]] + chosen


def _reduce(how: np.ufunc, column: Column, at: Column) -> Column:
    return how.reduceat(column, at) if len(at) else np.zeros(0, np.int64)


def _repeated(register: Column, value: Column, is_write: npt.NDArray[np.bool_]) -> list[int]:
    """Registers to which some value was written twice, or zeros at all: not for zones."""
    register, value = register[is_write], value[is_write]
    order = np.lexsort((value, register))
    register, value = register[order], value[order]
    twice = (register[1:] == register[:-1]) & (value[1:] == value[:-1])
    return sorted({*register[1:][twice].tolist(), *register[value == 0].tolist()})


Finding = tuple[int, str, tuple[int, ...]]  # register, reason, rows


def _unwritten(history: History, table: _Table) -> list[Finding]:
    groups = np.flatnonzero(~table.written)
    if not len(groups):
        return []
    refused: dict[tuple[int, int], int] = {
        (history.register[row], history.value[row]): row
        for row in range(len(history))
        if history.kind[row] == Kind.WRITE and history.outcome[row] == Outcome.FAILED
    }
    found: list[Finding] = []
    for group in groups:
        register, value = int(table.register[group]), int(table.value[group])
        reader = int(table.row[table.at[group]])
        row = refused.get((register, value))
        if row is None:
            reason = f"a read returned {value_name(value)}, which was never written to this block"
            found.append((register, reason, (reader,)))
        else:
            reason = f"a read returned {value_name(value)}, whose write was definitely refused"
            found.append((register, reason, (row, reader)))
    return found


def _too_early(history: History, table: _Table) -> list[Finding]:
    found: list[Finding] = []
    for group in np.flatnonzero(table.written & (table.first_end < table.write_start)):
        value = value_name(int(table.value[group]))
        reason = f"a read returned {value} before its write was invoked"
        found.append((int(table.register[group]), reason, tuple(table.edges(int(group)))))
    return found


def _overlapping(history: History, table: _Table) -> list[Finding]:
    zones = table.forward
    left, right = zones[:-1], zones[1:]
    same = table.register[left] == table.register[right]
    found: list[Finding] = []
    for place in np.flatnonzero(same & (table.first_end[right] < table.last_start[left])):
        one, other = int(left[place]), int(right[place])
        names = [value_name(int(table.value[group])) for group in (one, other)]
        reason = f"stale read: {names[0]} and {names[1]} were both in force at one time"
        rows = (*table.edges(one), *table.edges(other))
        found.append((int(table.register[one]), reason, rows))
    return found


def _enclosed(history: History, table: _Table) -> list[Finding]:
    if not len(table.forward) or not len(table.backward):
        return []
    zones = table.backward
    key = table.register[zones] * table.stride + table.last_start[zones] + 2
    place = np.searchsorted(table.forward_key, key) - 1
    around = table.forward[np.maximum(place, 0)]
    enclosed = (
        (place >= 0)
        & (table.register[around] == table.register[zones])
        & (table.first_end[around] < table.last_start[zones])
        & (table.first_end[zones] < table.last_start[around])
    )
    found: list[Finding] = []
    for index in np.flatnonzero(enclosed):
        inner, outer = int(zones[index]), int(around[index])
        names = [value_name(int(table.value[group])) for group in (inner, outer)]
        reason = (
            f"lost write: {names[0]} was there in between, "
            f"but {names[1]} was read before it and after it"
            if table.first_end[outer] >= 0 or table.value[outer]
            else f"lost write: {names[0]} was there, and zeros were read after it"
        )
        rows = (*table.edges(inner), *table.edges(outer))
        found.append((int(table.register[inner]), reason, rows))
    return found


def _violation(
    history: History, invariant: str, register: int, reason: str, rows: tuple[int, ...]
) -> Violation:
    volume, block = history.registers[register]
    named = sorted({row for row in rows if row >= 0}, key=lambda row: history.start[row])
    lines = [f"{invariant} volume {volume} block {block}: {reason}"]
    lines += [f"  {history.describe(row)}" for row in named]
    return Violation(invariant, volume, block, reason, tuple(named), "\n".join(lines))


# -- search --------------------------------------------------------------------------------------


def search_register(
    history: History, rows: list[int], *, eager: bool = True, states_max: int = _STATES_MAX
) -> bool:
    """True if some order explains the rows, all of one register.

    eager: a read of the present value is taken at once, which never loses an order and saves most
    of the work; off, the search leans on nothing but the definition. Raises `Undecided`.
    """
    operations = sorted(
        (history.start[row], history.end[row], history.kind[row] == Kind.READ, history.value[row])
        for row in rows
        if history.outcome[row] == Outcome.OK
        or (history.kind[row] == Kind.WRITE and history.outcome[row] != Outcome.FAILED)
    )
    required = 0
    for index, (_, end, _, _) in enumerate(operations):
        if end < NEVER:
            required |= 1 << index
    optional = [index for index, operation in enumerate(operations) if operation[1] == NEVER]
    stack = [(0, 0)]  # what was put in order so far, as bits; the value after it
    seen = {(0, 0)}
    while stack:
        done, value = stack.pop()
        missing = required & ~done
        if not missing:
            return True
        for state in _next_states(operations, optional, done, missing, value, eager):
            if state not in seen:
                seen.add(state)
                stack.append(state)
        if len(seen) > states_max:
            raise Undecided(f"more than {states_max} states for {len(operations)} operations")
    return False


def _next_states(
    operations: list[tuple[int, int, bool, int]],
    optional: list[int],
    done: int,
    missing: int,
    value: int,
    eager: bool,
) -> list[tuple[int, int]]:
    """What may come next: anything that started before the first end among what must still come."""
    low = (missing & -missing).bit_length() - 1
    bound = NEVER
    candidates: list[int] = []
    for index in range(low, len(operations)):
        start, end, is_read, wanted = operations[index]
        if start > bound:
            break
        if end == NEVER or done >> index & 1:
            continue
        bound = min(bound, end)
        if not is_read:
            candidates.append(index)
        elif wanted == value:
            if eager:
                return [(done | 1 << index, value)]
            candidates.append(index)
    for index in optional:
        if operations[index][0] > bound:
            break
        if not done >> index & 1:
            candidates.append(index)
    return [(done | 1 << index, operations[index][3]) for index in candidates]
