"""shell: state transfers of level 1: what stores of nodes do with pages, on sectors in memory.

As in `node.rebuild` and `node.incoming_pages`, but one message carries all pages of a session. What
a process kill leaves of an unfinished session is kept in `DurableRegion` as the journal keeps it:
since which record it is being filled, and which pages may differ from that by now.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from base.units import NS_PER_MS, SECTOR_BYTES
from node import effects as fx
from node.page_seqs import bits_of, bools_of
from node.region_copy import RegionCopy
from node.roles import BY_DELTA
from sim.durable import DurableRegion, ResetNote, Sectors, apply_sectors
from sim.kernel_views import PageViews, RegionViews
from transport import messages as wire
from transport.operation import Record

if TYPE_CHECKING:
    from sim.kernel import KernelNode

Key = tuple[int, int]


@dataclass(slots=True)
class PagesMessage:
    """Pages of a region as of a commit point: by page, the record that touched it last, and its
    sectors; one that is not there holds zeros. views: by page, what its snapshots have of it."""

    volume: int
    region: int
    epoch: int
    session: int
    as_of: int
    pages: dict[int, tuple[int, Sectors]]
    views: dict[int, PageViews] = field(default_factory=dict, repr=False)


class KernelTransfers:
    """Both halves, on one node."""

    def __init__(self, node: KernelNode) -> None:
        self._node = node
        self._wanted: dict[Key, tuple[int, list[int]]] = {}  # owner: of the session that begins
        self._touched: dict[
            Key, dict[int, None]
        ] = {}  # joiner: sectors that the stream has written
        # joiner: records that the stream has applied since the session began
        self._stream: dict[Key, list[Record]] = {}
        self._suspect: dict[Key, frozenset[int]] = {}  # joiner: pages that are not as `since` left
        self.seqs: dict[Key, dict[int, int]] = {}  # by region and page, the last record of it

    # ------------------------------------------------------------------ pages

    def _shape(self, key: Key) -> tuple[int, int]:
        """(pages of a region, sectors of a page)."""
        virtual = self._node.core.catalog.volume_manager.volume(key[0])
        return virtual.region_bytes // virtual.page_bytes, virtual.page_bytes // SECTOR_BYTES

    def pages_of(self, record: Record) -> range:
        """Pages that the record touches."""
        size = self._node.kernel.config.page_bytes
        return range(record.offset // size, -(-(record.offset + record.length) // size))

    def applied(self, key: Key, record: Record) -> None:
        """The record is in the sectors of the region."""
        seqs = self.seqs.setdefault(key, {})
        for page in self.pages_of(record):
            seqs[page] = record.seq
        touched = self._touched.get(key)
        if touched is not None:
            first = record.offset // SECTOR_BYTES
            self._stream.setdefault(key, []).append(record)
            touched.update(dict.fromkeys(range(first, first + record.length // SECTOR_BYTES)))

    def _allocated(self, key: Key) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        pages, sectors = self._shape(key)
        found = np.zeros(pages, dtype=np.bool_)
        for sector in self._node.store.get(key, {}):
            found[sector // sectors] = True
        return found

    def _excepted(self, key: Key) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Pages of which snapshots have something of their own."""
        found = np.zeros(self._shape(key)[0], dtype=np.bool_)
        views = self._node.views.get(key)
        if views:
            found[views.excepted()] = True
        return found

    # ------------------------------------------------------------------ owner

    def send_begin(self, effect: fx.SendBegin) -> None:
        """The joiner hears how the session begins."""
        copy, node = effect.copy, self._node
        key = (copy.volume, copy.region)
        data = b""
        if effect.mode >= BY_DELTA:
            pages, _ = self._shape(key)
            allocated = wanted = self._allocated(key)
            if effect.mode == BY_DELTA:
                seqs = self.seqs.get(key, {})
                newer = np.array([seqs.get(page, 0) > effect.since[0] for page in range(pages)])
                if effect.suspects:
                    newer |= bools_of(effect.suspects, pages)
                # What a trim left of a page lies in its snapshots.
                wanted = newer & (allocated | self._excepted(key))
            else:
                wanted = allocated | self._excepted(key)
            self._wanted[key] = (effect.session, np.flatnonzero(wanted).tolist())
            data = bits_of(allocated) + bits_of(wanted)
        begin = wire.TransferBegin(
            copy.volume, copy.region, effect.epoch, effect.session, effect.mode,
            effect.base_epoch, effect.base, effect.since[1], effect.since[0], effect.line,
            effect.clients, data,
        )  # fmt: skip
        node.kernel.send(node.node, effect.peer, begin)

    def copy_pages(self, effect: fx.CopyPages) -> None:
        """All pages that the joiner wants, a little later."""
        copy, node = effect.copy, self._node
        key = (copy.volume, copy.region)
        session, wanted = self._wanted.pop(key, (0, []))
        if session != effect.session:
            return
        _, sectors = self._shape(key)
        blocks, seqs = node.store.get(key, {}), self.seqs.get(key, {})
        pages: dict[int, tuple[int, Sectors]] = {}
        for page in wanted:
            run = range(page * sectors, (page + 1) * sectors)
            pages[page] = (seqs.get(page, 0), {at: blocks[at] for at in run if at in blocks})
        message = PagesMessage(
            copy.volume,
            copy.region,
            copy.epoch,
            effect.session,
            copy.committed,
            pages,
            self._page_views(key, wanted),
        )
        size = len(pages) * sectors * SECTOR_BYTES
        node.core.joins.sent(copy, effect.session, len(pages), size)
        delay_ns = node.rng.below(20 * NS_PER_MS)
        node.kernel.after(delay_ns, node.kernel.send, node.node, effect.peer, message)

    def _page_views(self, key: Key, pages: list[int]) -> dict[int, PageViews]:
        views = self._node.views.get(key)
        return {page: views.page_views(page) for page in pages} if views else {}

    def pages_held(self, sender: int, message: wire.TransferPagesAck) -> None:
        """The joiner has them."""
        core = self._node.core
        copy = core.copies.get(message.volume, {}).get(message.region)
        if copy is not None and copy.epoch == message.epoch:
            core.joins.pages_copied(copy, sender, message.session, self._node.clock_ns())

    # ------------------------------------------------------------------ joiner

    def _suspects(self, key: Key, since: int) -> frozenset[int]:
        """Pages of an incomplete copy that may be other than at that record."""
        newer = [page for page, seq in self.seqs.get(key, {}).items() if seq > since]
        return self._suspect.get(key, frozenset()).union(newer)

    def send_position(self, effect: fx.SendPosition) -> None:
        """Where this copy stands."""
        copy, node = effect.copy, self._node
        key = (copy.volume, copy.region)
        complete, seq, epoch = effect.position
        suspects = b""
        if not complete and seq:
            pages, _ = self._shape(key)
            found = self._suspects(key, seq)
            suspects = bits_of(np.array([page in found for page in range(pages)]))
        position = wire.TransferPosition(
            copy.volume, copy.region, effect.epoch, effect.session, complete, epoch, seq, suspects
        )
        node.kernel.send(node.node, effect.peer, position)

    def reset_region(self, effect: fx.ResetRegion) -> None:
        """A session begins here: with all pages gone, or with those that it brings."""
        copy, begin, node = effect.copy, effect.begin, self._node
        key = (copy.volume, copy.region)
        pages, sectors = self._shape(key)
        bitmaps = bytes(begin.data)  # type: ignore[arg-type]
        half = len(bitmaps) // 2
        suspect = frozenset(range(pages))
        since = (0, 0)
        if begin.mode == BY_DELTA:
            since = (begin.since_seq, begin.since_epoch)
            allocated, wanted = bools_of(bitmaps[:half], pages), bools_of(bitmaps[half:], pages)
            found = np.flatnonzero(wanted | (allocated ^ self._allocated(key))).tolist()
            suspect = self._suspects_of(key, since[0], found)
        blocks = node.store.setdefault(key, {})
        for sector in [sector for sector in blocks if sector // sectors in suspect]:
            del blocks[sector]
        seqs = self.seqs.setdefault(key, {})
        for page in suspect:
            seqs.pop(page, None)
        if key in node.views:
            node.views[key].drop_pages(suspect)
        self._touched[key] = {}
        self._stream[key] = []
        self._suspect[key] = suspect
        note = ResetNote(
            begin.base_seq, begin.base_epoch, begin.clients, begin.line, since, suspect, sectors
        )
        # The journal is in order: what stands before it of this region is older than this.
        node.write_now("reset", copy, note)

    def _suspects_of(self, key: Key, since: int, found: list[int]) -> frozenset[int]:
        durable = self._node.durable.regions.get(key)
        if durable is not None and not durable.complete:
            return self._suspects(key, since).union(found)
        return frozenset(found)

    def take_pages(self, sender: int, message: PagesMessage) -> None:
        """Pages from the owner."""
        node = self._node
        copy = node.core.copies.get(message.volume, {}).get(message.region)
        if (
            copy is None
            or copy.complete
            or message.session != copy.session
            or message.epoch != copy.epoch
            or message.as_of > copy.prepared
        ):
            return
        key = (message.volume, message.region)
        _, sectors = self._shape(key)
        touched = self._touched.setdefault(key, {})
        blocks, seqs = node.store.setdefault(key, {}), self.seqs.setdefault(key, {})
        durable = node.durable.regions[key]
        # Sectors of records that are received and not yet committed are filled by the stream too.
        for page, (seq, found) in message.pages.items():
            for sector in range(page * sectors, (page + 1) * sectors):
                put(durable.blocks, sector, found.get(sector))
                if sector not in touched:
                    put(blocks, sector, found.get(sector))
            durable.seqs[page] = seq
            seqs[page] = max(seq, seqs.get(page, 0))
            self._take_views(key, durable, page, message)
        ack = wire.TransferPagesAck(
            message.volume, message.region, message.epoch, message.session, ()
        )
        node.kernel.send(node.node, sender, ack)

    def _take_views(
        self, key: Key, durable: DurableRegion, page: int, message: PagesMessage
    ) -> None:
        """What the stream saved of a page that was not here yet is void: its contents were not what
        the record overwrote. It is saved again, from the page as it came."""
        arrived = message.views.get(page, {})
        durable.views.put_page(page, arrived)
        views = self._node.views.setdefault(key, RegionViews())
        views.put_page(page, arrived)
        blocks = dict(message.pages[page][1])
        for record in self._stream.get(key, ()):
            if record.seq > message.as_of and page in self.pages_of(record):
                views.overwrite(blocks, record, (page,))
                apply_sectors(blocks, record)

    def end_transfer(self, effect: fx.EndTransfer) -> None:
        """Synced a little later, and complete then."""
        self._node.sync(lambda: self._ended(effect))

    def _ended(self, effect: fx.EndTransfer) -> None:
        copy, node = effect.copy, self._node
        if copy.session == effect.session and not copy.complete:
            key = (copy.volume, copy.region)
            self._touched.pop(key, None)
            self._stream.pop(key, None)
            self._suspect.pop(key, None)
            durable = node.durable.regions[key]
            durable.complete, durable.since, durable.suspect = True, (0, 0), frozenset()
            copy.transfer_synced(effect.session)

    # ------------------------------------------------------------------ lives

    def forget(self, key: Key) -> None:
        """Nothing of the region is here any more."""
        self._wanted.pop(key, None)
        self._touched.pop(key, None)
        self._stream.pop(key, None)
        self._suspect.pop(key, None)
        self.seqs.pop(key, None)

    def recover(self, key: Key, kept: DurableRegion) -> RegionCopy:
        """The copy as the disks of this node have it; one that is incomplete stands at the record
        since which it was being filled."""
        node = self._node
        if kept.complete:
            state = kept.rolled(kept.known(), self.pages_of)
        else:
            state = kept.rolled(0, self.pages_of)
            for record, _, _ in kept.log:  # perhaps applied before the end of that life
                state.seqs.update(dict.fromkeys(self.pages_of(record), record.seq))
            state.committed, state.committed_epoch = kept.since
            state.tail.clear()
        node.store[key], self.seqs[key] = state.blocks, state.seqs
        node.views[key] = state.views
        self._suspect[key] = kept.suspect
        copy = node.core.restore_copy(
            *key, committed=state.committed, committed_epoch=state.committed_epoch,
            tail=state.tail, clients=state.clients.state(), complete=kept.complete,
            line=state.line.ends, since=kept.since,
        )  # fmt: skip
        copy.place = kept.place
        return copy


def put(blocks: Sectors, sector: int, value: bytes | None) -> None:
    """The sector holds this from now on; None: zeros."""
    if value is None:
        blocks.pop(sector, None)
    else:
        blocks[sector] = value


__all__ = ["KernelTransfers", "PagesMessage"]
