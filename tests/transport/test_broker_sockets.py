"""Sockets of a broker's connection that are gone before they are watched end nothing else."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvloop

from transport.broker import WatchedLoop


async def _watched(*, through: bool) -> list[str]:
    """Ask for the socket of somebody else's transport to be watched; what the loop reported."""
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _loop, context: told.append(str(context["exception"])))
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        asked: Any = WatchedLoop(loop) if through else loop
        asked.call_soon_threadsafe(asked.add_writer, ours.fileno(), lambda: None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        transport.close()
    return told


def _run(*, through: bool) -> list[str]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_watched(through=through))


def test_number_that_another_connection_has_by_now_is_not_watched() -> None:
    assert _run(through=True) == []


def test_without_it_the_loop_reports_an_error_that_ends_a_node() -> None:
    (told,) = _run(through=False)
    assert "is used by transport" in told


def test_socket_that_is_there_is_watched() -> None:
    async def main() -> bool:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            asked: Any = WatchedLoop(loop)
            asked.call_soon_threadsafe(asked.add_writer, ours.fileno(), heard.set)
            async with asyncio.timeout(5):
                await heard.wait()
            asked.remove_writer(ours.fileno())
        return heard.is_set()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main())


@pytest.mark.parametrize("name", ["create_task", "remove_reader", "time"])
def test_all_else_is_the_loop_itself(name: str) -> None:
    loop = asyncio.new_event_loop()
    assert getattr(WatchedLoop(loop), name) == getattr(loop, name)
    loop.close()
