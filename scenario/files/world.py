"""plan: what a world is: where a scenario can run, what it can do there, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from base.errors import InvalidRequest
from scenario.files.models import Scenario
from scenario.files.runner import Line, Runner
from scenario.files.steps import VERBS, Cut, Partition, Step
from scenario.files.verdict import Figures
from scenario.files.view import CLUSTER_EVENTS

OnLine = Callable[[Line], None]


@dataclass(frozen=True, slots=True)
class Ability:
    """Of a world. verbs: that it can do. events: beyond those of a cluster, that it can tell.
    refuses: by verb, why it cannot do it, in better words. cannot: why it cannot do this very step
    of a verb that it can; "" when it can."""

    name: str
    text: str
    verbs: frozenset[str]
    events: frozenset[str] = frozenset()
    refuses: Mapping[str, str] = field(default_factory=dict)
    cannot: Callable[[Step], str] = lambda _step: ""


class World(Protocol):
    """A cluster in which a scenario runs. It calls the core with what it saw, performs what the
    core asks for, and undoes everything when it is left, however that is."""

    def run(self, runner: Runner, on_line: OnLine) -> Figures:
        """From a formed cluster to the last look at every byte. on_line: the log, as it grows."""


SIM: Final = Ability(
    "sim",
    "whole nodes in one process, on virtual time; the same seed gives the same run",
    frozenset(VERBS) - {"broker_kill"},
    frozenset(
        ("block mended", "page repaired", "disk left", "node stopped itself", "journal full",
         "all power lost")
    ),
)  # fmt: skip
PROCESSES: Final = Ability(
    "processes",
    "node processes of this machine on real time; links lead through a relay",
    frozenset(("kill", "stop", "pause", "cut", "partition", "grow", "rebalance")),
)


def _not_by_networks(step: Step) -> str:
    """Containers are cut off by moving them to other networks; nothing stands in their links."""
    if not isinstance(step, Cut | Partition):
        return ""
    if step.behaviour == "reset":
        return "a link that is cut off by the network is a black hole, never a reset"
    if isinstance(step, Partition):
        members = [
            each.number for target in step.groups for each in target.walk() if each.what == "node"
        ]
        twice = sorted({f"n{each}" for each in members if members.count(each) > 1})
        return f"{', '.join(twice)} cannot be on two networks" if twice else ""
    if step.direction != "both":
        return f"what is cut off by the network is cut both ways, and not {step.direction}"
    if step.to.what != "rest":
        return f"a network cuts off all the rest, and not {step.to.text}"
    return ""


COMPOSE: Final = Ability(
    "compose",
    "containers of `docker compose up`, on real time; hosts use the published ports",
    frozenset(
        ("kill", "stop", "pause", "cut", "partition", "broker_kill", "grow", "rebalance")
    ),
    cannot=_not_by_networks,
)  # fmt: skip
WORLDS: Final[dict[str, Ability]] = {world.name: world for world in (SIM, PROCESSES, COMPOSE)}


def cannot(scenario: Scenario, ability: Ability) -> list[str]:
    """Why the scenario cannot run in that world; empty when it can."""
    return [*_verbs(scenario, ability), *_events(scenario, ability)]


def require(scenario: Scenario, ability: Ability) -> None:
    """InvalidRequest with every reason, before anything is started."""
    why = cannot(scenario, ability)
    if why:
        raise InvalidRequest("\n".join(why))


def _verbs(scenario: Scenario, ability: Ability) -> Iterator[str]:
    for number, step in enumerate(scenario.timeline):
        why = ability.cannot(step)
        if step.do in ability.verbs and not why:
            continue
        able = [
            world.name for world in WORLDS.values()
            if step.do in world.verbs and not world.cannot(step)
        ]  # fmt: skip
        why = why or ability.refuses.get(step.do, f"{step.do} cannot be done on {ability.name}")
        where = f"it can on {', '.join(able)}" if able else "no world can do it"
        yield f"{scenario.scenario}: {scenario.step_name(number)}: {why}; {where}"


def _events(scenario: Scenario, ability: Ability) -> Iterator[str]:
    for name in (*scenario.expect.seen, *scenario.expect.unseen):
        if name not in CLUSTER_EVENTS and name not in ability.events:
            able = [world.name for world in WORLDS.values() if name in world.events]
            yield (
                f"{scenario.scenario}: expect: {ability.name} cannot tell of {name!r};"
                f" {', '.join(able) or 'no world'} can"
            )
