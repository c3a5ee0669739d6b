"""shell: what snapshots hold at level 1, against a model that keeps the operations of each region.

The model is brute force: a view of a region holds what the operations leave that are inside of its
cut (`Record.cow_into` older than the view), in the order of their sequence. Owners are read now and
then while hosts work (I20, I23), all copies at the end (I21), with their tables and pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.units import NS_PER_MS
from node.region_copy import RegionCopy
from node.roles import OWNER
from sim.durable import Key, Sectors, apply_sectors, clone
from sim.kernel import KernelNode
from sim.kernel_views import as_bytes, contents
from snapshot.tree import SnapshotState, ViewKind
from transport.operation import Record

if TYPE_CHECKING:
    from scenario.level1 import SeedRun

EVERY_NS = 500 * NS_PER_MS


class ViewChecks:
    """Hangs on the kernel; `judge` after the run."""

    def __init__(self, run: SeedRun) -> None:
        self.run = run
        self.kernel = run.kernel
        self.reads = 0
        self._end_ns = 0
        self._committed: dict[Key, list[Record]] = {}  # by region, in the order of their sequence
        self._epochs: dict[Key, int] = {}  # the newest in which an owner committed
        self._held: dict[Key, dict[tuple[int, int], bytes]] = {}  # by view and page: read before

    def begin(self, end_ns: int) -> None:
        """Hosts run from now on."""
        self._end_ns = end_ns
        self.kernel.on_settled.append(self.settled)
        self.kernel.after(EVERY_NS, self._look)

    # ------------------------------------------------------------------ watching

    def journalled(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """Nothing to see."""

    def served(self, node: KernelNode, copy: RegionCopy) -> None:
        """Nothing to see."""

    def configured(self, node: KernelNode) -> None:
        """Nothing to see."""

    def committed(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """The next operation of the region, or one that is known. Another one in the place of one
        that is known: that was lost with the machines that had it, and all behind it."""
        key = (record.volume, record.region)
        known = self._committed.setdefault(key, [])
        self._epochs[key] = max(copy.epoch, self._epochs.get(key, 0))
        at = record.seq - 1
        if at < len(known) and known[at].epoch == record.epoch:
            return
        self._forget(key, at)
        if at > len(known):
            self._fail("I18", f"{record!r} is committed at {node!r} with {len(known)} before it")
        known.append(clone(record))

    def settled(self, copy: RegionCopy, record: Record) -> None:
        """Another copy than an owner has committed it: it is new where the catalog said that an
        epoch ended behind what its owner knew to be committed."""
        key = (record.volume, record.region)
        known = self._committed.setdefault(key, [])
        if record.seq - 1 == len(known) and copy.epoch >= self._epochs.setdefault(key, 0):
            known.append(clone(record))

    def _forget(self, key: Key, count: int) -> None:
        known = self._committed.get(key, [])
        if len(known) > count:
            self.kernel.goals["a power cut took operations out of a snapshot"] = None
            del known[count:]
            self._held.pop(key, None)

    # ------------------------------------------------------------------ judging

    def _look(self) -> None:
        if self.kernel.now_ns >= self._end_ns:
            return
        self.kernel.after(EVERY_NS, self._look)
        for node in self.kernel.nodes:
            if not node.alive or node.paused:
                continue
            for copy in node.core.all_copies():
                if copy.role == OWNER and node.core.may_read(copy, node.clock_ns()):
                    self._judge_copy(node, copy, {})

    def judge(self) -> None:
        """Everything is mended and identical: every copy has every view."""
        for key in sorted(self._committed):
            row = self.kernel.nodes[0].core.catalog.row(*key)
            kinds: dict[tuple[int, int], bool] = {}
            for node in self.kernel.nodes:
                copy = node.core.copies.get(key[0], {}).get(key[1])
                if copy is not None and row.is_member(node.node):
                    self._judge_copy(node, copy, kinds)

    def _judge_copy(
        self, node: KernelNode, copy: RegionCopy, others: dict[tuple[int, int], bool]
    ) -> None:
        """others: of the copies before, which pages of which views read as zeros; filled here."""
        key = (copy.volume, copy.region)
        tree = node.core.catalog.snapshots.trees.get(copy.volume)
        known = self._committed.get(key, [])
        if tree is None or not known:
            return
        if copy.epoch >= self._epochs[key]:
            self._forget(key, copy.committed)
        else:  # its lease has not ended, and its successor commits what it was told of, and waits
            known = known[: copy.committed]
        made = [
            view.view
            for view in tree
            if view.kind is ViewKind.READ_ONLY and view.state is SnapshotState.ACTIVE
        ]
        held = self._held.setdefault(key, {})
        virtual = node.core.catalog.volume_manager.volume(copy.volume)
        where = f"region {key} at {node!r}"
        for view, blocks in zip(made, self._model(known, made), strict=True):
            for page in range(virtual.region_bytes // virtual.page_bytes):
                found = as_bytes(node.read_view(key, view, page))
                self.reads += 1
                if found != as_bytes(contents(blocks, page)):
                    self._fail("I23", f"{where}: view {view} page {page} is not what was cut")
                if held.setdefault((view, page), found) != found:
                    self._fail("I20", f"{where}: view {view} page {page} has changed")
        views = node.views.get(key)
        if views is None:
            return
        for fault in views.check():
            self._fail("I21", f"{where}: {fault}")
        mine = {
            (view, page): found is None
            for page in views.excepted()
            for view, found in views.page_views(page).items()
        }
        if others and others != mine:
            odd = sorted(set(others.items()) ^ set(mine.items()))[:4]
            self._fail("I21", f"{where}: exceptions differ from those of another copy: {odd}")
        others.update(mine)

    def _model(self, known: list[Record], views: list[int]) -> list[Sectors]:
        """Sectors of each view, ascending."""
        found: list[Sectors] = []
        blocks: Sectors = {}
        newest = 0
        for record in known:
            if record.cow_into < newest:
                self._fail("I18", f"{record} is owed to {record.cow_into}, after {newest}")
            newest = max(newest, record.cow_into)
            while len(found) < len(views) and views[len(found)] <= newest:
                found.append(dict(blocks))
            apply_sectors(blocks, record)
        return found + [blocks] * (len(views) - len(found))

    def _fail(self, rule: str, text: str) -> None:
        self.run.checks.fail(rule, text)
