from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.device import Buffer
from base.errors import NoSpace, RemoteProtocolError, StorageError
from base.units import MiB
from host import nbd_wire as wire
from host.export import Hole, HostRequest, RequestKind, Result
from host.memory_volume import MemoryVolume
from host.nbd_client_protocol import ExportInfo, Pending, ReplyReader
from host.nbd_handshake import Session
from host.nbd_protocol import (
    DIRECT_BYTES,
    Disconnect,
    Event,
    Refusal,
    RequestReader,
    encode_reply,
    encode_status,
)

SIZE = 64 * MiB


def session(
    *, structured: bool = True, block: int = 512, read_only: bool = False, contexts: bool = True
) -> Session:
    view = MemoryVolume("vol", SIZE, block_min_bytes=block, read_only=read_only)
    return Session(view, structured, ((1, "base:allocation"),) if contexts else ())


def ignore(request: HostRequest, error: StorageError | None, result: Result) -> None:
    return None


def reader(of: Session | None = None) -> RequestReader:
    return RequestReader(of or session(), ignore)


def request(
    command: int, offset: int = 0, length: int = 512, flags: int = 0, cookie: int = 7
) -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, cookie, offset, length)


def write(offset: int, data: bytes, flags: int = 0, cookie: int = 7) -> bytes:
    return request(wire.CMD_WRITE, offset, len(data), flags, cookie) + data


def summary(event: Event) -> tuple[object, ...]:
    if isinstance(event, HostRequest):
        return (event.kind, event.offset, event.length, bytes(event.data), event.fua, event.cookie)
    if isinstance(event, Refusal):
        return ("refused", event.cookie, event.errno)
    return ("disconnect",)


def only(events: list[Event]) -> Event:
    (event,) = events
    return event


def refusal_of(received: bytes, of: Session | None = None) -> int:
    event = only(reader(of).receive_data(received))
    assert isinstance(event, Refusal)
    return event.errno


STREAM = b"".join(
    [
        request(wire.CMD_READ, 4096, 8192, cookie=1),
        write(512, b"a" * 512, wire.CMD_FLAG_FUA, cookie=2),
        write(0, bytes(range(256)) * 512, cookie=3),
        request(wire.CMD_FLUSH, 0, 0, cookie=4),
        write(1, b"b" * 100_000, cookie=5),
        request(wire.CMD_TRIM, 0, 1 * MiB, cookie=6),
        request(wire.CMD_WRITE_ZEROES, 0, 4096, wire.CMD_FLAG_NO_HOLE, cookie=7),
        request(wire.CMD_BLOCK_STATUS, 0, SIZE, wire.CMD_FLAG_REQ_ONE, cookie=8),
        request(wire.CMD_DISC, 0, 0, cookie=9),
    ]
)
WANTED = [
    (RequestKind.READ, 4096, 8192, b"", False, 1),
    (RequestKind.WRITE, 512, 512, b"a" * 512, True, 2),
    (RequestKind.WRITE, 0, 131072, bytes(range(256)) * 512, False, 3),
    (RequestKind.FLUSH, 0, 0, b"", False, 4),
    ("refused", 5, wire.NBD_EINVAL),
    (RequestKind.TRIM, 0, 1 * MiB, b"", False, 6),
    (RequestKind.ZERO, 0, 4096, b"", False, 7),
    (RequestKind.STATUS, 0, SIZE, b"", False, 8),
    ("disconnect",),
]


def test_a_stream_fed_whole_gives_every_request() -> None:
    assert [summary(event) for event in reader().receive_data(STREAM)] == WANTED


def test_a_stream_fed_byte_by_byte_gives_the_same_requests() -> None:
    codec = reader()
    events = [
        event for at in range(len(STREAM)) for event in codec.receive_data(STREAM[at : at + 1])
    ]
    assert [summary(event) for event in events] == WANTED


@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12).map(sorted))
def test_a_stream_cut_anywhere_gives_the_same_requests(cuts: list[int]) -> None:
    codec = reader()
    events = []
    for start, stop in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        events += codec.receive_data(STREAM[start:stop])
    assert [summary(event) for event in events] == WANTED


def test_an_incomplete_tail_waits() -> None:
    codec = reader()
    events = codec.receive_data(request(wire.CMD_READ) + request(wire.CMD_READ)[:27])
    assert len(events) == 1
    assert len(codec.receive_data(request(wire.CMD_READ)[27:])) == 1


def test_small_write_keeps_its_data_when_the_ring_is_used_again() -> None:
    codec = reader()
    first = only(codec.receive_data(write(0, b"1" * 4096)))
    codec.receive_data(write(0, b"2" * 4096) * 100)
    assert isinstance(first, HostRequest)
    assert bytes(first.data) == b"1" * 4096


