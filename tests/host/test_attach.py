"""An attached volume before nodes that a test steers, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from base.errors import (
    InvalidRequest,
    NoQuorum,
    NotConnected,
    NotFound,
    RemoteRefused,
    RequestTimeout,
    Stopping,
    StorageError,
)
from base.units import KiB, MiB
from host import nbd_wire as nbd
from host.attach import AttachedVolume, OneExport, attach
from host.export import HOLE, ZERO, HostRequest, RequestKind
from host.nbd_target import NbdTarget, _Connection
from host.router import pack_runs
from host.topology import CALL, Topology, pack_topology, pack_unchanged, unpack_query
from sim.clock import SimClock
from sim.event_loop import SimEventLoop
from sim.fence import fence
from transport import operation as op
from transport.messages import (
    AdminReply,
    AdminRequest,
    Beacon,
    HostBatch,
    HostReplies,
    SyncReply,
    SyncRequest,
)
from transport.operation import Record
from transport.sim import SimLimits, SimNetwork

REGION = 64 * KiB
VOLUME = 3
NOBODY = 255
NOT_FOUND = ("not_found", "there is no volume v")


class Cluster:
    """What the nodes agree about, and what took effect, as if they replicated it."""

    def __init__(self, owners: list[int], up: tuple[int, ...]) -> None:
        self.topology = Topology(
            1, VOLUME, len(owners) * REGION, REGION, 512, False, bytes(owners), up
        )
        self.bytes = bytearray(1 * MiB)
        self.effects: list[tuple[int, int]] = []  # (client, number) of changes, in order

    def change(self, **changes: Any) -> None:
        now = self.topology
        values = {key: getattr(now, key) for key in Topology.__slots__} | changes
        values["version"] = changes.get("version", now.version + 1)
        self.topology = Topology(**values)

    def move(self, *owners: int, up: tuple[int, ...] | None = None) -> None:
        self.change(owners=bytes(owners), up_nodes=self.topology.up_nodes if up is None else up)

    def take_effect(self, record: Record) -> None:
        name = (record.client, record.number)
        if name in self.effects:
            return
        self.effects.append(name)
        at = record.region * REGION + record.offset
        data = bytes(record.data) or bytes(record.length)
        self.bytes[at : at + record.length] = data


class Node:
    """Answers at once, by the cluster's topology, unless the test replaces one of its answers."""

    def __init__(self, world: World, node: int) -> None:
        self.world = world
        self.node = node
        self.topology: Topology | None = None  # an older one than the cluster's
        self.refusal: tuple[str, str] | None = None
        self.asked: list[int] = []  # versions that askers knew
        self.batches: list[list[Record]] = []
        self.syncs: list[int] = []
        self.mute_topology = False
        self.mute_syncs = False
        self.on_record: Callable[[int, Record], None] = self.operate
        self.bus = world.network.bus(node, world.failed)
        self.bus.set_receiver(self.on_message, lambda peer, session: None)
        world.loop.run_until_complete(self.bus.start())

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    @property
    def names(self) -> list[tuple[int, int]]:
        return [(record.client, record.number) for record in self.records]

    def on_message(self, peer: int, message: object) -> None:
        if isinstance(message, HostBatch):
            view, at = memoryview(message.data), 0  # type: ignore[arg-type]
            batch = []
            for _ in range(message.count):
                record, at = op.unpack_request(view, at)
                batch.append(record)
            self.batches.append(batch)
            for record in batch:
                self.on_record(peer, record)
        elif isinstance(message, SyncRequest):
            self.syncs.append(message.request)
            if not self.mute_syncs:
                self.bus.send(peer, SyncReply(message.request))
        else:
            assert isinstance(message, AdminRequest)
            self.answer(peer, message)

    def answer(self, peer: int, question: AdminRequest) -> None:
        assert question.call == CALL
        name, known = unpack_query(question.arguments)
        assert name == "v"
        self.asked.append(known)
        topology = self.topology or self.world.cluster.topology
        if self.mute_topology:
            return
        if self.refusal is not None:
            self.bus.send(peer, AdminReply(question.request, *self.refusal, b""))
        elif known >= topology.version:
            self.bus.send(
                peer, AdminReply(question.request, "", "", pack_unchanged(topology.version))
            )
        else:
            self.bus.send(peer, AdminReply(question.request, "", "", pack_topology(topology)))

    def operate(self, peer: int, record: Record) -> None:
        cluster = self.world.cluster
        if cluster.topology.owners[record.region] != self.node:
            self.reply(peer, record, op.NOT_OWNER)
            return
        at = record.region * REGION + record.offset
        if record.kind == op.READ:
            self.reply(peer, record, op.OK, bytes(cluster.bytes[at : at + record.length]))
        elif record.kind == op.STATUS:
            self.reply(peer, record, op.OK, pack_runs([(record.length, record.region == 0)]))
        else:
            cluster.take_effect(record)
            self.reply(peer, record, op.OK)

    def reply(self, peer: int, record: Record, outcome: int, data: bytes = b"") -> None:
        head = op.pack_reply(record.client, record.number, outcome, 0, 1, len(data))
        self.bus.send(peer, HostReplies(1, (head, data)))


