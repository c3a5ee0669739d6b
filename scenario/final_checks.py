"""plan: what must hold on whole nodes once all is healed and nothing is under way (level 2).

Everything is read from the nodes' devices as they are at this instant, without a turn of the loop:
the run goes on as if nobody had looked.
"""

from __future__ import annotations

from base.errors import MediaError, StorageError
from cluster.catalog import Catalog
from cluster.fsck import Finding, HeldRegion, check_catalog, check_node
from cluster.log_check import check_hard, compare_logs
from cluster.raft_log import RaftLog
from node.checkpoint import Key
from node.cold_device import ColdDevice
from node.cold_store import ColdStore, load_consensus, log_of, now, open_store
from node.daemon import Node
from node.region_copy import RegionCopy
from node.snapshot_places import SnapshotPlaces
from sim.cluster import SimNode

Images = dict[tuple[int, Key], bytes]
ViewImages = dict[tuple[int, Key, int], bytes]


def check_space(nodes: list[SimNode]) -> list[Finding]:
    """I13, I14, I15, I32: space is used once and by somebody, in the catalog and by the nodes."""
    found: list[Finding] = []
    checked: dict[int, None] = {}
    for sim in nodes:
        node = _node(sim)
        catalog = node.core.catalog
        if catalog.version not in checked:  # equal versions are equal: I12 is checked as they grow
            checked[catalog.version] = None
            found += check_catalog(catalog)
        found += check_node(catalog, sim.number, _held(node))
    return found


def _node(sim: SimNode) -> Node:
    assert sim.node is not None
    return sim.node


def _held(node: Node) -> list[HeldRegion]:
    held = []
    for volume, region in sorted(node.store.keys()):
        copy = node.core.copies.get(volume, {}).get(region)
        ld, ld_region = (copy.place or (-1, -1)) if copy is not None else (-1, -1)
        complete = node.store.is_complete((volume, region))
        held.append(HeldRegion(volume, region, ld, ld_region, complete))
    return held


def check_logs(nodes: list[SimNode]) -> list[Finding]:
    """I12, I6: the logs on the disks match each other, and what each node has in memory."""
    found: list[Finding] = []
    logs: dict[int, RaftLog] = {}
    for sim in nodes:
        state = now(load_consensus(_device(sim, "consensus")))
        if state is None or state.snapshot is None:
            found.append(Finding("I12", f"{sim} has no log on its disk", sim.number))
            continue
        log = logs[sim.number] = log_of(state)
        found += check_hard(sim.number, state.hard, log)
        found += _same_log(sim, log)
    return found + compare_logs(logs)


def _same_log(sim: SimNode, kept: RaftLog) -> list[Finding]:
    """What the node acts on is on its disk, entry by entry."""
    core = _node(sim).core
    log, version = core.raft.log, core.catalog.version
    if kept.last_index < version:
        text = f"{sim} acts on entry {version}, its disk has them up to {kept.last_index}"
        return [Finding("I6", text, sim.number)]
    for index in range(max(log.start_index, kept.start_index) + 1, version + 1):
        if log.entry(index) != kept.entry(index):
            text = f"{sim} has another entry {index} in memory than on its disk"
            return [Finding("I12", text, sim.number)]
    return []


def check_replay(
    nodes: list[SimNode], images: Images, views: ViewImages | None = None
) -> list[Finding]:
    """I9: a start of each node, now, would find what the node has in memory. images, views: what
    its regions, and snapshots of them, read as, as far as somebody has read them since anything
    changed."""
    return [each for sim in nodes for each in _compare_restart(sim, images, views or {})]


def _device(sim: SimNode, name: str, *, keep: bool = True) -> ColdDevice:
    disk = sim.disks[name]
    return ColdDevice(name, disk.size_bytes, disk.load, keep=keep)


def cold_store(sim: SimNode) -> ColdStore:
    """What a start of the node would find. DeviceFailed."""
    node = _node(sim)
    return now(
        open_store(
            node.inventory,
            [_device(sim, name) for name in sim.names],
            _device(sim, "journal", keep=False),
            _device(sim, "checkpoint"),
            sim.clock,
            node.rebuild.place_of,
            snapshot_place=SnapshotPlaces(sim.number, lambda: node.core.catalog).place_of,
        )
    )


def _compare_restart(sim: SimNode, images: Images, views: ViewImages) -> list[Finding]:
    node = _node(sim)
    try:
        cold = cold_store(sim)
    except StorageError as error:
        return [Finding("I9", f"{sim} could not start again: {error}", sim.number)]
    found: list[Finding] = []
    catalog = node.core.catalog
    for key in sorted(node.store.keys()):
        copy = node.core.copies.get(key[0], {}).get(key[1])
        if copy is None or not copy.complete or not node.store.is_complete(key):
            continue
        texts = _compare_region(cold, key, copy)
        image = images.get((sim.number, key))
        if not texts and image is not None and key in cold.regions:
            texts = _compare_pages(cold, key, image)
            for (number, region, view), seen in views.items():
                if (number, region) == (sim.number, key) and not texts:
                    texts = _compare_view(cold, key, view, seen)
        for text in texts:
            name = _name(catalog, key)
            found.append(
                Finding("I9", f"{sim} region {key[1]} of {name}: {text}", sim.number, name, key[1])
            )
    return found


def _name(catalog: Catalog, key: Key) -> str:
    manager = catalog.volume_manager
    return manager.volume(key[0]).name if manager.has_volume(key[0]) else f"#{key[0]}"


def _compare_region(cold: ColdStore, key: Key, copy: RegionCopy) -> list[str]:
    """In what the region differs between memory and what a restart would find."""
    made = cold.regions.get(key)
    if made is None:
        # A region that nobody wrote to leaves nothing to find, and nothing is lost with it.
        return [f"a restart would not find seq {copy.prepared}"] if copy.prepared else []
    if not made.complete:
        return ["a restart would find an incomplete copy"]
    # Of what a copy has prepared it answers for what its journal holds; a joiner may have the rest
    # on its way there (level 2, power 7000054).
    if made.committed > copy.committed or made.prepared < copy.journalled:
        return [
            f"a restart would find seq {made.committed} to {made.prepared}, memory has"
            f" {copy.committed} to {copy.journalled}"
        ]
    cold.advance(key, copy.committed)
    if (made.committed, made.committed_epoch) != (copy.committed, copy.committed_epoch):
        return [
            f"a restart would find seq {made.committed} of epoch {made.committed_epoch}, memory"
            f" has {copy.committed} of epoch {copy.committed_epoch}"
        ]
    if made.clients.state() != copy.clients.state():
        return ["a restart would find another table of clients"]
    return []


def _compare_view(cold: ColdStore, key: Key, view: int, image: bytes) -> list[str]:
    found = bytearray(len(image))
    try:
        now(cold.store.read_view(key, view, 0, memoryview(found)))
    except StorageError as error:
        return [f"a restart could not read view {view}: {error}"]
    if found == image:
        return []
    at = next(at for at in range(len(image)) if found[at] != image[at])
    return [f"a restart would find another view {view}, from byte {at} on"]


def _compare_pages(cold: ColdStore, key: Key, image: bytes) -> list[str]:
    try:
        made = now(cold.image(key, len(image)))
    except MediaError as error:
        return [f"a restart could not read it: {error}"]
    if made == image:
        return []
    at = next(at for at in range(len(image)) if made[at] != image[at])
    return [f"a restart would find other bytes, from byte {at} on"]
