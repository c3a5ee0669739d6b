"""plan: profiles: which options a seed draws. One profile and one kind of checker miss too much.

A profile is a function from a seed to options; everything is drawn from a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from base.errors import InvalidRequest
from scenario.faults import nearest
from sim.random import SeedStreams, SimRandom


@dataclass(slots=True)
class SeedOptions:
    """What one seed of level 1 runs. Times in virtual seconds, or as the names say. Numbers named
    like faults are weights, 0: none."""

    nodes: int = 8
    seconds: int = 12
    heal_s: int = 25
    hosts: int = 4
    volumes: int = 2
    regions: int = 3
    writes_per_s: int = 100
    crashes: int = 1
    pauses: int = 1
    cuts: int = 0  # links between pairs, one way or both, heard or silent
    kill_many: int = 0
    power_cut: int = 0
    power_cut_all: int = 0
    slow: int = 0
    partitions: int = 0
    clogs: int = 0
    delays: int = 0
    corruptions: int = 0
    drifts: int = 0
    wall_jumps: int = 0
    slow_disks: int = 0
    hang_disks: int = 0
    sync_failures: int = 0
    replaces: int = 0
    repeat_entries: int = 0
    remove_volumes: int = 0
    down_max: int = 1  # faults that stand at the same time
    rough: bool = False  # faults that destroy nothing strike without waiting for redundancy
    flap_every_ms: int = 0  # links that break and come back at once, at any time; 0: none
    lose_to: int = 0  # nodes are lost for good, one by one, until so many are left; 0: none
    grow: bool = False
    snapshot_every_ms: int = 0  # one point in time of all volumes, so often; 0: never
    judge_views: bool = False  # hold what snapshots show to a model
    fault_every_ms: int = 1500
    pause_ms: int = 1500
    down_ms: int = 4000
    cut_ms: int = 4000
    cut_crash_percent: int = 33  # of cuts in which some node crashes
    power_crash_percent: int = 0  # of power cuts that nobody notices before another node crashes
    read_weight: int = 40
    zero_weight: int = 0
    trim_weight: int = 0
    flush_weight: int = 2
    fua_percent: int = 5
    lease_ms: int = 400
    grace_ms: int = 500
    clock_ppm: int = 20_000
    delay_us: int = 150
    tail_us: int = 2000
    journal_us: int = 60
    sync_us: int = 300
    fetch_tail_us: int = 2000
    joins_max: int = 4
    snapshot_entries: int = 512
    durability_synced: bool = False
    trace: bool = False


# By kind of fault the option that says how often it is drawn. Those of `OTHERS` are not weights.
WEIGHTS: Final = {
    "kill": "crashes",
    "pause": "pauses",
    "cut": "cuts",
    "kill_many": "kill_many",
    "power_cut": "power_cut",
    "power_cut_all": "power_cut_all",
    "slow": "slow",
    "partition": "partitions",
    "clog": "clogs",
    "delay": "delays",
    "drift": "drifts",
    "wall_jump": "wall_jumps",
    "slow_disk": "slow_disks",
    "hang_disk": "hang_disks",
    "sync_failure": "sync_failures",
    "replace": "replaces",
    "repeat_entry": "repeat_entries",
    "remove_volume": "remove_volumes",
    "corrupt": "corruptions",
}
OTHERS: Final = {"flap": "flap_every_ms", "lose": "lose_to", "grow": "grow"}


def _times(rng: SimRandom) -> dict[str, Any]:
    """Leases, clocks, links and disks, short and long."""
    lease_ms = (200, 300, 400)[rng.below(3)]  # longer than two beacons, or reads wait for ever
    return {
        "lease_ms": lease_ms,
        "grace_ms": lease_ms * 5 // 4,
        "clock_ppm": (0, 20_000, 45_000)[rng.below(3)],
        "delay_us": (50, 150, 2000)[rng.below(3)],
        "tail_us": (100, 2000, 100_000)[rng.below(3)],
        "journal_us": (20, 60, 2000)[rng.below(3)],
        "sync_us": (100, 300, 10_000)[rng.below(3)],
        "fetch_tail_us": (100, 2000, 20_000)[rng.below(3)],
    }


def _load(rng: SimRandom) -> dict[str, Any]:
    """Hosts and volumes."""
    return {
        "hosts": 1 + rng.below(5),
        "volumes": 1 + rng.below(2),
        "regions": 1 + rng.below(4),
        "writes_per_s": (5, 60, 200)[rng.below(3)],
        "zero_weight": (0, 10)[rng.below(2)],
        "trim_weight": (0, 10)[rng.below(2)],
        "fua_percent": (0, 5, 50)[rng.below(3)],
        "durability_synced": rng.below(4) == 0,
    }


def _limits(rng: SimRandom) -> dict[str, Any]:
    """Small enough to be reached."""
    return {
        "joins_max": (1, 4)[rng.below(2)],
        "snapshot_entries": (4, 32, 512)[rng.below(3)],
    }


def _nodes(rng: SimRandom) -> int:
    return (3, 3, 4, 5, 8)[rng.below(5)]


def default(seed: int) -> SeedOptions:
    """Kills and pauses, one at a time."""
    rng = SeedStreams(seed).stream("profile")
    return SeedOptions(nodes=_nodes(rng), seconds=4, hosts=3, fault_every_ms=700)


def swarm(seed: int, **fixed: Any) -> SeedOptions:
    """Every option drawn: features on and off, times short and long."""
    rng = SeedStreams(seed).stream("swarm")
    drawn = SeedOptions(
        nodes=_nodes(rng),
        seconds=4,
        **_load(rng),
        **_times(rng),
        **_limits(rng),
        crashes=rng.below(4) > 0,
        pauses=rng.below(4) > 0,
        cuts=rng.below(4) > 0,
        partitions=rng.below(3) == 0,
        power_cut=rng.below(3) == 0,
        slow=rng.below(4) == 0,
        clogs=rng.below(4) == 0,
        delays=rng.below(4) == 0,
        drifts=rng.below(3) == 0,
        wall_jumps=rng.below(4) == 0,
        slow_disks=rng.below(4) == 0,
        hang_disks=rng.below(6) == 0,
        sync_failures=rng.below(4) == 0,
        repeat_entries=rng.below(6) == 0,
        remove_volumes=rng.below(4) == 0,
        replaces=rng.below(5) == 0,
        flap_every_ms=(0, 30, 500)[rng.below(3)],
        lose_to=3 if rng.below(5) == 0 else 0,
        grow=rng.below(3) == 0,
        fault_every_ms=(200, 700, 1500)[rng.below(3)],
        pause_ms=(300, 1500, 4000)[rng.below(3)],
        down_ms=(50, 500, 4000)[rng.below(3)],
        cut_ms=(300, 1500, 5000)[rng.below(3)],
        corruptions=rng.below(4) == 0,
    )
    return replace(drawn, **fixed)


def reconfiguration(seed: int) -> SeedOptions:
    """Epochs move all the time: short outages, flapping links, blank nodes, small limits."""
    rng = SeedStreams(seed).stream("profile")
    return SeedOptions(
        nodes=_nodes(rng), seconds=5, **_load(rng), **_times(rng), **_limits(rng),
        crashes=3, pauses=1, cuts=3, partitions=1, replaces=1, repeat_entries=1, remove_volumes=1,
        sync_failures=1, grow=rng.below(2) == 0, rough=True, down_max=1 + rng.below(2),
        flap_every_ms=(10, 60, 300)[rng.below(3)], fault_every_ms=(80, 250)[rng.below(2)],
        pause_ms=800, down_ms=(30, 150, 600)[rng.below(3)], cut_ms=(200, 1200)[rng.below(2)],
        cut_crash_percent=60, power_cut=1, power_crash_percent=60,
    )  # fmt: skip


def slow(seed: int) -> SeedOptions:
    """Everything near the lease: long pauses, tails, delays, slow processors and disks, drift."""
    rng = SeedStreams(seed).stream("profile")
    times = _times(rng) | {
        "tail_us": (50_000, 300_000)[rng.below(2)], "clock_ppm": 45_000,
        "fetch_tail_us": (20_000, 600_000)[rng.below(2)],
    }  # fmt: skip
    return SeedOptions(
        nodes=_nodes(rng), seconds=5, **(_load(rng) | {"read_weight": 70}), **times,
        crashes=rng.below(2), pauses=3, cuts=1, slow=2, delays=2, drifts=2, slow_disks=2, clogs=2,
        hang_disks=1, wall_jumps=1, fault_every_ms=400, pause_ms=(600, 3000)[rng.below(2)],
        down_ms=(500, 3000)[rng.below(2)], rough=rng.below(2) == 0, down_max=1 + rng.below(2),
    )  # fmt: skip


def power(seed: int) -> SeedOptions:
    """Machines lose power, one or all; syncs fail; hosts flush much."""
    rng = SeedStreams(seed).stream("profile")
    load = _load(rng) | {"zero_weight": 0, "trim_weight": 0}  # `scenario.losses` says why
    return SeedOptions(
        nodes=_nodes(rng), seconds=5, **load, **_times(rng), **_limits(rng),
        crashes=1, pauses=0, power_cut=3, power_cut_all=rng.below(3), sync_failures=1,
        flush_weight=(2, 15)[rng.below(2)], fault_every_ms=(300, 900)[rng.below(2)],
        down_ms=(50, 500, 2000)[rng.below(3)], rough=rng.below(2) == 0, down_max=1 + rng.below(2),
        power_crash_percent=40,
    )  # fmt: skip


def rough(seed: int) -> SeedOptions:
    """Outside of what keeps a cluster available: several at once, majorities, any moment."""
    rng = SeedStreams(seed).stream("profile")
    return SeedOptions(
        nodes=_nodes(rng), seconds=5, **_load(rng), **_times(rng), **_limits(rng),
        crashes=2, pauses=2, cuts=2, partitions=2, kill_many=2, clogs=1, rough=True,
        down_max=2 + rng.below(3), fault_every_ms=(100, 400)[rng.below(2)],
        pause_ms=(300, 2000)[rng.below(2)], down_ms=(100, 1500)[rng.below(2)],
        cut_ms=(300, 2500)[rng.below(2)], power_cut=2, power_crash_percent=60,
    )  # fmt: skip


def snapshots(seed: int) -> SeedOptions:
    """Points in time of several volumes, while many hosts share little space and nodes are lost."""
    drawn = (swarm, rough, reconfiguration)[seed % 3](seed)
    rng = SeedStreams(seed).stream("snapshots of a profile")
    return replace(
        drawn,
        snapshot_every_ms=(40, 150, 600)[rng.below(3)],
        judge_views=True,
        hosts=3 + rng.below(3),
        volumes=1 + rng.below(3),
        writes_per_s=(200, 600)[rng.below(2)],
        tail_us=(2000, 20_000, 100_000)[rng.below(3)],
    )


LEVEL1: Final[dict[str, Callable[[int], SeedOptions]]] = {
    "default": default,
    "swarm": swarm,
    "reconfiguration": reconfiguration,
    "slow": slow,
    "power": power,
    "rough": rough,
    "snapshots": snapshots,
}


def with_options(options: Any, given: tuple[tuple[str, int | bool], ...]) -> Any:
    """Options with some of them replaced. InvalidRequest names what there is not."""
    names = {field.name: field.type for field in fields(options)}
    changed: dict[str, Any] = {}
    for name, value in given:
        if name not in names:
            raise InvalidRequest(f"there is no option {name}: {nearest(name, names)}")
        if type(value) not in (int, bool) or not 0 <= value <= 100_000_000:
            raise InvalidRequest(f"option {name} is a number from 0 up, not {value!r}")
        changed[name] = bool(value) if names[name] == "bool" else int(value)
    return replace(options, **changed)
