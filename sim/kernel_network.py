"""shell: the heap of level 1 and its links: sessions, delays, and the ways in which they fail.

A message is lost only with its session, and nothing of an older session arrives: what the bus
promises (`transport.bus`). Messages are objects; only one that is to be damaged becomes a frame,
and the codec must refuse it. A cut swallows what is sent into it; a clog holds it back.
"""

from __future__ import annotations

import heapq
import zlib
from array import array
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from base.errors import RemoteProtocolError
from base.ids import node_name
from base.units import NODES_MAX, NS_PER_MS, NS_PER_US
from sim.random import SeedStreams
from transport.codec import decode, encode
from transport.messages import ReplicateBatch

_MASK64 = (1 << 64) - 1
_ONE_IN_50 = (1 << 32) // 50 << 32  # of the values of a word of 64 bits, by its high half
_FACTOR: Final = 0x100000001B3  # of the trace hash
_TIMES_MAX: Final = 1024  # of events that are hashed at once
_POWERS: Final = np.array(
    [pow(_FACTOR, _TIMES_MAX - 1 - at, 1 << 64) for at in range(_TIMES_MAX)], dtype=np.uint64
)
_push = heapq.heappush

Key = tuple[int, int]


class _Way:
    """One direction of a link, with what is asked for at every message."""

    __slots__ = ("cut", "endpoint", "last_ns", "receiver", "sender", "session")

    def __init__(self, sender: int, receiver: int, endpoint: Any) -> None:
        self.sender = sender
        self.receiver = receiver
        self.endpoint = endpoint  # of the receiver
        self.session = 0
        self.cut = False
        self.last_ns = 0  # when the last message arrives


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
        self.trace: list[str] = []
        # Called with every step of the trace (time, node, kind, key), for replays.
        self.recorder: Callable[[int, int, str, object], None] | None = None
        self.goals: dict[str, None] = {}  # coverage goals that this run has reached
        self.endpoints: dict[int, Any] = {}
        self.clogs: set[int] = set()  # nodes whose links hold everything back
        self.delays_ns: dict[int, int] = {}  # by node, on top of every message of its links
        self.corrupt: dict[int, int] = {}  # by node, of how many of 1000 messages a bit is turned
        self._delay_ns = delay_ns
        self._least_ns = delay_ns // 2
        self._delay_tail_ns = delay_tail_ns
        self._keep_trace = keep_trace
        # (time, number, call, arguments), or for a message its way, (session, message).
        self._heap: list[tuple[int, int, Any, tuple[Any, ...]]] = []
        self._seq = 0
        self._hash = 0  # of all but `_times`
        self._events = 0
        self._times = array("Q")  # of the latest events
        self._net_rng = self.streams.stream("network")
        self._net_words = self._net_rng.ahead
        self._corrupt_rng = self.streams.stream("corrupt")
        self._ways: dict[Key, _Way] = {}
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
        heap, pop, times = self._heap, heapq.heappop, self._times
        going = True
        while going:
            for _ in range(_TIMES_MAX - len(times)):
                if not heap:
                    going = False
                    break
                now_ns, seq, call, arguments = pop(heap)
                if now_ns > when_ns:
                    _push(heap, (now_ns, seq, call, arguments))
                    going = False
                    break
                self.now_ns = now_ns
                times.append(now_ns)
                if type(call) is _Way:  # a message arrives, as at most events
                    session, message = arguments
                    endpoint = call.endpoint
                    if session == call.session and endpoint.alive:
                        endpoint.deliver(endpoint.life, call.sender, message)
                    else:
                        self._dropped(call, session)
                else:
                    call(*arguments)
                if stop is not None and stop():
                    return
            self._hash_times()
        self.now_ns = max(self.now_ns, when_ns)

    @property
    def events(self) -> int:
        """How many events there were."""
        return self._events + len(self._times)

    @property
    def trace_hash(self) -> int:
        """A running hash over the time of every event and over all notes, 64 bits: each is added to
        the hash times a factor."""
        self._hash_times()
        return self._hash

    def _hash_times(self) -> None:
        # Events of which there is no note in between, at once: the sum of each times its power.
        times = self._times
        count = len(times)
        if count < 16:
            for now_ns in times:
                self._hash = self._hash * _FACTOR + now_ns & _MASK64
        else:
            powers = _POWERS[-count:]
            added = int((np.frombuffer(times, dtype=np.uint64) * powers).sum(dtype=np.uint64))
            self._hash = self._hash * pow(_FACTOR, count, 1 << 64) + added & _MASK64
        self._events += count
        del times[:]

    def note(self, node: int, kind: str, key: object) -> None:
        """One step of the trace: time, node, kind and key."""
        self._hash_times()
        text = f"{self.now_ns} {node} {kind} {key}"
        self._hash = self._hash * _FACTOR + zlib.crc32(text.encode()) & _MASK64
        if self._keep_trace:
            self.trace.append(f"{self.now_ns / 1e9:12.6f} {node_name(node)} {kind} {key}")
        if self.recorder is not None:
            self.recorder(self.now_ns, node, kind, key)

    # ------------------------------------------------------------------ links

    def _way(self, sender: int, receiver: int) -> _Way:
        way = self._ways.get((sender, receiver))
        if way is None:
            way = _Way(sender, receiver, self.endpoints[receiver])
            self._ways[sender, receiver] = way
        return way

    def session_of(self, sender: int, receiver: int) -> int:
        """The number of the session of that link; 0: there was none yet."""
        return self._way(sender, receiver).session

    def connect(self, first: int, second: int) -> None:
        """A new session of the link of this pair, if both are up and not cut off."""
        if not self.reachable(first, second):
            return
        session = self._next_session(first, second)
        self._link(first, second, session)
        self._link(second, first, session)

    def disconnect(self, first: int, second: int) -> None:
        """End the session: what is on its way is lost, both sides hear of it."""
        self._next_session(first, second)
        for here, there in ((first, second), (second, first)):
            self._link(here, there, 0)

    def _next_session(self, first: int, second: int) -> int:
        there, back = self._way(first, second), self._way(second, first)
        there.session = back.session = session = there.session + 1
        return session

    def cut(self, first: int, second: int, *, one_way: bool, heard: bool) -> None:
        """Nothing of `first` reaches `second` any more, nor back unless `one_way`. heard: both ends
        learn at once that the link broke; else only silence tells."""
        self.note(first, "cut", (second, one_way, heard))
        self._way(first, second).cut = True
        if not one_way:
            self._way(second, first).cut = True
        if heard:
            self.disconnect(first, second)

    def mend(self, first: int, second: int) -> None:
        """End the cut. A new session begins: what was lost inside the old one stays lost."""
        self.note(first, "mend", second)
        self._way(first, second).cut = self._way(second, first).cut = False
        self.disconnect(first, second)
        self.after(NS_PER_MS, self.connect, first, second)

    def reachable(self, first: int, second: int) -> bool:
        """Whether a link between the two can stand."""
        return (
            self.endpoints[first].alive
            and self.endpoints[second].alive
            and not self._way(first, second).cut
            and not self._way(second, first).cut
        )

    def _link(self, here: int, there: int, session: int) -> None:
        endpoint = self.endpoints[here]
        if endpoint.alive:
            self.after(50 * NS_PER_US, endpoint.deliver_link, endpoint.life, there, session)

    def send(self, sender: int, receiver: int, message: object) -> None:
        """In order within a session; lost when it ends before the message arrives."""
        way = self._ways.get((sender, receiver))
        if way is None:
            if receiver not in self.endpoints:
                return
            way = self._way(sender, receiver)
        if way.cut:
            return
        if self.clogs and (sender in self.clogs or receiver in self.clogs):
            self._clogged.append((sender, receiver, message))
            return
        # One draw for both: its low half says how long, its high half whether there is a tail.
        words = self._net_words
        draw = words.pop() if words else self._net_rng.next64()
        delay_ns = self._least_ns + ((draw & 0xFFFFFFFF) * self._delay_ns >> 32)
        if draw < _ONE_IN_50:
            delay_ns += self._net_rng.below(self._delay_tail_ns)
        if self.delays_ns:
            delay_ns += self.delays_ns.get(sender, 0) + self.delays_ns.get(receiver, 0)
        when_ns = self.now_ns + delay_ns
        if when_ns <= way.last_ns:
            when_ns = way.last_ns + 1
        way.last_ns = when_ns
        seq = self._seq = self._seq + 1
        if self.corrupt:
            message = self._perhaps_damaged(sender, receiver, message)
            if type(message) is _Damaged:
                arguments = (way, way.session, message)
                _push(self._heap, (when_ns, seq, self._arrive_damaged, arguments))
                return
        _push(self._heap, (when_ns, seq, way, (way.session, message)))

    def _dropped(self, way: _Way, session: int) -> None:
        if session != way.session:
            self.goals["a message of an old session was dropped"] = None

    def _arrive_damaged(self, way: _Way, session: int, damaged: _Damaged) -> None:
        if session != way.session:
            self._dropped(way, session)
        else:
            self._reject(way.sender, way.receiver, damaged)

    def _perhaps_damaged(self, sender: int, receiver: int, message: object) -> object:
        """The message, or its frame with one bit turned; between nodes only."""
        permille = self.corrupt.get(sender, 0) + self.corrupt.get(receiver, 0)
        rng = self._corrupt_rng
        if max(sender, receiver) >= NODES_MAX or rng.below(1000) >= permille:
            return message
        if type(message) is list:  # records on their way to a copy: their bytes, as in production
            data = b"".join(record.data for record, _, _ in message)
            message = ReplicateBatch(0, len(message), data)
        frame = bytearray(b"".join(encode(message)))
        frame[rng.below(len(frame))] ^= 1 << rng.below(8)
        return _Damaged(bytes(frame))

    def _reject(self, sender: int, receiver: int, damaged: _Damaged) -> None:
        """As the mesh does: the frame is not taken, and the link is made anew."""
        try:
            decode(damaged.frame)
        except RemoteProtocolError:
            self.goals["a damaged frame was rejected"] = None
            self.note(receiver, "reject", sender)
            self.disconnect(sender, receiver)
            self.after(NS_PER_MS, self.connect, sender, receiver)
            return
        raise AssertionError(f"a damaged frame of {sender, receiver} was taken for a message")

    def unclog(self, node: int) -> None:
        """Let go of what was held back, in order."""
        self.clogs.discard(node)
        held, self._clogged = self._clogged, []
        for sender, receiver, message in held:
            self.send(sender, receiver, message)
