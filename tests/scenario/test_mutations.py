"""The registry of deliberate bugs: they go in, they come out, and the hunt says what came of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from base.errors import InvalidRequest
from node.core import NodeCore
from scenario.mutant_kit import Mutation, Patches
from scenario.mutations import CANARY, MUTATIONS, Caught, Survived, applied, hunt, table
from scenario.runs import FAILED, PASSED, REFUSED, VIOLATED, RunRequest, RunResult


def runs(
    verdicts: dict[int, str], rule: str = "I9", clean: dict[int, str] | None = None
) -> Callable[[RunRequest], RunResult]:
    """Performs nothing: seeds end as listed, the others pass. clean: without the mutation."""

    def perform(request: RunRequest) -> RunResult:
        ends = verdicts if request.mutation else clean or {}
        verdict = ends.get(request.seed, PASSED)
        return RunResult(request, verdict, rule if verdict == VIOLATED else "", "what happened")

    return perform


def test_there_are_at_least_thirty_that_can_be_seen() -> None:
    assert sum(not mutation.unseen for mutation in MUTATIONS.values()) >= 30


def test_names_are_unique_and_the_canary_is_one_of_them() -> None:
    assert all(name == mutation.name for name, mutation in MUTATIONS.items())
    assert CANARY in MUTATIONS


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_mutation_goes_in_and_comes_out_again(name: str) -> None:
    touched: list[tuple[object, str, object]] = []

    class Noting(Patches):
        def put(self, target: object, name: str, value: object) -> object:
            touched.append((target, name, target.__dict__[name]))
            return super().put(target, name, value)

    patches = Noting()
    MUTATIONS[name].patch(patches)
    assert touched
    assert all(target.__dict__[attribute] is not was for target, attribute, was in touched)
    patches.undo()
    assert all(target.__dict__[attribute] is was for target, attribute, was in touched)


def fail_inside(name: str) -> None:
    with applied(name):
        raise ZeroDivisionError


def test_the_code_is_as_it_was_after_an_error_inside() -> None:
    before = NodeCore.__dict__["may_read"]
    with pytest.raises(ZeroDivisionError):
        fail_inside("read-without-lease")
    assert NodeCore.__dict__["may_read"] is before


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with (
        pytest.raises(InvalidRequest, match="did you mean ack-before-copies"),
        applied("ack-befor"),
    ):
        pass


def test_the_hunt_stops_at_the_first_seed_that_sees_it() -> None:
    found = hunt(CANARY, perform=runs({3: VIOLATED, 5: VIOLATED}))
    assert isinstance(found, Caught)
    assert (found.seed, found.ran, found.rule, found.expected) == (3, 4, "I9", True)


def test_a_seed_that_fails_without_the_mutation_too_proves_nothing() -> None:
    found = hunt(CANARY, perform=runs({3: VIOLATED, 5: VIOLATED}, clean={3: VIOLATED}))
    assert isinstance(found, Caught)
    assert found.seed == 5


def test_a_rule_that_is_not_named_for_it_is_said_to_be_unexpected() -> None:
    found = hunt(CANARY, perform=runs({0: VIOLATED}, rule="I30"))
    assert isinstance(found, Caught)
    assert not found.expected


def test_an_error_of_the_code_itself_counts_as_seen_by_the_code() -> None:
    found = hunt("admit-before-filled", perform=runs({0: FAILED}))
    assert isinstance(found, Caught)
    assert (found.rule, found.expected) == ("code", True)


def test_a_mutation_that_every_seed_passes_survives_its_whole_budget() -> None:
    found = hunt(CANARY, perform=runs({}))
    assert found == Survived(MUTATIONS[CANARY], MUTATIONS[CANARY].seeds)


def test_a_run_that_does_not_apply_is_an_error_not_a_survivor() -> None:
    with pytest.raises(InvalidRequest, match="what happened"):
        hunt(CANARY, perform=runs({0: REFUSED}))


def test_the_table_names_who_saw_it_and_how_many_seeds_it_took() -> None:
    seen = Caught(MUTATIONS[CANARY], 3, 4, "I9", "text", expected=True)
    text = table([seen, Survived(MUTATIONS["lease-on-wall-clock"], 40)])
    lines = text.splitlines()
    assert lines[2].startswith("| `ack-before-copies` | 1 | the owner answers when")
    assert lines[2].endswith("| I9 | 1, swarm + | 4 |")
    assert lines[3].endswith("| **nobody** | 1, swarm + | > 40 |")


def test_the_table_says_why_a_mutation_cannot_be_seen() -> None:
    mutation = Mutation("m", "8", "nothing", ("I7",), lambda _patch: None, unseen="no third copy")
    assert "| nobody: no third copy | 1, swarm | - |" in table([Survived(mutation, 20)])
