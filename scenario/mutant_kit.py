"""plan: what a deliberate bug is: a name, what it breaks, who must see it, where to look first.

A mutation replaces attributes of classes and modules while it is applied, and puts them back: the
code as it ships has no switch for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Patches:
    """Attributes that were replaced, to be put back in the reverse order."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def put(self, target: Any, name: str, value: Any) -> Any:
        """Replace an attribute that is there already. What it was."""
        before = target.__dict__[name]
        setattr(target, name, value)
        self._undo.append((target, name, before))
        return before

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            target, name, before = self._undo.pop()
            setattr(target, name, before)


Options = tuple[tuple[str, int | bool], ...]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One deliberate bug.

    number: of the list in docs/internals/simulation.md, `stretch`, or `own` for a bug that this
    code had once. rules: who must see it, any of them ("code": an assertion of the code itself).
    first, seeds: where to look, and how many seeds may pass before the checkers count as blind.
    quick: cheap enough for every run of the tests. script: a name of `scenario.scripts`. directed:
    a run by hand of `scenario.directed` in place of seeds, for what no cluster of today comes to,
    or not in a few hundred seeds; it raises `Violated`.
    """

    name: str
    number: str
    broken: str
    rules: tuple[str, ...]
    patch: Callable[[Patches], None]
    level: int = 1
    profile: str = "swarm"
    options: Options = ()
    first: int = 0
    seeds: int = 30
    quick: bool = False
    script: str = ""
    directed: Callable[[], None] | None = None


def options(**values: int | bool) -> Options:
    """Options by name."""
    return tuple(sorted(values.items()))
