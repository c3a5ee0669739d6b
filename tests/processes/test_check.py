"""`eightfold check` on real processes that hosts have used."""

import json
import signal

import pytest

from base.units import MiB
from tests.processes.checked_host import CheckedHost
from tests.processes.live_cluster import LiveCluster
from tests.processes.test_kill_and_restart import fill

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(400)]

SIZE = 48 * MiB


def test_a_cluster_that_was_written_to_is_clean_and_its_copies_are_equal(
    cluster: LiveCluster,
) -> None:
    cluster.create("v", SIZE)
    fill(CheckedHost(cluster.addresses(0), "v", SIZE))
    report = json.loads(cluster.run("check", "--data"))
    assert report["clean"], report["findings"]
    assert report["moving"] == []
    assert report["compared"] >= 1
    assert report["regions"] >= 2 * report["compared"]


def test_a_node_that_does_not_answer_makes_the_check_fail(
    cluster: LiveCluster,
) -> None:
    cluster.create("v", SIZE)
    cluster.signal(3, signal.SIGKILL)
    cluster.wait_members(7)
    cluster.run("check", succeeds=False)