class World:
    """A cluster of nodes 0, 1, … and one attached volume."""

    def __init__(self, owners: list[int], nodes: int = 3, timeout_ms: int = 2_000) -> None:
        self.loop = SimEventLoop()
        self.network = SimNetwork(
            random.Random(5), loop=self.loop, limits=SimLimits(reconnect_us=2_000)
        )
        self.failures: list[BaseException] = []
        self.cluster = Cluster(owners, tuple(range(nodes)))
        self.nodes = [Node(self, node) for node in range(nodes)]
        self.view = AttachedVolume(
            "v",
            bus=self.network.client_bus(self.failed),
            clock=SimClock(self.loop),
            rng=random.Random(1),
            timeout_ms=timeout_ms,
        )
        self.client = int(self.view._bus.self_id)
        self.done: list[tuple[HostRequest, StorageError | None, Any]] = []

    def failed(self, name: str, error: BaseException) -> None:
        self.failures.append(error)

    def open(self) -> AttachedVolume:
        self.loop.run_until_complete(self.view.open())
        self.run_ms(20)  # all links are up
        for node in self.nodes:
            node.asked.clear()
        return self.view

    def run_ms(self, milliseconds: float) -> None:
        self.loop.run_until_ns(self.loop.now_ns + round(milliseconds * 1e6))

    def submit(
        self, kind: RequestKind, offset: int = 0, length: int = 0, data: bytes = b"", **more: Any
    ) -> HostRequest:
        """Give a request to the view; its outcome is `outcome(request)`."""

        def done(request: HostRequest, error: StorageError | None, result: Any) -> None:
            self.done.append((request, error, result))

        request = HostRequest(kind, offset, length or len(data), done, data)
        for key, value in more.items():
            setattr(request, key, value)
        self.loop.call_soon(self.view.submit, request)
        return request

    def write(self, offset: int, data: bytes, **more: Any) -> HostRequest:
        return self.submit(RequestKind.WRITE, offset, data=data, **more)

    def read(self, offset: int, length: int) -> HostRequest:
        return self.submit(RequestKind.READ, offset, length)

    def flush(self) -> HostRequest:
        return self.submit(RequestKind.FLUSH)

    def outcome(self, request: HostRequest) -> Any:
        """ "waits", None, the error, or the result."""
        for done, error, result in self.done:
            if done is request:
                if error is None and request.kind is RequestKind.READ:
                    return b"".join(bytes(part) for part in result)
                return error or result
        return "waits"

    def lose(self, node: int) -> None:
        """As kill -9: what it sent and nobody received is gone."""
        self.network.detach(node)

    def questions(self) -> int:
        return sum(len(node.asked) for node in self.nodes)


@pytest.fixture
def make() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def made(owners: list[int], **options: Any) -> World:
        worlds.append(World(owners, **options))
        return worlds[-1]

    with fence():
        yield made
        for world in worlds:
            world.loop.run_until_complete(world.view.close())
            world.loop.close()
    for world in worlds:
        assert world.failures == []


# --- the straight way ------------------------------------------------------------------------


def test_each_request_goes_to_the_owner_of_its_region_and_to_nobody_else(
    make: Callable[..., World],
) -> None:
    world = make([1, 2])
    world.open()
    first, second = world.write(0, b"a" * 512), world.write(REGION + 512, b"b" * 512)
    world.run_ms(5)
    assert [world.outcome(first), world.outcome(second)] == [None, None]
    assert [[r.region for r in node.records] for node in world.nodes] == [[], [0], [1]]


