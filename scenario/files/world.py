"""plan: what a world is: where a scenario can run, what it can do there, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from base.errors import InvalidRequest
from scenario.files.models import Scenario
from scenario.files.runner import Line, Runner
from scenario.files.steps import VERBS
from scenario.files.verdict import Figures
from scenario.files.view import CLUSTER_EVENTS

OnLine = Callable[[Line], None]


@dataclass(frozen=True, slots=True)
class Ability:
    """Of a world. verbs: that it can do. events: beyond those of a cluster, that it can tell.
    refuses: by verb, why it cannot do it, in better words."""

    name: str
    text: str
    verbs: frozenset[str]
    events: frozenset[str] = frozenset()
    refuses: Mapping[str, str] = field(default_factory=dict)


class World(Protocol):
    """A cluster in which a scenario runs. It calls the core with what it saw, performs what the
    core asks for, and undoes everything when it is left, however that is."""

    def run(self, runner: Runner, on_line: OnLine) -> Figures:
        """From a formed cluster to the last look at every byte. on_line: the log, as it grows."""


SIM: Final = Ability(
    "sim",
    "whole nodes in one process, on virtual time; the same seed gives the same run",
    frozenset(VERBS),
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
WORLDS: Final[dict[str, Ability]] = {world.name: world for world in (SIM, PROCESSES)}


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
        if step.do in ability.verbs:
            continue
        able = [world.name for world in WORLDS.values() if step.do in world.verbs]
        why = ability.refuses.get(step.do, f"{step.do} cannot be done on {ability.name}")
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
