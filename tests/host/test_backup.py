"""Backups over NBD: out of one volume, into another, with paths that break and exports cut off."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from base.errors import AlreadyExists, ConfigError, InvalidRequest, NotFound
from base.units import KiB, MiB
from host import backup, backup_files
from host.backup_files import FileTarget, Source, open_target
from host.export import MappedExports
from host.memory_volume import MemoryVolume
from host.nbd_target import NbdTarget
from snapshot import backup_stream, rbd_stream
from snapshot.backup_stream import BackupHeader
from snapshot.rbd_stream import RbdHeader

SIZE = 8 * MiB
FULL = BackupHeader("c", 1, "v", 2, "a", SIZE)
DIFFERENCE = BackupHeader("c", 1, "v", 3, "b", SIZE, base_view=2, base_name="a")
PROGRESS: backup.Progress = lambda done, total: None  # noqa: E731


class World:
    """Two targets that serve the same two volumes: `old`, and `new`, which is empty."""

    def __init__(self) -> None:
        self.old = MemoryVolume("old", SIZE)
        self.new = MemoryVolume("new", SIZE)
        self.image = bytearray(SIZE)
        rng = Random(5)
        for offset in (0, MiB - 8 * KiB, 3 * MiB, SIZE - 4 * KiB):
            self.put(offset, rng.randbytes(12 * KiB if offset < 3 * MiB else 4 * KiB))
        self.targets: list[NbdTarget] = []
        self.ports: list[int] = []

    def put(self, offset: int, data: bytes) -> None:
        self.image[offset : offset + len(data)] = data
        self.old._bytes[offset : offset + len(data)] = data
        for grain in range(offset // 4096, -(-(offset + len(data)) // 4096)):
            self.old._used[grain] = any(data)

    async def start(self) -> None:
        for _ in range(2):
            target = NbdTarget(MappedExports({"old": self.old, "new": self.new}))
            self.ports.append(await target.listen_tcp())
            self.targets.append(target)

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]


def run(story: Callable[[World], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        world = World()
        await world.start()
        try:
            return await story(world)
        finally:
            for target in world.targets:
                await target.stop()

    return asyncio.run(main())


async def out(
    world: World, target: Any, header: Any = FULL, extents: Any = ((0, SIZE),)
) -> backup.Moved:
    export = backup.Export(world.addresses, "old")
    try:
        return await backup.write_out(export, header, extents, target, PROGRESS)
    finally:
        await export.close()


async def into(world: World, path: Path) -> None:
    source = Source(str(path))
    good = backup_stream.verify(source.chunks())
    export = backup.Export(world.addresses, "new")
    await backup.write_in(export, backup_stream.extents_of(source.chunks(), good), SIZE, PROGRESS)
    await export.close()


def test_full_and_difference_make_the_same_volume_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        moved = await out(world, open_target(str(tmp_path / "full"), resumable=True))
        assert (moved.data_bytes, moved.zero_bytes) == (32 * KiB, 0)
        await into(world, tmp_path / "full")
        assert bytes(world.new._bytes) == bytes(world.image)
        world.put(5 * MiB, b"x" * 16 * KiB)
        world.put(0, bytes(16 * KiB))
        extents = [(0, 16 * KiB), (5 * MiB, 16 * KiB)]
        target = open_target(str(tmp_path / "next"), resumable=True)
        moved = await out(world, target, DIFFERENCE, extents)
        assert (moved.data_bytes, moved.zero_bytes) == (16 * KiB, 16 * KiB)
        await into(world, tmp_path / "next")
        assert bytes(world.new._bytes) == bytes(world.image)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["full", "next"]

    run(story)


@pytest.mark.parametrize("version", [1, 2])
def test_a_stream_of_rbd_has_the_same_contents(tmp_path: Path, version: int) -> None:
    async def story(world: World) -> None:
        header = RbdHeader(version, "", "a", SIZE)
        await out(world, open_target(str(tmp_path / "rbd"), resumable=False), header)
        chunks = list(Source(str(tmp_path / "rbd")).chunks())
        image = bytearray(SIZE)
        for each in rbd_stream.contents_of(chunks, rbd_stream.verify(chunks)):
            assert isinstance(each, rbd_stream.RbdData)
            image[each.offset : each.offset + len(each.data)] = each.data
        assert image == world.image

    run(story)


def test_a_path_that_breaks_is_left_for_another(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        export = backup.Export(world.addresses, "old")
        first = await export.client()
        await world.targets[0].stop()
        target = open_target(str(tmp_path / "full"), resumable=True)
        await backup.write_out(export, FULL, [(0, SIZE)], target, PROGRESS)
        assert await export.client() is not first
        await export.close()
        await into(world, tmp_path / "full")
        assert bytes(world.new._bytes) == bytes(world.image)

    run(story)


class Stops(FileTarget):
    """Breaks once some contents are safe."""

    def keep(self, point: backup_stream.ResumePoint) -> None:
        super().keep(point)
        if self._note.exists():
            raise ConfigError("the disk was pulled")


def test_an_export_that_was_cut_off_goes_on_and_is_the_same_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_files, "KEEP_BYTES", 1)

    async def story(world: World) -> None:
        await out(world, FileTarget(tmp_path / "whole", resumable=True))
        with pytest.raises(ConfigError, match="pulled"):
            await out(world, Stops(tmp_path / "cut", resumable=True))
        assert not (tmp_path / "cut").exists()
        with open(tmp_path / "cut.part", "ab") as torn:
            torn.write(b"half an extent")
        moved = await out(world, FileTarget(tmp_path / "cut", resumable=True))
        assert moved.resumed_bytes > 0
        assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()

    run(story)


def test_a_point_of_another_stream_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_files, "KEEP_BYTES", 1)

    async def story(world: World) -> None:
        with pytest.raises(ConfigError, match="pulled"):
            await out(world, Stops(tmp_path / "cut", resumable=True))
        with pytest.raises(InvalidRequest, match="belongs to another stream"):
            await out(world, FileTarget(tmp_path / "cut", resumable=True), DIFFERENCE)

    run(story)


def test_a_backup_is_never_written_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(AlreadyExists, match="never written over"):
        open_target(str(tmp_path / "b"), resumable=True)
    with pytest.raises(ConfigError, match="No such file"):
        open_target(str(tmp_path / "no" / "b"), resumable=True)


class Bytes:
    """A standard stream."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


