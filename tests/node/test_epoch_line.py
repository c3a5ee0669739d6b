"""Whether a record is on the line of a copy, by the ends of its epochs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.epoch_line import LINE_MAX, EpochLine

LINE = EpochLine([(1, 5), (4, 9)])  # and epoch 6 goes on behind 9


def test_a_record_of_an_epoch_that_is_over_is_on_the_line_up_to_its_end() -> None:
    assert [LINE.has(seq, 1, 12, 6) for seq in (1, 5, 6)] == [True, True, False]


def test_a_record_of_the_epoch_that_goes_on_is_on_the_line_up_to_the_commit_point() -> None:
    assert [LINE.has(seq, 6, 12, 6) for seq in (10, 12, 13)] == [True, True, False]


def test_a_record_of_an_epoch_that_had_not_begun_there_is_not_on_the_line() -> None:
    assert [LINE.has(5, 4, 12, 6), LINE.has(9, 6, 12, 6)] == [False, False]


def test_a_record_of_an_epoch_that_numbered_nothing_here_is_not_on_the_line() -> None:
    assert not LINE.has(7, 3, 12, 6)


def test_the_empty_region_is_on_every_line() -> None:
    assert LINE.has(0, 0, 12, 6)


def test_an_epoch_that_fell_out_of_the_history_is_not_known_any_more() -> None:
    line = EpochLine()
    for epoch in range(1, LINE_MAX + 2):
        line.end(epoch, 10 * epoch)
    last = LINE_MAX + 2
    assert len(line.ends) == LINE_MAX
    assert not line.has(7, 1, 10 * last, last)
    assert line.has(27, 3, 10 * last, last)


def test_an_epoch_before_the_first_record_leaves_no_end() -> None:
    line = EpochLine()
    line.end(0, 0)
    assert line.ends == ()


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.data())
def test_a_line_has_exactly_the_records_that_were_committed_on_it(
    steps: list[int], data: st.DataObject
) -> None:
    line, committed, epoch = EpochLine(), 0, 0
    names: set[tuple[int, int]] = set()
    for number, step in enumerate(steps):
        for _ in range(step):
            if epoch != number + 1:
                line.end(epoch, committed)
                epoch = number + 1
            committed += 1
            names.add((committed, epoch))
    for seq in range(1, committed + 3):
        for each in range(1, epoch + 2):
            assert line.has(seq, each, committed, epoch) == ((seq, each) in names)
