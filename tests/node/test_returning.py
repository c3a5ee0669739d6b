"""How a copy that was away is brought up to date: by the log, by changed pages, or in full."""

from __future__ import annotations

from typing import Any

import pytest

from node import state_transfer
from node.effects import EndTransfer, SendBegin, Store
from node.epoch_line import LINE_MAX
from node.kept_log import KeptBytes
from node.region_copy import RegionCopy
from node.roles import BY_DELTA, BY_FULL, MODE_NAMES
from tests.node.copies_by_hand import Copies, operation, pair
from transport import messages as wire


def away(writes: int = 3, *, keeps_log: bool = True) -> Copies:
    """n0 owns, n1 was its copy and knows all up to record 2; n0 went on alone under epoch 2."""
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.write(0, 1)
    world.write(0, 2)
    tell(world, 0, 1)
    world.configure(2, 0, (0,), keeps_log=keeps_log)
    for number in range(3, 3 + writes):
        world.write(0, number)
    return world


def tell(world: Copies, owner: int, peer: int) -> None:
    """The commit point of the owner."""
    copy = world.copies[owner]
    world.copies[peer].commit_point(owner, copy.epoch, copy.committed, copy.committed_epoch)
    world.run()


def rejoin(world: Copies, owner: int, joiner: int, epoch: int = 2, **more: Any) -> str:
    """The joiner comes back; by what it was brought up to date."""
    world.configure(epoch, owner, (owner,), joiner=joiner, keeps_log=True, **more)
    world.join(owner)
    return begun(world)


def begun(world: Copies) -> str:
    return [each for each in world.said if " begins by " in each][-1].partition(" by ")[2]


def lose_log(copy: RegionCopy) -> None:
    """As if what was kept had been too much."""
    copy.kept.want(False, copy.log_base)
    copy.trim_log()
    copy.kept.want(True, copy.log_base)


# ------------------------------------------------------------------ the choice


def test_a_copy_that_missed_nothing_needs_nothing() -> None:
    world = away(writes=0)
    assert rejoin(world, 0, 1) == "same at 2"
    assert (2, 1) in world.admitted


def test_a_copy_that_missed_what_the_log_still_holds_gets_the_log() -> None:
    world = away()
    assert rejoin(world, 0, 1) == "log at 2"
    assert "n1 ResetRegion" not in world.said
    assert world.copies[1].prepared == 5
    assert (2, 1) in world.admitted


@pytest.mark.parametrize("writes", [0, 3])
def test_a_copy_is_admitted_only_once_it_has_synced_what_was_committed_without_it(
    writes: int,
) -> None:
    """A flush that was answered while it was away is a promise of every member."""
    world = away(writes)
    world.unsynced.add(1)
    rejoin(world, 0, 1)
    assert world.copies[1].prepared == world.copies[0].committed
    assert world.admitted == []
    world.unsynced.clear()
    world.copies[1].record_synced(world.copies[1].journalled, 2, world.copies[1].era)
    world.run()
    assert (2, 1) in world.admitted


def test_a_copy_that_missed_more_than_the_log_holds_gets_what_changed() -> None:
    world = away()
    lose_log(world.copies[0])
    assert rejoin(world, 0, 1) == "delta at 5"
    assert (2, 1) in world.admitted


def test_a_copy_that_has_nothing_is_filled_in_full() -> None:
    world = away()
    lose_log(world.copies[0])
    assert rejoin(world, 0, 2) == "full at 5"


def test_a_copy_of_another_line_is_filled_in_full() -> None:
    world = away()  # n0 has records 3 to 5 of epoch 2
    world.configure(3, 1, (1,), only=(1, 2))  # an operator opened the older copy
    world.write(1, 50)
    assert rejoin(world, 1, 0, epoch=4) == "full at 3"
    assert (7, 4) not in world.copies[0].clients


def test_a_copy_that_is_ahead_on_the_same_epoch_is_filled_in_full() -> None:
    world = away(writes=0)
    owner = world.copies[0]
    world.configure(2, 0, (0,), joiner=1)
    state_transfer.ask(owner, 500)
    state_transfer.positioned(owner, 1, wire.TransferPosition(1, 0, 2, 500, True, 1, 3, b""))
    assert owner.filling is not None
    assert owner.filling.mode == BY_FULL


def test_a_copy_that_left_before_the_oldest_epoch_that_is_known_is_filled_in_full() -> None:
    world = away(writes=0)
    for epoch in range(3, 4 + LINE_MAX):
        world.configure(epoch, 0, (0,))
        world.write(0, 100 + epoch)
    assert rejoin(world, 0, 1, epoch=epoch) == f"full at {world.copies[0].committed}"


def test_a_copy_that_left_in_the_oldest_epoch_that_is_known_gets_what_changed() -> None:
    world = away(writes=0)
    for epoch in range(3, 3 + LINE_MAX):
        world.configure(epoch, 0, (0,))
        world.write(0, 100 + epoch)
    assert rejoin(world, 0, 1, epoch=epoch).startswith("delta")


# ------------------------------------------------------------------ what was prepared


