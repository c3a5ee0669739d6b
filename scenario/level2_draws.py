"""plan: which fault of level 2 comes next: drawn from a stream of its own, within the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from base.units import NS_PER_MS
from scenario.faults import FAULTS
from scenario.level2_hardware import HARDWARE
from scenario.level2_media import MEANWHILE, MEDIA
from scenario.level2_options import WEIGHTS
from scenario.runs import Detail, FaultEvent

if TYPE_CHECKING:
    from scenario.level2 import Level2Run

EVENTS_BEFORE_KILL: Final = (0, 7, 50, 400)  # up to so many events later, at any await


class Draws:
    """The stream of faults of one run."""

    def __init__(self, run: Level2Run) -> None:
        self._run = run
        self._rng = run.cluster.streams.stream("faults")
        self._bad_disk: dict[int, int] = {}  # by node the one disk that may be damaged

    def pause_ms(self) -> int:
        """Until the next fault."""
        every_ns = self._run.options.fault_every_ms * NS_PER_MS
        return 50 + self._rng.exponential(every_ns) // NS_PER_MS

    def event(self, at_ms: int, *, calm: bool) -> FaultEvent | None:
        """A fault for now. calm: nothing else stands. None when none fits."""
        options, rng = self._run.options, self._rng
        kinds = [
            kind
            for kind, option in WEIGHTS.items()
            for _ in range(int(getattr(options, option)))
            if calm or not FAULTS[kind].needs_redundancy
        ]
        running = [node.number for node in self._run.nodes if node.runs]
        weak = self._run.faults.weak
        if weak is not None:  # the others have what nobody else can give
            kinds = [kind for kind in kinds if kind in MEANWHILE]
            running = [number for number in running if number == weak]
        if not kinds or not running:
            return None
        kind = rng.choice(kinds)
        node = running[rng.below(len(running))]
        if FAULTS[kind].needs_redundancy and not self._run.judge.redundant():
            return None  # the other copy must have what this one may lose
        if kind in ("cut", "partition", "flap", "swizzle", "no_links"):
            return self._of_links(kind, at_ms, node)
        if kind in HARDWARE or kind == "loop_cut":
            return self._of_hardware(kind, at_ms, node)
        if kind in MEDIA:
            return self._of_media(kind, at_ms, node)
        if kind.startswith("disk") or kind == "sync_failure":
            return self._of_disks(kind, at_ms, node)
        if kind == "power_cut_all":
            details: tuple[Detail, ...] = (("keep", ("torn", "lost")[rng.below(2)]),)
            return FaultEvent(at_ms, kind, (), self._down_ms(), details)
        return self._of_node(kind, at_ms, node)

    def _of_node(self, kind: str, at_ms: int, node: int) -> FaultEvent:
        options, rng = self._run.options, self._rng
        details: tuple[Detail, ...] = ()
        for_ms = 1 + rng.below(options.slow_ms)
        if kind in ("kill", "power_cut"):
            most = EVENTS_BEFORE_KILL[rng.below(4)]
            details = (("events", rng.below(most + 1)),)
            details += (
                (("sent", rng.below(2)),)
                if kind == "kill"
                else (("keep", ("torn", "lost")[rng.below(2)]),)
            )
            for_ms = self._down_ms()
        elif kind == "stop":
            for_ms = self._down_ms()
        elif kind == "pause":
            for_ms = 1 + rng.below(options.pause_ms)
        elif kind == "slow":
            details = (("factor", (3, 20, 150)[rng.below(3)]),)
        elif kind == "slow_disk":
            details = (("factor", (5, 50, 500)[rng.below(3)]),)
        elif kind == "delay":
            details = (("us", (500, 20_000, 150_000)[rng.below(3)]),)
        elif kind in ("loss", "duplicate", "reorder", "corrupt"):
            details = (("permille", (2, 20, 200)[rng.below(3)]),)
        elif kind == "old_image":
            details = (("age_ms", 1 + rng.below(1000)), ("rebooted", rng.below(2)))
        elif kind == "cap":
            details = (("kib_per_s", (20, 200, 2000)[rng.below(3)]),)
        elif kind == "memory":
            details = (("kib", (4, 16, 64)[rng.below(3)]),)
        elif kind == "drift":
            details = (("ppm", rng.below(90_001) - 45_000),)
        elif kind == "wall_jump":
            details = (("ms", rng.below(86_400_000) - 43_200_000),)
        return FaultEvent(at_ms, kind, (node,), for_ms if FAULTS[kind].standing else 0, details)

    def _down_ms(self) -> int:
        """Every second time so short that the others hardly notice."""
        most_ms = self._run.options.down_ms
        return 1 + self._rng.below(min(100, most_ms) if self._rng.chance(1, 2) else most_ms)

    def _of_links(self, kind: str, at_ms: int, node: int) -> FaultEvent:
        options, rng = self._run.options, self._rng
        others = [other for other in range(options.nodes) if other != node]
        rng.shuffle(others)
        if kind == "flap":
            return FaultEvent(at_ms, kind, (node, others[0]))
        for_ms = 1 + rng.below(options.cut_ms)
        if kind == "no_links":
            return FaultEvent(at_ms, kind, (node, *others[: 1 + rng.below(len(others))]), for_ms)
        if kind == "swizzle":
            return FaultEvent(at_ms, kind, (node, *others[: len(others) // 2]), 2 + for_ms)
        heard: Detail = ("heard", rng.below(2))
        if kind == "cut":
            count = (1, 1, len(others) // 2, len(others))[rng.below(4)]
            direction = ("out", "in", "both", "both")[rng.below(4)]
            hit = (node, *others[: max(1, count)])
            return FaultEvent(at_ms, kind, hit, for_ms, (("direction", direction), heard))
        order = [str(each) for each in (node, *others)]
        split = 1 + rng.below(len(order) - 1)
        first, second = sorted(order[:split]), sorted(order[split:])
        if rng.below(3) == 0:  # a bridge: one node hears both groups (F8)
            second = sorted([*second, first[rng.below(len(first))]])
        groups = f"{''.join(first)}|{''.join(second)}"
        return FaultEvent(at_ms, kind, (), for_ms, (("groups", groups), heard))

    def _of_disks(self, kind: str, at_ms: int, node: int) -> FaultEvent | None:
        options, rng = self._run.options, self._rng
        disks = len(self._run.nodes[node].names)
        drawn = rng.below(disks)
        named = ("journal", "checkpoint", "consensus")[rng.below(3)]
        device = f"disk{self._bad_disk.setdefault(node, drawn)}"
        mirrored = options.mirrored_disks
        if kind == "disk_dead" and not mirrored:
            return None
        if kind == "disk_full":
            device = ("journal", f"disk{drawn}")[rng.below(2)]
        elif kind != "disk_dead" and (not mirrored or rng.below(2)):
            device = named
        details: tuple[Detail, ...] = (("device", device),)
        size = self._run.faults.disk(node, device).size_bytes
        if kind == "disk_error":
            details += (("what", ("reads", "writes", "all")[rng.below(3)]),)
            if rng.below(2):
                details += (("offset", rng.below(size) // 512 * 512), ("length", 65_536))
        for_ms = 1 + rng.below(options.slow_ms) if FAULTS[kind].standing else 0
        return FaultEvent(at_ms, kind, (node,), for_ms, details)

    def _of_hardware(self, kind: str, at_ms: int, node: int) -> FaultEvent:
        options, rng = self._run.options, self._rng
        details: tuple[Detail, ...]
        if kind in ("loop_cut", "loop_down"):
            sides = ("A", "B") if kind == "loop_cut" else ("A", "B", "both", "both")
            pair = rng.below(1 + options.split_loops)
            details = (("pair", pair), ("side", sides[rng.below(len(sides))]))
        else:
            details = (("cage", rng.below(options.cages)),)
            if kind == "sled_pull":
                details += (("sled", rng.below(options.sleds)),)
        return FaultEvent(at_ms, kind, (node,), 1 + rng.below(options.slow_ms), details)

    def _of_media(self, kind: str, at_ms: int, node: int) -> FaultEvent | None:
        """It hits what was written, if anything was: most of a disk never is."""
        options, rng = self._run.options, self._rng
        device = f"disk{rng.below(len(self._run.nodes[node].names))}"
        details: tuple[Detail, ...] = (("device", device),)
        pages = self._run.faults.disk(node, device).written_pages()
        if kind in ("disk_rot", "disk_latent"):
            if not pages:
                return None
            page = pages[rng.below(len(pages))]
            if kind == "disk_rot":
                details += (("offset", page + rng.below(4096)), ("flip", 1 + rng.below(255)))
            else:
                details += (("offset", page + 512 * rng.below(8)), ("length", 512))
        elif kind == "disk_misdirect":
            details += (("shift", 4096 * (1 + rng.below(64))),)
        elif kind == "disk_stale_read":
            details += (("count", 1 + rng.below(4)),)
        return FaultEvent(at_ms, kind, (node,), 1 + rng.below(options.slow_ms), details)
