"""plan: receipts: what shows that a fault was really there, and what became of every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from scenario.files.targets import Places

# The four stations of a fault. An operation has the first and the last.
REQUESTED, APPLIED, OBSERVED, HEALED = "requested", "applied", "observed", "healed"
FAULT_STATIONS: Final = (REQUESTED, APPLIED, OBSERVED, HEALED)
DONE: Final = "done"


@dataclass(slots=True)
class Receipt:
    """Of one strike of a step, by `number` from 0. at_ms: by station, since the hosts began.
    evidence: by station, in words. why: what kept it from the next station; "" when nothing did.
    fault: else an operation, which is requested and done."""

    number: int
    step: int  # place in the timeline
    name: str
    verb: str
    fault: bool
    target: str
    for_ms: int = 0
    places: Places = field(default_factory=Places)
    at_ms: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def stations(self) -> tuple[str, ...]:
        """All that it has to pass."""
        return FAULT_STATIONS if self.fault else (REQUESTED, DONE)

    @property
    def complete(self) -> bool:
        """It passed all of them."""
        return all(station in self.at_ms for station in self.stations)

    @property
    def missing(self) -> str:
        """The first station that it did not pass; "" when it is complete."""
        return next((each for each in self.stations if each not in self.at_ms), "")

    @property
    def stands(self) -> bool:
        """It was applied and has not healed."""
        return self.fault and APPLIED in self.at_ms and HEALED not in self.at_ms and not self.why

    @property
    def open(self) -> bool:
        """Something of it may still come."""
        return not self.complete and not self.why

    def pass_station(self, station: str, at_ms: int, evidence: str = "") -> None:
        """It got there; the first time counts."""
        if station not in self.at_ms:
            self.at_ms[station] = at_ms
            if evidence:
                self.evidence[station] = evidence
