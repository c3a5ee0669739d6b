"""shell: the simulated bus. Seeded delay, loss, duplication, reordering, cuts, clogs and crashes.

All nodes of a simulation share one `SimNetwork` in one loop. It reads time from the running loop
only, draws from the `random.Random` that was passed in only, and keeps what is under way in a heap
of its own with a sequence number: two messages that are due at the same time arrive in the order
in which they were sent, on every machine. Messages pass the real codec unless told otherwise.

A *cut* swallows what is sent and what is under way; with `reset` both ends also learn that the link
is down, as from a broken connection, without it they hear nothing (a black hole). A *clog* holds
messages back until it is opened. Loss, duplication and reordering break what `transport.bus`
promises, on purpose; without them the promises hold. A *framed* network keeps the promises as the
mesh does: each frame of a session has a number, so of a duplicate only the first counts, a gap or a
frame with a wrong CRC breaks the link, and what comes late holds back those behind it.

What reaches a bus is run by `call_soon` in the context in which its `start` was called. A loop that
ties callbacks to nodes by context, to pause or drop a node as a whole, so holds back or drops what
arrives as well; the wires themselves run in the context in which the network was made. Such a loop
may offer a shorter way, `run_in`: then a node that runs gets a message in the event in which it
arrives, and only what arrives for one that is held back goes by `call_soon`.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from base.device import Buffer
from base.errors import RemoteProtocolError
from base.ids import NodeId
from transport.bus import (
    CLIENT_ID_END,
    CLIENT_ID_MIN,
    BusStatistics,
    LinkStatistics,
    OnFailure,
    OnLink,
    OnMessage,
    is_client,
)
from transport.codec import decode, encode_into
from transport.sim_links import Direction, LinkConditions, Pair, SimLimits

HELD_BACK_S: Final = 0.02  # counted as held back by a narrow link


class SimNetwork:
    """The wires between all simulated nodes and clients.

    rng: every draw comes from it, in the order of events.
    through_codec: False hands objects over (with bulk data as one bytes), for speed.
    framed: see the module.
    loop: needed only by who causes faults from outside of the running loop before a bus started.
    run_in(context, callback, *arguments): see the module. False: it was not run.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        conditions: LinkConditions | None = None,
        limits: SimLimits | None = None,
        through_codec: bool = True,
        framed: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        run_in: Callable[..., bool] | None = None,
    ) -> None:
        self.run_in = run_in
        self.limits = limits or SimLimits()
        self.through_codec = through_codec
        self.framed = framed
        self.frames_lost = self.frames_repeated = self.frames_corrupt = 0  # noticed by receivers
        self.held_back = 0  # frames that waited long for those before them to pass a narrow link
        self.connects_refused = 0
        self._refusing: dict[int, None] = {}  # nodes that take no new links
        self._rng = rng
        self._loop = loop
        self._context = contextvars.copy_context()
        self._conditions = conditions or LinkConditions()
        self._buses: dict[int, SimBus] = {}
        self._pairs: dict[tuple[int, int], Pair] = {}
        self._ways_of: dict[tuple[int, int], tuple[Pair, Direction]] = {}  # by (sender, receiver)
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_when = 0.0
        self._running = False

    # -- buses ---------------------------------------------------------------------------------

    def bus(self, self_id: int, on_failure: OnFailure) -> SimBus:
        """A bus for one life of a node. It is attached by its `start`."""
        assert not is_client(self_id)
        return SimBus(self, NodeId(self_id), on_failure)

    def client_bus(self, on_failure: OnFailure) -> SimBus:
        """A bus for an attached host, under an id drawn at random."""
        return SimBus(self, NodeId(self._rng.randrange(CLIENT_ID_MIN, CLIENT_ID_END)), on_failure)

    def attach(self, bus: SimBus) -> None:
        """Called by `SimBus.start`."""
        assert bus.self_id not in self._buses, f"{bus.self_id} is attached already"
        self._loop = asyncio.get_running_loop()
        self._buses[bus.self_id] = bus
        for other in sorted(self._buses):
            if other != bus.self_id and not (is_client(other) and is_client(bus.self_id)):
                pair = self._pair(bus.self_id, other)
                pair.way(bus.self_id).under_way_bytes_peak = 0
                pair.connecting = False  # an attempt with a former life may never end
                self._connect_later(pair)

    def detach(self, node: int, *, deliver_under_way: bool = False) -> None:
        """Take a node or client off the wires, as a crash does. Its peers learn it a little later.

        What it sent before is dropped, or with `deliver_under_way` still arrives. Detach a node
        before its tasks are cancelled: nothing that they do while they end leaves then.
        """
        bus = self._buses.pop(node, None)
        if bus is None:
            return
        bus.attached = False
        for peer in sorted(bus.sessions):
            pair = self._pair(node, peer)
            session = bus.sessions[peer]
            if not deliver_under_way:
                pair.dead_through = max(pair.dead_through, session)
            if not pair.way(node).cut:
                wait_s = self.limits.notice_us / 1e6
                when = max(self._now() + wait_s, pair.way(node).not_before)
                self._at(when, self._notice_down, (peer, node, session))
        bus.sessions.clear()

    # -- faults --------------------------------------------------------------------------------

    def set_conditions(
        self, conditions: LinkConditions, sender: int | None = None, receiver: int | None = None
    ) -> None:
        """For one direction, or for all present and future ones when no ids are given."""
        if sender is not None and receiver is not None:
            self._pair(sender, receiver).way(sender).conditions = conditions
            return
        assert sender is None
        assert receiver is None
        self._conditions = conditions
        for pair in self._pairs.values():
            for way in pair.up_down:
                way.conditions = conditions

    def shape(self, conditions: Callable[[int, int], LinkConditions]) -> None:
        """Set conditions(sender, receiver) for every direction that there is."""
        for pair in self._pairs.values():
            for way in pair.up_down:
                way.conditions = conditions(way.sender, way.receiver)

    def cut(self, sender: int, receiver: int, *, both: bool = True, reset: bool = False) -> None:
        """Nothing passes any more; see the module for `reset`."""
        pair = self._pair(sender, receiver)
        for way in self._ways(pair, sender, both):
            way.cut = True
        if reset:
            self._break(pair)

    def heal(self, sender: int, receiver: int, *, both: bool = True) -> None:
        """Undo a cut. A link that one end lost, or whose other end is gone, is made anew."""
        pair = self._pair(sender, receiver)
        for way in self._ways(pair, sender, both):
            way.cut = False
            way.under_way_bytes -= way.swallowed_bytes
            way.swallowed_bytes = 0
        self._mend(pair)

    def clog(self, sender: int, receiver: int, *, both: bool = True) -> None:
        """Hold messages back."""
        pair = self._pair(sender, receiver)
        for way in self._ways(pair, sender, both):
            way.clogged = True

    def unclog(self, sender: int, receiver: int, *, both: bool = True) -> None:
        """Let go of what a clog held, in order, now."""
        pair = self._pair(sender, receiver)
        for way in self._ways(pair, sender, both):
            way.clogged = False
            held, way.held = way.held, []
            for session, frame, payload, size in held:
                self._at(self._now(), self._arrive, (pair, way, session, frame, payload, size))
        self._mend(pair)

    def reset(self, one: int, other: int) -> None:
        """Break the link as a broken connection does; it comes back by itself."""
        self._break(self._pair(one, other))

    def refuse_links(self, node: int, refuse: bool) -> None:
        """It has no descriptors left: links that it has stay, new ones are refused and tried again
        later, whoever dials."""
        if refuse:
            self._refusing[node] = None
        else:
            self._refusing.pop(node, None)

    def partition(self, groups: Iterable[Iterable[int]], *, reset: bool = False) -> None:
        """Cut every link between ids of different groups."""
        for one, other in self._across(groups):
            self.cut(one, other, reset=reset)

    def heal_all(self) -> None:
        """Undo every cut and every clog, and take new links everywhere."""
        self._refusing.clear()
        for key in sorted(self._pairs):
            self.heal(*key)
            self.unclog(*key)

    @staticmethod
    def _across(groups: Iterable[Iterable[int]]) -> Iterator[tuple[int, int]]:
        ordered = [sorted(group) for group in groups]
        for index, group in enumerate(ordered):
            for other_group in ordered[index + 1 :]:
                for one in group:
                    for other in other_group:
                        yield one, other

    @staticmethod
    def _ways(pair: Pair, sender: int, both: bool) -> Sequence[Direction]:
        return pair.up_down if both else (pair.way(sender),)

    # -- links ---------------------------------------------------------------------------------

    def _pair(self, one: int, other: int) -> Pair:
        assert one != other
        low, high = min(one, other), max(one, other)
        pair = self._pairs.get((low, high))
        if pair is None:
            ways = (
                Direction(low, high, self._conditions),
                Direction(high, low, self._conditions),
            )
            pair = self._pairs[low, high] = Pair(low, high, ways)
        return pair

    def _way(self, sender: int, receiver: int) -> tuple[Pair, Direction]:
        pair = self._pair(sender, receiver)
        found = self._ways_of[sender, receiver] = (pair, pair.way(sender))
        return found

    def _connect_later(self, pair: Pair) -> None:
        if pair.connecting:
            return
        pair.connecting = True
        wait_s = self.limits.reconnect_us * (1 + self._rng.random()) / 1e6
        pair.attempt += 1
        self._at(self._now() + wait_s, self._connect, (pair, pair.attempt))

    def _connect(self, pair: Pair, attempt: int) -> None:
        if attempt != pair.attempt:
            return
        acceptor = self._buses.get(pair.low if is_client(pair.high) else pair.high)
        if pair.low in self._refusing or pair.high in self._refusing:
            self.connects_refused += 1
            pair.connecting = False
            self._connect_later(pair)
        elif acceptor is None:
            pair.connecting = False
        else:
            acceptor.enter(self._accept, (pair, attempt))

    def _accept(self, pair: Pair, attempt: int) -> None:
        if attempt != pair.attempt:
            return
        pair.connecting = False
        low, high = self._buses.get(pair.low), self._buses.get(pair.high)
        if low is None or high is None or not pair.open_both_ways():
            return  # whoever attaches, heals or unclogs connects again
        current = low.sessions.get(pair.high, 0)
        if current > pair.dead_through and high.sessions.get(pair.low, 0) == current:
            return
        session = pair.last_session = pair.last_session + 1
        pair.dead_through = session - 1
        # The lower node dials, and so does a client: the other end is up first, as in the mesh.
        dialer, acceptor = (high, low) if is_client(pair.high) else (low, high)
        to_dialer = pair.way(acceptor.self_id)
        now = self._now()
        for way in pair.up_down:
            way.begin(session, now)
        to_dialer.opened = now + to_dialer.conditions.delay_s(self._rng)
        to_dialer.not_before = to_dialer.opened
        self._at(to_dialer.opened, self._dialer_up, (pair, dialer, acceptor.self_id, session))
        acceptor.link_up(dialer.self_id, session)

    def _dialer_up(self, pair: Pair, dialer: SimBus, acceptor: int, session: int) -> None:
        if pair.last_session == session > pair.dead_through:
            dialer.enter(dialer.link_up, (acceptor, session))

    def _break(self, pair: Pair) -> None:
        pair.dead_through = pair.last_session
        wait_s = self.limits.notice_us / 1e6
        for one, other in ((pair.low, pair.high), (pair.high, pair.low)):
            bus = self._buses.get(one)
            if bus is not None and other in bus.sessions:
                when = self._now() + wait_s
                self._at(when, self._notice_down, (one, other, bus.sessions[other]))
        self._connect_later(pair)

    def _notice_down(self, node: int, peer: int, session: int) -> None:
        bus = self._buses.get(node)
        if bus is not None:
            bus.enter(self._noticed, (bus, peer, session))

    def _noticed(self, bus: SimBus, peer: int, session: int) -> None:
        if bus.sessions.get(peer) == session:
            bus.link_down(peer)
            self._connect_later(self._pair(bus.self_id, peer))

    def _mend(self, pair: Pair) -> None:
        """After a heal: an end whose other end does not know the session any more learns it."""
        if not pair.open_both_ways():
            return
        sessions = [
            bus.sessions.get(other, 0) if (bus := self._buses.get(one)) is not None else 0
            for one, other in ((pair.low, pair.high), (pair.high, pair.low))
        ]
        if sessions[0] == sessions[1] > pair.dead_through:
            return
        self._break(pair)

    # -- messages ------------------------------------------------------------------------------

    def transmit(self, sender: int, receiver: int, session: int, message: object) -> int:
        """Called by `SimBus.send`: bytes taken, 0 when the bound is exceeded."""
        pair, way = self._ways_of.get((sender, receiver)) or self._way(sender, receiver)
        payload, size = self._pack(message)
        under_way_bytes = way.under_way_bytes + size
        if under_way_bytes > self.limits.queued_bytes_max:
            return 0
        if way.session != session or session <= pair.dead_through:
            return size  # broken, and the sender does not know it yet
        way.sent += 1
        frame = way.sent
        way.under_way_bytes = under_way_bytes
        if under_way_bytes > way.under_way_bytes_peak:
            way.under_way_bytes_peak = under_way_bytes
        conditions, rng = way.conditions, self._rng
        if way.cut:
            way.swallowed_bytes += size
            return size
        if conditions.loss and rng.random() < conditions.loss:
            way.under_way_bytes -= size
            return size
        if self.through_codec and conditions.corruption and rng.random() < conditions.corruption:
            payload = bytearray(payload)
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
            payload = bytes(payload)
        when = self._now() + conditions.delay_s(rng)
        if conditions.bytes_per_s:
            way.free_at = max(way.free_at, self._now()) + size / conditions.bytes_per_s
            self.held_back += way.free_at - self._now() > HELD_BACK_S
            when += way.free_at - self._now()
        late = bool(conditions.reordering) and rng.random() < conditions.reordering
        if late:
            when = max(when + conditions.reordering_us * rng.random() / 1e6, way.opened)
        if not late or self.framed:
            if when < way.not_before:
                when = way.not_before
            way.not_before = when
        self._at(when, self._arrive, (pair, way, session, frame, payload, size))
        if conditions.duplication and rng.random() < conditions.duplication:
            again = when + conditions.delay_s(rng)
            self._at(again, self._arrive, (pair, way, session, frame, payload, 0))
        return size

    def _pack(self, message: object) -> tuple[Any, int]:
        if self.through_codec:
            out: list[Buffer] = []
            size = encode_into(out, message)
            return b"".join(out), size
        data = getattr(message, "data", b"")
        if type(data) is not bytes:
            data = b"".join(data) if isinstance(data, list | tuple) else bytes(data)
            message = dataclasses.replace(message, data=data)  # type: ignore[type-var]
        return message, 64 + len(data)

    def _arrive(
        self, pair: Pair, way: Direction, session: int, frame: int, payload: Any, size: int
    ) -> None:
        if session <= pair.dead_through:
            return
        if way.clogged:
            way.held.append((session, frame, payload, size))
            return
        if way.cut:
            if way.session == session:
                way.swallowed_bytes += size
            return
        bus = self._buses.get(way.receiver)
        if bus is not None:
            bus.enter(self._hand_over, (bus, pair, way, session, frame, payload, size))

    def _hand_over(
        self,
        bus: SimBus,
        pair: Pair,
        way: Direction,
        session: int,
        frame: int,
        payload: Any,
        size: int,
    ) -> None:
        if way.session == session:
            way.under_way_bytes -= size
        if bus.sessions.get(way.sender) != session or session <= pair.dead_through:
            return
        if self.framed and frame != way.received + 1:
            if frame <= way.received:
                self.frames_repeated += 1
            else:
                self.frames_lost += 1
                self._break(pair)
            return
        way.received = frame
        message = payload
        if self.through_codec:
            try:
                message = decode(payload)
            except RemoteProtocolError:
                self.frames_corrupt += 1
                self._break(pair)
                return
        if not bus.deliver(way.sender, message, size):
            self._break(pair)

    def queues(self, bus: SimBus) -> list[LinkStatistics]:
        """Called by `SimBus.statistics`: every other end that there ever was, ascending."""
        links = []
        for low, high in sorted(self._pairs):
            if bus.self_id not in (low, high):
                continue
            peer = high if low == bus.self_id else low
            way = self._pairs[low, high].way(bus.self_id)
            session = bus.sessions.get(peer, 0)
            if session or not is_client(peer):
                queued = way.under_way_bytes if session else 0
                links.append(LinkStatistics(peer, session, queued, way.under_way_bytes_peak))
        return sorted(links, key=lambda link: link.peer)

    # -- time ----------------------------------------------------------------------------------

    def _now(self) -> float:
        assert self._loop is not None, "no bus has started yet, and no loop was passed in"
        return self._loop.time()

    def _at(self, when: float, callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        heapq.heappush(self._due, (when, self._next, callback, arguments))
        self._next += 1
        if not self._running:
            self._arm()

    def _arm(self) -> None:
        if not self._due:
            return
        when = self._due[0][0]
        if self._timer is not None:
            if self._timer_when <= when:
                return
            self._timer.cancel()
        self._timer_when = when
        assert self._loop is not None
        self._timer = self._loop.call_at(when, self._run, context=self._context)

    def _run(self) -> None:
        self._timer = None
        until = max(self._timer_when, self._now())  # a loop may fire a hair before its time
        self._running = True
        due = self._due
        try:
            while due and due[0][0] <= until:
                _, _, callback, arguments = heapq.heappop(due)
                callback(*arguments)
        finally:
            self._running = False
            self._arm()


class SimBus:
    """One end: the `MessageBus` of one life of a simulated node or client."""

    def __init__(self, network: SimNetwork, self_id: NodeId, on_failure: OnFailure) -> None:
        self.attached = False
        self.sessions: dict[int, int] = {}
        self._network = network
        self._self_id = self_id
        self._on_failure = on_failure
        self._on_message: OnMessage | None = None
        self._on_link: OnLink | None = None
        self._loop: asyncio.AbstractEventLoop
        self._context: contextvars.Context
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._frames_sent = self._frames_received = 0
        self._bytes_sent = self._bytes_received = 0
        self._sends_refused = 0

    @property
    def self_id(self) -> NodeId:
        """Who we are."""
        return self._self_id

    def set_receiver(self, on_message: OnMessage, on_link: OnLink) -> None:
        """See `MessageBus`."""
        self._on_message = on_message
        self._on_link = on_link

    async def start(self) -> None:
        """See `MessageBus`."""
        assert not self.attached
        self.attached = True
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._network.attach(self)

    async def close(self) -> None:
        """See `MessageBus`. What was sent before still arrives."""
        if self.attached:
            self._network.detach(self._self_id, deliver_under_way=True)

    def flush(self) -> None:
        """Everything is on its way already."""

    def send(self, peer: int, message: object) -> bool:
        """See `MessageBus`."""
        session = self.sessions.get(peer, 0)
        if session and self.attached:
            size = self._network.transmit(self._self_id, peer, session, message)
            if size:
                self._frames_sent += 1
                self._bytes_sent += size
                return True
        self._sends_refused += 1
        return False

    def session(self, peer: int) -> int:
        """See `MessageBus`."""
        return self.sessions.get(peer, 0)

    def enter(self, callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Called by the network: run something as this node, unless it is detached by then."""
        if not self._inbox:
            run_in = self._network.run_in
            if run_in is not None and run_in(self._context, callback, *arguments):
                return
            self._loop.call_soon(self._drain, context=self._context)
        self._inbox.append((callback, arguments))

    def _drain(self) -> None:
        # A queue of its own: a loop that shuffles what is due at once must not shuffle a link.
        try:
            for _ in range(len(self._inbox)):
                callback, arguments = self._inbox.popleft()
                if self.attached:
                    callback(*arguments)
        finally:
            if self._inbox:
                self._loop.call_soon(self._drain, context=self._context)

    def link_up(self, peer: int, session: int) -> None:
        """Called by the network."""
        if peer in self.sessions:
            self.link_down(peer)
        if not self.attached:  # the receiver ended it just now
            return
        self.sessions[peer] = session
        self._tell(peer, session)

    def link_down(self, peer: int) -> None:
        """Called by the network."""
        del self.sessions[peer]
        self._tell(peer, 0)

    def _tell(self, peer: int, session: int) -> None:
        if self._on_link is None:
            return
        try:
            self._on_link(peer, session)
        except Exception as error:  # noqa: BLE001 - a bug in the receiver: the node is to stop
            self._on_failure("bus.receiver", error)

    def deliver(self, peer: int, message: object, size: int) -> bool:
        """Called by the network. False: the link is to be broken."""
        assert self._on_message is not None
        self._frames_received += 1
        self._bytes_received += size
        try:
            self._on_message(peer, message)
        except RemoteProtocolError:
            return False
        except Exception as error:  # noqa: BLE001 - a bug in the receiver: the node is to stop
            self._on_failure("bus.receiver", error)
            return False
        return True

    def statistics(self) -> BusStatistics:
        """See `MessageBus`."""
        return BusStatistics(
            frames_sent=self._frames_sent,
            frames_received=self._frames_received,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            sends_refused=self._sends_refused,
            links_refused=0,
            links=tuple(self._network.queues(self)),
        )


__all__ = ["LinkConditions", "SimBus", "SimLimits", "SimNetwork"]
