"""step: seeded hosts. Each numbers its operations, emits them one by one and records what it saw.

A host knows nothing of transports: whoever drives it asks `next_operation(now_ns)` until it says
None, performs what it was given in any way, and hands each answer to `completed`. An operation
whose outcome is unknown is sent again unchanged, under the same number, before the host sends any
other write to that extent: nothing else may be repeated blindly.

Every sector that is written says who wrote it, where and as which operation, so that a read proves
by itself which write it saw. Trim and write-zeroes are writes of zeros.
"""

from __future__ import annotations

import enum
import heapq
import random
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final, NamedTuple

from base.units import BLOCK_BYTES, NS_PER_MS, SECTOR_BYTES
from scenario.history import History, Kind, Outcome, value_of
from sim.random import SimRandom

# -- payloads ------------------------------------------------------------------------------------

_STAMP: Final = struct.Struct("<4sIQQII")  # magic, volume, block, number, writer, sector in block
_MAGIC: Final = b"8fld"
_REPEATS: Final = SECTOR_BYTES // _STAMP.size
assert _REPEATS * _STAMP.size == SECTOR_BYTES


class Stamp(NamedTuple):
    """What a written block says about itself."""

    volume: int
    block: int
    writer: int
    number: int


class BadPayload(ValueError):
    """The bytes are no block that a host ever wrote: noise, or parts of several writes."""


