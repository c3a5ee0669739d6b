"""shell: the faults of level 2: drawn from the seed or taken from a list, performed, on record.

A fault is a `FaultEvent`. Drawn ones strike on whole milliseconds, so that the list of what was
performed, given back to the same seed, strikes at the same times. Faults that stand (a dead node, a
cut, a slow disk) are over after `for_ms`, or at the end of the run.

The budget: `down_max` faults stand at a time. What destroys something that only one node holds
strikes only while nothing else stands and every region has its copies in sync. Of the disks of a
node only ever one dies, and only under RAID 1; `scenario.level2_media` has the rule for media that
are damaged. Nothing else may be lost for good, so the rest may hit the last copy of a region, a
joiner or a node that is still recovering: hosts wait then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from base.errors import StorageError
from base.units import NS_PER_MS, KiB
from scenario.faults import FAULTS, severed
from scenario.level2_draws import Draws
from scenario.level2_hardware import HARDWARE, loops_of, take_away
from scenario.level2_media import MEANWHILE, MEDIA, Media
from scenario.level2_old_image import OldImages
from scenario.runs import FaultEvent
from sim.cluster import SimNode
from sim.device import CrashKind, SimDisk
from transport.sim import LinkConditions

if TYPE_CHECKING:
    from scenario.level2 import Level2Run

RESTART_MS: Final = 50  # of a node that ended because a device failed, once the fault is over
_KEEP: Final = {"torn": CrashKind.POWER_TORN, "lost": CrashKind.POWER_LOST}


class NodeFaults:
    """See the module. `performed` is the record; `goals` are situations that were reached."""

    def __init__(
        self, run: Level2Run, listed: tuple[FaultEvent, ...] | None, *, allow_loss: bool
    ) -> None:
        self.run = run
        self.loop = run.loop
        self.nodes = run.nodes
        self.performed: list[FaultEvent] = []
        self.redundant: list[bool] = []  # of each, whether everything was when it struck
        self.standing: list[FaultEvent] = []
        self.cut: list[tuple[int, int]] = []
        self.goals: dict[str, None] = {}
        self.excused: dict[int, str] = {}  # nodes that may stop because of a device, and why
        self.stopping: SimNode | None = None
        self.draws = Draws(run)
        self.media = Media(self)
        self.old = OldImages(self)
        self._listed = listed
        self.allow_loss = allow_loss
        self._shaped: list[tuple[int, str, int]] = []  # (node, kind, by how much)
        self.begun_ns = self._end_ns = 0

    # ------------------------------------------------------------------ when

    def begin(self, end_ns: int) -> None:
        """Hosts run from now on, and faults may begin until `end_ns`."""
        self.begun_ns, self._end_ns = self.loop.now_ns, end_ns
        if self._listed is None:
            self._plan()
            return
        for event in self._listed:
            self._at(self.begun_ns + event.at_ms * NS_PER_MS, self.strike, event)

    def _at(self, when_ns: int, callback: Callable[..., object], *arguments: Any) -> None:
        self.loop.call_at_ns(when_ns, callback, *arguments, context=self.loop.outside)

    def after(self, delay_ms: int, callback: Callable[..., object], *arguments: Any) -> None:
        """Call it so much later, outside of any node."""
        self._at(self.loop.now_ns + delay_ms * NS_PER_MS, callback, *arguments)

    def _plan(self) -> None:
        at_ms = self.at_ms() + self.draws.pause_ms()
        self._at(self.begun_ns + at_ms * NS_PER_MS, self._draw)

    def at_ms(self) -> int:
        """Since the hosts began."""
        return (self.loop.now_ns - self.begun_ns) // NS_PER_MS

    def _draw(self) -> None:
        if self.loop.now_ns >= self._end_ns:
            return
        others = sum(event.kind not in MEDIA for event in self.standing)
        if others < self.run.options.down_max and self.stopping is None:
            event = self.draws.event(self.at_ms(), calm=not others)
            if event is not None:
                self.strike(event)
        self._plan()

    # ------------------------------------------------------------------ performing

    def strike(self, event: FaultEvent) -> None:
        """Perform it now, if it applies to the cluster as it is; then it is on record."""
        kind = FAULTS[event.kind]
        whole = self.run.judge.redundant()
        if not self.allow_loss:
            if kind.needs_redundancy and not whole:
                return
            if not self.may_strike(event):
                return
        self.standing.append(event)
        if not PERFORM[event.kind](self, event):
            self.standing.remove(event)
            return
        self.performed.append(event)
        self.redundant.append(whole)
        first = event.nodes[0] if event.nodes else -1
        self.loop.trace("fault", (event.kind, first, event.for_ms))
        if not kind.standing:
            self.standing.remove(event)

    def over(self, event: FaultEvent) -> None:
        """It stands no longer."""
        if event in self.standing:
            self.standing.remove(event)

    def _for(self, event: FaultEvent, undo: Callable[..., object], *arguments: Any) -> None:
        """Undo it after its time. Undoing twice must do no harm: healing undoes everything."""

        def end() -> None:
            if event in self.standing:
                self.standing.remove(event)
                undo(*arguments)

        self.after(event.for_ms, end)

    def _node(self, event: FaultEvent) -> SimNode:
        return self.nodes[event.nodes[0]]

    def goal(self, name: str) -> None:
        """A situation that runs are to reach now and then."""
        self.goals[name] = None

    def _kill(self, event: FaultEvent) -> bool:
        power = event.kind == "power_cut"
        crash = _KEEP[str(event.detail("keep", "torn"))] if power else CrashKind.KILL
        events = int(event.detail("events"))
        if not self._node(event).alive:
            return False
        if events:
            self.loop.after_events(events, lambda: self._killed(event, crash))
        else:
            self._killed(event, crash)
        return True

    def _killed(self, event: FaultEvent, crash: CrashKind) -> None:
        others = [each for each in self.standing if each.kind not in MEDIA]
        alone = others == [event] and self.run.judge.redundant()
        if crash is not CrashKind.KILL and not (alone or self.allow_loss):
            self.over(event)  # something else has struck since it was drawn
            return
        for place, number in enumerate(event.nodes):
            node = self.nodes[number]
            # What a process handed to its kernel still travels; what a machine held does not.
            if node.alive and node is not self.stopping:
                sent = crash is CrashKind.KILL and bool(event.detail("sent"))
                self.crash(node, crash, sent=sent)
            wait_ms = event.for_ms * (place + 1) // len(event.nodes)
            last = place + 1 == len(event.nodes)
            self.after(wait_ms, self._back, node, event if last else None)

    def _back(self, node: SimNode, event: FaultEvent | None) -> None:
        self.restart(node)
        if event is not None:
            self.over(event)

    def crash(self, node: SimNode, kind: CrashKind, *, sent: bool) -> None:
        """One node dies at this moment."""
        self.run.judge.look_at(node)
        core = node.node.core if node.ready and node.node is not None else None
        if core is None:
            self.goal("a node was killed while it started")
        elif not core.active:
            self.goal("a node was killed before it had recovered")
        elif core.raft.is_leader:
            self.goal("the leader was killed")
        self.run.checks.crashed(node, kind)
        torn = node.disks["journal"].torn
        node.kill(kind, deliver_under_way=sent)
        if node.disks["journal"].torn > torn:
            self.goal("a crash met a journal write on its way")

    def restart(self, node: SimNode) -> None:
        """Start it, if it does not run."""
        if not node.alive:
            node.start()

    def _power_cut_all(self, event: FaultEvent) -> bool:
        if self.stopping is not None:
            return False
        crash = _KEEP[str(event.detail("keep", "torn"))]
        for node in self.nodes:
            if node.alive:
                self.crash(node, crash, sent=False)
            else:
                node.disks.crash(crash)
        if not self.run.options.durability_synced:
            self.run.history.power_lost()
            self.run.checks.forget_committed()
        self.goal("all machines lost power")
        for number, node in enumerate(self.nodes):
            # One after the other, so that for a while only some are back.
            self.after(event.for_ms * (number + 1) // len(self.nodes), self.restart, node)
        self.after(event.for_ms, self.over, event)
        return True

    def _pause(self, event: FaultEvent) -> bool:
        node = self._node(event)
        if not node.runs:
            return False
        node.pause()
        if event.for_ms > self.run.options.lease_ms:
            self.goal("a node was paused beyond its lease")
        self._for(event, node.resume)
        return True

    def _slow(self, event: FaultEvent) -> bool:
        node = self._node(event)
        node.slow(int(event.detail("factor", 5)))
        self._for(event, node.slow, 1)
        return True

    def _stop(self, event: FaultEvent) -> bool:
        node = self._node(event)
        if not node.active or node.group is None or node.paused or self.stopping is not None:
            return False
        self.end(node, event)
        return True

    def end(self, node: SimNode, event: FaultEvent) -> None:
        """An orderly end, as after SIGTERM or after a failure, and a new start later."""
        self.stopping = node
        assert node.group is not None
        task = node.group.start(node.stop(), name=f"n{node.number}.stop")
        # Outside of the group: it is dropped when the process has ended.
        task.add_done_callback(lambda _: self._ended(node, event, task), context=self.loop.outside)

    def _ended(self, node: SimNode, event: FaultEvent, task: Any) -> None:
        self.stopping = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and not self.excuse(node, error)):
            self.run.failures.append(f"{node} did not stop: {task!r}")
            return
        node.ended()
        self.after(event.for_ms, self._back, node, event)

    # ------------------------------------------------------------------ links

    def _cut(self, event: FaultEvent) -> bool:
        direction, subject = str(event.detail("direction", "both")), event.nodes[0]
        pairs = [
            (other, subject) if direction == "in" else (subject, other) for other in event.nodes[1:]
        ]
        return self._cut_pairs(event, pairs, both=direction == "both")

    def _partition(self, event: FaultEvent) -> bool:
        pairs = severed(str(event.detail("groups")), len(self.nodes))
        return bool(pairs) and self._cut_pairs(event, pairs, both=True)

    def _cut_pairs(self, event: FaultEvent, pairs: list[tuple[int, int]], *, both: bool) -> bool:
        for pair in pairs:
            self.cut.append(pair)
            self.run.cluster.network.cut(*pair, both=both, reset=bool(event.detail("heard")))
        self._for(event, self._mend, pairs)
        return True

    def _mend(self, pairs: list[tuple[int, int]]) -> None:
        for pair in pairs:
            self.cut.remove(pair)
            if pair not in self.cut and pair[::-1] not in self.cut:
                self.run.cluster.network.heal(*pair)

    def _flap(self, event: FaultEvent) -> bool:
        self.run.cluster.network.reset(event.nodes[0], event.nodes[1])
        return True

    def _clog(self, event: FaultEvent) -> bool:
        """The nodes one by one in the first half, and the other way round in the second."""
        half_ms, count = event.for_ms // 2, len(event.nodes)
        for place, node in enumerate(event.nodes):
            self.after(half_ms * place // count, self._clog_one, event, node)
            self.after(half_ms + half_ms * (count - place) // count, self._unclog, node)
        self.after(event.for_ms, self.over, event)
        return True

    def _clog_one(self, event: FaultEvent, node: int) -> None:
        if event in self.standing:
            for other in range(len(self.nodes)):
                if other != node:
                    self.run.cluster.network.clog(node, other)

    def _unclog(self, node: int) -> None:
        for other in range(len(self.nodes)):
            if other != node:
                self.run.cluster.network.unclog(node, other)

    def _shape(self, event: FaultEvent) -> bool:
        amount = int(event.detail(_AMOUNT.get(event.kind, "permille")))
        shaped = (event.nodes[0], event.kind, amount)
        self._shaped.append(shaped)
        self.run.cluster.network.shape(self._conditions)
        self._for(event, self._unshape, shaped)
        return True

    def _unshape(self, shaped: tuple[int, str, int]) -> None:
        self._shaped.remove(shaped)
        self.run.cluster.network.shape(self._conditions)

    def _conditions(self, sender: int, receiver: int) -> LinkConditions:
        conditions = self.run.cluster.config.conditions
        for node, kind, amount in self._shaped:
            if node not in (sender, receiver):
                continue
            if kind == "delay":
                mean_us = conditions.delay_mean_us + amount
                conditions = replace(conditions, delay_mean_us=mean_us)
            elif kind == "cap":
                conditions = replace(conditions, bytes_per_s=amount * KiB)
            else:
                chance: dict[str, Any] = {_CHANCE[kind]: amount / 1000}
                conditions = replace(conditions, **chance)
        return conditions

    def _no_links(self, event: FaultEvent) -> bool:
        network, node = self.run.cluster.network, event.nodes[0]
        network.refuse_links(node, refuse=True)
        for other in event.nodes[1:]:
            network.reset(node, other)
        self._for(event, partial(network.refuse_links, node, refuse=False))
        return True

    # ------------------------------------------------------------------ memory

    def _memory(self, event: FaultEvent) -> bool:
        """Little room for what is not on disk yet; then the death that ends it."""
        sim = self._node(event)
        if not sim.active or sim.paused or self.stopping is not None:
            return False
        assert sim.node is not None
        cache, waits = sim.node.store.cache, sim.node.io.waits
        cache.max_bytes = max(int(event.detail("kib")) * KiB, cache.dirty_bytes)
        cache.high_bytes = min(cache.high_bytes, cache.max_bytes // 2)
        cache.low_bytes = min(cache.low_bytes, cache.high_bytes)
        self.after(event.for_ms, self._out_of_memory, event, sim, sim.lives, waits)
        return True

    def _out_of_memory(self, event: FaultEvent, sim: SimNode, life: int, waits: int) -> None:
        if event not in self.standing:
            return
        if not sim.alive or sim.lives != life or sim is self.stopping:
            self.over(event)
            return
        if sim.node is not None and sim.ready and sim.node.io.waits > waits:
            self.goal("writes waited for memory")
        self.goal("a node ran out of memory")
        self.crash(sim, CrashKind.KILL, sent=False)
        self.after(RESTART_MS, self._back, sim, event)

    # ------------------------------------------------------------------ clocks

    def _drift(self, event: FaultEvent) -> bool:
        clock = self._node(event).clock
        before = clock.rate_ppm
        clock.set_rate(int(event.detail("ppm")))
        self._for(event, clock.set_rate, before)
        return True

    def _wall_jump(self, event: FaultEvent) -> bool:
        self._node(event).clock.jump_wall(int(event.detail("ms")) * NS_PER_MS)
        return True

    # ------------------------------------------------------------------ disks

    def excuse(self, node: SimNode, error: BaseException | None) -> bool:
        """Whether the node may stop with this error."""
        return node.number in self.excused and isinstance(error, StorageError)

    def node_failed(self, node: SimNode) -> None:
        """A node says that it must not go on, because of a device: it ends, and begins again."""
        self.goal(f"a node stopped: {self.excused[node.number]}")
        event = FaultEvent(self.at_ms(), "stop", (node.number,), RESTART_MS)
        self.standing.append(event)
        self._at(self.loop.now_ns, self._end_failed, node, event)

    def _end_failed(self, node: SimNode, event: FaultEvent) -> None:
        if not node.alive:
            self.over(event)
        elif node.ready and self.stopping is None and not node.paused:
            self.end(node, event)
        elif node.ready:
            self.after(RESTART_MS, self._end_failed, node, event)
        else:
            node.ended()
            self.after(event.for_ms, self._back, node, event)

    def _disk(self, event: FaultEvent) -> SimDisk:
        return self.disk(event.nodes[0], str(event.detail("device", "journal")))

    def disk(self, node: int, device: str) -> SimDisk:
        """By a name of `scenario.faults.DEVICES`."""
        sim = self.nodes[node]
        return sim.disks[sim.names[int(device[4:])] if device.startswith("disk") else device]

    def _excuse(self, event: FaultEvent) -> None:
        self.excused[event.nodes[0]] = f"{event.kind} of {event.detail('device', 'journal')}"

    def _slow_disk(self, event: FaultEvent) -> bool:
        node = self._node(event)
        node.slow_disks(int(event.detail("factor", 50)))
        self._for(event, node.slow_disks, 1)
        return True

    def _sync_failure(self, event: FaultEvent) -> bool:
        disk = self._disk(event)
        self._excuse(event)
        disk.fail_sync_once()
        self._for(event, self._healed, disk)
        return True

    def _disk_error(self, event: FaultEvent) -> bool:
        disk, what = self._disk(event), str(event.detail("what", "all"))
        self._excuse(event)
        offset = int(event.detail("offset"))
        length = int(event.detail("length")) or disk.size_bytes - offset
        disk.fail_range(offset, length, reads=what != "writes", writes=what != "reads")
        self._for(event, self._healed, disk)
        return True

    def _disk_dead(self, event: FaultEvent) -> bool:
        disk = self._disk(event)
        self._excuse(event)
        disk.dead = True
        self._for(event, self._healed, disk)
        return True

    def _disk_full(self, event: FaultEvent) -> bool:
        disk = self._disk(event)
        self._excuse(event)
        disk.space_bytes = disk.pages_bytes
        self._for(event, self._healed, disk)
        return True

    def _healed(self, disk: SimDisk) -> None:
        disk.heal()

    def _damage(self, event: FaultEvent) -> bool:
        return self.media.strike(event)

    def _loop_cut(self, event: FaultEvent) -> bool:
        node, loop = self._node(event), loops_of(event)[0]
        if not any(loop in disk.loops for disk in node.fabric.inventory.disks):
            return False
        if any(other.pair == loop.pair for other in node.loops_down):
            return False  # both would be `loop_down`, which has a budget of its own
        node.set_loop(loop, False)
        self.goal("disks were reached over one loop only")
        self._for(event, node.set_loop, loop, True)
        return True

    def _take_away(self, event: FaultEvent) -> bool:
        put_back = take_away(self._node(event), event)
        if put_back is None:
            return False
        self.excused[event.nodes[0]] = event.kind
        self._for(event, put_back)
        return True

    def _old_image(self, event: FaultEvent) -> bool:
        return self.old.strike(event)

    @property
    def weak(self) -> int | None:
        """The node that lacks what only others have now: its media are damaged or out of reach."""
        kinds = (*HARDWARE, "old_image")
        away = [event.nodes[0] for event in self.standing if event.kind in kinds]
        return away[0] if away else self.media.node

    def may_strike(self, event: FaultEvent) -> bool:
        """Whether it leaves alone those who have what the weak node lacks."""
        weak = self.weak
        return weak is None or (event.kind in MEANWHILE and event.nodes == (weak,))

    # ------------------------------------------------------------------ the end

    def count(self, kind: str) -> int:
        """How many of that kind were performed."""
        return sum(event.kind == kind for event in self.performed)

    def mend_all(self) -> None:
        """No fault stands any more. Nodes that are down must still be started."""
        self.standing.clear()
        self.media.healed()
        self._end_ns = 0
        self.loop.after_events(1, lambda: None)  # nor does one that waits for its event strike
        self._shaped.clear()
        network = self.run.cluster.network
        network.shape(self._conditions)
        network.heal_all()
        self.cut.clear()
        for node in self.nodes:
            node.slow(1)
            node.resume()
            for loop in list(node.loops_down):
                node.set_loop(loop, True)
            node.fabric.heal()
            for name in node.disks.names():
                node.disks[name].heal()


_AMOUNT: Final = {"delay": "us", "cap": "kib_per_s"}
_CHANCE: Final = {
    "loss": "loss", "duplicate": "duplication", "reorder": "reordering", "corrupt": "corruption",
}  # fmt: skip
PERFORM: Final[dict[str, Callable[[NodeFaults, FaultEvent], bool]]] = {
    "kill": NodeFaults._kill,
    "kill_many": NodeFaults._kill,
    "power_cut": NodeFaults._kill,
    "power_cut_all": NodeFaults._power_cut_all,
    "pause": NodeFaults._pause,
    "slow": NodeFaults._slow,
    "stop": NodeFaults._stop,
    "cut": NodeFaults._cut,
    "partition": NodeFaults._partition,
    "flap": NodeFaults._flap,
    "clog": NodeFaults._clog,
    "swizzle": NodeFaults._clog,
    "delay": NodeFaults._shape,
    "loss": NodeFaults._shape,
    "duplicate": NodeFaults._shape,
    "reorder": NodeFaults._shape,
    "corrupt": NodeFaults._shape,
    "cap": NodeFaults._shape,
    "old_image": NodeFaults._old_image,
    "no_links": NodeFaults._no_links,
    "memory": NodeFaults._memory,
    "drift": NodeFaults._drift,
    "drift_far": NodeFaults._drift,
    "wall_jump": NodeFaults._wall_jump,
    "slow_disk": NodeFaults._slow_disk,
    "sync_failure": NodeFaults._sync_failure,
    "disk_error": NodeFaults._disk_error,
    "disk_dead": NodeFaults._disk_dead,
    "disk_full": NodeFaults._disk_full,
    **dict.fromkeys(MEDIA, NodeFaults._damage),
    "loop_cut": NodeFaults._loop_cut,
    **dict.fromkeys(HARDWARE, NodeFaults._take_away),
}
