"""plan: what is wrong with a scenario that no single key shows: names, numbers, order, and steps
that can never run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from scenario.faults import nearest
from scenario.files.amounts import time_text
from scenario.files.models import EVENTS, Scenario
from scenario.files.steps import Flap, Partition, PowerCut, Step, Stop
from scenario.files.targets import Target
from scenario.files.triggers import DONE, OBSERVED, STRUCK

LASTS_MS_MAX: Final = 3_600_000


class Wrong(NamedTuple):
    """One mistake. path: of keys and places, as the file has them."""

    path: tuple[str | int, ...]
    why: str


def wrong_with(scenario: Scenario) -> list[Wrong]:
    """All mistakes; empty when there is none."""
    found = [*_names(scenario), *_workloads(scenario), *_order(scenario)]
    for number, step in enumerate(scenario.timeline):
        found += _trigger(scenario, number, step)
        for key, targets in step.target_fields().items():
            for place, target in enumerate(targets):
                path = ("timeline", number, key, *((place,) if key == "groups" else ()))
                found += [Wrong(path, why) for why in _target(scenario, number, target)]
        found += [Wrong(("timeline", number, key), why) for key, why in _step(scenario, step)]
    return found


def _names(scenario: Scenario) -> Iterator[Wrong]:
    for field, names in (
        ("volumes", [volume.name for volume in scenario.volumes]),
        ("workloads", [workload.name for workload in scenario.workloads]),
        ("timeline", [step.name for step in scenario.timeline]),
    ):
        twice = {name for name, uses in Counter(names).items() if name and uses > 1}
        for number, name in enumerate(names):
            if name in twice and name in names[:number]:
                yield Wrong((field, number, "name"), f"{name} is given twice")
    if scenario.cluster.grace * 4 < scenario.cluster.lease * 5:
        text = "it is at least a quarter longer than lease, or an old owner could still serve"
        yield Wrong(("cluster", "grace"), text)
    for field in ("seen", "unseen"):
        for number, name in enumerate(getattr(scenario.expect, field)):
            if name not in EVENTS:
                text = f"there is no event {name!r}: {nearest(name, EVENTS)}"
                yield Wrong(("expect", field, number), text)


def _workloads(scenario: Scenario) -> Iterator[Wrong]:
    volumes = [volume.name for volume in scenario.volumes]
    least = [workload.block_sizes[0] for workload in scenario.workloads]
    for number, workload in enumerate(scenario.workloads):
        for place, name in enumerate(workload.volumes):
            if name not in volumes:
                text = f"there is no volume {name}: {nearest(name, volumes)}"
                yield Wrong(("workloads", number, "volumes", place), text)
        if workload.block_sizes[0] != least[0]:
            text = f"all workloads begin at the same size, and the first has {least[0]}"
            yield Wrong(("workloads", number, "block_sizes"), text)
        mix = workload.mix
        if not mix.read + mix.write + mix.flush + mix.trim + mix.zero:
            yield Wrong(("workloads", number, "mix"), "all weights are 0: it would do nothing")
        if (mix.trim or mix.zero) and _all_power_goes(scenario):
            text = "zeros of trim and zero cannot be told apart once all power was lost"
            yield Wrong(("workloads", number, "mix"), text)


def _all_power_goes(scenario: Scenario) -> bool:
    return any(
        isinstance(step, PowerCut) and step.target.what == "every" for step in scenario.timeline
    )


def _order(scenario: Scenario) -> Iterator[Wrong]:
    last = 0
    for number, step in enumerate(scenario.timeline):
        if step.at is None:
            continue
        if step.at < last:
            text = f"{time_text(step.at)} is before a step above, at {time_text(last)}"
            yield Wrong(("timeline", number, "at"), text)
        last = max(last, step.at)
    if scenario.lasts_ms > LASTS_MS_MAX:
        yield Wrong(("lasts",), f"longer than {time_text(LASTS_MS_MAX)}")


def _trigger(scenario: Scenario, number: int, step: Step) -> Iterator[Wrong]:
    """Whether the step can ever run."""
    lasts = scenario.lasts_ms
    first = step.at if step.at is not None else step.every if step.after is None else None
    if step.when is None and first is not None and first >= lasts:
        key = "at" if step.at is not None else "every"
        text = f"it can never run: {time_text(first)} is not before the end at {time_text(lasts)}"
        yield Wrong(("timeline", number, key), text)
    if step.wait >= lasts:
        yield Wrong(("timeline", number, "wait"), "it can never run: the end comes before")
    if step.after is not None and step.after.step:
        path = ("timeline", number, "after")
        names = [scenario.step_name(each) for each in range(len(scenario.timeline))]
        if step.after.step not in names:
            text = f"there is no step {step.after.step}: {nearest(step.after.step, names)}"
            yield Wrong(path, f"it can never run: {text}")
            return
        whose = names.index(step.after.step)
        why = _never(scenario, number, whose, step)
        if why:
            yield Wrong(path, f"it can never run: {why}")


def _never(scenario: Scenario, number: int, whose: int, step: Step) -> str:
    """Why the event of that step cannot come; "" when it can."""
    assert step.after is not None
    other, name = scenario.timeline[whose], step.after.step
    names = [scenario.step_name(each) for each in range(len(scenario.timeline))]
    seen, at = [number], whose
    while at not in seen:  # up the chain of `after`, which may close only at this step
        seen.append(at)
        above = scenario.timeline[at].after
        if above is None or above.step not in names:
            break
        at = names.index(above.step)
    if at == number:
        return f"{name} waits for this step"
    what = step.after.what
    if other.fault and what == DONE:
        return f"{name} is a fault: struck, observed or healed"
    if not other.fault and what in (STRUCK, OBSERVED, "healed"):
        return f"{name} is an operation: done"
    most = other.repeat if other.every is not None else 1
    if most is not None and step.nth > most:
        return f"{name} happens {most} times, and nth is {step.nth}"
    return ""


def _target(scenario: Scenario, number: int, target: Target) -> Iterator[str]:
    nodes, volumes = scenario.cluster.nodes, [volume.name for volume in scenario.volumes]
    for each in target.walk():
        yield from _part(scenario, each)
        if each.what == "node" and each.number >= nodes:
            yield f"there is no n{each.number}: nodes are n0 to n{nodes - 1}"
        elif each.what == "pick" and each.number > nodes:
            yield f"there are {nodes} nodes, and {each.number} are to be drawn"
        elif each.what in ("owner", "replicant", "joiner"):
            if each.volume not in volumes:
                yield f"there is no volume {each.volume}: {nearest(each.volume, volumes)}"
            elif each.region >= _regions(scenario, each.volume):
                last = _regions(scenario, each.volume) - 1
                yield f"volume {each.volume} has regions 0 to {last}, not {each.region}"
        elif each.what == "same":
            names = [scenario.step_name(other) for other in range(len(scenario.timeline))]
            if each.step not in names:
                yield f"there is no step {each.step}: {nearest(each.step, names)}"
            elif names.index(each.step) == number:
                yield "a step cannot hit whom it hit itself"
            elif not scenario.timeline[names.index(each.step)].target_fields():
                yield f"{each.step} has no target"


def _part(scenario: Scenario, target: Target) -> Iterator[str]:
    """Whether nodes have such a part."""
    cluster = scenario.cluster
    cage = target.number if target.what == "cage" else target.cage
    sled = target.number if target.what == "sled" and not target.kind else target.sled
    disks = len(cluster.disks())
    if cage >= cluster.cages:
        yield f"nodes have cages 0 to {cluster.cages - 1}, not {cage}"
    elif sled >= cluster.sleds:
        yield f"cages have sleds 0 to {cluster.sleds - 1}, not {sled}"
    elif target.what == "disk":
        places = [each for each in cluster.disks() if each.disk == target.number]
        if not places:
            yield f"nodes have disks 0 to {disks - 1}, not {target.number}"
        elif cage not in (-1, places[0].cage) or sled not in (-1, places[0].sled):
            yield f"disk {target.number} is in sled {places[0].sled} of cage {places[0].cage}"


def _regions(scenario: Scenario, name: str) -> int:
    """That the volume can ever have."""
    volume = next(each for each in scenario.volumes if each.name == name)
    grown = sum(
        getattr(step, "regions", 0) * (step.repeat or 1)
        for step in scenario.timeline
        if getattr(step, "volume", "") == name
    )
    return volume.regions + grown


def _step(scenario: Scenario, step: Step) -> Iterator[tuple[str, str]]:
    """(key, why) of what the kinds of step ask for."""
    volume = getattr(step, "volume", None)
    if volume is not None and volume not in (names := [each.name for each in scenario.volumes]):
        yield "volume", f"there is no volume {volume}: {nearest(volume, names)}"
    if isinstance(step, Stop) and step.target.what in ("every", "half", "both"):
        yield "target", "one node at a time is stopped in order; use kill, or steps one by one"
    rest = [
        (key, target)
        for key, targets in step.target_fields().items()
        for target in targets
        if any(each.what == "rest" for each in target.walk())
    ]
    if isinstance(step, Partition):
        if len(rest) > 1:
            yield "groups", "only one group can be the rest"
        return
    for key, _ in rest:
        if key != "to":
            yield key, "'the rest' is one group of a partition, or the `to` of cut and flap"
    if isinstance(step, Flap) and step.source.text == step.to.text:
        yield "to", "a link has two ends"
