"""Random histories of the catalog: what must hold after every entry, whatever came before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from base.ids import NOBODY
from cluster import entries as log
from cluster.catalog import Catalog, Liveness
from cluster.failover import plan_recruits
from volume.physical_disk import build_inventory
from volume.provisioning_group import ProvisioningGroup

NODES = 5
DOMAINS = (0, 1, 2, 3, 3)
PAGE = 4096
REGION = 4 * 4 * PAGE
INVENTORY = log.plain_inventory(
    build_inventory(
        cages=1, sleds_per_cage=1, disk_bytes=24 * REGION, chunklet_bytes=4 * REGION,
        spare_chunklets=0,
    ).to_tuple()
)  # fmt: skip
GROUP = ProvisioningGroup("g", row_size=1, step_bytes=PAGE)

Step = tuple[int, int, int, int]
steps = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 7), st.integers(0, 7), st.integers(0, 3)),
    max_size=40,
)


def volume_entry(name: str, regions: int, copies: int = 2, owner: int = -1) -> log.CreateVolume:
    return log.CreateVolume(name, regions * REGION, "g", copies, PAGE, 4, 4, "synced", owner)


def opening() -> list[log.Entry]:
    nodes = tuple((node, DOMAINS[node]) for node in range(NODES))
    form = log.FormCluster("test", nodes, (log.plain_group(GROUP.to_tuple()),))
    ups = [log.NodeUp(node, 1, False, True, INVENTORY) for node in range(NODES)]
    return [form, *ups, volume_entry("a", 17), volume_entry("b", 6, copies=1)]


def entry_of(catalog: Catalog, step: Step) -> log.Entry:
    """An entry that often has an effect and is sometimes void, stale or impossible."""
    kind, a, b, c = step
    node, other = a % NODES, b % NODES
    life = catalog.node_state(node).incarnation
    volumes = sorted(catalog.volumes)
    number = volumes[b % len(volumes)] if volumes else 1
    if kind <= 2:
        return log.NodeDown(node, life - (c == 3))
    if kind <= 6:
        known = max(0, catalog.version - 3 * b)
        return log.NodeUp(node, max(0, life + 1 - (b == 7)), c in (1, 2), c == 3, INVENTORY, known)
    if kind == 7:
        return log.CutPair(node, life, other, catalog.node_state(other).incarnation)
    if kind == 8 and volumes and c:
        return copy_entry(catalog, volumes[b % len(volumes)], a, c)
    if kind <= 9:
        planned = plan_recruits(catalog, 2 + a)
        if planned:
            return planned[0]
        regions = np.arange(12, dtype="<u4")
        return log.recruits(number, regions, (regions + a) % 8)
    if kind == 14:
        return volume_entry("abc"[c % 3], 3 + a, 1 + b % 2, a % 7 - 1)
    if kind == 15:
        return log.RemoveVolume(number) if c == 0 else log.GrowVolume(number, (9 + a * b) * REGION)
    if number not in catalog.volumes:
        return log.RemoveVolume(number)
    table = catalog.volumes[number].table
    regions = np.arange(0, len(table), 1 + c)
    # Some rows carry an older epoch: a joiner's answer from before a failover.
    epochs = table.epoch[regions] - (regions % 5 == a)
    if kind <= 11:
        return log.AdmitCopies(number, log.pack_rows(regions, table.joiner[regions], epochs))
    if kind == 12:
        return log.CancelJoins(number, log.pack_rows(regions, table.joiner[regions], epochs))
    return log.MoveOwners(number, log.pack_rows(regions, (regions + a) % NODES, epochs))


def copy_entry(catalog: Catalog, number: int, a: int, c: int) -> log.Entry:
    """Copies that change places, give their space back, or open at an operator's word."""
    table = catalog.volumes[number].table
    regions = np.arange(len(table))
    if c == 1:
        return log.rehomes(number, regions, (regions + a) % NODES)
    nodes = (regions + a) % NODES
    rows = log.pack_rows(regions, nodes, table.epoch)
    if c == 2:
        return log.ReleaseCopies(number, rows) if a % 2 else log.DropCopies(number, rows)
    slots = table.slots_of(regions, nodes.astype(np.uint8))
    held = np.where(slots >= 0, table.slot_epoch[regions, slots], 0)
    return log.ForceOpen(number, rows, held.astype("<u4").tobytes())


