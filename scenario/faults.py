"""plan: the faults that can be caused on purpose: their names, parameters and bounds.

A fault is a `FaultEvent`; this says which there are, at which levels of the simulator, and refuses
events that no run could perform. What the cluster promises to survive, the *fault budget*, is here
as well: a fault with `needs_redundancy` destroys what only one node holds, so it may strike only
while every region has its copies in sync elsewhere. Everything else may strike at any time: the
cluster may then be unavailable until it is over, and never wrong.

The table of docs/internals/simulation.md says which number of the fault model each kind is of.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from base.errors import InvalidRequest
from scenario.runs import FaultEvent

AT_MS_MAX: Final = 3_600_000
EVENTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Parameter:
    """A detail of a fault: whole numbers within bounds, or one of some words."""

    name: str
    least: int = 0
    most: int = 0
    words: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault. levels: of the simulator that have it. nodes: how few and how many it
    takes. standing: it lasts for `for_ms` and heals by itself. needs_redundancy: see the module.
    out_of_contract: only with `allow_loss`."""

    name: str
    numbers: tuple[str, ...]
    text: str
    levels: tuple[int, ...] = (1, 2)
    nodes: tuple[int, int] = (1, 1)
    standing: bool = True
    needs_redundancy: bool = False
    out_of_contract: bool = False
    parameters: tuple[Parameter, ...] = ()


_HEARD = Parameter("heard", 0, 1)
_FACTOR = Parameter("factor", 2, 100_000)
_EVENTS = Parameter("events", 0, 1_000_000)  # level 2: it strikes so many events later
_KEEP = Parameter("keep", words=("torn", "lost"))  # some sectors of what was not synced, or none
_PERMILLE = Parameter("permille", 1, 1000, required=True)
_BYTES_MAX = 1 << 40
# Of level 2. Disks by number; the others have a device each.
DEVICES: Final = ("journal", "checkpoint", "consensus", *(f"disk{disk}" for disk in range(16)))
_DEVICE = Parameter("device", words=DEVICES, required=True)
_DISK = Parameter("device", words=DEVICES[3:], required=True)
_OFFSET = Parameter("offset", 0, _BYTES_MAX)
_PAIR = Parameter("pair", 0, 1)
_CAGE = Parameter("cage", 0, 15)
_LENGTH = Parameter("length", 0, _BYTES_MAX)


def _disk_faults() -> tuple[FaultKind, ...]:
    """Of devices. Those that change what a disk of data holds need another copy of it; they stand
    for `for_ms`, and then until a scrub has mended what they did."""
    return (
        FaultKind(
            "disk_error", ("F15",), "reads, writes or both of a device fail in a range",
            levels=(2,), needs_redundancy=True,
            parameters=(
                _DEVICE, Parameter("what", words=("reads", "writes", "all")), _OFFSET, _LENGTH,
            ),
        ),
        FaultKind(
            "disk_latent", ("F16",), "reads of a range fail until it is written", levels=(2,),
            needs_redundancy=True, parameters=(_DISK, _OFFSET, _LENGTH),
        ),
        FaultKind(
            "disk_dead", ("F15",), "a disk answers nothing but errors", levels=(2,),
            parameters=(_DISK,),
        ),
        FaultKind(
            "disk_full", ("F22",), "a device takes no new pages", levels=(2,),
            parameters=(_DEVICE,),
        ),
        FaultKind(
            "disk_rot", ("F17",), "bits of one byte turn", levels=(2,),
            needs_redundancy=True, parameters=(_DISK, _OFFSET, Parameter("flip", 1, 255)),
        ),
        FaultKind(
            "disk_lost_write", ("F20",), "the next write is acknowledged and not stored",
            levels=(2,), needs_redundancy=True, parameters=(_DISK,),
        ),
        FaultKind(
            "disk_misdirect", ("F19",), "the next write lands elsewhere", levels=(2,),
            needs_redundancy=True,
            parameters=(_DISK, Parameter("shift", 1, _BYTES_MAX)),
        ),
        FaultKind(
            "disk_stale_read", ("F20",), "the next reads return what there is now", levels=(2,),
            needs_redundancy=True,
            parameters=(_DISK, Parameter("count", 1, 1000)),
        ),
        FaultKind(
            "loop_cut", (), "a Fibre Channel loop of the node is cut, and the node is told",
            levels=(2,), parameters=(_PAIR, Parameter("side", words=("A", "B"))),
        ),
        FaultKind(
            "loop_down", ("F15",), "one or both loops of a pair carry no I/O; nobody is told",
            levels=(2,), needs_redundancy=True,
            parameters=(_PAIR, Parameter("side", words=("A", "B", "both"))),
        ),
        FaultKind(
            "sled_pull", ("F15",), "all disks of a sled are gone until it is put back",
            levels=(2,), needs_redundancy=True, parameters=(_CAGE, Parameter("sled", 0, 9)),
        ),
        FaultKind(
            "cage_down", ("F15",), "all disks of a cage are gone until it is back", levels=(2,),
            needs_redundancy=True, parameters=(_CAGE,),
        ),
    )  # fmt: skip


