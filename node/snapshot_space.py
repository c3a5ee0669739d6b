"""plan: pages of the snapshot data space of one node: which extents are free, and who has the rest.

The space is the logical disks for snapshot data of one provisioning group and one size of page
(`node.snapshot_places`). It is handed out in *extents* of a few neighbouring pages, each to one
region, and the region gives out its pages. So a region that is dropped or moved gives back what it
had without a look at any page, and nothing here is journalled or kept: at a start each region
claims the extents in which its tables have a page.

The one rule that makes this safe: an extent comes back only when the newest checkpoint on disk has
no page in it. Else that checkpoint would give the same page to two regions after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from base.errors import InvalidRequest
from volume.logical_disk import SNAPSHOT_EXTENT_PAGES as EXTENT_PAGES

LOW_PART: Final = 2  # little is free: not more than that part

_FREE: Final = 0
_TAKEN: Final = 1


class SnapshotSpace:
    """Free and taken extents: one byte for each, 8 bytes per MiB of space. pages: of the logical
    disk; what does not fill an extent is not used. more(): called when little is free; it may
    `grow` the space, or see to it."""

    __slots__ = ("_hint", "_taken", "extent_pages", "free", "more")

    def __init__(self, pages: int, extent_pages: int = EXTENT_PAGES) -> None:
        assert extent_pages > 0
        self.extent_pages = extent_pages
        self._taken = bytearray(pages // extent_pages)
        self.free = len(self._taken)  # extents
        self._hint = 0  # nothing before it is free
        self.more: Callable[[], None] | None = None

    @property
    def extents(self) -> int:
        """All, free or not."""
        return len(self._taken)

    @property
    def free_pages(self) -> int:
        """Pages of free extents. Regions have free pages in their own extents beside them."""
        return self.free * self.extent_pages

    def has_room(self) -> bool:
        """An extent is free. Asks for more space when little is left."""
        if self.more is not None and self.free * LOW_PART <= len(self._taken):
            self.more()
        return self.free > 0

    def take(self) -> int | None:
        """The lowest free extent; None when there is none."""
        self.has_room()
        extent = self._taken.find(_FREE, self._hint)
        if extent < 0:
            self._hint = len(self._taken)
            return None
        self._taken[extent] = _TAKEN
        self._hint = extent + 1
        self.free -= 1
        return extent

    def grow(self, extents: int) -> None:
        """So many more, behind those that there are."""
        self._hint = min(self._hint, len(self._taken))
        self._taken += bytes(extents)
        self.free += extents

    def claim(self, extents: Iterable[int]) -> None:
        """At a start: a region has pages in these. InvalidRequest, and nothing has changed, when
        one is not in the space or another region has it: then a checkpoint is wrong."""
        wanted = list(dict.fromkeys(extents))
        for extent in wanted:
            if not 0 <= extent < len(self._taken):
                raise InvalidRequest(f"extent {extent} is not in a space of {len(self._taken)}")
            if self._taken[extent]:
                raise InvalidRequest(f"two regions have pages in extent {extent}")
        for extent in wanted:
            self._taken[extent] = _TAKEN
        self.free -= len(wanted)

    def give_back(self, extents: Iterable[int]) -> None:
        """Nobody has a page in these, and no checkpoint says otherwise."""
        for extent in extents:
            assert self._taken[extent], extent
            self._taken[extent] = _FREE
            self.free += 1
            self._hint = min(self._hint, extent)
