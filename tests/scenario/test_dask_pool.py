"""Runs on the workers of a Dask cluster; only where the optional extra is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip(
    "distributed", reason="pip install 'eightfold[distributed]'", exc_type=ImportError
)

pytestmark = [pytest.mark.slow, pytest.mark.simulation, pytest.mark.timeout(120)]

# In a process of its own: Dask leaves threads and loops behind that end with the process.
SWEEP = """
from distributed import LocalCluster
from scenario.dask_pool import DaskPool
from scenario.search import Search
from scenario.sweep import Seeds, Sweep, Tally

if __name__ == "__main__":
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:
        pool = DaskPool(cluster.scheduler_address)
        tally = Tally()
        options = (("seconds", 1), ("heal_s", 25))
        Search(Sweep(Seeds(1, 4), 1, ("default",), "", options, 100), pool).run(tally)
        pool.close()
        print(tally.runs, tally.repeated, len(tally.findings))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=110
    )


def test_seeds_are_run_and_repeated_by_other_processes(tmp_path: object) -> None:
    done = run(SWEEP)
    assert done.stdout.split() == ["4", "4", "0"], done.stderr[-2000:]


def test_scheduler_that_does_not_answer_is_named() -> None:
    code = (
        "import scenario.dask_pool as d; d.CONNECT_S = 1\n"
        "try: d.DaskPool('tcp://127.0.0.1:1')\n"
        "except d.NotConnected as error: print(error)"
    )
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in run(code).stdout