FAULTS: Final[dict[str, FaultKind]] = {
    kind.name: kind
    for kind in (
        FaultKind(
            "kill", ("F1", "F18"), "SIGKILL; it comes back after for_ms with all that it wrote",
            parameters=(_EVENTS, Parameter("sent", 0, 1)),
        ),
        FaultKind(
            "kill_many", ("F1", "F32"), "SIGKILL to several at once; they return one by one",
            nodes=(2, 8),
        ),
        FaultKind(
            "power_cut", ("F2", "F18"),
            "a machine loses power: what was not synced is lost or torn",
            needs_redundancy=True, parameters=(_EVENTS, _KEEP),
        ),
        FaultKind(
            "power_cut_all", ("F3", "F18"), "all machines lose power at once", nodes=(0, 0),
            parameters=(_KEEP,),
        ),
        FaultKind("pause", ("F4",), "SIGSTOP, then SIGCONT after for_ms; clocks go on"),
        FaultKind(
            "slow", ("F5",), "every step of the node takes longer", parameters=(_FACTOR,),
        ),
        FaultKind(
            "cut", ("F6", "F7", "F9"), "links from the first node to the others are cut",
            nodes=(2, 8),
            parameters=(Parameter("direction", words=("both", "out", "in")), _HEARD),
        ),
        FaultKind(
            "partition", ("F6", "F8", "F9"),
            "only nodes of one group hear each other; groups may share nodes: `0123|34567`",
            nodes=(0, 0), parameters=(Parameter("groups", required=True), _HEARD),
        ),
        FaultKind(
            "flap", ("F11", "F13"), "a link breaks and is made anew; what was on its way is lost",
            nodes=(2, 2), standing=False,
        ),
        FaultKind(
            "clog", ("F13", "F14"), "links of the node hold everything back, then let go in order",
        ),
        FaultKind(
            "delay", ("F10", "F14"), "all links of the node take that much longer",
            parameters=(Parameter("us", 1, 10_000_000, required=True),),
        ),
        FaultKind(
            "drift", ("F25",), "the clock of the node changes its rate, within the contract",
            parameters=(Parameter("ppm", -50_000, 50_000, required=True),),
        ),
        FaultKind(
            "drift_far", ("F25",), "the clock of the node drifts beyond the contract",
            out_of_contract=True,
            parameters=(Parameter("ppm", -500_000, 2_000_000, required=True),),
        ),
        FaultKind(
            "wall_jump", ("F24",), "the wall clock of the node jumps", standing=False,
            parameters=(Parameter("ms", -86_400_000, 86_400_000, required=True),),
        ),
        FaultKind(
            "slow_disk", ("F23",), "journal and disks of the node take longer",
            parameters=(_FACTOR,),
        ),
        FaultKind(
            "hang_disk", ("F22", "F23"), "nothing is written any more; beacons go on", levels=(1,),
        ),
        FaultKind(
            "sync_failure", ("F21",), "the next sync of the node fails: it must stop and recover",
            needs_redundancy=True, parameters=(Parameter("device", words=DEVICES),),
        ),
        FaultKind(
            "lose", ("F29",), "the node is gone for good", standing=False, levels=(1,),
            needs_redundancy=True,
        ),
        FaultKind(
            "replace", ("F29",), "the node is gone; after for_ms a blank one takes its place",
            levels=(1,), needs_redundancy=True,
        ),
        FaultKind(
            "grow", (), "every volume gets as many regions again", nodes=(0, 0), standing=False,
            levels=(1,),
        ),
        FaultKind(
            "remove_volume", ("F30", "F31"),
            "a volume that no host uses is removed; nothing of it may come back with a node that"
            " was away", nodes=(0, 0), standing=False, levels=(1,),
        ),
        FaultKind(
            "repeat_entry", ("F31",), "an entry that was applied is proposed once more",
            nodes=(0, 0), standing=False, levels=(1,),
        ),
        FaultKind("stop", ("F31",), "the node is stopped in order; it comes back", levels=(2,)),
        FaultKind(
            "swizzle", ("F13",), "nodes are clogged one by one and let go in another order",
            levels=(2,), nodes=(2, 8),
        ),
        FaultKind(
            "loss", ("F11",), "frames of all links of the node are lost: the session breaks",
            levels=(2,), parameters=(_PERMILLE,),
        ),
        FaultKind(
            "duplicate", ("F11",), "frames of all links of the node come twice", levels=(2,),
            parameters=(_PERMILLE,),
        ),
        FaultKind(
            "reorder", ("F11",), "frames of all links of the node are late", levels=(2,),
            parameters=(_PERMILLE,),
        ),
        FaultKind(
            "corrupt", ("F12",), "frames of the links of the node have a bit turned",
            parameters=(_PERMILLE,),
        ),
        FaultKind(
            "cap", ("F14",), "all links of the node pass only so many KiB a second", levels=(2,),
            parameters=(Parameter("kib_per_s", 1, 1_000_000, required=True),),
        ),
        FaultKind(
            "old_image", ("F30",), "the node dies, and begins again with its disks as they were"
            " age_ms before, once the cluster has given it up", levels=(2,), needs_redundancy=True,
            parameters=(Parameter("age_ms", 1, 1_000_000), Parameter("rebooted", 0, 1)),
        ),
        FaultKind(
            "no_links", ("F28",), "the node takes no new links; its link to each other node that is"
            " named breaks", levels=(2,), nodes=(1, 8),
        ),
        FaultKind(
            "memory", ("F27",), "the cache of the node may hold only so much, so writes wait; when"
            " it is over the node is killed, as when memory is out", levels=(2,),
            parameters=(Parameter("kib", 4, 1_000_000, required=True),),
        ),
        *_disk_faults(),
    )
}  # fmt: skip


