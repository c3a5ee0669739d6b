"""step: consensus as a node uses it: one event at a time, proposals on their way to the leader and
their answers on the way back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgpack

from base.errors import from_code
from base.units import NS_PER_MS
from cluster import raft_types as rt
from node.effects import NodeEffect, Note, PersistRaft, Send, Token
from node.proposals import APPLIED, NOT_LEADER, REFUSED, UNKNOWN, Proposals
from transport import messages as wire

if TYPE_CHECKING:
    from node.core import NodeCore

PROPOSAL_NS = 5_000 * NS_PER_MS
APPLIED_MAX = 4096  # outcomes of entries that wait for the proposer's effect


class Agreement:
    """The Raft core of one node with everything that waits for it."""

    def __init__(self, core: NodeCore, effects: list[NodeEffect], first_token: int) -> None:
        self._core = core
        self._proposals = Proposals(effects, first_token)
        self.pending = self._proposals.pending  # what is not answered yet
        self._tokens = first_token
        self._raft_events: deque[rt.RaftEvent] = deque()
        self._in_raft = False
        self._raft_tokens: dict[int, tuple[int, int]] = {}  # token -> (peer or self, request)
        self.applied: dict[int, Any] = {}

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        core = self._core
        if now_ns >= core.raft.next_wake_ns:
            self.step(rt.TICK, now_ns)

    def retry(self, now_ns: int) -> None:
        """Send again what may be sent again."""
        core = self._core
        self._proposals.tick(now_ns, core.leader_id, core.self_id)
        self._propose_locally(now_ns)

    def note_applied(self, index: int, applied: Any) -> None:
        """What an entry did, for the answer to its proposer. Also on a node that led until just
        now, and has proposals that were committed with the entry that ended its lead."""
        if not self._raft_tokens:
            return
        self.applied[index] = applied
        if len(self.applied) > APPLIED_MAX:
            del self.applied[next(iter(self.applied))]

    def propose(
        self,
        entry: bytes,
        token: Token,
        now_ns: int,
        *,
        timeout_ns: int = PROPOSAL_NS,
        repeatable: bool = False,
    ) -> None:
        """Put an entry to the catalog. token None: nobody waits for the answer."""
        core = self._core
        self._proposals.propose(
            token,
            entry,
            now_ns=now_ns,
            deadline_ns=now_ns + timeout_ns,
            leader=core.leader_id,
            self_id=core.self_id,
            repeatable=repeatable,
        )
        self._propose_locally(now_ns)

    def _propose_locally(self, now_ns: int) -> None:
        core = self._core
        while self._proposals.local:
            request, entry = self._proposals.local.pop(0)
            self._take_proposal(core.self_id, request, entry, now_ns)

    def _take_proposal(self, peer: int, request: int, entry: bytes, now_ns: int) -> None:
        self._tokens += 1
        self._raft_tokens[self._tokens] = (peer, request)
        self.step(rt.Propose(self._tokens, entry), now_ns)

    def on_propose_request(self, peer: int, message: wire.ProposeRequest, now_ns: int) -> None:
        """Another node puts an entry to this one, which it believes to lead."""
        self._take_proposal(peer, message.request, message.entry, now_ns)

    def on_propose_reply(self, peer: int, message: wire.ProposeReply, now_ns: int) -> None:
        """The leader answered a proposal of this node."""
        core = self._core
        error = None
        result = None
        if message.outcome == REFUSED:
            error = from_code(message.code, message.text)
            core.effects.append(Note("proposal.refused", code=message.code, text=message.text))
        elif message.outcome == APPLIED:
            result = msgpack.unpackb(message.result)
        self._proposals.answered(message, error, result)

    def _answer_proposal(self, token: int, outcome: int, index: int, now_ns: int) -> None:
        core = self._core
        destination = self._raft_tokens.pop(token, None)
        if destination is None:
            return
        peer, request = destination
        code = text = ""
        result: Any = None
        applied = self.applied.pop(index, None) if index else None
        if outcome == APPLIED:
            assert applied is not None, index
            if applied.refusal is not None:
                outcome = REFUSED
                code, text = applied.refusal
            result = applied.result
        packed: bytes = msgpack.packb(result)
        reply = wire.ProposeReply(request, outcome, core.leader_id, index, code, text, packed)
        if peer == core.self_id:
            self.on_propose_reply(peer, reply, now_ns)
        else:
            core.effects.append(Send(peer, reply))

    def step(self, event: rt.RaftEvent, now_ns: int) -> None:
        """One event for consensus, and all that follows from it."""
        core = self._core
        self._raft_events.append(event)
        if self._in_raft:
            return  # what an effect asks of consensus waits for the effects that stand before it
        self._in_raft = True
        while self._raft_events:
            for effect in core.raft.step(now_ns, self._raft_events.popleft()):
                self._on_raft_effect(effect, now_ns)
        self._in_raft = False

    def change_members(self, token: int, change: rt.MemberChange, now_ns: int) -> None:
        """The leader changes who votes; nobody waits for the outcome, it is tried again."""
        self.step(rt.ProposeMembers(token, change), now_ns)

    def _on_raft_effect(self, effect: rt.RaftEffect, now_ns: int) -> None:
        core = self._core
        if isinstance(effect, rt.SendTo):
            core.effects.append(Send(effect.peer, effect.message))
        elif isinstance(effect, rt.Persist):
            core.effects.append(PersistRaft(effect))
        elif isinstance(effect, rt.Apply):
            core.apply_entry(effect.index, effect.payload, now_ns)
        elif isinstance(effect, rt.ApplySnapshot):
            core.apply_snapshot(effect.index, effect.snapshot, now_ns)
        elif isinstance(effect, rt.ProposalDone):
            self._answer_proposal(effect.token, APPLIED, effect.index, now_ns)
        elif isinstance(effect, rt.ProposalLost):
            self._answer_proposal(effect.token, UNKNOWN, 0, now_ns)
        elif isinstance(effect, rt.ProposalRefused):
            self._answer_proposal(effect.token, NOT_LEADER, 0, now_ns)
        elif isinstance(effect, rt.LeaderChanged):
            core.leader_id = int(effect.leader)
        elif isinstance(effect, rt.BecameLeader):
            core.effects.append(Note("leader.elected", term=effect.term))
            core.duties.begin(now_ns)
        elif isinstance(effect, rt.PeerBlank):
            core.duties.peer_blank(int(effect.peer))
        elif isinstance(effect, rt.MembersChanged):
            core.effects.append(
                Note("voters.changed", voters=list(effect.voters), learners=list(effect.learners))
            )
