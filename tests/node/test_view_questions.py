"""The difference of two views, asked of owners that answer in part, die, and change."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from base.clock import RealClock
from base.errors import RegionOffline, RequestTimeout
from node import view_answers
from node.view_questions import ViewQuestions

REGIONS = 9


class FakeIo:
    """Regions belong to nodes 1 to 3; of each, page 10 × region + 1 differs."""

    def __init__(self) -> None:
        self.clock = RealClock()
        self.owner = np.array([1, 2, 3] * 3, dtype=np.uint8)
        self.table = SimpleNamespace(owner=self.owner, offline=np.zeros(REGIONS, dtype=bool))
        manager = SimpleNamespace(volume=lambda number: SimpleNamespace(table=self.table))
        self.core = SimpleNamespace(catalog=SimpleNamespace(volume_manager=manager))
        self.questions = SimpleNamespace(calls={}, ask=self.ask)
        self.up = (1, 2, 3)
        self.asked: list[tuple[int, list[int]]] = []
        self.dead: set[int] = set()
        self.unsaid: dict[int, int] = {}  # by region: how often its owner leaves it out

    def up_nodes(self) -> tuple[int, ...]:
        return self.up

    def why(self, volume: int, region: int) -> Exception:
        return RegionOffline(volume=f"v{volume}", region=region, waiting_for="n1")

    async def ask(self, node: int, call: str, arguments: bytes, timeout_ms: int) -> bytes:
        await asyncio.sleep(0)
        regions = view_answers.numbers(view_answers.unpack(arguments, 4)[3])
        self.asked.append((node, regions.tolist()))
        if node in self.dead:
            self.owner[self.owner == node] = 3  # as the catalog will say
            raise RequestTimeout("no answer")
        said = []
        for region in regions.tolist():
            self.unsaid[region] = self.unsaid.get(region, 0) - 1
            if self.owner[region] == node and self.unsaid[region] < 0:
                said.append(region)
        looked = np.array(said, dtype=np.int64)
        return view_answers.pack_differing(looked, looked * 10 + 1)


def pages(io: FakeIo, timeout_ms: int = 5000) -> list[int]:
    async def main() -> Any:
        return await ViewQuestions(io).differing(1, 2, 3, 0, REGIONS, timeout_ms)  # type: ignore[arg-type]

    found: list[int] = asyncio.run(main()).tolist()
    return found


EVERY = [10 * region + 1 for region in range(REGIONS)]


def test_every_owner_is_asked_for_its_regions_and_pages_come_in_order() -> None:
    io = FakeIo()
    assert pages(io) == EVERY
    assert io.asked == [(1, [0, 3, 6]), (2, [1, 4, 7]), (3, [2, 5, 8])]


def test_what_an_owner_left_out_is_asked_again() -> None:
    io = FakeIo()
    io.unsaid = {3: 2, 8: 1}
    assert pages(io) == EVERY


def test_the_successor_of_an_owner_that_died_is_asked() -> None:
    io = FakeIo()
    io.dead = {1}
    assert pages(io) == EVERY
    assert io.asked[-1] == (3, [0, 3, 6])


def test_a_region_that_nobody_answers_for_is_an_error_and_never_left_out() -> None:
    io = FakeIo()
    io.table.offline[4] = True
    with pytest.raises(RegionOffline, match="region 4"):
        pages(io, 50)
