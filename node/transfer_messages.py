"""step: messages of state transfers on their way to the copy that they are for, checked first.

What a peer says must fit the region before the store may see it: bitmaps of as many pages as the
region has, lines within their bound. A peer that sends something else is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from base.errors import RemoteProtocolError
from node import state_transfer
from node.effects import Send
from node.epoch_line import LINE_MAX
from node.page_seqs import bitmap_bytes
from node.roles import BY_DELTA, BY_FULL, REFUSED
from transport import messages as wire

if TYPE_CHECKING:
    from node.core import NodeCore


class TransferMessages:
    """Both halves, of all regions of one node."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core

    def handlers(self) -> dict[type[Any], Any]:
        """By type of message: call with peer, message and time."""
        return {
            wire.TransferAsk: self._on_ask,
            wire.TransferPosition: self._on_position,
            wire.TransferBegin: self._on_begin,
            wire.TransferReply: self._on_reply,
            wire.TransferEnd: self._on_end,
            wire.TransferEnded: self._on_ended,
        }

    def _bitmap_bytes(self, volume: int) -> int:
        virtual = self._core.catalog.volume_manager.volume(volume)
        return bitmap_bytes(virtual.region_bytes // virtual.page_bytes)

    # ------------------------------------------------------------------ owner

    def _on_position(self, peer: int, message: wire.TransferPosition, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is None or message.epoch != copy.epoch:
            return
        suspects = 0 if message.complete or not message.seq else self._bitmap_bytes(message.volume)
        if len(message.data) != suspects:
            raise RemoteProtocolError(
                f"volume {message.volume} region {message.region}: n{peer} names its suspects in"
                f" {len(message.data)} bytes, not {suspects}"
            )
        self._core.joins.alive(copy, now_ns)
        again = state_transfer.positioned(copy, peer, message)
        self._core.joins.sent(copy, message.session, 0, again)

    def _on_reply(self, peer: int, message: wire.TransferReply, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and message.epoch == copy.epoch:
            # A refusal that names no session of ours may come again and again, and nothing gets on.
            if message.session == copy.session:
                self._core.joins.alive(copy, now_ns)
            state_transfer.answered(copy, peer, message.session, message.outcome)

    def _on_ended(self, peer: int, message: wire.TransferEnded, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and message.epoch == copy.epoch:
            self._core.joins.alive(copy, now_ns)
            state_transfer.ended(copy, peer, message.session)

    # ------------------------------------------------------------------ joiner

    def _on_ask(self, peer: int, message: wire.TransferAsk, now_ns: int) -> None:
        self._check_line(peer, message)
        copy = self._core.copy_at(message.volume, message.region, now_ns)
        if copy is not None and self._core.active:
            state_transfer.asked(copy, peer, message)
        else:
            self._refuse(peer, message)

    def _on_begin(self, peer: int, message: wire.TransferBegin, now_ns: int) -> None:
        self._check_line(peer, message)
        copy = self._core.copy_at(message.volume, message.region, now_ns)
        if copy is None or not self._core.active:
            self._refuse(peer, message)
            return
        pages = 2 * self._bitmap_bytes(message.volume) if message.mode >= BY_DELTA else 0
        if message.mode > BY_FULL or len(message.data) != pages:
            raise RemoteProtocolError(
                f"volume {message.volume} region {message.region}: n{peer} begins a transfer of"
                f" mode {message.mode} with {len(message.data)} bytes of pages, not {pages}"
            )
        state_transfer.begin(copy, peer, message)

    def _check_line(self, peer: int, message: wire.TransferAsk | wire.TransferBegin) -> None:
        if len(message.line) > LINE_MAX:
            raise RemoteProtocolError(
                f"volume {message.volume} region {message.region}: n{peer} names"
                f" {len(message.line)} epochs; {LINE_MAX} are kept"
            )

    def _refuse(self, peer: int, message: wire.TransferAsk | wire.TransferBegin) -> None:
        """The catalog of the owner is ahead of this node's: it asks again soon."""
        if self._core.active:
            refused = wire.TransferReply(
                message.volume, message.region, message.epoch, message.session, REFUSED
            )
            self._core.effects.append(Send(peer, refused))

    def _on_end(self, peer: int, message: wire.TransferEnd, now_ns: int) -> None:
        copy = self._core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and self._core.active:
            state_transfer.end(copy, peer, message)
