"""plan: what a step of a timeline can wait for: events and conditions, and their texts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from scenario.faults import nearest
from scenario.files.view import CLUSTER_EVENTS, ClusterView

STRUCK, OBSERVED, HEALED, DONE = "struck", "observed", "healed", "done"
# What a step reports. An operation is done; a fault goes through the other three.
STEP_EVENTS: Final = (STRUCK, OBSERVED, HEALED, DONE)

CONDITIONS: Final = {
    "redundant": "every region has all its copies",
    "all nodes up": "the catalog calls every node up",
    "leader known": "somebody leads the catalog",
    "calm": "redundant, all nodes up, leader known, and no fault of this scenario stands",
    "1000 operations": "hosts have had so many answers",
}
_COUNT: Final = re.compile(r"(\d{1,9}) operations")
_STEP: Final = re.compile(rf"([A-Za-z0-9][A-Za-z0-9._-]*|step \d+) ({'|'.join(STEP_EVENTS)})")


@dataclass(frozen=True, slots=True)
class Event:
    """What `after:` names. step: whose; "" for an event of the cluster, which is `what`."""

    what: str
    step: str = ""

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.step} {self.what}" if self.step else self.what


@dataclass(frozen=True, slots=True)
class Condition:
    """What `when:` names. operations: for that condition, how many."""

    text: str
    what: str
    negated: bool = False
    operations: int = 0

    def holds(self, view: ClusterView, *, operations: int, standing: int) -> bool:
        """Now. operations: answered so far. standing: faults that stand."""
        return self.negated != self._holds(view, operations, standing)

    def _holds(self, view: ClusterView, operations: int, standing: int) -> bool:
        up = all(node.up for node in view.nodes)
        match self.what:
            case "redundant":
                return view.redundant
            case "all nodes up":
                return up
            case "leader known":
                return view.leader >= 0
            case "calm":
                return view.redundant and up and view.leader >= 0 and not standing
        return operations >= self.operations


def event(value: object) -> Event:
    """ValueError names the nearest event of a cluster, or how one of a step is written."""
    if isinstance(value, str):
        text = " ".join(value.split())
        if text in CLUSTER_EVENTS:
            return Event(text)
        match = _STEP.fullmatch(text)
        if match is not None:
            return Event(match[2], match[1])
    steps = [f"STEP {word}" for word in STEP_EVENTS]
    raise ValueError(f"{value!r} is no event: {nearest(str(value), [*CLUSTER_EVENTS, *steps])}")


def condition(value: object) -> Condition:
    """ValueError names the nearest condition."""
    if isinstance(value, str):
        text = " ".join(value.split())
        bare = text.removeprefix("not ")
        match = _COUNT.fullmatch(bare)
        if match is not None:
            return Condition(text, "operations", bare != text, int(match[1]))
        if bare in CONDITIONS:
            return Condition(text, bare, bare != text)
    raise ValueError(f"{value!r} is no condition: {nearest(str(value), CONDITIONS)}")
