"""plan: what shows in the simulator that a fault is there, and that it is over.

Everything is read from where a fault has its effect: processes, wires, media, clocks. What the
injector believes is not asked, so an injector that does nothing leaves no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from base.errors import StorageError
from base.units import NS_PER_MS
from scenario.faults import severed
from scenario.level2 import Level2Run
from scenario.runs import FaultEvent
from sim.cluster import SimNode
from sim.device import SimDisk
from transport.sim_links import Direction
from volume.physical_disk import Loop

Shown = Callable[[], str]  # evidence in words; "" while there is none


@dataclass(slots=True)
class Watch:
    """Of one fault. To be made before it strikes: some evidence is a difference to before."""

    seen: Shown
    healed: Shown


def watch(run: Level2Run, event: FaultEvent) -> Watch:
    """How to see this fault."""
    return _WATCHES[event.kind](run, event)


def _nodes(run: Level2Run, event: FaultEvent) -> list[SimNode]:
    numbers = event.nodes or range(len(run.nodes))
    return [run.nodes[number] for number in numbers]


def _names(nodes: Iterable[object]) -> str:
    return " ".join(str(node) for node in nodes)


# ---------------------------------------------------------------------------------- processes


def _death(run: Level2Run, event: FaultEvent) -> Watch:
    nodes = _nodes(run, event)
    lives = {node.number: node.lives for node in nodes}
    gone: dict[int, None] = {}

    def seen() -> str:
        for node in nodes:
            if not node.alive or node.lives > lives[node.number]:
                gone[node.number] = None
        return f"process of {_names(nodes)} is gone" if len(gone) == len(nodes) else ""

    def healed() -> str:
        back = all(node.active and node.lives > lives[node.number] for node in nodes)
        return (
            f"{_names(nodes)} recovered, life {max(each.lives for each in nodes)}" if back else ""
        )

    return Watch(seen, healed)


def _pause(run: Level2Run, event: FaultEvent) -> Watch:
    (node,) = _nodes(run, event)
    return Watch(
        lambda: f"process of {node} is in state T" if node.paused else "",
        lambda: f"process of {node} runs" if node.runs else "",
    )


def _slow(run: Level2Run, event: FaultEvent) -> Watch:
    (node,) = _nodes(run, event)
    stolen = [0]

    def seen() -> str:
        stolen[0] += node.paused
        return f"the processor of {node} was taken away" if stolen[0] else ""

    def healed() -> str:
        return "" if node.paused or event in run.faults.standing else f"{node} runs all the time"

    return Watch(seen, healed)


# ---------------------------------------------------------------------------------- links


def _ways(run: Level2Run, event: FaultEvent) -> list[Direction]:
    """Every direction that the fault is about."""
    network, nodes = run.cluster.network, range(len(run.nodes))
    if event.kind == "partition":
        pairs = severed(str(event.detail("groups")), len(run.nodes))
        ways = [pair for one, other in pairs for pair in ((one, other), (other, one))]
    elif event.kind == "cut":
        subject, others = event.nodes[0], event.nodes[1:]
        direction = event.detail("direction", "both")
        ways = [(subject, other) for other in others if direction in ("both", "out")]
        ways += [(other, subject) for other in others if direction in ("both", "in")]
    else:
        ways = [
            way for node in event.nodes for other in nodes if other != node
            for way in ((node, other), (other, node))
        ]  # fmt: skip
    return [network._pair(*way).way(way[0]) for way in ways]


def _cut(run: Level2Run, event: FaultEvent) -> Watch:
    ways = _ways(run, event)
    network = run.cluster.network

    def down(way: Direction) -> bool:
        bus = network._buses.get(way.sender)
        return way.cut and bus is not None and way.receiver not in bus.sessions

    def seen() -> str:
        swallowed = {(way.sender, way.receiver): way.swallowed_bytes for way in ways if way.cut}
        most = max(swallowed, key=lambda way: swallowed[way], default=None)
        if most is not None and swallowed[most]:
            return f"{swallowed[most]} bytes from n{most[0]} to n{most[1]} were swallowed"
        lost = [way for way in ways if down(way)]
        return f"n{lost[0].sender} has no link to n{lost[0].receiver}" if lost else ""

    def healed() -> str:
        if any(way.cut for way in ways):
            return ""
        for way in ways:
            ends = [network._buses.get(way.sender), network._buses.get(way.receiver)]
            if None not in ends and ends[0] is not None and way.receiver not in ends[0].sessions:
                return ""
        return "every link that was cut carries frames again"

    return Watch(seen, healed)


def _flap(run: Level2Run, event: FaultEvent) -> Watch:
    pair = run.cluster.network._pair(event.nodes[0], event.nodes[1])
    session = pair.last_session
    return Watch(
        lambda: f"session {session} is dead" if pair.dead_through >= session > 0 else "",
        lambda: f"session {pair.last_session} began" if pair.last_session > session else "",
    )


def _clog(run: Level2Run, event: FaultEvent) -> Watch:
    ways = _ways(run, event)

    def seen() -> str:
        held = sum(len(way.held) for way in ways)
        return f"{held} frames of {_names(_nodes(run, event))} are held back" if held else ""

    return Watch(seen, lambda: "" if any(way.clogged for way in ways) else "nothing is held back")


_CHANCES: Final = {
    "loss": ("loss", "frames_lost"), "duplicate": ("duplication", "frames_repeated"),
    "corrupt": ("corruption", "frames_corrupt"), "reorder": ("reordering", ""),
}  # fmt: skip


def _shaped(run: Level2Run, event: FaultEvent) -> Watch:
    ways, network = _ways(run, event), run.cluster.network
    field, counter = _CHANCES.get(event.kind, ("delay_mean_us", ""))
    before = [getattr(way.conditions, field) for way in ways]
    counted = getattr(network, counter) if counter else 0

    def seen() -> str:
        if counter:
            found = getattr(network, counter) - counted
            return f"{found} frames: {counter.replace('_', ' ')}" if found else ""
        now = [getattr(way.conditions, field) for way in ways]
        return f"{field} of its links is {max(now)}" if now > before else ""

    def healed() -> str:
        now = [getattr(way.conditions, field) for way in ways]
        return f"{field} of its links is {max(now)} again" if now <= before else ""

    return Watch(seen, healed)


# ---------------------------------------------------------------------------------- disks


class _Errors:
    """Counts the errors that a disk answers with from now on."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.count = 0
        check = disk.check

        def counted(life: int, offset: int, length: int, *, write: bool) -> None:
            try:
                check(life, offset, length, write=write)
            except StorageError:
                self.count += life == disk.life  # else of a handle whose process is gone
                raise

        disk.check = counted  # type: ignore[method-assign]

    def text(self) -> str:
        return f"{self.count} errors on disk {self.disk.name}" if self.count else ""


