"""plan: what may be missing after all machines lost power at once, and what may not (F3).

With `durability: mirrored` an acknowledged write survives the death of processes, and a power cut
of everything only when it was flushed or written with FUA. So at each such moment every block may
fall back to one value that is no older than what a completed flush covered. From then on it is a
register again that begins with that value. The history is rewritten so: one write of that value is
put at the moment of the loss, and later reads of it refer to that write. The ordinary checker
judges the rest.

A flush covers what was acknowledged, on its volume, before it was sent. Values must be unique per
block: hosts of runs with such losses write no zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

from scenario.checkers import Violation, check_history, check_phantoms, check_registers
from scenario.history import NEVER, History, Kind, Outcome, value_name


@dataclass(slots=True)
class _Row:
    row: int  # of the original history, -1 for one that was put in
    kind: int
    outcome: int
    value: int
    start: int
    end: int
    durable: bool


def check_with_losses(history: History) -> list[Violation]:
    """`check_history`, for histories in which all machines lost power now and then."""
    if not history.losses:
        return check_history(history)
    found = check_phantoms(history)
    flushes: dict[int, list[tuple[int, int]]] = {}  # by volume: (start, end)
    rows: dict[int, list[_Row]] = {}
    for row in range(len(history)):
        register = history.register[row]
        volume, block = history.registers[register]
        if block < 0:
            if history.outcome[row] == Outcome.OK:
                flushes.setdefault(volume, []).append((history.start[row], history.end[row]))
            continue
        rows.setdefault(register, []).append(
            _Row(
                row, history.kind[row], history.outcome[row], history.value[row],
                history.start[row], history.end[row], bool(history.durable[row]),
            )
        )  # fmt: skip
    rewritten = History()
    for register, each in rows.items():
        volume, block = history.registers[register]
        for number, loss in enumerate(history.losses):
            wrong = _fall_back(each, loss, flushes.get(volume, []), -1 - number)
            if wrong:
                lines = [f"  {history.describe(at.row)}" for at in each if at.row >= 0]
                head = f"I1 volume {volume} block {block}: {wrong}"
                text = "\n".join([head, *lines[-40:]])
                found.append(Violation("I1", volume, block, wrong, (), text))
                break
        else:
            _put(rewritten, volume, block, each)
    return [*found, *check_registers(rewritten)]


def _fall_back(rows: list[_Row], loss: int, flushes: list[tuple[int, int]], fresh: int) -> str:
    """Rewrite the rows of one register for one loss. What is wrong, "" when nothing is."""
    flushed = max((start for start, end in flushes if end < loss), default=-1)
    writes = [
        row
        for row in rows
        if row.kind == Kind.WRITE and row.outcome == Outcome.OK and row.end < loss
    ]
    covered = [row for row in writes if row.durable or row.end < flushed]
    newest = max((row.start for row in covered), default=-1)
    allowed = {row.value for row in writes if row.end >= newest}
    if not covered:
        allowed.add(0)
    old = {row.value for row in writes} | {0}
    seen: dict[int, None] = {}
    for row in rows:
        if row.kind != Kind.READ or row.outcome != Outcome.OK:
            continue
        if row.start < loss < row.end:
            row.outcome = Outcome.FAILED  # it may be of before or after: it says nothing
        elif row.start > loss and row.value in old:
            seen[row.value] = None
            row.value = fresh
    if len(seen) > 1:
        names = ", ".join(value_name(value) for value in seen)
        return f"after a power cut of everything it held {names}, which were all written before it"
    for value in seen:
        if value not in allowed:
            return (
                f"flushed write lost: after a power cut of everything it held {value_name(value)}"
            )
        rows.append(_Row(-1, Kind.WRITE, Outcome.OK, fresh, loss, loss + 1, True))
    return ""


def _put(history: History, volume: int, block: int, rows: list[_Row]) -> None:
    """Append the rows, at the events that they had."""
    for row in rows:
        at = history.invoke(
            Kind(row.kind), host=0, number=max(row.row, 0), volume=volume, block=block,
            value=row.value, now_ns=row.start,
        )  # fmt: skip
        history.outcome[at] = row.outcome
        history.start[at] = row.start
        history.end[at] = row.end if row.outcome == Outcome.OK else NEVER
        history.end_ns[at] = row.end if row.end != NEVER else -1
