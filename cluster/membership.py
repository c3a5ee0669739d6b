"""step: who this node believes is up. It only suggests: leases and the catalog decide.

Every node beacons to every other. Silence makes a peer suspect, a broken link at once. Before it
accuses anyone a node looks at itself: when its own tick came late, it was this node that did not
listen, and the silence of that time counts for nobody (the idea of Lifeguard, Dadgar et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from base.errors import ConfigError
from base.ids import Incarnation, NodeId, node_name
from base.units import NS_PER_MS

_NEVER: Final = 1 << 62
_NO_LIFE: Final = Incarnation(0)


class PeerState(IntEnum):
    """What this node believes of a peer. `DOWN` is what the catalog said, not what we think."""

    ALIVE = 0
    SUSPECT = 1
    DOWN = 2
    UNHEARD = 3  # not heard since our start, and too early to say anything


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """Times in ms. ConfigError names the key that is out of bounds."""

    beacon_ms: int = 80
    suspect_after_ms: int = 400
    broken_link_delay_ms: int = 0
    startup_grace_ms: int = 5000
    late_tick_ms: int = 100  # our own tick came that much late: we were not listening
    repeat_ms: int = 200  # a suspicion is told again, until the catalog answers or the peer does

    def __post_init__(self) -> None:
        for name in self.__slots__:
            least = 0 if name in ("broken_link_delay_ms", "startup_grace_ms") else 1
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}")
        if self.suspect_after_ms < 2 * self.beacon_ms:
            raise ConfigError("suspect_after_ms must be at least twice beacon_ms")


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Expected every beacon interval at the latest."""


TICK: Final = Tick()


@dataclass(frozen=True, slots=True)
class BeaconHeard:
    """A beacon, or anything else that proves that life of the peer alive."""

    peer: NodeId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The link to the peer stands (again)."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link to the peer broke."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class DeclaredDown:
    """The catalog says that this life of the peer, and all before it, are down."""

    peer: NodeId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class PeersChanged:
    """These are the other nodes of the cluster from now on."""

    peers: tuple[NodeId, ...]


MembershipEvent = Tick | BeaconHeard | LinkUp | LinkDown | DeclaredDown | PeersChanged


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class BeaconDue:
    """Send a beacon to every peer."""


@dataclass(frozen=True, slots=True)
class PeerSuspected:
    """Nothing was heard for `silent_ms`, or the link broke. `incarnation`: the life that is meant,
    0 when the peer was never heard. Repeated every `repeat_ms`."""

    peer: NodeId
    silent_ms: int
    link_broken: bool
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class PeerAlive:
    """Heard, for the first time, after a suspicion, or in a new life."""

    peer: NodeId
    incarnation: Incarnation


_ALIVE = PeerState.ALIVE  # looked up once: each beacon asks for it
_BEACON_DUE: Final = BeaconDue()
MembershipEffect = BeaconDue | PeerSuspected | PeerAlive


@dataclass(slots=True)
class _Peer:
    quiet_since_ns: int  # silence is counted from here
    incarnation: Incarnation = _NO_LIFE
    state: PeerState = PeerState.UNHEARD
    broken_ns: int = _NEVER  # when the link broke
    report_ns: int = _NEVER  # next repeat of a suspicion
    down_incarnation: Incarnation = _NO_LIFE  # lives up to this one are over


