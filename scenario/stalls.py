"""plan: how long a host may wait when one thing goes wrong (I27).

Judged is an operation near which one fault struck, or none: nothing else began within SETTLE_MS
before it, or stood while it waited, and every region was redundant when the fault struck. Then the
owner's silence is noticed, its leases run out, and another takes over: `bound_ms`. Several faults
at once may take longer, and so may those that only make something slow: nobody is fenced for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from base.units import NS_PER_MS
from scenario.checkers import Violation
from scenario.history import History, Outcome
from scenario.runs import FaultEvent

SETTLE_MS: Final = 2_500  # after a fault was over: copies are filled, leaders found
TAKEOVER_MS: Final = 1_500  # beside the grace: suspicion, verdict, the catalog, a host's next try
SUDDEN: Final = ("kill", "stop", "pause", "power_cut", "lose", "flap", "wall_jump")


def bound_ms(grace_ms: int, slowest_ms: int) -> int:
    """The longest wait. slowest_ms: of one message, or one write of a disk, when it is slow."""
    return TAKEOVER_MS + grace_ms + 4 * slowest_ms


def check_stalls(
    history: History,
    faults: Sequence[FaultEvent],
    redundant: Sequence[bool],
    begun_ns: int,
    most_ms: int,
) -> list[Violation]:
    """Operations that waited too long. redundant: of each fault, whether everything was when it
    struck. begun_ns: when hosts began, from which faults count their times."""
    found: list[Violation] = []
    seen: set[tuple[int, int]] = set()
    for row in range(len(history)):
        start_ns, end_ns = history.start_ns[row], history.end_ns[row]
        name = (history.host[row], history.number[row])
        if end_ns - start_ns <= most_ms * NS_PER_MS or name in seen:
            continue
        if history.outcome[row] == Outcome.OPEN:
            continue  # I26 says so
        seen.add(name)
        first_ms, last_ms = (
            (start_ns - begun_ns) // NS_PER_MS - SETTLE_MS,
            (end_ns - begun_ns) // NS_PER_MS,
        )
        near = [
            (fault, whole)
            for fault, whole in zip(faults, redundant, strict=True)
            if fault.at_ms <= last_ms and fault.at_ms + fault.for_ms >= first_ms
        ]
        if len(near) > 1 or any(
            fault.kind not in SUDDEN or len(fault.nodes) > 1 or not whole for fault, whole in near
        ):
            continue
        volume, block = history.registers[history.register[row]]
        cause = f"only {near[0][0].kind} of {near[0][0].nodes}" if near else "nothing"
        text = (
            f"I27 volume {volume} block {block}: {history.describe(row)} waited"
            f" {(end_ns - start_ns) // NS_PER_MS} ms, {cause} was wrong, {most_ms} ms are allowed"
        )
        found.append(Violation("I27", volume, block, text, (row,), text))
    return found
