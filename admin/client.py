"""shell: a small synchronous client of the JSON API, on the standard library alone.

The command line uses it: importing it costs a few milliseconds. Calls go to one node after another
until one answers; what may already have happened is never sent a second time.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, Final
from urllib.parse import quote, urlencode

from admin.local import LocalCluster, LocalNode
from base.errors import (
    AccessDenied,
    LinkLost,
    NotConnected,
    RemoteProtocolError,
    RemoteRefused,
    RequestTimeout,
    StorageError,
    from_code,
)
from base.units import MiB

ANSWER_BYTES_MAX: Final = 64 * MiB
CONNECT_SECONDS: Final = 2.0
# Definite refusals that another node may not share.
_TRY_NEXT: Final = ("stopping", "not_leader", "overloaded", "not_connected")


class NodeClient:
    """One node. Keeps its connection open between calls; not for several threads."""

    def __init__(self, node: LocalNode, token: str, seconds: float = 30.0) -> None:
        self.node = node
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._seconds = seconds
        # Who is asked for the first time has not said yet which node it is.
        self._name = node.name if node.node >= 0 else f"at {node.host}:{node.admin_port}"
        self._link: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        seconds: float | None = None,
        **query: int,
    ) -> Any:
        """The answer's JSON. NotConnected: nothing was sent. Whatever the node answers otherwise.

        A kept connection that turns out to be closed is opened anew once, for GET only: a change
        may have been done before the connection broke.
        """
        target = quote(path) + (f"?{urlencode(query)}" if query else "")
        kept = self._link is not None
        try:
            return self._call(method, target, body, seconds or self._seconds)
        except LinkLost:
            if not kept or method != "GET":
                raise
        return self._call(method, target, body, seconds or self._seconds)

    def _call(self, method: str, target: str, body: object, seconds: float) -> Any:
        link = self._connect()
        assert link.sock is not None
        link.sock.settimeout(seconds)
        name = self._name
        try:
            payload = None if body is None else json.dumps(body)
            link.request(method, target, payload, self._headers)
            response = link.getresponse()
            raw = response.read(ANSWER_BYTES_MAX + 1)
        except TimeoutError:
            self.close()
            raise RequestTimeout(f"node {name} did not answer within {seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise LinkLost(f"the connection to node {name} broke: {error}") from None
        if len(raw) > ANSWER_BYTES_MAX:
            self.close()
            raise RemoteProtocolError(f"node {name} answered more than {ANSWER_BYTES_MAX} bytes")
        return self._parsed(response.status, response.headers.get_content_type(), raw)

    def _connect(self) -> http.client.HTTPConnection:
        if self._link is not None and self._link.sock is not None:
            return self._link
        node = self.node
        link = http.client.HTTPConnection(node.host, node.admin_port, timeout=CONNECT_SECONDS)
        try:
            link.connect()
        except OSError as error:
            reason = getattr(error, "strerror", None) or error
            raise NotConnected(f"node {self._name} is not reachable: {reason}") from None
        self._link = link
        return link

    def _parsed(self, status: int, kind: str, raw: bytes) -> Any:
        if status < 300 and kind == "text/plain":
            return raw.decode(errors="replace")
        try:
            answer = json.loads(raw)
        except ValueError:
            raise RemoteProtocolError(f"node {self._name} answered {status} and no JSON") from None
        if status < 300:
            return answer
        if not isinstance(answer, dict) or "code" not in answer:
            raise RemoteProtocolError(f"node {self._name} answered {status}")
        raise from_code(str(answer["code"]), str(answer.get("text", "")))


class ClusterClient:
    """Any node of the cluster."""

    def __init__(self, cluster: LocalCluster, seconds: float = 30.0) -> None:
        token = cluster.token()
        self.cluster = cluster
        self.clients = {node.node: NodeClient(node, token, seconds) for node in cluster.nodes}
        self._first = min(self.clients, default=0)  # the last one that answered

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients.values():
            client.close()

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        seconds: float | None = None,
        *,
        repeatable: bool = False,
        **query: int,
    ) -> Any:
        """Ask node after node. NotConnected when none can be reached; errors as they were sent.
        repeatable: a change that may be sent again though it may have happened."""
        order = [self._first, *(number for number in sorted(self.clients) if number != self._first)]
        refused: StorageError | None = None
        for number in order:
            try:
                answer = self.clients[number].call(method, path, body, seconds, **query)
            except NotConnected as error:
                refused = refused or error
                continue
            except (LinkLost, RequestTimeout) as error:
                if method != "GET" and not repeatable:
                    raise
                refused = error
                continue
            except AccessDenied:
                raise
            except StorageError as error:
                code = error.remote_code if isinstance(error, RemoteRefused) else error.code
                if code not in _TRY_NEXT:
                    raise
                refused = error
                continue
            self._first = number
            return answer
        if refused is None or isinstance(refused, NotConnected):
            start = "" if self.cluster.endpoints else "; start it with `eightfold up`"
            raise NotConnected(f"no node of the cluster {self.cluster.where} can be reached{start}")
        raise refused

    def status(self) -> Any:
        """`admin.view.Status`."""
        return self.call("GET", "/v1/status")

    def nodes(self) -> Any:
        """List of `NodeRow`."""
        return self.call("GET", "/v1/nodes")

    def volumes(self) -> Any:
        """List of `VolumeRow`."""
        return self.call("GET", "/v1/volumes")

    def volume(self, name: str) -> Any:
        """`VolumeRow`."""
        return self.call("GET", f"/v1/volumes/{_segment(name)}")

    def create_volume(self, spec: dict[str, Any]) -> Any:
        """`VolumeRow`."""
        return self.call("POST", "/v1/volumes", spec)

    def grow_volume(self, name: str, size: int | str) -> Any:
        """`VolumeRow`."""
        return self.call("POST", f"/v1/volumes/{_segment(name)}/grow", {"size_bytes": size})

    def remove_volume(self, name: str) -> Any:
        """`Removed`."""
        return self.call("DELETE", f"/v1/volumes/{_segment(name)}")

    def regions(self, name: str, first: int, count: int) -> Any:
        """List of `RegionRow`."""
        return self.call(
            "GET", f"/v1/volumes/{_segment(name)}/regions", first=first, count=count
        )  # fmt: skip

    def losses(self, name: str) -> Any:
        """List of `LossRow`."""
        return self.call("GET", f"/v1/volumes/{_segment(name)}/losses")

    def recover(self, name: str, regions: list[int] | None, accept_loss: bool) -> Any:
        """`Recovered`."""
        spec: dict[str, Any] = {"accept_loss": accept_loss}
        if regions is not None:
            spec["regions"] = regions
        return self.call("POST", f"/v1/volumes/{_segment(name)}/recover", spec)

    def create_snapshot(self, spec: dict[str, Any]) -> Any:
        """`SnapshotMade`. spec.request: any number but 0, so that a lost answer is asked for again
        at another node."""
        return self.call("POST", "/v1/snapshots", spec, repeatable=bool(spec.get("request")))

    def snapshots(self) -> Any:
        """List of `ViewRow`, without the volumes themselves."""
        return self.call("GET", "/v1/snapshots")

    def family(self, volume: str) -> Any:
        """List of `ViewRow`: the volume and its snapshots."""
        return self.call("GET", f"/v1/volumes/{_segment(volume)}/snapshots")

    def snapshot(self, volume: str, snapshot: str) -> Any:
        """`ViewRow`."""
        return self.call(
            "GET", f"/v1/volumes/{_segment(volume)}/snapshots/{_segment(snapshot, 'snapshot')}"
        )

    def set_snapshot_ages(self, volume: str, snapshot: str, spec: dict[str, int]) -> Any:
        """`ViewRow`."""
        return self.call("POST", f"{_snapshot(volume, snapshot)}/ages", spec)

    def remove_snapshot(self, volume: str, snapshot: str) -> Any:
        """`RemovedSnapshot`."""
        return self.call("DELETE", _snapshot(volume, snapshot))

    def snapshot_rules(self) -> Any:
        """List of `RuleRow`."""
        return self.call("GET", "/v1/snapshot-rules")

    def set_snapshot_rule(self, volume: str, rule: str, wanted: bool) -> Any:
        """List of `RuleRow`."""
        path = f"/v1/volumes/{_segment(volume)}/snapshot-rules"
        return self.call("POST", path, {"rule": rule, "wanted": wanted})

    def differences(self, volume: str, one: str, other: str, offset: int) -> Any:
        """`Differing`."""
        names = f"{_segment(one, 'snapshot')}/differences/{_segment(other, 'snapshot')}"
        return self.call("GET", f"/v1/volumes/{_segment(volume)}/snapshots/{names}", offset=offset)

    def rebalance(self) -> Any:
        """`Rebalancing`."""
        return self.call("POST", "/v1/rebalance")

    def map_address(self, name: str, offset: int) -> Any:
        """`AddressMap`."""
        return self.call("GET", f"/v1/volumes/{_segment(name)}/map", offset=offset)


def _snapshot(volume: str, snapshot: str) -> str:
    return f"/v1/volumes/{_segment(volume)}/snapshots/{_segment(snapshot, 'snapshot')}"


def _segment(name: str, kind: str = "volume") -> str:
    # A slash in a name would ask for another path. (`call` quotes the rest.)
    if not name or "/" in name:
        raise from_code("invalid", f"{name!r} is not a {kind} name")
    return name
