"""shell: a pool whose processes are the workers of a Dask cluster, for `--scheduler tcp://…`.

Requests and results are texts of JSON. Dask itself pickles what its parts say to each other:
whoever reaches its port, or answers as scheduler, runs code on all machines of it and on this one.
So keep it on loopback, or on a network of one's own. The workers need Eightfold installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from base.errors import InvalidRequest, NotConnected
from scenario.pool import Answer, Job
from scenario.run_one import perform
from scenario.runs import FAILED, RunResult, request_from_json, result_from_json, to_json

AHEAD = 2  # requests for each thread of a worker
CONNECT_S = 10


def perform_text(line: str) -> str:
    """One run, there."""
    return to_json(perform(request_from_json(line)))


class DaskPool:
    """Runs on whatever workers the scheduler has."""

    def __init__(self, scheduler: str) -> None:
        try:
            self._dask: Any = import_module("distributed")
        except ImportError:
            raise InvalidRequest(
                "--scheduler needs Dask: pip install 'eightfold[distributed]'"
            ) from None
        try:
            self._client: Any = self._dask.Client(
                scheduler, timeout=CONNECT_S, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise NotConnected(f"no Dask scheduler answers at {scheduler}: {error}") from None
        self._workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        if not self._workers:
            self._client.close()
            raise NotConnected(f"the Dask scheduler at {scheduler} has no workers")
        self.width = AHEAD * sum(self._client.nthreads().values())
        self._jobs: dict[Any, Job] = {}

    def send(self, job: Job) -> None:
        """Have it performed; not by the process that it avoids, if there is another."""
        others = [name for at, name in enumerate(self._workers) if at != job.avoid]
        future = self._client.submit(
            perform_text,
            to_json(job.request),
            key=f"eightfold-{job.number}",
            pure=False,
            workers=others if job.avoid >= 0 and others else None,
        )
        self._jobs[future] = job

    def receive(self, seconds: float) -> list[Answer]:
        """What is done by now; waits so long for the first."""
        try:
            with self._client.as_current():
                done = self._dask.wait(
                    list(self._jobs), timeout=seconds, return_when="FIRST_COMPLETED"
                ).done
        except TimeoutError:
            return []
        where = self._client.who_has(list(done))
        answers = []
        for future, job in list(self._jobs.items()):
            if future not in done:
                continue
            del self._jobs[future]
            answers.append(self._answer(job, future, where.get(future.key, ())))
        return answers

    def _answer(self, job: Job, future: Any, holders: tuple[str, ...]) -> Answer:
        if future.status != "finished":
            text = f"the worker that ran it failed: {future.exception()!r}"
            return Answer(job, RunResult(job.request, FAILED, text=text), -1)
        worker = self._workers.index(holders[0]) if holders and holders[0] in self._workers else -1
        return Answer(job, result_from_json(future.result()), worker)

    def close(self) -> None:
        """Cancel what runs; the cluster stays."""
        self._client.cancel(list(self._jobs))
        self._client.close()
