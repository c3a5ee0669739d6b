"""shell: a simulated host: a seeded workload behind a router, reached by messages of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from base.errors import NoQuorum, StorageError
from base.ids import NOBODY
from base.units import NS_PER_MS, NS_PER_S
from cluster.catalog import Catalog
from host.export import HostRequest, RequestKind
from host.router import Piece, Router
from scenario.history import Outcome
from scenario.workload import Host, HostOperation, OperationKind
from sim.kernel import HostOps, Kernel, clone
from transport import messages as wire
from transport.operation import Record

if TYPE_CHECKING:
    from scenario.cut_checks import CutChecks

CLIENT_FIRST = 1 << 16
TIMEOUT_NS = 20 * NS_PER_S
RETRY_NS = 10 * NS_PER_MS
IDLE_NS = 50 * NS_PER_MS

_BATCH = wire.HostBatch(0, b"")
_REQUEST_KIND = {
    OperationKind.READ: RequestKind.READ,
    OperationKind.WRITE: RequestKind.WRITE,
    OperationKind.FLUSH: RequestKind.FLUSH,
    OperationKind.TRIM: RequestKind.TRIM,
    OperationKind.ZERO: RequestKind.ZERO,
}


class SimHost:
    """One attached host: a seeded workload behind a router, reached by messages."""

    def __init__(self, kernel: Kernel, number: int, workload: Host, region_bytes: int) -> None:
        self.kernel = kernel
        self.client = CLIENT_FIRST + number
        self.workload = workload
        self.region_bytes = region_bytes
        self.alive = True
        self.life = 0
        self._rng = kernel.streams.stream(f"host{number}")
        self._owners: dict[int, tuple[int, ...]] = {}
        self._up: tuple[int, ...] = ()
        self._batch: list[Record] = []
        self._seen = -1  # version of the catalog that it looked at
        self.cuts: CutChecks | None = None
        self.longest_ns = 0  # the longest that a request took
        self.router = Router(
            client=self.client, self_id=-1, ways=self, timeout_ns=TIMEOUT_NS, local_sync=None
        )
        kernel.endpoints[self.client] = self

    # Ways of the router.

    def owner_of(self, volume: int, region: int) -> int:
        """By the last look at a catalog."""
        owners = self._owners.get(volume, ())
        return owners[region] if region < len(owners) else int(NOBODY)

    def up_nodes(self) -> tuple[int, ...]:
        """By the last look at a catalog."""
        return self._up

    def send(self, peer: int, message: object) -> bool:
        """Host requests travel as records."""
        kernel = self.kernel
        if not kernel.endpoints[peer].alive or not kernel.session_of(self.client, peer):
            return False
        if isinstance(message, wire.HostBatch):
            self.kernel.send(self.client, peer, HostOps(self._batch))
        else:
            self.kernel.send(self.client, peer, message)
        return True

    def local(self, piece: Piece) -> None:
        """No region is owned by a host."""
        raise AssertionError(piece)

    def why(self, volume: int, region: int) -> StorageError:
        """The kernel's hosts do not read it."""
        return NoQuorum(f"region {region} of volume {volume} has no owner")

    # Events.

    def deliver(self, life: int, sender: int, message: object) -> None:
        """An answer."""
        if type(message) is wire.HostReplies:
            self.router.replies(sender, message, self.kernel.now_ns)
        elif isinstance(message, wire.SyncReply):
            self.router.sync_reply(sender, message)
        self.turn()

    def deliver_link(self, life: int, peer: int, session: int) -> None:
        """A link came or went."""
        self.router.link_changed(peer, session, self.kernel.now_ns)
        self.turn()

    def tick(self) -> None:
        """Look at a catalog, try again what waits, start what is due."""
        kernel = self.kernel
        now_ns = kernel.now_ns
        alive = [node for node in kernel.nodes if node.alive and not node.paused]
        if alive:
            catalog = alive[self._rng.below(len(alive))].core.catalog
            if catalog.version != self._seen:
                self._look_at(catalog)
        self.router.tick(now_ns)
        self.turn()
        wake_ns = self.workload.wake_ns()
        # Answers wake the host by themselves; it looks again for what waits, or for its next turn.
        next_ns = now_ns + (RETRY_NS if len(self.router) else IDLE_NS)
        if wake_ns is not None and now_ns < wake_ns < next_ns:
            next_ns = wake_ns
        kernel.at(next_ns, self.tick)

    def _look_at(self, catalog: Catalog) -> None:
        self._seen = catalog.version
        for volume, virtual in catalog.volumes.items():
            table = virtual.table
            self._owners[volume] = tuple(
                int(NOBODY) if offline else int(owner)
                for owner, offline in zip(table.owner.tolist(), table.offline.tolist(), strict=True)
            )
        self._up = catalog.up_nodes()
        self.router.topology_changed(self.kernel.now_ns)

    def turn(self) -> None:
        """Everything that may be sent now, as one message per owner."""
        now_ns = self.kernel.now_ns
        while (operation := self.workload.next_operation(now_ns)) is not None:
            self._submit(operation)
        router = self.router
        if not router.has_out:
            return
        out = router.take_out()
        for owner in sorted(out):
            pieces = out[owner]
            self._batch = [clone(piece.record) for piece in pieces]
            router.sent(owner, pieces, self.send(owner, _BATCH), now_ns)

    def _submit(self, operation: HostOperation) -> None:
        started_ns = self.kernel.now_ns

        def done(_request: HostRequest, error: StorageError | None, result: Any) -> None:
            outcome = Outcome.OK
            if error is not None:
                outcome = Outcome.FAILED if error.definite else Outcome.INDEFINITE
            data = b"".join(bytes(part) for part in result) if result else b""
            self.longest_ns = max(self.longest_ns, self.kernel.now_ns - started_ns)
            if self.cuts is not None and outcome is Outcome.OK:
                self.cuts.answered(operation)
            self.workload.completed(operation, outcome, data, now_ns=self.kernel.now_ns)

        request = HostRequest(
            _REQUEST_KIND[operation.kind], operation.offset, operation.length, done,
            operation.data, operation.fua,
        )  # fmt: skip
        first = self.router.last_number + 1
        if self.cuts is not None:
            # Before the router has it: an operation may be answered at once.
            pieces = range(first, first + 1 + operation.length // self.region_bytes + 1)
            self.cuts.submitted(self.client, pieces, operation)
        self.router.submit(operation.volume, self.region_bytes, request, self.kernel.now_ns)
