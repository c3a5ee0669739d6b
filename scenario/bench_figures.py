"""plan: the figures of `make bench`: what each should reach, their arithmetic, and the report.

Throughput depends on the machine and on who else uses it. So each figure is measured in rounds; in
each round every target runs once through the same client, in an order that turns from round to
round; what counts is the median of the ratios to the reference *of the same round*.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from base.errors import ConfigError
from base.units import KiB, MiB

REFERENCE: Final = "nbdkit"  # its memory plugin: the ceiling of the client
SETUPS: Final = ("pair", "owner", "hash", "attach")
BEGIN: Final = "<!-- begin results -->"
END: Final = "<!-- end results -->"


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the client does."""

    name: str
    title: str
    rw: str  # fio's word
    block_bytes: int
    in_flight: int


LOADS: Final = (
    Load("write32", "4 KiB random write, 32 in flight", "randwrite", 4 * KiB, 32),
    Load("write1", "4 KiB random write, one in flight", "randwrite", 4 * KiB, 1),
    Load("read32", "4 KiB random read, 32 in flight", "randread", 4 * KiB, 32),
    Load("seqwrite", "1 MiB sequential write, 4 in flight", "write", MiB, 4),
    Load("seqread", "1 MiB sequential read, 4 in flight", "read", MiB, 4),
)
OTHERS: Final = ("ready", "idle", "terabyte", "kill", "stop")
SIMULATED: Final = ("sim1", "sim2", "zones")  # need no cluster
NAMES: Final = (*(load.name for load in LOADS), *OTHERS, *SIMULATED)


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure should be: above `must` when more is better, else below."""

    must: float
    goal: float
    more_is_better: bool

    def verdict(self, value: float) -> str:
        """goal, met or short."""
        for word, limit in (("goal", self.goal), ("met", self.must)):
            if value >= limit if self.more_is_better else value <= limit:
                return word
        return "short"


# (load or other figure, measure) -> bound. Measures carry their unit.
BOUNDS: Final[dict[tuple[str, str], Bound]] = {
    ("write32", "ratio"): Bound(0.20, 0.35, True),
    ("write1", "ratio"): Bound(0.20, 0.30, True),
    ("read32", "ratio"): Bound(0.30, 0.50, True),
    ("seqwrite", "mb_per_s"): Bound(250, 600, True),
    ("seqread", "mb_per_s"): Bound(600, 1500, True),
    ("write32", "cpu_us_per_io"): Bound(120, 80, False),
    ("ready", "ready_ms"): Bound(3000, 3000, False),
    ("idle", "cpu_percent"): Bound(5, 5, False),
    ("idle", "node_pss_mib"): Bound(60, 45, False),
    ("idle", "node_rss_mib"): Bound(60, 45, False),
    ("terabyte", "create_ms"): Bound(1000, 1000, False),
    ("terabyte", "node_growth_mib"): Bound(64, 35, False),
    ("kill", "longest_ms"): Bound(1000, 300, False),
    ("stop", "longest_ms"): Bound(1500, 800, False),
    ("sim1", "hours_per_minute"): Bound(1, 2, True),
    ("sim2", "speed"): Bound(15, 30, True),
    ("zones", "operations_per_s"): Bound(200_000, 1_000_000, True),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the client against one target."""

    load: str
    target: str
    round: int
    io_per_s: float
    mb_per_s: float  # of 10^6 bytes
    p50_us: float
    p99_us: float
    longest_ms: float
    ios: int
    cpu_us_per_io: float  # of all processes of the target
    other_cores: float  # what the rest of the machine used: neither target nor client


@dataclass(slots=True)
class Result:
    """One line of the report."""

    figure: str
    setup: str
    measure: str
    samples: list[float]
    value: float  # the median, unless `worst` says otherwise
    note: str = ""
    bound: Bound | None = field(default=None, repr=False)

    @property
    def verdict(self) -> str:
        """goal, met, short; "-" without a bound."""
        return self.bound.verdict(self.value) if self.bound else "-"


def result(
    figure: str,
    setup: str,
    measure: str,
    samples: Iterable[float],
    *,
    worst: bool = False,
    note: str = "",
) -> Result:
    """The median of the samples, or the worst one where each has to hold. At least one sample."""
    taken = list(samples)
    value = max(taken) if worst else statistics.median(taken)
    return Result(
        figure, setup, measure, taken, value, note, BOUNDS.get((figure, measure))
    )  # fmt: skip


