"""step: rules by which snapshots are taken by themselves: at a period, on an event, on a rate.

    every 15m keep 8                          eight newest of one each quarter of an hour
    on node-lost keep 3 rest 5m               when that happens, at most one in five minutes
    above 50MiB/s for 10s keep 4              when a volume changes faster than that, that long

Every rule may end with `expire 2d` and `retain 1h`: its snapshots go at that age even when they are
fewer than `keep`, and not before that age even when they are more (`snapshot.retention`).

Instants are milliseconds of the wall clock and are passed in. A wall clock jumps: a period that was
missed is not made up for, one snapshot stands for all of them; a clock that is set back by less
than a period takes nothing twice, and one that is set back further begins again at the next edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from base.errors import InvalidRequest
from base.units import format_size, parse_size

KEEP_MAX: Final = 10_000
RULES_MAX: Final = 16  # of one volume
DURATION_S_MAX: Final = 10 * 366 * 86_400
RATE_MAX: Final = 1 << 50
REST_S: Final = 60  # a link that flaps must not fill a volume's snapshot space
EVENTS: Final = ("node-lost", "node-returned", "volume-degraded", "space-low")

_UNITS: Final = (("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_OPTIONS: Final = {
    "every": ("keep", "expire", "retain"),
    "on": ("keep", "rest", "expire", "retain"),
    "above": ("for", "keep", "rest", "expire", "retain"),
}  # fmt: skip
_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Rule:
    """Exactly one of every_s, event and above_bytes_per_s is set. Durations in seconds, 0 for none.
    keep: newest snapshots of this rule that stay."""

    keep: int
    every_s: int = 0
    event: str = ""
    above_bytes_per_s: int = 0
    for_s: int = 0
    rest_s: int = 0
    expire_s: int = 0
    retain_s: int = 0

    def to_text(self) -> str:
        """The one form of it that `parse_rule` gives back the same."""
        if self.every_s:
            words = ["every", format_duration(self.every_s)]
        elif self.event:
            words = ["on", self.event]
        else:
            words = ["above", f"{self.above_bytes_per_s}B/s"]
        rest_s = 0 if self.every_s else self.rest_s
        for name, seconds in (("for", self.for_s), ("rest", rest_s)):
            if seconds:
                words += [name, format_duration(seconds)]
        words += ["keep", str(self.keep)]
        for name, seconds in (("expire", self.expire_s), ("retain", self.retain_s)):
            if seconds:
                words += [name, format_duration(seconds)]
        return " ".join(words)

    @property
    def stem(self) -> str:
        """What names of its snapshots begin with."""
        if self.every_s:
            return f"every-{format_duration(self.every_s)}"
        if self.event:
            return f"on-{self.event}"
        return f"above-{format_size(self.above_bytes_per_s).replace(' ', '')}"


# ---------------------------------------------------------------------------------- text


def parse_duration(text: str) -> int:
    """Seconds of "15m", "90s", "2h", "1d", "1w". InvalidRequest names the text and the rule."""
    number, scale = text[:-1], dict(_UNITS).get(text[-1:], 0)
    if not (scale and number.isascii() and number.isdigit() and len(number) <= 9):
        raise InvalidRequest(f"{text!r} is no duration: use a whole number with s, m, h, d or w")
    seconds = int(number) * scale
    if not 0 < seconds <= DURATION_S_MAX:
        raise InvalidRequest(f"{text!r} is no duration: it is not in 1s … 10 years")
    return seconds


def format_duration(seconds: int) -> str:
    """In the largest unit that makes it a whole number."""
    for unit, scale in _UNITS:
        if seconds >= scale and seconds % scale == 0:
            return f"{seconds // scale}{unit}"
    return f"{seconds}s"


def parse_rate(text: str) -> int:
    """Bytes per second of "50MiB/s". InvalidRequest names the text and the rule."""
    size, slash, unit = text.partition("/")
    try:
        rate = parse_size(size) if slash and unit == "s" else 0
    except ValueError:
        rate = 0
    if not 0 < rate <= RATE_MAX:
        raise InvalidRequest(f"{text!r} is no rate: write it as 50MiB/s")
    return rate


def parse_rule(text: str) -> Rule:
    """InvalidRequest names the word and the rule that it breaks."""
    words = text.split()
    if len(words) % 2 or not words or words[0] not in _OPTIONS:
        raise InvalidRequest(
            f"rule {text!r}: write `every 15m keep 8`, `on node-lost keep 3` or "
            "`above 50MiB/s keep 4`"
        )
    kind, options = words[0], dict(zip(words[2::2], words[3::2], strict=True))
    for name in words[2::2]:
        if name not in _OPTIONS[kind]:
            known = ", ".join(_OPTIONS[kind])
            raise InvalidRequest(f"rule {text!r}: {name} is not one of {known}")
    if len(options) * 2 != len(words) - 2:
        raise InvalidRequest(f"rule {text!r}: a word is given twice")
    if "keep" not in options:
        raise InvalidRequest(f"rule {text!r}: say how many to keep, as `keep 8`")
    keep = options.pop("keep")
    if not (keep.isascii() and keep.isdigit() and len(keep) < 9 and 0 < int(keep) <= KEEP_MAX):
        raise InvalidRequest(f"rule {text!r}: keep {keep} is not a number in 1 … {KEEP_MAX}")
    seconds = {name: parse_duration(value) for name, value in options.items()}
    rule = Rule(
        int(keep), for_s=seconds.get("for", 0), expire_s=seconds.get("expire", 0),
        retain_s=seconds.get("retain", 0),
    )  # fmt: skip
    check_ages(f"rule {text!r}", rule.expire_s, rule.retain_s)
    if kind == "every":
        return replace(rule, every_s=parse_duration(words[1]))
    rest_s = seconds.get("rest", REST_S)
    if kind == "above":
        return replace(rule, above_bytes_per_s=parse_rate(words[1]), rest_s=rest_s)
    if words[1] not in EVENTS:
        raise InvalidRequest(f"rule {text!r}: {words[1]} is not one of {', '.join(EVENTS)}")
    return replace(rule, event=words[1], rest_s=rest_s)


def check_ages(thing: str, expire: int, retain: int) -> None:
    """InvalidRequest when something would expire before it may be removed. 0 means never, and no
    retention; any one unit for both."""
    if expire and retain > expire:
        raise InvalidRequest(f"{thing}: its retention ends after it expires")


def check_rules(volume: str, rules: Sequence[Rule]) -> None:
    """All rules of a volume. InvalidRequest for too many, and for two whose snapshots would have
    the same names."""
    if len(rules) > RULES_MAX:
        raise InvalidRequest(f"volume {volume}: {len(rules)} rules are more than {RULES_MAX}")
    stems: dict[str, Rule] = {}
    for rule in rules:
        other = stems.setdefault(rule.stem, rule)
        if other is not rule:
            raise InvalidRequest(
                f"volume {volume}: `{other.to_text()}` and `{rule.to_text()}` would both take "
                f"snapshots named {rule.stem}-1, {rule.stem}-2 …"
            )


# ---------------------------------------------------------------------------------- steps


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes. now_ms: wall clock."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class EventSeen:
    """One of EVENTS has happened to the volume."""

    now_ms: int
    event: str


@dataclass(frozen=True, slots=True)
class RateSeen:
    """How fast the volume changes."""

    now_ms: int
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Take one now, under that name, and note the rule with it."""

    name: str
    rule: Rule
    taken_ms: int


