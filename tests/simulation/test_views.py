"""Contents of snapshots at level 1: what a copy saves, moves to another copy and finds again."""

from __future__ import annotations

import pytest

from scenario.run_one import RunRequest, perform
from sim.durable import apply_sectors
from sim.kernel_views import NOTHING, RegionViews, as_bytes, contents
from snapshot.tree import SnapshotState, SnapshotTree
from transport import operation as op
from transport.operation import Record


def _write(cow_into: int, sector: int, letter: bytes) -> Record:
    return Record(
        1, 0, op.WRITE, 0, sector * 512, 512, 1, 1, 1, letter * 512, seq=1, cow_into=cow_into
    )


def _line(count: int) -> SnapshotTree:
    tree = SnapshotTree("base")
    for number in range(count):
        view = tree.create_read_only(f"s{number}", 1).view
        tree.set_state(view, SnapshotState.ACTIVE)
    return tree


def _put(views: RegionViews, blocks: dict[int, bytes], record: Record) -> None:
    views.overwrite(blocks, record, range(record.offset // 4096, record.offset // 4096 + 1))
    apply_sectors(blocks, record)


def test_each_view_reads_as_it_was_cut() -> None:
    views, blocks, tree = RegionViews(), dict[int, bytes](), _line(2)
    _put(views, blocks, _write(0, 0, b"a"))
    _put(views, blocks, _write(2, 1, b"b"))
    _put(views, blocks, _write(2, 9, b"c"))
    _put(views, blocks, _write(3, 0, b"d"))
    assert as_bytes(views.read(tree, blocks, 2, 0))[:1024] == b"a" * 512 + bytes(512)
    assert views.read(tree, blocks, 2, 1) == NOTHING
    assert as_bytes(views.read(tree, blocks, 3, 0))[:1024] == b"a" * 512 + b"b" * 512
    assert views.read(tree, blocks, 3, 1) == contents(blocks, 1)
    assert views.check() == []


def test_pages_that_are_put_again_are_neither_leaked_nor_shared() -> None:
    views, blocks, tree = RegionViews(), dict[int, bytes](), _line(2)
    for number, letter in ((0, b"a"), (2, b"b"), (3, b"c")):
        _put(views, blocks, _write(number, 0, letter))
    other = views.copy()
    other.put_page(0, views.page_views(0))
    assert other.check() == []
    assert [other.read(tree, blocks, view, 0) for view in (2, 3)] == [
        views.read(tree, blocks, view, 0) for view in (2, 3)
    ]
    other.drop_pages([0])
    assert other.check() == []
    assert other.read(tree, blocks, 2, 0) == contents(blocks, 0)


def test_a_leaked_page_is_found() -> None:
    views = RegionViews()
    views.save(NOTHING)
    assert views.check() == ["pages [0] are leaked or missing"]


@pytest.mark.parametrize("seed", [100, 101, 102])
def test_a_seed_with_snapshots_passes(seed: int) -> None:
    result = perform(
        RunRequest(1, "snapshots", seed, options=(("judge_views", True), ("seconds", 1)))
    )
    assert result.verdict == "passed"
