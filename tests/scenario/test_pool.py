"""The pool of processes: what dies or hangs is an answer too. Workers here are small scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scenario.pool import Answer, Job, LocalPool
from scenario.runs import FAILED, PASSED, RunRequest

# Answers a request by what its profile says.
WORKER = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    what = request["profile"]
    if what == "die":
        os._exit(3)
    if what == "hang":
        time.sleep(600)
    peak = 1 << 22 if what == "grow" else 1
    result = {"request": request, "verdict": "passed", "text": f"{os.getpid()}",
              "trace": os.environ["PYTHONHASHSEED"]}
    print(json.dumps({"peak_kib": peak, "result": result}), flush=True)
"""


@contextmanager
def pool(busy_max: int = 2, seconds_max: float = 60, runs_max: int = 100) -> Iterator[LocalPool]:
    made = LocalPool(
        busy_max,
        seconds_max=seconds_max,
        runs_max=runs_max,
        command=(sys.executable, "-c", WORKER),
    )
    try:
        yield made
    finally:
        made.close()


def job(number: int, profile: str = "well", avoid: int = -1) -> Job:
    return Job(number, RunRequest(1, profile, number), avoid)


def answers(made: LocalPool, count: int) -> dict[int, Answer]:
    found: dict[int, Answer] = {}
    for _ in range(1000):
        if len(found) >= count:
            break
        found.update({answer.job.number: answer for answer in made.receive(30)})
    return found


def test_every_job_is_answered_once() -> None:
    with pool() as made:
        for number in range(30):
            made.send(job(number))
        assert sorted(answers(made, 30)) == list(range(30))
        assert made.receive(0) == []


def test_job_that_kills_its_process_fails_and_the_others_pass() -> None:
    with pool(1) as made:
        for number, profile in enumerate(("die", "well", "well")):
            made.send(job(number, profile))
        found = answers(made, 3)
    assert [found[at].result.verdict for at in range(3)] == [FAILED, PASSED, PASSED]
    assert "exit code 3" in found[0].result.text


def test_job_that_hangs_fails_and_the_next_one_passes() -> None:
    with pool(1, seconds_max=1) as made:
        made.send(job(0, "hang"))
        made.send(job(1))
        found = answers(made, 2)
    assert "did not end within 1 s" in found[0].result.text
    assert found[1].result.verdict == PASSED


def test_repetition_is_done_by_another_process_with_another_hash_seed() -> None:
    with pool(1) as made:
        made.send(job(1))
        first = answers(made, 1)[1]
        made.send(job(2, avoid=first.worker))
        made.send(job(3))
        second = answers(made, 2)[2]
    assert second.worker != first.worker
    assert second.result.trace != first.result.trace


def test_process_is_replaced_after_its_runs() -> None:
    with pool(1, runs_max=2) as made:
        for number in range(6):
            made.send(job(number))
        found = answers(made, 6)
    assert len({answer.result.text for answer in found.values()}) >= 3


def test_process_that_has_grown_is_replaced() -> None:
    with pool(1) as made:
        made.send(job(1, "grow"))
        first = answers(made, 1)[1]
        made.send(job(2))
        second = answers(made, 1)[2]
    assert first.result.text != second.result.text


def test_closing_ends_what_hangs() -> None:
    with pool(2) as made:
        made.send(job(1, "hang"))
        processes = [worker.process for worker in made._workers if worker is not None]
    assert [process.poll() is None for process in processes] == [False]
