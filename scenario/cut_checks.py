"""shell: cuts at level 1: snapshots are asked for while hosts work, and judged by what is in them.

What is in a snapshot is told by `Record.cow_into`: an operation is in the snapshots that are newer
than the one with which it was numbered. A cut is right (I18–I20) when nothing that a host began
after it could know of something outside of the cut is inside; when all that was answered before the
cut was asked for is inside; and nothing that began after the cut was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from base.units import NS_PER_MS
from cluster.entries import BeginCut, encode
from node.effects import Answer
from node.region_copy import RegionCopy
from scenario.history import NUMBER_BITS, Kind, Outcome
from scenario.workload import HostOperation, OperationKind
from sim.kernel import KernelNode
from snapshot.tree import SnapshotState
from transport.operation import Record

if TYPE_CHECKING:
    from scenario.level1 import SeedRun

NEVER = 1 << 62
_MASK = (1 << NUMBER_BITS) - 1


@dataclass(slots=True)
class Submitted:
    """A host operation. tags: by region, the snapshot with which its piece was numbered; only of
    what was committed. ended_ns: by region, when the owner that had numbered it committed it."""

    operation: HostOperation
    call_ns: int
    answer_ns: int = NEVER
    tags: dict[int, int] = field(default_factory=dict)
    ended_ns: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class AskedCut:
    """views: by volume, the new snapshot. made_ns: when a node first knew it as made."""

    cut: int
    views: dict[int, int]
    call_ns: int
    made_ns: int = NEVER


class CutChecks:
    """Asks for cuts of all volumes that hosts use, now and then; `judge` after the run."""

    def __init__(self, run: SeedRun, every_ms: int) -> None:
        self.run = run
        self.kernel = run.kernel
        self.cuts: dict[int, AskedCut] = {}
        self.operations: dict[tuple[int, int], Submitted] = {}  # by host and number
        self.refused = 0
        self._pieces: dict[tuple[int, int], Submitted] = {}  # by client and number
        self._every_ns = every_ms * NS_PER_MS
        self._rng = run.kernel.streams.stream("snapshots")
        self._end_ns = 0
        self._asked = 0

    # ------------------------------------------------------------------ asking

    def begin(self, end_ns: int) -> None:
        """Hosts run from now on."""
        self._end_ns = end_ns
        self.kernel.on_settled.append(self._settled)
        self.kernel.after(self._rng.below(self._every_ns), self._ask)

    def _ask(self) -> None:
        if self.kernel.now_ns >= self._end_ns:
            return
        self.kernel.after(self._every_ns // 2 + self._rng.below(self._every_ns), self._ask)
        fit = [n for n in self.kernel.nodes if n.alive and not n.paused and n.core.active]
        if not fit:
            return
        node = fit[self._rng.below(len(fit))]
        volumes = self.run.host_volumes(node)
        if len(volumes) > 1 and self._rng.below(3) == 0:
            volumes = volumes[:1]
        self._asked += 1
        entry = BeginCut(tuple((volume, 1, f"s{self._asked}") for volume in volumes))
        call_ns = self.kernel.now_ns

        def answered(answer: Answer) -> None:
            if answer.error is not None:
                self.refused += 1
                return
            made = answer.result
            cut = AskedCut(made["cut"], dict(made["members"]), call_ns)
            self.cuts[cut.cut] = cut

        node.core.propose(encode(entry), answered, node.clock_ns())
        node.perform()

    def submitted(self, client: int, numbers: range, operation: HostOperation) -> None:
        """A host's router has taken an operation, as pieces of these numbers."""
        entry = Submitted(operation, self.kernel.now_ns)
        self.operations[operation.host, operation.number] = entry
        for number in numbers:
            self._pieces[client, number] = entry

    def answered(self, operation: HostOperation) -> None:
        """The host knows that it happened."""
        self.operations[operation.host, operation.number].answer_ns = self.kernel.now_ns

    # ------------------------------------------------------------------ watching

    def journalled(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """Nothing to see."""

    def served(self, node: KernelNode, copy: RegionCopy) -> None:
        """Nothing to see."""

    def committed(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """With which snapshot the operation was numbered."""
        piece = self._pieces.get((record.client, record.number))
        if piece is not None:
            tag = piece.tags.setdefault(record.region, record.cow_into)
            # What an heir has committed before says nothing: it may not have adopted the cut.
            mine = record.epoch == copy.epoch
            piece.ended_ns.setdefault(record.region, self.kernel.now_ns if mine else 0)
            if tag != record.cow_into:
                self.run.checks.fail("I18", f"{record}: owed to {tag} and to {record.cow_into}")

    def _settled(self, copy: RegionCopy, record: Record) -> None:
        """The end of an epoch in the catalog commits too, at a copy that owns nothing. An owner
        that was paused may find acknowledgements of the record later; that says nothing."""
        piece = self._pieces.get((record.client, record.number))
        if piece is not None:
            piece.tags.setdefault(record.region, record.cow_into)
            piece.ended_ns.setdefault(record.region, 0)

    def configured(self, node: KernelNode) -> None:
        """Which cuts are made."""
        trees = node.core.catalog.snapshots.trees
        for cut in self.cuts.values():
            if cut.made_ns == NEVER:
                for volume, view in cut.views.items():
                    tree = trees.get(volume)
                    if tree is None or view not in tree:
                        break
                    if tree[view].state is not SnapshotState.ACTIVE:
                        break
                else:
                    cut.made_ns = self.kernel.now_ns
                    self.kernel.goals["a snapshot of a group was made"] = None

    # ------------------------------------------------------------------ judging

    def judge(self) -> str:
        """The first cut that is none, in words; empty when all are right."""
        seen = self._seen()
        for cut in self.cuts.values():
            if cut.made_ns == NEVER:
                continue
            found = self._torn(cut, seen)
            if found:
                return found
        return ""

    def _seen(self) -> dict[tuple[int, int], dict[tuple[int, int], None]]:
        """By read, the (operation, region) that its host knows of by its answer."""
        history, region_blocks = self.run.history, self.run.region_bytes // 512
        found: dict[tuple[int, int], dict[tuple[int, int], None]] = {}
        for row in range(len(history)):
            if history.kind[row] != Kind.READ or history.outcome[row] != Outcome.OK:
                continue
            value = history.value[row]
            if value:
                _, block = history.registers[history.register[row]]
                reader = (history.host[row], history.number[row])
                found.setdefault(reader, {})[value, block // region_blocks] = None
        return found

    def _torn(self, cut: AskedCut, seen: dict[tuple[int, int], dict[tuple[int, int], None]]) -> str:
        known_ns, known_by = NEVER, ""
        for name, each in self.operations.items():
            if each.answer_ns >= known_ns:
                continue
            outside = bool(self._parts(cut, each, inside=False))
            for value, region in seen.get(name, ()):
                writer = self.operations.get((value >> NUMBER_BITS, value & _MASK))
                if writer is not None and region in self._parts(cut, writer, inside=False):
                    outside = True
            if outside:
                known_ns, known_by = each.answer_ns, f"h{name[0]}#{name[1]}"
        for name, each in self.operations.items():
            inside = self._parts(cut, each, inside=True)
            parts_outside = self._parts(cut, each, inside=False)
            text = f"cut {cut.cut} of {cut.views}: h{name[0]}#{name[1]}"
            if inside and each.call_ns > known_ns:
                return f"I18: {text} is inside and began after {known_by}, outside, was answered"
            late = [each.ended_ns.get(region, 0) > cut.made_ns for region in inside]
            if any(late):
                return f"I20: {text} is inside and was committed after the snapshot was made"
            if inside and each.call_ns > cut.made_ns:
                return f"I19: {text} is inside and began after the snapshot was made"
            if parts_outside and each.answer_ns < cut.call_ns:
                return f"I19: {text} is outside and was answered before the snapshot was wanted"
        return ""

    def _parts(self, cut: AskedCut, each: Submitted, *, inside: bool) -> list[int]:
        """Regions of the committed pieces of a write that are inside, or outside, of the cut."""
        view = cut.views.get(each.operation.volume)
        if view is None or each.operation.kind in (OperationKind.READ, OperationKind.FLUSH):
            return []
        return [region for region, tag in each.tags.items() if (tag < view) == inside]
