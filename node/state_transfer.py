"""step: state transfer, both halves: how a joiner comes by the prefix of a region (P8).

Functions over a `RegionCopy`; the copy keeps the state. A transfer is a numbered session. The
owner asks where the joiner stands. The joiner drops what it had prepared beside the owner's line —
it lost that when the next epoch began — and says at which record it stands. By that the owner
chooses:

- **by nothing**, when the joiner has all that is committed;
- **by log**, when the owner still has every record behind the joiner's: they are sent again;
- **by delta**, when the joiner's record is on the owner's line: the pages that a record behind it
  touched are sent, and pages that the owner has not become holes;
- **in full**, when it is not, or too old to tell: every page is sent to a copy that is emptied.

From then on the joiner takes every operation as it happens and the pages beside it, syncs, and only
then is it proposed to the catalog. A member refuses state transfer; an older session is ignored.

A session by delta that is cut off can be followed by another one: the joiner has noted the record
since which it is being filled, and which pages may differ from it by now. They come again whatever
the next owner thinks of them, for that one may be on another line than the last.

From the moment at which the admission may have left this node nothing starts over any more: it can
commit at any time, and a joiner that emptied itself meanwhile would be a member without the data.
The owner sends the stream again instead and waits until the catalog moves the epoch (P3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.ids import NOBODY
from node.client_table import ClientTable
from node.effects import (
    Admit,
    CopyPages,
    EndTransfer,
    ResetRegion,
    Send,
    SendBegin,
    SendPosition,
    Store,
    SyncRecord,
)
from node.epoch_line import EpochLine
from node.roles import (
    BEGAN,
    BY_DELTA,
    BY_FULL,
    BY_LOG,
    BY_NOTHING,
    JOINER,
    NONE,
    OWNER,
    REFUSED,
    SAME,
    TRANSFER_ADMITTING,
    TRANSFER_ASKED,
    TRANSFER_COPYING,
    TRANSFER_ENDING,
    TRANSFER_IDLE,
    TRANSFER_POSITION,
)
from transport.messages import (
    TransferAsk,
    TransferBegin,
    TransferEnd,
    TransferEnded,
    TransferPosition,
    TransferReply,
)

if TYPE_CHECKING:
    from node.region_copy import RegionCopy


class Session:
    """What one session of an owner brings its joiner, for the report: a plain record."""

    __slots__ = ("bytes", "mode", "number", "pages", "peer", "sync_to", "target")

    def __init__(self, number: int, peer: int, mode: int, target: int) -> None:
        self.number = number
        self.peer = peer
        self.mode = mode
        self.target = target  # by log: the record at which the joiner has caught up
        self.sync_to = -1  # what the joiner must have synced to be proposed; -1: not asked for
        self.pages = 0
        self.bytes = 0


# ---------------------------------------------------------------- owner


def drive(copy: RegionCopy) -> None:
    """Ask for a session when there is a joiner and the region is open; forget it when not."""
    if copy.role != OWNER or copy.joiner == NOBODY:
        copy.transfer = TRANSFER_IDLE
        copy.admitting = False
        copy.set_required()
    elif copy.transfer == TRANSFER_IDLE and copy.serving:
        copy.transfer = TRANSFER_ASKED


def ask(copy: RegionCopy, session: int) -> None:
    """Begin, or begin again, to fill the joiner, under a session number never used before."""
    assert copy.role == OWNER
    assert session > copy.session
    assert not copy.admission_out, (copy, "its admission may commit at any time")
    copy.session = session
    copy.filling = None
    copy.admitting = False
    copy.set_required()
    copy.transfer = TRANSFER_POSITION
    copy.acked.pop(copy.joiner, None)
    copy.synced_acked.pop(copy.joiner, None)
    copy.trim_log()
    question = TransferAsk(
        copy.volume, copy.region, copy.epoch, session, copy.committed_epoch, copy.committed,
        copy.line.ends,
    )  # fmt: skip
    copy.effects.append(Send(copy.joiner, question))


def positioned(copy: RegionCopy, peer: int, message: TransferPosition) -> int:
    """The joiner says where it stands: choose, and begin. Bytes of records that are sent again."""
    if _other_session(copy, peer, message.session) or copy.transfer != TRANSFER_POSITION:
        return 0
    mode = _choose(copy, message)
    since = (message.seq, message.seq_epoch)
    copy.filling = Session(message.session, peer, mode, copy.committed)
    copy.transfer = TRANSFER_COPYING
    suspects = b"" if message.complete else bytes(message.data)  # type: ignore[arg-type]
    begin = SendBegin(copy, peer, mode, since, suspects)
    copy.effects.append(begin)
    copy.acked[peer] = begin.base
    again = 0
    for record in copy.log:
        if record.seq > begin.base:
            if record.seq <= copy.committed:
                again += len(record.data)
            copy.effects.append(Store(copy, record, (peer,), journal=False))
    return again


def _choose(copy: RegionCopy, message: TransferPosition) -> int:
    seq = message.seq
    if not copy.line.has(seq, message.seq_epoch, copy.committed, copy.committed_epoch):
        return BY_FULL
    if message.complete and seq >= copy.log_base:
        return BY_NOTHING if seq == copy.committed else BY_LOG
    return BY_DELTA if seq else BY_FULL


def restart(copy: RegionCopy) -> None:
    """Something of the session was lost. With the admission on its way only the stream may be
    repeated; before that a new session is simpler and as right."""
    if copy.admission_out:
        copy.resend(copy.joiner, copy.acked.get(copy.joiner, 0))
    elif copy.transfer != TRANSFER_IDLE:
        copy.transfer = TRANSFER_ASKED
        copy.admitting = False
        copy.set_required()
        copy.commit()


def answered(copy: RegionCopy, peer: int, session: int, outcome: int) -> None:
    """The joiner waits for pages, or needs the stream only, or refused."""
    if _other_session(copy, peer, session) or copy.admitting:
        return
    if outcome == REFUSED:
        copy.transfer = TRANSFER_ASKED
    elif copy.transfer != TRANSFER_COPYING or copy.filling is None:
        return
    elif outcome == BEGAN and copy.filling.mode >= BY_DELTA:
        copy.effects.append(CopyPages(copy, peer, session))
    elif outcome == SAME and copy.filling.mode <= BY_LOG:
        copy.transfer = TRANSFER_ENDING
        caught_up(copy)


def caught_up(copy: RegionCopy) -> None:
    """A joiner that the log brings up to date is proposed once it has what was committed when it
    began: before that every write of a host would wait for it."""
    filling = copy.filling
    if (
        copy.transfer == TRANSFER_ENDING
        and filling is not None
        and filling.mode <= BY_LOG
        and copy.acked.get(copy.joiner, 0) >= filling.target
    ):
        _start_admission(copy)


def pages_copied(copy: RegionCopy, peer: int, session: int) -> None:
    """Every page that the joiner wants has been acknowledged by it."""
    if not _other_session(copy, peer, session) and copy.transfer == TRANSFER_COPYING:
        copy.transfer = TRANSFER_ENDING
        end = TransferEnd(copy.volume, copy.region, copy.epoch, session, copy.committed)
        copy.effects.append(Send(peer, end))


def ended(copy: RegionCopy, peer: int, session: int) -> None:
    """The joiner holds the prefix of the session, synced."""
    if not _other_session(copy, peer, session) and copy.transfer == TRANSFER_ENDING:
        _start_admission(copy)


def _other_session(copy: RegionCopy, peer: int, session: int) -> bool:
    return (
        copy.role != OWNER
        or peer != copy.joiner
        or session != copy.session
        or copy.transfer <= TRANSFER_ASKED
    )


def _start_admission(copy: RegionCopy) -> None:
    # From here on commits and reads need the joiner, and only then may the catalog hear of it:
    # else a write acknowledged between the commit of the admission and its arrival here would
    # be lost with this owner (P2, P3).
    copy.transfer = TRANSFER_ADMITTING
    copy.admitting = True
    copy.set_required()
    maybe_admit(copy)


def maybe_admit(copy: RegionCopy) -> None:
    """Propose the admission once the joiner has everything that this owner ever committed, and what
    was committed without it synced: a flush that a host had answered while it was away, or that
    overtook the stream, is a promise of every member. From here on a flush finds it in the journal.
    """
    filling = copy.filling
    if not copy.admitting or filling is None or copy.acked.get(copy.joiner, 0) < copy.committed:
        return
    if filling.sync_to < 0:
        filling.sync_to = copy.committed
        end = TransferEnd(copy.volume, copy.region, copy.epoch, copy.session, copy.committed)
        copy.effects.append(Send(copy.joiner, end))
    if copy.synced_acked.get(copy.joiner, 0) >= filling.sync_to:
        copy.admission_out = True
        copy.effects.append(Admit(copy, copy.epoch, copy.joiner))


# ---------------------------------------------------------------- joiner


def asked(copy: RegionCopy, sender: int, message: TransferAsk) -> None:
    """The owner wants to know where this copy stands. What was prepared beside its line goes."""
    if not _is_joiner_of(copy, sender, message.epoch):
        refuse(copy, sender, message.epoch, message.session)
    elif message.session > copy.session:  # else delayed, or of the session that runs
        if copy.complete:
            _follow_line(copy, message)
        copy.effects.append(SendPosition(copy, sender, message.session))


def _follow_line(copy: RegionCopy, message: TransferAsk) -> None:
    """Commit what this copy has of the owner's line, and drop what is not of it. A copy whose last
    committed record is not on it stays as it is: the owner will fill it in full."""
    line = EpochLine(message.line)
    here = (message.committed, message.committed_epoch)
    if not line.has(copy.committed, copy.committed_epoch, *here):
        return
    last = copy.committed
    for record in copy.tail():
        if not line.has(record.seq, record.epoch, *here):
            break
        last = record.seq
    if last < copy.prepared:
        copy.truncate(last + 1)
    copy.matched = last
    copy.commit_up_to(last)


def give_up_tail(copy: RegionCopy) -> None:
    """The journal needs the room of what this copy had prepared. As no member, or as a joiner whose
    session has not begun, it never commits that by itself: it would only shorten its way back. And
    the session of another region may wait for that room, and this one for the other's end."""
    away = copy.role == NONE and copy.self_id not in copy.members
    if (away or (copy.role == JOINER and not copy.session)) and copy.prepared > copy.committed:
        copy.truncate(copy.committed + 1)


