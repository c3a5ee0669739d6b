"""plan: rules that are checked on the state of the simulated cluster, at the moment they matter.

They hang on the kernel (`sim.kernel.Watch`) and know everything that every node holds, so they see
what no host could: a lease too long, a record missing on a copy that nobody has needed yet.
"""

from __future__ import annotations

import zlib
from typing import Final

from base.units import NS_PER_S
from cluster.catalog import Catalog
from node.region_copy import RegionCopy
from node.roles import COPY, OWNER
from sim.kernel import Kernel, KernelNode
from transport.operation import SYNC, Record

# Catalogs that once differ go on differing: the digest of each fourth version tells as well, and
# so does the last one, after healing.
DIGEST_EVERY: Final = 4


# Copy, catalog, its version, epoch and `required` of the copy: and who holds what it commits.
Holders = tuple[RegionCopy, Catalog, int, int, tuple[int, ...], list[KernelNode]]


class Violated(AssertionError):
    """A rule was broken; the text says which, where and when."""


class StateChecks:
    """I5, I6, I7, I8, I9 and the agreement on the catalog, at the moment they matter."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._names: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        self._committed: dict[tuple[int, int], dict[int, tuple[int, int, int]]] = {}
        self._epochs: dict[tuple[int, int, int], int] = {}
        self._catalogs: dict[int, tuple[int, int]] = {}
        self._places: dict[tuple[int, int, int, int], int] = {}  # where an operation took effect
        # By region and epoch of its owner, the last record that it committed: (seq, record epoch).
        self._last: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        self._accepted: dict[tuple[int, int], int] = {}  # by region, the epoch of its last loss
        self._known_holders: dict[tuple[int, int, int], Holders] = {}  # by node and region

    def fail(self, rule: str, text: str) -> None:
        """Stop the run."""
        at_s = self.kernel.now_ns / NS_PER_S
        raise Violated(f"{rule} at {at_s:.6f} s of seed {self.kernel.seed}: {text}")

    def forget_committed(self) -> None:
        """All machines lost power: what was acknowledged and not synced may be gone (F3)."""
        self._committed.clear()
        self._places.clear()
        self._last.clear()

    def journalled(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """I7: a name stands for one operation, everywhere."""
        name = (record.volume, record.region, record.epoch, record.seq)
        operation = (record.client, record.number)
        known = self._names.setdefault(name, operation)
        if known != operation:
            self.fail("I7", f"{name} is {known} and, on {node}, {operation}")

    def committed(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """I8, I9: what is about to be answered is journalled by every member and by a joiner whose
        admission may be on its way; and one place in the sequence is committed once."""
        key = (copy.volume, copy.region)
        self._accept_loss(node, key)
        line = self._committed.setdefault(key, {})
        entry = (record.epoch, record.client, record.number)
        known = line.setdefault(record.seq, entry)
        if known != entry:
            self.fail("I8", f"{key} seq {record.seq}: {known} was committed, now {entry}")
        place = self._places.setdefault((*key, record.client, record.number), record.seq)
        if place != record.seq:
            self.fail("I2", f"{record} took effect before, as seq {place}")
        self._last.setdefault(key, {})[copy.epoch] = (record.seq, record.epoch)
        for holder in self._holders(node, copy, key):
            kept = holder.durable.regions.get(key)
            if holder.durable.blank or not (record.flags & SYNC or holder.durable.intact):
                continue  # what it acknowledged went with its power or disks, and it will say so
            if kept is None or not kept.holds(record.seq, record.epoch):
                self.fail("I9", f"{record} is committed by {node} and not durable on {holder}")
            assert kept is not None
            through = holder.durable.synced_through
            if record.flags & SYNC and not kept.is_synced(record.seq, through):
                self.fail("I9", f"{record} is committed by {node} and not synced on {holder}")

    def _holders(
        self, node: KernelNode, copy: RegionCopy, key: tuple[int, int]
    ) -> list[KernelNode]:
        """Who must have what the copy commits, ascending: the node itself, whom the copy asks, and
        the members by its catalog. Of a copy it is looked up once for each of its configurations
        and versions of the catalog: nothing else goes into it."""
        catalog = node.core.catalog
        place = (node.node, *key)
        known = self._known_holders.get(place)
        if known is not None:
            of_copy, of_catalog, version, epoch, required, holders = known
            if (
                of_copy is copy
                and of_catalog is catalog
                and version == catalog.version
                and epoch == copy.epoch
                and required == copy.required
            ):
                return holders
        named = {*copy.required, node.node}
        row = catalog.row(*key)
        if row.epoch == copy.epoch:
            named.update(n for n in range(self.kernel.config.nodes) if row.is_member(n))
        holders = [self.kernel.nodes[each] for each in sorted(named)]
        self._known_holders[place] = (
            copy, catalog, catalog.version, copy.epoch, copy.required, holders,
        )  # fmt: skip
        return holders

    def served(self, node: KernelNode, copy: RegionCopy) -> None:
        """I5: nobody else may answer reads of the region at this moment."""
        for other in self.kernel.nodes:
            if other is node or not other.alive or other.paused:
                continue
            theirs = other.core.copies.get(copy.volume, {}).get(copy.region)
            if theirs is not None and other.core.may_read(theirs, other.clock_ns()):
                self.fail("I5", f"{node} and {other} both serve {copy} / {theirs}")

    def configured(self, node: KernelNode) -> None:
        """I6, I8, I12: epochs never fall, members hold what was committed, one version of the
        catalog has one content."""
        catalog = node.core.catalog
        if catalog.version % DIGEST_EVERY == 0:
            self.agrees(node)
        for by_region in node.core.copies.values():
            for copy in by_region.values():
                place = (node.node, copy.volume, copy.region)
                if copy.epoch < self._epochs.get(place, 0) and copy.role != 0:
                    self.fail("I6", f"{copy}: epoch {self._epochs[place]} was seen before")
                self._epochs[place] = max(copy.epoch, self._epochs.get(place, 0))
                if copy.role in (OWNER, COPY):
                    self._holds_all(node, copy)

    def agrees(self, node: KernelNode) -> int:
        """I12: the digest of its catalog, which is that of every node at its version."""
        catalog = node.core.catalog
        digest = zlib.crc32(catalog.to_bytes())
        known = self._catalogs.setdefault(catalog.version, (digest, node.node))
        if known[0] != digest:
            self.fail("I12", f"catalog {catalog.version} differs between n{known[1]} and {node}")
        return digest

    def _holds_all(self, node: KernelNode, copy: RegionCopy) -> None:
        """I8: a member holds what was committed in its epoch and before, whoever committed it."""
        key = (copy.volume, copy.region)
        self._accept_loss(node, key)
        last = max(
            (last for epoch, last in self._last.get(key, {}).items() if epoch <= copy.epoch),
            default=None,
        )
        kept = node.durable.regions.get(key)
        if last is not None and (kept is None or not kept.complete or not kept.holds(*last)):
            self.fail("I8", f"{copy} is a member on {node} without committed record {last}")

    def _accept_loss(self, node: KernelNode, key: tuple[int, int]) -> None:
        """I34: what an operator accepted is forgotten here: what was committed after the last epoch
        of the copy that opened. All before it is held to as ever, by I8."""
        loss = node.core.catalog.losses_of(key[0]).get(key[1])
        if loss is None or self._accepted.get(key, 0) >= loss.epoch:
            return
        self._accepted[key] = loss.epoch
        copy_epoch = 0 if loss.short else loss.copy_epoch
        kept = {e: last for e, last in self._last.get(key, {}).items() if e <= copy_epoch}
        self._last[key] = kept
        end = max((seq for seq, _ in kept.values()), default=0)
        line = self._committed.get(key, {})
        for seq in [seq for seq in line if seq > end]:
            _, client, number = line.pop(seq)
            self._places.pop((*key, client, number), None)
