"""What must be on the device before this node says anything: nothing may overwrite it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from base.ids import NodeId
from base.tasks import Supervisor
from base.units import MiB
from cluster.raft_types import Entry, HardState, Members, Persist, Snapshot
from node.consensus_store import ConsensusState, ConsensusStore, Life
from node.file_device import FileDevice

EMPTY = Snapshot(0, 0, Members(tuple(NodeId(n) for n in range(3))))
ENTRIES: tuple[Entry, ...] = ((1, 0, b"first"), (1, 0, b"second"))


class Opened:
    """A store on the file, and what it told."""

    def __init__(self, path: Path) -> None:
        self.failures: list[BaseException] = []
        self.persisted: list[int] = []
        self.supervisor = Supervisor("test", lambda _name, error: self.failures.append(error))
        self.device = FileDevice(path, 4 * MiB, create=True)
        self.store = ConsensusStore(
            self.device,
            supervisor=self.supervisor,
            on_persisted=self.persisted.append,
            on_failure=self.failures.append,
        )

    async def until(self, number: int) -> None:
        while number not in self.persisted:
            assert not self.failures
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        await self.supervisor.close()
        self.device.close()


def entries(number: int, first: int, what: tuple[Entry, ...]) -> Persist:
    return Persist(number, HardState(1, NodeId(2), False), None, first, what, None)


async def read_back(path: Path) -> ConsensusState:
    opened = Opened(path)
    assert await opened.store.load()
    await opened.close()
    return opened.store.state


@pytest.mark.parametrize("life_first", [False, True])
def test_a_life_and_entries_written_at_once_are_both_kept(tmp_path: Path, life_first: bool) -> None:
    async def main() -> None:
        opened = Opened(tmp_path / "store")
        await opened.store.format(EMPTY)
        async with asyncio.TaskGroup() as group:
            if life_first:
                group.create_task(opened.store.set_life(Life(7, "boot", clean=False)))
                await asyncio.sleep(0)
            opened.store.persist(entries(1, 1, ENTRIES))
            await asyncio.sleep(0)
            if not life_first:
                group.create_task(opened.store.set_life(Life(7, "boot", clean=False)))
            await opened.until(1)
        await opened.close()
        state = await read_back(tmp_path / "store")
        assert state.entries == list(ENTRIES)
        assert state.life == Life(7, "boot", clean=False)
        assert state.hard == HardState(1, NodeId(2), False)

    asyncio.run(main())


def test_a_store_without_a_complete_half_holds_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        opened = Opened(tmp_path / "store")
        assert not await opened.store.load()
        await opened.close()

    asyncio.run(main())
