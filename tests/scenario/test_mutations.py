"""The registry of deliberate bugs: they go in, they come out, and the hunt says what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from base.errors import InvalidRequest
from node.core import NodeCore
from scenario.mutant_kit import Patches
from scenario.mutations import (
    CANARY,
    MUTATIONS,
    Caught,
    Survived,
    applied,
    clean_failures,
    hunt,
    table,
)
from scenario.runs import FAILED, PASSED, REFUSED, VIOLATED, RunRequest, RunResult
from scenario.scripts import SCRIPTS
from scenario.state_checks import Violated


def runs(
    verdicts: dict[int, str], rule: str = "I9", clean: dict[int, str] | None = None
) -> Callable[[RunRequest], RunResult]:
    """Performs nothing: seeds end as listed, the others pass. clean: without the mutation."""

    def perform(request: RunRequest) -> RunResult:
        ends = verdicts if request.mutation else clean or {}
        verdict = ends.get(request.seed, PASSED)
        return RunResult(request, verdict, rule if verdict == VIOLATED else "", "what happened")

    return perform


BY_HAND = sorted(name for name, each in MUTATIONS.items() if each.directed is not None)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_run_by_hand_sees_its_mutation_by_a_rule_that_is_named_for_it(name: str) -> None:
    found = hunt(name, perform=runs({}))
    assert isinstance(found, Caught)
    assert found.expected, found.text


def test_a_run_by_hand_that_fails_without_its_mutation_shows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> None:
        raise Violated("I9 by hand: always")

    broken = replace(MUTATIONS[BY_HAND[0]], directed=fails)
    monkeypatch.setitem(MUTATIONS, broken.name, broken)
    with pytest.raises(InvalidRequest, match="fails without it: I9 by hand: always"):
        hunt(broken.name, perform=runs({}))


def test_the_code_as_it_is_must_pass_ten_times_the_seeds_that_saw_a_mutation() -> None:
    seen = Caught(MUTATIONS[CANARY], 2, 3, "I9", "text", expected=True)
    found = clean_failures(seen, perform=runs({}, clean={7: VIOLATED, 29: FAILED, 30: FAILED}))
    assert [result.request.seed for result in found] == [7, 29]
    assert all(not result.request.mutation for result in found)


def test_every_script_of_a_mutation_is_there() -> None:
    assert {each.script for each in MUTATIONS.values()} - {""} <= set(SCRIPTS)


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


def test_the_table_says_which_script_or_hand_provokes_a_mutation() -> None:
    seen = [
        Caught(MUTATIONS[name], 0, 1, "I9", "text", expected=True)
        for name in ("match-by-number", "any-session")
    ]
    lines = table(seen).splitlines()
    assert lines[2].endswith("| I9 | 1, script move-to-and-fro | 1 |")
    assert lines[3].endswith("| I9 | by hand | 1 |")
