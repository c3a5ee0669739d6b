from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import NotFound, RemoteProtocolError
from base.units import MiB
from host import nbd_wire as wire
from host.export import MappedExports
from host.memory_volume import MemoryVolume
from host.nbd_client_protocol import ClientHandshake, ExportInfo, Listing
from host.nbd_handshake import Ended, Handshake, Selected, Send

FLAGS = wire.CLIENT_FLAGS.pack(3)


def exports(*names: str) -> MappedExports:
    return MappedExports({name: MemoryVolume(name, 1 * MiB) for name in names or ("vol",)})


def option(number: int, body: bytes = b"") -> bytes:
    return wire.OPTION.pack(wire.OPTION_MAGIC, number, len(body)) + body


def text(name: str) -> bytes:
    return struct.pack(">I", len(name.encode())) + name.encode()


def go(name: str = "vol", *infos: int) -> bytes:
    body = text(name) + struct.pack(">H", len(infos)) + b"".join(map(wire.U16.pack, infos))
    return option(wire.OPT_GO, body)


def meta(number: int, name: str, *queries: str) -> bytes:
    return option(number, text(name) + wire.U32.pack(len(queries)) + b"".join(map(text, queries)))


def answers(sent: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while sent:
        magic, number, kind, length = wire.OPTION_REPLY.unpack_from(sent)
        assert magic == wire.OPTION_REPLY_MAGIC
        found.append((number, kind, sent[20 : 20 + length]))
        sent = sent[20 + length :]
    return found


def kinds(*options: bytes, table: MappedExports | None = None) -> list[int]:
    handshake = Handshake(table or exports())
    events = handshake.receive_data(FLAGS + b"".join(options))
    return [kind for _, kind, _ in answers(b"".join(event.buffer for event in events))]


def test_greeting_offers_fixed_newstyle_without_zeroes() -> None:
    assert Handshake.greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


def test_unknown_client_flags_end_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="client flags"):
        Handshake(exports()).receive_data(wire.CLIENT_FLAGS.pack(4))


def test_bad_option_magic_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="option magic"):
        Handshake(exports()).receive_data(FLAGS + b"GARBAGE!" + bytes(8))


def test_oversized_option_ends_the_connection_before_its_body_arrives() -> None:
    head = wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_GO, wire.OPTION_BYTES_MAX + 1)
    with pytest.raises(RemoteProtocolError, match="are allowed"):
        Handshake(exports()).receive_data(FLAGS + head)


def test_too_many_options_end_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="options in one handshake"):
        Handshake(exports()).receive_data(FLAGS + option(99) * (wire.OPTIONS_MAX + 1))


@pytest.mark.parametrize("number", [0, 4, wire.OPT_STARTTLS, 11, 99])
def test_options_that_are_not_offered_are_answered_with_unsup(number: int) -> None:
    assert kinds(option(number, b"x")) == [wire.REP_ERR_UNSUP]


def test_abort_is_acknowledged_and_ends() -> None:
    events = Handshake(exports()).receive_data(FLAGS + option(wire.OPT_ABORT))
    assert isinstance(events[0], Ended)
    assert answers(events[0].buffer) == [(wire.OPT_ABORT, wire.REP_ACK, b"")]


def test_list_names_every_export_with_its_description() -> None:
    events = Handshake(exports("a", "ü")).receive_data(FLAGS + option(wire.OPT_LIST))
    assert answers(events[0].buffer) == [
        (3, wire.REP_SERVER, text("a") + b"a volume in memory"),
        (3, wire.REP_SERVER, text("ü") + b"a volume in memory"),
        (3, wire.REP_ACK, b""),
    ]


def test_list_with_a_body_is_invalid() -> None:
    assert kinds(option(wire.OPT_LIST, b"x")) == [wire.REP_ERR_INVALID]