def _refuses(disk: SimDisk, event: FaultEvent) -> bool:
    """Whether an operation as the fault means it would end in an error now."""
    offset, length = int(event.detail("offset")), int(event.detail("length", 512)) or 512
    for write in (False, True):
        try:
            disk.check(disk.life, offset, length, write=write)
        except StorageError:
            return True
    return False


def _errors(run: Level2Run, event: FaultEvent) -> Watch:
    disk = run.faults.disk(event.nodes[0], str(event.detail("device", "journal")))
    errors = _Errors(disk)

    def seen() -> str:
        if errors.count:
            return errors.text()
        return f"a probe of disk {disk.name} ends in an error" if _refuses(disk, event) else ""

    def healed() -> str:
        counted = errors.text() or "no error was met by the node"
        return "" if _refuses(disk, event) else f"a probe of disk {disk.name} passes; {counted}"

    return Watch(seen, healed)


def _full(run: Level2Run, event: FaultEvent) -> Watch:
    disk = run.faults.disk(event.nodes[0], str(event.detail("device")))
    return Watch(
        lambda: f"disk {disk.name} is full at {disk.pages_bytes} bytes"
        if disk.space_bytes is not None and disk.space_bytes <= disk.pages_bytes else "",
        lambda: f"disk {disk.name} has room" if disk.space_bytes is None else "",
    )  # fmt: skip


def _out_of_reach(run: Level2Run, event: FaultEvent) -> Watch:
    """Loops, sleds and cages: whether an I/O of each disk would arrive."""
    (node,) = _nodes(run, event)
    fabric, refused = node.fabric, sum(node.fabric.refused.values())

    def lost() -> list[str]:
        return [why for disk in fabric.inventory.disks if (why := fabric.why_not(disk)[1])]

    def seen() -> str:
        whys = lost()
        return f"{len(whys)} disks of {node} are out of reach: {whys[0]}" if whys else ""

    def healed() -> str:
        if lost() or not node.active:
            return ""
        count = sum(fabric.refused.values()) - refused
        return f"every disk of {node} is in reach, and it is a member; {count} I/Os met the gap"

    return Watch(seen, healed)


def _sync(run: Level2Run, event: FaultEvent) -> Watch:
    (node,) = _nodes(run, event)
    disk = run.faults.disk(node.number, str(event.detail("device", "journal")))
    end_sync, failures, lives = disk.end_sync, [0], node.lives

    def counted(covered: int) -> None:
        try:
            end_sync(covered)
        except StorageError:
            failures[0] += 1
            raise

    disk.end_sync = counted  # type: ignore[method-assign]
    return Watch(
        lambda: f"a sync of disk {disk.name} failed" if failures[0] else "",
        lambda: f"{node} recovered in life {node.lives}"
        if node.active and node.lives > lives else "",
    )  # fmt: skip


