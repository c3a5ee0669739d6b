"""plan: which nodes share a network when links between nodes are cut by networks alone.

Containers on one network all hear each other, and those on different ones do not. So what can be
made of networks are groups without a common member; a link that is cut one way, or a node that two
groups hear, cannot.
"""

from __future__ import annotations

from collections.abc import Iterable

from base.errors import InvalidRequest

Group = tuple[int, ...]


def islands(ways: Iterable[tuple[int, int]], nodes: int) -> tuple[Group, ...]:
    """Groups that hear each other; the largest first, of equal ones that with the lowest node.

    ways: (sender, receiver) of all that is cut. InvalidRequest: no networks are like that.
    """
    cut = set(ways)
    for sender, receiver in sorted(cut):
        if (receiver, sender) not in cut:
            raise InvalidRequest(
                f"containers are cut off both ways: n{receiver} would still reach n{sender}"
            )
    groups: list[Group] = []
    for node in range(nodes):
        heard = tuple(each for each in range(nodes) if (each, node) not in cut)
        if heard[0] == node:
            groups.append(heard)
        elif heard not in groups:
            raise InvalidRequest(
                f"containers hear all of a network: n{node} would hear only a part of it"
            )
    if sum(len(group) for group in groups) != nodes:
        raise InvalidRequest("containers hear all of a network: groups have a node in common")
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))
