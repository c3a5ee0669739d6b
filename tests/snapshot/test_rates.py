from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import InvalidRequest
from snapshot.rates import ChangeHistory, changed_by_region, draw_heat_map, history_of_branch
from tests.snapshot.family import Family

S = 1000
PAGE = 16384


def counts(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


def test_pages_are_counted_by_region() -> None:
    found = changed_by_region(counts(0, 1, 7, 8, 9, 31), region_pages=8, regions=5)
    assert found.tolist() == [3, 2, 0, 1, 0]


def test_a_rate_is_bytes_by_the_length_of_its_own_interval() -> None:
    history = ChangeHistory(2, 1024, PAGE)
    history.add(0, 2 * S, counts(4, 0))
    history.add(10 * S, 14 * S, counts(4, 8))
    assert history.rates().tolist() == [[2 * PAGE, 0], [PAGE, 2 * PAGE]]
    assert history.spans_ms().tolist() == [[0, 2 * S], [10 * S, 14 * S]]


def test_the_oldest_interval_goes_when_there_are_too_many() -> None:
    history = ChangeHistory(1, 1024, 1, intervals_max=3)
    for number in range(8):
        history.add(number * S, (number + 1) * S, counts(number))
    assert history.rates().tolist() == [[5.0], [6.0], [7.0]]


def test_neighbouring_regions_share_a_column_when_there_are_too_many() -> None:
    history = ChangeHistory(5, 1024, 1, columns_max=2)
    history.add(0, S, counts(1, 2, 3, 4, 5))
    assert (history.column_regions, history.columns) == (3, 2)
    assert history.rates().tolist() == [[6.0, 9.0]]


def test_memory_does_not_grow_with_the_volume_or_the_time() -> None:
    history = ChangeHistory(1 << 20, 1024, PAGE, intervals_max=10, columns_max=256)
    for number in range(100):
        history.add(number, number + 1, np.ones(1 << 20, dtype=np.int64))
    assert history._counts.shape == (10, 256)
    assert history.rates().shape == (10, 256)


@given(st.integers(1, 50), st.integers(1, 10), st.lists(st.integers(1, 1000), max_size=8))
def test_no_page_is_lost_in_columns(regions: int, columns_max: int, lengths: list[int]) -> None:
    history = ChangeHistory(regions, 8, 1, columns_max=columns_max)
    now, added = 0, 0
    for length in lengths:
        by_region = np.arange(regions, dtype=np.int64) * length
        added += int(by_region.sum())
        history.add(now, now + length, by_region)
        now += length
    seconds = np.diff(history.spans_ms(), axis=1) / S
    assert round(float((history.rates() * seconds).sum())) == added
    assert history.columns <= columns_max


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5)])
def test_an_interval_without_a_length_is_refused(start: int, end: int) -> None:
    with pytest.raises(InvalidRequest, match=f"from {start} to {end} ms has no length"):
        ChangeHistory(1, 1, 1).add(start, end, counts(1))


def test_an_interval_before_the_last_one_is_refused_and_changes_nothing() -> None:
    history = ChangeHistory(1, 1, 1)
    history.add(0, 10, counts(1))
    with pytest.raises(InvalidRequest, match="from 9 ms on begins before 10 ms"):
        history.add(9, 20, counts(1))
    assert history.intervals == 1


def test_rates_of_a_branch_follow_from_its_snapshots() -> None:
    family = Family()
    line = [family.create(1, "a")]
    for page in (0, 1, 7):
        family.write(1, page)
        family.write(1, page)
    line.append(family.create(1, "b"))
    family.write(1, 17)
    line += [family.create(1, "c"), 1]
    taken = dict(zip(line, (0, S, 3 * S, 4 * S), strict=True))
    shape = family.shape
    history = history_of_branch(
        family.tree, family.tables, line, taken, shape.region_pages, shape.regions, 2
    )
    assert history.rates().tolist() == [[4.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    newest = history_of_branch(
        family.tree, family.tables, line, taken, shape.region_pages, shape.regions, 2,
        intervals_max=2,
    )  # fmt: skip
    assert newest.rates().tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def warm() -> ChangeHistory:
    """A hot spot that wanders to the right, and a cold rest."""
    history = ChangeHistory(64, 1024, PAGE)
    for number in range(8):
        by_region = np.zeros(64, dtype=np.int64)
        for distance, pages in enumerate((1024, 256, 64, 16, 4, 1)):
            by_region[number * 8 + distance] = pages
        history.add(number * 900 * S, (number + 1) * 900 * S, by_region)
    return history


HEAT = """\
a sign is 16 MiB; it changes at: █ ≥ 18.2 KiB/s  ▓ ≥ 4.6 KiB/s  ▒ ≥ 1.1 KiB/s  ░ ≥ 292 B/s  · less
-1h45m |█▓▒░··                                                          | 24.3 KiB/s
  -90m |        █▓▒░··                                                  | 24.3 KiB/s
  -75m |                █▓▒░··                                          | 24.3 KiB/s
  -60m |                        █▓▒░··                                  | 24.3 KiB/s
  -45m |                                █▓▒░··                          | 24.3 KiB/s
  -30m |                                        █▓▒░··                  | 24.3 KiB/s
  -15m |                                                █▓▒░··          | 24.3 KiB/s
   now |                                                        █▓▒░··  | 24.3 KiB/s
"""


def test_a_heat_map_is_drawn() -> None:
    assert draw_heat_map(warm()) == HEAT


def test_a_narrow_heat_map_shows_the_fastest_of_what_a_sign_stands_for() -> None:
    lines = draw_heat_map(warm(), width=8, plain=True).splitlines()
    assert lines[0].startswith("a sign is 8 × 16 MiB; the fastest of them changes at: # ≥ 18.2 KiB")
    assert [line.split("|")[1] for line in lines[1:3]] == ["#       ", " #      "]


def test_the_slowest_change_leaves_a_mark() -> None:
    history = ChangeHistory(2, 1024, PAGE)
    history.add(0, S, counts(1024, 0))
    history.add(S, 365 * 86_400 * S, counts(0, 1))
    assert draw_heat_map(history).splitlines()[-1] == "     now | ·| 1 B/s"


def test_a_volume_that_does_not_change_is_blank() -> None:
    history = ChangeHistory(3, 1024, PAGE)
    history.add(0, S, counts(0, 0, 0))
    assert draw_heat_map(history) == "a sign is 16 MiB; nothing has changed\nnow |   | 0 B/s\n"


def test_no_interval_is_said_so() -> None:
    assert draw_heat_map(ChangeHistory(1, 1, 1)) == "no interval has been seen yet\n"
