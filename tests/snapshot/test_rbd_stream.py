"""RBD differences: by the letters of the format, in any chunks, and hostile ones."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from base.units import MiB
from snapshot.rbd_stream import (
    PIECE_BYTES_MAX,
    RbdData,
    RbdEnd,
    RbdEvent,
    RbdHeader,
    RbdReader,
    RbdWriter,
    RbdZero,
    contents_of,
    verify,
)

Contents = RbdData | RbdZero

# Made by hand from the description of the format, not by the writer under test.
V1 = (
    b"rbd diff v1\n"
    b"f\x03\0\0\0mon"
    b"t\x03\0\0\0tue"
    b"s\x00\x10\0\0\0\0\0\0"
    b"w\x10\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0abcd"
    b"z\x00\x08\0\0\0\0\0\0\x00\x02\0\0\0\0\0\0"
    b"e"
)
V2 = (
    b"rbd diff v2\n"
    b"f\x07\0\0\0\0\0\0\0\x03\0\0\0mon"
    b"t\x07\0\0\0\0\0\0\0\x03\0\0\0tue"
    b"s\x08\0\0\0\0\0\0\0\x00\x10\0\0\0\0\0\0"
    b"w\x14\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0abcd"
    b"z\x10\0\0\0\0\0\0\0\x00\x08\0\0\0\0\0\0\x00\x02\0\0\0\0\0\0"
    b"e"
)
CONTENTS: list[Contents] = [RbdData(16, b"abcd"), RbdZero(2048, 512)]
BOTH = pytest.mark.parametrize(("version", "stream"), [(1, V1), (2, V2)])


def written(header: RbdHeader, contents: list[Contents]) -> bytes:
    writer = RbdWriter(header)
    parts = [writer.begin()]
    for each in contents:
        if isinstance(each, RbdData):
            parts += writer.data(each.offset, each.data)
        else:
            parts.append(writer.zero(each.offset, each.length))
    return b"".join([*parts, writer.finish()])


def read(stream: bytes, size: int = 0) -> list[RbdEvent]:
    reader = RbdReader()
    size = size or len(stream)
    events = [
        event
        for at in range(0, len(stream), size)
        for event in reader.receive_data(stream[at : at + size])
    ]
    reader.close()
    return events


@BOTH
def test_the_writer_follows_the_letters_of_the_format(version: int, stream: bytes) -> None:
    assert written(RbdHeader(version, "mon", "tue", 4096), CONTENTS) == stream


@BOTH
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_reader_follows_the_letters_of_the_format(
    version: int, stream: bytes, size: int
) -> None:
    end = RbdEnd(records=2, data_bytes=4, zero_bytes=512, skipped=0)
    assert read(stream, size) == [RbdHeader(version, "mon", "tue", 4096), *CONTENTS, end]


def test_a_full_difference_names_no_snapshot() -> None:
    assert read(written(RbdHeader(1, size_bytes=512), []))[0] == RbdHeader(1, "", "", 512)


def test_metadata_come_in_any_order() -> None:
    stream = V1[:12] + V1[28:37] + V1[20:28] + V1[12:20] + V1[37:]
    assert read(stream) == read(V1)


def test_version_2_steps_over_what_it_does_not_know() -> None:
    unknown = b"q" + struct.pack("<Q", 5) + b"hello"
    found = read(V2[:12] + unknown + V2[12:-1] + unknown + b"e", size=2)
    assert found[:-1] == read(V2)[:-1]
    assert isinstance(found[-1], RbdEnd)
    assert found[-1].skipped == 2


@st.composite
def some_contents(draw: st.DrawFn) -> list[Contents]:
    edges = sorted(draw(st.sets(st.integers(0, 4096), max_size=12)))
    found: list[Contents] = []
    for first, last in pairwise(edges):
        kind = draw(st.sampled_from("wz-"))
        if kind == "w":
            found.append(RbdData(first, draw(st.binary(min_size=1, max_size=1)) * (last - first)))
        elif kind == "z":
            found.append(RbdZero(first, last - first))
    return found


@given(st.sampled_from((1, 2)), st.text(max_size=20), some_contents(), st.integers(1, 600))
def test_what_is_written_is_read_in_any_chunks(
    version: int, name: str, contents: list[Contents], size: int
) -> None:
    header = RbdHeader(version, name.replace("\0", ""), "", 4096)
    assert read(written(header, contents), size)[:-1] == [header, *contents]


def test_a_long_record_comes_in_pieces_and_memory_is_bounded() -> None:
    length = 5 * PIECE_BYTES_MAX + 7
    head = b"rbd diff v1\ns" + struct.pack("<Q", 1 << 40) + b"w" + struct.pack("<QQ", 99, length)
    reader = RbdReader()
    reader.receive_data(head)
    pieces, most = [], 0
    for at in range(0, length, 100_000):
        pieces += reader.receive_data(bytes(min(100_000, length - at)))
        most = max(most, len(reader._buffer))
    assert [each.offset for each in pieces if isinstance(each, RbdData)] == [
        99 + number * MiB for number in range(6)
    ]
    assert most < PIECE_BYTES_MAX
    reader.receive_data(b"e")
    assert reader.close().data_bytes == length


@BOTH
def test_a_stream_that_is_cut_short_is_refused_at_every_byte(version: int, stream: bytes) -> None:
    assert version
    for length in range(len(stream)):
        with pytest.raises(InvalidRequest, match=r"rbd diff: at byte \d+: .*cut short"):
            verify([stream[:length]])


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


ONE, TWO = b"rbd diff v1\n", b"rbd diff v2\n"
SIZE = b"s" + u64(4096)


@pytest.mark.parametrize(
    ("stream", "rule"),
    [
        (b"hello world!", "no rbd diff of version 1 or 2"),
        (b"rbd diff v3\n", "no rbd diff of version 1 or 2"),
        (b"rbd image v2\n", "whole image"),
        (ONE + b"q", "tag 71 is unknown, and version 1 cannot step over it"),
        (ONE + SIZE + SIZE + b"e", "a second size"),
        (ONE + b"s" + u64(1 << 63), "a size of 9223372036854775808 bytes is impossible"),
        (ONE + b"f\1\0\0\0af\1\0\0\0be", r"a second snapshot \(f\)"),
        (ONE + b"f\0\0\0\0e", "name of 0 bytes"),
        (ONE + b"t\xff\xff\xff\xff", "name of 4294967295 bytes"),
        (ONE + b"f\1\0\0\0\xff", r"name \(f\) is no UTF-8"),
        (ONE + b"z" + u64(0) + u64(1), r"contents before the size"),
        (ONE + SIZE + b"z" + u64(0) + u64(0), "a record of nothing at 0"),
        (ONE + SIZE + b"z" + u64(4000) + u64(97), "97 bytes at 4000 end behind"),
        (ONE + SIZE + b"w" + u64(1 << 63) + u64(1 << 63), "end behind the end of the image"),
        (ONE + SIZE + b"z" + u64(0) + u64(1) + SIZE, r"metadata \(s\) behind the first contents"),
        (ONE + b"ee", "bytes behind the end"),
        (TWO + b"s" + u64(9) + u64(4096), "record s says 9 bytes and has 8"),
        (TWO + b"f" + u64(4) + b"\3\0\0\0mon", "record f says 4 bytes and has 7"),
        (TWO + b"s" + u64(8) + u64(4096) + b"z" + u64(17) + u64(0) + u64(1), "says 17 bytes"),
        (TWO + b"s" + u64(8) + u64(4096) + b"w" + u64(16) + u64(0) + u64(1), "16 bytes and has 17"),
        (TWO + b"q" + u64((1 << 64) - 1) + bytes(99), "cut short"),
    ],
)
def test_a_stream_that_breaks_a_rule_is_refused_with_the_place(stream: bytes, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^rbd diff: at byte \d+: .*{rule}"):
        verify([stream[at : at + 1] for at in range(len(stream))])


@settings(max_examples=300)
@given(st.sampled_from((b"", ONE, TWO, ONE + SIZE)), st.binary(max_size=80))
def test_any_bytes_end_in_a_refusal_or_a_good_difference(line: bytes, tail: bytes) -> None:
    try:
        header, end = verify([line + tail])
    except InvalidRequest:
        return
    assert (line + tail).endswith(b"e")
    assert end.data_bytes + end.zero_bytes <= max(header.size_bytes, 0) * max(end.records, 1)


def test_the_second_pass_gives_what_was_verified() -> None:
    assert list(contents_of([V2], verify([V2]))) == CONTENTS


def test_the_second_pass_refuses_another_shape() -> None:
    with pytest.raises(InvalidRequest, match="changed since it was verified"):
        list(contents_of([written(RbdHeader(2, "mon", "tue", 4096), [])], verify([V2])))


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        (RbdHeader(3, size_bytes=1), "version 3"),
        (RbdHeader(1, "a" * 2000, size_bytes=1), "no name"),
        (RbdHeader(1, size_bytes=-1), "size of -1"),
    ],
)
def test_a_header_that_cannot_be_written_is_refused(header: RbdHeader, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule):
        RbdWriter(header)


@pytest.mark.parametrize(("offset", "length"), [(0, 512), (512, 0), (4000, 97)])
def test_a_writer_refuses_what_does_not_ascend_or_fit(offset: int, length: int) -> None:
    writer = RbdWriter(RbdHeader(1, size_bytes=4096))
    writer.zero(0, 512)
    with pytest.raises(InvalidRequest, match="before 512 or behind"):
        writer.data(offset, bytes(length))
