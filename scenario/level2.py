"""shell: one seed of level 2: whole nodes on virtual time, hosts, faults, healing, verdict.

The same idea as level 1, with everything that level 1 leaves out: journals and disks with latency,
recovery, transfers of pages, messages as bytes, tasks and their cancellation. Judged by what hosts
saw, by rules that hang on the nodes, and by what is on the disks once all is healed.

`python -m scenario.level2 SEED` runs one seed, prints its report and exits with 1 when a rule was
broken; `--swarm` draws the options from the seed too, `--log` prints what the nodes say.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog

from base.units import NS_PER_MS, NS_PER_S, NS_PER_US
from cluster.entries import CreateVolume, encode
from scenario.checkers import check_history
from scenario.cluster_host import ClusterHost, Sweep
from scenario.history import History
from scenario.node_checks import NodeChecks
from scenario.state_checks import Violated
from scenario.workload import Host, HostConfig
from sim.cluster import SimCluster, SimClusterConfig, SimNode
from sim.device import CrashKind, DiskTiming
from sim.fence import fence
from sim.random import SeedStreams
from transport.sim import LinkConditions

BLOCK = 512
TASKS_IDLE_MAX = 4  # of one node with nothing to do: destage, checkpoint, and what just ends
ANSWER_S = 10  # after healing: less than the time after which a host gives up
STEP_NS = 50 * NS_PER_MS


@dataclass(slots=True)
class Level2Options:
    """What one seed runs. Times in virtual seconds, or as the names say."""

    nodes: int = 8
    seconds: int = 5
    heal_s: int = 30
    hosts: int = 2
    volumes: int = 1
    regions: int = 6
    writes_per_s: int = 60
    crashes: bool = True
    pauses: bool = True
    slow: bool = True
    stops: bool = True
    power: bool = False
    cuts: bool = False
    fault_every_ms: int = 500
    pause_ms: int = 1500
    down_ms: int = 2500
    slow_ms: int = 1000
    cut_ms: int = 2000
    read_weight: int = 40
    zero_weight: int = 4
    trim_weight: int = 4
    fua_percent: int = 5
    lease_ms: int = 400
    grace_ms: int = 500
    clock_ppm: int = 20_000
    delay_us: int = 150
    tail_us: int = 5_000
    sync_us: int = 1_000
    read_us: int = 80
    now_percent: int = 50
    journal_kib: int = 256
    destage_after_ms: int = 300
    durability_synced: bool = False
    log: bool = False


def swarm(seed: int, **fixed: Any) -> Level2Options:
    """Options drawn from the seed: features on and off, times short and long."""
    rng = SeedStreams(seed).stream("swarm")
    lease_ms = (300, 400)[rng.below(2)]
    drawn = Level2Options(
        hosts=1 + rng.below(3),
        volumes=1 + rng.below(2),
        regions=1 + rng.below(6),
        writes_per_s=(10, 60, 150)[rng.below(3)],
        crashes=rng.below(4) > 0,
        pauses=rng.below(4) > 0,
        slow=rng.below(3) > 0,
        stops=rng.below(3) > 0,
        power=rng.below(3) == 0,
        cuts=rng.below(3) == 0,
        fault_every_ms=(100, 500)[rng.below(2)],
        pause_ms=(300, 1500, 3000)[rng.below(3)],
        down_ms=(50, 500, 3000)[rng.below(3)],
        zero_weight=(0, 10)[rng.below(2)],
        trim_weight=(0, 10)[rng.below(2)],
        fua_percent=(0, 5, 50)[rng.below(3)],
        lease_ms=lease_ms,
        grace_ms=lease_ms * 5 // 4,
        clock_ppm=(0, 20_000, 45_000)[rng.below(3)],
        delay_us=(50, 150, 2000)[rng.below(3)],
        tail_us=(100, 5_000, 100_000)[rng.below(3)],
        sync_us=(100, 1_000, 10_000)[rng.below(3)],
        read_us=(20, 80, 5_000)[rng.below(3)],
        now_percent=(0, 50, 100)[rng.below(3)],
        journal_kib=(48, 128, 256)[rng.below(3)],
        destage_after_ms=(20, 300, 2000)[rng.below(3)],
        durability_synced=rng.below(4) == 0,
    )
    return replace(drawn, **fixed)


@dataclass(slots=True)
class Level2Report:
    """What one seed did. trace: the hash over every turn of time and traced step."""

    seed: int
    events: int
    operations: int
    indefinite: int
    commits: int
    reads: int
    restored: int
    kills: int
    pauses: int
    stops: int
    slows: int
    power_cuts: int
    cuts: int
    longest_ms: int  # the longest that a host waited for one answer
    trace: str
    virtual_s: float


class Level2Run:
    """One seed from start to verdict."""

    def __init__(self, seed: int, options: Level2Options) -> None:
        self.seed = seed
        self.options = options
        config = SimClusterConfig(
            nodes=options.nodes,
            lease_ms=options.lease_ms,
            grace_ms=options.grace_ms,
            clock_ppm_max=options.clock_ppm,
            journal_bytes=options.journal_kib * 1024,
            destage_after_ms=options.destage_after_ms,
            durability="synced" if options.durability_synced else "mirrored",
            timing=DiskTiming(
                read_ns=options.read_us * NS_PER_US,
                sync_ns=options.sync_us * NS_PER_US,
                now_percent=options.now_percent,
            ),
            conditions=LinkConditions(
                delay_min_us=min(40, options.delay_us),
                delay_mean_us=options.delay_us,
                tail_chance=0.02,
                tail_us=options.tail_us,
            ),
        )
        self.checks = NodeChecks(seed)
        self.failures: list[str] = []
        self.cluster = SimCluster(
            seed, config, on_start=self.checks.listen, on_failure=self._failed
        )
        self.checks.cluster = self.cluster
        self.loop = self.cluster.loop
        self.nodes = self.cluster.nodes
        self.history = History()
        self.rng = self.cluster.streams.stream("faults")
        self.region_bytes = config.page_bytes * config.l2_entries * config.l3_entries
        self.blocks = self.region_bytes * options.regions // BLOCK
        self.hosts: list[ClusterHost] = []
        self.kills = self.pauses = self.stops = self.slows = self.power_cuts = self.cuts = 0
        self.cut: list[tuple[int, int]] = []
        self._busy: SimNode | None = None  # slow, or stopping
        self._faults_end_ns = 0

    def run(self) -> Level2Report:
        """Form the cluster, make volumes, run hosts under faults, heal, judge."""
        options = self.options
        self.cluster.start()
        self._wait("the cluster forms", 20, self._all_up)
        for number in range(options.volumes):
            self._create(f"v{number}")
        self._wait("volumes exist", 10, self._volumes_everywhere)
        self._start_hosts()
        self._faults_end_ns = self.loop.now_ns + options.seconds * NS_PER_S
        self._plan_fault()
        while self.loop.now_ns < self._faults_end_ns:
            self._step(STEP_NS)
        self._heal()
        return self.report()

    # ------------------------------------------------------------------ steps

    def _step(self, length_ns: int) -> None:
        try:
            self.loop.run_until_ns(self.loop.now_ns + length_ns)
        except RuntimeError:
            self._judge()
            raise
        self._judge()

    def _judge(self) -> None:
        if self.checks.violation is not None:
            raise self.checks.violation
        if self.failures:
            raise Violated(f"I30 in seed {self.seed}: {self.failures[0]}")

    def _failed(self, node: SimNode, error: BaseException | None) -> None:
        at_s = self.loop.now_ns / NS_PER_S
        self.failures.append(f"{node} failed at {at_s:.6f} s: {type(error).__name__}: {error}")
        self.loop.stop()

    def _wait(self, what: str, seconds: int, condition: Callable[[], bool]) -> None:
        deadline_ns = self.loop.now_ns + seconds * NS_PER_S
        while not condition():
            if self.loop.now_ns >= deadline_ns:
                raise Violated(
                    f"I26 in seed {self.seed}: {what} not within {seconds} s"
                    f" at {self.loop.now_ns / NS_PER_S:.3f} s"
                )
            self._step(STEP_NS)

    def _all_up(self) -> bool:
        return all(node.active for node in self.nodes)

    def _volumes_everywhere(self) -> bool:
        return all(
            node.node is not None and len(node.node.core.catalog.volumes) == self.options.volumes
            for node in self.nodes
        )

    def _create(self, name: str) -> None:
        config, first = self.cluster.config, self.nodes[0]
        assert first.node is not None
        assert first.group is not None
        entry = CreateVolume(
            name, self.region_bytes * self.options.regions, "raid0", 2, config.page_bytes,
            config.l2_entries, config.l3_entries, "synced", -1,
        )  # fmt: skip
        control = first.node.control
        task = first.group.start(control.propose(encode(entry), 10 * NS_PER_S), name="create")
        self._wait(f"volume {name} is answered", 12, task.done)
        task.result()

    def _host_config(self, volumes: dict[int, str], **habits: Any) -> HostConfig:
        return HostConfig(
            volumes=tuple((volume, self.blocks) for volume in volumes),
            block_bytes=BLOCK,
            attempts_max=1,
            **habits,
        )

    def _start_hosts(self) -> None:
        options = self.options
        first = self.nodes[0].node
        assert first is not None
        names = {
            int(number): volume.name
            for number, volume in sorted(first.core.catalog.volumes.items())
        }
        config = self._host_config(
            names,
            interval_ns=NS_PER_S * options.hosts // options.writes_per_s,
            read_weight=options.read_weight,
            zero_weight=options.zero_weight,
            trim_weight=options.trim_weight,
            fua_percent=options.fua_percent,
            flush_weight=2,
            blocks_max=12,
        )
        for number in range(options.hosts):
            host = ClusterHost(self.cluster, number, names)
            task = host.start()
            self._wait("volumes are attached", 10, task.done)
            task.result()
            rng = self.cluster.streams.stream(f"workload{number}")
            host.run(Host(number, config, rng, self.history))
            self.hosts.append(host)
        self._sweep_config = self._host_config(names, blocks_max=64)

    # ------------------------------------------------------------------ faults

    # One node at a time, and in this model nothing is lost for good: what a process had journalled
    # is there again when it returns. So a fault may hit the last copy of a region, a joiner or a
    # node that is still recovering; then hosts wait, and nothing else may happen. Only a cut of
    # power needs the other copy, for what was acknowledged and not synced.

    def _after(self, delay_ns: int, callback: Callable[..., None], *arguments: Any) -> None:
        self.loop.call_at_ns(
            self.loop.now_ns + delay_ns, callback, *arguments, context=self.loop.outside
        )

    def _plan_fault(self) -> None:
        self._after(
            50 * NS_PER_MS + self.rng.exponential(self.options.fault_every_ms * NS_PER_MS),
            self._fault,
        )

    def _fault(self) -> None:
        if self.loop.now_ns >= self._faults_end_ns:
            return
        if self._busy is None and not self.cut and all(node.runs for node in self.nodes):
            self._one_fault(self.nodes[self.rng.below(len(self.nodes))])
        self._plan_fault()

    def _one_fault(self, node: SimNode) -> None:
        options, rng = self.options, self.rng
        kinds = (
            ["crash"] * 2 * options.crashes + ["pause"] * options.pauses + ["slow"] * options.slow
            + ["stop"] * options.stops + ["power"] * 2 * options.power + ["cut"] * options.cuts
        )  # fmt: skip
        if not kinds:
            return
        kind = rng.choice(kinds)
        if kind == "power" and not self._redundant():
            return  # the other copy must have what this one has not synced
        self.loop.trace("fault", (kind, node.number))
        if kind == "pause":
            self.pauses += 1
            node.pause()
            self._after(rng.below(options.pause_ms * NS_PER_MS), node.resume)
        elif kind == "slow":
            self.slows += 1
            self._busy = node
            node.slow((5, 50, 500)[rng.below(3)])
            self._after(rng.below(options.slow_ms * NS_PER_MS), self._fast, node)
        elif kind == "stop":
            self.stops += 1
            self._stop(node)
        elif kind == "cut":
            self._cut(node)
        else:
            self._kill(node, CrashKind.POWER_TORN if kind == "power" else CrashKind.KILL)

    def _kill(self, node: SimNode, kind: CrashKind) -> None:
        self.kills += kind is CrashKind.KILL
        self.power_cuts += kind is not CrashKind.KILL
        self.checks.crashed(node, kind)
        # What a process handed to its kernel still travels; what a machine held does not.
        node.kill(kind, deliver_under_way=kind is CrashKind.KILL and self.rng.chance(1, 2))
        self._after(self._down_ns(), self._restart, node)

    def _down_ns(self) -> int:
        """Every second time so short that the others hardly notice."""
        longest_ms = (
            min(100, self.options.down_ms) if self.rng.chance(1, 2) else (self.options.down_ms)
        )
        return self.rng.below(longest_ms * NS_PER_MS)

    def _restart(self, node: SimNode) -> None:
        if not node.alive:
            node.start()

    def _fast(self, node: SimNode) -> None:
        node.slow(1)
        if self._busy is node:
            self._busy = None

    def _stop(self, node: SimNode) -> None:
        if not node.active or node.group is None:
            return
        self._busy = node
        task = node.group.start(node.stop(), name=f"n{node.number}.stop")
        # Outside of the group: it is dropped when the process has ended.
        task.add_done_callback(lambda _: self._stopped(node, task), context=self.loop.outside)

    def _stopped(self, node: SimNode, task: Any) -> None:
        self._busy = None
        if task.cancelled() or task.exception() is not None:
            self.failures.append(f"{node} did not stop: {task!r}")
            return
        node.ended()
        self._after(self._down_ns(), self._restart, node)

    def _cut(self, node: SimNode) -> None:
        """Cut a node off from some: both ways or one, with word of it at both ends or in silence;
        hosts reach it as before."""
        self.cuts += 1
        rng, network = self.rng, self.cluster.network
        others = [other.number for other in self.nodes if other is not node]
        rng.shuffle(others)
        count = (1, 1, len(others) // 2, len(others))[rng.below(4)]
        direction, reset = rng.below(4), rng.below(2) == 0
        for other in others[: max(1, count)]:
            pair = (other, node.number) if direction == 1 else (node.number, other)
            self.cut.append(pair)
            network.cut(*pair, both=direction >= 2, reset=reset)
        self._after(rng.below(self.options.cut_ms * NS_PER_MS), self._mend)

    def _mend(self) -> None:
        for pair in self.cut:
            self.cluster.network.heal(*pair)
        self.cut.clear()

    def _redundant(self) -> bool:
        """Every region has its copies in sync on nodes that live, and all vote."""
        running = [node for node in self.nodes if node.active and not node.paused]
        cores = [node.node.core for node in running if node.node is not None]
        leaders = [core for core in cores if core.raft.is_leader]
        if len(running) < len(self.nodes) or not leaders:
            return False
        leader = max(leaders, key=lambda core: core.catalog.version)
        up = tuple(core.self_id for core in cores)
        return (
            leader.catalog.up_nodes() == up
            and tuple(leader.raft.members.voters) == up
            and all(
                bin(int(bits)).count("1") >= volume.copies
                for volume in leader.catalog.volumes.values()
                for bits in volume.table.in_sync.tolist()
            )
        )

    # ------------------------------------------------------------------ the end

    def _heal(self) -> None:
        self._mend()
        for node in self.nodes:
            node.resume()
            node.slow(1)
        for host in self.hosts:
            host.workload.stopped = True
        seconds = self.options.heal_s
        self._wait("a stopping node has stopped", seconds, lambda: self._busy_stop() is None)
        for node in self.nodes:
            self._restart(node)
        self._wait("every host request is answered", ANSWER_S, self._hosts_idle)
        self._wait("every node is back", seconds, self._all_up)
        self._wait("everything is redundant", seconds, self._redundant)
        self._wait("everything is committed everywhere", 5, self._settled)
        self._wait("catalogs agree", 5, self._catalogs_agree)
        # What a stale copy had prepared keeps its journal until it is home again, or released.
        self._wait("no journal keeps open records", seconds, self._nothing_open)
        self._wait("everything is committed everywhere", 5, self._settled)
        self._sweep()
        self._compare_bytes()
        self._check_bounds()
        violations = check_history(self.history)
        if violations:
            raise Violated(f"history of seed {self.seed}: {violations[0]}")

    def _busy_stop(self) -> SimNode | None:
        busy = self._busy
        return (
            busy
            if busy is not None
            and busy.alive
            and busy.node is not None
            and (busy.node.io.router.stopping)
            else None
        )

    def _hosts_idle(self) -> bool:
        return all(host.workload.finished for host in self.hosts)

    def _copies(self) -> Iterator[tuple[tuple[int, int], list[SimNode]]]:
        first = self.nodes[0].node
        assert first is not None
        catalog = first.core.catalog
        for volume, virtual in sorted(catalog.volumes.items()):
            for region in range(len(virtual.table)):
                row = catalog.row(volume, region)
                yield (
                    (int(volume), region),
                    [node for node in self.nodes if row.is_member(node.number)],
                )

    def _settled(self) -> bool:
        """I11: every member of a region is at the same place in the sequence, nothing is open."""
        for (volume, region), nodes in self._copies():
            held: list[tuple[Any, ...]] = []
            for node in nodes:
                assert node.node is not None
                copy = node.node.core.copies.get(volume, {}).get(region)
                if copy is None:
                    held.append((0, 0, 0, ()))
                else:
                    held.append(
                        (copy.committed_epoch, copy.committed, copy.prepared, copy.clients.state())
                    )
            if any(one != held[0] for one in held) or held[0][1] != held[0][2]:
                return False
        return True

    def _catalogs_agree(self) -> bool:
        cores = [node.node.core for node in self.nodes if node.node is not None]
        return all(core.catalog.version == cores[0].catalog.version for core in cores)

    def _sweep(self) -> None:
        """Hosts see every block once more, after all faults."""
        host = self.hosts[0]
        number = len(self.hosts)
        host.run(Sweep(number, self._sweep_config, self.rng, self.history))
        self._wait("every block is read", 10, self._hosts_idle)
        if host.workload.done * 64 < self.blocks:
            raise Violated(f"I26 in seed {self.seed}: reads fail after healing")

    def _compare_bytes(self) -> None:
        """I11: the members of a region hold the same bytes."""
        for (volume, region), nodes in self._copies():
            images = [self._image(node, (volume, region)) for node in nodes]
            if any(image != images[0] for image in images):
                differ = [at for at in range(self.region_bytes) if images[0][at] != images[1][at]]
                raise Violated(
                    f"I11 in seed {self.seed}: volume {volume} region {region} differs between"
                    f" {nodes} in {len(differ)} bytes from {differ[0]}"
                )

    def _image(self, node: SimNode, key: tuple[int, int]) -> bytes:
        assert node.node is not None
        assert node.group is not None
        store = node.node.store
        if key not in store:
            return bytes(self.region_bytes)
        data = bytearray(self.region_bytes)
        read = store.read(key, 0, len(data), memoryview(data))
        task = node.group.start(read, name="compare")
        self._wait(f"{node} reads {key}", 5, task.done)
        task.result()
        return bytes(data)

    def _nothing_open(self) -> bool:
        return not any(
            sim.node is not None and sim.node.store.statistics().uncommitted for sim in self.nodes
        )

    def _check_bounds(self) -> None:
        for sim in self.nodes:
            node = sim.node
            assert node is not None
            figures = node.store.statistics()
            if figures.journal.used_peak_bytes > figures.journal.capacity_bytes:
                raise Violated(f"I30 in seed {self.seed}: the journal of {sim} overflowed")
            names = node.supervisor.names()
            if len(names) > TASKS_IDLE_MAX:
                raise Violated(f"I30 in seed {self.seed}: tasks of {sim} are left: {names}")
            faults = node.core.catalog.check() + node.core.catalog.volume_manager.check()
            if faults:
                raise Violated(f"I13 in seed {self.seed}: {faults[0]}")

    def report(self) -> Level2Report:
        """What happened so far."""
        return Level2Report(
            seed=self.seed,
            events=self.loop.events,
            operations=sum(host.workload.done for host in self.hosts),
            indefinite=sum(host.workload.given_up for host in self.hosts),
            commits=self.checks.commits,
            reads=self.checks.served_reads,
            restored=self.checks.restored,
            kills=self.kills,
            pauses=self.pauses,
            stops=self.stops,
            slows=self.slows,
            power_cuts=self.power_cuts,
            cuts=self.cuts,
            longest_ms=max((host.longest_ns for host in self.hosts), default=0) // NS_PER_MS,
            trace=self.loop.trace_hash(),
            virtual_s=self.loop.now_ns / NS_PER_S,
        )


@contextmanager
def _logging(run: Level2Run) -> Iterator[None]:
    """Nodes log to nobody, or to standard output with virtual time."""
    before = structlog.get_config()

    def stamp(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
        line = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        return f"{run.loop.now_ns / NS_PER_S:.6f} {event['event']} {line}"

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, stamp],
        wrapper_class=structlog.make_filtering_bound_logger(20 if run.options.log else 50),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def world(run: Level2Run) -> Iterator[None]:
    """Where a run may happen: behind the fence, without the collector; closed at the end."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with fence(), _logging(run):
            try:
                yield
            finally:
                run.cluster.close()
    finally:
        if collecting:
            gc.enable()


