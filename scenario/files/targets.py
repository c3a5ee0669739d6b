"""plan: targets of faults: their grammar, and whom they mean at the moment when a fault strikes.

A target names nodes by number or by role (`owner of vol0 region 3`, `a random replicant`), parts of
nodes (`half of the disks of cage 0 of n3`, `loop A of the leader`), and combines them: `n1 and n2`,
`every node except the leader`. `parse` turns the text into a tree, `resolve` turns the tree into
places by a view of the cluster. Draws come from the `random.Random` that is passed in.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from base.errors import StorageError
from scenario.faults import nearest
from scenario.files.view import ClusterView, RegionNow

# What a target can mean; a verb says which it takes.
NODES, DISKS, SLEDS, CAGES, LOOPS = "nodes", "disks", "sleds", "cages", "loops"
TEXT_MAX: Final = 200

FORMS: Final = {
    "n3": "node 3",
    "owner of vol0 region 3": "who serves that region; without `region`: who owns most of vol0",
    "replicant of vol0 region 3": "who has its other copy; without `region`: of region 0",
    "joiner of vol0 region 3": "who is being filled with a copy of it",
    "the leader": "who leads the catalog",
    "a random node": "one of those that run; also `owner`, `replicant`, `follower`",
    "2 random nodes": "so many of them; also `owners`, `replicants`, `followers`",
    "every node": "all of them",
    "half of the nodes": "drawn, rounded down",
    "the rest": "in groups of a partition: who is in no other group",
    "the target of first": "whom the step named `first` hit last",
    "n1 and n2": "both",
    "every node except the leader and n0": "all before `except` without all behind it",
    "disk 2 of n3": "a disk by number",
    "a random disk of the leader": "one of its disks; also `2 random disks of`",
    "every disk of sled 0 of cage 1 of n3": "all in that place; `sled` and `cage` may be left out",
    "half of the disks of cage 1": "drawn, rounded up; without `of NODE`: of a random node",
    "sled 0 of cage 1 of n3": "for `sled_pull`; also `every sled of cage 1 of n3`",
    "cage 1 of n3": "for `cage_pull`: all sleds of it",
    "loop A of n3": "for `loop_cut`; also `both loops of n3`",
}


class NoTarget(StorageError):
    """Nobody is what the target names, now."""

    definite = True
    code = "no_target"


_MEANS: Final = {"disks": DISKS, "disk": DISKS, "sled": SLEDS, "cage": CAGES, "loops": LOOPS}


@dataclass(frozen=True, slots=True)
class Target:
    """One node of the tree. `what` says which of the other fields count:

    node (number); owner, replicant, joiner (volume, region: -1 for any); leader; pick (kind, number
    of them); every; half; rest; same (step); both (parts); except (parts: of, but); disk (number),
    disks (kind: random, half, every; number; parts: where it is); sled (number), cage (number),
    loops (kind: A, B, both). cage, sled: -1 when they are not said."""

    what: str
    text: str
    number: int = 0
    kind: str = ""
    volume: str = ""
    region: int = -1
    step: str = ""
    cage: int = -1
    sled: int = -1
    parts: tuple[Target, ...] = ()

    @property
    def means(self) -> str:
        """NODES, DISKS, SLEDS, CAGES or LOOPS."""
        return _MEANS.get(self.what, NODES)

    def walk(self) -> Iterator[Target]:
        """This one and all inside."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True, slots=True)
class Places:
    """Whom a target means. disks: (node, disk); sleds: (node, cage, sled); cages: (node,
    cage); loops: (node, side)."""

    nodes: tuple[int, ...] = ()
    disks: tuple[tuple[int, int], ...] = ()
    sleds: tuple[tuple[int, int, int], ...] = ()
    cages: tuple[tuple[int, int], ...] = ()
    loops: tuple[tuple[int, str], ...] = ()
    other: str = ""  # what is no part of any node, in words

    def text(self) -> str:
        """For people."""
        named = [f"disk {disk} of n{node}" for node, disk in self.disks]
        named += [f"sled {sled} of cage {cage} of n{node}" for node, cage, sled in self.sleds]
        named += [f"cage {cage} of n{node}" for node, cage in self.cages]
        named += [f"loop {side} of n{node}" for node, side in self.loops]
        return ", ".join(named or [f"n{node}" for node in self.nodes]) or self.other or "nobody"


