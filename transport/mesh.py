"""shell: the mesh bus. TCP or Unix links, one per pair of nodes; attached hosts join as clients.

The lower node id dials, so that a pair never has two links. A client dials every node it knows.
What happens on a connection is `transport.link`; who may be at its end is `transport.handshake`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from base.errors import ConfigError
from base.ids import NodeId
from base.place import Address
from base.units import NODES_MAX
from transport.bus import CLIENT_ID_END, CLIENT_ID_MIN, OnFailure
from transport.handshake import ANYONE, Identity
from transport.link import Connection, LinkLimits, LinkTable, address_text

SECRET_BYTES_MIN = 16


def _check_common(cluster_id: str, secret: bytes) -> None:
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(f"secret: {len(secret)} bytes; at least {SECRET_BYTES_MIN} are needed")
    if not 0 < len(cluster_id.encode()) <= 255:
        raise ConfigError("cluster_id: must have 1 to 255 bytes")


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """A node's place in the mesh. `peers`: every other node and where it listens.

    A TCP port of 0 in `listen` takes a free one: see `Mesh.listening`. `local_socket`: a Unix
    socket to listen on as well, for peers and attached hosts on the same machine.
    """

    self_id: NodeId
    incarnation: int
    cluster_id: str
    secret: bytes = field(repr=False)
    listen: Address
    peers: Mapping[NodeId, Address]
    limits: LinkLimits = field(default_factory=LinkLimits)
    local_socket: str | None = None

    def __post_init__(self) -> None:
        _check_common(self.cluster_id, self.secret)
        for node in (self.self_id, *self.peers):
            if not 0 <= node < NODES_MAX:
                raise ConfigError(f"peers: node id {node} is not one of 0..{NODES_MAX - 1}")
        if self.self_id in self.peers:
            raise ConfigError(f"peers: {self.self_id} is this node itself")


@dataclass(frozen=True, slots=True)
class MeshClientConfig:
    """An attached host. `addresses`: where nodes listen; which node is where, the nodes say."""

    cluster_id: str
    secret: bytes = field(repr=False)
    addresses: tuple[Address, ...]
    limits: LinkLimits = field(default_factory=LinkLimits)

    def __post_init__(self) -> None:
        _check_common(self.cluster_id, self.secret)
        if not 0 < len(self.addresses) <= NODES_MAX:
            raise ConfigError(f"addresses: 1 to {NODES_MAX} are wanted")


class Mesh(LinkTable):
    """The `MessageBus` of a node.

    rng: jitter of reconnecting only; nonces come from the system.
    on_failure(name, error): a bug, in a receiver or here; the node is to stop.
    """

    def __init__(self, config: MeshConfig, *, rng: random.Random, on_failure: OnFailure) -> None:
        identity = Identity(config.self_id, config.incarnation, config.cluster_id, config.secret)
        super().__init__(identity, config.limits, rng, on_failure)
        self._config = config
        self._server: asyncio.Server | None = None
        self._local: asyncio.Server | None = None
        for peer in config.peers:
            self._peaks[peer] = 0  # listed in the statistics from the start

    async def start(self) -> None:
        """Listen, and dial the higher ids. ConfigError when the address cannot be listened on."""
        self.loop = asyncio.get_running_loop()
        listen = self._config.listen
        try:
            if isinstance(listen, str):
                self._server = await self.loop.create_unix_server(self._accept, listen)
                os.chmod(listen, 0o600)
            else:
                self._server = await self.loop.create_server(self._accept, listen[0], listen[1])
            local = self._config.local_socket
            if local is not None:
                listen = local  # for the message below
                self._local = await self.loop.create_unix_server(self._accept, local)
                os.chmod(local, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot listen on {address_text(listen)}: {error}") from error
        for peer in sorted(self._config.peers):
            if peer > self.self_id:
                self.keep_dialling(self._config.peers[peer], peer)

    @property
    def listening(self) -> Address:
        """Where others reach this node; with the real port when the configured one was 0."""
        listen = self._config.listen
        if isinstance(listen, str):
            return listen
        assert self._server is not None
        return (listen[0], int(self._server.sockets[0].getsockname()[1]))

    def _accept(self) -> Connection:
        return self.accepting(self._admits_dialer)

    def _admits_dialer(self, peer: int) -> str:
        return self.admits_dialer(peer, self._config.peers)

    async def close(self) -> None:
        """Stop listening, end all links. No callback comes any more."""
        servers = [each for each in (self._server, self._local) if each is not None]
        for server in servers:
            server.close()
        await super().close()
        for server in servers:
            await server.wait_closed()
        for address in (self._config.listen, self._config.local_socket):
            if isinstance(address, str):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address)


class MeshClient(LinkTable):
    """The `MessageBus` of an attached host: a link to every node that answers, under a random id.

    rng: the id and the jitter; seed it from the system, or two hosts could be one.
    """

    def __init__(
        self, config: MeshClientConfig, *, rng: random.Random, on_failure: OnFailure
    ) -> None:
        client_id = NodeId(rng.randrange(CLIENT_ID_MIN, CLIENT_ID_END))
        # The id is drawn anew for each life, so the incarnation tells nothing more.
        identity = Identity(client_id, 1, config.cluster_id, config.secret)
        super().__init__(identity, config.limits, rng, on_failure)
        self._config = config

    async def start(self) -> None:
        """Dial every address. Does not wait for links."""
        self.loop = asyncio.get_running_loop()
        for address in dict.fromkeys(self._config.addresses):
            self.keep_dialling(address, ANYONE)
