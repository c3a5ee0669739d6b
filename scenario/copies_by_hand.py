"""shell: copies of one region on three nodes, driven by hand: every effect is performed at once,
except where a run holds a journal back or cuts a pair. `scenario.directed` and tests use it."""

from __future__ import annotations

from node import effects as fx
from node import state_transfer
from node.region_copy import RegionCopy
from node.roles import MODE_NAMES
from transport import messages as wire
from transport.operation import WRITE, Record

NOBODY = 255


def operation(number: int, *, client: int = 7, flags: int = 0, low: int = 0) -> Record:
    """A write that has no place yet."""
    return Record(1, 0, WRITE, flags, 0, 4, client, number, low, b"data")


def clone(record: Record) -> Record:
    """A record of one's own."""
    return Record(
        record.volume, record.region, record.kind, record.flags, record.offset, record.length,
        record.client, record.number, record.low, record.data, epoch=record.epoch,
        prev_epoch=record.prev_epoch, seq=record.seq, cow_into=record.cow_into,
    )  # fmt: skip


class Copies:
    """`held`: nodes whose journal answers only at `write_journal`. `unsynced`: nodes that never
    sync. `cut`: (from, to) pairs. Outcomes of host operations are in `answers`, by token."""

    def __init__(self, nodes: int = 3) -> None:
        self.effects: list[list[fx.Effect]] = [[] for _ in range(nodes)]
        self.copies = [RegionCopy(1, 0, node, self.effects[node]) for node in range(nodes)]
        self.held: set[int] = set()
        self.unsynced: set[int] = set()
        self.no_pages: set[int] = set()
        self.cut: set[tuple[int, int]] = set()
        self.journals: list[list[Record]] = [[] for _ in range(nodes)]
        self.applied: list[list[tuple[int, int]]] = [[] for _ in range(nodes)]
        self.answers: dict[object, str] = {}
        self.admitted: list[tuple[int, int]] = []
        self.said: list[str] = []
        self.session = 100

    def configure(
        self, epoch: int, owner: int, members: tuple[int, ...], *, joiner: int = NOBODY,
        only: tuple[int, ...] | None = None, now_ns: int = 0, open_at_ns: int = 0, **more: bool,
    ) -> None:  # fmt: skip
        for node in range(len(self.copies)) if only is None else only:
            self.copies[node].configure(
                epoch=epoch, owner=owner, members=members, joiner=joiner, offline=False,
                now_ns=now_ns, open_at_ns=open_at_ns, **more,
            )  # fmt: skip
        self.run()

    def write(self, node: int, number: int, *, flags: int = 0, token: object = None) -> None:
        self.copies[node].write(operation(number, flags=flags), token or number)
        self.run()

    def join(self, owner: int) -> None:
        self.session += 1
        state_transfer.ask(self.copies[owner], self.session)
        self.run()

    def run(self) -> None:
        for _ in range(200):
            if not any(self.effects):
                return
            for node, effects in enumerate(self.effects):
                taken = list(effects)
                effects.clear()
                for effect in taken:
                    self._perform(node, effect)
        raise AssertionError("the copies never come to rest")

    def write_journal(self, node: int, count: int = 1 << 30) -> None:
        """The journal of a held node gets that far."""
        done, self.journals[node] = self.journals[node][:count], self.journals[node][count:]
        for record in done:
            self.copies[node].record_journalled(record)
        self.run()

    def _reaches(self, sender: int, receiver: int) -> bool:
        return (sender, receiver) not in self.cut

    def _perform(self, node: int, effect: fx.Effect) -> None:
        copy = self.copies[node]
        match effect:
            case fx.Store():
                if effect.journal and node in self.held:
                    self.journals[node].append(effect.record)
                elif effect.journal:
                    copy.record_journalled(effect.record)
                for peer in effect.peers:
                    if self._reaches(node, peer):
                        record = clone(effect.record)
                        self.copies[peer].replicate(node, record, copy.epoch, copy.committed)
                if effect.peers:
                    copy.commit_told = copy.committed
            case fx.Apply():
                self.applied[node].append((effect.record.seq, effect.record.number))
            case fx.Ack():
                if self._reaches(node, effect.peer):
                    self.copies[effect.peer].peer_acknowledged(
                        node, effect.epoch, effect.seq, effect.synced, effect.session
                    )
            case fx.Reply():
                error = effect.error
                self.answers[effect.token] = "ok" if error is None else type(error).__name__
            case fx.Moved():
                self.answers[effect.token] = "moved"
            case fx.Resume():
                self.answers[effect.token] = "resumed"
            case fx.SyncRecord():
                if node not in self.unsynced:
                    copy.record_synced(effect.seq, effect.epoch, effect.era)
            case fx.SendPosition():
                complete, seq, epoch = effect.position
                position = wire.TransferPosition(
                    1, 0, effect.epoch, effect.session, complete, epoch, seq, b""
                )
                if self._reaches(node, effect.peer):
                    state_transfer.positioned(self.copies[effect.peer], node, position)
            case fx.SendBegin():
                begin = wire.TransferBegin(
                    1, 0, effect.epoch, effect.session, effect.mode, effect.base_epoch,
                    effect.base, effect.since[1], effect.since[0], effect.line, effect.clients,
                    b"",
                )  # fmt: skip
                self.said.append(f"n{node} begins by {MODE_NAMES[effect.mode]} at {effect.base}")
                if self._reaches(node, effect.peer):
                    state_transfer.begin(self.copies[effect.peer], node, begin)
            case fx.CopyPages():
                if effect.peer not in self.no_pages:
                    state_transfer.pages_copied(copy, effect.peer, effect.session)
            case fx.EndTransfer():
                copy.transfer_synced(effect.session)
            case fx.Admit():
                self.admitted.append((effect.epoch, effect.joiner))
            case fx.Send():
                if self._reaches(node, effect.peer):
                    self._deliver(node, effect.peer, effect.message)
            case fx.Truncate() | fx.ResetRegion():
                self.said.append(f"n{node} {type(effect).__name__}")

    def _deliver(self, sender: int, receiver: int, message: object) -> None:
        copy = self.copies[receiver]
        match message:
            case wire.ReplicateRefused():
                self.said.append(f"n{sender} refused {message.reason}")
                copy.refused(sender, message.epoch, message.prepared, message.reason)
            case wire.TransferAsk():
                state_transfer.asked(copy, sender, message)
            case wire.TransferReply():
                self.said.append(f"n{sender} transfer outcome {message.outcome}")
                state_transfer.answered(copy, sender, message.session, message.outcome)
            case wire.TransferEnd():
                state_transfer.end(copy, sender, message)
            case wire.TransferEnded():
                state_transfer.ended(copy, sender, message.session)


def pair() -> Copies:
    """n0 owns the region, n1 is its copy, n2 has nothing; one operation is committed."""
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.write(0, 1)
    return world
