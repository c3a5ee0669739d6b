"""Level 2: the disks of one node rot and fail; hosts read right bytes, and copies stay equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from base.errors import MediaError, StorageError
from base.units import NS_PER_MS, NS_PER_S
from node.disk_shelf import disk_name
from node.page_checksums import BlockSums
from node.page_repair import PageRepair
from node.stored_region import StoredRegion
from scenario.goals import GOALS
from scenario.level2 import Level2Options, Level2Run, world
from scenario.level2_media import MEDIA
from scenario.run_one import perform
from scenario.runs import PASSED, VIOLATED, FaultEvent, RunRequest, RunResult
from scenario.state_checks import Violated
from sim.device import SimDisk
from transport.messages import PageReply

QUIET = Level2Options(
    crashes=False, pauses=False, slow=False, stops=False, destage_after_ms=20, read_weight=60
)


class BadDisks(Level2Run):
    """Nothing but the media of node 1 is faulty. One page of a file in four is hit now and then."""

    knows_all_faults = False

    victims: tuple[int, ...] = (1,)
    latent = True

    def _start_hosts(self) -> None:
        super()._start_hosts()
        self.rng = self.cluster.streams.stream("media")
        self._end_ns = self.loop.now_ns + self.options.seconds * NS_PER_S
        self._soon()

    def _soon(self) -> None:
        self.loop.call_at_ns(
            self.loop.now_ns + 5 * NS_PER_MS, self._spoil, context=self.loop.outside
        )

    def _spoil(self) -> None:
        if self.loop.now_ns >= self._end_ns:
            return
        for victim in self.victims:
            sim = self.nodes[victim]
            for number in range(len(sim.names)):
                self._spoil_disk(sim.disks[disk_name(number)])
        self._soon()

    def _spoil_disk(self, disk: SimDisk) -> None:
        pages = sorted(disk._present.pages)
        if not pages:
            return
        at = pages[self.rng.below(len(pages))] * 4096
        if self.latent and self.rng.chance(1, 2):
            disk.latent_error(at + self.rng.below(8) * 512, 512)
        else:
            disk.rot(at + self.rng.below(4096), 1 + self.rng.below(255))


def repaired(run: Level2Run) -> int:
    found = 0
    for sim in run.nodes:
        assert sim.node is not None
        found += sim.node.store.blocks.counters.repaired_pages
    return found


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(4))
def test_hosts_and_copies_never_see_what_the_disks_of_one_node_spoil(seed: int) -> None:
    run = BadDisks(seed, QUIET)
    with world(run):
        run.run()
        assert repaired(run) > 0


def caught(run: Level2Run) -> str:
    try:
        with world(run):
            run.run()
    except (Violated, StorageError) as error:
        return str(error)
    return ""


@pytest.mark.simulation
def test_taking_what_a_disk_says_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockSums, "is_right", lambda *_: True)
    monkeypatch.setattr(BlockSums, "wrong_blocks", lambda *_: [])
    assert any(caught(BadDisks(seed, QUIET)) for seed in (6, 7))


@pytest.mark.simulation
def test_answering_with_a_page_that_was_not_checked_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both sides: the one that has it does not look, and the one that gets it does not either."""

    async def unchecked(self: PageRepair, peer: int, message: Any, region: StoredRegion) -> None:
        data = bytearray(region.page_bytes)
        at = region.base + message.page * region.page_bytes
        await self._store.shelf.read(region.plans, at, memoryview(data))
        self._answering -= 1
        self._io.bus.send(peer, PageReply(message.request, 0, region.applied_seq, data))

    monkeypatch.setattr(PageRepair, "_answer", unchecked)
    monkeypatch.setattr(PageRepair, "_fits", staticmethod(lambda *_: True))
    assert any(caught(BadDisks(seed, QUIET)) for seed in range(4))


@pytest.mark.simulation
def test_a_page_that_no_copy_has_is_an_error_that_names_it() -> None:
    run = BadDisks(1, replace(QUIET, read_weight=0, seconds=2))
    run.victims = ()
    run.faults.allow_loss = True
    with world(run):
        run.run()
        for sim in run.nodes:
            for number in range(len(sim.names)):
                disk = sim.disks[disk_name(number)]
                for page in sorted(disk._present.pages):
                    disk.rot(page * 4096 + 7)
        sim = next(each for each in run.nodes if each.node and (1, 0) in each.node.store)
        assert sim.node is not None
        assert sim.group is not None
        store = sim.node.store
        page = next(at for at, state in enumerate(store.regions[1, 0].states or b"") if state == 2)
        size = store.regions[1, 0].page_bytes
        into = memoryview(bytearray(size))

        async def read() -> str:
            with pytest.raises(MediaError) as raised:
                await store.read((1, 0), page * size, size, into)
            return str(raised.value)

        task = sim.group.start(read(), name="read")
        run.wait("the read ends", 5, task.done)
        assert task.result().startswith(
            f"volume 1 region 0 page {page}: no copy has right bytes of it any more; here: volume 1"
        )
        assert store.blocks.counters.lost_pages == 1


