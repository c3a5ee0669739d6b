"""A blank node in the place of another, at level 1: it never counts as holding what it has not."""

from __future__ import annotations

import pytest

from base.units import NS_PER_S
from tests.simulation.steady import Steady

pytestmark = pytest.mark.simulation


def replace(run: Steady, node: int) -> None:
    machine = run.kernel.nodes[node]
    machine.kill()
    machine.durable = run.kernel.new_disks(blank=True)
    run.start(node)
    run.wait("the node is back", 20, lambda: run.is_up(node))


def test_a_blank_node_whose_wall_clock_went_back_does_not_pass_for_the_one_before_it() -> None:
    """F24, F29: its number of life is then lower than those that the catalog knows."""
    run = Steady(3, nodes=4, regions=4)
    replace(run, 2)
    run.wait("all is whole", 20, run.redundant)
    run.kernel.nodes[2].wall_offset_ns = -3600 * NS_PER_S
    replace(run, 2)
    assert run.kernel.nodes[2].core.blank, "it calls itself intact"
    run.wait("all is whole", 20, run.redundant)
    run.finish()
