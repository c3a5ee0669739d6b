"""Scenario files: what is refused, with which line and which hint; and the published schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from base.errors import InvalidRequest
from scenario.files.library import SCHEMA
from scenario.files.loader import read, scenario_of
from scenario.files.models import schema
from scenario.files.steps import VERBS

HEAD = """\
scenario: test
about: nothing much
volumes:
  - {name: vol0, regions: 4}
timeline:
"""
FIRST = len(HEAD.splitlines()) + 1  # the line of the first step


def refused(timeline: str, *, head: str = HEAD) -> str:
    with pytest.raises(InvalidRequest) as caught:
        scenario_of(head + timeline, source="x.yaml")
    return str(caught.value)


KILL = "do: kill, target: n1, for: 1s"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("at: 1s, do: kil, target: n1, for: 1s", "no fault or operation kil: did you mean kill?"),
        ("at: 1s, target: n1, for: 1s", "say what to do"),
        (f"at: 1s, {KILL}, targt: n2", "targt: unknown key: did you mean target?"),
        (f"at: 1, {KILL}", "1 is no time; write 300ms"),
        (f"at: 1.5, {KILL}", "is no time"),
        (f"at: 0.0001s, {KILL}", "not a whole number of milliseconds"),
        ("at: 1s, do: kill, target: n1", "for: it is missing"),
        ("at: 1s, do: kill, target: n8, for: 1s", "no n8: nodes are n0 to n7"),
        ("at: 1s, do: kill, target: owner of vol1, for: 1s", "no volume vol1: did you mean vol0?"),
        ("at: 1s, do: kill, target: owner of vol0 region 4, for: 1s", "regions 0 to 3, not 4"),
        ("at: 1s, do: kill, target: disk 1 of n2, for: 1s", "means disks, and nodes are wanted"),
        ("at: 1s, do: kill, target: the target of frist, for: 1s", "there is no step frist"),
        ("at: 1s, do: kill, target: the rest, for: 1s", "one group of a partition"),
        ("at: 1s, do: stop, target: n1 and n2, for: 1s", "one node at a time"),
        (f"{KILL}", "it can never run: say at, after, when or every"),
        (f"at: 1s, when: redundant, {KILL}", "at and when exclude each other"),
        (f"at: 1s, repeat: 3, {KILL}", "repeat needs every"),
        (f"at: 1s, every: 0s, {KILL}", "never let time pass"),
        (f"at: 1s, wait: 1s, {KILL}", "wait belongs to after or when"),
        (f"when: redundnt, {KILL}", "did you mean redundant?"),
        (f"after: node dwn, {KILL}", "did you mean node down?"),
        (f"after: first healed, {KILL}", "it can never run: there is no step first"),
        (f"name: first, after: first healed, {KILL}", "it can never run: first waits for this"),
        ("at: 1s, do: slow, target: n1, for: 1s, factor: 1", "greater than or equal to 2"),
        ("at: 1s, do: cut, from: n1, to: n2, for: 1s, direction: up", "'up' is not one of"),
        ("at: 1s, do: partition, groups: [n1], for: 1s", "at least 2 items"),
        ("at: 1s, do: partition, groups: [the rest, the rest], for: 1s", "only one group"),
        ("at: 1s, do: disk_dead, target: disk 4 of n1, for: 1s", "disks 0 to 3, not 4"),
        ("at: 1s, do: fill, target: half of the disks of cage 1, for: 1s", "cages 0 to 0, not 1"),
        ("at: 1s, do: sled_pull, target: sled 1 of cage 0 of n1, for: 1s", "sleds 0 to 0, not 1"),
        ("at: 1s, do: cage_pull, target: cage 2 of n1, for: 1s", "cages 0 to 0, not 2"),
        ("at: 1s, do: loss, target: n1, chance: 0.5, for: 1s", "0.5 is no part; write 5%"),
        ("at: 1s, do: grow, volume: vol9, regions: 2", "there is no volume vol9"),
        ("at: 1s, do: kill, target: ['n1'], for: 1s", "is no target"),
    ],
)
def test_step_that_cannot_be_is_refused_with_its_line_and_the_nearest_name(
    step: str, why: str
) -> None:
    text = refused(f"  - {{{step}}}\n")
    assert text.startswith(f"x.yaml:{FIRST}: timeline step 1")
    assert why in text


@pytest.mark.parametrize(
    ("steps", "line", "why"),
    [
        (
            f"  - {{at: 2s, {KILL}}}\n  - {{at: 1s, {KILL}}}\n", FIRST + 1,
            "1s is before a step above, at 2s",
        ),
        (
            f"  - {{name: a, at: 1s, {KILL}}}\n  - {{name: a, at: 2s, {KILL}}}\n", FIRST + 1,
            "a is given twice",
        ),
        (f"  - {{at: 9s, {KILL}}}\nlasts: 8s\n", FIRST, "it can never run: 9s is not before"),
        (f"  - {{every: 9s, {KILL}}}\nlasts: 8s\n", FIRST, "it can never run"),
        (
            f"  - {{name: a, at: 1s, {KILL}}}\n  - {{after: a done, {KILL}}}\n", FIRST + 1,
            "a is a fault: struck, observed or healed",
        ),
        (
            f"  - {{name: a, at: 1s, {KILL}}}\n  - {{after: a healed, nth: 2, {KILL}}}\n",
            FIRST + 1, "a happens 1 times, and nth is 2",
        ),
        (
            f"  - {{name: g, at: 1s, do: grow, volume: vol0, regions: 1}}\n"
            f"  - {{after: g healed, {KILL}}}\n", FIRST + 1, "g is an operation: done",
        ),
        (
            f"  - {{name: a, after: b healed, {KILL}}}\n  - {{name: b, after: a healed, {KILL}}}\n",
            FIRST, "b waits for this step",
        ),
        ("  - at: 1s\n    do: kill\n    target: n9\n    for: 1s\n", FIRST + 2, "no n9"),
        (f"  - {{at: 1s, {KILL}}}\nexpect: {{seen: [node dwn]}}\n", FIRST + 1, "did you mean node"),
        (f"  - {{at: 1s, {KILL}}}\nexpct: {{}}\n", FIRST + 1, "unknown key: did you mean expect?"),
        (f"  - {{at: 1s, {KILL}}}\nworkloads: [{{rte: 1/s}}]\n", FIRST + 1, "did you mean rate?"),
        (f"  - {{at: 1s, {KILL}}}\nworkloads: [{{volumes: [v7]}}]\n", FIRST + 1, "no volume v7"),
        (
            f"  - {{at: 1s, {KILL}}}\nworkloads: [{{}}, {{block_sizes: 1KiB}}]\n", FIRST + 1,
            "all workloads begin at the same size",
        ),
        (f"  - {{at: 1s, {KILL}}}\ncluster: {{grace: 450ms}}\n", FIRST + 1, "a quarter longer"),
        (f"  - {{at: 1s, {KILL}}}\ncluster: {{nodes: 2}}\n", FIRST + 1, "greater than or equal"),
        (
            "  - {at: 1s, do: power_cut, target: every node, for: 1s}\n"
            "workloads: [{mix: {trim: 5}}]\n", FIRST + 1, "zeros",
        ),
    ],
)  # fmt: skip
def test_file_that_cannot_be_is_refused_with_the_line(steps: str, line: int, why: str) -> None:
    lines = refused(steps).splitlines()
    assert any(each.startswith(f"x.yaml:{line}: ") and why in each for each in lines), lines


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a scenario"),
        ("- 1\n", "not a scenario"),
        ("a: [\n", "not YAML"),
        ("a: 1\na: 2\n", "x.yaml:2: a stands twice, first in line 1"),
        ("a: &x 1\nb: *x\n", "anchors and aliases are not taken"),
        ("a: !!python/object/apply:os.getcwd []\n", "not YAML"),
        ("? [a]\n: 1\n", "a key is one word"),
        ("a: 2026-99-99\n", "not YAML"),
        ("a: " + "[" * 5000, "not YAML"),
        ("a: " + "[" * 40 + "]" * 40, "more than a scenario can have"),
    ],
)
def test_what_is_no_scenario_is_refused(text: str, why: str) -> None:
    assert why in refused("", head=text)


def test_every_mistake_is_told_at_once() -> None:
    text = refused("  - {at: 1s, do: kill, target: n9}\n  - {at: 1s, do: kil}\n")
    assert len(text.splitlines()) == 2


def test_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"No such file"):
        read(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("#" * 300_000)
    with pytest.raises(InvalidRequest, match=r"larger than"):
        read(tmp_path / "x.yaml")


def test_least_file_has_defaults_for_the_rest() -> None:
    scenario = scenario_of("scenario: a\nabout: b\n", source="x.yaml")
    assert (scenario.cluster.nodes, scenario.volumes[0].name, scenario.lasts_ms) == (
        8,
        "vol0",
        2000,
    )


def test_published_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), (
        "run: eightfold scenario schema > configs/scenarios/schema.json"
    )


def test_schema_knows_every_verb_and_refuses_unknown_keys() -> None:
    definitions = schema()["$defs"]
    verbs = {
        verb
        for each in definitions.values()
        for verb in (
            [each["properties"]["do"]["const"]]
            if "const" in each.get("properties", {}).get("do", {})
            else each.get("properties", {}).get("do", {}).get("enum", [])
        )
    }
    assert verbs == set(VERBS)
    assert all(each["additionalProperties"] is False for each in definitions.values())
