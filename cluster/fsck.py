"""plan: look for space that is used twice or by nobody, and for copies that do not fit the catalog.

Three questions. `check_catalog`: does the catalog by itself add up: every chunklet and LD region
with exactly one user, copies on different nodes and failure domains. `check_node`: does a node keep
what the catalog gives it, there, and nothing else. `compare_nodes`: do nodes agree with each other.
Findings name the volume, region, chunklet and node; nothing is changed and nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from base.ids import NOBODY, node_name
from cluster.catalog import Catalog
from volume.chunklet import NO_LD, ChunkletState
from volume.logical_disk import LogicalDisk, Space
from volume.node_storage import NodeStorage
from volume.virtual_volume import VirtualVolume


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong. rule: number of the invariant. node, region: -1 when none is meant;
    volume: its name, or its number as `#7` when the catalog does not know it; "" when none."""

    rule: str
    text: str
    node: int = -1
    volume: str = ""
    region: int = -1


@dataclass(frozen=True, slots=True)
class HeldRegion:
    """What one node keeps of one region. ld, ld_region: where; -1 while that is not known to it."""

    volume: int
    region: int
    ld: int
    ld_region: int
    complete: bool
    committed_epoch: int = 0
    committed: int = 0
    digest: str = ""  # of its bytes at that commit point; "" when nobody asked


@dataclass(frozen=True, slots=True)
class NodeCopy:
    """The catalog as one node has it."""

    node: int
    version: int
    digest: int  # of its bytes


# ---------------------------------------------------------------- the catalog by itself


def check_catalog(catalog: Catalog) -> list[Finding]:
    """Everything that the catalog can say about its own space; empty when it adds up."""
    found: list[Finding] = []
    volumes = catalog.volume_manager.list_volumes()
    for node, storage in sorted(catalog.volume_manager.nodes.items()):
        found += _chunklets(node, storage)
        found += _ld_regions(node, storage, volumes)
    for volume in volumes:
        found += _copies(catalog, volume)
    if not found:
        # The arrays' own checks say less about where, and more about what else can be wrong.
        found += [Finding("I13", text) for text in catalog.check()]
    return found


def _chunklets(node: int, storage: NodeStorage) -> list[Finding]:
    """I13, I14, I32: who uses each chunklet."""
    found: list[Finding] = []
    users: dict[tuple[int, int], int] = {}
    for number, ld in sorted(storage.lds.items()):
        for index, members in enumerate(ld.chunklets.tolist()):
            disks = [disk for disk, _ in members]
            if len(set(disks)) < len(disks):
                text = f"{_ld(node, number)}: RAID set {index} has two members on one disk"
                found.append(Finding("I32", text, node))
            for disk, chunklet in members:
                other = users.setdefault((disk, chunklet), number)
                where = f"{node_name(node)} disk {disk} chunklet {chunklet}"
                if other != number:
                    text = f"{where} is used twice: by LD {other} and LD {number}"
                    found.append(Finding("I13", text, node))
                elif int(storage.tables[disk].ld[chunklet]) != number:
                    text = f"{where} is used by LD {number}, and its table says otherwise"
                    found.append(Finding("I13", text, node))
    used = int(ChunkletState.USED)
    for disk, table in enumerate(storage.tables):
        held = (table.ld != NO_LD) | (table.state == used)
        for chunklet in np.flatnonzero(held).tolist():
            if (disk, chunklet) not in users:
                text = (
                    f"{node_name(node)} disk {disk} chunklet {chunklet} is held and used by no LD"
                )
                found.append(Finding("I14", text, node))
    return found


def _ld(node: int, number: int) -> str:
    return f"{node_name(node)} LD {number}"


def _ld_regions(node: int, storage: NodeStorage, volumes: list[VirtualVolume]) -> list[Finding]:
    """I13, I14: who uses each region of each LD of a node."""
    found: list[Finding] = []
    users: dict[tuple[int, int], tuple[str, int]] = {}
    for volume in volumes:
        table = volume.table
        rows, slots = np.nonzero(table.slot_node == node)
        lds, places = table.slot_ld[rows, slots].tolist(), table.slot_region[rows, slots].tolist()
        for region, number, place in zip(rows.tolist(), lds, places, strict=True):
            copy = (volume.name, region)
            ld = storage.lds.get(number)
            if ld is None or place >= ld.regions:
                text = f"{_region(*copy)} lies on {_ld(node, number)} region {place}: there is none"
                found.append(Finding("I13", text, node, *copy))
                continue
            other = users.setdefault((number, place), copy)
            if other != copy:
                text = (
                    f"{_ld(node, number)} region {place} is used twice: by {_region(*other)} and"
                    f" {_region(*copy)}; {_first_chunklet(ld, place)}"
                )
                found.append(Finding("I13", text, node, *copy))
            elif not ld.used[place]:
                text = (
                    f"{_region(*copy)} lies on {_ld(node, number)} region {place}, which counts as"
                    f" free; {_first_chunklet(ld, place)}"
                )
                found.append(Finding("I13", text, node, *copy))
    for number, ld in sorted(storage.lds.items()):
        if ld.space != Space.USER:
            continue
        for place in np.flatnonzero(ld.used).tolist():
            if (number, place) not in users:
                text = (
                    f"{_ld(node, number)} region {place} is taken and no volume uses it;"
                    f" {_first_chunklet(ld, place)}"
                )
                found.append(Finding("I14", text, node))
    return found


