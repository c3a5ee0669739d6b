"""shell: a cluster that is found by the address of a node instead of its directory.

Nodes in containers are reached through published ports, and call each other by names that mean
nothing outside. So the node that is asked says which other nodes there are and at which ports, and
they are looked for at the host that it was asked at itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from admin.client import NodeClient
from admin.local import LocalCluster, LocalNode
from base.errors import (
    ConfigError,
    InvalidRequest,
    LinkLost,
    NotConnected,
    RequestTimeout,
    StorageError,
)
from base.place import parse_address

SECONDS: Final = 5.0
ENDPOINTS_MAX: Final = 64


def parse_endpoints(text: str) -> list[tuple[str, int]]:
    """Of HOST:PORT, or several with commas between them. InvalidRequest."""
    found = []
    for each in text.split(",")[:ENDPOINTS_MAX]:
        try:
            address = parse_address(each.strip(), "--endpoint")
        except ConfigError as error:
            raise InvalidRequest(str(error)) from None
        if isinstance(address, str) or not address[1]:
            raise InvalidRequest(f"--endpoint: {each.strip()!r} is not HOST:PORT")
        found.append(address)
    return found


def outside_cluster(endpoints: str, token_path: Path) -> LocalCluster:
    """All nodes that can be found from there. NotConnected: nobody answers; AccessDenied."""
    refused: StorageError | None = None
    given: dict[int, LocalNode] = {}
    name = ""
    for host, port in parse_endpoints(endpoints):
        asked = LocalNode(-1, host, 0, 0, port, Path())
        try:
            status, rows = _ask(asked, _cluster("", endpoints, token_path, ()).token())
        except (NotConnected, LinkLost, RequestTimeout) as error:
            # What publishes a port may take the connection and end it when nobody listens behind.
            refused = refused or error
            continue
        name = str(status["cluster"])
        own = next(row for row in rows if row["id"] == status["node"])
        if own["admin_port"] == port:
            nodes = [_seen(row, host, own) for row in rows]
            return _cluster(name, endpoints, token_path, nodes)
        # Its port has another number outside, so those of the others cannot be known.
        given[own["id"]] = LocalNode(own["id"], host, 0, 0, port, Path())
    if not given:
        why = f": {refused}" if refused is not None else ""
        raise NotConnected(f"no node can be reached at {endpoints}{why}")
    return _cluster(name, endpoints, token_path, given.values())


def _ask(node: LocalNode, token: str) -> tuple[Any, Any]:
    client = NodeClient(node, token, SECONDS)
    try:
        return client.call("GET", "/v1/status"), client.call("GET", "/v1/nodes")
    finally:
        client.close()


def _seen(row: Any, host: str, own: Any) -> LocalNode:
    """As it is reached from here."""
    at = row["host"] if own["host"] == host else host
    return LocalNode(
        row["id"], at, row["mesh_port"], row["nbd_port"], row["admin_port"], Path()
    )  # fmt: skip


def _cluster(name: str, endpoints: str, token_path: Path, nodes: Any) -> LocalCluster:
    return LocalCluster(
        name=name, directory=Path(), token_path=token_path, secret_path=Path(), cluster_id=name,
        nodes=tuple(sorted(nodes, key=lambda node: node.node)), endpoints=endpoints,
    )  # fmt: skip
