"""step: the joiners that one node feeds: which session may run now, and who is to be admitted.

The protocol of one session is `node.state_transfer`; this keeps their number within the limit,
starts again what does not get on, and gathers admissions of many regions into one entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.ids import NOBODY
from base.units import NS_PER_MS
from cluster.entries import AdmitCopies, CancelJoins, encode, pack_rows
from node import state_transfer
from node.effects import Admit, Note
from node.region_copy import RegionCopy
from node.roles import MODE_NAMES, OWNER, TRANSFER_ASKED, TRANSFER_IDLE
from node.state_transfer import Session

if TYPE_CHECKING:
    from node.core import NodeCore

ADMIT_NS = 20 * NS_PER_MS
ADMIT_RETRY_NS = 500 * NS_PER_MS
TRANSFER_RETRY_NS = 2_000 * NS_PER_MS


class Joins:
    """State transfers of which this node is the owner's side."""

    def __init__(self, core: NodeCore, first_session: int) -> None:
        self._core = core
        self._sessions = first_session
        self.running: dict[RegionCopy, int] = {}  # copy -> when its session last got on
        self.wanted = True  # the catalog may have joiners that wait for this node
        self._admits: dict[RegionCopy, int] = {}
        self._next_admit_ns = 0
        self._began_ns: dict[RegionCopy, int] = {}  # when the first session of a join began
        # What was brought to joiners, by the mode of the session, as in MODE_NAMES.
        self.resyncs = [0] * len(MODE_NAMES)
        self.resync_bytes = [0] * len(MODE_NAMES)

    @property
    def busy(self) -> bool:
        """Something is to be looked at soon."""
        return bool(self.running or self._admits)

    def configured(self, copy: RegionCopy, now_ns: int) -> None:
        """The copy has a new configuration: an admission that was asked for is decided."""
        filling = copy.filling
        if filling is not None and copy.joiner != filling.peer:
            copy.filling = None
            began_ns = self._began_ns.pop(copy, now_ns)
            if copy.role == OWNER and filling.peer in copy.members:
                self._report(copy, filling, now_ns - began_ns)
        if copy.role == OWNER and copy.transfer != TRANSFER_IDLE:
            self.running.setdefault(copy, now_ns)
        else:
            self.running.pop(copy, None)
        self._admits.pop(copy, None)

    def _report(self, copy: RegionCopy, filling: Session, took_ns: int) -> None:
        self.resyncs[filling.mode] += 1
        self._core.effects.append(
            Note(
                "copy.joined",
                volume=copy.volume,
                region=copy.region,
                peer=filling.peer,
                mode=MODE_NAMES[filling.mode],
                pages=filling.pages,
                bytes=filling.bytes,
                took_ms=took_ns // NS_PER_MS,
            )
        )

    def sent(self, copy: RegionCopy, session: int, pages: int, count: int) -> None:
        """Bytes left for the joiner, of pages or of records that were sent again."""
        filling = copy.filling
        if filling is not None and filling.number == session:
            filling.pages += pages
            filling.bytes += count
            self.resync_bytes[filling.mode] += count

    def waits_until(self, copy: RegionCopy, until_ns: int) -> None:
        """Its session sends nothing before then, as the rate wants it."""
        if copy in self.running:
            self.running[copy] = max(self.running[copy], until_ns)

    def forget(self, copy: RegionCopy) -> None:
        """The copy is gone."""
        self._began_ns.pop(copy, None)
        self.running.pop(copy, None)
        self._admits.pop(copy, None)

    def clear(self) -> None:
        """This life of the node is over."""
        self._began_ns.clear()
        self.running.clear()
        self._admits.clear()

    def drive(self, now_ns: int) -> None:
        """Begin sessions within the limit, and begin again those that do not get on."""
        core = self._core
        if self.wanted and len(self.running) < core.settings.joins_max:
            self._find(now_ns)
        running = 0
        for copy in list(self.running):
            if copy.role != OWNER or copy.joiner == NOBODY:
                self.running.pop(copy)
                continue
            if copy.transfer > TRANSFER_ASKED and (
                copy.admission_out or now_ns - self.running[copy] < TRANSFER_RETRY_NS
            ):
                running += 1
                continue
            if copy.serving and running < core.settings.joins_max:
                running += 1
                self.running[copy] = now_ns
                self._sessions += 1
                self._began_ns.setdefault(copy, now_ns)
                if copy.admitting:
                    state_transfer.restart(copy)  # its last word was lost: commits go on without
                state_transfer.ask(copy, self._sessions)

    def _find(self, now_ns: int) -> None:
        """Make copies for joiners that wait, up to the limit: a volume of 1 TiB has thousands."""
        core = self._core
        room = core.settings.joins_max - len(self.running)
        found = False
        for volume in core.catalog.volume_manager.list_volumes():
            table = volume.table
            rows = np.flatnonzero(
                (table.owner == core.self_id) & (table.joiner != NOBODY) & ~table.offline
            )
            for region in rows.tolist():
                copy = core.copy_for_host(int(volume.volume), region, now_ns)
                if not isinstance(copy, RegionCopy) or copy in self.running:
                    continue
                found = True
                if room <= 0:
                    return
                if copy.transfer == TRANSFER_IDLE and copy.serving:
                    copy.advance(now_ns)
                if copy.transfer != TRANSFER_IDLE:
                    room -= 1
                    self.running[copy] = now_ns
        self.wanted = found

    def prefer(self, node: int, now_ns: int) -> None:
        """A node is back. Where it holds an older copy of a region that another node was to join,
        and that join has not begun, it joins instead: its copy is cheaper to bring up to date. A
        join that has begun goes on: nobody here knows how much of it is left."""
        core = self._core
        for volume in core.catalog.volume_manager.list_volumes():
            table = volume.table
            rows = np.flatnonzero(
                (table.owner == core.self_id)
                & ~table.offline
                & (table.joiner != NOBODY)
                & (table.joiner != node)
                & (np.bitwise_count(table.in_sync) < volume.copies)
            )
            slots = table.slots_of(rows, node)
            rows = rows[(slots >= 0) & (table.slot_epoch[rows, slots] > 0)]
            waiting = [row for row in rows.tolist() if not self._has_begun(volume.volume, row)]
            if waiting:
                packed = pack_rows(waiting, table.joiner[waiting], table.epoch[waiting])
                core.propose(encode(CancelJoins(volume.volume, packed)), None, now_ns)

    def _has_begun(self, volume: int, region: int) -> bool:
        copy = self._core.copies.get(volume, {}).get(region)
        return copy is not None and copy.transfer > TRANSFER_ASKED

    def alive(self, copy: RegionCopy, now_ns: int) -> None:
        """The session of this copy got on: its joiner has acknowledged something."""
        if copy in self.running:
            # Not back from what the rate makes it wait for: acknowledgements of records come too.
            self.running[copy] = max(self.running[copy], now_ns)

    def pages_copied(self, copy: RegionCopy, peer: int, session: int, now_ns: int) -> None:
        """The shell has copied every page of the session."""
        self.alive(copy, now_ns)
        state_transfer.pages_copied(copy, peer, session)

    def admit(self, effect: Admit) -> None:
        """An owner asks for the admission of its joiner; those of many regions are one entry."""
        self._admits.setdefault(effect.copy, 0)

    def propose_admissions(self, now_ns: int) -> None:
        """To be called at each tick: what is new, and what was not answered, goes out now."""
        if not self._admits or now_ns < self._next_admit_ns:
            return
        self._next_admit_ns = now_ns + ADMIT_NS
        core = self._core
        due: dict[int, list[RegionCopy]] = {}
        for copy, asked_ns in list(self._admits.items()):
            if copy.role != OWNER or not copy.admitting:
                del self._admits[copy]
            elif asked_ns == 0 or now_ns - asked_ns >= ADMIT_RETRY_NS:
                self._admits[copy] = now_ns
                due.setdefault(copy.volume, []).append(copy)
        for volume in sorted(due):
            copies = due[volume]
            rows = pack_rows(
                [copy.region for copy in copies],
                [copy.joiner for copy in copies],
                [copy.epoch for copy in copies],
            )
            core.propose(encode(AdmitCopies(volume, rows)), None, now_ns, repeatable=True)
