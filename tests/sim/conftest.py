"""Fixtures of simulations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sim.event_loop import SimEventLoop
from sim.fence import fence


@pytest.fixture
def fenced() -> Iterator[None]:
    """The real world is out of reach for the test."""
    with fence():
        yield


@pytest.fixture
def loop(fenced: None) -> Iterator[SimEventLoop]:
    """A virtual-time loop inside the fence, closed at the end."""
    made = SimEventLoop()
    yield made
    made.close()
