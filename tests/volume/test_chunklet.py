from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvalidRequest
from volume.chunklet import NO_LD, ChunkletState, ChunkletTable


def test_the_last_chunklets_of_a_blank_disk_are_spare_and_the_others_free() -> None:
    table = ChunkletTable.blank(5, 2)
    free, spare = ChunkletState.FREE, ChunkletState.SPARE
    assert table.state.tolist() == [free, free, free, spare, spare]
    assert table.free_numbers().tolist() == [0, 1, 2]


def test_an_allocated_chunklet_belongs_to_its_ld_until_it_is_released() -> None:
    table = ChunkletTable.blank(4, 0)
    table.allocate(np.array([1, 3]), 7)
    assert (table.count(ChunkletState.USED), table.ld.tolist()) == (2, [NO_LD, 7, NO_LD, 7])
    table.release(np.array([1, 3]), 7)
    assert (table.count(ChunkletState.FREE), table.check()) == (4, [])


def test_taking_a_used_chunklet_is_a_bug() -> None:
    table = ChunkletTable.blank(4, 1)
    table.allocate(np.array([0]), 1)
    with pytest.raises(AssertionError, match="taken twice"):
        table.allocate(np.array([0]), 2)


def test_a_spare_is_not_taken_as_free_but_is_for_a_rebuild() -> None:
    table = ChunkletTable.blank(4, 1)
    with pytest.raises(AssertionError):
        table.allocate(np.array([3]), 1)
    table.allocate(np.array([3]), 1, from_spares=True)
    assert table.state[3] == ChunkletState.USED


def test_releasing_another_ld_s_chunklet_is_a_bug() -> None:
    table = ChunkletTable.blank(4, 0)
    table.allocate(np.array([0]), 1)
    with pytest.raises(AssertionError, match="stranger"):
        table.release(np.array([0]), 2)


def test_a_failed_chunklet_stays_failed_when_it_is_released() -> None:
    table = ChunkletTable.blank(4, 0)
    table.allocate(np.array([0]), 1)
    table.change(0, ChunkletState.FAILED)
    table.release(np.array([0]), 1)
    assert (table.state[0], table.ld[0], table.check()) == (ChunkletState.FAILED, NO_LD, [])


def test_a_disk_that_was_away_goes_through_logging_and_playback_to_used() -> None:
    table = ChunkletTable.blank(4, 0)
    table.allocate(np.array([2]), 1)
    for state in (ChunkletState.LOGGING, ChunkletState.PLAYBACK, ChunkletState.USED):
        table.change(2, state)
    assert (table.state[2], table.ld[2]) == (ChunkletState.USED, 1)


@pytest.mark.parametrize("state", [ChunkletState.USED, ChunkletState.LOGGING])
def test_a_free_chunklet_cannot_be_declared_in_use(state: ChunkletState) -> None:
    with pytest.raises(InvalidRequest, match=f"FREE cannot become {state.name}"):
        ChunkletTable.blank(4, 0).change(0, state)


def test_check_names_a_used_chunklet_without_an_ld() -> None:
    table = ChunkletTable.blank(4, 0)
    table.state[2] = ChunkletState.USED
    assert table.check() == ["chunklet 2 is in use and belongs to no LD"]


def test_check_names_a_free_chunklet_with_an_ld() -> None:
    table = ChunkletTable.blank(4, 0)
    table.ld[1] = 0
    assert table.check() == ["chunklet 1 belongs to an LD and is free or spare"]


@settings(deadline=None, max_examples=100)
@given(moves=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=40))
def test_no_history_of_moves_breaks_the_table(moves: list[tuple[int, int]]) -> None:
    table = ChunkletTable.blank(6, 2)
    for number, move in moves:
        one = np.array([number])
        if move == 8 and table.state[number] == ChunkletState.FREE:
            table.allocate(one, number)
        elif move == 9 and table.ld[number] != NO_LD:
            table.release(one, number)
        elif move < 8:
            with suppress(InvalidRequest):
                table.change(number, ChunkletState(move))
        assert table.check() == []
