"""Scenarios on the simulator: evidence of faults, injectors that do nothing, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scenario import level2_faults
from scenario.files.commands import scenario_app
from scenario.files.library import LIBRARY
from scenario.files.loader import scenario_of
from scenario.files.models import Scenario
from scenario.files.one_run import perform
from scenario.files.verdict import ERROR, INCONCLUSIVE, INVARIANT, OBJECTIVE, PASS, Result
from scenario.mutations import applied

runner = CliRunner()
SMALL = """\
scenario: small
about: One fault in a small cluster.
cluster: {nodes: 4}
volumes: [{name: vol0, regions: 4}]
workloads: [{rate: 100/s, mix: {write: 60, read: 40, flush: 5}, block_sizes: 512..4KiB}]
"""


def small(*steps: str, more: str = "") -> Scenario:
    lines = "".join(f"  - {{{step}}}\n" for step in steps)
    return scenario_of(f"{SMALL}{more}timeline:\n{lines}", source="small")


def after(*steps: str, more: str = "", seed: int = 1) -> Result:
    return perform(small(*steps, more=more), on="sim", seed=seed)


# By verb: the rest of a step that shows it, what its kinds of fault are on the simulator.
SHOWN = {
    "kill": "target: owner of vol0, for: 500ms",
    "power_cut": "target: owner of vol0, for: 500ms",
    "stop": "target: owner of vol0, for: 500ms",
    "pause": "target: owner of vol0, for: 900ms",
    "slow": "target: owner of vol0, for: 900ms, factor: 20",
    "cut": "from: n1, to: n2, for: 900ms, direction: out",
    "partition": "groups: [2 random nodes, the rest], for: 900ms",
    "flap": "from: n1, to: n2",
    "clog": "target: n1, for: 300ms",
    "delay": "target: n1, for: 900ms, by: 20ms",
    "loss": "target: n1, for: 900ms, chance: 5%",
    "duplicate": "target: n1, for: 900ms, chance: 5%",
    "reorder": "target: n1, for: 900ms, chance: 5%",
    "corrupt": "target: n1, for: 900ms, chance: 5%",
    "slow_disk": "target: n1, for: 900ms, factor: 20",
    "disk_error": "target: disk 1 of n1, for: 900ms, what: reads",
    "fill": "target: disk 1 of n1, for: 500ms",
    "sync_failure": "target: owner of vol0, for: 900ms",
    "rot": "target: every disk of owner of vol0, for: 300ms, places: 3",
    "latent_error": "target: every disk of owner of vol0, for: 300ms",
    "loop_cut": "target: loop A of n1, for: 500ms",
    "sled_pull": "target: sled 0 of cage 0 of owner of vol0, for: 500ms",
    "cage_pull": "target: cage 0 of owner of vol0, for: 500ms",
    "disk_dead": "target: disk 0 of owner of vol0, for: 500ms",
    "clock_drift": "target: n1, for: 900ms, ppm: 49000",
    "clock_jump": "target: n1, by: -1h",
}


@pytest.mark.simulation
@pytest.mark.parametrize("verb", SHOWN)
def test_fault_leaves_a_receipt_with_evidence_at_every_station(verb: str) -> None:
    result = after(f"at: 1500ms, do: {verb}, {SHOWN[verb]}")
    assert result.verdict.code == PASS, (result.verdict, result.receipts)
    (receipt,) = result.receipts
    assert receipt.evidence["observed"]
    assert receipt.evidence["healed"]
    times = list(receipt.at_ms.values())
    assert times == sorted(times)
    assert times[-1] >= times[0] + receipt.for_ms


@pytest.mark.simulation
@pytest.mark.parametrize("verb", SHOWN)
def test_injector_that_does_nothing_makes_the_run_inconclusive(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in level2_faults.PERFORM:
        monkeypatch.setitem(level2_faults.PERFORM, kind, lambda _faults, _event: True)
    result = after(f"at: 500ms, do: {verb}, {SHOWN[verb]}", seed=2)
    assert result.verdict.code == INCONCLUSIVE, result.verdict


@pytest.mark.simulation
def test_same_seed_gives_the_same_run_and_another_another() -> None:
    step = "at: 500ms, do: kill, target: a random node, for: 500ms"
    first, second, third = (after(step, seed=seed) for seed in (1, 1, 2))
    assert (first.figures, first.receipts, first.log) == (
        second.figures, second.receipts, second.log,
    )  # fmt: skip
    assert first.figures.trace != third.figures.trace


@pytest.mark.simulation
def test_volume_grows_while_hosts_use_it() -> None:
    result = after("at: 500ms, do: grow, volume: vol0, regions: 3")
    assert result.verdict.code == PASS, result.verdict
    assert result.receipts[0].evidence["done"] == "vol0 has 7 regions"


@pytest.mark.simulation
def test_deliberate_bug_is_an_invariant_that_failed() -> None:
    steps = "at: 500ms, every: 900ms, repeat: 3, do: kill, target: a random owner, for: 400ms"
    with applied("copy-acks-early"):
        codes = [after(steps, seed=seed).verdict for seed in range(1, 9)]
    assert any(each.code == INVARIANT and "I9" in each.reason for each in codes), codes


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # reports go to the working directory


def scenario(*arguments: str) -> Any:
    return runner.invoke(scenario_app, [*arguments])


@pytest.mark.simulation
def test_run_prints_its_receipts_and_verdict_and_the_command_that_repeats_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL + "timeline:\n  - {at: 500ms, do: flap, from: n0, to: n1}\n")
    told = scenario("run", str(path))
    assert told.exit_code == 0, told.output
    assert "PASS  small on sim, seed 1" in told.stdout
    found = json.loads(scenario("run", str(path), "--json").stdout)
    assert found["verdict"]["word"] == "PASS"
    assert found["receipts"][0]["evidence"]["observed"].startswith("session")
    path.write_text(path.read_text() + "expect: {operations_min: 100000}\n")
    missed = scenario("run", str(path), "--quiet", "--seed", "7")
    assert missed.exit_code == 2
    assert f"eightfold scenario run {path} --on sim --seed 7" in missed.stdout


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("steps", "more", "code"),
    [
        ("do: flap, from: n0, to: n1", "", PASS),
        ("do: flap, from: n0, to: n1", "expect: {operations_min: 100000}\n", OBJECTIVE),
        ("do: kill, target: joiner of vol0 region 0, for: 1s", "", INCONCLUSIVE),
        ("do: kil", "", ERROR),
    ],
)
def test_exit_code_is_that_of_the_verdict(steps: str, more: str, code: int, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(f"{SMALL}timeline:\n  - {{at: 500ms, {steps}}}\n{more}")
    assert scenario("run", str(path), "--quiet", "--no-report").exit_code == code
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.simulation
def test_exit_code_of_a_broken_invariant_is_1_and_the_report_is_of_that_run() -> None:
    options = ("--mutation", "read-without-lease", "--seeds", "3", "--quiet")
    told = scenario("run", "paused-owner", *options)
    assert told.exit_code == INVARIANT
    assert "--mutation read-without-lease" in told.stdout
    (made,) = Path("eightfold-reports").glob("*.html")
    assert str(made) in told.stdout
    assert "INVARIANT FAILED" in made.read_text()


def test_mutation_that_there_is_not_or_that_a_world_cannot_have_is_refused() -> None:
    there_is_not = scenario("run", "paused-owner", "--mutation", "read-without-leases")
    assert there_is_not.exit_code == ERROR
    assert "did you mean read-without-lease?" in there_is_not.stderr
    elsewhere = scenario(
        "run", "paused-owner", "--on", "processes", "--mutation", "read-without-lease"
    )
    assert elsewhere.exit_code == ERROR
    assert "into sim only" in elsewhere.stderr


def test_file_that_is_refused_is_an_error_with_exit_code_4(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(SMALL + "timeline:\n  - {at: 1s, do: kil}\n")
    for command in ("run", "check", "show", "explain"):
        told = scenario(command, str(path))
        assert told.exit_code == 4
        assert "did you mean kill?" in told.stderr
    assert scenario("run", "owner-kiled").exit_code == 4
    assert "did you mean owner-killed?" in scenario("run", "owner-kiled").stderr
    assert "there is no world simm: did you mean sim?" in scenario(
        "run", "owner-killed", "--on", "simm"
    ).stderr  # fmt: skip


def test_library_is_listed_shown_and_explained() -> None:
    rows = json.loads(scenario("list", "--json").stdout)
    assert [row["scenario"] for row in rows] == sorted(path.stem for path in LIBRARY.glob("*.yaml"))
    assert all(row["worlds"] for row in rows)
    for row in rows:
        name = row["scenario"]
        assert json.loads(scenario("show", name, "--json").stdout)["scenario"] == name
        assert name in scenario("explain", name).stdout
    on_sim = [row["scenario"] for row in rows if "sim" in row["worlds"].split()]
    assert scenario("check", *on_sim, "--on", "sim").exit_code == 0


def test_words_tell_every_verb_and_target() -> None:
    told = {(row["kind"], row["word"]) for row in json.loads(scenario("words", "--json").stdout)}
    assert {("fault", "kill"), ("operation", "grow"), ("target", "the leader")} <= told
