"""shell: asyncio on virtual time. One integer clock, one order of events, nothing from outside.

Events run in the order (time, sequence number). Those of the present stand in a queue and those of
the future in a heap; both together are one heap by that key, only faster. When nothing is left to
do now, time jumps to the next event. What a simulated node starts belongs to its *group*: a group
can be paused (SIGSTOP) and dropped (kill -9, power cut) as a whole. A dropped coroutine never runs
its `finally` while the simulation lasts: a power cut does not clean up.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import gc
import heapq
import sys
import threading
import warnings
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Final, NoReturn, TypeVar, cast

from base.units import NS_PER_S
from sim.fence import CALLS_OF_THE_WORLD, refuse, refuse_calls
from sim.random import SimRandom
from sim.trace import Recorder, RunTrace, TraceKey

T = TypeVar("T")

START_NS: Final = NS_PER_S  # near zero: floats of seconds stay exact to the nanosecond for weeks
EVENTS_MAX_DEFAULT: Final = 200_000_000

_CANCELLED_MIN: Final = 512  # cancelled timers are cleared out when more, and more than half
_TASKS_MIN: Final = 256  # finished tasks are let go whenever the number held has doubled
_CLOSES_MAX: Final = 16  # times a coroutine that awaits in `finally` is closed at the end
_NAMED_MAX: Final = 20  # pending tasks that a deadlock report lists


class SimulationDeadlock(RuntimeError):
    """Nothing is scheduled and the awaited future is pending; the text lists who waits where."""


class EventBudgetExceeded(RuntimeError):
    """The run took more events than it was given: a livelock, or too small a budget."""


class _State(enum.Enum):
    RUNNING = "running"
    PAUSED = "paused"
    DROPPED = "dropped"


_RUNNING: Final = _State.RUNNING  # looked up once: a member is slow to find, and each event asks


class SimGroup:
    """Everything one life of one simulated node has started: its tasks, timers and callbacks.

    Membership is inherited: what code of the group schedules belongs to the group. Work that comes
    from outside (a message that arrives) must enter through `start` or `call_at_ns`.
    """

    def __init__(self, loop: SimEventLoop, name: str) -> None:
        self.name = name
        self._loop = loop
        self._state = _State.RUNNING
        self._held: deque[SimHandle] = deque()  # what fell due while paused, in order
        self._context = contextvars.Context()
        self._context.run(_GROUP.set, self)

    @property
    def alive(self) -> bool:
        """False once dropped."""
        return self._state is not _State.DROPPED

    @property
    def paused(self) -> bool:
        """True between `pause` and `resume`."""
        return self._state is _State.PAUSED

    @property
    def context(self) -> contextvars.Context:
        """A fresh context of this group, for `call_soon(..., context=)` and the like."""
        return self._context.copy()

    def start(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run a coroutine as a task of the group."""
        if not self.alive:
            coro.close()
            raise RuntimeError(f"group {self.name} was dropped; {name} was not started")
        return self._loop.create_task(coro, name=name, context=self.context)

    def call_at_ns(self, when_ns: int, callback: Callable[..., object], *args: Any) -> SimHandle:
        """Run a callback of the group at that time; never when the group is dropped before."""
        return self._loop.call_at_ns(when_ns, callback, *args, context=self.context)

    def pause(self) -> None:
        """Hold back everything that falls due, as SIGSTOP does; clocks go on."""
        if self._state is _State.RUNNING:
            self._state = _State.PAUSED
            self._loop._gate_changed()

    def resume(self) -> None:
        """Run what was held back, in its order, before anything new."""
        if self._state is _State.PAUSED:
            self._state = _State.RUNNING
            held, self._held = self._held, deque()
            self._loop._resumed(held)

    def drop(self) -> int:
        """Forget the group's tasks and timers without running any `finally`; how many tasks.

        Detach its devices and links before: only code can be forgotten, not what others know.
        Must not be called by code of the group itself.
        """
        if not self.alive:
            return 0
        if _GROUP.get() is self:
            raise RuntimeError(f"group {self.name} cannot drop itself: call from outside it")
        self._state = _State.DROPPED
        self._held.clear()
        return self._loop._drop_group(self)


_GROUP: contextvars.ContextVar[SimGroup | None] = contextvars.ContextVar("sim_group", default=None)


def group_name() -> str:
    """Whose code runs now; "" for nobody's."""
    group = _GROUP.get()
    return "" if group is None else group.name


