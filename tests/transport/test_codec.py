import types
import typing
from dataclasses import fields

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest, RemoteProtocolError
from transport import codec, messages, wire
from transport.codec import (
    DATA_BYTES_MAX,
    DIRECT_BYTES_MIN,
    HEADER_BYTES,
    FrameDecoder,
    crc32c,
    decode,
    encode,
)
from transport.messages import AdminReply, Proof, ReplicateAcks, ReplicateBatch, SyncRequest

assert messages  # the registry is filled by importing it
ALL_TAGS = sorted(wire.by_tag)


def _strategy(annotation: typing.Any) -> st.SearchStrategy:
    while hasattr(annotation, "__supertype__"):
        annotation = annotation.__supertype__
    if annotation is int:
        return st.integers(-(1 << 63), (1 << 64) - 1)
    if annotation is bool:
        return st.booleans()
    if annotation is str:
        return st.text(max_size=20)
    if annotation is bytes:
        return st.binary(max_size=40)
    assert typing.get_origin(annotation) is tuple, annotation
    arguments = typing.get_args(annotation)
    if arguments[-1] is Ellipsis:
        return st.lists(_strategy(arguments[0]), max_size=4).map(tuple)
    return st.tuples(*[_strategy(argument) for argument in arguments])


def message_of(tag: int) -> st.SearchStrategy:
    kind = wire.by_tag[tag]
    hints = typing.get_type_hints(kind)
    parts = [
        st.binary(max_size=300) if field.name == "data" else _strategy(hints[field.name])
        for field in fields(kind)
    ]
    return st.tuples(*parts).map(lambda values: kind(*values))


any_message = st.sampled_from(ALL_TAGS).flatmap(message_of)


def joined(message: object) -> bytes:
    return b"".join(encode(message))


@pytest.mark.parametrize("tag", ALL_TAGS)
def test_every_message_comes_back_equal(tag: int) -> None:
    @settings(deadline=None, max_examples=15)
    @given(message_of(tag))
    def check(message: object) -> None:
        assert decode(joined(message)) == message

    check()


@settings(deadline=None, max_examples=60)
@given(st.lists(any_message, max_size=5), st.integers(1, 64), st.binary(max_size=HEADER_BYTES - 1))
def test_a_stream_cut_anywhere_gives_the_same_messages(
    sent: list[object], piece: int, begun: bytes
) -> None:
    stream = b"".join(joined(message) for message in sent) + b""
    whole, pieces = FrameDecoder(), FrameDecoder(receive_bytes=HEADER_BYTES + 7)
    assert whole.receive_data(stream) == sent
    got = []
    for start in range(0, len(stream), piece):
        got += pieces.receive_data(stream[start : start + piece])
    assert got == sent
    assert pieces.error is None


def test_byte_by_byte_gives_the_same_message() -> None:
    message = ReplicateBatch(3, 1, bytes(range(256)))
    decoder = FrameDecoder()
    got = [found for byte in joined(message) for found in decoder.receive_data(bytes([byte]))]
    assert got == [message]


def test_the_beginning_of_the_next_frame_waits_for_its_rest() -> None:
    first, second = joined(SyncRequest(1)), joined(SyncRequest(2))
    decoder = FrameDecoder()
    assert decoder.receive_data(first + second[:9]) == [SyncRequest(1)]
    assert decoder.receive_data(second[9:]) == [SyncRequest(2)]


def test_one_whole_frame_is_refused_with_trailing_data() -> None:
    with pytest.raises(RemoteProtocolError, match="exactly one"):
        decode(joined(SyncRequest(1)) + b"\0")


def test_large_data_is_sent_without_a_copy() -> None:
    data = bytearray(1 << 20)
    buffers = encode(ReplicateBatch(1, 1, [b"head", memoryview(data)]))
    data[5] = 77
    assert any(isinstance(buffer, memoryview) and buffer[5] == 77 for buffer in buffers)


