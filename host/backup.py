"""shell: backups over NBD: a snapshot into a stream, a stream into a volume, through any node.

A snapshot never changes, so what a broken connection left unanswered is read again at the next
node; a write of an import is sent again unchanged, before anything else to its place. What is data
and what reads as zeros the nodes say (`base:allocation`); what differs from a base whoever calls
has asked them. Memory is bounded: a few extents at a time, at any size of a volume.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from base.device import Buffer
from base.errors import LinkLost, NotConnected, NotFound, RequestTimeout, Stopping, StorageError
from base.units import MiB
from host.backup_files import FileTarget, StreamTarget
from host.export import ZERO
from host.nbd_client import NbdClient
from snapshot.backup_stream import BackupHeader, BackupWriter, DataExtent, ResumePoint, ZeroExtent
from snapshot.rbd_stream import RbdData, RbdHeader, RbdWriter, RbdZero

READ_BYTES: Final = MiB
READS_AT_ONCE: Final = 4
STATUS_BYTES: Final = 1 << 30
ROUNDS_MAX: Final = 20  # of all nodes, before a connection that cannot be had is given up
NEW_ROUNDS: Final = 4
AGAIN_S: Final = 0.25

T = TypeVar("T")
Progress = Callable[[int, int], None]  # bytes of the volume done, and in all
PATH_LOST: Final = (LinkLost, NotConnected, RequestTimeout, Stopping)


@dataclass(frozen=True, slots=True)
class Moved:
    """What an export or an import has moved. data_bytes of contents, zero_bytes of zeros."""

    data_bytes: int
    zero_bytes: int
    extents: int
    resumed_bytes: int = 0  # of the stream, which an earlier call had written


class Export:
    """One export of the cluster, at whichever of its nodes answers. addresses: HOST:PORT each."""

    def __init__(self, addresses: Sequence[str], name: str) -> None:
        self._addresses = list(addresses)
        self._name = name
        self._at = 0
        self._client: NbdClient | None = None
        self._connecting = asyncio.Lock()

    async def client(self, spent: NbdClient | None = None) -> NbdClient:
        """A connection, another one than `spent`. NotFound; NotConnected when no node takes one."""
        async with self._connecting:
            if self._client is not None and self._client is not spent:
                return self._client
            if self._client is not None:
                await self._client.close()
                self._client = None
                self._at += 1
            last: StorageError = NotConnected(f"no node serves {self._name}")
            for attempt in range(ROUNDS_MAX * len(self._addresses)):
                address = self._addresses[self._at % len(self._addresses)]
                try:
                    self._client = await NbdClient.connect(f"nbd://{address}/{self._name}")
                except (*PATH_LOST, NotFound) as error:
                    # What was made a moment ago not every node has heard of.
                    if isinstance(error, NotFound) and attempt >= NEW_ROUNDS * len(self._addresses):
                        raise
                    last = error
                    self._at += 1
                    if attempt % len(self._addresses) == len(self._addresses) - 1:
                        await asyncio.sleep(AGAIN_S)
                    continue
                return self._client
            raise last

    async def call(self, ask: Callable[[NbdClient], Awaitable[T]]) -> T:
        """Its answer, at one node or another."""
        client = await self.client()
        while True:
            try:
                return await ask(client)
            except PATH_LOST:
                client = await self.client(client)

    async def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            await self._client.close()


async def runs_of(
    export: Export, extents: Iterable[tuple[int, int]], first: int
) -> AsyncIterator[tuple[int, int, bool]]:
    """(offset, length, zeros) of these extents from a byte on, ascending; data of READ_BYTES at
    most, cut where READ_BYTES divide it."""
    for start, length in extents:
        end = start + length
        at = max(start, first)
        while at < end:
            ask = min(end - at, STATUS_BYTES)
            for count, flags in await export.call(
                lambda client, at=at, ask=ask: client.block_status(at, ask)  # type: ignore[misc]
            ):
                stop = min(at + count, end)
                zeros = bool(flags & ZERO)
                while at < stop:
                    cut = stop if zeros else min(stop, (at // READ_BYTES + 1) * READ_BYTES)
                    yield at, cut - at, zeros
                    at = cut


class _Eightfold:
    """Writes our own stream."""

    def __init__(self, header: BackupHeader, point: ResumePoint | None) -> None:
        self.writer = BackupWriter(header, point)
        self.first = point.offset if point is not None else 0

    def begin(self) -> bytes:
        return b"" if self.first or self.writer.point.extents else self.writer.begin()

    @property
    def point(self) -> ResumePoint | None:
        return self.writer.point


class _Rbd:
    """Writes a stream of RBD."""

    first = 0
    point = None

    def __init__(self, header: RbdHeader) -> None:
        self.writer = RbdWriter(header)

    def begin(self) -> bytes:
        return self.writer.begin()


async def write_out(
    export: Export,
    header: BackupHeader | RbdHeader,
    extents: Iterable[tuple[int, int]],
    target: FileTarget | StreamTarget,
    progress: Progress,
) -> Moved:
    """The stream of a view: of all of it, or of the extents that differ from its base. A full one
    leaves out what reads as zeros. The target is finished, or abandoned when anything fails."""
    made: _Eightfold | _Rbd
    try:
        if isinstance(header, BackupHeader):
            made = _Eightfold(header, target.point)
            full = header.full
        else:
            made = _Rbd(header)
            full = not header.from_name
        moved = await _write_runs(export, made, extents, target, progress, full, header.size_bytes)
        target.write(made.writer.finish())
        target.finish()
    except BaseExceptionGroup as group:
        target.abandon()
        raise group.exceptions[0] from None  # one failure ends the others: the first says why
    except BaseException:
        target.abandon()
        raise
    return moved


async def _write_runs(
    export: Export,
    made: _Eightfold | _Rbd,
    extents: Iterable[tuple[int, int]],
    target: FileTarget | StreamTarget,
    progress: Progress,
    full: bool,
    size_bytes: int,
) -> Moved:
    resumed = target.point.position if target.point is not None else 0
    target.write(made.begin())
    data_bytes = zero_bytes = count = 0
    waiting: list[tuple[int, asyncio.Task[bytearray]]] = []

    async def take() -> None:
        offset, task = waiting.pop(0)
        for part in made.writer.data(offset, bytes(await task)):
            target.write(part)
        if made.point is not None:
            target.keep(made.point)

    async with asyncio.TaskGroup() as group:
        async for offset, length, zeros in runs_of(export, extents, made.first):
            progress(offset, size_bytes)
            if zeros:
                if full:
                    continue
                while waiting:
                    await take()
                target.write(made.writer.zero(offset, length))
                zero_bytes += length
            else:
                task = group.create_task(_read(export, offset, length))  # the group owns it
                waiting.append((offset, task))
                data_bytes += length
                if len(waiting) >= READS_AT_ONCE:
                    await take()
            count += 1
        while waiting:
            await take()
    return Moved(data_bytes, zero_bytes, count, resumed)


async def _read(export: Export, offset: int, length: int) -> bytearray:
    return await export.call(lambda client: client.read(offset, length))


Contents = DataExtent | ZeroExtent | RbdData | RbdZero


async def write_in(
    export: Export, contents: Iterator[Contents], size_bytes: int, progress: Progress
) -> Moved:
    """Put the contents of a stream into a volume, and have it on the disks of all nodes."""
    data_bytes = zero_bytes = count = 0
    client = await export.client()
    block = client.info.block_min_bytes
    for each in contents:
        count += 1
        progress(each.offset, size_bytes)
        if isinstance(each, ZeroExtent | RbdZero):
            zero_bytes += each.length
            await _zero(export, each.offset, each.length)
        else:
            data_bytes += len(each.data)
            await _write(export, each.offset, each.data, block)
    await export.call(lambda client: client.flush())
    return Moved(data_bytes, zero_bytes, count)


async def _zero(export: Export, offset: int, length: int) -> None:
    for at in range(offset, offset + length, STATUS_BYTES):
        part = min(STATUS_BYTES, offset + length - at)
        await export.call(lambda client, at=at, part=part: client.zero(at, part))  # type: ignore[misc]


async def _write(export: Export, offset: int, data: Buffer, block: int) -> None:
    assert not (offset | len(data)) % block, "streams name whole blocks"
    await export.call(lambda client: client.write(offset, data))


# ---------------------------------------------------------------------------------- for commands


def run_export(
    addresses: Sequence[str],
    name: str,
    header: BackupHeader | RbdHeader,
    extents: Iterable[tuple[int, int]],
    target: FileTarget | StreamTarget,
    progress: Progress,
) -> Moved:
    """`write_out` in a loop of its own."""

    async def main() -> Moved:
        export = Export(addresses, name)
        try:
            return await write_out(export, header, extents, target, progress)
        finally:
            await export.close()

    return asyncio.run(main())


def run_import(
    addresses: Sequence[str],
    name: str,
    contents: Iterator[Contents],
    size_bytes: int,
    progress: Progress,
) -> Moved:
    """`write_in` in a loop of its own."""

    async def main() -> Moved:
        export = Export(addresses, name)
        try:
            return await write_in(export, contents, size_bytes, progress)
        finally:
            await export.close()

    return asyncio.run(main())
