"""`eightfold check --offline`: nodes killed at any instant have nothing wrong, and whatever is then
broken on their disks is found, named, and comes with a way out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from base.units import BLOCK_BYTES
from node.cold_device import PAGE_BYTES, ColdDevice
from node.cold_store import now
from node.consensus_store import ConsensusStore
from node.offline_check import OfflineReport, judge, lines
from node.offline_node import READ_ALL, RECOVER, REFILL, NodeDevices
from scenario.level2 import Level2Options, Level2Run, world
from scenario.level2_options import LEVEL2
from sim.cluster import SimNode
from sim.device import CrashKind


class Stopped(Exception):
    """The run has been long enough."""


def device(sim: SimNode, name: str, *, keep: bool = True) -> ColdDevice:
    disk = sim.disks[name]

    def load(offset: int, into: memoryview) -> None:
        disk.check(disk.life, offset, len(into), write=False)
        disk.load(offset, into)

    return ColdDevice(name, disk.size_bytes, load, keep=keep)


def devices_of(sim: SimNode) -> NodeDevices:
    return NodeDevices(
        [device(sim, name) for name in sim.names],
        device(sim, "journal", keep=False),
        device(sim, "checkpoint"),
        device(sim, "consensus"),
    )


def look(run: Level2Run, without: tuple[int, ...] = ()) -> OfflineReport:
    """Kill what runs, and judge what is left."""
    for sim in run.nodes:
        if sim.group is not None:
            sim.kill()
    nodes = [sim for sim in run.nodes if sim.number not in without]
    return now(
        judge(
            run.cluster.cluster,
            {sim.number: devices_of(sim) for sim in nodes},
            {sim.number: f"boot-{sim.boots}" for sim in nodes},
            clock=run.nodes[0].clock,
        )
    )


def stopped_in(run: Level2Run, steps: int) -> None:
    """Run, and leave everything as it stands so many steps after hosts began."""
    step, left = run.step, [steps]

    def counted(length_ns: int) -> None:
        step(length_ns)
        left[0] -= bool(run.hosts)
        if not left[0]:
            raise Stopped

    run.step = counted  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run.run()


@pytest.fixture
def busy() -> Iterator[Level2Run]:
    """Three nodes that have been written to for a second; mirrored disks."""
    run = Level2Run(
        11,
        Level2Options(
            seconds=3, crashes=0, pauses=0, slow=0, stops=0, nodes=3, volumes=1, regions=2,
            mirrored_disks=True, destage_after_ms=50, writes_per_s=150,
        ),
    )  # fmt: skip
    with world(run):
        stopped_in(run, 30)
        yield run


@pytest.mark.parametrize(
    ("profile", "seed", "steps"),
    [("default", 3, 9), ("swarm", 4, 25), ("swarm", 7, 50), ("reconfiguration", 2, 60)],
)
def test_nodes_that_are_killed_at_any_instant_have_nothing_wrong(
    profile: str, seed: int, steps: int
) -> None:
    run = Level2Run(seed, LEVEL2[profile](seed))
    with world(run):
        stopped_in(run, steps)
        report = look(run)
    assert report.problems == []
    assert report.clean
    assert report.certain
    assert report.regions


def test_power_cut_of_one_machine_leaves_notes_at_most() -> None:
    run = Level2Run(3, LEVEL2["default"](3))
    with world(run):
        stopped_in(run, 20)
        sim = next(each for each in run.nodes if each.group is not None)
        sim.kill(CrashKind.POWER_LOST)
        report = look(run)
    assert report.problems == []


def test_blocks_are_read_and_regions_compared(busy: Level2Run) -> None:
    report = look(busy)
    assert report.problems == []
    assert report.blocks > 4
    assert report.compared == 2
    assert report.regions == 4
    assert lines(report)[-1].endswith("2 regions compared: no problems")


def block_on_disk(run: Level2Run) -> tuple[SimNode, list[tuple[int, int]], int]:
    """A node, the places of a block with a checksum on its disks, and the block's number."""
    for sim in run.nodes:
        assert sim.node is not None
        for region in sim.node.store.regions.values():
            for start, stop in region.disk_runs(0, region.pages * region.page_bytes):
                for at in range(start, stop, BLOCK_BYTES):
                    if region.sums.is_known(at // BLOCK_BYTES) and not region.dirty:
                        extents = region.plans.plan_write(region.base + at, BLOCK_BYTES)
                        places = [(extent.disk, extent.offset) for extent in extents]
                        return sim, places, at // BLOCK_BYTES
    raise AssertionError("nothing is on disk")


def quiet(run: Level2Run) -> None:
    """Hosts stop, and everything is destaged and in a checkpoint."""
    for host in run.hosts:
        host.workload.stopped = True
    run.wait("nothing is dirty", 10, lambda: not any(_dirty(sim) for sim in run.nodes))
    for sim in run.nodes:
        assert sim.node is not None
        assert sim.group is not None
        task = sim.group.start(sim.node.store.checkpoint(), name="checkpoint")
        run.wait("a checkpoint", 5, task.done)
        task.result()


def _dirty(sim: SimNode) -> int:
    assert sim.node is not None
    return sim.node.store.cache.dirty_bytes


@pytest.fixture
def at_rest(busy: Level2Run) -> Level2Run:
    step = type(busy).step
    busy.step = lambda length_ns: step(busy, length_ns)  # type: ignore[method-assign]
    quiet(busy)
    return busy


def test_rot_on_one_disk_of_a_mirror_is_found(at_rest: Level2Run) -> None:
    sim, places, block = block_on_disk(at_rest)
    disk, offset = places[1]
    sim.disks[sim.names[disk]].rot(offset + 100)
    (problem,) = look(at_rest).problems
    assert problem.rule == "I28"
    assert problem.text.startswith(f"n{sim.number} disk {disk}: block {block} of volume v0 region")
    assert "another disk of the mirror has them right" in problem.text
    assert problem.advice == READ_ALL


def test_latent_error_on_all_disks_of_a_node_is_found(at_rest: Level2Run) -> None:
    sim, places, block = block_on_disk(at_rest)
    for disk, offset in places:
        sim.disks[sim.names[disk]].latent_error(offset, BLOCK_BYTES)
    report = look(at_rest)
    (problem,) = report.problems
    assert problem.rule == "I28"
    assert f"block {block} of volume v0" in problem.text
    assert "is right on no disk of it; n" in problem.text
    assert problem.advice == READ_ALL
    assert report.compared == 1  # the other one


def test_block_that_nobody_has_right_is_found(at_rest: Level2Run) -> None:
    sim, _, block = block_on_disk(at_rest)
    assert sim.node is not None
    key = next(
        key
        for key, region in sim.node.store.regions.items()
        if region.sums.is_known(block) and not region.dirty
    )
    for each in at_rest.nodes:
        assert each.node is not None
        if key in each.node.store:
            region = each.node.store.region(key)
            at = region.base + block * BLOCK_BYTES
            for extent in region.plans.plan_write(at, BLOCK_BYTES):
                each.disks[each.names[extent.disk]].rot(extent.offset)
    problems = look(at_rest).problems
    assert len(problems) == 2
    assert {problem.advice for problem in problems} == {RECOVER}


def test_copies_that_differ_are_found(at_rest: Level2Run) -> None:
    sim, places, block = block_on_disk(at_rest)
    assert sim.node is not None
    # As a wrong program would write it: with the right checksum, on every disk of the node.
    for region in sim.node.store.regions.values():
        at = block * BLOCK_BYTES
        extents = region.plans.plan_write(region.base + at, BLOCK_BYTES)
        if [(extent.disk, extent.offset) for extent in extents] == places:
            region.sums.wrote(at, b"w" * BLOCK_BYTES, 255)
            sim.node.store.cache.changed[region.key] = None
    for disk, offset in places:
        sim.disks[sim.names[disk]].store_now(offset, b"w" * BLOCK_BYTES)
    quiet(at_rest)
    found = [problem for problem in look(at_rest).problems if problem.rule == "I11"]
    assert len(found) == 1
    assert f"from byte {block * BLOCK_BYTES} on, and both are in sync" in found[0].text


def test_journal_that_is_damaged_in_the_middle_is_found(busy: Level2Run) -> None:
    sim = next(each for each in busy.nodes if journal_used(each) > 4096)
    assert sim.node is not None
    journal = sim.node.journal
    disk = sim.disks["journal"]
    for sim_node in busy.nodes:
        sim_node.kill()
    disk.rot((journal.trimmed_lsn + 40) % disk.size_bytes)
    report = look(busy)
    damaged = [each for each in report.problems if "the journal is damaged at byte" in each.text]
    assert [each.node for each in damaged] == [sim.number]
    assert damaged[0].advice == REFILL
    # Nothing of that node counts; the other copies do.
    assert not any(problem.rule == "I1" for problem in report.problems)


def journal_used(sim: SimNode) -> int:
    assert sim.node is not None
    return sim.node.journal.statistics().used_bytes


def test_checkpoint_that_the_journal_has_left_behind_is_found() -> None:
    run = Level2Run(
        1,
        Level2Options(
            seconds=60, crashes=0, pauses=0, slow=0, stops=0, nodes=3, volumes=1, regions=2,
            writes_per_s=400, journal_kib=48, destage_after_ms=50,
        ),
    )  # fmt: skip
    with world(run):
        stopped_in(run, 20)
        sim = run.nodes[0]
        assert sim.node is not None
        disk, journal = sim.disks["checkpoint"], sim.node.journal
        kept = bytearray(disk.size_bytes)
        disk.load(0, memoryview(kept))
        wanted = journal.next_lsn + journal.capacity_bytes
        for _ in range(200):
            Level2Run.step(run, 50_000_000)
            if journal.trimmed_lsn > wanted:
                break
        assert journal.trimmed_lsn > wanted
        for each in run.nodes:
            each.kill()
        # What was in the ring is gone, and what can be read is a checkpoint that needs it.
        disk.store_now(0, bytes(kept))
        report = look(run)
    texts = [each.text for each in report.problems if each.rule == "I9"]
    assert texts == [
        "n0: the newest checkpoint is damaged, and the journal does not reach back to the one"
        " before: records are lost"
    ]


def test_log_that_has_a_hole_is_found(busy: Level2Run) -> None:
    sim = busy.nodes[1]
    assert sim.node is not None
    store = sim.node.consensus
    half = store._half * store._half_bytes
    sim.disks["consensus"].rot(half + 16 + 30)
    report = look(busy)
    assert any(
        "n1: its store of consensus" in problem.text and problem.advice == REFILL
        for problem in report.problems
    ), report.problems


def test_header_that_is_damaged_is_found(busy: Level2Run) -> None:
    sim = busy.nodes[2]
    assert sim.node is not None
    store = sim.node.consensus
    sim.disks["consensus"].rot(store._half * store._half_bytes + 9)
    texts = [problem.text for problem in look(busy).problems]
    assert any("n2: its store of consensus: the header of half" in text for text in texts), texts


def test_logs_of_two_histories_are_found(busy: Level2Run) -> None:
    for each in busy.nodes:
        each.kill()
    disk = busy.nodes[1].disks["consensus"]
    cold = ColdDevice("consensus", disk.size_bytes, disk.load)
    assert busy.nodes[1].node is not None
    store = ConsensusStore(
        cold, supervisor=busy.nodes[1].node.supervisor, on_persisted=print, on_failure=print
    )
    assert now(store.load())
    term, kind, _ = store.state.entries[-1]
    store.state.entries[-1] = (term, kind, b"another")
    now(store._write_half())
    for number, page in cold._pages.items():
        disk.store_now(number * PAGE_BYTES, bytes(page))
    assert any("have different entries" in problem.text for problem in look(busy).problems)


def test_copy_that_lacks_what_another_has_committed_is_found(busy: Level2Run) -> None:
    sim = next(each for each in busy.nodes if journal_used(each) > 4096)
    for each in busy.nodes:
        each.kill()
    for name in ("journal", "checkpoint"):
        sim.disks[name].store_now(0, bytes(sim.disks[name].size_bytes))
    report = look(busy)
    found = [problem for problem in report.problems if problem.rule == "I8"]
    assert found
    assert all(problem.node == sim.number for problem in found)
    assert "has its records up to 0 only" in found[0].text
    assert "was acknowledged" in found[0].text


def test_majority_that_cannot_be_read_is_said(busy: Level2Run) -> None:
    report = look(busy, without=(0, 1))
    assert not report.certain
    assert any("no majority of those that vote" in problem.text for problem in report.problems)
    plain = json.loads(json.dumps(report.to_plain()))
    assert plain["clean"] is False
    assert plain["nodes"] == [2]


def test_no_node_at_all_is_said(busy: Level2Run) -> None:
    report = look(busy, without=(0, 1, 2))
    assert [problem.rule for problem in report.problems] == ["I12"]
