"""step: from host requests to operations at owners, and back, through changes of owners.

A request is cut at region edges and at OPERATION_BYTES_MAX into *pieces*; each is one operation
with a name (client, number) and goes to the owner of its region. A piece that was refused, or whose
link broke, is sent again *unchanged* under the same name, so that it takes effect once; when its
deadline passes the request fails with an error that says whether it may have happened. The ingress
side of a node and `eightfold attach` are both this; only the node has a `local` owner.

`low`, which travels with every operation, tells owners that everything below it was answered or
given up: a piece that failed cannot take effect behind a later write of the same host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from base.device import Buffer
from base.errors import (
    Overloaded,
    RemoteProtocolError,
    RequestTimeout,
    Stopping,
    StorageError,
    from_code,
)
from base.ids import NOBODY
from base.units import NS_PER_MS, MiB
from host.export import HOLE, HostRequest, RequestKind
from host.export import ZERO as READS_ZERO
from transport import operation as op
from transport.messages import HostBatch, HostReplies, SyncReply, SyncRequest
from transport.operation import Record
from transport.permits import Permits

RETRY_NS: Final = 20 * NS_PER_MS
BATCH_BYTES_MAX: Final = 4 << 20

_KIND = {
    RequestKind.READ: op.READ,
    RequestKind.WRITE: op.WRITE,
    RequestKind.TRIM: op.TRIM,
    RequestKind.ZERO: op.ZERO,
    RequestKind.STATUS: op.STATUS,
}


class Ways(Protocol):
    """What a router needs to know and to do."""

    def owner_of(self, volume: int, region: int) -> int:
        """Node that serves the region by what is known now; NOBODY when offline or unknown."""

    def up_nodes(self) -> tuple[int, ...]:
        """Nodes that a flush must ask, ascending."""

    def send(self, peer: int, message: object) -> bool:
        """Hand a message to the bus; False: there is no link and nothing was sent."""

    def local(self, piece: Piece) -> None:
        """Serve a piece here: `owner_of` named this node. Answered by `finished` or `moved`."""

    def why(self, volume: int, region: int) -> StorageError:
        """Why the region is not served now, for the error of a request that waited too long."""


class Piece:
    """One operation on its way. `record.data` is kept until it is over."""

    __slots__ = (
        "at",
        "claimed",
        "deadline_ns",
        "owner",
        "parent",
        "record",
        "retry_ns",
        "sent",
        "ticket",
    )

    def __init__(self, record: Record, parent: Any, at: int, deadline_ns: int) -> None:
        self.record = record
        self.parent = parent
        self.at = at  # byte offset inside the request
        self.deadline_ns = deadline_ns
        self.owner = int(NOBODY)
        self.retry_ns = 0
        self.sent = False  # it may have happened
        self.claimed = int(NOBODY)  # the node of whose permits it holds one
        self.ticket = 0  # its place in the queue for a permit of `owner`


class Whole:
    """A request that was cut into more than one piece."""

    __slots__ = ("error", "left", "parts", "request")

    def __init__(self, request: HostRequest, pieces: int) -> None:
        self.request = request
        self.left = pieces
        self.error: StorageError | None = None
        self.parts: dict[int, Any] = {}


class Flush:
    """A FLUSH: every node that is up must have synced what it had acknowledged before."""

    __slots__ = ("deadline_ns", "number", "request", "waits_for")

    def __init__(self, request: HostRequest, number: int, deadline_ns: int) -> None:
        self.request = request
        self.number = number
        self.deadline_ns = deadline_ns
        self.waits_for: dict[int, None] = {}


class Router:
    """All requests of one client: one node's ingress, or one attached host."""

    def __init__(
        self,
        *,
        client: int,
        self_id: int,
        ways: Ways,
        timeout_ns: int,
        local_sync: Callable[[Callable[[], None]], None] | None,
        requests_max: int = 1024,
        bytes_max: int = 64 * MiB,
    ) -> None:
        """local_sync(done): sync the journal of this node, then call done (None: no journal).
        requests_max, bytes_max: on their way to one owner; what comes beyond waits here."""
        self.client = client
        self._self_id = self_id
        self._ways = ways
        self._timeout_ns = timeout_ns
        self._local_sync = local_sync
        self._number = 0
        self._pieces: dict[int, Piece] = {}
        self._order: deque[int] = deque()
        self._retry: dict[int, Piece] = {}
        self._out: dict[int, list[Piece]] = {}
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self._permits: dict[int, Permits] = {}
        self._flushes: dict[int, Flush] = {}
        self.stopping = False
        self.retries = 0
        self.errors = 0  # pieces that failed

    def __len__(self) -> int:
        return len(self._pieces) + len(self._flushes)

    # ------------------------------------------------------------------ from hosts

    def submit(
        self, volume: int, region_bytes: int, request: HostRequest, now_ns: int, view: int = 0
    ) -> None:
        """Take a request whose extent lies inside the volume, or inside that snapshot (`view`) of
        it. `request.done` follows, once."""
        if self.stopping:
            request.done(Stopping("this node is stopping"))
            return
        kind = request.kind
        if kind is RequestKind.FLUSH:
            self._flush(request, now_ns)
            return
        offset, length = request.offset, request.length
        region, inside = divmod(offset, region_bytes)
        if inside + length <= region_bytes and length <= op.OPERATION_BYTES_MAX:
            self._start(
                volume, view, region, inside, length, request.data, request, 0, request, now_ns
            )
            return
        self._cut(volume, view, region_bytes, request, now_ns)

    def _cut(
        self, volume: int, view: int, region_bytes: int, request: HostRequest, now_ns: int
    ) -> None:
        bounds = []
        offset, end = request.offset, request.offset + request.length
        while offset < end:
            region, inside = divmod(offset, region_bytes)
            length = min(region_bytes - inside, end - offset, op.OPERATION_BYTES_MAX)
            bounds.append((region, inside, length, offset - request.offset))
            offset += length
        whole = Whole(request, len(bounds))
        data = memoryview(request.data)
        for region, inside, length, at in bounds:
            piece = data[at : at + length] if len(data) else b""
            self._start(volume, view, region, inside, length, piece, request, at, whole, now_ns)

    def _start(
        self,
        volume: int,
        view: int,
        region: int,
        inside: int,
        length: int,
        data: Buffer,
        request: HostRequest,
        at: int,
        parent: Any,
        now_ns: int,
    ) -> None:
        number = self._number = self._number + 1
        flags = (op.SYNC if request.fua else 0) | (op.NO_HOLE if request.no_hole else 0)
        record = Record(
            volume, region, _KIND[request.kind], flags, inside, length, self.client, number,
            self.low(), data, view=view,
        )  # fmt: skip
        piece = Piece(record, parent, at, now_ns + self._timeout_ns)
        self._pieces[number] = piece
        self._order.append(number)
        self._dispatch(piece, now_ns)

    @property
    def last_number(self) -> int:
        """Of the last piece or flush that it took."""
        return self._number

    def low(self) -> int:
        """Every number below it has been answered or given up."""
        order, pieces = self._order, self._pieces
        while order and order[0] not in pieces:
            order.popleft()
        return order[0] if order else self._number

    def _dispatch(self, piece: Piece, now_ns: int) -> None:
        record = piece.record
        owner = self._ways.owner_of(record.volume, record.region)
        if owner != piece.owner:
            if piece.claimed != NOBODY or piece.ticket:
                self._release(piece)
            piece.owner = owner
        if owner == self._self_id:
            piece.sent = True
            self._ways.local(piece)
        elif owner == NOBODY:
            self._later(piece, now_ns)
        else:
            self._claim(piece, owner)

    def _claim(self, piece: Piece, owner: int) -> None:
        """Send it with this turn if the owner's permits allow it, else when one comes free."""
        if piece.claimed == owner:
            self._out.setdefault(owner, []).append(piece)
            return
        if piece.claimed != NOBODY or piece.ticket:
            self._release(piece)
        permits = self._permits.get(owner)
        if permits is None:
            permits = self._permits[owner] = Permits(self._requests_max, self._bytes_max)
        if permits.try_claim(piece.record.length):
            piece.claimed = owner
            self._out.setdefault(owner, []).append(piece)
            return

        def granted() -> None:
            piece.ticket = 0
            piece.claimed = owner
            self._out.setdefault(owner, []).append(piece)

        piece.ticket = permits.wait(piece.record.length, granted)
        if not piece.ticket:
            self.finished(piece, Overloaded(f"too many requests wait for n{owner}"), None)

    def _release(self, piece: Piece) -> None:
        """Give back its permit, or its place in the queue for one."""
        if piece.ticket:
            ticket, piece.ticket = piece.ticket, 0
            self._permits[piece.owner].forget(ticket)
        elif piece.claimed != NOBODY:
            node, piece.claimed = piece.claimed, int(NOBODY)
            self._permits[node].release(piece.record.length)

    def _later(self, piece: Piece, now_ns: int) -> None:
        self._release(piece)
        piece.retry_ns = now_ns + RETRY_NS
        self._retry[piece.record.number] = piece
        self.retries += 1

    # ------------------------------------------------------------------ one turn of the loop

    def flush_out(self, now_ns: int) -> None:
        """Send what this turn collected: one message per owner, or several when it is much."""
        if not self._out:
            return
        out = self.take_out()
        for owner in sorted(out):
            buffers: list[Buffer] = []
            pieces: list[Piece] = []
            size = 0
            for piece in out[owner]:
                record = piece.record
                buffers.append(op.pack_request(record))
                if len(record.data):
                    buffers.append(record.data)
                    size += len(record.data)
                pieces.append(piece)
                if size >= BATCH_BYTES_MAX:
                    self._send_batch(owner, pieces, buffers, now_ns)
                    buffers, pieces, size = [], [], 0
            if pieces:
                self._send_batch(owner, pieces, buffers, now_ns)

    def _send_batch(
        self, owner: int, pieces: list[Piece], buffers: list[Buffer], now_ns: int
    ) -> None:
        taken = self._ways.send(owner, HostBatch(len(pieces), tuple(buffers)))
        self.sent(owner, pieces, taken, now_ns)

    @property
    def has_out(self) -> bool:
        """This turn has collected something."""
        return bool(self._out)

    def take_out(self) -> dict[int, list[Piece]]:
        """What this turn collected, by owner, for a caller that sends in a way of its own."""
        out, self._out = self._out, {}
        return out

    def sent(self, owner: int, pieces: list[Piece], taken: bool, now_ns: int) -> None:
        """The bus took the pieces for that owner, or did not."""
        for piece in pieces:
            if taken:
                piece.sent = True
            else:
                self._later(piece, now_ns)

    # ------------------------------------------------------------------ answers

    def replies(self, peer: int, message: HostReplies, now_ns: int) -> None:
        """Answers from an owner. RemoteProtocolError: one is damaged or of another length; what it
        was for goes on as if it had not come."""
        view = memoryview(message.data)  # type: ignore[arg-type]
        at = 0
        for _ in range(message.count):
            client, number, outcome, _, _, data, at = op.unpack_reply(view, at)
            piece = self._pieces.get(number)
            if client != self.client or piece is None or piece.owner != peer:
                continue
            if outcome == op.OK:
                if piece.record.kind >= op.READ:
                    _check_length(piece.record, data)
                self.finished(piece, None, data)
            elif outcome in (op.NOT_OWNER, op.MOVED):
                if outcome == op.NOT_OWNER and not piece.retry_ns:
                    piece.sent = False
                self._later(piece, now_ns)
            else:
                code, _, text = bytes(data).decode("utf-8", "replace").partition("\n")
                self.finished(piece, from_code(code, text), None)

    def moved(self, piece: Piece, now_ns: int) -> None:
        """This node does not own the region (any more): to whom it belongs, unchanged."""
        if piece.record.number in self._pieces:
            self._later(piece, now_ns)

    def again(self, piece: Piece, now_ns: int) -> None:
        """The owner of the piece, this node, asks for it once more."""
        if piece.record.number in self._pieces:
            self._dispatch(piece, now_ns)

    def finished(self, piece: Piece, error: StorageError | None, data: Any) -> None:
        """The piece is over. data: READ: bytes; STATUS: packed runs; else nothing."""
        record = piece.record
        if self._pieces.pop(record.number, None) is None:
            return
        self._release(piece)
        if error is not None:
            self.errors += 1
        if error is None and record.kind >= op.READ:
            data = _unpack_runs(data) if record.kind == op.STATUS else data
            assert len(data), "a read or a status was answered with nothing"
        parent = piece.parent
        if type(parent) is HostRequest:
            if error is not None or record.kind < op.READ:
                parent.done(error)
            else:
                parent.done(None, data if record.kind == op.STATUS else (data,))
            return
        parent.left -= 1
        if error is not None:
            parent.error = parent.error or error
        else:
            parent.parts[piece.at] = data
        if parent.left == 0:
            _finish_whole(parent)

    # ------------------------------------------------------------------ time and change

    def topology_changed(self, now_ns: int) -> None:
        """Owners or nodes changed: what waits is tried at once, and what was sent to a node that
        owns the region no more goes to its successor: that node may be stopped and never answer."""
        retry, self._retry = self._retry, {}
        for number in sorted(retry):
            if number in self._pieces:
                self._dispatch(retry[number], now_ns)
        for number in list(self._pieces):
            piece = self._pieces.get(number)
            if piece is None or not piece.sent or number in retry or number in self._retry:
                continue
            if piece.owner not in (self._self_id, NOBODY):
                owner = self._ways.owner_of(piece.record.volume, piece.record.region)
                if owner not in (piece.owner, NOBODY):
                    self.retries += 1
                    self._dispatch(piece, now_ns)
        up = self._ways.up_nodes()
        for flush in list(self._flushes.values()):
            for node in list(flush.waits_for):
                if node not in up:
                    del flush.waits_for[node]
            self._maybe_flushed(flush)

    def _follow(self, now_ns: int) -> None:
        # A stopped process keeps its links and answers nothing: without this its requests would
        # wait for it until their deadline. What a node of this process owns, its core answers.
        owner_of = self._ways.owner_of
        for number in list(self._pieces):
            piece = self._pieces.get(number)
            if piece is None or not piece.sent or piece.owner == self._self_id:
                continue
            owner = owner_of(piece.record.volume, piece.record.region)
            if owner not in (piece.owner, NOBODY):
                piece.retry_ns = now_ns  # from now on a refusal does not mean that it never was
                self.retries += 1
                self._dispatch(piece, now_ns)

    def link_changed(self, peer: int, session: int, now_ns: int) -> None:
        """A link broke or has a new session: what was asked over the old one is asked again."""
        for number in sorted(self._pieces):
            piece = self._pieces[number]
            if piece.owner == peer and piece.sent and number not in self._retry:
                self._later(piece, now_ns)
        if session:
            for flush in self._flushes.values():
                if peer in flush.waits_for:
                    self._ways.send(peer, SyncRequest(flush.number))

    def tick(self, now_ns: int) -> None:
        """To be called every RETRY_NS or so while `len(self)`."""
        if self._retry:
            due = [number for number, piece in self._retry.items() if now_ns >= piece.retry_ns]
            for number in sorted(due):
                piece = self._retry.pop(number)
                if number in self._pieces and now_ns < piece.deadline_ns:
                    self._dispatch(piece, now_ns)
        order = self._order
        while order:
            piece_or_none = self._pieces.get(order[0])
            if piece_or_none is None:
                order.popleft()
            elif now_ns >= piece_or_none.deadline_ns:
                self._give_up(piece_or_none)
            else:
                break
        for flush in list(self._flushes.values()) if self._flushes else ():
            if now_ns >= flush.deadline_ns:
                del self._flushes[flush.number]
                nodes = ", ".join(f"n{node}" for node in flush.waits_for)
                flush.request.done(RequestTimeout(f"flush: no answer from {nodes} in time"))

    def _give_up(self, piece: Piece) -> None:
        record = piece.record
        self._retry.pop(record.number, None)
        why = self._ways.why(record.volume, record.region)
        error: StorageError = why
        if record.kind < op.READ and piece.sent:
            error = RequestTimeout(f"no answer in time, the write may have happened: {why}")
        self.finished(piece, error, None)

    def close(self) -> None:
        """Fail what is left."""
        self.stopping = True
        for number in sorted(self._pieces):
            piece = self._pieces.get(number)
            if piece is not None:
                error: StorageError = Stopping("the node stopped")
                if piece.sent and piece.record.kind < op.READ:
                    error = RequestTimeout("the node stopped, the write may have happened")
                self.finished(piece, error, None)
        for flush in list(self._flushes.values()):
            flush.request.done(Stopping("the node stopped"))
        self._flushes.clear()
        self._retry.clear()

    # ------------------------------------------------------------------ flush

    def _flush(self, request: HostRequest, now_ns: int) -> None:
        number = self._number = self._number + 1
        flush = Flush(request, number, now_ns + self._timeout_ns)
        self._flushes[number] = flush
        nodes = self._ways.up_nodes()
        flush.waits_for = dict.fromkeys(nodes)
        for node in nodes:
            if node != self._self_id:
                self._ways.send(node, SyncRequest(number))
        if self._local_sync is not None and self._self_id in flush.waits_for:
            self._local_sync(lambda: self._synced(number, self._self_id))
        if not nodes:
            del self._flushes[number]
            request.done(Overloaded("no node is up"))

    def sync_reply(self, peer: int, message: SyncReply) -> None:
        """A node has synced."""
        self._synced(message.request, peer)

    def _synced(self, number: int, node: int) -> None:
        flush = self._flushes.get(number)
        if flush is not None and node in flush.waits_for:
            del flush.waits_for[node]
            self._maybe_flushed(flush)

    def _maybe_flushed(self, flush: Flush) -> None:
        if not flush.waits_for and self._flushes.pop(flush.number, None) is not None:
            flush.request.done(None)


