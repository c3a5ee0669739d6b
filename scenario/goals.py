"""plan: coverage goals: rare states that some run of a long search must have reached.

A run reports those that it reached; a search that misses one has not looked everywhere. Goals with
a dot in their name are events that nodes note by themselves.
"""

from __future__ import annotations

from typing import Final

GOALS: Final[dict[int, tuple[str, ...]]] = {
    1: (
        "a blank node took the place of another",
        "a catalog was sent as a whole",
        "a copy was filled",
        "a damaged frame was rejected",
        "a lease ended between the fetch and the answer of a read",
        "a message of an old session was dropped",
        "a power cut took unsynced entries",
        "a read waited for a lease or an opening",
        "a record behind a gap was refused",
        "a record of a stale epoch was refused",
        "a record of an epoch ahead was refused",
        "a record was refused by a node that is no member",
        "a region opened while a copy joined it",
        "a sync failed and the node stopped",
        "all machines lost power",
        "an owner was paused beyond its lease",
        "copy.joined",
        "failback.planned",
        "leader.elected",
        "leader.handed_over",
        "node.damped",
        "node.declared_down",
        "node.joined",
        "node.muted",
        "node.suspected",
        "node.unmuted",
        "pair.cut",
        "pair.damped",
        "proposal.refused",
        "region.opened",
        "regions.reduced",
        "regions.returned",
        "voters.changed",
    ),
    2: (
        "a block was mended from its mirror",
        "a crash met a journal write on its way",
        "a damaged frame was rejected",
        "a disk left its mirrors",
        "a disk lost a write",
        "a narrow link held frames back",
        "a node came back with disks of some time ago",
        "a node ran out of memory",
        "a node refused links, and they were tried again",
        "a node was killed before it had recovered",
        "a node was killed while it started",
        "a node was paused beyond its lease",
        "a page came back from another copy",
        "a page could not be destaged and was tried again",
        "a read returned what was there before",
        "a scrub found damage and mended it",
        "a write landed elsewhere",
        "an I/O met a cage that was down",
        "an I/O met a sled that was pulled",
        "an I/O met loops that were down",
        "all machines lost power",
        "disks were reached over one loop only",
        "the journal was full and writes waited",
        "the leader was killed",
        "writes waited for memory",
    ),
}