def run_seed(seed: int, options: Level2Options | None = None) -> Level2Report:
    """Run one seed. Violated when a rule was broken; everything depends on the two arguments."""
    run = Level2Run(seed, options or Level2Options())
    with world(run):
        return run.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: exit code 0 when every rule held, 1 when one was broken."""
    parser = argparse.ArgumentParser(prog="python -m scenario.level2", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--seconds", type=int, help="virtual seconds with hosts and faults")
    parser.add_argument("--swarm", action="store_true", help="draw the options from the seed")
    parser.add_argument("--log", action="store_true", help="print what the nodes log")
    given = parser.parse_args(arguments)
    options = swarm(given.seed) if given.swarm else Level2Options()
    options.log = given.log
    options.seconds = given.seconds or options.seconds
    run = Level2Run(given.seed, options)
    with world(run):
        try:
            report = run.run()
            verdict = "every rule held"
        except Violated as violated:
            report, verdict = run.report(), str(violated)
    lines = [f"option {name} {value}" for name, value in asdict(options).items()]
    lines += [f"{name} {value}" for name, value in asdict(report).items()]
    sys.stdout.write("\n".join([*lines, verdict]) + "\n")
    return 0 if verdict == "every rule held" else 1


__all__ = ["Level2Options", "Level2Report", "Violated", "main", "run_seed", "swarm"]


if __name__ == "__main__":
    sys.exit(main())
