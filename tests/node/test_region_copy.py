from __future__ import annotations

import pytest

from node import effects as fx
from node.region_copy import PARKED_MAX, RegionCopy
from node.roles import AHEAD, GAP, NOT_MEMBER, STALE
from tests.node.copies_by_hand import Copies, operation, pair
from transport.operation import SYNC, Record


def numbered(number: int, *, epoch: int, seq: int, prev_epoch: int, flags: int = 0) -> Record:
    record = operation(number, flags=flags)
    record.epoch, record.seq, record.prev_epoch = epoch, seq, prev_epoch
    return record


# ------------------------------------------------------------------ commit


def test_a_write_is_answered_when_owner_and_copy_have_journalled_it() -> None:
    world = pair()
    assert world.answers == {1: "ok"}


def test_a_write_is_not_answered_before_the_copy_has_journalled_it() -> None:
    world = pair()
    world.held.add(1)
    world.write(0, 2)
    assert 2 not in world.answers
    world.write_journal(1)
    assert world.answers[2] == "ok"


def test_a_write_is_not_answered_before_the_owner_has_journalled_it() -> None:
    world = pair()
    world.held.add(0)
    world.write(0, 2)
    assert 2 not in world.answers
    world.write_journal(0)
    assert world.answers[2] == "ok"


def test_a_copy_applies_only_what_its_owner_has_committed() -> None:
    world = pair()
    assert world.applied[1] == []
    world.write(0, 2)
    assert world.applied[1] == [(1, 1)]
    world.copies[1].commit_point(0, 1, 2, 1)
    world.run()
    assert world.applied[1] == [(1, 1), (2, 2)]


def test_a_repeat_of_a_committed_operation_is_answered_and_not_done_again() -> None:
    world = pair()
    world.write(0, 1, token="again")
    assert world.answers["again"] == "ok"
    assert world.copies[0].prepared == 1


def test_a_repeat_of_an_operation_in_flight_shares_its_answer() -> None:
    world = pair()
    world.held.add(1)
    world.write(0, 2, token="first")
    world.write(0, 2, token="second")
    assert world.copies[0].prepared == 2
    world.write_journal(1)
    assert (world.answers["first"], world.answers["second"]) == ("ok", "ok")


def test_a_repeat_is_recognised_by_the_next_owner() -> None:
    world = pair()
    world.write(0, 2)
    world.configure(2, 1, (1,))
    world.write(1, 2, token="again")
    assert world.answers["again"] == "ok"
    assert world.applied[1] == [(1, 1), (2, 2)]


def test_a_node_that_does_not_own_the_region_refuses_a_write() -> None:
    world = pair()
    world.write(1, 5)
    assert world.answers[5] == "NotOwner"


def test_a_region_without_enough_copies_under_the_policy_suspend_lets_writes_wait() -> None:
    world = pair()
    world.configure(2, 0, (0,), suspended=True)
    world.write(0, 2)
    assert 2 not in world.answers
    assert world.copies[0].prepared == 1


# ------------------------------------------------------------------ synced


def test_a_write_with_the_sync_flag_waits_for_the_sync_of_the_copy() -> None:
    world = pair()
    world.unsynced.add(1)
    world.write(0, 2, flags=SYNC)
    assert 2 not in world.answers
    world.copies[1].record_synced(2, 1, world.copies[1].era)
    world.run()
    assert world.answers[2] == "ok"


def test_a_write_with_the_sync_flag_waits_for_the_sync_of_the_owner() -> None:
    world = pair()
    world.unsynced.add(0)
    world.write(0, 2, flags=SYNC)
    assert 2 not in world.answers


def test_a_sole_copy_syncs_every_write_before_the_answer() -> None:
    world = Copies()
    world.unsynced.add(0)
    world.configure(1, 0, (0,), sole_synced=True)
    world.write(0, 1)
    assert 1 not in world.answers
    world.copies[0].record_synced(1, 1, world.copies[0].era)
    world.run()
    assert world.answers[1] == "ok"


