"""plan: the running hash over a run: the proof that two runs were the same.

Two streams are hashed: entries, which say what happened, and jumps of time, of which there are so
many that packed integers are worth it. Both go in batches; when the hash is asked for does not
change it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from typing import Final

TraceKey = int | str | bytes | tuple[int | str | bytes, ...]
Recorder = Callable[[int, str, TraceKey], None]

_ENTRIES_MAX: Final = 1024  # that are hashed at once
_JUMPS_MAX: Final = 3 * 4096  # integers


class RunTrace:
    """recorder: called with each entry (t_ns, kind, key), for replays."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder
        self._entries: list[tuple[int, str, TraceKey]] = []
        self._entries_hash = hashlib.blake2b(digest_size=16)
        self._jumps = array("Q")
        self._jumps_hash = hashlib.blake2b(digest_size=16)

    def add(self, now_ns: int, kind: str, key: TraceKey) -> None:
        """Something happened. Keys hold integers, text and bytes only."""
        self._entries.append((now_ns, kind, key))
        if self.recorder is not None:
            self.recorder(now_ns, kind, key)
        if len(self._entries) >= _ENTRIES_MAX:
            self._hash_entries()

    def jumped(self, now_ns: int, executed: int, sequence: int) -> None:
        """Time is now_ns. executed, sequence: how many events and timers led here: two runs that
        differ in order soon differ in these."""
        jumps = self._jumps
        jumps.extend((now_ns, executed, sequence))
        if len(jumps) >= _JUMPS_MAX:
            self._hash_jumps()

    def _hash_entries(self) -> None:
        if self._entries:
            entries = "\n".join(map(repr, self._entries))
            self._entries_hash.update(f"{entries}\n".encode())
            self._entries.clear()

    def _hash_jumps(self) -> None:
        self._jumps_hash.update(self._jumps.tobytes())
        del self._jumps[:]

    def hexdigest(self) -> str:
        """32 hexadecimal digits over everything so far."""
        self._hash_entries()
        self._hash_jumps()
        both = self._entries_hash.digest() + self._jumps_hash.digest()
        return hashlib.blake2b(both, digest_size=16).hexdigest()
