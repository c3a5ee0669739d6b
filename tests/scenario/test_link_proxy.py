"""The relay between real nodes, on real sockets: both ends are plain streams of this test."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from base.errors import InvalidRequest
from scenario.link_proxy import HELD_BYTES_MAX, LinkProxy
from scenario.links import both_ways

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

DIALER, LISTENER = 0, 1


class Wired:
    """A listening node, a relay before it, and what a dialer gets."""

    def __init__(self, relay: LinkProxy, port: int, accepted: "asyncio.Queue[Stream]") -> None:
        self.relay = relay
        self.port = port
        self.accepted = accepted

    async def dial(self) -> Stream:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def linked(self) -> tuple[Stream, Stream]:
        near = await self.dial()
        return near, await self.accepted.get()


def wired(story: Callable[[Wired], Awaitable[None]]) -> None:
    async def main() -> None:
        accepted: asyncio.Queue[Stream] = asyncio.Queue()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.put_nowait((reader, writer))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        relay = LinkProxy()
        ports = await relay.listen({DIALER: ("127.0.0.1", 1), LISTENER: ("127.0.0.1", port)})
        async with asyncio.timeout(20):
            await story(Wired(relay, ports[DIALER, LISTENER], accepted))
        await relay.close()
        server.close()

    asyncio.run(main())


async def says(writer: Stream, reader: Stream, text: bytes) -> None:
    """It is sent by one and read by the other."""
    writer[1].write(text)
    assert await reader[0].readexactly(len(text)) == text


def close(*streams: Stream) -> None:
    for _, writer in streams:
        writer.close()


def test_bytes_pass_both_ways() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        await says(near, far, b"question")
        await says(far, near, b"answer")
        close(near, far)

    wired(story)


def test_more_bytes_than_are_held_pass_in_order() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        await says(near, far, bytes(range(256)) * (HELD_BYTES_MAX // 64))
        close(near, far)

    wired(story)


def test_one_way_cut_stops_one_direction_and_what_was_sent_arrives_after_healing() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        world.relay.command("cut", [(DIALER, LISTENER)])
        near[1].write(b"late")
        waiting = asyncio.gather(far[0].readexactly(4))
        for _ in range(20):
            await says(far, near, b"still passes")
        assert not waiting.done()
        world.relay.command("heal", [(DIALER, LISTENER)])
        assert await waiting == [b"late"]
        close(near, far)

    wired(story)


def test_close_of_one_end_is_not_told_across_a_cut() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        other = await world.linked()
        world.relay.command("cut", [(DIALER, LISTENER)])
        close(near)
        waiting = asyncio.gather(far[0].read())
        for _ in range(20):
            await says(other[1], other[0], b"time passes")
        assert not waiting.done()
        world.relay.command("heal", [(DIALER, LISTENER)])
        assert await waiting == [b""]
        close(far, *other)

    wired(story)


@pytest.mark.parametrize("way", [(DIALER, LISTENER), (LISTENER, DIALER)])
def test_no_connection_is_made_across_a_cut_and_one_is_after_healing(way: tuple[int, int]) -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        world.relay.command("cut", [way])
        second = await world.dial()
        second[1].write(b"hello")
        assert world.accepted.empty()
        world.relay.command("heal", [way])
        late = await world.accepted.get()
        assert await late[0].readexactly(5) == b"hello"
        close(near, far, second, late)

    wired(story)


def test_reset_ends_connections_and_refuses_new_ones_until_healed() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        world.relay.command("reset", [(DIALER, LISTENER)])
        for reader, _ in (near, far, await world.dial()):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        assert world.accepted.empty()
        world.relay.command("heal", [(DIALER, LISTENER)])
        again = await world.linked()
        await says(*again, b"again")
        close(near, far, *again)

    wired(story)


def test_delay_keeps_the_order_and_takes_its_time() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        world.relay.command("delay", [(DIALER, LISTENER)], delay_ms=60)
        clock = world.relay.clock
        began_ns = clock.now_ns()
        near[1].write(b"first ")
        near[1].write(b"second")
        assert await far[0].readexactly(12) == b"first second"
        assert clock.now_ns() - began_ns >= 60_000_000
        close(near, far)

    wired(story)


def test_end_of_the_node_that_listens_is_told_to_the_one_that_dialled() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        close(far)
        assert await near[0].read() == b""
        close(near)

    wired(story)


@pytest.mark.parametrize(
    ("action", "ways", "said"),
    [
        ("bend", [(0, 1)], "'bend' is not one of cut, delay, reset, heal"),
        ("cut", [(0, 1), (1, 2)], "there is no link from n1 to n2"),
        ("cut", [(1, 1)], "there is no link from n1 to n1"),
    ],
)
def test_command_that_names_no_link_or_action_is_refused(
    action: str, ways: list[tuple[int, int]], said: str
) -> None:
    async def story(world: Wired) -> None:
        with pytest.raises(InvalidRequest, match=said):
            world.relay.command(action, ways)
        near, far = await world.linked()  # nothing was done
        await says(near, far, b"passes")
        close(near, far)

    wired(story)


def test_both_ways_names_each_direction_once() -> None:
    assert sorted(both_ways([0, 1], [0, 1, 2])) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_fault_that_stands_is_over_when_its_time_is_whoever_asked_for_it() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        world.relay.stand(1, "cut", both_ways([DIALER], [LISTENER]), 50)
        await says(near, far, b"late")
        close(near, far)

    wired(story)


def test_reset_that_stands_refuses_until_it_is_lifted() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        world.relay.stand(1, "reset", both_ways([DIALER], [LISTENER]), 60_000)
        with pytest.raises(ConnectionResetError):
            await near[0].read()
        world.relay.lift(1)
        again, other = await world.linked()
        await says(again, other, b"again")
        close(near, far, again, other)

    wired(story)


def test_way_stays_cut_while_one_of_two_faults_still_stands() -> None:
    async def story(world: Wired) -> None:
        near, far = await world.linked()
        world.relay.stand(1, "cut", [(DIALER, LISTENER)], 60_000)
        world.relay.stand(2, "cut", both_ways([DIALER], [LISTENER]), 60_000)
        world.relay.lift(2)
        await says(far, near, b"the other way passes")
        near[1].write(b"held")
        world.relay.lift(1)
        assert await far[0].readexactly(4) == b"held"
        close(near, far)

    wired(story)


def test_fault_that_stands_without_end_or_on_no_link_is_refused() -> None:
    async def story(world: Wired) -> None:
        with pytest.raises(InvalidRequest, match="a time to live, not 0 ms"):
            world.relay.stand(1, "cut", [(DIALER, LISTENER)], 0)
        with pytest.raises(InvalidRequest, match="no link from n0 to n7"):
            world.relay.stand(1, "cut", [(DIALER, 7)], 10)
        with pytest.raises(InvalidRequest, match="'delay' is not one of cut, reset"):
            world.relay.stand(1, "delay", [(DIALER, LISTENER)], 10)

    wired(story)
