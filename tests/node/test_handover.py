from __future__ import annotations

from dataclasses import dataclass, field

from base.units import NS_PER_MS
from node.effects import Send
from node.handover import RELEASED_MAX, HandOver
from node.region_copy import RegionCopy
from transport.messages import OwnerReleased

LEASES_END = 500 * NS_PER_MS


@dataclass
class FakeCore:
    """The part of a node that a hand-over needs."""

    copies: dict[int, dict[int, RegionCopy]] = field(default_factory=dict)
    effects: list[object] = field(default_factory=list)

    def advance(self, copy: RegionCopy, now_ns: int) -> None:
        copy.advance(now_ns)


class One:
    """One node with its copy of region 0 of volume 1."""

    def __init__(self, node: int) -> None:
        self.core = FakeCore()
        self.handover = HandOver(self.core)  # type: ignore[arg-type]
        self.copy = RegionCopy(1, 0, node, self.core.effects)  # type: ignore[arg-type]
        self.core.copies[1] = {0: self.copy}

    def configure(self, epoch: int, owner: int, members: tuple[int, ...] = (1, 2)) -> None:
        served = self.handover.served(self.copy)
        self.copy.configure(
            epoch=epoch, owner=owner, members=members, joiner=255, offline=False, now_ns=0,
            open_at_ns=LEASES_END,
        )  # fmt: skip
        self.handover.configured(self.copy, served, 0)
        self.handover.send()

    def words(self) -> list[Send]:
        return [
            effect
            for effect in self.core.effects
            if isinstance(effect, Send) and isinstance(effect.message, OwnerReleased)
        ]


def serving(node: int, epoch: int) -> One:
    one = One(node)
    one.configure(epoch, node)
    one.copy.advance(LEASES_END)
    assert one.copy.serving
    return one


def test_an_owner_that_served_tells_its_successor() -> None:
    old = serving(1, epoch=4)
    old.configure(5, owner=2)
    assert [(word.peer, word.message.regions) for word in old.words()] == [(2, ((1, 0, 5),))]


def test_an_owner_that_was_still_waiting_says_nothing() -> None:
    old = One(1)
    old.configure(4, owner=1)
    assert not old.copy.serving
    old.configure(5, owner=2)
    assert old.words() == []


def test_an_owner_that_has_skipped_an_epoch_says_nothing() -> None:
    old = serving(1, epoch=4)
    old.configure(6, owner=2)
    assert old.words() == []


def test_an_owner_whose_life_ended_says_nothing() -> None:
    old = serving(1, epoch=4)
    old.copy.retire()
    old.configure(5, owner=2)
    assert old.words() == []


def test_an_owner_that_stays_says_nothing() -> None:
    old = serving(1, epoch=4)
    old.configure(5, owner=1, members=(1,))
    assert old.words() == []
    assert old.copy.serving


def test_a_successor_opens_at_the_word_of_the_last_owner() -> None:
    new = One(2)
    new.configure(5, owner=2)
    assert not new.copy.serving
    new.handover.on_released(1, OwnerReleased(((1, 0, 5),)), 1)
    assert new.copy.serving


def test_a_word_that_came_before_the_epoch_counts_when_it_begins() -> None:
    new = One(2)
    new.configure(4, owner=1)
    new.handover.on_released(1, OwnerReleased(((1, 0, 5),)), 1)
    new.configure(5, owner=2)
    assert new.copy.serving


def test_a_word_about_another_epoch_opens_nothing() -> None:
    new = One(2)
    new.configure(5, owner=2)
    for epoch in (4, 6):
        new.handover.on_released(1, OwnerReleased(((1, 0, epoch),)), 1)
    assert not new.copy.serving


def test_without_a_word_the_leases_are_waited_for() -> None:
    new = One(2)
    new.configure(5, owner=2)
    new.copy.advance(LEASES_END - 1)
    assert not new.copy.serving
    new.copy.advance(LEASES_END)
    assert new.copy.serving


def test_words_that_are_never_asked_for_are_bounded() -> None:
    new = One(2)
    for region in range(RELEASED_MAX + 100):
        new.handover.on_released(1, OwnerReleased(((1, region + 1, 5),)), 1)
    assert len(new.handover._released) == RELEASED_MAX
