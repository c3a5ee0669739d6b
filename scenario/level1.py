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
from cluster.entries import CreateVolume, encode
from node.effects import Answer
from scenario.catalog_checks import CatalogChecks
from scenario.checkers import Violation, check_history
from scenario.cut_checks import CutChecks
from scenario.history import History
from scenario.kernel_faults import SLOWEST_DISK, KernelFaults
from scenario.losses import check_with_losses
from scenario.profiles import SeedOptions, swarm
from scenario.runs import FaultEvent
from scenario.scripts import Script, script_of
from scenario.sim_host import SimHost
from scenario.stalls import bound_ms, check_stalls
from scenario.state_checks import StateChecks, Violated
from scenario.view_checks import ViewChecks
from scenario.workload import Host, HostConfig
from sim.kernel import Kernel, KernelConfig, KernelNode

BLOCK = 512
LONG = ("lines", "performed", "goals")  # of a report, left out where it is printed
SPARES = 2  # volumes that are there to be removed
SPARE = "spare"


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
    faults: int
    longest_ms: int  # the longest that a host waited for one answer
    trace: str
    virtual_s: float
    performed: tuple[FaultEvent, ...] = ()
    goals: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)


class SeedRun:
    """One seed from start to verdict. listed: faults in place of those that the seed draws; script:
    a name of `scenario.scripts`, the same. InvalidRequest: what is listed could not be performed.

    knows_all_faults: False where somebody does what is not in `faults.performed`: then nobody can
    say which wait was too long (I27)."""

    knows_all_faults = True

    def __init__(
        self,
        seed: int,
        options: SeedOptions,
        listed: tuple[FaultEvent, ...] | None = None,
        *,
        allow_loss: bool = False,
        script: str = "",
    ) -> None:
        self.script = script_of(script) if script else None
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
            joins_max=options.joins_max,
            snapshot_entries=options.snapshot_entries,
        )
        self.kernel = Kernel(seed, config)
        self.checks = StateChecks(self.kernel)
        self.kernel.watch.append(self.checks)
        self.catalog_checks = CatalogChecks(self.kernel, self.checks)
        self.kernel.watch.append(self.catalog_checks)
        self.history = History()
        self.cuts: CutChecks | None = None
        self.views = ViewChecks(self)
        self.region_bytes = config.page_bytes * config.l2_entries * config.l3_entries
        self.history.region_blocks = self.region_bytes // BLOCK
        self.hosts: list[SimHost] = []
        self.faults = KernelFaults(self, listed, loss=allow_loss)

    def run(self) -> SeedReport:
        """Form the cluster, make volumes, run hosts under faults, heal, judge."""
        kernel, options = self.kernel, self.options
        kernel.start()
        self._wait("the cluster forms", 15, self._all_up)
        for number in range(options.volumes):
            self._create(f"v{number}")
        for number in range(SPARES if options.remove_volumes else 0):
            self._create(f"{SPARE}{number}")
        self._wait("volumes exist", 10, self._volumes_everywhere)
        volumes = self.host_volumes(kernel.nodes[0])
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
                    flush_weight=options.flush_weight,
                ),
                kernel.streams.stream(f"workload{number}"),
                self.history,
            )
            self.hosts.append(SimHost(kernel, number, workload, self.region_bytes))
        if options.snapshot_every_ms:
            self.cuts = CutChecks(self, options.snapshot_every_ms)
            kernel.watch.append(self.cuts)
            if options.judge_views:
                kernel.watch.append(self.views)
        for host in self.hosts:
            host.cuts = self.cuts
            for node in kernel.nodes:
                kernel.connect(node.node, host.client)
            host.tick()
        end_ns = kernel.now_ns + options.seconds * NS_PER_S
        if self.script is None:
            self.faults.begin(end_ns)
        else:
            self.faults.begin_script(end_ns)
            Script(self, self.script, end_ns).begin()
        if self.cuts is not None:
            self.cuts.begin(end_ns)
            if options.judge_views:
                self.views.begin(end_ns)
        kernel.run_until(end_ns)
        self._heal()
        return self.report()

    def host_volumes(self, node: KernelNode) -> list[int]:
        """Volumes that hosts use, as that node knows them."""
        found = node.core.catalog.volumes
        return [int(each) for each in sorted(found) if not found[each].name.startswith(SPARE)]

    def spare_volumes(self, node: KernelNode) -> list[int]:
        """Volumes that nobody uses, to be removed."""
        found = node.core.catalog.volumes
        return [int(each) for each in sorted(found) if found[each].name.startswith(SPARE)]

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
            len(self.host_volumes(node)) == self.options.volumes for node in self.kernel.nodes
        )

    def _create(self, name: str) -> None:
        config = self.kernel.config
        entry = CreateVolume(
            name, self.region_bytes * self.options.regions, "default", 2,
            config.page_bytes,
            config.l2_entries, config.l3_entries, "synced", -1,
        )  # fmt: skip
        answers: list[Answer] = []
        node = self.kernel.nodes[0]
        node.core.propose(encode(entry), answers.append, node.clock_ns())
        node.perform()
        self._wait(f"volume {name} is answered", 10, lambda: answers)
        if answers[0].error is not None:
            raise answers[0].error

    # ------------------------------------------------------------------ what faults ask of it

    def restart(self, node: KernelNode) -> None:
        """Start a node again, if it is not gone for good and does not run already."""
        if not node.alive and node not in self.faults.lost:
            node.start()
            for host in self.hosts:
                self.kernel.after(NS_PER_MS, self.kernel.connect, node.node, host.client)

    def answered(self, answer: Answer) -> None:
        """An entry of an operator was applied or refused. A volume that grew is used at once."""
        result = answer.result
        if answer.error is not None or not isinstance(result, dict) or "volume" not in result:
            return
        volume = self.kernel.nodes[0].core.catalog.volumes.get(result["volume"])
        blocks = self.region_bytes * self.options.regions * 2 // BLOCK
        if volume is None or volume.size_bytes < blocks * BLOCK:
            return
        for host in self.hosts:
            config = host.workload.config
            volumes = tuple(
                (number, blocks if number == result["volume"] else old)
                for number, old in config.volumes
            )
            host.workload.config = replace(config, volumes=volumes)

    def redundant(self) -> bool:
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
            all(node.core.active for node in alive)  # else one may still have a loss to tell of
            and catalog.up_nodes() == up
            and tuple(leader.core.raft.members.voters) == up
            and all(
                bin(int(bits)).count("1") >= volume.copies
                for volume in catalog.volumes.values()
                for bits in volume.table.in_sync.tolist()
            )
        )

    def _heal(self) -> None:
        kernel = self.kernel
        self.faults.mend_all()
        for host in self.hosts:
            host.workload.stopped = True
        seconds = self.options.heal_s
        self._wait("every host request is answered", seconds, self._hosts_idle)
        self._wait("every node is back", seconds, self._all_up)
        self._wait("everything is redundant", seconds, self.redundant)
        self._wait("copies are identical", 5, self._identical)
        # A sync that began on a slow disk goes on when the disk is quick again.
        options = self.options
        slowest_s = 2 * options.sync_us * SLOWEST_DISK // 1_000_000 if options.slow_disks else 0
        self._wait("catalogs agree", 5 + slowest_s, self._catalogs_agree)
        self._wait("every cut has ended", 8, self._cuts_ended)
        self._check_space()
        # With `durability: synced` nothing that was acknowledged may be missing, ever.
        judge = check_history if self.options.durability_synced else check_with_losses
        violations = judge(self.history)
        violations = violations or (self._stalls() if self.knows_all_faults else [])
        if violations:
            raise Violated(f"history of seed {kernel.seed}: {violations[0]}")
        torn = self.cuts.judge() if self.cuts is not None else ""
        if torn:
            raise Violated(f"snapshots of seed {kernel.seed}: {torn}")
        if options.judge_views:
            # What was prepared when the hosts gave up may have been committed since.
            self._wait("copies are identical again", 5, self._identical)
            self.views.judge()

    def _stalls(self) -> list[Violation]:
        """I27."""
        options, faults = self.options, self.faults
        slowest_us = max(
            options.tail_us, options.delay_us, options.journal_us, options.sync_us,
            options.fetch_tail_us,
        )  # fmt: skip
        most_ms = bound_ms(options.grace_ms, slowest_us // 1000)
        return check_stalls(
            self.history, faults.performed, faults.redundant, faults.begun_ns, most_ms
        )

    def _check_space(self) -> None:
        """What a node was told to drop is gone a moment later, not at once."""
        deadline_ns = self.kernel.now_ns + 2 * NS_PER_S
        while (found := self.catalog_checks.findings()) and self.kernel.now_ns < deadline_ns:
            self.kernel.run_until(self.kernel.now_ns + 100 * NS_PER_MS)
        for finding in (*found, *self.catalog_checks.log_findings()):
            self.checks.fail(finding.rule, finding.text)

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

    def _cuts_ended(self) -> bool:
        return not any(node.core.catalog.snapshots.cuts for node in self.kernel.nodes)

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
            kills=self.faults.count("kill"),
            pauses=self.faults.count("pause"),
            cuts=self.faults.count("cut"),
            faults=len(self.faults.performed),
            longest_ms=max((host.longest_ns for host in self.hosts), default=0) // NS_PER_MS,
            trace=f"{kernel.trace_hash:016x}",
            virtual_s=kernel.now_ns / NS_PER_S,
            performed=tuple(self.faults.performed),
            goals=tuple(sorted(kernel.goals)),
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
    lines += [
        f"{name} {value}"
        for name, value in asdict(report).items()
        if name not in ("lines", "performed", "goals")
    ]
    sys.stdout.write("\n".join([*lines, verdict]) + "\n")
    return 0 if verdict == "every rule held" else 1


__all__ = ["SeedOptions", "SeedReport", "Violated", "main", "run_seed", "swarm"]


if __name__ == "__main__":
    sys.exit(main())
