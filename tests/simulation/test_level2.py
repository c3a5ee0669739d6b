"""Whole nodes on virtual time: seeds that hold, and bugs put in on purpose that must be caught."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from base.errors import StorageError
from node.core import NodeCore
from node.daemon import Node
from node.disk_shelf import DiskShelf
from node.io_path import IoPath
from node.journal import Journal
from node.rebuild import Rebuild
from node.region_copy import RegionCopy
from node.region_store import RegionStore
from node.roles import COPY
from scenario.level2 import Level2Options, Violated, main, run_seed, swarm

# Each of these broke a rule once: (seed, what was wrong).
ONCE_BROKEN = [
    (47, "a joiner applied what its journal had no room for, and a checkpoint waited for that"),
    (252, "the same"),
    (354, "a write that came before the store was recovered waited for ever"),
]


@pytest.mark.simulation
@pytest.mark.parametrize(("seed", "what"), ONCE_BROKEN)
def test_seed_that_broke_a_rule_once_holds(seed: int, what: str) -> None:
    run_seed(seed, swarm(seed))


@pytest.mark.simulation
def test_same_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    traces = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "scenario.level2", "12", "--profile", "swarm", "--seconds", "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        traces += [line for line in done.stdout.splitlines() if line.startswith("trace ")]
    assert len(traces) == 2
    assert traces[0] == traces[1]


def test_another_seed_gives_another_trace() -> None:
    short = Level2Options(seconds=1, crashes=0, pauses=0, slow=0, stops=0)
    assert run_seed(1, short).trace != run_seed(2, short).trace


def test_broken_rule_is_printed_and_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RegionStore, "checkpoint", _fail_checkpoint)
    assert main(["1"]) == 1
    assert "I30 in seed 1" in capsys.readouterr().out


# ---------------------------------------------------------------- bugs on purpose

BUSY = Level2Options(writes_per_s=150, fault_every_ms=300, down_ms=300)


def caught(options: Level2Options, seeds: int, first: int = 0) -> str:
    """What the first seed that fails says; empty when all hold."""
    for seed in range(first, first + seeds):
        try:
            run_seed(seed, options)
        except (Violated, AssertionError, StorageError) as error:
            return str(error)
    return ""


def _acknowledge_early(copy: RegionCopy, *received: Any) -> None:
    """Mutant: a copy acknowledges what its journal does not hold yet."""
    _replicate(copy, *received)
    if copy.role == COPY:
        kept, copy.journalled = copy.journalled, copy.prepared
        copy.acknowledge()
        copy.journalled = kept


_replicate = RegionCopy.replicate


async def _fail_checkpoint(store: RegionStore) -> None:
    """Mutant: a task of the node fails."""
    raise LookupError(len(store.cache.pages))


def _answer_without_lease(
    io: IoPath, copy: RegionCopy, epoch: int, record: Any, token: Any, data: bytearray
) -> None:
    """Mutant: the lease is not checked again when the data is in hand (P4)."""
    io.answer(token, None, data)


def _restore_without_tail(node: Node, key: tuple[int, int], found: Any) -> None:
    """Mutant: recovery forgets what was prepared and not committed."""
    found.tail.clear()
    _restore(node, key, found)


_restore = Node._restore


def _sync_without_sync(
    journal: Journal, callback: Callable[[], None] | None = None, *, up_to: int | None = None
) -> None:
    """Mutant: the journal says that it is synced, and is not."""
    _request_sync(journal, None, up_to=up_to)
    if callback is not None:
        callback()


_request_sync = Journal.request_sync


def _always_intact(core: NodeCore, **settings: Any) -> None:
    """Mutant: a node that lost its memory with the power says that it has everything."""
    _core_init(core, **{**settings, "intact": True})


_core_init = NodeCore.__init__


async def _send_nothing(
    rebuild: Rebuild, copy: RegionCopy, peer: int, session: int, wanted: bytes
) -> None:
    """Mutant: the owner ends a transfer without having sent a page."""
    rebuild._io.core.joins.pages_copied(copy, peer, session, 0)
    rebuild._io.turn_soon()


async def _end_without_pages(store: RegionStore, key: tuple[int, int], session: int) -> None:
    region = store.region(key)
    for page in range(region.pages):
        if region.untouched(page):
            region.page_received(page)
    await _end_transfer(store, key, session)


_end_transfer = RegionStore.end_transfer


def test_acknowledging_before_the_journal_has_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegionCopy, "replicate", _acknowledge_early)
    assert "I9" in caught(BUSY, 3)


@pytest.mark.simulation
def test_answering_a_slow_read_without_a_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IoPath, "read_ended", _answer_without_lease)
    options = replace(
        BUSY, crashes=0, stops=0, slow=0, pause_ms=3000, read_weight=100,
        now_percent=0, read_us=50_000, destage_after_ms=20,
    )  # fmt: skip
    assert "may not" in caught(options, 8)


@pytest.mark.simulation
def test_recovery_that_forgets_the_tail_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "_restore", _restore_without_tail)
    options = replace(BUSY, pauses=0, slow=0, stops=0)
    assert "lost record" in caught(options, 6)


def test_sync_that_does_not_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "request_sync", _sync_without_sync)
    assert "not synced" in caught(replace(BUSY, durability_synced=True), 3)


@pytest.mark.simulation
def test_power_cut_that_a_node_does_not_admit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeCore, "__init__", _always_intact)
    options = replace(BUSY, crashes=0, pauses=0, slow=0, stops=0, power=2, fua_percent=0)
    assert "I8" in caught(options, 12)


@pytest.mark.simulation
def test_transfer_without_pages_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rebuild, "_copy", _send_nothing)
    monkeypatch.setattr(RegionStore, "end_transfer", _end_without_pages)
    assert caught(replace(BUSY, down_ms=3000), 6)


@pytest.mark.simulation
def test_disks_that_lose_destaged_writes_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiskShelf, "write_now", lambda *_: True)
    assert caught(replace(BUSY, destage_after_ms=20), 3)
