"""One Raft node of three by itself, driven by hand."""

from __future__ import annotations

import random
from dataclasses import replace

from base.ids import NOBODY, NodeId
from cluster.consensus import Raft
from cluster.raft_log import RaftLog
from cluster.raft_types import (
    TICK,
    EntryKind,
    HardState,
    Members,
    Persist,
    Persisted,
    RaftConfig,
    RaftEffect,
    RaftEvent,
    Received,
    SendTo,
    Snapshot,
)
from tests.cluster.raft_network import FAST, MS
from transport.messages import (
    AppendEntries,
    AppendReply,
    VoteReply,
)

N0, N1, N2 = NodeId(0), NodeId(1), NodeId(2)


class Lone:
    """Node 0 of three by itself: events by hand, syncs only when they are asked for."""

    def __init__(
        self,
        *entries: tuple[int, int, bytes],
        term: int = 0,
        voted_for: NodeId = NOBODY,
        config: RaftConfig = FAST,
        snapshot: Snapshot | None = None,
        blank: bool = False,
    ) -> None:
        self.now_ms = 0
        self.number = 0
        base = snapshot or Snapshot(0, 0, Members((N0, N1, N2)))
        self.raft = Raft(
            self_id=N0,
            hard_state=HardState(term, voted_for),
            log=RaftLog(base, entries),
            config=config,
            rng=random.Random(1),
            blank=blank,
        )
        self.tell(TICK)

    def tell(self, event: RaftEvent) -> list[RaftEffect]:
        effects = self.raft.step(self.now_ms * MS, event)
        self.number = max([self.number, *(e.number for e in effects if isinstance(e, Persist))])
        return effects

    def hear(self, sender: NodeId, message: object) -> list[RaftEffect]:
        return self.tell(Received(sender, message))

    def sync(self) -> list[RaftEffect]:
        return self.tell(Persisted(self.number))

    def wait(self, ms: int) -> list[RaftEffect]:
        effects: list[RaftEffect] = []
        for _ in range(ms):
            self.now_ms += 1
            effects += self.tell(TICK)
        return effects

    def lead(self) -> list[RaftEffect]:
        """Become leader of the next term with the votes of n1."""
        self.wait(200)
        self.hear(N1, VoteReply(self.raft.term + 1, N1, True, True))
        self.hear(N1, VoteReply(self.raft.term, N1, True, False))
        effects = self.sync()
        assert self.raft.is_leader
        return effects

    def append(self, *entries: tuple[int, int, bytes], **fields: int) -> list[RaftEffect]:
        """AppendEntries of n1."""
        return self.hear(N1, append_of(*entries, **fields))

    def ack(self, peer: NodeId, match: int) -> list[RaftEffect]:
        leadership = self.raft.leadership
        assert leadership is not None
        number = leadership.round_number
        return self.hear(peer, AppendReply(self.raft.term, peer, True, match, 0, number, False))


def append_of(*entries: tuple[int, int, bytes], **fields: int) -> AppendEntries:
    message = AppendEntries(1, 1, 0, 0, 0, 1, True, entries)
    return replace(message, **fields)  # type: ignore[arg-type]


def said(effects: list[RaftEffect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, SendTo)]


def of_kind(effects: list[RaftEffect], kind: type) -> list[object]:
    return [effect for effect in effects if isinstance(effect, kind)]


def entry(term: int, payload: bytes = b"x") -> tuple[int, int, bytes]:
    return (term, int(EntryKind.NORMAL), payload)
