"""plan: what the nodes of a simulated run hold at some moment, as rows for people.

Both levels have the same cores, so both are told in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from base.ids import node_name
from node.core import NodeCore
from node.roles import ROLE_NAMES

NODE_COLUMNS: Final = ("node", "process", "raft", "term#", "catalog#", "up as it sees it", "owns#")
COPY_COLUMNS: Final = (
    "region", "node", "role", "epoch#", "in sync", "joiner", "prepared#", "committed#",
    "needs acks of", "reads",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeNow:
    """One node. core: None when it is dead. process: alive, paused or dead."""

    number: int
    process: str
    core: NodeCore | None
    now_ns: int = 0  # on its own clock


def level1_nodes(run: Any) -> list[NodeNow]:
    """Of a `level1.SeedRun`."""
    return [
        NodeNow(
            node.node,
            "dead" if not node.alive else "paused" if node.paused else "alive",
            node.core if node.alive else None,
            node.clock_ns() if node.alive else 0,
        )
        for node in run.kernel.nodes
    ]


def level2_nodes(run: Any) -> list[NodeNow]:
    """Of a `level2.Level2Run`."""
    return [
        NodeNow(
            node.number,
            "dead" if not node.alive else "paused" if node.paused else "alive",
            node.node.core if node.node is not None and node.alive else None,
            node.clock.now_ns(),
        )
        for node in run.nodes
    ]


def node_rows(nodes: list[NodeNow]) -> list[tuple[object, ...]]:
    """NODE_COLUMNS of every node."""
    rows: list[tuple[object, ...]] = []
    for node in nodes:
        core = node.core
        if core is None:
            rows.append((node_name(node.number), node.process, "-", "-", "-", "-", "-"))
            continue
        owned = sum(
            ROLE_NAMES[copy.role] == "owner"
            for regions in core.copies.values()
            for copy in regions.values()
        )
        raft = core.raft
        rows.append(
            (
                node_name(node.number), node.process, "leads" if raft.is_leader else "follows",
                raft.term, core.catalog.version, names(core.catalog.up_nodes()), owned,
            )
        )  # fmt: skip
    return rows


def copy_rows(
    nodes: list[NodeNow], region: tuple[int, int] | None = None
) -> list[tuple[object, ...]]:
    """COPY_COLUMNS of every copy that some living node holds, as that node sees it."""
    rows: list[tuple[object, ...]] = []
    for node in nodes:
        core = node.core
        if core is None:
            continue
        for volume, regions in sorted(core.copies.items()):
            for number, copy in sorted(regions.items()):
                if region is not None and (volume, number) != region:
                    continue
                in_sync, joiner = "-", "-"
                if volume in core.catalog.volumes:
                    row = core.catalog.row(volume, number)
                    in_sync = names(each for each in range(8) if row.is_member(each))
                    joiner = names([row.joiner] if row.joiner < 8 else [])
                needs = names(copy.required) if ROLE_NAMES[copy.role] == "owner" else ""
                rows.append(
                    (
                        f"{volume}:{number}", node_name(node.number), ROLE_NAMES[copy.role],
                        copy.epoch, in_sync, joiner, copy.prepared, copy.committed, needs,
                        "yes" if core.may_read(copy, node.now_ns) else "no",
                    )
                )  # fmt: skip
    return sorted(rows, key=lambda row: (str(row[0]), str(row[1])))


def names(nodes: Any) -> str:
    """n0 n3; "-" for none."""
    return " ".join(node_name(int(node)) for node in sorted(nodes)) or "-"
