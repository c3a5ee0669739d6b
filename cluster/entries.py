"""codec: the entries of the catalog's log. Kinds are never reused; field order is the format.

An entry is a frozen dataclass; its bytes are a msgpack array of the kind and the fields. Every
field has a type and a bound, both checked when it is decoded, so that applying an entry needs to
look only at the state. Many rows travel packed (`pack_rows`): 2,000 rows are one byte string.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from base.errors import InvalidRequest
from base.units import NODES_MAX
from volume.physical_disk import NodeInventory
from volume.provisioning_group import ProvisioningGroup

E = TypeVar("E")
Check = Callable[[Any], Any]

ROWS_MAX: Final = 1 << 16  # of one entry; the leader sends far fewer at a time
PAYLOAD_BYTES_MAX: Final = 4 * 1024 * 1024
NAME_BYTES_MAX: Final = 64
GROUPS_MAX: Final = 64
DOMAINS_MAX: Final = 256
CUT_VIEWS_MAX: Final = 256
RULE_BYTES_MAX: Final = 200

ROW: Final = np.dtype([("region", "<u4"), ("epoch", "<u4"), ("node", "u1")])


class Within(NamedTuple):
    """Smallest and largest value of an integer, or length of a string, byte string or array."""

    least: int
    most: int


Node = Annotated[int, Within(0, NODES_MAX - 1)]
Life = Annotated[int, Within(0, (1 << 63) - 1)]  # an incarnation
Version = Annotated[int, Within(0, (1 << 63) - 1)]  # of the catalog: an index of its log
Volume = Annotated[int, Within(1, (1 << 32) - 1)]
Size = Annotated[int, Within(1, (1 << 60))]
View = Annotated[int, Within(1, (1 << 28) - 1)]  # of a snapshot tree
Index = Annotated[int, Within(1, (1 << 63) - 1)]  # of an entry of this log
Count = Annotated[int, Within(1, 1 << 20)]
Name = Annotated[str, Within(1, NAME_BYTES_MAX)]
Rows = Annotated[bytes, Within(ROW.itemsize, ROWS_MAX * ROW.itemsize)]
Instant = Annotated[int, Within(0, (1 << 53) - 1)]  # ms of the wall clock
Rule = Annotated[str, Within(0, RULE_BYTES_MAX)]
Plain = Annotated[bytes, Within(1, 1 << 20)]  # msgpack of another floor's `to_tuple`

_kinds: dict[int, type[Any]] = {}
_numbers: dict[type[Any], int] = {}
_checks: dict[type[Any], tuple[Check, ...]] = {}


def _refuse(what: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"catalog entry: {what} {rule}")


def _scalar(what: str, kind: type[Any], bound: Within | None) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _refuse(what, f"is not of type {kind.__name__}")
        if bound is not None:
            amount = value if kind is int else len(value)
            if not bound.least <= amount <= bound.most:
                raise _refuse(what, f"is not between {bound.least} and {bound.most}")
        return value

    return check


def _array(what: str, item: Check, bound: Within) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or not bound.least <= len(value) <= bound.most:
            raise _refuse(what, f"is not an array of {bound.least} to {bound.most}")
        return tuple([item(each) for each in value])

    return check


def _fixed(what: str, items: tuple[Check, ...]) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(items):
            raise _refuse(what, f"is not an array of {len(items)}")
        return tuple([item(each) for item, each in zip(items, value, strict=True)])

    return check


def _check_for(what: str, annotation: Any) -> Check:
    bound: Within | None = None
    if typing.get_origin(annotation) is Annotated:
        annotation, bound = typing.get_args(annotation)
    if annotation in (int, str, bytes, bool):
        assert bound is not None or annotation is bool, f"{what} has no bound"
        return _scalar(what, annotation, bound)
    assert typing.get_origin(annotation) is tuple, f"{what}: {annotation!r} does not travel"
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        assert bound is not None, f"{what} has no bound"
        return _array(what, _check_for(what, arguments[0]), bound)
    return _fixed(what, tuple(_check_for(what, each) for each in arguments))


def _entry(kind: int) -> Callable[[type[E]], type[E]]:
    """Register a frozen dataclass under a kind that was never used before."""

    def register(entry: type[E]) -> type[E]:
        assert kind not in _kinds, f"kind {kind} is taken"
        hints = typing.get_type_hints(entry, include_extras=True)
        names = [field.name for field in fields(entry)]  # type: ignore[arg-type]
        _kinds[kind] = entry
        _numbers[entry] = kind
        _checks[entry] = tuple(_check_for(f"{entry.__name__}.{n}", hints[n]) for n in names)
        return entry

    return register


@_entry(1)
@dataclass(frozen=True, slots=True)
class FormCluster:
    """The first entry, once: the nodes with their failure domains, ascending, and the groups."""

    cluster_id: Name
    nodes: Annotated[
        tuple[tuple[Node, Annotated[int, Within(0, DOMAINS_MAX - 1)]], ...], Within(1, NODES_MAX)
    ]
    groups: Annotated[tuple[Plain, ...], Within(0, GROUPS_MAX)]  # see `plain_group`


@_entry(2)
@dataclass(frozen=True, slots=True)
class NodeUp:
    """A life of a node reports in. `intact`: its store survived with all it had acknowledged.
    `blank`: its store is new and holds nothing. `inventory`: see `plain_inventory`. `known`: of a
    store that is not intact, a version of the catalog that nothing before the loss acted beyond."""

    node: Node
    incarnation: Life
    intact: bool
    blank: bool
    inventory: Plain
    known: Version = (1 << 63) - 1  # nothing can be said


@_entry(3)
@dataclass(frozen=True, slots=True)
class NodeDown:
    """That life of the node is over. Void when it is not the life that is up."""

    node: Node
    incarnation: Life


@_entry(4)
@dataclass(frozen=True, slots=True)
class CutPair:
    """These two lives cannot talk to each other, though others hear both."""

    reporter: Node
    reporter_incarnation: Life
    about: Node
    about_incarnation: Life


@_entry(5)
@dataclass(frozen=True, slots=True)
class CreateGroup:
    """A provisioning group on every node. `group`: see `plain_group`."""

    group: Plain


@_entry(6)
@dataclass(frozen=True, slots=True)
class CreateVolume:
    """A volume under a free name. owner: a node that owns every region (tests and benchmarks), or
    -1 for placement by hash; replicant: likewise, and only with an owner."""

    name: Name
    size_bytes: Size
    group: Name
    copies: Annotated[int, Within(1, NODES_MAX)]
    page_bytes: Size
    l2_entries: Count
    l3_entries: Count
    policy: Name
    owner: Annotated[int, Within(-1, NODES_MAX - 1)]
    replicant: Annotated[int, Within(-1, NODES_MAX - 1)] = -1


@_entry(7)
@dataclass(frozen=True, slots=True)
class GrowVolume:
    """A larger size; never a smaller one."""

    volume: Volume
    size_bytes: Size


@_entry(8)
@dataclass(frozen=True, slots=True)
class RemoveVolume:
    """By number, so that a repeat cannot remove a later volume of the same name (I15)."""

    volume: Volume


@_entry(9)
@dataclass(frozen=True, slots=True)
class RecruitCopies:
    """New copies begin to join. `regions`: u32 each, little endian; `nodes`: one byte each, the
    node that is to hold the copy."""

    volume: Volume
    regions: Annotated[bytes, Within(4, 4 * ROWS_MAX)]
    nodes: Annotated[bytes, Within(1, ROWS_MAX)]


@_entry(10)
@dataclass(frozen=True, slots=True)
class AdmitCopies:
    """Joiners hold everything and become members. `rows`: packed (region, epoch, joiner)."""

    volume: Volume
    rows: Rows


@_entry(11)
@dataclass(frozen=True, slots=True)
class CancelJoins:
    """Joiners that do not get on are let go. `rows`: packed (region, epoch, joiner)."""

    volume: Volume
    rows: Rows


@_entry(12)
@dataclass(frozen=True, slots=True)
class MoveOwners:
    """Another member serves from now on. `rows`: packed (region, epoch, new owner)."""

    volume: Volume
    rows: Rows


@_entry(13)
@dataclass(frozen=True, slots=True)
class RehomeCopies:
    """New copies begin to join regions that have enough: each replaces a member that is not the
    owner, in the entry that admits it. `regions`, `nodes`: as in `RecruitCopies`."""

    volume: Volume
    regions: Annotated[bytes, Within(4, 4 * ROWS_MAX)]
    nodes: Annotated[bytes, Within(1, ROWS_MAX)]


@_entry(14)
@dataclass(frozen=True, slots=True)
class ReleaseCopies:
    """Stale copies give their space back. `rows`: packed (region, epoch, node of the copy)."""

    volume: Volume
    rows: Rows


@_entry(15)
@dataclass(frozen=True, slots=True)
class ForceOpen:
    """An operator accepts a loss: offline regions open from an older copy, or empty. `rows`: packed
    (region, epoch, node); `copy_epochs`: u32 each, little endian, the last epoch in which that copy
    was in sync, 0 for none, which opens the region empty. A row is void when either epoch is not
    the catalog's: so nothing is lost but what the operator was told."""

    volume: Volume
    rows: Rows
    copy_epochs: Annotated[bytes, Within(4, 4 * ROWS_MAX)]


