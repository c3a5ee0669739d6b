"""step: one run of a scenario: what is due, what follows from what happened, and the receipts.

Events come in with the time that they happened at; actions go out. A world performs them, looks at
the cluster, and says what it saw. Nothing is known here but what was said: a fault of which nobody
saw anything has no receipt, however surely it was asked for.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from scenario.files import receipts as rc
from scenario.files.models import Scenario
from scenario.files.receipts import Receipt
from scenario.files.seen import Track
from scenario.files.steps import Partition, Step
from scenario.files.targets import NoTarget, Places, resolve
from scenario.files.triggers import DONE, HEALED, OBSERVED, STRUCK
from scenario.files.view import ClusterView, Happened, changes

HEAL_MS_MAX: Final = 60_000  # beyond its time to live, until a fault must have healed
OPERATION_MS_MAX: Final = 30_000
SETTLE_MS_MAX: Final = 60_000
STRIKES_MAX: Final = 10_000

# ---------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has come so far. operations: that hosts got answers for."""

    at_ms: int
    view: ClusterView
    operations: int = 0


@dataclass(frozen=True, slots=True)
class Reported:
    """A strike got to a station (`scenario.files.receipts`), as the evidence shows."""

    at_ms: int
    number: int
    station: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A strike can go no further."""

    at_ms: int
    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Told:
    """Something that only the nodes know of: see `models.NODE_EVENTS`."""

    at_ms: int
    event: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Abort:
    """No more of it: undo what was done. why: for the receipts."""

    at_ms: int
    why: str


RunnerEvent = Tick | Reported | Failed | Told | Abort

# ---------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Strike:
    """Cause this fault now, for `step.for_ms`; groups: of a partition, and the two sides of links
    that are cut."""

    number: int
    step: Step
    places: Places
    groups: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Perform:
    """Begin this operation now."""

    number: int
    step: Step


@dataclass(frozen=True, slots=True)
class Heal:
    """Its time is over. A world whose faults heal by themselves has nothing to do."""

    number: int


@dataclass(frozen=True, slots=True)
class StopLoad:
    """Hosts begin nothing new."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing more will come."""


