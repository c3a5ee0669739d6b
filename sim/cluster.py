"""shell: whole nodes on virtual time: the same `Node` as in production, eight times in one loop.

Each life of a node is a group of the loop, so that it can be paused and killed as a process is; its
disks stay. Killing a node takes it off the wires first, then forgets its code, then decides what
the disks keep of what was on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from base.errors import StorageError
from base.units import NS_PER_MS, KiB, MiB
from node.config import ClusterConfig, default_cluster
from node.daemon import Node, NodePorts
from node.disk_shelf import disk_name
from sim.clock import SimClock
from sim.device import CrashKind, DiskTiming, SimDisks
from sim.event_loop import START_NS, SimEventLoop, SimGroup
from sim.hardware import FcFabric
from sim.random import SeedStreams
from transport.bus import MessageBus
from transport.sim import LinkConditions, SimNetwork
from volume.physical_disk import Loop

RUN_NS: Final = NS_PER_MS  # how long a slow processor runs between two pauses
STEAL_NS_MAX: Final = 200 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class SimClusterConfig:
    """Sizes in bytes. A region is l2_entries x l3_entries pages."""

    nodes: int = 8
    page_bytes: int = 4 * KiB
    l2_entries: int = 4
    l3_entries: int = 2
    journal_bytes: int = 256 * KiB
    checkpoint_bytes: int = 256 * KiB
    consensus_bytes: int = 512 * KiB
    disk_bytes: int = 4 * MiB
    chunklet_bytes: int = 64 * KiB
    cages: int = 1
    sleds_per_cage: int = 1
    wiring: str = "same"
    lease_ms: int = 400
    grace_ms: int = 500
    destage_after_ms: int = 300
    snapshot_entries: int = 64
    durability: str = "mirrored"
    clock_ppm_max: int = 20_000
    through_codec: bool = True
    timing: DiskTiming = field(default_factory=DiskTiming)
    conditions: LinkConditions = field(
        default_factory=lambda: LinkConditions(delay_mean_us=150, tail_chance=0.02, tail_us=5_000)
    )

    def cluster(self) -> ClusterConfig:
        """The configuration file of such a cluster."""
        return default_cluster(
            self.nodes,
            cluster={"name": "sim", "id": "5eed5eed5eed5eed"},
            disks={
                "cages": self.cages,
                "sleds_per_cage": self.sleds_per_cage,
                "wiring": self.wiring,
                "disk_bytes": self.disk_bytes,
                "chunklet_bytes": self.chunklet_bytes,
                "spare_chunklets": 2,
            },
            groups=[
                {"name": "raid0", "raid_level": 0, "set_size": 1, "step_bytes": 8 * KiB},
                {
                    "name": "raid1",
                    "raid_level": 1,
                    "set_size": 2,
                    "row_size": 2,
                    "step_bytes": 8 * KiB,
                },
            ],
            volumes={
                "page_bytes": self.page_bytes,
                "l2_entries": self.l2_entries,
                "l3_entries": self.l3_entries,
            },
            cache={
                "dirty_bytes_max": MiB,
                "destage_after_ms": self.destage_after_ms,
            },
            replication={
                "lease_ms": self.lease_ms,
                "grace_ms": self.grace_ms,
                "durability": self.durability,
            },
            consensus={"snapshot_entries": self.snapshot_entries},
        )


class SimNode:
    """One node: its devices, which outlive it, and its present life if it has one."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.streams = cluster.streams.child(f"n{number}")
        config = cluster.config
        self.disks = SimDisks(cluster.loop, self.streams, config.timing)
        inventory = cluster.cluster.inventory()
        self.fabric = FcFabric(inventory)
        self.names = [disk_name(disk.disk) for disk in inventory.disks]
        for disk in inventory.disks:
            self.disks.add(disk_name(disk.disk), disk.size_bytes)
        self.disks.add("journal", config.journal_bytes)
        self.disks.add("checkpoint", config.checkpoint_bytes)
        self.disks.add("consensus", config.consensus_bytes)
        rng = self.streams.stream("clock")
        most = config.clock_ppm_max
        # The machine's: what it reads goes on from life to life.
        self.clock = SimClock(
            cluster.loop, rng.below(2 * most + 1) - most, zero_ns=START_NS + rng.below(1 << 40)
        )
        self.lives = 0
        self.boots = 0
        self.group: SimGroup | None = None
        self.node: Node | None = None
        self.ready = False  # wired and started; not yet a member perhaps
        self.loops_down: list[Loop] = []
        self._slowness = 0
        self._stolen = False  # paused because its processor is slow, not by SIGSTOP

    def __repr__(self) -> str:
        return f"n{self.number}"

    @property
    def alive(self) -> bool:
        """A life runs, paused or not."""
        return self.group is not None

    @property
    def paused(self) -> bool:
        """Stopped as by SIGSTOP."""
        return self.group is not None and self.group.paused

    @property
    def runs(self) -> bool:
        """Wired, and neither dead nor paused."""
        return self.ready and not self.paused

    @property
    def active(self) -> bool:
        """The catalog has taken in its life, and its store is recovered."""
        return self.ready and self.node is not None and self.node.core.active

    def start(self) -> None:
        """Begin a life on the devices as they are."""
        assert self.group is None, self
        cluster = self.cluster
        self.lives += 1
        self.group = cluster.loop.group(f"n{self.number}.{self.lives}")
        self.group.start(self._live(), name=f"n{self.number}.boot")

    async def _live(self) -> None:
        cluster, disks = self.cluster, self.disks
        ports = NodePorts(
            bus=None,
            clock=self.clock,
            rng=self.streams.stream(f"life{self.lives}"),
            disks=[
                self.fabric.wrap(disk, disks.open(name)) for disk, name in enumerate(self.names)
            ],
            journal=disks.open("journal"),
            checkpoint=disks.open("checkpoint"),
            consensus=disks.open("consensus"),
            boot_id=f"boot-{self.boots}",
            formed=self.lives > 1,
        )
        node = Node(self.number, cluster.cluster, ports, self._failed)
        self.node = node
        try:
            await node.begin()
            node.ports.bus = self._bus(node)
            await node.start()
        except StorageError as error:  # as a process that says why, and ends
            node.fail(error)
            return
        for loop in self.loops_down:
            node.shelf.set_loop(loop, False)
        self.ready = True
        cluster.on_start(self)

    def _bus(self, node: Node) -> MessageBus:
        return self.cluster.network.bus(self.number, lambda _name, error: node.fail(error))

    def _failed(self) -> None:
        assert self.node is not None
        self.cluster.on_failure(self, self.node.failed)

    def kill(self, kind: CrashKind = CrashKind.KILL, *, deliver_under_way: bool = False) -> None:
        """End the life at this moment; POWER kinds also lose what was never synced."""
        assert self.group is not None, self
        self.cluster.network.detach(self.number, deliver_under_way=deliver_under_way)
        self.group.drop()
        self.group = None
        self.ready = self._stolen = False
        self.disks.crash(kind)
        if kind is not CrashKind.KILL:
            self.boots += 1

    async def stop(self) -> None:
        """An orderly end. To be run in the node's group."""
        assert self.node is not None
        await self.node.stop()

    def ended(self) -> None:
        """After `stop`: forget the life."""
        assert self.group is not None
        self.cluster.network.detach(self.number, deliver_under_way=True)
        self.group.drop()
        self.group = None
        self.ready = self._stolen = False

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.group is not None
        self._stolen = False
        self.group.pause()

    def resume(self) -> None:
        """SIGCONT."""
        if self.group is not None:
            self.group.resume()

    def slow(self, factor: int) -> None:
        """Its processor gets one part in so many of the time (F5), as far as single pauses stay
        below 200 ms; 1: as always."""
        self._slowness += 1  # ends what an earlier call began
        if self._stolen:
            self._stolen = False
            self.resume()
        if factor > 1:
            self._steal(self._slowness, min((factor - 1) * RUN_NS, STEAL_NS_MAX))

    def _steal(self, slowness: int, steal_ns: int) -> None:
        if slowness != self._slowness:
            return
        if self._stolen:
            self._stolen = False
            self.resume()
            after_ns = RUN_NS
        else:
            if self.group is not None and not self.group.paused:
                self._stolen = True
                self.group.pause()
            after_ns = steal_ns
        loop = self.cluster.loop
        due_ns = loop.now_ns + after_ns
        loop.call_at_ns(due_ns, self._steal, slowness, steal_ns, context=loop.outside)

    def slow_disks(self, factor: int) -> None:
        """Every device of the node takes so many times as long (F23); 1: as always."""
        for name in self.disks.names():
            self.disks[name].slow_factor = factor

    def set_loop(self, loop: Loop, up: bool) -> None:
        """A Fibre Channel loop is cut or comes back, and the node is told; also in later lives."""
        self.fabric.set_loop(loop, up)
        if up and loop in self.loops_down:
            self.loops_down.remove(loop)
        elif not up and loop not in self.loops_down:
            self.loops_down.append(loop)
        if self.node is not None and self.ready:
            self.node.shelf.set_loop(loop, up)


class SimCluster:
    """All nodes on one loop.

    on_start(node): a life has been wired, before anything reached it. on_failure(node, error): it
    says that it must not go on.
    """

    def __init__(
        self,
        seed: int,
        config: SimClusterConfig | None = None,
        *,
        on_start: Callable[[SimNode], None],
        on_failure: Callable[[SimNode, BaseException | None], None],
        recorder: Callable[[int, str, Any], None] | None = None,
    ) -> None:
        self.config = config or SimClusterConfig()
        self.cluster = self.config.cluster()
        self.streams = SeedStreams(seed)
        self.loop = SimEventLoop(shuffle=self.streams.stream("ties"), recorder=recorder)
        self.network = SimNetwork(
            self.streams.stream("network"),
            conditions=self.config.conditions,
            through_codec=self.config.through_codec,
            framed=True,
            loop=self.loop,
            run_in=self.loop.run_in,
        )
        self.on_start = on_start
        self.on_failure = on_failure
        self.nodes = [SimNode(self, number) for number in range(self.config.nodes)]

    def start(self) -> None:
        """All nodes, at once."""
        for node in self.nodes:
            node.start()

    def close(self) -> None:
        """Destroy everything."""
        self.loop.close()
