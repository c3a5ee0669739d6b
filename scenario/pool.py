"""shell: worker processes that perform runs, each with a hash seed of its own.

A run that hangs or kills its process is an answer too: the process is replaced, and the result says
what became of it. Processes are replaced after some runs, or when they have grown too large.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from base.clock import Clock, RealClock
from base.units import NS_PER_S
from scenario.runs import FAILED, RunRequest, RunResult, result_from_json, to_json

RUNS_MAX: Final = 400  # of one process
PEAK_KIB_MAX: Final = 1 << 20
AHEAD: Final = 2  # requests that one process has at a time: it never waits for the next one
AHEAD_BYTES_MAX: Final = 4096  # longer ones go alone: both sides of a full pipe would wait
SECONDS_MAX: Final = 600
COMMAND: Final = (sys.executable, "-m", "scenario.run_worker")


@dataclass(frozen=True, slots=True)
class Job:
    """One run to perform. avoid: the worker that must not do it, -1: any may."""

    number: int
    request: RunRequest
    avoid: int = -1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a job, and which worker did it."""

    job: Job
    result: RunResult
    worker: int


class Pool(Protocol):
    """Whoever performs runs elsewhere: processes of this machine, or of others."""

    width: int  # jobs that it takes at a time without any of them waiting long

    def send(self, job: Job) -> None:
        """Have it performed."""

    def receive(self, seconds: float) -> list[Answer]:
        """What is done by now; waits so long for the first."""

    def close(self) -> None:
        """End what runs; nothing is answered any more."""


@dataclass(slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    jobs: deque[Job] = field(default_factory=deque)
    since_ns: int = 0  # when it began with the first of its jobs
    runs: int = 0
    retiring: bool = False
    read: bytearray = field(default_factory=bytearray)


class LocalPool:
    """Processes of this machine. busy_max: how many of them work at a time."""

    def __init__(
        self,
        busy_max: int,
        *,
        seconds_max: float = SECONDS_MAX,
        runs_max: int = RUNS_MAX,
        command: Sequence[str] = COMMAND,
        clock: Clock | None = None,
    ) -> None:
        assert busy_max >= 1
        self.width = busy_max * AHEAD
        self._busy_max = busy_max
        self._seconds_max = seconds_max
        self._runs_max = runs_max
        self._command = command
        self._clock = clock or RealClock()
        self._waiting: deque[Job] = deque()
        self._done: list[Answer] = []
        self._selector = selectors.DefaultSelector()
        # Two at least, or nobody else could repeat a run.
        self._workers: list[_Worker | None] = [None] * max(2, busy_max)

    def send(self, job: Job) -> None:
        """Have it performed."""
        self._waiting.append(job)
        self._hand_out()

    def receive(self, seconds: float) -> list[Answer]:
        """What is done by now; waits so long for the first."""
        until_ns = self._clock.now_ns() + int(seconds * NS_PER_S)
        while not self._done:
            left_s = (until_ns - self._clock.now_ns()) / NS_PER_S
            if left_s <= 0 or not any(worker and worker.jobs for worker in self._workers):
                break
            for key, _ in self._selector.select(min(left_s, 1.0)):
                self._read(key.data)
            self._end_late()
            self._hand_out()
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """End what runs; nothing is answered any more."""
        self._waiting.clear()
        for worker in self._workers:
            if worker is not None:
                self._end(worker)
        self._selector.close()

    # ------------------------------------------------------------------ processes

    def _start(self, number: int) -> _Worker:
        root = str(Path(__file__).parent.parent)
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        environment["PYTHONPATH"] = os.pathsep.join(
            [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        worker = _Worker(number, process)
        self._workers[number] = worker
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        return worker

    def _end(self, worker: _Worker) -> int:
        """Kill it. Returns how the process ended, if by itself: below 0 a signal."""
        process = worker.process
        assert process.stdin is not None
        assert process.stdout is not None
        self._selector.unregister(process.stdout)
        self._workers[worker.number] = None
        process.stdout.close()
        with suppress(BrokenPipeError):  # it had gone already, with a line that it never read
            process.stdin.close()
        code = process.poll()
        if code is None:
            process.kill()
            process.wait()
        return code or 0

    # ------------------------------------------------------------------ jobs

    def _hand_out(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            line = to_json(job.request).encode() + b"\n"
            worker = self._free(job, len(line))
            if worker is None:
                return  # in order: else a job that avoids the only busy worker would never run
            self._waiting.popleft()
            if not worker.jobs:
                worker.since_ns = self._clock.now_ns()
            worker.jobs.append(job)
            worker.runs += 1
            worker.retiring = worker.retiring or worker.runs >= self._runs_max
            assert worker.process.stdin is not None
            try:
                worker.process.stdin.write(line)
                worker.process.stdin.flush()
            except BrokenPipeError:
                self._died(worker)

    def _free(self, job: Job, size: int) -> _Worker | None:
        """The worker that gets it: an idle one, or one that has room behind its first job."""
        busy = sum(1 for worker in self._workers if worker and worker.jobs)
        for number, worker in enumerate(self._workers):
            if number == job.avoid or (worker and (worker.jobs or worker.retiring)):
                continue
            if busy < self._busy_max:
                return worker or self._start(number)
        if size <= AHEAD_BYTES_MAX:
            for worker in self._workers:
                if (
                    worker and worker.number != job.avoid and not worker.retiring
                    and 0 < len(worker.jobs) < AHEAD
                ):  # fmt: skip
                    return worker
        return None

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        read = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not read:
            self._died(worker)
            return
        worker.read += read
        *lines, rest = worker.read.split(b"\n")
        worker.read = bytearray(rest)
        for line in lines:
            content = json.loads(line)
            result = result_from_json(json.dumps(content["result"]))
            self._done.append(Answer(worker.jobs.popleft(), result, worker.number))
            worker.since_ns = self._clock.now_ns()
            worker.retiring = worker.retiring or content["peak_kib"] > PEAK_KIB_MAX
        if worker.retiring and not worker.jobs:
            self._end(worker)

    def _died(self, worker: _Worker) -> None:
        left = list(worker.jobs)
        worker.process.wait()
        code = self._end(worker)
        if left:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._lost(worker, left, f"the process that ran it ended with {how}")

    def _end_late(self) -> None:
        limit_ns = self._clock.now_ns() - int(self._seconds_max * NS_PER_S)
        for worker in self._workers:
            if worker is not None and worker.jobs and worker.since_ns < limit_ns:
                left = list(worker.jobs)
                self._end(worker)
                self._lost(worker, left, f"it did not end within {self._seconds_max:g} s")

    def _lost(self, worker: _Worker, jobs: list[Job], text: str) -> None:
        """The first of them ran; the others did not begin."""
        first, *others = jobs
        self._done.append(Answer(first, RunResult(first.request, FAILED, text=text), worker.number))
        self._waiting.extendleft(reversed(others))
