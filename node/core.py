"""step: everything that one node decides, put together: consensus, catalog, membership, leases and
the copies of regions. Its shell is `node.control_loop`; the kernel of the simulator drives it too.

Each call takes the time and may append to `effects`; the caller performs them in order. Nothing is
served before the catalog has taken in this life of the node (`active`): a restarted owner never
goes on at its old epoch (P6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from base.errors import NotOwner, StorageError
from base.ids import NOBODY, NodeId
from base.units import NS_PER_MS, NS_PER_S, KiB, MiB
from cluster import raft_types as rt
from cluster.catalog import Catalog, Liveness
from cluster.consensus import Raft
from cluster.effects import (
    CopiesDropped,
    CutBegun,
    CutEnded,
    NodeChanged,
    PairCut,
    RegionsChanged,
    RegionsForced,
    RegionsReduced,
    RegionsReturned,
    SnapshotsChanged,
    VolumeCreated,
    VolumeGrown,
    VolumeRemoved,
)
from cluster.membership import Membership
from node import own_life
from node.agreement import PROPOSAL_NS, Agreement
from node.commit_points import CommitPoints
from node.detection import Detection
from node.effects import (
    Answer,
    CloseRegion,
    NodeEffect,
    Note,
    OpenRegion,
    Reply,
    Send,
    Token,
    TopologyChanged,
)
from node.flapping import Flapping, FlapPolicy
from node.gates import Gates
from node.gray import IoHealth
from node.handover import HandOver
from node.joins import Joins
from node.kept_log import KeptBytes
from node.leader import Leader
from node.leases import LeaseTable
from node.refused import Refused
from node.region_copy import RegionCopy
from node.region_messages import RegionMessages
from node.roles import OWNER, TRANSFER_ASKED
from node.transfer_messages import TransferMessages
from transport import messages as wire
from transport.operation import Record

LEADER_NS = 100 * NS_PER_MS
BUSY_TICK_NS = 20 * NS_PER_MS
DUTY_NS = 300 * NS_PER_MS
LEFT_NS = 60 * NS_PER_S
NOTED: dict[type[Any], str] = {
    RegionsForced: "regions.forced",
    RegionsReduced: "regions.reduced",
    RegionsReturned: "regions.returned",
}

MEMBERS_OF = tuple(tuple(node for node in range(8) if bits >> node & 1) for bits in range(256))


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What a node decides by. Times in ns."""

    durability_synced: bool = False
    joins_max: int = 4  # state transfers that this node feeds at the same time
    snapshot_entries: int = 512  # applied entries between two snapshots of the catalog
    form_entry: bytes = b""  # what a leader of an unformed cluster proposes
    recruit_after_ns: int = 200 * NS_PER_MS
    # Committed records that are kept for copies that are away: of one node, and of one region.
    kept_bytes_max: int = 32 * MiB
    kept_region_bytes_max: int = 512 * KiB
    voters_max: int = 8  # nodes beyond so many listen and do not vote
    failback: bool = True  # copies and owners go home by themselves
    failback_per_s: int = 20  # regions, together
    stale_keep_ns: int = 600 * NS_PER_S  # how long the copies of a node that is down are kept
    flaps: FlapPolicy = FlapPolicy()  # noqa: RUF009 - frozen
    io_deadline_ns: int = 0  # an I/O of this node that takes longer mutes it; 0: never


