"""Every scenario of the library passes on the simulator, and what found bugs does so again."""

from __future__ import annotations

import os

import pytest

from scenario.files.library import LIBRARY, find, names
from scenario.files.loader import read, scenario_of
from scenario.files.one_run import perform
from scenario.files.verdict import INVARIANT, PASS
from scenario.files.world import SIM, WORLDS, cannot
from scenario.report.page import page

# `make scenarios` asks for 20.
SEEDS = range(1, 1 + int(os.environ.get("EIGHTFOLD_SCENARIO_SEEDS", "2")))
MUTANT_SEEDS = (1, 2)
ON_SIM = [name for name in names() if not cannot(read(LIBRARY / f"{name}.yaml"), SIM)]
# A page that was rewritten while its sealed copy went to disk waits for a note that nobody asks for
# any more: the journal stays crowded, and hosts wait for room.
CROWDED = [("rebuild-under-load", 6), ("sled-pulled", 4)]


def test_library_tells_the_stories_that_people_come_for() -> None:
    assert len(names()) >= 16
    assert "owner-killed" in names()


@pytest.mark.parametrize("name", names())
def test_scenario_says_what_to_look_at_and_is_named_as_its_file(name: str) -> None:
    scenario = read(LIBRARY / f"{name}.yaml")
    assert scenario.scenario == name
    assert "look at" in " ".join(scenario.about.lower().split()), name
    assert any(cannot(scenario, world) == [] for world in WORLDS.values()), name


def test_all_but_what_the_simulator_lacks_run_on_it() -> None:
    assert sorted(set(names()) - set(ON_SIM)) == ["broker-lost"]


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ON_SIM)
def test_scenario_of_the_library_passes(name: str, seed: int) -> None:
    result = perform(read(find(name)), on="sim", seed=seed)
    told = [(each.name, each.missing, each.why) for each in result.receipts if not each.complete]
    assert result.verdict.code == PASS, (result.verdict, told)


@pytest.mark.simulation
@pytest.mark.parametrize(("name", "seed"), CROWDED)
def test_scenario_passes_with_a_small_journal_too(name: str, seed: int) -> None:
    text = find(name).read_text(encoding="utf-8")
    if "cluster: {" in text:
        text = text.replace("cluster: {", "cluster: {journal: 256KiB, ")
    else:
        text += "cluster: {journal: 256KiB}\n"
    assert perform(scenario_of(text, source=name), on="sim", seed=seed).verdict.code == PASS


# An old member had dropped its copy, by a catalog that its owner did not know when it committed.
RELEASED = [("one-way-link", 20)]


@pytest.mark.simulation
@pytest.mark.parametrize(("name", "seed"), RELEASED)
def test_copy_that_was_released_while_its_owner_did_not_know_is_not_missed(
    name: str, seed: int
) -> None:
    verdict = perform(read(find(name)), on="sim", seed=seed).verdict
    assert verdict.code == PASS, verdict


# (a bug put in on purpose, the scenario that must see it, the rule that it breaks)
BROKEN = [
    ("read-without-lease", "paused-owner", "I5"),
    ("no-checksums", "bit-rot", "I11"),
    ("node-syncs-nothing", "lights-out", "I9"),
    ("recovery-forgets-tail", "owner-killed", "I9"),
    ("send-no-pages", "rebuild-under-load", "I11"),
]


@pytest.mark.simulation
@pytest.mark.parametrize(("mutation", "name", "rule"), BROKEN)
def test_broken_build_makes_the_right_scenario_fail_with_a_report_that_shows_why(
    mutation: str, name: str, rule: str
) -> None:
    found = [
        perform(read(find(name)), on="sim", seed=seed, mutation=mutation) for seed in MUTANT_SEEDS
    ]
    caught = [
        each for each in found if each.verdict.code == INVARIANT and rule in each.verdict.reason
    ]
    assert caught, [each.verdict for each in found]
    told = page(caught[0], lambda _result, *, wide: f"<svg>{wide}</svg>")
    for text in ("INVARIANT FAILED", f"the deliberate bug <b>{mutation}</b>", f"{rule}: "):
        assert text in told, text
