"""I30: what a joiner whose journal is full holds for it is bounded, however often it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from node import state_transfer
from node.io_path import IoPath
from node.region_copy import RegionCopy
from node.roles import BY_LOG
from sim.clock import SimClock
from tests.node.store_world import PAGE, World
from transport import messages as wire
from transport.operation import WRITE, Record, data_crc, pack_record

KEY = (1, 0)
OWNER, SELF = 0, 1
STREAM = 10  # records of one page that an owner sends in a session


class Bus:
    """Keeps what leaves."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, peer: int, message: Any) -> None:
        assert peer == OWNER
        self.sent.append(message)

    def flush(self) -> None:
        """All has left."""


class Joining(World):
    """A joiner over a real store, and an owner that fills it by log, from nothing, by hand."""

    def __init__(self) -> None:
        super().__init__(7, now_percent=100, regions=1)
        self.answered: list[int] = []
        self.peak = 0

    def _journalled(self, tokens: list[Any]) -> None:
        for copy, record in tokens:
            copy.record_journalled(record)

    async def open(self) -> None:
        self.build(checkpoint_ms=20)
        await self.recover()
        effects: list[Any] = []
        core: Any = SimpleNamespace(
            self_id=SELF, incarnation=1, effects=effects, joins=SimpleNamespace(admit=None),
            commit_dirty={}, node_id=SELF,
        )  # fmt: skip
        self.bus = Bus()
        self.io = IoPath(
            core=core, bus=self.bus, clock=SimClock(self.loop), supervisor=self.supervisor,  # type: ignore[arg-type]
            timeout_ns=1, on_control=lambda _effect: None,
        )  # fmt: skip
        self.io.store = self.store
        self.copy = RegionCopy(*KEY, SELF, effects)
        self.copy.configure(
            epoch=1, owner=OWNER, members=(OWNER,), joiner=SELF, offline=False, now_ns=0,
            open_at_ns=0,
        )  # fmt: skip

    async def session(self, number: int) -> None:
        """What an owner does that hears of no progress: it asks, and begins when it is answered."""
        state_transfer.asked(self.copy, OWNER, wire.TransferAsk(*KEY, 1, number, 0, 0, ()))
        self.io.drain()
        position = wire.TransferPosition(*KEY, 1, number, True, 0, 0, b"")
        if position in self.bus.sent:
            self.answered.append(number)
            begin = wire.TransferBegin(*KEY, 1, number, BY_LOG, 0, 0, 0, 0, (), (), b"")
            state_transfer.begin(self.copy, OWNER, begin)
            for seq in range(1, STREAM + 1):
                data = self.rng.randbytes(PAGE)
                record = Record(
                    *KEY, WRITE, 0, seq % 8 * PAGE, PAGE, 9, seq, 0, data, epoch=1,
                    prev_epoch=int(seq > 1), seq=seq, data_crc=data_crc(data),
                )  # fmt: skip
                record.header = pack_record(record, 1, 0)
                self.copy.replicate(OWNER, record, 1, 0)
        self.io.turn_soon()
        await self.store.clock.sleep(0.01)
        self.peak = max(self.peak, self.store.journal.statistics().waiting_bytes)


def test_sessions_that_follow_each_other_do_not_pile_up_before_a_full_journal() -> None:
    world = Joining()

    async def body() -> None:
        await world.open()
        for number in range(1, 41):  # nothing makes room
            await world.session(number)
        assert world.store.journal.is_full
        assert 0 < world.peak <= STREAM * (PAGE + 512)
        assert len(world.answered) == 2
        assert not world.store.uncommitted  # nothing void keeps the journal from being trimmed
        world.store.start()
        for number in range(41, 81):
            await world.session(number)
        assert len(world.answered) > 10
        assert world.peak <= STREAM * (PAGE + 512)
        assert not world.failures
        await world.supervisor.close()

    try:
        world.loop.run_until_complete(body())
    finally:
        world.loop.close()
