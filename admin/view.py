"""plan: the `NodeView` port: what an operator can see of a cluster, and ask of it, at any one node.

The daemon implements it; `admin.http` serves it; tests fake it. Everything that is returned is made
of dicts, lists, strings, numbers and None, so it is JSON as it stands. Shapes are `TypedDict`s: the
OpenAPI document is made from them. Failures are leaves of `base.errors.StorageError`.

Sizes and offsets are bytes; numbers that end in `_total` only ever grow during one incarnation.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, Protocol, TypedDict

from admin.snapshot_view import SnapshotView
from base.errors import InvalidRequest
from base.units import parse_size

NodeState = Literal["alive", "suspect", "damped", "down", "never_seen"]
VolumeState = Literal["creating", "normal", "degraded", "offline", "removing"]
RegionState = Literal["normal", "joining", "degraded", "offline"]

REGIONS_MAX: Final = 4096  # rows of one answer of `regions`


class RegionCounts(TypedDict):
    """Regions of the cluster, or of one volume, by state. The first is the sum of the others."""

    total: int
    normal: int  # as many copies in sync as the volume wants
    joining: int  # one copy short, and another is being filled
    degraded: int  # one copy short, and nobody is being filled
    offline: int  # no copy in sync is alive


class Status(TypedDict):
    """The cluster as this node sees it."""

    cluster: str
    node: int  # who answers
    incarnation: int
    ready: bool  # this node serves hosts
    leader: int  # -1: nobody is known to lead
    term: int
    catalog_version: int
    nodes_alive: int
    nodes_total: int
    volumes: int
    regions: RegionCounts
    owners_away: int  # regions whose owner is not the node that placement wants
    copies_away: int  # copies on other nodes than placement wants
    failback: Literal["auto", "manual", "running"]  # running: an operator has asked for it
    rebuild_bytes_total: int  # bytes that this node has sent to joiners


class NodeRow(TypedDict):
    """One node as the answering node sees it."""

    id: int
    name: str  # n0 to n7
    state: NodeState
    leader: bool
    voter: bool
    incarnation: int  # 0: never seen
    host: str
    mesh_port: int
    nbd_port: int
    admin_port: int
    failure_domain: int
    regions_owned: int
    regions_fair: int  # as many as it would own if all were at home
    regions_copied: int  # held as replicant
    regions_stale: int  # older copies, kept for its return
    damped_s: int  # it came and went too often, and gets nothing before it stayed up that long
    disk_bytes: int
    free_bytes: int  # not yet given to any logical disk


class VolumeRow(TypedDict):
    """One volume."""

    name: str
    id: int
    size_bytes: int
    state: VolumeState
    copies: int
    group: str
    page_bytes: int
    region_bytes: int
    l2_entries: int
    l3_entries: int
    degraded: str  # policy: synced, suspend, continue
    regions: RegionCounts
    regions_forced: int  # opened at an operator's word, with a loss


class VolumeSpec(TypedDict):
    """What a new volume shall be. What is left out comes from `volumes` in the configuration."""

    name: str
    size_bytes: int
    group: NotRequired[str]
    copies: NotRequired[int]
    page_bytes: NotRequired[int]
    l2_entries: NotRequired[int]
    l3_entries: NotRequired[int]
    degraded: NotRequired[str]
    owner: NotRequired[int]  # a node that owns every region; left out: placed by hash
    replicant: NotRequired[int]  # the node of every second copy; only with an owner


class GrowSpec(TypedDict):
    """The new size of a volume."""

    size_bytes: int


class RegionRow(TypedDict):
    """One region of a volume."""

    region: int
    state: RegionState
    epoch: int
    owner: int  # -1: none
    copies: list[int]  # nodes in sync, the owner first
    joiner: int  # -1: none


class LossRow(TypedDict):
    """A region that opened, or would open, at an operator's word, and what that loses."""

    region: int
    node: int  # where it opens
    empty: bool  # there is no older copy: everything ever written is lost
    copy_epoch: int  # the last epoch in which that copy was in sync; 0: it is empty
    lost_first_epoch: int  # everything acknowledged in these epochs is lost; none when first > last
    lost_last_epoch: int
    short: bool  # its node lost power since: of that copy too, only what was flushed is certain
    waited_for: list[int]  # nodes that had all of it; none: it was lost already
    text: str  # the same in words


class RecoverSpec(TypedDict):
    """Which offline regions to open with a loss. Without accept_loss nothing is done, and the
    refusal says what would be lost."""

    regions: NotRequired[list[int]]  # left out: every offline region of the volume
    accept_loss: NotRequired[bool]


