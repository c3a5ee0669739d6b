"""Other people's NBD clients against the target, with a volume in memory behind it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import NoReturn

import pytest
import uvloop

from base.units import GiB, MiB
from host.export import MappedExports
from host.memory_volume import MemoryVolume
from host.nbd_target import NbdTarget

pytestmark = pytest.mark.interop

SIZE = 64 * MiB


class Served:
    """A target with three exports, and a way to run a tool beside it."""

    def __init__(self, port: int, directory: Path) -> None:
        self.tcp = f"nbd://127.0.0.1:{port}"
        self.directory = directory

    def unix(self, export: str) -> str:
        return f"nbd+unix:///{export}?socket={self.directory}/s"

    async def run(self, *command: str | Path, succeeds: bool = True) -> str:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.directory,
        )
        printed, _ = await process.communicate()
        text = printed.decode("utf-8", "replace")
        assert (process.returncode == 0) == succeeds, text
        return text


def serving(tmp_path: Path, use: Callable[[Served], Awaitable[None]]) -> None:
    async def main() -> None:
        views = {
            "vol": MemoryVolume("vol", SIZE),
            "big-blocks": MemoryVolume("big-blocks", SIZE, block_min_bytes=4096),
            "frozen": MemoryVolume("frozen", SIZE, read_only=True),
        }
        target = NbdTarget(MappedExports(views))
        port = await target.listen_tcp()
        await target.listen_unix(tmp_path / "s")
        try:
            await use(Served(port, tmp_path))
            assert target.counters.broken == 0
            assert target.counters.requests_in_flight == 0
        finally:
            await target.stop()

    uvloop.run(main())


def image(path: Path, *, seed: int = 1) -> Path:
    """SIZE bytes of data, zeros and data again."""
    noise = Random(seed).randbytes
    path.write_bytes(noise(8 * MiB) + bytes(40 * MiB) + noise(16 * MiB))
    return path


@pytest.mark.needs_tool("nbdinfo")
def test_nbdinfo_lists_every_export(tmp_path: Path) -> None:
    async def use(served: Served) -> None:
        listing = json.loads(await served.run("nbdinfo", "--list", "--json", served.tcp))
        exports = {each["export-name"]: each for each in listing["exports"]}
        assert list(exports) == ["vol", "big-blocks", "frozen"]
        assert exports["vol"]["export-size"] == SIZE
        assert exports["vol"]["can_multi_conn"]
        assert exports["vol"]["contexts"] == ["base:allocation"]
        assert exports["frozen"]["is_read_only"]
        assert exports["big-blocks"]["block_size_minimum"] == 4096

    serving(tmp_path, use)


@pytest.mark.needs_tool("nbdinfo", "nbdcopy")
def test_nbdcopy_in_shows_in_the_map_and_comes_out_again(tmp_path: Path) -> None:
    source = image(tmp_path / "in")

    async def use(served: Served) -> None:
        await served.run("nbdcopy", "--flush", source, f"{served.tcp}/vol")
        extents = json.loads(await served.run("nbdinfo", "--map", "--json", f"{served.tcp}/vol"))
        assert [(each["offset"], each["length"], each["type"]) for each in extents] == [
            (0, 8 * MiB, 0),
            (8 * MiB, 40 * MiB, 3),
            (48 * MiB, 16 * MiB, 0),
        ]
        await served.run("nbdcopy", served.unix("vol"), "out")

    serving(tmp_path, use)
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


@pytest.mark.needs_tool("nbdcopy")
def test_nbdcopy_copies_from_export_to_export(tmp_path: Path) -> None:
    source = image(tmp_path / "in")

    async def use(served: Served) -> None:
        await served.run("nbdcopy", source, f"{served.tcp}/vol")
        await served.run("nbdcopy", f"{served.tcp}/vol", served.unix("big-blocks"))
        await served.run("nbdcopy", served.unix("big-blocks"), "out")

    serving(tmp_path, use)
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


@pytest.mark.needs_tool("nbdcopy")
def test_nbdcopy_into_a_read_only_export_fails(tmp_path: Path) -> None:
    source = image(tmp_path / "in")

    async def use(served: Served) -> None:
        await served.run("nbdcopy", source, f"{served.tcp}/frozen", succeeds=False)

    serving(tmp_path, use)


@pytest.mark.needs_tool("qemu-img")
@pytest.mark.parametrize("export", ["vol", "big-blocks"])
def test_qemu_img_converts_and_compares(tmp_path: Path, export: str) -> None:
    image(tmp_path / "in")
    image(tmp_path / "other", seed=2)

    async def use(served: Served) -> None:
        uri = served.unix(export)
        await served.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "in", uri)
        compare = ("qemu-img", "compare", "-f", "raw", "-F", "raw")
        assert "identical" in await served.run(*compare, "in", uri)
        assert "mismatch" in await served.run(*compare, "other", uri, succeeds=False)
        assert "data" in await served.run("qemu-img", "map", "-f", "raw", "--output=json", uri)

    serving(tmp_path, use)


@pytest.mark.needs_tool("qemu-io")
@pytest.mark.parametrize("export", ["vol", "big-blocks"])
def test_qemu_io_writes_and_reads_unaligned(tmp_path: Path, export: str) -> None:
    async def use(served: Served) -> None:
        commands = (
            "write -P 0x11 0 1M", "write -P 0x22 1 1000", "write -P 0x33 5000 70000",
            "read -P 0x11 0 1", "read -P 0x22 1 1000", "read -P 0x11 1001 3999",
            "read -P 0x33 5000 70000", "write -z 8192 100", "read -P 0 8192 100",
            "read -P 0x33 8292 1000", "discard 512k 64k", "read -P 0 512k 64k",
            "write -f -P 0x44 3M 17", "read -P 0x44 3M 17", "flush",
        )  # fmt: skip
        arguments = [each for command in commands for each in ("-c", command)]
        printed = await served.run("qemu-io", "-f", "raw", *arguments, served.unix(export))
        assert "failed" not in printed

    serving(tmp_path, use)


@pytest.mark.needs_tool("fio")
@pytest.mark.slow
def test_fio_verifies_what_it_wrote(tmp_path: Path) -> None:
    async def use(served: Served) -> None:
        await served.run(
            "fio", "--name=j", "--ioengine=nbd", f"--uri={served.tcp}/vol", f"--size={SIZE}",
            "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=0", "--blockalign=512",
            "--iodepth=32", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
        )  # fmt: skip

    serving(tmp_path, use)


LIBNBD = """
import sys, nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
assert h.get_structured_replies_negotiated() and h.can_df() and h.can_fua()
h.pwrite(b"x" * 65536, 0, nbd.CMD_FLAG_FUA)
h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(16384, 0) == b"x" * 8192 + bytes(4096) + b"x" * 4096
got = []
h.pread_structured(131072, 0, lambda data, at, state, error: got.append((at, len(data), state)),
                   nbd.CMD_FLAG_DF)
