"""plan: what a node has to do, or may want to say, when the catalog has applied an entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.ids import VolumeId

Regions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """The node came up or went down."""

    node: int


@dataclass(frozen=True, slots=True)
class PairCut:
    """Two nodes cannot talk; said even when no row changed, for the reporter waits for it (P5)."""

    first: int
    second: int


@dataclass(frozen=True, slots=True, eq=False)
class RegionsChanged:
    """Rows of the volume have a new version; ascending."""

    volume: VolumeId
    regions: Regions


@dataclass(frozen=True, slots=True, eq=False)
class RegionsReduced:
    """Rows that go on with a copy whose store lost what it had not synced."""

    volume: VolumeId
    regions: Regions


@dataclass(frozen=True, slots=True, eq=False)
class RegionsReturned:
    """Rows that go back to the copy that was the last to leave: the one that stayed lost power."""

    volume: VolumeId
    regions: Regions


@dataclass(frozen=True, slots=True, eq=False)
class RegionsLost:
    """Rows whose last in-sync copy is gone for good."""

    volume: VolumeId
    regions: Regions


@dataclass(frozen=True, slots=True, eq=False)
class RegionsForced:
    """Rows that opened at an operator's word, without what their last members had."""

    volume: VolumeId
    regions: Regions


@dataclass(frozen=True, slots=True, eq=False)
class CopiesDropped:
    """Copies that the disks of their nodes refused are gone. nodes: u8, one for each region."""

    volume: VolumeId
    regions: Regions
    nodes: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VolumeCreated:
    """A new volume with all its rows."""

    volume: VolumeId


@dataclass(frozen=True, slots=True)
class VolumeGrown:
    """A new size; new rows at the end, if any."""

    volume: VolumeId


@dataclass(frozen=True, slots=True)
class VolumeRemoved:
    """The volume and all its copies are gone."""

    volume: VolumeId


@dataclass(frozen=True, slots=True)
class CutBegun:
    """Owners of these volumes hold replies back, and tell the leader when they have adopted it."""

    cut: int
    volumes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CutEnded:
    """Replies of these volumes may leave. made: its snapshots are points in time."""

    cut: int
    volumes: tuple[int, ...]
    made: bool


@dataclass(frozen=True, slots=True)
class SnapshotsChanged:
    """The tree of the volume is another one."""

    volume: int


Effect = (
    NodeChanged
    | PairCut
    | RegionsChanged
    | RegionsReduced
    | RegionsReturned
    | RegionsLost
    | RegionsForced
    | CopiesDropped
    | VolumeCreated
    | VolumeGrown
    | VolumeRemoved
    | CutBegun
    | CutEnded
    | SnapshotsChanged
)


@dataclass(frozen=True, slots=True)
class Applied:
    """What an entry did. refusal: (code, text) of base.errors; then nothing was changed. result:
    what the proposer gets, plain values for msgpack. effects: for this node, in order."""

    refusal: tuple[str, str] | None = None
    result: Any = None
    effects: list[Effect] = field(default_factory=list)
