"""shell: the API of a container engine, as far as a scenario needs it: look, signal, cut, connect.

It is asked over its socket: a scenario looks many times a second, and the engine's own command line
needs longer for one answer than a whole look may take.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from base.errors import ConfigError, InvalidRequest, NotConnected, NotFound, RequestTimeout
from base.units import MiB

SOCKET_DEFAULT: Final = "/var/run/docker.sock"
ANSWER_BYTES_MAX: Final = 64 * MiB
SECONDS: Final = 60.0  # an engine on a busy machine takes its time
NODE_LABEL: Final = "eightfold.node"  # its number; the broker has another label
BROKER_LABEL: Final = "eightfold.broker"
PROJECT_LABEL: Final = "com.docker.compose.project"
_FRAME_HEAD: Final = 8


@dataclass(frozen=True, slots=True)
class Container:
    """As the engine shows it. state: running, paused, exited, …. ports: published ones by those
    inside. networks: their names. mounts: files and directories of this machine by those inside."""

    id: str
    name: str
    state: str
    status: str
    labels: Mapping[str, str]
    ports: Mapping[int, tuple[str, int]]
    networks: tuple[str, ...]
    mounts: Mapping[str, str]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("engine", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_of(docker_host: str) -> str:
    """The path in DOCKER_HOST; "" is the default. ConfigError: an engine elsewhere."""
    if not docker_host:
        return SOCKET_DEFAULT
    kind, _, path = docker_host.partition("://")
    if kind != "unix" or not path.startswith("/"):
        raise ConfigError(
            f"DOCKER_HOST: {docker_host}: an engine is asked over a socket of this machine,"
            " unix:///path"
        )
    return path


class Engine:
    """Every call is a connection of its own, so it may be used from any thread.

    NotConnected: nobody answers there. NotFound, InvalidRequest: the engine's own words.
    """

    def __init__(self, path: str = SOCKET_DEFAULT) -> None:
        self._path = path

    def call(self, method: str, target: str, body: object = None, **query: str) -> bytes:
        """The answer as it came."""
        link = _UnixConnection(self._path, SECONDS)
        where = target + (f"?{urlencode(query)}" if query else "")
        text = None if body is None else json.dumps(body)
        try:
            link.request(method, where, text, {"Content-Type": "application/json"})
            response = link.getresponse()
            raw = response.read(ANSWER_BYTES_MAX)
        except TimeoutError:
            raise RequestTimeout(f"the container engine did not answer {method} {target}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or error
            raise NotConnected(f"no container engine answers at {self._path}: {reason}") from None
        finally:
            link.close()
        if response.status >= 400:
            raise _refusal(response.status, raw)
        return raw

    def containers(self, label: str) -> list[Container]:
        """All that have this label, those that do not run too."""
        raw = self.call(
            "GET", "/containers/json", all="true", filters=json.dumps({"label": [label]})
        )  # fmt: skip
        return [_container(each) for each in json.loads(raw)]

    def pid(self, container: str) -> int:
        """Of its first process; 0: it does not run."""
        about = json.loads(self.call("GET", f"/containers/{container}/json"))
        return int(about["State"]["Pid"])

    def signal(self, container: str, name: str) -> None:
        """As SIGKILL. InvalidRequest: it does not run."""
        self.call("POST", f"/containers/{container}/kill", signal=name)

    def pause(self, container: str) -> None:
        """All processes of it stand still."""
        self.call("POST", f"/containers/{container}/pause")

    def unpause(self, container: str) -> None:
        """They go on."""
        self.call("POST", f"/containers/{container}/unpause")

    def start(self, container: str) -> None:
        """Again, with the volumes that it had."""
        self.call("POST", f"/containers/{container}/start")

    def disconnect(self, network: str, container: str) -> None:
        """Nothing passes that network any more, from or to it."""
        self.call("POST", f"/networks/{quote(network)}/disconnect", {"Container": container})

    def connect(self, network: str, container: str, alias: str) -> None:
        """Found there under this name."""
        endpoint = {"Container": container, "EndpointConfig": {"Aliases": [alias]}}
        self.call("POST", f"/networks/{quote(network)}/connect", endpoint)

    def make_network(self, name: str) -> None:
        """A bridge of its own."""
        self.call("POST", "/networks/create", {"Name": name, "CheckDuplicate": True})

    def remove_network(self, name: str) -> None:
        """InvalidRequest while anybody is connected."""
        self.call("DELETE", f"/networks/{quote(name)}")

    def log_lines(self, container: str, since_s: int) -> list[str]:
        """What it has written since then, in seconds since 1970."""
        raw = self.call(
            "GET", f"/containers/{container}/logs", stdout="1", stderr="1", since=str(since_s)
        )  # fmt: skip
        return b"".join(frames(raw)).decode(errors="replace").splitlines()


def frames(raw: bytes) -> Iterator[bytes]:
    """What a stream of the engine carries: parts of either output, each behind its length."""
    at = 0
    while at + _FRAME_HEAD <= len(raw):
        length = int.from_bytes(raw[at + 4 : at + _FRAME_HEAD], "big")
        yield raw[at + _FRAME_HEAD : at + _FRAME_HEAD + length]
        at += _FRAME_HEAD + length


def _refusal(status: int, raw: bytes) -> NotFound | InvalidRequest:
    try:
        text = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        text = raw[:200].decode(errors="replace")
    kind = NotFound if status == 404 else InvalidRequest
    return kind(f"the container engine: {text.strip()}")


def _container(row: Any) -> Container:
    ports = {
        int(port["PrivatePort"]): (str(port["IP"]), int(port["PublicPort"]))
        for port in row.get("Ports") or ()
        if "PublicPort" in port
    }
    return Container(
        row["Id"], row["Names"][0].removeprefix("/"), row["State"], row["Status"],
        dict(row["Labels"]), ports, tuple(sorted(row["NetworkSettings"]["Networks"])),
        {mount["Destination"]: mount["Source"] for mount in row["Mounts"]},
    )  # fmt: skip
