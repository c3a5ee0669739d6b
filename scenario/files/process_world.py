"""shell: the world `processes`: node processes of this machine, attached hosts, real time.

The runner and all that it asks for run in a thread, since looking at a cluster blocks; hosts run on
the loop. Whatever happens, nodes are stopped and their directory is removed at the end. Faults end
by themselves when their time is over: the relay keeps that of links, a keeper that of processes. A
runner that dies takes its cluster with it (`scenario.files.keeper`).
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from admin.spawn import pause
from base.clock import RealClock
from base.errors import StorageError
from base.tasks import Supervisor
from base.units import NS_PER_MS, NS_PER_S
from scenario.checkers import check_history
from scenario.cluster_host import Sweep
from scenario.faults import severed
from scenario.files import receipts as rc
from scenario.files.keeper import BROKER, RESUME, START
from scenario.files.models import Scenario, Workload
from scenario.files.process_cluster import REGION_BYTES, ProcessCluster
from scenario.files.runner import (
    Abort,
    Failed,
    Heal,
    Perform,
    Reported,
    Runner,
    StopLoad,
    Strike,
    Tick,
)
from scenario.files.seen import Note, answers_of
from scenario.files.steps import Cut, Grow
from scenario.files.verdict import Figures
from scenario.files.view import ALIVE, PAUSED
from scenario.files.world import OnLine
from scenario.history import History
from scenario.recorded_host import RecordedHost
from scenario.workload import Host, HostConfig

LOOK_S: Final = 0.05
SIGNALLED_S: Final = 1.0
ANSWERED_S: Final = 90
WHOLE_S: Final = 90

Shown = Callable[[], str]


@dataclass(slots=True)
class _Standing:
    strike: Strike
    seen: Shown
    healed: Shown
    mended: bool = False


@dataclass(slots=True)
class ProcessWorld:
    """One run of one scenario. seed: of hosts and draws; time is real, and no run like another.
    kind: of cluster, which says how a node is started and stopped, and how hosts reach it."""

    scenario: Scenario
    seed: int
    kind: type[ProcessCluster] = ProcessCluster
    _runner: Runner = field(init=False)
    _cluster: ProcessCluster = field(init=False)
    _clock: RealClock = field(default_factory=RealClock)
    _history: History = field(default_factory=History)
    _hosts: list[RecordedHost] = field(default_factory=list)
    _failures: list[str] = field(default_factory=list)
    _volumes: dict[str, int] = field(default_factory=dict)
    _standing: dict[int, _Standing] = field(default_factory=dict)
    _grown: dict[str, int] = field(default_factory=dict)
    _notes: tuple[Note, ...] = ()
    _began_ns: int = 0
    _began_wall_ns: int = 0
    _over: bool = False
    _lines_told: int = 0

    def run(self, runner: Runner, on_line: OnLine) -> Figures:
        """See `World`."""
        self._runner = runner
        before = structlog.get_config()
        # What hosts here log is nobody's: standard output is for the scenario.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        try:
            return asyncio.run(self._run(on_line))
        finally:
            structlog.configure(**before)

    async def _run(self, on_line: OnLine) -> Figures:
        loop = asyncio.get_running_loop()
        supervisor = Supervisor("scenario", self._failed)
        self._cluster = self.kind(self.scenario.cluster)
        broken = failed = ""
        try:
            await loop.run_in_executor(None, self._form)
            running = await self._start_hosts(supervisor)
            self._began_ns, self._began_wall_ns = self._clock.now_ns(), self._clock.wall_ns()
            try:
                await loop.run_in_executor(None, self._play, on_line)
            finally:
                self._over = True  # where this task was cancelled, the thread ends by itself
            broken = await self._end(loop, supervisor, running)
        except StorageError as error:
            failed = str(error)
        finally:
            self._over = True
            await supervisor.close()
            for host in self._hosts:
                await host.close()
            if self._began_wall_ns:
                self._notes = self._cluster.notes(self._began_wall_ns)
            await loop.run_in_executor(None, self._cluster.close)
        failed = failed or "; ".join(self._failures[:3])
        return self._figures(broken, failed)

    def _failed(self, name: str, error: BaseException) -> None:
        self._failures.append(f"{name}: {error!r}")

    def _figures(self, broken: str, failed: str) -> Figures:
        loads = [host.workload for host in self._hosts if not isinstance(host.workload, Sweep)]
        return Figures(
            operations=sum(load.done for load in loads),
            refused=sum(load.refused for load in loads),
            unknown=sum(load.given_up for load in loads),
            longest_stall_ms=int(max((host.longest_ms() for host in self._hosts), default=0)),
            broken=broken,
            failed=failed,
            answers=answers_of(
                self._history, {number: name for name, number in self._volumes.items()},
                hosts=len(loads), begun_ns=self._began_ns,
                until_ms=self._runner.track.until_ms, region_bytes=REGION_BYTES,
                block_bytes={load.host: load.config.block_bytes for load in loads},
            ),
            notes=self._notes,
        )  # fmt: skip

    # ------------------------------------------------------------------ hosts

    def _form(self) -> None:
        self._cluster.start()
        for volume in self.scenario.volumes:
            self._volumes[volume.name] = self._cluster.create(volume.name, volume.regions)

    async def _start_hosts(self, supervisor: Supervisor) -> list[asyncio.Task[None]]:
        made = [
            self._host(Host, self._habits(workload), workload.volumes or tuple(self._volumes))
            for workload in self.scenario.workloads
            for _ in range(workload.hosts)
        ]
        for host in made:
            await host.open()
        return [self._begin(supervisor, host) for host in made]

    def _begin(self, supervisor: Supervisor, host: RecordedHost) -> asyncio.Task[None]:
        return supervisor.start(host.run(self._failed), name=f"h{host.workload.host}")

    def _blocks(self, name: str) -> int:
        regions = next(each.regions for each in self.scenario.volumes if each.name == name)
        return regions * REGION_BYTES // self.scenario.workloads[0].block_sizes[0]

    def _habits(self, workload: Workload) -> HostConfig:
        least, most = workload.block_sizes
        mix = workload.mix
        return HostConfig(
            volumes=tuple(
                (self._volumes[name], self._blocks(name))
                for name in workload.volumes or tuple(self._volumes)
            ),
            block_bytes=least,
            blocks_max=most // least,
            interval_ns=NS_PER_S * workload.hosts // workload.rate,
            read_weight=mix.read,
            write_weight=mix.write,
            flush_weight=mix.flush,
            trim_weight=mix.trim,
            zero_weight=mix.zero,
            fua_percent=workload.fua // 10,
            attempts_max=self._cluster.attempts_max,
            hot_blocks=workload.skew.hot_blocks,
            hot_percent=workload.skew.operations // 10,
        )

    def _host(self, kind: type[Host], habits: HostConfig, volumes: tuple[str, ...]) -> RecordedHost:
        """Of these volumes; not open yet."""
        number = len(self._hosts)
        rng = random.Random(f"{self.seed} {number}")
        doors = {
            self._volumes[name]: self._cluster.door(name, rng, self._failed) for name in volumes
        }
        host = RecordedHost(kind(number, habits, rng, self._history), doors, self._clock)
        self._hosts.append(host)
        return host

    # ------------------------------------------------------------------ the end

    async def _end(
        self,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        running: list[asyncio.Task[None]],
    ) -> str:
        """What was broken; "" when all is well: everybody is answered, everything is there, and a
        host that reads it all once more agrees."""
        late = await self._answered(running)
        if late:
            return late
        try:
            await loop.run_in_executor(
                None, self._cluster.wait, "everything is redundant", self._whole, WHOLE_S
            )
        except StorageError as error:
            return f"I26: {error}"
        block = self.scenario.workloads[0].block_sizes[0]
        volumes = tuple((number, self._blocks(name)) for name, number in self._volumes.items())
        config = HostConfig(volumes, block_bytes=block, blocks_max=64)
        sweep = self._host(Sweep, config, tuple(self._volumes))
        await sweep.open()
        late = await self._answered([self._begin(supervisor, sweep)])
        found = check_history(self._history)
        return late or (str(found[0]) if found else "")

    async def _answered(self, running: list[asyncio.Task[None]]) -> str:
        for host in self._hosts:
            if not isinstance(host.workload, Sweep):
                host.stop()
        try:
            async with asyncio.timeout(ANSWERED_S):
                await asyncio.gather(*running, return_exceptions=True)  # `_failed` was told
        except TimeoutError:
            left = [text for host in self._hosts for text in host.workload.left()]
            return f"I26: not answered within {ANSWERED_S} s: {left[:3]}"
        return ""

    def _whole(self) -> bool:
        view = self._cluster.look()
        return view.redundant and all(node.up and node.runs for node in view.nodes)

    # ------------------------------------------------------------------ while it runs

    def _now_ms(self) -> int:
        return (self._clock.now_ns() - self._began_ns) // NS_PER_MS

    def _play(self, on_line: OnLine) -> None:
        """In a thread. It ends with the runner, or when the run is over, and undoes what stands."""
        while not (self._runner.finished or self._over):
            view = self._cluster.look()
            done = sum(host.workload.done for host in self._hosts)
            for action in self._runner.step(Tick(self._now_ms(), view, done)):
                self._perform(action)
            self._look()
            self._tell(on_line)
            wait_ms = min(self._runner.next_ms() - self._now_ms(), LOOK_S * 1000)
            pause(max(0.0, wait_ms / 1000))
        if not self._runner.finished:
            for action in self._runner.step(Abort(self._now_ms(), "interrupted")):
                self._perform(action)
        self._tell(on_line)

    def _tell(self, on_line: OnLine) -> None:
        for line in self._runner.log[self._lines_told :]:
            on_line(line)
        self._lines_told = len(self._runner.log)

    def _perform(self, action: Any) -> None:
        match action:
            case Strike():
                try:
                    self._standing[action.number] = self._strike(action)
                except StorageError as error:
                    self._runner.step(Failed(self._now_ms(), action.number, str(error)))
                else:
                    self._runner.step(Reported(self._now_ms(), action.number, rc.APPLIED))
                    self._look()
            case Heal():
                self._mend(action.number)
            case Perform():
                self._operate(action)
            case StopLoad():
                for host in self._hosts:
                    host.workload.stopped = True

    def _look(self) -> None:
        """Evidence of what stands."""
        for number, standing in list(self._standing.items()):
            receipt = self._runner.receipts[number]
            try:
                if rc.OBSERVED not in receipt.at_ms:
                    evidence = standing.seen()
                    if evidence:
                        self._runner.step(Reported(self._now_ms(), number, rc.OBSERVED, evidence))
                evidence = standing.healed() if standing.mended else ""
            except StorageError:
                continue  # it does not answer now
            if evidence and rc.OBSERVED in receipt.at_ms:
                self._runner.step(Reported(self._now_ms(), number, rc.HEALED, evidence))
            if rc.HEALED in receipt.at_ms or not receipt.open:
                del self._standing[number]

    # ------------------------------------------------------------------ faults

    def _strike(self, strike: Strike) -> _Standing:
        """Cause it. StorageError: it cannot be."""
        cluster, nodes = self._cluster, strike.places.nodes
        match strike.step.do:
            case "kill" | "stop":
                which = signal.SIGKILL if strike.step.do == "kill" else signal.SIGTERM
                pids = {node: cluster.pid(node) for node in nodes}
                cluster.lease(strike.number, START, nodes, strike.step.for_ms)
                for node in nodes:
                    cluster.signal(node, which)
                return _Standing(strike, lambda: self._gone(pids), lambda: self._back(pids))
            case "pause":
                cluster.lease(strike.number, RESUME, nodes, strike.step.for_ms)
                for node in nodes:
                    cluster.signal(node, signal.SIGSTOP)
                # To be seen now: the next look may come after the end of its time.
                self._wait(lambda: all(cluster.state(n) == PAUSED for n in nodes))
                return _Standing(
                    strike,
                    lambda: _said(f"n{n} is {cluster.paused_as}" for n in nodes)
                    if all(cluster.state(n) == PAUSED for n in nodes) else "",
                    lambda: _said(f"n{n} runs" for n in nodes)
                    if all(cluster.state(n) == ALIVE for n in nodes) else "",
                )  # fmt: skip
            case "broker_kill":
                return self._strike_broker(strike)
        ways = self._ways(strike)
        reset = getattr(strike.step, "behaviour", "") == "reset"
        cluster.cut(strike.number, ways, strike.step.for_ms, reset=reset)
        return _Standing(strike, lambda: self._deaf(ways), lambda: self._heard(ways))

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Until it is so, or SIGNALLED_S have passed: then the receipt will say so."""
        until_ns = self._clock.now_ns() + int(SIGNALLED_S * NS_PER_S)
        while not condition() and self._clock.now_ns() < until_ns:
            pause(0.005)

    def _strike_broker(self, strike: Strike) -> _Standing:
        """It is back when every node has said so, and not when its process runs again."""
        cluster, nodes = self._cluster, len(self._cluster.cluster.nodes)
        pid, since_ns = cluster.broker_pid(), self._clock.wall_ns()
        cluster.lease(strike.number, BROKER, (), strike.step.for_ms)
        cluster.kill_broker()
        return _Standing(
            strike,
            lambda: f"process {pid} of the broker is gone" if cluster.broker_pid() != pid else "",
            lambda: f"all {nodes} nodes have joined the broker again"
            if len(cluster.joined_broker(since_ns)) == nodes else "",
        )  # fmt: skip

    def _ways(self, strike: Strike) -> list[tuple[int, int]]:
        """(sender, receiver) of all that is cut."""
        if isinstance(strike.step, Cut):
            sources, others = strike.groups
            out = [(one, other) for one in sources for other in others if one != other]
            back = [(other, one) for one, other in out]
            direction = strike.step.direction
            return out * (direction != "in") + back * (direction != "out")
        groups = "|".join("".join(str(node) for node in group) for group in strike.groups)
        pairs = severed(groups, self.scenario.cluster.nodes)
        return [way for one, other in pairs for way in ((one, other), (other, one))]

    def _gone(self, pids: dict[int, int | None]) -> str:
        gone = all(self._cluster.pid(node) != pid for node, pid in pids.items())
        return _said(f"process {pid} of n{node} is gone" for node, pid in pids.items()) * gone

    def _back(self, pids: dict[int, int | None]) -> str:
        if not all(self._cluster.is_ready(node) for node in pids):
            return ""
        return _said(f"process {self._cluster.pid(node)} of n{node} serves" for node in pids)

    def _deaf(self, ways: list[tuple[int, int]]) -> str:
        """Some receiver of a way that is cut does not believe any more that its sender is there."""
        for sender, receiver in ways[:8]:
            if self._cluster.state(receiver) == ALIVE and not self._cluster.hears(receiver, sender):
                return f"n{receiver} does not hear n{sender}"
        return ""

    def _heard(self, ways: list[tuple[int, int]]) -> str:
        heard = all(self._cluster.hears(receiver, sender) for sender, receiver in ways)
        return "every receiver hears its sender again" if heard else ""

    def _mend(self, number: int) -> None:
        """Its time is over. The keeper and the relay know that themselves, unless it is early."""
        standing = self._standing.get(number)
        if standing is None or standing.mended:
            return
        standing.mended = True
        try:
            if standing.strike.step.do in ("cut", "partition"):
                self._cluster.mend(number)
            else:
                self._cluster.end_lease(number)
        except StorageError as error:
            self._runner.step(Failed(self._now_ms(), number, f"it was not healed: {error}"))

    def _operate(self, action: Perform) -> None:
        """As an operator would."""
        client = self._cluster.operator
        client.close()  # what is kept may lead to a process that was killed since
        try:
            if isinstance(action.step, Grow):
                name = action.step.volume
                self._grown[name] = self._grown.get(name, 0) + action.step.regions
                was = next(each.regions for each in self.scenario.volumes if each.name == name)
                size = (was + self._grown[name]) * REGION_BYTES
                client.grow_volume(name, size)
                evidence = f"{name} has {client.volume(name)['size_bytes']} bytes"
            else:
                client.rebalance()
                evidence = "the leader moves owners and copies home"
        except StorageError as error:
            self._runner.step(Failed(self._now_ms(), action.number, str(error)))
        else:
            self._runner.step(Reported(self._now_ms(), action.number, rc.DONE, evidence))


def _said(texts: Any) -> str:
    return ", ".join(texts)
