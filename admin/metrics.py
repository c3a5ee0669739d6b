"""codec: counters of one node as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from admin.view import Statistics, Status

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def encode(statistics: Statistics, status: Status) -> str:
    """All numbers of both. Times become seconds, as that format wants them."""
    label = f'{{node="n{statistics["node"]}"}}'
    lines: list[str] = []
    for name, value in _numbers(statistics):
        lines += _metric(f"eightfold_{name}", value, label)
    for name, value in (
        ("ready", int(status["ready"])),
        ("leads", int(status["leader"] == status["node"])),
        ("catalog_version", status["catalog_version"]),
        ("cluster_nodes_alive", status["nodes_alive"]),
        ("cluster_volumes", status["volumes"]),
        *((f"cluster_regions_{state}", count) for state, count in _numbers(status["regions"])),
    ):
        lines += _metric(f"eightfold_{name}", value, label)
    return "\n".join(lines) + "\n"


def _numbers(section: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}_")
        elif key != "node":
            yield f"{prefix}{key}", value


def _metric(name: str, value: float, label: str) -> list[str]:
    if name.endswith(("_ms", "_ms_total")):
        name = name.replace("_ms", "_seconds")
        value = value / 1000
    kind = "counter" if name.endswith("_total") else "gauge"
    return [f"# TYPE {name} {kind}", f"{name}{label} {value:.10g}"]
