"""codec: the topics of the management plane on MQTT, and what their payloads may hold.

    eightfold/<cluster>/node/<n>/state         NodeState, retained; the last will says `lost`
    eightfold/<cluster>/node/<n>/statistics    Statistics, once a second
    eightfold/<cluster>/node/<n>/event/<name>  Event; named as in the log: region.failed_over
    eightfold/<cluster>/node/<n>/command       Command, from an operator
    eightfold/<cluster>/answer/<operator>      Answer, to the operator who asked
    eightfold/<cluster>/bus/…                  messages between nodes, where the bus is `mqtt`

A payload is one msgpack map with the version of this format under `v` and the fields of its kind,
all of them and no others. Whatever is wrong with a topic or a payload is a RemoteProtocolError that
names the field: anybody who may publish can send anything.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, cast

import msgpack

from base.errors import RemoteProtocolError
from base.units import NODES_MAX, KiB, MiB

VERSION: Final = 1
ROOT: Final = "eightfold"
TOPIC_BYTES_MAX: Final = 256
DEPTH_MAX: Final = 8  # of values within a payload
ENTRIES_MAX: Final = 65_536  # of one array or map
PROOF_BYTES: Final = 32
NUMBER_MAX: Final = (1 << 63) - 1

_CLUSTER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_OPERATOR = re.compile(r"[0-9a-f]{16}")
_EVENT = re.compile(r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,63}")
_LIFE = re.compile(r"[0-9a-f]{16}")
_VERB = re.compile(r"[A-Za-z]{1,64}")


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node is and does. Retained, so whoever subscribes learns it at once."""

    BYTES_MAX: ClassVar[int] = 4 * KiB

    node: int
    state: str  # starting, serving, waiting, stopping, stopped, lost
    life: str  # of this connection to the broker: 16 hex digits
    incarnation: int
    leader: int  # -1: nobody is known to lead
    term: int
    catalog_version: int
    host: str
    nbd_port: int
    admin_port: int
    version: str  # of the program


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of a node."""

    BYTES_MAX: ClassVar[int] = 64 * KiB

    node: int
    life: str
    tick: int  # of this life; a command names one of the last, so that it is no old one
    values: dict[str, Any]  # as GET /v1/statistics answers


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a node's log."""

    BYTES_MAX: ClassVar[int] = 16 * KiB

    node: int
    life: str
    number: int  # of this life; a gap means that some were dropped
    name: str
    level: str
    time: str  # when, as ISO 8601 in UTC
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """An operation of the JSON API. The proof covers all else, under the token of the cluster."""

    BYTES_MAX: ClassVar[int] = 64 * KiB

    operator: str  # who asks, and where the answer goes
    number: int  # of this operator; the same again is answered again, and not done again
    life: str
    tick: int  # of the last Statistics that was seen
    verb: str
    path: dict[str, Any]
    query: dict[str, Any]
    body: dict[str, Any]
    proof: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """To one Command. `code` is empty when it was done; else text and definite say more."""

    BYTES_MAX: ClassVar[int] = 8 * MiB

    node: int
    number: int
    code: str
    text: str
    definite: bool
    value: Any  # what the JSON API answers


Message = NodeState | Statistics | Event | Command | Answer

STATES: Final = ("starting", "serving", "waiting", "stopping", "stopped", "lost")
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_TEXT_MAX: Final = 4096


