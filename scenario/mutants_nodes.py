"""plan: deliberate bugs in whole nodes: journal, recovery, transfers of pages, disks, checksums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from node.core import NodeCore
from node.daemon import Node
from node.disk_shelf import DiskShelf
from node.io_path import IoPath
from node.journal import Journal
from node.page_checksums import BlockSums
from node.page_repair import PageRepair
from node.rebuild import Rebuild
from node.region_copy import RegionCopy
from node.region_store import RegionStore
from node.roles import COPY
from scenario.mutant_kit import Mutation, Patches, options


def _copy_acks_early(patch: Patches) -> None:
    real = RegionCopy.__dict__["replicate"]

    def replicate(self: RegionCopy, *received: Any) -> None:
        real(self, *received)
        if self.role == COPY:
            kept, self.journalled = self.journalled, self.prepared
            self.acknowledge()
            self.journalled = kept

    patch.put(RegionCopy, "replicate", replicate)


def _check_lease_once(patch: Patches) -> None:
    def ended(
        self: IoPath, copy: RegionCopy, epoch: int, record: Any, token: Any, data: bytearray
    ) -> None:
        self.answer(token, None, data)

    patch.put(IoPath, "read_ended", ended)


def _forget_tail(patch: Patches) -> None:
    real = Node.__dict__["_restore"]

    def restore(self: Node, key: tuple[int, int], found: Any) -> None:
        found.tail.clear()
        real(self, key, found)

    patch.put(Node, "_restore", restore)


def _sync_nothing(patch: Patches) -> None:
    real = Journal.__dict__["request_sync"]

    def request(
        self: Journal, callback: Callable[[], None] | None = None, *, up_to: int | None = None
    ) -> None:
        real(self, None, up_to=up_to)
        if callback is not None:
            callback()

    patch.put(Journal, "request_sync", request)


def _sync_what_waits(patch: Patches) -> None:
    def sync(self: IoPath, effect: Any) -> None:
        assert self.store is not None
        copy = effect.copy

        def synced() -> None:
            copy.record_synced(effect.seq, effect.epoch, effect.era)
            self.turn_soon()

        self.store.journal.request_sync(synced)

    patch.put(IoPath, "_on_sync_record", sync)


def _always_intact(patch: Patches) -> None:
    real = NodeCore.__dict__["__init__"]

    def init(self: NodeCore, **settings: Any) -> None:
        real(self, **{**settings, "intact": True})

    patch.put(NodeCore, "__init__", init)


def _send_no_pages(patch: Patches) -> None:
    real = RegionStore.__dict__["end_transfer"]

    async def nothing(self: Rebuild, copy: RegionCopy, peer: int, session: int, *_: Any) -> None:
        self._io.core.joins.pages_copied(copy, peer, session, 0)
        self._io.turn_soon()

    async def end(self: RegionStore, key: tuple[int, int], session: int) -> None:
        region = self.region(key)
        for page in range(region.pages):
            if region.untouched(page):
                region.page_received(page)
        await real(self, key, session)

    patch.put(Rebuild, "_copy", nothing)
    patch.put(RegionStore, "end_transfer", end)


def _lose_destaged(patch: Patches) -> None:
    patch.put(DiskShelf, "write_now", lambda *_: True)


def _no_checksums(patch: Patches) -> None:
    patch.put(BlockSums, "is_right", lambda *_: True)
    patch.put(BlockSums, "wrong_blocks", lambda *_: [])


def _checksum_without_address(patch: Patches) -> None:
    real = BlockSums.__dict__["of"]
    patch.put(BlockSums, "of", lambda self, _block, data: real(self, 0, data))


def _repair_with_anything(patch: Patches) -> None:
    real = PageRepair.__dict__["_on_reply"]

    def reply(self: PageRepair, peer: int, message: Any) -> None:
        real(self, peer, replace(message, data=bytes(len(message.data))))

    patch.put(PageRepair, "_on_reply", reply)
    patch.put(PageRepair, "_fits", staticmethod(lambda *_: True))


def _trim_too_far(patch: Patches) -> None:
    patch.put(RegionStore, "_trim_point", lambda self: self.journal.next_lsn)


BUSY: Final = options(writes_per_s=150, fault_every_ms=300, down_ms=300)
KILLS: Final = (*BUSY, *options(pauses=0, slow=0, stops=0))

ROTTEN: Final = (
    *BUSY,
    *options(crashes=0, rot=10, lost_writes=2, destage_after_ms=20, seconds=4, writes_per_s=30,
             hosts=4, read_weight=90),
)  # fmt: skip

MUTATIONS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "node-acks-early", "10", "a node acknowledges what its journal does not hold", ("I9",),
        _copy_acks_early, level=2, profile="default", options=BUSY, seeds=6,
    ),
    Mutation(
        "node-checks-lease-once", "5", "a slow read is answered without a second look at the lease",
        ("I5",), _check_lease_once, level=2, profile="default", seeds=20,
        options=(*KILLS, *options(crashes=0, pauses=1, pause_ms=3000, read_weight=100,
                                  now_percent=0, read_us=50_000, destage_after_ms=20)),
    ),
    Mutation(
        "recovery-forgets-tail", "own", "recovery forgets what was prepared", ("I9", "I8"),
        _forget_tail, level=2, profile="default", options=KILLS, seeds=12,
    ),
    Mutation(
        "node-syncs-nothing", "stretch", "the journal says that it is synced, and is not",
        ("I9",), _sync_nothing, level=2, profile="default", seeds=6,
        options=(*BUSY, *options(durability_synced=True)),
    ),
    Mutation(
        "sync-what-waits", "own", "a sync waits for the room that only its end would make",
        ("I26",), _sync_what_waits, level=2, profile="default", seeds=90,
        options=options(seconds=3, hosts=3, regions=2, writes_per_s=400, read_weight=5,
                        fua_percent=50, sync_us=10_000, journal_kib=48),
    ),
    Mutation(
        "always-intact", "own", "a node whose memory went with the power says that it has all",
        ("I8", "I9"), _always_intact, level=2, profile="default", seeds=24,
        options=(*KILLS, *options(crashes=0, power=2, fua_percent=0)),
    ),
    Mutation(
        "send-no-pages", "own", "a transfer ends without its pages", ("I11", "I1", "I2", "code"),
        _send_no_pages, level=2, profile="default", seeds=12,
        options=(*BUSY, *options(down_ms=3000)),
    ),
    Mutation(
        "lose-destaged", "own", "destaged pages do not reach the disks",
        ("I2", "I11", "I26", "I28"),
        _lose_destaged, level=2, profile="default", seeds=6,
        options=(*BUSY, *options(destage_after_ms=20)),
    ),
    Mutation(
        "trim-too-far", "own", "the journal is trimmed past pages that are not on disk yet",
        ("I8", "I9", "I2", "I11", "code"), _trim_too_far, level=2, profile="default", seeds=20,
        options=(*KILLS, *options(destage_after_ms=2000)),
    ),
    Mutation(
        "no-checksums", "stretch", "what a disk gives back is taken as it is",
        ("I3", "I2", "I11", "I28"), _no_checksums, level=2, profile="default", seeds=30,
        options=ROTTEN,
    ),
    Mutation(
        "repair-with-anything", "stretch", "a bad answer takes the place of a page that was lost",
        ("I3", "I2", "I11", "I28"), _repair_with_anything, level=2, profile="default", seeds=40,
        options=ROTTEN,
    ),
    Mutation(
        "checksum-without-address", "stretch", "a checksum does not cover where its block belongs",
        ("I3", "I28", "I2", "I26"), _checksum_without_address, level=2, profile="default", seeds=60,
        options=(*BUSY, *options(crashes=0, misdirected=6, destage_after_ms=20)),
    ),
)  # fmt: skip
