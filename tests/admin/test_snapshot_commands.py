"""Commands about snapshots, against a view that is not a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from base.errors import CutAbandoned, NoQuorum
from tests.admin.test_cli import Cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.view.rows.clear()
    shared.view.snapshots.clear()
    shared.run("volume", "create", "v1", "1GiB")
    return shared


def test_a_snapshot_is_taken_and_says_how_long_answers_waited(cluster: Cluster) -> None:
    result = cluster.run("snapshot", "create", "v1", "monday")
    assert result.exit_code == 0
    assert result.stdout == "v1@monday of 1 GiB\nready after 12.5 ms; answers waited 3.2 ms\n"


def test_one_point_in_time_of_several_volumes(cluster: Cluster) -> None:
    cluster.run("volume", "create", "v2", "1GiB")
    answer = cluster.json("snapshot", "create", "v1", "monday", "--group", "v2")
    assert [row["ref"] for row in answer["snapshots"]] == ["v1@monday", "v2@monday"]


def test_every_wish_has_a_number_of_its_own(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.run("snapshot", "create", "v1", name)
    first, second = (each["request"] for each in cluster.view.snapshots.asked)
    assert 0 < first != second > 0


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("create", "v9"), "there is no volume v9"),
        (("create", "v1", "a/b"), "'a/b' is not a snapshot name"),
        (("create", "v1", "s1"), "the name s1 is in use"),
        (("create", "v1@s1", "s2"), "s1 is read-only"),
        (("create", "v1@", "s2"), "'v1@' names no view"),
        (("create", "v1", "s2", "--group", "v1"), "names each of its volumes once"),
        (("show", "v1"), "'v1' names no snapshot: write VOLUME@SNAPSHOT"),
        (("show", "v1@s9"), "there is no snapshot s9 of volume v1"),
        (("create", "v1", "s2", "--expire", "2x"), "'2x' is no duration"),
        (("remove", "v1@s1"), "removing v1@s1 cannot be undone: say --yes"),
        (("remove", "v1@s9", "--yes"), "there is no snapshot s9 of volume v1"),
        (("set", "v1@s1"), "--expire and --retain: give one of them"),
        (("set", "v1@s1", "--expire", "1h", "--retain", "2h"), "retention ends after it expires"),
        (("schedule", "add", "v1", "every 15m"), "say how many to keep"),
        (("schedule", "add", "v1", "every 15x keep 3"), "'15x' is no duration"),
        (("schedule", "add", "v1", "above 5MiB/s keep 3"), "rates"),
        (("schedule", "remove", "v1", "every 15m keep 8"), "has no rule `every 15m keep 8`"),
        (("diff", "v1@s1", "v2@s1"), "are of different volumes"),
        (("diff", "v1", "v1@s1"), "names no snapshot"),
        (("diff", "v1@s1", "v1@s9"), "there is no snapshot s9 of volume v1"),
        (("tree", "v9"), "there is no volume v9"),
        (("list", "v9"), "there is no volume v9"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    cluster: Cluster, command: tuple[str, ...], text: str
) -> None:
    cluster.run("snapshot", "create", "v1", "s1")
    result = cluster.run("snapshot", *command)
    assert result.exit_code == 1
    assert text in result.output
    assert len(cluster.json("snapshot", "list", "v1")) == 1


def test_a_point_in_time_that_could_not_be_made_is_definite(cluster: Cluster) -> None:
    cluster.view.snapshots.fails = CutAbandoned("snapshot v1@a was not made")
    result = cluster.run("snapshot", "create", "v1", "a", "--json")
    assert '"code":"cut_abandoned"' in result.output
    assert '"definite":true' in result.output


def test_an_unknown_outcome_says_that_it_may_have_happened(cluster: Cluster) -> None:
    cluster.view.snapshots.fails = NoQuorum("it may yet be made")
    result = cluster.run("snapshot", "create", "v1", "a")
    assert result.exit_code == 1
    assert "it may have happened" in result.output


def test_list_shows_snapshots_and_no_volume(cluster: Cluster) -> None:
    assert "there are no snapshots" in cluster.run("snapshot", "list").stdout
    cluster.run("snapshot", "create", "v1", "monday")
    shown = cluster.run("snapshot", "list").stdout
    assert "v1@monday" in shown
    assert "2023-11-1" in shown
    assert [row["ref"] for row in cluster.json("snapshot", "list", "v1")] == ["v1@monday"]


def test_tree_is_drawn(cluster: Cluster) -> None:
    for name in ("monday", "tuesday"):
        cluster.run("snapshot", "create", "v1", name)
    lines = cluster.run("snapshot", "tree", "v1", "--plain", "--relations").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["volume", "v1", "|- tuesday", "`- monday"]
    assert "copy of" in lines[0]
    assert lines[3].endswith("v1       tuesday")


def test_a_volume_without_snapshots_is_a_tree_too(cluster: Cluster) -> None:
    assert cluster.run("snapshot", "tree", "v1").stdout.splitlines()[1].startswith("v1")


def test_show_tells_one(cluster: Cluster) -> None:
    cluster.run("snapshot", "create", "v1", "monday")
    shown = cluster.run("snapshot", "show", "v1@monday").stdout
    assert "read-only" in shown
    row: Any = cluster.json("snapshot", "show", "v1@monday")
    assert (row["state"], row["parent"], row["taken_ms"]) == ("active", "v1", 1_700_000_000_000)


def test_what_is_retained_is_not_removed_before_and_then_it_is(cluster: Cluster) -> None:
    cluster.run("snapshot", "create", "v1", "monday", "--retain", "1h")
    result = cluster.run("snapshot", "remove", "v1@monday", "--yes")
    assert "it is retained for another 1h" in result.output
    assert "never" in cluster.run("snapshot", "set", "v1@monday", "--retain", "never").stdout
    assert cluster.run("snapshot", "remove", "v1@monday", "--yes").stdout == "v1@monday removed\n"
    assert cluster.json("snapshot", "list") == []


def test_a_snapshot_that_is_not_there_is_not_attached(cluster: Cluster) -> None:
    assert "there is no snapshot s9 of volume v1" in cluster.run("attach", "v1@s9").output
    assert "there is no volume v9" in cluster.run("attach", "v9").output


def test_a_rule_is_given_and_taken_away(cluster: Cluster) -> None:
    shown = cluster.run("snapshot", "schedule", "add", "v1", "every 60s keep 2").stdout
    assert "every 1m keep 2" in shown
    assert "v1" in cluster.run("snapshot", "schedule", "list").stdout
    cluster.run("snapshot", "schedule", "remove", "v1", "every 1m keep 2")
    assert "there are no rules" in cluster.run("snapshot", "schedule", "list", "v1").stdout


def test_diff_says_how_much_and_how_it_was_found(cluster: Cluster) -> None:
    for name in ("monday", "tuesday"):
        cluster.run("snapshot", "create", "v1", name)
    shown = cluster.run("snapshot", "diff", "v1@monday", "v1@tuesday").stdout
    assert "monday → tuesday of v1" in shown
    assert "150 pages in 150 extents, 2.3 MiB of 1 GiB" in shown
    assert "method 500" in shown
    assert "method 500" in cluster.run("snapshot", "diff", "v1@monday", "v1").stdout


def test_diff_names_every_extent_to_programs(cluster: Cluster) -> None:
    cluster.run("snapshot", "create", "v1", "monday")
    answer = cluster.json("snapshot", "diff", "v1@monday", "v1")
    assert answer["extents"] == [[page << 14, 1 << 14] for page in range(0, 300, 2)]
    assert (answer["from"], answer["to"], answer["changed_bytes"]) == ("monday", "v1", 150 << 14)


def test_diff_draws_a_map(cluster: Cluster) -> None:
    cluster.run("snapshot", "create", "v1", "monday")
    shown = cluster.run("snapshot", "diff", "v1@monday", "v1", "--map", "--plain").stdout
    assert "a sign is" in shown
    assert "changed:" not in shown
