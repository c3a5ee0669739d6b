from __future__ import annotations

import pytest

from base.errors import ConfigError
from base.ids import Incarnation, NodeId
from cluster.membership import (
    TICK,
    BeaconDue,
    BeaconHeard,
    DeclaredDown,
    LinkDown,
    LinkUp,
    Membership,
    MembershipConfig,
    MembershipEffect,
    MembershipEvent,
    PeerAlive,
    PeersChanged,
    PeerState,
    PeerSuspected,
)

MS = 1_000_000
N1, N2 = NodeId(1), NodeId(2)
LIFE = Incarnation(3)


class Watch:
    """A membership of peers 1 and 2 on a hand-driven clock that ticks when it is asked to."""

    def __init__(self, **settings: int) -> None:
        self.now_ms = 1000
        self.core = Membership(
            peers=[N2, N1], config=MembershipConfig(**settings), now_ns=self.now_ms * MS
        )

    def tell(self, event: MembershipEvent) -> list[MembershipEffect]:
        return self.core.step(self.now_ms * MS, event)

    def beat(self, peer: NodeId, life: int = LIFE) -> list[MembershipEffect]:
        return self.tell(BeaconHeard(peer, Incarnation(life)))

    def run(self, ms: int, alive: tuple[NodeId, ...] = ()) -> list[MembershipEffect]:
        """Tick every 10 ms; `alive` beacon every 80 ms. What was emitted but for beacons."""
        effects: list[MembershipEffect] = []
        for passed in range(10, ms + 1, 10):
            self.now_ms += 10
            for peer in alive if passed % 80 == 0 else ():
                effects += self.beat(peer)
            effects += self.tell(TICK)
        return [effect for effect in effects if not isinstance(effect, BeaconDue)]


def heard(watch: Watch) -> Watch:
    watch.beat(N1)
    watch.beat(N2)
    return watch


def test_a_peer_becomes_alive_when_it_is_first_heard() -> None:
    watch = Watch()
    assert watch.core.state(N1) is PeerState.UNHEARD
    assert watch.beat(N1) == [PeerAlive(N1, LIFE)]
    assert watch.beat(N1) == []
    assert watch.core.alive() == (N1,)


def test_a_beacon_is_due_every_beacon_interval() -> None:
    watch = Watch()
    assert BeaconDue() in watch.tell(TICK)
    due = []
    for _ in range(800):
        watch.now_ms += 1
        if BeaconDue() in watch.tell(TICK):
            due.append(watch.now_ms)
    assert due == [1040 + 80 * number for number in range(10)]  # whole multiples: all nodes at once


def test_a_silent_peer_is_suspected_after_the_time_and_not_before() -> None:
    watch = heard(Watch())
    assert watch.run(390, alive=(N2,)) == []
    assert watch.run(10, alive=(N2,)) == [PeerSuspected(N1, 400, False, LIFE)]
    assert watch.core.state(N1) is PeerState.SUSPECT
    assert watch.core.alive() == (N2,)


def test_a_suspicion_is_repeated_until_the_peer_is_heard() -> None:
    watch = heard(Watch())
    told = watch.run(1000, alive=(N2,))
    assert told == [PeerSuspected(N1, ms, False, LIFE) for ms in (400, 600, 800, 1000)]
    assert watch.beat(N1) == [PeerAlive(N1, LIFE)]
    assert watch.run(300, alive=(N2,)) == []


def test_a_broken_link_is_suspected_at_once() -> None:
    watch = heard(Watch())
    watch.run(80, alive=(N1, N2))
    assert watch.tell(LinkDown(N1)) == [PeerSuspected(N1, 0, True, LIFE)]


def test_a_broken_link_waits_for_the_configured_delay() -> None:
    watch = heard(Watch(broken_link_delay_ms=30))
    assert watch.tell(LinkDown(N1)) == []
    assert watch.run(20) == []
    assert watch.run(10) == [PeerSuspected(N1, 30, True, LIFE)]


def test_a_link_that_returns_within_the_delay_accuses_nobody() -> None:
    watch = heard(Watch(broken_link_delay_ms=30))
    watch.tell(LinkDown(N1))
    watch.run(20)
    watch.tell(LinkUp(N1))
    assert watch.run(200) == []


