"""An attached volume: flushes, time-outs, hostile nodes, hosts that vanish, its end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from base.errors import (
    NoQuorum,
    NotConnected,
    NotFound,
    RequestTimeout,
)
from host import nbd_wire as nbd
from host.attach import AttachedVolume, OneExport, attach
from host.export import RequestKind
from host.nbd_target import NbdTarget, _Connection
from host.router import pack_runs
from host.topology import Topology, pack_topology
from sim.clock import SimClock
from tests.host.attach_world import NOBODY, NOT_FOUND, REGION, VOLUME, World
from transport import operation as op
from transport.messages import (
    AdminReply,
    Beacon,
    HostReplies,
    SyncReply,
)
from transport.operation import Record

# --- flush -----------------------------------------------------------------------------------


def test_a_flush_waits_for_every_node_that_is_up(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.nodes[2].mute_syncs = True
    flush = world.flush()
    world.run_ms(50)
    assert [len(node.syncs) for node in world.nodes] == [1, 1, 1]
    assert world.outcome(flush) == "waits"
    world.nodes[2].bus.send(world.client, SyncReply(world.nodes[2].syncs[0]))
    world.run_ms(5)
    assert world.outcome(flush) is None


def test_a_flush_does_not_ask_a_node_that_is_down(make: Callable[..., World]) -> None:
    world = make([0])
    world.cluster.change(up_nodes=(0, 2))
    world.open()
    flush = world.flush()
    world.run_ms(5)
    assert world.outcome(flush) is None
    assert world.nodes[1].syncs == []


def test_a_flush_forgets_a_node_that_went_down(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.nodes[2].mute_syncs = True
    flush = world.flush()
    world.run_ms(50)
    world.lose(2)
    world.run_ms(400)
    assert world.outcome(flush) == "waits"
    world.cluster.change(up_nodes=(0, 1))
    world.run_ms(300)
    assert world.outcome(flush) is None


def test_a_flush_asks_again_over_a_new_link(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.nodes[1].mute_syncs = True
    flush = world.flush()
    world.run_ms(5)
    world.nodes[1].mute_syncs = False
    world.network.reset(1, world.client)
    world.run_ms(20)
    assert world.outcome(flush) is None
    assert len(world.nodes[1].syncs) == 2


def test_a_flush_that_no_node_answers_times_out_and_the_log_says_whom_it_waited_for(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.nodes[1].mute_syncs = True
    with capture_logs() as logs:
        flush = world.flush()
        world.run_ms(2_100)
    assert isinstance(world.outcome(flush), RequestTimeout)
    assert ["n1" in line["reason"] for line in logs if line["event"] == "request.timed_out"] == [
        True
    ]


# --- time-outs -------------------------------------------------------------------------------


def test_a_request_for_an_offline_region_fails_in_time_and_the_log_says_so(
    make: Callable[..., World],
) -> None:
    world = make([NOBODY])
    world.open()
    with capture_logs() as logs:
        read = world.read(0, 512)
        world.run_ms(1_950)
        assert world.outcome(read) == "waits"
        world.run_ms(100)
    assert world.outcome(read).code == "region_offline"
    assert [line["code"] for line in logs if line["event"] == "request.timed_out"] == [
        "region_offline"
    ]


def test_a_region_without_a_reachable_owner_fails_with_no_quorum(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.lose(0)
    world.run_ms(5)
    write = world.write(0, b"a" * 512)
    world.run_ms(2_050)
    assert isinstance(world.outcome(write), NoQuorum)


def test_a_host_that_reaches_no_node_says_so(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    for node in range(3):
        world.lose(node)
    world.run_ms(5)
    read = world.read(0, 512)
    world.run_ms(2_050)
    assert isinstance(world.outcome(read), NotConnected)


def test_a_write_without_an_answer_says_that_it_may_have_happened(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.nodes[0].on_record = lambda peer, record: None
    write = world.write(0, b"a" * 512)
    world.run_ms(2_050)
    error = world.outcome(write)
    assert isinstance(error, RequestTimeout)
    assert "may have happened" in str(error)


def test_an_operation_that_was_given_up_lies_below_the_low_of_the_next(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.nodes[0].on_record = lambda peer, record: None
    world.write(0, b"a" * 512)
    world.run_ms(2_050)
    world.write(0, b"b" * 512)
    world.run_ms(5)
    assert [(r.number, r.low) for r in world.nodes[0].records] == [(1, 1), (2, 2)]


def test_many_time_outs_are_few_lines_in_the_log(make: Callable[..., World]) -> None:
    world = make([NOBODY])
    view = world.open()
    with capture_logs() as logs:
        for block in range(100):
            world.write(block * 512, b"a" * 512)
        world.run_ms(2_050)
    assert view.counters.timeouts == len(world.done) == 100
    assert len([line for line in logs if line["event"] == "request.timed_out"]) == 1


def test_closing_fails_what_is_left(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.nodes[0].on_record = lambda peer, record: None
    write = world.write(0, b"a" * 512)
    world.run_ms(5)
    world.loop.run_until_complete(world.view.close())
    assert not world.outcome(write).definite  # it was sent: it may have happened


# --- hostile nodes and vanishing hosts -------------------------------------------------------


def short(world: World, peer: int, record: Record) -> object:
    head = op.pack_reply(record.client, record.number, op.OK, 0, 1, 100)
    return HostReplies(1, (head, bytes(99)))


def other_length(world: World, peer: int, record: Record) -> object:
    head = op.pack_reply(record.client, record.number, op.OK, 0, 1, 511)
    return HostReplies(1, (head, bytes(511)))


def too_many(world: World, peer: int, record: Record) -> object:
    return HostReplies(1 << 60, b"")


def not_for_hosts(world: World, peer: int, record: Record) -> object:
    return Beacon(1, 1, 1, 1, True, 1)


@pytest.mark.parametrize("lie", [short, other_length, too_many, not_for_hosts])
def test_a_reply_that_breaks_the_protocol_ends_its_link_and_the_request_is_sent_again(
    make: Callable[..., World], lie: Callable[[World, int, Record], object]
) -> None:
    world = make([0, 1])
    view = world.open()
    node = world.nodes[0]

    def lies(peer: int, record: Record) -> None:
        node.bus.send(peer, lie(world, peer, record))
        node.on_record = node.operate

    node.on_record = lies
    sessions = [view._bus.session(peer) for peer in range(3)]
    read = world.read(0, 512)
    world.run_ms(60)
    assert world.outcome(read) == bytes(512)
    after = [view._bus.session(peer) for peer in range(3)]
    assert after == [sessions[0] + 1, sessions[1], sessions[2]]


@pytest.mark.parametrize(
    "runs", [b"", pack_runs([(256, True)]), pack_runs([(512, True), (512, False)]), b"\x01"]
)
def test_a_status_that_is_not_of_the_length_asked_for_ends_the_link(
    make: Callable[..., World], runs: bytes
) -> None:
    world = make([0])
    view = world.open()
    node = world.nodes[0]

    def lies(peer: int, record: Record) -> None:
        node.reply(peer, record, op.OK, runs)
        node.on_record = node.operate

    node.on_record = lies
    session = view._bus.session(0)
    status = world.submit(RequestKind.STATUS, 0, 512)
    world.run_ms(60)
    assert world.outcome(status) == [(512, 0)]
    assert view._bus.session(0) == session + 1


@pytest.mark.parametrize(
    "lie", [{"size_bytes": 512}, {"region_bytes": 2 * REGION}, {"block_min_bytes": 4096}]
)
def test_a_topology_of_another_shape_ends_the_link_it_came_by(
    make: Callable[..., World], lie: dict[str, int]
) -> None:
    world = make([0])
    view = world.open()
    node = world.nodes[1]
    world.cluster.change(**lie)
    node.topology, world.cluster.topology = world.cluster.topology, view.topology  # type: ignore
    session = view._bus.session(1)
    world.run_ms(6_100)
    assert view._bus.session(1) > session
    assert (view.size_bytes, view.topology.version) == (REGION, 1)  # type: ignore[union-attr]


def test_bytes_that_are_no_topology_end_the_link_they_came_by(
    make: Callable[..., World],
) -> None:
    world = make([0])
    view = world.open()
    node = world.nodes[1]
    node.answer = lambda peer, question: node.bus.send(  # type: ignore[assignment]
        peer, AdminReply(question.request, "", "", b"\xc1")
    )
    session = view._bus.session(1)
    world.run_ms(6_100)
    assert view._bus.session(1) > session
    read = world.read(0, 512)
    world.run_ms(5)
    assert world.outcome(read) == bytes(512)


def test_answers_that_nobody_asked_for_change_nothing(make: Callable[..., World]) -> None:
    world = make([0])
    view = world.open()
    bus = world.nodes[1].bus
    other = Topology(9, VOLUME, REGION, REGION, 512, False, b"\x02", (0, 1, 2))
    bus.send(world.client, AdminReply(77, "", "", pack_topology(other)))
    bus.send(world.client, SyncReply(1))
    world.nodes[1].reply(
        world.client, Record(VOLUME, 0, op.READ, 0, 0, 512, world.client, 9, 9, b""), op.OK
    )
    world.run_ms(5)
    assert view.owner_of(VOLUME, 0) == 0
    assert len(view.router) == 0


class FakeTransport(asyncio.Transport):
    """A socket whose client is a test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        return None


