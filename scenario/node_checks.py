"""plan: rules that are checked on whole nodes, at the moment they matter.

The checks listen at the seams between the parts of a node (core, store, journal, I/O path) and keep
a record of their own of what every node has journalled, which outlives the nodes' lives. What they
know is compared with what each node acts on, and with what it finds again after a crash.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from base.units import NS_PER_S
from node.cache import Page
from node.daemon import Node
from node.journal import Journal
from node.region_copy import RegionCopy
from node.roles import COPY, NONE, OWNER
from scenario.state_checks import Violated
from sim.cluster import SimCluster, SimNode
from sim.device import CrashKind
from transport.operation import READ, SYNC, Record

Key = tuple[int, int]


class Kept:
    """What the journal of one node holds of one region: all up to `base`, and `held` by seq."""

    __slots__ = ("base", "begun", "ended", "held", "lost")

    def __init__(self, base: int, begun: tuple[int, Journal] | None = None) -> None:
        self.base = base
        self.begun = begun  # the note by which a transfer made it: (lsn, its journal)
        self.ended = begun is None  # that transfer; until then nobody counts on the copy
        # Names that went with the power: the node had acknowledged them before.
        self.lost: dict[tuple[int, int], None] = {}
        # By seq: (epoch, lsn, the journal of the life that wrote it; None: synced since).
        self.held: dict[int, tuple[int, int, Journal | None]] = {}

    def holds(self, seq: int, epoch: int) -> bool:
        """Whether the record of that name is there."""
        return seq <= self.base or (seq in self.held and self.held[seq][0] == epoch)

    def is_synced(self, seq: int) -> bool:
        """Whether it survives a power cut."""
        if seq <= self.base:
            return True
        _, lsn, journal = self.held[seq]
        return journal is None or journal.synced_lsn >= lsn


class NodeChecks:
    """I5 to I9, I12 and I31, and I9 again over crashes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.cluster: SimCluster
        self.violation: Violated | None = None
        self.on_commit: Callable[[Record], None] = lambda _record: None  # about to be applied
        self.served_reads = self.commits = self.restored = 0
        self._kept: dict[int, dict[Key, Kept]] = {}
        self._crashed: dict[int, CrashKind] = {}
        self._restored: dict[int, dict[Key, None]] = {}
        self._names: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        self._committed: dict[Key, dict[int, tuple[int, int, int]]] = {}
        self._epochs: dict[tuple[int, int, int], int] = {}
        self._catalogs: dict[int, tuple[int, int]] = {}
        # By region and epoch of its owner, the last record that it committed: (seq, record epoch).
        self._last: dict[Key, dict[int, tuple[int, int]]] = {}

    def fail(self, rule: str, text: str) -> None:
        """Stop the run. Code under test may swallow the exception; the run looks at the field."""
        at_s = self.cluster.loop.now_ns / NS_PER_S
        violated = Violated(f"{rule} at {at_s:.6f} s of seed {self.seed}: {text}")
        if self.violation is None:
            self.violation = violated
        self.cluster.loop.stop()
        raise violated

    def crashed(self, node: SimNode, kind: CrashKind) -> None:
        """The node was killed just now."""
        self._crashed[node.number] = kind
        if kind is CrashKind.KILL:
            return
        # Of what was not synced anything may be left, so nothing is promised.
        regions = self._kept.get(node.number, {})
        for key, kept in list(regions.items()):
            for seq in [seq for seq in kept.held if not kept.is_synced(seq)]:
                kept.lost[seq, kept.held.pop(seq)[0]] = None
            if kept.begun is not None and kept.begun[1].synced_lsn < kept.begun[0]:
                lost, regions[key] = kept.lost, Kept(0)  # what was there before may be back
                regions[key].lost = lost

    def rolled_back(self, node: SimNode) -> None:
        """Its disks are those of some time ago: nothing that it held since is promised (F30)."""
        self._kept.get(node.number, {}).clear()
        for place in [place for place in self._epochs if place[0] == node.number]:
            del self._epochs[place]

    def forget_committed(self) -> None:
        """All machines lost power: what was acknowledged and not synced may be gone (F3)."""
        self._committed.clear()
        self._last.clear()

    # ------------------------------------------------------------------ listening

    def listen(self, sim: SimNode) -> None:
        """Hang on a life that was wired just now."""
        node = sim.node
        assert node is not None
        number = sim.number
        kept = self._kept.setdefault(number, {})
        self._restored[number] = {}
        self._listen_to_journal(number, node, kept)
        destaged = self._listen_to_destage(sim, node)
        store, core, io = node.store, node.core, node.io
        apply, restore, recovered = store.apply, core.restore_copy, core.store_recovered
        answer, topology = io.answer, node.control.on_topology

        def applied(record: Record) -> None:
            self._applied(sim, node, record)
            self.on_commit(record)
            destaged(record)
            apply(record)

        def restored(volume: int, region: int, **state: Any) -> RegionCopy:
            copy = restore(volume, region, **state)
            self._check_restored(sim, copy)
            return copy

        def store_recovered(now_ns: int) -> None:
            for key in [key for key in kept if key not in self._restored[number]]:
                del kept[key]
            recovered(now_ns)

        def answered(token: Any, error: Any, data: Any) -> None:
            record = token.record
            if error is None and record.kind == READ:
                self._served(sim, node, record)
            answer(token, error, data)

        def topology_changed() -> None:
            self._configured(sim, node)
            topology()

        store.apply = applied  # type: ignore[method-assign]
        core.restore_copy = restored  # type: ignore[method-assign]
        core.store_recovered = store_recovered  # type: ignore[method-assign]
        io.answer = answered  # type: ignore[method-assign]
        node.control.on_topology = topology_changed

    def _listen_to_journal(self, number: int, node: Node, kept: dict[Key, Kept]) -> None:
        store, journal = node.store, node.journal
        append, truncate, begin, end, drop, journalled = (
            store.append, store.truncate, store.begin_transfer, store.end_transfer,
            store.drop_region, journal.on_journalled,
        )  # fmt: skip
        # A record may be voided and come again before its first entry is written: in their order.
        lsns: dict[tuple[int, int, int, int], deque[int]] = {}

        def appended(record: Record, header: bytes, token: object) -> int:
            lsn = append(record, header, token)
            name = (record.volume, record.region, record.epoch, record.seq)
            lsns.setdefault(name, deque()).append(lsn)
            operation = (record.client, record.number)
            known = self._names.setdefault(name, operation)
            if known != operation:
                self.fail("I7", f"{name} is {known} and, on n{number}, {operation}")
            return lsn

        def truncated(key: Key, from_seq: int) -> None:
            if key in kept:
                for seq in [seq for seq in kept[key].held if seq >= from_seq]:
                    del kept[key].held[seq]
            truncate(key, from_seq)

        def transfer_begun(note: Any) -> None:
            begun = (journal.next_lsn, journal)  # the note is appended now
            kept[note.volume, note.region] = Kept(note.base_seq, begun)
            begin(note)

        async def transfer_ended(key: Key, session: int) -> None:
            await end(key, session)
            if key in kept:
                kept[key].ended = True

        def dropped(key: Key) -> None:
            kept.pop(key, None)
            drop(key)

        def on_journalled(tokens: list[Any]) -> None:
            for _, record in tokens:
                name = (record.volume, record.region, record.epoch, record.seq)
                lsn = lsns[name].popleft()
                if not lsns[name]:
                    del lsns[name]
                if not record.dead:
                    held = kept.setdefault((record.volume, record.region), Kept(0)).held
                    held[record.seq] = (record.epoch, lsn, journal)
            journalled(tokens)

        store.append = appended  # type: ignore[method-assign]
        store.truncate = truncated  # type: ignore[method-assign]
        store.begin_transfer = transfer_begun  # type: ignore[method-assign]
        store.end_transfer = transfer_ended  # type: ignore[method-assign]
        store.drop_region = dropped  # type: ignore[method-assign]
        journal.on_journalled = on_journalled

    def _listen_to_destage(self, sim: SimNode, node: Node) -> Callable[[Record], None]:
        """I31: no page goes to a disk before the records that made it are synced. Returns what
        wants to know of each record that is about to be applied."""
        store, journal = node.store, node.journal
        destager, cache = store.destager, store.cache
        write = destager._write_now
        # By page, for each stamp of the cache the newest record that was applied under it: its lsn.
        made: dict[tuple[Key, int], dict[int, int]] = {}

        def applying(record: Record) -> None:
            key = (record.volume, record.region)
            region = store.regions[key]
            lsn = region.pending[record.seq]
            for index in region.touched_by(record):
                made.setdefault((key, index), {})[cache.stamp] = lsn

        def writing(group: list[Page]) -> bool:
            for page in group:
                newest = page.newest if page.sealed is None else page.sealed.newest
                place = (page.region.key, page.index)
                lsns = made.get(place, {})
                for stamp in [stamp for stamp in lsns if stamp <= newest]:
                    if lsns[stamp] > journal.synced_lsn:
                        self.fail(
                            "I31",
                            f"{sim} destages page {page.index} of {place[0]} with the record at lsn"
                            f" {lsns[stamp]}, and is synced up to {journal.synced_lsn}",
                        )
                    del lsns[stamp]
            return write(group)

        destager._write_now = writing  # type: ignore[method-assign]
        return applying

    # ------------------------------------------------------------------ rules

    def _check_restored(self, sim: SimNode, copy: RegionCopy) -> None:
        """I9: after a crash a node finds again what it had acknowledged."""
        key = (copy.volume, copy.region)
        self.restored += 1
        self._restored[sim.number][key] = None
        made = Kept(copy.committed)
        made.held = {record.seq: (record.epoch, -1, None) for record in copy.tail()}
        known = self._kept[sim.number].get(key)
        if known is not None and not (copy.complete and known.ended):
            # It goes on from the record since which the transfer began, or its first note was lost.
            # What it had not ended begins anew; a member that says so breaks I8.
            made.lost = known.lost
        elif known is not None:
            if known.base > made.base:
                self.fail("I9", f"{copy} was restored behind its base {known.base}")
            for seq, (epoch, _, _) in known.held.items():
                if not made.holds(seq, epoch):
                    kind = self._crashed.get(sim.number)
                    self.fail("I9", f"{copy} lost record {(epoch, seq)} over a crash: {kind}")
            made.lost = known.lost
        self._kept[sim.number][key] = made

    def _applied(self, sim: SimNode, node: Node, record: Record) -> None:
        """I8, I9: what is about to be answered is journalled by every member and by a joiner whose
        admission may be on its way; and one place in the sequence is committed once."""
        key = (record.volume, record.region)
        copy = node.core.copies[record.volume][record.region]
        self.cluster.loop.trace("apply", (sim.number, *key, record.epoch, record.seq))
        line = self._committed.setdefault(key, {})
        entry = (record.epoch, record.client, record.number)
        known = line.setdefault(record.seq, entry)
        if known != entry:
            self.fail("I8", f"{key} seq {record.seq}: {known} was committed, now {entry}")
        if copy.role != OWNER:
            return
        self.commits += 1
        self._last.setdefault(key, {})[copy.epoch] = (record.seq, record.epoch)
        holders = dict.fromkeys((*copy.required, sim.number))
        row = node.core.catalog.row(copy.volume, copy.region)
        for member in range(self.cluster.config.nodes):
            if row.is_member(member) and row.epoch == copy.epoch:
                holders[member] = None
        for holder in sorted(holders):
            kept = self._kept.get(holder, {}).get(key)
            name, synced = (record.seq, record.epoch), record.flags & SYNC
            if kept is not None and not synced and name in kept.lost:
                # It had acknowledged it before its power went; of `mirrored` no more is promised.
                continue
            if kept is None or not kept.holds(record.seq, record.epoch):
                if self._released(holder, node, record):
                    continue
                self.fail("I9", f"{record} is committed by {sim}, not journalled on n{holder}")
            assert kept is not None
            if holder == copy.joiner and not copy.admission_out:
                # Its admission began after this commit, in the same turn, and goes out only when
                # all that was committed without it is synced there (swarm 7001492).
                continue
            if record.flags & SYNC and not kept.is_synced(record.seq):
                self.fail("I9", f"{record} is committed by {sim} and not synced on n{holder}")

    def _released(self, holder: int, owner: Node, record: Record) -> bool:
        """It has dropped its copy, by a catalog that the owner does not know yet: it had the record
        when it acknowledged it, and all who are members now have it."""
        sim = self.cluster.nodes[holder]
        if not sim.alive or not sim.ready or sim.node is None:
            return False
        catalog = sim.node.core.catalog
        if catalog.version <= owner.core.catalog.version or record.volume not in catalog.volumes:
            return False
        row = catalog.row(record.volume, record.region)
        kept = [
            self._kept.get(member, {}).get((record.volume, record.region))
            for member in range(self.cluster.config.nodes)
            if row.is_member(member)
        ]
        return not row.is_member(holder) and all(
            each is not None and each.holds(record.seq, record.epoch) for each in kept
        )

    def _served(self, sim: SimNode, node: Node, record: Record) -> None:
        """I5: this node may answer at this moment, and nobody else."""
        self.served_reads += 1
        self.cluster.loop.trace("read", (sim.number, record.volume, record.region))
        copy = node.core.copies.get(record.volume, {}).get(record.region)
        if copy is None or not node.core.may_read(copy, sim.clock.now_ns()):
            self.fail("I5", f"{sim} answers a read and may not: {copy}")
        for other in self.cluster.nodes:
            if other is sim or not other.runs:
                continue
            assert other.node is not None
            core = other.node.core
            theirs = core.copies.get(record.volume, {}).get(record.region)
            if theirs is not None and core.may_read(theirs, other.clock.now_ns()):
                self.fail("I5", f"{sim} and {other} both serve {copy} / {theirs}")

    def _configured(self, sim: SimNode, node: Node) -> None:
        """I6, I8, I12: epochs never fall, members hold what was committed, one version of the
        catalog has one content."""
        catalog = node.core.catalog
        digest = zlib.crc32(catalog.to_bytes())
        known = self._catalogs.setdefault(catalog.version, (digest, sim.number))
        if known[0] != digest:
            self.fail("I12", f"catalog {catalog.version} differs between n{known[1]} and {sim}")
        self.cluster.loop.trace("catalog", (sim.number, catalog.version, digest))
        for by_region in node.core.copies.values():
            for copy in by_region.values():
                place = (sim.number, copy.volume, copy.region)
                if copy.epoch < self._epochs.get(place, 0) and copy.role != NONE:
                    self.fail("I6", f"{copy}: epoch {self._epochs[place]} was seen before")
                self._epochs[place] = max(copy.epoch, self._epochs.get(place, 0))
                if copy.role in (OWNER, COPY):
                    self._holds_all(sim, copy)

    def _holds_all(self, sim: SimNode, copy: RegionCopy) -> None:
        """I8: a member holds what was committed in its epoch and before, whoever committed it."""
        key = (copy.volume, copy.region)
        last = max(
            (last for epoch, last in self._last.get(key, {}).items() if epoch <= copy.epoch),
            default=None,
        )
        kept = self._kept[sim.number].get(key)
        if last is not None and (kept is None or not copy.complete or not kept.holds(*last)):
            self.fail("I8", f"{copy} is a member on {sim} without committed record {last}")
