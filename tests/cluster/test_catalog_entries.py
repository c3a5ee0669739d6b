from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from cluster import entries as log
from cluster.catalog import Catalog

ROWS = log.pack_rows([1, 70_000], [2, 7], [5, 1 << 31])
EXAMPLES: list[log.Entry] = [
    log.FormCluster("c", ((0, 0), (3, 9)), (b"\x90",)),
    log.NodeUp(3, 1 << 62, True, False, b"\x90"),
    log.NodeDown(0, 0),
    log.CutPair(1, 2, 3, 4),
    log.CreateGroup(b"\x90"),
    log.CreateVolume("v", 512, "g", 2, 16384, 32, 32, "synced", -1),
    log.GrowVolume(1, 1 << 40),
    log.RemoveVolume((1 << 32) - 1),
    log.recruits(1, np.array([4, 70_000]), np.array([1, 2])),
    log.AdmitCopies(1, ROWS),
    log.CancelJoins(1, ROWS),
    log.MoveOwners(1, ROWS),
    log.RehomeCopies(1, bytes(8), bytes(2)),
    log.ReleaseCopies(1, ROWS),
    log.ForceOpen(1, ROWS, bytes(4 * (len(ROWS) // log.ROW.itemsize))),
    log.Rebalance(True),
    log.DropCopies(1, ROWS),
]


@pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: type(entry).__name__)
def test_every_entry_survives_the_log(entry: log.Entry) -> None:
    assert log.decode(log.encode(entry)) == entry


def test_kinds_are_a_format() -> None:
    kinds = {type(entry).__name__: msgpack.unpackb(log.encode(entry))[0] for entry in EXAMPLES}
    assert kinds == {
        "FormCluster": 1, "NodeUp": 2, "NodeDown": 3, "CutPair": 4, "CreateGroup": 5,
        "CreateVolume": 6, "GrowVolume": 7, "RemoveVolume": 8, "RecruitCopies": 9,
        "AdmitCopies": 10, "CancelJoins": 11, "MoveOwners": 12,
        "RehomeCopies": 13, "ReleaseCopies": 14, "ForceOpen": 15, "Rebalance": 16,
        "DropCopies": 17,
    }  # fmt: skip


def test_packed_rows_come_back() -> None:
    rows = log.unpack_rows(ROWS)
    assert rows.tolist() == [(1, 5, 2), (70_000, 1 << 31, 7)]


@pytest.mark.parametrize(
    "values",
    [
        [3, 8, 1],  # a node that cannot exist
        [3, -1, 1],
        [3, True, 1],  # a bool is not an integer
        [3, 1.0, 1],
        [3, 1],  # a field short
        [3, 1, 1, 1],  # a field too many
        [99, 1, 1],  # an unknown kind
        ["3", 1, 1],
        [],
        7,
        [8, 0],  # volumes count from 1
        [9, 1, b"1234", b"12"],  # not as many nodes as regions
        [10, 1, b"12345678"],  # not whole rows
        [10, 1, b""],
        [10, 1, "123456789"],  # text is not bytes
        [1, "c", [[0, 0, 0]], []],
        [1, "c", [], []],
        [1, "", [[0, 0]], []],
        [6, "v" * 65, 512, "g", 2, 16384, 32, 32, "synced", -1],
    ],
    ids=repr,
)
def test_a_payload_that_breaks_a_type_or_bound_is_refused(values: object) -> None:
    with pytest.raises(InvalidRequest, match="catalog entry"):
        log.decode(msgpack.packb(values))


def test_an_entry_that_breaks_a_bound_is_refused_before_it_is_proposed() -> None:
    with pytest.raises(InvalidRequest, match=r"NodeDown\.node is not between 0 and 7"):
        log.encode(log.NodeDown(8, 1))


@pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: type(entry).__name__)
def test_every_truncation_of_an_entry_is_refused(entry: log.Entry) -> None:
    payload = log.encode(entry)
    for length in range(len(payload)):
        with pytest.raises(InvalidRequest):
            log.decode(payload[:length])


def test_bytes_behind_an_entry_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="not msgpack"):
        log.decode(log.encode(log.NodeDown(0, 0)) + b"\x00")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_are_applied_or_refused_and_never_anything_else(payload: bytes) -> None:
    catalog = Catalog()
    applied = catalog.apply(1, payload)
    assert catalog.version == 1
    if applied.refusal is not None:
        assert applied.refusal[0] in ("invalid", "not_found", "config", "exists", "no_space")


def test_an_entry_that_does_not_decode_is_refused_and_moves_the_version() -> None:
    catalog = Catalog()
    applied = catalog.apply(5, b"\xc1")
    assert applied.refusal == ("invalid", "catalog entry: the payload is not msgpack")
    assert catalog.version == 5