# ---------------------------------------------------------------------- topics


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a cluster. `node` is -1 for answers, `name` the event or the operator."""

    cluster: str
    kind: str  # state, statistics, event, command, answer
    node: int = -1
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "answer":
            return f"{ROOT}/{self.cluster}/answer/{self.name}"
        tail = f"/{self.name}" if self.kind == "event" else ""
        return f"{ROOT}/{self.cluster}/node/{self.node}/{self.kind}{tail}"


def parse_topic(text: str) -> Topic:
    """The topic of a message of the management plane. RemoteProtocolError says what it is not."""
    if len(text.encode(errors="replace")) > TOPIC_BYTES_MAX:
        raise RemoteProtocolError(f"topic: longer than {TOPIC_BYTES_MAX} bytes")
    parts = text.split("/")
    if parts[0] != ROOT or len(parts) < 4 or not _CLUSTER.fullmatch(parts[1]):
        raise RemoteProtocolError(f"topic: {text[:80]!r} is not of a cluster")
    cluster = parts[1]
    if parts[2] == "answer" and len(parts) == 4:
        if not _OPERATOR.fullmatch(parts[3]):
            raise RemoteProtocolError(f"topic: {parts[3][:80]!r} is not an operator")
        return Topic(cluster, "answer", name=parts[3])
    if parts[2] != "node" or len(parts) < 5:
        raise RemoteProtocolError(f"topic: {text[:80]!r} is not known")
    digits = parts[3]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 3) or (
        int(digits) >= NODES_MAX or str(int(digits)) != digits
    ):
        raise RemoteProtocolError(f"topic: {digits[:80]!r} is not a node")
    node, kind = int(digits), parts[4]
    if kind in ("state", "statistics", "command") and len(parts) == 5:
        return Topic(cluster, kind, node)
    if kind == "event" and len(parts) == 6 and _EVENT.fullmatch(parts[5]):
        return Topic(cluster, kind, node, parts[5])
    raise RemoteProtocolError(f"topic: {text[:80]!r} is not known")


def is_cluster(name: str) -> bool:
    """Whether it can stand in a topic."""
    return _CLUSTER.fullmatch(name) is not None


def is_event(name: str) -> bool:
    """Whether it can stand in a topic."""
    return _EVENT.fullmatch(name) is not None


# ---------------------------------------------------------------------- payloads

_KINDS: Final[dict[str, type[Any]]] = {
    "state": NodeState,
    "statistics": Statistics,
    "event": Event,
    "command": Command,
    "answer": Answer,
}
_TYPES: Final[dict[str, tuple[Any, str]]] = {
    "int": (int, "a number"),
    "str": (str, "a text"),
    "bool": (bool, "true or false"),
    "bytes": (bytes, "bytes"),
    "dict[str, Any]": (dict, "a map"),
}
_PATTERNS: Final[dict[str, re.Pattern[str]]] = {
    "life": _LIFE, "operator": _OPERATOR, "name": _EVENT, "verb": _VERB
}  # fmt: skip
_CHOICES: Final[dict[str, tuple[str, ...]]] = {"state": STATES, "level": LEVELS}


def encode(message: Message) -> bytes:
    """The payload of a message."""
    values = {each.name: getattr(message, each.name) for each in fields(message)}
    return cast(bytes, msgpack.packb({"v": VERSION, **values}))


def decode(topic: Topic, payload: bytes) -> Message:
    """The message of a payload. RemoteProtocolError names what is wrong with it."""
    kind = _KINDS[topic.kind]
    if len(payload) > kind.BYTES_MAX:
        raise RemoteProtocolError(
            f"{topic.kind}: {len(payload)} bytes; at most {kind.BYTES_MAX} are taken"
        )
    try:
        given = msgpack.unpackb(
            payload,
            max_array_len=ENTRIES_MAX,
            max_map_len=ENTRIES_MAX,
            max_ext_len=0,
            strict_map_key=True,
        )
    except (ValueError, RecursionError, TypeError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"{topic.kind}: is not msgpack: {str(error)[:200]}") from None
    if type(given) is not dict:
        raise RemoteProtocolError(f"{topic.kind}: {type(given).__name__} where a map belongs")
    version = given.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise RemoteProtocolError(f"{topic.kind}.v: version {version!r:.40}, not {VERSION}")
    return cast(Message, _build(topic, kind, given))


def _build(topic: Topic, kind: type[Any], given: dict[Any, Any]) -> Any:
    wanted = fields(kind)
    names = {each.name for each in wanted}
    for key in given:
        if key not in names:
            raise RemoteProtocolError(f"{topic.kind}: {key!r:.40} is not a field")
    for each in wanted:
        where = f"{topic.kind}.{each.name}"
        if each.name not in given:
            raise RemoteProtocolError(f"{where}: is missing")
        _check_field(where, each.name, str(each.type), given[each.name])
    if topic.node >= 0 and given.get("node", topic.node) != topic.node:
        raise RemoteProtocolError(f"{topic.kind}.node: is not the node of the topic")
    if topic.kind == "event" and given["name"] != topic.name:
        raise RemoteProtocolError("event.name: is not the name of the topic")
    return kind(**given)


def _check_field(where: str, name: str, annotation: str, value: Any) -> None:
    if annotation == "Any":
        _check_value(where, value, DEPTH_MAX)
        return
    wanted, called = _TYPES[annotation]
    if type(value) is not wanted:
        raise RemoteProtocolError(f"{where}: {type(value).__name__} where {called} belongs")
    if wanted is int and not (-1 if name == "leader" else 0) <= value <= NUMBER_MAX:
        raise RemoteProtocolError(f"{where}: {value} is out of bounds")
    if wanted is str:
        if len(value) > _TEXT_MAX:
            raise RemoteProtocolError(f"{where}: longer than {_TEXT_MAX} characters")
        pattern, choices = _PATTERNS.get(name), _CHOICES.get(name)
        if pattern is not None and not pattern.fullmatch(value):
            raise RemoteProtocolError(f"{where}: {value[:80]!r} is not one")
        if choices is not None and value not in choices:
            raise RemoteProtocolError(f"{where}: {value[:80]!r} is none of {', '.join(choices)}")
    if wanted is bytes and len(value) != PROOF_BYTES:
        raise RemoteProtocolError(f"{where}: {len(value)} bytes, not {PROOF_BYTES}")
    if wanted is dict:
        _check_value(where, value, DEPTH_MAX)


def _check_value(where: str, value: Any, depth: int) -> None:
    """Only what JSON has too, and not too deep: the API and its readers know nothing else."""
    if value is None or type(value) in (int, str, bool, float):
        return
    if depth == 0:
        raise RemoteProtocolError(f"{where}: deeper than {DEPTH_MAX}")
    if type(value) is list:
        for each in value:
            _check_value(where, each, depth - 1)
    elif type(value) is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise RemoteProtocolError(f"{where}: a key is {type(key).__name__}, not a text")
            _check_value(where, each, depth - 1)
    else:
        raise RemoteProtocolError(f"{where}: {type(value).__name__} does not travel")


def proof_of(token: bytes, node: int, command: Command) -> bytes:
    """HMAC-SHA256 over everything that the command says and to which node."""
    said = [
        "eightfold command", VERSION, node,
        *(getattr(command, each.name) for each in fields(command) if each.name != "proof"),
    ]  # fmt: skip
    return hmac.new(token, cast(bytes, msgpack.packb(said)), hashlib.sha256).digest()
