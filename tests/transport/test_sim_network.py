"""Faults of the simulated bus, on virtual time."""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from transport.messages import HostBatch, SyncRequest
from transport.sim import LinkConditions, SimBus, SimLimits, SimNetwork


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next timer when nothing is ready. Enough for one network."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
            while self._scheduled and self._scheduled[0]._cancelled:
                self._timer_cancelled_count -= 1
                heapq.heappop(self._scheduled)._scheduled = False
                if self._scheduled:
                    self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


class World:
    def __init__(self, nodes: int, seed: int = 1, **options: Any) -> None:
        self.loop = VirtualLoop()
        self.network = SimNetwork(random.Random(seed), loop=self.loop, **options)
        self.trace: list[tuple[int, int, int, Any]] = []
        self.buses: dict[int, SimBus] = {}
        for node in range(nodes):
            self.start(node)
        self.run_ms(100)
        self.trace.clear()

    def start(self, node: int) -> SimBus:
        bus = self.network.bus(node, self._failed)
        self._start(bus)
        return bus

    def client(self) -> SimBus:
        bus = self.network.client_bus(self._failed)
        self._start(bus)
        return bus

    def _start(self, bus: SimBus) -> None:
        node = bus.self_id
        self.buses[node] = bus
        bus.set_receiver(
            lambda peer, message: self._note(node, peer, message),
            lambda peer, session: self._note(node, peer, session),
        )
        self.loop.run_until_complete(bus.start())

    def _note(self, node: int, peer: int, what: object) -> None:
        number = what.request if isinstance(what, SyncRequest) else what
        kind = "link" if isinstance(what, int) else "message"
        self.trace.append((round(self.loop.time() * 1e9), node, peer, (kind, number)))

    @staticmethod
    def _failed(name: str, error: BaseException) -> None:
        raise AssertionError(name) from error

    def run_ms(self, time_ms: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(time_ms / 1000))

    def send(self, sender: int, receiver: int, numbers: range) -> list[bool]:
        return [self.buses[sender].send(receiver, SyncRequest(n)) for n in numbers]

    def received(self, node: int) -> list[int]:
        return [n for _, at, _, (kind, n) in self.trace if at == node and kind == "message"]

    def links(self, node: int) -> list[tuple[int, int]]:
        return [(peer, n) for _, at, peer, (kind, n) in self.trace if at == node and kind == "link"]


@pytest.fixture
def world() -> Any:
    made: list[World] = []

    def make(nodes: int = 2, seed: int = 1, **options: Any) -> World:
        made.append(World(nodes, seed, **options))
        return made[-1]

    yield make
    for each in made:
        each.loop.close()


Make = Callable[..., World]


def test_a_black_hole_swallows_and_tells_nobody(world: Make) -> None:
    w = world()
    w.network.cut(0, 1)
    assert all(w.send(0, 1, range(5)))
    w.run_ms(1000)
    assert w.trace == []
    w.network.heal(0, 1)
    w.send(0, 1, range(5, 7))
    w.run_ms(10)
    assert w.received(1) == [5, 6]
    assert w.links(1) == []


def test_a_cut_takes_what_is_under_way(world: Make) -> None:
    w = world()
    w.send(0, 1, range(3))
    w.network.cut(0, 1)
    w.run_ms(10)
    assert w.received(1) == []


def test_a_cut_one_way_lets_the_other_pass(world: Make) -> None:
    w = world()
    w.network.cut(0, 1, both=False)
    w.send(0, 1, range(3))
    w.send(1, 0, range(3))
    w.run_ms(10)
    assert (w.received(0), w.received(1)) == ([0, 1, 2], [])


def test_a_cut_with_reset_tells_both_ends_and_heals_to_a_newer_session(world: Make) -> None:
    w = world()
    session = w.buses[0].session(1)
    w.network.cut(0, 1, reset=True)
    w.run_ms(1000)
    assert w.links(0) == [(1, 0)]
    assert w.links(1) == [(0, 0)]
    assert w.send(0, 1, range(1)) == [False]
    w.network.heal(0, 1)
    w.run_ms(100)
    assert w.links(0)[-1] == w.links(1)[-1][::-1] or w.buses[0].session(1) > session
    assert w.buses[0].session(1) == w.buses[1].session(0) > session


