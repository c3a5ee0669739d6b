"""Cuts and snapshot trees in the catalog: what is refused, and what is kept."""

from __future__ import annotations

import pytest

from base.errors import AlreadyExists, InvalidRequest, NotFound
from cluster.snapshots import CUTS_MAX, Snapshots
from snapshot.tree import SnapshotState


def name_of(volume: int) -> str:
    if volume > 9:
        raise NotFound(f"there is no volume {volume}")
    return f"v{volume}"


def copy_of(state: Snapshots) -> Snapshots:
    import msgpack

    return Snapshots.from_plain(msgpack.unpackb(msgpack.packb(state.to_plain())))


def test_a_cut_makes_one_snapshot_in_each_family_and_none_can_be_read_before_it_is_active() -> None:
    state = Snapshots()
    cut = state.begin(7, ((2, 1, "b"), (1, 1, "a")), name_of)
    assert cut.volumes == (1, 2)
    for volume, view in cut.members:
        assert state.view(volume, view).state is SnapshotState.CREATING
        assert state.newest(volume) == view
    assert state.cut_of(1) == cut
    with pytest.raises(InvalidRequest, match="is creating"):
        state.create_read_write(1, cut.members[0][1], "w")
    assert copy_of(state).to_plain() == state.to_plain()
    state.activate(7)
    assert state.cut_of(1) is None
    assert [state.view(*member).state for member in cut.members] == [SnapshotState.ACTIVE] * 2
    assert state.check() == []


def test_what_is_refused_changes_nothing() -> None:
    state = Snapshots()
    state.begin(3, ((1, 1, "a"),), name_of)
    before = state.to_plain()
    for wanted, error, words in (
        ((), InvalidRequest, "each of its volumes once"),
        (((2, 1, "x"), (2, 1, "y")), InvalidRequest, "each of its volumes once"),
        (((1, 1, "x"),), InvalidRequest, "is being made"),
        (((2, 1, "x"), (10, 1, "y")), NotFound, "no volume 10"),
        (((2, 5, "x"),), NotFound, "no view 5"),
        (((2, 1, "v2"),), AlreadyExists, "v2"),
    ):
        with pytest.raises(error, match=words):
            state.begin(4, wanted, name_of)
        assert state.to_plain() == before
    with pytest.raises(InvalidRequest, match="no cut 4"):
        state.activate(4)
    state.activate(3)
    with pytest.raises(InvalidRequest, match="void"):
        state.abandon(3)


def test_an_abandoned_cut_leaves_snapshots_that_say_that_they_are_none() -> None:
    state = Snapshots()
    cut = state.begin(3, ((1, 1, "a"),), name_of)
    state.abandon(3)
    assert state.view(*cut.members[0]).state is SnapshotState.STALE
    state.begin_removal(*cut.members[0])
    state.finish_removal(*cut.members[0])
    assert state.newest(1) == 0


def test_cuts_are_bounded() -> None:
    state = Snapshots()
    for index in range(CUTS_MAX):
        state.begin(index + 1, ((index, 1, "s"),), lambda volume: f"v{volume}")
    with pytest.raises(InvalidRequest, match="at most"):
        state.begin(999, ((999, 1, "s"),), lambda volume: f"v{volume}")


def test_a_volume_with_snapshots_is_not_removed_and_says_which() -> None:
    state = Snapshots()
    state.check_removable(1, "v1")
    state.begin(1, ((1, 1, "monday"),), name_of)
    state.activate(1)
    with pytest.raises(InvalidRequest, match="monday"):
        state.check_removable(1, "v1")


def test_a_catalog_with_a_cut_of_nothing_is_refused() -> None:
    state = Snapshots()
    state.begin(1, ((1, 1, "a"),), name_of)
    trees, cuts = state.to_plain()
    with pytest.raises(InvalidRequest, match="not being made"):
        Snapshots.from_plain([trees, [[1, [[1, 1]]]]])
    with pytest.raises(InvalidRequest, match="no snapshots"):
        Snapshots.from_plain([trees])
    assert cuts
