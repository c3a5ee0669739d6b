"""Any bytes give events or a RemoteProtocolError, at both ends, never anything else."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from base.device import Buffer
from base.errors import RemoteProtocolError, StorageError
from base.units import MiB
from host import nbd_wire as wire
from host.export import HostRequest, MappedExports, RequestKind, Result
from host.memory_volume import MemoryVolume
from host.nbd_client_protocol import ClientHandshake, ExportInfo, ReplyReader
from host.nbd_handshake import Handshake, Session
from host.nbd_protocol import RequestReader, encode_reply, encode_status

VOLUME = MemoryVolume("vol", 1 * MiB)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
U64 = st.integers(0, (1 << 64) - 1)
small = st.binary(max_size=64)

options = st.builds(
    lambda number, body, lie: wire.OPTION.pack(wire.OPTION_MAGIC, number, len(body) + lie) + body,
    st.integers(0, 12),
    small | st.builds(lambda n, rest: wire.U32.pack(n) + b"vol" + rest, st.integers(2, 4), small),
    st.sampled_from([0, 0, 0, 1, 70_000]),
)
requests = st.builds(
    lambda flags, command, cookie, offset, length, rest: (
        wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, cookie, offset, length) + rest
    ),
    st.sampled_from([0, 1, 2, 4, 8, 16]) | U16,
    st.integers(0, 9) | U16,
    U64,
    st.integers(0, 2048).map(lambda n: n * 512) | U64,
    st.integers(0, 8).map(lambda n: n * 512) | st.integers(0, 2 * MiB),
    small,
)
option_replies = st.builds(
    lambda number, kind, body, lie: (
        wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, number, kind, len(body) + lie) + body
    ),
    st.sampled_from([8, 10, 7, 3]),
    st.integers(1, 4) | st.integers(1, 9).map(lambda n: n | wire.REP_FLAG_ERROR) | U32,
    small,
    st.sampled_from([0, 0, 0, 1, 300_000]),
)
chunks = st.builds(
    lambda flags, kind, cookie, body, lie: (
        wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(body) + lie) + body
    ),
    st.integers(0, 3),
    st.sampled_from([0, 1, 2, 5, 0x8001, 0x8002]) | U16,
    st.integers(1, 4),
    small | st.builds(lambda at, rest: wire.U64.pack(at) + rest, st.integers(0, 2048), small),
    st.sampled_from([0, 0, 0, 1, 1 << 31]),
)
simple_replies = st.builds(
    lambda errno, cookie, rest: (
        wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, errno, cookie) + rest
    ),
    st.sampled_from([0, 5, 22]) | U32,
    st.integers(1, 4),
    small,
)


def ignore(request: HostRequest, error: StorageError | None, result: Result) -> None:
    return None


@settings(deadline=None, max_examples=300)
@given(pieces=st.lists(small | options, max_size=8), flags=st.booleans())
def test_any_bytes_give_handshake_events_or_a_protocol_error(
    pieces: list[bytes], flags: bool
) -> None:
    handshake = Handshake(MappedExports({"vol": VOLUME}))
    with contextlib.suppress(RemoteProtocolError):
        if flags:
            handshake.receive_data(wire.CLIENT_FLAGS.pack(3))
        for piece in pieces:
            handshake.receive_data(piece)


@settings(deadline=None, max_examples=300)
@given(pieces=st.lists(requests | small, max_size=8), structured=st.booleans())
def test_any_bytes_give_requests_within_bounds_or_a_protocol_error(
    pieces: list[bytes], structured: bool
) -> None:
    session = Session(VOLUME, structured, ((1, "base:allocation"),) if structured else ())
    reader = RequestReader(session, ignore)
    with contextlib.suppress(RemoteProtocolError):
        for piece in pieces:
            for event in reader.receive_data(piece):
                if isinstance(event, HostRequest):
                    assert event.offset + event.length <= VOLUME.size_bytes
                    assert (event.offset | event.length) % 512 == 0
                    assert event.length > 0 or event.kind == RequestKind.FLUSH


@settings(deadline=None, max_examples=300)
@given(pieces=st.lists(small | option_replies, max_size=8), greeted=st.booleans())
def test_any_bytes_give_the_client_a_handshake_or_a_storage_error(
    pieces: list[bytes], greeted: bool
) -> None:
    client = ClientHandshake("vol")
    with contextlib.suppress(StorageError):
        if greeted:
            client.receive_data(Handshake.greeting())
        for piece in pieces:
            client.receive_data(piece)


@settings(deadline=None, max_examples=500)
@given(pieces=st.lists(small | chunks | simple_replies, max_size=8), structured=st.booleans())
def test_any_bytes_give_the_client_replies_or_a_protocol_error(
    pieces: list[bytes], structured: bool
) -> None:
    client = ReplyReader(ExportInfo(structured=structured, context_id=1))
    client.request(wire.CMD_READ, 0, 1024, into=memoryview(bytearray(1024)))
    client.request(wire.CMD_BLOCK_STATUS, 0, 4096)
    client.request(wire.CMD_WRITE, 0, 512)
    client.request(wire.CMD_READ, 0, 8, into=memoryview(bytearray(8)))
    with contextlib.suppress(RemoteProtocolError):
        for piece in pieces:
            for pending in client.receive_data(piece):
                if pending.error is None and pending.command == wire.CMD_READ:
                    assert pending.covered == pending.length


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_good_reply_with_one_bit_flipped_never_confuses_the_client(data: st.DataObject) -> None:
    client = ReplyReader(ExportInfo(structured=True, context_id=1))
    read, _ = client.request(wire.CMD_READ, 0, 1024, into=memoryview(bytearray(1024)))
    status, _ = client.request(wire.CMD_BLOCK_STATUS, 0, 4096)
    out: list[Buffer] = []
    asked = HostRequest(RequestKind.READ, 0, 1024, ignore, cookie=read.cookie)
    encode_reply(out, True, asked, None, [b"x" * 1024])
    asked = HostRequest(RequestKind.STATUS, 0, 4096, ignore, cookie=status.cookie)
    encode_status(out, asked, [(1, [(512, 0), (512, 3)])])
    stream = bytearray(b"".join(out))
    at = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[at // 8] ^= 1 << (at % 8)
    with contextlib.suppress(RemoteProtocolError):
        client.receive_data(stream)
