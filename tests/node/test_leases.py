from __future__ import annotations

import pytest

from base.units import NS_PER_MS
from node.leases import SENT_MAX, LeaseTable

LEASE, GRACE = 400, 500  # ms
START = 10_000


def table(incarnation: int = 1, now_ms: int = START, granting: bool = True) -> LeaseTable:
    made = LeaseTable(
        incarnation=incarnation, lease_ns=LEASE * NS_PER_MS, grace_ns=GRACE * NS_PER_MS,
        drift_ppm=50_000, now_ns=now_ms * NS_PER_MS,
    )  # fmt: skip
    made.granting = granting
    return made


class Two:
    """An owner n0 and its copy n1 that beacon to each other."""

    def __init__(self) -> None:
        self.owner, self.copy = table(), table()

    def ask(self, at_ms: int, version: int = 0, known: bool = True) -> None:
        self.copy.heard(0, self.owner.beacon(1, at_ms * NS_PER_MS, version), known=known)

    def answer(self, at_ms: int) -> None:
        self.owner.heard(1, self.copy.beacon(0, at_ms * NS_PER_MS, 0), known=True)

    def holds(self, at_ms: int) -> bool:
        return self.owner.holds((1,), at_ms * NS_PER_MS)


def test_there_is_no_lease_before_a_beacon_was_acknowledged() -> None:
    two = Two()
    two.ask(START)
    assert not two.holds(START)


def test_a_lease_runs_from_the_moment_at_which_the_beacon_was_sent() -> None:
    two = Two()
    two.ask(START)
    two.answer(START + 90)
    assert two.holds(START + LEASE - 1)
    assert not two.holds(START + LEASE)


def test_an_older_acknowledgement_does_not_shorten_a_lease() -> None:
    two = Two()
    two.ask(START)
    late = two.copy.beacon(0, START * NS_PER_MS, 0)
    two.ask(START + 80)
    two.answer(START + 90)
    two.owner.heard(1, late, known=True)
    assert two.holds(START + 80 + LEASE - 1)


def test_what_is_remembered_of_beacons_is_bounded_and_has_the_latest() -> None:
    two = Two()
    for at_ms in range(START, START + 100 * LEASE, 80):
        two.ask(at_ms)
    assert len(two.owner._sent_ns[1]) <= SENT_MAX
    two.answer(at_ms + 1)
    assert two.holds(at_ms + LEASE - 1)


def test_a_lease_is_needed_from_each_of_the_nodes() -> None:
    two = Two()
    two.ask(START)
    two.answer(START)
    assert not two.owner.holds((1, 2), START * NS_PER_MS)


def test_a_sole_member_needs_no_lease() -> None:
    assert table().holds((), START * NS_PER_MS)


def test_who_grants_notes_the_longer_time_on_its_own_clock() -> None:
    two = Two()
    two.ask(START)
    two.answer(START + 700)
    assert two.copy.all_granted_until_ns() == (START + 700 + GRACE) * NS_PER_MS


def test_saying_the_same_acknowledgement_again_grants_nothing_more() -> None:
    two = Two()
    two.ask(START)
    two.answer(START + 700)
    two.answer(START + 900)
    assert two.copy.granted_until_ns[0] == (START + 700 + GRACE) * NS_PER_MS


def test_a_new_life_waits_for_the_leases_that_the_last_one_may_have_granted() -> None:
    assert table(2, START).all_granted_until_ns() == (START + GRACE) * NS_PER_MS


def test_a_node_that_is_not_active_in_this_life_grants_nothing() -> None:
    two = Two()
    two.copy.granting = False
    two.ask(START)
    two.answer(START + 10)
    assert not two.holds(START + 20)
    assert 0 not in two.copy.granted_until_ns


def test_a_peer_that_has_not_applied_the_last_change_of_owners_gets_no_lease() -> None:
    two = Two()
    two.copy.floor = 7
    two.ask(START, version=6)
    two.answer(START + 10)
    assert not two.holds(START + 20)
    two.ask(START + 80, version=7)
    two.answer(START + 90)
    assert two.holds(START + 100)


def test_a_peer_whose_life_the_catalog_does_not_know_gets_no_lease() -> None:
    two = Two()
    two.ask(START, known=False)
    two.answer(START + 10)
    assert not two.holds(START + 20)


def test_an_accused_peer_gets_no_lease_until_the_catalog_has_answered() -> None:
    two = Two()
    two.copy.withhold(0, 3)
    two.ask(START)
    two.answer(START + 10)
    assert two.copy.withheld() == [0]
    assert not two.holds(START + 20)
    two.copy.answered(0)
    two.answer(START + 90)
    assert two.holds(START + 100)


def test_an_acknowledgement_for_an_earlier_life_is_no_lease() -> None:
    two = Two()
    two.ask(START)
    answer = two.copy.beacon(0, START * NS_PER_MS, 0)
    two.owner.renew(2, START * NS_PER_MS)
    two.owner.heard(1, answer, known=True)
    assert not two.holds(START + 10)


def test_a_new_life_without_a_restart_voids_the_leases_that_it_held() -> None:
    two = Two()
    two.ask(START)
    two.answer(START)
    two.owner.renew(2, (START + 10) * NS_PER_MS)
    assert not two.holds(START + 20)
    assert two.owner.all_granted_until_ns() == (START + 10 + GRACE) * NS_PER_MS


def test_a_grace_that_drift_could_make_shorter_than_the_lease_is_impossible() -> None:
    with pytest.raises(AssertionError):
        LeaseTable(incarnation=1, lease_ns=400, grace_ns=440, drift_ppm=50_000, now_ns=0)