def row_tuples(catalog: Catalog) -> dict[tuple[int, int], tuple[int, ...]]:
    """(owner, in_sync, joiner, epoch, version, offline) of every region."""
    found = {}
    for number, volume in catalog.volumes.items():
        t = volume.table
        columns = (t.owner, t.in_sync, t.joiner, t.epoch, t.version, t.offline)
        for region, row in enumerate(zip(*(each.tolist() for each in columns), strict=True)):
            found[number, region] = row
    return found


def check_state(catalog: Catalog) -> None:
    assert catalog.check() == []
    for owner, in_sync, joiner, _, _, offline in row_tuples(catalog).values():
        assert offline or in_sync >> owner & 1
        holders = [node for node in range(NODES) if in_sync >> node & 1]
        assert len({DOMAINS[node] for node in holders}) == len(holders)
        if joiner != NOBODY:  # it may replace a member of its failure domain, never the owner
            assert DOMAINS[joiner] != DOMAINS[owner]
        holders += [joiner] if joiner != NOBODY else []
        if not offline:
            assert all(catalog.node_state(n).liveness is Liveness.UP for n in holders)


def last_to_leave(catalog: Catalog) -> dict[tuple[int, int], tuple[int, int]]:
    """(node, version) of every region: whose whole copy left last, and when."""
    return {
        (number, region): pair
        for number, volume in catalog.volumes.items()
        for region, pair in enumerate(
            zip(volume.table.left.tolist(), volume.table.left_version.tolist(), strict=True)
        )
    }


def goes_back(entry: log.Entry, in_sync: int, now_in_sync: int, last: tuple[int, int]) -> bool:
    """To the copy that left when the only one that stayed could not have acted without it."""
    return (
        isinstance(entry, log.NodeUp)
        and not entry.intact
        and not entry.blank
        and in_sync == 1 << entry.node
        and last[0] != NOBODY
        and now_in_sync == 1 << last[0]
        and last[1] > entry.known
    )


def check_step(
    before: dict, after: dict, entry: log.Entry, index: int, left: dict[Any, tuple[int, int]]
) -> None:
    for key in sorted(before.keys() & after.keys()):
        owner, in_sync, joiner, epoch, version, offline = before[key]
        now_owner, now_in_sync, now_joiner, now_epoch, now_version, now_offline = after[key]
        assert now_epoch >= epoch
        if (owner, in_sync, offline) != (now_owner, now_in_sync, now_offline):
            assert now_epoch == epoch + 1
        if joiner not in (NOBODY, now_joiner):
            assert now_epoch == epoch + 1  # a join that ends is fenced
        assert now_version in (version, index)
        if before[key] != after[key]:
            assert now_version == index
        forced = isinstance(entry, log.ForceOpen)
        if forced and offline and not now_offline:
            assert now_in_sync == 1 << now_owner
            continue
        if goes_back(entry, in_sync, now_in_sync, left[key]):
            assert now_owner == left[key][0]
            continue
        if offline and not now_offline:
            assert in_sync >> now_owner & 1
            assert now_in_sync & ~in_sync == 0
        gained = now_in_sync & ~in_sync
        if gained:
            assert isinstance(entry, log.AdmitCopies)
            assert gained == 1 << joiner
            assert now_in_sync.bit_count() >= in_sync.bit_count()
            packed = {int(r["region"]): int(r["epoch"]) for r in log.unpack_rows(entry.rows)}
            assert packed[key[1]] == epoch


def bytes_at(catalog: Catalog, version: int) -> bytes:
    """The catalog's bytes as if it were at that version."""
    copy = Catalog.from_bytes(catalog.to_bytes())
    copy.version = version
    return copy.to_bytes()


def run(history: list[Step], checked: bool) -> tuple[Catalog, list[bytes]]:
    catalog = Catalog()
    payloads: list[bytes] = []
    for entry in opening():
        payloads.append(log.encode(entry))
        assert catalog.apply(len(payloads), payloads[-1]).refusal is None
    for step in history:
        entry = entry_of(catalog, step)
        payloads.append(log.encode(entry))
        index = len(payloads)
        before = row_tuples(catalog) if checked else {}
        left = last_to_leave(catalog) if checked else {}
        image = bytes_at(catalog, index) if checked else b""
        applied = catalog.apply(index, payloads[-1])
        if checked:
            check_state(catalog)
            check_step(before, row_tuples(catalog), entry, index, left)
            assert applied.refusal is None or catalog.to_bytes() == image
    return catalog, payloads


@settings(deadline=None, max_examples=60)
@given(steps)
def test_invariants_hold_after_every_entry_and_refusals_change_nothing(history: list[Step]) -> None:
    run(history, checked=True)