def wait_for_room(copy: RegionCopy) -> None:
    """The journal of a joiner that was asked for its place is full: no session may begin before it
    has room. What is prepared and not committed is void with the session before, as at a beginning,
    and would hold the journal up."""
    if copy.role == JOINER and copy.prepared > copy.committed:
        copy.truncate(copy.committed + 1)


def page_lost(copy: RegionCopy) -> None:
    """The disks of a joiner have lost a page that a record touches. As no member it can ask nobody
    for it as of that record, and its journal fills up behind it: it wants to be filled in full. An
    owner that is admitting it does not listen; as a member the copy can have the page repaired."""
    if copy.role == JOINER:
        copy.spoiled = True
        refuse(copy, copy.owner, copy.epoch, copy.session)


def give_up(copy: RegionCopy) -> bool:
    """Forget all that a stale copy has: it will be filled in full. False: it may have to open its
    region again, so it must keep what it has."""
    if copy.role != NONE or copy.self_id in copy.members:
        return False
    copy.reset_place()
    return True


def begin(copy: RegionCopy, sender: int, message: TransferBegin) -> None:
    """The owner starts a session. Refused by a member, and by a copy that does not stand where it
    said; ignored when it is an older one."""
    if not _is_joiner_of(copy, sender, message.epoch):
        refuse(copy, sender, message.epoch, message.session)
        return
    if message.session <= copy.session:
        return  # a delayed one, or a duplicate of the session that runs
    if message.mode != BY_FULL and not _stands_there(copy, message):
        refuse(copy, sender, message.epoch, message.session)
        return
    copy.session = message.session
    copy.end_at = -1
    if message.mode <= BY_LOG:
        outcome = SAME
        if copy.prepared > copy.committed:
            copy.truncate(copy.committed + 1)
        copy.matched = copy.committed
    else:
        outcome = BEGAN
        copy.start_at(message.base_seq, message.base_epoch, ClientTable(message.clients))
        copy.line = EpochLine(message.line)
        copy.complete = False
        copy.since = (0, 0)
        if message.mode == BY_DELTA:
            copy.since = (message.since_seq, message.since_epoch)
        copy.effects.append(ResetRegion(copy, message))
    _reply(copy, sender, message.epoch, message.session, outcome)
    copy.acknowledge()