RunnerAction = Strike | Perform | Heal | StopLoad | Finish


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log of a run."""

    at_ms: int
    event: str
    node: int = -1
    text: str = ""


@dataclass(slots=True)
class _Waiting:
    """A step of the timeline: when it is due next; None: it waits for its trigger."""

    step: Step
    due_ms: int | None = None
    strikes: int = 0
    over: bool = False
    counted: int = 0  # events of `after` so far


@dataclass(slots=True)
class Runner:
    """See the module. rng: for targets that are drawn."""

    scenario: Scenario
    rng: random.Random
    receipts: list[Receipt] = field(default_factory=list)
    log: list[Line] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    track: Track = field(default_factory=Track)
    finished: bool = False
    redundant_ms: int | None = None  # the longest without all copies; None: still without
    _waiting: list[_Waiting] = field(default_factory=list)
    _view: ClusterView | None = None
    _led: int = -1
    _now_ms: int = 0
    _hit: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _heals: dict[int, int] = field(default_factory=dict)  # by number, when its time is over
    _stopped: bool = False
    _stopped_ms: int = 0

    def __post_init__(self) -> None:
        for step in self.scenario.timeline:
            at_ms = step.at
            if at_ms is None and step.after is None and step.when is None:
                at_ms = step.every
            self._waiting.append(_Waiting(step, at_ms))

    def next_ms(self) -> int:
        """When it must hear of the time again, at the latest."""
        times = [each.due_ms for each in self._waiting if each.due_ms is not None and not each.over]
        times += [*self._heals.values(), self.scenario.lasts_ms]
        return min((time for time in times if time > self._now_ms), default=self._now_ms + 1000)

    @property
    def standing(self) -> list[Receipt]:
        """Faults that stand."""
        return [receipt for receipt in self.receipts if receipt.stands]

    def never_ran(self) -> list[str]:
        """Steps of which nothing was ever asked."""
        return [
            self.scenario.step_name(number)
            for number, each in enumerate(self._waiting)
            if not each.strikes
        ]

    def step(self, event: RunnerEvent) -> list[RunnerAction]:
        """See the module."""
        self._now_ms = max(self._now_ms, event.at_ms)
        match event:
            case Tick():
                return self._tick(event)
            case Reported():
                self._report(event)
            case Failed():
                receipt = self.receipts[event.number]
                receipt.why = receipt.why or event.why
                self._heals.pop(event.number, None)
                self._note("step failed", f"{receipt.name}: {event.why}")
            case Told():
                self._happened(Happened(event.event, text=event.text))
            case Abort():
                return self._abort(event)
        return []

    # ------------------------------------------------------------------ time

    def _tick(self, tick: Tick) -> list[RunnerAction]:
        if self.finished:
            return []
        before, self._view = self._view, tick.view
        self.track.look(tick.at_ms, tick.view)
        if before is not None:
            for happened in changes(before, tick.view, self._led):
                self._happened(happened)
        if tick.view.leader >= 0:
            self._led = tick.view.leader
        actions = self._ended(tick.at_ms)
        if not self._stopped:
            actions += self._due(tick)
        return [*actions, *self._end(tick)]

    def _ended(self, now_ms: int) -> list[RunnerAction]:
        """Faults whose time to live is over, and those that should long have healed."""
        actions: list[RunnerAction] = []
        for number, when_ms in list(self._heals.items()):
            if now_ms >= when_ms:
                del self._heals[number]
                actions.append(Heal(number))
        for receipt in self.receipts:
            since_ms = receipt.at_ms.get(rc.APPLIED, receipt.at_ms[rc.REQUESTED])
            most_ms = receipt.for_ms + (HEAL_MS_MAX if receipt.fault else OPERATION_MS_MAX)
            if receipt.open and now_ms > since_ms + most_ms:
                receipt.why = f"nothing shows that it was {receipt.missing}"
        return actions

    def _due(self, tick: Tick) -> list[RunnerAction]:
        actions: list[RunnerAction] = []
        for number, waiting in enumerate(self._waiting):
            step = waiting.step
            # Those that strike in this very turn stand too, though nobody has seen them yet.
            standing = sum(receipt.fault and receipt.open for receipt in self.receipts)
            idle = waiting.due_ms is None and not waiting.over
            if (
                idle
                and step.when is not None
                and step.when.holds(tick.view, operations=tick.operations, standing=standing)
            ):
                waiting.due_ms = tick.at_ms + step.wait
            while waiting.due_ms is not None and waiting.due_ms <= tick.at_ms and not waiting.over:
                self._after_strike(waiting)
                actions += self._strike(number, tick)
        return actions

    def _after_strike(self, waiting: _Waiting) -> None:
        """When it strikes again, if it does."""
        step, due_ms = waiting.step, waiting.due_ms
        assert due_ms is not None
        waiting.strikes += 1
        last = step.repeat if step.every is not None else 1
        if step.every is None or (last is not None and waiting.strikes >= last):
            waiting.over, waiting.due_ms = True, None
        else:
            waiting.due_ms = due_ms + step.every
            waiting.over = waiting.due_ms >= self.scenario.lasts_ms

    # ------------------------------------------------------------------ strikes

    def _strike(self, number: int, tick: Tick) -> list[RunnerAction]:
        step = self._waiting[number].step
        targets = [target for each in step.target_fields().values() for target in each]
        receipt = Receipt(
            len(self.receipts), number, self.scenario.step_name(number), step.do, step.fault,
            " | ".join(target.text for target in targets), step.for_ms,
        )  # fmt: skip
        assert len(self.receipts) < STRIKES_MAX
        self.receipts.append(receipt)
        receipt.pass_station(rc.REQUESTED, tick.at_ms)
        if not step.fault:
            self._note("operation begun", f"{receipt.name}: {step.do}")
            return [Perform(receipt.number, step)]
        try:
            receipt.places, groups = self._resolved(step, tick.view)
        except NoTarget as error:
            receipt.why = str(error)
            self._note("step failed", f"{receipt.name}: {error}")
            return []
        self._hit[receipt.name] = receipt.places.nodes
        self._note("fault struck", f"{receipt.name}: {step.do} of {receipt.places.text()}")
        if step.standing:
            self._heals[receipt.number] = tick.at_ms + step.for_ms
        return [Strike(receipt.number, step, receipt.places, groups)]

    def _resolved(
        self, step: Step, view: ClusterView
    ) -> tuple[Places, tuple[tuple[int, ...], ...]]:
        """Whom it hits; of links, also the sides."""
        fields = step.target_fields()
        if isinstance(step, Partition) or "from" in fields:
            wanted = fields["groups"] if isinstance(step, Partition) else (
                *fields["from"], *fields["to"],
            )  # fmt: skip
            groups: dict[int, tuple[int, ...]] = {}
            taken: tuple[int, ...] = ()
            rest = [
                place for place, target in enumerate(wanted)
                if any(each.what == "rest" for each in target.walk())
            ]  # fmt: skip
            order = [place for place in range(len(wanted)) if place not in rest] + rest
            for place in order:
                # Two draws of one partition do not meet, and the rest is who was not drawn.
                found = resolve(wanted[place], view, self.rng, hit=self._hit, taken=taken)
                groups[place] = found.nodes
                taken = tuple(sorted({*taken, *found.nodes}))
            sides = tuple(groups[place] for place in range(len(wanted)))
            nodes = sides[0] if "from" in fields else taken
            return Places(nodes=nodes), sides
        if not fields:
            return Places(other="the broker"), ()  # there is only one
        (target,) = (target for each in fields.values() for target in each)
        return resolve(target, view, self.rng, hit=self._hit), ()

    def _report(self, event: Reported) -> None:
        receipt = self.receipts[event.number]
        if event.station in receipt.at_ms or receipt.why:
            return
        receipt.pass_station(event.station, event.at_ms, event.evidence)
        named = {rc.APPLIED: STRUCK, rc.OBSERVED: OBSERVED, rc.HEALED: HEALED, rc.DONE: DONE}
        what = named[event.station]
        if event.station == rc.HEALED:
            self._heals.pop(event.number, None)
        if event.station != rc.APPLIED:
            kind = "fault" if receipt.fault else "operation"
            self._note(f"{kind} {what}", f"{receipt.name}: {event.evidence}")
        self._count(what, receipt.name)

    # ------------------------------------------------------------------ what happened

    def _note(self, event: str, text: str = "", node: int = -1) -> None:
        self.log.append(Line(self._now_ms, event, node, text))

    def _happened(self, happened: Happened) -> None:
        self._note(happened.event, happened.text, happened.node)
        self.counts[happened.event] += 1
        self._count(happened.event, "")

    def _count(self, what: str, step: str) -> None:
        """Steps that wait for this event, the nth time."""
        for waiting in self._waiting:
            after = waiting.step.after
            if after is None or (after.what, after.step) != (what, step):
                continue
            waiting.counted += 1
            if waiting.counted == waiting.step.nth and not waiting.over:
                waiting.due_ms = self._now_ms + waiting.step.wait

    # ------------------------------------------------------------------ the end

    def _end(self, tick: Tick) -> list[RunnerAction]:
        """Once its time is over, nothing stands and no step is due: no load, and then no more."""
        open_still = any(receipt.open for receipt in self.receipts)
        due_still = any(each.due_ms is not None and not each.over for each in self._waiting)
        if not self._stopped:
            if tick.at_ms < self.scenario.lasts_ms or open_still or due_still:
                return []
            self._stopped, self._stopped_ms = True, tick.at_ms
            return [StopLoad(), *self._settled(tick)]
        return self._settled(tick)

    def _settled(self, tick: Tick) -> list[RunnerAction]:
        if not tick.view.redundant and tick.at_ms < self._stopped_ms + SETTLE_MS_MAX:
            return []
        self.finished = True
        if tick.view.redundant:
            self.redundant_ms = self._redundancy_ms()
        self._note("run ended")
        return [Finish()]

    def _redundancy_ms(self) -> int:
        """The longest that some region lacked a copy."""
        longest_ms, since_ms = 0, None
        for line in self.log:
            if line.event == "redundancy lost":
                since_ms = line.at_ms
            elif line.event == "redundant again" and since_ms is not None:
                longest_ms = max(longest_ms, line.at_ms - since_ms)
        return longest_ms

    def _abort(self, event: Abort) -> list[RunnerAction]:
        """What stands is undone, the latest first."""
        self.finished = True
        self._note("run aborted", event.why)
        undone = [receipt for receipt in reversed(self.receipts) if receipt.stands]
        for receipt in self.receipts:
            if receipt.open:
                receipt.why = event.why
        self._heals.clear()
        return [*(Heal(receipt.number) for receipt in undone), Finish()]
