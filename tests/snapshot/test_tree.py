from __future__ import annotations

import pytest

from base.errors import AlreadyExists, InvalidRequest, NotFound
from snapshot.tree import SnapshotTree

# Figure 8, by its own numbers: branch of 2200: 2206 (oldest), 2212, 2210, 2204; on 2204 the RWSS
# 2304 with 2310 and 2308; on 2308 the RWSS 2306; on 2210 the RWSS 2104 with 2106.


def figure_8() -> tuple[SnapshotTree, dict[str, int]]:
    tree = SnapshotTree("2200")
    number = {"2200": tree.base}

    def ross(name: str, of: str) -> None:
        number[name] = tree.create_read_only(name, number[of]).view

    def rwss(name: str, of: str) -> None:
        number[name] = tree.create_read_write(name, number[of]).view

    for name in ("2206", "2212", "2210", "2204"):
        ross(name, "2200")
    rwss("2304", "2204")
    ross("2310", "2304")
    ross("2308", "2304")
    rwss("2306", "2308")
    rwss("2104", "2210")
    ross("2106", "2104")
    return tree, number


def names(tree: SnapshotTree, views: list[int]) -> list[str]:
    return [tree[view].name for view in views]


@pytest.mark.parametrize(
    ("view", "path"),
    [
        ("2206", "2206 2212 2210 2204 2200"),
        ("2204", "2204 2200"),
        ("2310", "2310 2308 2304 2204 2200"),
        ("2306", "2306 2308 2304 2204 2200"),
        ("2106", "2106 2104 2210 2204 2200"),
        ("2200", "2200"),
    ],
)
def test_figure_8_is_looked_up_upwards(view: str, path: str) -> None:
    tree, number = figure_8()
    assert names(tree, tree.path(number[view])) == path.split()


def test_parent_and_copy_of_are_two_relations() -> None:
    tree, number = figure_8()
    oldest = tree[number["2206"]]
    assert tree[tree.parent(oldest.view)].name == "2212"
    assert tree[oldest.copy_of].name == "2200"


@pytest.mark.parametrize(
    ("view", "named"),
    [
        ("2200", "2200 cannot be removed: it is the base of 2206, 2212"),
        ("2308", "2308 cannot be removed: it has the read-write snapshots 2306"),
        ("2304", "2304 cannot be removed: it has the read-only snapshots 2310, 2308"),
    ],
)
def test_a_view_with_dependants_is_not_removed_and_they_are_named(view: str, named: str) -> None:
    tree, number = figure_8()
    before = tree.to_tuple()
    with pytest.raises(InvalidRequest, match=named):
        tree.remove(number[view])
    assert tree.to_tuple() == before


def test_a_middle_snapshot_leaves_its_neighbours_linked() -> None:
    tree, number = figure_8()
    tree.remove(number["2212"])
    assert names(tree, tree.path(number["2206"])) == ["2206", "2210", "2204", "2200"]


def test_a_read_only_snapshot_of_a_read_only_one_is_refused() -> None:
    tree, number = figure_8()
    with pytest.raises(InvalidRequest, match="2206 is read-only"):
        tree.create_read_only("x", number["2206"])


def test_a_read_write_snapshot_of_a_writable_view_is_refused() -> None:
    tree, number = figure_8()
    with pytest.raises(InvalidRequest, match="2200 is writable"):
        tree.create_read_write("x", number["2200"])


def test_a_name_in_use_is_refused() -> None:
    tree, number = figure_8()
    with pytest.raises(AlreadyExists, match="2306"):
        tree.create_read_only("2306", number["2200"])


@pytest.mark.parametrize("name", ["", "a" * 65, "a\nb"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name"):
        SnapshotTree("base").create_read_only(name, 1)


def test_a_number_is_never_given_twice() -> None:
    """I15."""
    tree = SnapshotTree("base")
    first = tree.create_read_only("a", tree.base).view
    tree.remove(first)
    assert SnapshotTree.from_tuple(tree.to_tuple()).create_read_only("a", tree.base).view > first


def test_an_unknown_name_is_refused_with_the_volume() -> None:
    tree, _ = figure_8()
    with pytest.raises(NotFound, match="no snapshot x of volume 2200"):
        tree.named("x")


@pytest.mark.parametrize(
    "plain",
    [
        (),
        (2, (), ()),
        (2, ((1, "b", 0, 1, 0, 0, 1),), ((1, (5,)),)),  # a ROSS that is not there
        (3, ((1, "b", 0, 1, 0, 0, 1), (2, "w", 2, 2, 2, 0, 1)), ((1, ()), (2, ()))),  # a cycle
        (2, ((1, "b", 0, 1, 0, 0, 1), (2, "r", 1, 1, 0, 1, 1)), ((1, (2,)),)),  # number not given
    ],
)
def test_a_tuple_that_is_no_tree_is_refused(plain: object) -> None:
    with pytest.raises(InvalidRequest, match="no snapshot tree"):
        SnapshotTree.from_tuple(plain)