def test_a_peer_that_was_never_heard_is_reported_only_after_the_startup_grace() -> None:
    watch = Watch()
    watch.tell(LinkDown(N1))
    assert watch.run(4990) == []
    assert watch.run(10) == [
        PeerSuspected(N1, 5000, True, Incarnation(0)),
        PeerSuspected(N2, 5000, False, Incarnation(0)),
    ]


def test_an_observer_that_was_stopped_accuses_nobody_for_the_time_it_did_not_listen() -> None:
    watch = heard(Watch())
    watch.run(80, alive=(N1, N2))
    watch.now_ms += 10_000
    assert [e for e in watch.tell(TICK) if isinstance(e, PeerSuspected)] == []
    assert watch.run(320, alive=(N1,)) == []
    assert watch.run(80, alive=(N1,)) == [PeerSuspected(N2, 400, False, LIFE)]


def test_links_that_broke_while_the_observer_was_stopped_are_not_held_against_peers() -> None:
    watch = heard(Watch())
    watch.run(80, alive=(N1, N2))
    watch.now_ms += 10_000
    assert watch.tell(LinkDown(N1)) == []  # read before our own tick
    watch.beat(N2)
    assert watch.run(300, alive=(N2,)) == []
    assert watch.run(100, alive=(N2,)) == [PeerSuspected(N1, 400, True, LIFE)]


def test_a_small_delay_of_the_own_tick_counts_as_silence() -> None:
    watch = heard(Watch())
    watch.tell(TICK)
    watch.now_ms += 40 + 100  # the tick was due at 1040
    watch.tell(TICK)
    assert watch.core.silent_ms(N1, watch.now_ms * MS) == 140


def test_a_new_life_of_a_peer_is_told() -> None:
    watch = heard(Watch())
    assert watch.beat(N1, 4) == [PeerAlive(N1, Incarnation(4))]
    assert watch.core.incarnation(N1) == 4


def test_a_beacon_of_an_earlier_life_proves_nothing() -> None:
    watch = heard(Watch())
    watch.beat(N1, 4)
    watch.run(400)
    assert watch.beat(N1, 3) == []
    assert watch.core.state(N1) is PeerState.SUSPECT


def test_a_peer_declared_down_is_not_reported_again_and_its_life_cannot_return() -> None:
    watch = heard(Watch())
    watch.run(400, alive=(N2,))
    watch.tell(DeclaredDown(N1, LIFE))
    assert watch.core.state(N1) is PeerState.DOWN
    assert watch.run(1000, alive=(N2,)) == []
    assert watch.beat(N1, LIFE) == []
    assert watch.beat(N1, LIFE + 1) == [PeerAlive(N1, Incarnation(LIFE + 1))]


def test_a_declaration_about_an_earlier_life_changes_nothing() -> None:
    watch = heard(Watch())
    watch.tell(DeclaredDown(N1, Incarnation(LIFE - 1)))
    assert watch.core.state(N1) is PeerState.ALIVE


def test_events_about_strangers_change_nothing() -> None:
    watch = heard(Watch())
    assert watch.beat(NodeId(7)) == []
    assert watch.tell(LinkDown(NodeId(7))) == []
    watch.tell(PeersChanged((N1, NodeId(7))))
    assert watch.beat(NodeId(7)) == [PeerAlive(NodeId(7), LIFE)]
    assert watch.core.alive() == (N1, NodeId(7))


def test_ticking_only_when_asked_to_suspects_as_early_as_ticking_all_the_time() -> None:
    watch = heard(Watch())
    start_ns = watch.now_ms * MS
    now_ns = start_ns
    for _ in range(100):
        now_ns = max(now_ns, watch.core.next_wake_ns)
        if any(isinstance(e, PeerSuspected) for e in watch.core.step(now_ns, TICK)):
            break
    assert now_ns - start_ns == 400 * MS


def test_the_state_can_be_read_by_people() -> None:
    watch = heard(Watch())
    watch.run(80, alive=(N2,))
    watch.tell(LinkDown(N1))
    text = "n1 suspect, life 3, silent 80 ms, link broken; n2 alive, life 3, silent 0 ms"
    assert watch.core.describe(watch.now_ms * MS) == text


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"beacon_ms": 0}, "beacon_ms"), ({"suspect_after_ms": 100}, "suspect_after_ms")],
)
def test_impossible_times_are_refused_by_name(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        MembershipConfig(**settings)