def nearest(name: str, names: Iterable[str]) -> str:
    """For an error text: what was meant, probably, and else what there is."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def kind_of(name: str) -> FaultKind:
    """InvalidRequest names the nearest kind that there is."""
    kind = FAULTS.get(name)
    if kind is None:
        raise InvalidRequest(f"there is no fault {name}: {nearest(name, FAULTS)}")
    return kind


def check_faults(
    faults: Sequence[FaultEvent], *, level: int, nodes: int, allow_loss: bool = False
) -> None:
    """InvalidRequest for the first event that could not be performed; it says which and why."""
    if len(faults) > EVENTS_MAX:
        raise InvalidRequest(f"{len(faults)} faults are more than {EVENTS_MAX}")
    last_ms = 0
    for number, fault in enumerate(faults):
        why = _wrong_with(fault, level, nodes, allow_loss)
        if not why and fault.at_ms < last_ms:
            why = f"{fault.at_ms} ms is before the fault ahead of it, at {last_ms} ms"
        if why:
            raise InvalidRequest(f"fault {number} ({fault.kind}): {why}")
        last_ms = fault.at_ms


def _wrong_with(fault: FaultEvent, level: int, nodes: int, allow_loss: bool) -> str:
    kind = FAULTS.get(fault.kind)
    if kind is None:
        return f"there is no such fault: {nearest(fault.kind, FAULTS)}"
    if level not in kind.levels:
        return f"level {level} cannot do it, level {kind.levels[0]} can"
    if kind.out_of_contract and not allow_loss:
        return "it is outside of what the cluster promises to survive; say --allow-loss"
    if not 0 <= fault.at_ms <= AT_MS_MAX or not 0 <= fault.for_ms <= AT_MS_MAX:
        return f"its times are not between 0 and {AT_MS_MAX} ms"
    if fault.for_ms and not kind.standing:
        return "it does not last, so it has no for_ms"
    least, most = kind.nodes
    if not least <= len(fault.nodes) <= most:
        return f"it takes {least} to {most} nodes, not {len(fault.nodes)}"
    if len(set(fault.nodes)) != len(fault.nodes):
        return "it names a node twice"
    for node in fault.nodes:
        if not 0 <= node < nodes:
            return f"there is no node {node} among {nodes}"
    return _wrong_details(fault, kind, nodes)


def _wrong_details(fault: FaultEvent, kind: FaultKind, nodes: int) -> str:
    known = {parameter.name: parameter for parameter in kind.parameters}
    for name, value in fault.details:
        parameter = known.get(name)
        if parameter is None:
            return f"it has no {name}: {nearest(name, known) if known else 'it takes no details'}"
        if parameter.words:
            if value not in parameter.words:
                return f"{name} is one of {', '.join(parameter.words)}, not {value}"
        elif parameter.name != "groups" and (
            type(value) is not int or not parameter.least <= value <= parameter.most
        ):
            return f"{name} is a number from {parameter.least} to {parameter.most}, not {value}"
    for parameter in kind.parameters:
        if parameter.required and parameter.name not in dict(fault.details):
            return f"{parameter.name} is missing"
    if fault.kind == "partition":
        return _wrong_groups(str(fault.detail("groups")), nodes)
    return ""


def _wrong_groups(text: str, nodes: int) -> str:
    members = "".join(text.split("|"))
    if not members.isdigit() or "" in text.split("|"):
        return f"groups are digits of nodes with | between, not {text}"
    for digit in members:
        if int(digit) >= nodes:
            return f"there is no node {digit} among {nodes}"
    return ""


def severed(groups: str, nodes: int) -> list[tuple[int, int]]:
    """The pairs (lower, higher) that no group has both of. A node in no group hears nobody."""
    sets = [{int(digit) for digit in group} for group in groups.split("|")]
    return [
        (one, other)
        for one in range(nodes)
        for other in range(one + 1, nodes)
        if not any(one in group and other in group for group in sets)
    ]