def test_export_name_is_answered_with_size_flags_and_zeroes() -> None:
    handshake = Handshake(exports())
    (event,) = handshake.receive_data(
        wire.CLIENT_FLAGS.pack(1) + option(wire.OPT_EXPORT_NAME, b"vol")
    )
    assert isinstance(event, Selected)
    assert len(event.buffer) == 134
    assert wire.EXPORT_INFO.unpack_from(event.buffer)[0] == 1 * MiB


def test_export_name_omits_zeroes_when_the_client_says_so() -> None:
    (event,) = Handshake(exports()).receive_data(FLAGS + option(wire.OPT_EXPORT_NAME, b"vol"))
    assert len(event.buffer) == 10


def test_unknown_export_name_ends_without_an_answer() -> None:
    (event,) = Handshake(exports()).receive_data(FLAGS + option(wire.OPT_EXPORT_NAME, b"no"))
    assert event == Ended(b"", "no volume named 'no' is exported here")


def test_go_tells_block_sizes_even_unasked() -> None:
    (event,) = Handshake(exports()).receive_data(FLAGS + go())
    infos = [body for _, kind, body in answers(event.buffer) if kind == wire.REP_INFO]
    assert wire.INFO_BLOCK_SIZE_REPLY.unpack(infos[-1]) == (3, 512, 4096, 32 * MiB)


def test_go_tells_name_and_description_when_asked() -> None:
    (event,) = Handshake(exports()).receive_data(FLAGS + go("vol", 1, 2))
    bodies = [body for _, _, body in answers(event.buffer)]
    assert b"\x00\x01vol" in bodies
    assert b"\x00\x02a volume in memory" in bodies


def test_empty_name_means_the_only_export() -> None:
    (event,) = Handshake(exports("one")).receive_data(FLAGS + go(""))
    assert isinstance(event, Selected)
    assert event.session.view.name == "one"


def test_empty_name_is_unknown_when_there_are_two_exports() -> None:
    assert kinds(go(""), table=exports("a", "b")) == [wire.REP_ERR_UNKNOWN]


def test_go_for_an_unknown_export_lets_the_client_try_another() -> None:
    events = Handshake(exports()).receive_data(FLAGS + go("no") + go("vol"))
    assert [type(event) for event in events] == [Send, Selected]


def test_info_does_not_end_the_handshake() -> None:
    assert kinds(option(wire.OPT_INFO, text("vol") + b"\x00\x00"))[-1] == wire.REP_ACK


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x00\x00\xff",
        text("vol"),
        text("vol") + b"\x00\x01",
        text("vol") + b"\x00\x00x",
        b"\x00\x00\x00\x01\xff\x00\x00",
        struct.pack(">I", 5000) + bytes(5002),
    ],
)
def test_malformed_go_is_invalid_and_the_connection_goes_on(body: bytes) -> None:
    assert kinds(option(wire.OPT_GO, body), option(99)) == [
        wire.REP_ERR_INVALID,
        wire.REP_ERR_UNSUP,
    ]


def test_meta_context_before_structured_replies_is_invalid() -> None:
    assert kinds(meta(wire.OPT_SET_META_CONTEXT, "vol", "base:allocation")) == [
        wire.REP_ERR_INVALID
    ]


def test_listing_contexts_without_query_names_all() -> None:
    handshake = Handshake(exports())
    events = handshake.receive_data(
        FLAGS + option(wire.OPT_STRUCTURED_REPLY) + meta(wire.OPT_LIST_META_CONTEXT, "vol")
    )
    assert answers(events[1].buffer)[0] == (9, wire.REP_META_CONTEXT, bytes(4) + b"base:allocation")


@pytest.mark.parametrize(
    ("number", "query", "found"),
    [
        (wire.OPT_LIST_META_CONTEXT, "base:", 1),
        (wire.OPT_SET_META_CONTEXT, "base:", 0),
        (wire.OPT_SET_META_CONTEXT, "base:allocation", 1),
        (wire.OPT_SET_META_CONTEXT, "qemu:dirty-bitmap:x", 0),
    ],
)
def test_context_queries_match_by_name_and_by_namespace_when_listing(
    number: int, query: str, found: int
) -> None:
    got = kinds(option(wire.OPT_STRUCTURED_REPLY), meta(number, "vol", query))
    assert got.count(wire.REP_META_CONTEXT) == found


