"""codec: exceptions of a region on their way to a joiner: which page of which view, and its bytes.

An entry is 8 bytes, little endian: view u32 · page u16 · kind u8 (as `snapshot.entry`) · 0 u8. For
each entry of kind PAGE a whole page of bytes follows in `data`, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from base.errors import RemoteProtocolError
from snapshot.entry import PAGE, ZERO

_ENTRY: Final = np.dtype([("view", "<u4"), ("page", "<u2"), ("kind", "u1"), ("zero", "u1")])

Entry = tuple[int, int, int]  # (view, page, kind)


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """In that order."""
    listed = [(view, page, kind, 0) for view, page, kind in entries]
    return np.array(listed, dtype=_ENTRY).tobytes()


def unpack_entries(packed: bytes, pages: int, data_bytes: int, page_bytes: int) -> list[Entry]:
    """pages: of the region. RemoteProtocolError when they make no sense or do not fit the data."""
    if len(packed) % _ENTRY.itemsize:
        raise RemoteProtocolError(f"{len(packed)} bytes are no exceptions of views")
    rows = np.frombuffer(packed, dtype=_ENTRY)
    found: list[Entry] = [(int(v), int(p), int(k)) for v, p, k, _ in rows.tolist()]
    if any(not view or page >= pages or kind not in (PAGE, ZERO) for view, page, kind in found):
        raise RemoteProtocolError("an exception of a view breaks a bound")
    count = sum(kind == PAGE for _, _, kind in found)
    if data_bytes != count * page_bytes:
        raise RemoteProtocolError(f"{data_bytes} bytes are not {count} pages of views")
    return found
