"""plan: what an operation of the JSON API is; the tables of them are in `admin.operations`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from admin.view import NodeView


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, authenticated and parsed. Query values are checked against `Operation.query`."""

    path: dict[str, str]
    query: dict[str, int]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class QueryNumber:
    """A whole number in the query string; without a default it must be given."""

    name: str
    least: int
    most: int
    default: int | None
    about: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answer` and `body` are types that a JSON schema can be made of."""

    method: str
    path: str
    name: str
    about: str
    perform: Callable[[NodeView, Ask], Awaitable[object]]
    answer: Any
    body: Any = None
    query: tuple[QueryNumber, ...] = ()
    errors: tuple[str, ...] = field(default=())  # codes, beyond the ones that any may have
    status: int = 200