def test_what_was_written_is_read_back(make: Callable[..., World]) -> None:
    world = make([1])
    world.open()
    world.write(512, b"a" * 512)
    world.run_ms(5)
    read = world.read(0, 1536)
    world.run_ms(5)
    assert world.outcome(read) == bytes(512) + b"a" * 512 + bytes(512)


def test_requests_of_one_turn_to_one_owner_are_one_message(make: Callable[..., World]) -> None:
    world = make([1])
    world.open()
    for block in range(8):
        world.write(block * 512, b"a" * 512)
    world.run_ms(5)
    assert [len(batch) for batch in world.nodes[1].batches] == [8]


def test_a_request_over_two_regions_is_answered_when_both_owners_have(
    make: Callable[..., World],
) -> None:
    world = make([1, 2])
    world.open()
    held: list[tuple[int, Record]] = []
    world.nodes[2].on_record = lambda peer, record: held.append((peer, record))
    write = world.write(REGION - 512, b"a" * 512 + b"b" * 512)
    world.run_ms(5)
    assert world.outcome(write) == "waits"
    world.nodes[2].operate(*held[0])
    world.run_ms(5)
    assert world.outcome(write) is None
    assert world.cluster.bytes[REGION - 512 : REGION + 512] == b"a" * 512 + b"b" * 512


