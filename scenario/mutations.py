"""plan: the deliberate bugs that the checkers must see, and the hunt for each.

If a mutation passes, what the checkers let pass elsewhere says nothing. `applied` puts one in for
as long as it lasts; `hunt` runs seeds until one is caught; `table` says for people what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from base.errors import InvalidRequest
from scenario import (
    mutants_catalog,
    mutants_copies,
    mutants_cuts,
    mutants_node_views,
    mutants_nodes,
    mutants_views,
)
from scenario.faults import nearest
from scenario.mutant_kit import Mutation, Patches
from scenario.runs import FAILED, PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from scenario.state_checks import Violated

MUTATIONS: Final[dict[str, Mutation]] = {
    mutation.name: mutation
    for mutation in (
        *mutants_copies.MUTATIONS,
        *mutants_catalog.MUTATIONS,
        *mutants_nodes.MUTATIONS,
        *mutants_cuts.MUTATIONS,
        *mutants_views.MUTATIONS,
        *mutants_node_views.MUTATIONS,
    )
}

CANARY: Final = "ack-before-copies"  # every long search begins with it
CHUNK: Final = 8
CLEAN_TIMES: Final = 10  # the code as it is must pass so many times the seeds that saw a bug

JobsMap = Callable[[Callable[[RunRequest], RunResult], Iterable[RunRequest]], Iterable[RunResult]]


def mutation_of(name: str) -> Mutation:
    """InvalidRequest names the nearest one that there is."""
    found = MUTATIONS.get(name)
    if found is None:
        raise InvalidRequest(f"there is no mutation {name}: {nearest(name, MUTATIONS)}")
    return found


@contextmanager
def applied(name: str) -> Iterator[None]:
    """The code with that bug in it; "" for the code as it is."""
    if not name:
        yield
        return
    patches = Patches()
    try:
        mutation_of(name).patch(patches)
        yield
    finally:
        patches.undo()


@dataclass(frozen=True, slots=True)
class Caught:
    """The seed that saw it. ran: seeds until then. expected: by a rule that is named for it."""

    mutation: Mutation
    seed: int
    ran: int
    rule: str
    text: str
    expected: bool


@dataclass(frozen=True, slots=True)
class Survived:
    """No seed of the budget saw it."""

    mutation: Mutation
    ran: int


def requests_of(mutation: Mutation) -> Iterator[RunRequest]:
    """The runs of its budget, in order."""
    for seed in range(mutation.first, mutation.first + mutation.seeds):
        yield RunRequest(
            mutation.level, mutation.profile, seed, mutation.name, options=mutation.options,
            script=mutation.script,
        )  # fmt: skip


def hunt(
    name: str, *, perform: Callable[[RunRequest], RunResult], jobs_map: JobsMap = map
) -> Caught | Survived:
    """Run its seeds until one is caught. InvalidRequest: a run of it does not apply (any more).

    jobs_map: as `map`, over processes perhaps. An error of the code itself counts as caught, by
    rule "code". A seed that fails without the mutation as well proves nothing and is passed over:
    it is a finding of its own, for the searches over the code as it is."""
    mutation = mutation_of(name)
    if mutation.directed is not None:
        return _by_hand(mutation, mutation.directed)
    ran = 0
    requests = requests_of(mutation)
    while chunk := list(islice(requests, CHUNK)):
        for result in jobs_map(perform, chunk):
            ran += 1
            if result.verdict == REFUSED:
                raise InvalidRequest(f"mutation {name}: {result.text}")
            if result.verdict in (VIOLATED, FAILED):
                clean = perform(replace(result.request, mutation=""))
                if clean.verdict != PASSED:
                    continue
                rule = result.rule if result.verdict == VIOLATED else "code"
                return Caught(
                    mutation, result.request.seed, ran, rule, result.text, rule in mutation.rules
                )
    return Survived(mutation, ran)


def _by_hand(mutation: Mutation, directed: Callable[[], None]) -> Caught | Survived:
    try:
        directed()
    except AssertionError as error:
        raise InvalidRequest(f"mutation {mutation.name}: it fails without it: {error}") from None
    try:
        with applied(mutation.name):
            directed()
    except AssertionError as error:
        text = str(error)
        rule = text.partition(" ")[0] if isinstance(error, Violated) else "code"
        return Caught(mutation, 0, 1, rule, text, rule in mutation.rules)
    return Survived(mutation, 1)


def clean_failures(
    row: Caught, *, perform: Callable[[RunRequest], RunResult], jobs_map: JobsMap = map
) -> list[RunResult]:
    """The same runs without the mutation, ten times as many seeds as were needed: those that do not
    pass. Each is a finding, of the code or of the options that provoke the mutation."""
    if row.mutation.directed is not None:
        return []  # the hunt has run it once already, and it has no seeds
    wide = replace(row.mutation, seeds=CLEAN_TIMES * row.ran)
    requests = [replace(request, mutation="") for request in requests_of(wide)]
    return [result for result in jobs_map(perform, requests) if result.verdict != PASSED]


def table(rows: Sequence[Caught | Survived]) -> str:
    """Markdown."""
    lines = [
        "| mutation | no. | what is broken | seen by | level, profile | seeds needed |",
        "|---|---|---|---|---|--:|",
    ]
    for row in rows:
        mutation = row.mutation
        where = f"{mutation.level}, {mutation.profile}{' +' if mutation.options else ''}"
        if mutation.script:
            where = f"{mutation.level}, script {mutation.script}"
        if mutation.directed is not None:
            where = "by hand"
        if isinstance(row, Caught):
            seen, needed = row.rule, str(row.ran)
        else:
            seen, needed = "**nobody**", f"> {row.ran}"
        lines.append(
            f"| `{mutation.name}` | {mutation.number} | {mutation.broken} | {seen} | {where} |"
            f" {needed} |"
        )
    return "\n".join(lines) + "\n"
