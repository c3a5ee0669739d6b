"""shell: a relay between the nodes of a real cluster that cuts, delays and resets their links.

    python -m scenario.link_proxy

Nodes that are configured with `peer_addresses` dial it instead of each other; it dials on. For each
pair of nodes it knows two *ways*, one per direction, and does to each what it is told:

    cut     nothing passes, not even the news that one end has closed. What was sent meanwhile waits
            in the sockets, as behind a router that is off, and passes late when the way is healed.
    delay   everything passes, in order, so many milliseconds later.
    reset   open connections end at once and new ones are refused.

A fault can be given a name and a time to live: it *stands* until its time is over, which the relay
keeps itself, or until it is lifted. Ways are what all faults that stand make of them together.

A connection can only be made while both of its ways pass. Commands are JSON lines on standard
input, each answered by one line. When the input closes the relay ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import uvloop

from base.clock import RealClock
from base.errors import InvalidRequest
from base.place import LOOPBACK
from base.tasks import Supervisor
from base.units import NS_PER_MS, NS_PER_S, KiB, MiB

HELD_BYTES_MAX: Final = 1 * MiB  # of one direction of one connection; then its sender has to wait
COMMAND_BYTES_MAX: Final = 64 * KiB
CONNECT_S: Final = 5.0
ACTIONS: Final = ("cut", "delay", "reset", "heal")
STANDING: Final = ("cut", "reset")  # what can stand
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass(slots=True, eq=False)
class Way:
    """What is sent from one node to another."""

    cut: bool = False
    delay_ns: int = 0
    ends: list[_End] = field(default_factory=list)  # whose bytes go this way

    def set(self, *, cut: bool, delay_ns: int) -> None:
        """From now on; what waited goes on its way."""
        self.cut, self.delay_ns = cut, delay_ns
        for end in list(self.ends):
            end.pump()


class Pair:
    """Two nodes, the lower of which dials the other."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target  # where the higher one listens
        self.out, self.back = Way(), Way()  # from the dialer, and to it
        self.refusing = False
        self._opened: list[asyncio.Future[None]] = []

    def changed(self) -> None:
        """A way was cut or healed, or the pair refused or admitted again."""
        if self.refusing:
            for end in [*self.out.ends, *self.back.ends]:
                end.reset()
        if self.refusing or not (self.out.cut or self.back.cut):
            opened, self._opened = self._opened, []
            for future in opened:
                future.set_result(None)

    async def wait_open(self) -> None:
        """Both ways pass, or nothing will."""
        if self.out.cut or self.back.cut:
            future = asyncio.get_running_loop().create_future()
            self._opened.append(future)
            await asyncio.shield(future)