class Recovered(TypedDict):
    """What was opened."""

    name: str
    opened: list[LossRow]
    skipped: int  # the catalog had moved on: they wait as before, or a node came back in time


class Rebalancing(TypedDict):
    """The answer to a wish for fail-back."""

    rebalancing: bool
    owners_away: int
    copies_away: int


class BlockPlace(TypedDict):
    """One physical place that holds the byte asked for."""

    disk: int  # within its node
    cage: int
    sled: int
    slot: int
    loop: str  # the path an I/O takes, as "A0"
    chunklet: int
    disk_offset: int


class CopyPlace(TypedDict):
    """One copy of the byte asked for. `blocks` is empty when nothing was ever allocated there."""

    node: int
    role: Literal["owner", "replicant", "joiner"]
    ld: int  # logical disk within the node; -1: none
    ld_region: int
    ld_offset: int
    raid_level: int
    blocks: list[BlockPlace]


class AddressMap(TypedDict):
    """Where one byte of a volume lies."""

    volume: str
    offset: int
    region: int
    region_offset: int
    page: int
    epoch: int
    copies: list[CopyPlace]


class HostCounts(TypedDict):
    """What hosts asked of this node."""

    connections: int
    in_flight: int
    reads_total: int
    writes_total: int
    read_bytes_total: int
    written_bytes_total: int
    flushes_total: int
    errors_total: int
    waits_total: int  # writes that had to wait for room in the journal or the cache


class JournalCounts(TypedDict):
    """The journal of this node."""

    used_bytes: int
    limit_bytes: int
    appended_bytes_total: int
    commits_total: int  # group commits: one write each
    syncs_total: int


class CacheCounts(TypedDict):
    """The write-back cache of this node."""

    dirty_bytes: int
    limit_bytes: int
    destaged_bytes_total: int


class ResyncCounts(TypedDict):
    """What this node did for joiners of its regions, by how it brought them up to date."""

    same_total: int
    log_total: int
    delta_total: int
    full_total: int


class CutCounts(TypedDict):
    """Points in time that this node has seen made, and how long it held replies back for them."""

    made_total: int
    abandoned_total: int
    held_ms_total: int
    held_ms_max: int


class Statistics(TypedDict):
    """Counters of this node only."""

    node: int
    uptime_ms: int
    regions_owned: int
    regions_copied: int
    regions_joining: int
    host: HostCounts
    journal: JournalCounts
    cache: CacheCounts
    rebuild_bytes_total: int
    resyncs: ResyncCounts  # joiners that became members
    resync_bytes: ResyncCounts  # bytes of pages and of repeated records that were sent to joiners
    cuts: CutCounts
    takeovers_total: int  # regions that this node took over
    exposed_ms_total: int  # time, summed over regions it owns, with one copy less than wanted
    resident_bytes: int
    cpu_ms_total: int


class Removed(TypedDict):
    """The answer to removing a volume."""

    name: str
    removed: bool


class Ready(TypedDict):
    """The answer to a wait."""

    node: int
    ready: bool


class CatalogCopy(TypedDict):
    """The catalog as one node has it."""

    node: int
    version: int
    digest: int  # CRC-32 of its bytes
    catalog: str  # base64 of them; "" when they were not asked for


class HeldRows(TypedDict):
    """What one node keeps, ascending by volume and region."""

    node: int
    version: int  # of its catalog
    total: int  # regions that it keeps in all
    # [volume, region, LD, LD region (-1: not known), complete, committed epoch, committed]
    rows: list[list[int]]


class RegionDigest(TypedDict):
    """The bytes of one copy of a region at one commit point."""

    node: int
    epoch: int
    committed: int
    digest: str  # SHA-256, hexadecimal; "": the region did not stand still long enough


