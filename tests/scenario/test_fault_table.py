"""docs/internals/faults.md says the truth: faults, profiles and tests of each row are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scenario import level2_options, profiles
from scenario.faults import FAULTS

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "internals" / "faults.md"
NOT_BUILT = "subject not built"
SEEDS = 80  # among so many some must draw a fault of the row
WEIGHTS: dict[int, dict[str, str]] = {
    1: {**profiles.WEIGHTS, **profiles.OTHERS},
    2: dict(level2_options.WEIGHTS),
}
PROFILES: dict[int, dict[str, Any]] = {1: dict(profiles.LEVEL1), 2: dict(level2_options.LEVEL2)}


class Row(NamedTuple):
    number: str
    faults: list[str]
    searched: list[tuple[int, str]]
    tests: list[str]
    promised: str


def rows(text: str) -> list[Row]:
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not re.fullmatch(r"F\d+", cells[0]):
            continue
        number, _, faults, searched, tests, promised = cells
        pairs = [
            (int(level), name.strip())
            for level, names in re.findall(r"(\d): ([^;]+)", searched)
            for name in names.split(",")
        ]
        named = [] if faults == NOT_BUILT else re.findall(r"`(\w+)`", faults)
        found.append(Row(number, named, pairs, re.findall(r"`([^`]+)`", tests), promised))
    return found


ROWS = rows(TABLE.read_text(encoding="utf-8"))


def missing_test(name: str) -> bool:
    path, _, function = name.partition("::")
    file = ROOT / "tests" / path
    if not file.is_file():
        return True
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    tests = [each for each in functions if each.startswith("test_")]
    return not (tests if function == "*" else function in tests)


def draws(level: int, profile: str, faults: list[str]) -> bool:
    names = [WEIGHTS[level][fault] for fault in faults if fault in WEIGHTS[level]]
    make = PROFILES[level][profile]
    return any(getattr(make(seed), name) for seed in range(SEEDS) for name in names)


def test_every_number_of_the_fault_model_has_a_row() -> None:
    assert [row.number for row in ROWS] == [f"F{number}" for number in range(1, 33)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_faults_of_a_row_are_those_that_say_so(row: Row) -> None:
    of_number = {name for name, kind in FAULTS.items() if row.number in kind.numbers}
    assert set(row.faults) == of_number


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_profiles_of_a_row_draw_its_faults(row: Row) -> None:
    wrong = [pair for pair in row.searched if not draws(*pair, row.faults)]
    assert wrong == []
    assert bool(row.searched) == bool(row.faults)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_tests_of_a_row_are_there(row: Row) -> None:
    assert [name for name in row.tests if missing_test(name)] == []
    assert bool(row.tests) == bool(row.faults)
    assert row.promised


def test_a_row_that_names_what_there_is_not_is_found() -> None:
    line = "| F1 | killed | `kil` | 1: default | `simulation/test_gone.py::test_x` | I1 |"
    (row,) = rows(line)
    assert row.faults == ["kil"]
    assert row.searched == [(1, "default")]
    assert missing_test(row.tests[0])
    assert missing_test("scenario/test_fault_table.py::test_that_is_not_here")
    assert not draws(1, "power", ["pause"])