class _End(asyncio.Protocol):
    """One socket of a relayed connection. What arrives at it leaves at `other`, along `way`."""

    def __init__(self, relay: LinkProxy, way: Way) -> None:
        self.other: _End | None = None
        self.gone = False
        self._relay = relay
        self._way = way
        self._transport: asyncio.Transport | None = None
        self._held: deque[tuple[int, bytes | None]] = deque()  # (due, bytes; None: it has closed)
        self._held_bytes = 0
        self._full = False  # its socket takes no more for now
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._way.ends.append(self)
        if self.other is None:
            self._relay.accepted(self, self._way)
        else:
            self.other.pump()

    def data_received(self, data: bytes) -> None:
        self._arrived(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._arrived(None)

    def _arrived(self, piece: bytes | None) -> None:
        self._held.append((self._relay.clock.now_ns() + self._way.delay_ns, piece))
        self._held_bytes += len(piece or b"")
        if self._held_bytes > HELD_BYTES_MAX and not self.gone:
            assert self._transport is not None
            self._transport.pause_reading()
        self.pump()

    def pump(self) -> None:
        """Pass on what is due, as far as the way and the other end allow."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        other = self.other
        if other is None or other._transport is None or self._transport is None:
            return
        now_ns = self._relay.clock.now_ns()
        while self._held and not self._way.cut and not other._full:
            due_ns, piece = self._held[0]
            if due_ns > now_ns:
                delay_s = (due_ns - now_ns) / NS_PER_S
                self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)
                break
            self._held.popleft()
            self._pass(other, piece)
        if self._held_bytes <= HELD_BYTES_MAX and not self.gone:
            self._transport.resume_reading()

    def _pass(self, other: _End, piece: bytes | None) -> None:
        assert other._transport is not None
        if piece is None:
            self.forget()
            other._transport.close()
            return
        self._held_bytes -= len(piece)
        if not other.gone:
            other._transport.write(piece)

    def forget(self) -> None:
        """Nothing comes from it any more."""
        if self in self._way.ends:
            self._way.ends.remove(self)

    def pause_writing(self) -> None:
        """Its socket is full: what comes waits here."""
        self._full = True

    def resume_writing(self) -> None:
        """Its socket takes more."""
        self._full = False
        if self.other is not None:
            self.other.pump()

    def reset(self) -> None:
        """End at once, and let the node at this socket see a reset."""
        self._held.clear()
        self._held_bytes = 0
        self.forget()
        if self._transport is not None and not self.gone:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()


@dataclass(slots=True)
class _Standing:
    """A fault that stands: what it does, to which ways, and the end of its time."""

    action: str
    ways: list[tuple[int, int]]
    timer: asyncio.TimerHandle


class LinkProxy:
    """The relay: a listening port for each pair."""

    def __init__(self) -> None:
        self.clock = RealClock()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = Supervisor("link_proxy", self._task_failed)
        self._pairs: dict[tuple[int, int], Pair] = {}
        self._by_way: dict[int, Pair] = {}
        self._servers: list[asyncio.Server] = []
        self._standing: dict[int, _Standing] = {}

    def _task_failed(self, name: str, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    async def listen(self, nodes: dict[int, tuple[str, int]]) -> dict[tuple[int, int], int]:
        """For every pair of nodes, which listen at these places: the port for the lower one to dial
        in order to reach the higher one."""
        ports = {}
        loop = asyncio.get_running_loop()
        for low in sorted(nodes):
            for high in sorted(node for node in nodes if node > low):
                pair = self._pairs[low, high] = Pair(nodes[high])
                self._by_way[id(pair.out)] = pair
                server = await loop.create_server(
                    lambda pair=pair: _End(self, pair.out),  # type: ignore[misc]
                    LOOPBACK[0],
                    0,
                )
                self._servers.append(server)
                ports[low, high] = int(server.sockets[0].getsockname()[1])
        return ports

    def accepted(self, near: _End, way: Way) -> None:
        """A node has dialled; dial on."""
        pair = self._by_way[id(way)]
        if pair.refusing:
            near.reset()
        else:
            self._supervisor.start(self._dial(near, pair), name="dial")

    async def _dial(self, near: _End, pair: Pair) -> None:
        await pair.wait_open()
        if near.gone:
            near.forget()
            return
        far = _End(self, pair.back)
        far.other = near
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: far, *pair.target)
        except (OSError, TimeoutError):
            near.reset()
            return
        near.other = far
        if pair.refusing:
            pair.changed()  # it began to while we dialled
        near.pump()

    def command(self, action: str, ways: Iterable[tuple[int, int]], delay_ms: int = 0) -> None:
        """Do it to all these ways, each from one node to another. InvalidRequest names what is
        wrong, and then nothing was done.

        delay_ms: for "delay". A reset concerns both ways of a pair; so does its healing.
        """
        if action not in ACTIONS:
            raise InvalidRequest(f"{action!r} is not one of {', '.join(ACTIONS)}")
        for pair, way in [self._way(*ends) for ends in ways]:
            if action == "reset":
                pair.refusing = True
            else:
                pair.refusing = pair.refusing and action != "heal"
                way.set(
                    cut=action == "cut",
                    delay_ns=delay_ms * NS_PER_MS if action == "delay" else 0,
                )
            pair.changed()

    def _way(self, sender: int, receiver: int) -> tuple[Pair, Way]:
        pair = self._pairs.get((min(sender, receiver), max(sender, receiver)))
        if pair is None:
            raise InvalidRequest(f"there is no link from n{sender} to n{receiver}")
        return pair, pair.out if sender < receiver else pair.back

    def stand(self, name: int, action: str, ways: list[tuple[int, int]], for_ms: int) -> None:
        """Cut or reset these ways until `lift`, and no longer than for_ms. InvalidRequest names
        what is wrong, and then nothing was done. Not to be mixed with `command`."""
        if action not in STANDING:
            raise InvalidRequest(f"{action!r} is not one of {', '.join(STANDING)}")
        if for_ms < 1:
            raise InvalidRequest(f"a fault that stands has a time to live, not {for_ms} ms")
        for ends in ways:
            self._way(*ends)
        self.lift(name)
        timer = self.clock.call_later(for_ms / 1000, self.lift, name)
        self._standing[name] = _Standing(action, list(ways), timer)
        self._shape()

    def lift(self, name: int) -> None:
        """It stands no longer; nothing to do when its time was over before."""
        standing = self._standing.pop(name, None)
        if standing is not None:
            standing.timer.cancel()
            self._shape()

    def _shape(self) -> None:
        """Make of every way what stands: a reset of a pair outweighs a cut of a way."""
        cut = {
            ends for each in self._standing.values() if each.action == "cut" for ends in each.ways
        }
        reset = {
            (min(ends), max(ends))
            for each in self._standing.values() if each.action == "reset" for ends in each.ways
        }  # fmt: skip
        for (low, high), pair in self._pairs.items():
            pair.refusing = (low, high) in reset
            pair.out.set(cut=(low, high) in cut, delay_ns=pair.out.delay_ns)
            pair.back.set(cut=(high, low) in cut, delay_ns=pair.back.delay_ns)
            pair.changed()

    async def close(self) -> None:
        """End every connection and stop listening."""
        for standing in self._standing.values():
            standing.timer.cancel()
        for server in self._servers:
            server.close()
        for pair in self._pairs.values():
            pair.refusing = True
            pair.changed()
        await self._supervisor.close()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    relay = LinkProxy()
    commands = asyncio.StreamReader(limit=COMMAND_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    try:
        while line := await commands.readline():
            if relay.failed.done():
                relay.failed.result()
            _tell(await _obey(relay, json.loads(line)))
    finally:
        await relay.close()


async def _obey(relay: LinkProxy, command: dict[str, Any]) -> dict[str, Any]:
    try:
        if command["action"] == "listen":
            nodes = {int(node): (host, port) for node, host, port in command["nodes"]}
            ports = await relay.listen(nodes)
            return {"ports": [[low, high, port] for (low, high), port in ports.items()]}
        if command["action"] == "lift":
            relay.lift(int(command["name"]))
            return {}
        ways = [(int(sender), int(receiver)) for sender, receiver in command["ways"]]
        if "for_ms" in command:
            relay.stand(int(command["name"]), command["action"], ways, int(command["for_ms"]))
            return {}
        relay.command(command["action"], ways, int(command.get("delay_ms", 0)))
    except InvalidRequest as error:
        return {"refused": str(error)}
    return {}


def _tell(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    uvloop.run(_serve())
