"""step: proposals to the catalog: sent to whoever leads, again when it moved, until a deadline.

An answer that never came leaves the outcome unknown: `NoQuorum` is indefinite. Entries that the
node itself proposes (its own life, admissions) are conditional and may be proposed again.
"""

from __future__ import annotations

from dataclasses import dataclass

from base.errors import NoQuorum, StorageError
from base.ids import NOBODY
from base.units import NS_PER_MS
from node.effects import Answer, NodeEffect, Send, Token
from transport.messages import ProposeReply, ProposeRequest

APPLIED, REFUSED, NOT_LEADER, UNKNOWN = 0, 1, 2, 3
RETRY_NS = 150 * NS_PER_MS
PENDING_MAX = 1024


@dataclass(slots=True)
class Pending:
    """One proposal on its way."""

    token: Token
    entry: bytes
    deadline_ns: int
    sent_ns: int
    maybe_taken: bool  # a leader may have put it into its log: no blind repeat of such a one
    repeatable: bool


class Proposals:
    """Proposals of this node. `local(request, entry)` hands one to the Raft core of this node when
    it leads; the answer comes back through `answered`."""

    def __init__(self, effects: list[NodeEffect], first_request: int) -> None:
        self._effects = effects
        self._next = first_request
        self.pending: dict[int, Pending] = {}  # not answered yet
        self.local: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self.pending)

    def propose(
        self,
        token: Token,
        entry: bytes,
        *,
        now_ns: int,
        deadline_ns: int,
        leader: int,
        self_id: int,
        repeatable: bool,
    ) -> None:
        """Start one. Its Answer comes exactly once."""
        if len(self.pending) >= PENDING_MAX:
            self._effects.append(
                Answer(token, NoQuorum("too many proposals wait already"), 0, None)
            )
            return
        request = self._next
        self._next += 1
        pending = Pending(token, entry, deadline_ns, 0, False, repeatable)
        self.pending[request] = pending
        self._send(request, pending, now_ns, leader, self_id)

    def _send(self, request: int, pending: Pending, now_ns: int, leader: int, self_id: int) -> None:
        pending.sent_ns = now_ns
        if leader == NOBODY:
            return
        pending.maybe_taken = True
        if leader == self_id:
            self.local.append((request, pending.entry))
        else:
            self._effects.append(Send(leader, ProposeRequest(request, pending.entry)))

    def answered(self, reply: ProposeReply, error: StorageError | None, result: object) -> None:
        """An answer from the leader, local or remote."""
        pending = self.pending.get(reply.request)
        if pending is None:
            return
        if reply.outcome in (APPLIED, REFUSED):
            del self.pending[reply.request]
            self._effects.append(Answer(pending.token, error, reply.index, result))
        elif reply.outcome == NOT_LEADER:
            pending.maybe_taken = False
            pending.sent_ns = min(pending.sent_ns, 0)

    def tick(self, now_ns: int, leader: int, self_id: int) -> None:
        """Send again what may be sent again; give up what is too old."""
        for request in list(self.pending):
            pending = self.pending[request]
            if now_ns >= pending.deadline_ns:
                del self.pending[request]
                error = NoQuorum(
                    "no majority of the voters answered in time; the change may yet happen"
                    if pending.maybe_taken
                    else "no leader could be reached: no majority of the voters is up"
                )
                self._effects.append(Answer(pending.token, error, 0, None))
            elif now_ns - pending.sent_ns >= RETRY_NS and (
                pending.repeatable or not pending.maybe_taken
            ):
                self._send(request, pending, now_ns, leader, self_id)
