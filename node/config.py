"""plan: every option of a cluster, its default, its bounds and what it is for.

`load` reads a file and refuses it as a whole, before anything starts, with one `ConfigError` that
names every wrong key and the rule it breaks. Models are frozen and strict: no unknown keys, no
silent conversion except sizes, which may be written as "64MiB". `configs/cluster.yaml` is rendered
from these models, so it cannot fall behind them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, cast

import yaml
from pydantic import Field, ValidationError, WithJsonSchema, model_validator

from base.errors import ConfigError, InvalidRequest, NotFound
from base.ids import NodeId
from base.place import parse_address
from base.units import NODES_MAX, GiB, KiB, MiB, TiB, format_size
from node.options import (
    REQUEST_BYTES_MAX,
    AdminOptions,
    CacheOptions,
    ClusterOptions,
    ConsensusOptions,
    DiskOptions,
    GroupOptions,
    HostOptions,
    JournalOptions,
    LogOptions,
    MembershipOptions,
    MeshOptions,
    MqttOptions,
    NodeOptions,
    Options,
    RebuildOptions,
    ReplicationOptions,
    VolumeOptions,
    default_groups,
)
from volume.physical_disk import NodeInventory, build_inventory
from volume.raid import LEVELS
from volume.virtual_volume import COPIES_DEFAULT, DegradedPolicy, VolumeShape

FILE_NAME: Final = "cluster.yaml"
FILE_BYTES_MAX: Final = MiB
BASE_PORT_DEFAULT: Final = 10_800  # puts the NBD port of n0 on 10809, the port NBD clients assume
PORTS_USED: Final = 1 + 3 * NODES_MAX  # from the base port on; the first is left free

_SIZE_UNITS: Final = (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB))


def _default_nodes() -> tuple[NodeOptions, ...]:
    return _nodes(NODES_MAX, BASE_PORT_DEFAULT)


def _nodes(count: int, base_port: int) -> tuple[NodeOptions, ...]:
    return tuple(
        NodeOptions(
            id=number,
            mesh_port=base_port + 1 + number,
            nbd_port=base_port + 1 + NODES_MAX + number,
            admin_port=base_port + 1 + 2 * NODES_MAX + number,
            failure_domain=number,
        )
        for number in range(count)
    )


class ClusterConfig(Options):
    """The whole file."""

    cluster: ClusterOptions = ClusterOptions()
    nodes: Annotated[tuple[NodeOptions, ...], Field(strict=False)] = Field(
        default_factory=_default_nodes,
        min_length=1,
        max_length=NODES_MAX,
        description="One entry for each node process.",
    )
    disks: DiskOptions = DiskOptions()
    groups: Annotated[tuple[GroupOptions, ...], Field(strict=False)] = Field(
        default_factory=default_groups,
        min_length=1,
        max_length=64,
        description="Provisioning groups: how logical disks are made out of chunklets.",
    )
    volumes: VolumeOptions = VolumeOptions()
    journal: JournalOptions = JournalOptions()
    cache: CacheOptions = CacheOptions()
    mesh: MeshOptions = MeshOptions()
    replication: ReplicationOptions = ReplicationOptions()
    membership: MembershipOptions = MembershipOptions()
    consensus: ConsensusOptions = ConsensusOptions()
    host: HostOptions = HostOptions()
    rebuild: RebuildOptions = RebuildOptions()
    admin: AdminOptions = AdminOptions()
    mqtt: MqttOptions = MqttOptions()
    log: LogOptions = LogOptions()

    @model_validator(mode="after")
    def _agree(self) -> ClusterConfig:
        broken = [f"{key}: {rule}" for rules in _RULES for key, rule in rules(self)]
        if broken:
            raise ValueError("\n".join(broken))
        return self

    def inventory(self) -> NodeInventory:
        """The disks of any node."""
        return build_inventory(
            self.disks.cages,
            self.disks.sleds_per_cage,
            self.disks.wiring,
            self.disks.disk_bytes,
            self.disks.chunklet_bytes,
            self.disks.spare_chunklets,
        )

    def shape(self) -> VolumeShape:
        """The shape of a new volume whose creator does not say otherwise."""
        return VolumeShape(
            self.volumes.page_bytes, self.volumes.l2_entries, self.volumes.l3_entries
        )

    def domains(self) -> tuple[int, ...]:
        """Failure domain by node number; a number that no node has is a domain of its own."""
        by_id = {node.id: node.failure_domain for node in self.nodes}
        return tuple(by_id.get(number, 256 + number) for number in range(NODES_MAX))


Broken = Iterator[tuple[str, str]]  # key path, and the rule that it breaks


def _nodes_agree(config: ClusterConfig) -> Broken:
    counts = Counter(node.id for node in config.nodes)
    for number in sorted(number for number, uses in counts.items() if uses > 1):
        yield "nodes", f"id {number} is given twice; every node needs its own"
    seen: dict[tuple[str, int], str] = {}
    for index, node in enumerate(config.nodes):
        for key in ("mesh_port", "nbd_port", "admin_port"):
            place = (node.host, getattr(node, key))
            here = f"nodes[{index}].{key}"
            if place in seen:
                yield here, f"{place[0]}:{place[1]} is already taken by {seen[place]}"
            seen.setdefault(place, here)
        for peer, address in node.peer_addresses.items():
            here = f"nodes[{index}].peer_addresses.{peer}"
            if peer not in counts:
                yield here, f"there is no node n{peer}"
            elif peer <= node.id:
                yield here, f"n{node.id} dials only nodes of a higher id; n{peer} dials it"
            try:
                parse_address(address, here)
            except ConfigError as error:
                yield here, str(error).removeprefix(f"{here}: ")
    domains = len({node.failure_domain for node in config.nodes})
    if config.volumes.copies > domains:
        yield (
            "volumes.copies",
            f"{config.volumes.copies} copies need as many failure domains; there are {domains}",
        )


def _disks_agree(config: ClusterConfig) -> Broken:
    counts = Counter(group.name for group in config.groups)
    for name in sorted(name for name, uses in counts.items() if uses > 1):
        yield "groups", f"the name {name} is given twice"
    if config.volumes.group not in counts:
        yield (
            "volumes.group",
            f"there is no group {config.volumes.group}; groups are {', '.join(sorted(counts))}",
        )
    inventory = None
    try:
        inventory = config.inventory()
    except ConfigError as error:
        key, _, rule = str(error).partition(": ")
        yield f"disks.{key}", rule
    for index, options in enumerate(config.groups):
        where = f"groups[{index}]"
        try:
            group = options.provisioning_group()
        except ConfigError as error:
            key, _, rule = str(error).partition(": ")
            yield where + key.removeprefix("group"), rule
            continue
        reason = group.fits(inventory) if inventory else None
        if reason:
            key, _, rest = reason.partition(" ")
            yield f"{where}.{key}", rest
        if inventory and not reason:
            chunklets = sum(disk.chunklets - disk.spare_chunklets for disk in inventory.disks)
            if group.set_size * group.row_size > chunklets:
                yield f"{where}.row_size", f"one row needs more than the {chunklets} chunklets"


def _region_bytes(config: ClusterConfig) -> int:
    volumes = config.volumes
    return volumes.page_bytes * volumes.l2_entries * volumes.l3_entries


def _volumes_agree(config: ClusterConfig) -> Broken:
    try:
        config.shape()
    except InvalidRequest as error:
        key = "page_bytes" if str(error).startswith("page_bytes") else "l2_entries"
        yield f"volumes.{key}", str(error)


def _memory_agrees(config: ClusterConfig) -> Broken:
    cache, journal, host = config.cache, config.journal, config.host
    if cache.destage_low_percent >= cache.destage_high_percent:
        yield "cache.destage_low_percent", "must be below cache.destage_high_percent"
    held = journal.segment_bytes * (journal.segments_max - 1)
    if cache.dirty_bytes_max > held:
        # Every dirty byte is in the journal too: a larger cache could never fill.
        yield (
            "cache.dirty_bytes_max",
            f"is above what the journal can hold, {format_size(held)}"
            " (journal.segment_bytes x (journal.segments_max - 1))",
        )
    if config.mesh.bytes_in_flight_max < min(REQUEST_BYTES_MAX, _region_bytes(config)):
        yield "mesh.bytes_in_flight_max", "is below the largest piece of one request in a region"
    if host.request_timeout_ms <= 2 * config.consensus.election_ms_max:
        yield (
            "host.request_timeout_ms",
            "must be above twice consensus.election_ms_max, or requests fail during an election",
        )


def _times_agree(config: ClusterConfig) -> Broken:
    leases, beacons, raft = config.replication, config.membership, config.consensus
    million = 1_000_000
    longest_lease = leases.lease_ms * (million + leases.drift_ppm)
    shortest_grace = leases.grace_ms * (million - leases.drift_ppm)
    if longest_lease >= shortest_grace:
        # Else a copy with a fast clock takes over while an owner with a slow one still answers.
        yield (
            "replication.grace_ms",
            f"lease_ms x (1 + drift) = {longest_lease / million:g} must be below"
            f" grace_ms x (1 - drift) = {shortest_grace / million:g}",
        )
    if 3 * beacons.beacon_ms >= leases.lease_ms:
        yield "membership.beacon_ms", "three of them must be below replication.lease_ms"
    if 2 * beacons.beacon_ms >= beacons.suspect_ms:
        yield "membership.suspect_ms", "must be above two of membership.beacon_ms"
    if beacons.damped_s > beacons.damped_s_max:
        yield "membership.damped_s", "must not be above membership.damped_s_max"
    if raft.election_ms_min >= raft.election_ms_max:
        yield "consensus.election_ms_min", "must be below consensus.election_ms_max"
    if 3 * raft.heartbeat_ms >= raft.election_ms_min:
        yield "consensus.heartbeat_ms", "three of them must be below consensus.election_ms_min"


def _mqtt_agrees(config: ClusterConfig) -> Broken:
    mqtt = config.mqtt
    if config.cluster.transport == "mqtt" and not mqtt.enabled:
        yield "cluster.transport", "mqtt needs mqtt.enabled: true"
    if bool(mqtt.user) != bool(mqtt.password_file):
        yield "mqtt.password_file", "a user has a password, and a password a user"
    if mqtt.key_file and not mqtt.cert_file:
        yield "mqtt.key_file", "is of no use without mqtt.cert_file"
    if bool(mqtt.broker_cert_file) != bool(mqtt.broker_key_file):
        yield "mqtt.broker_key_file", "a certificate has a key, and a key a certificate"
    if mqtt.embedded and not mqtt.enabled:
        yield "mqtt.embedded", "is of no use without mqtt.enabled: true"
    if mqtt.embedded and mqtt.tls != bool(mqtt.broker_cert_file):
        yield "mqtt.tls", "an embedded broker has TLS when it has mqtt.broker_cert_file"
    taken = {
        (node.host, port): f"n{node.id}"
        for node in config.nodes
        for port in (node.mesh_port, node.nbd_port, node.admin_port)
    }
    if mqtt.embedded and (mqtt.host, mqtt.port) in taken:
        yield "mqtt.port", f"{mqtt.host}:{mqtt.port} is taken by {taken[mqtt.host, mqtt.port]}"


_RULES: Final = (
    _nodes_agree,
    _disks_agree,
    _volumes_agree,
    _memory_agrees,
    _times_agree,
    _mqtt_agrees,
)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What one node needs to know: itself, the others, its directories, and all options."""

    node: NodeId
    options: NodeOptions
    peers: tuple[NodeOptions, ...]  # the other nodes, by id
    directory: Path  # <data directory>/n3
    cluster_directory: Path
    cluster: ClusterConfig

    @property
    def name(self) -> str:
        """n0 to n7."""
        return f"n{self.node}"

    @property
    def disks_directory(self) -> Path:
        """One sparse file per disk."""
        return self.directory / "disks"

    @property
    def journal_directory(self) -> Path:
        """Segments of the journal and checkpoints."""
        return self.directory / "journal"

    @property
    def consensus_directory(self) -> Path:
        """Term, vote, log and catalog snapshot."""
        return self.directory / "consensus"

    @property
    def secret_path(self) -> Path:
        """What nodes prove to know to each other."""
        return self.cluster_directory / self.cluster.cluster.secret_file

    @property
    def token_path(self) -> Path:
        """What callers of the JSON API prove to know."""
        return self.cluster_directory / self.cluster.admin.token_file