def test_a_copy_commits_what_it_has_of_the_line_before_it_says_where_it_stands() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.write(0, 1)
    world.write(0, 2)  # n1 has both in its journal and does not know that the second is committed
    assert world.copies[1].committed == 1
    world.configure(2, 0, (0,), keeps_log=True)
    world.write(0, 3)
    assert rejoin(world, 0, 1) == "log at 2"


def test_what_was_prepared_behind_the_end_of_an_epoch_is_dropped() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.write(0, 1)
    world.cut.add((0, 1))
    world.write(0, 2)
    world.write(0, 3)  # lost with epoch 1, in the journal of n0 only
    world.configure(2, 1, (1,), keeps_log=True)
    world.cut.clear()
    world.write(1, 50)
    assert rejoin(world, 1, 0) == "log at 1"
    assert "n0 Truncate" in world.said
    assert [seq for seq, _ in world.applied[0]] == [1, 2]
    assert (7, 2) not in world.copies[0].clients


def test_where_a_copy_stands_is_never_what_it_only_prepared() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.write(0, 1)
    world.cut.add((0, 1))
    world.write(0, 2)
    world.configure(2, 1, (1,), joiner=0)
    state_transfer.asked(world.copies[0], 1, wire.TransferAsk(1, 0, 2, 500, 1, 1, ()))
    assert (world.copies[0].position(), world.copies[0].prepared) == ((True, 1, 1), 1)


# ------------------------------------------------------------------ a session that is cut off


def cut_off(world: Copies) -> RegionCopy:
    """n1 is being filled by delta, and its pages do not come."""
    lose_log(world.copies[0])
    world.no_pages.add(1)
    rejoin(world, 0, 1)
    copy = world.copies[1]
    assert not copy.complete
    return copy


def test_a_copy_whose_delta_was_cut_off_still_stands_where_it_stood() -> None:
    copy = cut_off(away())
    assert copy.position() == (False, 2, 1)


def test_a_delta_that_was_cut_off_is_followed_by_another() -> None:
    world = away()
    cut_off(world)
    world.no_pages.clear()
    world.write(0, 9)
    world.copies[0].link_reset(1)
    world.join(0)
    assert begun(world) == "delta at 6"
    assert (2, 1) in world.admitted
    assert world.copies[1].position() == (True, 6, 2)


def test_a_delta_that_was_cut_off_is_never_followed_by_the_log() -> None:
    world = away()
    cut_off(world)
    world.copies[0].link_reset(1)
    world.join(0)
    assert begun(world).startswith("delta")


def test_a_copy_that_was_being_filled_in_full_stands_nowhere() -> None:
    world = away()
    lose_log(world.copies[0])
    world.no_pages.add(2)
    rejoin(world, 0, 2)
    assert world.copies[2].position() == (False, 0, 0)


def test_a_copy_that_does_not_stand_where_the_owner_thinks_refuses() -> None:
    world = away()
    world.configure(2, 0, (0,), joiner=1, keeps_log=True)
    begin = wire.TransferBegin(1, 0, 2, 500, BY_DELTA, 2, 5, 1, 1, (), (), b"")
    state_transfer.begin(world.copies[1], 0, begin)
    world.run()
    assert "n1 transfer outcome 2" in world.said
    assert world.copies[1].complete


# ------------------------------------------------------------------ the base and the end


def test_a_session_begins_at_the_commit_point_of_the_moment_that_asked_for_it() -> None:
    world = away()
    owner = world.copies[0]
    world.configure(2, 0, (0,), joiner=1)
    state_transfer.ask(owner, 500)
    world.effects[0].clear()
    answer = wire.TransferPosition(1, 0, 2, 500, False, 0, 0, b"")
    state_transfer.positioned(owner, 1, answer)
    owner.write(operation(9), 9)
    owner.record_journalled(owner.log[-1])  # in the same turn: its Apply stands behind the begin
    begin = next(each for each in world.effects[0] if isinstance(each, SendBegin))
    assert (MODE_NAMES[begin.mode], begin.base, owner.committed) == ("full", 5, 6)
    again = [each.record.seq for each in world.effects[0] if isinstance(each, Store)]
    assert again == [6]


def test_a_joiner_is_complete_only_when_all_that_led_to_its_pages_is_committed() -> None:
    world = away()
    copy = cut_off(world)
    world.held.add(1)
    world.write(0, 9)  # n0 commits it alone; n1 has it and does not know
    end = wire.TransferEnd(1, 0, 2, copy.session, 6)
    state_transfer.end(copy, 0, end)
    assert not any(isinstance(each, EndTransfer) for each in world.effects[1])
    world.write_journal(1)
    assert copy.complete


def test_the_stream_behind_a_delta_is_taken_by_the_joiner() -> None:
    world = away()
    lose_log(world.copies[0])
    rejoin(world, 0, 1)
    world.write(0, 9)
    assert world.answers[9] == "ok"
    assert world.copies[1].prepared == 6


