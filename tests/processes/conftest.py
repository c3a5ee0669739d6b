from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.live_cluster import LiveCluster


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Callable[..., LiveCluster]]:
    """Start clusters; they are stopped, and their logs judged, at the end of the test."""
    started: list[LiveCluster] = []

    def start(name: str = "c", **sections: Any) -> LiveCluster:
        started.append(LiveCluster(tmp_path / name, **sections))
        return started[-1]

    yield start
    failures = []
    for cluster in started:
        try:
            cluster.close()
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest.fixture
def cluster(start_cluster: Callable[..., LiveCluster]) -> LiveCluster:
    return start_cluster()
