"""Any bytes give messages or a protocol error, never anything else."""

import random

import google_crc32c
import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import RemoteProtocolError
from transport import messages, wire
from transport.codec import _CHECKED, MAGIC, FrameDecoder, decode, encode

assert messages
KINDS = tuple(wire.by_tag.values())
plain = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text()
tree = st.recursive(
    plain | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=20,
)


def framed(tag: int, body: bytes, data: bytes = b"") -> bytes:
    crc = google_crc32c.value(data)
    checked = _CHECKED.pack(MAGIC, 1, tag, len(body), len(data), crc) + body
    return google_crc32c.value(checked).to_bytes(4, "little") + checked + data


def is_message_or_error(frame: bytes) -> None:
    try:
        message = decode(frame)
    except RemoteProtocolError:
        return
    assert isinstance(message, KINDS)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes_end_in_an_error_or_wait_for_more(data: bytes) -> None:
    decoder = FrameDecoder()
    assert decoder.receive_data(data) == []
    assert decoder.error is not None or len(data) < 20


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 255), st.binary(max_size=200), st.binary(max_size=50))
def test_any_body_with_right_crcs_is_a_message_or_an_error(
    tag: int, body: bytes, data: bytes
) -> None:
    is_message_or_error(framed(tag, body, data))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(wire.by_tag)), st.lists(tree, max_size=9), st.binary(max_size=9))
def test_any_msgpack_with_right_crcs_is_a_message_or_an_error(
    tag: int, values: list[object], data: bytes
) -> None:
    is_message_or_error(framed(tag, msgpack.packb(values), data))


def test_deep_nesting_is_an_error() -> None:
    for depth in (500, 5_000, 100_000):
        is_message_or_error(framed(0x21, b"\x92\x01" + b"\x91" * depth + b"\x01"))


def test_an_array_that_claims_to_be_huge_is_an_error() -> None:
    is_message_or_error(framed(0x21, b"\x92\x01\xdd\xff\xff\xff\xff"))


def test_frames_with_turned_bits_never_give_a_message() -> None:
    rng = random.Random(4)
    message = messages.AppendReply(1, 2, True, 4, 5, 6, False)
    frame = b"".join(encode(message))
    for _ in range(2_000):
        broken = bytearray(frame)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        if broken == frame:
            continue
        decoder = FrameDecoder()
        assert decoder.receive_data(broken + bytes(64)) == []