def parse_fio(text: str) -> dict[str, float]:
    """io_per_s, mb_per_s, p50_us, p99_us, longest_ms, ios, client_cores, errors of fio's JSON.

    fio writes lines of prose before its JSON. ConfigError: there is no result in it.
    """
    start = text.find("{")
    try:
        job = json.loads(text[start:])["jobs"][0]
        side = max((job["write"], job["read"]), key=lambda each: int(each["total_ios"]))
        latency = side["clat_ns"]
        at = latency.get("percentile", {})
        return {
            "io_per_s": float(side["iops"]),
            "mb_per_s": side["bw_bytes"] / 1e6,
            "p50_us": at.get("50.000000", 0) / 1e3,
            "p99_us": at.get("99.000000", 0) / 1e3,
            "longest_ms": latency["max"] / 1e6,
            "ios": int(side["total_ios"]),
            "client_cores": (job["usr_cpu"] + job["sys_cpu"]) / 100,
            "seconds": side["runtime"] / 1e3,
            "errors": int(job["error"]),
        }
    except (ValueError, KeyError, IndexError, TypeError):
        words = text.strip().splitlines()
        raise ConfigError(f"fio gave no result: {words[-1] if words else 'nothing'}") from None


def cpu_per_io_us(used_s: float, ios: int) -> float:
    """CPU time for each operation; 0 when there was none."""
    return used_s / ios * 1e6 if ios else 0.0


def order(targets: Sequence[str], number: int) -> list[str]:
    """Who runs when in round `number`: forwards, then backwards, so that no target is always first
    and a drift of the machine falls on all of them."""
    return list(targets) if number % 2 == 0 else list(reversed(targets))


def paired_ratios(runs: Sequence[Run], load: str, target: str, measure: str) -> list[float]:
    """target ÷ reference of each round in which both were measured."""
    by_round = {
        (run.round, run.target): getattr(run, measure) for run in runs if run.load == load
    }  # fmt: skip
    return [
        by_round[number, target] / by_round[number, REFERENCE]
        for number in sorted({number for number, _ in by_round})
        if (number, target) in by_round and by_round.get((number, REFERENCE), 0) > 0
    ]


def summarise(runs: Sequence[Run]) -> list[Result]:
    """Lines for every load that ran, the reference first."""
    results = []
    for load in LOADS:
        here = [run for run in runs if run.load == load.name]
        measure = "io_per_s" if load.block_bytes < MiB else "mb_per_s"
        for target in (REFERENCE, *SETUPS):
            mine = [run for run in here if run.target == target]
            if not mine:
                continue
            lines = [(measure, [getattr(run, measure) for run in mine])]
            if target != REFERENCE:
                lines.append(("ratio", paired_ratios(runs, load.name, target, measure)))
            lines.append(("p99_us", [run.p99_us for run in mine]))
            lines.append(("cpu_us_per_io", [run.cpu_us_per_io for run in mine]))
            for name, samples in lines:
                if not samples:
                    continue
                each = result(load.name, target, name, samples)
                each.bound = None if target == REFERENCE else each.bound
                results.append(each)
    return results


def noise(runs: Sequence[Run]) -> str:
    """What the rest of the machine used meanwhile, in cores: how far the figures can be trusted."""
    used = [run.other_cores for run in runs]
    if not used:
        return "unknown"
    return f"{number(statistics.median(used))} (at most {number(max(used))})"


def table_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """figure, set-up, measure, value, least to most, samples, must, goal, verdict."""
    rows: list[tuple[str, ...]] = []
    for each in results:
        spread = f"{number(min(each.samples))} – {number(max(each.samples))}"
        bound = each.bound
        limits = (number(bound.must), number(bound.goal)) if bound else ("-", "-")
        rows.append(
            (
                each.figure, each.setup, each.measure, number(each.value), spread,
                str(len(each.samples)), *limits, each.verdict,
            )
        )  # fmt: skip
    return rows


COLUMNS: Final = (
    "figure", "set-up", "measure", "median#", "range#", "n#", "must#", "goal#", "verdict",
)  # fmt: skip


def number(value: float) -> str:
    """Three digits that say something: 0.213, 12.4, 12,345."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def markdown(results: Sequence[Result], missing: Sequence[str], about: dict[str, Any]) -> str:
    """The report for docs/performance.md."""
    heads = [column.rstrip("#") for column in COLUMNS]
    lines = [
        "Measured " + ", ".join(f"{key} {value}" for key, value in about.items()) + ".", "",
        "| " + " | ".join(heads) + " |",
        "|" + "|".join("--:" if column.endswith("#") else "---" for column in COLUMNS) + "|",
    ]  # fmt: skip
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(results)]
    if missing:
        lines += ["", "Not measured:", "", *(f"- {text}" for text in missing)]
    return "\n".join(lines) + "\n"


def put_between(document: str, report: str) -> str:
    """The document with the report between its marks. ConfigError: it has no marks."""
    before, begun, rest = document.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ConfigError(f"the document has no place for results: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{report}\n{END}{after}"


def as_json(
    results: Sequence[Result], runs: Sequence[Run], missing: Sequence[str], about: dict[str, Any]
) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "about": about,
        "results": [
            {
                "figure": each.figure, "setup": each.setup, "measure": each.measure,
                "value": each.value, "samples": each.samples, "note": each.note,
                "must": each.bound.must if each.bound else None,
                "goal": each.bound.goal if each.bound else None,
                "verdict": each.verdict,
            }
            for each in results
        ],
        "runs": [asdict(run) for run in runs],
        "missing": list(missing),
    }  # fmt: skip
