"""plan: deliberate bugs in what snapshots hold: copy-outs, tables in transfers, replay, heirs."""

from __future__ import annotations

from typing import Any, Final

from scenario.mutant_kit import Mutation, Options, Patches, options
from sim.durable import DurableRegion, apply_sectors
from sim.kernel import Kernel, KernelNode
from sim.kernel_network import KernelNetwork
from sim.kernel_transfers import KernelTransfers
from sim.kernel_views import RegionViews
from snapshot.entry import ZERO, kind_of

VIEW_RULES: Final = ("I20", "I21", "I23")

_BUSY: Final = options(
    seconds=2, snapshot_every_ms=60, judge_views=True, writes_per_s=400, hosts=4, regions=2
)
_LOST: Final = options(
    seconds=3, snapshot_every_ms=60, judge_views=True,
    writes_per_s=300, hosts=4, regions=2, crashes=2,
    fault_every_ms=300, down_ms=400,
)  # fmt: skip
_REPLACED: Final = options(
    seconds=3, snapshot_every_ms=60, judge_views=True,
    writes_per_s=300, hosts=4, regions=2, replaces=3,
    fault_every_ms=300, down_ms=400,
)  # fmt: skip
_POWER: Final = options(
    seconds=3, snapshot_every_ms=60, judge_views=True,
    writes_per_s=300, hosts=4, regions=2, crashes=0, power_cut=3,
    fault_every_ms=300, down_ms=400,
)  # fmt: skip


def _overwrite_first(patch: Patches) -> None:
    real = RegionViews.__dict__["overwrite"]

    def overwrite(self: RegionViews, blocks: Any, record: Any, pages: Any) -> None:
        apply_sectors(blocks, record)
        real(self, blocks, record, pages)

    patch.put(RegionViews, "overwrite", overwrite)


def _once_per_epoch(patch: Patches) -> None:
    real = RegionViews.__dict__["overwrite"]
    written: dict[RegionViews, dict[int, int]] = {}

    def overwrite(self: RegionViews, blocks: Any, record: Any, pages: Any) -> None:
        epochs = written.setdefault(self, {})
        owed = [page for page in pages if epochs.get(page) != record.epoch]
        epochs.update(dict.fromkeys(pages, record.epoch))
        real(self, blocks, record, owed)

    patch.put(RegionViews, "overwrite", overwrite)


def _zero_page_is_nothing(patch: Patches) -> None:
    real = RegionViews.__dict__["overwrite"]

    def overwrite(self: RegionViews, blocks: Any, record: Any, pages: Any) -> None:
        real(self, blocks, record, pages)
        table = self.tables.get(record.cow_into)
        if table is not None:
            for page in pages:
                if kind_of(table.get(page)) == ZERO:
                    table.set(page, 0)

    patch.put(RegionViews, "overwrite", overwrite)


def _sent_without(patch: Patches, *, full: bool) -> None:
    begin, views = KernelTransfers.__dict__["send_begin"], KernelTransfers.__dict__["_page_views"]

    fulls: dict[Any, bool] = {}

    def page_views(self: KernelTransfers, key: Any, pages: list[int]) -> Any:
        was_full = fulls.get(key, False)
        return {} if was_full == full else views(self, key, pages)

    def noted(self: KernelTransfers, effect: Any) -> None:
        begin(self, effect)
        fulls[effect.copy.volume, effect.copy.region] = not effect.since[0]

    patch.put(KernelTransfers, "send_begin", noted)
    patch.put(KernelTransfers, "_page_views", page_views)


def _full_without(patch: Patches) -> None:
    _sent_without(patch, full=True)


def _delta_without(patch: Patches) -> None:
    _sent_without(patch, full=False)


def _stream_not_saved_again(patch: Patches) -> None:
    real = KernelTransfers.__dict__["_take_views"]

    def take_views(self: KernelTransfers, key: Any, *given: Any) -> None:
        stream = self._stream.pop(key, [])
        real(self, key, *given)
        self._stream[key] = stream

    patch.put(KernelTransfers, "_take_views", take_views)


def _own_newest_at_copy(patch: Patches) -> None:
    real = KernelNode.__dict__["_save_views"]

    def save_views(self: KernelNode, key: Any, blocks: Any, record: Any) -> None:
        numbered = record.cow_into
        record.cow_into = self.core.catalog.snapshots.newest(key[0])
        real(self, key, blocks, record)
        record.cow_into = numbered

    patch.put(KernelNode, "_save_views", save_views)


def _lost_in_replay(patch: Patches) -> None:
    real = DurableRegion.__dict__["rolled"]

    def rolled(self: DurableRegion, *given: Any) -> Any:
        state = real(self, *given)
        state.views = self.views.copy()
        return state

    patch.put(DurableRegion, "rolled", rolled)


def _heir_forgets(patch: Patches) -> None:
    real = KernelNetwork.__dict__["note"]

    def note(self: Kernel, node: int, what: str, *details: Any) -> None:
        if what == "region.opened":
            fields = dict(details[0])
            self.nodes[node].views.pop((fields["volume"], fields["region"]), None)
        real(self, node, what, *details)

    patch.put(KernelNetwork, "note", note)


def _view(
    name: str, broken: str, patch: Any, given: Options = _BUSY, *, number: str = "22",
    seeds: int = 40, quick: bool = False,
) -> Mutation:  # fmt: skip
    return Mutation(
        name, number, broken, VIEW_RULES, patch, profile="default", options=given, seeds=seeds,
        quick=quick,
    )  # fmt: skip


MUTATIONS: Final = (
    _view("copy-out-late", "a page is copied out after it was overwritten", _overwrite_first,
          quick=True),
    _view("copy-out-once-an-epoch", "a page is copied out once in an epoch of its region",
          _once_per_epoch),
    _view("zero-page-saved-as-nothing", "a page that had no contents leaves no exception",
          _zero_page_is_nothing),
    _view("full-transfer-without-views", "a full transfer brings no exceptions", _full_without,
          _REPLACED),
    _view("delta-without-views", "a transfer of what differs brings no exceptions",
          _delta_without, _LOST),
    _view("stream-before-page", "a joiner keeps what it saved of pages that had not arrived",
          _stream_not_saved_again, _REPLACED, seeds=200),
    _view("copy-owes-its-newest", "a copy saves for the newest snapshot that it knows",
          _own_newest_at_copy),
    _view("replay-saves-nothing", "records that are replayed save nothing", _lost_in_replay,
          _POWER),
    _view("heir-forgets-views", "a new owner begins without exceptions", _heir_forgets, _LOST),
)  # fmt: skip
