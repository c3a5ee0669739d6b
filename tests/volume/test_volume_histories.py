"""Random histories of the volume manager: invariants hold, refusals change nothing, equal histories
give equal bytes, also over a restart."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest, NoSpace, NotFound, StorageError
from base.ids import NOBODY
from base.units import KiB, MiB
from volume.physical_disk import build_inventory
from volume.provisioning_group import ProvisioningGroup
from volume.volume_manager import VolumeManager

REGION = 64 * KiB
NODES = 4
DISKS = build_inventory(1, 2, "split", MiB, 128 * KiB, 1)  # 8 disks of 7 chunklets and a spare

GROUPS = (
    ProvisioningGroup("plain", row_size=2, step_bytes=16 * KiB),
    ProvisioningGroup("mirror", raid=1, set_size=2, row_size=1, step_bytes=32 * KiB),
    ProvisioningGroup("tight", row_size=1, step_bytes=16 * KiB, limit_bytes=MiB),
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "create", "grow", "remove", "lose", "recruit", "join", "release",
                         "blank"]),
        st.integers(0, 1 << 20),
        st.integers(0, 1 << 20),
    ),
    max_size=25,
)  # fmt: skip


def placement(regions: int, copies: int, seed: int) -> Any:
    owner = (np.arange(regions) * 3 + seed) % NODES
    other = (owner + 1 + (np.arange(regions) + seed) % (NODES - 1)) % NODES
    return np.stack([owner, other], axis=1)[:, :copies].astype(np.uint8)


class World:
    """A manager, and what the catalog around it would do to the tables."""

    def __init__(self) -> None:
        self.manager = VolumeManager()
        self.version = 0
        for node in range(NODES):
            self.manager.add_node(node, DISKS)
        for group in GROUPS:
            self.manager.create_group(group)

    def step(self, action: str, one: int, two: int) -> None:
        self.version += 1
        manager = self.manager
        if action == "create":
            regions, copies = 1 + one % 60, 1 + two % 2
            plan = manager.plan_create(
                f"v{self.version}", regions * REGION - 512, GROUPS[one % 3].name, copies,
                4 * KiB, 4, 4, "synced", placement(regions, copies, two),
            )  # fmt: skip
            manager.apply(plan, self.version)
            return
        volumes = manager.list_volumes()
        if not volumes:
            raise NotFound("no volume yet")
        volume = volumes[one % len(volumes)]
        table, node = volume.table, two % NODES
        some = np.flatnonzero(np.arange(volume.regions) % (1 + two % 3) == 0)
        if action == "grow":
            more = two % 20
            size = (volume.regions + more) * REGION
            plan_grow = manager.plan_grow(volume.name, size, placement(more, volume.copies, one))
            manager.apply(plan_grow, self.version)
        elif action == "remove":
            manager.apply(manager.plan_remove(volume.volume), self.version)
        elif action == "recruit":
            manager.allocate_slots(volume.volume, some, (some + two) % NODES, self.version)
        elif action == "release":
            manager.release_slots(volume.volume, some, node, self.version)
        elif action == "blank":
            manager.replace_inventory(node, DISKS, self.version, accept_loss=bool(one % 2))
        elif action == "join":
            has_slot = table.slots_of(some, node) >= 0
            joining = some[has_slot & (table.in_sync[some] >> node & 1 == 0)]
            table.joiner[joining] = node
        else:
            # Drop the node where another member is left, and let that one own the region.
            rest = table.in_sync & np.uint8(0xFF & ~(1 << node))
            for region in np.flatnonzero((rest != 0) & (rest != table.in_sync)):
                table.in_sync[region] = rest[region]
                table.owner[region] = int(rest[region]).bit_length() - 1
                table.joiner[region] = NOBODY


def owned_bytes(manager: VolumeManager, node: int) -> int:
    """What a node gives to all volumes, counted over the tables."""
    return sum(len(v.table.regions_of(node)) * v.region_bytes for v in manager.list_volumes())


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_no_history_breaks_an_invariant_and_no_refusal_changes_anything(
    steps: list[tuple[str, int, int]],
) -> None:
    world = World()
    for step in steps:
        before = world.manager.to_bytes()
        try:
            world.step(*step)
        except (NoSpace, InvalidRequest, NotFound):
            assert world.manager.to_bytes() == before
        assert world.manager.check() == []
    for node in range(NODES):
        lds = world.manager.storage(node).lds.values()
        used = sum((ld.regions - ld.free_regions) * ld.region_bytes for ld in lds)
        assert used == owned_bytes(world.manager, node)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS, restart_at=st.integers(0, 25))
def test_equal_histories_give_equal_bytes_also_over_a_restart(
    steps: list[tuple[str, int, int]], restart_at: int
) -> None:
    straight, restarted = World(), World()
    for number, step in enumerate(steps):
        if number == restart_at:
            restarted.manager = VolumeManager.from_bytes(restarted.manager.to_bytes())
        refusals: list[str] = []
        for world in (straight, restarted):
            try:
                world.step(*step)
            except StorageError as refusal:
                refusals.append(str(refusal))
        assert len(refusals) in (0, 2)
        assert len(set(refusals)) <= 1
    assert straight.manager.to_bytes() == restarted.manager.to_bytes()


@settings(deadline=None, max_examples=40)
@given(steps=STEPS)
def test_removing_every_volume_gives_every_chunklet_back(
    steps: list[tuple[str, int, int]],
) -> None:
    world = World()
    empty = [world.manager.storage(node).free_chunklets().tolist() for node in range(NODES)]
    for step in steps:
        try:
            world.step(*step)
        except StorageError:
            continue
    for volume in world.manager.list_volumes():
        world.manager.apply(world.manager.plan_remove(volume.name), 1_000)
    assert [world.manager.storage(n).free_chunklets().tolist() for n in range(NODES)] == empty


@settings(deadline=None, max_examples=40)
@given(steps=STEPS, group=st.sampled_from(GROUPS))
def test_exactly_the_free_bytes_of_a_node_can_be_created(
    steps: list[tuple[str, int, int]], group: ProvisioningGroup
) -> None:
    world = World()
    for step in steps:
        try:
            world.step(*step)
        except StorageError:
            continue
    manager = world.manager
    regions = manager.free_bytes(group.name, 0, REGION) // REGION

    def attempt(count: int) -> None:
        on_node_0 = np.zeros((count, 1), dtype=np.uint8)
        plan = manager.plan_create(
            "all", count * REGION, group.name, 1, 4 * KiB, 4, 4, "synced", on_node_0
        )
        manager.apply(plan, 2_000)

    try:
        attempt(regions + 1)
    except NoSpace:
        refused = True
    else:
        refused = False
    assert refused
    if regions:
        attempt(regions)
    assert manager.free_bytes(group.name, 0, REGION) == 0
    assert manager.check() == []
