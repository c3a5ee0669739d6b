"""shell: `make bench`: a running cluster beside nbdkit's memory plugin, through the same client.

Set-ups: `pair` (one node owns every region and another holds every second copy; the client talks
to the owner), `owner` (the second copies are spread by hash), `hash` (regions are spread over all
nodes, the client talks to one), `attach` (the same volume through `eightfold attach`). Each figure
can be had alone:

    python -m scenario.benchmark --only write32,read32 --setups owner --seconds 5 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from admin import output
from admin.local import node_pid
from admin.spawn import pause
from base.clock import RealClock
from base.errors import ConfigError, StorageError
from base.units import TiB, format_size, parse_size
from scenario import bench_world as world
from scenario.bench_figures import (
    COLUMNS,
    LOADS,
    NAMES,
    REFERENCE,
    SETUPS,
    SIMULATED,
    Result,
    Run,
    as_json,
    markdown,
    noise,
    order,
    put_between,
    result,
    summarise,
    table_rows,
)

RESULTS: Final = Path("bench-results")
INGRESS: Final = 0  # the node that clients talk to
VOLUMES: Final = {"pair": "paired", "owner": "owned", "hash": "hashed", "attach": "hashed"}
# The owner and the replicant of every region; left out: by hash.
PINNED: Final = {"paired": (0, 1), "owned": (0, None)}
IDLE_SECONDS: Final = 10


class Bench:
    """One run of the benchmark: what is asked for, what runs, and what came out."""

    def __init__(self, asked: argparse.Namespace, directory: Path) -> None:
        self.asked = asked
        self.directory = directory
        self.results: list[Result] = []
        self.runs: list[Run] = []
        self.missing: list[str] = []
        self.cluster = world.Cluster(directory / "cluster", asked.nodes)
        self._uris: dict[str, str] = {}
        self._extra_pids: dict[str, int] = {}

    def wants(self, *names: str) -> bool:
        """Whether one of these figures was asked for."""
        return bool(set(names) & set(self.asked.only))

    def run(self) -> None:
        """Everything, in an order in which one figure does not disturb the next."""
        self._simulate()
        if not self.wants(*(name for name in NAMES if name not in SIMULATED)):
            return
        with ExitStack() as stack:
            stack.callback(self.cluster.stop)
            self._say(f"starting {self.asked.nodes} nodes")
            self.cluster.start()
            ready_ms = [self.cluster.ready_ms]
            while self.wants("ready") and len(ready_ms) < self.asked.starts:
                ready_ms.append(self._start_another(len(ready_ms)))
            self.results.append(result("ready", "cluster", "ready_ms", ready_ms))
            self._attempt("idle", self._idle)
            self._attempt("terabyte", self._terabyte)
            loads = [load for load in LOADS if self.wants(load.name)]
            if loads or self.wants("kill", "stop"):
                self._prepare(stack)
            if loads:
                self._rounds(loads)
            self._attempt("kill", lambda: self._disturb("kill", self.asked.kills))
            self._attempt("stop", lambda: self._disturb("stop", self.asked.stops))

    def _simulate(self) -> None:
        """Each seed is another run of the simulator, in this process."""
        from scenario import bench_sim

        for name, measure, figure in (
            ("sim1", "hours_per_minute", bench_sim.level1_hours_per_minute),
            ("sim2", "speed", bench_sim.level2_speed),
            ("zones", "operations_per_s", bench_sim.zones_per_s),
        ):
            if self.wants(name):
                self._say(name)
                samples = [figure(seed) for seed in range(self.asked.rounds)]
                self.results.append(result(name, "one core", measure, samples))

    def _say(self, text: str) -> None:
        if not self.asked.json:
            output.warn(text)

    def _attempt(self, name: str, figure: Callable[[], None]) -> None:
        """One figure that fails must not cost the others."""
        if not self.wants(name):
            return
        self._say(name)
        try:
            figure()
        except StorageError as error:
            self._miss(f"{name}: {error}")

    def _miss(self, text: str) -> None:
        self._say(f"  not measured: {text}")
        self.missing.append(text)

    # --- one after the other ----------------------------------------------------------------------

    def _start_another(self, number: int) -> float:
        """A second cluster beside the idle first one: only its start is of interest."""
        another = world.Cluster(self.directory / f"again{number}", self.asked.nodes)
        try:
            another.start()
            return another.ready_ms
        finally:
            another.stop()

    def _idle(self) -> None:
        pause(3)
        pids = self.cluster.pids()
        clock = RealClock()
        shares = []
        for _ in range(3):
            before_s, began_ns = world.cpu_seconds(pids), clock.now_ns()
            pause(IDLE_SECONDS / 3)
            took_s = (clock.now_ns() - began_ns) / 1e9
            shares.append((world.cpu_seconds(pids) - before_s) / took_s * 100)
        self.results.append(result("idle", "cluster", "cpu_percent", shares))
        memory = [world.memory_mib(pid) for pid in pids]
        for kind in ("pss", "rss"):
            sizes = [each[kind] for each in memory if kind in each]
            if sizes:
                self.results.append(
                    result("idle", "cluster", f"node_{kind}_mib", sizes, worst=True)
                )

    def _terabyte(self) -> None:
        before = self._pss()
        took_ms = []
        for turn in range(3):
            began_ms = world.now_ms()
            self.cluster.create("terabyte", TiB)
            took_ms.append(world.now_ms() - began_ms)
            if turn == 0:
                pause(1)
                after = self._pss()
                grown = [after[pid] - before[pid] for pid in sorted(before.keys() & after.keys())]
                self.results.append(
                    result("terabyte", "cluster", "node_growth_mib", grown, worst=True)
                )
            self.cluster.client.remove_volume("terabyte")
            pause(1)
        self.results.append(result("terabyte", "cluster", "create_ms", took_ms))

    def _pss(self) -> dict[int, float]:
        return {pid: world.memory_mib(pid).get("pss", 0.0) for pid in self.cluster.pids()}

    # --- throughput -------------------------------------------------------------------------------

    def _prepare(self, stack: ExitStack) -> None:
        """Volumes, the other servers, and data in all of them."""
        area = self.asked.area
        names = sorted({VOLUMES[setup] for setup in self.asked.setups})
        for name in names:
            owner, replicant = PINNED.get(name, (None, None))
            self.cluster.create(name, area, owner, replicant)
            self._say(f"filling {name}, {format_size(area)}")
            try:
                world.fill(self.cluster.uri(INGRESS, name), area)
            except StorageError as error:
                self._miss(f"filling {name}: {error}")
        for setup in self.asked.setups:
            if setup != "attach":
                self._uris[setup] = self.cluster.uri(INGRESS, VOLUMES[setup])
                continue
            try:
                attached = world.start_attach(self.cluster, VOLUMES[setup])
            except StorageError as error:
                self._miss(f"attach: {error}")
                continue
            stack.callback(attached.stop)
            self._uris[setup], self._extra_pids[setup] = attached.uri, attached.pid
        if self.wants(*(load.name for load in LOADS)):
            self._prepare_reference(stack)

    def _prepare_reference(self, stack: ExitStack) -> None:
        try:
            nbdkit = world.start_nbdkit(self.directory, self.asked.area)
            stack.callback(nbdkit.stop)
            world.fill(nbdkit.uri, self.asked.area)
        except StorageError as error:
            self._miss(f"ratios to {REFERENCE}: {error}")
            return
        self._uris[REFERENCE], self._extra_pids[REFERENCE] = nbdkit.uri, nbdkit.pid

    def _pids(self, target: str) -> list[int]:
        extra = [self._extra_pids[target]] if target in self._extra_pids else []
        return extra if target == REFERENCE else [*self.cluster.pids(), *extra]

    def _rounds(self, loads: list[Any]) -> None:
        targets = [name for name in (REFERENCE, *SETUPS) if name in self._uris]
        for load in loads:
            failed: set[str] = set()
            for number in range(self.asked.rounds):
                for target in order(targets, number):
                    if target in failed:
                        continue
                    try:
                        self._one(load, target, number)
                    except StorageError as error:
                        failed.add(target)
                        self._miss(f"{load.name} on {target}: {error}")
        self.results += summarise(self.runs)

    def _one(self, load: Any, target: str, number: int) -> None:
        self.cluster.settle()
        run = world.measure(
            load, self._uris[target], target, number, self._pids(target),
            self.asked.area, self.asked.seconds,
        )  # fmt: skip
        self.runs.append(run)
        self._say(
            f"  {load.name:8} {target:7} round {number}: {run.io_per_s:9,.0f}/s"
            f" {run.mb_per_s:7.1f} MB/s  {run.cpu_us_per_io:6.1f} µs of CPU each,"
            f" others used {run.other_cores:.2f} cores"
        )

    # --- stalls -----------------------------------------------------------------------------------

    def _disturb(self, name: str, times: int) -> None:
        for setup in ("hash", "attach"):
            if setup not in self._uris:
                continue
            longest: list[float] = []
            for _ in range(times):
                try:
                    longest.append(self._disturb_once(setup, name))
                except StorageError as error:
                    self._miss(f"{name} through {setup}, time {len(longest) + 1}: {error}")
                    break
            if longest:
                note = f"median {sorted(longest)[len(longest) // 2]:.0f} ms"
                self.results.append(
                    result(name, setup, "longest_ms", longest, worst=True, note=note)
                )

    def _disturb_once(self, setup: str, name: str) -> float:
        """The longest write that a host saw, ms. LinkLost: it saw an error."""
        cluster = self.cluster
        cluster.wait_whole()
        cluster.settle()
        # Through `hash` the host has one path: its node lives. `attach` has all of them.
        victim = cluster.busiest(spared=INGRESS if setup == "hash" else -1)
        pid = node_pid(victim)
        if pid is None:
            raise ConfigError(f"node {victim.name} does not run")
        number = signal.SIGKILL if name == "kill" else signal.SIGSTOP
        try:
            seen = world.disturbed(self._uris[setup], self.asked.area, pid, number)
        finally:
            if name == "stop":
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if node_pid(victim) is None:
            cluster.start_node(victim)
        self._say(
            f"  {name} {victim.name} through {setup}: longest write {seen['longest_ms']:.0f} ms,"
            f" median {seen['p50_us']:.0f} µs, {seen['ios']:.0f} writes"
        )
        if seen["errors"]:
            raise ConfigError(f"the host saw error {seen['errors']:.0f}")
        return seen["longest_ms"]


def about(asked: argparse.Namespace) -> dict[str, Any]:
    """The machine, the versions, and how it was measured."""
    model = "unknown processor"
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    facts: dict[str, Any] = {
        "on": f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release()}",
        "with Python": platform.python_version(),
        "uvloop": metadata.version("uvloop"),
    }
    for tool, command in (("fio", "fio --version"), ("nbdkit", "nbdkit --version")):
        if shutil.which(tool):
            answer = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            facts[tool] = answer.stdout.strip().split()[-1] if answer.stdout else "unknown"
    facts["rounds"] = asked.rounds
    facts["seconds of a run"] = asked.seconds
    facts["area"] = format_size(asked.area)
    with suppress(OSError):
        answer = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            facts["commit"] = answer.stdout.strip()
    return facts


def _names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        given = [each.strip() for each in text.split(",") if each.strip()]
        for each in given:
            if each not in known:
                raise argparse.ArgumentTypeError(f"{each} is none of {', '.join(known)}")
        return given

    return parse


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What is asked for; every default is that of `make bench`."""
    parser = argparse.ArgumentParser(
        prog="python -m scenario.benchmark",
        description="Measure a running cluster beside nbdkit, through the same client (fio).",
    )
    add = parser.add_argument
    add("--only", type=_names(NAMES), default=list(NAMES), help=", ".join(NAMES))
    add("--setups", type=_names(SETUPS), default=list(SETUPS), help=", ".join(SETUPS))
    add("--seconds", type=float, default=4, help="of one run of the client")
    add("--rounds", type=int, default=5, help="of every load on every target")
    add("--starts", type=int, default=3, help="of a cluster, for the time until it is ready")
    add("--kills", type=int, default=20, help="of an owner under a writer")
    add("--stops", type=int, default=5, help="of an owner under a writer, by SIGSTOP")
    add("--nodes", type=int, default=8, help="of the cluster")
    add("--area", type=parse_size, default="1GiB", help="that the client reads and writes")
    add("--json", action="store_true", help="print the results as JSON")
    add("--markdown", type=Path, help="a document that gets the table between its marks")
    add("--keep", action="store_true", help="keep the directory of the cluster")
    return parser.parse_args(given)


