"""shell: what is asked of all owners of a volume about its views: differences, depths.

Owners are asked at the same time, each for its regions, a bounded number at once. What one does not
answer for, because it died, hangs, or owns the region no more, is asked again of whoever owns it
then, until the time is over: nothing is ever left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from base.errors import InvalidRequest, NotOwner, StorageError
from base.ids import NOBODY
from base.units import NS_PER_MS
from node import view_answers
from node.view_answers import ViewAnswers
from snapshot.exception_table import Pages

if TYPE_CHECKING:
    from node.io_path import IoPath

ANSWER_MS: Final = 2_000
AGAIN_S: Final = 0.02

T = TypeVar("T")
Ask = Callable[[Pages], bytes]
Unpack = Callable[[bytes], tuple[Pages, T]]


class ViewQuestions:
    """Asked at one node, which answers for its own regions too."""

    def __init__(self, io: IoPath) -> None:
        self._io = io
        io.questions.calls[view_answers.DIFFER] = lambda arguments: self._answers().differ(
            arguments, io.clock.now_ns()
        )
        io.questions.calls[view_answers.DEPTH] = lambda arguments: self._answers().depth(
            arguments, io.clock.now_ns()
        )

    def _answers(self) -> ViewAnswers:
        io = self._io
        if io.store is None:
            raise NotOwner(region=0, owner=NOBODY)
        io.drain()  # what is committed counts, also when it was not performed yet
        io.turn_soon()
        return ViewAnswers(io.core, io.store)

    async def differing(
        self, volume: int, one: int, other: int, first: int, end: int, timeout_ms: int
    ) -> Pages:
        """Pages of the regions `first` … `end` - 1 that lie elsewhere in the two views, ascending.
        NotFound: the volume is gone. InvalidRequest: a view is stale. RegionOffline, RequestTimeout
        and what else `IoPath.why` says: nobody answered for a region in time."""
        found = await self._ask_owners(
            volume, np.arange(first, end, dtype=np.int64), timeout_ms, view_answers.DIFFER,
            lambda regions: view_answers.ask_differing(volume, one, other, regions),
            view_answers.unpack_differing,
        )  # fmt: skip
        return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *found]))

    async def depths(self, volume: int, view: int, first: int, end: int, timeout_ms: int) -> Pages:
        """Rows of (pages, depth) of all pages of these regions, in order. Errors as above."""
        found = await self._ask_owners(
            volume, np.arange(first, end, dtype=np.int64), timeout_ms, view_answers.DEPTH,
            lambda regions: view_answers.ask_depth(volume, view, regions),
            view_answers.unpack_depth,
        )  # fmt: skip
        rows = dict(pair for each in found for pair in each)
        return np.concatenate([rows[region] for region in range(first, end)])

    async def _ask_owners(
        self, volume: int, todo: Pages, timeout_ms: int, call: str, ask: Ask, unpack: Unpack[T]
    ) -> list[T]:
        io = self._io
        deadline_ns = io.clock.now_ns() + timeout_ms * NS_PER_MS
        found: list[T] = []
        while True:
            table = io.core.catalog.volume_manager.volume(volume).table
            owners = np.where(table.offline[todo], NOBODY, table.owner[todo])
            tasks = [
                self._ask_owner(node, todo[owners == node], call, ask, unpack)
                for node in np.unique(owners).tolist()
                if node in io.up_nodes()
            ]
            before = len(todo)
            for done, answers in await asyncio.gather(*tasks):
                todo = todo[~np.isin(todo, done)]
                found += answers
            if not len(todo):
                return found
            if io.clock.now_ns() > deadline_ns:
                raise io.why(volume, int(todo[0]))
            if len(todo) == before:
                await io.clock.sleep(AGAIN_S)

    async def _ask_owner(
        self, node: int, regions: Pages, call: str, ask: Ask, unpack: Unpack[T]
    ) -> tuple[Pages, list[T]]:
        """(regions that it answered for, what it said of them)."""
        looked = [regions[:0]]
        found: list[T] = []
        while len(regions):
            question = ask(regions[: view_answers.REGIONS_MAX])
            try:
                answer = await self._io.questions.ask(node, call, question, ANSWER_MS)
            except InvalidRequest:
                raise
            except StorageError:
                break
            done, told = unpack(answer)
            if not len(done):
                break
            looked.append(done)
            found.append(told)
            # It stopped where its answer was full, or left out what it cannot say.
            regions = regions[regions > done[-1]]
        return np.concatenate(looked), found