def test_a_swallowed_message_counts_against_the_bound_until_healed(world: Make) -> None:
    w = world(limits=SimLimits(queued_bytes_max=10_000))
    w.network.cut(0, 1)
    taken = sum(w.buses[0].send(1, HostBatch(1, bytes(1000))) for _ in range(20))
    assert taken == 9
    w.run_ms(100)
    assert not w.buses[0].send(1, HostBatch(1, bytes(1000)))
    w.network.heal(0, 1)
    assert w.buses[0].send(1, HostBatch(1, bytes(1000)))


def test_a_clog_holds_messages_and_lets_them_go_in_order(world: Make) -> None:
    w = world()
    w.network.clog(0, 1)
    w.send(0, 1, range(5))
    w.run_ms(100)
    assert w.received(1) == []
    w.network.unclog(0, 1)
    w.send(0, 1, range(5, 8))
    w.run_ms(10)
    assert w.received(1) == list(range(8))


def test_loss_takes_about_its_share(world: Make) -> None:
    w = world(conditions=LinkConditions(loss=0.3))
    w.send(0, 1, range(1000))
    w.run_ms(100)
    assert 600 < len(w.received(1)) < 800
    assert w.received(1) == sorted(w.received(1))
    assert w.buses[0].statistics().links[0].queued_bytes == 0


def test_duplication_delivers_some_twice(world: Make) -> None:
    w = world(conditions=LinkConditions(duplication=0.2))
    w.send(0, 1, range(1000))
    w.run_ms(100)
    assert 1100 < len(w.received(1)) < 1300
    assert set(w.received(1)) == set(range(1000))


def test_reordering_lets_later_ones_overtake(world: Make) -> None:
    w = world(conditions=LinkConditions(reordering=0.2))
    w.send(0, 1, range(100))
    w.run_ms(100)
    assert w.received(1) != list(range(100))
    assert sorted(w.received(1)) == list(range(100))


def test_a_heavy_tail_delays_but_keeps_order(world: Make) -> None:
    w = world(conditions=LinkConditions(tail_chance=0.1, tail_us=50_000))
    for number in range(50):
        w.send(0, 1, range(number, number + 1))
        w.run_ms(0.2)
    w.run_ms(200)
    assert w.received(1) == list(range(50))
    times = [time for time, *_ in w.trace]
    assert max(later - one for one, later in itertools.pairwise(times)) > 2_000_000


def test_delays_stay_between_least_and_twice_the_mean(world: Make) -> None:
    w = world(conditions=LinkConditions(delay_min_us=500, delay_mean_us=1000))
    for number in range(100):
        began = w.loop.time()
        w.send(0, 1, range(number, number + 1))
        w.run_ms(2)
        delay_us = w.trace[-1][0] / 1000 - began * 1e6
        assert 499 < delay_us < 1501


def test_corruption_breaks_the_link_and_delivers_nothing_wrong(world: Make) -> None:
    w = world(conditions=LinkConditions(corruption=0.05))
    for number in range(200):
        w.send(0, 1, range(number, number + 1))
        w.run_ms(1)
    w.run_ms(200)
    assert 0 in [session for _, session in w.links(1)]
    assert w.received(1) == sorted(set(w.received(1)))
    assert w.buses[0].session(1) == w.buses[1].session(0) > 1


def test_nothing_reaches_or_leaves_a_crashed_node(world: Make) -> None:
    w = world(3)
    w.send(0, 1, range(3))
    w.send(1, 0, range(3))
    crashed = w.buses[1]
    w.network.detach(1)
    assert not crashed.send(0, SyncRequest(9))
    w.run_ms(100)
    assert w.received(0) == w.received(1) == []
    assert w.links(0) == w.links(2) == [(1, 0)]
    assert w.links(1) == []


