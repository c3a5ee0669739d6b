"""shell: block devices on files, and the lock of a store directory.

Reads and writes go to the page cache of the operating system and are done inline: they take less
time than handing them to a thread would. Only `sync` waits for a medium; it runs in a worker
thread, one at a time for a device, and calls that arrive meanwhile share the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

from base.device import Buffer
from base.errors import ConfigError, DeviceFailed, NoSpace, StorageError
from base.units import format_size

_IOV_MAX: Final = min(1024, os.sysconf("SC_IOV_MAX") if hasattr(os, "sysconf") else 1024)
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_LOCK_NAME: Final = "lock"


class SyncThreads:
    """The threads in which syncs of a node's devices wait. Share one among all disks of a node and
    give the journal its own, so that its syncs do not queue behind theirs."""

    def __init__(self, threads: int = 1, *, name: str = "sync") -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._threads = threads
        self._name = name

    def fdatasync(self, descriptor: int) -> asyncio.Future[None]:
        """os.fdatasync in a worker thread. The future fails with OSError."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)
        return asyncio.get_running_loop().run_in_executor(self._pool, os.fdatasync, descriptor)

    def close(self) -> None:
        """Wait for syncs that run and end the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


class FileDevice:
    """A `BlockDevice` of `size_bytes` on the file at `path`.

    create: make the file, sparse, when it does not exist; preallocate also takes its space, so that
    later writes cannot run out of it. ConfigError names the path and the rule: missing, not a file,
    another size, not writable. Writes raise NoSpace when the file system is full, else
    DeviceFailed; after a failed sync every call raises DeviceFailed (P11).
    """

    def __init__(
        self,
        path: Path,
        size_bytes: int,
        *,
        create: bool = False,
        preallocate: bool = False,
        threads: SyncThreads | None = None,
    ) -> None:
        self._path = path
        self._size = size_bytes
        self._threads = threads or SyncThreads(name=f"sync-{path.name}")
        self._own_threads = threads is None
        self._failed: str | None = None
        self._running: asyncio.Future[None] | None = None
        self._syncs_begun = 0
        self._syncs_ended = 0
        self._fd = _open(path, size_bytes, create=create, preallocate=preallocate)

    @property
    def size_bytes(self) -> int:
        """Nominal size."""
        return self._size

    @property
    def name(self) -> str:
        """File name, for messages to people."""
        return self._path.name

    def _check(self, offset: int, length: int) -> None:
        if self._failed is not None:
            raise DeviceFailed(self._failed)
        if self._fd < 0:
            raise DeviceFailed(f"{self._path}: closed")
        assert 0 <= offset <= offset + length <= self._size, (self._path, offset, length)

    def _error(self, what: str, offset: int, error: OSError) -> StorageError:
        text = f"{self._path}: {what} at byte {offset}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(text)
        return DeviceFailed(text)

    def read_now(self, offset: int, into: memoryview) -> bool:
        """Fill `into` at once; always True."""
        length = len(into)
        self._check(offset, length)
        done = 0
        try:
            done = os.preadv(self._fd, (into,), offset)
            while done < length:
                count = os.preadv(self._fd, (into[done:],), offset + done)
                if count == 0:
                    raise DeviceFailed(f"{self._path}: ends at byte {offset + done}: it was cut")
                done += count
        except OSError as error:
            raise self._error("read", offset + done, error) from error
        return True

    def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:
        """Write at once; always True."""
        if len(buffers) == 1:
            length = len(buffers[0])
            self._check(offset, length)
            try:
                if os.pwrite(self._fd, buffers[0], offset) == length:
                    return True
            except OSError as error:
                raise self._error("write", offset, error) from error
        self._check(offset, 0)
        for start in range(0, len(buffers), _IOV_MAX):
            offset = self._write_vector(offset, buffers[start : start + _IOV_MAX])
        return True

    def _write_vector(self, offset: int, buffers: Sequence[Buffer]) -> int:
        """Write at most _IOV_MAX buffers; returns the byte behind them."""
        total = sum(map(len, buffers))
        self._check(offset, total)
        try:
            done = os.pwritev(self._fd, buffers, offset)
            if done < total:
                # Rare: a signal or a full disk cut it short. Copy the rest and go on.
                rest = memoryview(b"".join(buffers))
                while done < total:
                    done += os.pwrite(self._fd, rest[done:], offset + done)
        except OSError as error:
            raise self._error("write", offset, error) from error
        return offset + total

    async def read(self, offset: int, into: memoryview) -> None:
        """As read_now."""
        self.read_now(offset, into)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """As write_now."""
        self.write_now(offset, buffers)

    async def sync(self) -> None:
        """fdatasync. Calls that arrive while one runs share the next: it starts after them all."""
        self._check(0, 0)
        wanted = self._syncs_begun + 1  # the one that runs may have begun before our writes
        while self._syncs_ended < wanted:
            running = self._running
            if running is None:
                self._syncs_begun += 1
                running = self._running = self._threads.fdatasync(self._fd)
                running.add_done_callback(self._sync_ended)
            elif running.done():
                # Its callback has not run yet, and awaiting it would come back here at once.
                self._sync_ended(running)
                continue
            with contextlib.suppress(OSError):  # noted by _sync_ended, raised by _check
                # Shielded: a shared future must not die with one of those who wait for it.
                await asyncio.shield(running)
            self._check(0, 0)
        self._check(0, 0)

    def _sync_ended(self, done: asyncio.Future[None]) -> None:
        if self._running is not done:
            return  # seen by `sync` already
        self._running = None
        self._syncs_ended = self._syncs_begun
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._failed = f"{self._path}: sync failed: {error}; it must not be used again"

    def discard(self, offset: int, length: int) -> None:
        """Punch a hole. A hint: a file system that cannot is left as it is."""
        self._check(offset, length)
        if length > 0:
            _punch_hole(self._fd, offset, length)

    def close(self) -> None:
        """Close the file. Not a sync."""
        if self._own_threads:
            self._threads.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: Path, size_bytes: int, *, create: bool, preallocate: bool) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    made = False
    try:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            if not create:
                raise ConfigError(f"{path}: the file of {size_bytes} bytes is missing") from None
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            made = True
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened for writing: {error.strerror}") from error
    try:
        if made:
            os.ftruncate(descriptor, size_bytes)
            if preallocate:
                os.posix_fallocate(descriptor, 0, size_bytes)
            _sync_directory(path.parent)
        found = os.fstat(descriptor).st_size
        if found != size_bytes:
            raise ConfigError(
                f"{path}: has {found} bytes; the configuration says {size_bytes}"
                f" ({format_size(size_bytes)})"
            )
    except OSError as error:
        os.close(descriptor)
        if made:
            path.unlink(missing_ok=True)  # half made: the next start must not find it
        raise ConfigError(
            f"{path}: cannot be made {size_bytes} bytes long: {error.strerror}"
        ) from error
    except ConfigError:
        os.close(descriptor)
        raise
    return descriptor


def _sync_directory(directory: Path) -> None:
    """The name of a new file survives a power cut only after this."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load_fallocate() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int
    return cast("Callable[[int, int, int, int], int]", function)


_fallocate = _load_fallocate()


def _punch_hole(descriptor: int, offset: int, length: int) -> None:
    if _fallocate is not None:
        _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


class StoreLock:
    """Holds a directory for this process: a second node on it is refused with ConfigError.

    The lock dies with the process, so nothing stale is ever left behind.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / _LOCK_NAME
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{directory}: is not writable: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            self._fd = -1
            raise ConfigError(
                f"{directory}: another node process uses this directory; it must be stopped first"
            ) from error

    def close(self) -> None:
        """Let go of the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
