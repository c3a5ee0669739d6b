"""A node's own clock: rate, zero, date."""

from __future__ import annotations

import pytest

from sim.clock import WALL_START_NS, SimClock
from sim.event_loop import START_NS, SimEventLoop

SECOND = 10**9


def test_a_fast_clock_runs_ahead(loop: SimEventLoop) -> None:
    clock = SimClock(loop, rate_ppm=50_000)
    loop.run_until_ns(START_NS + 100 * SECOND)
    assert clock.now_ns() == START_NS + 105 * SECOND


def test_sleeping_on_a_slow_clock_takes_longer_and_is_never_early(loop: SimEventLoop) -> None:
    clock = SimClock(loop, rate_ppm=-30_001)
    before_ns = clock.now_ns()
    loop.run_until_complete(clock.sleep(10))
    assert 0 <= clock.now_ns() - before_ns - 10 * SECOND <= 2
    assert loop.now_ns > START_NS + 10 * SECOND


def test_a_rate_can_change_without_a_jump(loop: SimEventLoop) -> None:
    clock = SimClock(loop)
    loop.run_until_ns(START_NS + SECOND)
    before_ns = clock.now_ns()
    clock.set_rate(1000)
    assert clock.now_ns() == before_ns
    loop.run_until_ns(START_NS + 2 * SECOND)
    assert clock.now_ns() == before_ns + SECOND + SECOND // 1000


def test_the_date_can_jump_and_nothing_else_does(loop: SimEventLoop) -> None:
    clock = SimClock(loop, wall_offset_ns=-5, zero_ns=77)
    assert (clock.now_ns(), clock.wall_ns()) == (77, WALL_START_NS - 5)
    clock.jump_wall(-3600 * SECOND)
    assert (clock.now_ns(), clock.wall_ns()) == (77, WALL_START_NS - 5 - 3600 * SECOND)


def test_timers_of_a_clock_with_a_group_go_with_the_group(loop: SimEventLoop) -> None:
    group = loop.group("n1")
    ran: list[int] = []
    SimClock(loop, group=group).call_later(1, ran.append, 1)
    SimClock(loop).call_later(1, ran.append, 2)
    group.drop()
    loop.run_until_ns(START_NS + 2 * SECOND)
    assert ran == [2]


def test_a_sleep_of_nothing_lets_others_run(loop: SimEventLoop) -> None:
    loop.run_until_complete(SimClock(loop).sleep(0))
    assert loop.now_ns == START_NS


def test_a_clock_that_stands_still_is_refused(loop: SimEventLoop) -> None:
    with pytest.raises(ValueError, match="forward"):
        SimClock(loop, rate_ppm=-1_000_000)
