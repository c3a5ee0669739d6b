"""Documents point at files that exist, and decisions have their four parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.tidy.tree import PACKAGES, ROOT, texts

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
_ROOM = re.compile(r"`((?:" + "|".join(PACKAGES) + r")/[\w/]+\.py)`")
PARTS: Final = ("Context", "Options", "Decision", "Consequences")
DOCUMENTS = {name: text for name, text in texts() if name.endswith(".md")}
DECISIONS = sorted(name for name in DOCUMENTS if name.startswith("docs/decisions/"))


def broken_links(name: str, text: str) -> list[str]:
    return [
        target
        for target, _ in _LINK.findall(text)
        if "://" not in target and not (ROOT / Path(name).parent / target).exists()
    ]


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_links_lead_somewhere(name: str) -> None:
    assert broken_links(name, DOCUMENTS[name]) == []


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_modules_that_are_named_exist(name: str) -> None:
    assert [room for room in _ROOM.findall(DOCUMENTS[name]) if not (ROOT / room).exists()] == []


def test_broken_link_is_seen() -> None:
    assert broken_links("docs/x.md", "see [this](nowhere.md#part)") == ["nowhere.md"]


@pytest.mark.parametrize("name", DECISIONS)
def test_decision_has_its_parts(name: str) -> None:
    heads = [line[3:] for line in DOCUMENTS[name].splitlines() if line.startswith("## ")]
    assert heads == list(PARTS)


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [Path(name).name[:4] for name in DECISIONS] == [
        f"{number:04}" for number in range(1, len(DECISIONS) + 1)
    ]
