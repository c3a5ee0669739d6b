"""Scripts: faults that follow what the cluster does."""

from __future__ import annotations

import pytest

from scenario.run_one import perform
from scenario.runs import PASSED, REFUSED, RunRequest
from scenario.scripts import SCRIPTS

pytestmark = pytest.mark.simulation

SMALL = (("nodes", 4), ("seconds", 3), ("writes_per_s", 100))


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_the_code_as_it_is_passes_under_every_script(script: str) -> None:
    result = perform(RunRequest(1, "swarm", 1, options=SMALL, script=script))
    assert result.verdict == PASSED, result.text


def test_a_run_under_a_script_follows_from_its_seed() -> None:
    request = RunRequest(1, "swarm", 2, options=SMALL, script="move-while-owner-lags")
    first = perform(request)
    assert first.faults
    assert perform(request).trace == first.trace


@pytest.mark.parametrize(
    ("level", "script", "why"),
    [(1, "deaf-nod", "did you mean deaf-node"), (2, "deaf-node", "only level 1 has scripts")],
)
def test_a_script_that_there_is_not_is_refused(level: int, script: str, why: str) -> None:
    result = perform(RunRequest(level, "default", 1, script=script))
    assert result.verdict == REFUSED
    assert why in result.text
