"""What a life has to own up to, and until when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from base.ids import NodeId
from cluster import entries as log
from cluster.catalog import Liveness, NodeState
from node import own_life
from node.effects import LifeCounted, NewLife, NodeEffect


@dataclass
class FakeLeases:
    granting: bool = False

    def renew(self, incarnation: int, now_ns: int) -> None:
        """A new life."""

    def all_granted_until_ns(self) -> int:
        return 0


@dataclass
class FakeJoins:
    def clear(self) -> None:
        """This life is over."""


@dataclass
class FakeCatalog:
    state: NodeState = field(default_factory=lambda: NodeState(Liveness.UP, 5))
    cluster_id: str = "c"

    def node_state(self, node: int) -> NodeState:
        return self.state


@dataclass
class FakeCore:
    """n2 in its life 5, which has lost something, or not."""

    intact: bool = False
    blank: bool = False
    known: int = 7
    incarnation: int = 5
    self_id: int = 2
    counted: bool = False
    count_asked: bool = False
    life_asked: bool = False
    recovery_asked: bool = False
    store_ready: bool = True
    active: bool = False
    next_duty_ns: int = 0
    open_at_ns: int = 0
    inventory: bytes = b"\x90"
    catalog: FakeCatalog = field(default_factory=FakeCatalog)
    leases: FakeLeases = field(default_factory=FakeLeases)
    joins: FakeJoins = field(default_factory=FakeJoins)
    opening: dict[Any, None] = field(default_factory=dict)
    effects: list[NodeEffect] = field(default_factory=list)
    proposed: list[Any] = field(default_factory=list)

    def all_copies(self) -> list[Any]:
        return []

    def activate(self, now_ns: int) -> None:
        self.active = True

    def propose(self, entry: bytes, token: object, now_ns: int, **how: Any) -> None:
        self.proposed.append(log.decode(entry))


def test_a_life_with_nothing_to_own_up_to_is_active_at_once() -> None:
    core = FakeCore(intact=True)
    own_life.changed(core, 0)  # type: ignore[arg-type]
    assert core.active


@pytest.mark.parametrize("blank", [False, True])
def test_a_life_that_lost_something_holds_no_copies_before_its_count_is_persisted(
    blank: bool,
) -> None:
    core = FakeCore(blank=blank)
    own_life.changed(core, 0)  # type: ignore[arg-type]
    own_life.changed(core, 1)  # type: ignore[arg-type]
    assert [type(effect) for effect in core.effects] == [LifeCounted]
    assert not core.active
    own_life.counted(core, 2)  # type: ignore[arg-type]
    assert core.active


@pytest.mark.parametrize("blank", [False, True])
def test_a_life_that_was_never_taken_in_leaves_what_it_lost_to_the_next(blank: bool) -> None:
    core = FakeCore(blank=blank)
    core.catalog.state = NodeState(Liveness.UP, 9)  # of a life that a blank store cannot know
    own_life.changed(core, 0)  # type: ignore[arg-type]
    assert [type(effect) for effect in core.effects] == [NewLife]
    own_life.begin(core, 10, 1)  # type: ignore[arg-type]
    assert core.proposed == [log.NodeUp(NodeId(2), 10, False, blank, b"\x90", 7)]


def test_a_life_after_one_that_counted_has_nothing_left_to_say() -> None:
    core = FakeCore()
    own_life.changed(core, 0)  # type: ignore[arg-type]
    own_life.counted(core, 0)  # type: ignore[arg-type]
    core.catalog.state = NodeState(Liveness.DOWN, 5)
    own_life.changed(core, 1)  # type: ignore[arg-type]
    own_life.begin(core, 6, 2)  # type: ignore[arg-type]
    assert core.proposed == [log.NodeUp(NodeId(2), 6, True, False, b"\x90", 7)]
