"""shell: healing and verdict of level 2: what must hold while nodes run and at the end.

After the faults every node comes back, everything is redundant and every request is answered within
a bound; then the members of each region hold the same bytes, and hosts read every block once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from base.errors import NotFound
from base.units import NS_PER_MS, NS_PER_S
from cluster.removals import being_removed
from node.daemon import Node
from scenario.cluster_host import Sweep
from scenario.final_checks import Images, check_logs, check_replay, check_space
from scenario.level2_hardware import GOAL_OF
from scenario.level2_media import scrub
from scenario.losses import check_with_losses
from scenario.stalls import bound_ms, check_stalls
from scenario.state_checks import Violated
from sim.cluster import SimNode

if TYPE_CHECKING:
    from scenario.level2 import Level2Run

TASKS_IDLE_MAX = 4  # of one node with nothing to do: destage, checkpoint, and what just ends
COMPARISONS_MAX = 20
STEP_NS = 50 * NS_PER_MS
SPACE_NS = 2 * NS_PER_S
SCRUBS_MAX = 3
ANSWER_S = 10  # after healing: less than the time after which a host gives up


class Judge:
    """Of one run."""

    def __init__(self, run: Level2Run) -> None:
        self.run = run
        self.nodes = run.nodes
        self._images: Images = {}

    def violated(self, rule: str, text: str) -> Violated:
        """To be raised."""
        return Violated(f"{rule} in seed {self.run.seed}: {text}")

    # ------------------------------------------------------------------ while nodes run

    def redundant(self) -> bool:
        """Every region has its copies in sync on nodes that live, and all vote."""
        running = [node for node in self.nodes if node.active and not node.paused]
        cores = [node.node.core for node in running if node.node is not None]
        leaders = [core for core in cores if core.raft.is_leader]
        if len(running) < len(self.nodes) or not leaders:
            return False
        leader = max(leaders, key=lambda core: core.catalog.version)
        up = tuple(core.self_id for core in cores)
        return (
            leader.catalog.up_nodes() == up
            and tuple(leader.raft.members.voters) == up
            and all(
                bin(int(bits)).count("1") >= volume.copies
                for volume in leader.catalog.volumes.values()
                for bits in volume.table.in_sync.tolist()
            )
        )

    def look_at(self, sim: SimNode) -> None:
        """I30: the bounds of one node that runs, and the goals that it has reached."""
        node = sim.node
        if node is None or not sim.ready:
            return
        journal = node.journal
        if journal.used_bytes > journal.capacity_bytes:
            raise self.violated("I30", f"the journal of {sim} holds {journal.statistics()}")
        if journal.waits:
            self.run.faults.goal("the journal was full and writes waited")
        cache = node.store.cache
        if cache.dirty_bytes > cache.max_bytes + journal.capacity_bytes:
            raise self.violated("I30", f"{cache.dirty_bytes} bytes are dirty on {sim}")
        if node.store.destager.errors:
            self.run.faults.goal("a page could not be destaged and was tried again")
        if node.shelf.failed_disks:
            self.run.faults.goal("a disk left its mirrors")
        self._look_at_media(sim, node)
        self._look_at_links(node)

    def _look_at_links(self, node: Node) -> None:
        """I30: what waits for a narrow link is bounded."""
        network, goal = self.run.cluster.network, self.run.faults.goal
        assert node.ports.bus is not None
        for link in node.ports.bus.statistics().links:
            if link.queued_bytes_peak > network.limits.queued_bytes_max:
                raise self.violated("I30", f"{link} holds more than a link may")
        if network.held_back:
            goal("a narrow link held frames back")
        if network.connects_refused:
            goal("a node refused links, and they were tried again")
        if network.frames_corrupt:
            goal("a damaged frame was rejected")

    def _look_at_media(self, sim: SimNode, node: Node) -> None:
        """I28: what the disks of one node spoil is mended or repaired, and never lost."""
        counters, goal = node.store.blocks.counters, self.run.faults.goal
        if counters.lost_pages and not self.run.faults.allow_loss:
            raise self.violated("I28", f"{sim} says that {counters.lost_pages} pages are lost")
        if counters.mended_blocks:
            goal("a block was mended from its mirror")
        if counters.repaired_pages:
            goal("a page came back from another copy")
        for what in sim.fabric.refused:
            goal(GOAL_OF[what])
        disks = [sim.disks[name] for name in sim.names]
        if any(disk.lost for disk in disks):
            goal("a disk lost a write")
        if any(disk.misplaced for disk in disks):
            goal("a write landed elsewhere")
        if any(disk.stale for disk in disks):
            goal("a read returned what was there before")

    # ------------------------------------------------------------------ the end

    def heal(self) -> None:
        """No faults any more; wait for what must come, and judge."""
        run, seconds = self.run, self.run.options.heal_s
        run.faults.mend_all()
        for host in run.hosts:
            host.workload.stopped = True
        run.wait("a stopping node has stopped", seconds, lambda: run.faults.stopping is None)
        for node in self.nodes:
            run.faults.restart(node)
        run.wait("every host request is answered", ANSWER_S, self.hosts_idle)
        run.wait("every node is back", seconds, run.all_up)
        run.wait("everything is redundant", seconds, self.redundant)
        run.wait("everything is committed everywhere", 5, self._settled)
        run.wait("catalogs agree", 5, self._catalogs_agree)
        # What a stale copy had prepared keeps its journal until it is home again, or released.
        run.wait("no journal keeps open records", seconds, self._nothing_open)
        run.wait("everything is committed everywhere", 5, self._settled)
        self._sweep()
        self._compare_bytes()
        if run.options.snapshot_every_ms:
            run.wait("every cut and removal has ended", 8, self._cuts_ended)
            self._judge_views()
        for number in run.faults.media.hit:
            self._scrub(self.nodes[number])
        self._check_stores()
        for node in self.nodes:
            self.look_at(node)
        self._check_bounds()
        options, faults = run.options, run.faults
        slowest_us = max(options.tail_us, options.delay_us, options.sync_us, options.read_us)
        violations = check_with_losses(run.history)
        if not violations and run.knows_all_faults:
            violations = check_stalls(
                run.history, faults.performed, faults.redundant, faults.begun_ns,
                bound_ms(options.grace_ms, slowest_us // 1000),
            )  # fmt: skip
        if violations:
            raise Violated(f"history of seed {run.seed}: {violations[0]}")

    def hosts_idle(self) -> bool:
        """Nobody waits for an answer."""
        return all(host.workload.finished for host in self.run.hosts)

    def _copies(self) -> Iterator[tuple[tuple[int, int], list[SimNode]]]:
        first = self.nodes[0].node
        assert first is not None
        catalog = first.core.catalog
        for volume, virtual in sorted(catalog.volumes.items()):
            for region in range(len(virtual.table)):
                row = catalog.row(volume, region)
                yield (
                    (int(volume), region),
                    [node for node in self.nodes if row.is_member(node.number)],
                )

    def _settled(self) -> bool:
        """I11: every member of a region is at the same place in the sequence, nothing is open."""
        for (volume, region), nodes in self._copies():
            held: list[tuple[Any, ...]] = []
            for node in nodes:
                assert node.node is not None
                copy = node.node.core.copies.get(volume, {}).get(region)
                if copy is None:
                    held.append((0, 0, 0, ()))
                else:
                    held.append(
                        (copy.committed_epoch, copy.committed, copy.prepared, copy.clients.state())
                    )
            if any(one != held[0] for one in held) or held[0][1] != held[0][2]:
                return False
        return True

    def _cuts_ended(self) -> bool:
        catalogs = [sim.node.core.catalog for sim in self.nodes if sim.node is not None]
        return not any(catalog.snapshots.cuts or being_removed(catalog) for catalog in catalogs)

    def _catalogs_agree(self) -> bool:
        cores = [node.node.core for node in self.nodes if node.node is not None]
        return all(core.catalog.version == cores[0].catalog.version for core in cores)

    def _sweep(self) -> None:
        """Hosts see every block once more, after all faults."""
        host = self.run.hosts[0]
        number = len(self.run.hosts)
        host.run(
            Sweep(
                number,
                self.run.sweep_config,
                self.run.cluster.streams.stream("sweep"),
                self.run.history,
            )
        )
        self.run.wait("every block is read", 10, self.hosts_idle)
        if host.workload.done * 64 < self.run.blocks:
            raise self.violated("I26", "reads fail after healing")

    def _compare_bytes(self) -> None:
        """I11: the members of a region hold the same bytes."""
        for _ in range(COMPARISONS_MAX):
            before = self._versions()
            differ = self._differing()
            if not differ:
                return
            # Copies that go home meanwhile leave an old member behind: then look once more, and so
            # where a node that was asked who the members are had not heard of it yet.
            if self._versions() == before and len(set(before)) == 1:
                raise self.violated("I11", differ)
            self.run.wait("catalogs agree", 5, self._catalogs_agree)
            self.run.wait("everything is committed everywhere", 5, self._settled)
        raise self.violated("I26", "copies still move")

    def _judge_views(self) -> None:
        """I21, I23: members of a region have the same views, and they are what was cut."""
        for _ in range(COMPARISONS_MAX):
            before = self._versions()
            found = self.run.views.judge(self._copies())
            if found is None:
                return
            if self._versions() == before and len(set(before)) == 1:
                raise self.violated(*found)
            self.run.wait("catalogs agree", 5, self._catalogs_agree)
            self.run.wait("everything is committed everywhere", 5, self._settled)
        raise self.violated("I26", "copies still move")

    def _scrub(self, sim: SimNode) -> None:
        """I28: what was wrong on the disks can be mended, and then nothing is wrong any more."""
        for _ in range(SCRUBS_MAX):
            assert sim.node is not None
            assert sim.group is not None
            task = sim.group.start(scrub(sim.node), name="scrub")
            self.run.wait(f"{sim} is scrubbed", 20, task.done)
            if not task.result()[0]:
                return
        raise self.violated("I28", f"blocks of {sim} stay wrong, however often they are mended")

    def _versions(self) -> list[int]:
        return [node.node.core.catalog.version for node in self.nodes if node.node is not None]

    def _differing(self) -> str:
        """Which members of a region differ, and where; "" when none do."""
        for (volume, region), nodes in self._copies():
            images = [self._image(node, (volume, region)) for node in nodes]
            for node, image in zip(nodes, images, strict=True):
                self._images[node.number, (volume, region)] = image
            for image in images[1:]:
                if len(image) != len(images[0]):
                    return f"volume {volume} region {region} is not on all of {nodes}"
                if image != images[0]:
                    places = [at for at, one in enumerate(images[0]) if image[at] != one]
                    return (
                        f"volume {volume} region {region} differs between {nodes} in"
                        f" {len(places)} bytes from {places[0]}"
                    )
        return ""

    def _image(self, node: SimNode, key: tuple[int, int]) -> bytes:
        assert node.node is not None
        assert node.group is not None
        store = node.node.store
        if key not in store:
            return bytes(self.run.region_bytes)
        data = bytearray(self.run.region_bytes)

        async def read() -> bool:
            try:
                await store.read(key, 0, len(data), memoryview(data))
            except NotFound:  # it has gone home meanwhile
                return False
            return True

        task = node.group.start(read(), name="compare")
        self.run.wait(f"{node} reads {key}", 5, task.done)
        return bytes(data) if task.result() else b""

    def _check_stores(self) -> None:
        """What lies on the disks, on each node and between them: `scenario.final_checks`."""
        deadline_ns = self.run.loop.now_ns + SPACE_NS
        # What a node was told to drop is gone a moment later, not at once.
        while found := check_space(self.nodes):
            if self.run.loop.now_ns >= deadline_ns:
                raise self.violated(found[0].rule, found[0].text)
            self.run.step(STEP_NS)
        for finding in (
            *check_logs(self.nodes),
            *check_replay(self.nodes, self._images, self.run.views.images),
        ):
            raise self.violated(finding.rule, finding.text)

    def _nothing_open(self) -> bool:
        return not any(
            sim.node is not None and sim.node.store.statistics().uncommitted for sim in self.nodes
        )

    def _check_bounds(self) -> None:
        for sim in self.nodes:
            node = sim.node
            assert node is not None
            figures = node.store.statistics()
            if figures.journal.used_peak_bytes > figures.journal.capacity_bytes:
                raise self.violated("I30", f"the journal of {sim} overflowed")
            names = node.supervisor.names()
            if len(names) > TASKS_IDLE_MAX:
                raise self.violated("I30", f"tasks of {sim} are left: {names}")
            faults = node.core.catalog.check() + node.core.catalog.volume_manager.check()
            if faults:
                raise self.violated("I13", f"{faults[0]}")
