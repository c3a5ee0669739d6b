from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from base.errors import AccessDenied, ConfigError, DeviceFailed, LinkLost, StorageError
from base.units import MiB
from host import nbd_wire as wire
from host.export import ALLOCATION, HostRequest, MappedExports, RequestKind
from host.memory_volume import MemoryVolume
from host.nbd_client import NbdClient
from host.nbd_target import NbdLimits, NbdTarget, _Connection

GO = (
    wire.CLIENT_FLAGS.pack(3)
    + wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_EXPORT_NAME, 3)
    + b"vol"
)


class HandClock:
    """Timers that fire when the test says so."""

    def __init__(self) -> None:
        self.timers: list[asyncio.TimerHandle] = []

    def now_ns(self) -> int:
        return 0

    def wall_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def call_later(self, seconds: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(0, callback, args, asyncio.get_running_loop())
        self.timers.append(handle)
        return handle

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            if not timer.cancelled():
                timer._run()


class FakeTransport(asyncio.Transport):
    """Records what a connection does to its socket."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.reading = True
        self.closing = False
        self.aborted = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.writes.append(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Bench:
    """One connection by hand, past the handshake."""

    def __init__(self, **limits: int) -> None:
        self.clock = HandClock()
        self.volume = MemoryVolume("vol", 64 * MiB)
        table = MappedExports({"vol": self.volume})
        self.target = NbdTarget(table, clock=self.clock, limits=NbdLimits(**limits))
        self.transport = FakeTransport()
        self.connection = _Connection(self.target)
        self.connection.connection_made(self.transport)

    def begin(self) -> None:
        self.feed(GO)
        self.transport.writes.clear()

    def feed(self, received: bytes) -> None:
        while received:
            room = self.connection.get_buffer(-1)
            count = min(len(room), len(received))
            room[:count] = received[:count]
            received = received[count:]
            self.connection.buffer_updated(count)


def by_hand(test: Callable[[Bench], Awaitable[None]], **limits: int) -> None:
    async def main() -> None:
        bench = Bench(**limits)
        bench.begin()
        await test(bench)

    asyncio.run(main())


def request(command: int, offset: int = 0, length: int = 4096, cookie: int = 1) -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, command, cookie, offset, length)


def write(length: int = 4096, cookie: int = 1) -> bytes:
    return request(wire.CMD_WRITE, 0, length, cookie) + bytes(length)


def test_answers_given_at_once_leave_in_one_write() -> None:
    async def check(bench: Bench) -> None:
        bench.feed(write() * 10)
        assert [len(each) for each in bench.transport.writes] == [160]

    by_hand(check)


def test_answers_of_one_turn_leave_in_one_write() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(write() * 10)
        bench.volume.release()
        assert bench.transport.writes == []
        await asyncio.sleep(0)
        assert [len(each) for each in bench.transport.writes] == [160]

    by_hand(check)


def test_reading_stops_at_the_bound_of_requests_and_goes_on_below_it() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(request(wire.CMD_READ) * 7)
        assert len(bench.volume.held) == 4
        assert not bench.transport.reading
        bench.volume.release(3)
        await asyncio.sleep(0)
        assert len(bench.volume.held) == 4
        bench.volume.release()
        await asyncio.sleep(0)
        assert bench.transport.reading

    by_hand(check, requests_in_flight_max=4)


def test_reading_stops_at_the_bound_of_bytes() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(request(wire.CMD_READ, 0, 32 * MiB) * 3)
        assert len(bench.volume.held) == 2
        assert not bench.transport.reading

    by_hand(check)


def test_reading_goes_on_when_bytes_have_been_answered() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(request(wire.CMD_READ, 0, 32 * MiB) * 3)
        bench.volume.release()
        await asyncio.sleep(0)
        assert len(bench.volume.held) == 1
        assert bench.transport.reading

    by_hand(check)


def test_answers_for_a_vanished_client_are_not_kept() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(request(wire.CMD_READ) * 5)
        bench.connection.connection_lost(ConnectionResetError())
        bench.volume.release()
        assert bench.connection._out == []

    by_hand(check)


def test_a_client_that_reads_nothing_is_not_read_from() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.connection.pause_writing()
        assert not bench.transport.reading
        bench.connection.resume_writing()
        await asyncio.sleep(0)
        assert bench.transport.reading

    by_hand(check)


def test_replies_are_bounded_when_the_transport_says_stop() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.submit(HostRequest(RequestKind.WRITE, 0, 4096, _ignore, bytes(4096)))
        transport, connection = bench.transport, bench.connection

        def write_and_pause(data: Any) -> None:
            transport.writes.append(bytes(data))
            if not connection._writing_paused:
                connection.pause_writing()

        transport.write = write_and_pause  # type: ignore[method-assign]
        bench.feed(request(wire.CMD_READ) * 100)
        assert sum(map(len, transport.writes)) == 2 * (4096 + 16)

    by_hand(check, unsent_bytes_max=8192)


def _ignore(request: HostRequest, error: StorageError | None, result: Any) -> None:
    return None


def test_a_client_that_reads_nothing_for_long_is_dropped() -> None:
    async def check(bench: Bench) -> None:
        bench.connection.pause_writing()
        bench.clock.fire()
        assert bench.transport.aborted

    by_hand(check)


def test_handshake_that_takes_too_long_is_dropped() -> None:
    async def main() -> None:
        bench = Bench()
        bench.feed(GO[:9])
        bench.clock.fire()
        assert bench.transport.aborted

    asyncio.run(main())


def test_handshake_in_time_is_not_dropped() -> None:
    async def check(bench: Bench) -> None:
        bench.clock.fire()
        assert not bench.transport.aborted

    by_hand(check)


def test_requests_of_a_vanished_client_complete_and_nothing_is_left() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(write() * 5)
        bench.connection.connection_lost(ConnectionResetError())
        gone = weakref.ref(bench.connection)
        del bench.connection
        bench.volume.release()
        await asyncio.sleep(0)
        gc.collect()
        assert bench.transport.writes == []
        assert bench.target.counters.requests_in_flight == 0
        assert bench.target.counters.connections == 0
        assert gone() is None

    by_hand(check)


def test_disconnect_waits_for_what_is_in_flight() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(write() + request(wire.CMD_DISC, 0, 0))
        assert not bench.transport.closing
        bench.volume.release()
        await asyncio.sleep(0)
        assert len(bench.transport.writes) == 1
        assert bench.transport.closing

    by_hand(check)


def test_end_of_file_waits_for_what_is_in_flight() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(write())
        assert bench.connection.eof_received()
        assert not bench.transport.closing
        bench.volume.release()
        await asyncio.sleep(0)
        assert bench.transport.closing

    by_hand(check)


def test_garbage_cuts_the_connection_off_after_good_replies() -> None:
    async def check(bench: Bench) -> None:
        bench.feed(write() + b"garbage " * 8)
        assert bench.transport.aborted
        assert bench.target.counters.broken == 1

    by_hand(check)


def test_refused_request_leaves_the_connection_open() -> None:
    async def check(bench: Bench) -> None:
        bench.feed(request(wire.CMD_READ, 1, 1) + write())
        assert (
            bench.transport.writes[0][:8]
            == wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, wire.NBD_EINVAL, 0)[:8]
        )
        assert not bench.transport.closing

    by_hand(check)


def test_stop_drains_and_refuses_new_requests_with_eshutdown() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(write(cookie=1))
        stopping = asyncio.get_running_loop().create_task(bench.target.stop())
        await asyncio.sleep(0)
        bench.feed(write(cookie=2))
        assert bench.transport.writes == [
            wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, wire.NBD_ESHUTDOWN, 2)
        ]
        bench.volume.release()
        await asyncio.sleep(0)
        assert bench.transport.writes[1] == wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, 1)
        assert bench.transport.closing
        bench.connection.connection_lost(None)
        await stopping

    by_hand(check)


def test_stop_cuts_off_what_does_not_drain() -> None:
    async def check(bench: Bench) -> None:
        bench.volume.hold = True
        bench.feed(write())
        stopping = asyncio.get_running_loop().create_task(bench.target.stop())
        await asyncio.sleep(0)
        bench.clock.fire()
        assert bench.transport.aborted
        bench.connection.connection_lost(None)
        await stopping

    by_hand(check)


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="connections_max"):
        NbdLimits(connections_max=0)


# -- over real sockets, on both loops --

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, None]], None]
With = Callable[[MemoryVolume, NbdTarget, str], Awaitable[None]]


def over_unix(tmp_path: Path, use: With, **limits: int) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        volume = MemoryVolume("vol", 64 * MiB)
        target = NbdTarget(MappedExports({"vol": volume}), limits=NbdLimits(**limits))
        await target.listen_unix(tmp_path / "s")
        try:
            await use(volume, target, f"nbd+unix:///vol?socket={tmp_path}/s")
        finally:
            await target.stop()

    return main()


@LOOPS
@pytest.mark.parametrize("structured", [True, False])
def test_many_requests_of_many_sizes_come_back_right(
    run: Run, structured: bool, tmp_path: Path
) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        client = await NbdClient.connect(uri, structured=structured)
        blocks = {}
        at = 0
        for number, size in enumerate([512, 4096, 32768, 33280, 65536, 1 * MiB, 5 * MiB] * 3):
            blocks[at] = bytes([number + 1]) * size
            at += size + 512
        await asyncio.gather(*[client.write(at, data) for at, data in blocks.items()])
        got = await asyncio.gather(*[client.read(at, len(data)) for at, data in blocks.items()])
        assert got == list(blocks.values())
        await client.close()

    run(over_unix(tmp_path, use))


@LOOPS
def test_a_request_of_32_mib_goes_through(run: Run, tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        client = await NbdClient.connect(uri)
        data = bytes(range(256)) * (128 * 1024)
        await client.write(0, data)
        assert await client.read(0, len(data)) == data
        assert target.counters.requests == 2
        await client.close()

    run(over_unix(tmp_path, use))


@LOOPS
def test_connections_above_the_maximum_hear_why(run: Run, tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        clients = [await NbdClient.connect(uri) for _ in range(2)]
        with pytest.raises(AccessDenied, match="too many connections"):
            await NbdClient.connect(uri, structured=False)
        for client in clients:
            await client.close()

    run(over_unix(tmp_path, use, connections_max=2))


@LOOPS
def test_a_client_that_breaks_the_protocol_disturbs_no_other(run: Run, tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        client = await NbdClient.connect(uri)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        await reader.read()
        writer.close()
        await client.write(0, b"x" * 512)
        await client.close()
        assert target.counters.broken == 1

    run(over_unix(tmp_path, use))


@LOOPS
def test_a_client_that_reads_slowly_gets_everything(run: Run, tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        volume.submit(HostRequest(RequestKind.WRITE, 0, MiB, _ignore, b"s" * MiB))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"), limit=4096)
        writer.write(GO + request(wire.CMD_READ, 0, MiB) * 40 + request(wire.CMD_DISC, 0, 0))
        total = 0
        while piece := await reader.read(100_000):
            total += len(piece)
        writer.close()
        assert total == 18 + 10 + 40 * (MiB + 16)

    run(over_unix(tmp_path, use, unsent_bytes_max=1 * MiB))


@LOOPS
def test_every_selected_context_is_answered(run: Run, tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        volume.contexts = (ALLOCATION, "x:one", "x:two")
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        body = b"\x00\x00\x00\x03vol" + wire.U32.pack(3)
        for context in (b"base:allocation", b"x:one", b"x:two"):
            body += wire.U32.pack(len(context)) + context
        writer.write(
            wire.CLIENT_FLAGS.pack(3)
            + wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_STRUCTURED_REPLY, 0)
            + wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_SET_META_CONTEXT, len(body))
            + body
            + wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_EXPORT_NAME, 3)
            + b"vol"
            + request(wire.CMD_BLOCK_STATUS, 0, 4096, cookie=9)
            + request(wire.CMD_DISC, 0, 0)
        )
        sent = await reader.read()
        writer.close()
        chunks = sent[-3 * 32 :]
        ids = [wire.U32.unpack_from(chunks, at + 20)[0] for at in (0, 32, 64)]
        last = [wire.CHUNK.unpack_from(chunks, at)[1] for at in (0, 32, 64)]
        assert (ids, last) == ([1, 2, 3], [0, 0, 1])

    run(over_unix(tmp_path, use))


@LOOPS
def test_an_error_of_the_volume_reaches_the_client_with_its_text(run: Run, tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        client = await NbdClient.connect(uri)
        volume.fail_with = DeviceFailed("sled 3 is on fire")
        with pytest.raises(DeviceFailed, match="EIO: sled 3 is on fire"):
            await client.write(0, bytes(512))
        await client.close()

    run(over_unix(tmp_path, use))


@LOOPS
def test_stop_ends_idle_connections_at_once(run: Run, tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, target: NbdTarget, uri: str) -> None:
        client = await NbdClient.connect(uri)
        await target.stop()
        assert not (tmp_path / "s").exists()
        with pytest.raises((LinkLost, StorageError)):
            await client.read(0, 512)

    run(over_unix(tmp_path, use))


def listen(path: Path) -> None:
    async def main() -> None:
        target = NbdTarget(MappedExports({}))
        await target.listen_unix(path)
        await target.stop()

    asyncio.run(main())


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "s"))
    listen(tmp_path / "s")


def test_a_socket_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        with pytest.raises(ConfigError, match="is in use"):
            listen(tmp_path / "s")


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        listen(tmp_path / "s")


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than 107"):
        listen(tmp_path / ("s" * 108))


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        listen(tmp_path / "no" / "s")


def test_a_port_in_use_is_refused() -> None:
    async def main() -> None:
        target = NbdTarget(MappedExports({}))
        port = await target.listen_tcp()
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await target.listen_tcp(port=port)
        await target.stop()

    asyncio.run(main())