# ---------------------------------------------------------------------------------- the grammar

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_KINDS: Final = "node|owner|replicant|follower"
_NODE_FORMS: Final[tuple[tuple[str, Callable[[re.Match[str], str], Target]], ...]] = (
    (r"(?:n|node )(\d+)", lambda m, t: Target("node", t, number=int(m[1]))),
    (r"(?:the )?leader", lambda m, t: Target("leader", t)),
    (
        rf"(?:the |a )?(owner|replicant|joiner) of ({_NAME})(?: region (\d+))?",
        lambda m, t: Target(m[1], t, volume=m[2], region=-1 if m[3] is None else int(m[3])),
    ),
    (rf"a random ({_KINDS})", lambda m, t: Target("pick", t, number=1, kind=m[1])),
    (
        rf"([1-8]) random ({_KINDS})s?",
        lambda m, t: Target("pick", t, number=int(m[1]), kind=m[2]),
    ),
    (r"every node", lambda m, t: Target("every", t)),
    (r"half of the nodes", lambda m, t: Target("half", t)),
    (r"the rest", lambda m, t: Target("rest", t)),
    (rf"the target of ({_NAME})", lambda m, t: Target("same", t, step=m[1])),
)
_PLACE: Final = re.compile(r"(?:sled (\d+)(?: of |$))?(?:cage (\d+)(?: of |$))?(.*)")
_PART_FORMS: Final[tuple[tuple[str, str, str, int], ...]] = (  # text, what, kind, number
    (r"disk (\d+)", "disk", "", -1),
    (r"a random disk", "disks", "random", 1),
    (r"([1-9]\d?) random disks", "disks", "random", -1),
    (r"every disk", "disks", "every", 0),
    (r"half of the disks", "disks", "half", 0),
    (r"every sled", "sled", "every", 0),
    (r"sled (\d+)", "sled", "", -1),
    (r"cage (\d+)", "cage", "", -1),
    (r"loop A", "loops", "A", 0),
    (r"loop B", "loops", "B", 0),
    (r"both loops", "loops", "both", 0),
)


def parse(text: object) -> Target:
    """ValueError says what is wrong, with the nearest form that there is."""
    if not isinstance(text, str) or len(text) > TEXT_MAX:
        raise ValueError(f"{text!r} is no target; write one as 'owner of vol0 region 3'")
    text = " ".join(text.split())
    found = _part(text)
    return found if found is not None else _nodes(text)


def _part(text: str) -> Target | None:
    """A part of nodes; None when it is none."""
    for form, what, kind, number in _PART_FORMS:
        match = re.match(rf"{form}(?: of (?P<where>.*))?$", text)
        if match is None:
            continue
        number = int(match[1]) if number < 0 else number
        place = _PLACE.fullmatch(match["where"] or "")
        assert place is not None
        sled, cage = (int(place[each]) if place[each] else -1 for each in (1, 2))
        if what in ("loops", "cage") and (sled >= 0 or cage >= 0):
            raise ValueError(f"{text!r}: a {what.rstrip('s')} is one of a node, not of a cage")
        if what == "sled" and cage < 0:
            raise ValueError(f"{text!r}: say which cage: 'sled 0 of cage 1 of n3'")
        whose = _nodes(place[3]) if place[3] else Target("pick", "a random node", 1, "node")
        if any(each.what == "rest" for each in whose.walk()):
            raise ValueError(f"{text!r}: 'the rest' is one group of a partition")
        return Target(what, text, number, kind, cage=cage, sled=sled, parts=(whose,))
    return None


def _nodes(text: str) -> Target:
    of, word, but = text.partition(" except ")  # all before it without all behind it
    if word:
        return Target("except", text, parts=(_nodes(of), _nodes(but)))
    parts = text.split(" and ")
    if len(parts) > 1:
        return Target("both", text, parts=tuple(_nodes(part) for part in parts))
    for form, make in _NODE_FORMS:
        match = re.fullmatch(form, text)
        if match is not None:
            return make(match, text)
    raise ValueError(f"{text!r} is no target: {nearest(text, FORMS)}")


# ---------------------------------------------------------------------------------- resolving


@dataclass(slots=True)
class _Asked:
    view: ClusterView
    rng: random.Random
    hit: Mapping[str, tuple[int, ...]]  # by name of a step, the nodes that it hit last
    taken: tuple[int, ...] = ()  # by other groups: for `the rest`
    without: tuple[int, ...] = field(default=())  # not to be drawn


