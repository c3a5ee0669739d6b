"""shell: what simulated nodes log, while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog

from scenario.files.seen import NOTED
from scenario.level2 import Level2Run
from sim.event_loop import group_name


@contextmanager
def listening(run: Level2Run, heard: Callable[[int, Mapping[str, Any]], None]) -> Iterator[None]:
    """heard: node, event. What was set up before is so again at the end.

    Nodes log the same with and without a listener, so that a run is not changed by it.
    """
    numbers = {f"n{number}": number for number in range(len(run.nodes))}

    def keep(_logger: Any, _name: str, event: Mapping[str, Any]) -> Any:
        if event.get("event") in NOTED:
            node = numbers.get(group_name().partition(".")[0])
            if node is not None:
                heard(node, event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(20))
    try:
        yield
    finally:
        structlog.configure(**before)
