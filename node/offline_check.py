"""shell: `eightfold check --offline`: a stopped cluster, judged by what lies on its disks.

Nothing is changed, and nothing has to run. Of the logs of all nodes that can be read the catalog is
made that they have agreed on; in it every node's own recovery runs over devices that take no write;
records that one member knows to be committed are committed in memory for the others; and then the
copies that the catalog calls in sync must hold the same bytes and the same clients.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from admin.local import LOCK_FILE
from base.clock import Clock, RealClock
from base.errors import AlreadyExists, ConfigError, MediaError, NotFound
from base.ids import NOBODY, node_name
from base.log import configure
from base.units import MiB
from cluster.catalog import Catalog
from cluster.fsck import check_catalog
from cluster.log_check import best_log, catalog_at, compare_logs
from node.checkpoint import Key
from node.client_table import ClientTable
from node.cold_device import ColdFile
from node.cold_store import ColdRegion
from node.config import FILE_NAME, ClusterConfig, NodeConfig, load, node_config
from node.daemon import CHECKPOINT_BYTES, CONSENSUS_BYTES
from node.disk_shelf import disk_name
from node.offline_node import (
    KEEP,
    READ_ALL,
    RECOVER,
    REFILL,
    REPORT,
    NodeDevices,
    OfflineNode,
    Problem,
)
from node.region_store import StoreOptions
from volume.virtual_volume import VirtualVolume

PIECE_BYTES: Final = MiB
SHOWN_MAX: Final = 100

Bar = Callable[[int, int], None]


@dataclass(slots=True)
class OfflineReport:
    """What was found. compared: regions of which all copies in sync were compared. certain: the
    logs of a majority could be read, so the catalog has everything that was agreed on. notes: what
    is as it may be after a crash, and the next start puts right."""

    nodes: list[int] = field(default_factory=list)  # that could be read
    catalog_version: int = 0
    catalog_of: int = -1  # the node whose log it was made of
    certain: bool = False
    volumes: int = 0
    regions: int = 0
    blocks: int = 0
    compared: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "clean": self.clean}


async def judge(
    config: ClusterConfig,
    devices: Mapping[int, NodeDevices],
    boot_ids: Mapping[int, str],
    *,
    clock: Clock,
    bar: Bar = lambda done, total: None,
) -> OfflineReport:
    """Judge the nodes whose devices are given. boot_ids: of their machines now."""
    report = OfflineReport()
    nodes = [OfflineNode(number, devices[number], boot_ids[number]) for number in sorted(devices)]
    steps = _Steps(bar, 2 * len(nodes) + 2)
    for node in nodes:
        await node.read_agreement()
        steps.done()
    catalog = _agree(nodes, report)
    steps.done()
    cache = config.cache
    options = StoreOptions(
        cache.dirty_bytes_max, cache.destage_high_percent, cache.destage_low_percent
    )
    for node in nodes:
        if node.state is not None and report.catalog_of >= 0:
            await node.read_store(catalog, config.inventory(), clock, options)
        if node.cold is not None:
            report.nodes.append(node.number)
            await node.check_blocks(catalog)
        steps.done()
    readable = {node.number: node for node in nodes if node.cold is not None}
    for volume in catalog.volume_manager.list_volumes():
        report.volumes += 1
        for region in range(len(volume.table)):
            await _Region(report, catalog, readable, volume, region).judge()
    steps.done()
    for node in nodes:
        report.problems += node.problems
        report.notes += node.notes
        report.blocks += node.counts.blocks
        report.regions += node.counts.regions
    report.problems = sorted(set(report.problems))
    return report


class _Steps:
    def __init__(self, bar: Bar, total: int) -> None:
        self._bar, self._total, self._done = bar, total, 0

    def done(self) -> None:
        self._done += 1
        self._bar(self._done, self._total)


def _agree(nodes: list[OfflineNode], report: OfflineReport) -> Catalog:
    """The catalog, and what is wrong with it and with the logs."""
    logs = {node.number: node.log for node in nodes if node.log is not None}
    found = compare_logs(logs)
    report.problems += [Problem(f.rule, f.text, f"{KEEP}; {REPORT}", f.node) for f in found]
    best, index, report.certain = best_log(logs)
    if best == NOBODY:
        report.problems.append(
            Problem("I12", "no log of consensus can be read: nothing says what was where", KEEP)
        )
        return Catalog()
    report.catalog_of = best
    if not report.certain:
        text = (
            f"the logs of {len(logs)} nodes can be read, no majority of those that vote: what was"
            " agreed on last may be missing, and the cluster cannot start without the others"
        )
        report.problems.append(Problem("I12", text, KEEP))
    catalog = catalog_at(logs[best], index)
    report.catalog_version = catalog.version
    for each in check_catalog(catalog):
        report.problems.append(
            Problem(each.rule, each.text, REPORT, each.node, each.volume, each.region)
        )
    return catalog


class _Region:
    """One region over all nodes that could be read."""

    def __init__(
        self,
        report: OfflineReport,
        catalog: Catalog,
        nodes: dict[int, OfflineNode],
        volume: VirtualVolume,
        region: int,
    ) -> None:
        self._report = report
        self._nodes = nodes
        self._volume = volume
        self._key: Key = (int(volume.volume), region)
        row = volume.table.row(region, 0)
        self._row = row
        self._members = [node for node in sorted(nodes) if row.is_member(node)]
        self._all = [node for node in catalog.nodes if row.is_member(node)]
        self._name = f"volume {volume.name} region {region}"

    def _problem(self, rule: str, text: str, advice: str, node: int = -1) -> None:
        self._report.problems.append(
            Problem(rule, text, advice, node, self._volume.name, self._key[1])
        )

    async def judge(self) -> None:
        whole = [node for node in self._members if self._is_whole(node)]
        target = max((self._copy(node).committed for node in whole), default=0)
        known = [node for node in whole if self._key in self._cold(node).regions]
        for node in known:
            self._cold(node).advance(self._key, target)
        current = [node for node in whole if self._stands_at(node, target)]
        if not current and self._all:
            self._problem("I1", f"{self._name}: no node has a whole copy of it", RECOVER)
        if self._row.offline:
            self._report.notes.append(f"{self._name} is offline: {RECOVER}")
        self._judge_bad(current)
        known = [node for node in current if self._key in self._cold(node).regions]
        if len(known) > 1 and await self._is_same(known) and len(current) == len(self._all):
            self._report.compared += 1

    def _cold(self, node: int) -> Any:
        return self._nodes[node].cold

    def _copy(self, node: int) -> ColdRegion:
        made: ColdRegion | None = self._cold(node).regions.get(self._key)
        return made or _EMPTY

    def _is_whole(self, node: int) -> bool:
        """The copy is one, and at its place."""
        offline, made = self._nodes[node], self._cold(node).regions.get(self._key)
        if made is None:
            # Nobody has written to it, as far as this node knows.
            return not offline.damaged
        place = self._volume.table.row(self._key[1], node)
        if made.place not in (None, (place.ld, place.ld_region)):
            text = (
                f"{offline.name} counts as in sync for {self._name}, and holds it on LD"
                f" {made.place[0]} region {made.place[1]}; the catalog has it on LD {place.ld}"
                f" region {place.ld_region}"
            )
            self._problem("I13", text, REPORT, node)
            return False
        if offline.damaged:
            return False
        if not made.complete:
            self._excuse(node, "I8", "its copy is not complete")
        return bool(made.complete)

    def _excuse(self, node: int, rule: str, what: str) -> None:
        """A member that has not what it should: right only when its memory went with the power."""
        offline = self._nodes[node]
        text = f"{offline.name} counts as in sync for {self._name}, and {what}"
        if offline.lost_power:
            self._report.notes.append(
                f"{text}: it lost power, says so when it starts, and is filled again"
            )
        else:
            self._problem(rule, text, REFILL, node)

    def _stands_at(self, node: int, target: int) -> bool:
        made = self._copy(node)
        if made.committed == target:
            return True
        self._excuse(
            node, "I8", f"has its records up to {made.committed} only; {target} was acknowledged"
        )
        return False

    def _judge_bad(self, current: list[int]) -> None:
        """Blocks that a node has right on no disk: another node must have them."""
        for node in self._members:
            for block in self._nodes[node].bad.get(self._key, ()):
                helpers = [
                    other
                    for other in current
                    if other != node and block not in self._nodes[other].bad.get(self._key, ())
                ]
                text = f"{node_name(node)}: block {block} of {self._name} is right on no disk of it"
                if helpers:
                    text += f"; {node_name(helpers[0])} has it"
                self._problem("I28", text, READ_ALL if helpers else RECOVER, node)

    async def _is_same(self, nodes: list[int]) -> bool:
        """Positions, tables of clients, bytes."""
        first, copy = nodes[0], self._copy(nodes[0])
        for node in nodes[1:]:
            other = self._copy(node)
            both = f"{self._name} differs between {node_name(first)} and {node_name(node)}"
            if other.committed_epoch != copy.committed_epoch:
                text = (
                    f"{both}: its record {copy.committed} is of epoch {copy.committed_epoch} and of"
                    f" epoch {other.committed_epoch}"
                )
                self._problem("I8", text, f"{KEEP}; {REPORT}", node)
                return False
            if other.clients.state() != copy.clients.state():
                text = f"{both}: they know of different operations of hosts"
                self._problem("I11", text, f"{KEEP}; {REPORT}", node)
                return False
        return await self._same_bytes(nodes)

    async def _same_bytes(self, nodes: list[int]) -> bool:
        length = self._volume.region_bytes
        for at in range(0, length, PIECE_BYTES):
            size = min(PIECE_BYTES, length - at)
            pieces = [await self._piece(node, at, size) for node in nodes]
            if None in pieces:
                return False  # that a block is right nowhere on a node was said before
            for node, piece in zip(nodes[1:], pieces[1:], strict=True):
                if piece != pieces[0]:
                    assert piece is not None
                    assert pieces[0] is not None
                    byte = at + next(i for i in range(size) if piece[i] != pieces[0][i])
                    text = (
                        f"{self._name} differs between {node_name(nodes[0])} and"
                        f" {node_name(node)}, from byte {byte} on, and both are in sync"
                    )
                    self._problem("I11", text, f"{KEEP}; {REPORT}", node)
                    return False
        return True

    async def _piece(self, node: int, at: int, size: int) -> bytes | None:
        into = bytearray(size)
        try:
            await self._cold(node).store.read(self._key, at, size, memoryview(into), alone=True)
        except MediaError:
            return None
        return bytes(into)


_EMPTY: Final = ColdRegion(0, 0, 0, True, (0, 0), [], ClientTable(), None)


# ---------------------------------------------------------------- files


def run(directory: Path, bar: Bar) -> OfflineReport:
    """Check the stopped cluster of a directory. AlreadyExists: a node of it runs. ConfigError,
    NotFound: there is no cluster."""
    configure(level="critical")
    if not (directory / FILE_NAME).exists():
        raise NotFound(f"{directory}: there is no cluster here ({FILE_NAME} is missing)")
    config = load(directory / FILE_NAME)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with ExitStack() as stack:
        stack.enter_context(_held(directory, f"the cluster in {directory} runs"))
        own = [node_config(config, directory, each.id) for each in config.nodes]
        for node in own:
            stack.enter_context(_held(node.directory, f"node {node.name} runs"))
        devices: dict[int, NodeDevices] = {}
        missing: list[Problem] = []
        for node in own:
            try:
                devices[int(node.node)] = _open(node, stack)
            except ConfigError as error:
                text = f"{node.name}: {error}"
                missing.append(Problem("I14", text, REFILL, int(node.node)))
        boots = dict.fromkeys(devices, boot_id)
        report = asyncio.run(judge(config, devices, boots, clock=RealClock(), bar=bar))
    report.problems = sorted([*report.problems, *missing])
    return report


@contextmanager
def _held(directory: Path, refusal: str) -> Iterator[None]:
    """Nobody starts there meanwhile. AlreadyExists: somebody runs. Writes nothing."""
    stream: IO[str] | None = None
    try:
        stream = (directory / LOCK_FILE).open()
    except OSError:
        yield  # nothing ever ran there
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        holder = stream.read(64).strip()
        stream.close()
        raise AlreadyExists(
            f"{refusal} (process {holder or 'unknown'}): a look at its files would see half of what"
            " it does. `eightfold check` asks the nodes; `eightfold down` stops them"
        ) from None
    with stream:
        yield


def _open(config: NodeConfig, stack: ExitStack) -> NodeDevices:
    """The files of a node. ConfigError names one that is missing or of another size."""
    options = config.cluster.journal

    def opened(path: Path, size_bytes: int) -> ColdFile:
        made = ColdFile(path, size_bytes)
        stack.callback(made.close)
        return made

    ring_bytes = options.segment_bytes * options.segments_max
    disks = [
        opened(config.disks_directory / disk_name(disk.disk), disk.size_bytes).device()
        for disk in config.cluster.inventory().disks
    ]
    journal = opened(config.journal_directory / "ring", ring_bytes).device(keep=False)
    checkpoint = opened(config.journal_directory / "slots", CHECKPOINT_BYTES).device()
    consensus = opened(config.consensus_directory / "store", CONSENSUS_BYTES).device()
    return NodeDevices([*disks], journal, checkpoint, consensus)


# ---------------------------------------------------------------- for people


def lines(report: OfflineReport) -> list[str]:
    """What to print."""
    said: list[str] = []
    for problem in report.problems[:SHOWN_MAX]:
        said += [f"{problem.rule}: {problem.text}", f"    {problem.advice}"]
    if len(report.problems) > SHOWN_MAX:
        said.append(f"... and {len(report.problems) - SHOWN_MAX} more")
    said += [f"note: {note}" for note in report.notes[:SHOWN_MAX]]
    if len(report.notes) > SHOWN_MAX:
        said.append(f"... and {len(report.notes) - SHOWN_MAX} more notes")
    said.append(
        f"catalog {report.catalog_version}, {report.volumes} volumes, {report.regions} copies of"
        f" regions on {len(report.nodes)} nodes, {report.blocks} blocks read, {report.compared}"
        f" regions compared: {len(report.problems) or 'no'} problems"
    )
    return said
