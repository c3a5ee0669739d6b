"""shell: where backups go to and come from: files, pipes, and URLs that fsspec knows.

A file is written beside its name, as NAME.part, and renamed when it is whole; NAME.resume says how
much of it is good, so that an export that was cut off goes on there. Neither a pipe nor a URL takes
anything back: what they have got stays, and a stream without its end is seen by whoever reads it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

from base.device import Buffer
from base.errors import AlreadyExists, ConfigError, InvalidRequest, NotFound
from base.units import MiB
from snapshot.backup_stream import ResumePoint

PIPE: Final = "-"
CHUNK_BYTES: Final = MiB
KEEP_BYTES: Final = 64 * MiB  # between two resume points: each costs a sync


class Target(Protocol):
    """Takes a stream from front to back."""

    def write(self, data: Buffer) -> None:
        """The next bytes. ConfigError: it cannot take them."""

    def keep(self, point: ResumePoint) -> None:
        """Everything before that point was written: it may be gone on with there."""

    def finish(self) -> None:
        """The stream is whole."""

    def abandon(self) -> None:
        """It will not be finished now."""


class FileTarget:
    """A file. `point`: where an export that was cut off goes on; None: at the beginning."""

    def __init__(self, path: Path, *, resumable: bool) -> None:
        """AlreadyExists: there is a whole one of that name. ConfigError: it cannot be written."""
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._note = path.with_name(path.name + ".resume")
        self.point: ResumePoint | None = None
        if path.exists():
            raise AlreadyExists(f"{path} exists: a backup is never written over another file")
        with _named(path):
            if resumable and self._note.exists() and self._part.exists():
                self.point = ResumePoint.from_text(self._note.read_text())
            self._file = open(self._part, "r+b" if self.point else "wb")  # noqa: SIM115
            if self.point is not None:
                self._file.truncate(self.point.position)
                self._file.seek(self.point.position)
        self._resumable = resumable
        self._kept = self.point.position if self.point is not None else 0

    def write(self, data: Buffer) -> None:
        """See Target."""
        with _named(self._path):
            self._file.write(data)

    def keep(self, point: ResumePoint) -> None:
        """See Target."""
        if not self._resumable or point.position - self._kept < KEEP_BYTES:
            return
        self._kept = point.position
        with _named(self._path):
            self._sync()
            fresh = self._note.with_name(self._note.name + ".new")
            fresh.write_text(point.to_text() + "\n")
            fresh.replace(self._note)

    def finish(self) -> None:
        """See Target."""
        with _named(self._path):
            self._sync()
            self._file.close()
            self._part.rename(self._path)
            self._note.unlink(missing_ok=True)

    def abandon(self) -> None:
        """What is there stays, to be gone on with."""
        with suppress(OSError):
            self._file.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


class StreamTarget:
    """A pipe or a URL."""

    point: ResumePoint | None = None

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file

    def write(self, data: Buffer) -> None:
        """See Target."""
        with _named(self._name):
            self._file.write(data)

    def keep(self, point: ResumePoint) -> None:
        """It cannot be gone on with."""

    def finish(self) -> None:
        """See Target."""
        with _named(self._name):
            self._file.flush()
            if self._name != PIPE:
                self._file.close()

    def abandon(self) -> None:
        """A reader sees that the end is missing."""
        with suppress(OSError):
            self._file.close()


def open_target(name: str, *, resumable: bool) -> FileTarget | StreamTarget:
    """`-` is standard output; what has :// in it is a URL; all else a file."""
    if name == PIPE:
        if sys.stdout.isatty():
            raise InvalidRequest("a backup is no text: send standard output into a file or a pipe")
        return StreamTarget(name, sys.stdout.buffer)
    if "://" in name:
        return StreamTarget(name, _open_url(name, "wb"))
    return FileTarget(Path(name), resumable=resumable)


class Source:
    """A stream that can be read from its beginning as often as it is wanted."""

    def __init__(self, name: str) -> None:
        """What comes out of a pipe is put aside first: it must be verified before it is used.
        NotFound, ConfigError."""
        self.name = name
        self._aside: BinaryIO | None = None
        if name == PIPE:
            self._aside = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115
            with _named(name):
                while chunk := sys.stdin.buffer.read(CHUNK_BYTES):
                    self._aside.write(chunk)
        elif "://" not in name and not Path(name).is_file():
            raise NotFound(f"there is no file {name}")

    def close(self) -> None:
        """What was put aside is gone."""
        if self._aside is not None:
            self._aside.close()

    def chunks(self) -> Iterator[bytes]:
        """From the beginning to the end."""
        if self._aside is not None:
            self._aside.seek(0)
            yield from _chunks(self.name, self._aside)
            return
        file: BinaryIO
        if "://" in self.name:
            file = _open_url(self.name, "rb")
        else:
            with _named(self.name):
                file = open(self.name, "rb")  # noqa: SIM115
        with file:
            yield from _chunks(self.name, file)


def _chunks(name: str, file: BinaryIO) -> Iterator[bytes]:
    while True:
        with _named(name):
            chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def _open_url(name: str, mode: str) -> BinaryIO:
    try:
        fsspec = import_module("fsspec")
    except ImportError:
        raise ConfigError(
            f"{name}: URLs need fsspec, which is not installed: pip install 'eightfold[backup]'"
        ) from None
    try:
        opened: BinaryIO = fsspec.open(name, mode).open()
    except FileNotFoundError:
        raise NotFound(f"there is nothing at {name}") from None
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{name}: {error}") from None
    return opened


@contextmanager
def _named(name: object) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ConfigError(f"{name}: whoever read it is gone") from None
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}") from None
