"""A device on a file: what its syncs cover, and what it says when the file system fails it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import ConfigError, DeviceFailed
from base.units import MiB
from node.file_device import FileDevice, SyncThreads


class ByHand(SyncThreads):
    """Syncs end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[asyncio.Future[None]] = []

    def fdatasync(self, descriptor: int) -> asyncio.Future[None]:
        self.begun.append(asyncio.get_running_loop().create_future())
        return self.begun[-1]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def device(path: Path, threads: SyncThreads) -> FileDevice:
    return FileDevice(path / "disk", MiB, create=True, threads=threads)


async def in_task(group: asyncio.TaskGroup, disk: FileDevice) -> asyncio.Task[None]:
    task = group.create_task(disk.sync())
    await settle()
    return task


def test_syncs_asked_for_while_one_runs_share_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        threads = ByHand()
        disk = device(tmp_path, threads)
        async with asyncio.TaskGroup() as group:
            first = await in_task(group, disk)
            later = [await in_task(group, disk) for _ in range(3)]
            threads.begun[0].set_result(None)
            await settle()
            assert (first.done(), [each.done() for each in later]) == (True, [False] * 3)
            assert len(threads.begun) == 2
            threads.begun[1].set_result(None)
        assert len(threads.begun) == 2
        disk.close()

    asyncio.run(main())


def test_a_sync_asked_for_as_another_ends_begins_at_once(tmp_path: Path) -> None:
    """It came between the end of the sync and the callback that notes it, and spun for ever."""

    async def main() -> None:
        threads = ByHand()
        disk = device(tmp_path, threads)
        async with asyncio.TaskGroup() as group:
            await in_task(group, disk)
            threads.begun[0].set_result(None)
            late = disk.sync()
            late.send(None)  # runs before any callback does
            assert len(threads.begun) == 2
            late.close()
            threads.begun[1].set_result(None)
        disk.close()

    asyncio.run(main())


def test_a_failed_sync_is_never_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        threads = ByHand()
        disk = device(tmp_path, threads)
        first = asyncio.get_running_loop().create_task(disk.sync())
        await settle()
        threads.begun[0].set_exception(OSError(5, "Input/output error"))
        with pytest.raises(DeviceFailed, match="sync failed"):
            await first
        with pytest.raises(DeviceFailed, match="must not be used again"):
            await disk.sync()
        with pytest.raises(DeviceFailed):
            disk.write_now(0, [b"x"])
        assert len(threads.begun) == 1
        disk.close()

    asyncio.run(main())


FULL = """
import resource, signal, sys
from pathlib import Path
from base.errors import NoSpace, DeviceFailed
from node.file_device import FileDevice
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
disk = FileDevice(Path(sys.argv[1]), 1 << 20, create=True)
disk.write_now(0, [b"a" * 4096])
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
try:
    disk.write_now(4096, [b"b" * 4096, b"c" * 4096])
except (NoSpace, DeviceFailed) as error:
    print(type(error).__name__, error)
back = memoryview(bytearray(8192))
disk.read_now(0, back)
assert back == b"a" * 4096 + b"b" * 4096, "the part that fitted is there"
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
disk.write_now(4096, [b"d" * 8192])
disk.read_now(0, back)
assert back == b"a" * 4096 + b"d" * 4096
"""


def test_a_write_that_is_cut_short_is_an_error_and_can_be_repeated(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "disk")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "write at byte" in answer.stdout


def test_a_file_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"disk: has 5 bytes; the configuration says 1048576"):
        FileDevice(tmp_path / "disk", MiB)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"disk: the file of 1048576 bytes is missing"):
        FileDevice(tmp_path / "disk", MiB)


def test_a_file_that_cannot_be_made_so_long_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        FileDevice(tmp_path / "disk", 1 << 62, create=True, preallocate=True)
    assert not (tmp_path / "disk").exists()
