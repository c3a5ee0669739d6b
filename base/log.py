"""shell: structlog set-up. One line per event: `noun.past_verb`, fields with units, no prose."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog


class EventTap:
    """Shows every event to whoever set `listener`, besides writing it. The listener must not log,
    wait or raise, and must not keep the dict: it becomes a line."""

    def __init__(self) -> None:
        self.listener: Callable[[dict[str, Any]], None] | None = None

    def __call__(
        self, logger: object, method: str, event: structlog.types.EventDict
    ) -> structlog.types.EventDict:
        """As a structlog processor."""
        if self.listener is not None:
            self.listener(dict(event))
        return event


def configure(
    *,
    level: str = "info",
    as_json: bool = True,
    stream: TextIO | None = None,
    tap: EventTap | None = None,
) -> None:
    """Set up structlog once per process. JSON lines for machines, columns for people."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if tap is None else [tap]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, level.upper(), logging.INFO)
        ),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