assert got == [(0, 131072, nbd.READ_DATA)], got
h.set_strict_mode(0)
for call in (lambda: h.pread(512, 1), lambda: h.pwrite(b"y" * 512, h.get_size()),
             lambda: h.cache(512, 0)):
    try:
        call()
    except nbd.Error as error:
        assert error.errno in ("EINVAL", "ENOSPC"), error
    else:
        raise SystemExit("a bad request was accepted")
h.shutdown()
"""


@pytest.fixture
def python_with_libnbd(not_installed: Callable[[str], NoReturn]) -> str:
    """Distributions put the bindings beside their own Python, seldom beside ours."""
    probe = ("-c", "import nbd; nbd.NBD()")
    found = [
        python
        for python in (sys.executable, "/usr/bin/python3")
        if Path(python).exists()
        and subprocess.run((python, *probe), capture_output=True).returncode == 0
    ]
    if not found:
        not_installed("the Python bindings of libnbd")
    return found[0]


def test_libnbd_sees_chunks_flags_and_errors(tmp_path: Path, python_with_libnbd: str) -> None:
    async def use(served: Served) -> None:
        await served.run(python_with_libnbd, "-c", LIBNBD, f"{served.tcp}/vol")

    serving(tmp_path, use)


@pytest.mark.needs_tool("nbdinfo")
def test_a_volume_beyond_4_gib_is_served_and_mapped(tmp_path: Path) -> None:
    async def main() -> None:
        volume = MemoryVolume("huge", 16 * GiB)
        target = NbdTarget(MappedExports({"huge": volume}))
        await target.listen_unix(tmp_path / "s")
        served = Served(0, tmp_path)
        assert int(await served.run("nbdinfo", "--size", served.unix("huge"))) == 16 * GiB
        printed = await served.run("nbdinfo", "--map", "--json", served.unix("huge"))
        extents = json.loads(printed)
        assert sum(each["length"] for each in extents) == 16 * GiB
        await target.stop()

    asyncio.run(main())