def _slow_disk(run: Level2Run, event: FaultEvent) -> Watch:
    (node,) = _nodes(run, event)
    disks = [node.disks[name] for name in node.disks.names()]

    def slowest() -> int:
        return max(disk.slow_factor for disk in disks)

    return Watch(
        lambda: f"devices of {node} take {slowest()} times as long" if slowest() > 1 else "",
        lambda: f"devices of {node} are as fast as before" if slowest() == 1 else "",
    )


def _byte(disk: SimDisk, offset: int) -> bytes:
    cell = bytearray(1)
    disk.load(offset, memoryview(cell))
    return bytes(cell)


def _media(run: Level2Run, event: FaultEvent) -> Watch:
    disk = run.faults.disk(event.nodes[0], str(event.detail("device")))
    offset = int(event.detail("offset"))
    seen: Shown
    if event.kind == "disk_rot":
        before = _byte(disk, offset)

        def seen() -> str:
            now = _byte(disk, offset)
            text = f"byte {offset} of disk {disk.name} was {before.hex()} and is {now.hex()}"
            return text if now != before else ""

    elif event.kind == "disk_latent":

        def seen() -> str:
            text = f"reads of byte {offset} of disk {disk.name} fail"
            return text if _refuses(disk, event) else ""

    else:
        name = {"disk_lost_write": "lost", "disk_misdirect": "misplaced"}.get(event.kind, "stale")
        counted = getattr(disk, name)

        def seen() -> str:
            found = getattr(disk, name) - counted
            return f"{found} operations of disk {disk.name} were {name}" if found else ""

    def healed() -> str:
        blocks = run.nodes[event.nodes[0]]
        if event in run.faults.standing or blocks.node is None:
            return ""
        counters = blocks.node.store.blocks.counters
        return (
            f"a scrub of {blocks} found nothing wrong any more; in this life"
            f" {counters.mended_blocks} blocks mended, {counters.repaired_pages} pages repaired"
        )

    return Watch(seen, healed)


def _loop(run: Level2Run, event: FaultEvent) -> Watch:
    (node,) = _nodes(run, event)
    loop = Loop(0, str(event.detail("side", "A")))
    return Watch(
        lambda: f"loop {loop.side} of {node} is down" if loop in node.loops_down else "",
        lambda: f"loop {loop.side} of {node} is up" if loop not in node.loops_down else "",
    )


# ---------------------------------------------------------------------------------- clocks


def _drift(run: Level2Run, event: FaultEvent) -> Watch:
    clock, wanted = run.nodes[event.nodes[0]].clock, int(event.detail("ppm"))
    return Watch(
        lambda: f"its clock runs at {wanted:+d} ppm" if clock.rate_ppm == wanted else "",
        lambda: f"its clock runs at {clock.rate_ppm:+d} ppm" if clock.rate_ppm != wanted else "",
    )


def _jump(run: Level2Run, event: FaultEvent) -> Watch:
    clock, wanted_ms = run.nodes[event.nodes[0]].clock, int(event.detail("ms"))
    before = clock.wall_ns() - clock.now_ns()

    def jumped() -> str:
        by_ms = (clock.wall_ns() - clock.now_ns() - before) // NS_PER_MS
        return f"its date moved by {by_ms} ms" if by_ms == wanted_ms else ""

    return Watch(jumped, jumped)


_WATCHES: Final[dict[str, Callable[[Level2Run, FaultEvent], Watch]]] = {
    **dict.fromkeys(("kill", "kill_many", "power_cut", "power_cut_all", "stop"), _death),
    "pause": _pause,
    "slow": _slow,
    "cut": _cut,
    "partition": _cut,
    "flap": _flap,
    **dict.fromkeys(("clog", "swizzle"), _clog),
    **dict.fromkeys(("delay", "loss", "duplicate", "reorder", "corrupt"), _shaped),
    "slow_disk": _slow_disk,
    **dict.fromkeys(("disk_dead", "disk_error"), _errors),
    "disk_full": _full,
    "sync_failure": _sync,
    **dict.fromkeys(
        ("disk_rot", "disk_latent", "disk_lost_write", "disk_misdirect", "disk_stale_read"),
        _media,
    ),
    "loop_cut": _loop,
    **dict.fromkeys(("loop_down", "sled_pull", "cage_down"), _out_of_reach),
    "drift": _drift,
    "wall_jump": _jump,
}


def together(watches: list[Watch], texts: Callable[[list[str]], str]) -> Watch:
    """Of a strike with several faults: shown when each is. Each is asked every time, since some
    remember what they saw."""
    seen_so_far: dict[int, str] = {}

    def all_of(each: Callable[[Watch], Any], kept: dict[int, str]) -> str:
        for place, one in enumerate(watches):
            text = each(one)
            if text:
                kept.setdefault(place, text)
        return texts(list(kept.values())) if len(kept) == len(watches) else ""

    return Watch(
        lambda: all_of(lambda one: one.seen(), seen_so_far),
        lambda: all_of(lambda one: one.healed(), {}),
    )