def report(bench: Bench, facts: dict[str, Any]) -> None:
    """Print the table, write the JSON, and the document when one was named."""
    document = as_json(bench.results, bench.runs, bench.missing, facts)
    RESULTS.mkdir(exist_ok=True)
    stamp = RealClock().wall_ns() // 1_000_000_000
    path = RESULTS / f"{stamp}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    if bench.asked.json:
        output.emit(document)
    else:
        output.say(f"others used, in cores, median: {facts['cores used by others']}")
        output.table("", COLUMNS, table_rows(bench.results))
        for text in bench.missing:
            output.say(f"not measured: {text}")
        output.say(f"written to {path}")
    if bench.asked.markdown:
        page = bench.asked.markdown
        text = markdown(bench.results, bench.missing, facts)
        page.write_text(put_between(page.read_text(), text))


def main(given: list[str] | None = None) -> int:
    """Exit code: 0 when everything that was asked for was measured, whatever the figures say."""
    asked = arguments(given)
    directory = Path(tempfile.mkdtemp(prefix="eightfold-bench-"))
    bench = Bench(asked, directory)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is stopped then too
    try:
        bench.run()
    except StorageError as error:
        bench.missing.append(f"the rest: {error}")
    except KeyboardInterrupt:
        bench.missing.append("the rest: interrupted")
    finally:
        if asked.keep:
            output.warn(f"directory kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    report(bench, {**about(asked), "cores used by others": noise(bench.runs)})
    return 1 if bench.missing else 0


if __name__ == "__main__":
    sys.exit(main())
