"""Fixtures of the attach side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sim.fence import fence
from tests.host.attach_world import World


@pytest.fixture
def make() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def made(owners: list[int], **options: Any) -> World:
        worlds.append(World(owners, **options))
        return worlds[-1]

    with fence():
        yield made
        for world in worlds:
            world.loop.run_until_complete(world.view.close())
            world.loop.close()
    for world in worlds:
        assert world.failures == []
