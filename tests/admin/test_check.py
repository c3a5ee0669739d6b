"""`eightfold check` against nodes that answer from a table."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import pytest

from admin import check
from base.errors import NotConnected, NotFound
from cluster.catalog import Catalog
from tests.cluster.test_fsck import catalog_with_volumes, held_by


class FakeNode:
    """One node's answers. `changes`: what it keeps at later looks."""

    def __init__(self, catalog: Catalog, node: int) -> None:
        self.node = node
        self.data = catalog.to_bytes()
        self.version = catalog.version
        self.rows = [
            [each.volume, each.region, each.ld, each.ld_region, 1, 1, 10]
            for each in held_by(catalog, node)
        ]
        self.changes: list[list[list[int]]] = []
        self.digests: dict[tuple[int, int], str] = {}
        self.moving = False
        self.silent = False

    def call(self, method: str, path: str, body: object = None, **query: int) -> Any:
        if self.silent:
            raise NotConnected("gone")
        if path == "/v1/check/catalog":
            text = base64.b64encode(self.data).decode() if query.get("bytes") else ""
            return {
                "node": self.node, "version": self.version, "digest": zlib.crc32(self.data),
                "catalog": text,
            }  # fmt: skip
        if path == "/v1/check/regions":
            rows, more = self.rows, self.changes
            if more:
                self.rows = more.pop(0)
            return {"node": self.node, "version": self.version, "total": len(rows), "rows": rows}
        if path == "/v1/check/digest":
            key = (query["volume"], query["region"])
            if [*key] not in [row[:2] for row in self.rows]:
                raise NotFound("no copy")
            self.version += self.moving
            committed = self.version if self.moving else 10
            digest = self.digests.get(key, "aa")
            return {"node": self.node, "epoch": 1, "committed": committed, "digest": digest}
        return {}


class FakeCluster:
    def __init__(self) -> None:
        self.catalog = catalog_with_volumes()
        self.clients = {node: FakeNode(self.catalog, node) for node in range(3)}

    def check(self, *, data: bool = False) -> check.Report:
        return check.run(
            self,
            data=data,
            bar=lambda done, total: None,
            pause=lambda seconds: None,  # type: ignore[arg-type]
        )


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def test_a_cluster_that_is_well_is_clean(cluster: FakeCluster) -> None:
    report = cluster.check(data=True)
    assert report.clean
    assert (report.volumes, report.regions, report.compared) == (2, 20, 10)
    assert check.lines(report)[-1].endswith("bytes of 10 regions compared: no findings")


def test_what_only_one_look_finds_is_not_reported(cluster: FakeCluster) -> None:
    node = cluster.clients[1]
    node.changes = [node.rows]
    node.rows = [*node.rows, [9, 0, 0, 0, 1, 1, 1]]
    assert cluster.check().clean


def test_what_stays_wrong_is_reported_with_its_place(cluster: FakeCluster) -> None:
    cluster.clients[1].rows += [[9, 0, 0, 0, 1, 1, 1]]
    report = cluster.check()
    assert not report.clean
    assert check.lines(report)[0] == "I15: n1 keeps region 0 of volume #9, which is gone"


def test_a_node_that_does_not_answer_is_named(cluster: FakeCluster) -> None:
    cluster.clients[2].silent = True
    report = cluster.check()
    assert not report.clean
    assert "not checked, for they do not answer: n2" in check.lines(report)


def test_no_answer_at_all_is_an_error(cluster: FakeCluster) -> None:
    for node in cluster.clients.values():
        node.silent = True
    with pytest.raises(NotConnected):
        cluster.check()


def test_a_catalog_with_other_bytes_is_reported(cluster: FakeCluster) -> None:
    cluster.clients[2].data += b"x"
    (finding,) = cluster.check().findings
    assert finding.rule == "I12"


def test_copies_that_differ_are_reported(cluster: FakeCluster) -> None:
    row = cluster.catalog.volumes[1].table.row(0, 0)
    node = next(node for node in range(3) if row.is_member(node))
    cluster.clients[node].digests[1, 0] = "bb"
    (finding,) = cluster.check(data=True).findings
    assert finding.text.startswith("volume v region 0 differs between")


def test_regions_that_never_stand_still_are_counted(cluster: FakeCluster) -> None:
    cluster.clients[0].moving = True
    report = cluster.check(data=True)
    assert report.moving
    assert report.clean
    assert any("changed too fast" in line for line in check.lines(report))
