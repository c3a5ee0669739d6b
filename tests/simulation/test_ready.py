"""Level 1: a node that recovers long after its links came up hears again what it could not take."""

from __future__ import annotations

from typing import Any

import pytest

from node.roles import OWNER
from sim.kernel_network import KernelNetwork
from tests.simulation.steady import Steady
from transport.messages import NodeReady

pytestmark = pytest.mark.simulation


def test_a_node_says_when_it_takes_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 2, hardware 810: the owner told the commit point when the link came up, to a node that
    had not recovered yet, and a quiet region never heard it again."""
    run = Steady(1, nodes=4)
    told: list[tuple[int, int]] = []
    real = KernelNetwork.send

    def send(self: KernelNetwork, sender: int, receiver: int, message: Any) -> None:
        if isinstance(message, NodeReady):
            told.append((sender, receiver))
        real(self, sender, receiver, message)

    monkeypatch.setattr(KernelNetwork, "send", send)
    run.kernel.nodes[2].kill()
    run.run_for(20)  # nobody has missed it
    run.start(2)
    run.wait("the node is back", 10, lambda: run.is_up(2))
    run.run_for(100)
    assert sorted(told) == [(2, 0), (2, 1), (2, 3)]
    run.finish()


def test_who_owns_regions_says_again_what_such_a_node_has_missed() -> None:
    run = Steady(1, nodes=4)
    run.run_for(500)
    node = next(node for node in run.kernel.nodes if node.owns_something)
    core = node.core
    owned = [copy for copy in core.all_copies() if copy.role == OWNER and copy.others]
    peer = owned[0].others[0]
    owned = [copy for copy in owned if peer in copy.others]
    for copy in owned:
        copy.commit_told = copy.committed
    core.commit_dirty.clear()
    core.message(peer, NodeReady(9), node.clock_ns())
    assert all(copy.commit_told == -1 and copy in core.commit_dirty for copy in owned)
    run.finish()
