from collections.abc import Iterator

import pytest

from tests.processes.live_cluster import LiveCluster


@pytest.fixture(scope="session")
def live_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """One cluster for all tests of tools; each makes volumes of its own."""
    cluster = LiveCluster(tmp_path_factory.mktemp("interop") / "c")
    try:
        yield cluster
    finally:
        cluster.close()