def node_config(config: ClusterConfig, cluster_directory: Path, node: int) -> NodeConfig:
    """The view of one node. NotFound when the cluster has no such node."""
    for options in config.nodes:
        if options.id == node:
            break
    else:
        known = ", ".join(f"n{each.id}" for each in config.nodes)
        raise NotFound(f"there is no node n{node}; nodes are {known}")
    data = cluster_directory / config.cluster.data_directory
    peers = sorted((each for each in config.nodes if each.id != node), key=lambda each: each.id)
    return NodeConfig(
        NodeId(node), options, tuple(peers), data / f"n{node}", cluster_directory, config
    )


def default_cluster(
    nodes: int = NODES_MAX, base_port: int = BASE_PORT_DEFAULT, **sections: Any
) -> ClusterConfig:
    """A cluster of that many nodes on loopback, on PORTS_USED ports from `base_port` on.

    sections: other values for whole sections, as plain mappings. ConfigError as for a file.
    """
    if not 1 <= nodes <= NODES_MAX:
        raise ConfigError(f"nodes: {nodes} is not between 1 and {NODES_MAX}")
    if not 1 <= base_port <= 65_536 - PORTS_USED:
        raise ConfigError(f"base port: {base_port} is not between 1 and {65_536 - PORTS_USED}")
    document: dict[str, Any] = {"nodes": [n.model_dump() for n in _nodes(nodes, base_port)]}
    if nodes < COPIES_DEFAULT:
        document["volumes"] = {"copies": nodes}
    for key, section in sections.items():
        document[key] = section
    return parse(document, source="defaults")


