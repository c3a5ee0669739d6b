"""shell: the world `sim`: whole nodes of the simulator's level 2, on virtual time.

A scenario and a seed give the same run each time. Faults are those of `scenario.level2_faults`, and
heal by themselves. After the scenario the judge of level 2 has the last word: everything must come
back, copies must be identical, every block is read once more, and all histories are checked.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from base.ids import VolumeId
from base.units import NS_PER_MS, NS_PER_S, KiB
from cluster.entries import CreateVolume, GrowVolume, Rebalance, encode
from scenario.cluster_host import ClusterHost
from scenario.files import receipts as rc
from scenario.files.models import Scenario, Workload
from scenario.files.runner import (
    Abort,
    Failed,
    Finish,
    Perform,
    Reported,
    Runner,
    RunnerAction,
    StopLoad,
    Strike,
    Tick,
    Told,
)
from scenario.files.seen import NOTES_MAX, Answers, Note, answers_of, in_order, note_of
from scenario.files.sim_evidence import Watch, together, watch
from scenario.files.sim_faults import NotPossible, events_of
from scenario.files.sim_notes import listening
from scenario.files.sim_view import SimView
from scenario.files.steps import Grow
from scenario.files.verdict import Figures
from scenario.files.world import OnLine
from scenario.level2 import Level2Options, Level2Run, Violated, world
from scenario.runs import FaultEvent
from scenario.workload import Host, HostConfig
from sim.cluster import SimNode

LOOK_MS: Final = 20
TEXTS_MAX: Final = 2  # of the evidence of one strike
PROPOSE_NS: Final = 10 * NS_PER_S
# Situations that level 2 notes, and their names in scenario files.
_TOLD: Final = {
    "a block was mended from its mirror": "block mended",
    "a page came back from another copy": "page repaired",
    "a disk left its mirrors": "disk left",
    "the journal was full and writes waited": "journal full",
    "all machines lost power": "all power lost",
}
_STOPPED: Final = "a node stopped: "


@dataclass(slots=True)
class _Standing:
    """A strike that was performed: what to look at, and the faults that it consists of."""

    watch: Watch
    events: tuple[FaultEvent, ...]
    observed: bool = False


@dataclass(slots=True)
class _Underway:
    """An operation: its task until that is done, and then what must become so."""

    step: Any
    task: asyncio.Task[Any] | None = None
    node: SimNode | None = None
    life: int = 0
    accepted: bool = False


@dataclass(slots=True)
class SimWorld:
    """One run of one scenario."""

    scenario: Scenario
    seed: int
    run_of: Level2Run = field(init=False)
    _runner: Runner = field(init=False)
    _standing: dict[int, _Standing] = field(default_factory=dict)
    _operations: dict[int, _Underway] = field(default_factory=dict)
    _workloads: list[Host] = field(default_factory=list)
    _numbers: dict[int, str] = field(default_factory=dict)  # names of volumes
    _notes: list[Note] = field(default_factory=list)
    _goals_told: int = 0
    _lines_told: int = 0

    def __post_init__(self) -> None:
        cluster = self.scenario.cluster
        self.run_of = Level2Run(
            self.seed,
            Level2Options(
                nodes=cluster.nodes,
                volumes=len(self.scenario.volumes),
                regions=max(volume.regions for volume in self.scenario.volumes),
                mirrored_disks=cluster.mirrored_disks,
                cages=cluster.cages,
                sleds=cluster.sleds,
                journal_kib=cluster.journal // KiB,
                lease_ms=cluster.lease,
                grace_ms=cluster.grace,
                durability_synced=cluster.durability == "synced",
            ),
            listed=(),
        )

    def run(self, runner: Runner, on_line: OnLine) -> Figures:
        """See `World`. What breaks a rule is in the figures."""
        self._runner = runner
        broken = failed = ""
        with world(self.run_of), listening(self.run_of, self._heard):
            try:
                self._form()
                self._play(on_line)
                self.run_of.judge.heal()
            except Violated as violated:
                broken = str(violated)
            except KeyboardInterrupt:
                runner.step(Abort(self.run_of.faults.at_ms(), "interrupted"))
                raise  # nothing outlives this process
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what came of the run
                failed = "".join(traceback.format_exception(error)[-4:])
            self._tell(on_line)
            return self._figures(broken, failed)

    def _figures(self, broken: str, failed: str) -> Figures:
        longest_ns = max((host.longest_ns for host in self.run_of.hosts), default=0)
        return Figures(
            operations=self._done(),
            refused=sum(workload.refused for workload in self._workloads),
            unknown=sum(workload.given_up for workload in self._workloads),
            longest_stall_ms=longest_ns // NS_PER_MS,
            broken=broken,
            failed=failed,
            trace=self.run_of.loop.trace_hash(),
            answers=self._answers(),
            notes=in_order(self._notes),
        )

    def _heard(self, node: int, event: Mapping[str, Any]) -> None:
        if self.run_of.faults.begun_ns and len(self._notes) < NOTES_MAX:
            note = note_of(self.run_of.faults.at_ms(), node, event)
            if note is not None:
                self._notes.append(note)

    def _answers(self) -> Answers:
        run = self.run_of
        return answers_of(
            run.history, self._numbers, hosts=len(self._workloads), begun_ns=run.faults.begun_ns,
            until_ms=self._runner.track.until_ms,
            region_bytes=run.region_bytes,
            block_bytes={n: host.config.block_bytes for n, host in enumerate(self._workloads)},
        )  # fmt: skip

    def _done(self) -> int:
        return sum(workload.done for workload in self._workloads)

    # ------------------------------------------------------------------ before it begins

    def _form(self) -> None:
        run = self.run_of
        run.cluster.start()
        run.wait("the cluster forms", 20, run.all_up)
        for volume in self.scenario.volumes:
            self._create(volume.name, volume.regions)
        run.wait("volumes exist", 10, run._volumes_everywhere)
        self._start_hosts()
        run.faults.begin(run.loop.now_ns + 2 * PROPOSE_NS)

    def _create(self, name: str, regions: int) -> None:
        config = self.run_of.cluster.config
        group = "raid1" if self.scenario.cluster.mirrored_disks else "raid0"
        entry = CreateVolume(
            name, self.run_of.region_bytes * regions, group, 2, config.page_bytes,
            config.l2_entries, config.l3_entries, "synced", -1,
        )  # fmt: skip
        task, _ = self._propose(entry)
        assert task is not None
        self.run_of.wait(f"volume {name} is answered", 12, task.done)
        task.result()

    def _propose(self, entry: Any) -> tuple[asyncio.Task[Any] | None, SimNode | None]:
        """At the first node that runs and is a member; it goes on to the leader by itself."""
        for sim in self.run_of.nodes:
            if sim.active and sim.runs and sim.node is not None and sim.group is not None:
                proposal = sim.node.control.propose(encode(entry), PROPOSE_NS)
                return sim.group.start(proposal, name="operator"), sim
        return None, None

    def _blocks(self, volume: str, block_bytes: int) -> int:
        regions = next(each.regions for each in self.scenario.volumes if each.name == volume)
        return self.run_of.region_bytes * regions // block_bytes

    def _start_hosts(self) -> None:
        run, first = self.run_of, self.run_of.nodes[0].node
        assert first is not None
        numbers = {volume.name: int(n) for n, volume in sorted(first.core.catalog.volumes.items())}
        names = self._numbers = {number: name for name, number in numbers.items()}
        for workload in self.scenario.workloads:
            config = self._host_config(workload, numbers)
            for _ in range(workload.hosts):
                number = len(run.hosts)
                host = ClusterHost(run.cluster, number, names)
                task = host.start()
                run.wait("volumes are attached", 10, task.done)
                task.result()
                rng = run.cluster.streams.stream(f"workload{number}")
                made = Host(number, config, rng, run.history)
                self._workloads.append(made)  # the judge gives the first host another at the end
                host.run(made)
                run.hosts.append(host)
        block = self.scenario.workloads[0].block_sizes[0]
        volumes = tuple((numbers[each.name], self._blocks(each.name, block))
                        for each in self.scenario.volumes)  # fmt: skip
        run.sweep_config = HostConfig(volumes, block_bytes=block, attempts_max=1, blocks_max=64)
        run.blocks = max(blocks for _, blocks in volumes)

    def _host_config(self, workload: Workload, numbers: dict[str, int]) -> HostConfig:
        least, most = workload.block_sizes
        volumes = workload.volumes or tuple(numbers)
        mix = workload.mix
        return HostConfig(
            volumes=tuple((numbers[name], self._blocks(name, least)) for name in volumes),
            block_bytes=least,
            blocks_max=most // least,
            attempts_max=1,
            interval_ns=NS_PER_S * workload.hosts // workload.rate,
            read_weight=mix.read,
            write_weight=mix.write,
            flush_weight=mix.flush,
            trim_weight=mix.trim,
            zero_weight=mix.zero,
            fua_percent=workload.fua // 10,
            hot_blocks=workload.skew.hot_blocks,
            hot_percent=workload.skew.operations // 10,
        )

    # ------------------------------------------------------------------ while it runs

    def _play(self, on_line: OnLine) -> None:
        run, view = self.run_of, SimView(self.run_of.nodes, self.scenario.cluster.disks())
        while not self._runner.finished:
            now_ms = run.faults.at_ms()
            for action in self._runner.step(Tick(now_ms, view.look(), self._done())):
                self._perform(action)
            self._look()
            self._tell(on_line)
            if not self._runner.finished:
                until_ms = min(self._runner.next_ms(), now_ms + LOOK_MS)
                run.step(max(1, until_ms - now_ms) * NS_PER_MS)

    def _tell(self, on_line: OnLine) -> None:
        for line in self._runner.log[self._lines_told :]:
            on_line(line)
        self._lines_told = len(self._runner.log)

    def _perform(self, action: RunnerAction) -> None:
        match action:
            case Strike():
                self._strike(action)
            case Perform():
                self._operations[action.number] = _Underway(action.step)
            case StopLoad():
                for workload in self._workloads:
                    workload.stopped = True
            case Finish():
                return

    def _strike(self, strike: Strike) -> None:
        """Cause it. What the budget of faults does not allow now is not done."""
        run = self.run_of
        now_ms = run.faults.at_ms()
        try:
            events = events_of(run, strike, self._runner.rng)
            watches = [watch(run, event) for event in events]
            for event in events:
                before = len(run.faults.performed)
                run.faults.strike(event)
                if len(run.faults.performed) == before:
                    raise NotPossible(self._refusal(event))
        except NotPossible as error:
            self._runner.step(Failed(now_ms, strike.number, str(error)))
            return
        self._standing[strike.number] = _Standing(together(watches, _joined), tuple(events))
        self._runner.step(Reported(now_ms, strike.number, rc.APPLIED))

    def _refusal(self, event: FaultEvent) -> str:
        if not self.run_of.judge.redundant():
            return "the budget of faults: some copy is not in sync now, or a node is not back"
        return f"{event.kind} of {event.nodes} does not apply to the cluster as it is"

    def _look(self) -> None:
        """Evidence of what stands, what nodes say, and how operations go."""
        now_ms = self.run_of.faults.at_ms()
        for number, standing in list(self._standing.items()):
            if not standing.observed:
                evidence = standing.watch.seen()
                if evidence:
                    standing.observed = True
                    self._runner.step(Reported(now_ms, number, rc.OBSERVED, evidence))
            receipt = self._runner.receipts[number]
            over = now_ms >= receipt.at_ms[rc.APPLIED] + receipt.for_ms
            evidence = standing.watch.healed() if over and standing.observed else ""
            if evidence:
                self._runner.step(Reported(now_ms, number, rc.HEALED, evidence))
            if evidence or not receipt.open:
                del self._standing[number]
        for goal in list(self.run_of.faults.goals)[self._goals_told :]:
            event = "node stopped itself" if goal.startswith(_STOPPED) else _TOLD.get(goal, "")
            if event:
                self._runner.step(Told(now_ms, event, goal))
        self._goals_told = len(self.run_of.faults.goals)
        for number, underway in list(self._operations.items()):
            self._work_on(number, underway, now_ms)

    # ------------------------------------------------------------------ operations

    def _work_on(self, number: int, underway: _Underway, now_ms: int) -> None:
        """As an operator does: ask, ask again when nobody answered, look whether it is so."""
        if underway.accepted:
            done = self._grown(underway.step) if isinstance(underway.step, Grow) else self._home()
            if done:
                del self._operations[number]
                self._runner.step(Reported(now_ms, number, rc.DONE, done))
            return
        task, sim = underway.task, underway.node
        if task is not None and sim is not None and (sim.lives != underway.life or not sim.alive):
            task = underway.task = None  # it went with the process
        if task is None:
            task, sim = self._propose(self._entry(underway.step))
            underway.task, underway.node = task, sim
            underway.life = sim.lives if sim is not None else 0
        elif task.done():
            underway.task = None
            underway.accepted = not task.cancelled() and task.exception() is None

    def _entry(self, step: Any) -> Any:
        if not isinstance(step, Grow):
            return Rebalance(True)
        number, _ = self._volume(step.volume)
        wanted = self._wanted(step)
        return GrowVolume(VolumeId(number), wanted * self.run_of.region_bytes)

    def _wanted(self, step: Grow) -> int:
        """Regions once every growth so far is done."""
        regions = next(each.regions for each in self.scenario.volumes if each.name == step.volume)
        asked = [self.scenario.timeline[each.step] for each in self._runner.receipts]
        return regions + sum(
            each.regions for each in asked if isinstance(each, Grow) and each.volume == step.volume
        )

    def _volume(self, name: str) -> tuple[int, Any]:
        catalogs = [
            sim.node.core.catalog
            for sim in self.run_of.nodes
            if sim.active and sim.node is not None
        ]
        newest = max(catalogs, key=lambda catalog: catalog.version)
        return next((int(n), each) for n, each in newest.volumes.items() if each.name == name)

    def _grown(self, step: Grow) -> str:
        regions = self._volume(step.volume)[1].regions
        wanted = self._wanted(step)
        return f"{step.volume} has {regions} regions" if regions >= wanted else ""

    def _home(self) -> str:
        """The catalog says that nothing is to move any more."""
        cores = [sim.node.core for sim in self.run_of.nodes if sim.active and sim.node is not None]
        newest = max(cores, key=lambda core: core.catalog.version, default=None)
        done = newest is not None and not newest.catalog.rebalancing
        return "every owner and copy is where it belongs" if done else ""


def _joined(texts: list[str]) -> str:
    """Some of them, each once."""
    told = list(dict.fromkeys(texts))
    more = f"; and {len(told) - TEXTS_MAX} more" if len(told) > TEXTS_MAX else ""
    return "; ".join(told[:TEXTS_MAX]) + more
