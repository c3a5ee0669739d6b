"""plan: what one seed of level 2 runs, and the profiles that draw it from the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from base.units import NS_PER_US, KiB
from sim.cluster import SimClusterConfig
from sim.device import DiskTiming
from sim.random import SeedStreams, SimRandom
from transport.sim import LinkConditions


@dataclass(slots=True)
class Level2Options:
    """What one seed runs. Times in virtual seconds, or as the names say. Those that stand in
    `WEIGHTS` say how often a kind of fault is drawn; 0: never."""

    nodes: int = 8
    seconds: int = 5
    heal_s: int = 30
    hosts: int = 2
    volumes: int = 1
    regions: int = 6
    writes_per_s: int = 60
    mirrored_disks: bool = False  # RAID 1 under the copies: one disk of each node may fail
    crashes: int = 2
    pauses: int = 1
    slow: int = 1
    stops: int = 1
    power: int = 0
    power_all: int = 0
    cuts: int = 0
    partitions: int = 0
    flaps: int = 0
    clogs: int = 0
    swizzles: int = 0
    delays: int = 0
    losses: int = 0
    duplicates: int = 0
    reorders: int = 0
    corruptions: int = 0
    caps: int = 0
    no_links: int = 0
    memory: int = 0
    old_images: int = 0
    drifts: int = 0
    wall_jumps: int = 0
    slow_disks: int = 0
    full_disks: int = 0
    sync_failures: int = 0
    disk_errors: int = 0
    latent_errors: int = 0
    dead_disks: int = 0
    rot: int = 0
    lost_writes: int = 0
    misdirected: int = 0
    stale_reads: int = 0
    loop_cuts: int = 0
    loop_downs: int = 0
    sled_pulls: int = 0
    cage_downs: int = 0
    cages: int = 1
    sleds: int = 1  # of each cage
    split_loops: bool = False  # every other sled on a second pair of loops
    down_max: int = 1  # faults that stand at the same time
    fault_every_ms: int = 500
    pause_ms: int = 1500
    down_ms: int = 2500
    slow_ms: int = 1000
    cut_ms: int = 2000
    read_weight: int = 40
    zero_weight: int = 4
    trim_weight: int = 4
    flush_weight: int = 2
    fua_percent: int = 5
    lease_ms: int = 400
    grace_ms: int = 500
    clock_ppm: int = 20_000
    delay_us: int = 150
    tail_us: int = 5_000
    sync_us: int = 1_000
    read_us: int = 80
    now_percent: int = 50
    journal_kib: int = 256
    destage_after_ms: int = 300
    snapshot_every_ms: int = 0  # one point in time of volumes, so often; 0: never
    snapshot_entries: int = 64
    durability_synced: bool = False
    codec: bool = True  # messages pass the wire format; without it a run is a sixth faster
    log: bool = False

    def cluster(self) -> SimClusterConfig:
        """Of the nodes, disks and links."""
        return SimClusterConfig(
            nodes=self.nodes,
            cages=self.cages,
            sleds_per_cage=self.sleds,
            wiring="split" if self.split_loops else "same",
            lease_ms=self.lease_ms,
            grace_ms=self.grace_ms,
            clock_ppm_max=self.clock_ppm,
            journal_bytes=self.journal_kib * KiB,
            destage_after_ms=self.destage_after_ms,
            snapshot_entries=self.snapshot_entries,
            durability="synced" if self.durability_synced else "mirrored",
            through_codec=self.codec or self.corruptions > 0,
            timing=DiskTiming(
                read_ns=self.read_us * NS_PER_US,
                sync_ns=self.sync_us * NS_PER_US,
                now_percent=self.now_percent,
            ),
            conditions=LinkConditions(
                delay_min_us=min(40, self.delay_us),
                delay_mean_us=self.delay_us,
                tail_chance=0.02,
                tail_us=self.tail_us,
            ),
        )


# By kind of fault the option that says how often it is drawn.
WEIGHTS: Final = {
    "kill": "crashes",
    "pause": "pauses",
    "slow": "slow",
    "stop": "stops",
    "power_cut": "power",
    "power_cut_all": "power_all",
    "cut": "cuts",
    "partition": "partitions",
    "flap": "flaps",
    "clog": "clogs",
    "swizzle": "swizzles",
    "delay": "delays",
    "loss": "losses",
    "duplicate": "duplicates",
    "reorder": "reorders",
    "corrupt": "corruptions",
    "cap": "caps",
    "no_links": "no_links",
    "memory": "memory",
    "old_image": "old_images",
    "drift": "drifts",
    "wall_jump": "wall_jumps",
    "slow_disk": "slow_disks",
    "disk_full": "full_disks",
    "sync_failure": "sync_failures",
    "disk_error": "disk_errors",
    "disk_latent": "latent_errors",
    "disk_dead": "dead_disks",
    "disk_rot": "rot",
    "disk_lost_write": "lost_writes",
    "disk_misdirect": "misdirected",
    "disk_stale_read": "stale_reads",
    "loop_cut": "loop_cuts",
    "loop_down": "loop_downs",
    "sled_pull": "sled_pulls",
    "cage_down": "cage_downs",
}


def _one_in(rng: SimRandom, count: int, weight: int = 1) -> int:
    return weight if rng.below(count) == 0 else 0


def _nodes(rng: SimRandom) -> int:
    """Few: seeds are what counts, and three nodes have nearly every fault of eight."""
    return (3, 3, 3, 4, 5, 8)[rng.below(6)]


def _load(rng: SimRandom) -> dict[str, Any]:
    """Hosts and volumes."""
    return {
        "hosts": 1 + rng.below(3),
        "volumes": 1 + rng.below(2),
        "regions": 1 + rng.below(6),
        "writes_per_s": (10, 60, 150)[rng.below(3)],
        "zero_weight": (0, 10)[rng.below(2)],
        "trim_weight": (0, 10)[rng.below(2)],
        "flush_weight": (2, 15)[rng.below(2)],
        "fua_percent": (0, 5, 50)[rng.below(3)],
        "durability_synced": rng.below(4) == 0,
        "mirrored_disks": rng.below(2) == 0,
        "codec": rng.below(4) == 0,
    }


def _times(rng: SimRandom) -> dict[str, Any]:
    """Leases, clocks, links and disks, short and long."""
    lease_ms = (300, 400)[rng.below(2)]
    return {
        "lease_ms": lease_ms,
        "grace_ms": lease_ms * 5 // 4,
        "clock_ppm": (0, 20_000, 45_000)[rng.below(3)],
        "delay_us": (50, 150, 2000)[rng.below(3)],
        "tail_us": (100, 5_000, 100_000)[rng.below(3)],
        "sync_us": (100, 1_000, 10_000)[rng.below(3)],
        "read_us": (20, 80, 5_000)[rng.below(3)],
        "now_percent": (0, 50, 100)[rng.below(3)],
        "destage_after_ms": (20, 300, 2000)[rng.below(3)],
        "pause_ms": (300, 1500, 3000)[rng.below(3)],
        "down_ms": (50, 500, 3000)[rng.below(3)],
        "cut_ms": (300, 2000)[rng.below(2)],
        "fault_every_ms": (100, 500)[rng.below(2)],
    }


def _limits(rng: SimRandom) -> dict[str, Any]:
    """Small enough to be reached."""
    return {
        "journal_kib": (48, 128, 256)[rng.below(3)],
        "snapshot_entries": (16, 64)[rng.below(2)],
    }


def default(seed: int) -> Level2Options:
    """Kills, pauses, slowness and orderly stops, one at a time."""
    rng = SeedStreams(seed).stream("profile")
    return Level2Options(nodes=_nodes(rng), seconds=4, codec=rng.below(4) == 0)


def swarm(seed: int, **fixed: Any) -> Level2Options:
    """Everything drawn from the seed: features on and off, times short and long."""
    rng = SeedStreams(seed).stream("swarm")
    drawn = Level2Options(
        nodes=_nodes(rng),
        seconds=3 + rng.below(2),
        **_load(rng),
        **_times(rng),
        **_limits(rng),
        crashes=2 * (rng.below(4) > 0),
        pauses=int(rng.below(4) > 0),
        slow=_one_in(rng, 3),
        stops=int(rng.below(3) > 0),
        power=_one_in(rng, 3, 2),
        power_all=_one_in(rng, 6),
        cuts=_one_in(rng, 2),
        partitions=_one_in(rng, 3),
        flaps=_one_in(rng, 3),
        clogs=_one_in(rng, 4),
        swizzles=_one_in(rng, 6),
        delays=_one_in(rng, 4),
        losses=_one_in(rng, 5),
        duplicates=_one_in(rng, 5),
        reorders=_one_in(rng, 5),
        corruptions=_one_in(rng, 6),
        drifts=_one_in(rng, 3),
        wall_jumps=_one_in(rng, 4),
        slow_disks=_one_in(rng, 3),
        full_disks=_one_in(rng, 5),
        sync_failures=_one_in(rng, 4),
        disk_errors=_one_in(rng, 4),
        loop_cuts=_one_in(rng, 5),
        down_max=1 + _one_in(rng, 4),
        rot=_one_in(rng, 5),
        latent_errors=_one_in(rng, 5),
        lost_writes=_one_in(rng, 5),
        misdirected=_one_in(rng, 5),
        stale_reads=_one_in(rng, 5),
        caps=_one_in(rng, 4),
        no_links=_one_in(rng, 4),
        memory=_one_in(rng, 4),
        old_images=_one_in(rng, 5),
    )
    if drawn.power_all:
        drawn = replace(drawn, zero_weight=0, trim_weight=0)
    return replace(drawn, **fixed)


def disks(seed: int) -> Level2Options:
    """Disks that fail, hang, fill up and lie, under mirrors; few other faults."""
    rng = SeedStreams(seed).stream("profile")
    drawn = {**_load(rng), **_times(rng), **_limits(rng), "mirrored_disks": True}
    return Level2Options(
        nodes=_nodes(rng), seconds=4, **drawn,
        crashes=1, pauses=0, slow=0, stops=1, power=_one_in(rng, 3), slow_disks=1, full_disks=1,
        sync_failures=1, disk_errors=2, latent_errors=1, dead_disks=1, loop_cuts=1,
    )  # fmt: skip


def hardware(seed: int) -> Level2Options:
    """Loops, sleds and cages of one node at a time are out of reach; few other faults."""
    rng = SeedStreams(seed).stream("profile")
    drawn = {**_load(rng), **_times(rng), **_limits(rng)}
    drawn["destage_after_ms"] = (20, 100)[rng.below(2)]  # else nothing is read from a disk
    return Level2Options(
        nodes=(3, 3, 4, 5)[rng.below(4)], seconds=4,
        **{**drawn, "fault_every_ms": (100, 300)[rng.below(2)]},
        cages=1 + rng.below(2), sleds=2, split_loops=rng.below(2) == 0,
        crashes=1, pauses=_one_in(rng, 2), slow=0, stops=_one_in(rng, 2), power=_one_in(rng, 3),
        loop_cuts=1, loop_downs=2, sled_pulls=2, cage_downs=2, down_max=1 + rng.below(2),
        slow_ms=(200, 1500)[rng.below(2)],
    )  # fmt: skip


def media(seed: int) -> Level2Options:
    """The disks of one node at a time rot, forget, misplace and lie; few other faults."""
    rng = SeedStreams(seed).stream("profile")
    drawn = {**_load(rng), **_times(rng), **_limits(rng)}
    drawn["destage_after_ms"] = (20, 100)[rng.below(2)]  # else nothing is read from a disk
    drawn["read_weight"] = (40, 80)[rng.below(2)]
    return Level2Options(
        nodes=_nodes(rng), seconds=4, **{**drawn, "fault_every_ms": (30, 100)[rng.below(2)]},
        crashes=1, pauses=_one_in(rng, 2), slow=0, stops=_one_in(rng, 2), power=_one_in(rng, 2),
        slow_disks=_one_in(rng, 3), rot=4, latent_errors=4, lost_writes=4, misdirected=4,
        stale_reads=2, slow_ms=(100, 500)[rng.below(2)],
    )  # fmt: skip


def power(seed: int) -> Level2Options:
    """Machines lose power, one or all of them; syncs fail; hosts flush much."""
    rng = SeedStreams(seed).stream("profile")
    drawn = {**_load(rng), **_times(rng), **_limits(rng), "zero_weight": 0, "trim_weight": 0}
    return Level2Options(  # no zeros: `scenario.losses` says why
        nodes=_nodes(rng), seconds=4, **drawn,
        crashes=1, pauses=0, slow=0, stops=1, power=3, power_all=rng.below(3),
        sync_failures=_one_in(rng, 2),
    )  # fmt: skip


def reconfiguration(seed: int) -> Level2Options:
    """Epochs move all the time: short outages, several at once, links that break and clog."""
    rng = SeedStreams(seed).stream("profile")
    drawn = {
        **_load(rng), **_times(rng), **_limits(rng),
        "fault_every_ms": (60, 200)[rng.below(2)], "pause_ms": 800,
        "cut_ms": (200, 1200)[rng.below(2)], "down_ms": (30, 150, 600)[rng.below(3)],
    }  # fmt: skip
    return Level2Options(
        nodes=_nodes(rng), seconds=4, **drawn,
        crashes=3, pauses=1, slow=0, stops=1, cuts=3, partitions=1, flaps=2, clogs=1, swizzles=1,
        losses=1, down_max=1 + rng.below(2), caps=1, no_links=1, memory=1,
        old_images=1,
    )  # fmt: skip


def snapshots(seed: int) -> Level2Options:
    """Points in time of all volumes all the time, read while hosts write; a mix of faults."""
    rng = SeedStreams(seed).stream("profile")
    drawn = {**_load(rng), **_times(rng), **_limits(rng)}
    drawn |= {
        "writes_per_s": (60, 150, 300)[rng.below(3)],
        "regions": 1 + rng.below(3),
        "destage_after_ms": (20, 100, 300)[rng.below(3)],
    }
    return Level2Options(
        nodes=_nodes(rng), seconds=3, **drawn,
        snapshot_every_ms=(80, 200, 500)[rng.below(3)],
        crashes=2, pauses=_one_in(rng, 2), slow=_one_in(rng, 3), stops=1, power=_one_in(rng, 3, 2),
        cuts=_one_in(rng, 2), flaps=_one_in(rng, 3), losses=_one_in(rng, 5),
        slow_disks=_one_in(rng, 3), disk_errors=_one_in(rng, 5), sync_failures=_one_in(rng, 4),
        down_max=1 + _one_in(rng, 4),
    )  # fmt: skip


LEVEL2: Final[dict[str, Callable[[int], Level2Options]]] = {
    "default": default,
    "swarm": swarm,
    "disks": disks,
    "hardware": hardware,
    "media": media,
    "power": power,
    "reconfiguration": reconfiguration,
    "snapshots": snapshots,
}
