"""When a copy that the disks refuse leaves, and for how long its node gets no other."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from base.units import NS_PER_MS, NS_PER_S
from cluster import entries as log
from node.refused import GOOD_NS, HOLD_NS, Refused
from node.roles import COPY, NONE

SECOND = NS_PER_S


@dataclass
class FakeCore:
    """n2 with one copy of region 3 of volume 1."""

    self_id: int = 2
    active: bool = True
    copy: Any = field(
        default_factory=lambda: SimpleNamespace(
            volume=1, region=3, role=COPY, members=(1, 2), joiner=255, epoch=7
        )
    )
    effects: list[Any] = field(default_factory=list)
    proposed: list[Any] = field(default_factory=list)

    @property
    def copies(self) -> dict[int, dict[int, Any]]:
        return {1: {3: self.copy}}

    def propose(self, entry: bytes, token: object, now_ns: int, **how: Any) -> None:
        self.proposed.append(log.decode(entry))


def refuse_for(core: FakeCore, length_ns: int, every_ns: int = SECOND) -> Refused:
    refused = Refused(core)  # type: ignore[arg-type]
    for now_ns in range(0, length_ns + 1, every_ns):
        refused.failed(1, 3, now_ns)
    return refused


def test_a_copy_that_is_refused_for_good_leaves() -> None:
    core = FakeCore()
    refuse_for(core, GOOD_NS)
    assert core.proposed == [log.DropCopies(1, log.pack_rows([3], [2], [7]))]


def test_a_refusal_that_ends_in_time_costs_nothing() -> None:
    core = FakeCore()
    refuse_for(core, GOOD_NS - SECOND)
    assert core.proposed == []


def test_refusals_far_apart_are_not_one() -> None:
    core = FakeCore()
    refuse_for(core, 60 * SECOND, every_ns=4 * SECOND)
    assert core.proposed == []


def test_a_refusal_that_the_catalog_did_not_take_is_said_again() -> None:
    core = FakeCore()
    refuse_for(core, GOOD_NS + 2 * SECOND)
    assert len(core.proposed) == 3


@pytest.mark.parametrize(
    "changed",
    [{"members": (2,)}, {"role": NONE}],
    ids=["the last copy", "a copy that has left"],
)
def test_it_stays_silent_where_nothing_can_be_done(changed: dict[str, Any]) -> None:
    core = FakeCore()
    vars(core.copy).update(changed)
    refuse_for(core, GOOD_NS + 5 * SECOND)
    assert core.proposed == []


def test_a_life_that_the_catalog_does_not_know_says_nothing() -> None:
    core = FakeCore(active=False)
    refuse_for(core, GOOD_NS + SECOND)
    assert core.proposed == []


def test_a_joiner_leaves_an_owner_that_is_alone() -> None:
    core = FakeCore()
    core.copy.members, core.copy.joiner = (1,), 2
    refuse_for(core, GOOD_NS)
    assert len(core.proposed) == 1


def test_a_node_that_dropped_a_copy_gets_none_for_a_while_longer_each_time() -> None:
    refused = Refused(FakeCore())  # type: ignore[arg-type]
    refused.dropped(4, 0)
    refused.dropped(4, 100 * NS_PER_MS)  # of the same disks
    assert refused.nodes(HOLD_NS - 1) == 1 << 4
    assert refused.nodes(HOLD_NS) == 0
    again_ns = HOLD_NS + SECOND
    refused.dropped(4, again_ns)
    assert refused.nodes(again_ns + 2 * HOLD_NS - 1) == 1 << 4
    late_ns = again_ns + 100 * HOLD_NS
    refused.dropped(4, late_ns)
    assert refused.nodes(late_ns + HOLD_NS) == 0, "it was well for long"
