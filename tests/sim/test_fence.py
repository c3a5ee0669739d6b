"""The fence: what raises inside, what goes on, and that all is put back."""

# ruff: noqa: TID251  # what is banned elsewhere is what this file is about

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable

import pytest

from sim.fence import SimulationFenceError, fence


@pytest.mark.parametrize(
    "call",
    [
        lambda: time.time(),
        lambda: time.time_ns(),
        lambda: time.monotonic(),
        lambda: time.monotonic_ns(),
        lambda: time.sleep(0),
        lambda: os.urandom(1),
        lambda: secrets.token_bytes(1),
        lambda: uuid.uuid4(),
        lambda: random.random(),
        lambda: random.choice([1]),
        lambda: random.shuffle([1]),
        lambda: threading.Thread(target=print).start(),
        lambda: socket.socket(),
    ],
)
def test_the_real_world_is_out_of_reach(call: Callable[[], object]) -> None:
    with fence(), pytest.raises(SimulationFenceError, match="inside a simulation"):
        call()


def test_everything_is_put_back_also_after_an_error() -> None:
    before = (time.time, os.urandom, random.random, socket.socket, threading.Thread.start)
    with pytest.raises(KeyError), fence(), fence():
        raise KeyError
    after = (time.time, os.urandom, random.random, socket.socket, threading.Thread.start)
    assert before == after
    socket.socket().close()


def test_a_passed_in_random_goes_on() -> None:
    with fence():
        assert random.Random(1).random() == random.Random(1).random()


def test_log_lines_are_still_stamped() -> None:
    with fence():
        assert logging.LogRecord("a", 20, "b", 1, "c", None, None).created > 0


def test_other_threads_are_left_alone() -> None:
    seen: list[float] = []
    begin = threading.Event()

    def outside() -> None:
        begin.wait(5)
        seen.append(time.time())

    thread = threading.Thread(target=outside)
    thread.start()
    with fence():
        begin.set()
        thread.join()
    assert len(seen) == 1
