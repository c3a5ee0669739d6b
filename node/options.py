"""plan: the sections of the configuration file: each option, its default, bounds and purpose.

Only bounds of single options are here; rules between options are in `node.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from base.units import NODES_MAX, GiB, KiB, MiB, parse_size
from volume.logical_disk import STEP_BYTES_DEFAULT
from volume.physical_disk import (
    CAGES_DEFAULT,
    CAGES_MAX,
    CHUNKLET_BYTES_DEFAULT,
    CHUNKLET_BYTES_MIN,
    DISK_BYTES_DEFAULT,
    DISK_BYTES_MAX,
    SLEDS_PER_CAGE_DEFAULT,
    SLEDS_PER_CAGE_MAX,
)
from volume.provisioning_group import (
    BYTES_MAX,
    ROW_SIZE_MAX,
    STEP_BYTES_MAX,
    ProvisioningGroup,
    is_name,
)
from volume.raid import SET_SIZE_MAX
from volume.virtual_volume import (
    COPIES_DEFAULT,
    COPIES_MAX,
    PAGE_BYTES_MAX,
    PAGE_BYTES_MIN,
    TABLE_ENTRIES_DEFAULT,
    TABLE_ENTRIES_MAX,
)

REQUEST_BYTES_MAX: Final = 32 * MiB  # what NBD clients may send at most

_NAME_RULE: Final = "1 to 64 of A-Z a-z 0-9 . _ - and not starting with . or -"


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _name(value: object) -> object:
    if isinstance(value, str) and not is_name(value):
        raise ValueError(f"{value!r} is not a name: {_NAME_RULE}")
    return value


Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}],
         "examples": ["64MiB", "1.5 TiB", 4096]}
    ),
]  # fmt: skip
Name = Annotated[str, BeforeValidator(_name)]
Port = Annotated[int, Field(ge=1, le=65_535)]
NodeNumber = Annotated[int, Field(ge=0, lt=NODES_MAX)]


class Options(BaseModel):
    """One section of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class ClusterOptions(Options):
    """Who we are and where files lie."""

    name: Name = Field(default="eightfold", description="For people and logs.")
    id: str = Field(
        default="",
        pattern=r"^(|[0-9a-f]{16})$",
        description="16 hex digits that no other cluster has; empty: the first `up` writes one.",
    )
    data_directory: str = Field(
        default=".",
        min_length=1,
        max_length=4096,
        description="Holds a directory for each node; relative to the directory of this file.",
    )
    secret_file: str = Field(
        default="secret",
        min_length=1,
        max_length=4096,
        description="Nodes prove to each other that they know it; mode 0600; relative as above.",
    )
    transport: Literal["mesh", "mqtt"] = Field(
        default="mesh",
        description="mesh: a link for each pair of nodes; mqtt: all their messages by the broker.",
    )


