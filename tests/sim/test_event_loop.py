"""Virtual time: order, jumps, failures, groups, and the same trace for the same seed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from base.tasks import Supervisor
from sim.event_loop import (
    START_NS,
    EventBudgetExceeded,
    SimEventLoop,
    SimGroup,
    SimulationDeadlock,
)
from sim.fence import SimulationFenceError
from sim.random import SimRandom


def test_time_starts_near_zero_and_jumps_when_idle(loop: SimEventLoop) -> None:
    assert loop.now_ns == START_NS
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.now_ns == START_NS + 3600 * 10**9
    assert loop.events < 10


def test_events_of_one_time_run_in_the_order_of_their_making(loop: SimEventLoop) -> None:
    ran: list[int] = []
    loop.call_at_ns(START_NS + 5, ran.append, 1)
    loop.call_at_ns(START_NS + 5, ran.append, 2)
    loop.call_at_ns(START_NS + 4, loop.call_at_ns, START_NS + 5, ran.append, 3)
    loop.call_at_ns(START_NS + 5, loop.call_soon, ran.append, 4)
    loop.run_until_ns(START_NS + 6)
    assert ran == [1, 2, 3, 4]


def test_shuffled_ties_keep_all_events_and_depend_on_the_seed_only() -> None:
    def order(seed: int) -> list[int]:
        loop = SimEventLoop(shuffle=SimRandom(seed))
        ran: list[int] = []
        for number in range(10):
            loop.call_at_ns(START_NS + 5, ran.append, number)
        loop.run_until_ns(START_NS + 6)
        loop.close()
        return ran

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == list(range(10))


def test_a_time_in_the_past_is_now(loop: SimEventLoop) -> None:
    ran: list[int] = []
    loop.call_later(-5, ran.append, 1)
    loop.call_at(0.0, ran.append, 2)
    loop.run_until_ns(START_NS + 1)
    assert ran == [1, 2]


def test_a_cancelled_timer_does_not_run_nor_move_time(loop: SimEventLoop) -> None:
    ran: list[int] = []
    handle = loop.call_later(5, ran.append, 1)
    loop.call_later(1, handle.cancel)
    with pytest.raises(SimulationDeadlock):
        loop.run_until_complete(loop.create_future())
    assert ran == []
    assert loop.now_ns == START_NS + 10**9


def test_many_cancelled_timers_are_cleared_out(loop: SimEventLoop) -> None:
    async def main() -> None:
        for _ in range(5_000):
            async with asyncio.timeout(1000):
                await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    assert len(loop._later) < 2_000


def test_a_deadlock_names_the_waiting_task_and_its_place(loop: SimEventLoop) -> None:
    async def stuck() -> None:
        await loop.create_future()

    async def main() -> None:
        await loop.create_task(stuck(), name="the stuck one")

    with pytest.raises(SimulationDeadlock, match=r"(?s)the stuck one: .*in stuck"):
        loop.run_until_complete(main())


def test_an_error_in_a_callback_ends_the_run_at_once(loop: SimEventLoop) -> None:
    def bad() -> None:
        raise KeyError("x")

    loop.call_later(1, bad)
    with pytest.raises(KeyError) as caught:
        loop.run_until_complete(asyncio.sleep(5))
    assert "t=2.000000000 s" in caught.value.__notes__[0]
    assert loop.now_ns == START_NS + 10**9


def test_an_error_of_a_task_that_nobody_awaits_fails_the_run(loop: SimEventLoop) -> None:
    async def bad() -> None:
        raise KeyError("x")

    async def main() -> None:
        loop.create_task(bad(), name="bad")
        await asyncio.sleep(1)

    with pytest.raises(KeyError) as caught:
        loop.run_until_complete(main())
    assert "nobody awaited" in caught.value.__notes__[0]


def test_an_error_of_a_future_that_nobody_awaits_fails_the_run(loop: SimEventLoop) -> None:
    async def main() -> None:
        loop.create_future().set_exception(KeyError("x"))
        await asyncio.sleep(1)

    with pytest.raises(KeyError):
        loop.run_until_complete(main())


def test_a_livelock_ends_with_the_budget(fenced: None) -> None:
    loop = SimEventLoop(events_max=1000)

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(EventBudgetExceeded, match="1000 events"):
        loop.run_until_complete(main())
    loop.close()


def test_sockets_threads_and_processes_are_refused(loop: SimEventLoop) -> None:
    async def main() -> None:
        with pytest.raises(SimulationFenceError):
            await asyncio.open_connection("127.0.0.1", 1)
        with pytest.raises(SimulationFenceError):
            await asyncio.to_thread(print)
        with pytest.raises(SimulationFenceError):
            await asyncio.create_subprocess_exec("true")
        with pytest.raises(SimulationFenceError):
            loop.add_signal_handler(1, print)

    loop.run_until_complete(main())


def test_asyncio_itself_works_on_virtual_time(loop: SimEventLoop) -> None:
    async def main() -> list[object]:
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        supervisor = Supervisor("s")

        async def produce() -> None:
            for number in range(3):
                await queue.put(number)
                await asyncio.sleep(1)

        supervisor.start(produce(), name="produce")
        got: list[object] = [await queue.get() for _ in range(3)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 7)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1))
        await supervisor.close()
        return [*got, round(loop.time(), 6)]

    assert loop.run_until_complete(main()) == [0, 1, 2, 11.0]


def test_a_group_that_is_dropped_runs_nothing_more_and_no_finally(loop: SimEventLoop) -> None:
    seen: list[str] = []
    group = loop.group("n1")

    async def part() -> None:
        try:
            loop.call_later(2, seen.append, "timer")
            await asyncio.sleep(2)
            seen.append("woke")
        finally:
            seen.append("finally")

    async def node() -> None:
        await asyncio.gather(loop.create_task(part()), part())

    async def main() -> None:
        group.start(node(), name="node")
        await asyncio.sleep(1)
        assert group.drop() == 3
        await asyncio.sleep(5)

    loop.run_until_complete(main())
    assert seen == []
    assert not group.alive
    loop.close()
    assert seen == ["finally", "finally"]


def test_a_dropped_group_is_not_woken_by_what_it_waited_for(loop: SimEventLoop) -> None:
    seen: list[str] = []
    answer = loop.create_future()
    group = loop.group("n1")

    async def node() -> None:
        await answer
        seen.append("woke")

    async def main() -> None:
        group.start(node(), name="node")
        await asyncio.sleep(1)
        group.drop()
        answer.set_result(None)
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert seen == []


def test_other_groups_go_on_when_one_is_dropped(loop: SimEventLoop) -> None:
    seen: list[str] = []

    async def node(group: SimGroup) -> None:
        await asyncio.sleep(2)
        seen.append(group.name)

    async def main() -> None:
        groups = [loop.group(f"n{number}") for number in range(3)]
        for group in groups:
            group.start(node(group), name="node")
        await asyncio.sleep(1)
        groups[1].drop()
        await asyncio.sleep(2)

    loop.run_until_complete(main())
    assert seen == ["n0", "n2"]


def test_a_dropped_group_takes_no_new_task(loop: SimEventLoop) -> None:
    group = loop.group("n1")
    group.drop()
    with pytest.raises(RuntimeError, match="was dropped"):
        group.start(asyncio.sleep(1), name="late")


def test_a_group_cannot_drop_itself(loop: SimEventLoop) -> None:
    group = loop.group("n1")

    async def node() -> None:
        group.drop()

    with pytest.raises(RuntimeError, match="cannot drop itself"):
        loop.run_until_complete(group.start(node(), name="node"))


def test_a_paused_group_stands_still_and_then_catches_up_in_order(loop: SimEventLoop) -> None:
    seen: list[tuple[int, int]] = []
    group = loop.group("n1")
    for second in range(1, 5):
        group.call_at_ns(
            START_NS + second * 10**9,
            lambda second=second: seen.append((second, loop.now_ns // 10**9)),
        )
    loop.call_at_ns(START_NS + 1_500_000_000, group.pause)
    loop.call_at_ns(START_NS + 3_500_000_000, group.resume)
    loop.run_until_ns(START_NS + 5 * 10**9)
    assert seen == [(1, 2), (2, 4), (3, 4), (4, 5)]


def test_a_deadlock_names_paused_groups(loop: SimEventLoop) -> None:
    group = loop.group("n5")
    group.pause()
    with pytest.raises(SimulationDeadlock, match="paused groups: n5"):
        loop.run_until_complete(group.start(asyncio.sleep(1), name="node"))


def test_single_tasks_can_be_abandoned(loop: SimEventLoop) -> None:
    seen: list[str] = []

    async def part(name: str) -> None:
        try:
            await asyncio.sleep(2)
        finally:
            seen.append(name)

    async def main() -> None:
        tasks = [loop.create_task(part(name)) for name in "ab"]
        await asyncio.sleep(1)
        loop.abandon(tasks[:1])
        await asyncio.sleep(5)

    loop.run_until_complete(main())
    assert seen == ["b"]


def test_a_coroutine_that_awaits_in_its_finally_is_destroyed_at_the_end() -> None:
    loop = SimEventLoop()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            loop.create_task(asyncio.sleep(1))

    async def main() -> None:
        loop.create_task(stubborn())
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    loop.close()
    assert loop.is_closed()


def test_a_generator_left_in_the_middle_is_closed(loop: SimEventLoop) -> None:
    seen: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            seen.append("closed")

    async def main() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert seen == ["closed"]


def test_sets_of_tasks_iterate_in_the_order_of_their_making(loop: SimEventLoop) -> None:
    async def main() -> bool:
        tasks = [loop.create_task(asyncio.sleep(1)) for _ in range(20)]
        numbers = [hash(task) for task in tasks]
        await asyncio.gather(*tasks)
        return numbers == sorted(numbers) and len(set(tasks)) == 20

    assert loop.run_until_complete(main())


def test_a_trace_tells_runs_apart_and_does_not_care_when_it_is_asked() -> None:
    def trace(*keys: int, ask: bool = False) -> str:
        loop = SimEventLoop()
        for key in keys:
            loop.trace("k", key)
            if ask:
                loop.trace_hash()
        loop.close()
        return loop.trace_hash()

    assert trace(1, 2) != trace(2, 1)
    assert trace(1, 2) == trace(1, 2, ask=True)


def test_a_context_is_entered_at_once_unless_its_group_is_held_back(loop: SimEventLoop) -> None:
    ran: list[str] = []
    group = loop.group("n1")
    context = group.context
    assert loop.run_in(context, ran.append, "runs")
    group.pause()
    assert not loop.run_in(context, ran.append, "paused")
    assert loop.run_in(loop.outside, ran.append, "others go on")
    group.resume()
    assert loop.run_in(context, ran.append, "runs again")
    group.drop()
    assert not loop.run_in(context, ran.append, "dropped")
    assert ran == ["runs", "others go on", "runs again"]


def test_a_trace_tells_runs_apart_that_differ_only_in_when_time_jumped() -> None:
    def trace(*delays_ns: int, ask: bool = False) -> str:
        loop = SimEventLoop()
        for delay_ns in delays_ns:
            loop.run_until_ns(loop.now_ns + delay_ns)
            if ask:
                loop.trace_hash()
        loop.close()
        return loop.trace_hash()

    assert trace(5, 7) == trace(5, 7, ask=True)
    assert trace(5, 7) != trace(7, 5)


def test_a_recorder_sees_every_entry() -> None:
    entries: list[tuple[int, str, object]] = []
    loop = SimEventLoop(recorder=lambda t_ns, kind, key: entries.append((t_ns, kind, key)))
    loop.trace("region.failed_over", (7, "n1"))
    loop.close()
    assert entries == [(START_NS, "region.failed_over", (7, "n1"))]


PROGRAM = Path(__file__).with_name("determinism_program.py")


def test_a_seed_gives_one_trace_whatever_the_hash_seed_of_the_process() -> None:
    def run(seed: int, hash_seed: str) -> str:
        root = PROGRAM.parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        command = [sys.executable, str(PROGRAM), str(seed)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    first = run(1, "0")
    assert len(first.split()[0]) == 32
    assert run(1, "4242") == first
    assert run(2, "0").split()[0] != first.split()[0]


def test_what_a_group_schedules_outside_goes_on_when_the_group_is_paused_or_dropped(
    loop: SimEventLoop,
) -> None:
    group = loop.group("n0")
    seen: list[str] = []

    def schedule() -> None:
        loop.call_soon(seen.append, "soon", context=loop.outside)
        loop.call_at_ns(loop.now_ns + 10, seen.append, "later", context=loop.outside)
        loop.call_soon(seen.append, "mine")

    group.call_at_ns(loop.now_ns, schedule)
    group.call_at_ns(loop.now_ns, lambda: loop.call_soon(group.pause, context=loop.outside))
    loop.run_until_ns(loop.now_ns + 1)
    group.drop()
    loop.run_until_ns(loop.now_ns + 20)
    assert "later" in seen


def test_strike_comes_right_behind_the_event_of_that_number(loop: SimEventLoop) -> None:
    steps: list[object] = []

    async def walk() -> None:
        for step in range(6):
            steps.append(step)
            await asyncio.sleep(0)

    loop.after_events(3, lambda: steps.append("strike"))
    loop.run_until_complete(walk())
    assert steps[:4] == [0, 1, 2, "strike"]
