"""The order in which one turn performs what the copies of regions ask for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from base.clock import RealClock
from base.tasks import Supervisor
from node import effects as fx
from node.io_path import IoPath
from node.region_copy import RegionCopy
from transport.operation import WRITE, Record


class Store:
    """Says what was done to it, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def append(self, record: Record, header: bytes, token: object) -> None:
        self.told.append(("append", record.seq))

    def apply(self, record: Record) -> None:
        self.told.append(("apply", record.seq))


def record(seq: int) -> Record:
    made = Record(1, 0, WRITE, 0, 0, 512, 1, seq, 0, bytes(512), seq=seq, epoch=1)
    made.header = b"packed"
    return made


def test_a_record_that_a_joiner_takes_and_commits_in_one_turn_is_appended_first() -> None:
    async def main() -> list[tuple[str, int]]:
        effects: list[Any] = []
        core: Any = SimpleNamespace(
            self_id=1,
            incarnation=1,
            effects=effects,
            joins=SimpleNamespace(admit=None),
            commit_dirty={},
        )
        supervisor = Supervisor("test", lambda _name, _error: None)
        io = IoPath(
            core=core, bus=None, clock=RealClock(), supervisor=supervisor, timeout_ns=1,  # type: ignore[arg-type]
            on_control=lambda _effect: None,
        )  # fmt: skip
        store = Store()
        io.store = store  # type: ignore[assignment]
        copy = RegionCopy(1, 0, 1, effects)  # type: ignore[arg-type]
        first, second = record(1), record(2)
        effects += [
            fx.Store(copy, first, (), journal=True),
            fx.Store(copy, second, (), journal=True),
            fx.Apply(copy, first),
        ]
        io.drain()
        await supervisor.close()
        return store.told

    assert asyncio.run(main()) == [("append", 1), ("append", 2), ("apply", 1)]