def connect(world: World) -> tuple[_Connection, FakeTransport]:
    """An NBD client past its handshake, which named no export."""
    target = NbdTarget(OneExport(world.view), clock=SimClock(world.loop))
    transport = FakeTransport()

    async def begin() -> _Connection:
        connection = _Connection(target)
        connection.connection_made(transport)
        feed(
            connection,
            nbd.CLIENT_FLAGS.pack(3) + nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_EXPORT_NAME, 0),
        )
        return connection

    return world.loop.run_until_complete(begin()), transport


def feed(connection: _Connection, sent: bytes) -> None:
    room = connection.get_buffer(-1)
    room[: len(sent)] = sent
    connection.buffer_updated(len(sent))


def test_a_request_over_nbd_is_answered_over_nbd(make: Callable[..., World]) -> None:
    world = make([1])
    world.open()
    world.cluster.bytes[:512] = b"a" * 512
    connection, transport = connect(world)
    transport.written.clear()
    read = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_READ, 42, 0, 512)
    world.loop.call_soon(feed, connection, read)
    world.run_ms(5)
    reply = nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, 42) + b"a" * 512
    assert transport.written == reply


def test_the_requests_of_a_host_that_vanished_end_without_it(make: Callable[..., World]) -> None:
    world = make([1])
    view = world.open()
    held: list[tuple[int, Record]] = []
    world.nodes[1].on_record = lambda peer, record: held.append((peer, record))
    connection, transport = connect(world)
    write = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 0, 512) + b"a" * 512
    world.loop.call_soon(feed, connection, write)
    world.run_ms(5)
    world.loop.call_soon(connection.connection_lost, None)
    transport.written.clear()
    world.run_ms(5)
    assert len(view.router) == 1
    world.nodes[1].operate(*held[0])
    world.run_ms(5)
    assert len(view.router) == 0
    assert world.cluster.effects == [(world.client, 1)]
    assert transport.written == b""


