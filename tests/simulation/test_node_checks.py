"""Rules on whole nodes, broken by hand once, and seen; and what is no break of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.destage import Destager
from scenario.level2 import run_seed
from scenario.level2_options import LEVEL2, Level2Options
from scenario.node_checks import Kept, NodeChecks
from scenario.state_checks import Violated

KEY = (1, 0)


def checks_with(kept: Kept) -> NodeChecks:
    checks = NodeChecks(0)
    checks.cluster = cast(Any, SimpleNamespace(loop=SimpleNamespace(now_ns=0, stop=lambda: None)))
    checks._kept[2] = {KEY: kept}
    checks._restored[2] = {}
    return checks


def restored(checks: NodeChecks, committed: int) -> None:
    copy = SimpleNamespace(volume=1, region=0, committed=committed, complete=True, tail=list)
    checks._check_restored(cast(Any, SimpleNamespace(number=2)), cast(Any, copy))


def test_copy_that_a_crash_took_behind_its_transfer_is_seen() -> None:
    kept = Kept(7, (40, cast(Any, None)))
    kept.ended = True
    with pytest.raises(Violated, match=r"I9 .* was restored behind its base 7"):
        restored(checks_with(kept), 3)


def test_record_that_a_crash_took_is_seen() -> None:
    kept = Kept(7)
    kept.held[8] = (1, 100, None)
    restored(checks_with(kept), 8)
    kept = Kept(7)
    kept.held[8] = (1, 100, None)
    with pytest.raises(Violated, match=r"I9 .* lost record \(1, 8\)"):
        restored(checks_with(kept), 7)


def test_copy_whose_transfer_had_not_ended_may_go_on_from_before() -> None:
    checks = checks_with(Kept(7, (40, cast(Any, None))))
    restored(checks, 3)
    assert checks._kept[2][KEY].base == 3
    assert checks._kept[2][KEY].ended  # and what it has now is held to


@pytest.mark.simulation
@pytest.mark.parametrize("seed", [15, 21])
def test_crash_in_the_middle_of_a_transfer_of_changes_is_no_loss(seed: int) -> None:
    run_seed(seed, LEVEL2["default"](seed))


def _noted_at_once(destager: Destager) -> None:
    """Mutant: what was applied may be destaged before anything says that it is synced."""
    destager.noted(destager.append_note()[1])


def test_page_that_is_destaged_before_its_records_are_synced_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = Level2Options(
        seconds=2, nodes=3, crashes=0, pauses=0, slow=0, stops=0, writes_per_s=150,
        destage_after_ms=20, sync_us=20_000,
    )  # fmt: skip
    run_seed(1, options)
    monkeypatch.setattr(Destager, "_ask_sync", _noted_at_once)
    with pytest.raises(Violated, match=r"I31 .* destages page \d+ of .* and is synced up to"):
        run_seed(1, options)
