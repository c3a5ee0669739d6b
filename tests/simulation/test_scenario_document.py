"""Every example of docs/scenarios.md runs as it stands, and its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scenario.files.loader import scenario_of
from scenario.files.one_run import perform
from scenario.files.steps import VERBS
from scenario.files.targets import parse
from scenario.files.verdict import PASS
from tests.tidy.tree import ROOT

TEXT = (Path(ROOT) / "docs" / "scenarios.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_examples_are_found() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.simulation
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_passes(number: int, seed: int) -> None:
    scenario = scenario_of(EXAMPLES[number], source=f"example {number + 1}")
    result = perform(scenario, on="sim", seed=seed)
    assert result.verdict.code == PASS, result.verdict


def test_every_verb_is_told() -> None:
    assert [verb for verb in VERBS if f"`{verb}`" not in TEXT] == []


def test_every_target_of_the_table_can_be_parsed() -> None:
    table = TEXT.partition("| target | |")[2].partition("\n\n")[0]
    targets = [
        text
        for line in table.splitlines()
        for text in re.findall(r"`([^`]+)`", line.split("|")[1] if line.count("|") > 1 else "")
    ]
    assert len(targets) > 15
    for text in targets:
        parse(text)
