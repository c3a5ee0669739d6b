"""plan: what a copy of a region is to its node, and where a state transfer stands."""

from __future__ import annotations

NONE, COPY, JOINER, OWNER = 0, 1, 2, 3
ROLE_NAMES = ("none", "copy", "joiner", "owner")

STALE, AHEAD, GAP, NOT_MEMBER = 1, 2, 3, 4  # why a record was refused

# Idle; a session is wanted; the joiner was asked where it stands; and then it takes the stream too:
# while it is filled, until it is ready, until the catalog has decided.
(
    TRANSFER_IDLE,
    TRANSFER_ASKED,
    TRANSFER_POSITION,
    TRANSFER_COPYING,
    TRANSFER_ENDING,
    TRANSFER_ADMITTING,
) = range(6)

BEGAN, SAME, REFUSED = 0, 1, 2  # how a joiner answers the beginning of a session

# What a session brings: nothing, the records behind the joiner's, the pages that changed since its
# last one, or every page.
BY_NOTHING, BY_LOG, BY_DELTA, BY_FULL = range(4)
MODE_NAMES = ("same", "log", "delta", "full")
