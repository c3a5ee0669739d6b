"""Proof that the checkers can fail: deliberate bugs that every run of the tests must see caught.

`eightfold sim mutants` runs all of them; these are the ones that cost a second or two.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenario.mutations import CANARY, MUTATIONS, Caught, hunt, requests_of
from scenario.run_one import perform
from scenario.runs import PASSED

pytestmark = pytest.mark.simulation

QUICK = sorted(name for name, mutation in MUTATIONS.items() if mutation.quick)


@pytest.mark.parametrize("name", QUICK)
def test_a_deliberate_bug_is_caught_by_a_rule_that_is_named_for_it(name: str) -> None:
    found = hunt(name, perform=perform)
    assert isinstance(found, Caught), f"{name} passed {found.ran} seeds"
    assert found.expected, f"{name} was seen by {found.rule}: {found.text}"


@pytest.mark.parametrize("name", [name for name in QUICK if MUTATIONS[name].directed is None])
def test_its_first_seed_passes_without_it(name: str) -> None:
    request = next(requests_of(MUTATIONS[name]))
    result = perform(replace(request, mutation=""))
    assert result.verdict == PASSED, result.text


def test_the_canary_is_one_of_the_quick_ones() -> None:
    assert CANARY in QUICK