def test_a_joiner_that_the_log_brings_up_to_date_holds_nobody_up_before_it_has_it() -> None:
    world = away()
    world.held.add(1)
    rejoin(world, 0, 1)
    world.write(0, 9)
    assert world.answers[9] == "ok"
    assert world.copies[0].required == ()
    world.write_journal(1)
    assert world.copies[0].required == (1,)


# ------------------------------------------------------------------ the log that is kept


def owner_of(node_max: int, region_max: int, records_max: int) -> RegionCopy:
    kept = KeptBytes(node_max, region_max, records_max)
    copy = RegionCopy(1, 0, 0, [], kept)
    copy.configure(
        epoch=1, owner=0, members=(0,), joiner=255, offline=False, now_ns=0, open_at_ns=0,
        keeps_log=True,
    )  # fmt: skip
    return copy


def write(copy: RegionCopy, numbers: range) -> None:
    for number in numbers:
        copy.write(operation(number), number)
        copy.record_journalled(copy.log[-1])


@pytest.mark.parametrize(
    "bounds", [(1 << 20, 1 << 20, 10), (1000, 1 << 20, 99), (1 << 20, 1000, 99)]
)
def test_what_is_kept_is_bounded_by_records_and_bytes(bounds: tuple[int, int, int]) -> None:
    copy = owner_of(*bounds)
    write(copy, range(200))
    assert 0 < len(copy.log) <= bounds[2]
    assert copy.kept.bytes == copy.kept.node.used <= min(bounds[:2])


def test_nothing_is_kept_when_no_copy_is_away() -> None:
    world = pair()
    assert len(world.copies[0].log) == 0


def test_what_was_kept_is_given_back_when_all_copies_are_there_again() -> None:
    copy = owner_of(1 << 20, 1 << 20, 100)
    write(copy, range(50))
    copy.configure(
        epoch=1, owner=0, members=(0,), joiner=255, offline=False, now_ns=0, open_at_ns=0
    )
    write(copy, range(50, 52))
    assert (len(copy.log), copy.kept.node.used) == (0, 0)


def test_a_kept_record_keeps_nothing_that_arrived_with_it() -> None:
    copy = owner_of(1 << 20, 1 << 20, 100)
    record = operation(1)
    record.data = memoryview(bytearray(4096))[:4]
    copy.write(record, 1)
    copy.record_journalled(record)
    assert type(copy.log[0].data) is bytes


def test_members_are_not_sent_what_is_kept_for_others() -> None:
    world = pair()
    world.configure(2, 0, (0, 1), keeps_log=True)
    for number in range(2, 6):
        world.write(0, number)
    owner = world.copies[0]
    owner.acked.clear()
    owner.link_reset(1)
    assert [each for each in world.effects[0] if isinstance(each, Store)] == []


def test_a_joiner_whose_disks_have_lost_a_page_is_filled_in_full_instead() -> None:
    world = away()
    world.configure(2, 0, (0,), joiner=1, keeps_log=True)
    copy = world.copies[1]
    state_transfer.page_lost(copy)
    assert copy.position() == (False, 0, 0)
    assert rejoin(world, 0, 1) == "full at 5"
    assert not copy.spoiled


def test_a_member_whose_disks_have_lost_a_page_stays_what_it_is() -> None:
    world = pair()
    state_transfer.page_lost(world.copies[1])
    assert (world.copies[1].spoiled, world.effects[1]) == (False, [])


def test_a_stale_copy_that_gave_up_what_it_had_is_filled_in_full() -> None:
    world = away()
    assert state_transfer.give_up(world.copies[1])
    assert world.copies[1].position() == (True, 0, 0)
    lose_log(world.copies[0])
    assert rejoin(world, 0, 1) == "full at 5"


def test_a_member_never_gives_up_what_it_has() -> None:
    world = pair()
    assert not state_transfer.give_up(world.copies[1])


# ------------------------------------------------------------------ tails of stale copies


def test_a_stale_copy_gives_up_its_tail_when_it_is_asked_to() -> None:
    world = pair()
    copy = world.copies[1]
    assert copy.prepared > copy.committed
    world.configure(2, 0, (0,))
    assert copy.prepared > copy.committed
    state_transfer.give_up_tail(copy)
    world.run()
    assert copy.prepared == copy.committed
    assert world.said == ["n1 Truncate"]


def test_a_joiner_without_a_session_gives_up_its_tail_too() -> None:
    """Level 2, reconfiguration 17958387700098: it held the journal, for whose room the session of
    another region waited, at whose end this one was to begin."""
    world = pair()
    copy = world.copies[1]
    world.configure(2, 0, (0,))
    world.configure(3, 0, (0,), joiner=1, only=(1,))
    assert copy.session == 0
    assert copy.prepared > copy.committed
    state_transfer.give_up_tail(copy)
    world.run()
    assert copy.prepared == copy.committed


def test_a_copy_that_may_have_to_open_its_region_keeps_its_tail() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.write(0, 1)
    copy = world.copies[1]
    assert copy.prepared > copy.committed
    copy.configure(
        epoch=2, owner=0, members=(0, 1), joiner=255, offline=True, now_ns=0, open_at_ns=0
    )
    state_transfer.give_up_tail(copy)
    assert copy.prepared > copy.committed
