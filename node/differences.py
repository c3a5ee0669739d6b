"""shell: the difference of two views of a volume that is in use, from whoever owns its regions.

Owners are asked at the same time, each for its regions, a bounded number at once. What one does not
answer for, because it died, hangs, or owns the region no more, is asked again of whoever owns it
then, until the time is over: a page that differs is never left out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import numpy as np

from base.errors import StorageError
from base.ids import NOBODY
from base.units import NS_PER_MS
from node import region_differences as regional
from snapshot.exception_table import Pages

if TYPE_CHECKING:
    from node.io_path import IoPath

ANSWER_MS: Final = 2_000
AGAIN_S: Final = 0.02


class Differences:
    """Asked at one node."""

    def __init__(self, io: IoPath) -> None:
        self._io = io
        io.questions.calls[regional.CALL] = self._answer

    def _answer(self, arguments: bytes) -> bytes:
        io = self._io
        io.drain()  # what is committed counts, also when it was not performed yet
        answer = regional.answer(arguments, io.core, io.store, io.clock.now_ns())
        io.turn_soon()
        return answer

    async def pages(
        self, volume: int, one: int, other: int, first: int, end: int, timeout_ms: int
    ) -> Pages:
        """Pages of the regions `first` … `end` - 1 whose location differs between the two views,
        ascending. NotFound: the volume is gone. RegionOffline, RequestTimeout and what else
        `IoPath.why` says: nobody answered for a region in time."""
        io = self._io
        deadline_ns = io.clock.now_ns() + timeout_ms * NS_PER_MS
        todo = np.arange(first, end, dtype=np.int64)
        found: list[Pages] = []
        while True:
            table = io.core.catalog.volume_manager.volume(volume).table
            owners = np.where(table.offline[todo], NOBODY, table.owner[todo])
            tasks = [
                self._ask_owner(node, volume, one, other, todo[owners == node])
                for node in np.unique(owners).tolist()
                if node in io.up_nodes()
            ]
            before = len(todo)
            for done, pages in await asyncio.gather(*tasks):
                todo = todo[~np.isin(todo, done)]
                found.append(pages)
            if not len(todo):
                return np.sort(np.concatenate([*found, todo]))
            if io.clock.now_ns() > deadline_ns:
                raise io.why(volume, int(todo[0]))
            if len(todo) == before:
                await io.clock.sleep(AGAIN_S)

    async def _ask_owner(
        self, node: int, volume: int, one: int, other: int, regions: Pages
    ) -> tuple[Pages, Pages]:
        """(regions that it answered for, their pages)."""
        looked = [regions[:0]]
        found = [regions[:0]]
        while len(regions):
            question = regional.pack_question(volume, one, other, regions[: regional.REGIONS_MAX])
            try:
                result = await self._io.questions.ask(node, regional.CALL, question, ANSWER_MS)
            except StorageError:
                break
            done, pages = regional.unpack_answer(result)
            looked.append(done)
            found.append(pages)
            if not len(done):
                break
            # It stopped where its answer was full, or left out what it cannot say.
            regions = regions[regions > done[-1]]
        return np.concatenate(looked), np.concatenate(found)
