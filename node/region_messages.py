"""step: messages about single regions, handed to the copy that each is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from node import state_transfer
from node.effects import Send
from node.roles import REFUSED
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
            wire.TransferBegin: self._on_transfer_begin,
            wire.TransferReply: self._on_transfer_reply,
            wire.TransferEnd: self._on_transfer_end,
            wire.TransferEnded: self._on_transfer_ended,
        }

    def _on_acks(self, peer: int, message: wire.ReplicateAcks, now_ns: int) -> None:
        for volume, region, epoch, seq, synced, session in message.acks:
            by_region = self._core.copies.get(volume)
            copy = by_region.get(region) if by_region is not None else None
            if copy is None:
                continue
            copy.peer_acknowledged(peer, epoch, seq, synced, session)
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

    def _on_transfer_begin(self, peer: int, message: wire.TransferBegin, now_ns: int) -> None:
        copy = self._core.copy_at(message.volume, message.region, now_ns)
        if copy is not None and self._core.active:
            state_transfer.begin(copy, peer, message)
        elif self._core.active:
            # The catalog of the owner is ahead of this node's: it asks again soon.
            refused = wire.TransferReply(
                message.volume, message.region, message.epoch, message.session, REFUSED
            )
            self._core.effects.append(Send(peer, refused))

    def _on_transfer_reply(self, peer: int, message: wire.TransferReply, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and message.epoch == copy.epoch:
            self._core.joins.alive(copy, now_ns)
            state_transfer.answered(copy, peer, message.session, message.outcome)

    def _on_transfer_end(self, peer: int, message: wire.TransferEnd, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and self._core.active:
            state_transfer.end(copy, peer, message)

    def _on_transfer_ended(self, peer: int, message: wire.TransferEnded, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and message.epoch == copy.epoch:
            self._core.joins.alive(copy, now_ns)
            state_transfer.ended(copy, peer, message.session)
