"""Words: events of logs, tags of messages, and what may stand nowhere in the tree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.tidy.tree import BESIDE, PACKAGES, ROOT, Module, called, modules, parsed, texts

LEVELS: Final = ("debug", "info", "warning", "error", "exception", "critical")
_EVENT = re.compile(r"[a-z]+(_[a-z]+)*\.([a-z]+_)*(?P<verb>[a-z]+)(_(?P<particle>[a-z]+))?")
# Past forms that do not end in -ed.
IRREGULAR: Final = (
    "begun", "broken", "built", "chosen", "cut", "found", "frozen", "given", "gone", "grown",
    "heard", "held", "kept", "known", "left", "lost", "made", "met", "read", "run", "seen", "sent",
    "set", "shut", "spent", "split", "taken", "thrown", "torn", "withdrawn", "woken", "written",
)  # fmt: skip
PARTICLES: Final = ("away", "back", "down", "off", "on", "out", "over", "up")
# Not yet past when it is said.
EVENTS: Final[dict[str, str]] = {"node.stopping": "the stop has begun; node.stopped ends it"}

# Written in pieces, or this file would break its own rule.
UNFINISHED: Final = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")
_UNFINISHED = re.compile(r"\b(" + "|".join(UNFINISHED) + r")\b")
_MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home|Users|mnt|nix)/\w")
_REGISTRY = re.compile(
    r"https?://[^\s)>\"']*(pypi|pythonhosted|crates\.io|npm|artifactory|nexus|registry|/simple\b)"
)
HERE: Final = "tests/tidy/test_words.py"


def is_past(event: str) -> bool:
    """noun.past_verb, perhaps with a particle: region.failed_over."""
    match = _EVENT.fullmatch(event)
    if match is None:
        return False
    words = event.partition(".")[2].split("_")
    while len(words) > 1 and words[-1] in PARTICLES:
        words.pop()
    return words[-1].endswith("ed") or words[-1] in IRREGULAR


def events(module: Module) -> Iterator[tuple[int, str]]:
    """(line, event) of every log call, and of every note that a core asks its shell to log."""
    for call in module.calls():
        name = called(call)
        logs = name in tuple(f"{log}.{level}" for log in ("log", "self._log") for level in LEVELS)
        if (logs or name == "Note") and call.args:
            for text in constants(call.args[0]):
                yield call.lineno, text


def constants(node: ast.expr) -> Iterator[str]:
    """Every text that the expression can be."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        yield ast.unparse(node)


def numbers(module: Module, decorator: str) -> list[int]:
    """The numbers that @wire(tag=…) or @_entry(…) give out."""
    return [
        ast.literal_eval((call.args or [kw.value for kw in call.keywords])[0])
        for node in module.classes()
        for call in node.decorator_list
        if isinstance(call, ast.Call) and called(call) == decorator
    ]


def found(pattern: re.Pattern[str], name: str, text: str) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def in_tree(pattern: re.Pattern[str]) -> list[str]:
    return [hit for name, text in texts() if name != HERE for hit in found(pattern, name, text)]


def test_log_events_are_a_noun_and_a_past_verb() -> None:
    said = [(m.name, *event) for m in modules() for event in events(m)]
    assert len(said) > 10
    assert sorted({event for _, _, event in said if not is_past(event)} ^ EVENTS.keys()) == []


@pytest.mark.parametrize(
    "event", ["region.failed_over", "nbd.cut_off", "link.lost", "node.declared_down"]
)
def test_past_event_passes(event: str) -> None:
    assert is_past(event)


@pytest.mark.parametrize("event", ["Region failed over", "region", "region.fail", "region.is_open"])
def test_other_event_is_seen(event: str) -> None:
    assert not is_past(event)
    assert list(events(parsed("x.py", f"log.info({event!r}, node=1)"))) == [(1, event)]


@pytest.mark.parametrize(
    ("name", "decorator"), [("transport/messages.py", "wire"), ("cluster/entries.py", "_entry")]
)
def test_numbers_on_the_wire_and_in_the_log_are_given_once(name: str, decorator: str) -> None:
    given = numbers(next(m for m in modules() if m.name == name), decorator)
    assert len(given) > 5
    assert sorted(set(given)) == sorted(given)


def test_number_given_twice_is_seen() -> None:
    text = "@wire(tag=1)\nclass A: pass\n@wire(2)\nclass B: pass\n@wire(tag=1)\nclass C: pass"
    assert numbers(parsed("x.py", text), "wire") == [1, 2, 1]


def test_nothing_says_that_it_is_unfinished() -> None:
    assert in_tree(_UNFINISHED) == []


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    assert in_tree(_MACHINE_PATH) == []


def test_no_address_of_a_package_registry_is_in_the_tree() -> None:
    assert in_tree(_REGISTRY) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (_UNFINISHED, "# " + UNFINISHED[0] + ": later"),
        (_UNFINISHED, "raise " + UNFINISHED[3]),
        (_MACHINE_PATH, "open('/ho" + "me/ann/x')"),
        (_REGISTRY, "index-url = ht" + "tps://py" + "pi.org/simple"),
    ],
)
def test_each_of_them_is_seen(pattern: re.Pattern[str], line: str) -> None:
    assert found(pattern, "x", line)


def test_path_of_the_system_passes() -> None:
    assert not found(_MACHINE_PATH, "x", "/usr/bin/python3 /proc/self/stat docs/work/x")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_top_level_packages_are_the_agreed_ones() -> None:
    there = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert there == set(PACKAGES)


def test_directories_beside_the_packages_are_the_agreed_ones() -> None:
    made = ("build", "dist", "bench-results", "eightfold-data")
    there = {
        path.name for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not path.name.endswith(".egg-info")
    }  # fmt: skip
    assert there - set(made) == {*PACKAGES, *BESIDE}


def test_every_package_is_installed_typed_and_on_a_floor() -> None:
    tool = project()["tool"]
    floors = [
        name
        for contract in tool["importlinter"]["contracts"]
        if contract["type"] == "layers"
        for layer in contract["layers"]
        for name in layer.split(" | ")
    ]
    assert sorted(floors) == sorted(PACKAGES)
    assert sorted(tool["importlinter"]["root_packages"]) == sorted(PACKAGES)
    assert sorted(tool["mypy"]["packages"]) == sorted(PACKAGES)
    include = tool["setuptools"]["packages"]["find"]["include"]
    assert sorted(name.rstrip("*.") for name in set(include)) == sorted(PACKAGES)


# What is installed under one name and imported under another.
IMPORTED_AS: Final[dict[str, str]] = {"pyyaml": "yaml"}


def needed() -> set[str]:
    """Modules that the project says it needs at run time."""
    names = [re.split(r"[<>=~! \[]", line)[0] for line in project()["project"]["dependencies"]]
    plain = [name.lower().replace("-", "_") for name in names]
    return {IMPORTED_AS.get(name, name) for name in plain}


def test_every_dependency_is_imported_and_every_import_is_a_dependency() -> None:
    imported = {
        name.partition(".")[0]
        for module in modules()
        for node in ast.walk(module.tree)
        for name in imported_names(node)
    }
    own = {*PACKAGES, "tests", *sys.stdlib_module_names}
    assert imported - own == needed()


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_every_dependency_has_a_least_and_a_first_refused_version() -> None:
    everything = project()["project"]["dependencies"]
    assert [line for line in everything if ">=" not in line or ",<" not in line] == []