class NodeCore:
    """All decisions of one node. See the module."""

    def __init__(
        self,
        *,
        self_id: int,
        incarnation: int,
        intact: bool,
        blank: bool,
        known: int,
        inventory: bytes,
        raft: Raft,
        catalog: Catalog,
        membership: Membership,
        leases: LeaseTable,
        settings: CoreSettings,
        effects: list[NodeEffect],
        now_ns: int,
        store_ready: bool = True,
    ) -> None:
        """store_ready False: the shell recovers the store when RecoverStore asks for it, and then
        calls `store_recovered`; the node is not active before."""
        self.store_ready = store_ready
        self.recovery_asked = False
        self.self_id = self_id
        self.incarnation = incarnation
        self.intact = intact
        self.blank = blank
        self.known = known  # version that no life before a loss acted beyond
        self.inventory = inventory
        self.raft = raft
        self.catalog = catalog
        self.membership = membership
        self.leases = leases
        self.settings = settings
        self.effects = effects
        self.active = False
        # Set when this node stops in order: as a rule the others are stopped with it, and a silence
        # that was ordered must not cost them their copies.
        self.stopping = False
        self.io_health = IoHealth(settings.io_deadline_ns, now_ns)
        self.commit_points = CommitPoints(self)
        leases.floor = catalog.version  # a snapshot does not say when owners changed
        self.leader_id: int = NOBODY
        self.copies: dict[int, dict[int, RegionCopy]] = {}
        self.kept = KeptBytes(settings.kept_bytes_max, settings.kept_region_bytes_max)
        self.commit_dirty: dict[RegionCopy, None] = {}
        self.opening: dict[RegionCopy, None] = {}
        self.waiting: dict[RegionCopy, None] = {}
        self.open_at_ns = now_ns + leases.grace_ns
        self.flapping = Flapping(settings.flaps)
        self.refused = Refused(self)
        self.duties = Leader(self)
        self.detection = Detection(self)
        self.handover = HandOver(self)
        self.joins = Joins(self, incarnation << 24)
        self.gates = Gates(self)
        self.agreement = Agreement(self, effects, incarnation << 24)
        self._owners: dict[int, Any] = {}
        self._next_leader_ns = now_ns
        self.next_duty_ns = now_ns
        self.takeovers = 0  # regions that this node took over from another
        self._exposed = 0
        self._exposed_ns = 0
        self._exposed_at_ns = now_ns
        self.life_asked = False
        self.count_asked = False
        self.counted = False  # nothing that this process had lost at its start is left to be said
        self._compacted = catalog.version
        self._on: dict[type[Any], Any] = {
            wire.Beacon: self.detection.on_beacon,
            **RegionMessages(self).handlers(),
            **TransferMessages(self).handlers(),
            wire.ProposeRequest: self.agreement.on_propose_request,
            wire.ProposeReply: self.agreement.on_propose_reply,
            wire.ReportDown: self.detection.on_report,
            wire.OwnerReleased: self.handover.on_released,
            wire.ReportStuck: self.detection.on_stuck,
            wire.CutAdopted: self.gates.on_adopted,
            wire.NodeReady: self._on_node_ready,
        }
        for kind in (
            wire.RequestVote, wire.VoteReply, wire.AppendEntries, wire.AppendReply,
            wire.InstallSnapshot, wire.SnapshotReply, wire.TimeoutNow,
        ):  # fmt: skip
            self._on[kind] = self._on_raft_message

    # ------------------------------------------------------------------ events

    @property
    def muted(self) -> bool:
        """This node accuses nobody: it stops, or does not trust itself."""
        return self.stopping or self.io_health.stuck

    def exposed_ms(self, now_ns: int) -> int:
        """Time, summed over the regions that this node owned meanwhile, with too few copies."""
        self._count_exposed(now_ns)
        return self._exposed_ns // NS_PER_MS

    def _count_exposed(self, now_ns: int) -> None:
        self._exposed_ns += self._exposed * (now_ns - self._exposed_at_ns)
        self._exposed_at_ns = now_ns

    def message(self, peer: int, message: object, now_ns: int) -> None:
        """A message that is not host I/O or bulk (those have calls of their own)."""
        handle = self._on.get(type(message))
        if handle is not None:
            handle(peer, message, now_ns)

    def link(self, peer: int, session: int, now_ns: int) -> None:
        """The link to a node got this session number, or broke (0)."""
        self.detection.link(peer, session, now_ns)
        if not session:
            if peer == self.leader_id:
                self.agreement.step(rt.PeerLost(NodeId(peer)), now_ns)
            return
        self.detection.send_beacon(peer, now_ns)
        self._send_again(peer)

    def _send_again(self, peer: int) -> None:
        for copy in self.all_copies():
            copy.link_reset(peer)
            if copy.role == OWNER:
                self.commit_dirty[copy] = None

    def _on_node_ready(self, peer: int, message: wire.NodeReady, now_ns: int) -> None:
        """A peer has recovered, perhaps long after its link came up."""
        self._send_again(peer)

    def tick(self, now_ns: int) -> None:
        """Time has passed. To be called at `next_tick_ns` or a little later."""
        if self.io_health.tick(now_ns):
            event = "node.muted" if self.io_health.stuck else "node.unmuted"
            self.effects.append(Note(event, device=self.io_health.device))
        self.detection.tick(now_ns)
        if self.io_health.stuck:
            return  # also from consensus: a leader that cannot store must not lead
        self.agreement.tick(now_ns)
        if self.opening:
            for copy in list(self.opening):
                self.advance(copy, now_ns)
        if self.waiting:
            waiting, self.waiting = list(self.waiting), {}
            for copy in waiting:
                if copy.serving and not copy.suspended:
                    copy.resume()
                elif copy.waiting:
                    self.waiting[copy] = None
        if self.commit_dirty:
            self.commit_points.tick(now_ns)
        self.joins.propose_admissions(now_ns)
        if self.active and (self.joins.wanted or self.joins.running):
            self.joins.drive(now_ns)
        if now_ns >= self._next_leader_ns and self.raft.is_leader:
            self._next_leader_ns = now_ns + LEADER_NS
            self.duties.tick(now_ns)
        if not self.active:
            own_life.report(self, now_ns)
        if self.catalog.snapshots.cuts:
            self.gates.tick(now_ns)
        if self.agreement.pending:
            self.agreement.retry(now_ns)

    def next_tick_ns(self, now_ns: int) -> int:
        """When `tick` has something to do at the latest."""
        if self.io_health.stuck:
            return max(now_ns, self.membership.next_wake_ns)  # nothing else is looked at
        due = self.membership.next_wake_ns
        other = self.raft.next_wake_ns
        if other < due:
            due = other
        if self.leader_id == self.self_id and self._next_leader_ns < due:
            due = self._next_leader_ns
        busy_ns = now_ns + BUSY_TICK_NS
        if due > busy_ns and (
            self.commit_dirty
            or self.opening
            or self.waiting
            or self.catalog.snapshots.cuts
            or not self.active
            or self.joins.busy
            or self.agreement.pending
        ):
            due = busy_ns
        if self.opening:
            for copy in self.opening:  # one whose time has come waits for a commit
                due = min(due, copy.open_at_ns) if copy.open_at_ns > now_ns else due
        return due if due > now_ns else now_ns

    def raft_persisted(self, number: int, now_ns: int) -> None:
        """The consensus store has synced everything up to that request."""
        self.agreement.step(rt.Persisted(number), now_ns)

    # ------------------------------------------------------------------ host I/O at the owner

    def copy_for_host(self, volume: int, region: int, now_ns: int) -> RegionCopy | StorageError:
        """The copy of this node when the catalog says that it owns the region; else why not."""
        by_region = self.copies.get(volume)
        copy = by_region.get(region) if by_region is not None else None
        if copy is not None and copy.role == OWNER:
            return copy
        if not self.active:
            return NotOwner(region=region, owner=NOBODY)
        table = self._table(volume)
        if table is None or region >= len(table):
            return NotOwner(region=region, owner=NOBODY)
        if copy is None and table.owner[region] == self.self_id and not table.offline[region]:
            copy = self._instantiate(volume, region, now_ns)
            if copy.role == OWNER:
                return copy
        if copy is not None:
            return copy.refusal()
        owner = NOBODY if table.offline[region] else int(table.owner[region])
        return NotOwner(region=region, owner=owner)

    def write(self, record: Record, token: Token, now_ns: int) -> None:
        """A WRITE, ZERO or TRIM for a region that this node should own."""
        copy = self.copy_for_host(record.volume, record.region, now_ns)
        if isinstance(copy, StorageError):
            self.effects.append(Reply(token, copy))
            return
        copy.write(record, token)
        self.commit_dirty[copy] = None
        if copy.waiting:
            self.waiting[copy] = None

    def may_read(self, copy: RegionCopy, now_ns: int) -> bool:
        """Whether the copy may answer a read at this moment. To be asked again with the data in
        hand (P4)."""
        return copy.serving and not copy.gated and self.leases.holds(copy.read_peers, now_ns)

    def wait_to_read(self, copy: RegionCopy, token: Token) -> None:
        """The read must wait for the region to open or for a lease: it is resumed."""
        copy.wait_until_serving(token)
        self.waiting[copy] = None

    # ------------------------------------------------------------------ copies

    def all_copies(self) -> list[RegionCopy]:
        return [copy for by_region in self.copies.values() for copy in by_region.values()]

    def _new_copy(self, volume: int, region: int) -> RegionCopy:
        effects: Any = self.effects
        copy = RegionCopy(volume, region, self.self_id, effects, self.kept)
        copy.wants_sync_always = self.settings.durability_synced
        return copy

    def restore_copy(self, volume: int, region: int, **state: Any) -> RegionCopy:
        """A region of which the store of this node knows from an earlier life."""
        copy = self._new_copy(volume, region)
        copy.restore(**state)
        self.copies.setdefault(volume, {})[region] = copy
        return copy

    def _instantiate(self, volume: int, region: int, now_ns: int) -> RegionCopy:
        copy = self._new_copy(volume, region)
        self.copies.setdefault(volume, {})[region] = copy
        self._configure(copy, now_ns)
        return copy

    def copy_at(self, volume: int, region: int, now_ns: int) -> RegionCopy | None:
        """The copy of this node for a message of a peer, made when the catalog gives it one."""
        by_region = self.copies.get(volume)
        copy = by_region.get(region) if by_region is not None else None
        if copy is not None or not self.active:
            return copy
        table = self._table(volume)
        if table is None or region >= len(table) or table.slot_of(region, self.self_id) < 0:
            return None
        return self._instantiate(volume, region, now_ns)

    def _table(self, volume: int) -> Any:
        manager = self.catalog.volume_manager
        return manager.volume(volume).table if manager.has_volume(volume) else None

    def _configure(self, copy: RegionCopy, now_ns: int) -> None:
        """Give the copy the configuration that the catalog has for it now."""
        virtual = self.catalog.volume_manager.volume(copy.volume)
        row = virtual.table.row(copy.region, self.self_id)
        if row.ld < 0:
            copy.owner = row.owner  # where whoever waits for it has to go
            self._drop(copy)
            return
        place = (row.ld, row.ld_region)
        if copy.place != place:
            fresh = copy.place is not None or copy.prepared == 0
            if copy.place is not None:
                copy.reset_place()
            copy.place = place
            self.effects.append(OpenRegion(copy, fresh))
        members = MEMBERS_OF[row.in_sync]
        holders = int(np.count_nonzero(virtual.table.slot_node[copy.region] != NOBODY))
        sole = len(members) == 1 and virtual.copies > 1
        served_epoch = self.handover.served(copy)
        copy.configure(
            epoch=row.epoch,
            owner=row.owner,
            members=members,
            joiner=row.joiner,
            offline=row.offline,
            now_ns=now_ns,
            open_at_ns=self.open_at_ns,
            sole_synced=sole and virtual.policy == "synced",
            suspended=sole and virtual.policy == "suspend",
            keeps_log=len(members) < max(virtual.copies, holders),
        )
        if copy.opening:
            self.opening[copy] = None
        if copy.role == OWNER:
            self.commit_dirty[copy] = None
            if copy.waiting:
                self.waiting[copy] = None
        self.gates.configured(copy)
        self.joins.configured(copy, now_ns)
        self.handover.configured(copy, served_epoch, now_ns)

    def _drop(self, copy: RegionCopy) -> None:
        copy.retire()
        self.copies[copy.volume].pop(copy.region, None)
        for table in (self.opening, self.waiting, self.commit_dirty):
            table.pop(copy, None)
        self.joins.forget(copy)
        self.commit_points.forget(copy)
        self.effects.append(CloseRegion(copy))

    def advance(self, copy: RegionCopy, now_ns: int) -> None:
        """Open the copy if its time has come; it may be opening no longer."""
        copy.advance(now_ns)
        if copy.serving or not copy.opening:
            self.opening.pop(copy, None)
        if copy.serving:
            self.effects.append(
                Note("region.opened", volume=copy.volume, region=copy.region, epoch=copy.epoch)
            )
            if copy.transfer == TRANSFER_ASKED:
                self.joins.running.setdefault(copy, now_ns)

    # ------------------------------------------------------------------ catalog

    def propose(
        self,
        entry: bytes,
        token: Token,
        now_ns: int,
        *,
        timeout_ns: int = PROPOSAL_NS,
        repeatable: bool = False,
    ) -> None:
        """Put an entry to the catalog. token None: nobody waits for the answer."""
        self.agreement.propose(entry, token, now_ns, timeout_ns=timeout_ns, repeatable=repeatable)

    def change_members(self, token: int, change: rt.MemberChange, now_ns: int) -> None:
        """The leader changes who votes; nobody waits for the outcome, it is tried again."""
        self.agreement.change_members(token, change, now_ns)

    def has_link(self, peer: int) -> bool:
        """Whether the link to the peer is up."""
        return self.detection.has_link(peer)

    def apply_entry(self, index: int, payload: bytes, now_ns: int) -> None:
        """An entry is committed, and durable here: carry it out."""
        applied = self.catalog.apply(index, payload)
        self.agreement.note_applied(index, applied)
        for effect in applied.effects:
            if isinstance(effect, RegionsChanged):
                self._on_regions_changed(effect.volume, index, now_ns)
            elif isinstance(effect, VolumeRemoved):
                for copy in list(self.copies.get(effect.volume, {}).values()):
                    self._drop(copy)
                self.copies.pop(effect.volume, None)
                self._owners.pop(effect.volume, None)
            elif isinstance(effect, VolumeCreated | VolumeGrown):
                self._owners[effect.volume] = self._table(effect.volume).owner.copy()
            elif isinstance(effect, NodeChanged):
                self._on_node_changed(effect.node, index, now_ns)
            elif isinstance(effect, PairCut):
                self._on_pair_cut(effect, now_ns)
            elif isinstance(effect, CopiesDropped):
                for node in dict.fromkeys(effect.nodes.tolist()):
                    self.refused.dropped(node, now_ns)
            elif isinstance(effect, CutBegun):
                self.gates.begun(effect, now_ns)
            elif isinstance(effect, CutEnded):
                self.gates.ended(effect, now_ns)
            elif isinstance(effect, SnapshotsChanged):
                self.gates.changed(effect.volume)
            elif type(effect) in NOTED:
                rows = effect.regions.tolist()
                self.effects.append(Note(NOTED[type(effect)], volume=effect.volume, regions=rows))
        if applied.effects:
            self.effects.append(TopologyChanged())
        if index - self._compacted >= self.settings.snapshot_entries:
            self._compacted = index
            self.agreement.step(rt.Compacted(index, self.catalog.to_bytes()), now_ns)

    def apply_snapshot(self, index: int, data: bytes, now_ns: int) -> None:
        """The leader sent its catalog instead of entries that it has no more."""
        self.catalog = Catalog.from_bytes(data)
        self._compacted = index
        self.leases.floor = index
        self.open_at_ns = max(self.open_at_ns, self.leases.all_granted_until_ns())
        for peer in self.leases.withheld():
            self.leases.answered(peer)
        self.joins.wanted = True
        for volume in sorted(self.copies):
            if not self.catalog.volume_manager.has_volume(volume):
                for copy in list(self.copies[volume].values()):
                    self._drop(copy)
                del self.copies[volume]
        self._owners.clear()
        self._on_node_changed(self.self_id, index, now_ns)
        if self.active:
            for copy in self.all_copies():
                self._configure(copy, now_ns)
        self.gates.reset()
        self.handover.send()
        self.effects.append(TopologyChanged())

    def _on_regions_changed(self, volume: int, index: int, now_ns: int) -> None:
        table = self._table(volume)
        owners = self._owners.get(volume)
        if owners is None or not np.array_equal(owners, table.owner):
            # Somebody lost ownership: whoever has not applied this gets no lease from here any
            # more, and what this node now owns opens only after all leases that it ever granted.
            self.leases.floor = index
            self.open_at_ns = max(self.open_at_ns, self.leases.all_granted_until_ns())
            if owners is not None:
                gained = (owners != table.owner) & (table.owner == self.self_id)
                self.takeovers += int(np.count_nonzero(gained))
            self._owners[volume] = table.owner.copy()
        self.joins.wanted = True
        self._count_exposed(now_ns)
        self._exposed = sum(self._exposed_rows(each) for each in self.catalog.volumes.values())
        if not self.active:
            return
        version = table.version
        for copy in list(self.copies.get(volume, {}).values()):
            if version[copy.region] == index:
                self._configure(copy, now_ns)
        self.handover.send()

    def _on_pair_cut(self, effect: PairCut, now_ns: int) -> None:
        pair = (effect.first, effect.second)
        if self.self_id in pair:
            self.leases.answered(pair[0] if pair[1] == self.self_id else pair[1])
        if self.active:
            low, high = sorted(pair)
            if self.flapping.lost((low, high), now_ns):
                hold_s = self.flapping.hold_left_ns((low, high), now_ns) // NS_PER_S
                self.effects.append(Note("pair.damped", first=low, second=high, hold_s=hold_s))
            # Nobody says when the link is back: the hold is counted from the cut.
            self.flapping.back((low, high), now_ns)

    def _note_life(self, node: int, now_ns: int) -> None:
        """Losses and returns of nodes as they happen; not those of a log that is replayed."""
        if not self.active:
            return
        if self.catalog.node_state(node).liveness is Liveness.UP:
            self.flapping.back(node, now_ns)
        elif self.flapping.lost(node, now_ns):
            hold_s = self.flapping.hold_left_ns(node, now_ns) // NS_PER_S
            self.effects.append(Note("node.damped", node=node, hold_s=hold_s))

    def _exposed_rows(self, volume: Any) -> int:
        table = volume.table
        few = np.bitwise_count(table.in_sync) < volume.copies
        return int(np.count_nonzero((table.owner == self.self_id) & few & ~table.offline))

    def _on_node_changed(self, node: int, index: int, now_ns: int) -> None:
        self.detection.node_changed(node, now_ns)
        self._note_life(node, now_ns)
        if node != self.self_id:
            up = self.catalog.node_state(node).liveness is Liveness.UP
            if up and self.active and not self.flapping.hold_left_ns(node, now_ns):
                self.joins.prefer(node, now_ns)
            return
        own_life.changed(self, now_ns)

    def store_recovered(self, now_ns: int) -> None:
        """The shell has restored every copy that the store knows."""
        self.store_ready = True
        state = self.catalog.node_state(self.self_id)
        if state.liveness is Liveness.UP and state.incarnation == self.incarnation:
            self.activate(now_ns)

    def activate(self, now_ns: int) -> None:
        if self.active:
            return
        self.active = self.leases.granting = True
        self.life_asked = False
        self.effects.append(Note("node.joined", incarnation=self.incarnation))
        for copy in self.all_copies():
            if self.catalog.volume_manager.has_volume(copy.volume):
                self._configure(copy, now_ns)
            else:
                self._drop(copy)
        ready = wire.NodeReady(self.incarnation)
        self.effects += [Send(peer, ready) for peer in sorted(self.detection.links)]
        self.effects.append(TopologyChanged())

    def begin_life(self, incarnation: int, now_ns: int) -> None:
        """The shell has persisted a higher incarnation: report in under it."""
        own_life.begin(self, incarnation, now_ns)

    def life_counted(self, now_ns: int) -> None:
        """The shell has persisted that this life has nothing more to own up to."""
        own_life.counted(self, now_ns)

    def may_forget_tail(self, copy: RegionCopy, now_ns: int) -> bool:
        """Whether what this copy had prepared when it left is of no use to anybody but itself.

        The catalog gives the region back to the last copy that left when the one that stayed has
        lost power without having acted since: see `cluster.region_rules.node_up`. Who stayed says
        in its beacons what it acts on. One that is never heard again must not hold the journal of
        this node up for ever: after a minute the catalog has noticed whatever became of it, and a
        region that waits for it does so for as long as its copies are kept."""
        table = self._table(copy.volume)
        if table is None or table.left[copy.region] != self.self_id:
            return True
        members = MEMBERS_OF[table.in_sync[copy.region]]
        if len(members) != 1 or members[0] == self.self_id:
            return len(members) != 1
        if self.leases.acts_on(members[0]) >= table.left_version[copy.region]:
            return True
        keep_ns = self.settings.stale_keep_ns if table.offline[copy.region] else LEFT_NS
        return now_ns > copy.left_at_ns + keep_ns

    # ------------------------------------------------------------------ messages about regions

    def _on_raft_message(self, peer: int, message: object, now_ns: int) -> None:
        if not self.io_health.stuck:
            self.agreement.step(rt.Received(NodeId(peer), message), now_ns)

    def replicate(self, peer: int, record: Record, epoch: int, committed: int, now_ns: int) -> None:
        """One record of a ReplicateBatch."""
        by_region = self.copies.get(record.volume)
        copy = by_region.get(record.region) if by_region is not None else None
        if copy is None:
            copy = self.copy_at(record.volume, record.region, now_ns)
            if copy is None:
                return
        if self.active:
            copy.replicate(peer, record, epoch, committed)


__all__ = ["Answer", "CoreSettings", "NodeCore"]
