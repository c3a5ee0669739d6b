"""shell: one seed of level 1: hosts and faults on the kernel, judged by history and state.

The safety of what hosts saw is judged over the whole history; the state checkers hang on the kernel
and speak at the moment at which a rule is broken. Faults stop before the end; then everything must
be redundant, identical and answered within a bound.

`python -m scenario.level1 SEED` runs one seed, prints its report and exits with 1 when a rule was
broken; `--swarm` draws the options from the seed too, `--trace` prints every traced step.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from base.units import NS_PER_MS, NS_PER_S, NS_PER_US
from cluster.entries import CreateVolume, GrowVolume, encode
from node.effects import Answer
from scenario.checkers import check_history
from scenario.history import History
from scenario.sim_host import SimHost
from scenario.state_checks import StateChecks, Violated
from scenario.workload import Host, HostConfig
from sim.kernel import Kernel, KernelConfig, KernelNode
from sim.random import SeedStreams

BLOCK = 512


@dataclass(slots=True)
class SeedOptions:
    """What one seed runs. Times in virtual seconds, or as the names say."""

    nodes: int = 8
    seconds: int = 12
    heal_s: int = 25
    hosts: int = 4
    volumes: int = 2
    regions: int = 3
    writes_per_s: int = 100
    crashes: bool = True
    pauses: bool = True
    cuts: bool = False  # links between pairs, one way or both, heard or silent
    down_max: int = 1  # nodes out at the same time
    flap_every_ms: int = 0  # links that break and come back at once, at any time; 0: none
    lose_to: int = 0  # nodes are lost for good, one by one, until so many are left; 0: none
    grow: bool = False
    fault_every_ms: int = 1500
    pause_ms: int = 1500
    down_ms: int = 4000
    cut_ms: int = 4000
    cut_crash_percent: int = 33  # of cuts in which some node crashes
    read_weight: int = 40
    zero_weight: int = 0
    trim_weight: int = 0
    fua_percent: int = 5
    lease_ms: int = 400
    grace_ms: int = 500
    clock_ppm: int = 20_000
    delay_us: int = 150
    tail_us: int = 2000
    journal_us: int = 60
    sync_us: int = 300
    fetch_tail_us: int = 2000
    durability_synced: bool = False
    trace: bool = False


def swarm(seed: int, **fixed: Any) -> SeedOptions:
    """Options drawn from the seed: features on and off, times short and long."""
    rng = SeedStreams(seed).stream("swarm")
    # A lease must outlive two beacons (80 ms apart), or reads wait for ever.
    lease_ms = (200, 300, 400)[rng.below(3)]
    drawn = SeedOptions(
        seconds=10,
        hosts=1 + rng.below(6),
        volumes=1 + rng.below(2),
        regions=1 + rng.below(4),
        writes_per_s=(5, 60, 200)[rng.below(3)],
        crashes=rng.below(4) > 0,
        pauses=rng.below(4) > 0,
        cuts=rng.below(4) > 0,
        flap_every_ms=(0, 30, 500)[rng.below(3)],
        lose_to=3 if rng.below(5) == 0 else 0,
        grow=rng.below(3) == 0,
        fault_every_ms=(200, 700, 1500)[rng.below(3)],
        pause_ms=(300, 1500, 4000)[rng.below(3)],
        down_ms=(50, 500, 4000)[rng.below(3)],
        cut_ms=(300, 1500, 5000)[rng.below(3)],
        zero_weight=(0, 10)[rng.below(2)],
        trim_weight=(0, 10)[rng.below(2)],
        fua_percent=(0, 5, 50)[rng.below(3)],
        lease_ms=lease_ms,
        grace_ms=lease_ms * 5 // 4,
        clock_ppm=(0, 20_000, 45_000)[rng.below(3)],
        delay_us=(50, 150, 2000)[rng.below(3)],
        tail_us=(100, 2000, 100_000)[rng.below(3)],
        journal_us=(20, 60, 2000)[rng.below(3)],
        sync_us=(100, 300, 10_000)[rng.below(3)],
        fetch_tail_us=(100, 2000, 20_000)[rng.below(3)],
        durability_synced=rng.below(4) == 0,
    )
    return replace(drawn, **fixed)


@dataclass(slots=True)
class SeedReport:
    """What one seed did. trace: the hash over every event and traced step."""

    seed: int
    events: int
    operations: int
    indefinite: int
    kills: int
    pauses: int
    cuts: int
    losses: int
    longest_ms: int  # the longest that a host waited for one answer
    trace: str
    virtual_s: float
    lines: list[str] = field(default_factory=list)


class SeedRun:
    """One seed from start to verdict."""

    def __init__(self, seed: int, options: SeedOptions) -> None:
        self.options = options
        config = KernelConfig(
            nodes=options.nodes,
            trace=options.trace,
            lease_ns=options.lease_ms * NS_PER_MS,
            grace_ns=options.grace_ms * NS_PER_MS,
            clock_ppm_max=options.clock_ppm,
            delay_ns=options.delay_us * NS_PER_US,
            delay_tail_ns=options.tail_us * NS_PER_US,
            journal_ns=options.journal_us * NS_PER_US,
            sync_ns=options.sync_us * NS_PER_US,
            fetch_tail_ns=options.fetch_tail_us * NS_PER_US,
            durability_synced=options.durability_synced,
        )
        self.kernel = Kernel(seed, config)
        self.checks = StateChecks(self.kernel)
        self.kernel.watch.append(self.checks)
        self.history = History()
        self.rng = self.kernel.streams.stream("faults")
        self.flaps = self.kernel.streams.stream("flaps")
        self.region_bytes = config.page_bytes * config.l2_entries * config.l3_entries
        self.hosts: list[SimHost] = []
        self.kills = self.pauses = self.cuts = 0
        self.losses = 0
        self.lost: list[KernelNode] = []
        self.cut: list[tuple[int, int]] = []
        self._faults_end_ns = 0

    def run(self) -> SeedReport:
        """Form the cluster, make volumes, run hosts under faults, heal, judge."""
        kernel, options = self.kernel, self.options
        kernel.start()
        self._wait("the cluster forms", 15, self._all_up)
        for number in range(options.volumes):
            self._create(f"v{number}")
        self._wait("volumes exist", 10, self._volumes_everywhere)
        volumes = sorted(kernel.nodes[0].core.catalog.volumes)
        blocks = self.region_bytes * options.regions // BLOCK
        interval_ns = NS_PER_S * options.hosts // options.writes_per_s
        for number in range(options.hosts):
            workload = Host(
                number,
                HostConfig(
                    volumes=tuple((int(volume), blocks) for volume in volumes),
                    block_bytes=BLOCK,
                    interval_ns=interval_ns,
                    attempts_max=1,
                    read_weight=options.read_weight,
                    zero_weight=options.zero_weight,
                    trim_weight=options.trim_weight,
                    fua_percent=options.fua_percent,
                    flush_weight=2,
                ),
                kernel.streams.stream(f"workload{number}"),
                self.history,
            )
            self.hosts.append(SimHost(kernel, number, workload, self.region_bytes))
        for host in self.hosts:
            for node in kernel.nodes:
                kernel.connect(node.node, host.client)
            host.tick()
        self._faults_end_ns = kernel.now_ns + options.seconds * NS_PER_S
        self._plan_fault()
        self._flap()
        if options.grow:
            kernel.after(self.rng.below(options.seconds * NS_PER_S), self._grow)
        kernel.run_until(self._faults_end_ns)
        self._heal()
        return self.report()

    def _wait(self, what: str, seconds: int, condition: Any) -> None:
        deadline_ns = self.kernel.now_ns + seconds * NS_PER_S
        while not condition():
            if self.kernel.now_ns >= deadline_ns:
                raise Violated(
                    f"I26 in seed {self.kernel.seed}: {what} not within {seconds} s"
                    f" at {self.kernel.now_ns / NS_PER_S:.3f} s"
                )
            self.kernel.run_until(self.kernel.now_ns + 20 * NS_PER_MS)

    def _all_up(self) -> bool:
        return all(node.alive and node.core.active for node in self.kernel.nodes)

    def _volumes_everywhere(self) -> bool:
        return all(
            len(node.core.catalog.volumes) == self.options.volumes for node in self.kernel.nodes
        )

    def _create(self, name: str) -> None:
        config = self.kernel.config
        entry = CreateVolume(
            name, self.region_bytes * self.options.regions, "default", 2, config.page_bytes,
            config.l2_entries, config.l3_entries, "synced", -1,
        )  # fmt: skip
        answers: list[Answer] = []
        node = self.kernel.nodes[0]
        node.core.propose(encode(entry), answers.append, node.clock_ns())
        node.perform()
        self._wait(f"volume {name} is answered", 10, lambda: answers)
        if answers[0].error is not None:
            raise answers[0].error

    # ------------------------------------------------------------------ faults

    def _plan_fault(self) -> None:
        mean_ns = self.options.fault_every_ms * NS_PER_MS
        self.kernel.after(50 * NS_PER_MS + self.rng.exponential(mean_ns), self._fault)

    def _fault(self) -> None:
        kernel, options = self.kernel, self.options
        if kernel.now_ns >= self._faults_end_ns:
            return
        out = [node for node in kernel.nodes if not node.alive or node.paused]
        faults = len(out) - len(self.lost) + bool(self.cut)
        if faults < options.down_max and self._redundant():
            left = [node for node in kernel.nodes if node not in self.lost]
            self._one_fault(left[self.rng.below(len(left))], left)
        self._plan_fault()

    def _one_fault(self, node: KernelNode, left: list[KernelNode]) -> None:
        kernel, options, rng = self.kernel, self.options, self.rng
        kinds = ["crash"] * options.crashes + ["pause"] * options.pauses + ["cut"] * options.cuts
        if options.lose_to and len(left) > options.lose_to:
            kinds.append("lose")
        if not kinds:
            return
        kind = kinds[rng.below(len(kinds))]
        if kind == "pause":
            self.pauses += 1
            node.pause()
            kernel.note(node.node, "pause", node.life)
            kernel.after(rng.below(options.pause_ms * NS_PER_MS), node.resume)
        elif kind == "cut":
            others = [other.node for other in left if other is not node]
            rng.shuffle(others)
            count = (1, 1, len(others) // 2, len(others))[rng.below(4)]
            self._cut(node.node, others[: max(1, count)])
        else:
            self.kills += 1
            node.kill()
            if kind == "lose":
                self.lost.append(node)
                self.losses += 1
            else:
                kernel.after(rng.below(options.down_ms * NS_PER_MS), self._restart, node)

    def _cut(self, node: int, others: list[int]) -> None:
        """Cut a node off from some: both ways or one, with word of it at both ends or in silence;
        hosts reach it as before. Sometimes the cut one crashes before the cut ends."""
        self.cuts += 1
        rng, kernel = self.rng, self.kernel
        direction, heard = rng.below(4), rng.below(2) == 0
        for other in others:
            pair = (other, node) if direction == 1 else (node, other)
            self.cut.append(pair)
            kernel.cut(*pair, one_way=direction < 2, heard=heard)
        length_ns = rng.below(self.options.cut_ms * NS_PER_MS)
        if self.options.crashes and rng.below(100) < self.options.cut_crash_percent:
            near = kernel.nodes[rng.below(len(kernel.nodes))]
            kernel.after(rng.below(length_ns + 1), self._blink, near)
        kernel.after(length_ns, self._mend)

    def _flap(self) -> None:
        """A link breaks and is there again: what was on its way is lost. No fault of the budget."""
        kernel, mean_ns = self.kernel, self.options.flap_every_ms * NS_PER_MS
        if not mean_ns or kernel.now_ns >= self._faults_end_ns:
            return
        first = self.flaps.below(len(kernel.nodes))
        second = (first + 1 + self.flaps.below(len(kernel.nodes) - 1)) % len(kernel.nodes)
        if kernel.reachable(first, second):
            kernel.disconnect(first, second)
            kernel.after(NS_PER_MS, kernel.connect, first, second)
        kernel.after(1 + self.flaps.exponential(mean_ns), self._flap)

    def _blink(self, node: KernelNode) -> None:
        if node.alive and not node.paused and self.cut and node not in self.lost:
            self.kills += 1
            node.kill()
            self.kernel.after(self.rng.below(200 * NS_PER_MS), self._restart, node)

    def _mend(self) -> None:
        for pair in self.cut:
            self.kernel.mend(*pair)
        self.cut.clear()

    def _restart(self, node: KernelNode) -> None:
        if not node.alive:
            node.start()
            for host in self.hosts:
                self.kernel.after(NS_PER_MS, self.kernel.connect, node.node, host.client)

    def _grow(self) -> None:
        """Every volume gets as many regions again, and hosts use them at once."""
        for node in self.kernel.nodes:
            if not node.alive or node.paused or not node.core.active:
                continue
            size = self.region_bytes * self.options.regions * 2
            for volume in sorted(node.core.catalog.volumes):
                entry = encode(GrowVolume(volume, size))
                node.core.propose(entry, self._grown, node.clock_ns())
            node.perform()
            return

    def _grown(self, answer: Answer) -> None:
        if answer.error is not None:
            return
        blocks = self.region_bytes * self.options.regions * 2 // BLOCK
        for host in self.hosts:
            config = host.workload.config
            volumes = tuple(
                (volume, blocks if volume == answer.result["volume"] else old)
                for volume, old in config.volumes
            )
            host.workload.config = replace(config, volumes=volumes)

    def _redundant(self) -> bool:
        """The budget: one fault at a time, while every region has its copies in sync on nodes that
        live, and a majority of the voters would live on."""
        alive = [node for node in self.kernel.nodes if node.alive and not node.paused]
        leaders = [node for node in alive if node.core.raft.is_leader]
        if len(alive) < 3 or not leaders:
            return False
        leader = max(leaders, key=lambda node: node.core.catalog.version)
        catalog = leader.core.catalog
        up = tuple(node.node for node in alive)
        return (
            catalog.up_nodes() == up
            and tuple(leader.core.raft.members.voters) == up
            and all(
                bin(int(bits)).count("1") >= volume.copies
                for volume in catalog.volumes.values()
                for bits in volume.table.in_sync.tolist()
            )
        )

    def _heal(self) -> None:
        kernel = self.kernel
        self._mend()
        self.lost.clear()
        for node in kernel.nodes:
            node.resume()
            if not node.alive:
                self._restart(node)
        for host in self.hosts:
            host.workload.stopped = True
        seconds = self.options.heal_s
        self._wait("every host request is answered", seconds, self._hosts_idle)
        self._wait("every node is back", seconds, self._all_up)
        self._wait("everything is redundant", seconds, self._redundant)
        self._wait("copies are identical", 5, self._identical)
        self._wait("catalogs agree", 5, self._catalogs_agree)
        violations = check_history(self.history)
        if violations:
            raise Violated(f"history of seed {kernel.seed}: {violations[0]}")

    def _hosts_idle(self) -> bool:
        return all(host.workload.finished for host in self.hosts)

    def _identical(self) -> bool:
        """I11: every member of a region holds the same bytes and the same place in the sequence."""
        catalog = self.kernel.nodes[0].core.catalog
        for volume, virtual in catalog.volumes.items():
            for region in range(len(virtual.table)):
                row = catalog.row(volume, region)
                held = []
                for node in self.kernel.nodes:
                    if not row.is_member(node.node):
                        continue
                    copy = node.core.copies.get(volume, {}).get(region)
                    sectors = node.store.get((volume, region), {})
                    position = (copy.committed_epoch, copy.committed) if copy else (0, 0)
                    clients = copy.clients.state() if copy else ()
                    held.append((position, sorted(sectors.items()), clients))
                if any(one != held[0] for one in held):
                    return False
        return True

    def _catalogs_agree(self) -> bool:
        first = self.kernel.nodes[0].core.catalog
        return all(node.core.catalog.version == first.version for node in self.kernel.nodes)

    def report(self) -> SeedReport:
        """What happened so far."""
        kernel = self.kernel
        return SeedReport(
            seed=kernel.seed,
            events=kernel.events,
            operations=sum(host.workload.done for host in self.hosts),
            indefinite=sum(host.workload.given_up for host in self.hosts),
            kills=self.kills,
            pauses=self.pauses,
            cuts=self.cuts,
            losses=self.losses,
            longest_ms=max((host.longest_ns for host in self.hosts), default=0) // NS_PER_MS,
            trace=f"{kernel.trace_hash:016x}",
            virtual_s=kernel.now_ns / NS_PER_S,
            lines=kernel.trace,
        )


def run_seed(seed: int, options: SeedOptions | None = None) -> SeedReport:
    """Run one seed. Violated when a rule was broken; everything depends on the two arguments."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return SeedRun(seed, options or SeedOptions()).run()
    finally:
        if collecting:
            gc.enable()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: exit code 0 when every rule held, 1 when one was broken."""
    parser = argparse.ArgumentParser(prog="python -m scenario.level1", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--seconds", type=int, help="virtual seconds with hosts and faults")
    parser.add_argument("--fault-every-ms", type=int, help="mean time between faults")
    parser.add_argument("--swarm", action="store_true", help="draw the options from the seed")
    parser.add_argument("--trace", action="store_true", help="print every traced step")
    given = parser.parse_args(arguments)
    options = swarm(given.seed) if given.swarm else SeedOptions()
    options.trace = given.trace
    options.seconds = given.seconds or options.seconds
    options.fault_every_ms = given.fault_every_ms or options.fault_every_ms
    run = SeedRun(given.seed, options)
    try:
        report = run.run()
        verdict = "every rule held"
    except Violated as violated:
        report, verdict = run.report(), str(violated)
    lines = list(report.lines)
    report.lines = []
    lines += [f"option {name} {value}" for name, value in asdict(options).items()]
    lines += [f"{name} {value}" for name, value in asdict(report).items() if name != "lines"]
    sys.stdout.write("\n".join([*lines, verdict]) + "\n")
    return 0 if verdict == "every rule held" else 1


__all__ = ["SeedOptions", "SeedReport", "Violated", "main", "run_seed", "swarm"]


if __name__ == "__main__":
    sys.exit(main())