@pytest.mark.parametrize("length", [0, 1, 4096, DIRECT_BYTES_MIN - 1, DIRECT_BYTES_MIN, 700_001])
def test_data_of_any_length_in_many_buffers_comes_back_whole(length: int) -> None:
    data = bytes(index * 7 % 251 for index in range(length))
    view = memoryview(data)
    parts = [bytes(view[:3]), bytearray(view[3:1000]), view[1000:]]
    decoder = FrameDecoder()
    stream = joined(ReplicateBatch(1, 1, parts)) + joined(SyncRequest(9))
    found = [
        message
        for start in range(0, len(stream), 65_536)
        for message in decoder.receive_data(stream[start : start + 65_536])
    ]
    assert bytes(found[0].data) == data
    assert found[1:] == [SyncRequest(9)]


def test_large_data_is_received_into_a_buffer_of_its_own() -> None:
    stream = joined(ReplicateBatch(1, 1, bytes(1 << 20)))
    decoder = FrameDecoder()
    target = decoder.get_buffer()
    target[:4096] = stream[:4096]
    assert decoder.buffer_updated(4096) == []
    assert len(decoder.get_buffer()) == len(stream) - 4096


def test_data_stays_valid_when_more_arrives() -> None:
    decoder = FrameDecoder()
    first = decoder.receive_data(joined(ReplicateBatch(1, 1, b"a" * 100)))[0]
    large = decoder.receive_data(joined(ReplicateBatch(1, 1, b"b" * 100_000)))[0]
    decoder.receive_data(joined(ReplicateBatch(1, 1, b"c" * 100)))
    assert bytes(first.data) == b"a" * 100
    assert bytes(large.data) == b"b" * 100_000


def test_a_body_longer_than_the_receive_buffer_comes_back() -> None:
    message = AdminReply(1, "", "", bytes(1_000_000))
    decoder = FrameDecoder(receive_bytes=64)
    assert decoder.receive_data(joined(message) + joined(SyncRequest(4))) == [
        message,
        SyncRequest(4),
    ]


def test_a_memoryview_of_wide_elements_is_sent_by_bytes() -> None:
    wide = memoryview(bytes(range(16))).cast("Q")
    assert decode(joined(ReplicateBatch(1, 1, wide))).data == bytes(range(16))


def test_data_larger_than_a_frame_is_refused_before_sending() -> None:
    piece = bytes(1 << 20)
    with pytest.raises(InvalidRequest, match="a frame holds"):
        encode(ReplicateBatch(1, 1, [piece] * 34))


@pytest.mark.parametrize("place", range(HEADER_BYTES + 12))
def test_a_turned_bit_anywhere_is_an_error(place: int) -> None:
    frame = bytearray(joined(ReplicateBatch(1, 1, b"data data")))
    assert place < len(frame)
    frame[place] ^= 0x10
    decoder = FrameDecoder()
    found = decoder.receive_data(frame)
    assert found == []
    # A length that grew is noticed by its CRC only when that many bytes have come.
    found = decoder.receive_data(bytes(1 << 16)) if decoder.error is None else []
    assert found == []


def test_a_wrong_crc_of_large_data_is_an_error() -> None:
    frame = bytearray(joined(ReplicateBatch(1, 1, bytes(100_000))))
    frame[-1] ^= 1
    decoder = FrameDecoder()
    assert decoder.receive_data(frame[:5000]) + decoder.receive_data(frame[5000:]) == []
    assert "data of tag" in str(decoder.error)


def test_messages_before_garbage_are_returned_and_none_after() -> None:
    good = joined(SyncRequest(1))
    decoder = FrameDecoder()
    assert decoder.receive_data(good + b"x" * HEADER_BYTES + good) == [SyncRequest(1)]
    assert decoder.error is not None
    assert decoder.receive_data(good) == []


