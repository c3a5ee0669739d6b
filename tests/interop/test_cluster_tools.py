"""Other people's NBD clients against a running cluster, at several of its nodes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from random import Random

import pytest

from base.units import KiB, MiB
from tests.processes.live_cluster import LiveCluster

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = 40 * MiB  # two and a half regions


@pytest.fixture
def volume(live_cluster: LiveCluster, request: pytest.FixtureRequest) -> str:
    """A new volume, named after the test."""
    name = "v" + "".join(each if each.isalnum() else "-" for each in request.node.name)[4:44]
    live_cluster.create(name, SIZE)
    return name


def run(*command: str | Path, succeeds: bool = True) -> str:
    answer = subprocess.run(
        [str(each) for each in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert (answer.returncode == 0) == succeeds, answer.stdout
    return answer.stdout


def extents(uri: str) -> list[tuple[int, int, int]]:
    printed = json.loads(run("nbdinfo", "--map", "--json", uri))
    return [(each["offset"], each["length"], each["type"]) for each in printed]


def image(path: Path, *, seed: int = 1) -> Path:
    """SIZE bytes: data, zeros, and data again, across regions."""
    noise = Random(seed).randbytes
    path.write_bytes(noise(5 * MiB) + bytes(20 * MiB) + noise(15 * MiB))
    return path


@pytest.mark.needs_tool("nbdinfo")
def test_nbdinfo_lists_every_volume_at_every_node(live_cluster: LiveCluster, volume: str) -> None:
    for node in range(8):
        listing = json.loads(run("nbdinfo", "--list", "--json", live_cluster.uri(node=node)))
        export = {each["export-name"]: each for each in listing["exports"]}[volume]
        assert export["export-size"] == SIZE
        assert export["can_multi_conn"]
        assert export["can_fua"]
        assert export["contexts"] == ["base:allocation"]
        assert (export["block_size_minimum"], export["block_size_preferred"]) == (512, 4096)


@pytest.mark.needs_tool("nbdinfo", "qemu-io")
def test_nbdinfo_maps_what_was_written_and_what_was_trimmed(
    live_cluster: LiveCluster, volume: str
) -> None:
    uri = live_cluster.uri(volume, 1)
    assert extents(uri) == [(0, SIZE, 3)]
    # Across the edge of the first region at 16 MiB, which may have another owner.
    run("qemu-io", "-f", "raw", "-c", "write -P 7 15M 2M", uri)
    for node in (0, 4):
        assert extents(live_cluster.uri(volume, node)) == [
            (0, 15 * MiB, 3), (15 * MiB, 2 * MiB, 0), (17 * MiB, 23 * MiB, 3)
        ]  # fmt: skip
    run("qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 16M 512k", uri)
    assert extents(live_cluster.uri(volume, 5)) == [
        (0, 15 * MiB, 3), (15 * MiB, 1 * MiB, 0), (16 * MiB, 512 * KiB, 3),
        (16 * MiB + 512 * KiB, 512 * KiB, 0), (17 * MiB, 23 * MiB, 3),
    ]  # fmt: skip
    run("qemu-io", "-f", "raw", "-c", "read -P 0 16M 512k", "-c", "read -P 7 15M 1M", uri)


@pytest.mark.needs_tool("nbdcopy", "nbdinfo")
def test_nbdcopy_in_at_one_node_and_out_at_another(
    live_cluster: LiveCluster, volume: str, tmp_path: Path
) -> None:
    source = image(tmp_path / "in")
    run("nbdcopy", "--flush", source, live_cluster.uri(volume, 2))
    assert extents(live_cluster.uri(volume, 3)) == [
        (0, 5 * MiB, 0), (5 * MiB, 20 * MiB, 3), (25 * MiB, 15 * MiB, 0)
    ]  # fmt: skip
    run("nbdcopy", live_cluster.uri(volume, 6), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


@pytest.mark.needs_tool("nbdcopy")
def test_nbdcopy_with_many_connections_from_volume_to_volume(
    live_cluster: LiveCluster, volume: str, tmp_path: Path
) -> None:
    source = image(tmp_path / "in", seed=2)
    other = volume + "-2"
    live_cluster.create(other, SIZE)
    run("nbdcopy", "--connections=4", source, live_cluster.uri(volume, 0))
    pair = (live_cluster.uri(volume, 1), live_cluster.uri(other, 7))
    run("nbdcopy", "--connections=4", "--requests=32", *pair)
    run("nbdcopy", live_cluster.uri(other, 3), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


@pytest.mark.needs_tool("qemu-img", "mke2fs", "e2fsck")
def test_a_file_system_survives_the_way_in_and_out(
    live_cluster: LiveCluster, volume: str, tmp_path: Path
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for number in range(40):
        (files / f"f{number}").write_bytes(Random(number).randbytes(number * 9_973))
    source = tmp_path / "ext4"
    run("mke2fs", "-q", "-t", "ext4", "-d", files, source, str(SIZE // KiB))
    convert = ("qemu-img", "convert", "-f", "raw", "-O", "raw")
    compare = ("qemu-img", "compare", "-f", "raw", "-F", "raw")
    run(*convert, "-n", source, live_cluster.uri(volume, 4))
    for node in (0, 5):
        assert "identical" in run(*compare, source, live_cluster.uri(volume, node))
    run(*convert, live_cluster.uri(volume, 2), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    run("e2fsck", "-fn", tmp_path / "back")
    changed = bytearray(source.read_bytes())
    changed[17 * MiB] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    printed = run(*compare, tmp_path / "changed", live_cluster.uri(volume, 1), succeeds=False)
    assert "mismatch" in printed


@pytest.mark.needs_tool("qemu-io")
def test_qemu_io_writes_and_reads_unaligned(live_cluster: LiveCluster, volume: str) -> None:
    """Bytes for qemu, which makes them sectors; sectors across pages and across regions for us."""
    writes = (
        "write -P 0x11 0 1M", "write -P 0x22 1 1000", "write -P 0x33 5000 70000",
        "write -P 0x44 512 512", "write -P 0x55 16776704 1024", "write -z 8192 100",
        "write -f -P 0x66 31M 17", "discard 512k 64k", "flush",
    )  # fmt: skip
    reads = (
        "read -P 0x11 0 1", "read -P 0x22 1 511", "read -P 0x44 512 512", "read -P 0x11 1024 3976",
        "read -P 0x33 5000 3192", "read -P 0 8192 100", "read -P 0x33 8292 1000",
        "read -P 0 512k 64k", "read -P 0x11 576k 4k", "read -P 0x55 16776704 1024",
        "read -P 0 16777728 512", "read -P 0x66 31M 17",
    )  # fmt: skip
    for commands, node in ((writes, 6), (reads, 6), (reads, 1), (reads, 3)):
        arguments = [each for command in commands for each in ("-c", command)]
        printed = run("qemu-io", "-f", "raw", *arguments, live_cluster.uri(volume, node))
        assert "failed" not in printed


@pytest.mark.needs_tool("fio")
@pytest.mark.parametrize("node", [0, 5])
def test_fio_verifies_what_it_wrote(
    live_cluster: LiveCluster, volume: str, node: int, tmp_path: Path
) -> None:
    run(
        "fio", "--name=j", "--ioengine=nbd", f"--uri={live_cluster.uri(volume, node)}",
        f"--size={SIZE}", "--io_size=16m", "--rw=randwrite", "--bsrange=512-64k",
        "--blockalign=512", "--iodepth=16", "--verify=crc32c", "--do_verify=1",
        "--verify_fatal=1", f"--aux-path={tmp_path}", "--verify_state_save=0",
    )  # fmt: skip


@pytest.mark.needs_tool("nbdinfo")
def test_a_grown_volume_has_its_new_size_for_whoever_connects(
    live_cluster: LiveCluster, volume: str
) -> None:
    live_cluster.client.grow_volume(volume, SIZE + 16 * MiB)
    live_cluster.wait_whole()
    for node in (0, 7):
        assert int(run("nbdinfo", "--size", live_cluster.uri(volume, node))) == SIZE + 16 * MiB


@pytest.mark.needs_tool("nbdinfo")
def test_a_volume_that_is_not_there_is_refused(live_cluster: LiveCluster) -> None:
    printed = run("nbdinfo", live_cluster.uri("nothing", 3), succeeds=False)
    assert "nothing" in printed