def test_a_sole_copy_does_not_wait_for_a_joiner_to_sync_what_nobody_asked_it_to() -> None:
    world = Copies()
    world.configure(1, 0, (0,), joiner=1, sole_synced=True)
    world.join(0)
    world.write(0, 1)
    assert world.copies[0].admission_out
    assert world.answers[1] == "ok"


def test_an_acknowledgement_of_a_sync_that_was_lost_with_its_link_is_said_again() -> None:
    """Level 2, swarm 7001674: the owner had the record acknowledged, and sent nothing again."""
    world = pair()
    world.unsynced.add(1)
    world.write(0, 2, flags=SYNC)
    world.cut.add((1, 0))
    world.copies[1].record_synced(2, 1, world.copies[1].era)
    world.run()
    assert 2 not in world.answers
    world.cut.clear()
    for node in (0, 1):
        world.copies[node].link_reset(1 - node)
    world.run()
    assert world.answers[2] == "ok"


def test_a_sync_that_was_asked_for_in_an_older_epoch_counts_for_nothing() -> None:
    world = pair()
    world.unsynced.add(1)
    world.write(0, 2, flags=SYNC)
    world.configure(2, 0, (0, 1))
    world.copies[1].record_synced(2, 1, world.copies[1].era)
    world.run()
    assert 2 not in world.answers


def test_a_sync_of_records_that_were_dropped_says_nothing_of_the_same_ones_that_came_again() -> (
    None
):
    """Level 1, snapshots 5006259: they lie behind what was synced, and a power cut takes them."""
    world = pair()
    world.unsynced.add(1)
    world.write(0, 2, flags=SYNC)
    copy = world.copies[1]
    before = copy.era
    copy.truncate(2)
    world.effects[1].clear()
    copy.replicate(0, numbered(2, epoch=1, seq=2, prev_epoch=1, flags=SYNC), 1, 1)
    world.run()
    assert copy.journalled == 2
    copy.record_synced(2, 1, before)
    world.run()
    assert copy.synced < 2
    assert 2 not in world.answers
    copy.record_synced(2, 1, copy.era)
    world.run()
    assert world.answers[2] == "ok"


def test_a_copy_that_restarted_before_its_sync_syncs_the_record_when_it_is_sent_again() -> None:
    world = pair()
    world.unsynced.add(1)
    world.write(0, 2, flags=SYNC)
    copy = world.copies[1] = RegionCopy(1, 0, 1, world.effects[1])
    tail = [
        numbered(1, epoch=1, seq=1, prev_epoch=0),
        numbered(2, epoch=1, seq=2, prev_epoch=1, flags=SYNC),
    ]
    copy.restore(committed=0, committed_epoch=0, tail=tail, clients=(), complete=True)
    world.unsynced.clear()
    world.configure(2, 0, (0, 1))
    assert world.answers[2] == "ok"


def test_a_copy_that_has_applied_a_record_without_a_sync_syncs_it_when_it_is_sent_again() -> None:
    world = pair()
    world.unsynced.add(1)
    world.write(0, 2, flags=SYNC)
    copy = world.copies[1] = RegionCopy(1, 0, 1, world.effects[1])
    copy.restore(committed=2, committed_epoch=1, tail=[], clients=(), complete=True)
    world.unsynced.clear()
    world.configure(2, 0, (0, 1))
    assert world.answers[2] == "ok"


# ------------------------------------------------------------------ records at a copy


def test_a_record_of_an_older_epoch_is_refused() -> None:
    world = pair()
    world.configure(2, 0, (0, 1))
    world.copies[1].replicate(0, numbered(9, epoch=1, seq=2, prev_epoch=1), 1, 1)
    world.run()
    assert world.said == [f"n1 refused {STALE}"]


def test_a_record_of_a_newer_epoch_waits_until_the_catalog_knows_it() -> None:
    world = pair()
    world.configure(2, 0, (0, 1), only=(0,))
    world.write(0, 2)
    assert 2 not in world.answers
    world.configure(2, 0, (0, 1), only=(1,))
    assert world.answers[2] == "ok"


