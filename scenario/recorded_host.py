"""shell: seeded hosts of a real cluster that record what they saw, for the checkers.

The same workload as in simulation (`scenario.workload`), behind one of two *doors*: the attached
side, which goes to owners and repeats what was not answered under the same name; or NBD at one node
after the other, as any other host does. Behind NBD an operation without an answer may happen
whenever the node that took it goes on, so its outcome stays unknown for ever: give such hosts
`attempts_max=1`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from base.clock import Clock
from base.errors import (
    LinkLost,
    NotConnected,
    NotFound,
    RequestTimeout,
    Stopping,
    StorageError,
)
from base.tasks import Supervisor
from base.units import NS_PER_MS, NS_PER_S
from host.attach import AttachedVolume
from host.export import Hole, HostRequest, RequestKind, Result
from host.nbd_client import NbdClient
from scenario.history import Outcome
from scenario.workload import Host, HostOperation, OperationKind

REQUEST_KIND: Final = {
    OperationKind.READ: RequestKind.READ,
    OperationKind.WRITE: RequestKind.WRITE,
    OperationKind.FLUSH: RequestKind.FLUSH,
    OperationKind.TRIM: RequestKind.TRIM,
    OperationKind.ZERO: RequestKind.ZERO,
}

_PATH_LOST: Final = (LinkLost, NotConnected, RequestTimeout, Stopping)


class Door(Protocol):
    """How a host reaches one volume."""

    async def open(self) -> None:
        """Before anything else."""

    async def perform(self, operation: HostOperation) -> bytes:
        """One attempt; what a read returned. StorageError says whether it may have happened."""

    async def close(self) -> None:
        """The last call."""


class AttachedDoor:
    """Through the host side of the cluster."""

    def __init__(self, view: AttachedVolume) -> None:
        self._view = view

    async def open(self) -> None:
        """Wait for the first topology."""
        await self._view.open()

    async def perform(self, operation: HostOperation) -> bytes:
        """It is repeated inside, until it times out."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(_request: HostRequest, error: StorageError | None, result: Result) -> None:
            if answered.done():
                return  # nobody waits any more
            if error is not None:
                answered.set_exception(error)
            else:
                parts = result or ()
                answered.set_result(b"".join(_bytes(part) for part in parts))

        self._view.submit(
            HostRequest(
                REQUEST_KIND[operation.kind], operation.offset, operation.length, done,
                operation.data, operation.fua,
            )
        )  # fmt: skip
        return await answered

    async def close(self) -> None:
        """What is left fails."""
        await self._view.close()


def _bytes(part: Any) -> bytes:
    return bytes(part.length) if isinstance(part, Hole) else bytes(part)


class NbdDoor:
    """NBD at the first of the addresses that answers; at the next when that path breaks.

    A path without an answer for `silent_ms` counts as broken. Nothing is repeated here.
    """

    def __init__(
        self, addresses: Sequence[str], volume: str, clock: Clock, *, silent_ms: int = 5_000,
        give_up_ms: int = 60_000,
    ) -> None:  # fmt: skip
        """give_up_ms: without any path for so long, an operation fails, definitely."""
        self._uris = [f"nbd://{address}/{volume}" for address in addresses]
        self._clock = clock
        self._silent_ms, self._give_up_ms = silent_ms, give_up_ms
        self._at = 0
        self._client: NbdClient | None = None
        self._dialling: asyncio.Lock
        self.paths_lost = 0

    async def open(self) -> None:
        """Connect."""
        self._dialling = asyncio.Lock()
        await self._connected()

    async def perform(self, operation: HostOperation) -> bytes:
        """Once, at the node that is connected.

        A path that had ended before the call has taken nothing, nor has a node that is stopping and
        says so, so another is tried; nothing else that was sent is sent again.
        """
        while True:
            client = await self._connected()
            try:
                return await self._once(client, operation)
            except (NotConnected, Stopping):
                await self._lost(client)

    async def _once(self, client: NbdClient, operation: HostOperation) -> bytes:
        """NotConnected, Stopping: nothing was done. Other errors of a path leave it unknown."""
        try:
            async with asyncio.timeout(self._silent_ms / 1000):
                return await _sent(client, operation)
        except TimeoutError:
            await self._lost(client)
            raise RequestTimeout(f"no answer within {self._silent_ms} ms") from None
        except (LinkLost, RequestTimeout):
            await self._lost(client)
            raise

    async def _lost(self, client: NbdClient) -> None:
        if client is self._client:
            self._client = None
            self._at += 1
            self.paths_lost += 1
            await client.close()

    async def _connected(self) -> NbdClient:
        until_ns = self._clock.now_ns() + self._give_up_ms * NS_PER_MS
        async with self._dialling:
            while self._client is None:
                uri = self._uris[self._at % len(self._uris)]
                try:
                    self._client = await NbdClient.connect(
                        uri, requests_in_flight_max=1024, timeout_ms=2_000
                    )
                except (*_PATH_LOST, NotFound):
                    self._at += 1
                    if self._clock.now_ns() > until_ns:
                        raise NotConnected(f"no path for {self._give_up_ms} ms") from None
                    await self._clock.sleep(0.02)
            return self._client

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def _sent(client: NbdClient, operation: HostOperation) -> bytes:
    offset, length, fua = operation.offset, operation.length, operation.fua
    match operation.kind:
        case OperationKind.READ:
            return bytes(await client.read(offset, length))
        case OperationKind.WRITE:
            await client.write(offset, operation.data, fua=fua)
        case OperationKind.FLUSH:
            await client.flush()
        case OperationKind.TRIM:
            await client.trim(offset, length, fua=fua)
        case OperationKind.ZERO:
            await client.zero(offset, length, fua=fua)
    return b""


