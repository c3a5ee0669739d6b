"""shell: `Supervisor`, the only caller of `create_task`. Every task has an owner and a name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


class Supervisor:
    """Holds tasks so that they are not collected in flight, and ends the node when one fails.

    `on_failure(name, error)` is called once per failed task; cancellation is not a failure.
    """

    def __init__(self, name: str, on_failure: Callable[[str, BaseException], None] | None = None):
        self._name = name
        self._on_failure = on_failure
        self._tasks: dict[int, asyncio.Task[Any]] = {}  # by start order: never iterated by address
        self._next = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def names(self) -> list[str]:
        """What runs now, oldest first."""
        return [task.get_name() for task in self._tasks.values()]

    def start(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `coro` as a task of this supervisor."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"supervisor {self._name} is closed; {name} was not started")
        number = self._next
        self._next += 1
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._name}.{name}")
        self._tasks[number] = task
        task.add_done_callback(lambda done: self._ended(number, name, done))
        return task

    def _ended(self, number: int, name: str, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(number, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if self._on_failure is None:
            log.error("task.failed", supervisor=self._name, task=name, error=repr(error))
        else:
            self._on_failure(name, error)

    async def close(self) -> None:
        """Cancel what still runs, newest first, and wait for each in turn."""
        self._closed = True
        for number in sorted(self._tasks, reverse=True):
            task = self._tasks.get(number)
            if task is None or task is asyncio.current_task():
                continue
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
