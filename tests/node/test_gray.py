from __future__ import annotations

import asyncio

from base.clock import RealClock
from base.units import NS_PER_MS
from node.gray import STEP_MAX_NS, IoHealth, PeerHealth
from node.timed_device import IoWatch

DEADLINE_MS = 1500
TICK_MS = 80


class World:
    """A node that ticks, and the I/O that it waits for."""

    def __init__(self, deadline_ms: int = DEADLINE_MS) -> None:
        self.now_ms = 0
        self.waits_for = (0, "")
        self.health = IoHealth(deadline_ms * NS_PER_MS, 0)
        self.health.oldest = lambda: self.waits_for
        self.changes = 0

    def run(self, ms: int, tick_ms: int = TICK_MS) -> bool:
        until_ms = self.now_ms + ms
        while self.now_ms < until_ms:
            self.now_ms += tick_ms
            self.changes += self.health.tick(self.now_ms * NS_PER_MS)
        return self.health.stuck


def test_a_node_whose_io_returns_is_well() -> None:
    world = World()
    for number in range(1, 100):
        world.waits_for = (number, "journal")
        assert not world.run(DEADLINE_MS // 2)


def test_an_io_that_does_not_return_in_time_makes_the_node_stuck() -> None:
    world = World()
    world.waits_for = (7, "journal")
    assert not world.run(DEADLINE_MS - TICK_MS)
    assert world.run(3 * TICK_MS)
    assert world.health.device == "journal"


def test_a_node_is_well_again_when_its_io_moves() -> None:
    world = World()
    world.waits_for = (7, "journal")
    world.run(2 * DEADLINE_MS)
    world.waits_for = (0, "")
    assert not world.run(TICK_MS)
    assert world.changes == 2


def test_time_in_which_the_node_did_not_run_counts_little() -> None:
    world = World()
    world.waits_for = (7, "journal")
    world.run(TICK_MS)
    assert not world.run(100_000, tick_ms=100_000)
    assert world.run(DEADLINE_MS - STEP_MAX_NS // NS_PER_MS + TICK_MS)


def test_without_a_deadline_nobody_is_stuck() -> None:
    world = World(deadline_ms=0)
    world.waits_for = (7, "journal")
    assert not world.run(100_000)


class SlowDevice:
    """A device whose sync returns when the test says so."""

    size_bytes = 4096
    name = "slow"

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    def read_now(self, offset: int, into: memoryview) -> bool:
        return True

    def write_now(self, offset: int, buffers: object) -> bool:
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        await self.may_end.wait()

    async def write(self, offset: int, buffers: object) -> None:
        await self.may_end.wait()

    async def sync(self) -> None:
        await self.may_end.wait()

    def discard(self, offset: int, length: int) -> None: ...

    def close(self) -> None: ...


def test_what_is_under_way_is_known_until_it_returns() -> None:
    async def run() -> list[tuple[int, str]]:
        watch, device = IoWatch(RealClock()), SlowDevice()
        timed = watch.over(device)
        seen = [watch.oldest()]
        first = asyncio.get_running_loop().create_task(timed.sync())
        second = asyncio.get_running_loop().create_task(timed.write(0, [b"x"]))
        await asyncio.sleep(0)
        seen.append(watch.oldest())
        device.may_end.set()
        await first
        await second
        seen.append(watch.oldest())
        return seen

    assert asyncio.run(run()) == [(0, ""), (1, "slow"), (0, "")]


def look(peers: PeerHealth, lagging: set[int], from_ms: int, to_ms: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for now_ms in range(from_ms, to_ms, 40):
        found = peers.look(lagging, now_ms * NS_PER_MS)
    return found


def test_a_peer_that_acknowledges_nothing_for_the_deadline_is_stuck() -> None:
    peers = PeerHealth(DEADLINE_MS * NS_PER_MS)
    assert look(peers, {4}, 0, DEADLINE_MS) == {}
    assert list(look(peers, {4}, DEADLINE_MS, DEADLINE_MS + 160)) == [4]


def test_one_acknowledgement_of_any_region_is_enough() -> None:
    peers = PeerHealth(DEADLINE_MS * NS_PER_MS)
    look(peers, {4}, 0, DEADLINE_MS)
    peers.acknowledged(4)
    assert look(peers, {4}, DEADLINE_MS, 2 * DEADLINE_MS - 80) == {}


def test_a_peer_that_nothing_waits_for_is_well() -> None:
    peers = PeerHealth(DEADLINE_MS * NS_PER_MS)
    look(peers, {4}, 0, DEADLINE_MS)
    look(peers, set(), DEADLINE_MS, DEADLINE_MS + 80)
    assert look(peers, {4}, DEADLINE_MS + 80, DEADLINE_MS + 400) == {}


def test_a_pause_of_the_owner_is_no_silence_of_its_copies() -> None:
    peers = PeerHealth(DEADLINE_MS * NS_PER_MS)
    look(peers, {4}, 0, 200)
    assert peers.look({4}, 60_000 * NS_PER_MS) == {}
