"""The table of the invariants names functions that exist, or says in words why there is none."""

from __future__ import annotations

import ast
import re
from typing import Final

import pytest

from tests.tidy.tree import ROOT

TABLE: Final = ROOT / "docs/internals/invariants.md"
ALL: Final = [f"I{number}" for number in range(1, 35)]
LEVELS: Final = {"1", "2", "check", "offline", "tests"}
_ROW = re.compile(r"^\| (I\d+) \|")
_CHECK = re.compile(r"`([\w/]+\.py):([\w.]+)`")


def rows() -> list[list[str]]:
    """Cells of each row: invariant, text, check, level, when."""
    lines = TABLE.read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if _ROW.match(line)]


def defined(path: str) -> set[str]:
    """Functions of a module, and methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


def wrong(cells: list[str]) -> str:
    """What is wrong with a row; "" when nothing is."""
    if len(cells) != 5:
        return f"{len(cells)} cells"
    _, _, check, level, when = cells
    named = _CHECK.findall(check)
    for path, name in named:
        if not (ROOT / path).exists():
            return f"{path} does not exist"
        if name not in defined(path):
            return f"{path} has no {name}"
    if not named:
        return "" if check.startswith("not built: ") and len(check) > 30 else "no check, no reason"
    if not set(level.replace(",", " ").split()) <= LEVELS or not level:
        return f"level {level}"
    return "" if when else "it does not say when"


def test_every_invariant_has_a_row() -> None:
    assert sorted({cells[0] for cells in rows()}, key=ALL.index) == ALL


@pytest.mark.parametrize("cells", rows(), ids=lambda cells: f"{cells[0]}-{cells[2][:40]}")
def test_row_names_what_exists(cells: list[str]) -> None:
    assert wrong(cells) == ""


def test_rule_of_a_row_is_named_where_it_is_checked() -> None:
    """The module says the number, so that whoever reads a violation finds its check."""
    silent = [
        f"{cells[0]}: {path}"
        for cells in rows()
        for path, _ in _CHECK.findall(cells[2])
        if path.startswith("scenario/")
        and not re.search(rf"\b{cells[0]}\b", (ROOT / path).read_text())
    ]
    assert silent == []


def test_rows_that_are_not_true_are_seen() -> None:
    good = ["I1", "text", "`scenario/losses.py:check_with_losses`", "1, 2", "end"]
    assert wrong(good) == ""
    assert "has no" in wrong([*good[:2], "`scenario/losses.py:check_nothing`", *good[3:]])
    assert "does not exist" in wrong([*good[:2], "`scenario/no.py:check`", *good[3:]])
    assert wrong([*good[:2], "checked somehow", *good[3:]]) == "no check, no reason"
    assert wrong([*good[:3], "3", "end"]) == "level 3"
    assert wrong([*good[:4], ""]) == "it does not say when"
    assert wrong(good[:4]) == "4 cells"