class Membership:
    """One node's beliefs about its peers. `step` is the only way in."""

    __slots__ = (
        "_beacon_ns",
        "_config",
        "_last_tick_ns",
        "_listening_ns",
        "_peers",
        "_started_ns",
        "_suspect_ns",
        "next_wake_ns",
    )

    def __init__(self, *, peers: Iterable[NodeId], config: MembershipConfig, now_ns: int) -> None:
        self._config = config
        self._suspect_ns = config.suspect_after_ms * NS_PER_MS
        self._started_ns = now_ns
        self._last_tick_ns = now_ns
        self._beacon_ns = now_ns
        # When the next Tick is wanted; never later than one beacon interval.
        self.next_wake_ns = now_ns
        self._listening_ns = now_ns  # no link that breaks before then is held against a peer
        self._peers = {peer: _Peer(quiet_since_ns=now_ns) for peer in sorted(peers)}

    def step(self, now_ns: int, event: MembershipEvent) -> list[MembershipEffect]:
        """Take one event. now_ns: monotonic. Events about other nodes than peers change nothing."""
        self._notice_lateness(now_ns)
        kind = type(event)
        if kind is Tick:
            return self._on_tick(now_ns)
        if isinstance(event, PeersChanged):
            self._set_peers(now_ns, event.peers)
            return []
        assert isinstance(event, BeaconHeard | LinkUp | LinkDown | DeclaredDown)
        peer = self._peers.get(event.peer)
        if peer is None:
            return []
        if isinstance(event, BeaconHeard):
            return self._on_heard(now_ns, event.peer, event.incarnation, peer)
        if isinstance(event, LinkUp):
            peer.broken_ns = _NEVER
            return []
        if isinstance(event, LinkDown):
            return self._on_link_down(now_ns, event.peer, peer)
        peer.down_incarnation = max(peer.down_incarnation, event.incarnation)
        if peer.incarnation <= peer.down_incarnation:
            peer.state, peer.report_ns = PeerState.DOWN, _NEVER
        return []

    def still_heard(self, now_ns: int, node: int, incarnation: int) -> bool:
        """`heard` where it changes nothing but when silence begins, which is what most beacons do;
        False: it does more, and nothing was changed."""
        peer = self._peers.get(node)  # type: ignore[call-overload]
        if (
            peer is None
            or peer.incarnation != incarnation
            or peer.state is not _ALIVE
            or peer.broken_ns != _NEVER
            or peer.down_incarnation >= incarnation
            or now_ns > self.next_wake_ns
        ):
            return False
        peer.quiet_since_ns = now_ns
        return True

    def heard(self, now_ns: int, node: NodeId, incarnation: Incarnation) -> list[MembershipEffect]:
        """`step` for a BeaconHeard, which is what most events are: without an object for each."""
        self._notice_lateness(now_ns)
        peer = self._peers.get(node)
        return self._on_heard(now_ns, node, incarnation, peer) if peer is not None else []

    # ------------------------------------------------------------ events

    def _on_tick(self, now_ns: int) -> list[MembershipEffect]:
        if now_ns < self.next_wake_ns:
            return []
        self._last_tick_ns = now_ns
        effects: list[MembershipEffect] = []
        if now_ns >= self._beacon_ns:
            # At whole multiples of the interval: nodes that share a clock beacon together, so that
            # a node wakes once for seven beacons and not seven times.
            interval_ns = self._config.beacon_ms * NS_PER_MS
            self._beacon_ns = (now_ns // interval_ns + 1) * interval_ns
            effects.append(_BEACON_DUE)
        wake_ns = self._beacon_ns
        for node, peer in self._peers.items():
            if peer.state is _ALIVE and peer.broken_ns == _NEVER:
                due_ns = peer.quiet_since_ns + self._suspect_ns  # `_due_ns` of nearly every peer
            else:
                due_ns = self._due_ns(peer)
            if now_ns >= due_ns:
                self._judge(now_ns, node, peer, effects)
                due_ns = self._due_ns(peer)
            if due_ns < wake_ns:
                wake_ns = due_ns
        self.next_wake_ns = max(wake_ns, now_ns)
        return effects

    def _notice_lateness(self, now_ns: int) -> None:
        late_ns = now_ns - self.next_wake_ns
        if late_ns <= 0:
            return
        config = self._config
        if late_ns <= config.late_tick_ms * NS_PER_MS:
            return
        # What was sent to us meanwhile still waits to be read: give everybody that time again. And
        # links may have been closed by peers that thought us dead: that is no fault of theirs.
        for peer in self._peers.values():
            peer.quiet_since_ns = min(now_ns, peer.quiet_since_ns + late_ns)
        self._listening_ns = now_ns + config.suspect_after_ms * NS_PER_MS
        self.next_wake_ns = now_ns

    def _due_ns(self, peer: _Peer) -> int:
        """When the peer is to be suspected (again) if nothing is heard of it."""
        config = self._config
        state = peer.state
        due_ns = peer.quiet_since_ns + self._suspect_ns
        if state is _ALIVE and peer.broken_ns == _NEVER:
            return due_ns
        if state is PeerState.DOWN:
            return _NEVER
        if state is PeerState.SUSPECT:
            return peer.report_ns
        if peer.broken_ns != _NEVER:
            broken_ns = max(
                peer.broken_ns + config.broken_link_delay_ms * NS_PER_MS, self._listening_ns
            )
            due_ns = min(due_ns, broken_ns)
        if state is PeerState.UNHEARD:
            due_ns = max(due_ns, self._started_ns + config.startup_grace_ms * NS_PER_MS)
        return due_ns

    def _judge(
        self, now_ns: int, node: NodeId, peer: _Peer, effects: list[MembershipEffect]
    ) -> None:
        if now_ns < self._due_ns(peer):
            return
        peer.state = PeerState.SUSPECT
        peer.report_ns = now_ns + self._config.repeat_ms * NS_PER_MS
        silent_ms = (now_ns - peer.quiet_since_ns) // NS_PER_MS
        broken = peer.broken_ns != _NEVER
        effects.append(PeerSuspected(node, silent_ms, broken, peer.incarnation))

    def _on_heard(
        self, now_ns: int, node: NodeId, incarnation: Incarnation, peer: _Peer
    ) -> list[MembershipEffect]:
        if incarnation < peer.incarnation or incarnation <= peer.down_incarnation:
            return []  # of a life that is over
        news = peer.state is not PeerState.ALIVE or incarnation > peer.incarnation
        peer.incarnation = incarnation
        peer.quiet_since_ns = now_ns
        peer.state, peer.report_ns, peer.broken_ns = PeerState.ALIVE, _NEVER, _NEVER
        return [PeerAlive(node, incarnation)] if news else []

    def _on_link_down(self, now_ns: int, node: NodeId, peer: _Peer) -> list[MembershipEffect]:
        if peer.broken_ns == _NEVER:
            peer.broken_ns = now_ns
        effects: list[MembershipEffect] = []
        if peer.state is PeerState.ALIVE:
            self._judge(now_ns, node, peer, effects)
            self.next_wake_ns = min(self.next_wake_ns, max(now_ns, self._due_ns(peer)))
        return effects

    def _set_peers(self, now_ns: int, peers: tuple[NodeId, ...]) -> None:
        self._peers = {
            peer: self._peers.get(peer) or _Peer(quiet_since_ns=now_ns) for peer in sorted(peers)
        }

    # ------------------------------------------------------------ questions

    def state(self, peer: NodeId) -> PeerState:
        """What is believed of that peer. KeyError when it is none."""
        return self._peers[peer].state

    def incarnation(self, peer: NodeId) -> Incarnation:
        """The latest life of it that was heard, 0 for none."""
        return self._peers[peer].incarnation

    def silent_ms(self, peer: NodeId, now_ns: int) -> int:
        """How long its silence counts."""
        return max(0, now_ns - self._peers[peer].quiet_since_ns) // NS_PER_MS

    def alive(self) -> tuple[NodeId, ...]:
        """The peers that are believed to be up, ascending."""
        return tuple(node for node, peer in self._peers.items() if peer.state is PeerState.ALIVE)

    def describe(self, now_ns: int) -> str:
        """One line for people."""
        return "; ".join(
            f"{node_name(node)} {peer.state.name.lower()}, life {peer.incarnation}, "
            f"silent {self.silent_ms(node, now_ns)} ms"
            + (", link broken" if peer.broken_ns != _NEVER else "")
            for node, peer in self._peers.items()
        )
