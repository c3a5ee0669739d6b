"""shell: the way of a read and a write through this node: route, number, journal, replicate, apply.

Everything that one turn of the loop brings — requests of hosts, messages of peers, journal writes
that ended — goes into the cores at once; the effects are performed at the end of the turn, in
order. So a turn makes one message per peer, one journal write and one answer per connection,
however many operations it holds. Nothing in here decides: `core`, `router` and the copies do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog

from base.clock import Clock
from base.device import Buffer
from base.errors import (
    NoQuorum,
    NotOwner,
    Overloaded,
    RegionOffline,
    RemoteProtocolError,
    RequestTimeout,
    StorageError,
)
from base.ids import NOBODY
from base.tasks import Supervisor
from host import topology
from host.export import HostRequest, RequestKind
from host.router import Piece, Router
from node import effects as fx
from node import state_transfer
from node.core import NodeCore
from node.journal_format import TransferBeginNote
from node.questions import Questions
from node.region_copy import OWNER, RegionCopy
from node.region_store import RegionStore
from node.roles import BY_DELTA
from node.view_path import ViewPath, cut_runs, require_readable
from transport import messages as wire
from transport import operation as op
from transport.bus import MessageBus
from transport.codec import crc32c
from transport.operation import Record
from volume.virtual_volume import VirtualVolume

log = structlog.get_logger()

Key = tuple[int, int]
REMOTE_PENDING_MAX = 16_384  # operations of peers and attached hosts that are not answered yet


class Remote:
    """Who waits for the answer to an operation that came from another node or attached host."""

    __slots__ = ("peer", "record")

    def __init__(self, peer: int, record: Record) -> None:
        self.peer = peer
        self.record = record


class IoPath:
    """Performs what the cores of one node ask for, and brings them what hosts and peers say."""

    def __init__(
        self,
        *,
        core: NodeCore,
        bus: MessageBus,
        clock: Clock,
        supervisor: Supervisor,
        timeout_ns: int,
        on_control: Callable[[Any], None],
        requests_max: int = 1024,
        bytes_max: int = 64 << 20,
    ) -> None:
        """on_control(effect): everything that is not about host data: consensus, lives, notes."""
        self.core = core
        self.effects = core.effects
        self.bus = bus
        self.clock = clock
        self.supervisor = supervisor
        self.store: RegionStore | None = None
        self.pages: Any = None  # node.rebuild.Rebuild: both sides of copying pages
        self._on_control = on_control
        self.router = Router(
            client=(core.self_id + 1) << 48 | core.incarnation,
            self_id=core.self_id,
            ways=self,
            timeout_ns=timeout_ns,
            local_sync=self._local_sync,
            requests_max=requests_max,
            bytes_max=bytes_max,
        )
        self.questions = Questions(
            core.self_id, clock, lambda peer, what: self.bus.send(peer, what)
        )
        self.questions.calls[topology.CALL] = self._topology
        self.views = ViewPath(self)
        self._loop = asyncio.get_running_loop()
        self._at = 0
        self._scheduled = False
        self._records: dict[int, list[Buffer]] = {}
        self._record_counts: dict[int, int] = {}
        self._acks: dict[int, dict[Key, tuple[int, int, int, int, int, int]]] = {}
        self._replies: dict[int, list[Buffer]] = {}
        self._reply_counts: dict[int, int] = {}
        self._to_journal: list[tuple[RegionCopy, Record]] = []
        self._no_room: deque[Any] = deque()
        self.reads = self.writes = self.read_bytes = self.written_bytes = 0
        self.flushes = self.waits = 0
        self.remote_pending = 0
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            fx.Store: self._on_store,
            fx.Apply: self._on_apply,
            fx.Ack: self._on_ack,
            fx.Reply: self._on_reply,
            fx.Moved: self._on_moved,
            fx.Resume: self._on_resume,
            fx.SyncRecord: self._on_sync_record,
            fx.Truncate: self._on_truncate,
            fx.Send: self._on_send,
            fx.SendBeacons: self._on_send_beacons,
            fx.SendBegin: self._on_send_begin,
            fx.SendPosition: self._on_send_position,
            fx.CopyPages: self._on_copy_pages,
            fx.ResetRegion: self._on_reset_region,
            fx.EndTransfer: self._on_end_transfer,
            fx.Admit: core.joins.admit,
            fx.OpenRegion: self._on_open_region,
            fx.CloseRegion: self._on_close_region,
            fx.TopologyChanged: self._on_topology,
        }
        self._on: dict[type[Any], Callable[[int, Any], None]] = {
            wire.ReplicateBatch: self._on_replicate_batch,
            wire.HostBatch: self._on_host_batch,
            wire.HostReplies: self._on_host_replies,
            wire.SyncRequest: self._on_sync_request,
            wire.SyncReply: self._on_sync_reply,
            wire.TransferPages: self._on_transfer_pages,
            wire.TransferPagesAck: self._on_transfer_pages_ack,
            wire.AdminRequest: self.questions.on_request,
            wire.AdminReply: self.questions.on_reply,
            wire.TransferViews: self._on_transfer_views,
            wire.TransferViewsAck: self._on_transfer_views_ack,
        }

    def on_message(self, kind: type[Any], handle: Callable[[int, Any], None]) -> None:
        """Messages of that kind are for somebody else."""
        self._on[kind] = handle

    # ------------------------------------------------------------------ turns

    def turn_soon(self) -> None:
        """Something came into the cores: perform what they ask for at the end of this turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.drain()
        self._send_collected()
        if self._to_journal:
            # Records leave before this node writes them: copies work meanwhile. Both are done here
            # and not a turn later: with one operation in flight every turn is latency.
            self.bus.flush()
            self._append_collected()
            assert self.store is not None
            self.store.journal.flush()
        self.bus.flush()
        self._on_control(None)

    def drain(self) -> None:
        """Perform all effects there are, in order. May be called inside of itself."""
        effects, perform = self.effects, self._perform
        while self._at < len(effects):
            effect = effects[self._at]
            self._at += 1
            action = perform.get(type(effect))
            if action is None:
                self._on_control(effect)
            else:
                action(effect)
        effects.clear()
        self._at = 0

    def _send_collected(self) -> None:
        """One message per peer for each kind; what fails to leave is sent again by the protocol."""
        send = self.bus.send
        if self._records:
            records, self._records = self._records, {}
            counts, self._record_counts = self._record_counts, {}
            for peer in sorted(records):
                message = wire.ReplicateBatch(
                    self.core.incarnation, counts[peer], tuple(records[peer])
                )
                send(peer, message)
        if self._acks:
            acks, self._acks = self._acks, {}
            for peer in sorted(acks):
                send(peer, wire.ReplicateAcks(0, tuple(acks[peer].values())))
        if self._replies:
            replies, self._replies = self._replies, {}
            reply_counts, self._reply_counts = self._reply_counts, {}
            for peer in sorted(replies):
                send(peer, wire.HostReplies(reply_counts[peer], tuple(replies[peer])))
        self.router.flush_out(self.clock.now_ns())

    def _append_collected(self) -> None:
        """Hand records to the journal: behind the sending, so that copies work meanwhile."""
        store = self.store
        assert store is not None
        batch, self._to_journal = self._to_journal, []
        for item in batch:
            record = item[1]
            store.append(record, record.header, item)

    def flush_records(self) -> None:
        """Send what was collected and hand it to the journal now: something must come behind it."""
        self._send_collected()
        if self._to_journal:
            self._append_collected()

    def journalled(self, tokens: list[Any]) -> None:
        """The journal holds these records."""
        for copy, record in tokens:
            copy.record_journalled(record)
        self.drain()
        self.flush_records()

    # ------------------------------------------------------------------ hosts at this node

    def submit(self, volume: VirtualVolume, request: HostRequest, view: int = 0) -> None:
        """A request of a host that is connected to this node. view: of a snapshot of the volume."""
        kind = request.kind
        if kind is RequestKind.READ:
            self.reads += 1
            self.read_bytes += request.length
        elif kind is RequestKind.FLUSH:
            self.flushes += 1
        elif kind is not RequestKind.STATUS:
            self.writes += 1
            self.written_bytes += request.length
        self.router.submit(volume.volume, volume.region_bytes, request, self.clock.now_ns(), view)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def owner_of(self, volume: int, region: int) -> int:
        """By the catalog of this node."""
        core = self.core
        by_region = core.copies.get(volume)
        if by_region is not None:
            copy = by_region.get(region)
            if copy is not None and copy.role == OWNER:
                return core.self_id
        manager = core.catalog.volume_manager
        if not manager.has_volume(volume):
            return int(NOBODY)
        table = manager.volume(volume).table
        if region >= len(table) or table.offline[region]:
            return int(NOBODY)
        return int(table.owner[region])

    def up_nodes(self) -> tuple[int, ...]:
        """By the catalog of this node."""
        return self.core.catalog.up_nodes()

    def send(self, peer: int, message: object) -> bool:
        """To a node."""
        return self.bus.send(peer, message)

    def local(self, piece: Piece) -> None:
        """A piece for a region of this node."""
        if piece.record.seq:
            piece.record = piece.record.unnumbered()
        self._operate(piece.record, piece)

    def why(self, volume: int, region: int) -> StorageError:
        """Why a request waited too long."""
        core = self.core
        manager = core.catalog.volume_manager
        if not manager.has_volume(volume):
            return NotOwner(region=region, owner=NOBODY)
        virtual = manager.volume(volume)
        row = virtual.table.row(region, core.self_id)
        if row.offline:
            waiting = ", ".join(f"n{node}" for node in range(8) if row.is_member(node))
            return RegionOffline(
                volume=virtual.name, region=region, waiting_for=waiting or "an operator"
            )
        if core.leader_id == NOBODY or not core.active:
            return NoQuorum(
                f"volume {virtual.name} region {region}: no majority of the nodes answers"
            )
        return RequestTimeout(
            f"volume {virtual.name} region {region}: n{row.owner} did not answer in time"
        )

    def _local_sync(self, done: Callable[[], None]) -> None:
        if self.store is None:
            done()
        else:
            self.store.journal.request_sync(done)

    # ------------------------------------------------------------------ operations at the owner

    def _operate(self, record: Record, token: Any) -> None:
        if record.view:
            self.views.operate(record, token)
            return
        if record.kind >= op.READ:
            if record.kind == op.READ:
                self._read(record, token)
            else:
                self._status(record, token)
            return
        store = self.store
        if store is not None and not store.has_room:  # without a store the core knows what to say
            self.waits += 1
            self._no_room.append(token)
            return
        self.core.write(record, token, self.clock.now_ns())

    def room_again(self) -> None:
        """Journal and cache take writes again."""
        for _ in range(len(self._no_room)):
            self._again(self._no_room.popleft())
        self.turn_soon()

    def _again(self, token: Any) -> None:
        if type(token) is Piece:
            self.router.again(token, self.clock.now_ns())
        else:
            self._operate(token.record, token)

    def _read(self, record: Record, token: Any) -> None:
        core, store = self.core, self.store
        copy = core.copy_for_host(record.volume, record.region, self.clock.now_ns())
        if isinstance(copy, StorageError):
            self.answer(token, copy, b"")
            return
        key = (record.volume, record.region)
        if store is None or key not in store:
            self.drain()  # the region is made by an effect that was not performed yet
        if store is None or not core.may_read(copy, self.clock.now_ns()):
            core.wait_to_read(copy, token)
            return
        data = bytearray(record.length)
        epoch = copy.epoch
        try:
            done = store.read_now(key, record.offset, record.length, memoryview(data))
        except StorageError as error:
            self.answer(token, error, b"")
            return
        if done:
            self.read_ended(copy, epoch, record, token, data)
        else:
            self.supervisor.start(self._read_slowly(copy, record, token, data), name="read")

    async def _read_slowly(
        self, copy: RegionCopy, record: Record, token: Any, data: bytearray
    ) -> None:
        assert self.store is not None
        key, epoch = (record.volume, record.region), copy.epoch
        try:
            await self.store.read(key, record.offset, record.length, memoryview(data))
        except StorageError as error:
            self.answer(token, error, b"")
        else:
            self.read_ended(copy, epoch, record, token, data)
        self.turn_soon()

    def read_ended(
        self, copy: RegionCopy, epoch: int, record: Record, token: Any, data: bytearray
    ) -> None:
        """The bytes of a read, of the volume or of a snapshot, are in hand."""
        # The lease must hold with the data in hand, not only before it was fetched (P4).
        if copy.epoch != epoch or copy.role != OWNER:
            self._again(token)
        elif not self.core.may_read(copy, self.clock.now_ns()):
            self.core.wait_to_read(copy, token)
        else:
            self.answer(token, None, data)

    def _status(self, record: Record, token: Any) -> None:
        core, store = self.core, self.store
        copy = core.copy_for_host(record.volume, record.region, self.clock.now_ns())
        if isinstance(copy, StorageError):
            self.answer(token, copy, b"")
            return
        key = (record.volume, record.region)
        if store is None or key not in store:
            self.drain()
        if store is None or not core.may_read(copy, self.clock.now_ns()):
            core.wait_to_read(copy, token)
            return
        self.answer(token, None, cut_runs(store.allocation(key), record))

    def answer(self, token: Any, error: StorageError | None, data: Buffer) -> None:
        """The operation behind the token is over here."""
        moved = isinstance(error, NotOwner | RegionOffline)
        if type(token) is Piece:
            if moved:
                self.router.moved(token, self.clock.now_ns())
            else:
                self.router.finished(token, error, data)
            return
        record = token.record
        hint = int(NOBODY)
        if error is None:
            outcome = op.OK
        elif moved:
            outcome = op.NOT_OWNER
            hint = error.owner if isinstance(error, NotOwner) else hint
            data = b""
        else:
            outcome = op.ERROR_DEFINITE if error.definite else op.ERROR_INDEFINITE
            data = f"{error.code}\n{error}".encode()
        self._reply(token.peer, record, outcome, hint, data)

    def _reply(self, peer: int, record: Record, outcome: int, hint: int, data: Buffer) -> None:
        self.remote_pending -= 1
        head = op.pack_reply(
            record.client, record.number, outcome, hint, self.core.catalog.version, len(data)
        )
        replies = self._replies.get(peer)
        if replies is None:
            replies = self._replies[peer] = []
            self._reply_counts[peer] = 0
        replies.append(head)
        if len(data):
            replies.append(data)
        self._reply_counts[peer] += 1
        self.turn_soon()

    # ------------------------------------------------------------------ messages

    def message(self, peer: int, message: object) -> None:
        """From the bus."""
        handle = self._on.get(type(message))
        if handle is not None:
            handle(peer, message)
        else:
            self.core.message(peer, message, self.clock.now_ns())
            if not self.effects:
                # Most messages of an idle cluster: a turn for each would be its cost. Of a beacon
                # not even the time of the next tick comes nearer.
                if type(message) is not wire.Beacon:
                    self._on_control(None)
                return
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def link(self, peer: int, session: int) -> None:
        """A link came (with its session) or went (0)."""
        now_ns = self.clock.now_ns()
        if peer < 256:
            self.core.link(peer, session, now_ns)
            self.router.link_changed(peer, session, now_ns)
            self.questions.link(peer, session)
        self.turn_soon()

    def _on_replicate_batch(self, peer: int, message: wire.ReplicateBatch) -> None:
        if self.store is None:
            return
        view = memoryview(message.data)  # type: ignore[arg-type]
        at = 0
        now_ns = self.clock.now_ns()
        replicate = self.core.replicate
        for _ in range(message.count):
            record, epoch, committed, at = op.unpack_record(view, at)
            replicate(peer, record, epoch, committed, now_ns)
        if at != len(view):
            raise RemoteProtocolError("bytes follow the last record of a batch")

    def _on_host_batch(self, peer: int, message: wire.HostBatch) -> None:
        view = memoryview(message.data)  # type: ignore[arg-type]
        at = 0
        manager = self.core.catalog.volume_manager
        for _ in range(message.count):
            record, at = op.unpack_request(view, at)
            token = Remote(peer, record)
            if self.remote_pending >= REMOTE_PENDING_MAX:
                full = Overloaded("too many operations of other nodes and hosts wait here")
                self.remote_pending += 1
                self.answer(token, full, b"")
                continue
            self.remote_pending += 1
            if manager.has_volume(record.volume):
                virtual = manager.volume(record.volume)
                if (
                    record.offset + record.length > virtual.region_bytes
                    or record.offset % 512
                    or record.length % 512
                    or not record.length
                ):
                    raise RemoteProtocolError("a host request is not whole sectors of a region")
            self._operate(record, token)

    def _on_host_replies(self, peer: int, message: wire.HostReplies) -> None:
        self.router.replies(peer, message, self.clock.now_ns())

    def _on_sync_request(self, peer: int, message: wire.SyncRequest) -> None:
        def synced() -> None:
            self.bus.send(peer, wire.SyncReply(message.request))

        # What was acknowledged in this turn is appended first: the sync must cover it.
        self.drain()
        self.flush_records()
        self._local_sync(synced)

    def _on_sync_reply(self, peer: int, message: wire.SyncReply) -> None:
        self.router.sync_reply(peer, message)

    def _on_transfer_pages(self, peer: int, message: wire.TransferPages) -> None:
        if self.pages is not None:
            self.pages.received(peer, message)

    def _on_transfer_pages_ack(self, peer: int, message: wire.TransferPagesAck) -> None:
        if self.pages is not None:
            self.pages.acknowledged(peer, message)

    def _on_transfer_views(self, peer: int, message: wire.TransferViews) -> None:
        if self.pages is not None:
            self.pages.views.received(peer, message)

    def _on_transfer_views_ack(self, peer: int, message: wire.TransferViewsAck) -> None:
        if self.pages is not None:
            self.pages.views.acknowledged(peer, message)

    def _topology(self, arguments: bytes) -> bytes:
        name, known = topology.unpack_query(arguments)
        catalog = self.core.catalog
        if not self.core.active:
            raise NoQuorum("this node has not joined the cluster yet")
        volume, view = catalog.find_view(name)
        if view is not None:
            require_readable(view)
        if catalog.version <= known:
            return topology.pack_unchanged(catalog.version)
        table = volume.table
        owners = np.where(table.offline, NOBODY, table.owner).astype(np.uint8).tobytes()
        return topology.pack_topology(
            topology.Topology(
                version=catalog.version,
                volume=int(volume.volume),
                size_bytes=(
                    volume.size_bytes
                    if view is None
                    else catalog.snapshots.size_of(volume.volume, view.view, volume)
                ),
                region_bytes=volume.region_bytes,
                block_min_bytes=volume.sector_bytes,
                read_only=view is not None and not view.writable,
                owners=owners,
                up_nodes=catalog.up_nodes(),
                view=0 if view is None else view.view,
            )
        )

    # ------------------------------------------------------------------ effects of regions

    def _on_store(self, effect: fx.Store) -> None:
        copy, record = effect.copy, effect.record
        if effect.peers or not record.header:
            if not record.data_crc and record.kind == op.WRITE:
                record.data_crc = crc32c(record.data)
            op.pack_record(record, copy.epoch, copy.committed)
            copy.commit_told = copy.committed
        for peer in effect.peers:
            buffers = self._records.get(peer)
            if buffers is None:
                buffers = self._records[peer] = []
                self._record_counts[peer] = 0
            buffers.append(record.header)
            if len(record.data):
                buffers.append(record.data)
            self._record_counts[peer] += 1
        if effect.journal:
            self._to_journal.append((copy, record))

    def _on_apply(self, effect: fx.Apply) -> None:
        copy = effect.copy
        if copy.role == OWNER:
            self.core.commit_dirty[copy] = None
        elif self._to_journal:
            # Nobody waits for a joiner: a record may be committed in the turn in which it came.
            self._append_collected()
        assert self.store is not None
        self.store.apply(effect.record)

    def _on_ack(self, effect: fx.Ack) -> None:
        copy = effect.copy
        acks = self._acks.get(effect.peer)
        if acks is None:
            acks = self._acks[effect.peer] = {}
        # A later acknowledgement of the turn takes the place of an earlier one of its region.
        acks[copy.volume, copy.region] = (
            copy.volume, copy.region, effect.epoch, effect.seq, effect.synced, effect.session
        )  # fmt: skip

    def _on_reply(self, effect: fx.Reply) -> None:
        token, error = effect.token, effect.error
        if type(token) is Piece and error is None:
            self.router.finished(token, None, None)
        else:
            self.answer(token, error, b"")

    def _on_moved(self, effect: fx.Moved) -> None:
        token = effect.token
        if type(token) is Piece:
            self.router.moved(token, self.clock.now_ns())
        else:
            self._reply(token.peer, token.record, op.MOVED, effect.owner, b"")

    def _on_resume(self, effect: fx.Resume) -> None:
        self._again(effect.token)

    def _on_sync_record(self, effect: fx.SyncRecord) -> None:
        copy = effect.copy
        assert self.store is not None

        def synced() -> None:
            copy.record_synced(effect.seq, effect.epoch, effect.era)
            self.turn_soon()

        # Not up to what waits for room: the room may be made by what this record holds up.
        journal = self.store.journal
        journal.request_sync(synced, up_to=journal.written_lsn)

    def _on_truncate(self, effect: fx.Truncate) -> None:
        self._append_collected()
        assert self.store is not None
        self.store.truncate((effect.copy.volume, effect.copy.region), effect.from_seq)

    def _on_send(self, effect: fx.Send) -> None:
        self.bus.send(effect.peer, effect.message)

    def _on_send_beacons(self, effect: fx.SendBeacons) -> None:
        for peer, beacon in effect.beacons:
            self.bus.send(peer, beacon)

    def _on_send_begin(self, effect: fx.SendBegin) -> None:
        self._send_collected()
        self.pages.begin(effect)

    def _on_send_position(self, effect: fx.SendPosition) -> None:
        copy = effect.copy
        assert self.store is not None
        if self.store.journal.is_full and not copy.spoiled:
            # What a session sends would wait for room behind what the last one has sent, for ever
            # more with each. The owner, not answered, asks again a little later. A copy that has
            # lost a page may be what holds the journal up, until it is filled anew.
            state_transfer.wait_for_room(copy)
            return
        complete, seq, epoch = effect.position
        suspects = b"" if complete or not seq else self.store.suspects((copy.volume, copy.region))
        position = wire.TransferPosition(
            copy.volume, copy.region, effect.epoch, effect.session, complete, epoch, seq, suspects
        )
        self.bus.send(effect.peer, position)

    def _on_copy_pages(self, effect: fx.CopyPages) -> None:
        self.pages.copy(effect.copy, effect.peer, effect.session)

    def _on_reset_region(self, effect: fx.ResetRegion) -> None:
        copy, begin = effect.copy, effect.begin
        assert self.store is not None
        self._append_collected()
        key = (copy.volume, copy.region)
        bitmaps = bytes(begin.data)  # type: ignore[arg-type]
        allocated, wanted = bitmaps[: len(bitmaps) // 2], bitmaps[len(bitmaps) // 2 :]
        by_delta = begin.mode == BY_DELTA
        place = copy.place or (-1, -1)
        note = TransferBeginNote(
            copy.volume,
            copy.region,
            begin.epoch,
            begin.session,
            begin.base_epoch,
            begin.base_seq,
            allocated,
            [place[0], place[1], begin.clients, begin.line],
            (begin.since_seq, begin.since_epoch) if by_delta else (0, 0),
            self.store.suspects_of(key, allocated, wanted) if by_delta else b"",
        )
        self.store.begin_transfer(note)

    def opaque_state(self, copy: RegionCopy) -> list[Any]:
        """What the store keeps for the core: the place of the copy, its client table, its line."""
        place = copy.place or (-1, -1)
        return [place[0], place[1], copy.clients.state(), copy.line.ends]

    def _on_end_transfer(self, effect: fx.EndTransfer) -> None:
        self.supervisor.start(
            self.pages.end_transfer(effect.copy, effect.session), name="end_transfer"
        )

    def _on_open_region(self, effect: fx.OpenRegion) -> None:
        self.pages.open_region(effect.copy, effect.fresh)

    def _on_close_region(self, effect: fx.CloseRegion) -> None:
        self._append_collected()
        assert self.store is not None
        self.store.drop_region((effect.copy.volume, effect.copy.region))

    def _on_topology(self, effect: fx.TopologyChanged) -> None:
        self.router.topology_changed(self.clock.now_ns())
        self._on_control(effect)