class NodeOptions(Options):
    """One node process."""

    id: NodeNumber = Field(description="0 to 7, printed n0 to n7.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        max_length=255,
        description="Address to listen on, and where the other nodes find it.",
    )
    listen: str = Field(
        default="",
        max_length=255,
        description="Address to listen on, when it is not host; 0.0.0.0: every one.",
    )
    mesh_port: Port = Field(description="For the other nodes.")
    nbd_port: Port = Field(description="For hosts.")
    admin_port: Port = Field(description="For the JSON API and the command line.")
    failure_domain: int = Field(
        ge=0,
        le=255,
        description="Two copies of a region are never in one; left out: the id of the node.",
    )

    peer_addresses: dict[NodeNumber, str] = Field(
        default={},
        description="Where this node dials a peer of a higher id, when not at its host and port.",
    )

    @property
    def listens_at(self) -> str:
        """The address to bind to."""
        return self.listen or self.host

    @model_validator(mode="before")
    @classmethod
    def _own_domain(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "failure_domain" not in given and "id" in given:
            return {**given, "failure_domain": given["id"]}
        return given


class DiskOptions(Options):
    """The emulated hardware of every node."""

    cages: int = Field(default=CAGES_DEFAULT, ge=1, le=CAGES_MAX, description="Cages of each node.")
    sleds_per_cage: int = Field(
        default=SLEDS_PER_CAGE_DEFAULT,
        ge=1,
        le=SLEDS_PER_CAGE_MAX,
        description="A sled holds four disks.",
    )
    wiring: Literal["same", "split"] = Field(
        default="same",
        description="same: all sleds on one pair of loops; split: half of them on each of two.",
    )
    disk_bytes: Size = Field(
        default=DISK_BYTES_DEFAULT,
        ge=CHUNKLET_BYTES_MIN,
        le=DISK_BYTES_MAX,
        description="Nominal size of a disk; its file is sparse and grows with what is written.",
    )
    chunklet_bytes: Size = Field(
        default=CHUNKLET_BYTES_DEFAULT,
        ge=CHUNKLET_BYTES_MIN,
        le=DISK_BYTES_MAX,
        description="The piece in which a disk is given to RAID sets.",
    )
    spare_chunklets: int = Field(
        default=16, ge=0, le=65_535, description="Of each disk, kept for rebuilds."
    )


class GroupOptions(Options):
    """A provisioning group: how logical disks are made out of chunklets."""

    name: Name = Field(description="Volumes are created in a group by this name.")
    raid_level: Literal[0, 1] = Field(description="0: none below the copies; 1: mirrored disks.")
    set_size: int = Field(
        ge=1, le=SET_SIZE_MAX, description="Chunklets of one RAID set, on different disks."
    )
    row_size: int = Field(default=4, ge=1, le=ROW_SIZE_MAX, description="RAID sets of one row.")
    step_bytes: Size = Field(
        default=STEP_BYTES_DEFAULT,
        ge=4 * KiB,
        le=STEP_BYTES_MAX,
        description="Bytes before an address moves on to the next set of the row.",
    )
    growth_bytes: Size = Field(
        default=0, ge=0, le=BYTES_MAX, description="Least size of a new logical disk; 0: one row."
    )
    warning_bytes: Size = Field(
        default=0, ge=0, le=BYTES_MAX, description="Warn above this use on all nodes; 0: never."
    )
    limit_bytes: Size = Field(
        default=0, ge=0, le=BYTES_MAX, description="Refuse to grow above it on all nodes; 0: none."
    )

    def provisioning_group(self) -> ProvisioningGroup:
        """The same as the volume floor knows it. ConfigError names the broken rule."""
        return ProvisioningGroup(
            name=self.name,
            raid=self.raid_level,
            set_size=self.set_size,
            row_size=self.row_size,
            step_bytes=self.step_bytes,
            growth_bytes=self.growth_bytes,
            warning_bytes=self.warning_bytes,
            limit_bytes=self.limit_bytes,
        )


class VolumeOptions(Options):
    """What a new volume gets when its creator does not say otherwise."""

    group: Name = Field(default="raid0", description="The provisioning group.")
    page_bytes: Size = Field(
        default=16 * KiB,
        ge=PAGE_BYTES_MIN,
        le=PAGE_BYTES_MAX,
        description="Unit of mapping and copy-on-write; a power of two.",
    )
    l2_entries: int = Field(
        default=TABLE_ENTRIES_DEFAULT,
        ge=1,
        le=TABLE_ENTRIES_MAX,
        description="Entries of an L2 table; a region is l2_entries x l3_entries x page_bytes.",
    )
    l3_entries: int = Field(
        default=TABLE_ENTRIES_DEFAULT,
        ge=1,
        le=TABLE_ENTRIES_MAX,
        description="Entries of an L3 table.",
    )
    copies: int = Field(
        default=COPIES_DEFAULT,
        ge=1,
        le=COPIES_MAX,
        description="Nodes that hold each region: the owner, and a replicant when it is 2.",
    )
    degraded: Literal["synced", "suspend", "continue"] = Field(
        default="synced",
        description="Writes while one copy is left: after a sync, not at all, or as always.",
    )


class JournalOptions(Options):
    """The write-ahead journal of a node."""

    segment_bytes: Size = Field(
        default=64 * MiB, ge=MiB, le=GiB, description="Size of one segment file."
    )
    segments_max: int = Field(
        default=8, ge=2, le=1024, description="Writers wait when all are in use."
    )


class CacheOptions(Options):
    """The write-back cache of a node."""

    dirty_bytes_max: Size = Field(
        default=64 * MiB,
        ge=MiB,
        le=64 * GiB,
        description="Acknowledged and not yet on disk; writers wait when it is full.",
    )
    destage_high_percent: int = Field(
        default=50, ge=1, le=99, description="Of dirty_bytes_max: destage at full speed above it."
    )
    destage_low_percent: int = Field(
        default=25, ge=0, le=98, description="Of dirty_bytes_max: full speed ends below it."
    )
    destage_after_ms: int = Field(
        default=1000, ge=10, le=600_000, description="A dirty page waits no longer than this."
    )


class MeshOptions(Options):
    """The links between nodes: one per pair."""

    requests_in_flight_max: int = Field(
        default=1024, ge=16, le=65_536, description="To one peer; more are refused as overload."
    )
    bytes_in_flight_max: Size = Field(
        default=64 * MiB, ge=MiB, le=GiB, description="To one peer, sent and not yet answered."
    )
    reconnect_ms_max: int = Field(
        default=500, ge=10, le=60_000, description="Longest pause between attempts to connect."
    )


class ReplicationOptions(Options):
    """Leases, takeover and what an acknowledgement means."""

    durability: Literal["mirrored", "synced"] = Field(
        default="mirrored",
        description="mirrored: acknowledged means in two journals; synced: and on both media.",
    )
    lease_ms: int = Field(
        default=400, ge=10, le=60_000, description="How long an owner may answer after a beacon."
    )
    grace_ms: int = Field(
        default=500, ge=10, le=120_000, description="How long a copy waits before it takes over."
    )
    drift_ppm: int = Field(
        default=50_000, ge=0, le=200_000, description="Clock rates differ by no more than this."
    )


class MembershipOptions(Options):
    """Who is believed to be up."""

    beacon_ms: int = Field(
        default=80, ge=5, le=10_000, description="Every node to every other, this often."
    )
    suspect_ms: int = Field(
        default=400, ge=10, le=60_000, description="Silence after which a node is suspect."
    )
    io_deadline_ms: int = Field(
        default=3000,
        ge=100,
        le=600_000,
        description="A node whose own I/O takes longer falls silent until it moves again.",
    )
    flaps_max: int = Field(
        default=5,
        ge=0,
        le=64,
        description="A node that goes down more often within flap_window_s is damped; 0: never.",
    )
    flap_window_s: int = Field(
        default=600, ge=1, le=86_400, description="A loss counts for so long."
    )
    damped_s: int = Field(
        default=60,
        ge=1,
        le=86_400,
        description="A damped node gets no regions before it stayed up so long; each loss doubles.",
    )
    damped_s_max: int = Field(default=3600, ge=1, le=86_400, description="And at most so long.")


class ConsensusOptions(Options):
    """Raft, for the catalog only."""

    voters: Literal["all", "five"] = Field(
        default="all",
        description="five: a majority is smaller; the other nodes listen and stand in for a loss.",
    )
    election_ms_min: int = Field(
        default=1000, ge=50, le=60_000, description="A follower waits at least so long."
    )
    election_ms_max: int = Field(
        default=2000, ge=60, le=120_000, description="And at most so long; drawn at random."
    )
    heartbeat_ms: int = Field(
        default=200, ge=5, le=10_000, description="The leader speaks at least this often."
    )
    snapshot_entries: int = Field(
        default=1024, ge=16, le=1_000_000, description="Log entries before the log is compacted."
    )


class HostOptions(Options):
    """Limits towards hosts (NBD)."""

    connections_max: int = Field(
        default=64, ge=1, le=4096, description="Of one node; more are refused."
    )
    requests_in_flight_max: int = Field(
        default=256, ge=1, le=4096, description="Of one connection; it is not read beyond them."
    )
    bytes_in_flight_max: Size = Field(
        default=64 * MiB, ge=REQUEST_BYTES_MAX, le=4 * GiB, description="Of one node, in memory."
    )
    request_timeout_ms: int = Field(
        default=20_000,
        ge=100,
        le=600_000,
        description="A request that cannot be served for so long fails with an error.",
    )


class RebuildOptions(Options):
    """Giving regions their second copy again."""

    bytes_per_s: Size = Field(
        default=64 * MiB, ge=64 * KiB, le=64 * GiB, description="Of one owner; hosts come first."
    )
    joins_in_flight_max: int = Field(
        default=4, ge=1, le=1024, description="Regions that one owner copies at a time."
    )
    stale_keep_s: int = Field(
        default=600,
        ge=0,
        le=604_800,
        description="Copies of a node that is down are kept for its return so long.",
    )
    failback: Literal["auto", "manual"] = Field(
        default="auto",
        description="auto: copies and owners go home when all is whole; manual: at a command.",
    )
    failback_regions_per_s: int = Field(
        default=20, ge=2, le=10_000, description="Regions that move home, owners and copies."
    )


class AdminOptions(Options):
    """The JSON API and the command line."""

    token_file: str = Field(
        default="token",
        min_length=1,
        max_length=4096,
        description="Callers prove that they know it; mode 0600; relative to this file.",
    )
    body_bytes_max: Size = Field(
        default=64 * KiB, ge=4 * KiB, le=16 * MiB, description="Largest request that is read."
    )


_FILE: Final = "relative to this file; empty: none."


class MqttOptions(Options):
    """The management plane: state, statistics, events and commands over an MQTT broker."""

    enabled: bool = Field(default=False, description="Nothing that a host sees depends on it.")
    host: str = Field(
        default="127.0.0.1", min_length=1, max_length=255, description="Where the broker listens."
    )
    port: Port = Field(default=1883, description="Usually 1883, and 8883 with TLS.")
    embedded: bool = Field(
        default=False, description="`up` runs a broker of its own at this address."
    )
    user: str = Field(default="", max_length=255, description="Empty: the broker asks for nobody.")
    password_file: str = Field(
        default="", max_length=4096, description=f"Of the user; mode 0600; {_FILE}"
    )
    tls: bool = Field(default=False, description="Encrypted, and the broker proves who it is.")
    ca_file: str = Field(
        default="",
        max_length=4096,
        description="Who may vouch for the broker; relative to this file; empty: the system's own.",
    )
    cert_file: str = Field(
        default="", max_length=4096, description=f"Of a node, for a broker that asks; {_FILE}"
    )
    key_file: str = Field(default="", max_length=4096, description=f"Of cert_file; {_FILE}")
    broker_cert_file: str = Field(
        default="", max_length=4096, description=f"Of the embedded broker, for TLS; {_FILE}"
    )
    broker_key_file: str = Field(
        default="", max_length=4096, description=f"Of broker_cert_file; {_FILE}"
    )
    statistics_ms: int = Field(
        default=1000, ge=100, le=60_000, description="Statistics are published this often."
    )


class LogOptions(Options):
    """What a node writes to its log file."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is written."
    )
    format: Literal["json", "columns"] = Field(
        default="json", description="For machines or for people."
    )


def default_groups() -> tuple[GroupOptions, ...]:
    """One for each RAID level."""
    return (
        GroupOptions(name="raid0", raid_level=0, set_size=1),
        GroupOptions(name="raid1", raid_level=1, set_size=2),
    )
