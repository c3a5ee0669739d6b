"""plan: a scenario in sentences: what will happen, when, to whom, and what must be seen."""

from __future__ import annotations

from collections.abc import Iterator

from scenario.files.amounts import time_text
from scenario.files.models import Scenario, Workload
from scenario.files.steps import Step
from scenario.files.world import WORLDS, cannot


def explain(scenario: Scenario) -> list[str]:
    """Lines for people."""
    cluster = scenario.cluster
    lines = [f"{scenario.scenario}: {_first_sentence(scenario.about)}", ""]
    volumes = ", ".join(f"{volume.name} of {volume.regions} regions" for volume in scenario.volumes)
    lines.append(
        f"A cluster of {cluster.nodes} nodes with {volumes}. An owner may serve for"
        f" {time_text(cluster.lease)} after its last proof of life; silence of"
        f" {time_text(cluster.grace)} means that a node is down."
    )
    lines += [_workload(workload) for workload in scenario.workloads]
    lines += ["", f"Within {time_text(scenario.lasts_ms)}:"]
    lines += [f"  {n + 1}. {_step(scenario, n)}" for n in range(len(scenario.timeline))]
    if not scenario.timeline:
        lines.append("  nothing is broken.")
    lines += ["", "Expected:", *(f"  - {line}" for line in _expected(scenario)), ""]
    for ability in WORLDS.values():
        why = cannot(scenario, ability)
        lines.append(f"On {ability.name}: {'it can run' if not why else why[0]}.")
    return lines


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".") + "."


def _workload(workload: Workload) -> str:
    mix = ", ".join(
        f"{weight} {name}" for name, weight in workload.mix.model_dump().items() if weight
    )
    least, most = workload.block_sizes
    return (
        f"{workload.hosts} hosts send {workload.rate} operations a second to"
        f" {', '.join(workload.volumes) or 'all volumes'} ({mix}; {least} to {most} bytes;"
        f" {workload.skew.operations / 10:g} % of them to {workload.skew.hot_blocks} hot blocks)"
        " and check every byte that they read."
    )


def when(step: Step) -> str:
    """At 2s, then every 1s, 3 times"""
    if step.after is not None:
        text = f"when {step.after.text}"
        text += f" for the {step.nth}th time" if step.nth > 1 else ""
    elif step.when is not None:
        text = f"once {step.when.text}"
    else:
        text = f"at {time_text(step.at if step.at is not None else step.every or 0)}"
    text += f", {time_text(step.wait)} later" if step.wait else ""
    if step.every is not None:
        times = f"{step.repeat} times" if step.repeat is not None else "to the end"
        text += f", every {time_text(step.every)}, {times}"
    return text


def _step(scenario: Scenario, number: int) -> str:
    step = scenario.timeline[number]
    texts = [
        f"{key} {' | '.join(target.text for target in targets)}"
        for key, targets in step.target_fields().items()
    ]
    named = f" ({step.name})" if step.name else ""
    stands = f", for {time_text(step.for_ms)}" if step.for_ms else ""
    what = (type(step).__doc__ or "").strip().partition("\n")[0]
    return f"{when(step)}{named}: {step.do}, {', '.join(texts) or 'everybody'}{stands}. {what}"


def _expected(scenario: Scenario) -> Iterator[str]:
    expect = scenario.expect
    yield "every invariant holds: no acknowledged write is lost, no read is stale"
    yield "every fault has its receipt: requested, applied, observed, healed"
    for text, value in (
        ("no host waits longer than", expect.longest_stall),
        ("no region lacks a copy for longer than", expect.redundant_within),
    ):
        if value is not None:
            yield f"{text} {time_text(value)}"
    for text, most in (
        ("refused operations", expect.refused_max),
        ("operations of unknown outcome", expect.unknown_max),
        ("moves of owners", expect.owner_moves_max),
        ("changes of the leader", expect.leader_changes_max),
    ):
        if most is not None:
            yield f"{text}: at most {most}"
    yield from (f"seen: {name}" for name in expect.seen)
    yield from (f"not seen: {name}" for name in expect.unseen)