@_entry(16)
@dataclass(frozen=True, slots=True)
class Rebalance:
    """Copies and owners are to go home even where fail-back waits for an operator; the leader ends
    it when nothing is left to move."""

    wanted: bool


@_entry(17)
@dataclass(frozen=True, slots=True)
class DropCopies:
    """Copies whose own disks refuse them leave, and give their space back, where another is in
    sync. `rows`: packed (region, epoch, node of the copy)."""

    volume: Volume
    rows: Rows


@_entry(30)
@dataclass(frozen=True, slots=True)
class BeginCut:
    """One point in time over several volume families: a read-only snapshot in each. `members`:
    (base volume, writable view, name of the snapshot), each volume once. taken_ms: wall clock of
    whoever asks, 0 when nobody said; `rule`, `expires_ms`, `retained_ms`: see
    `snapshot.retention.SnapshotFacts`. `request`: that number again is the same cut, 0: none."""

    members: Annotated[tuple[tuple[Volume, View, Name], ...], Within(1, CUT_VIEWS_MAX)]
    taken_ms: Instant = 0
    rule: Rule = ""
    expires_ms: Instant = 0
    retained_ms: Instant = 0
    request: Annotated[int, Within(0, (1 << 63) - 1)] = 0
    # What the contents are a copy of, when they were imported: cluster, number of volume and view.
    source_cluster: Annotated[str, Within(0, NAME_BYTES_MAX)] = ""
    source_volume: Annotated[int, Within(0, (1 << 32) - 1)] = 0
    source_view: Annotated[int, Within(0, (1 << 28) - 1)] = 0


