"""Bytes of a device on a file, and the lock of a store directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from base.errors import ConfigError, DeviceFailed, NoSpace
from node import file_device
from node.file_device import FileDevice, StoreLock


def read(device: FileDevice, offset: int, length: int) -> bytes:
    into = bytearray(length)
    assert device.read_now(offset, memoryview(into))
    return bytes(into)


def test_bytes_never_written_read_as_zeros(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "d", 1 << 20, create=True)
    assert read(device, 4000, 9000) == bytes(9000)
    device.close()


def test_what_was_written_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "d", 8192, create=True)
    device.write_now(100, [b"one", bytearray(b"two"), memoryview(b"three")])
    device.close()
    device = FileDevice(tmp_path / "d", 8192)
    assert read(device, 100, 11) == b"onetwothree"
    device.close()


def test_more_buffers_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "d", 1 << 20, create=True)
    parts = [bytes([number % 251]) * 7 for number in range(3000)]
    device.write_now(5, parts)
    assert read(device, 5, 21_000) == b"".join(parts)
    device.close()


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FileDevice(tmp_path / "d", 8192, create=True)
    real = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: real(fd, buffers[0][:2], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    device.write_now(10, [b"abcdef", b"ghijkl"])
    device.write_now(100, [b"abcdefgh"])
    assert (read(device, 10, 12), read(device, 100, 8)) == (b"abcdefghijkl", b"abcdefgh")
    device.close()


def test_a_file_that_was_cut_while_it_was_open_is_a_failed_device(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "d", 8192, create=True)
    os.truncate(tmp_path / "d", 1000)
    with pytest.raises(DeviceFailed, match="ends at byte 1000: it was cut"):
        read(device, 500, 1000)
    device.close()


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened for writing"):
        FileDevice(tmp_path, 4096)


def test_a_full_file_system_is_no_space_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FileDevice(tmp_path / "d", 8192, create=True)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace, match="/d: write at byte 512: No space left"):
        device.write_now(512, [b"x"])
    device.close()


def test_a_discard_frees_its_range_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    punched: list[tuple[int, int]] = []
    monkeypatch.setattr(
        file_device, "_fallocate", lambda _, mode, at, length: punched.append((at, length)) or 0
    )
    device = FileDevice(tmp_path / "d", 1 << 20, create=True)
    device.discard(4096, 8192)
    device.discard(0, 0)
    assert punched == [(4096, 8192)]
    device.close()


def test_a_second_lock_on_a_directory_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    lock = StoreLock(tmp_path)
    with pytest.raises(ConfigError, match="another node process uses this directory"):
        StoreLock(tmp_path)
    lock.close()
    StoreLock(tmp_path).close()


def test_a_lock_in_a_directory_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not writable"):
        StoreLock(tmp_path / "nowhere")
