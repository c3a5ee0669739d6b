"""plan: what a copy of a region is to its node, and where a state transfer stands."""

from __future__ import annotations

NONE, COPY, JOINER, OWNER = 0, 1, 2, 3
ROLE_NAMES = ("none", "copy", "joiner", "owner")

STALE, AHEAD, GAP, NOT_MEMBER = 1, 2, 3, 4  # why a record was refused

TRANSFER_IDLE, TRANSFER_ASKED, TRANSFER_COPYING, TRANSFER_ENDING, TRANSFER_ADMITTING = range(5)

BEGAN, SAME, REFUSED = 0, 1, 2  # how a joiner answers the beginning of a session