@_entry(31)
@dataclass(frozen=True, slots=True)
class ActivateCut:
    """Every owner has adopted the cut: replies may leave, its snapshots may be read."""

    cut: Index


@_entry(32)
@dataclass(frozen=True, slots=True)
class AbandonCut:
    """The cut cannot be made: replies may leave, its snapshots are no points in time."""

    cut: Index


@_entry(33)
@dataclass(frozen=True, slots=True)
class CreateReadWrite:
    """A writable view of a read-only snapshot."""

    volume: Volume
    of: View
    name: Name


@_entry(34)
@dataclass(frozen=True, slots=True)
class RemoveSnapshot:
    """A snapshot begins to hand its exceptions over; by number, for names come again (I15)."""

    volume: Volume
    view: View


@_entry(35)
@dataclass(frozen=True, slots=True)
class SnapshotRemoved:
    """Every region has handed the exceptions of the snapshot over."""

    volume: Volume
    view: View


@_entry(36)
@dataclass(frozen=True, slots=True)
class SetSnapshotAges:
    """When a snapshot goes, and before when it does not. Instants; 0: never, and no retention."""

    volume: Volume
    view: View
    expires_ms: Instant
    retained_ms: Instant


@_entry(37)
@dataclass(frozen=True, slots=True)
class GrowSnapshotSpace:
    """A node needs more room for copied-out pages. lds: how many logical disks for them it has, so
    that a repeat gives it no second one."""

    node: Node
    group: Name
    page_bytes: Size
    lds: Annotated[int, Within(0, 1 << 16)]


@_entry(38)
@dataclass(frozen=True, slots=True)
class SetSnapshotRule:
    """A rule of a volume by which snapshots are taken, as `snapshot.schedule` writes it: from now
    on it has it, or has it no more."""

    volume: Volume
    rule: Rule
    wanted: bool


Entry = (
    FormCluster
    | NodeUp
    | NodeDown
    | CutPair
    | CreateGroup
    | CreateVolume
    | GrowVolume
    | RemoveVolume
    | RecruitCopies
    | AdmitCopies
    | CancelJoins
    | MoveOwners
    | RehomeCopies
    | ReleaseCopies
    | ForceOpen
    | Rebalance
    | DropCopies
    | BeginCut
    | ActivateCut
    | AbandonCut
    | CreateReadWrite
    | RemoveSnapshot
    | SnapshotRemoved
    | SetSnapshotAges
    | SetSnapshotRule
    | GrowSnapshotSpace
)

_PACKED: Final = (AdmitCopies, CancelJoins, MoveOwners, ReleaseCopies, ForceOpen, DropCopies)


