"""plan: scenario files from YAML, refused as a whole with the file, the line and what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml
from pydantic import BaseModel, ValidationError

from base.errors import InvalidRequest
from scenario.faults import nearest
from scenario.files.checks import Wrong, wrong_with
from scenario.files.models import Cluster, Expect, Mix, Scenario, Skew, Volume, Workload
from scenario.files.steps import VERBS

BYTES_MAX: Final = 256 * 1024
VALUES_MAX: Final = 20_000
DEPTH_MAX: Final = 16
Path_ = tuple[str | int, ...]
# By the keys that lead there, without numbers, the model of a part of the file.
_PARTS: Final[dict[Path_, type[BaseModel]]] = {
    (): Scenario, ("cluster",): Cluster, ("volumes",): Volume, ("workloads",): Workload,
    ("workloads", "mix"): Mix, ("workloads", "skew"): Skew, ("expect",): Expect,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lines:
    """Where each value of a file stands."""

    source: str
    by_path: dict[Path_, int]

    def of(self, path: Path_) -> int:
        """The line, from 1, of the value or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.by_path:
                return self.by_path[path[:length]]
        return 1


def read(path: Path) -> Scenario:
    """InvalidRequest: it cannot be read, or says what cannot be."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise InvalidRequest(f"{path}: larger than {BYTES_MAX} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: {error}") from None
    return scenario_of(text, source=str(path))


def scenario_of(text: str, *, source: str) -> Scenario:
    """From a text. InvalidRequest has a line `source:line: what: why` for each mistake."""
    plain, lines = _parsed(text, source)
    try:
        scenario = Scenario.model_validate(plain)
    except ValidationError as error:
        found = [_told(cast(dict[str, Any], each), plain) for each in error.errors()]
        raise _refused(found, lines) from None
    wrong = wrong_with(scenario)
    if wrong:
        raise _refused(wrong, lines)
    return scenario


def _refused(wrong: Iterable[Wrong], lines: Lines) -> InvalidRequest:
    told = sorted((lines.of(each.path), _where(each.path), each.why) for each in wrong)
    return InvalidRequest(
        "\n".join(f"{lines.source}:{line}: {where}: {why}" for line, where, why in told)
    )


def _where(path: Path_) -> str:
    """timeline step 3, target"""
    words: list[str] = []
    for part in path:
        if isinstance(part, int):
            words[-1] = f"{words[-1]} {'step ' if words == ['timeline'] else ''}{part + 1}"
        else:
            words.append(part)
    return ", ".join(words) or "the file"


# ---------------------------------------------------------------------------------- YAML


def _parsed(text: str, source: str) -> tuple[Any, Lines]:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise InvalidRequest(f"{source}:1: not a scenario: keys and values are wanted")
        by_path: dict[Path_, int] = {}
        _walk(root, (), by_path, source, {})
        return loader.construct_document(root), Lines(source, by_path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise InvalidRequest(f"{source}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{source}: not YAML: {error}") from None
    finally:
        loader.dispose()


def _walk(
    node: yaml.Node, path: Path_, by_path: dict[Path_, int], source: str, seen: dict[int, None]
) -> None:
    """Lines of all values. Keys that stand twice are refused, and what stands in two places."""
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise InvalidRequest(f"{source}:{line}: anchors and aliases are not taken: write it twice")
    seen[id(node)] = None
    if len(seen) > VALUES_MAX or len(path) > DEPTH_MAX:
        raise InvalidRequest(f"{source}:{line}: more than a scenario can have")
    by_path.setdefault(path, line)
    if isinstance(node, yaml.SequenceNode):
        for number, inner in enumerate(node.value):
            _walk(inner, (*path, number), by_path, source, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, inner in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidRequest(f"{source}:{line}: a key is one word")
            inside = (*path, str(key.value))
            if inside in by_path:
                before = by_path[inside]
                raise InvalidRequest(
                    f"{source}:{line}: {key.value} stands twice, first in line {before}"
                )
            by_path[inside] = line
            _walk(inner, inside, by_path, source, seen)


# ---------------------------------------------------------------------------------- what is wrong

_RULES: Final = {
    "missing": "it is missing",
    "string_type": "a text is wanted",
    "int_type": "a whole number is wanted",
    "bool_type": "true or false is wanted",
    "tuple_type": "a list is wanted",
    "model_type": "keys and values are wanted",
    "model_attributes_type": "keys and values are wanted",
    "union_tag_not_found": "it is missing: say what to do",
}
_PLAIN: Final = re.compile(r"^(Value error|Input should be) ?,? ?")


def _told(error: dict[str, Any], plain: Any) -> Wrong:
    """One error of pydantic as a person would say it."""
    path, kind = _as_written(tuple(error["loc"]), plain), str(error["type"])
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1], plain)
        return Wrong(path, f"unknown key: {nearest(str(path[-1]), known)}")
    if kind == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        return Wrong((*path, "do"), f"there is no fault or operation {tag}: {nearest(tag, VERBS)}")
    if kind == "union_tag_not_found":
        return Wrong((*path, "do"), _RULES[kind])
    if kind == "string_pattern_mismatch":
        return Wrong(path, f"{error['input']!r} is no name: letters, digits, . _ and -, at most 40")
    text = _RULES.get(kind) or _PLAIN.sub("", str(error["msg"]))
    if kind == "literal_error":
        text = f"{error['input']!r} is not one of {error['ctx']['expected']}"
    return Wrong(path, text)


def _as_written(loc: Path_, plain: Any) -> Path_:
    """A place of pydantic without the tags of unions, which no file has."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        tag = position == 2 and path[:1] == ["timeline"] and part in VERBS
        if not tag:
            path.append(part)
    return tuple(path)


def _known_keys(path: Path_, plain: Any) -> list[str]:
    words = tuple(part for part in path if not isinstance(part, int))
    model: type[BaseModel] | None = _PARTS.get(words)
    if words == ("timeline",):
        model = VERBS.get(str(plain["timeline"][path[1]].get("do")))
    fields = model.model_fields if model is not None else {}
    return [info.alias or name for name, info in fields.items()]
