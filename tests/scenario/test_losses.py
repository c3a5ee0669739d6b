"""What hosts may see after all power was lost: what was flushed, or anything written since."""

from __future__ import annotations

import pytest

from scenario.checkers import Violation, check_history
from scenario.history import History, Kind, Outcome, value_of
from scenario.losses import check_with_losses
from sim.random import SimRandom

A, B, C = value_of(1, 1), value_of(2, 1), value_of(3, 1)


class Script:
    """A history of block 0 of volume 1, event by event, with losses of power."""

    def __init__(self) -> None:
        self.history = History()
        self.now_ns = 0
        self.open: dict[str, int] = {}

    def begin(
        self, name: str, kind: Kind, value: int = 0, *, fua: bool = False, volume: int = 1
    ) -> Script:
        self.now_ns += 1000
        self.open[name] = self.history.invoke(
            kind, host=1, number=1, volume=volume, block=-1 if kind is Kind.FLUSH else 0,
            value=value, now_ns=self.now_ns, durable=fua,
        )  # fmt: skip
        return self

    def end(self, name: str, value: int = 0, outcome: Outcome = Outcome.OK) -> Script:
        self.now_ns += 1000
        self.history.complete(self.open.pop(name), outcome, now_ns=self.now_ns, value=value)
        return self

    def write(self, value: int, *, fua: bool = False) -> Script:
        return self.begin("w", Kind.WRITE, value, fua=fua).end("w")

    def read(self, value: int) -> Script:
        return self.begin("r", Kind.READ).end("r", value)

    def flush(self, volume: int = 1) -> Script:
        return self.begin("f", Kind.FLUSH, volume=volume).end("f")

    def loss(self) -> Script:
        self.history.power_lost()
        return self

    def found(self) -> list[Violation]:
        return check_with_losses(self.history)


def test_a_flushed_write_that_is_gone_after_a_loss_is_rejected() -> None:
    (violation,) = Script().write(A).flush().loss().read(0).found()
    assert "a flushed write was lost: zeros was read after the loss" in violation.reason


def test_a_write_with_fua_that_is_gone_after_a_loss_is_rejected() -> None:
    (violation,) = Script().write(A).write(B, fua=True).loss().read(A).found()
    assert violation.invariant == "I1"


@pytest.mark.parametrize("value", [A, B, C])
def test_any_value_since_the_flush_is_accepted_after_a_loss(value: int) -> None:
    assert Script().write(A).flush().write(B).write(C).loss().read(value).found() == []


def test_a_value_from_before_the_flushed_one_is_rejected() -> None:
    assert Script().write(A).write(B).flush().write(C).loss().read(A).found()


def test_a_flush_that_began_before_the_answer_of_a_write_does_not_cover_it() -> None:
    script = Script().begin("w", Kind.WRITE, A).begin("f", Kind.FLUSH).end("w").end("f")
    assert script.loss().read(0).found() == []


def test_a_flush_that_did_not_end_before_the_loss_covers_nothing() -> None:
    assert Script().write(A).begin("f", Kind.FLUSH).loss().end("f").read(0).found() == []


def test_a_flush_of_another_volume_covers_nothing() -> None:
    assert Script().write(A).flush(volume=2).loss().read(0).found() == []


def test_two_values_from_before_a_loss_are_rejected() -> None:
    (violation,) = Script().write(A).write(B).loss().read(A).read(B).found()
    assert "two values from before the loss" in violation.reason


def test_a_stale_read_after_a_loss_is_rejected() -> None:
    (violation,) = Script().write(A).loss().read(A).write(B).read(A).found()
    assert violation.text.startswith("after loss 1 of all power")


def test_a_value_that_was_flushed_after_a_loss_survives_the_next_one() -> None:
    script = Script().write(A).write(B).loss().read(B).flush().loss()
    assert script.read(A).found()


def test_a_write_under_way_at_a_loss_may_happen_after_it_but_once() -> None:
    script = Script().write(A).begin("w", Kind.WRITE, B).loss().read(A).read(B)
    assert script.found() == []
    assert script.read(A).found()


def test_a_write_that_happened_before_the_loss_and_is_answered_after_it_is_accepted() -> None:
    # Level 1, power 148: it was repeated after the loss, and recognised as done.
    script = Script().begin("slow", Kind.WRITE, A).write(B, fua=True).loss().end("slow")
    assert script.read(B).found() == []


def test_a_write_under_way_that_is_answered_after_the_loss_is_not_lost() -> None:
    # What is there came certainly before it, so it must have happened since.
    script = Script().write(B, fua=True).begin("slow", Kind.WRITE, A).loss().end("slow")
    (violation,) = script.read(B).found()
    assert violation.invariant == "I2"


def test_a_read_under_way_at_a_loss_says_nothing() -> None:
    script = Script().write(A).flush().begin("r", Kind.READ).loss().end("r", 0)
    assert script.read(A).found() == []


def test_a_stale_read_before_the_loss_is_still_found() -> None:
    assert Script().write(A).write(B).read(A).loss().read(B).found()


def test_without_a_loss_it_is_the_check_of_registers() -> None:
    script = Script().write(A).write(B).read(A)
    assert script.found() == check_history(script.history)


def test_what_an_earlier_loss_took_was_never_flushed() -> None:
    """The flush came after the loss: it covers what was left."""
    script = Script().write(A).flush().write(B).write(C).loss().flush().loss()
    assert script.read(A).found() == []


def lossy_store(seed: int, *, flushes: bool) -> Script:
    """A block behind a cache that loses power; flushes False: FLUSH does nothing."""
    rng, script = SimRandom(seed), Script()
    medium, unsynced, written = 0, [], 0
    for _ in range(40):
        choice = rng.below(10)
        if choice < 4:
            written += 1
            fua = rng.chance(1, 4)
            unsynced.append(value_of(1, written))
            script.write(unsynced[-1], fua=fua)
            if fua and flushes:
                medium, unsynced = unsynced[-1], []
        elif choice < 7:
            script.read(unsynced[-1] if unsynced else medium)
        elif choice < 9:
            script.flush()
            if unsynced and flushes:
                medium, unsynced = unsynced[-1], []
        elif len(script.history.losses) < 3:
            script.loss()
            left = unsynced[: rng.below(len(unsynced) + 1)]
            medium, unsynced = (left or [medium])[-1], []
    return script


def test_a_store_that_keeps_what_was_flushed_is_accepted() -> None:
    assert not any(lossy_store(seed, flushes=True).found() for seed in range(500))


def test_a_store_that_ignores_flush_is_rejected_often() -> None:
    assert sum(bool(lossy_store(seed, flushes=False).found()) for seed in range(500)) > 150


def parted(*, fua: bool) -> list[Violation]:
    """A write over two regions is under way at a loss: one owner had answered its part, and what it
    had is gone when the whole is answered."""
    history = History()
    history.region_blocks = 4
    rows = [
        history.invoke(
            Kind.WRITE, host=1, number=1, volume=1, block=block, value=A, now_ns=1, durable=fua
        )
        for block in (3, 4)
    ]
    history.power_lost()
    for row in rows:
        history.complete(row, Outcome.OK, now_ns=2)
    read = history.invoke(Kind.READ, host=1, number=2, volume=1, block=3, value=0, now_ns=3)
    history.complete(read, Outcome.OK, now_ns=4, value=0)
    return check_with_losses(history)


def test_a_loss_may_take_the_answered_part_of_a_write_that_is_answered_later() -> None:
    """Level 2, power 61."""
    assert parted(fua=False) == []


def test_of_a_write_with_fua_no_part_is_lost() -> None:
    assert parted(fua=True)