def test_records_of_a_newer_epoch_are_refused_when_too_many_wait() -> None:
    world = pair()
    for seq in range(2, PARKED_MAX + 3):
        world.copies[1].replicate(0, numbered(seq, epoch=2, seq=seq, prev_epoch=1), 2, 1)
    world.run()
    assert world.said == [f"n1 refused {AHEAD}"]


def test_a_record_from_a_node_that_is_not_the_owner_is_refused() -> None:
    world = pair()
    world.copies[1].replicate(2, numbered(9, epoch=1, seq=2, prev_epoch=1), 1, 1)
    world.run()
    assert world.said == [f"n1 refused {NOT_MEMBER}"]


def test_a_gap_is_refused_and_filled_by_the_owner() -> None:
    world = pair()
    world.cut.add((0, 1))
    world.write(0, 2)
    world.cut.clear()
    world.write(0, 3)
    assert world.said == [f"n1 refused {GAP}"]
    assert (world.answers[2], world.answers[3]) == ("ok", "ok")


def test_one_gap_is_refused_once_however_many_records_lie_behind_it() -> None:
    world = pair()
    world.cut.add((1, 0))
    for seq in (3, 4, 5):
        world.copies[1].replicate(0, numbered(seq, epoch=1, seq=seq, prev_epoch=1), 1, 1)
    refused = [e for e in world.effects[1] if isinstance(e, fx.Send)]
    assert len(refused) == 1


def test_a_divergent_tail_is_cut_off_by_the_stream_of_the_new_owner() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1, 2))
    world.cut.add((0, 1))
    world.write(0, 1)  # n2 has it, n1 has not
    world.configure(2, 1, (1, 2))
    world.write(1, 50)
    assert world.said == ["n2 Truncate"]
    assert world.applied[1] == [(1, 50)]
    assert [record.number for record in world.copies[2].log] == [50]


def test_the_journalling_of_a_record_that_was_cut_off_acknowledges_nothing() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1, 2))
    world.held.add(2)
    world.cut.add((0, 1))
    world.write(0, 1)
    world.configure(2, 1, (1, 2))
    world.write(1, 50)
    world.write_journal(2, 1)  # the record of n0
    assert 50 not in world.answers
    world.write_journal(2)
    assert world.answers[50] == "ok"


def test_what_lies_in_the_journal_is_acknowledged_only_when_the_new_owner_has_it_too() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1, 2))
    world.cut.add((0, 1))
    world.write(0, 1)
    world.configure(2, 1, (1, 2))
    copy = world.copies[2]
    assert (copy.prepared, copy.matched) == (1, 0)


def test_a_commit_point_of_a_newer_epoch_waits_until_the_catalog_knows_it() -> None:
    world = pair()
    world.configure(2, 0, (0, 1), only=(0,))
    world.copies[1].commit_point(0, 2, 1, 1)
    world.configure(2, 0, (0, 1), only=(1,))
    assert world.applied[1] == [(1, 1)]


def test_a_commit_point_that_names_another_record_commits_nothing() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1, 2))
    world.cut.add((0, 1))
    world.write(0, 1)
    world.configure(2, 1, (1, 2))
    world.copies[2].commit_point(1, 2, 1, 2)
    world.run()
    assert world.applied[2] == []


def test_space_that_was_given_anew_forgets_what_the_journal_still_writes() -> None:
    world = pair()
    world.held.add(1)
    world.write(0, 2)
    copy = world.copies[1]
    copy.reset_place()
    world.write_journal(1)
    assert copy.journalled == 0


# ------------------------------------------------------------------ takeover


def test_a_new_owner_serves_only_after_the_end_of_every_lease_that_it_granted() -> None:
    world = pair()
    world.configure(2, 1, (1,), now_ns=100, open_at_ns=500)
    copy = world.copies[1]
    copy.advance(499)
    assert not copy.serving
    copy.advance(500)
    assert copy.serving


def test_a_new_owner_serves_only_after_its_inherited_tail_is_committed() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1, 2))
    world.held.add(2)
    world.write(0, 1)
    world.configure(2, 1, (1, 2), now_ns=100, open_at_ns=0)
    assert not world.copies[1].serving
    world.write_journal(2)
    world.copies[1].advance(101)
    assert world.copies[1].serving
    assert world.applied[1] == [(1, 1)]