def test_only_the_attached_volume_is_exported(make: Callable[..., World]) -> None:
    exports = OneExport(make([0]).view)
    assert exports.names() == ["v"]
    assert exports.open("") is exports.open("v")
    with pytest.raises(NotFound):
        exports.open("w")


# --- the whole -------------------------------------------------------------------------------


def test_attaching_runs_in_virtual_time_until_it_is_cancelled(make: Callable[..., World]) -> None:
    world = make([0])
    bus = world.network.client_bus(world.failed)
    opened: list[AttachedVolume] = []
    task = world.loop.create_task(
        attach(
            "v",
            bus=bus,
            clock=SimClock(world.loop),
            rng=random.Random(2),
            listen=(),
            on_open=opened.append,
        )
    )
    world.run_ms(100)
    assert [view.size_bytes for view in opened] == [REGION]
    task.cancel()
    world.run_ms(100)
    assert task.cancelled()
    assert not bus.attached


def test_attaching_to_a_volume_that_does_not_exist_ends_with_the_reason(
    make: Callable[..., World],
) -> None:
    world = make([0])
    for node in world.nodes:
        node.refusal = NOT_FOUND
    bus = world.network.client_bus(world.failed)
    with pytest.raises(NotFound):
        world.loop.run_until_complete(
            attach("v", bus=bus, clock=SimClock(world.loop), rng=random.Random(2), listen=())
        )
    assert not bus.attached
