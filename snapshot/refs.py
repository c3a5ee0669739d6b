"""plan: how a view of a volume is named by people and by hosts: `VOLUME`, or `VOLUME@SNAPSHOT`.

Neither kind of name can have an @ in it, so the text is never ambiguous.
"""

from __future__ import annotations

from typing import Final

from base.errors import InvalidRequest

SEPARATOR: Final = "@"


def ref_of(volume: str, snapshot: str) -> str:
    """`v1@monday`; the volume itself for ""."""
    return f"{volume}{SEPARATOR}{snapshot}" if snapshot else volume


def split_ref(text: str) -> tuple[str, str]:
    """(volume, snapshot), "" for the volume itself. InvalidRequest when it is none of both."""
    volume, at, snapshot = text.partition(SEPARATOR)
    if not volume or (at and not snapshot) or SEPARATOR in snapshot:
        raise InvalidRequest(f"{text!r} names no view: write VOLUME or VOLUME@SNAPSHOT")
    return volume, snapshot


def split_snapshot(text: str) -> tuple[str, str]:
    """(volume, snapshot). InvalidRequest when it names none."""
    volume, snapshot = split_ref(text)
    if not snapshot:
        raise InvalidRequest(f"{text!r} names no snapshot: write VOLUME@SNAPSHOT")
    return volume, snapshot
