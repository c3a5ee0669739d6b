"""plan: the live table of `eightfold up`: one row per node out of two samples of its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from admin.output import percent
from base.units import NS_PER_S, format_size

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS: Final = (
    "node", "state", "process#", "owned#", "copies#", "reads/s#", "writes/s#", "per s#",
    "journal#", "cache#", "waits#", "memory#",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """What one node said, and when."""

    at_ns: int
    statistics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, between two samples of one node."""

    reads: float
    writes: float
    moved_bytes: float


def rates(before: Sample | None, now: Sample) -> Rates:
    """Zero without an earlier sample, or when the counters went back: the node was started anew."""
    if before is None or now.at_ns <= before.at_ns:
        return Rates(0, 0, 0)
    seconds = (now.at_ns - before.at_ns) / NS_PER_S
    old, new = before.statistics["host"], now.statistics["host"]
    grown = {key: new[key] - old[key] for key in new if key.endswith("_total")}
    if min(grown.values()) < 0:
        return Rates(0, 0, 0)
    moved = grown["read_bytes_total"] + grown["written_bytes_total"]
    return Rates(
        grown["reads_total"] / seconds, grown["writes_total"] / seconds, moved / seconds
    )  # fmt: skip


def row(
    name: str, state: str, pid: int | None, before: Sample | None, now: Sample | None
) -> list[str]:
    """One node. Without a sample only its name, state and process are known."""
    process = str(pid) if pid is not None else "-"
    if now is None:
        return [name, state, process, *["-"] * (len(COLUMNS) - 3)]
    statistics, speed = now.statistics, rates(before, now)
    journal, cache = statistics["journal"], statistics["cache"]
    return [
        name,
        state,
        process,
        str(statistics["regions_owned"]),
        str(statistics["regions_copied"]),
        f"{speed.reads:,.0f}",
        f"{speed.writes:,.0f}",
        format_size(int(speed.moved_bytes)),
        percent(journal["used_bytes"], journal["limit_bytes"]),
        percent(cache["dirty_bytes"], cache["limit_bytes"]),
        str(statistics["host"]["waits_total"]),
        format_size(statistics["resident_bytes"]),
    ]


_COLOURS: Final = {"ready": "green", "starting": "yellow", "paused": "magenta", "silent": "yellow"}


def draw(title: str, rows: list[list[str]], footer: str) -> Table:
    """The table as Rich shows it."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption=footer, box=box.SIMPLE_HEAD, title_justify="left")
    for column in COLUMNS:
        numbers = column.endswith("#")
        table.add_column(column.removesuffix("#"), justify="right" if numbers else "left")
    for cells in rows:
        colour = _COLOURS.get(cells[1], "red")
        table.add_row(cells[0], f"[{colour}]{cells[1]}[/]", *cells[2:])
    return table
