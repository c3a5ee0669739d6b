"""Answers to proposals: whoever took one owes it an answer, whatever it has become meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cluster import raft_types as rt
from node.agreement import Agreement
from node.effects import Answer


class CommitsAtOnce:
    """Consensus of a leader that commits what is proposed and steps down in the same step."""

    def step(self, _now_ns: int, event: Any) -> list[Any]:
        return [rt.Apply(7, 1, event.payload), rt.ProposalDone(event.token, 7)]


class Core:
    """What `Agreement` asks of a node."""

    self_id = leader_id = 0

    def __init__(self) -> None:
        self.raft = CommitsAtOnce()
        self.effects: list[Any] = []
        self.agreement = Agreement(self, self.effects, 1)  # type: ignore[arg-type]

    def apply_entry(self, index: int, payload: bytes, _now_ns: int) -> None:
        self.agreement.note_applied(index, SimpleNamespace(refusal=None, result=payload.decode()))


def test_a_leader_that_steps_down_with_the_commit_answers_its_proposer() -> None:
    core = Core()
    core.agreement.propose(b"entry", "token", 0)
    answers = [effect for effect in core.effects if isinstance(effect, Answer)]
    assert [(answer.token, answer.result) for answer in answers] == [("token", "entry")]


def test_what_entries_did_is_not_kept_when_nobody_waits_for_it() -> None:
    core = Core()
    core.agreement.note_applied(6, SimpleNamespace(refusal=None, result=None))
    assert core.agreement.applied == {}
