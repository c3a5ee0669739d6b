"""shell: the clock of the cores, and the effects that are not about host data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from base.clock import Clock
from base.errors import StorageError
from base.tasks import Supervisor
from base.units import NS_PER_S
from node import effects as fx
from node.consensus_store import ConsensusStore
from node.core import NodeCore

if TYPE_CHECKING:
    from node.io_path import IoPath

log = structlog.get_logger()

SLACK_NS = 200_000  # a timer that fires a little early would find nothing to do


class ControlLoop:
    """Calls `tick` when the cores want it, persists consensus, and tells people what happened."""

    def __init__(
        self,
        *,
        core: NodeCore,
        clock: Clock,
        consensus: ConsensusStore,
        supervisor: Supervisor,
        recover: Callable[[], Awaitable[None]],
    ) -> None:
        self.core = core
        self.io: IoPath
        self.on_topology: Callable[[], None] = lambda: None
        self.ready = asyncio.Event()
        self._clock = clock
        self._consensus = consensus
        self._supervisor = supervisor
        self._recover = recover
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._stopped = False
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            fx.PersistRaft: self._persist,
            fx.Answer: self._answer,
            fx.NewLife: self._new_life,
            fx.LifeCounted: self._life_counted,
            fx.Note: self._note,
            fx.Adopted: self._adopted,
            fx.RecoverStore: self._recover_store,
            fx.TopologyChanged: self._topology,
        }

    def start(self) -> None:
        """Begin to tick."""
        self._tick()

    def stop(self) -> None:
        """No tick any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def perform(self, effect: Any) -> None:
        """One effect; None: the turn has ended, look when the next tick is due."""
        if effect is None:
            self._schedule()
        else:
            self._perform[type(effect)](effect)

    def _tick(self) -> None:
        self._timer = None
        if self._stopped:
            return
        now_ns = self._clock.now_ns()
        self.core.tick(now_ns)
        if len(self.io.router):
            self.io.router.tick(now_ns)
        self.io.turn_soon()

    def _schedule(self) -> None:
        if self._stopped:
            return
        now_ns = self._clock.now_ns()
        due_ns = self.core.next_tick_ns(now_ns)
        if len(self.io.router):
            due_ns = min(due_ns, now_ns + 20_000_000)
        if self._timer is not None:
            if self._due_ns <= due_ns + SLACK_NS:
                return
            self._timer.cancel()
        self._due_ns = due_ns
        wait_ns = max(0, due_ns - now_ns) + SLACK_NS
        self._timer = self._clock.call_later(wait_ns / NS_PER_S, self._tick)

    def _persist(self, effect: fx.PersistRaft) -> None:
        self._consensus.persist(effect.request)

    def _answer(self, effect: fx.Answer) -> None:
        future = effect.token
        if isinstance(future, asyncio.Future) and not future.done():
            if effect.error is not None:
                future.set_exception(effect.error)
            else:
                future.set_result((effect.index, effect.result))

    def _new_life(self, effect: fx.NewLife) -> None:
        self._supervisor.start(self._begin_life(effect.above), name="new_life")

    async def _begin_life(self, above: int) -> None:
        last = self._consensus.state.life
        life = replace(last, incarnation=max(above, last.incarnation) + 1, clean=False)
        await self._consensus.set_life(life)
        self.core.begin_life(life.incarnation, self._clock.now_ns())
        self.io.turn_soon()

    def _adopted(self, effect: fx.Adopted) -> None:
        self.core.gates.copy_adopted(effect.copy, self._clock.now_ns())

    def _life_counted(self, _effect: fx.LifeCounted) -> None:
        self._supervisor.start(self._keep_count(), name="life_counted")

    async def _keep_count(self) -> None:
        life = replace(self._consensus.state.life, intact=True, blank=False, known=0)
        await self._consensus.set_life(life)
        self.core.life_counted(self._clock.now_ns())
        self.io.turn_soon()

    def _note(self, effect: fx.Note) -> None:
        log.info(effect.event, **effect.fields)

    def _recover_store(self, _effect: fx.RecoverStore) -> None:
        self._supervisor.start(self._recover_and_serve(), name="recover")

    async def _recover_and_serve(self) -> None:
        await self._recover()
        self.ready.set()

    def _topology(self, _effect: fx.TopologyChanged) -> None:
        self.on_topology()

    async def propose(self, entry: bytes, timeout_ns: int) -> Any:
        """Put an entry to the catalog; its result, once this node has applied it too. Raises what
        the catalog or the way to it refused."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        core = self.core
        core.propose(entry, future, self._clock.now_ns(), timeout_ns=timeout_ns)
        self.io.turn_soon()
        index, result = await future
        deadline_ns = self._clock.now_ns() + timeout_ns
        while core.catalog.version < index and self._clock.now_ns() < deadline_ns:
            await self._clock.sleep(0.002)
        return result


__all__ = ["ControlLoop", "StorageError"]
