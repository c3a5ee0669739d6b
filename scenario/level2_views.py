"""shell: snapshots on whole nodes: asked for while hosts work, read on the way, judged at the end.

The model is brute force, as at level 1 (`scenario.view_checks`): a view of a region holds what the
operations leave that are inside of its cut (`Record.cow_into` older than the view). While hosts run
some node opens some view, as a host of it would, and reads through whoever owns the region. At the
end every copy of a region must have every view, in memory and as a restart would find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from admin.snapshot_view import SnapshotSpec
from base.errors import StorageError
from base.units import NS_PER_MS, NS_PER_S
from cluster.entries import RemoveSnapshot, encode
from host.export import HostRequest, RequestKind
from node.checkpoint import Key
from node.daemon import Node
from node.snapshot_admin import SnapshotAdmin
from scenario.final_checks import ViewImages
from sim.cluster import SimNode
from sim.durable import Sectors, apply_sectors, clone
from snapshot.tree import SnapshotState, ViewKind
from transport.operation import Record

if TYPE_CHECKING:
    from scenario.level2 import Level2Run

SECTOR = 512
READ_EVERY_NS = 40 * NS_PER_MS
REMOVE_ONE_IN = 3  # wishes for a cut


class NodeViews:
    """Of one run. `begin` when hosts run, `judge` when all is healed."""

    def __init__(self, run: Level2Run) -> None:
        self.run = run
        self.cluster = run.cluster
        self.loop = run.loop
        self.made = self.removed = self.refused = self.reads = 0
        self._rng = run.cluster.streams.stream("views")
        self._committed: dict[Key, list[Record]] = {}  # in the order of their sequence
        self._lost: dict[Key, None] = {}  # a power cut took operations: views of it may be shorter
        self.images: ViewImages = {}  # what was read at the end
        self._asked = 0
        self._end_ns = 0
        self._every_ns = 0
        self._asking = False

    # ------------------------------------------------------------------ watching

    def committed(self, record: Record) -> None:
        """A node applies the record: the next of its region, one that is known, or another one in
        the place of one that was lost with the machines that had it, with all behind it."""
        key = (record.volume, record.region)
        known = self._committed.setdefault(key, [])
        at = record.seq - 1
        if at < len(known) and known[at].epoch == record.epoch:
            return
        if at < len(known):
            self._lost[key] = None
            del known[at:]
        if at == len(known):
            fresh = clone(record)
            fresh.data = bytes(record.data)
            known.append(fresh)

    # ------------------------------------------------------------------ while hosts work

    def begin(self, end_ns: int, every_ms: int) -> None:
        """Ask for cuts of all volumes about so often, and read views between."""
        self._end_ns = end_ns
        self._every_ns = every_ms * NS_PER_MS
        self._later(self._rng.below(self._every_ns), self._ask)
        self._later(READ_EVERY_NS, self._read)

    def _later(self, after_ns: int, call: Any) -> None:
        due_ns = self.loop.now_ns + after_ns
        self.loop.call_at_ns(due_ns, call, context=self.loop.outside)

    def _some_node(self) -> SimNode | None:
        fit = [sim for sim in self.cluster.nodes if sim.active and not sim.paused]
        return fit[self._rng.below(len(fit))] if fit else None

    def _ask(self) -> None:
        if self.loop.now_ns >= self._end_ns:
            return
        self._later(self._every_ns // 2 + self._rng.below(self._every_ns), self._ask)
        sim = self._some_node()
        if sim is None:
            return
        node = _node(sim)
        names = [volume.name for _, volume in sorted(node.core.catalog.volumes.items())]
        if len(names) > 1 and self._rng.below(3) == 0:
            names = names[:1]
        self._asked += 1
        if self._asked % REMOVE_ONE_IN == 0:
            self._remove(sim, node)
        wanted = SnapshotSpec(volumes=names, name=f"s{self._asked}")
        assert sim.group is not None
        sim.group.start(self._create(node, wanted), name="snapshot")

    def _remove(self, sim: SimNode, node: Node) -> None:
        """Some snapshot, also the newest or the oldest."""
        found = self._active(node)
        if not found:
            return
        entry = encode(RemoveSnapshot(*found[self._rng.below(len(found))]))
        assert sim.group is not None
        sim.group.start(self._propose(node, entry), name="remove")

    async def _propose(self, node: Node, entry: bytes) -> None:
        try:
            await node.control.propose(entry, NS_PER_S)
        except StorageError:
            self.refused += 1
        else:
            self.removed += 1
            self.run.faults.goal("a snapshot was removed")

    @staticmethod
    def _active(node: Node) -> list[tuple[int, int]]:
        """(volume, view) of all points in time that can be read."""
        return [
            (volume, view.view)
            for volume, tree in sorted(node.core.catalog.snapshots.trees.items())
            for view in tree
            if view.kind is ViewKind.READ_ONLY and view.state is SnapshotState.ACTIVE
        ]

    async def _create(self, node: Node, wanted: SnapshotSpec) -> None:
        try:
            await SnapshotAdmin(node).create(wanted)
        except StorageError:
            self.refused += 1
        else:
            self.made += 1
            self.run.faults.goal("a snapshot was made")

    def _read(self) -> None:
        if self.loop.now_ns >= self._end_ns:
            return
        self._later(READ_EVERY_NS, self._read)
        sim = self._some_node()
        if sim is None:
            return
        node = _node(sim)
        found = self._active(node)
        if not found:
            return
        volume, view = found[self._rng.below(len(found))]
        opened = node.exports.open_view(volume, view)
        region = self._rng.below(opened.volume.regions)
        length = SECTOR * (1 + self._rng.below(24))
        inside = SECTOR * self._rng.below((self.run.region_bytes - length) // SECTOR + 1)

        def done(_request: HostRequest, error: StorageError | None, result: Any) -> None:
            if error is None:
                data = b"".join(bytes(part) for part in result)
                self._check_read((volume, region), view, inside, data)

        offset = region * self.run.region_bytes + inside
        request = HostRequest(RequestKind.READ, offset, length, done)
        assert sim.group is not None
        sim.group.call_at_ns(self.loop.now_ns, opened.submit, request)

    def _check_read(self, key: Key, view: int, inside: int, data: bytes) -> None:
        self.reads += 1
        image = self._image(key, [view])[0]
        wanted = image[inside : inside + len(data)]
        if data != wanted and key not in self._lost:
            at = next(at for at, byte in enumerate(data) if wanted[at] != byte)
            text = f"region {key} view {view} byte {inside + at}: a host reads what was not cut"
            self.run.checks.fail("I23", text)

    # ------------------------------------------------------------------ at the end

    def judge(self, end: Iterator[tuple[Key, list[SimNode]]]) -> tuple[str, str] | None:
        """Everything is mended and settled: every copy has every view. The rule that is broken, and
        how; while copies go home meanwhile that may be nothing."""
        for key, nodes in end:
            tree = _node(nodes[0]).core.catalog.snapshots.trees.get(key[0])
            copies = [_node(sim).core.copies.get(key[0], {}).get(key[1]) for sim in nodes]
            if tree is None or None in copies:
                continue
            views = [
                view.view
                for view in tree
                if view.kind is ViewKind.READ_ONLY and view.state is SnapshotState.ACTIVE
            ]
            del self._committed.get(key, [])[max(copy.committed for copy in copies if copy) :]
            images = self._image(key, views)
            kinds: list[dict[tuple[int, int], int]] = []
            for sim in nodes:
                found = self._judge_copy(sim, key, views, images)
                if found is not None:
                    return found
                region = _node(sim).store.regions.get(key)
                kinds.append(region.kept.views.kinds() if region and region.kept else {})
            for sim, kind in zip(nodes, kinds, strict=True):
                if kind != kinds[0]:
                    odd = sorted(set(kind.items()) ^ set(kinds[0].items()))[:4]
                    return "I21", f"region {key}: tables of {sim} differ from {nodes[0]}: {odd}"
        return None

    def _judge_copy(
        self, sim: SimNode, key: Key, views: list[int], images: list[bytes]
    ) -> tuple[str, str] | None:
        region = _node(sim).store.regions.get(key)
        if region is None:
            return "I21", f"region {key} is not at {sim}"
        for view, image in zip(views, images, strict=True):
            found = self._read_copy(sim, key, view)
            if isinstance(found, StorageError):
                return "I23", f"region {key} at {sim}: view {view}: {found}"
            if found != image:
                at = next(at for at, byte in enumerate(image) if found[at] != byte)
                text = f"region {key} at {sim}: view {view} is not what was cut, at byte {at}"
                return "I23", text
            self.images[sim.number, key, view] = image
        faults = region.kept.views.check() if region.kept is not None else []
        return ("I21", f"region {key} at {sim}: {faults[0]}") if faults else None

    def _read_copy(self, sim: SimNode, key: Key, view: int) -> bytes | StorageError:
        data = bytearray(self.run.region_bytes)
        failed: list[StorageError] = []

        async def read() -> None:
            try:
                await _node(sim).store.read_view(key, view, 0, memoryview(data))
            except StorageError as error:
                failed.append(error)

        assert sim.group is not None
        task = sim.group.start(read(), name="compare_view")
        self.run.wait(f"{sim} reads view {view} of {key}", 5, task.done)
        return failed[0] if failed else bytes(data)

    # ------------------------------------------------------------------ model

    def _image(self, key: Key, views: list[int]) -> list[bytes]:
        """What each of these views, ascending, has of the region."""
        found: list[bytes] = []
        blocks: Sectors = {}
        newest = 0
        for record in self._committed.get(key, []):
            newest = max(newest, record.cow_into)
            while len(found) < len(views) and views[len(found)] <= newest:
                found.append(self._bytes(blocks))
            apply_sectors(blocks, record)
        return found + [self._bytes(blocks)] * (len(views) - len(found))

    def _bytes(self, blocks: Sectors) -> bytes:
        nothing = bytes(SECTOR)
        count = self.run.region_bytes // SECTOR
        return b"".join(blocks.get(at) or nothing for at in range(count))


def _node(sim: SimNode) -> Node:
    assert sim.node is not None
    return sim.node
