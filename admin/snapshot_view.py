"""plan: the `SnapshotView` port: what operators see of snapshots and ask about them, at any node.

Part of `admin.view.NodeView`; the rules are the same. A snapshot is named by its volume and its own
name, in one word `VOLUME@SNAPSHOT`. Instants are ms of the wall clock, 0 for never or not known.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, Protocol, TypedDict

from base.errors import InvalidRequest

ViewKindName = Literal["base", "read-only", "read-write"]
ViewStateName = Literal["creating", "active", "stale", "removing"]

GROUP_MAX: Final = 256  # volumes of one point in time
EXTENTS_MAX: Final = 1 << 17  # of one answer
_WORDS: Final = {str: "a text", int: "a number", list: "a list", bool: "true or false"}


class ViewRow(TypedDict):
    """One view of a volume: the volume itself, or a snapshot."""

    volume: str
    name: str
    ref: str  # what hosts and commands call it: VOLUME@SNAPSHOT
    view: int  # its number, never used twice in this volume
    kind: ViewKindName
    state: ViewStateName
    size_bytes: int  # of the volume when the snapshot was taken
    branch: int  # the number of its writable view
    origin: int  # of a read-write snapshot: the read-only one that it hangs on; else 0
    copy_of: int  # what it was taken from; 0: that is gone
    parent: str  # where a look-up goes next; "" for the volume itself
    taken_ms: int
    rule: str  # that took it; "": somebody did
    expires_ms: int
    retained_ms: int  # nothing removes it before
    source_cluster: str  # what it is a copy of: of one that was not imported itself
    source_volume: int
    source_view: int


class SnapshotSpec(TypedDict):
    """One point in time over one volume or several: a read-only snapshot in each, of this name.
    volumes: also `VOLUME@SNAPSHOT` of a read-write snapshot. Without a name it gets one from the
    clock. The same request (any number but 0) again is the same snapshot."""

    volumes: list[str]
    name: NotRequired[str]
    expire_s: NotRequired[int]  # it goes at that age
    retain_s: NotRequired[int]  # and not before that one
    request: NotRequired[int]
    source_cluster: NotRequired[str]  # contents that were imported: what they are a copy of
    source_volume: NotRequired[int]
    source_view: NotRequired[int]


class SnapshotMade(TypedDict):
    """A point in time that can be read from now on."""

    cut: int  # names it: the version of the catalog that began it
    took_ms: float  # from the request until it could be read
    held_ms: float  # how long the answering node held replies of these volumes back
    snapshots: list[ViewRow]


class AgesSpec(TypedDict):
    """From now on, in seconds; 0: never, and no retention. What is left out stays as it is."""

    expire_s: NotRequired[int]
    retain_s: NotRequired[int]


class RemovedSnapshot(TypedDict):
    """removed: it is gone; else it is still handing over what older snapshots need of it."""

    ref: str
    removed: bool


class RuleRow(TypedDict):
    """A rule by which snapshots of a volume are taken."""

    volume: str
    rule: str


class RuleSpec(TypedDict):
    """wanted: false takes the rule away."""

    rule: str
    wanted: NotRequired[bool]


class Differing(TypedDict):
    """A part of the difference of two views. extents: [offset, length] in bytes, ascending, whole
    pages as far as they belong to the volume; everything else before next_offset is the same."""

    volume: str
    one: str
    other: str
    size_bytes: int
    page_bytes: int
    extents: list[list[int]]
    next_offset: int  # where the next part begins; -1: this was the last


class SnapshotView(Protocol):
    """Any node answers for all snapshots of the cluster."""

    async def create(self, spec: SnapshotSpec) -> SnapshotMade:
        """One point in time; answers when it can be read.

        NotFound, AlreadyExists, InvalidRequest (one that is read-only, a volume twice),
        RegionOffline. CutAbandoned: an owner did not take part in time, and there is no snapshot.
        """

    async def list_all(self) -> list[ViewRow]:
        """Every snapshot, by volume and age."""

    async def family(self, volume: str) -> list[ViewRow]:
        """A volume and its snapshots, oldest first. NotFound."""

    async def show(self, volume: str, snapshot: str) -> ViewRow:
        """One snapshot. NotFound names both."""

    async def set_ages(self, volume: str, snapshot: str, spec: AgesSpec) -> ViewRow:
        """When it goes, and before when not. InvalidRequest: it would go before it may."""

    async def remove(self, volume: str, snapshot: str) -> RemovedSnapshot:
        """Hand what older snapshots need of it over, and let it go. NotFound; InvalidRequest names
        what depends on it, or until when it is retained. Answers after some seconds at the latest;
        a removal that has begun goes on by itself."""

    async def rules(self) -> list[RuleRow]:
        """Of all volumes."""

    async def set_rule(self, volume: str, rule: str, wanted: bool) -> list[RuleRow]:
        """Those that the volume has then. InvalidRequest names the word that is wrong; NotFound."""

    async def differences(
        self, volume: str, one: str, other: str, offset: int, count: int
    ) -> Differing:
        """Where two views of a volume differ from a byte on, in at most `count` extents; the volume
        itself goes by its own name. Never leaves a byte out that differs. NotFound; InvalidRequest
        for a view that is stale or not made yet; RegionOffline and RequestTimeout when the owner of
        a region does not answer."""


def snapshot_spec(body: dict[str, Any]) -> SnapshotSpec:
    """From untrusted JSON. InvalidRequest names the key."""
    spec = checked(
        body,
        {
            "volumes": list, "name": str, "expire_s": int, "retain_s": int, "request": int,
            "source_cluster": str, "source_volume": int, "source_view": int,
        },
        required=("volumes",),
    )  # fmt: skip
    volumes = spec["volumes"]
    if not all(type(each) is str for each in volumes) or not 0 < len(volumes) <= GROUP_MAX:
        raise InvalidRequest(f"volumes: must be 1 to {GROUP_MAX} names")
    return spec  # type: ignore[return-value]


def ages_spec(body: dict[str, Any]) -> AgesSpec:
    """From untrusted JSON. InvalidRequest names the key."""
    spec = checked(body, {"expire_s": int, "retain_s": int})
    if not spec:
        raise InvalidRequest("expire_s and retain_s: give one of them")
    return spec  # type: ignore[return-value]


def rule_spec(body: dict[str, Any]) -> tuple[str, bool]:
    """(rule, wanted) from untrusted JSON. InvalidRequest names the key."""
    spec = checked(body, {"rule": str, "wanted": bool}, required=("rule",))
    return spec["rule"], spec.get("wanted", True)


def checked(
    body: dict[str, Any], kinds: dict[str, type], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The body, if it has these keys only, with values of these types; numbers are not negative.
    InvalidRequest names the key and the rule."""
    for key, value in sorted(body.items()):
        kind = kinds.get(key)
        if kind is None:
            raise InvalidRequest(f"{key}: is not a property; known are {', '.join(kinds)}")
        if type(value) is not kind:
            raise InvalidRequest(f"{key}: must be {_WORDS[kind]}")
        if isinstance(value, int) and not 0 <= value < 1 << 63:
            raise InvalidRequest(f"{key}: must be a number from 0 to 2^63 - 1")
    for key in required:
        if key not in body:
            raise InvalidRequest(f"{key}: is missing")
    return dict(body)
