"""`eightfold sim mutants`: what is told about each, and the table in the document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from base.errors import InvalidRequest
from scenario.cli import sim_app
from scenario.mutant_kit import Mutation
from scenario.mutations import CANARY, Caught, Survived
from scenario.sim_mutants import BEGIN, END, escaped, plain, put_between

BUG = Mutation("bug", "1", "something", ("I9",), lambda patches: None)


def test_mutation_that_survives_has_escaped() -> None:
    assert escaped(Survived(BUG, 20))


def test_mutation_that_was_caught_has_not_escaped() -> None:
    assert not escaped(Caught(BUG, 7, 3, "I9", "lost", True))


def test_mutation_that_was_caught_names_rule_and_seed() -> None:
    said = plain(Caught(BUG, 7, 3, "I9", "lost", True))
    assert (said["caught"], said["rule"], said["seed"], said["seeds"]) == (True, "I9", 7, 3)


def test_table_replaces_what_is_between_the_marks() -> None:
    text = put_between(f"a\n{BEGIN}\nold\n{END}\nz\n", "new\n")
    assert text == f"a\n{BEGIN}\n\nnew\n\n{END}\nz\n"


def test_document_without_marks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="--table"):
        put_between("a", "new")


def test_unknown_mutation_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(sim_app, ["mutants", CANARY + "x"])
    assert result.exit_code == 2
    assert f"did you mean {CANARY}?" in result.stderr


@pytest.mark.simulation
@pytest.mark.slow
def test_canary_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    command = ["mutants", CANARY, "--jobs", "1", "--table", str(page), "--json"]
    result = CliRunner().invoke(sim_app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["mutations"][0]["caught"]
    assert f"| `{CANARY}` |" in page.read_text()