def test_large_write_is_received_into_a_buffer_of_its_own() -> None:
    codec = reader()
    codec.receive_data(request(wire.CMD_WRITE, 0, 1 * MiB))
    assert len(codec.get_buffer()) == 1 * MiB


def test_many_writes_pass_through_one_ring() -> None:
    codec = reader()
    piece = write(0, b"x" * DIRECT_BYTES)
    assert len(codec.receive_data(piece * 40)) == 40


def test_bad_magic_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="request magic"):
        reader().receive_data(b"GET / HTTP/1.1\r\nHost: example\r\n")


def test_oversized_write_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="are allowed"):
        reader().receive_data(request(wire.CMD_WRITE, 0, 32 * MiB + 512))


def test_write_of_32_mib_is_taken() -> None:
    event = only(reader().receive_data(write(0, bytes(32 * MiB))))
    assert isinstance(event, HostRequest)


@pytest.mark.parametrize(
    ("received", "errno"),
    [
        (request(wire.CMD_READ, 0, 0), wire.NBD_EINVAL),
        (request(wire.CMD_READ, 0, 32 * MiB + 512), wire.NBD_EINVAL),
        (request(wire.CMD_READ, 1, 512), wire.NBD_EINVAL),
        (request(wire.CMD_READ, 0, 513), wire.NBD_EINVAL),
        (request(wire.CMD_READ, SIZE, 512), wire.NBD_EINVAL),
        (request(wire.CMD_READ, (1 << 64) - 512, 512), wire.NBD_EINVAL),
        (request(wire.CMD_READ, 0, 512, wire.CMD_FLAG_NO_HOLE), wire.NBD_EINVAL),
        (write(SIZE, bytes(512)), wire.NBD_ENOSPC),
        (write(SIZE - 512, bytes(1024)), wire.NBD_ENOSPC),
        (write(0, bytes(512), 1 << 15), wire.NBD_EINVAL),
        (request(wire.CMD_WRITE_ZEROES, SIZE, 512), wire.NBD_ENOSPC),
        (request(wire.CMD_WRITE_ZEROES, 0, 512, wire.CMD_FLAG_FAST_ZERO), wire.NBD_EINVAL),
        (request(wire.CMD_TRIM, SIZE, 512), wire.NBD_EINVAL),
        (request(wire.CMD_FLUSH, 512, 0), wire.NBD_EINVAL),
        (request(wire.CMD_FLUSH, 0, 512), wire.NBD_EINVAL),
        (request(wire.CMD_CACHE), wire.NBD_EINVAL),
        (request(8), wire.NBD_EINVAL),
        (request(65535), wire.NBD_EINVAL),
    ],
)
def test_request_that_breaks_a_rule_is_refused_and_the_stream_goes_on(
    received: bytes, errno: int
) -> None:
    events = reader().receive_data(received + request(wire.CMD_READ))
    assert summary(events[0]) == ("refused", 7, errno)
    assert isinstance(events[1], HostRequest)


def test_4096_blocks_refuse_512() -> None:
    assert refusal_of(request(wire.CMD_READ, 512, 512), session(block=4096)) == wire.NBD_EINVAL


@pytest.mark.parametrize("command", [wire.CMD_TRIM, wire.CMD_WRITE_ZEROES])
def test_read_only_volume_refuses_changes(command: int) -> None:
    assert refusal_of(request(command), session(read_only=True)) == wire.NBD_EPERM


def test_read_only_volume_refuses_a_large_write_and_skips_its_data() -> None:
    codec = reader(session(read_only=True))
    events = codec.receive_data(write(0, bytes(1 * MiB)) + request(wire.CMD_READ))
    assert [type(event) for event in events] == [Refusal, HostRequest]


def test_block_status_needs_a_selected_context() -> None:
    assert refusal_of(request(wire.CMD_BLOCK_STATUS), session(contexts=False)) == wire.NBD_EINVAL


def test_df_needs_structured_replies() -> None:
    received = request(wire.CMD_READ, 0, 512, wire.CMD_FLAG_DF)
    assert refusal_of(received, session(structured=False)) == wire.NBD_EINVAL


def test_a_request_cannot_be_answered_twice() -> None:
    asked = HostRequest(RequestKind.FLUSH, 0, 0, ignore)
    asked.done(None)
    with pytest.raises(AssertionError, match="twice"):
        asked.done(None)


def read_reply(
    pieces: Sequence[Buffer | Hole], *, structured: bool, no_fragment: bool = False
) -> tuple[Pending, bytes, list[Buffer]]:
    """The reply to a read of all the pieces, as our client understands it when fed in bits."""
    length = sum(map(len, pieces))
    client = ReplyReader(ExportInfo(structured=structured))
    pending, head = client.request(
        wire.CMD_READ, 4096, length, into=memoryview(bytearray(b"?" * length))
    )
    codec = RequestReader(session(structured=structured), ignore)
    asked = only(codec.receive_data(head))
    assert isinstance(asked, HostRequest)
    asked.no_fragment = no_fragment
    out: list[Buffer] = []
    sent = encode_reply(out, structured, asked, None, pieces)
    stream = b"".join(out)
    assert sent == len(stream)
    answered = [
        each
        for at in range(0, len(stream), 13)
        for each in client.receive_data(stream[at : at + 13])
    ]
    assert answered == [pending]
    assert pending.into is not None
    return pending, bytes(pending.into), out


