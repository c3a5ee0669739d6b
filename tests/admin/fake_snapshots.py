"""Snapshots of a cluster that is only a view: real trees, and nothing behind them."""

from __future__ import annotations

from typing import Any

from base.errors import NotFound
from cluster.entries import SetSnapshotAges, SetSnapshotRule
from cluster.snapshot_rules import check_served, facts
from cluster.snapshots import About, Snapshots
from snapshot.draw import KINDS
from snapshot.refs import ref_of, split_ref
from snapshot.retention import check_may_remove
from snapshot.tree import SnapshotTree, View, ViewKind

NOW_MS = 1_700_000_000_000


class FakeSnapshots:
    """rows: volumes of the fake view, by name; a volume's number is its `id`."""

    def __init__(self, rows: dict[str, dict[str, Any]]) -> None:
        self.rows = rows
        self.state = Snapshots()
        self.cut = 0
        self.fails: BaseException | None = None
        self.asked: list[dict[str, Any]] = []

    def clear(self) -> None:
        self.state = Snapshots()
        self.fails = None
        self.asked.clear()

    def number(self, name: str) -> int:
        if name not in self.rows:
            raise NotFound(f"there is no volume {name}")
        return int(self.rows[name]["id"])

    def tree(self, name: str) -> SnapshotTree:
        return self.state.trees.get(self.number(name)) or SnapshotTree(name)

    def row(self, name: str, view: View) -> Any:
        tree, number = self.tree(name), self.number(name)
        base = view.kind is ViewKind.BASE
        about = self.state.about(number, view.view)
        parent = tree.parent(view.view)
        return {
            "volume": name, "name": view.name, "ref": ref_of(name, "" if base else view.name),
            "view": view.view, "kind": KINDS[view.kind], "state": view.state.name.lower(),
            "size_bytes": self.rows[name]["size_bytes"], "branch": view.branch,
            "origin": view.origin, "copy_of": view.copy_of,
            "parent": tree[parent].name if parent else "", "taken_ms": 0 if base else NOW_MS,
            "rule": about.rule, "expires_ms": about.expires_ms, "retained_ms": about.retained_ms,
            "source_cluster": "fake", "source_volume": number, "source_view": view.view,
        }  # fmt: skip

    async def create(self, spec: Any) -> Any:
        self.asked.append(dict(spec))
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        name = spec.get("name", "20231114-221320-000")
        members = []
        for text in spec["volumes"]:
            volume, snapshot = split_ref(text)
            tree = self.tree(volume)
            members.append((self.number(volume), tree.named(snapshot or volume).view, name))
        self.cut += 1
        cut = self.state.begin(self.cut, members, lambda number: self.named(number))
        self.state.activate(cut.cut)
        for number, view in cut.members:
            ages = [
                NOW_MS + 1000 * spec[key] if key in spec else 0 for key in ("expire_s", "retain_s")
            ]
            self.state._about[number, view] = About(1, NOW_MS, "", *ages)
        return {
            "cut": cut.cut, "took_ms": 12.5, "held_ms": 3.25,
            "snapshots": [
                self.row(self.named(number), self.state.view(number, view))
                for number, view in cut.members
            ],
        }  # fmt: skip

    def named(self, number: int) -> str:
        return next(name for name, row in self.rows.items() if row["id"] == number)

    async def list_all(self) -> Any:
        return [
            self.row(name, view)
            for name in sorted(self.rows)
            for view in self.tree(name)
            if view.kind is not ViewKind.BASE
        ]

    async def family(self, volume: str) -> Any:
        return [self.row(volume, view) for view in self.tree(volume)]

    async def show(self, volume: str, snapshot: str) -> Any:
        return self.row(volume, self.tree(volume).named(snapshot))

    async def differences(self, volume: str, one: str, other: str, offset: int, count: int) -> Any:
        """Every other page of the first 300; in two parts."""
        for name in (one, other):
            self.tree(volume).named(name)
        pages = [page for page in range(0, 300, 2) if offset <= page << 14][:100]
        return {
            "volume": volume, "one": one, "other": other, "page_bytes": 1 << 14,
            "size_bytes": self.rows[volume]["size_bytes"],
            "extents": [[page << 14, 1 << 14] for page in pages],
            "next_offset": 200 << 14 if offset == 0 else -1,
        }  # fmt: skip

    async def set_ages(self, volume: str, snapshot: str, spec: Any) -> Any:
        view = self.tree(volume).named(snapshot)
        entry = SetSnapshotAges(
            self.number(volume), view.view,
            *(NOW_MS + 1000 * spec[k] if spec.get(k) else 0 for k in ("expire_s", "retain_s")),
        )  # fmt: skip
        self.state.set_ages(entry)
        return self.row(volume, view)

    async def remove(self, volume: str, snapshot: str) -> Any:
        tree, number = self.tree(volume), self.number(volume)
        view = tree.named(snapshot).view
        check_may_remove(tree, view, facts(self.state, number)[view], NOW_MS)
        self.state.begin_removal(number, view)
        self.state.finish_removal(number, view)
        return {"ref": f"{volume}@{snapshot}", "removed": True}

    async def rules(self) -> Any:
        return [
            {"volume": self.named(number), "rule": rule}
            for number, rules in self.state.rules.items()
            for rule in rules
        ]

    async def set_rule(self, volume: str, rule: str, wanted: bool) -> Any:
        check_served(rule)
        self.state.set_rule(SetSnapshotRule(self.number(volume), rule, wanted), volume)
        return await self.rules()
