"""plan: the trace of a run as lines for people: which events to show, how, and where to stop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from base.ids import node_name
from base.units import NS_PER_S

LAST: Final = 30
# Kinds of level 2 whose keys are (node, volume, region, …).
_WITH_REGION: Final = ("apply", "read")


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a trace. node: -1 for none."""

    at_ns: int
    node: int
    kind: str
    key: Any

    def fields(self) -> dict[str, Any]:
        """The key by names, where it has names."""
        if isinstance(self.key, list) and all(_is_pair(each) for each in self.key):
            return dict(self.key)
        if self.kind in _WITH_REGION and isinstance(self.key, tuple) and len(self.key) >= 2:
            return dict(zip(("volume", "region", "epoch", "seq"), self.key, strict=False))
        return {}

    def text(self) -> str:
        """`3.201500 n3 region.failed_over epoch=4 region=1 volume=0`."""
        names = self.fields()
        key = " ".join(f"{name}={value}" for name, value in names.items()) if names else self.key
        who = node_name(self.node) if 0 <= self.node < 256 else "-"
        return f"{self.at_ns / NS_PER_S:12.6f} {who:3} {self.kind} {key}".rstrip()


def _is_pair(each: Any) -> bool:
    return isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str)


def event_of_level2(at_ns: int, kind: str, key: Any) -> Event:
    """The loop of level 2 names the node first in the key; a fault names itself before it."""
    if kind == "fault":
        return Event(at_ns, int(key[1]), f"fault.{key[0]}", tuple(key[2:]))
    return Event(at_ns, int(key[0]), kind, tuple(key[1:]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are shown. node: -1 for all. region: (volume, region) or None for all."""

    node: int = -1
    region: tuple[int, int] | None = None

    def shows(self, event: Event) -> bool:
        """Whether to show it."""
        if self.node >= 0 and event.node != self.node:
            return False
        if self.region is None:
            return True
        names = event.fields()
        return (names.get("volume"), names.get("region")) == self.region


def stops_at(until: str) -> Callable[[Event], bool]:
    """What `--until` says: virtual seconds, else a text within the line; "" never stops."""
    if not until:
        return lambda event: False
    try:
        at_ns = int(float(until) * NS_PER_S)
    except ValueError:
        return lambda event: until in event.text()
    return lambda event: event.at_ns >= at_ns


@dataclass(slots=True)
class Recorder:
    """Takes every event: shows it, remembers the last ones, says when to stop."""

    wanted: Wanted
    stop: Callable[[Event], bool]
    show: Callable[[str], None] | None = None  # None: nothing is shown as it goes
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST))
    stopped_at: Event | None = None
    count: int = 0

    def take(self, event: Event) -> bool:
        """True when the run is to stop here."""
        if self.wanted.shows(event):
            self.count += 1
            line = event.text()
            self.last.append(line)
            if self.show is not None:
                self.show(line)
        if self.stopped_at is None and self.stop(event):
            self.stopped_at = event
            return True
        return False
