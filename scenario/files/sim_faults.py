"""plan: faults of a scenario as those of the simulator's level 2."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from scenario.files.runner import Strike
from scenario.level2 import Level2Run
from scenario.runs import Detail, FaultEvent
from sim.device import SimDisk


class NotPossible(Exception):
    """Why this world cannot do it as things are."""


def events_of(run: Level2Run, strike: Strike, rng: random.Random) -> list[FaultEvent]:
    """What to perform, all at once. NotPossible says why there is nothing."""
    return _MAKE[strike.step.do](run, strike, rng)


def _event(
    run: Level2Run, strike: Strike, kind: str, nodes: tuple[int, ...], *details: Detail
) -> FaultEvent:
    return FaultEvent(run.faults.at_ms(), kind, nodes, strike.step.for_ms, details)


def _each_node(kind: str, *names: tuple[str, str]) -> Callable[..., list[FaultEvent]]:
    """One fault for each node. names: (detail of the fault, field of the step)."""

    def make(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
        details = tuple((detail, getattr(strike.step, field)) for detail, field in names)
        return [
            _event(run, strike, kind, (node,), *details) for node in sorted(strike.places.nodes)
        ]

    return make


def _kill(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    nodes = tuple(sorted(strike.places.nodes))
    dead = [node for node in nodes if not run.nodes[node].alive]
    if dead:
        raise NotPossible(f"n{dead[0]} is dead already")
    return [_event(run, strike, "kill" if len(nodes) == 1 else "kill_many", nodes)]


def _power_cut(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    nodes, keep = strike.places.nodes, ("keep", getattr(strike.step, "keep", "torn"))
    if len(nodes) == len(run.nodes):
        return [_event(run, strike, "power_cut_all", (), keep)]
    if len(nodes) > 1:
        raise NotPossible("power goes from one machine or from all of them, not from some")
    return [_event(run, strike, "power_cut", nodes, keep)]


def _heard(strike: Strike) -> Detail:
    return ("heard", int(getattr(strike.step, "behaviour", "") == "reset"))


def _cut(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    sources, others = strike.groups
    made = [
        _event(
            run, strike, "cut", (source, *(other for other in others if other != source)),
            ("direction", str(getattr(strike.step, "direction", "both"))), _heard(strike),
        )
        for source in sources
    ]  # fmt: skip
    if any(len(event.nodes) < 2 for event in made):
        raise NotPossible("a link has two ends")
    return made


def _partition(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    groups = "|".join("".join(str(node) for node in sorted(group)) for group in strike.groups)
    return [_event(run, strike, "partition", (), ("groups", groups), _heard(strike))]


def _flap(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    sources, others = strike.groups
    return [
        _event(run, strike, "flap", (source, other))
        for source in sources
        for other in others
        if other != source
    ]


def _clog(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    nodes = tuple(sorted(strike.places.nodes))
    if getattr(strike.step, "one_by_one", False) and len(nodes) > 1:
        return [_event(run, strike, "swizzle", nodes)]
    return [_event(run, strike, "clog", (node,)) for node in nodes]


def _delay(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    by_us = 1000 * int(getattr(strike.step, "by", 0))
    return [
        _event(run, strike, "delay", (node,), ("us", by_us)) for node in sorted(strike.places.nodes)
    ]


def _jump(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    by_ms = int(getattr(strike.step, "by", 0))
    return [
        _event(run, strike, "wall_jump", (node,), ("ms", by_ms))
        for node in sorted(strike.places.nodes)
    ]


def _each_disk(kind: str, *names: tuple[str, str]) -> Callable[..., list[FaultEvent]]:
    def make(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
        details = tuple((detail, getattr(strike.step, field)) for detail, field in names)
        return [
            _event(run, strike, kind, (node,), ("device", f"disk{disk}"), *details)
            for node, disk in strike.places.disks
        ]

    return make


def _damage(kind: str) -> Callable[..., list[FaultEvent]]:
    """Of media that hold something: places are drawn among those that were written."""

    def make(run: Level2Run, strike: Strike, rng: random.Random) -> list[FaultEvent]:
        if len({node for node, _ in strike.places.disks}) > 1:
            raise NotPossible("media of one node at a time may be damaged: another has the rest")
        made: list[FaultEvent] = []
        for node, number in strike.places.disks:
            disk = run.faults.disk(node, f"disk{number}")
            for offset in _offsets(disk, getattr(strike.step, "places", 1), rng):
                device: Detail = ("device", f"disk{number}")
                details: tuple[Detail, ...] = (device, ("offset", offset))
                if kind == "disk_rot":
                    details = (*details, ("flip", 1 + rng.randrange(255)))
                else:
                    details = (device, ("offset", offset // 512 * 512), ("length", 512))
                made.append(_event(run, strike, kind, (node,), *details))
        if not made:
            raise NotPossible("nothing was written to these disks yet")
        return made

    return make


def _offsets(disk: SimDisk, count: int, rng: random.Random) -> list[int]:
    """So many bytes in different pages that were written; fewer when there are no more."""
    pages = disk.written_pages()
    drawn = [pages.pop(rng.randrange(len(pages))) for _ in range(min(count, len(pages)))]
    return [page + rng.randrange(4096) for page in drawn]


def _loops(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    """One loop is cut and the node is told; of both it is not, and no I/O arrives."""
    sides: dict[int, list[str]] = {}
    for node, side in strike.places.loops:
        sides.setdefault(node, []).append(side)
    return [
        _event(run, strike, "loop_down", (node,), ("side", "both"))
        if len(cut) > 1
        else _event(run, strike, "loop_cut", (node,), ("side", cut[0]))
        for node, cut in sorted(sides.items())
    ]


def _sleds(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    return [
        _event(run, strike, "sled_pull", (node,), ("cage", cage), ("sled", sled))
        for node, cage, sled in strike.places.sleds
    ]


def _cages(run: Level2Run, strike: Strike, _rng: random.Random) -> list[FaultEvent]:
    return [
        _event(run, strike, "cage_down", (node,), ("cage", cage))
        for node, cage in strike.places.cages
    ]


_MAKE: Final[dict[str, Callable[[Level2Run, Strike, random.Random], list[FaultEvent]]]] = {
    "kill": _kill,
    "power_cut": _power_cut,
    "stop": _each_node("stop"),
    "pause": _each_node("pause"),
    "slow": _each_node("slow", ("factor", "factor")),
    "cut": _cut,
    "partition": _partition,
    "flap": _flap,
    "clog": _clog,
    "delay": _delay,
    **{
        verb: _each_node(verb, ("permille", "chance"))
        for verb in ("loss", "duplicate", "reorder", "corrupt")
    },
    "slow_disk": _each_node("slow_disk", ("factor", "factor")),
    "disk_dead": _each_disk("disk_dead"),
    "disk_error": _each_disk("disk_error", ("what", "what")),
    "fill": _each_disk("disk_full"),
    "sync_failure": _each_node("sync_failure"),
    "rot": _damage("disk_rot"),
    "latent_error": _damage("disk_latent"),
    "lost_write": _each_disk("disk_lost_write"),
    "misdirected_write": _each_disk("disk_misdirect"),
    "stale_read": _each_disk("disk_stale_read"),
    "loop_cut": _loops,
    "sled_pull": _sleds,
    "cage_pull": _cages,
    "clock_drift": _each_node("drift", ("ppm", "ppm")),
    "clock_jump": _jump,
}