class NodeView(Protocol):
    """One node, for operators. Any node answers for the whole cluster unless it says otherwise.

    Changes go through the catalog: they raise `NoQuorum` (indefinite) when no majority answers and
    `NotLeader` or `Stopping` when they certainly did not happen.
    """

    @property
    def snapshots(self) -> SnapshotView:
        """What concerns snapshots."""

    async def status(self) -> Status:
        """The cluster in a few numbers. Answers also without a majority."""

    async def nodes(self) -> list[NodeRow]:
        """Every node of the configuration, by id."""

    async def volumes(self) -> list[VolumeRow]:
        """Every volume, by name."""

    async def volume(self, name: str) -> VolumeRow:
        """One volume. NotFound."""

    async def create_volume(self, spec: VolumeSpec) -> VolumeRow:
        """Make it and return once the catalog has it; regions may still be opening (`creating`).

        InvalidRequest, AlreadyExists, NotFound (group), NoSpace (says what is free), NoQuorum.
        """

    async def grow_volume(self, name: str, size_bytes: int) -> VolumeRow:
        """Make it larger; hosts may use it meanwhile. InvalidRequest when it would shrink."""

    async def remove_volume(self, name: str) -> None:
        """Remove it with its contents. NotFound; InvalidRequest while hosts have it open."""

    async def regions(self, name: str, first: int, count: int) -> list[RegionRow]:
        """Rows from region `first` on, at most `count` (1 to REGIONS_MAX); past the end: none."""

    async def losses(self, name: str) -> list[LossRow]:
        """What operators have accepted for this volume, by region. NotFound."""

    async def recover(self, name: str, regions: list[int] | None, accept_loss: bool) -> Recovered:
        """Open offline regions (None: all) with what is left of them.

        InvalidRequest without accept_loss, with the loss in words, or when one is not offline;
        NoSpace when one can open nowhere; NotFound, NoQuorum.
        """

    async def rebalance(self) -> Rebalancing:
        """Let copies and owners go home now, whatever `rebuild.failback` says. NoQuorum."""

    async def map_address(self, name: str, offset: int) -> AddressMap:
        """Every physical place of the byte at `offset`. NotFound; InvalidRequest past the end."""

    async def statistics(self) -> Statistics:
        """Counters of this node. Cheap: it may be called every second."""

    async def check_catalog(self, *, with_bytes: bool) -> CatalogCopy:
        """The catalog of this node at this moment, for `eightfold check`."""

    async def check_regions(self, first: int, count: int) -> HeldRows:
        """What this node keeps, `count` regions from the `first`-th on."""

    async def check_digest(self, volume: int, region: int) -> RegionDigest:
        """Digest of this node's copy of a region. NotFound when it has no complete one."""

    async def wait_ready(self) -> None:
        """Return when this node serves hosts. The caller bounds the wait."""

    async def stop(self) -> None:
        """Begin a clean stop of this node and return at once."""


def volume_spec(body: dict[str, Any]) -> VolumeSpec:
    """A spec from untrusted JSON: types checked, sizes parsed. InvalidRequest names the key.

    Bounds are the business of whoever creates the volume.
    """
    kinds: dict[str, type] = {
        "name": str, "size_bytes": int, "group": str, "copies": int, "page_bytes": int,
        "l2_entries": int, "l3_entries": int, "degraded": str, "owner": int,
        "replicant": int,
    }  # fmt: skip
    for key in sorted(body):
        if key not in kinds:
            raise InvalidRequest(f"{key}: is not a property; known are {', '.join(kinds)}")
    spec: dict[str, Any] = {}
    for key, kind in kinds.items():
        if key in body:
            value = size_of(body[key], key=key) if key.endswith("_bytes") else body[key]
            if type(value) is not kind:
                raise InvalidRequest(f"{key}: must be a {'text' if kind is str else 'number'}")
            spec[key] = value
    for key in ("name", "size_bytes"):
        if key not in spec:
            raise InvalidRequest(f"{key}: is missing")
    return spec  # type: ignore[return-value]


def recover_spec(body: dict[str, Any]) -> tuple[list[int] | None, bool]:
    """(regions, accept_loss) from untrusted JSON. InvalidRequest names the key."""
    for key in sorted(body):
        if key not in ("regions", "accept_loss"):
            raise InvalidRequest(f"{key}: is not a property; known are regions, accept_loss")
    regions, accept = body.get("regions"), body.get("accept_loss", False)
    if type(accept) is not bool:
        raise InvalidRequest("accept_loss: must be true or false")
    if regions is not None and (
        type(regions) is not list or not all(type(each) is int for each in regions)
    ):
        raise InvalidRequest("regions: must be a list of numbers; leave it out for all")
    return regions, accept


def size_of(value: object, *, key: str) -> int:
    """Bytes of a number, or of a text like "10GiB". InvalidRequest names the key."""
    if isinstance(value, str):
        try:
            return parse_size(value)
        except ValueError as error:
            raise InvalidRequest(f"{key}: {error}") from None
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise InvalidRequest(f"{key}: must be a size in bytes, or a text like 10GiB")
    return value