def parse(document: object, *, source: str) -> ClusterConfig:
    """Check a document of plain mappings, lists and scalars. ConfigError lists every broken rule.

    source: for the message; a file name.
    """
    if document is None:
        document = {}
    if not isinstance(document, Mapping):
        raise ConfigError(f"{source}: the file must be a mapping of sections")
    try:
        return ClusterConfig.model_validate(document)
    except ValidationError as error:
        errors = error.errors()
        # A list whose members were refused counts as too short as well: say the reason only.
        kept = [each for each in errors if each["type"] != "too_short"] or errors
        lines = [f"{source}: {line}" for each in kept for line in _lines(each)]
        raise ConfigError("\n".join(lines)) from None


def _lines(error: Any) -> Iterator[str]:
    path = ""
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    text = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "extra_forbidden":
            text = "is not an option; see configs/cluster.yaml for all of them"
        case "missing":
            text = "is missing and has no default"
        case kind if kind != "value_error":
            text = f"{text} (it is {_shown(error['input'])})"
    for line in text.splitlines():
        yield f"{path}: {line}" if path else line


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


class _Loader(yaml.SafeLoader):
    """Plain YAML without the two features that hide mistakes: repeated keys and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = cast(Any, self).peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not allowed", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, *, source: str) -> ClusterConfig:
    """As `parse`, from the text of a file."""
    try:
        document = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: is not YAML: {error}") from None
    return parse(document, source=source)


def load(path: Path) -> ClusterConfig:
    """Read and check a file. ConfigError when it cannot be read or breaks a rule."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
        text = raw.decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: is larger than {format_size(FILE_BYTES_MAX)}")
    return parse_yaml(text, source=str(path))


