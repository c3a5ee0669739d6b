"""Hosts of a real cluster whose history is judged: by the checkers of the simulator, and by a sweep
over the whole volume at a node that none of them used last."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from base.clock import RealClock
from base.place import local_socket
from base.tasks import Supervisor
from base.units import NS_PER_MS
from host.attach import AttachedVolume
from node.cluster_directory import read_secret
from scenario.checkers import check_history
from scenario.cluster_host import Sweep
from scenario.history import History, Kind
from scenario.recorded_host import AttachedDoor, Door, NbdDoor, RecordedHost
from scenario.workload import Host, HostConfig
from tests.processes.live_cluster import LiveCluster, wait_until
from transport.mesh import MeshClient, MeshClientConfig

VOLUME = 1
BLOCK = 4096
END_SECONDS = 90  # after the story everything is whole: what is on its way is answered

# Hosts that pace themselves leave the nodes time: eight of them share two cores with us.
PACE_NS = 8 * NS_PER_MS


class Recording:
    """One volume, its hosts and what they saw. Make hosts, then `run` a story."""

    def __init__(
        self, cluster: LiveCluster, volume: str, size_bytes: int, *, block_bytes: int = BLOCK,
        seed: int = 1,
    ) -> None:  # fmt: skip
        self.cluster = cluster
        self.history = History()
        self.hosts: list[RecordedHost] = []
        self.clock = RealClock()
        self.failures: list[str] = []
        self._volume = volume
        self._block_bytes = block_bytes
        self._blocks = size_bytes // block_bytes
        self._seed = seed
        self._loop: asyncio.AbstractEventLoop
        self._supervisor = Supervisor("recording", self._failed)
        self._running: list[asyncio.Task[None]] = []
        self._idle: list[RecordedHost] = []

    # ------------------------------------------------------------------ hosts

    def _add(
        self, door: Door, kind: type[Host], idle: bool, options: dict[str, Any]
    ) -> RecordedHost:
        number = len(self.hosts)
        habits = HostConfig(**{
            "volumes": ((VOLUME, self._blocks),), "interval_ns": PACE_NS, "queue_depth": 8,
            "block_bytes": self._block_bytes,
            **options,
        })  # fmt: skip
        workload = kind(number, habits, random.Random(self._seed * 1000 + number), self.history)
        self.hosts.append(RecordedHost(workload, {VOLUME: door}, self.clock))
        if idle:
            self._idle.append(self.hosts[-1])
        return self.hosts[-1]

    def nbd_host(
        self, nodes: Sequence[int], *, kind: type[Host] = Host, idle: bool = False, **options: Any
    ) -> RecordedHost:
        """At the first of these nodes; at the next when the path breaks. idle: the story says when
        it opens and works. options: of `HostConfig`."""
        all_nodes = self.cluster.addresses()
        door = NbdDoor([all_nodes[node] for node in nodes], self._volume, self.clock)
        return self._add(door, kind, idle, {"attempts_max": 1, **options})

    def attached_host(self, nodes: Sequence[int] = range(8), **options: Any) -> RecordedHost:
        """Attached, with links to these nodes only."""
        about = self.cluster.up.cluster
        addresses = []
        for node in (about.node(number) for number in nodes):
            local = local_socket(node.directory, node.host)
            addresses.append(local or (node.host, node.mesh_port))
        config = MeshClientConfig(
            about.cluster_id, read_secret(about.secret_path), tuple(addresses)
        )
        rng = random.Random(f"{self._seed} {len(self.hosts)} {self.cluster.directory}")
        view = AttachedVolume(
            self._volume,
            bus=MeshClient(config, rng=rng, on_failure=self._failed),
            clock=self.clock,
            rng=rng,
        )
        return self._add(AttachedDoor(view), Host, False, options)

    # ------------------------------------------------------------------ running

    def run(self, story: Callable[[], None], sweep_at: Sequence[int] | None = None) -> None:
        """All hosts work while the story is told (in a thread: it may block). Then they end, every
        block is read at those nodes (all that live), and the history is judged."""
        uvloop.run(self._run(story, sweep_at))
        self.judge()

    def judge(self) -> None:
        """AssertionError shows the operations that cannot all be true."""
        assert self.failures == []
        broken = check_history(self.history)
        assert not broken, f"{len(broken)} broken:\n" + "\n".join(str(each) for each in broken[:5])

    async def _run(self, story: Callable[[], None], sweep_at: Sequence[int] | None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            for host in self.hosts:
                if host not in self._idle:
                    await host.open()
                    self._start(host)
            await self._loop.run_in_executor(None, story)
            await self._end()
            for number in self.cluster.alive() if sweep_at is None else sweep_at:
                sweep = self.nbd_host(
                    [number], kind=Sweep, blocks_max=64, interval_ns=0, attempts_max=5
                )
                await sweep.open()
                self._start(sweep)
                await self._end()
                assert sweep.workload.given_up == sweep.workload.refused == 0
        finally:
            await self._supervisor.close()
            for host in self.hosts:
                await host.close()

    def _start(self, host: RecordedHost) -> None:
        name = f"h{host.workload.host}"
        self._running.append(self._supervisor.start(host.run(self._failed), name=name))

    async def _end(self) -> None:
        for host in self.hosts:
            host.stop()
        running, self._running = self._running, []
        try:
            async with asyncio.timeout(END_SECONDS):
                await asyncio.gather(*running, return_exceptions=True)  # `_failed` was told
        except TimeoutError:
            left = [
                f"h{host.workload.host}: {operation}"
                for host in self.hosts
                for operation in host.workload.left()
            ]
            raise AssertionError(f"not answered in {END_SECONDS} s: {left}") from None

    def _failed(self, name: str, error: BaseException) -> None:
        self.failures.append(f"{name}: {error!r}")
        for host in self.hosts:
            host.stop()

    # ------------------------------------------------------------------ for stories

    def open(self, host: RecordedHost) -> None:
        """From a story: connect, but send nothing yet."""
        asyncio.run_coroutine_threadsafe(host.open(), self._loop).result(30)

    def work(self, host: RecordedHost) -> None:
        """From a story: an opened host begins."""
        self._loop.call_soon_threadsafe(self._start, host)

    def wait_done(self, *hosts: RecordedHost, more: int = 30) -> None:
        """From a story: until each of these hosts has so many more answers."""
        for host in hosts:
            wanted = host.workload.done + more
            what = f"h{host.workload.host} to have {wanted} answers"
            try:
                wait_until(
                    lambda h=host, n=wanted: h.workload.done >= n or self.failures,
                    what,
                    END_SECONDS,
                )
            except AssertionError as error:
                raise AssertionError(f"{error}; left: {host.workload.left()}") from None
        assert self.failures == []

    def blocks_written(self, since_ns: int, until_ns: int) -> set[int]:
        """Blocks with a write, answered or not, of which some part lay between these times."""
        history = self.history
        return {
            history.registers[history.register[row]][1]
            for row in range(len(history))
            if history.kind[row] == Kind.WRITE
            and history.start_ns[row] < until_ns
            and (history.end_ns[row] < 0 or history.end_ns[row] > since_ns)
        }

    def longest_ms(self, since_ns: int = 0, until_ns: int = 1 << 63) -> float:
        """Of all hosts; see `RecordedHost`."""
        return max(host.longest_ms(since_ns, until_ns) for host in self.hosts)

    def done(self) -> int:
        """Answers of all hosts."""
        return sum(host.workload.done for host in self.hosts)
