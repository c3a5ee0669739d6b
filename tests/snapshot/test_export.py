"""Backups of random trees: a copy made from streams is the view, in both formats."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from base.errors import InvalidRequest
from snapshot.backup_stream import (
    BackupWriter,
    DataExtent,
    ResumePoint,
    extents_of,
    last_good_point,
    verify,
)
from snapshot.export import PageRun, header_of, plan_export
from snapshot.rbd_stream import RbdData, RbdHeader, RbdWriter, contents_of
from snapshot.rbd_stream import verify as verify_rbd
from snapshot.tree import SnapshotState
from tests.snapshot.family import Content, Family
from tests.snapshot.test_snapshot_histories import step

PAGE = 1024
HALF = PAGE // 2


def grown(seed: int) -> tuple[Family, random.Random]:
    rng = random.Random(seed)
    family = Family()
    for number in range(60):
        step(family, rng, number)
    return family, rng


def points(family: Family) -> list[int]:
    return [
        each.view for each in family.tree
        if not each.writable and each.state is SnapshotState.ACTIVE
    ]  # fmt: skip


def contents(page: Content) -> bytes:
    return b"".join(half.to_bytes(4, "little") * (HALF // 4) for half in page)


def image(family: Family, view: int) -> bytes:
    return b"".join(contents(page) for page in family.model[view])


def written_in(family: Family, region: int) -> NDArray[np.bool_] | None:
    count = family.shape.region_pages
    mask = np.array([region * count + at in family.base for at in range(count)])
    return mask if mask.any() else None


def planned(family: Family, view: int, base: int = 0, **more: int) -> list[PageRun]:
    return list(
        plan_export(
            family.tree,
            family.tables,
            view,
            base,
            family.shape,
            lambda region: written_in(family, region),
            **more,
        )
    )


def exported(family: Family, view: int, base: int = 0, point: ResumePoint | None = None) -> bytes:
    header = header_of(
        family.tree, view, base, cluster="lab", volume_id=1, size_bytes=family.pages * PAGE,
        block_bytes=PAGE, taken_ms=0,
    )  # fmt: skip
    writer = BackupWriter(header, point)
    parts = [] if point else [writer.begin()]
    start = point.offset // PAGE if point else 0
    for run in planned(family, view, base, from_page=start, run_pages_max=3):
        if run.zero:
            parts.append(writer.zero(run.first * PAGE, run.pages * PAGE))
        else:
            pages = [contents(family.read(view, run.first + at)) for at in range(run.pages)]
            parts += writer.data(run.first * PAGE, b"".join(pages))
    return b"".join([*parts, writer.finish()])


def imported(copy: bytearray, stream: bytes) -> None:
    for extent in extents_of([stream], verify([stream])):
        data = extent.data if isinstance(extent, DataExtent) else bytes(extent.length)
        copy[extent.offset : extent.offset + len(data)] = data


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_full_backup_and_a_difference_make_the_newer_view(seed: int) -> None:
    family, rng = grown(seed)
    if len(points(family)) < 2:
        return
    one, other = rng.sample(points(family), 2)
    copy = bytearray(family.pages * PAGE)
    imported(copy, exported(family, one))
    assert bytes(copy) == image(family, one)
    imported(copy, exported(family, other, one))
    assert bytes(copy) == image(family, other)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from((1, 2)))
def test_an_rbd_difference_makes_the_newer_view(seed: int, version: int) -> None:
    family, rng = grown(seed)
    if len(points(family)) < 2:
        return
    one, other = rng.sample(points(family), 2)
    names = family.tree[one].name, family.tree[other].name
    writer = RbdWriter(RbdHeader(version, *names, family.pages * PAGE))
    parts = [writer.begin()]
    for run in planned(family, other, one):
        if run.zero:
            parts.append(writer.zero(run.first * PAGE, run.pages * PAGE))
        else:
            pages = [contents(family.read(other, run.first + at)) for at in range(run.pages)]
            parts += writer.data(run.first * PAGE, b"".join(pages))
    stream = b"".join([*parts, writer.finish()])
    copy = bytearray(image(family, one))
    for each in contents_of([stream], verify_rbd([stream])):
        data = each.data if isinstance(each, RbdData) else bytes(each.length)
        copy[each.offset : each.offset + len(data)] = data
    assert bytes(copy) == image(family, other)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.floats(0, 1))
def test_an_export_that_was_cut_off_goes_on_although_the_volume_was_written(
    seed: int, part: float
) -> None:
    family, rng = grown(seed)
    if not points(family):
        return
    view = rng.choice(points(family))
    whole = exported(family, view)
    torn = whole[: int(part * (len(whole) - 1))]
    for page in range(family.pages):
        family.write(1, page)
    point = last_good_point([torn])
    kept = torn[: point.position] if point else b""
    assert kept + exported(family, view, point=point) == whole


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_difference_names_what_lies_elsewhere_and_nothing_else(seed: int) -> None:
    family, rng = grown(seed)
    if len(points(family)) < 2:
        return
    one, other = rng.sample(points(family), 2)
    runs = planned(family, other, one)
    named = [run.first + at for run in runs for at in range(run.pages)]
    assert named == family.differing_locations(one, other)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 17), st.booleans())
def test_a_plan_from_a_page_on_is_the_rest_of_the_plan(seed: int, first: int, full: bool) -> None:
    family, rng = grown(seed)
    if len(points(family)) < 2:
        return
    one, other = rng.sample(points(family), 2)
    base = 0 if full else one
    whole = planned(family, other, base, run_pages_max=1)
    zeros = {run.first + at for run in whole if run.zero for at in range(run.pages)}
    data = {run.first for run in whole if not run.zero}
    rest = planned(family, other, base, from_page=first, run_pages_max=1)
    assert {run.first for run in rest if not run.zero} == {at for at in data if at >= first}
    found = {run.first + at for run in rest if run.zero for at in range(run.pages)}
    assert found == {at for at in zeros if at >= first}


@pytest.mark.parametrize("full", [True, False])
def test_a_plan_that_is_made_in_parts_is_the_same(
    monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    family, rng = grown(3)
    one, other = rng.sample(points(family), 2)
    base = 0 if full else one
    whole = planned(family, other, base)
    assert len(whole) > 1
    monkeypatch.setattr("snapshot.export.CHUNK_PAGES", 2)
    assert planned(family, other, base) == whole


def test_a_full_export_names_only_what_has_contents() -> None:
    family = Family()
    for page in (0, 5, 6, 7, 16):
        family.write(1, page)
    family.trim(1, 7)
    view = family.create(1, "a")
    family.write(1, 1)
    assert planned(family, view) == [
        PageRun(0, 1, False), PageRun(5, 2, False), PageRun(16, 1, False),
    ]  # fmt: skip


def test_a_difference_says_what_is_zeros_now() -> None:
    family = Family()
    family.write(1, 4)
    family.write(1, 5)
    base = family.create(1, "a")
    family.trim(1, 4)
    family.write(1, 5)
    family.write(1, 6)
    view = family.create(1, "b")
    assert planned(family, view, base) == [PageRun(4, 1, True), PageRun(5, 2, False)]
    assert planned(family, base, view) == [PageRun(4, 2, False), PageRun(6, 1, True)]


def test_runs_are_joined_across_regions_and_cut_where_they_are_long() -> None:
    family = Family()
    for page in range(1, 17):
        family.write(1, page)
    view = family.create(1, "a")
    runs = planned(family, view, run_pages_max=5)
    assert [(run.first, run.pages) for run in runs] == [(1, 5), (6, 5), (11, 5), (16, 1)]


def test_zeros_are_one_run_however_many() -> None:
    family = Family()
    for page in range(18):
        family.write(1, page)
    base = family.create(1, "a")
    for page in range(18):
        family.trim(1, page)
    assert planned(family, family.create(1, "b"), base, run_pages_max=2) == [PageRun(0, 18, True)]


@pytest.mark.parametrize(
    ("view", "base", "rule"),
    [
        ("base", "", "base is writable and never one point in time"),
        ("a", "base", "base is writable"),
        ("stale", "", "stale is stale and no point in time"),
        ("a", "stale", "stale is stale"),
        ("a", "a", "a cannot be its own base"),
    ],
)
def test_what_is_no_point_in_time_is_not_exported(view: str, base: str, rule: str) -> None:
    family = Family()
    family.create(1, "a")
    family.tree.set_state(family.create(1, "stale"), SnapshotState.STALE)
    number = {each.name: each.view for each in family.tree} | {"": 0}
    with pytest.raises(InvalidRequest, match=rule):
        planned(family, number[view], number[base])
