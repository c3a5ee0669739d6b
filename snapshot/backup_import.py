"""plan: whether a backup stream may be imported into a volume, and what that takes.

A difference applied to anything but its base gives contents that never existed. So the target must
hold the base, be known to hold *that* base and not another of the same name, and be unchanged
since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from base.errors import AlreadyExists, InvalidRequest, NotFound
from snapshot.backup_stream import BackupHeader

Source = tuple[str, int, int]  # cluster, volume id, view: what a snapshot is a copy of


@dataclass(frozen=True, slots=True)
class ImportTarget:
    """The volume that is to receive a stream. exists: there is one of that name. newest: name of
    the newest read-only snapshot of the volume itself, "" when it has none. changed: it was written
    since that one was taken. sources: of its snapshots that were imported, by name, or that are the
    originals themselves."""

    volume: str
    exists: bool
    size_bytes: int = 0
    newest: str = ""
    changed: bool = False
    names: frozenset[str] = frozenset()
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """In this order: make the volume, or grow it to `size_bytes`; apply the extents; take the
    snapshot, and note its source."""

    volume: str
    make_volume: bool
    size_bytes: int
    snapshot: str
    source: Source


def plan_import(header: BackupHeader, target: ImportTarget) -> ImportPlan:
    """What an import takes. Refusals name the thing, and nothing has changed: AlreadyExists for a
    full stream over a volume, or a name that is in use; NotFound for a base that is not there;
    InvalidRequest for a wrong or a changed one."""
    source = (header.cluster, header.volume_id, header.view)
    if header.full:
        if target.exists:
            raise AlreadyExists(
                f"volume {target.volume} exists: a full backup is imported into a new volume"
            )
        return ImportPlan(target.volume, True, header.size_bytes, header.name, source)
    if not target.exists:
        raise NotFound(
            f"volume {target.volume} does not exist: this is the difference since "
            f"{header.base_name}, import that one first"
        )
    check_base(header, target)
    if header.name in target.names:
        raise AlreadyExists(f"volume {target.volume} has a snapshot {header.name} already")
    if header.size_bytes < target.size_bytes:
        raise InvalidRequest(
            f"view {header.name} has {header.size_bytes} bytes and volume {target.volume} has "
            f"{target.size_bytes}: a volume never shrinks"
        )
    return ImportPlan(target.volume, False, header.size_bytes, header.name, source)


def check_base(header: BackupHeader, target: ImportTarget) -> None:
    """Refuse unless the target is, byte for byte, the base of the stream."""
    base = header.base_name
    if base not in target.names:
        raise NotFound(f"volume {target.volume} has no snapshot {base}, the base of this backup")
    expected = (header.cluster, header.volume_id, header.base_view)
    found = target.sources.get(base)
    if found is None:
        raise InvalidRequest(
            f"snapshot {base} of volume {target.volume} was not imported: it is not known to be "
            f"{base} of volume {header.volume}, the base of this backup"
        )
    if found != expected:
        raise InvalidRequest(
            f"snapshot {base} of volume {target.volume} is another one of that name: "
            f"{_of(found)}, and the base of this backup is {_of(expected)}"
        )
    if target.newest != base:
        raise InvalidRequest(
            f"volume {target.volume} is at {target.newest or 'no snapshot'}, and the base of this "
            f"backup is {base}: an import goes on from the newest snapshot"
        )
    if target.changed:
        raise InvalidRequest(
            f"volume {target.volume} was written since {base}, the base of this backup: "
            f"promote {base} first"
        )


def _of(source: Source) -> str:
    cluster, volume_id, view = source
    return f"view {view} of volume {volume_id} of cluster {cluster}"
