"""What is wrong on the disks of whole nodes after healing is found: each check, on a run that held
and whose state is then broken by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.raft_types import EntryKind
from node.cold_device import PAGE_BYTES, ColdDevice
from node.cold_store import now
from node.consensus_store import ConsensusStore
from scenario.final_checks import check_logs, check_replay, check_space, cold_store
from scenario.level2 import Level2Options, Level2Run, Violated, world
from sim.cluster import SimNode


@pytest.fixture
def healed() -> Iterator[Level2Run]:
    """A short run that held, its nodes still there."""
    quiet = Level2Options(
        seconds=1, crashes=0, pauses=0, slow=0, stops=0, nodes=3, volumes=1, regions=2
    )
    run = Level2Run(5, quiet)
    with world(run):
        run.run()
        yield run


def written(run: Level2Run) -> tuple[SimNode, tuple[int, int]]:
    """A node with a region that has records, and the region."""
    for sim in run.nodes:
        assert sim.node is not None
        for volume, copies in sim.node.core.copies.items():
            for region, copy in copies.items():
                if copy.committed > 2 and sim.node.store.is_complete((volume, region)):
                    return sim, (volume, region)
    raise AssertionError("nobody wrote")


def test_run_that_held_has_nothing_wrong_and_something_to_compare(healed: Level2Run) -> None:
    images = healed.judge._images
    assert check_space(healed.nodes) == []
    assert check_logs(healed.nodes) == []
    assert check_replay(healed.nodes, images) == []
    assert any(any(image) for image in images.values())
    sim, key = written(healed)
    assert cold_store(sim).regions[key].prepared > 2


def test_space_that_nobody_uses_is_found(healed: Level2Run) -> None:
    node = healed.nodes[0].node
    assert node is not None
    storage = node.core.catalog.volume_manager.storage(0)
    ld = next(iter(storage.lds.values()))
    free = next(place for place in range(ld.regions) if not ld.used[place])
    ld.used[free] = True
    assert "I14" in [found.rule for found in check_space(healed.nodes)]
    with pytest.raises(Violated, match="I14"):
        healed.judge._check_stores()


def test_region_that_the_catalog_does_not_know_is_found(healed: Level2Run) -> None:
    sim, key = written(healed)
    assert sim.node is not None
    place = sim.node.rebuild.place_of(key)
    assert place is not None
    sim.node.store.open_region((77, 0), place)
    assert [found.rule for found in check_space(healed.nodes)] == ["I15"]


def test_copy_of_a_member_that_is_not_whole_is_found(healed: Level2Run) -> None:
    sim, key = written(healed)
    assert sim.node is not None
    sim.node.store.region(key).session = -1
    assert [found.rule for found in check_space(healed.nodes)] == ["I8"]


def test_log_that_differs_on_a_disk_is_found(healed: Level2Run) -> None:
    sim = healed.nodes[1]
    disk = sim.disks["consensus"]
    cold = ColdDevice("consensus", disk.size_bytes, disk.load)
    assert sim.node is not None
    store = ConsensusStore(
        cold, supervisor=sim.node.supervisor, on_persisted=print, on_failure=print
    )
    assert now(store.load())
    term, _, _ = store.state.entries[-1]
    store.state.entries[-1] = (term, int(EntryKind.NORMAL), b"another")
    now(store._write_half())
    for number, page in cold._pages.items():
        disk.store_now(number * PAGE_BYTES, bytes(page))
    texts = [found.text for found in check_logs(healed.nodes)]
    assert any("n1 has another entry" in text for text in texts), texts
    assert any("n0 and n1 have different entries" in text for text in texts), texts


def test_log_that_is_gone_from_a_disk_is_found(healed: Level2Run) -> None:
    disk = healed.nodes[2].disks["consensus"]
    disk.store_now(0, bytes(disk.size_bytes))
    assert [found.text for found in check_logs(healed.nodes)] == ["n2 has no log on its disk"]


def test_records_that_a_restart_would_not_find_are_found(healed: Level2Run) -> None:
    sim, _ = written(healed)
    assert sim.node is not None
    # The checkpoint of before the first record is all that is left.
    for name in ("journal", "checkpoint"):
        sim.disks[name].store_now(0, bytes(sim.disks[name].size_bytes))
    found = check_replay(healed.nodes, {})
    assert found
    assert all(each.rule == "I9" and each.node == sim.number for each in found)
    assert "a restart would" in found[0].text


def test_bytes_that_a_restart_would_not_find_are_found(healed: Level2Run) -> None:
    sim, key = written(healed)
    images = dict(healed.judge._images)
    image = bytearray(images[sim.number, key])
    image[600] ^= 1
    images[sim.number, key] = bytes(image)
    (found,) = check_replay(healed.nodes, images)
    assert found.rule == "I9"
    assert "other bytes, from byte 600 on" in found.text


def test_table_of_clients_that_a_restart_would_not_find_is_found(healed: Level2Run) -> None:
    sim, key = written(healed)
    assert sim.node is not None
    sim.node.core.copies[key[0]][key[1]].clients.add(99, 1, 0)
    (found,) = check_replay(healed.nodes, healed.judge._images)
    assert "another table of clients" in found.text