# ---------------------------------------------------------------- as faults of a run

BUSY = (
    ("nodes", 3), ("seconds", 3), ("regions", 2), ("writes_per_s", 150), ("read_weight", 60),
    ("destage_after_ms", 20), ("codec", False), ("mirrored_disks", False),
)  # fmt: skip
DONE = {
    "disk_rot": "a page came back from another copy",
    "disk_latent": "a page came back from another copy",
    "disk_lost_write": "a disk lost a write",
    "disk_misdirect": "a write landed elsewhere",
    "disk_stale_read": "a read returned what was there before",
}


def struck(kind: str, node: int = 1, at_ms: int = 500, for_ms: int = 300) -> list[FaultEvent]:
    """All over the disks of a node: their first 32 KiB are what is used of them."""
    events = []
    for place in range(8):
        for disk in range(4):
            details: tuple[tuple[str, int | str], ...] = (("device", f"disk{disk}"),)
            if kind == "disk_rot":
                details += (("offset", place * 4096 + 77), ("flip", 4))
            elif kind == "disk_latent":
                details += (("offset", place * 4096), ("length", 512))
            elif kind == "disk_misdirect":
                details += (("shift", 4096),)
            elif kind == "disk_stale_read":
                details += (("count", 4),)
            events.append(FaultEvent(at_ms + 20 * place, kind, (node,), for_ms, details))
    return events


def after(*faults: FaultEvent, mirrored: bool = False, mutation: str = "") -> RunResult:
    options = (*BUSY[:-1], ("mirrored_disks", mirrored))
    return perform(RunRequest(2, "default", 4, mutation, faults=faults, options=options))


@pytest.mark.simulation
@pytest.mark.parametrize("kind", MEDIA)
def test_damage_happens_and_a_scrub_ends_it(kind: str) -> None:
    result = after(*struck(kind))
    assert result.verdict == PASSED, result.text
    assert DONE[kind] in result.goals
    assert kind == "disk_stale_read" or "a scrub found damage and mended it" in result.goals


@pytest.mark.simulation
@pytest.mark.parametrize("kind", ["disk_rot", "disk_latent", "disk_lost_write", "disk_misdirect"])
def test_damage_under_a_mirror_is_mended_from_it(kind: str) -> None:
    one = [event for event in struck(kind) if event.detail("device") == "disk0"]
    result = after(*one, mirrored=True)
    assert result.verdict == PASSED, result.text
    assert "a block was mended from its mirror" in result.goals


@pytest.mark.simulation
def test_no_other_node_is_struck_before_the_damage_is_scrubbed() -> None:
    rot = struck("disk_rot")
    early, late = FaultEvent(900, "kill", (2,), 100), FaultEvent(2500, "kill", (2,), 100)
    others = struck("disk_rot", node=0, at_ms=600)[:4]
    listed = sorted([*rot, *others, early, late], key=lambda event: event.at_ms)
    performed = after(*listed).faults
    assert early not in performed
    assert late in performed
    assert {event.nodes for event in performed if event.kind == "disk_rot"} == {(1,)}


@pytest.mark.simulation
def test_what_the_damaged_node_itself_suffers_meanwhile_is_within_the_budget() -> None:
    kill = FaultEvent(700, "kill", (1,), 200)
    result = after(*sorted([*struck("disk_rot"), kill], key=lambda event: event.at_ms))
    assert (result.verdict, kill in result.faults) == (PASSED, True), result.text


@pytest.mark.simulation
def test_a_profile_of_damaged_media_sees_that_nothing_is_compared() -> None:
    results = [perform(RunRequest(2, "media", seed, "no-checksums")) for seed in range(4)]
    assert VIOLATED in [result.verdict for result in results]


@pytest.mark.simulation
def test_profile_of_damaged_media_reaches_its_goals() -> None:
    reached = {goal for seed in range(12) for goal in perform(RunRequest(2, "media", seed)).goals}
    assert reached >= {*DONE.values(), "a block was mended from its mirror"} - {
        DONE["disk_stale_read"]  # about one seed in twenty
    }
    assert {*DONE.values(), "a block was mended from its mirror"} <= set(GOALS[2])
