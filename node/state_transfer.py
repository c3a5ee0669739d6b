"""step: state transfer, both halves: how a joiner comes by the prefix of a region (P8).

Functions over a `RegionCopy`; the copy keeps the state. A transfer is a numbered session: the
joiner empties its copy at the owner's commit point, takes every operation from there on as it
happens and the pages beside it, syncs, and only then is it proposed to the catalog. A member
refuses state transfer; an older session is ignored.

From the moment at which the admission may have left this node nothing starts over any more: it can
commit at any time, and a joiner that emptied itself meanwhile would be a member without the data.
The owner sends the stream again instead and waits until the catalog moves the epoch (P3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.ids import NOBODY
from node.client_table import ClientTable
from node.effects import Admit, CopyPages, EndTransfer, ResetRegion, Send, SendBegin, Store
from node.roles import (
    BEGAN,
    JOINER,
    OWNER,
    REFUSED,
    SAME,
    TRANSFER_ADMITTING,
    TRANSFER_ASKED,
    TRANSFER_COPYING,
    TRANSFER_ENDING,
    TRANSFER_IDLE,
)
from transport.messages import TransferBegin, TransferEnd, TransferEnded, TransferReply

if TYPE_CHECKING:
    from node.region_copy import RegionCopy

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
    copy.admitting = False
    copy.set_required()
    copy.transfer = TRANSFER_COPYING
    copy.acked.pop(copy.joiner, None)
    copy.synced_acked.pop(copy.joiner, None)
    copy.trim_log_to_committed()
    copy.effects.append(SendBegin(copy, copy.joiner, session))
    for record in copy.tail():
        copy.effects.append(Store(copy, record, (copy.joiner,), journal=False))


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
    """The joiner began empty, has the same already, or refused."""
    if _other_session(copy, peer, session) or copy.admitting:
        return
    if outcome == BEGAN:
        copy.effects.append(CopyPages(copy, peer, session))
    elif outcome == SAME:
        _start_admission(copy)
    else:
        copy.transfer = TRANSFER_ASKED


def pages_copied(copy: RegionCopy, peer: int, session: int) -> None:
    """Every allocated page of the region has been acknowledged by the joiner."""
    if not _other_session(copy, peer, session) and not copy.admitting:
        copy.transfer = TRANSFER_ENDING
        end = TransferEnd(copy.volume, copy.region, copy.epoch, session)
        copy.effects.append(Send(peer, end))


def ended(copy: RegionCopy, peer: int, session: int) -> None:
    """The joiner holds the prefix of the session, synced."""
    if not _other_session(copy, peer, session) and not copy.admitting:
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
    """Propose the admission once the joiner has everything that this owner ever committed."""
    if copy.admitting and copy.acked.get(copy.joiner, 0) >= copy.committed:
        copy.admission_out = True
        copy.effects.append(Admit(copy, copy.epoch, copy.joiner))


# ---------------------------------------------------------------- joiner


def begin(copy: RegionCopy, sender: int, message: TransferBegin) -> None:
    """The owner starts a session. Refused by a member; ignored when it is an older one."""
    outcome = REFUSED
    if message.epoch == copy.epoch and sender == copy.owner and copy.role == JOINER:
        if message.session <= copy.session:
            return  # a delayed one, or a duplicate of the session that runs
        outcome = SAME if _take_base(copy, message) else BEGAN
    reply = TransferReply(copy.volume, copy.region, message.epoch, message.session, outcome)
    copy.effects.append(Send(sender, reply))
    if outcome != REFUSED:
        copy.acknowledge()


def _take_base(copy: RegionCopy, message: TransferBegin) -> bool:
    """Put this copy onto the base of a new session. True: it had exactly that already."""
    base = message.base_seq
    copy.session = message.session
    if (
        copy.complete
        and copy.committed <= base <= copy.prepared
        and copy.epoch_at(base) == message.base_epoch
    ):
        copy.matched = base
        copy.commit_up_to(base)
        if copy.prepared > base:
            copy.truncate(base + 1)
        return True
    copy.start_at(base, message.base_epoch, ClientTable(message.clients))
    copy.complete = False
    bitmap = bytes(message.data)  # type: ignore[arg-type]
    copy.effects.append(ResetRegion(copy, message.session, message.base_epoch, base, bitmap))
    return False


def end(copy: RegionCopy, sender: int, message: TransferEnd) -> None:
    """The owner has sent every page of the session."""
    if (
        message.epoch != copy.epoch
        or sender != copy.owner
        or copy.role != JOINER
        or message.session != copy.session
    ):
        return
    if copy.complete:
        _say_ended(copy)
    else:
        copy.effects.append(EndTransfer(copy, copy.session))


def synced(copy: RegionCopy, session: int) -> None:
    """All that the session brought survives a power cut here."""
    if session == copy.session and copy.role == JOINER and not copy.complete:
        copy.complete = True
        _say_ended(copy)
        copy.acknowledge()


def _say_ended(copy: RegionCopy) -> None:
    ended_now = TransferEnded(copy.volume, copy.region, copy.epoch, copy.session)
    copy.effects.append(Send(copy.owner, ended_now))
