"""Links between chosen nodes fail while hosts on both sides go on asking.

A cut swallows: nobody is told that a link is gone. Whatever a host was answered must hold, on
whichever side it was answered; when the links are healed every region has all its copies again.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from base.units import MiB
from tests.processes.live_cluster import LiveCluster, wait_until
from tests.processes.recording import PACE_NS, Recording

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(200)]

SIZE = 16 * MiB
REGION = {"volumes": {"l2_entries": 8, "l3_entries": 8}}  # of 1 MiB: every node owns some


class Shared:
    """One cluster for all these tests, a volume for each. A test that fails takes it along."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cluster: LiveCluster | None = None
        self._made = 0

    def cluster(self) -> LiveCluster:
        if self._cluster is None:
            self._cluster = LiveCluster(
                self._directory / f"c{self._made}",
                relay=True,
                **REGION,
            )
        return self._cluster

    def world(self, leads: str = "") -> "World":
        """leads: "owner", "replicant" or "other"; then one owner and one replicant have it all."""
        cluster = self.cluster()
        self._made += 1
        name, pins = f"v{self._made}", {}
        if leads:
            leader = cluster.status()["leader"]
            others = [node for node in range(8) if node != leader]
            picked = {
                "owner": [leader, others[0]], "replicant": [others[0], leader],
                "other": others[:2],
            }[leads]  # fmt: skip
            pins = dict(zip(("owner", "replicant"), picked, strict=True))
        cluster.create(name, SIZE, **pins)
        return World(cluster, name)

    def close(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    holder = Shared(tmp_path_factory.mktemp("cut"))
    yield holder
    holder.close()


@pytest.fixture
def make_world(shared: Shared) -> Iterator[Callable[..., "World"]]:
    made: list[World] = []

    def make(leads: str = "") -> World:
        made.append(shared.world(leads))
        return made[-1]

    yield make
    if not all(world.told for world in made):
        shared.close()


@pytest.fixture
def world(make_world: Callable[..., "World"]) -> "World":
    return make_world()


class World:
    """Hosts at every node and an attached one, and the copies of the region that they fight for."""

    def __init__(self, cluster: LiveCluster, volume: str) -> None:
        self.cluster = cluster
        self.links = cluster.links
        self.told = False
        self.recording = Recording(cluster, volume, SIZE)
        row = cluster.client.regions(volume, 0, 1)[0]
        self.owner = int(row["owner"])
        self.replicant = int(next(node for node in row["copies"] if node != self.owner))
        self.rest = [node for node in range(8) if node not in (self.owner, self.replicant)]
        # At every node one that reads and writes the first blocks of the first region only.
        self.at = {
            node: self.recording.nbd_host([node], hot_percent=100, interval_ns=4 * PACE_NS)
            for node in range(8)
        }
        self.attached = self.recording.attached_host()

    def tell(self, story: Callable[[], None]) -> None:
        """Hosts work, the story happens, everything heals, all hosts are answered again."""

        def whole() -> None:
            self.recording.wait_done(*self.at.values(), more=5)
            story()
            self.links.heal()
            self.cluster.wait_members(8)
            self.cluster.wait_whole()
            self.recording.wait_done(*self.at.values(), self.attached, more=10)

        self.recording.run(whole, sweep_at=[self.owner, self.rest[0]])
        print(f"longest wait {self.recording.longest_ms():.0f} ms, {self.recording.done()} answers")
        self.told = True

    def progress(self, nodes: list[int], more: int = 20) -> None:
        """Hosts at these nodes are answered, whatever they ask for."""
        self.recording.wait_done(*(self.at[node] for node in nodes), more=more)

    def see(self, nodes: list[int], count: int) -> None:
        """Each of these nodes counts so many as members."""
        for node in nodes:
            wait_until(
                lambda n=node: self.cluster.status(n)["nodes_alive"] == count,
                f"n{node} to count {count} nodes",
            )


@pytest.mark.parametrize("leads", ["other"])
def test_owner_and_replicant_cut_from_each_other_serve_on(
    make_world: Callable[..., World], leads: str
) -> None:
    world = make_world(leads)

    def story() -> None:
        world.links.cut(world.owner, world.replicant)
        world.progress(world.rest)

    world.tell(story)


@pytest.mark.parametrize("leads", ["owner"])
def test_owner_that_its_replicant_does_not_hear_serves_on(
    make_world: Callable[..., World], leads: str
) -> None:
    world = make_world(leads)

    def story() -> None:
        world.links.cut_one_way(world.owner, [world.replicant])
        world.progress(world.rest)

    world.tell(story)


@pytest.mark.parametrize("leads", ["replicant"])
def test_owner_that_does_not_hear_its_replicant_serves_on(
    make_world: Callable[..., World], leads: str
) -> None:
    world = make_world(leads)

    def story() -> None:
        world.links.cut_one_way(world.replicant, [world.owner])
        world.progress(world.rest)

    world.tell(story)


def test_owner_isolated_from_all_is_replaced_and_answers_nothing_stale(world: World) -> None:
    others = [node for node in range(8) if node != world.owner]

    def story() -> None:
        world.links.isolate(world.owner)
        world.see(others, 7)
        world.progress(others)

    world.tell(story)


def test_five_nodes_go_on_without_three(world: World) -> None:
    three = sorted({world.owner, *world.rest[:2]})
    five = [node for node in range(8) if node not in three]

    def story() -> None:
        world.links.part(three)
        world.see(five, 5)
        world.progress(five)

    world.tell(story)


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_four_nodes_against_four_change_nothing(world: World, together: bool) -> None:
    """Nobody has a majority. A region whose copies are on one side is served there, by leases; one
    whose copies are on both sides is served by nobody."""
    near = [world.owner, *world.rest[:3]]
    if together:
        near = [world.owner, world.replicant, *world.rest[:2]]
    far = [node for node in range(8) if node not in near]

    def story() -> None:
        world.links.part(near)
        for node in range(8):
            wait_until(
                lambda n=node: world.cluster.status(n)["leader"] == -1, f"n{node} to miss a leader"
            )
        waiting = far if together else range(8)
        before = {node: world.at[node].workload.done for node in waiting}
        if together:
            world.progress(near)
        world.see(list(range(8)), 8)
        assert {node: world.at[node].workload.done for node in waiting} == before

    world.tell(story)


def test_links_that_are_reset_again_and_again_lose_nothing(world: World) -> None:
    def story() -> None:
        for _ in range(3):
            world.links.reset(world.owner, *world.rest)
            world.links.heal()
            world.progress([world.owner, world.replicant], more=5)

    world.tell(story)