@settings(deadline=None, max_examples=40)
@given(steps, st.integers(0, 60))
def test_snapshot_and_the_rest_of_the_log_equal_the_whole_log(
    history: list[Step], cut: int
) -> None:
    whole, payloads = run(history, checked=False)
    restored = Catalog()
    for index, payload in enumerate(payloads, start=1):
        restored.apply(index, payload)
        if index == cut:
            restored = Catalog.from_bytes(restored.to_bytes())
    assert restored.to_bytes() == whole.to_bytes()


def refusals(payloads: list[bytes]) -> list[bool]:
    """Which entries changed no row when they were applied, or passed over some of theirs."""
    catalog = Catalog()
    found = []
    for index, payload in enumerate(payloads, start=1):
        before = row_tuples(catalog)
        result = catalog.apply(index, payload).result
        skipped = isinstance(result, dict) and result.get("skipped", 0) > 0
        found.append(skipped or row_tuples(catalog) == before)
    return found


@settings(deadline=None, max_examples=40)
@example([(8, 5, 2, 3), (3, 7, 2, 3), (0, 4, 0, 2), (3, 6, 0, 3), (8, 6, 5, 3)])  # granted in part
@given(steps)
def test_entries_of_earlier_lives_and_epochs_are_void_when_repeated(history: list[Step]) -> None:
    catalog, payloads = run(history, checked=False)
    last = len(payloads)
    for node in range(NODES):  # every row moves to a new epoch, every life is over
        life = catalog.node_state(node).incarnation
        last += 1
        catalog.apply(last, log.encode(log.NodeUp(node, life + 1, True, False, INVENTORY)))
    before = row_tuples(catalog)
    fenced = (
        log.NodeUp, log.NodeDown, log.CutPair, log.AdmitCopies, log.CancelJoins, log.MoveOwners,
        log.ReleaseCopies, log.ForceOpen,
    )  # fmt: skip
    # An opening that was refused, its node being down, may well be asked for again and granted; so
    # may rows of one that was granted in part.
    refused = refusals(payloads)
    repeats = [
        payload
        for at, payload in enumerate(payloads)
        if isinstance(entry := log.decode(payload), fenced)
        and not (isinstance(entry, log.ForceOpen) and refused[at])
    ]
    for payload in repeats:
        last += 1
        catalog.apply(last, payload)
    after = row_tuples(catalog)
    assert after == before


def test_equal_logs_give_equal_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    history = [(i * 7 % 16, i * 5 % 8, i * 3 % 8, i % 4) for i in range(120)]
    catalog, payloads = run(history, checked=False)
    path = tmp_path / "log"
    path.write_bytes(b"".join(len(p).to_bytes(4, "little") + p for p in payloads))
    program = (
        "import sys, hashlib\n"
        "from cluster.catalog import Catalog\n"
        "data, catalog, index, at = open(sys.argv[1], 'rb').read(), Catalog(), 0, 0\n"
        "while at < len(data):\n"
        "    size = int.from_bytes(data[at:at + 4], 'little')\n"
        "    index += 1\n"
        "    catalog.apply(index, data[at + 4:at + 4 + size])\n"
        "    at += 4 + size\n"
        "sys.stdout.buffer.write(catalog.to_bytes())\n"
    )
    root = Path(__file__).parents[2]
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            cwd=root,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        assert done.stdout == catalog.to_bytes()


def test_the_histories_reach_every_state_that_matters() -> None:
    """A guard for the tests above: a generator that never gets anywhere proves nothing."""
    reached: dict[str, int] = {"refused": 0, "offline": 0, "lost": 0, "joining": 0, "opened": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        history = [
            (int(k), int(a), int(b), int(c))
            for k, a, b, c in zip(
                rng.integers(0, 16, 40), rng.integers(0, 8, 40), rng.integers(0, 8, 40),
                rng.integers(0, 4, 40), strict=True,
            )
        ]  # fmt: skip
        _, payloads = run(history, checked=False)
        again = Catalog()
        was_offline = False
        for index, payload in enumerate(payloads, start=1):
            refused = again.apply(index, payload).refusal is not None
            reached["refused"] += refused
            rows = list(row_tuples(again).values())
            offline = sum(row[5] for row in rows)
            reached["opened"] += was_offline and not offline
            was_offline = bool(offline)
            reached["offline"] += bool(offline)
            reached["lost"] += any(row[5] and row[1] == 0 for row in rows)
            reached["joining"] += any(row[2] != NOBODY for row in rows)
    assert all(count > 10 for count in reached.values()), reached
