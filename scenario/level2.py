"""shell: one seed of level 2: whole nodes on virtual time, hosts, faults, healing, verdict.

The same idea as level 1, with everything that level 1 leaves out: journals and disks with latency,
recovery, transfers of pages, messages as bytes, tasks and their cancellation. Judged by what hosts
saw, by rules that hang on the nodes, and by what is on the disks once all is healed.

`python -m scenario.level2 SEED` runs one seed, prints its report and exits with 1 when a rule was
broken; `--profile` names where its options come from, `--log` prints what the nodes say.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from base.units import NS_PER_MS, NS_PER_S
from cluster.entries import CreateVolume, encode
from scenario.cluster_host import ClusterHost
from scenario.faults import check_faults
from scenario.history import History
from scenario.level2_faults import NodeFaults
from scenario.level2_judge import Judge
from scenario.level2_options import LEVEL2, Level2Options, swarm
from scenario.level2_views import NodeViews
from scenario.node_checks import NodeChecks
from scenario.runs import FaultEvent
from scenario.state_checks import Violated
from scenario.workload import Host, HostConfig
from sim.cluster import SimCluster, SimNode
from sim.fence import fence

BLOCK = 512
STEP_NS = 50 * NS_PER_MS
LONG = ("performed", "goals")  # of a report, a line each where it is printed


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
    longest_ms: int  # the longest that a host waited for one answer
    trace: str
    virtual_s: float
    performed: tuple[FaultEvent, ...] = ()
    goals: tuple[str, ...] = ()


class Level2Run:
    """One seed from start to verdict. listed: faults in place of those that the seed draws.
    knows_all_faults: see `SeedRun`."""

    knows_all_faults = True

    def __init__(
        self,
        seed: int,
        options: Level2Options,
        listed: tuple[FaultEvent, ...] | None = None,
        *,
        allow_loss: bool = False,
        recorder: Callable[[int, str, Any], None] | None = None,
    ) -> None:
        self.seed = seed
        self.options = options
        if listed is not None:
            check_faults(listed, level=2, nodes=options.nodes, allow_loss=allow_loss)
        config = options.cluster()
        self.checks = NodeChecks(seed)
        self.failures: list[str] = []
        self.cluster = SimCluster(
            seed,
            config,
            on_start=self.checks.listen,
            on_failure=self._failed,
            recorder=recorder,
        )
        self.checks.cluster = self.cluster
        self.loop = self.cluster.loop
        self.nodes = self.cluster.nodes
        self.history = History()
        self.region_bytes = config.page_bytes * config.l2_entries * config.l3_entries
        self.history.region_blocks = self.region_bytes // BLOCK
        self.blocks = self.region_bytes * options.regions // BLOCK
        self.hosts: list[ClusterHost] = []
        self.sweep_config: HostConfig
        self.judge = Judge(self)
        self.faults = NodeFaults(self, listed, allow_loss=allow_loss)
        self.views = NodeViews(self)
        self.checks.on_commit = self.views.committed

    def run(self) -> Level2Report:
        """Form the cluster, make volumes, run hosts under faults, heal, judge."""
        options = self.options
        self.cluster.start()
        self.wait("the cluster forms", 20, self.all_up)
        for number in range(options.volumes):
            self._create(f"v{number}")
        self.wait("volumes exist", 10, self._volumes_everywhere)
        self._start_hosts()
        end_ns = self.loop.now_ns + options.seconds * NS_PER_S
        self.faults.begin(end_ns)
        if options.snapshot_every_ms:
            self.views.begin(end_ns, options.snapshot_every_ms)
        while self.loop.now_ns < end_ns:
            self.step(STEP_NS)
        self.judge.heal()
        return self.report()

    # ------------------------------------------------------------------ steps

    def step(self, length_ns: int) -> None:
        """Let time pass, and see whether a rule was broken meanwhile."""
        try:
            self.loop.run_until_ns(self.loop.now_ns + length_ns)
        finally:
            if self.checks.violation is not None:
                raise self.checks.violation
            if self.failures:
                raise Violated(f"I30 in seed {self.seed}: {self.failures[0]}")
        for node in self.nodes:
            self.judge.look_at(node)

    def _failed(self, node: SimNode, error: BaseException | None) -> None:
        if self.faults.excuse(node, error):
            self.faults.node_failed(node)
            return
        at_s = self.loop.now_ns / NS_PER_S
        self.failures.append(f"{node} failed at {at_s:.6f} s: {type(error).__name__}: {error}")
        self.loop.stop()

    def wait(self, what: str, seconds: int, condition: Callable[[], bool]) -> None:
        """Let time pass until it is so. Violated when it does not become so."""
        deadline_ns = self.loop.now_ns + seconds * NS_PER_S
        while not condition():
            if self.loop.now_ns >= deadline_ns:
                raise Violated(
                    f"I26 in seed {self.seed}: {what} not within {seconds} s"
                    f" at {self.loop.now_ns / NS_PER_S:.3f} s"
                )
            self.step(STEP_NS)

    def all_up(self) -> bool:
        """Every node is a member, and has recovered."""
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
        group = "raid1" if self.options.mirrored_disks else "raid0"
        entry = CreateVolume(
            name, self.region_bytes * self.options.regions, group, 2, config.page_bytes,
            config.l2_entries, config.l3_entries, "synced", -1,
        )  # fmt: skip
        control = first.node.control
        task = first.group.start(control.propose(encode(entry), 10 * NS_PER_S), name="create")
        self.wait(f"volume {name} is answered", 12, task.done)
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
            flush_weight=options.flush_weight,
            blocks_max=12,
        )
        for number in range(options.hosts):
            host = ClusterHost(self.cluster, number, names)
            task = host.start()
            self.wait("volumes are attached", 10, task.done)
            task.result()
            rng = self.cluster.streams.stream(f"workload{number}")
            host.run(Host(number, config, rng, self.history))
            self.hosts.append(host)
        self.sweep_config = self._host_config(names, blocks_max=64)

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
            longest_ms=max((host.longest_ns for host in self.hosts), default=0) // NS_PER_MS,
            trace=self.loop.trace_hash(),
            virtual_s=self.loop.now_ns / NS_PER_S,
            performed=tuple(self.faults.performed),
            goals=tuple(sorted(self.faults.goals)),
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
    parser.add_argument("--profile", choices=sorted(LEVEL2), help="draws the options from the seed")
    parser.add_argument("--log", action="store_true", help="print what the nodes log")
    given = parser.parse_args(arguments)
    options = LEVEL2[given.profile](given.seed) if given.profile else Level2Options()
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
    lines += [f"fault {event}" for event in report.performed]
    lines += [f"goal {goal}" for goal in report.goals]
    lines += [
        f"{name} {value}"
        for name, value in asdict(report).items()
        if name not in ("faults", "goals")
    ]
    sys.stdout.write("\n".join([*lines, verdict]) + "\n")
    return 0 if verdict == "every rule held" else 1


__all__ = ["Level2Options", "Level2Report", "Violated", "main", "run_seed", "swarm"]


if __name__ == "__main__":
    sys.exit(main())
