"""shell: the heap of level 1 and its links: sessions, delays, and the ways in which they fail.

A message is lost only with its session, and nothing of an older session arrives: what the bus
promises (`transport.bus`). Messages are objects; only one that is to be damaged becomes a frame,
and the codec must refuse it. A cut swallows what is sent into it; a clog holds it back.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable
from typing import Any

from base.errors import RemoteProtocolError
from base.ids import node_name
from base.units import NODES_MAX, NS_PER_MS, NS_PER_US
from sim.random import SeedStreams
from transport.codec import decode, encode
from transport.messages import ReplicateBatch

_MASK64 = (1 << 64) - 1
_ONE_IN_50 = (1 << 32) // 50
_push = heapq.heappush

Key = tuple[int, int]


class _Damaged:
    """A frame that is not what was sent."""

    __slots__ = ("frame",)

    def __init__(self, frame: bytes) -> None:
        self.frame = frame


class KernelNetwork:
    """One heap of (time, number, call), and the links between endpoints. Times in ns."""

    def __init__(self, seed: int, *, delay_ns: int, delay_tail_ns: int, keep_trace: bool) -> None:
        self.seed = seed
        self.streams = SeedStreams(seed)
        self.now_ns = 1_000_000_000
        self.events = 0
        self.trace_hash = 0
        self.trace: list[str] = []
        # Called with every step of the trace (time, node, kind, key), for replays.
        self.recorder: Callable[[int, int, str, object], None] | None = None
        self.goals: dict[str, None] = {}  # coverage goals that this run has reached
        self.endpoints: dict[int, Any] = {}
        self.sessions: dict[Key, int] = {}
        self.cuts: set[Key] = set()
        self.clogs: set[int] = set()  # nodes whose links hold everything back
        self.delays_ns: dict[int, int] = {}  # by node, on top of every message of its links
        self.corrupt: dict[int, int] = {}  # by node, of how many of 1000 messages a bit is turned
        self._delay_ns = delay_ns
        self._delay_tail_ns = delay_tail_ns
        self._keep_trace = keep_trace
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._seq = 0
        self._net_rng = self.streams.stream("network")
        self._corrupt_rng = self.streams.stream("corrupt")
        self._last_delivery: dict[Key, int] = {}
        self._clogged: list[tuple[int, int, object]] = []

    # ------------------------------------------------------------------ time

    def at(self, when_ns: int, call: Callable[..., object], *arguments: Any) -> None:
        """Call it at that time; ties in the order of asking."""
        seq = self._seq = self._seq + 1
        if when_ns < self.now_ns:
            when_ns = self.now_ns
        _push(self._heap, (when_ns, seq, call, arguments))

    def after(self, delay_ns: int, call: Callable[..., object], *arguments: Any) -> None:
        """Call it that much later."""
        seq = self._seq = self._seq + 1
        _push(self._heap, (self.now_ns + max(delay_ns, 0), seq, call, arguments))

    def run_until(self, when_ns: int, stop: Callable[[], bool] | None = None) -> None:
        """Run events up to that time, or until `stop()`, asked after each event."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= when_ns:
            now_ns, _, call, arguments = pop(heap)
            self.now_ns = now_ns
            self.events += 1
            self.trace_hash = (self.trace_hash * 0x100000001B3 + now_ns) & _MASK64
            call(*arguments)
            if stop is not None and stop():
                return
        self.now_ns = max(self.now_ns, when_ns)

    def note(self, node: int, kind: str, key: object) -> None:
        """One step of the trace: a running hash over time, node, kind and key."""
        text = f"{self.now_ns} {node} {kind} {key}"
        self.trace_hash = (self.trace_hash * 0x100000001B3 + zlib.crc32(text.encode())) & _MASK64
        if self._keep_trace:
            self.trace.append(f"{self.now_ns / 1e9:12.6f} {node_name(node)} {kind} {key}")
        if self.recorder is not None:
            self.recorder(self.now_ns, node, kind, key)

    # ------------------------------------------------------------------ links

    def connect(self, first: int, second: int) -> None:
        """A new session of the link of this pair, if both are up and not cut off."""
        if not self.reachable(first, second):
            return
        session = self.sessions.get((first, second), 0) + 1
        self.sessions[first, second] = self.sessions[second, first] = session
        self._link(first, second, session)
        self._link(second, first, session)

    def disconnect(self, first: int, second: int) -> None:
        """End the session: what is on its way is lost, both sides hear of it."""
        session = self.sessions.get((first, second), 0) + 1
        self.sessions[first, second] = self.sessions[second, first] = session
        for here, there in ((first, second), (second, first)):
            self._link(here, there, 0)

    def cut(self, first: int, second: int, *, one_way: bool, heard: bool) -> None:
        """Nothing of `first` reaches `second` any more, nor back unless `one_way`. heard: both ends
        learn at once that the link broke; else only silence tells."""
        self.note(first, "cut", (second, one_way, heard))
        self.cuts.add((first, second))
        if not one_way:
            self.cuts.add((second, first))
        if heard:
            self.disconnect(first, second)

    def mend(self, first: int, second: int) -> None:
        """End the cut. A new session begins: what was lost inside the old one stays lost."""
        self.note(first, "mend", second)
        self.cuts.discard((first, second))
        self.cuts.discard((second, first))
        self.disconnect(first, second)
        self.after(NS_PER_MS, self.connect, first, second)

    def reachable(self, first: int, second: int) -> bool:
        """Whether a link between the two can stand."""
        return (
            self.endpoints[first].alive
            and self.endpoints[second].alive
            and (first, second) not in self.cuts
            and (second, first) not in self.cuts
        )

    def _link(self, here: int, there: int, session: int) -> None:
        endpoint = self.endpoints[here]
        if endpoint.alive:
            self.after(50 * NS_PER_US, endpoint.deliver_link, endpoint.life, there, session)

    def send(self, sender: int, receiver: int, message: object) -> None:
        """In order within a session; lost when it ends before the message arrives."""
        pair = (sender, receiver)
        if (self.cuts and pair in self.cuts) or receiver not in self.endpoints:
            return
        if self.clogs and (sender in self.clogs or receiver in self.clogs):
            self._clogged.append((sender, receiver, message))
            return
        # One draw for both: its low half says how long, its high half whether there is a tail.
        draw = self._net_rng.next64()
        delay_ns = self._delay_ns // 2 + ((draw & 0xFFFFFFFF) * self._delay_ns >> 32)
        if draw >> 32 < _ONE_IN_50:
            delay_ns += self._net_rng.below(self._delay_tail_ns)
        if self.delays_ns:
            delay_ns += self.delays_ns.get(sender, 0) + self.delays_ns.get(receiver, 0)
        when_ns = self.now_ns + delay_ns
        last_delivery = self._last_delivery
        last_ns = last_delivery.get(pair, 0)
        if when_ns <= last_ns:
            when_ns = last_ns + 1
        last_delivery[pair] = when_ns
        if self.corrupt:
            message = self._perhaps_damaged(pair, message)
        seq = self._seq = self._seq + 1
        arguments = (pair, self.sessions.get(pair, 0), message)
        _push(self._heap, (when_ns, seq, self._arrive, arguments))

    def _arrive(self, pair: Key, session: int, message: object) -> None:
        if session != self.sessions.get(pair, 0):
            self.goals["a message of an old session was dropped"] = None
            return
        if type(message) is _Damaged:
            self._reject(pair, message)
            return
        endpoint = self.endpoints[pair[1]]
        if endpoint.alive:
            endpoint.deliver(endpoint.life, pair[0], message)

    def _perhaps_damaged(self, pair: Key, message: object) -> object:
        """The message, or its frame with one bit turned; between nodes only."""
        permille = self.corrupt.get(pair[0], 0) + self.corrupt.get(pair[1], 0)
        rng = self._corrupt_rng
        if max(pair) >= NODES_MAX or rng.below(1000) >= permille:
            return message
        if type(message) is list:  # records on their way to a copy: their bytes, as in production
            data = b"".join(record.data for record, _, _ in message)
            message = ReplicateBatch(0, len(message), data)
        frame = bytearray(b"".join(encode(message)))
        frame[rng.below(len(frame))] ^= 1 << rng.below(8)
        return _Damaged(bytes(frame))

    def _reject(self, pair: Key, damaged: _Damaged) -> None:
        """As the mesh does: the frame is not taken, and the link is made anew."""
        try:
            decode(damaged.frame)
        except RemoteProtocolError:
            self.goals["a damaged frame was rejected"] = None
            self.note(pair[1], "reject", pair[0])
            self.disconnect(*pair)
            self.after(NS_PER_MS, self.connect, *pair)
            return
        raise AssertionError(f"a damaged frame of {pair} was taken for a message")

    def unclog(self, node: int) -> None:
        """Let go of what was held back, in order."""
        self.clogs.discard(node)
        held, self._clogged = self._clogged, []
        for sender, receiver, message in held:
            self.send(sender, receiver, message)
