"""step: the log of consensus in memory, behind the latest snapshot of the catalog.

Indexes start at 1. The log remembers every configuration of members that it holds, so that cutting
the log brings an older configuration back into force (thesis 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from base.ids import NodeId
from cluster.raft_types import ENTRY_OVERHEAD_BYTES, Entry, EntryKind, Members, Snapshot


class RaftLog:
    """Entries `start_index + 1 ..= last_index`; `start_index <= snapshot.index`.

    The store gives the snapshot and the entries right behind it; afterwards a few entries older
    than the snapshot may stay in memory for peers that lag.
    """

    __slots__ = ("_configs", "_entries", "snapshot", "start_index", "start_term")

    def __init__(self, snapshot: Snapshot, entries: Iterable[Entry] = ()) -> None:
        self.snapshot = snapshot
        self.start_index = snapshot.index
        self.start_term = snapshot.term
        self._entries: list[Entry] = []
        self._configs: list[tuple[int, Members]] = [(snapshot.index, snapshot.members)]
        self.append(tuple(entries))

    @property
    def last_index(self) -> int:
        """Index of the last entry, or of the snapshot when there is none behind it."""
        return self.start_index + len(self._entries)

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self._entries[-1][0] if self._entries else self.start_term

    @property
    def members(self) -> Members:
        """The configuration in force: the latest in the log, committed or not."""
        return self._configs[-1][1]

    @property
    def members_index(self) -> int:
        """Where the configuration in force stands."""
        return self._configs[-1][0]

    @property
    def members_before(self) -> Members:
        """The configuration before the one in force; the same when no other is known."""
        return self._configs[-2 if len(self._configs) > 1 else -1][1]

    def members_at(self, index: int) -> Members:
        """The configuration that was in force with the log up to `index`."""
        found = self._configs[0][1]
        for where, members in self._configs:
            if where > index:
                break
            found = members
        return found

    def may_vote(self, node: NodeId, commit_index: int) -> bool:
        """Whether the node votes in any configuration that may be the committed one: that at
        `commit_index` or a later one."""
        for where, members in reversed(self._configs):
            if node in members.voters:
                return True
            if where <= commit_index:
                return False
        return False

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`, -1 when this log does not hold it."""
        at = index - self.start_index
        if at == 0:
            return self.start_term
        if 0 < at <= len(self._entries):
            return self._entries[at - 1][0]
        return -1

    def entry(self, index: int) -> Entry:
        """The entry at `index`, which must be in memory."""
        assert index > self.start_index, (index, self.start_index)
        return self._entries[index - self.start_index - 1]

    def slice(self, first: int, entries_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from `first` on, within both bounds, but at least one when there is one."""
        begin = first - self.start_index - 1
        assert begin >= 0, (first, self.start_index)
        end = min(len(self._entries), begin + entries_max)
        room = bytes_max
        for at in range(begin, end):
            room -= len(self._entries[at][2]) + ENTRY_OVERHEAD_BYTES
            if room < 0 and at > begin:
                end = at
                break
        return tuple(self._entries[begin:end])

    def append(self, entries: Sequence[Entry]) -> None:
        """Put entries at the end. RemoteProtocolError before anything changes when one of them is a
        configuration that cannot be read."""
        configs = [
            (self.last_index + 1 + offset, Members.decode(entry[2]))
            for offset, entry in enumerate(entries)
            if entry[1] == EntryKind.MEMBERS
        ]
        self._entries.extend(entries)
        self._configs.extend(configs)

    def truncate(self, first: int) -> None:
        """Drop the entries from `first` on, and the configurations among them."""
        assert first > self.start_index, (first, self.start_index)
        del self._entries[first - self.start_index - 1 :]
        while len(self._configs) > 1 and self._configs[-1][0] >= first:
            self._configs.pop()

    def first_index_of_term_at(self, index: int) -> int:
        """The first index in memory of the run of entries with the same term as that at `index`."""
        term = self.term_at(index)
        while index - 1 > self.start_index and self.term_at(index - 1) == term:
            index -= 1
        return index

    def compact(self, snapshot: Snapshot, keep_entries: int) -> None:
        """Take a newer snapshot of this same log and drop what is older, but for `keep_entries`."""
        assert self.snapshot.index <= snapshot.index <= self.last_index
        self.snapshot = snapshot
        start = max(self.start_index, snapshot.index - keep_entries)
        if start == self.start_index:
            return
        term, members = self.term_at(start), self.members_at(start)
        del self._entries[: start - self.start_index]
        self.start_index, self.start_term = start, term
        later = [config for config in self._configs if config[0] > start]
        self._configs = [(start, members), *later]

    def replace(self, snapshot: Snapshot) -> None:
        """Forget everything: the log is this snapshot of another node now."""
        self.snapshot = snapshot
        self.start_index, self.start_term = snapshot.index, snapshot.term
        self._entries.clear()
        self._configs = [(snapshot.index, snapshot.members)]
