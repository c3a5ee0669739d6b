"""The question for a topology and its answer, as bytes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import RemoteProtocolError
from base.units import MiB
from host.topology import (
    Topology,
    pack_query,
    pack_topology,
    pack_unchanged,
    unpack_query,
    unpack_topology,
)

PLAIN: tuple[Any, ...] = (7, 3, 3 * MiB, 2 * MiB, 512, False, b"\x00\xff", (0, 5))


def changed(field: int, value: Any) -> bytes:
    values = list(PLAIN)
    values[field] = value
    packed: bytes = msgpack.packb(values)
    return packed


def test_a_topology_comes_back_as_it_was_packed() -> None:
    topology = Topology(*PLAIN)
    assert unpack_topology(pack_topology(topology)) == topology


def test_a_topology_has_one_owner_for_each_begun_region() -> None:
    assert Topology(*PLAIN).regions == 2


def test_a_question_comes_back_as_it_was_packed() -> None:
    assert unpack_query(pack_query("vé", 41)) == ("vé", 41)


def test_an_answer_that_nothing_changed_holds_no_topology() -> None:
    assert unpack_topology(pack_unchanged(7)) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, -1),
        (0, 1 << 63),
        (0, True),
        (1, 1 << 32),
        (2, 0),
        (2, 3 * MiB + 1),
        (2, 5 * MiB),  # three regions, two owners
        (2, 2 * MiB),  # one region, two owners
        (3, 0),
        (3, 1 << 32),
        (3, 2 * MiB + 1),
        (4, 256),
        (4, 8192),
        (4, 1536),
        (5, 1),
        (6, "\x00\x01"),
        (6, b"\x00"),
        (6, b"\x00\x08"),
        (6, b"\x00\xfe"),
        (7, 3),
        (7, (8,)),
        (7, (-1,)),
        (7, (1, 1)),
        (7, (5, 0)),
        (7, ("0",)),
    ],
)
def test_a_topology_that_breaks_a_bound_is_refused(field: int, value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_topology(changed(field, value))


@pytest.mark.parametrize(
    "packed",
    [b"", b"\xc1", b"\x93\x01", msgpack.packb(7), msgpack.packb({}), msgpack.packb([1, 2])],
)
def test_bytes_that_are_no_topology_are_refused(packed: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_topology(packed)


@pytest.mark.parametrize(
    "question", [["v"], ["", 0], ["v", -1], [b"v", 0], ["v", 0, 0], ["v" * 256, 0]]
)
def test_a_question_that_breaks_a_bound_is_refused(question: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_query(msgpack.packb(question))


@settings(deadline=None, max_examples=300)
@given(packed=st.binary(max_size=64))
def test_any_bytes_are_a_topology_or_a_protocol_error(packed: bytes) -> None:
    for unpack in (unpack_topology, unpack_query):
        try:
            unpack(packed)
        except RemoteProtocolError:
            continue
