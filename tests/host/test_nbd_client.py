from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from base.errors import (
    AccessDenied,
    ConfigError,
    InvalidRequest,
    LinkLost,
    NoSpace,
    NotConnected,
    NotFound,
    RequestTimeout,
)
from base.units import KiB, MiB
from host.export import HOLE, ZERO, MappedExports
from host.memory_volume import MemoryVolume
from host.nbd_client import NbdClient, list_exports, parse_uri
from host.nbd_target import NbdTarget

Use = Callable[[MemoryVolume, str], Awaitable[None]]


def serving(tmp_path: Path, use: Use, *, read_only: bool = False) -> None:
    async def main() -> None:
        volume = MemoryVolume("vol", 8 * MiB, read_only=read_only)
        target = NbdTarget(MappedExports({"vol": volume}))
        await target.listen_unix(tmp_path / "s")
        try:
            await use(volume, f"nbd+unix:///vol?socket={tmp_path}/s")
        finally:
            await target.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("nbd://127.0.0.1:1234/vol", (("127.0.0.1", 1234), "vol")),
        ("nbd://host/", (("host", 10809), "")),
        ("nbd+unix:///a%20b?socket=/x/y", ("/x/y", "a b")),
        ("nbd+unix:///?socket=/x/y", ("/x/y", "")),
    ],
)
def test_uri_gives_address_and_export(uri: str, wanted: object) -> None:
    assert parse_uri(uri) == wanted


@pytest.mark.parametrize("uri", ["", "http://x/", "nbd+unix:///vol", "nbd://h:99999/", "nbd://["])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="use nbd://"):
        parse_uri(uri)


def test_exports_are_listed(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        assert await list_exports(uri) == [("vol", "a volume in memory")]

    serving(tmp_path, use)


def test_unknown_export_is_not_found(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        with pytest.raises(NotFound):
            await NbdClient.connect(uri.replace("/vol", "/no"))

    serving(tmp_path, use)


def test_nobody_there_is_not_connected(tmp_path: Path) -> None:
    with pytest.raises(NotConnected):
        asyncio.run(NbdClient.connect(f"nbd+unix:///vol?socket={tmp_path}/none"))


def test_a_silent_server_is_a_timeout(tmp_path: Path) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_unix_server(
            asyncio.Protocol, str(tmp_path / "s")
        )
        with pytest.raises(RequestTimeout):
            await NbdClient.connect(f"nbd+unix:///v?socket={tmp_path}/s", timeout_ms=20)
        server.close()

    asyncio.run(main())


def test_zeroed_and_trimmed_ranges_are_holes_in_the_map(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri)
        await client.write(0, b"x" * (64 * KiB))
        await client.zero(4 * KiB, 4 * KiB)
        await client.trim(16 * KiB, 4 * KiB)
        await client.zero(32 * KiB, 4 * KiB, no_hole=True)
        holes = [(at, n) for at, n, flags in await client.map() if flags == HOLE | ZERO]
        assert holes == [(4 * KiB, 4 * KiB), (16 * KiB, 4 * KiB), (64 * KiB, 8 * MiB - 64 * KiB)]
        assert await client.block_status(0, 8 * KiB, only_one=True) == [(4 * KiB, 0)]
        await client.close()

    serving(tmp_path, use)


def test_flush_and_fua_reach_the_volume(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri)
        await client.write(0, b"x" * 512, fua=True)
        await client.flush()
        assert (volume.synced_writes, volume.flushes) == (1, 1)
        await client.close()

    serving(tmp_path, use)


def test_read_only_volume_denies_a_write(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri)
        assert client.info.read_only
        with pytest.raises(AccessDenied, match="read-only"):
            await client.write(0, bytes(512))
        await client.close()

    serving(tmp_path, use, read_only=True)


def test_unaligned_read_is_invalid(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri)
        with pytest.raises(InvalidRequest, match="not aligned"):
            await client.read(100, 512)
        await client.close()

    serving(tmp_path, use)


def test_requests_in_flight_are_bounded(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri, requests_in_flight_max=3)
        volume.hold = True
        flushes = [client.flush() for _ in range(10)]

        async def release() -> None:
            served = 0
            while served < 10:
                assert len(volume.held) <= 3
                served += len(volume.held)
                volume.release()
                await asyncio.sleep(0)

        await asyncio.gather(release(), *flushes)
        await client.close()

    serving(tmp_path, use)


def test_requests_on_their_way_are_lost_with_the_link(tmp_path: Path) -> None:
    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri)
        volume.hold = True
        waiting = await client.start_write(0, bytes(512))
        await client.close()
        with pytest.raises(LinkLost):
            await waiting
        with pytest.raises(NotConnected):
            await client.read(0, 512)
        assert not client.connected
        volume.release()

    serving(tmp_path, use)


def test_copy_in_and_out_keeps_bytes_and_holes(tmp_path: Path) -> None:
    original = b"head" * 1000 + bytes(3 * MiB) + bytes(range(256)) * 4096 + b"tail"
    (tmp_path / "in").write_bytes(original)

    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri, requests_in_flight_max=2)
        seen: list[tuple[int, int]] = []
        size = await client.copy_in(tmp_path / "in", lambda done, total: seen.append((done, total)))
        assert size == len(original)
        assert seen[-1] == (size, size)
        assert await client.copy_out(tmp_path / "out") == 8 * MiB
        await client.close()

    serving(tmp_path, use)
    copied = (tmp_path / "out").read_bytes()
    assert copied == original.ljust(8 * MiB, b"\x00")


def test_a_file_that_is_too_large_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * (8 * MiB + 1))

    async def use(volume: MemoryVolume, uri: str) -> None:
        client = await NbdClient.connect(uri)
        with pytest.raises(NoSpace, match="8388609 bytes"):
            await client.copy_in(tmp_path / "in")
        assert (await client.map()) == [(0, 8 * MiB, HOLE | ZERO)]
        await client.close()

    serving(tmp_path, use)
