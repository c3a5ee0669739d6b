"""A cluster at level 1 under load with faults that a test chooses, all state checkers on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from base.units import NS_PER_MS, NS_PER_S
from node.flapping import FlapPolicy
from scenario.checkers import check_history
from scenario.level1 import BLOCK, SeedOptions, SeedRun
from scenario.sim_host import SimHost
from scenario.workload import Host, HostConfig
from sim.kernel import KernelNode


class Steady(SeedRun):
    """`SeedRun` without faults of its own: hosts run from the start until `finish`."""

    knows_all_faults = False

    def __init__(
        self,
        seed: int,
        *,
        regions: int = 8,
        writes_per_s: int = 400,
        flaps: FlapPolicy | None = None,
        **more: Any,
    ) -> None:
        options = SeedOptions(regions=regions, writes_per_s=writes_per_s, **more)
        super().__init__(seed, options)
        self.kernel.config.flaps = flaps or self.kernel.config.flaps
        self.kernel.start()
        self._wait("the cluster forms", 15, self._all_up)
        for number in range(options.volumes):
            self._create(f"v{number}")
        self._wait("volumes exist", 10, self._volumes_everywhere)
        for number in range(options.hosts):
            self._host(number)
        self.run_for(1000)

    def _host(self, number: int) -> None:
        kernel, options = self.kernel, self.options
        blocks = self.region_bytes * options.regions // BLOCK
        workload = Host(
            number,
            HostConfig(
                volumes=tuple((int(volume), blocks) for volume in self.catalog.volumes),
                block_bytes=BLOCK,
                interval_ns=NS_PER_S * options.hosts // options.writes_per_s,
                attempts_max=1,
                read_weight=50,
                flush_weight=0,
            ),
            kernel.streams.stream(f"workload{number}"),
            self.history,
        )
        host = SimHost(kernel, number, workload, self.region_bytes)
        self.hosts.append(host)
        for node in kernel.nodes:
            kernel.connect(node.node, host.client)
        host.tick()

    # ------------------------------------------------------------------ driving

    def run_for(self, ms: int) -> None:
        """Let time pass."""
        self.kernel.run_until(self.kernel.now_ns + ms * NS_PER_MS)

    def wait(self, what: str, seconds: int, condition: Callable[[], Any]) -> None:
        """Let time pass until it is so."""
        self._wait(what, seconds, condition)

    def start(self, node: int) -> None:
        """The node is started again, and hosts find it."""
        self.restart(self.kernel.nodes[node])

    def finish(self) -> None:
        """Everything is answered, redundant, identical, and the history holds."""
        self._heal()
        assert check_history(self.history) == []

    # ------------------------------------------------------------------ looking

    @property
    def leader(self) -> KernelNode:
        """The node that leads, of several the one of the latest term."""
        alive = [node for node in self.kernel.nodes if node.alive and not node.paused]
        leaders = [node for node in alive if node.core.raft.is_leader]
        return max(leaders or alive, key=lambda node: node.core.raft.term)

    @property
    def catalog(self) -> Any:
        """As the leader has it."""
        return self.leader.core.catalog

    def is_up(self, node: int) -> bool:
        """Whether the catalog has the present life of the node."""
        return self.kernel.nodes[node].core.active and node in self.catalog.up_nodes()

    def owners(self) -> list[int]:
        """Of every region of every volume."""
        volumes = self.catalog.volumes
        return [int(owner) for volume in volumes.values() for owner in volume.table.owner.tolist()]

    def longest_ms(self) -> int:
        """The longest that a host waited for an answer since `forget_longest`."""
        return max(host.longest_ns for host in self.hosts) // NS_PER_MS

    def forget_longest(self) -> None:
        """Measure from now on."""
        for host in self.hosts:
            host.longest_ns = 0