PIECES: list[list[Buffer | Hole]] = [
    [b"a" * 512],
    [b"a" * 512, b"b" * 512],
    [Hole(1024)],
    [b"a" * 512, Hole(2048), b"c" * 512, b"d" * 512],
    [Hole(512), b"e" * 512],
    [b"e" * 512, Hole(512)],
]


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("structured", "whole"), [(True, False), (True, True), (False, False)])
def test_read_reply_carries_data_and_holes(
    pieces: list[Buffer | Hole], structured: bool, whole: bool
) -> None:
    pending, got, _ = read_reply(pieces, structured=structured, no_fragment=whole)
    assert pending.error is None
    assert got == b"".join(bytes(p.length) if isinstance(p, Hole) else bytes(p) for p in pieces)


def test_read_data_is_not_copied() -> None:
    data = b"z" * 4096
    _, _, out = read_reply([data], structured=True)
    assert out[1] is data


def test_hole_is_not_sent_as_bytes() -> None:
    _, _, out = read_reply([Hole(1 * MiB)], structured=True)
    assert sum(map(len, out)) == 32


def test_df_is_answered_in_one_chunk() -> None:
    _, _, out = read_reply(PIECES[3], structured=True, no_fragment=True)
    assert b"".join(out).count(b"\x66\x8e\x33\xef") == 1


@pytest.mark.parametrize("structured", [True, False])
def test_failed_read_tells_the_error(structured: bool) -> None:
    client = ReplyReader(ExportInfo(structured=structured))
    pending, head = client.request(wire.CMD_READ, 0, 512, into=memoryview(bytearray(512)))
    asked = only(RequestReader(session(), ignore).receive_data(head))
    assert isinstance(asked, HostRequest)
    out: list[Buffer] = []
    sent = encode_reply(out, structured, asked, NoSpace("journal is full"), None)
    assert sent == len(b"".join(out))
    client.receive_data(b"".join(out))
    assert isinstance(pending.error, NoSpace)
    assert ("journal is full" in str(pending.error)) is structured


def status_reply(
    extents: list[tuple[int, int]], length: int, *, only_one: bool = False
) -> list[tuple[int, int]]:
    client = ReplyReader(ExportInfo(structured=True))
    pending, _ = client.request(wire.CMD_BLOCK_STATUS, 0, length)
    asked = HostRequest(RequestKind.STATUS, 0, length, ignore, cookie=pending.cookie)
    asked.only_one = only_one
    out: list[Buffer] = []
    sent = encode_status(out, asked, [(1, extents)])
    assert sent == len(b"".join(out))
    assert client.receive_data(b"".join(out)) == [pending]
    return pending.extents


def test_status_joins_neighbours_and_stops_at_the_end_of_the_request() -> None:
    extents = [(512, 0), (512, 0), (512, 3), (4096, 0), (512, 3)]
    assert status_reply(extents, 2048) == [(1024, 0), (512, 3), (512, 0)]


def test_status_of_one_extent_gives_the_whole_first_run() -> None:
    assert status_reply([(512, 3), (512, 3), (512, 0)], 1536, only_one=True) == [(1024, 3)]


def test_status_reply_is_bounded() -> None:
    extents = [(512, flag % 2) for flag in range(wire.STATUS_EXTENTS_MAX + 100)]
    got = status_reply(extents, 512 * len(extents))
    assert len(got) == wire.STATUS_EXTENTS_MAX


def test_every_error_value_has_an_error_of_ours() -> None:
    for errno in (1, 5, 12, 22, 28, 108):
        assert wire.errno_of(wire.error_of(errno, "")) == errno


def test_disconnect_is_an_event() -> None:
    assert isinstance(only(reader().receive_data(request(wire.CMD_DISC, 0, 0))), Disconnect)


def test_client_refuses_a_read_that_was_answered_in_part() -> None:
    client = ReplyReader(ExportInfo(structured=True))
    pending, _ = client.request(wire.CMD_READ, 0, 1024, into=memoryview(bytearray(1024)))
    chunk = wire.CHUNK_DATA.pack(wire.STRUCTURED_REPLY_MAGIC, 1, 1, pending.cookie, 520, 0)
    with pytest.raises(RemoteProtocolError, match="1024 bytes was answered with 512"):
        client.receive_data(chunk + bytes(512))
