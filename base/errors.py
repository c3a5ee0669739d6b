"""plan: every expected failure, and whether the work can have happened.

*Definite* means: it certainly did not happen, so it is safe to send it elsewhere. *Indefinite*
means that it may have happened or may happen yet; only an unchanged repeat under the same operation
id is allowed. When in doubt an error is indefinite. Bugs are asserts, never one of these.
"""

from __future__ import annotations

from typing import ClassVar


class StorageError(Exception):
    """Root of all expected failures. `code` is stable and is what crosses the wire and the API."""

    definite: ClassVar[bool] = False
    code: ClassVar[str] = "storage"


class NotOwner(StorageError):
    """Another node owns the region; `owner` says which (-1: nobody can answer now)."""

    definite = True
    code = "not_owner"

    def __init__(self, *, region: int, owner: int) -> None:
        super().__init__(f"region {region} is owned by node {owner}")
        self.region = region
        self.owner = owner


class StaleEpoch(StorageError):
    """The message carries an epoch that is older than the receiver's: the sender is fenced."""

    definite = True
    code = "stale_epoch"

    def __init__(self, *, region: int, epoch: int, current: int) -> None:
        super().__init__(f"region {region}: epoch {epoch} is older than {current}")
        self.region = region
        self.epoch = epoch
        self.current = current


class RegionOffline(StorageError):
    """No in-sync copy is alive; opens when a member of the last in-sync set returns."""

    definite = True
    code = "region_offline"

    def __init__(self, *, volume: str, region: int, waiting_for: str) -> None:
        super().__init__(
            f"volume {volume} region {region} is offline: no copy in sync is alive; "
            f"it opens when {waiting_for} returns"
        )


class RequestTimeout(StorageError):
    """No answer within the configured time. The work may have happened."""

    definite = False
    code = "timeout"


class LinkLost(StorageError):
    """The link to the node broke while an answer was owed. The work may have happened."""

    definite = False
    code = "link_lost"


class NotConnected(StorageError):
    """There is no link to that node now, and nothing was sent."""

    definite = True
    code = "not_connected"


class Overloaded(StorageError):
    """A bounded queue is full and the work was refused before it began."""

    definite = True
    code = "overloaded"


class NoQuorum(StorageError):
    """No majority of the voters answers: the catalog cannot change now."""

    definite = False
    code = "no_quorum"


class NotLeader(StorageError):
    """This node does not lead; `leader` says who does, -1 when unknown."""

    definite = True
    code = "not_leader"

    def __init__(self, leader: int) -> None:
        super().__init__(f"node {leader} leads" if leader >= 0 else "no leader is known yet")
        self.leader = leader


class NoSpace(StorageError):
    """There is not enough free space; the text says what is free."""

    definite = True
    code = "no_space"


class InvalidRequest(StorageError):
    """The request breaks a rule; the text names the thing and the rule."""

    definite = True
    code = "invalid"


class NotFound(StorageError):
    """The named thing does not exist."""

    definite = True
    code = "not_found"


class AlreadyExists(StorageError):
    """The name is in use."""

    definite = True
    code = "exists"


class CutAbandoned(StorageError):
    """A point in time could not be made over all its owners; nothing was kept of it."""

    definite = True
    code = "cut_abandoned"


class ConfigError(StorageError):
    """The configuration is refused before anything starts; the text names the key and the rule."""

    definite = True
    code = "config"


class DeviceFailed(StorageError):
    """A block device answered with an error. A failed write may have happened in part."""

    definite = False
    code = "device"


class MediaError(StorageError):
    """There are no right bytes of a page: on the disks of a node or, when a host is told, on any.
    The text names volume, region and page."""

    definite = True
    code = "media"

    def __init__(self, text: str, *, page: int = -1) -> None:
        super().__init__(text)
        self.page = page


class Stopping(StorageError):
    """The node is stopping and takes no new work."""

    definite = True
    code = "stopping"


class AccessDenied(StorageError):
    """Wrong or missing token or secret."""

    definite = True
    code = "denied"


class RemoteProtocolError(StorageError):
    """The other side broke the protocol; its connection ends and nothing else does."""

    definite = False
    code = "protocol"


BY_CODE: dict[str, type[StorageError]] = {
    leaf.code: leaf
    for leaf in (
        StorageError, RequestTimeout, LinkLost, NotConnected, Overloaded, NoQuorum, NoSpace,
        InvalidRequest, NotFound, AlreadyExists, CutAbandoned, ConfigError, DeviceFailed,
        MediaError, Stopping, AccessDenied, RemoteProtocolError,
    )
}  # fmt: skip


def from_code(code: str, text: str) -> StorageError:
    """Rebuild an error that crossed the wire. Leaves with fields of their own come back as plain
    definite or indefinite errors with the same text."""
    if code in {NotOwner.code, StaleEpoch.code, RegionOffline.code, NotLeader.code}:
        return RemoteRefused(code, text)
    return BY_CODE.get(code, StorageError)(text)


class RemoteRefused(StorageError):
    """Another node refused, definitely, for the reason in `remote_code`."""

    definite = True
    code = "refused"

    def __init__(self, remote_code: str, text: str) -> None:
        super().__init__(text)
        self.remote_code = remote_code
