"""plan: a cluster at one moment, as a scenario sees it, and what changed since another moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ALIVE, PAUSED, DEAD = "alive", "paused", "dead"  # states of a process

# Events of a cluster, which `after:` and `seen:` name, and what each means.
CLUSTER_EVENTS: Final = {
    "node down": "the catalog says of a node that it is down",
    "node up": "the catalog has taken a node in again",
    "owner moved": "a region has another owner",
    "leader changed": "another node leads the catalog than the last one that did",
    "redundancy lost": "a region lacks a copy",
    "redundant again": "every region has all its copies again",
}


@dataclass(frozen=True, slots=True)
class NodeNow:
    """One node. process: ALIVE, PAUSED or DEAD. up: by the catalog, and its store is recovered."""

    number: int
    process: str = ALIVE
    up: bool = True

    @property
    def runs(self) -> bool:
        """Its process lives and is not paused."""
        return self.process == ALIVE


@dataclass(frozen=True, slots=True)
class RegionNow:
    """Who serves a region and who has its other copies. owner: -1 when nobody can. joiner: who is
    being filled; -1: nobody."""

    owner: int
    replicants: tuple[int, ...] = ()
    joiner: int = -1


@dataclass(frozen=True, slots=True)
class VolumeNow:
    """A volume by number, with its regions in order. copies: how many each region should have."""

    name: str
    regions: tuple[RegionNow, ...]
    copies: int = 2


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """Where a disk is in any node."""

    disk: int
    cage: int
    sled: int


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All of it. leader: -1 when nobody leads. disks: of every node, they are all the same."""

    nodes: tuple[NodeNow, ...]
    volumes: tuple[VolumeNow, ...] = ()
    leader: int = -1
    disks: tuple[DiskPlace, ...] = ()

    def regions(self) -> Iterator[RegionNow]:
        """Of all volumes."""
        for volume in self.volumes:
            yield from volume.regions

    def volume(self, name: str) -> VolumeNow | None:
        """By name."""
        return next((volume for volume in self.volumes if volume.name == name), None)

    def running(self) -> list[int]:
        """Nodes whose process runs, ascending."""
        return [node.number for node in self.nodes if node.runs]

    @property
    def redundant(self) -> bool:
        """Every region has all its copies on nodes that the catalog calls up."""
        up = {node.number for node in self.nodes if node.up}
        return all(
            len({region.owner, *region.replicants} & up) >= volume.copies
            for volume in self.volumes
            for region in volume.regions
        )


@dataclass(frozen=True, slots=True)
class Happened:
    """One event of the cluster. node: whom it is about; -1: nobody. text: for people."""

    event: str
    node: int = -1
    text: str = ""


def changes(before: ClusterView, now: ClusterView, led: int) -> list[Happened]:
    """What happened between two views. led: the last node that led; -1: none did yet."""
    found = [
        Happened("node up" if new.up else "node down", new.number, f"n{new.number}")
        for old, new in zip(before.nodes, now.nodes, strict=True)
        if old.up != new.up
    ]
    for old_volume, new_volume in zip(before.volumes, now.volumes, strict=False):
        pairs = zip(old_volume.regions, new_volume.regions, strict=False)
        for number, (old, new) in enumerate(pairs):
            if old.owner != new.owner:
                text = f"{new_volume.name} region {number} from n{old.owner} to n{new.owner}"
                found.append(Happened("owner moved", old.owner, text))
    if now.leader not in (-1, led):
        found.append(Happened("leader changed", now.leader, f"n{now.leader} leads"))
    if before.redundant != now.redundant:
        found.append(Happened("redundant again" if now.redundant else "redundancy lost"))
    return found
