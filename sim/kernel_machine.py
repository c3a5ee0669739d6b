"""shell: the machine under one node of level 1: clocks, processor, journal disk, and their faults.

A machine can be stopped, slowed, cut from its power, have a disk that hangs, lies about a sync or
is replaced by a blank one. What the process above it keeps in memory is not its business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from node.region_copy import RegionCopy
from sim.durable import Durable
from sim.kernel_network import KernelNetwork

JournalEntry = tuple[str, RegionCopy, Any, int]  # kind, copy, what, commit point
Call = tuple[Callable[..., None], tuple[Any, ...]]


class MachineTimes(Protocol):
    """Of a configuration, in ns."""

    journal_ns: int
    sync_ns: int
    clock_ppm_max: int


class KernelMachine:
    """What outlives the processes of one node."""

    def __init__(
        self, kernel: KernelNetwork, node: int, durable: Durable, times: MachineTimes
    ) -> None:
        self.network = kernel
        self.node = node
        self.durable = durable
        self.alive = False
        self.paused = False
        self.life = 0
        self.journal: list[JournalEntry] = []
        self.rng = kernel.streams.stream(f"node{node}")
        self.disk_factor = 1
        self.sync_fails = False
        self.syncs = 0
        self.wall_offset_ns = 0
        self._times = times
        self._rate_ppm = self.rng.below(2 * times.clock_ppm_max + 1) - times.clock_ppm_max
        self._anchor = (0, 0)  # (true, own) time at which the clock took its present rate
        self._step_ns = 0  # what each step of a slow node costs
        self._free_at_ns = 0
        self._in_step = False
        self._deferred: deque[Call] = deque()
        self._hung = False
        self._hangs = 0
        self._held: list[Call] = []
        self._journal_busy = False
        kernel.endpoints[node] = self

    # ------------------------------------------------------------------ for the node above

    def write_entry(self, entry: JournalEntry) -> None:
        """Put an entry onto the disk."""
        raise AssertionError(entry)

    def entry_written(self, entry: JournalEntry) -> None:
        """The journal holds the entry."""
        raise AssertionError(entry)

    def perform(self) -> None:
        """Perform what came of it."""
        raise AssertionError(self)

    # ------------------------------------------------------------------ clocks

    def clock_ns(self) -> int:
        """This node's own monotonic clock: it drifts."""
        true_ns, own_ns = self._anchor
        passed_ns = self.network.now_ns - true_ns
        return own_ns + passed_ns + passed_ns * self._rate_ppm // 1_000_000

    def wall_ns(self) -> int:
        """What its wall clock shows. Nothing that decides may look at it."""
        return self.network.now_ns + self.wall_offset_ns

    @property
    def rate_ppm(self) -> int:
        """By how much the clock is fast."""
        return self._rate_ppm

    def set_rate(self, ppm: int) -> None:
        """The clock goes on from where it is at another rate."""
        self._anchor = (self.network.now_ns, self.clock_ns())
        self._rate_ppm = ppm

    # ------------------------------------------------------------------ processor

    def begin(self) -> None:
        """A process starts."""
        self.life += 1
        self.alive, self.paused = True, False
        self._deferred.clear()
        self._held.clear()
        self._free_at_ns = 0

    def pause(self) -> None:
        """SIGSTOP: nothing runs, clocks go on, what arrives waits."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        if not self.paused or not self.alive:
            self.paused = False
            return
        self.paused = False
        while self._deferred and not self.paused and self.alive:
            call, arguments = self._deferred.popleft()
            call(*arguments)

    def slow(self, step_ns: int) -> None:
        """From now on each step takes that much longer, one after the other; 0: as always."""
        self._step_ns = step_ns

    def not_now(self, life: int, call: Callable[..., None], *arguments: Any) -> bool:
        """True: of an earlier life, or it was put off and comes again."""
        if not self.alive or life != self.life:
            return True
        if self.paused:
            self._deferred.append((call, arguments))
            return True
        if self._in_step or (not self._step_ns and self._free_at_ns <= self.network.now_ns):
            return False
        self._free_at_ns = max(self._free_at_ns, self.network.now_ns) + self._step_ns
        self.network.at(self._free_at_ns, self._step, life, call, arguments)
        return True

    def _step(self, life: int, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.alive or life != self.life:
            return
        if self.paused:
            self._deferred.append((call, arguments))
            return
        self._in_step = True
        try:
            call(*arguments)
        finally:
            self._in_step = False

    # ------------------------------------------------------------------ disk

    def sync_time_ns(self) -> int:
        """How long a sync takes now."""
        sync_ns = self._times.sync_ns
        return (sync_ns // 2 + self.rng.below(sync_ns)) * self.disk_factor

    def hang_disk(self) -> None:
        """Nothing that is written or synced ends any more."""
        self._hung = True
        self._hangs += 1

    def oldest_io(self) -> tuple[int, str]:
        """What waits for a disk that hangs: see `node.gray`."""
        return (self._hangs, "journal") if self._held else (0, "")

    def free_disk(self) -> None:
        """What hung ends now, in order."""
        self._hung = False
        held, self._held = self._held, []
        for call, arguments in held:
            call(*arguments)

    def hold_while_hung(self, call: Callable[..., None], *arguments: Any) -> bool:
        """True: the disk hangs, and the call comes when it does not any more."""
        if self._hung:
            self._held.append((call, arguments))
        return self._hung

    def write_journal(self) -> None:
        """Write what was collected, unless a write is under way: that one is followed by it."""
        if self.journal and not self._journal_busy:
            self._journal_busy = True
            journal_ns = self._times.journal_ns
            delay_ns = (journal_ns // 2 + self.rng.below(journal_ns)) * self.disk_factor
            self.network.after(delay_ns, self._journalled, self.life, len(self.journal))

    def _journalled(self, life: int, count: int) -> None:
        if self.not_now(life, self._journalled, life, count) or self.hold_while_hung(
            self._journalled, life, count
        ):
            return
        done, self.journal = self.journal[:count], self.journal[count:]
        self._journal_busy = False
        for entry in done:
            self.write_entry(entry)
            self.entry_written(entry)
        self.perform()

    def take_journal(self) -> list[JournalEntry]:
        """What was collected and not written yet; the caller writes it."""
        taken, self.journal = self.journal, []
        return taken

    def sync(self, done: Callable[[], None]) -> None:
        """Make all that is written now survive a power cut, then go on."""
        self.network.after(
            self.sync_time_ns(), self._synced, self.life, self.durable.position, done
        )

    def _synced(self, life: int, through: int, done: Callable[[], None]) -> None:
        if self.not_now(life, self._synced, life, through, done) or self.hold_while_hung(
            self._synced, life, through, done
        ):
            return
        if self.sync_fails:
            self.sync_failed()
            return
        self.syncs += 1
        self.durable.synced(through)
        done()
        self.perform()

    def sync_failed(self) -> None:
        """What was unsynced may be lost, and nothing may rely on it: the process ends (P11)."""
        self.sync_fails = False
        self.network.goals["a sync failed and the node stopped"] = None
        self.power_cut()

    # ------------------------------------------------------------------ the end of a life

    def kill(self) -> None:
        """SIGKILL: memory is gone, the disks stay. The other ends of links hear of it."""
        assert self.alive
        self.alive = False
        network = self.network
        # What the journal was writing at that moment arrived in part: a prefix, in order.
        for entry in self.journal[: self.rng.below(len(self.journal) + 1)]:
            self.write_entry(entry)
        self.journal = []
        self._journal_busy = False
        network.note(self.node, "kill", self.life)
        for other in sorted(network.endpoints):
            if other != self.node:
                network.disconnect(self.node, other)

    def power_cut(self) -> None:
        """The machine stops: of what was not synced a prefix is left, or nothing."""
        self.kill()
        self.lose_unsynced()

    def lose_unsynced(self) -> None:
        """The page cache of the machine is gone, in part or as a whole."""
        self.durable.intact = False
        unsynced = self.durable.unsynced
        lost = self.durable.lose_unsynced(self.rng.below(unsynced + 1))
        if lost:
            self.network.goals["a power cut took unsynced entries"] = None
        self.network.note(self.node, "power_cut", lost)

    @property
    def troubled(self) -> bool:
        """Its disk hangs or lies, or its processor or disk is slow."""
        return self._hung or self.sync_fails or self.disk_factor > 1 or self._step_ns > 0

    def mended(self) -> None:
        """Everything but the clock is as always."""
        self.disk_factor = 1
        self.sync_fails = False
        self._step_ns = 0
        self.resume()
        self.free_disk()
