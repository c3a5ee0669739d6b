"""shell: how a node process reaches the other nodes, and operators by a broker."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING

from base.ids import NodeId
from base.log import EventTap
from base.place import Address, local_socket, parse_address
from node.cluster_directory import read_secret
from node.config import NodeConfig
from node.options import NodeOptions
from transport.bus import MessageBus
from transport.link import LinkLimits
from transport.mesh import Mesh, MeshConfig

if TYPE_CHECKING:
    from admin.mqtt_plane import MqttPlane
    from admin.view import NodeView


def _address_of(config: NodeConfig, peer: NodeOptions) -> Address:
    """What the configuration says of this pair; else, a peer whose directory lies beside ours is on
    this machine."""
    given = config.options.peer_addresses.get(peer.id)
    if given is not None:
        return parse_address(given, "peer_addresses")
    directory = config.directory.parent / f"n{peer.id}"
    local = local_socket(directory, peer.host) if directory.exists() else None
    return local or (peer.host, peer.mesh_port)


def bus_of(
    config: NodeConfig,
    incarnation: int,
    rng: random.Random,
    fail: Callable[[BaseException], None],
) -> MessageBus:
    """How this node reaches the others."""

    cluster = config.cluster
    cluster_id = cluster.cluster.id or cluster.cluster.name
    secret = read_secret(config.secret_path)
    backoff_ms_max = max(20, cluster.mesh.reconnect_ms_max)

    def failed(_name: str, error: BaseException) -> None:
        fail(error)

    if cluster.cluster.transport == "mqtt":
        from admin.mqtt_access import broker_address
        from transport.mqtt import MqttBus, MqttBusConfig

        limits = LinkLimits(backoff_max_ms=backoff_ms_max, handshake_timeout_ms=1_000)
        broker = broker_address(config.cluster_directory, cluster.mqtt.model_dump())
        peers = tuple(peer.id for peer in config.peers)
        at_broker = MqttBusConfig(
            config.node, incarnation, cluster_id, secret, broker, peers, limits
        )
        return MqttBus(at_broker, rng=rng, on_failure=failed)
    return Mesh(
        MeshConfig(
            self_id=config.node,
            incarnation=incarnation,
            cluster_id=cluster_id,
            secret=secret,
            listen=(config.options.listens_at, config.options.mesh_port),
            peers={NodeId(peer.id): _address_of(config, peer) for peer in config.peers},
            local_socket=local_socket(config.directory, config.options.host),
            limits=LinkLimits(backoff_max_ms=backoff_ms_max),
        ),
        rng=rng,
        on_failure=failed,
    )


def management_plane(
    config: NodeConfig, view: NodeView, incarnation: int, tap: EventTap
) -> MqttPlane:
    """Begun; it waits for nothing."""
    from admin.mqtt_access import broker_address
    from admin.mqtt_plane import MqttPlane, PlaneOptions  # late: nobody else pays for it

    cluster = config.cluster
    plane = MqttPlane(
        view,
        broker_address(config.cluster_directory, cluster.mqtt.model_dump()),
        PlaneOptions(
            cluster=cluster.cluster.id or cluster.cluster.name,
            node=config.node,
            life=os.urandom(8).hex(),
            incarnation=incarnation,
            host=config.options.host,
            nbd_port=config.options.nbd_port,
            admin_port=config.options.admin_port,
            version=metadata.version("eightfold"),
            statistics_ms=cluster.mqtt.statistics_ms,
        ),
        token=read_secret(config.token_path),
        tap=tap,
        rng=random.Random(os.urandom(16)),
    )
    plane.start()
    return plane
