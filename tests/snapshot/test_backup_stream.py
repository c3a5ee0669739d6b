"""Backup streams: what is written is read, in any chunks, and nothing else is."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from base.units import MiB
from snapshot.backup_stream import (
    EXTENT_BYTES_MAX,
    BackupHeader,
    BackupReader,
    BackupTrailer,
    BackupWriter,
    DataExtent,
    Event,
    Extent,
    ResumePoint,
    ZeroExtent,
    extents_of,
    last_good_point,
    verify,
)

BLOCK = 512
HEADER = BackupHeader("lab", 7, "vol", 12, "tuesday", 64 * BLOCK, BLOCK, 9, "monday", 1_700_000)
FULL = replace(HEADER, base_view=0, base_name="")


def written(header: BackupHeader, extents: list[Extent], point: ResumePoint | None = None) -> bytes:
    writer = BackupWriter(header, point)
    parts = [] if point else [writer.begin()]
    for each in extents:
        parts += put(writer, each)
    return b"".join([*parts, writer.finish()])


def put(writer: BackupWriter, extent: Extent) -> list[bytes]:
    if isinstance(extent, DataExtent):
        return writer.data(extent.offset, extent.data)
    return [writer.zero(extent.offset, extent.length)]


def cut(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield stream[at : at + size]
        at += size
    yield stream[at:]


def read(stream: bytes, sizes: list[int] | None = None) -> list[Event]:
    reader = BackupReader()
    events = [event for part in cut(stream, sizes or []) for event in reader.receive_data(part)]
    reader.close()
    return events


@st.composite
def some_extents(draw: st.DrawFn) -> list[Extent]:
    edges = sorted(draw(st.sets(st.integers(0, 64), max_size=12)))
    found: list[Extent] = []
    for first, last in pairwise(edges):
        kind = draw(st.sampled_from("dz-"))
        length = (last - first) * BLOCK
        if kind == "d":
            fill = draw(st.binary(min_size=1, max_size=8))
            found.append(DataExtent(first * BLOCK, (fill * length)[:length]))
        elif kind == "z":
            found.append(ZeroExtent(first * BLOCK, length))
    return found


SOME: list[Extent] = [
    DataExtent(0, b"a" * BLOCK),
    ZeroExtent(2 * BLOCK, 5 * BLOCK),
    DataExtent(60 * BLOCK, b"b" * 4 * BLOCK),
]


@settings(deadline=None)
@given(some_extents(), st.lists(st.integers(0, 3000), max_size=20))
def test_what_is_written_is_read_in_any_chunks(extents: list[Extent], sizes: list[int]) -> None:
    head, *found, end = read(written(HEADER, extents), sizes)
    assert head == HEADER
    assert found == extents
    data = sum(len(each.data) for each in extents if isinstance(each, DataExtent))
    zero = sum(each.length for each in extents if isinstance(each, ZeroExtent))
    assert isinstance(end, BackupTrailer)
    assert (end.extents, end.data_bytes, end.zero_bytes) == (len(extents), data, zero)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_changed_bit_is_refused_and_the_place_is_named(data: st.DataObject) -> None:
    stream = bytearray(written(HEADER, SOME))
    bit = data.draw(st.integers(0, 8 * len(stream) - 1))
    stream[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidRequest, match=r"backup (stream|header|of vol view tuesday: extent)"):
        verify([bytes(stream)])


@given(st.integers(0, len(written(HEADER, SOME)) - 1))
def test_a_stream_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequest, match="cut short"):
        verify([written(HEADER, SOME)[:length]])


@settings(deadline=None)
@given(some_extents(), st.integers(0, 40000))
def test_a_stream_that_was_cut_short_goes_on_at_an_extent_to_the_same_bytes(
    extents: list[Extent], length: int
) -> None:
    whole = written(FULL, extents)
    torn = whole[: min(length, len(whole) - 1)]
    point = last_good_point([torn])
    if point is None:
        assert len(torn) < len(BackupWriter(FULL).begin())
        return
    assert torn.startswith(whole[: point.position])
    rest = written(FULL, extents[point.extents :], point)
    assert torn[: point.position] + rest == whole


def test_a_writer_goes_on_from_its_own_point() -> None:
    writer = BackupWriter(HEADER)
    start = b"".join([writer.begin(), *put(writer, SOME[0])])
    point = ResumePoint.from_text(writer.point.to_text() + "\n")
    assert point.position == len(start)
    assert start + written(HEADER, SOME[1:], point) == written(HEADER, SOME)


def test_a_point_of_another_stream_is_refused() -> None:
    point = BackupWriter(HEADER).point
    with pytest.raises(InvalidRequest, match=r"vol view tuesday cannot go on there: .*another"):
        BackupWriter(replace(HEADER, base_name="sunday"), point)


@pytest.mark.parametrize("text", ["", "eightfold-backup-1:", "eightfold-backup-1:zz", "00" * 116])
def test_text_that_is_no_resume_point_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="backup resume point: these are not"):
        ResumePoint.from_text(text)


@given(st.data())
def test_a_damaged_resume_point_is_refused(data: st.DataObject) -> None:
    text = BackupWriter(HEADER).point.to_text()
    at = data.draw(st.integers(text.index(":") + 1, len(text) - 1))
    other = "0" if text[at] != "0" else "1"
    with pytest.raises(InvalidRequest, match="backup resume point: its checksum"):
        ResumePoint.from_text(text[:at] + other + text[at + 1 :])


def test_a_stream_with_a_wrong_hash_is_not_gone_on_with() -> None:
    """Every checksum is right, and yet one extent is not what its writer hashed."""
    one = written(HEADER, [DataExtent(0, b"x" * BLOCK), SOME[1]])
    other = written(HEADER, [DataExtent(0, b"y" * BLOCK), SOME[1]])
    torn = one[:-32] + other[-32:]
    with pytest.raises(InvalidRequest, match="the hash of the trailer is not that of the stream"):
        verify([torn])
    assert last_good_point([torn]) is None


def test_an_extent_that_is_damaged_is_not_handed_out() -> None:
    stream = bytearray(written(HEADER, SOME))
    stream[-80] ^= 1  # in the contents of the last extent
    reader = BackupReader()
    with pytest.raises(InvalidRequest, match=r"extent 2 at byte \d+ of the stream: its checksum"):
        reader.receive_data(bytes(stream))
    assert reader.point is not None
    assert reader.point.extents == 2


def by_hand(reserved: bytes = bytes(3)) -> bytes:
    """From the description of the format alone, with no part of the writer."""
    names = b"labvoltuesdaymonday"
    lengths = bytes((3, 3, 7, 6))
    body = struct.pack("<QIIIIQ", 64 * BLOCK, BLOCK, 7, 12, 9, 1_700_000) + lengths + names
    front = b"8FBACKUP" + struct.pack("<HI", 1, len(body)) + body
    header = front + struct.pack("<I", google_crc32c.value(front))

    def record(tag: bytes, first: int, second: int, data: bytes) -> bytes:
        place = struct.pack("<QQ", first, second)
        crc = google_crc32c.value(tag + reserved + bytes(4) + place + data)
        return tag + reserved + struct.pack("<I", crc) + place + data

    data = record(b"D", BLOCK, BLOCK, b"x" * BLOCK)
    zero = record(b"Z", 4 * BLOCK, 60 * BLOCK, b"")
    end = record(b"E", 2, BLOCK, b"")
    link = hashlib.sha256(header).digest()
    for part in (data, zero, end):
        link = hashlib.sha256(link + part).digest()
    return header + data + zero + end + link


def test_a_stream_that_follows_the_letters_of_the_format_is_read_and_written() -> None:
    extents: list[Extent] = [DataExtent(BLOCK, b"x" * BLOCK), ZeroExtent(4 * BLOCK, 60 * BLOCK)]
    assert read(by_hand())[:-1] == [HEADER, *extents]
    assert written(HEADER, extents) == by_hand()


def test_bytes_that_are_kept_for_later_versions_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="tag 44000001 is not one of this format"):
        read(by_hand(b"\0\0\1"))


def test_extents_in_another_order_are_refused() -> None:
    one = BackupWriter(HEADER)
    first, second = one.zero(0, BLOCK), one.zero(2 * BLOCK, BLOCK)
    swapped = one.begin() + second + first + one.finish()
    with pytest.raises(InvalidRequest, match="begins before 1536, where the one before it ended"):
        verify([swapped])


def test_an_extent_that_is_left_out_is_noticed() -> None:
    writer = BackupWriter(HEADER)
    parts = [writer.begin(), writer.zero(0, BLOCK), writer.zero(BLOCK, BLOCK), writer.finish()]
    with pytest.raises(InvalidRequest, match="hash of the trailer"):
        verify([parts[0], parts[2], parts[3]])


def test_bytes_behind_the_trailer_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="bytes behind the trailer"):
        verify([written(HEADER, SOME), b"\0"])


def test_a_reader_that_has_refused_refuses_from_then_on() -> None:
    reader = BackupReader()
    with pytest.raises(InvalidRequest, match="no backup stream"):
        reader.receive_data(b"rbd diff v1\n")
    with pytest.raises(InvalidRequest, match="no backup stream"):
        reader.receive_data(written(HEADER, SOME))


def test_a_long_extent_is_refused_before_its_bytes_have_come() -> None:
    header = replace(HEADER, size_bytes=16 * MiB)
    reader = BackupReader()
    reader.receive_data(BackupWriter(header).begin())
    head = b"D\0\0\0" + bytes(4) + (0).to_bytes(8, "little") + (2 * MiB).to_bytes(8, "little")
    with pytest.raises(InvalidRequest, match="2097152 bytes are more than 1048576"):
        reader.receive_data(head)


def test_a_long_piece_is_cut_into_extents() -> None:
    data = bytes(range(256)) * (3 * EXTENT_BYTES_MAX // 256)
    header = replace(HEADER, size_bytes=4 * EXTENT_BYTES_MAX)
    found = read(written(header, [DataExtent(BLOCK, data)]))[1:-1]
    assert [each.offset for each in found if isinstance(each, DataExtent)] == [
        BLOCK + number * EXTENT_BYTES_MAX for number in range(3)
    ]
    assert b"".join(each.data for each in found if isinstance(each, DataExtent)) == data


def test_the_last_block_may_be_a_part() -> None:
    header = replace(HEADER, size_bytes=4096 + 512, block_bytes=4096)
    whole: list[Extent] = [DataExtent(4096, b"x" * 512)]
    assert read(written(header, whole))[1:-1] == whole


@pytest.mark.parametrize(
    ("offset", "length", "rule"),
    [
        (0, 0, "it is empty"),
        (0, 100, "not whole blocks of 512 bytes"),
        (100, 512, "not whole blocks"),
        (63 * BLOCK, 2 * BLOCK, "behind the end of the volume at 32768"),
    ],
)
def test_a_writer_refuses_an_extent_that_breaks_a_rule(offset: int, length: int, rule: str) -> None:
    writer = BackupWriter(HEADER)
    before = writer.point
    with pytest.raises(InvalidRequest, match=f"vol view tuesday: extent at {offset}: .*{rule}"):
        writer.data(offset, bytes(length))
    with pytest.raises(InvalidRequest, match=rule):
        writer.zero(offset, length)
    assert writer.point == before


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"volume": ""}, "volume '' is no name"),
        ({"volume": "a\nb"}, "is no name: 1 to 64 printable"),
        ({"name": "n" * 65}, "view 'n+' is no name"),
        ({"name": "\ud800"}, "is no name"),
        ({"view": 0}, "view number 0"),
        ({"base_view": 12}, "its own base"),
        ({"base_name": "tuesday"}, "both called tuesday"),
        ({"base_view": 0}, "base monday has no number"),
        ({"size_bytes": 100}, "size of 100 bytes"),
        ({"size_bytes": 1 << 63}, "size of"),
        ({"block_bytes": 1000}, "block of 1000 bytes"),
        ({"volume_id": -1}, "volume number -1"),
        ({"taken_ms": -1}, "time -1 ms"),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(InvalidRequest, match=f"backup header: .*{rule}"):
        BackupWriter(replace(HEADER, **change))  # type: ignore[arg-type]


def test_an_unknown_version_is_refused() -> None:
    stream = bytearray(written(HEADER, SOME))
    stream[8] = 2
    with pytest.raises(InvalidRequest, match="format version 2 is unknown, 1 is known"):
        verify([bytes(stream)])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_bytes_end_in_a_refusal(head: bytes, tail: bytes) -> None:
    for stream in (head, BackupWriter(HEADER).begin() + tail):
        with pytest.raises(InvalidRequest):
            verify([stream])


def test_the_second_pass_gives_the_extents_that_were_verified() -> None:
    stream = written(HEADER, SOME)
    verified = verify([stream])
    assert verified.header == HEADER
    assert list(extents_of([stream], verified)) == SOME


def test_the_second_pass_refuses_another_stream_than_the_first() -> None:
    verified = verify([written(HEADER, SOME)])
    other = [DataExtent(0, b"z" * BLOCK), *SOME[1:]]
    with pytest.raises(InvalidRequest, match="has changed since it was verified"):
        list(extents_of([written(HEADER, other)], verified))


def test_the_second_pass_refuses_a_stream_that_has_become_shorter() -> None:
    stream = written(HEADER, SOME)
    verified = verify([stream])
    with pytest.raises(InvalidRequest, match="cut short"):
        list(extents_of([stream[:-1]], verified))


GOLDEN = (
    "38464241434b5550010037000000000400000000000000020000070000000c00000009000000a0f0"
    "190000000000030307066c6162766f6c747565736461796d6f6e646179ea70c2055a000000a30772"
    "7d000000000000000000020000000000004400000000f54a2f000200000000000000020000000000"
    "00450000002901d5f00200000000000000000200000000000006b1924775763dd42cabfcad274ad0"
    "31b0ab2c7d8de85c3a891bde6f7be373b9"
)


def test_the_format_has_not_changed() -> None:
    """Whoever changes these bytes changes the version."""
    small = replace(HEADER, size_bytes=2 * BLOCK)
    stream = written(small, [ZeroExtent(0, BLOCK), DataExtent(BLOCK, b"8" * BLOCK)])
    assert stream.replace(b"8" * BLOCK, b"") == bytes.fromhex(GOLDEN)


def test_memory_does_not_grow_with_the_volume() -> None:
    header = replace(HEADER, size_bytes=1 << 50)
    writer, reader = BackupWriter(header), BackupReader()
    reader.receive_data(writer.begin())
    most = 0
    for number in range(3000):
        for part in writer.data(number << 30, bytes(BLOCK)):
            reader.receive_data(part)
            most = max(most, len(reader._buffer))
    assert most < 2 * BLOCK
