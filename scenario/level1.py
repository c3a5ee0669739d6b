"""shell: one seed of level 1: hosts, crashes and pauses on the kernel, judged by history and state.

The safety of what hosts saw is judged over the whole history; the state checkers hang on the kernel
and speak at the moment at which a rule is broken. Faults stop before the end; then everything must
be redundant, identical and answered within a bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from base.errors import NoQuorum, StorageError
from base.ids import NOBODY
from base.units import NS_PER_MS, NS_PER_S
from cluster.entries import CreateVolume, encode
from host.export import HostRequest, RequestKind
from host.router import Piece, Router
from node.effects import Answer
from node.region_copy import OWNER, RegionCopy
from scenario.checkers import check_history
from scenario.history import History, Outcome
from scenario.workload import Host, HostConfig, HostOperation, OperationKind
from sim.kernel import HostOps, Kernel, KernelConfig, KernelNode, clone
from transport import messages as wire
from transport.operation import Record

BLOCK = 512
CLIENT_FIRST = 1 << 16

_REQUEST_KIND = {
    OperationKind.READ: RequestKind.READ,
    OperationKind.WRITE: RequestKind.WRITE,
    OperationKind.FLUSH: RequestKind.FLUSH,
    OperationKind.TRIM: RequestKind.TRIM,
    OperationKind.ZERO: RequestKind.ZERO,
}


class Violated(AssertionError):
    """A rule was broken; the text says which, where and when."""


@dataclass(slots=True)
class SeedOptions:
    """What one seed runs. Times in virtual seconds."""

    nodes: int = 8
    seconds: int = 12
    heal_s: int = 25
    hosts: int = 4
    volumes: int = 2
    regions: int = 3
    writes_per_s: int = 100
    crashes: bool = True
    pauses: bool = True
    cuts: bool = False
    down_max: int = 1  # nodes out at the same time
    trace: bool = False


@dataclass(slots=True)
class SeedReport:
    """What one seed did. trace: the hash over every traced step."""

    seed: int
    events: int
    operations: int
    indefinite: int
    kills: int
    pauses: int
    trace: str
    virtual_s: float
    lines: list[str] = field(default_factory=list)


class StateChecks:
    """I5, I6, I7, I8, I9 and the agreement on the catalog, at the moment they matter."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._names: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        self._committed: dict[tuple[int, int], dict[int, tuple[int, int, int]]] = {}
        self._epochs: dict[tuple[int, int, int], int] = {}
        self._catalogs: dict[int, tuple[int, int]] = {}

    def fail(self, rule: str, text: str) -> None:
        """Stop the run."""
        at_s = self.kernel.now_ns / NS_PER_S
        raise Violated(f"{rule} at {at_s:.6f} s of seed {self.kernel.seed}: {text}")

    def journalled(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """I7: a name stands for one operation, everywhere."""
        name = (record.volume, record.region, record.epoch, record.seq)
        operation = (record.client, record.number)
        known = self._names.setdefault(name, operation)
        if known != operation:
            self.fail("I7", f"{name} is {known} and, on {node}, {operation}")

    def committed(self, node: KernelNode, copy: RegionCopy, record: Record) -> None:
        """I8, I9: what is about to be answered is journalled by every member and by a joiner whose
        admission may be on its way; and one place in the sequence is committed once."""
        key = (copy.volume, copy.region)
        line = self._committed.setdefault(key, {})
        entry = (record.epoch, record.client, record.number)
        known = line.setdefault(record.seq, entry)
        if known != entry:
            self.fail("I8", f"{key} seq {record.seq}: {known} was committed, now {entry}")
        holders = {self.kernel.nodes[peer] for peer in copy.required} | {node}
        row = node.core.catalog.row(copy.volume, copy.region)
        for member in range(self.kernel.config.nodes):
            if row.is_member(member) and row.epoch == copy.epoch:
                holders.add(self.kernel.nodes[member])
        for holder in sorted(holders, key=lambda each: each.node):
            kept = holder.durable.regions.get(key)
            if kept is None or not (
                kept.committed >= record.seq
                or any(
                    held.seq == record.seq and held.epoch == record.epoch for held, _ in kept.log
                )
            ):
                self.fail("I9", f"{record} is committed by {node} and not durable on {holder}")

    def served(self, node: KernelNode, copy: RegionCopy) -> None:
        """I5: nobody else may answer reads of the region at this moment."""
        for other in self.kernel.nodes:
            if other is node or not other.alive or other.paused:
                continue
            theirs = other.core.copies.get(copy.volume, {}).get(copy.region)
            if theirs is not None and other.core.may_read(theirs, other.clock_ns()):
                self.fail("I5", f"{node} and {other} both serve {copy} / {theirs}")

    def configured(self, node: KernelNode) -> None:
        """I6 and I12: epochs never fall; one version of the catalog has one content."""
        catalog = node.core.catalog
        digest = hash_bytes(catalog.to_bytes())
        known = self._catalogs.setdefault(catalog.version, (digest, node.node))
        if known[0] != digest:
            self.fail("I12", f"catalog {catalog.version} differs between n{known[1]} and {node}")
        for by_region in node.core.copies.values():
            for copy in by_region.values():
                place = (node.node, copy.volume, copy.region)
                if copy.epoch < self._epochs.get(place, 0) and copy.role != 0:
                    self.fail("I6", f"{copy}: epoch {self._epochs[place]} was seen before")
                self._epochs[place] = max(copy.epoch, self._epochs.get(place, 0))


def hash_bytes(data: bytes) -> int:
    """A cheap digest that does not depend on the hash seed."""
    import zlib

    return zlib.crc32(data)


class SimHost:
    """One attached host: a seeded workload behind a router, reached by messages."""

    def __init__(self, kernel: Kernel, number: int, workload: Host, region_bytes: int) -> None:
        self.kernel = kernel
        self.client = CLIENT_FIRST + number
        self.workload = workload
        self.region_bytes = region_bytes
        self.alive = True
        self.life = 0
        self._rng = kernel.streams.stream(f"host{number}")
        self._owners: dict[int, tuple[int, ...]] = {}
        self._up: tuple[int, ...] = ()
        self.router = Router(
            client=self.client, self_id=-1, ways=self, timeout_ns=20 * NS_PER_S, local_sync=None
        )
        kernel.endpoints[self.client] = self

    # Ways of the router.

    def owner_of(self, volume: int, region: int) -> int:
        """By the last look at a catalog."""
        owners = self._owners.get(volume, ())
        return owners[region] if region < len(owners) else int(NOBODY)

    def up_nodes(self) -> tuple[int, ...]:
        """By the last look at a catalog."""
        return self._up

    def send(self, peer: int, message: object) -> bool:
        """Host requests travel as records."""
        if not self.kernel.endpoints[peer].alive or not self.kernel.sessions.get(
            (self.client, peer)
        ):
            return False
        if isinstance(message, wire.HostBatch):
            self.kernel.send(self.client, peer, HostOps(self._batch))
        else:
            self.kernel.send(self.client, peer, message)
        return True

    def local(self, piece: Piece) -> None:
        """No region is owned by a host."""
        raise AssertionError(piece)

    def why(self, volume: int, region: int) -> StorageError:
        """The kernel's hosts do not read it."""
        return NoQuorum(f"region {region} of volume {volume} has no owner")

    # Events.

    def deliver(self, life: int, sender: int, message: object) -> None:
        """An answer."""
        if isinstance(message, wire.HostReplies):
            self.router.replies(sender, message, self.kernel.now_ns)
        elif isinstance(message, wire.SyncReply):
            self.router.sync_reply(sender, message)
        self.turn()

    def deliver_link(self, life: int, peer: int, session: int) -> None:
        """A link came or went."""
        self.router.link_changed(peer, session, self.kernel.now_ns)
        self.turn()

    def tick(self) -> None:
        """Look at a catalog, try again what waits, start what is due."""
        alive = [node for node in self.kernel.nodes if node.alive and not node.paused]
        if alive:
            catalog = alive[self._rng.below(len(alive))].core.catalog
            for volume, virtual in catalog.volumes.items():
                table = virtual.table
                self._owners[volume] = tuple(
                    int(NOBODY) if offline else int(owner)
                    for owner, offline in zip(
                        table.owner.tolist(), table.offline.tolist(), strict=True
                    )
                )
            up = catalog.up_nodes()
            if up != self._up:
                self._up = up
                self.router.topology_changed(self.kernel.now_ns)
        self.router.tick(self.kernel.now_ns)
        self.turn()
        self.kernel.after(10 * NS_PER_MS, self.tick)

    def turn(self) -> None:
        """Everything that may be sent now, as one message per owner."""
        now_ns = self.kernel.now_ns
        while (operation := self.workload.next_operation(now_ns)) is not None:
            self._submit(operation)
        out = self.router.take_out()
        for owner in sorted(out):
            pieces = out[owner]
            self._batch = [clone(piece.record) for piece in pieces]
            self.router.sent(owner, pieces, self.send(owner, _BATCH), now_ns)

    def _submit(self, operation: HostOperation) -> None:
        def done(_request: HostRequest, error: StorageError | None, result: Any) -> None:
            outcome = Outcome.OK
            if error is not None:
                outcome = Outcome.FAILED if error.definite else Outcome.INDEFINITE
            data = b"".join(bytes(part) for part in result) if result else b""
            self.workload.completed(operation, outcome, data, now_ns=self.kernel.now_ns)

        request = HostRequest(
            _REQUEST_KIND[operation.kind], operation.offset, operation.length, done,
            operation.data, operation.fua,
        )  # fmt: skip
        self.router.submit(operation.volume, self.region_bytes, request, self.kernel.now_ns)


_BATCH = wire.HostBatch(0, b"")


class SeedRun:
    """One seed from start to verdict."""

    def __init__(self, seed: int, options: SeedOptions) -> None:
        self.options = options
        config = KernelConfig(nodes=options.nodes, trace=options.trace)
        self.kernel = Kernel(seed, config)
        self.checks = StateChecks(self.kernel)
        self.kernel.watch.append(self.checks)
        self.history = History()
        self.rng = self.kernel.streams.stream("faults")
        self.region_bytes = config.page_bytes * config.l2_entries * config.l3_entries
        self.hosts: list[SimHost] = []
        self.kills = self.pauses = 0
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
                    zero_weight=0,
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
        kernel.run_until(self._faults_end_ns)
        self._heal()
        return self._report()

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
        node._perform()
        self._wait(f"volume {name} is answered", 10, lambda: answers)
        if answers[0].error is not None:
            raise answers[0].error

    # ------------------------------------------------------------------ faults

    def _plan_fault(self) -> None:
        self.kernel.after(50 * NS_PER_MS + self.rng.exponential(1500 * NS_PER_MS), self._fault)

    def _fault(self) -> None:
        kernel, options = self.kernel, self.options
        if kernel.now_ns >= self._faults_end_ns:
            return
        out = [node for node in kernel.nodes if not node.alive or node.paused]
        if len(out) < options.down_max and self._redundant():
            node = kernel.nodes[self.rng.below(len(kernel.nodes))]
            if options.crashes and (not options.pauses or self.rng.below(2)):
                self.kills += 1
                node.kill()
                kernel.after(self.rng.below(4 * NS_PER_S), self._restart, node)
            elif options.pauses:
                self.pauses += 1
                node.pause()
                kernel.after(self.rng.below(1500 * NS_PER_MS), node.resume)
        self._plan_fault()

    def _restart(self, node: KernelNode) -> None:
        if not node.alive:
            node.start()
            for host in self.hosts:
                self.kernel.after(NS_PER_MS, self.kernel.connect, node.node, host.client)

    def _redundant(self) -> bool:
        """The budget: one node at a time, while every region has two copies in sync."""
        up = [node for node in self.kernel.nodes if node.alive and not node.paused]
        if len(up) < 2:
            return False
        latest = max(up, key=lambda node: node.core.catalog.version)
        catalog = latest.core.catalog
        return all(
            bin(int(bits)).count("1") >= volume.copies
            for volume in catalog.volumes.values()
            for bits in volume.table.in_sync.tolist()
        ) and len(catalog.up_nodes()) >= max(3, len(self.kernel.nodes) - 1)

    def _heal(self) -> None:
        kernel = self.kernel
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

    def _report(self) -> SeedReport:
        kernel = self.kernel
        return SeedReport(
            seed=kernel.seed,
            events=kernel.events,
            operations=sum(host.workload.done for host in self.hosts),
            indefinite=sum(host.workload.given_up for host in self.hosts),
            kills=self.kills,
            pauses=self.pauses,
            trace=f"{kernel.trace_hash:016x}",
            virtual_s=kernel.now_ns / NS_PER_S,
            lines=kernel.trace,
        )


def run_seed(seed: int, options: SeedOptions | None = None) -> SeedReport:
    """Run one seed. Violated when a rule was broken; everything depends on the two arguments."""
    return SeedRun(seed, options or SeedOptions()).run()


__all__ = ["OWNER", "SeedOptions", "SeedReport", "Violated", "run_seed"]