def payload(
    volume: int, block: int, writer: int, number: int, *, block_bytes: int = BLOCK_BYTES
) -> bytes:
    """The contents of one block: the stamp, over and over, with the sector's place in the block.

    block_bytes: a multiple of 512. Two different stamps differ in every sector.
    """
    if block_bytes == SECTOR_BYTES:
        return _STAMP.pack(_MAGIC, volume, block, number, writer, 0) * _REPEATS
    return b"".join(
        _STAMP.pack(_MAGIC, volume, block, number, writer, sector) * _REPEATS
        for sector in range(block_bytes // SECTOR_BYTES)
    )


def parse(data: bytes | bytearray | memoryview) -> Stamp | None:
    """Who wrote a block; None for zeros. BadPayload says what is wrong with it."""
    block = bytes(data)
    if block == bytes(len(block)):
        return None
    magic, volume, index, number, writer, _ = _STAMP.unpack_from(block)
    stamp = Stamp(volume, index, writer, number)
    if magic == _MAGIC and block == payload(*stamp, block_bytes=len(block)):
        return stamp
    raise BadPayload(_what_is_wrong(block))


def _what_is_wrong(block: bytes) -> str:
    found: list[str] = []
    for sector in range(len(block) // SECTOR_BYTES):
        piece = block[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
        magic, volume, index, number, writer, place = _STAMP.unpack_from(piece)
        if not any(piece):
            text = "zeros"
        elif magic != _MAGIC or piece != piece[: _STAMP.size] * _REPEATS:
            text = "noise"
        else:
            text = f"h{writer}#{number} for volume {volume} block {index} sector {place}"
        if not found or found[-1].partition(": ")[2] != text:
            found.append(f"sector {sector}: {text}")
    return "; ".join(found)


# -- hosts ---------------------------------------------------------------------------------------


class OperationKind(enum.IntEnum):
    """What a host asks for."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    TRIM = 3
    ZERO = 4


# Looked up once: a host asks for them at every operation.
_OK: Final = Outcome.OK
_READ, _WRITE, _FLUSH = OperationKind.READ, OperationKind.WRITE, OperationKind.FLUSH
_KINDS: Final = tuple(OperationKind)
_ROW_KINDS: Final = (Kind.READ, Kind.WRITE, Kind.FLUSH, Kind.WRITE, Kind.WRITE)


@dataclass(slots=True)  # not frozen: that would treble what making one takes
class HostOperation:
    """One request. The pair (host, number) is its operation id, the same in every attempt.

    offset, length: bytes, multiples of the block. data: for WRITE, `length` bytes, else empty.
    attempt: 1 for the first. fua: durable against a power cut when acknowledged.
    """

    host: int
    number: int
    kind: OperationKind
    volume: int
    offset: int = 0
    length: int = 0
    data: bytes = b""
    fua: bool = False
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class HostConfig:
    """A host's habits. Weights are relative; those of one host must not all be 0."""

    volumes: tuple[tuple[int, int], ...]  # (volume, blocks that it has)
    block_bytes: int = BLOCK_BYTES
    queue_depth: int = 4
    read_weight: int = 40
    write_weight: int = 50
    flush_weight: int = 4
    trim_weight: int = 0
    zero_weight: int = 0
    fua_percent: int = 5
    blocks_max: int = 4  # of one operation
    hot_blocks: int = 16  # so many at the beginning of a volume get `hot_percent` of the operations
    hot_percent: int = 50
    interval_ns: int = 0  # mean time between operations, 0: as fast as the queue lets
    operations_max: int = 1 << 30
    attempts_max: int = 100
    retry_after_ns: int = 5 * NS_PER_MS

    def __post_init__(self) -> None:
        if not self.volumes or min(blocks for _, blocks in self.volumes) < 1:
            raise ValueError("a host needs a volume with at least one block")
        if self.block_bytes % SECTOR_BYTES or self.block_bytes <= 0:
            raise ValueError(f"block_bytes {self.block_bytes} is not a multiple of {SECTOR_BYTES}")
        if min(self.queue_depth, self.blocks_max, self.attempts_max) < 1:
            raise ValueError("queue_depth, blocks_max and attempts_max must be at least 1")


@dataclass(slots=True)
class _Pending:
    operation: HostOperation
    rows: list[int]  # of the history, one per block
    uncertain: bool = False  # some attempt of it may have happened


class Host:
    """One seeded host. See the module's text for how it is driven."""

    def __init__(self, host: int, config: HostConfig, rng: random.Random, history: History) -> None:
        self.host = host
        self.config = config
        self.history = history
        self.stopped = False  # set it and the host starts nothing new, but finishes
        self.given_up = 0  # operations whose outcome stayed unknown after `attempts_max`
        self.refused = 0  # operations that failed definitely
        self.done = 0  # operations that succeeded
        self._below: Callable[[int], int] = (
            rng.below if isinstance(rng, SimRandom) else rng.randrange
        )
        self._pending: dict[int, _Pending] = {}
        self._again: list[tuple[int, int]] = []  # heap of (when_ns, number) to be sent again
        self._waiting: deque[HostOperation] = deque()  # drawn, but its extent is not free
        self._number = 0
        self._next_ns = 0
        weights = (
            config.read_weight, config.write_weight, config.flush_weight, config.trim_weight,
            config.zero_weight,
        )  # fmt: skip
        if sum(weights) <= 0 or min(weights) < 0:
            raise ValueError("the weights of a host must not be negative, nor all 0")
        self._ends = tuple(accumulate(weights))  # by kind, of its share of the draws

    @property
    def outstanding(self) -> int:
        """Operations that are under way or to be sent again."""
        return len(self._pending)

    def left(self) -> list[str]:
        """What is under way or waits, for people: kind, place and attempt of each."""
        operations = [*(each.operation for each in self._pending.values()), *self._waiting]
        return [
            f"#{each.number} {each.kind.name.lower()} {each.length} bytes at {each.offset} of"
            f" volume {each.volume}, attempt {each.attempt}"
            for each in operations
        ]

    @property
    def finished(self) -> bool:
        """Nothing is under way and nothing new will come."""
        return not self._pending and not self._waiting and not self._more()

    def _more(self) -> bool:
        return not self.stopped and self._number < self.config.operations_max

    def wake_ns(self) -> int | None:
        """When to ask again if no answer comes before; None: only an answer can change anything."""
        again_ns = self._again[0][0] if self._again else None
        if self._waiting or len(self._pending) >= self.config.queue_depth or not self._more():
            return again_ns
        return self._next_ns if again_ns is None else min(again_ns, self._next_ns)

    def next_operation(self, now_ns: int) -> HostOperation | None:
        """What to send now; None when the queue is full, it is too early, or nothing is left."""
        if self._again and self._again[0][0] <= now_ns:
            number = heapq.heappop(self._again)[1]
            return self._repeat(self._pending[number], now_ns)
        if len(self._pending) >= self.config.queue_depth:
            return None
        if not self._waiting:
            if now_ns < self._next_ns or not self._more():
                return None
            self._waiting.append(self._draw())
            if self.config.interval_ns:
                mean_ns = self.config.interval_ns
                self._next_ns = now_ns + self._below(2 * mean_ns + 1)
        operation = self._waiting[0]
        if not self._may_start(operation):
            return None
        self._waiting.popleft()
        self._pending[operation.number] = _Pending(operation, self._invoke(operation, now_ns))
        return operation

    def completed(
        self,
        operation: HostOperation,
        outcome: Outcome,
        data: bytes | bytearray | memoryview = b"",
        *,
        now_ns: int,
    ) -> None:
        """The answer to the latest attempt. data: what a read returned, `length` bytes.

        INDEFINITE answers, and definite ones after an earlier attempt that may have happened, lead
        to another attempt; so after `attempts_max` of them the outcome stays unknown for ever.
        """
        pending = self._pending[operation.number]
        assert pending.operation.attempt == operation.attempt, "an answer to an older attempt"
        if outcome is _OK:
            self._succeeded(pending, data, now_ns)
        elif outcome is Outcome.FAILED and not pending.uncertain:
            self._end(pending, Outcome.FAILED, now_ns)
            self.refused += 1
        else:
            pending.uncertain = pending.uncertain or operation.kind is not OperationKind.READ
            if operation.attempt >= self.config.attempts_max:
                self._end(pending, Outcome.INDEFINITE, now_ns)
                self.given_up += 1
            else:
                again_ns = now_ns + self.config.retry_after_ns
                heapq.heappush(self._again, (again_ns, operation.number))

    # -- inside ------------------------------------------------------------------------------

    def _draw(self) -> HostOperation:
        config, below = self.config, self._below
        self._number += 1
        kind = _KINDS[bisect_right(self._ends, below(self._ends[-1]))]
        volume, blocks = config.volumes[below(len(config.volumes))]
        if kind is _FLUSH:
            return HostOperation(self.host, self._number, kind, volume)
        hot = below(100) < config.hot_percent
        first = below(min(blocks, config.hot_blocks) if hot else blocks)
        count = min(1 + below(config.blocks_max), blocks - first)
        size = config.block_bytes
        data = b""
        if kind is _WRITE:
            host, number = self.host, self._number
            data = b"".join(
                [
                    payload(volume, block, host, number, block_bytes=size)
                    for block in range(first, first + count)
                ]
            )
        fua = kind is not _READ and below(100) < config.fua_percent
        return HostOperation(
            self.host, self._number, kind, volume, first * size, count * size, data, fua
        )

    def _may_start(self, operation: HostOperation) -> bool:
        """Not before an uncertain write to the same extent is settled, if it is a write itself."""
        if operation.kind is _READ or operation.kind is _FLUSH:
            return True
        stop = operation.offset + operation.length
        for pending in self._pending.values():
            other = pending.operation
            if (
                pending.uncertain
                and other.volume == operation.volume
                and other.offset < stop
                and operation.offset < other.offset + other.length
            ):
                return False
        return True

    def _invoke(self, operation: HostOperation, now_ns: int) -> list[int]:
        """A row for each block; a flush has one, with block -1."""
        size = self.config.block_bytes
        blocks = range(-1, 0)
        if operation.kind is not _FLUSH:
            first = operation.offset // size
            blocks = range(first, first + operation.length // size)
        value = value_of(self.host, operation.number) if operation.kind is _WRITE else 0
        return self.history.invoke_all(
            _ROW_KINDS[operation.kind], host=self.host, number=operation.number,
            volume=operation.volume, blocks=blocks, value=value, now_ns=now_ns,
            durable=operation.fua,
        )  # fmt: skip

    def _repeat(self, pending: _Pending, now_ns: int) -> HostOperation:
        operation = replace(pending.operation, attempt=pending.operation.attempt + 1)
        pending.operation = operation
        if operation.kind is OperationKind.READ:
            # An attempt without an answer says nothing; a row from now on says more.
            for row in pending.rows:
                self.history.complete(row, Outcome.INDEFINITE, now_ns=now_ns)
            pending.rows = self._invoke(operation, now_ns)
        return operation

    def _end(self, pending: _Pending, outcome: Outcome, now_ns: int) -> None:
        for row in pending.rows:
            self.history.complete(row, outcome, now_ns=now_ns)
        del self._pending[pending.operation.number]

    def _succeeded(
        self, pending: _Pending, data: bytes | bytearray | memoryview, now_ns: int
    ) -> None:
        self.done += 1
        operation = pending.operation
        if operation.kind is not _READ:
            self._end(pending, _OK, now_ns)
            return
        size = self.config.block_bytes
        block = operation.offset // size
        at = 0
        for row in pending.rows:
            self._saw(row, operation.volume, block, bytes(data[at : at + size]), now_ns)
            block += 1
            at += size
        del self._pending[operation.number]

    def _saw(self, row: int, volume: int, block: int, data: bytes, now_ns: int) -> None:
        if len(data) != self.config.block_bytes:
            text = f"{len(data)} bytes were returned for a block"
            self.history.phantom(row, text, now_ns=now_ns)
            return
        try:
            stamp = parse(data)
        except BadPayload as error:
            self.history.phantom(row, str(error), now_ns=now_ns)
            return
        if stamp is None:
            self.history.complete(row, _OK, now_ns=now_ns, value=0)
        elif (stamp.volume, stamp.block) != (volume, block):
            text = f"the contents belong to volume {stamp.volume} block {stamp.block}"
            self.history.phantom(row, text, now_ns=now_ns)
        else:
            value = value_of(stamp.writer, stamp.number)
            self.history.complete(row, _OK, now_ns=now_ns, value=value)
