"""Commands for a cluster that is not as it should be, against a view that is not a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.admin.test_cli import Cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.view.rows.clear()
    shared.run("volume", "create", "v1", "1GiB")
    return shared


def test_a_region_is_not_opened_with_a_loss_that_was_not_accepted(cluster: Cluster) -> None:
    result = cluster.run("region", "recover", "v1", "2")
    assert result.exit_code == 1
    assert "this would lose data" in result.output
    assert "--accept-loss" in result.output
    assert cluster.view.rows["v1"]["regions_forced"] == 0


def test_what_was_lost_is_said_when_it_is_done_and_kept(cluster: Cluster) -> None:
    result = cluster.run("region", "recover", "v1", "2", "--accept-loss")
    assert (result.exit_code, result.stdout) == (0, "region 2 lost epochs 9 to 11\n")
    assert "region 2 lost epochs 9 to 11" in cluster.run("volume", "show", "v1").stdout
    assert cluster.json("volume", "show", "v1")["losses"][0]["lost_last_epoch"] == 11


def test_a_recovery_answers_in_json(cluster: Cluster) -> None:
    answer = cluster.json("region", "recover", "v1", "--all", "--accept-loss")
    assert answer["opened"][0]["copy_epoch"] == 8


def test_a_refused_recovery_is_json_too(cluster: Cluster) -> None:
    result = cluster.run("region", "recover", "v1", "--all", "--json")
    assert json.loads(result.stderr)["code"] == "invalid"


@pytest.mark.parametrize("arguments", [("v1",), ("v1", "2", "--all")])
def test_one_region_or_all_of_them_must_be_named(cluster: Cluster, arguments: Any) -> None:
    result = cluster.run("region", "recover", *arguments)
    assert result.exit_code == 1
    assert "name one REGION, or say --all" in result.output


def test_rebalance_says_what_will_move(cluster: Cluster) -> None:
    result = cluster.run("rebalance")
    assert result.stdout == "3 owners and 1 copies go home; see `eightfold status`\n"


def test_status_says_whether_everything_is_at_home(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "every owner and copy is at home" in cluster.run("status").stdout
    real = cluster.view.status

    async def away() -> Any:
        return {**await real(), "owners_away": 3, "failback": "manual"}

    monkeypatch.setattr(cluster.view, "status", away)
    text = " ".join(cluster.run("status").stdout.split())
    assert "3 owners and 0 copies are away from home; `eightfold rebalance`" in text


def test_a_damped_node_is_listed_with_the_time_that_is_left(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cluster.view.nodes

    async def damped() -> Any:
        rows = await real()
        rows[1] = {**rows[1], "state": "damped", "damped_s": 41}
        return rows

    monkeypatch.setattr(cluster.view, "nodes", damped)
    monkeypatch.setenv("COLUMNS", "200")
    assert "damped, 41 s left" in cluster.run("node", "list").stdout
