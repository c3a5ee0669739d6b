"""Level 2: snapshots of whole nodes: made while hosts write, read at the owner, the same again."""

from __future__ import annotations

from typing import Any

import pytest

from base.errors import InvalidRequest, NotFound
from node.kept_pages import KeptPages
from scenario.level2 import LEVEL2, Level2Options, Level2Run, Violated, world
from snapshot.tree import SnapshotState

pytestmark = pytest.mark.simulation

CALM: dict[str, Any] = {
    "nodes": 3, "seconds": 3, "crashes": 0, "pauses": 0, "slow": 0, "stops": 0, "regions": 3,
    "writes_per_s": 200, "zero_weight": 8, "trim_weight": 8, "snapshot_every_ms": 150,
    "destage_after_ms": 20,
}  # fmt: skip


def run_of(seed: int, **changes: Any) -> Level2Run:
    return Level2Run(seed, Level2Options(**{**CALM, **changes}))


def test_views_are_what_was_cut_at_every_copy() -> None:
    run = run_of(1)
    with world(run):
        run.run()
        assert run.views.made > 10
        assert run.views.reads > 40
        kinds = [
            kind
            for sim in run.nodes
            if sim.node is not None
            for region in sim.node.store.regions.values()
            if region.kept is not None
            for kind in region.kept.views.kinds().values()
        ]
        assert len(kinds) > 100


def test_what_is_no_point_in_time_is_not_opened() -> None:
    run = run_of(2, seconds=1)
    with world(run):
        run.run()
        node = run.nodes[0].node
        assert node is not None
        view = next(view for view in node.core.catalog.snapshots.tree(1) if not view.writable)
        assert view.state is SnapshotState.ACTIVE
        assert node.exports.open(f"v0@{view.name}").read_only
        for name in ("s99", "v0"):
            with pytest.raises(NotFound, match=f"no snapshot {name} of volume v0"):
                node.exports.open(f"v0@{name}")
        node.core.catalog.snapshots.trees[1].set_state(view.view, SnapshotState.STALE)
        with pytest.raises(InvalidRequest, match=f"{view.name} is stale"):
            node.exports.open(f"v0@{view.name}")


# ---------------------------------------------------------------- bugs on purpose


def caught(seeds: int, **changes: Any) -> str:
    """What the first seed that fails says; empty when all hold."""
    for seed in range(seeds):
        run = run_of(seed, **changes)
        with world(run):
            try:
                run.run()
            except Violated as violated:
                return str(violated)
    return ""


def keeps_nothing(kept: KeptPages, record: Any, lsn: int) -> None:
    """Mutant: what a record takes from a snapshot is not kept."""


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [(KeptPages, "keep", keeps_nothing)],
)
def test_a_bug_is_seen(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mutant: Any
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    assert "I23" in caught(8, seconds=1)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("seed", [5, 21, 32, 33])
def test_views_are_carried_to_every_copy_through_faults(seed: int) -> None:
    """33: a record between the list of exceptions and the word as of which record it is. 32: a
    joiner waited for a checkpoint, which waited for it."""
    run = Level2Run(seed, LEVEL2["snapshots" if seed == 32 else "default"](seed))
    run.options.snapshot_every_ms = run.options.snapshot_every_ms or 150
    with world(run):
        run.run()
        assert run.views.made > 5