def test_what_a_crashed_node_had_sent_can_arrive_before_the_notice(world: Make) -> None:
    w = world()
    w.send(1, 0, range(3))
    w.network.detach(1, deliver_under_way=True)
    w.run_ms(100)
    assert [what for _, _, _, what in w.trace] == [
        ("message", 0),
        ("message", 1),
        ("message", 2),
        ("link", 0),
    ]


def test_a_restarted_node_has_newer_sessions_and_gets_nothing_old(world: Make) -> None:
    w = world(conditions=LinkConditions(delay_min_us=60_000, delay_mean_us=60_000))
    w.run_ms(500)
    w.trace.clear()
    session = w.buses[0].session(1)
    w.send(0, 1, range(3))
    w.network.detach(1, deliver_under_way=True)
    w.start(1)
    w.run_ms(500)
    assert w.buses[1].session(0) == w.buses[0].session(1) > session
    assert w.received(1) == []
    assert w.links(0)[0] == (1, 0)


def test_a_restarted_node_gets_nothing_before_it_is_linked(world: Make) -> None:
    w = world()
    w.send(0, 1, range(3))
    w.network.detach(1, deliver_under_way=True)
    w.start(1)
    w.run_ms(500)
    assert w.received(1) == []
    assert w.buses[1].session(0) > 0


def test_what_is_sent_as_soon_as_a_link_is_up_arrives(world: Make) -> None:
    w = world(conditions=LinkConditions(delay_min_us=0, delay_mean_us=10_000))
    acceptor = w.buses[1]
    acceptor.set_receiver(
        lambda peer, message: None,
        lambda peer, session: session and w.send(1, peer, range(20)),
    )
    for _ in range(5):
        w.trace.clear()
        w.network.reset(0, 1)
        w.run_ms(500)
        assert w.received(0) == list(range(20))


def test_a_crash_behind_a_cut_is_noticed_only_when_it_heals(world: Make) -> None:
    w = world()
    w.network.cut(0, 1)
    w.network.detach(1)
    w.run_ms(1000)
    assert w.links(0) == []
    w.network.heal(0, 1)
    w.run_ms(100)
    assert w.links(0) == [(1, 0)]


def test_a_partition_separates_groups_until_it_heals(world: Make) -> None:
    w = world(5)
    w.network.partition([[0, 1], [2, 3, 4]], reset=True)
    w.run_ms(100)
    sessions = [[w.buses[one].session(other) > 0 for other in range(5)] for one in range(5)]
    for one in range(5):
        for other in range(5):
            same = (one < 2) == (other < 2)
            assert sessions[one][other] == (same and one != other)
    w.network.heal_all()
    w.run_ms(100)
    assert all(w.buses[a].session(b) for a in range(5) for b in range(5) if a != b)


def test_clients_are_linked_with_nodes_and_not_with_each_other(world: Make) -> None:
    w = world(2)
    one, two = w.client(), w.client()
    w.run_ms(100)
    assert one.session(0) > 0
    assert one.session(two.self_id) == 0
    assert w.buses[1].session(two.self_id) == two.session(1)


def test_conditions_can_differ_by_direction(world: Make) -> None:
    w = world()
    w.network.set_conditions(LinkConditions(loss=1.0), 0, 1)
    w.send(0, 1, range(3))
    w.send(1, 0, range(3))
    w.run_ms(10)
    assert (w.received(0), w.received(1)) == ([0, 1, 2], [])


