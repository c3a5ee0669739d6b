"""shell: one scenario in one world, from the file to the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

from base.errors import InvalidRequest
from scenario.files.container_cluster import ContainerCluster
from scenario.files.failovers import failovers
from scenario.files.models import Scenario
from scenario.files.process_world import ProcessWorld
from scenario.files.receipts import Receipt
from scenario.files.runner import Runner
from scenario.files.seen import Answers
from scenario.files.sim_world import SimWorld
from scenario.files.verdict import Result, judge
from scenario.files.world import WORLDS, OnLine, World, require
from scenario.mutations import applied
from sim.random import SeedStreams

_MAKE: Final[dict[str, Callable[[Scenario, int], World]]] = {
    "sim": SimWorld,
    "processes": ProcessWorld,
    "compose": partial(ProcessWorld, kind=ContainerCluster),
}


def perform(
    scenario: Scenario,
    *,
    on: str,
    seed: int,
    command: str = "",
    on_line: OnLine | None = None,
    mutation: str = "",
) -> Result:
    """Run it. InvalidRequest, before anything is started: that world cannot do it.

    mutation: a bug that is put in on purpose for this run; only `sim` can.
    """
    require(scenario, WORLDS[on])
    if mutation and on != "sim":
        raise InvalidRequest(f"a mutation can be put into sim only, not into {on}")
    runner = Runner(scenario, SeedStreams(seed).stream("scenario"))
    world = _MAKE[on](scenario, seed)
    with applied(mutation) if mutation else nullcontext():
        figures = world.run(runner, on_line or (lambda _line: None))
    met = failovers(runner.receipts, runner.log, figures.notes, figures.answers, runner.track)
    return Result(
        scenario.scenario, on, seed, judge(scenario.expect, runner, figures), figures,
        tuple(runner.receipts), tuple(runner.log), met, command, scenario.about, mutation,
        runner.track,
    )  # fmt: skip


def receipt_rows(receipts: Iterable[Receipt]) -> list[tuple[object, ...]]:
    """RECEIPT_COLUMNS of each."""
    return [
        (
            receipt.name, receipt.verb, receipt.places.text() if receipt.fault else "",
            *(receipt.at_ms.get(station, "-") for station in ("requested", "applied")),
            receipt.at_ms.get("observed", "-") if receipt.fault else "",
            receipt.at_ms.get("healed" if receipt.fault else "done", "-"),
            receipt.why or next(reversed(receipt.evidence.values()), ""),
        )
        for receipt in receipts
    ]  # fmt: skip


RECEIPT_COLUMNS: Final = (
    "step", "fault", "whom", "requested#", "applied#", "observed#", "healed#", "evidence",
)  # fmt: skip


def plain(result: Result) -> dict[str, Any]:
    """For JSON: without what only a picture needs."""
    bare = replace(result, figures=replace(result.figures, answers=Answers(), notes=()))
    made = asdict(bare)
    del made["track"], made["figures"]["answers"], made["figures"]["notes"]
    made["verdict"]["word"] = result.verdict.word
    return made