def json_schema() -> dict[str, Any]:
    """For editors: JSON Schema of the file."""
    return ClusterConfig.model_json_schema()


def render(config: ClusterConfig) -> str:
    """The file that `load` reads back as the same configuration: every option with its comment."""
    lines = [
        "# Configuration of an Eightfold cluster: every option, here with its value.",
        "# Sizes are bytes, or a number with KiB, MiB, GiB or TiB. Unknown keys are refused.",
    ]
    for key, field in ClusterConfig.model_fields.items():
        section = getattr(config, key)
        about = field.description or (type(section).__doc__ or "")
        lines += ["", f"# {about.splitlines()[0]}", f"{key}:"]
        if isinstance(section, tuple):
            for number, each in enumerate(section):
                lines += _rendered(each, indent="    ", dash="  - ", explain=number == 0)
        else:
            lines += _rendered(section, indent="  ", dash="  ", explain=True)
    return "\n".join(lines) + "\n"


def _rendered(options: Options, *, indent: str, dash: str, explain: bool) -> Iterator[str]:
    lead = dash
    for key, field in type(options).model_fields.items():
        sized = any(isinstance(each, WithJsonSchema) for each in field.metadata)
        value = _written(getattr(options, key), sized=sized)
        comment = f"  # {field.description}" if explain else ""
        yield f"{lead}{key}: {value}{comment}"
        lead = indent


def _written(value: object, *, sized: bool) -> str:
    if isinstance(value, dict):
        return str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).strip()
    if isinstance(value, str):
        return str(yaml.safe_dump(value, width=10_000)).splitlines()[0]
    if sized and isinstance(value, int) and value > 0:
        for suffix, scale in _SIZE_UNITS:
            if value % scale == 0:
                return f"{value // scale}{suffix}"
    return str(value)


# A region keeps its policy as the volume floor spells it.
assert tuple(DegradedPolicy) == ("synced", "suspend", "continue")
assert tuple(LEVELS) == (0, 1)