def _first_chunklet(ld: LogicalDisk, place: int) -> str:
    first = ld.locate(place * ld.region_bytes)
    return f"it begins on disk {first.disk} chunklet {first.chunklet}"


def _region(name: str, region: int) -> str:
    return f"volume {name} region {region}"


def _copies(catalog: Catalog, volume: VirtualVolume) -> list[Finding]:
    """I32: members of a region are on different nodes, and in different failure domains."""
    found: list[Finding] = []
    for region, nodes in enumerate(volume.table.slot_node.tolist()):
        taken = [node for node in nodes if node != NOBODY]
        if len(set(taken)) < len(taken):
            text = f"{_region(volume.name, region)}: two copies are on one node"
            found.append(Finding("I32", text, -1, volume.name, region))
        members = [
            node for node in sorted(set(taken)) if int(volume.table.in_sync[region]) >> node & 1
        ]  # fmt: skip
        by_domain: dict[int, int] = {}
        for node in members:
            other = by_domain.setdefault(catalog.domains[node], node)
            if other != node:
                text = (
                    f"{_region(volume.name, region)}: {node_name(other)} and {node_name(node)} hold"
                    f" it and share failure domain {catalog.domains[node]}"
                )
                found.append(Finding("I32", text, node, volume.name, region))
    return found


# ---------------------------------------------------------------- a node against the catalog


def check_node(catalog: Catalog, node: int, held: Iterable[HeldRegion]) -> list[Finding]:
    """What a node keeps against what the catalog gives it; empty when both agree."""
    found: list[Finding] = []
    manager = catalog.volume_manager
    places: dict[tuple[int, int], HeldRegion] = {}
    where = node_name(node)
    for each in held:
        if not manager.has_volume(each.volume):
            text = f"{where} keeps region {each.region} of volume #{each.volume}, which is gone"
            found.append(Finding("I15", text, node, f"#{each.volume}", each.region))
            continue
        volume = manager.volume(each.volume)
        named = _region(volume.name, each.region)
        slot = volume.table.slot_of(each.region, node) if each.region < len(volume.table) else -1
        if slot < 0:
            text = f"{where} keeps {named}, and the catalog gives it no space there"
            found.append(Finding("I14", text, node, volume.name, each.region))
            continue
        row = volume.table.row(each.region, node)
        if each.ld >= 0:
            if (each.ld, each.ld_region) != (row.ld, row.ld_region):
                text = (
                    f"{where} keeps {named} on LD {each.ld} region {each.ld_region}; the catalog"
                    f" has it on LD {row.ld} region {row.ld_region}"
                )
                found.append(Finding("I13", text, node, volume.name, each.region))
            other = places.setdefault((each.ld, each.ld_region), each)
            if other is not each:
                text = (
                    f"{where} LD {each.ld} region {each.ld_region} is used twice: by {named} and"
                    f" by region {other.region} of volume #{other.volume}"
                )
                found.append(Finding("I13", text, node, volume.name, each.region))
        if row.is_member(node) and not each.complete:
            text = f"{where} counts as in sync for {named}, and its copy is not complete"
            found.append(Finding("I8", text, node, volume.name, each.region))
    return found


# ---------------------------------------------------------------- nodes against each other


def compare_catalogs(copies: Iterable[NodeCopy]) -> list[Finding]:
    """I12: one version of the catalog has one content."""
    found: list[Finding] = []
    known: dict[int, NodeCopy] = {}
    for copy in copies:
        other = known.setdefault(copy.version, copy)
        if other.digest != copy.digest:
            text = (
                f"version {copy.version} of the catalog differs between {node_name(other.node)}"
                f" and {node_name(copy.node)}"
            )
            found.append(Finding("I12", text, copy.node))
    return found


def compare_nodes(
    catalog: Catalog, held: Mapping[int, Iterable[HeldRegion]]
) -> tuple[list[Finding], list[tuple[int, int]]]:
    """I11: members of a region that stand at one commit point hold the same bytes. Also the regions
    (volume, region) whose members stand at different ones: they cannot be compared now."""
    found: list[Finding] = []
    moving: list[tuple[int, int]] = []
    first: dict[tuple[int, int], tuple[int, HeldRegion]] = {}
    for node in sorted(held):
        for each in held[node]:
            key = (each.volume, each.region)
            if not catalog.volume_manager.has_volume(each.volume):
                continue
            volume = catalog.volume_manager.volume(each.volume)
            if each.region >= len(volume.table) or not volume.table.row(
                each.region, node
            ).is_member(node):
                continue
            other_node, other = first.setdefault(key, (node, each))
            if (other.committed_epoch, other.committed) != (each.committed_epoch, each.committed):
                moving.append(key)
            elif other.digest and each.digest and other.digest != each.digest:
                text = (
                    f"{_region(volume.name, each.region)} differs between {node_name(other_node)}"
                    f" and {node_name(node)} at epoch {each.committed_epoch} seq {each.committed}"
                )
                found.append(Finding("I11", text, node, volume.name, each.region))
    return found, moving
