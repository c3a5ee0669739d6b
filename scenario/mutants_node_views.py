"""plan: deliberate bugs in snapshots of whole nodes: copy-out, transfers, restarts, removal."""

from __future__ import annotations

from typing import Any, Final

from base.device import Buffer
from node.checkpoint import COMPLETE, Key
from node.incoming_views import IncomingViews
from node.kept_pages import KeptPages
from node.region_pages import RegionPages
from node.stored_region import StoredRegion
from node.view_transfer import ViewTransfer
from scenario.mutant_kit import Mutation, Options, Patches, options

RULES: Final = ("I20", "I21", "I23", "I9", "code")

_CALM: Final = options(
    nodes=3, seconds=2, regions=2, writes_per_s=200, snapshot_every_ms=120, destage_after_ms=20,
    crashes=0, pauses=0, slow=0, stops=0,
)  # fmt: skip
_KILLS: Final = options(
    nodes=3, seconds=3, regions=2, writes_per_s=200, snapshot_every_ms=120, destage_after_ms=20,
    crashes=3, pauses=0, slow=0, stops=0, fault_every_ms=300, down_ms=300,
)  # fmt: skip


def _keeps_late(patch: Patches) -> None:
    real = RegionPages.__dict__["apply"]
    keep = StoredRegion.__dict__["keep"]

    def kept(self: StoredRegion, record: Any, lsn: int) -> None:
        """Not yet."""

    def applied(self: RegionPages, record: Any, lsn: int) -> None:
        real(self, record, lsn)
        if record.cow_into:
            keep(self, record, lsn)

    patch.put(StoredRegion, "keep", kept)
    patch.put(RegionPages, "apply", applied)


def _joiner_keeps_late(patch: Patches) -> None:
    real = StoredRegion.__dict__["keep"]

    def keep(self: StoredRegion, record: Any, lsn: int) -> None:
        if self.session == COMPLETE:
            real(self, record, lsn)

    patch.put(StoredRegion, "keep", keep)


def _joiner_keeps_early(patch: Patches) -> None:
    real = IncomingViews.__dict__["begin"]

    def begin(self: IncomingViews, key: Key, session: int, as_of: int) -> None:
        real(self, key, session, 0)

    def put_received(self: KeptPages, view: int, index: int, data: Buffer | None) -> int | None:
        if self.views.owes(self.charged(view), index):
            return put(self, view, index, data)  # type: ignore[no-any-return]
        return None

    put = KeptPages.__dict__["put_received"]
    patch.put(IncomingViews, "begin", begin)
    patch.put(KeptPages, "put_received", put_received)


def _no_checkpoint(patch: Patches) -> None:
    async def end(self: IncomingViews, key: Key, session: int) -> bool:
        region = self._running(key, session)
        region.views_whole = True
        if region.kept is None:
            return False
        region.kept.ended_filling()
        return bool(region.kept.views.tables)

    patch.put(IncomingViews, "end", end)


def _half_the_list(patch: Patches) -> None:
    real = ViewTransfer.__dict__["_begin"]

    def begin(self: ViewTransfer, *given: Any) -> Any:
        found = real(self, *given)
        return found and found[: len(found) // 2]

    patch.put(ViewTransfer, "_begin", begin)


def _handed_to_nobody(patch: Patches) -> None:
    def older(self: KeptPages, view: int) -> int:
        return 0

    patch.put(KeptPages, "_older", older)


def _late_record_owes_nobody(patch: Patches) -> None:
    real = KeptPages.__dict__["charged"]

    def charged(self: KeptPages, view: int) -> int:
        found: int = real(self, view)
        return found if found == view else 0

    patch.put(KeptPages, "charged", charged)


def _view(
    name: str, broken: str, patch: Any, given: Options = _CALM, *, seeds: int = 12,
    number: str = "22",
) -> Mutation:  # fmt: skip
    return Mutation(
        name, number, broken, RULES, patch, level=2, profile="default", options=given, seeds=seeds
    )


MUTATIONS: Final = (
    _view("node-copies-out-late", "a node keeps a page after the record has overwritten it",
          _keeps_late),
    _view("joiner-keeps-late", "a joiner keeps nothing until its transfer has ended",
          _joiner_keeps_late, _KILLS, seeds=40),
    _view("joiner-keeps-early", "a joiner believes what it has kept of pages that were sent later",
          _joiner_keeps_early, _KILLS, seeds=40),
    _view("views-in-no-checkpoint", "a transfer ends before a checkpoint has its views",
          _no_checkpoint, _KILLS, seeds=40),
    _view("half-the-views", "a transfer brings half of the exceptions", _half_the_list, _KILLS),
    _view("handed-to-nobody", "what a removed snapshot has is freed", _handed_to_nobody),
    _view("late-record-owes-nobody", "a record that owes a removed snapshot owes nobody",
          _late_record_owes_nobody, seeds=40),
)  # fmt: skip
