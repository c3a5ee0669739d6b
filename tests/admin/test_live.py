import asyncio
from typing import Any

from admin.live import COLUMNS, Rates, Sample, rates, row
from admin.up import ended_as
from base.units import NS_PER_S
from tests.admin.fake_node import FakeView


def sample(at_s: float, **counts: int) -> Sample:
    statistics: Any = asyncio.run(FakeView().statistics())
    statistics["host"].update(counts)
    return Sample(int(at_s * NS_PER_S), statistics)


def test_rates_are_per_second() -> None:
    before = sample(1, reads_total=100, writes_total=10, read_bytes_total=0, written_bytes_total=0)
    now = sample(3, reads_total=300, writes_total=20, read_bytes_total=8, written_bytes_total=2)
    assert rates(before, now) == Rates(100, 5, 5)


def test_rates_are_zero_without_an_earlier_sample() -> None:
    assert rates(None, sample(1)) == Rates(0, 0, 0)


def test_rates_are_zero_when_counters_went_back() -> None:
    assert rates(sample(1, reads_total=100), sample(2, reads_total=3)) == Rates(0, 0, 0)


def test_row_has_a_cell_for_every_column() -> None:
    assert len(row("n0", "ready", 7, None, sample(1))) == len(COLUMNS)
    assert len(row("n0", "paused", 7, None, None)) == len(COLUMNS)


def test_row_shows_the_fill_of_journal_and_cache() -> None:
    cells = dict(zip(COLUMNS, row("n0", "ready", 7, None, sample(1)), strict=True))
    assert (cells["journal#"], cells["cache#"]) == ("25 %", "25 %")


def test_end_of_a_process_is_told_by_signal_or_code() -> None:
    assert [ended_as(code) for code in (None, 0, 2, -9)] == [
        "down", "stopped", "down (exit 2)", "down (SIGKILL)",
    ]  # fmt: skip
