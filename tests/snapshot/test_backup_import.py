from __future__ import annotations

from dataclasses import replace

import pytest

from base.errors import AlreadyExists, InvalidRequest, NotFound, StorageError
from snapshot.backup_import import ImportPlan, ImportTarget, plan_import
from snapshot.backup_stream import BackupHeader

HEADER = BackupHeader("lab", 7, "vol", 12, "tuesday", 1 << 20, 4096, 9, "monday")
FULL = replace(HEADER, base_view=0, base_name="")
COPY = ImportTarget(
    "copy", True, 1 << 20, "monday", names=frozenset({"copy", "monday"}),
    sources={"monday": ("lab", 7, 9)},
)  # fmt: skip


def test_a_full_backup_makes_a_volume() -> None:
    plan = plan_import(FULL, ImportTarget("copy", exists=False))
    assert plan == ImportPlan("copy", True, 1 << 20, "tuesday", ("lab", 7, 12))


def test_a_difference_goes_on_from_its_base() -> None:
    plan = plan_import(HEADER, COPY)
    assert plan == ImportPlan("copy", False, 1 << 20, "tuesday", ("lab", 7, 12))


def test_a_volume_that_has_grown_meanwhile_grows_the_copy() -> None:
    assert plan_import(replace(HEADER, size_bytes=1 << 21), COPY).size_bytes == 1 << 21


@pytest.mark.parametrize(
    ("header", "target", "error", "text"),
    [
        (FULL, COPY, AlreadyExists, "volume copy exists"),
        (HEADER, ImportTarget("copy", False), NotFound, "copy does not exist: .* since monday"),
        (HEADER, replace(COPY, names=frozenset({"sunday"})), NotFound, "no snapshot monday"),
        (HEADER, replace(COPY, sources={}), InvalidRequest, "monday of volume copy was not impo"),
        (
            HEADER, replace(COPY, sources={"monday": ("lab", 8, 9)}), InvalidRequest,
            "another one of that name: view 9 of volume 8 of cluster lab, and .* of volume 7",
        ),
        (HEADER, replace(COPY, sources={"monday": ("home", 7, 9)}), InvalidRequest, "cluster home"),
        (HEADER, replace(COPY, newest="noon"), InvalidRequest, "is at noon, .* monday"),
        (HEADER, replace(COPY, changed=True), InvalidRequest, "written since monday"),
        (
            HEADER, replace(COPY, names=COPY.names | {"tuesday"}), AlreadyExists,
            "has a snapshot tuesday already",
        ),
        (HEADER, replace(COPY, size_bytes=1 << 21), InvalidRequest, "never shrinks"),
    ],
)  # fmt: skip
def test_an_import_that_would_not_give_the_view_is_refused(
    header: BackupHeader, target: ImportTarget, error: type[StorageError], text: str
) -> None:
    with pytest.raises(error, match=text):
        plan_import(header, target)
