"""Cuts and snapshot trees in the catalog: what is refused, and what is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from base.errors import AlreadyExists, InvalidRequest, NotFound, Overloaded
from cluster import entries as log
from cluster.snapshots import CUTS_MAX, REQUESTS_MAX, About, Snapshots
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
        (((1, 1, "x"),), Overloaded, "is being made"),
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
    trees, cuts, *rest = state.to_plain()
    with pytest.raises(InvalidRequest, match="not being made"):
        Snapshots.from_plain([trees, [[1, [[1, 1]]]], *rest])
    with pytest.raises(InvalidRequest, match="no snapshots"):
        Snapshots.from_plain([trees])
    assert cuts


class Manager:
    """Volumes 1 to 9 of 1 MiB, all served."""

    def volume(self, volume: int) -> Any:
        name_of(volume)
        table = SimpleNamespace(offline=np.zeros(2, dtype=bool))
        return SimpleNamespace(name=f"v{volume}", size_bytes=1 << 20, table=table)


def applied(state: Snapshots, entry: Any, index: int) -> tuple[Any, list[Any]]:
    return state.apply(log.decode(log.encode(entry)), index, Manager())  # type: ignore[arg-type]


def test_the_same_request_is_the_same_cut_also_when_it_has_ended() -> None:
    state = Snapshots()
    entry = log.BeginCut(((1, 1, "a"), (2, 1, "a")), 5_000, request=77)
    first, effects = applied(state, entry, 3)
    assert len(effects) == 1
    for _ in range(2):
        assert applied(copy_of(state), entry, 4) == (first, [])
        assert applied(state, entry, 4) == (first, [])
        if state.cuts:
            state.activate(3)
    with pytest.raises(InvalidRequest, match="request 77 was made before, for other volumes"):
        applied(state, log.BeginCut(((1, 1, "b"),), request=77), 5)
    assert [view.name for view in state.tree(1)] == ["v1", "a"]


def test_requests_are_remembered_within_a_bound() -> None:
    state = Snapshots()
    for index in range(1, REQUESTS_MAX + 3):
        applied(state, log.BeginCut(((1, 1, f"s{index}"),), request=index), index)
        state.activate(index)
    assert len(state.requests) == REQUESTS_MAX
    with pytest.raises(AlreadyExists):
        applied(state, log.BeginCut(((1, 1, "s1"),), request=1), 5_000)


def test_a_snapshot_knows_the_size_of_its_volume_and_its_times_until_it_is_gone() -> None:
    state = Snapshots()
    applied(state, log.BeginCut(((1, 1, "a"),), 5_000, "every 1m keep 3", 9_000, 6_000), 3)
    about = copy_of(state).about(1, 2)
    assert about == About(1 << 20, 5_000, "every 1m keep 3", 9_000, 6_000)
    state.activate(3)
    applied(state, log.CreateReadWrite(1, 2, "w"), 4)
    assert state.about(1, 3) == About(1 << 20)
    applied(state, log.SetSnapshotAges(1, 2, 0, 7_000), 5)
    assert state.about(1, 2).expires_ms == 0
    applied(state, log.RemoveSnapshot(1, 3), 6)
    applied(state, log.SnapshotRemoved(1, 3), 7)
    assert state.about(1, 3) == About(0)
    assert copy_of(state).to_plain() == state.to_plain()
    assert state.check() == []


def test_ages_that_contradict_each_other_are_refused() -> None:
    state = Snapshots()
    with pytest.raises(InvalidRequest, match="retention ends after it expires"):
        applied(state, log.BeginCut(((1, 1, "a"),), 5_000, "", 6_000, 7_000), 3)
    assert not state.trees
    applied(state, log.BeginCut(((1, 1, "a"),)), 3)
    with pytest.raises(InvalidRequest, match="snapshot a: its retention ends after it expires"):
        applied(state, log.SetSnapshotAges(1, 2, 6_000, 7_000), 4)
    with pytest.raises(InvalidRequest, match="v1 is no snapshot"):
        applied(state, log.SetSnapshotAges(1, 1, 6_000, 0), 4)


@pytest.mark.parametrize("name", ["a@b", "a/b", "a b", ".a", "-a", "ä"])
def test_a_name_that_hosts_could_not_write_is_refused(name: str) -> None:
    state = Snapshots()
    with pytest.raises(InvalidRequest, match="is not a snapshot name"):
        applied(state, log.BeginCut(((1, 1, name),)), 3)
    assert not state.trees
