"""An attached volume: the way of its requests, owners that change, topologies, opening."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from base.errors import (
    InvalidRequest,
    NotConnected,
    NotFound,
    RemoteRefused,
)
from host.export import HOLE, ZERO, RequestKind
from host.topology import Topology
from tests.host.attach_world import NOBODY, NOT_FOUND, REGION, VOLUME, Node, World
from transport import operation as op
from transport.operation import Record

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
