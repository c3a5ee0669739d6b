"""shell: how fast the simulator is, in processor time of one core: others disturb it little."""

from __future__ import annotations

import time
from typing import Final

from base.units import NS_PER_MS
from scenario import level1, level2
from scenario.checkers import check_history
from scenario.history import History, Kind, Outcome, value_of
from sim.random import SeedStreams

LEVEL1_SECONDS: Final = 60
LEVEL2_SECONDS: Final = 15
OPERATIONS: Final = 100_000


def _used_s() -> float:
    return time.process_time()


def level1_hours_per_minute(seed: int) -> float:
    """Simulated cluster-hours in a minute of one core: eight nodes, 100 host writes a second, no
    faults, all state checkers on."""
    options = level1.SeedOptions(
        seconds=LEVEL1_SECONDS, nodes=8, writes_per_s=100, crashes=False, pauses=False
    )
    began_s = _used_s()
    report = level1.run_seed(seed, options)
    return report.virtual_s / (_used_s() - began_s) / 60


def level2_speed(seed: int) -> float:
    """Virtual seconds in a second of one core: eight nodes, the plain options, with faults."""
    began_s = _used_s()
    report = level2.run_seed(seed, level2.Level2Options(seconds=LEVEL2_SECONDS))
    return report.virtual_s / (_used_s() - began_s)


def zones_per_s(seed: int) -> float:
    """Operations a second that the checker of histories judges, of a history without a fault."""
    history = history_of(OPERATIONS, seed)
    began_s = _used_s()
    found = check_history(history)
    took_s = _used_s() - began_s
    assert not found, found[0]
    return OPERATIONS / took_s


def history_of(operations: int, seed: int) -> History:
    """Eight hosts on a thousand blocks; pairs of operations overlap, all are linearisable."""
    history = History()
    rng = SeedStreams(seed).stream("history")
    values: dict[int, int] = {}
    now_ns = 0
    for number in range(1, operations // 2 + 1):
        rows = []
        for host in (rng.below(4), 4 + rng.below(4)):
            block = rng.below(500) + 500 * (host >= 4)
            kind = Kind.WRITE if rng.below(2) else Kind.READ
            written = value_of(host, number) if kind is Kind.WRITE else 0
            row = history.invoke(
                kind, host=host, number=number, volume=1, block=block, value=written,
                now_ns=now_ns,
            )  # fmt: skip
            rows.append((row, block, kind, written))
        for row, block, kind, written in rows:
            now_ns += NS_PER_MS
            if kind is Kind.WRITE:
                values[block] = written
            value = 0 if kind is Kind.WRITE else values.get(block, 0)
            history.complete(row, Outcome.OK, now_ns=now_ns, value=value)
    return history