def test_a_view_may_offer_further_contexts() -> None:
    volume = MemoryVolume("vol", 1 * MiB)
    volume.contexts = ("base:allocation", "qemu:dirty-bitmap:s1")
    handshake = Handshake(MappedExports({"vol": volume}))
    events = handshake.receive_data(
        FLAGS
        + option(wire.OPT_STRUCTURED_REPLY)
        + meta(wire.OPT_SET_META_CONTEXT, "vol", "qemu:dirty-bitmap:s1")
        + go()
    )
    assert isinstance(events[-1], Selected)
    assert events[-1].session.contexts == ((2, "qemu:dirty-bitmap:s1"),)


def test_contexts_selected_for_another_export_do_not_count() -> None:
    events = Handshake(exports("a", "b")).receive_data(
        FLAGS
        + option(wire.OPT_STRUCTURED_REPLY)
        + meta(wire.OPT_SET_META_CONTEXT, "a", "base:allocation")
        + go("b")
    )
    assert isinstance(events[-1], Selected)
    assert events[-1].session.contexts == ()


def test_read_only_export_offers_no_writes() -> None:
    table = MappedExports({"vol": MemoryVolume("vol", 1 * MiB, read_only=True)})
    (event,) = Handshake(table).receive_data(FLAGS + option(wire.OPT_EXPORT_NAME, b"vol"))
    flags = wire.EXPORT_INFO.unpack(event.buffer)[1]
    assert flags & wire.EXPORT_READ_ONLY
    assert not flags & (wire.EXPORT_SEND_TRIM | wire.EXPORT_SEND_WRITE_ZEROES)


def test_refused_connection_hears_why_and_ends() -> None:
    handshake = Handshake(exports())
    handshake.refuse("too many connections")
    (event,) = handshake.receive_data(FLAGS + go())
    assert isinstance(event, Ended)
    assert answers(event.buffer) == [(wire.OPT_GO, wire.REP_ERR_POLICY, b"too many connections")]


def test_bytes_behind_go_belong_to_transmission() -> None:
    handshake = Handshake(exports())
    handshake.receive_data(FLAGS + go() + b"request")
    assert handshake.unused == b"request"


def shake(client: ClientHandshake, server: Handshake, piece_bytes: int) -> None:
    to_client, to_server = Handshake.greeting(), b""
    while to_client or to_server:
        for at in range(0, len(to_client), piece_bytes):
            to_server += client.receive_data(to_client[at : at + piece_bytes])
        to_client = b""
        for at in range(0, len(to_server), piece_bytes):
            for event in server.receive_data(to_server[at : at + piece_bytes]):
                to_client += event.buffer
        to_server = b""


@settings(deadline=None, max_examples=50)
@given(piece_bytes=st.integers(1, 200), structured=st.booleans())
def test_client_and_server_agree_however_the_bytes_are_cut(
    piece_bytes: int, structured: bool
) -> None:
    client = ClientHandshake("vol", structured=structured)
    shake(client, Handshake(exports()), piece_bytes)
    info = client.finished
    assert isinstance(info, ExportInfo)
    assert (info.size_bytes, info.block_min_bytes) == (1 * MiB, 512)
    assert (info.structured, info.context_id) == (structured, 1 if structured else None)


def test_client_lists_exports() -> None:
    client = ClientHandshake(listing=True)
    shake(client, Handshake(exports("a", "b")), 1000)
    assert client.finished == Listing([("a", "a volume in memory"), ("b", "a volume in memory")])


def test_client_hears_that_the_export_is_unknown() -> None:
    with pytest.raises(NotFound, match="no volume named 'no'"):
        shake(ClientHandshake("no"), Handshake(exports()), 1000)