def test_a_write_that_comes_while_the_region_opens_is_resumed() -> None:
    world = pair()
    world.configure(2, 1, (1,), open_at_ns=500)
    world.write(1, 2)
    assert 2 not in world.answers
    world.copies[1].advance(500)
    world.run()
    assert world.answers[2] == "resumed"


def test_an_owner_that_stays_owner_goes_on_serving() -> None:
    world = pair()
    world.configure(2, 0, (0,), open_at_ns=10**9)
    assert world.copies[0].serving


def test_an_owner_that_missed_an_epoch_opens_anew() -> None:
    world = pair()
    world.configure(3, 0, (0, 1), open_at_ns=10**9)
    assert not world.copies[0].serving


def test_an_owner_that_loses_the_region_says_that_its_operations_moved() -> None:
    world = pair()
    world.held.add(1)
    world.write(0, 2)
    world.configure(2, 1, (1,))
    assert world.answers[2] == "moved"


def test_a_restarted_node_commits_its_tail_under_the_new_epoch() -> None:
    world = pair()
    restarted = world.copies[0] = RegionCopy(1, 0, 0, world.effects[0])
    restarted.restore(
        committed=1, committed_epoch=1, tail=[numbered(2, epoch=1, seq=2, prev_epoch=1)],
        clients=((7, 0, (1,)),), complete=True,
    )  # fmt: skip
    world.configure(2, 0, (0, 1))
    assert world.copies[0].committed == 2
    assert [record.epoch for record in world.copies[1].log] == [1]


def test_a_link_that_came_back_carries_again_what_is_not_acknowledged() -> None:
    world = pair()
    world.cut.add((0, 1))
    world.write(0, 2)
    world.cut.clear()
    world.copies[0].link_reset(1)
    world.run()
    assert world.answers[2] == "ok"


# ------------------------------------------------------------------ joining


def joining() -> Copies:
    """n0 owns, n1 is its copy, n2 joins; one operation is committed, the session runs."""
    world = pair()
    world.configure(1, 0, (0, 1), joiner=2)
    return world


def test_a_joiner_is_proposed_when_it_has_the_prefix_and_the_stream() -> None:
    world = joining()
    world.join(0)
    assert (1, 2) in world.admitted


def test_commits_and_reads_need_the_joiner_before_its_admission_is_proposed() -> None:
    world = joining()
    world.cut.add((2, 0))
    world.join(0)
    copy = world.copies[0]
    assert world.admitted == []
    state = (copy.required, copy.read_peers)
    world.cut.clear()
    world.join(0)
    assert state == ((1,), (1,))
    assert (copy.required, copy.read_peers) == ((1, 2), (1, 2))


def test_a_write_during_the_admission_waits_for_the_joiner() -> None:
    world = joining()
    world.join(0)
    world.held.add(2)
    world.write(0, 2)
    assert 2 not in world.answers
    world.write_journal(2)
    assert world.answers[2] == "ok"


def test_a_link_that_breaks_during_the_admission_does_not_free_the_owner_of_the_joiner() -> None:
    world = joining()
    world.join(0)
    world.copies[0].link_reset(2)
    world.held.add(2)
    world.write(0, 2)
    assert world.copies[0].required == (1, 2)
    assert 2 not in world.answers


def test_what_was_lost_with_a_link_during_the_admission_is_sent_again() -> None:
    world = joining()
    world.join(0)
    world.cut.add((0, 2))
    world.write(0, 2)
    world.cut.clear()
    world.copies[0].link_reset(2)
    world.run()
    assert world.answers[2] == "ok"


def test_no_session_begins_while_an_admission_may_commit() -> None:
    world = joining()
    world.join(0)
    with pytest.raises(AssertionError, match="may commit at any time"):
        world.join(0)


def test_a_joiner_without_a_session_takes_no_record() -> None:
    world = joining()
    world.copies[2].replicate(0, numbered(2, epoch=1, seq=1, prev_epoch=0), 1, 0)
    world.run()
    assert world.copies[2].prepared == 0


