"""step: what a leader knows about its peers, for one term; and how a snapshot arrives in pieces."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from base.errors import RemoteProtocolError
from base.ids import NodeId
from cluster.raft_types import Members, Snapshot
from transport.messages import InstallSnapshot

_ROUNDS_KEPT: Final = 64


class Flow(IntEnum):
    """How a leader sends to one peer."""

    PROBE = 0  # one append at a time, until one matches
    PIPELINE = 1  # several on the way, the next index runs ahead
    SNAPSHOT = 2  # the log that it lacks is gone: pieces of a snapshot


@dataclass(slots=True)
class Progress:
    """One peer. `match_index`: durable there and equal to ours; `next_index`: what to send next."""

    next_index: int
    answered_ns: int  # when the latest heartbeat round that it answered was sent
    match_index: int = 0
    flow: Flow = Flow.PROBE
    waiting: bool = False  # PROBE: an append is on its way
    inflight: deque[int] = field(default_factory=deque)  # PIPELINE: last index of each append
    blank: bool = False
    snapshot: Snapshot | None = None  # SNAPSHOT: pinned while it is sent
    offset: int = 0  # SNAPSHOT: of the piece on its way
    sent_ns: int = 0  # SNAPSHOT: when that piece left

    def advance(self, match_index: int) -> bool:
        """It holds our log up to there. True when that is news."""
        while self.inflight and self.inflight[0] <= match_index:
            self.inflight.popleft()
        news = match_index > self.match_index
        if news:
            self.match_index = match_index
        if self.flow is Flow.SNAPSHOT:
            assert self.snapshot is not None
            if self.match_index < self.snapshot.index:
                return news
            self.snapshot = None
            self.flow, self.next_index = Flow.PROBE, self.match_index + 1
        if self.flow is Flow.PROBE and self.match_index >= self.next_index - 1:
            self.flow, self.waiting = Flow.PIPELINE, False
        self.next_index = max(self.next_index, self.match_index + 1)
        return news

    def back_up(self, refused_prev_index: int, hint_index: int) -> bool:
        """It lacks the entry at `refused_prev_index`. False for an answer that is out of date."""
        if self.flow is Flow.SNAPSHOT or refused_prev_index <= self.match_index:
            return False
        if self.flow is Flow.PROBE and refused_prev_index != self.next_index - 1:
            return False
        self.next_index = max(self.match_index + 1, min(refused_prev_index, hint_index))
        self.probe()
        return True

    def probe(self) -> None:
        """Start over carefully: one append at a time."""
        self.flow, self.waiting, self.snapshot = Flow.PROBE, False, None
        self.inflight.clear()

    def forget(self) -> None:
        """It lost its store: whatever it held is gone."""
        self.blank, self.match_index = True, 0
        self.probe()
        self.waiting = True  # heartbeats only, until it answers as a learner

    def start_snapshot(self, snapshot: Snapshot) -> None:
        """Send that one, from its beginning."""
        self.probe()
        self.flow, self.snapshot, self.offset = Flow.SNAPSHOT, snapshot, 0


class Leadership:
    """One term of this node as leader."""

    __slots__ = (
        "_round_ns",
        "noop_index",
        "progress",
        "round_number",
        "since_ns",
        "tokens",
        "transfer_deadline_ns",
        "transfer_to",
    )

    def __init__(self, now_ns: int) -> None:
        self.since_ns = now_ns
        self.progress: dict[NodeId, Progress] = {}  # ascending by node
        self.noop_index = 0
        self.tokens: dict[int, int] = {}  # log index: the proposer's token; ascending
        self.transfer_to: NodeId | None = None
        self.transfer_deadline_ns = 0
        self.round_number = 0
        self._round_ns: deque[tuple[int, int]] = deque(maxlen=_ROUNDS_KEPT)
        self.next_round(now_ns)

    def next_round(self, now_ns: int) -> None:
        """A heartbeat round begins now. Answers count from then, not from when they arrive."""
        self.round_number += 1
        self._round_ns.append((self.round_number, now_ns))

    def answered(self, progress: Progress, round_number: int) -> None:
        """The peer answered an append of that round."""
        first, _ = self._round_ns[0]
        at = round_number - first
        if 0 <= at < len(self._round_ns):
            progress.answered_ns = max(progress.answered_ns, self._round_ns[at][1])

    def cover(self, self_id: NodeId, members: Members, last_index: int, now_ns: int) -> None:
        """Have a progress for every member but this node. Others stay: see `drop_removed`."""
        for node in (*members.voters, *members.learners):
            if node != self_id and node not in self.progress:
                self.progress[node] = Progress(next_index=last_index + 1, answered_ns=now_ns)
        self.progress = {node: self.progress[node] for node in sorted(self.progress)}

    def drop_removed(self, members: Members) -> None:
        """The removal is committed: stop sending to who is no member."""
        for node in list(self.progress):
            if node not in members.voters and node not in members.learners:
                del self.progress[node]

    def match_of_quorum(self, voters: tuple[NodeId, ...], self_id: NodeId, durable: int) -> int:
        """The highest index that a majority holds durably. This node counts what it has synced,
        and only when it votes."""
        held = [durable if node == self_id else self.progress[node].match_index for node in voters]
        held.sort(reverse=True)
        return held[len(voters) // 2]

    def answers_of_quorum_ns(self, voters: tuple[NodeId, ...], self_id: NodeId, now_ns: int) -> int:
        """The latest moment at which a majority is known to have followed this leader."""
        at = [now_ns if node == self_id else self.progress[node].answered_ns for node in voters]
        at.sort(reverse=True)
        return at[len(voters) // 2]


class SnapshotInbox:
    """Pieces of at most one snapshot. A leader that starts another one replaces it."""

    __slots__ = ("_bytes_max", "_key", "_pieces")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._key: tuple[int, int, int, int] | None = None
        self._pieces = bytearray()

    def check(self, message: InstallSnapshot) -> bytes:
        """The bytes of the piece. RemoteProtocolError when its numbers cannot be right."""
        data = message.data
        piece = b"".join(data) if isinstance(data, (tuple, list)) else bytes(data)  # type: ignore[arg-type]
        if not 0 <= message.total_bytes <= self._bytes_max:
            raise RemoteProtocolError(
                f"a snapshot of {message.total_bytes} bytes: at most {self._bytes_max} are taken"
            )
        if message.last_index < 1 or message.last_term < 1:
            raise RemoteProtocolError(f"a snapshot as of {message.last_index} cannot be")
        if message.offset < 0 or message.offset + len(piece) > message.total_bytes:
            raise RemoteProtocolError(f"a piece at {message.offset} lies outside its snapshot")
        return piece

    def take(self, message: InstallSnapshot, piece: bytes) -> int:
        """Keep the piece if it is the next one. Returns the offset that is wanted next."""
        # Named by its leader too: bytes of two leaders are never put together.
        key = (message.leader, message.last_index, message.last_term, message.total_bytes)
        if key != self._key:
            self._key = key
            self._pieces = bytearray()
        if message.offset == len(self._pieces):
            self._pieces += piece
        return len(self._pieces)

    def finish(self) -> bytes:
        """The whole snapshot; the inbox is empty afterwards."""
        whole = bytes(self._pieces)
        self.clear()
        return whole

    def clear(self) -> None:
        """Drop what has come so far."""
        self._key = None
        self._pieces = bytearray()
