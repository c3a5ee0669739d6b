from __future__ import annotations

import pytest

from base.errors import InvalidRequest, NoQuorum
from base.units import NS_PER_MS
from node.effects import Answer, NodeEffect, Send
from node.proposals import (
    APPLIED,
    NOT_LEADER,
    PENDING_MAX,
    REFUSED,
    RETRY_NS,
    UNKNOWN,
    Proposals,
)
from transport.messages import ProposeReply

NOBODY = 255
DEADLINE = 5_000 * NS_PER_MS


class World:
    """The proposals of n0."""

    def __init__(self) -> None:
        self.effects: list[NodeEffect] = []
        self.proposals = Proposals(self.effects, 100)

    def propose(self, leader: int, *, repeatable: bool = False) -> None:
        self.proposals.propose(
            "token", b"entry", now_ns=0, deadline_ns=DEADLINE, leader=leader, self_id=0,
            repeatable=repeatable,
        )  # fmt: skip

    def answer(self, outcome: int, request: int = 100) -> None:
        reply = ProposeReply(request, outcome, 1, 7, "", "", b"")
        error = InvalidRequest("no") if outcome == REFUSED else None
        self.proposals.answered(reply, error, "result" if outcome == APPLIED else None)

    @property
    def sent_to(self) -> list[int]:
        return [effect.peer for effect in self.effects if isinstance(effect, Send)]

    @property
    def answers(self) -> list[Answer]:
        return [effect for effect in self.effects if isinstance(effect, Answer)]


def test_a_proposal_goes_to_the_leader() -> None:
    world = World()
    world.propose(3)
    assert world.sent_to == [3]


def test_the_leader_itself_takes_its_proposal_without_a_message() -> None:
    world = World()
    world.propose(0)
    assert world.sent_to == []
    assert world.proposals.local == [(100, b"entry")]


def test_an_applied_entry_is_answered_with_its_result_and_place() -> None:
    world = World()
    world.propose(3)
    world.answer(APPLIED)
    (answer,) = world.answers
    assert (answer.error, answer.index, answer.result) == (None, 7, "result")


def test_a_refused_entry_is_answered_with_its_error() -> None:
    world = World()
    world.propose(3)
    world.answer(REFUSED)
    assert isinstance(world.answers[0].error, InvalidRequest)


def test_a_second_answer_to_the_same_proposal_says_nothing() -> None:
    world = World()
    world.propose(3)
    world.answer(APPLIED)
    world.answer(APPLIED)
    assert len(world.answers) == 1


def test_without_a_leader_a_proposal_waits_for_one() -> None:
    world = World()
    world.propose(NOBODY)
    world.proposals.tick(RETRY_NS, 4, 0)
    assert world.sent_to == [4]


def test_a_proposal_that_a_node_did_not_take_goes_to_the_next_leader() -> None:
    world = World()
    world.propose(3)
    world.answer(NOT_LEADER)
    world.proposals.tick(RETRY_NS, 4, 0)
    assert world.sent_to == [3, 4]


@pytest.mark.parametrize("lost", [True, False])
def test_a_proposal_that_may_have_been_taken_is_not_repeated_blindly(lost: bool) -> None:
    world = World()
    world.propose(3)
    if lost:
        world.answer(UNKNOWN)
    world.proposals.tick(RETRY_NS, 4, 0)
    assert world.sent_to == [3]


def test_an_entry_that_is_void_the_second_time_is_repeated() -> None:
    world = World()
    world.propose(3, repeatable=True)
    world.proposals.tick(RETRY_NS, 4, 0)
    assert world.sent_to == [3, 4]


def test_at_the_deadline_the_answer_says_that_the_change_may_yet_happen() -> None:
    world = World()
    world.propose(3)
    world.proposals.tick(DEADLINE, 3, 0)
    error = world.answers[0].error
    assert isinstance(error, NoQuorum)
    assert "may yet happen" in str(error)
    assert not error.definite


def test_at_the_deadline_the_answer_says_that_no_leader_was_found() -> None:
    world = World()
    world.propose(NOBODY)
    world.proposals.tick(DEADLINE, NOBODY, 0)
    assert "no leader could be reached" in str(world.answers[0].error)


def test_too_many_proposals_at_a_time_are_refused_at_once() -> None:
    world = World()
    for _ in range(PENDING_MAX):
        world.propose(3)
    assert world.answers == []
    world.propose(3)
    assert isinstance(world.answers[0].error, NoQuorum)
    assert len(world.proposals) == PENDING_MAX