def test_pipes_out_and_in(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = Bytes()

    async def story(world: World) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", piped)
            target = open_target("-", resumable=True)
        await out(world, target)

    run(story)
    monkeypatch.setattr(sys, "stdin", Bytes(piped.buffer.getvalue()))
    source = Source("-")
    for _ in range(2):  # it is put aside, for it is read twice
        assert backup_stream.verify(source.chunks()).trailer.data_bytes == 32 * KiB
    source.close()


def test_urls_go_through_fsspec() -> None:
    pytest.importorskip("fsspec")

    async def story(world: World) -> None:
        await out(world, open_target("memory://box/full", resumable=True))

    run(story)
    good = backup_stream.verify(Source("memory://box/full").chunks())
    assert good.header == FULL
    with pytest.raises(NotFound, match="there is nothing at memory://box/no"):
        list(Source("memory://box/no").chunks())
    with pytest.raises(ConfigError, match="nosuch://"):
        open_target("nosuch://x", resumable=True)


def test_a_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"eightfold\[backup\]"):
        open_target("memory://x", resumable=True)


@pytest.mark.parametrize("broken", ["cut", "flipped", "other"])
def test_a_broken_stream_is_not_verified(tmp_path: Path, broken: str) -> None:
    async def story(world: World) -> None:
        await out(world, open_target(str(tmp_path / "full"), resumable=True))

    run(story)
    data = bytearray((tmp_path / "full").read_bytes())
    if broken == "cut":
        del data[-10:]
    elif broken == "flipped":
        data[len(data) // 2] ^= 1
    else:
        data = bytearray(b"nothing of the kind")
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(InvalidRequest):
        backup_stream.verify(Source(str(tmp_path / "bad")).chunks())
