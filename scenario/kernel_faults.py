"""shell: faults at level 1: drawn from the seed or taken from a list, and performed on the kernel.

Whatever was performed is kept as a `FaultEvent`, so that a drawn run can be repeated, and made
smaller, as a list. Faults fall on whole milliseconds after the hosts began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from base.units import NS_PER_MS
from cluster.catalog import Liveness
from cluster.entries import GrowVolume, NodeDown, RemoveVolume, encode
from scenario.faults import FAULTS, check_faults, severed
from scenario.profiles import WEIGHTS
from scenario.runs import Detail, FaultEvent
from sim.kernel import KernelNode

if TYPE_CHECKING:
    from scenario.level1 import SeedRun

MANY_MAX = 8
SLOWEST_DISK = 500  # times as slow as ever
QUIET_NS = 600 * NS_PER_MS
GONE = ("lose", "replace")  # faults that leave nothing of a copy
UNNOTICED_MS = 60  # a node that is back within that time, as a rule nobody has missed


class KernelFaults:
    """The faults of one run. `lost`: nodes that are gone for good, until everything is mended."""

    def __init__(self, run: SeedRun, listed: tuple[FaultEvent, ...] | None, *, loss: bool) -> None:
        self.run = run
        self.kernel = run.kernel
        self.listed = listed
        self.allow_loss = loss
        self.performed: list[FaultEvent] = []
        self.redundant: list[bool] = []  # of each, whether everything was when it struck
        self.refused = ""  # why a listed fault was outside of the budget
        self.lost: list[KernelNode] = []
        self.cut: list[tuple[int, int]] = []
        self._rng = run.kernel.streams.stream("faults")
        self._flaps = run.kernel.streams.stream("flaps")
        self.begun_ns = 0
        self._end_ns = 0
        self._destroyed = False
        self._struck_ns = 0  # when the last fault was over
        if listed is not None:
            check_faults(listed, level=1, nodes=run.options.nodes, allow_loss=loss)

    # ------------------------------------------------------------------ when

    def begin(self, end_ns: int) -> None:
        """Hosts run from now on; no fault strikes after `end_ns`."""
        self.begun_ns = self.kernel.now_ns
        self._end_ns = end_ns
        if self.listed is not None:
            for event in self.listed:
                self.kernel.at(self.begun_ns + event.at_ms * NS_PER_MS, self._listed, event)
            return
        self._plan()
        if self.run.options.flap_every_ms:
            self._plan_flap()
        if self.run.options.grow:
            at_ms = 1 + self._rng.below(self.run.options.seconds * 1000)
            self.kernel.at(self.begun_ns + at_ms * NS_PER_MS, self._draw_single, "grow")

    def begin_script(self, end_ns: int) -> None:
        """Hosts run from now on; whatever strikes comes from a script."""
        self.begun_ns = self.kernel.now_ns
        self._end_ns = end_ns

    def now_ms(self) -> int:
        """Whole milliseconds since the hosts began, rounded up."""
        return -(-(self.kernel.now_ns - self.begun_ns) // NS_PER_MS)

    def _plan(self) -> None:
        mean_ns = self.run.options.fault_every_ms * NS_PER_MS
        wait_ms = 50 + self._rng.exponential(mean_ns) // NS_PER_MS
        self.kernel.at(self.begun_ns + (self.now_ms() + wait_ms) * NS_PER_MS, self._draw)

    def _plan_flap(self) -> None:
        mean_ns = self.run.options.flap_every_ms * NS_PER_MS
        wait_ms = 1 + self._flaps.exponential(mean_ns) // NS_PER_MS
        self.kernel.at(self.begun_ns + (self.now_ms() + wait_ms) * NS_PER_MS, self._draw_flap)

    def _listed(self, event: FaultEvent) -> None:
        kind = FAULTS[event.kind]
        if kind.needs_redundancy and not self.allow_loss and not self.run.redundant():
            self.refused = self.refused or (
                f"{event.kind} at {event.at_ms} ms strikes while a region has too few copies: it"
                " destroys what only one node holds, so it needs --allow-loss"
            )
            return
        self.strike(event)

    # ------------------------------------------------------------------ what

    def _draw(self) -> None:
        run, options = self.run, self.run.options
        if self.kernel.now_ns >= self._end_ns:
            return
        out = [node for node in self.kernel.nodes if not node.alive or node.paused]
        faults = len(out) - len(self.lost) + bool(self.cut) + len(self._standing())
        redundant = run.redundant()
        if (
            faults < options.down_max
            and not self._armed()
            and (redundant or (options.rough and self._spared()))
        ):
            kinds = self._kinds(redundant and not faults and self._quiet())
            if kinds:
                name = kinds[self._rng.below(len(kinds))]
                event = self._drawn(name)
                if event is not None:
                    self.strike(event)
        self._plan()

    def _kinds(self, redundant: bool) -> list[str]:
        options = self.run.options
        weights = {name: getattr(options, option) for name, option in WEIGHTS.items()}
        left = len(self.kernel.nodes) - len(self.lost)
        weights["lose"] = int(bool(options.lose_to) and left > options.lose_to)
        return [
            name
            for name, weight in weights.items()
            for _ in range(int(weight))
            if redundant or not FAULTS[name].needs_redundancy
        ]

    def _armed(self) -> bool:
        """A sync is going to fail. It destroys what its node has not synced when that is noticed:
        till then the other copies are spared (power 5022539, reconfiguration 8005930; decision 14
        says what it costs)."""
        return any(node.sync_fails for node in self.kernel.nodes)

    def _quiet(self) -> bool:
        """Nothing happened for so long that whatever it led to is known to the catalog."""
        return self.kernel.now_ns - self._struck_ns >= QUIET_NS

    def _spared(self) -> bool:
        """Nothing is gone for good whose second copy is not back yet: till then nothing else may
        hit the nodes that have the only one. A copy that lost what it had not synced is another
        matter: the other one may be killed too, and must be waited for."""
        if self._destroyed and self.run.redundant():
            self._destroyed = False
        return not self._destroyed

    def _standing(self) -> list[KernelNode]:
        """Nodes that run and are not as they should be."""
        return [node for node in self.kernel.nodes if node.alive and node.troubled]

    def _draw_single(self, name: str) -> None:
        event = self._drawn(name)
        if event is not None and self.kernel.now_ns < self._end_ns:
            self.strike(event)

    def _drawn(self, name: str) -> FaultEvent | None:
        """An event of that kind for now; None when there is nobody whom it could hit."""
        options, rng, at_ms = self.run.options, self._rng, self.now_ms()
        fit = [node.node for node in self.kernel.nodes if node.alive and not node.paused]
        if not fit:
            return None
        node = fit[rng.below(len(fit))]
        if name == "cut":
            return self._drawn_cut(node, at_ms)
        if name == "partition":
            return self._drawn_partition(at_ms)
        if name == "kill_many":
            if len(fit) < 2:
                return None  # of several nodes there is one left
            rng.shuffle(fit)
            count = 2 + rng.below(max(1, len(fit) - 1))
            return FaultEvent(
                at_ms, name, tuple(fit[:count][:MANY_MAX]), self._below(options.down_ms)
            )
        if FAULTS[name].nodes == (0, 0):
            return FaultEvent(
                at_ms, name, (), self._below(options.down_ms) if FAULTS[name].standing else 0
            )
        longest_ms = {"pause": options.pause_ms}.get(name, options.down_ms)
        details: tuple[Detail, ...] = ()
        if name in ("slow", "slow_disk"):
            details = (("factor", (5, 50, SLOWEST_DISK)[rng.below(3)]),)
        elif name == "corrupt":
            details = (("permille", (2, 20, 200)[rng.below(3)]),)
        elif name == "delay":
            details = (("us", (500, 20_000, 150_000)[rng.below(3)]),)
        elif name == "drift":
            details = (("ppm", rng.below(2 * options.clock_ppm + 1) - options.clock_ppm),)
        elif name == "wall_jump":
            details = (("ms", rng.below(86_400_000) - 43_200_000),)
        for_ms = self._below(longest_ms) if FAULTS[name].standing else 0
        if name == "power_cut" and rng.below(100) < options.power_crash_percent:
            # It is back at once, and somebody else crashes meanwhile.
            for_ms = self._below(UNNOTICED_MS)
            victim = (node + 1 + rng.below(options.nodes - 1)) % options.nodes
            crash_ms, down_ms = at_ms + rng.below(UNNOTICED_MS), self._below(options.down_ms)
            crash = FaultEvent(crash_ms, "kill", (victim,), down_ms)
            self.kernel.at(self.begun_ns + crash_ms * NS_PER_MS, self._crash, crash)
        return FaultEvent(at_ms, name, (node,), for_ms, details)

    def _below(self, most_ms: int) -> int:
        return 1 + self._rng.below(most_ms)

    def _drawn_cut(self, node: int, at_ms: int) -> FaultEvent:
        rng = self._rng
        others = [other.node for other in self.kernel.nodes if other.node != node]
        rng.shuffle(others)
        count = (1, 1, len(others) // 2, len(others))[rng.below(4)]
        direction = ("out", "in", "both", "both")[rng.below(4)]
        details: tuple[Detail, ...] = (("direction", direction), ("heard", rng.below(2)))
        for_ms = self._below(self.run.options.cut_ms)
        if self.run.options.crashes and rng.below(100) < self.run.options.cut_crash_percent:
            # Somebody crashes before the cut ends.
            victim = self.kernel.nodes[rng.below(len(self.kernel.nodes))].node
            crash = FaultEvent(at_ms + rng.below(for_ms), "kill", (victim,), self._below(200))
            self.kernel.at(self.begun_ns + crash.at_ms * NS_PER_MS, self._blink, crash)
        return FaultEvent(at_ms, "cut", (node, *others[: max(1, count)]), for_ms, details)

    def _blink(self, crash: FaultEvent) -> None:
        if self.cut:
            self._crash(crash)

    def _crash(self, crash: FaultEvent) -> None:
        node = self.kernel.nodes[crash.nodes[0]]
        hits = not node.paused and node not in self.lost and node.alive
        if hits and self._spared():
            self.strike(crash)

    def _drawn_partition(self, at_ms: int) -> FaultEvent:
        rng, nodes = self._rng, self.run.options.nodes
        order = [str(node) for node in range(nodes)]
        rng.shuffle(order)
        split = 1 + rng.below(nodes - 1)
        first, second = sorted(order[:split]), sorted(order[split:])
        if rng.below(3) == 0:  # a bridge: one node hears both groups (F8)
            second = sorted([*second, first[rng.below(len(first))]])
        groups = f"{''.join(first)}|{''.join(second)}"
        details: tuple[Detail, ...] = (("groups", groups), ("heard", rng.below(2)))
        return FaultEvent(at_ms, "partition", (), self._below(self.run.options.cut_ms), details)

    def _draw_flap(self) -> None:
        if self.kernel.now_ns >= self._end_ns:
            return
        nodes = self.run.options.nodes
        first = self._flaps.below(nodes)
        second = (first + 1 + self._flaps.below(nodes - 1)) % nodes
        if self.kernel.reachable(first, second) and self._spared() and not self._armed():
            self.strike(FaultEvent(self.now_ms(), "flap", (first, second)))
        self._plan_flap()

    # ------------------------------------------------------------------ performing

    def strike(self, event: FaultEvent) -> None:
        """Perform it now, if it applies to the cluster as it is; then it is on record."""
        whole = self.run.redundant()
        if PERFORM[event.kind](self, event):
            self.performed.append(event)
            self.redundant.append(whole)
            over_ns = self.kernel.now_ns + event.for_ms * NS_PER_MS
            self._struck_ns = max(self._struck_ns, over_ns)
            self._destroyed = self._destroyed or event.kind in GONE
            first = event.nodes[0] if event.nodes else -1
            self.kernel.note(
                first, f"fault.{event.kind}", (event.nodes, event.for_ms, event.details)
            )

    def _later(self, event: FaultEvent, call: Callable[..., object], *arguments: object) -> None:
        if event.for_ms:
            self.kernel.after(event.for_ms * NS_PER_MS, call, *arguments)

    def _subject(self, event: FaultEvent) -> KernelNode:
        return self.kernel.nodes[event.nodes[0]]

    def _kill(self, event: FaultEvent) -> bool:
        hit = False
        for place, number in enumerate(event.nodes):
            node = self.kernel.nodes[number]
            if node.alive:
                hit = True
                node.kill()
                # One after the other, in the order of the list.
                wait_ns = event.for_ms * NS_PER_MS * (place + 1) // len(event.nodes)
                self.kernel.after(wait_ns, self.run.restart, node)
        return hit

    def _power_cut(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        if node.alive:
            node.power_cut()
            self._later(event, self.run.restart, node)
            return True
        return False

    def _power_cut_all(self, event: FaultEvent) -> bool:
        self.kernel.goals["all machines lost power"] = None
        for node in self.kernel.nodes:
            if node.alive:
                node.power_cut()
            else:
                node.lose_unsynced()
            self._later(event, self.run.restart, node)
        if not self.run.options.durability_synced:
            self.run.history.power_lost()
            self.run.checks.forget_committed()
        return True

    def _pause(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        if not node.alive or node.paused:
            return False
        node.pause()
        if event.for_ms > self.run.options.lease_ms and node.owns_something:
            self.kernel.goals["an owner was paused beyond its lease"] = None
        self._later(event, node.resume)
        return True

    def _slow(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        node.slow(int(event.detail("factor", 50)) * 1_000)
        self._later(event, node.slow, 0)
        return node.alive

    def _slow_disk(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        node.disk_factor = int(event.detail("factor", 50))
        self._later(event, setattr, node, "disk_factor", 1)
        return node.alive

    def _hang_disk(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        node.hang_disk()
        self._later(event, node.free_disk)
        return node.alive

    def _sync_failure(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        node.sync_fails = True
        self._later(event, self._after_sync_failure, node)
        return node.alive

    def _after_sync_failure(self, node: KernelNode) -> None:
        node.sync_fails = False
        self.run.restart(node)

    def _cut(self, event: FaultEvent) -> bool:
        direction = str(event.detail("direction", "both"))
        subject = event.nodes[0]
        pairs = [
            (other, subject) if direction == "in" else (subject, other) for other in event.nodes[1:]
        ]
        one_way = direction != "both"
        self._cut_pairs(event, pairs, one_way=one_way, heard=bool(event.detail("heard")))
        return True

    def _partition(self, event: FaultEvent) -> bool:
        pairs = severed(str(event.detail("groups")), self.run.options.nodes)
        self._cut_pairs(event, pairs, one_way=False, heard=bool(event.detail("heard")))
        return bool(pairs)

    def _cut_pairs(
        self, event: FaultEvent, pairs: list[tuple[int, int]], *, one_way: bool, heard: bool
    ) -> None:
        for pair in pairs:
            self.cut.append(pair)
            self.kernel.cut(*pair, one_way=one_way, heard=heard)
        self._later(event, self._mend_pairs, pairs)

    def _mend_pairs(self, pairs: list[tuple[int, int]]) -> None:
        for pair in pairs:
            if pair in self.cut:
                self.cut.remove(pair)
                self.kernel.mend(*pair)

    def _flap(self, event: FaultEvent) -> bool:
        first, second = event.nodes
        if not self.kernel.reachable(first, second):
            return False
        self.kernel.disconnect(first, second)
        self.kernel.after(NS_PER_MS, self.kernel.connect, first, second)
        return True

    def _corrupt(self, event: FaultEvent) -> bool:
        node = event.nodes[0]
        self.kernel.corrupt[node] = int(event.detail("permille"))
        self._later(event, self.kernel.corrupt.pop, node, None)
        return True

    def _clog(self, event: FaultEvent) -> bool:
        self.kernel.clogs.add(event.nodes[0])
        self._later(event, self.kernel.unclog, event.nodes[0])
        return True

    def _delay(self, event: FaultEvent) -> bool:
        node = event.nodes[0]
        self.kernel.delays_ns[node] = int(event.detail("us")) * 1_000
        self._later(event, self.kernel.delays_ns.pop, node, None)
        return True

    def _drift(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        before = node.rate_ppm
        node.set_rate(int(event.detail("ppm")))
        self._later(event, node.set_rate, before)
        return True

    def _wall_jump(self, event: FaultEvent) -> bool:
        self._subject(event).wall_offset_ns += int(event.detail("ms")) * NS_PER_MS
        return True

    def _lose(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        if not node.alive:
            return False
        node.kill()
        self.lost.append(node)
        return True

    def _replace(self, event: FaultEvent) -> bool:
        node = self._subject(event)
        if not node.alive:
            return False
        node.kill()
        node.durable = self.kernel.new_disks(blank=True)
        self.kernel.goals["a blank node took the place of another"] = None
        self._later(event, self.run.restart, node)
        return True

    # ------------------------------------------------------------------ entries of operators

    def _propose(self, make: Callable[[KernelNode], list[bytes]]) -> bool:
        for node in self.kernel.nodes:
            if node.alive and not node.paused and node.core.active:
                for entry in make(node):
                    node.core.propose(entry, self.run.answered, node.clock_ns())
                node.perform()
                return True
        return False

    def _grow(self, event: FaultEvent) -> bool:
        size = self.run.region_bytes * self.run.options.regions * 2

        def entries(node: KernelNode) -> list[bytes]:
            return [encode(GrowVolume(volume, size)) for volume in self.run.host_volumes(node)]

        return self._propose(entries)

    def _remove_volume(self, event: FaultEvent) -> bool:
        def entries(node: KernelNode) -> list[bytes]:
            spare = self.run.spare_volumes(node)
            return [encode(RemoveVolume(volume)) for volume in spare[:1] * 2]  # twice: F31

        return self._propose(entries)

    def _repeat_entry(self, event: FaultEvent) -> bool:
        def entries(node: KernelNode) -> list[bytes]:
            catalog = node.core.catalog
            found = [
                encode(GrowVolume(volume, catalog.volumes[volume].size_bytes))
                for volume in self.run.host_volumes(node)
            ]
            for other in catalog.nodes:
                state = catalog.node_state(other)
                if state.liveness is Liveness.UP and state.incarnation > 1:
                    found.append(encode(NodeDown(other, state.incarnation - 1)))
            return found

        return self._propose(entries)

    def count(self, kind: str) -> int:
        """How many of that kind, and of those whose name begins with it, were performed."""
        return sum(event.kind.startswith(kind) for event in self.performed)

    # ------------------------------------------------------------------ the end

    def mend_all(self) -> None:
        """Everything is as it should be again, or will be when the nodes have started."""
        self._mend_pairs(list(self.cut))
        self.lost.clear()
        self.kernel.delays_ns.clear()
        self.kernel.corrupt.clear()
        for node in self.kernel.nodes:
            self.kernel.unclog(node.node)
            node.mended()
            self.run.restart(node)


PERFORM: dict[str, Callable[[KernelFaults, FaultEvent], bool]] = {
    "kill": KernelFaults._kill,
    "kill_many": KernelFaults._kill,
    "power_cut": KernelFaults._power_cut,
    "power_cut_all": KernelFaults._power_cut_all,
    "pause": KernelFaults._pause,
    "slow": KernelFaults._slow,
    "slow_disk": KernelFaults._slow_disk,
    "hang_disk": KernelFaults._hang_disk,
    "sync_failure": KernelFaults._sync_failure,
    "cut": KernelFaults._cut,
    "partition": KernelFaults._partition,
    "flap": KernelFaults._flap,
    "clog": KernelFaults._clog,
    "corrupt": KernelFaults._corrupt,
    "delay": KernelFaults._delay,
    "drift": KernelFaults._drift,
    "drift_far": KernelFaults._drift,
    "wall_jump": KernelFaults._wall_jump,
    "lose": KernelFaults._lose,
    "replace": KernelFaults._replace,
    "grow": KernelFaults._grow,
    "remove_volume": KernelFaults._remove_volume,
    "repeat_entry": KernelFaults._repeat_entry,
}