class RecordedHost:
    """One host: its workload, its doors by volume number, and how long it waited for each answer.

    Open the doors before `run`. `waits`: (first sent, answered or given up) of each operation.
    """

    def __init__(self, workload: Host, doors: dict[int, Door], clock: Clock) -> None:
        self.workload = workload
        self.waits: list[tuple[int, int]] = []
        self._doors = doors
        self._clock = clock
        self._since: dict[int, int] = {}
        self._open: list[Door] = []
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """All doors."""
        for door in self._doors.values():
            await door.open()
            self._open.append(door)

    async def run(self, on_failure: Callable[[str, BaseException], None]) -> None:
        """Until the workload is finished. on_failure: a bug of ours or of a checker."""
        supervisor = Supervisor(f"h{self.workload.host}", on_failure)
        try:
            while not self.workload.finished:
                self._changed.clear()
                now_ns = self._clock.now_ns()
                while (operation := self.workload.next_operation(now_ns)) is not None:
                    self._since.setdefault(operation.number, now_ns)
                    supervisor.start(self._perform(operation), name=f"{operation.number}")
                await self._woken(self.workload.wake_ns(), now_ns)
        finally:
            await supervisor.close()

    async def _woken(self, wake_ns: int | None, now_ns: int) -> None:
        """By an answer, or when the next operation is due."""
        if wake_ns is None:
            await self._changed.wait()
            return
        try:
            async with asyncio.timeout(max(0, wake_ns - now_ns) / NS_PER_S):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _perform(self, operation: HostOperation) -> None:
        outcome, data = Outcome.OK, b""
        try:
            data = await self._doors[operation.volume].perform(operation)
        except StorageError as error:
            outcome = Outcome.FAILED if error.definite else Outcome.INDEFINITE
        now_ns = self._clock.now_ns()
        before = self.workload.outstanding
        self.workload.completed(operation, outcome, data, now_ns=now_ns)
        if self.workload.outstanding < before:
            self.waits.append((self._since.pop(operation.number), now_ns))
        self._changed.set()

    def stop(self) -> None:
        """Begin nothing new."""
        self.workload.stopped = True
        self._changed.set()

    def longest_ms(self, since_ns: int = 0, until_ns: int = 1 << 63) -> float:
        """The longest wait for one answer, of what of it lay between these times."""
        return max(
            (
                (min(ended_ns, until_ns) - max(began_ns, since_ns)) / NS_PER_MS
                for began_ns, ended_ns in self.waits
                if ended_ns > since_ns and began_ns < until_ns
            ),
            default=0.0,
        )

    async def close(self) -> None:
        """All doors that are open."""
        while self._open:
            await self._open.pop().close()
