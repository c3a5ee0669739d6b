"""plan: what must change nothing (I29): the wall clocks of all nodes jump, and hosts see the same.

Two more runs of the same seed: with the list of faults that the first one performed, and between
them jumps of the wall clocks, by nothing in one run and by hours in the other. So both have the
same events, and every answer must come at the same virtual instant with the same contents. Of the
other subjects of the rule there is no broker, and what a run records of itself has no way into it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from scenario.history import History
from scenario.runs import FaultEvent, RunRequest
from sim.random import SeedStreams

EVERY: Final = 64  # one seed in so many is run three times
OF_THEM: Final = 17
JUMPS: Final = 8
HOURS_MAX: Final = 12
_MS_PER_HOUR: Final = 3_600_000


def is_due(request: RunRequest) -> bool:
    """Whether the run of the request is one of those: that follows from the seed alone."""
    drawn = request.faults is None and not request.script
    return drawn and request.seed % EVERY == OF_THEM


def twins(
    request: RunRequest, performed: tuple[FaultEvent, ...], nodes: int, last_ms: int
) -> tuple[RunRequest, RunRequest]:
    """The two requests that must come to the same. last_ms: when hosts end."""
    rng = SeedStreams(request.seed).stream("wall")
    places = [(1 + rng.below(max(1, last_ms)), rng.below(nodes)) for _ in range(JUMPS)]
    jumps_ms = [
        (1 + rng.below(HOURS_MAX)) * _MS_PER_HOUR * (-1 if rng.below(2) else 1) for _ in places
    ]

    def with_jumps(factor: int) -> RunRequest:
        added = [
            FaultEvent(at_ms, "wall_jump", (node,), 0, (("ms", factor * jump_ms),))
            for (at_ms, node), jump_ms in zip(places, jumps_ms, strict=True)
        ]
        listed = sorted([*performed, *added], key=lambda event: event.at_ms)
        return replace(request, faults=tuple(listed), trace=False)

    return with_jumps(0), with_jumps(1)


def digest(history: History) -> str:
    """Of everything that hosts did and saw, and when."""
    made = hashlib.sha256()
    for column in (
        history.kind, history.outcome, history.host, history.number, history.register,
        history.value, history.start_ns, history.end_ns,
    ):  # fmt: skip
        made.update(column.tobytes())
    return made.hexdigest()


def first_difference(one: History, other: History) -> str:
    """The first row of which the histories do not say the same, in words; "" when none is."""
    for row in range(min(len(one), len(other))):
        if one.describe(row) != other.describe(row):
            return f"{one.describe(row)} / {other.describe(row)}"
    return f"{len(one)} rows / {len(other)} rows" if len(one) != len(other) else ""
