"""shell: `eightfold sim mutants`: puts deliberate bugs in, one by one, and has them hunted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from admin import output
from base.clock import RealClock
from base.errors import InvalidRequest
from base.units import NS_PER_S
from scenario.mutations import (
    CLEAN_TIMES,
    MUTATIONS,
    Caught,
    Survived,
    clean_failures,
    hunt,
    mutation_of,
    table,
)
from scenario.pool import LocalPool, Pool
from scenario.run_one import perform
from scenario.runs import RunRequest, RunResult
from scenario.sim_run import duration
from scenario.sim_shrink import perform_all

FOUND: Final = 1
BEGIN: Final = "<!-- begin mutations -->"
END: Final = "<!-- end mutations -->"
Row = Caught | Survived


@dataclass(slots=True)
class SimMutants:
    """One call of the command. names: none for all. table: a document that gets the table between
    its marks. clean: the code as it is must pass ten times the seeds that saw each."""

    names: tuple[str, ...] = ()
    quick: bool = False
    jobs: int = 1
    table: Path | None = None
    clean: bool = False
    as_json: bool = False

    def run(self) -> int:
        """The exit code. InvalidRequest: there is no such mutation, or nowhere to put the table."""
        chosen = [mutation_of(name) for name in self.names] or [
            mutation for mutation in MUTATIONS.values() if mutation.quick or not self.quick
        ]
        text = "" if self.table is None else _read(self.table)
        clock = RealClock()
        rows: list[Row] = []
        unclean: list[RunResult] = []
        pool = LocalPool(self.jobs)
        try:
            for mutation in chosen:
                began_ns = clock.now_ns()
                row = hunt(mutation.name, perform=perform, jobs_map=_over(pool))
                rows.append(row)
                self._say(row, (clock.now_ns() - began_ns) / NS_PER_S)
                if self.clean and isinstance(row, Caught):
                    found = clean_failures(row, perform=perform, jobs_map=_over(pool))
                    unclean += found
                    self._say_clean(row, found)
        finally:
            pool.close()
        if self.table is not None:
            self.table.write_text(put_between(text, table(rows)))
        survived = [row.mutation.name for row in rows if escaped(row)]
        if self.as_json:
            lines = [result.request.line() for result in unclean]
            rows_plain = [plain(row) for row in rows]
            output.emit({"mutations": rows_plain, "survived": survived, "unclean": lines})
        else:
            output.say(f"{len(rows) - len(survived)} of {len(rows)} mutations are as expected")
            for name in survived:
                output.say(f"nobody saw {name}: the checkers are blind for it")
        return FOUND if survived or unclean else 0

    def _say(self, row: Row, took_s: float) -> None:
        if self.as_json:
            return
        if isinstance(row, Caught):
            seen = f"seen by {row.rule} after {row.ran} seeds, at {row.seed}"
            seen += "" if row.expected else " (another rule than expected)"
        else:
            seen = f"not seen in {row.ran} seeds"
        output.say(f"{row.mutation.name:28} {seen}, {duration(took_s)}")

    def _say_clean(self, row: Caught, found: list[RunResult]) -> None:
        if self.as_json or row.mutation.directed is not None:
            return
        output.say(f"{'':28} without it {len(found)} of {CLEAN_TIMES * row.ran} seeds fail")
        for result in found:
            output.say(f"  {result.request.line()}: {result.rule or result.verdict}")


def escaped(row: Row) -> bool:
    """Nobody saw it, and somebody should have."""
    return isinstance(row, Survived)


def plain(row: Row) -> dict[str, Any]:
    """For programs."""
    said: dict[str, Any] = {
        "name": row.mutation.name, "number": row.mutation.number, "broken": row.mutation.broken,
        "level": row.mutation.level, "profile": row.mutation.profile, "seeds": row.ran,
        "script": row.mutation.script, "by_hand": row.mutation.directed is not None,
        "caught": isinstance(row, Caught),
    }  # fmt: skip
    if isinstance(row, Caught):
        said |= {"seed": row.seed, "rule": row.rule, "text": row.text, "expected": row.expected}
    return said


def _over(
    pool: Pool,
) -> Callable[[Callable[[RunRequest], RunResult], Iterable[RunRequest]], Iterable[RunResult]]:
    """As `map`, in the processes of the pool, which perform runs in the same way."""
    return lambda _perform, requests: perform_all(pool, list(requests))


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"--table: {error}") from None
    put_between(text, "")
    return text


def put_between(text: str, content: str) -> str:
    """The text with the content between the marks. InvalidRequest: it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InvalidRequest(f"--table: the document has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{content}\n{END}{after}"