def test_a_member_refuses_state_transfer() -> None:
    world = pair()
    world.configure(1, 0, (0, 1), joiner=1, only=(0,))
    world.join(0)
    assert world.said == ["n1 transfer outcome 2"]
    assert world.copies[1].prepared == 1


def test_a_session_that_was_lost_before_the_admission_begins_again_with_a_new_number() -> None:
    world = joining()
    world.no_pages.add(2)
    world.join(0)
    world.copies[0].link_reset(2)
    world.no_pages.clear()
    world.join(0)
    assert (1, 2) in world.admitted


def test_an_acknowledgement_of_a_session_that_was_given_up_counts_for_nothing() -> None:
    world = joining()
    world.no_pages.add(2)
    world.join(0)
    old = world.session
    world.join(0)
    world.copies[0].acked.clear()
    world.copies[0].peer_acknowledged(2, 1, 1, 1, old)
    assert world.copies[0].acked == {}


def test_a_joiner_that_has_exactly_the_base_keeps_its_pages() -> None:
    world = pair()
    copy = world.copies[2]
    copy.restore(
        committed=1, committed_epoch=1, tail=[], clients=((7, 0, (1,)),), complete=True
    )  # fmt: skip
    world.configure(1, 0, (0, 1), joiner=2)
    world.join(0)
    assert "n2 ResetRegion" not in world.said
    assert (1, 2) in world.admitted


def test_a_former_owner_drops_its_tail_when_it_joins() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.write(0, 1)
    world.cut.add((0, 1))
    world.write(0, 2)
    world.configure(2, 1, (1,))
    world.cut.clear()
    world.configure(2, 1, (1,), joiner=0)
    world.join(1)
    assert "n0 Truncate" in world.said
    assert world.copies[0].prepared == 1


def test_a_former_owner_with_another_record_at_the_base_is_filled_anew() -> None:
    world = Copies()
    world.configure(1, 0, (0, 1))
    world.cut.add((0, 1))
    world.write(0, 1)
    world.configure(2, 1, (1,))
    world.cut.clear()
    world.write(1, 50)
    world.configure(2, 1, (1,), joiner=0)
    world.join(1)
    assert "n0 ResetRegion" in world.said
    assert (7, 1) not in world.copies[0].clients


def test_a_joiner_acknowledges_what_was_committed_before_its_own_journal_had_it() -> None:
    world = joining()
    world.no_pages.add(2)
    world.join(0)
    world.held.add(2)
    world.write(0, 2)
    world.copies[2].commit_point(0, 1, 2, 1)
    world.run()
    world.write_journal(2)
    assert world.copies[0].acked[2] == 2


def test_an_admitted_joiner_is_a_copy_like_any_other() -> None:
    world = joining()
    world.join(0)
    world.configure(2, 0, (0, 1, 2))
    world.write(0, 2)
    assert world.answers[2] == "ok"
    world.configure(3, 2, (2,))
    assert world.applied[2] == [(2, 2)]
    assert (7, 1) in world.copies[2].clients


def test_a_copy_without_its_prefix_cannot_own_a_region() -> None:
    world = joining()
    world.no_pages.add(2)
    world.join(0)
    with pytest.raises(AssertionError, match="without its prefix"):
        world.configure(2, 2, (2,), only=(2,))


# ---------------------------------------------------------------- snapshots


def test_a_record_that_owes_an_unknown_snapshot_waits_for_the_catalog() -> None:
    """Before that the copy has no space for what the record takes from the snapshot."""
    copies = Copies(2)
    copies.configure(1, 0, (0, 1))
    copies.write(0, 1)
    copies.copies[0].cow_into = 5
    copies.write(0, 2)
    copies.copies[1].know_views(4)
    copies.run()
    assert copies.copies[1].prepared == 1
    assert 2 not in copies.answers
    copies.copies[1].know_views(5)
    copies.run()
    assert copies.copies[1].prepared == 2
    assert copies.answers[2] == "ok"
