"""plan: the port that a target serves: requests of hosts, volumes as hosts see them, their table.

A target (NBD, the attach side, later iSCSI) turns wire requests into `HostRequest`s that are
already checked against the volume's bounds, alignment and mode, and gives each to one `VolumeView`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, Protocol

from base.device import Buffer
from base.errors import NotFound, StorageError

ALLOCATION: Final = "base:allocation"  # the status context that every volume answers
HOLE: Final = 1  # STATUS flag of ALLOCATION: no space is allocated
ZERO: Final = 2  # STATUS flag of ALLOCATION: reads as zeros


class RequestKind(IntEnum):
    """What a host asks for. READ and WRITE, the ones that hold data in memory, come first."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    TRIM = 3
    ZERO = 4
    STATUS = 5


class Hole:
    """Stands in the result of a READ for `length` zero bytes that need not be sent."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


ReadResult = Sequence[Buffer | Hole]
StatusResult = Sequence[tuple[int, int]]
Result = Any  # ReadResult for READ, StatusResult for STATUS, None for the others
Reply = Callable[["HostRequest", StorageError | None, Result], None]


class HostRequest:
    """One request of a host, checked: inside the volume, aligned, allowed, length > 0 (FLUSH: 0).

    data:    WRITE only: exactly `length` bytes that belong to this request; nobody reuses them, so
             the volume may keep them.
    fua:     WRITE, TRIM, ZERO: answer only when it would survive a power cut.
    no_hole: ZERO: the range must stay allocated.
    context: STATUS: which status is asked for, ALLOCATION or another that the view offers.
    only_one: STATUS: one extent is enough.
    cookie, no_fragment, parts: the target's own.
    """

    __slots__ = (
        "context", "cookie", "data", "fua", "kind", "length", "no_fragment", "no_hole", "offset",
        "only_one", "parts", "reply",
    )  # fmt: skip

    def __init__(
        self,
        kind: RequestKind,
        offset: int,
        length: int,
        reply: Reply,
        data: Buffer = b"",
        fua: bool = False,
        cookie: int = 0,
    ) -> None:
        self.kind = kind
        self.offset = offset
        self.length = length
        self.reply: Reply | None = reply
        self.data = data
        self.fua = fua
        self.cookie = cookie
        self.no_hole = False
        self.no_fragment = False
        self.only_one = False
        self.context = ALLOCATION
        self.parts: list[tuple[int, StatusResult]] | None = None

    def done(self, error: StorageError | None, result: Result = None) -> None:
        """Answer it: exactly once, on the loop thread, inside `submit` or any time later.

        READ: buffers and `Hole`s that add up to `length`; they are sent as they are, so they must
        not change after this call. STATUS: (length, flags) from `offset` on, at least one, each
        length > 0; they may end before or after the range. The others: no result.
        """
        reply = self.reply
        assert reply is not None, "a request was answered twice"
        self.reply = None
        reply(self, error, result)


class VolumeView(Protocol):
    """What a host sees of one exported volume or snapshot.

    A view may also have `contexts: tuple[str, ...]`, the status contexts that it answers
    (`contexts_of`), and `answers_context(name)` for more of them than it names; without them that
    is ALLOCATION alone. One FLUSH covers every write that was
    answered before it on any connection to the volume, at any node: hosts are told so (multi-conn).
    """

    @property
    def name(self) -> str:
        """What hosts ask for."""

    @property
    def size_bytes(self) -> int:
        """A multiple of `block_min_bytes`; a host learns it when it connects."""

    @property
    def block_min_bytes(self) -> int:
        """Alignment of every offset and length: a power of two, 512 or 4096."""

    @property
    def read_only(self) -> bool:
        """Writes are refused before they reach the view."""

    @property
    def description(self) -> str:
        """For people."""

    def submit(self, request: HostRequest) -> None:
        """Take the request. Never blocks, never raises a StorageError: failures go to `done`."""


class ExportTable(Protocol):
    """What is exported now."""

    def names(self) -> list[str]:
        """In the order in which hosts shall see them."""

    def open(self, name: str) -> VolumeView:
        """The view of that name. Raises NotFound, or another StorageError that says why not."""


class MappedExports:
    """An export table over a mapping that its owner may change at any time."""

    def __init__(self, views: Mapping[str, VolumeView]) -> None:
        self._views = views

    def names(self) -> list[str]:
        """Names in the mapping's order."""
        return list(self._views)

    def open(self, name: str) -> VolumeView:
        """The view of that name, or NotFound."""
        try:
            return self._views[name]
        except KeyError:
            raise NotFound(f"no volume named {name!r} is exported here") from None


def contexts_of(view: VolumeView) -> tuple[str, ...]:
    """Status contexts that the view answers, by name."""
    contexts: tuple[str, ...] = getattr(view, "contexts", (ALLOCATION,))
    return contexts


def answers_context(view: VolumeView, name: str) -> bool:
    """Whether the view answers a context that it did not name."""
    answers: Callable[[str], bool] | None = getattr(view, "answers_context", None)
    return answers is not None and answers(name)
