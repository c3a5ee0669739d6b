"""step: nothing is said before what it depends on is synced.

One step collects what must be persisted and what is to be said; `finish` turns it into at most one
`Persist` in front of the messages that may leave now. The others wait for `Persisted`. A leader's
appends need no sync of its own: they are sent at once, and only its own vote for them waits
(Raft thesis section 10.2.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from base.ids import NodeId
from cluster.raft_log import RaftLog
from cluster.raft_types import Entry, HardState, Persist, RaftEffect, SendTo, Snapshot
from transport.messages import AppendReply, RequestVote, SnapshotReply, VoteReply

Dependent = RequestVote | VoteReply | AppendReply | SnapshotReply

_HARD_STATE_ONLY: Final = 0  # every durable log reaches index 0


class Outbox:
    """Effects of the running step, messages that wait, and how far the log is durable."""

    __slots__ = (
        "_acked",
        "_dependent",
        "_effects",
        "_entries",
        "_first_index",
        "_hard",
        "_hard_number",
        "_held",
        "_held_max",
        "_number",
        "_pending",
        "_snapshot",
        "_truncate_from",
        "durable_index",
    )

    def __init__(self, *, durable_index: int, held_max: int) -> None:
        self.durable_index = durable_index  # the log of this moment is synced up to here
        self._held_max = held_max
        self._number = 0
        self._acked = 0
        self._hard_number = 0  # the last request that carried a hard state
        self._pending: deque[tuple[int, int]] = deque()  # (number, last index once it is synced)
        self._held: deque[tuple[int, SendTo, int]] = deque()  # (number it waits for, what, term)
        self._effects: list[RaftEffect] = []
        self._dependent: list[tuple[int, NodeId, Dependent]] = []
        self._hard: HardState | None = None
        self._truncate_from: int | None = None
        self._first_index = 0
        self._entries: list[Entry] = []
        self._snapshot: Snapshot | None = None

    # ------------------------------------------------------------ collecting

    def emit(self, effect: RaftEffect) -> None:
        """An effect that depends on no sync of this node, or on one that is already done."""
        self._effects.append(effect)

    def say(self, peer: NodeId, message: Dependent, *, needs: int = _HARD_STATE_ONLY) -> None:
        """A message that may leave when the hard state and the log up to `needs` are synced."""
        self._dependent.append((needs, peer, message))

    def persist_hard(self, hard: HardState) -> None:
        """Term, vote or blankness changed."""
        self._hard = hard

    def persist_entries(self, first_index: int, entries: Sequence[Entry]) -> None:
        """Entries were put at the end of the log."""
        if not self._entries:
            self._first_index = first_index
        assert self._first_index + len(self._entries) == first_index
        self._entries.extend(entries)

    def persist_truncation(self, first_index: int) -> None:
        """Entries from `first_index` on were dropped, before any of this step were appended."""
        assert not self._entries
        self._truncate_from = first_index
        self._not_durable_from(first_index)

    def persist_snapshot(self, snapshot: Snapshot, *, replaces_log: bool) -> None:
        """A newer snapshot: of this log, or of another that this node's log is replaced by."""
        self._snapshot = snapshot
        if replaces_log:
            self._truncate_from = snapshot.index + 1
            self._not_durable_from(snapshot.index)

    def _not_durable_from(self, first_index: int) -> None:
        # What is on its way to the device has been overtaken: its acknowledgement says nothing
        # about the entries that stand at these indexes now.
        self.durable_index = min(self.durable_index, first_index - 1)
        self._pending = deque(
            (number, min(last_index, first_index - 1)) for number, last_index in self._pending
        )

    # ------------------------------------------------------------ state of the device

    @property
    def hard_state_durable(self) -> bool:
        """The latest hard state is synced (and none was changed in this step)."""
        return self._hard is None and self._hard_number <= self._acked

    @property
    def waiting(self) -> int:
        """Messages held back."""
        return len(self._held)

    def persisted(self, number: int, term: int) -> bool:
        """Everything up to `number` is synced. False when that was known. Lets go what waited for
        it, but for messages of terms that are over: nobody counts them."""
        assert number <= self._number, f"persist {number} was never asked for"
        if number <= self._acked:
            return False
        self._acked = number
        while self._pending and self._pending[0][0] <= number:
            self.durable_index = max(self.durable_index, self._pending.popleft()[1])
        still_held: deque[tuple[int, SendTo, int]] = deque()
        for held in self._held:
            if held[0] > number:
                still_held.append(held)
            elif held[2] >= term:
                self._effects.append(held[1])
        self._held = still_held
        return True

    # ------------------------------------------------------------ end of a step

    def finish(self, log: RaftLog) -> list[RaftEffect]:
        """The effects of this step, in the order in which they may be performed."""
        effects = self._effects
        self._effects = []
        if (
            self._entries
            or self._hard is not None
            or self._truncate_from is not None
            or self._snapshot is not None
        ):
            effects.insert(0, self._request(log))
        if self._dependent:
            for needs, peer, message in self._dependent:
                self._release_or_hold(needs, SendTo(peer, message), message.term, effects)
            self._dependent.clear()
        return effects

    def _request(self, log: RaftLog) -> Persist:
        self._number += 1
        if self._hard is not None:
            self._hard_number = self._number
        request = Persist(
            number=self._number,
            hard_state=self._hard,
            truncate_from=self._truncate_from,
            first_index=self._first_index if self._entries else 0,
            entries=tuple(self._entries),
            snapshot=self._snapshot,
        )
        self._pending.append((self._number, log.last_index))
        self._hard = self._truncate_from = self._snapshot = None
        self._entries.clear()
        return request

    def _release_or_hold(
        self, needs: int, send: SendTo, term: int, effects: list[RaftEffect]
    ) -> None:
        if self._hard_number <= self._acked and needs <= self.durable_index:
            effects.append(send)
            return
        # The newest request covers every older one. A heartbeat's answer needs nothing new and
        # passes a slow sync of entries by, so that a slow device does not look like a dead node.
        waits_for = self._number if needs > self.durable_index else self._hard_number
        if len(self._held) >= self._held_max:
            self._held.popleft()  # as if the network had lost it
        self._held.append((waits_for, send, term))
