"""shell: a simulated host on virtual time: a seeded workload over attached volumes."""

from __future__ import annotations

from typing import Any

from base.errors import StorageError
from host.attach import AttachedVolume
from host.export import HostRequest, RequestKind
from scenario.history import History, Outcome
from scenario.workload import Host, HostConfig, HostOperation, OperationKind
from sim.clock import SimClock
from sim.cluster import SimCluster

_REQUEST_KIND = {
    OperationKind.READ: RequestKind.READ,
    OperationKind.WRITE: RequestKind.WRITE,
    OperationKind.FLUSH: RequestKind.FLUSH,
    OperationKind.TRIM: RequestKind.TRIM,
    OperationKind.ZERO: RequestKind.ZERO,
}


class ClusterHost:
    """One machine with a clock and links of its own, and a workload over some volumes.

    names: of the volumes that the workload knows by number.
    """

    def __init__(self, cluster: SimCluster, number: int, names: dict[int, str]) -> None:
        self.cluster = cluster
        self.number = number
        self.workload: Host
        self.longest_ns = 0  # the longest that a request took
        self._rng = cluster.streams.stream(f"host{number}")
        self._clock = SimClock(cluster.loop)
        self._names = names
        self._views: dict[int, AttachedVolume] = {}
        self._group = cluster.loop.group(f"host{number}")
        self._wake_ns = -1

    async def open(self) -> None:
        """Attach every volume."""
        for volume, name in self._names.items():
            view = AttachedVolume(
                name,
                bus=self.cluster.network.client_bus(self._bus_failed),
                clock=self._clock,
                rng=self._rng,
            )
            await view.open()
            self._views[volume] = view

    def _bus_failed(self, name: str, error: BaseException) -> None:
        self.cluster.loop.call_exception_handler({"message": name, "exception": error})

    def start(self) -> Any:
        """Attach in the background: a task that ends when all volumes are."""
        return self._group.start(self.open(), name=f"host{self.number}.open")

    def run(self, workload: Host) -> None:
        """Begin to issue operations."""
        self.workload = workload
        self._schedule()

    def _schedule(self) -> None:
        wake_ns = self.workload.wake_ns()
        if wake_ns is None:
            return
        wake_ns = max(wake_ns, self.cluster.loop.now_ns)
        if self._wake_ns < 0 or wake_ns < self._wake_ns:
            self._wake_ns = wake_ns
            self._group.call_at_ns(wake_ns, self._turn, wake_ns)

    def _turn(self, wake_ns: int) -> None:
        if wake_ns == self._wake_ns:
            self._wake_ns = -1
        now_ns = self.cluster.loop.now_ns
        while (operation := self.workload.next_operation(now_ns)) is not None:
            self._submit(operation)
        self._schedule()

    def _submit(self, operation: HostOperation) -> None:
        loop = self.cluster.loop
        started_ns = loop.now_ns

        def done(_request: HostRequest, error: StorageError | None, result: Any) -> None:
            outcome = Outcome.OK
            if error is not None:
                outcome = Outcome.FAILED if error.definite else Outcome.INDEFINITE
            data = b"".join(bytes(part) for part in result) if result else b""
            self.longest_ns = max(self.longest_ns, loop.now_ns - started_ns)
            self.workload.completed(operation, outcome, data, now_ns=loop.now_ns)
            loop.call_soon(self._turn, self._wake_ns, context=self._group.context)

        request = HostRequest(
            _REQUEST_KIND[operation.kind], operation.offset, operation.length, done,
            operation.data, operation.fua,
        )  # fmt: skip
        self._views[operation.volume].submit(request)


class Sweep(Host):
    """Reads every block of every volume once, in order."""

    def __init__(self, host: int, config: HostConfig, rng: Any, history: History) -> None:
        super().__init__(host, config, rng, history)
        self._extents = [
            (volume, first, min(config.blocks_max, blocks - first))
            for volume, blocks in config.volumes
            for first in range(0, blocks, config.blocks_max)
        ]

    def _more(self) -> bool:
        return bool(self._extents)

    def _draw(self) -> HostOperation:
        volume, first, count = self._extents.pop(0)
        self._number += 1
        size = self.config.block_bytes
        return HostOperation(
            self.host, self._number, OperationKind.READ, volume, first * size, count * size
        )