RuleEvent = Tick | EventSeen | RateSeen


@dataclass(slots=True)
class RuleState:
    """One rule of one volume. taken_ms: instant of the last snapshot it asked for, -1 for none.
    number: of that one; names count up and are never used again. suppressed: events and rates that
    came while it rested."""

    rule: Rule
    taken_ms: int = -1
    number: int = 0
    suppressed: int = 0
    slot: int = -1  # period in which the last one was taken, or in which the rule was set
    above_since_ms: int = -1
    armed: bool = True

    @classmethod
    def after(cls, rule: Rule, taken: Iterable[tuple[str, int]]) -> RuleState:
        """For a new leader: from names and instants of the snapshots that there are of the rule.
        Whoever leads next takes neither the same one again nor forgets one that is due."""
        state = cls(rule)
        for name, taken_ms in taken:
            stem, _, number = name.rpartition("-")
            if stem == rule.stem and number.isascii() and number.isdigit():
                state.number = max(state.number, int(number))
            state.taken_ms = max(state.taken_ms, taken_ms)
        if rule.every_s and state.taken_ms >= 0:
            state.slot = state.taken_ms // (rule.every_s * _MS)
        return state

    def step(self, event: RuleEvent) -> list[TakeSnapshot]:
        """At most one snapshot."""
        if isinstance(event, Tick):
            due = self._tick(event.now_ms)
        elif isinstance(event, EventSeen):
            due = event.event == self.rule.event and self._rested(event.now_ms)
        else:
            due = self._rate(event.now_ms, event.bytes_per_s)
        if not due:
            return []
        self.taken_ms = event.now_ms
        self.number += 1
        return [TakeSnapshot(f"{self.rule.stem}-{self.number}", self.rule, event.now_ms)]

    def _tick(self, now_ms: int) -> bool:
        if not self.rule.every_s:
            return False
        slot = now_ms // (self.rule.every_s * _MS)
        # A clock that is set back a little comes to the same edge again: that one has its snapshot.
        if slot == self.slot - 1:
            return False
        due = slot > self.slot >= 0
        self.slot = slot
        return due

    def _rate(self, now_ms: int, bytes_per_s: int) -> bool:
        if not self.rule.above_bytes_per_s:
            return False
        if bytes_per_s <= self.rule.above_bytes_per_s:
            self.above_since_ms = -1
            self.armed = True
            return False
        if self.above_since_ms < 0 or now_ms < self.above_since_ms:
            self.above_since_ms = now_ms
        if not self.armed or now_ms - self.above_since_ms < self.rule.for_s * _MS:
            return False
        self.armed = False  # one for each time that the rate goes up, however long it stays there
        return self._rested(now_ms)

    def _rested(self, now_ms: int) -> bool:
        since = now_ms - self.taken_ms
        if self.taken_ms >= 0 and 0 <= since < self.rule.rest_s * _MS:
            self.suppressed += 1
            return False
        return True