class SimHandle(asyncio.TimerHandle):
    """A scheduled callback. Leaner than asyncio's own: no debug information."""

    __slots__ = ()

    def __init__(
        self,
        loop: SimEventLoop,
        when_ns: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        # Deliberately without super().__init__: this runs once per event.
        self._loop = loop
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False
        self._when = when_ns
        self._scheduled = False
        self._source_traceback = None
        self._repr = None

    def cancel(self) -> None:
        """As asyncio's, without its debug information."""
        if not self._cancelled:
            self._cancelled = True
            if self._scheduled:
                self._loop._timer_handle_cancelled(self)
            self._callback = None  # type: ignore[assignment]
            self._args = None  # type: ignore[assignment]


class SimTask(asyncio.Task[T]):
    """A task whose hash is its number, so that sets of tasks iterate alike in every run."""

    _sequence = 0
    _log_destroy_pending: bool  # asyncio's own, as is _log_traceback: its type hints miss them
    _log_traceback: bool
    group: SimGroup | None
    sim_context: contextvars.Context

    def __init__(
        self,
        sequence: int,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        **options: Any,
    ) -> None:
        self._sequence = sequence  # first: asyncio puts the task in a set while making it
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._sequence

    def __eq__(self, other: object) -> bool:
        return self is other


class SimEventLoop(asyncio.BaseEventLoop):
    """See the module's text.

    events_max: callbacks that may run over the loop's life, else `EventBudgetExceeded`.
    shuffle: when given, timers that fall due at the same nanosecond run in an order drawn from it
    (asyncio promises none); without it, in the order in which they were set.
    recorder: called with each trace entry (t_ns, kind, key), for replays.
    """

    def __init__(
        self,
        *,
        events_max: int = EVENTS_MAX_DEFAULT,
        shuffle: SimRandom | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__()
        self.events_max = events_max
        self.run_trace = RunTrace(recorder)
        self._now_ns = START_NS
        self._sequence = 0
        self._executed = 0
        self._shuffle = shuffle
        self._soon: deque[SimHandle] = deque()
        self._later: list[tuple[int, int, SimHandle]] = []
        self._later_cancelled = 0
        self._gated = False  # True once any group was paused or dropped: handles are looked at
        self._groups: list[SimGroup] = []
        self._tasks: dict[int, SimTask[Any]] = {}
        self._tasks_limit = _TASKS_MIN
        self._graveyard: list[SimTask[Any]] = []
        self._burying = False
        self._failure: BaseException | None = None
        self._outside = contextvars.Context()
        self._strike_at = -1  # number of the event behind which `_strike` is called
        self._strike: Callable[[], object] = _nothing

    # -- time and scheduling -----------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """True time of the simulation: integer nanoseconds from START_NS on."""
        return self._now_ns

    @property
    def events(self) -> int:
        """Callbacks run so far."""
        return self._executed

    @property
    def outside(self) -> contextvars.Context:
        """A context of no group: for what must go on when the node that asked for it is gone."""
        return self._outside.copy()

    def time(self) -> float:
        """Seconds, derived from the integer clock."""
        return self._now_ns / NS_PER_S

    def group(self, name: str) -> SimGroup:
        """A new group; each life of a node has its own."""
        made = SimGroup(self, name)
        self._groups = [group for group in self._groups if group.alive]
        self._groups.append(made)
        return made

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """At the present time, after everything that is already scheduled for it."""
        # `outside` is empty, and an empty context is false.
        own = contextvars.copy_context() if context is None else context
        handle = SimHandle(self, self._now_ns, callback, args, own)
        if not self._burying:
            self._soon.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """`call_soon`, and an error from any other thread."""
        if threading.get_ident() != getattr(self, "_thread_id", None):
            refuse("call_soon_threadsafe from another thread")
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """After `delay` seconds, rounded to nanoseconds; at once when negative."""
        when_ns = self._now_ns + round(delay * NS_PER_S)
        return self.call_at_ns(when_ns, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """At `when` on the scale of `time()`."""
        own = contextvars.copy_context() if context is None else context
        return self._schedule(SimHandle(self, round(when * NS_PER_S), callback, args, own))

    def call_at_ns(
        self,
        when_ns: int,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """At an integer time; at once when it has passed."""
        own = contextvars.copy_context() if context is None else context
        return self._schedule(SimHandle(self, when_ns, callback, args, own))

    def _schedule(self, handle: SimHandle) -> SimHandle:
        when_ns = handle._when
        if self._burying:
            return handle
        if when_ns <= self._now_ns:
            self._soon.append(handle)
        else:
            self._sequence += 1
            handle._scheduled = True
            heapq.heappush(self._later, (when_ns, self._sequence, handle))
        return handle

    def run_in(
        self, context: contextvars.Context, callback: Callable[..., object], *args: Any
    ) -> bool:
        """Run a callback in a context as part of the present event. False, and nothing was run,
        when the group of the context is paused or dropped: then `call_soon` is the way.

        Not for code that runs in that same context already: a context is entered once at a time.
        """
        if self._gated:
            group = context.get(_GROUP)
            if group is not None and group._state is not _RUNNING:
                return False
        context.run(callback, *args)
        return True

    def after_events(self, count: int, callback: Callable[[], object]) -> None:
        """Call back, outside of any group, right behind the `count`th event from now (at least 1):
        between any two steps of whatever runs then. One at a time: a later call replaces it."""
        assert count >= 1
        self._strike_at = self._executed + count
        self._strike = callback

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if not handle._scheduled:  # type: ignore[attr-defined]
            return
        self._later_cancelled += 1
        if self._later_cancelled > _CANCELLED_MIN and self._later_cancelled * 2 > len(self._later):
            self._later = [entry for entry in self._later if not entry[2]._cancelled]
            heapq.heapify(self._later)
            self._later_cancelled = 0

    def create_task(  # type: ignore[override]
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> SimTask[T]:
        """A task with a number, which is also its hash, and a group, which is its maker's."""
        if self._burying or self.is_closed():
            coro.close()
            raise RuntimeError("the simulation is over; no task was started")
        self._sequence += 1
        number = self._sequence
        own = contextvars.copy_context() if context is None else context
        task: SimTask[T] = SimTask(
            number, coro, loop=self, name=name or f"task-{number}", context=own
        )
        task.sim_context = own
        task.group = own.get(_GROUP)
        self._tasks[number] = task
        if len(self._tasks) > self._tasks_limit:
            self._tasks = {key: held for key, held in self._tasks.items() if not held.done()}
            self._tasks_limit = max(_TASKS_MIN, 2 * len(self._tasks))
        return task

    # -- running -----------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Until `stop`, a failure, a deadlock or the end of the budget."""
        if self.is_closed():
            raise RuntimeError("the event loop is closed")
        if self.is_running() or asyncio._get_running_loop() is not None:
            raise RuntimeError("an event loop is already running in this thread")
        collecting = gc.isenabled()
        gc.disable()  # when garbage is found must not depend on what else the process did
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finish_generator)
        self._thread_id = threading.get_ident()
        asyncio._set_running_loop(self)
        try:
            self._spin()
        finally:
            self._stopping = False
            self._thread_id = None  # type: ignore[assignment]
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            if collecting:
                gc.enable()

    def run_until_ns(self, when_ns: int) -> None:
        """Run everything that is due up to that time, and leave the clock there."""
        future = self.create_future()
        self.call_at_ns(when_ns, _resolve, future, context=self.outside)
        self.run_until_complete(future)

    def run_until_complete(  # type: ignore[override]
        self, future: Generator[Any, None, T] | Coroutine[Any, Any, T] | asyncio.Future[T]
    ) -> T:
        """asyncio's, and afterwards no error may be left that nobody has looked at."""
        result: T = super().run_until_complete(future)
        self.check_failures()
        return result

    def check_failures(self) -> None:
        """Raise the error of the first finished task whose error nobody has looked at."""
        ended = [task for task in self._tasks.values() if task.done()]
        for task in ended:
            if task._log_traceback:
                error = task.exception()
                assert error is not None
                error.add_note(f"task {task.get_name()} failed and nobody awaited it")
                raise error
            del self._tasks[task._sequence]
        self._raise_failure()

    def _spin(self) -> None:
        soon = self._soon
        executed = self._executed
        try:
            while not self._stopping:
                if not soon:
                    self._jump()
                handle = soon.popleft()
                if handle._cancelled or (self._gated and self._held_back(handle)):
                    continue
                executed += 1
                self._executed = executed
                if executed > self.events_max:
                    raise EventBudgetExceeded(
                        f"{self.events_max} events were run up to t={self.time():.9f} s"
                    )
                try:
                    handle._context.run(handle._callback, *handle._args)
                except BaseException as error:
                    where = getattr(handle._callback, "__qualname__", repr(handle._callback))
                    error.add_note(f"in {where} at t={self.time():.9f} s")
                    raise
                if self._failure is not None:
                    self._raise_failure()
                if executed == self._strike_at:
                    self._strike()
        finally:
            handle = None  # type: ignore[assignment]  # or a frame of a traceback keeps it alive

    def _jump(self) -> None:
        """Move time to the next timer that is not cancelled and queue all that are due then."""
        later, pop = self._later, heapq.heappop
        while True:
            if not later:
                self._raise_deadlock()
            when_ns, _, handle = pop(later)
            handle._scheduled = False
            if not handle._cancelled:
                break
            self._later_cancelled -= 1
        self._now_ns = when_ns
        if later and later[0][0] == when_ns:
            self._queue_due(handle)
        else:
            self._soon.append(handle)
        self.run_trace.jumped(when_ns, self._executed, self._sequence)

    def _queue_due(self, first: SimHandle) -> None:
        """Queue that timer and all others that are due at the present time."""
        later = self._later
        due = [first]
        while later and later[0][0] == self._now_ns:
            handle = heapq.heappop(later)[2]
            handle._scheduled = False
            if handle._cancelled:
                self._later_cancelled -= 1
            else:
                due.append(handle)
        if self._shuffle is not None and len(due) > 1:
            self._shuffle.shuffle(due)
        self._soon.extend(due)

    def _raise_deadlock(self) -> NoReturn:
        waiting = [task for task in self._tasks.values() if not task.done()]
        lines = [f"nothing is scheduled at t={self.time():.9f} s and {len(waiting)} tasks wait:"]
        for task in waiting[:_NAMED_MAX]:
            place = "not started"
            for frame in task.get_stack(limit=1):
                place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
            lines.append(f"  {task.get_name()}: {place}")
        paused = [group.name for group in self._groups if group.paused]
        if paused:
            lines.append(f"  paused groups: {', '.join(paused)}")
        raise SimulationDeadlock("\n".join(lines))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Whatever asyncio would only log fails the run, unless a handler was set."""
        if self._burying:
            return
        handler = self.get_exception_handler()
        if handler is not None:
            handler(self, context)
        elif self._failure is None:
            error = context.get("exception")
            if error is None:
                error = RuntimeError(str(context.get("message")))
            elif context.get("message"):
                error.add_note(str(context["message"]))
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _finish_generator(self, agen: AsyncGenerator[Any, Any]) -> None:
        if not self._burying and not self.is_closed():
            self.create_task(agen.aclose(), name="aclose")

    # -- groups ------------------------------------------------------------------------------

    def _gate_changed(self) -> None:
        self._gated = True

    def _held_back(self, handle: SimHandle) -> bool:
        group = handle._context.get(_GROUP)
        if group is None or group._state is _RUNNING:
            return False
        if group._state is _State.PAUSED:
            group._held.append(handle)
        return True

    def _resumed(self, held: deque[SimHandle]) -> None:
        self._soon.extendleft(reversed(held))

    def _drop_group(self, group: SimGroup) -> int:
        self._gated = True
        kept: list[tuple[int, int, SimHandle]] = []
        for entry in self._later:
            if entry[2]._context.get(_GROUP) is group:
                entry[2]._scheduled = False
            else:
                kept.append(entry)
        self._later = kept
        heapq.heapify(self._later)
        self._later_cancelled = sum(entry[2]._cancelled for entry in kept)
        dropped = [task for task in self._tasks.values() if task.group is group]
        for task in dropped:
            del self._tasks[task._sequence]
        dropped = [task for task in dropped if not task.done()]
        self._abandon(dropped)
        return len(dropped)

    def abandon(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Forget single tasks without running their `finally`; whoever awaits them waits for ever.

        For whole nodes use `SimGroup.drop`, which forgets timers and callbacks as well.
        """
        group = self.group("abandoned")
        group._state = _State.DROPPED
        self._gated = True
        mine = [task for task in tasks if isinstance(task, SimTask) and not task.done()]
        for task in mine:
            self._tasks.pop(task._sequence, None)
            # Its steps run in its own context: moving that into a dropped group stops them.
            task.sim_context.run(_GROUP.set, group)
        self._abandon(mine)

    def _abandon(self, tasks: list[SimTask[Any]]) -> None:
        for task in tasks:
            task._log_destroy_pending = False
        self._graveyard.extend(tasks)

    # -- trace -------------------------------------------------------------------------------

    def trace(self, kind: str, key: TraceKey) -> None:
        """Add (now, kind, key) to the running hash. Keys hold integers, text and bytes only."""
        self.run_trace.add(self._now_ns, kind, key)

    def trace_hash(self) -> str:
        """32 hexadecimal digits over all entries and jumps of time so far; see `sim.trace`."""
        return self.run_trace.hexdigest()

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Destroy what is unfinished, in the order of its making. Idempotent."""
        if self.is_closed():
            return
        if self.is_running():
            raise RuntimeError("a running loop cannot be closed")
        self._burying = True
        dead = {task._sequence: task for task in (*self._graveyard, *self._tasks.values())}
        self._soon.clear()
        self._later.clear()
        # The world is over: what a `finally` does now reaches nobody.
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for number in sorted(dead):
                    _bury(dead[number])
                self._graveyard.clear()
                self._tasks.clear()
                dead.clear()
                gc.collect(1)  # the young: all that was made while collecting was off
        finally:
            asyncio._set_running_loop(running)
        super().close()


def _bury(task: SimTask[Any]) -> None:
    task._log_destroy_pending = False
    if task.done():
        task._log_traceback = False
        return
    coro = cast("Coroutine[Any, Any, Any]", task.get_coro())
    for _ in range(_CLOSES_MAX):
        try:
            coro.close()
            return
        except BaseException:  # noqa: BLE001  # nothing that dead code does matters
            continue


def _nothing() -> None:
    """No strike is set."""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


refuse_calls(SimEventLoop, "loop", CALLS_OF_THE_WORLD)
