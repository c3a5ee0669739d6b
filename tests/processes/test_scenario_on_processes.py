"""Scenario files on node processes: evidence of faults, an injector that does nothing, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from admin.local import process_state
from admin.spawn import pause
from scenario.files.library import find, names
from scenario.files.loader import read, scenario_of
from scenario.files.models import Scenario
from scenario.files.one_run import perform
from scenario.files.process_cluster import ProcessCluster
from scenario.files.verdict import INCONCLUSIVE, PASS
from scenario.files.world import PROCESSES, cannot

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(200)]

SMALL = """\
scenario: small
about: Faults in a small cluster of processes.
cluster: {nodes: 3}
volumes: [{name: vol0, regions: 4}]
workloads: [{rate: 60/s, block_sizes: 4KiB..8KiB}]
"""


def small(*steps: str, lasts: str = "9s") -> Scenario:
    lines = "".join(f"  - {{{step}}}\n" for step in steps)
    return scenario_of(f"{SMALL}lasts: {lasts}\ntimeline:\n{lines}", source="small")


def test_faults_leave_receipts_with_evidence_and_hosts_agree() -> None:
    asked = small(
        "name: a, at: 500ms, do: kill, target: owner of vol0, for: 500ms",
        "name: b, after: a healed, wait: 1s, do: pause, target: owner of vol0 region 0, for: 1s",
        "name: c, after: b healed, wait: 1s, do: cut, from: a random owner, to: the rest, for: 2s",
        "after: b healed, do: grow, volume: vol0, regions: 1",
    )
    result = perform(asked, on="processes", seed=1)
    assert result.verdict.code == PASS, (result.verdict, result.receipts)
    assert [each.complete for each in result.receipts] == [True] * 4
    assert "is gone" in result.receipts[0].evidence["observed"]
    assert "state T" in result.receipts[1].evidence["observed"]
    assert "does not hear" in result.receipts[-1].evidence["observed"]
    assert result.figures.operations > 100


def test_injectors_that_do_nothing_make_the_run_inconclusive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for injector in ("signal", "lease", "cut"):
        monkeypatch.setattr(ProcessCluster, injector, lambda *_, **_named: None)
    monkeypatch.setattr("scenario.files.runner.HEAL_MS_MAX", 1000)
    asked = small(
        "at: 500ms, do: kill, target: a random node, for: 500ms",
        "at: 600ms, do: pause, target: a random node, for: 500ms",
        "at: 700ms, do: cut, from: a random node, to: the rest, for: 500ms",
        lasts="3s",
    )
    result = perform(asked, on="processes", seed=1)
    assert result.verdict.code == INCONCLUSIVE
    assert "was not observed" in result.verdict.reason
    assert [each.missing for each in result.receipts] == ["observed"] * 3


def started(tmp_path: Path, text: str) -> subprocess.Popen[str]:
    """A run that has got so far that a fault is seen."""
    path = tmp_path / "small.yaml"
    path.write_text(text)
    command = [sys.executable, "-c", "from scenario.command import main; main()", "scenario"]
    run = subprocess.Popen(
        [*command, "run", str(path), "--on", "processes", "--no-report"],
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    for line in run.stdout:
        if "fault observed" in line:
            return run
    raise AssertionError(f"no fault was observed: {run.wait(60)}")


def nodes_of(tmp_path: Path) -> dict[int, int]:
    """The processes of nodes of a cluster below that directory, and what else works for it: pid by
    number of its node, or 100 and more for others."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(tmp_path) in word for word in words) and "run" not in words:
            found[100 + len(found)] = int(path.name)
    for path in tmp_path.glob("eightfold-scenario-*/data/n*/pid"):
        found[int(path.parent.name[1:])] = json.loads(path.read_text())["pid"]
    return found


def becomes(condition: Callable[[], bool], seconds: float = 40) -> bool:
    for _ in range(int(seconds / 0.1)):
        if condition():
            return True
        pause(0.1)
    return condition()


def test_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    run = started(
        tmp_path, f"{SMALL}lasts: 60s\ntimeline: [{{at: 500ms, do: pause, target: n1, for: 50s}}]\n"
    )
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert run.stdout is not None
    run.stdout.close()
    assert list(tmp_path.glob("eightfold-scenario-*")) == []
    assert nodes_of(tmp_path) == {}


def test_fault_ends_with_its_time_while_the_runner_sleeps_and_all_ends_when_it_dies(
    tmp_path: Path,
) -> None:
    run = started(
        tmp_path, f"{SMALL}lasts: 60s\ntimeline: [{{at: 500ms, do: pause, target: n1, for: 3s}}]\n"
    )
    run.send_signal(signal.SIGSTOP)
    pid = nodes_of(tmp_path)[1]
    assert process_state(pid) == "T"
    assert becomes(lambda: process_state(pid) != "T")
    os.kill(pid, signal.SIGSTOP)  # and whoever is paused when the runner dies
    run.kill()
    run.wait(60)
    assert run.stdout is not None
    run.stdout.close()
    assert becomes(lambda: not list(tmp_path.glob("eightfold-scenario-*")))
    assert becomes(lambda: nodes_of(tmp_path) == {})


# `make scenarios` runs all that this world can.
SOME = ["owner-killed", "split-brain-five-three"]
ALL = [name for name in names() if not cannot(read(find(name)), PROCESSES)]


@pytest.mark.parametrize("name", ALL if os.environ.get("EIGHTFOLD_SCENARIO_SEEDS") else SOME)
def test_scenario_of_the_library_passes_on_processes(name: str) -> None:
    result = perform(read(find(name)), on="processes", seed=1)
    assert result.verdict.code == PASS, (result.verdict, result.receipts)
