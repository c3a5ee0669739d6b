"""shell: the difference of two views as the nodes tell it, put together out of its parts."""

from __future__ import annotations

import numpy as np

from admin.client import ClusterClient
from snapshot.diff_text import Difference
from snapshot.exception_table import Pages
from snapshot.tree import SnapshotTree


def fetch(client: ClusterClient, tree: SnapshotTree, one: str, other: str) -> Difference:
    """All of it. Errors as of the client."""
    offset = 0
    parts: list[Pages] = [np.zeros(0, dtype=np.int64)]
    volume = tree[tree.base].name
    while True:
        answer = client.differences(volume, one, other, offset)
        page_bytes, size_bytes = answer["page_bytes"], answer["size_bytes"]
        for start, length in answer["extents"]:
            end = -(-(start + length) // page_bytes)
            parts.append(np.arange(start // page_bytes, end, dtype=np.int64))
        offset = answer["next_offset"]
        if offset < 0:
            break
    views = (tree.named(one).view, tree.named(other).view)
    return Difference(*views, np.concatenate(parts), page_bytes, size_bytes)