def _stands_there(copy: RegionCopy, message: TransferBegin) -> bool:
    complete, seq, epoch = copy.position()
    there = (message.since_seq, message.since_epoch)
    return (complete or message.mode == BY_DELTA) and (seq, epoch) == there


def _is_joiner_of(copy: RegionCopy, sender: int, epoch: int) -> bool:
    return epoch == copy.epoch and sender == copy.owner and copy.role == JOINER


def refuse(copy: RegionCopy, sender: int, epoch: int, session: int) -> None:
    """Not here, or not as the owner thinks: it asks again."""
    _reply(copy, sender, epoch, session, REFUSED)


def _reply(copy: RegionCopy, sender: int, epoch: int, session: int, outcome: int) -> None:
    reply = TransferReply(copy.volume, copy.region, epoch, session, outcome)
    copy.effects.append(Send(sender, reply))


def end(copy: RegionCopy, sender: int, message: TransferEnd) -> None:
    """The owner has sent every page of the session. They may be as of records that are not
    committed here yet: a copy that called itself complete before that would be ahead of its own
    commit point, and on no line."""
    if not _is_joiner_of(copy, sender, message.epoch) or message.session != copy.session:
        return
    if copy.complete:
        _say_ended(copy)
        copy.effects.append(SyncRecord(copy, copy.journalled))
        return
    copy.end_at = message.as_of
    copy.commit_up_to(message.as_of)
    maybe_end(copy)


def maybe_end(copy: RegionCopy) -> None:
    """Make what the session brought survive a power cut, once all that led to it is committed."""
    if 0 <= copy.end_at <= copy.committed:
        copy.end_at = -1
        copy.effects.append(EndTransfer(copy, copy.session))


def synced(copy: RegionCopy, session: int) -> None:
    """All that the session brought survives a power cut here."""
    if session == copy.session and copy.role == JOINER and not copy.complete:
        copy.complete = True
        copy.since = (0, 0)
        _say_ended(copy)
        copy.acknowledge()


def _say_ended(copy: RegionCopy) -> None:
    ended_now = TransferEnded(copy.volume, copy.region, copy.epoch, copy.session)
    copy.effects.append(Send(copy.owner, ended_now))