def test_an_oversized_claim_is_refused_from_the_header_alone() -> None:
    header = codec._CHECKED.pack(
        codec.MAGIC, codec.PROTOCOL_VERSION, 0x20, 3, DATA_BYTES_MAX + 1, 0
    )
    decoder = FrameDecoder()
    decoder.receive_data(bytes(4) + header)
    assert "at most" in str(decoder.error)


def test_another_protocol_version_is_refused() -> None:
    header = codec._CHECKED.pack(codec.MAGIC, codec.PROTOCOL_VERSION + 1, 0x20, 3, 0, 0)
    decoder = FrameDecoder()
    decoder.receive_data(bytes(4) + header)
    assert f"protocol version {codec.PROTOCOL_VERSION + 1}" in str(decoder.error)


def test_one_at_a_time_leaves_the_next_frame_to_other_rules() -> None:
    large = ReplicateBatch(1, 1, bytes(50_000))
    decoder = FrameDecoder(
        body_bytes_max=100,
        data_bytes_max=0,
        receive_bytes=1 << 17,
        tags=range(1, 16),
        one_at_a_time=True,
    )
    assert decoder.receive_data(joined(Proof(b"m")) + joined(large)) == [Proof(b"m")]
    decoder.widen(range(16, 256))
    assert decoder.buffer_updated(0) == [large]


def test_a_tag_that_is_not_expected_is_an_error() -> None:
    decoder = FrameDecoder(tags=range(1, 16))
    assert decoder.receive_data(joined(SyncRequest(1))) == []
    assert "not expected" in str(decoder.error)


@pytest.mark.parametrize("length", [0, 1, 2048, 2049, 100_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_crc_does_not_depend_on_the_kind_of_buffer(kind: type, length: int) -> None:
    data = bytes(index % 256 for index in range(length))
    assert crc32c(kind(data)) == google_crc32c.value(data)
    assert crc32c(kind(data), 5) == google_crc32c.extend(5, data)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ([1], "2 fields"),
        ([1, 2], "array"),
        ([1, [[1, 2]]], "array of 6"),
        ([True, []], "int"),
        ([1.0, []], "int"),
        ([1, [[1, 2, 3, 4, 5, None]]], "int"),
        ([1, [[1, 2, 3, 4, 5, True]]], "int"),
        ({}, "array"),
    ],
)
def test_a_body_of_another_shape_is_refused(body: object, rule: str) -> None:
    import msgpack

    with pytest.raises(RemoteProtocolError, match=rule):
        wire.decode_body(wire.tag_of(ReplicateAcks(1, ())), msgpack.packb(body), b"")


def test_a_mixed_array_of_plain_items_is_refused() -> None:
    import msgpack

    tag = wire.tag_of(messages.TransferPagesAck(1, 2, 3, 4, ()))
    good = wire.decode_body(tag, msgpack.packb([1, 2, 3, 4, [5, 6]]), b"")
    assert good.pages == (5, 6)
    with pytest.raises(RemoteProtocolError, match="array of int"):
        wire.decode_body(tag, msgpack.packb([1, 2, 3, 4, [5, True]]), b"")


def test_bulk_data_on_a_message_without_any_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="no bulk data"):
        wire.decode_body(wire.tag_of(SyncRequest(1)), b"\x91\x01", b"x")


def test_a_union_does_not_travel() -> None:
    with pytest.raises(TypeError, match="unions"):
        wire._check_lines(int | str, "v", "M.f", 0)
    assert isinstance(int | str, types.UnionType)


@pytest.mark.parametrize("bit", range(8))
def test_one_whole_frame_with_any_byte_wrong_is_refused(bit: int) -> None:
    frame = joined(ReplicateBatch(3, 1, b"some data"))
    for at in range(len(frame)):
        wrong = bytearray(frame)
        wrong[at] ^= 1 << bit
        with pytest.raises(RemoteProtocolError):
            decode(bytes(wrong))
        with pytest.raises(RemoteProtocolError):
            decode(frame[:at])
