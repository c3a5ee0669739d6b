"""shell: `eightfold check`: ask every node, judge with `cluster.fsck`, say what is wrong.

The cluster runs and changes meanwhile, so what one look finds is a suspicion: only what a second
look, a moment later, finds in the same words is reported. With data, the copies of every region are
compared by digests taken at one commit point; regions that never stand still are counted.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from admin.view import REGIONS_MAX
from base.errors import NotConnected, NotFound, StorageError
from base.ids import node_name
from cluster.catalog import Catalog
from cluster.fsck import (
    Finding,
    HeldRegion,
    NodeCopy,
    check_catalog,
    check_node,
    compare_catalogs,
    compare_nodes,
)

if TYPE_CHECKING:
    from admin.client import ClusterClient, NodeClient
    from admin.output import Bar

LOOKS_MAX: Final = 4
LOOK_SECONDS: Final = 0.5
DIGEST_TRIES: Final = 5
SHOWN_MAX: Final = 100

Pause = Callable[[float], None]


@dataclass(slots=True)
class Report:
    """What a check found. `moving`: regions whose copies never stood at one commit point."""

    nodes: list[int] = field(default_factory=list)  # that answered
    silent: list[int] = field(default_factory=list)  # that did not
    catalog_version: int = 0
    volumes: int = 0
    regions: int = 0  # copies of regions that nodes keep
    compared: int = 0  # regions whose bytes were compared
    moving: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong, and nothing was left out."""
        return not self.findings and not self.silent

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "clean": self.clean}


def run(client: ClusterClient, *, data: bool, bar: Bar, pause: Pause) -> Report:
    """Check a running cluster. NotConnected when no node answers."""
    report = Report()
    nodes = _reachable(client, report)
    total = LOOKS_MAX * len(nodes)
    suspected: list[Finding] | None = None
    catalog = Catalog()
    held: dict[int, list[HeldRegion]] = {}
    for look in range(LOOKS_MAX):
        if look:
            pause(LOOK_SECONDS)
        catalog, copies = _catalogs(nodes)
        held = {}
        for number, node in nodes.items():
            held[number] = _held(node)
            bar(look * len(nodes) + len(held), total)
        found = [*compare_catalogs(copies), *check_catalog(catalog)]
        for number in sorted(held):
            found += check_node(catalog, number, held[number])
        suspected = found if suspected is None else [each for each in found if each in suspected]
        if not suspected:
            break
    bar(total, total)
    report.catalog_version = catalog.version
    report.volumes = len(catalog.volumes)
    report.regions = sum(map(len, held.values()))
    report.findings = sorted(suspected or [])
    if data:
        _compare_data(catalog, nodes, report, bar, pause)
    return report


def _reachable(client: ClusterClient, report: Report) -> dict[int, NodeClient]:
    nodes: dict[int, NodeClient] = {}
    for number, node in sorted(client.clients.items()):
        try:
            node.call("GET", "/v1/status")
        except StorageError:
            report.silent.append(number)
            continue
        nodes[number] = node
        report.nodes.append(number)
    if not nodes:
        raise NotConnected("no node answers; start the cluster with `eightfold up`")
    return nodes


def _catalogs(nodes: dict[int, NodeClient]) -> tuple[Catalog, list[NodeCopy]]:
    """The newest catalog, and what every node has of it."""
    copies = []
    for node in nodes.values():
        answer = node.call("GET", "/v1/check/catalog")
        copies.append(NodeCopy(answer["node"], answer["version"], answer["digest"]))
    newest = max(copies, key=lambda copy: (copy.version, -copy.node))
    answer = nodes[newest.node].call("GET", "/v1/check/catalog", bytes=1)
    return Catalog.from_bytes(base64.b64decode(answer["catalog"])), copies


def _held(node: NodeClient) -> list[HeldRegion]:
    held: list[HeldRegion] = []
    while True:
        answer = node.call("GET", "/v1/check/regions", first=len(held), count=REGIONS_MAX)
        for volume, region, ld, ld_region, complete, epoch, committed in answer["rows"]:
            held.append(HeldRegion(volume, region, ld, ld_region, bool(complete), epoch, committed))
        if not answer["rows"] or len(held) >= answer["total"]:
            return held


# ---------------------------------------------------------------- bytes


def _compare_data(
    catalog: Catalog, nodes: dict[int, NodeClient], report: Report, bar: Bar, pause: Pause
) -> None:
    regions = [
        (volume, region)
        for volume in catalog.volume_manager.list_volumes()
        for region in range(len(volume.table))
    ]
    for number, (volume, region) in enumerate(regions, 1):
        row = volume.table.row(region, 0)
        members = [node for node in nodes if row.is_member(node)]
        finding, outcome = _compare_region(
            catalog, nodes, members, int(volume.volume), region, pause
        )
        if outcome == "moving":
            report.moving.append(f"{volume.name} region {region}")
        elif outcome == "compared":
            report.compared += 1
        if finding is not None:
            report.findings.append(finding)
        bar(number, len(regions))


def _compare_region(
    catalog: Catalog,
    nodes: dict[int, NodeClient],
    members: list[int],
    volume: int,
    region: int,
    pause: Pause,
) -> tuple[Finding | None, str]:
    """(what is wrong, "compared", "moving" or "" when fewer than two members keep anything)."""
    for attempt in range(DIGEST_TRIES):
        if attempt:
            pause(LOOK_SECONDS / 2)
        held: dict[int, list[HeldRegion]] = {}
        for member in members:
            try:
                answer = nodes[member].call("GET", "/v1/check/digest", volume=volume, region=region)
            except NotFound:
                continue  # never written to, or just moved away
            copy = HeldRegion(volume, region, -1, -1, True, answer["epoch"], answer["committed"])
            held[member] = [replace(copy, digest=answer["digest"])]
        if len(held) < 2:
            return None, ""
        found, moving = compare_nodes(catalog, held)
        if not moving and all(copies[0].digest for copies in held.values()):
            return (found[0] if found else None), "compared"
    return None, "moving"


# ---------------------------------------------------------------- for people


def lines(report: Report) -> list[str]:
    """What to print."""
    said = [f"{finding.rule}: {finding.text}" for finding in report.findings[:SHOWN_MAX]]
    if len(report.findings) > SHOWN_MAX:
        said.append(f"... and {len(report.findings) - SHOWN_MAX} more")
    if report.silent:
        silent = ", ".join(node_name(number) for number in report.silent)
        said.append(f"not checked, for they do not answer: {silent}")
    if report.moving:
        said.append(f"{len(report.moving)} regions changed too fast to be compared")
    summary = (
        f"catalog {report.catalog_version}, {report.volumes} volumes, {report.regions} copies of"
        f" regions on {len(report.nodes)} nodes"
    )
    if report.compared:
        summary += f", bytes of {report.compared} regions compared"
    said.append(f"{summary}: {len(report.findings) or 'no'} findings")
    return said