def _random_run(make: Make, seed: int) -> list[Any]:
    conditions = LinkConditions(
        tail_chance=0.05, loss=0.02, duplication=0.02, reordering=0.05, corruption=0.002
    )
    w = make(4, seed, conditions=conditions)
    rng = random.Random(seed)
    network = w.network
    for turn in range(300):
        one, other = rng.sample(range(4), 2)
        fault = rng.randrange(30)
        if fault == 0:
            network.cut(one, other, both=rng.random() < 0.5, reset=rng.random() < 0.5)
        elif fault == 1:
            network.clog(one, other)
        elif fault == 2:
            network.heal_all()
        elif fault == 3:
            network.detach(one, deliver_under_way=rng.random() < 0.5)
            w.start(one)
        elif fault == 4:
            network.reset(one, other)
        w.send(one, other, range(turn, turn + 3))
        w.run_ms(rng.random() * 5)
    network.heal_all()
    network.set_conditions(LinkConditions())
    w.run_ms(500)
    for one in range(4):
        for other in range(4):
            if one != other:
                session = w.buses[one].session(other)
                assert session == w.buses[other].session(one) > 0
                assert w.buses[one].send(other, SyncRequest(1000 + one))
    w.run_ms(50)
    for node in range(4):
        assert sorted(w.received(node)[-3:]) == [1000 + n for n in range(4) if n != node]
    return w.trace


@pytest.mark.parametrize("seed", range(6))
def test_sessions_grow_and_links_come_back_after_any_faults(world: Make, seed: int) -> None:
    newest: dict[tuple[int, int], int] = {}
    up: dict[tuple[int, int], bool] = {}
    for _, node, peer, (kind, number) in _random_run(world, seed):
        key = (node, peer)
        if kind == "link" and number:
            assert number > newest.get(key, 0)
            newest[key] = number
            up[key] = True
        elif kind == "link":
            up[key] = False
        else:
            assert up.get(key, True), "a message on a link that is down"


def test_the_same_seed_gives_the_same_trace(world: Make) -> None:
    assert _random_run(world, 3) == _random_run(world, 3)
    assert _random_run(world, 3) != _random_run(world, 4)


def test_framed_link_hands_over_each_message_once_and_in_order(world: Make) -> None:
    w = world(framed=True)
    w.network.set_conditions(LinkConditions(duplication=0.5, reordering=0.5))
    w.send(0, 1, range(50))
    w.run_ms(50)
    assert w.received(1) == list(range(50))


def test_framed_link_breaks_at_a_lost_message_and_hands_over_none_behind_it(world: Make) -> None:
    w = world(framed=True)
    w.network.set_conditions(LinkConditions(loss=1.0))
    w.send(0, 1, range(1))
    w.network.set_conditions(LinkConditions())
    w.send(0, 1, range(1, 3))
    w.run_ms(200)
    assert w.received(1) == []
    assert [session > 0 for _, session in w.links(1)] == [False, True]
    assert w.network.frames_lost == 1


def test_framed_link_breaks_at_a_corrupt_message(world: Make) -> None:
    w = world(framed=True)
    w.network.set_conditions(LinkConditions(corruption=1.0))
    w.send(0, 1, range(2))
    w.network.set_conditions(LinkConditions())
    w.run_ms(200)
    assert w.received(1) == []
    assert w.network.frames_corrupt == 1


def test_a_node_that_is_held_back_gets_what_arrived_in_order_and_nothing_passes_it(
    world: Callable[..., World],
) -> None:
    turns: list[bool] = []

    def run_in(context: Any, callback: Callable[..., None], *arguments: Any) -> bool:
        turns.append(len(turns) % 3 != 1)
        if turns[-1]:
            context.run(callback, *arguments)
        return turns[-1]

    w = world(2, run_in=run_in)
    assert w.links(1) == []
    for first in range(0, 60, 3):
        w.send(0, 1, range(first, first + 3))
        w.run_ms(0.1)
    w.run_ms(100)
    assert w.received(1) == list(range(60))
    assert True in turns
    assert False in turns


def test_a_message_arrives_in_the_event_of_its_time(world: Callable[..., World]) -> None:
    entered: list[float] = []

    def run_in(context: Any, callback: Callable[..., None], *arguments: Any) -> bool:
        entered.append(w.loop.time())
        context.run(callback, *arguments)
        return True

    w = world(2)
    w.network.run_in = run_in
    w.send(0, 1, range(3))
    w.run_ms(100)
    assert w.received(1) == [0, 1, 2]
    assert [at for at, _, _, _ in w.trace] == [round(at * 1e9) for at in entered]