def test_flags_of_fua_and_no_hole_travel(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.write(0, b"a" * 512, fua=True)
    world.submit(RequestKind.ZERO, 0, 512, no_hole=True)
    world.submit(RequestKind.TRIM, 512, 512)
    world.run_ms(5)
    sent = [(record.kind, record.flags) for record in world.nodes[0].records]
    assert sent == [(op.WRITE, op.SYNC), (op.ZERO, op.NO_HOLE), (op.TRIM, 0)]
    assert [error for _, error, _ in world.done] == [None] * 3


def test_block_status_of_several_owners_comes_in_order_of_the_volume(
    make: Callable[..., World],
) -> None:
    world = make([2, 1, 0])
    world.open()
    status = world.submit(RequestKind.STATUS, REGION - 512, REGION + 1024)
    world.run_ms(5)
    assert world.outcome(status) == [(512, 0), (REGION + 512, HOLE | ZERO)]


def test_replies_may_come_in_any_order(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.cluster.bytes[:1024] = b"a" * 512 + b"b" * 512
    held: list[tuple[int, Record]] = []
    world.nodes[0].on_record = lambda peer, record: held.append((peer, record))
    first, second = world.read(0, 512), world.read(512, 512)
    world.run_ms(5)
    for peer, record in reversed(held):
        world.nodes[0].operate(peer, record)
    world.run_ms(5)
    assert [done for done, _, _ in world.done] == [second, first]
    assert [world.outcome(first), world.outcome(second)] == [b"a" * 512, b"b" * 512]


def test_an_error_of_the_owner_reaches_the_host(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    node = world.nodes[0]
    node.on_record = lambda peer, record: node.reply(
        peer, record, op.ERROR_DEFINITE, b"invalid\nno such place"
    )
    write = world.write(0, b"a" * 512)
    world.run_ms(5)
    assert isinstance(world.outcome(write), InvalidRequest)


# --- owners change ---------------------------------------------------------------------------


def test_a_node_that_is_not_the_owner_any_more_sends_the_request_on_to_the_new_one(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.cluster.move(1)
    write = world.write(0, b"a" * 512)
    world.run_ms(60)
    assert world.outcome(write) is None
    assert world.nodes[0].names == world.nodes[1].names == world.cluster.effects


def test_a_write_that_took_effect_before_its_region_moved_takes_effect_once(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()

    def moved(peer: int, record: Record) -> None:
        world.cluster.take_effect(record)
        world.cluster.move(1)
        world.nodes[0].reply(peer, record, op.MOVED)

    world.nodes[0].on_record = moved
    write = world.write(0, b"a" * 512)
    world.run_ms(60)
    assert world.outcome(write) is None
    assert world.nodes[1].names == [(world.client, 1)]
    assert world.cluster.effects == [(world.client, 1)]


def test_a_write_whose_owner_died_before_it_answered_is_repeated_at_the_new_one(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()

    def dies(peer: int, record: Record) -> None:
        world.cluster.take_effect(record)
        world.lose(0)
        world.loop.call_later(0.3, lambda: world.cluster.move(1, up=(1, 2)))

    world.nodes[0].on_record = dies
    write = world.write(0, b"a" * 512)
    world.run_ms(290)
    assert world.outcome(write) == "waits"
    world.run_ms(110)
    assert world.outcome(write) is None
    assert world.nodes[1].names == world.cluster.effects == [(world.client, 1)]


def test_requests_wait_for_an_owner_no_longer_than_the_next_question(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.lose(0)
    world.run_ms(5)
    write = world.write(0, b"a" * 512)
    world.run_ms(500)
    world.cluster.move(1, up=(1, 2))
    world.run_ms(75)
    assert world.outcome(write) is None


def test_a_link_that_broke_and_came_back_carries_the_same_request_again(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    node = world.nodes[0]
    node.on_record = lambda peer, record: world.cluster.take_effect(record)
    write = world.write(0, b"a" * 512)
    world.run_ms(5)
    node.on_record = node.operate
    world.network.reset(0, world.client)
    world.run_ms(60)
    assert world.outcome(write) is None
    assert node.names == [(world.client, 1)] * 2
    assert world.cluster.effects == [(world.client, 1)]


def test_a_request_at_an_owner_that_fell_silent_goes_to_the_one_that_took_over(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.nodes[0].on_record = lambda peer, record: None
    world.nodes[0].mute_topology = True
    write = world.write(0, b"a" * 512)
    world.run_ms(600)
    world.cluster.move(1, up=(1, 2))
    world.run_ms(120)
    assert world.outcome(write) is None
    assert world.cluster.effects == [(world.client, 1)]


def test_the_late_answer_of_a_former_owner_is_not_taken(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    held: list[tuple[int, Record]] = []
    for node in world.nodes:
        node.on_record = lambda peer, record: held.append((peer, record))
    world.read(0, 512)
    world.run_ms(5)
    world.cluster.move(1)
    world.run_ms(300)
    world.nodes[0].reply(*held[0], op.OK, b"old" + bytes(509))
    world.run_ms(5)
    assert world.done == []
    world.nodes[1].reply(*held[-1], op.OK, b"new" + bytes(509))
    world.run_ms(5)
    assert world.outcome(world.done[0][0]) == b"new" + bytes(509)


def test_every_request_survives_the_loss_of_one_node_after_another(
    make: Callable[..., World],
) -> None:
    world = make([0, 1, 2], nodes=4, timeout_ms=3_000)
    world.open()
    writes = []
    for round_number, (dead, heir) in enumerate(((0, 1), (1, 2), (2, 3))):
        for region in range(3):
            writes.append(world.write(region * REGION + round_number * 512, b"a" * 512))
        world.loop.run_until_ns(world.loop.now_ns + 100_000)  # on their way
        world.lose(dead)
        world.run_ms(200)
        owners = [heir if owner == dead else owner for owner in world.cluster.topology.owners]
        world.cluster.move(*owners, up=tuple(range(dead + 1, 4)))
        world.run_ms(200)
    assert [world.outcome(write) for write in writes] == [None] * 9
    assert sorted(world.cluster.effects) == [(world.client, n) for n in range(1, 10)]


# --- topology --------------------------------------------------------------------------------


def test_an_older_topology_is_not_taken(make: Callable[..., World]) -> None:
    world = make([0])
    world.cluster.move(1)
    view = world.open()
    old = Topology(1, VOLUME, REGION, REGION, 512, False, b"\x00", (0, 1, 2))
    world.view._take(0, old, world.loop.now_ns)
    assert view.topology is not None
    assert (view.topology.version, view.owner_of(VOLUME, 0)) == (2, 1)


def test_an_idle_host_asks_every_two_seconds(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.run_ms(20_000)
    assert 9 <= world.questions() <= 11


def test_nodes_are_asked_in_turn(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    world.run_ms(24_000)
    assert [len(node.asked) for node in world.nodes] == [4, 4, 4]


def test_a_host_that_knows_the_newest_version_is_told_so_and_nothing_more(
    make: Callable[..., World],
) -> None:
    world = make([0])
    view = world.open()
    world.run_ms(6_000)
    assert view.counters.topologies == 1
    assert {version for node in world.nodes for version in node.asked} == {1}


def test_a_host_with_requests_on_their_way_asks_every_quarter_of_a_second(
    make: Callable[..., World],
) -> None:
    world = make([0, 1], timeout_ms=20_000)
    world.open()
    world.nodes[1].on_record = lambda peer, record: None
    world.write(REGION, b"a" * 512)  # waits all the time

    def go_on() -> None:
        world.read(0, 512)
        world.loop.call_later(0.05, go_on)

    go_on()
    world.run_ms(5_000)
    assert 18 <= world.questions() <= 22


def test_many_refusals_cause_few_questions(make: Callable[..., World]) -> None:
    world = make([0])
    world.open()
    node = world.nodes[0]
    node.on_record = lambda peer, record: node.reply(peer, record, op.NOT_OWNER)
    for block in range(100):
        world.write(block * 512, b"a" * 512)
    world.run_ms(1_000)
    assert 15 <= world.questions() <= 60


def test_a_node_that_owes_an_answer_is_passed_over(make: Callable[..., World]) -> None:
    world = make([NOBODY])
    world.open()
    world.nodes[1].mute_topology = True
    world.write(0, b"a" * 512)
    world.run_ms(900)
    asked = [len(node.asked) for node in world.nodes]
    assert asked[1] == 1
    assert asked[0] + asked[2] >= 12


def test_a_larger_volume_is_taken_while_hosts_use_it(make: Callable[..., World]) -> None:
    world = make([0])
    view = world.open()
    world.cluster.change(size_bytes=2 * REGION, owners=b"\x00\x01")
    world.run_ms(2_100)
    assert view.size_bytes == 2 * REGION
    write = world.write(REGION, b"a" * 512)
    world.run_ms(5)
    assert world.outcome(write) is None
    assert world.nodes[1].names == world.cluster.effects


def test_a_volume_that_becomes_read_only_says_so(make: Callable[..., World]) -> None:
    world = make([0])
    view = world.open()
    world.cluster.change(read_only=True)
    world.run_ms(2_100)
    assert view.read_only


def test_a_volume_made_anew_under_the_name_gets_nothing_of_the_old_ones_requests(
    make: Callable[..., World],
) -> None:
    world = make([0])
    world.open()
    world.cluster.change(volume=VOLUME + 1)
    world.run_ms(2_100)
    write = world.write(0, b"a" * 512)
    world.run_ms(5)
    assert isinstance(world.outcome(write), NotFound)
    assert world.cluster.effects == []


# --- opening ---------------------------------------------------------------------------------


def test_a_volume_that_does_not_exist_cannot_be_opened(make: Callable[..., World]) -> None:
    world = make([0])
    for node in world.nodes:
        node.refusal = NOT_FOUND
    with pytest.raises(NotFound, match="there is no volume v"):
        world.open()


def test_nodes_that_have_not_heard_of_a_new_volume_yet_delay_its_opening(
    make: Callable[..., World],
) -> None:
    world = make([0])
    for node in world.nodes:
        node.refusal = NOT_FOUND
    world.loop.call_later(0.5, lambda: setattr(world.nodes[2], "refusal", None))
    assert world.open().size_bytes == REGION


def test_opening_fails_in_time_when_no_node_answers(make: Callable[..., World]) -> None:
    world = make([0])
    for node in world.nodes:
        node.mute_topology = True
    with pytest.raises(NotConnected):
        world.loop.run_until_complete(world.view.open(timeout_ms=3_000))
    assert world.loop.now_ns < 4_100_000_000


def test_opening_says_what_a_node_answered_instead(make: Callable[..., World]) -> None:
    world = make([0])
    for node in world.nodes:
        node.refusal = ("not_leader", "this node has not joined yet")
    with pytest.raises(RemoteRefused, match="has not joined yet"):
        world.open()


def test_opening_waits_for_a_node_that_starts_late(make: Callable[..., World]) -> None:
    world = make([0], nodes=0)
    world.loop.call_later(2, lambda: None)
    opening = world.loop.create_task(world.view.open())
    world.run_ms(2_000)
    assert not opening.done()
    Node(world, 0)
    world.run_ms(100)
    assert opening.done()
    opening.result()


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
    assert isinstance(world.outcome(write), Stopping)


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