def encode(entry: Entry) -> bytes:
    """The payload for the log. InvalidRequest when a field breaks its type or bound: what `decode`
    would refuse is not worth a round of consensus."""
    kind = type(entry)
    values = [_listed(getattr(entry, field.name)) for field in fields(entry)]
    for check, value in zip(_checks[kind], values, strict=True):
        check(value)
    _check_rows(entry)
    payload: bytes = msgpack.packb([_numbers[kind], *values])
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise _refuse(kind.__name__, f"is longer than {PAYLOAD_BYTES_MAX} bytes")
    return payload


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if type(value) is tuple else value


def decode(payload: bytes) -> Entry:
    """The entry, or InvalidRequest with a text that depends on the payload only."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise _refuse("the payload", f"is longer than {PAYLOAD_BYTES_MAX} bytes")
    try:
        values = msgpack.unpackb(payload, use_list=True, max_ext_len=0, max_map_len=0)
    except (ValueError, RecursionError, msgpack.UnpackException):
        # The text of the library's error is not ours to replicate: versions differ.
        raise _refuse("the payload", "is not msgpack") from None
    if type(values) is not list or not values or type(values[0]) is not int:
        raise _refuse("the payload", "does not begin with a kind")
    kind = _kinds.get(values[0])
    if kind is None:
        raise _refuse("the payload", f"is of unknown kind {values[0]}")
    checks = _checks[kind]
    if len(values) != len(checks) + 1:
        raise _refuse(kind.__name__, f"has {len(checks)} fields")
    entry: Entry = kind(*[check(v) for check, v in zip(checks, values[1:], strict=True)])
    _check_rows(entry)
    return entry


def _check_rows(entry: Entry) -> None:
    kind = type(entry).__name__
    if isinstance(entry, _PACKED):
        if len(entry.rows) % ROW.itemsize:
            raise _refuse(f"{kind}.rows", f"is not rows of {ROW.itemsize} bytes")
    elif isinstance(entry, RecruitCopies | RehomeCopies) and (
        len(entry.regions) != 4 * len(entry.nodes)
    ):
        raise _refuse(kind, "has not as many nodes as regions")
    if isinstance(entry, ForceOpen) and (
        len(entry.copy_epochs) != 4 * (len(entry.rows) // ROW.itemsize)
    ):
        raise _refuse(kind, "has not as many epochs of copies as rows")


def pack_rows(
    regions: NDArray[Any] | Sequence[int],
    nodes: NDArray[Any] | Sequence[int],
    epochs: NDArray[Any] | Sequence[int] | int = 0,
) -> bytes:
    """Rows of (region u32, epoch u32, node u8), little endian, one behind the other."""
    rows = np.zeros(len(regions), dtype=ROW)
    rows["region"] = regions
    rows["epoch"] = epochs
    rows["node"] = nodes
    return rows.tobytes()


def unpack_rows(data: bytes) -> NDArray[Any]:
    """A read-only array of ROW (region, epoch, node); `data` is whole rows."""
    return np.frombuffer(data, dtype=ROW)


def recruits(volume: int, regions: NDArray[Any], nodes: NDArray[Any]) -> RecruitCopies:
    """The entry for these arrays of equal length."""
    return RecruitCopies(volume, regions.astype("<u4").tobytes(), nodes.astype(np.uint8).tobytes())


def rehomes(volume: int, regions: NDArray[Any], nodes: NDArray[Any]) -> RehomeCopies:
    """The entry for these arrays of equal length."""
    return RehomeCopies(volume, regions.astype("<u4").tobytes(), nodes.astype(np.uint8).tobytes())


def plain_inventory(inventory: tuple[object, ...]) -> bytes:
    """msgpack of `NodeInventory.to_tuple()`."""
    packed: bytes = msgpack.packb(inventory)
    return packed


# A group travels in the same way: msgpack of `ProvisioningGroup.to_tuple()`.
plain_group = plain_inventory


def unpack_plain(data: bytes, what: str) -> Any:
    """The lists that `plain_inventory` packed, or InvalidRequest."""
    try:
        return msgpack.unpackb(data, use_list=True, max_ext_len=0, max_map_len=0)
    except (ValueError, RecursionError, msgpack.UnpackException):
        raise _refuse(what, "is not msgpack") from None


@lru_cache(maxsize=NODES_MAX)
def inventory_of(packed: bytes) -> NodeInventory:
    """Of `NodeUp.inventory`; InvalidRequest. A node reports the same in each of its lives."""
    return NodeInventory.from_tuple(unpack_plain(packed, "NodeUp.inventory"))


def group_of(plain: bytes) -> ProvisioningGroup:
    """The group that `plain_group` packed, or InvalidRequest."""
    values = unpack_plain(plain, "group")
    try:
        return ProvisioningGroup(*values)
    except TypeError:
        raise InvalidRequest("a group has not the fields of one") from None
