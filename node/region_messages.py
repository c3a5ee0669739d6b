"""step: messages about single regions, handed to the copy that each is for. Those of state
transfers are in `node.transfer_messages`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transport import messages as wire

if TYPE_CHECKING:
    from node.core import NodeCore


class RegionMessages:
    """What peers say of regions; a region that this node has no copy of is passed over."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core

    def handlers(self) -> dict[type[Any], Any]:
        """By type of message: call with peer, message and time."""
        return {
            wire.ReplicateAcks: self._on_acks,
            wire.ReplicateRefused: self._on_refused,
            wire.CommitPoints: self._on_commit_points,
        }

    def _on_acks(self, peer: int, message: wire.ReplicateAcks, now_ns: int) -> None:
        for volume, region, epoch, seq, synced, session in message.acks:
            by_region = self._core.copies.get(volume)
            copy = by_region.get(region) if by_region is not None else None
            if copy is None:
                continue
            before = copy.acked.get(peer, 0)
            copy.peer_acknowledged(peer, epoch, seq, synced, session)
            if copy.acked.get(peer, 0) > before:
                self._core.commit_points.peers.acknowledged(peer)
            if session:
                self._core.joins.alive(copy, now_ns)
            if copy.opening:
                self._core.advance(copy, now_ns)

    def _on_refused(self, peer: int, message: wire.ReplicateRefused, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is not None:
            copy.refused(peer, message.epoch, message.prepared, message.reason)

    def _on_commit_points(self, peer: int, message: wire.CommitPoints, now_ns: int) -> None:
        for volume, region, epoch, committed, record_epoch in message.points:
            copy = self._core.copies.get(volume, {}).get(region)
            if copy is not None:
                copy.commit_point(peer, epoch, committed, record_epoch)
