"""shell: one scenario in one world, from the file to the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Final

from scenario.files.models import Scenario
from scenario.files.process_world import ProcessWorld
from scenario.files.receipts import Receipt
from scenario.files.runner import Runner
from scenario.files.sim_world import SimWorld
from scenario.files.verdict import Result, failovers, judge
from scenario.files.world import WORLDS, OnLine, World, require
from sim.random import SeedStreams

_MAKE: Final[dict[str, Callable[[Scenario, int], World]]] = {
    "sim": SimWorld,
    "processes": ProcessWorld,
}


def perform(
    scenario: Scenario, *, on: str, seed: int, command: str = "", on_line: OnLine | None = None
) -> Result:
    """Run it. InvalidRequest, before anything is started: that world cannot do it."""
    require(scenario, WORLDS[on])
    runner = Runner(scenario, SeedStreams(seed).stream("scenario"))
    figures = _MAKE[on](scenario, seed).run(runner, on_line or (lambda _line: None))
    return Result(
        scenario.scenario, on, seed, judge(scenario.expect, runner, figures), figures,
        tuple(runner.receipts), tuple(runner.log), failovers(runner.receipts, runner.log), command,
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
    """For JSON."""
    made = asdict(result)
    made["verdict"]["word"] = result.verdict.word
    return made
