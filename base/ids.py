"""plan: the identities of things, as types that cannot be mixed up by a type checker."""

from __future__ import annotations

from typing import Final, NewType

NodeId = NewType("NodeId", int)  # 0..7, printed n0..n7
VolumeId = NewType("VolumeId", int)  # given by the catalog, never reused (I15)
RegionIndex = NewType("RegionIndex", int)  # position of a region in its volume
Epoch = NewType("Epoch", int)  # number of one configuration of one region; older is fenced
Sequence = NewType("Sequence", int)  # position of a record in the sequence of its region, from 1
Incarnation = NewType("Incarnation", int)  # one life of a node process; grows with each start
CatalogVersion = NewType("CatalogVersion", int)  # index of the last applied catalog entry
ClientId = NewType("ClientId", int)  # who numbers host operations; 63 bits

RegionKey = tuple[VolumeId, RegionIndex]

NOBODY: Final = NodeId(255)  # "no node" in one unsigned byte of a region table


def node_name(node: int) -> str:
    """n0…n7, and "-" for nobody."""
    return "-" if node == NOBODY else f"n{node}"
