"""shell: what the command line prints: tables for people, JSON for programs, errors for both.

Rich is imported when the first table or bar is drawn, not before.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from base.errors import StorageError

P = ParamSpec("P")
T = TypeVar("T")

# What to do next, by the code of the error.
_NEXT: Final[dict[str, str]] = {
    "denied": "the cluster that answers has another token: check --dir",
    "no_quorum": "it may have happened; start nodes with `eightfold node start`, then look again",
    "timeout": "it may have happened; look with `eightfold status`, then repeat it",
    "link_lost": "it may have happened; look with `eightfold node list` and `volume list`",
    "not_connected": "look with `eightfold node list`; start with `eightfold up`",
    "no_space": "remove a volume, or ask for a smaller one",
    "region_offline": "start the node that holds the last copy with `eightfold node start`",
    "overloaded": "repeat it in a moment",
    "not_leader": "an election is going on: repeat it in a moment",
}


class Bar(Protocol):
    """Progress of one long piece of work."""

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""


def emit(content: object) -> None:
    """One JSON document on one line of standard output."""
    sys.stdout.write(json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for people."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """A line for people beside the answer."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; columns whose name ends in # hold numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    named = any(column.strip("#") for column in columns)
    drawn = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD if named else None,
        show_header=named,
    )
    for column in columns:
        numbers = column.endswith("#")
        drawn.add_column(
            column.removesuffix("#"), justify="right" if numbers else "left", no_wrap=numbers
        )
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
    Console(width=width, highlight=False).print(drawn)


@contextmanager
def progress(title: str, *, quiet: bool) -> Iterator[Bar]:
    """A bar on standard error while it lasts; nothing when `quiet` or not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as drawn:
        task = drawn.add_task(title, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)


def fail(error: StorageError, *, as_json: bool) -> None:
    """Say what went wrong, whether it can have happened, and what to do next."""
    code = getattr(error, "remote_code", error.code)
    next_step = _NEXT.get(code)
    if as_json:
        content: dict[str, Any] = {"code": code, "text": str(error), "definite": error.definite}
        if next_step:
            content["next"] = next_step
        sys.stderr.write(json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n")
        return
    warn(f"error: {error}")
    if next_step and next_step not in str(error):
        warn(f"  next: {next_step}")


_CLOSED_AFTER: Final[ContextVar[ExitStack]] = ContextVar("closed_after")


class Closable(Protocol):
    """What has to be closed when the command is over."""

    def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closable)


def closed_after(thing: C) -> C:
    """The thing; it is closed when the running command ends, however that is."""
    _CLOSED_AFTER.get().callback(thing.close)
    return thing


def reported(command: Callable[P, T]) -> Callable[P, T]:
    """Run a command; an expected failure becomes a message and exit code 1, not a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as stack:
            _CLOSED_AFTER.set(stack)
            try:
                return command(*args, **kwargs)
            except StorageError as error:
                fail(error, as_json=bool(kwargs.get("as_json")))
            except BrokenPipeError:  # the reader of our output has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            except KeyboardInterrupt:
                warn("interrupted")
        import typer

        raise typer.Exit(1)

    return run


def percent(part: int, whole: int) -> str:
    """31 %; "-" of nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "-"