def resolve(
    target: Target,
    view: ClusterView,
    rng: random.Random,
    *,
    hit: Mapping[str, tuple[int, ...]] | None = None,
    taken: tuple[int, ...] = (),
) -> Places:
    """Whom the target means in this view. hit: by name of a step, whom it hit. taken: for `the
    rest`, and not to be drawn again. NoTarget says what there is not. Nothing but `rng` changes."""
    asked = _Asked(view, rng, hit or {}, taken, without=taken)
    if target.means == NODES:
        nodes = _resolve_nodes(target, asked)
        if not nodes:
            raise NoTarget(f"nobody is {target.text} now")
        return Places(nodes=tuple(nodes))
    nodes = _resolve_nodes(target.parts[0], asked)
    if target.what == "loops":
        sides = ("A", "B") if target.kind == "both" else (target.kind,)
        return Places(tuple(nodes), loops=tuple((n, side) for n in nodes for side in sides))
    if target.what == "cage":
        there = [each.cage for each in view.disks if each.cage == target.number]
        _not_empty(there, target)
        return Places(tuple(nodes), cages=tuple((node, target.number) for node in nodes))
    if target.what == "sled":
        found = {(each.cage, each.sled) for each in view.disks if each.cage == target.cage}
        wanted = [each for each in sorted(found) if target.kind or each[1] == target.number]
        _not_empty(wanted, target)
        return Places(tuple(nodes), sleds=tuple((n, *each) for n in nodes for each in wanted))
    return Places(
        tuple(nodes),
        disks=tuple((node, disk) for node in nodes for disk in _disks_of(target, asked)),
    )


def _not_empty(found: list[object] | list[int] | list[tuple[int, int]], target: Target) -> None:
    if not found:
        raise NoTarget(f"there is no {target.text}")


def _disks_of(target: Target, asked: _Asked) -> list[int]:
    disks = [
        each.disk
        for each in asked.view.disks
        if target.cage in (-1, each.cage) and target.sled in (-1, each.sled)
    ]
    if target.what == "disk":
        disks = [disk for disk in disks if disk == target.number]
    elif target.kind == "random":
        disks = _drawn(disks, target.number, asked.rng)
    elif target.kind == "half":
        disks = _drawn(disks, (len(disks) + 1) // 2, asked.rng)
    _not_empty(disks, target)
    return disks


def _drawn(whom: list[int], count: int, rng: random.Random) -> list[int]:
    """So many of them, ascending; fewer when there are no more."""
    left = list(whom)
    drawn = [left.pop(rng.randrange(len(left))) for _ in range(min(count, len(left)))]
    return sorted(drawn)


def _resolve_nodes(target: Target, asked: _Asked) -> list[int]:
    view = asked.view
    everyone = [node.number for node in view.nodes]
    match target.what:
        case "node":
            return [target.number] if target.number in everyone else []
        case "leader":
            return [view.leader] if view.leader >= 0 else []
        case "owner" | "replicant" | "joiner":
            return _by_role(target, asked)
        case "pick":
            return _picked(target, asked)
        case "every":
            return everyone
        case "half":
            free = [node for node in everyone if node not in asked.without]
            return _drawn(free, len(everyone) // 2, asked.rng)
        case "rest":
            return [node for node in everyone if node not in asked.taken]
        case "same":
            return list(asked.hit.get(target.step, ()))
        case "both":
            found: dict[int, None] = {}
            for part in target.parts:
                found.update(dict.fromkeys(_resolve_nodes(part, asked)))
            return list(found)
    assert target.what == "except", target.what
    but = _resolve_nodes(target.parts[1], asked)
    inner = _Asked(view, asked.rng, asked.hit, asked.taken, (*asked.without, *but))
    return [node for node in _resolve_nodes(target.parts[0], inner) if node not in but]


def _by_role(target: Target, asked: _Asked) -> list[int]:
    volume = asked.view.volume(target.volume)
    if volume is None or not volume.regions or target.region >= len(volume.regions):
        return []
    if target.what == "owner" and target.region < 0:
        owners = [region.owner for region in volume.regions if region.owner >= 0]
        # The lowest number of those with most regions: the same in every run.
        return [max(sorted(set(owners)), key=owners.count)] if owners else []
    region = volume.regions[max(0, target.region)]
    if target.what == "owner":
        return [region.owner] if region.owner >= 0 else []
    if target.what == "joiner":
        return [region.joiner] if region.joiner >= 0 else []
    return list(region.replicants[:1])


def _picked(target: Target, asked: _Asked) -> list[int]:
    roles: dict[str, Callable[[RegionNow], tuple[int, ...]]] = {
        "owner": lambda region: (region.owner,),
        "replicant": lambda region: region.replicants,
    }
    able = [node for node in asked.view.running() if node not in asked.without]
    if target.kind in roles:
        have = {node for region in asked.view.regions() for node in roles[target.kind](region)}
        able = [node for node in able if node in have]
    elif target.kind == "follower":
        able = [node for node in able if node != asked.view.leader]
    return _drawn(able, target.number, asked.rng) if len(able) >= target.number else []