def _finish_whole(whole: Whole) -> None:
    request = whole.request
    if whole.error is not None:
        request.done(whole.error)
    elif request.kind is RequestKind.READ:
        request.done(None, tuple(whole.parts[at] for at in sorted(whole.parts)))
    elif request.kind is RequestKind.STATUS:
        runs = [run for at in sorted(whole.parts) for run in whole.parts[at]]
        request.done(None, merge_runs(runs))
    else:
        request.done(None)


def merge_runs(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Adjacent runs of equal flags as one."""
    merged: list[tuple[int, int]] = []
    for length, flags in runs:
        if merged and merged[-1][1] == flags:
            merged[-1] = (merged[-1][0] + length, flags)
        else:
            merged.append((length, flags))
    return merged


def pack_runs(runs: list[tuple[int, bool]]) -> bytes:
    """(length in bytes, allocated) as STATUS replies carry them: u32 with the top bit set when
    allocated."""
    return b"".join((length | allocated << 31).to_bytes(4, "little") for length, allocated in runs)


def _check_length(record: Record, data: memoryview) -> None:
    """A host would take what follows a short reply for something else."""
    if record.kind == op.READ:
        length = len(data)
    else:
        length = sum(run for run, _ in _unpack_runs(data)) if len(data) % 4 == 0 else -1
    if length != record.length:
        raise RemoteProtocolError(f"the reply to {record} is of another length")


def _unpack_runs(data: Any) -> list[tuple[int, int]]:
    view = memoryview(data)
    runs = []
    for at in range(0, len(view) - 3, 4):
        value = int.from_bytes(view[at : at + 4], "little")
        length = value & 0x7FFFFFFF
        if length:
            runs.append((length, 0 if value >> 31 else HOLE | READS_ZERO))
    return runs
