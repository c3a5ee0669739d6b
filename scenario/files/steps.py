"""plan: the steps of a timeline: every fault and every operation, with what it takes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    WithJsonSchema,
    model_validator,
)

from scenario.files import targets, triggers
from scenario.files.amounts import Permille, SignedTime, Time, written
from scenario.files.targets import CAGES, DISKS, LOOPS, NODES, SLEDS, Target

REPEAT_MAX: Final = 1000
STRICT: Final = ConfigDict(
    frozen=True, extra="forbid", strict=True, validate_default=True, validate_by_name=False
)


def _text(*examples: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": list(examples), **more})


def _means(kind: str) -> BeforeValidator:
    def parsed(value: object) -> Target:
        found = value if isinstance(value, Target) else targets.parse(value)
        if found.means != kind:
            raise ValueError(f"{found.text!r} means {found.means}, and {kind} are wanted")
        return found

    return BeforeValidator(parsed)


_Target = InstanceOf[Target]
NodeTarget = Annotated[_Target, _means(NODES), _text("owner of vol0 region 3", "a random node")]
DiskTarget = Annotated[_Target, _means(DISKS), _text("disk 2 of n3", "half of the disks of cage 0")]
SledTarget = Annotated[_Target, _means(SLEDS), _text("sled 0 of cage 1 of n3")]
CageTarget = Annotated[_Target, _means(CAGES), _text("cage 1 of n3")]
LoopTarget = Annotated[_Target, _means(LOOPS), _text("loop A of n3", "both loops of the leader")]
After = Annotated[
    InstanceOf[triggers.Event],
    BeforeValidator(triggers.event),
    _text("first healed", *triggers.CLUSTER_EVENTS),
]
When = Annotated[
    InstanceOf[triggers.Condition],
    BeforeValidator(triggers.condition),
    _text(*triggers.CONDITIONS, "not redundant"),
]


class Step(BaseModel):
    """When something happens. One of `at`, `after` and `when`, or `every` alone."""

    model_config = STRICT
    fault: ClassVar[bool] = True  # else an operation: done once, nothing to heal
    standing: ClassVar[bool] = True  # has `for`, and heals
    do: str
    name: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$|^$",
        description="For `after: NAME healed` and for the report.",
    )
    at: Time | None = Field(default=None, description="Since the hosts began.")
    after: After | None = Field(default=None, description="An event of a step or of the cluster.")
    nth: int = Field(default=1, ge=1, le=1000, description="Of `after`: which of these events.")
    when: When | None = Field(default=None, description="Once this is so; looked at all the time.")
    wait: Time = Field(default=written("0s"), description="Of `after` and `when`: so much later.")
    every: Time | None = Field(default=None, description="Again and again, so far apart.")
    repeat: int | None = Field(
        default=None, ge=1, le=REPEAT_MAX, description="Of `every`: how often; else to the end."
    )

    @model_validator(mode="after")
    def _one_trigger(self) -> Step:
        given = [name for name in ("at", "after", "when") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other")
        if not given and self.every is None:
            raise ValueError("it can never run: say at, after, when or every")
        if self.every == 0:
            raise ValueError("every 0s would never let time pass")
        if self.repeat is not None and self.every is None:
            raise ValueError("repeat needs every, for how far apart")
        if self.wait and "after" not in given and "when" not in given:
            raise ValueError("wait belongs to after or when; at says the time itself")
        if self.nth > 1 and "after" not in given:
            raise ValueError("nth belongs to after")
        return self

    @property
    def for_ms(self) -> int:
        """How long it stands; 0 for what does not."""
        return int(getattr(self, "for_", 0))

    def target_fields(self) -> dict[str, tuple[Target, ...]]:
        """By the name that the file uses, the targets of the step."""
        found: dict[str, tuple[Target, ...]] = {}
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Target):
                found[info.alias or name] = (value,)
            elif isinstance(value, tuple) and value and isinstance(value[0], Target):
                found[info.alias or name] = value
        return found


_For = Annotated[
    Time, Field(alias="for", ge=1, description="Time to live: after that it heals by itself.")
]
_Factor = Annotated[int, Field(ge=2, le=1000, description="How many times as long everything is.")]
_Keep = Annotated[
    Literal["torn", "lost"], Field(description="Of unsynced writes: some sectors, or nothing.")
]


class Kill(Step):
    """SIGKILL to processes; they are started again after `for`."""

    do: Literal["kill"]
    target: NodeTarget
    for_: _For


class PowerCut(Step):
    """Machines lose power: what was not synced is lost or torn. `every node`: all at once."""

    do: Literal["power_cut"]
    target: NodeTarget
    for_: _For
    keep: _Keep = "torn"


class Stop(Step):
    """An orderly stop, as by SIGTERM, of one node; it is started again `for` later."""

    do: Literal["stop"]
    target: NodeTarget
    for_: _For


class Pause(Step):
    """SIGSTOP, and SIGCONT after `for`: the clocks go on meanwhile."""

    do: Literal["pause"]
    target: NodeTarget
    for_: _For


class BrokerKill(Step):
    """SIGKILL to the broker of the management plane, which comes back after `for`."""

    do: Literal["broker_kill"]
    for_: _For


class Slow(Step):
    """A processor that gets one part in `factor` of its time."""

    do: Literal["slow"]
    target: NodeTarget
    for_: _For
    factor: _Factor = 20


class Cut(Step):
    """Links from `source` to `to` are cut, as a black hole or with a reset that both hear."""

    do: Literal["cut"]
    source: Annotated[NodeTarget, Field(alias="from")]
    to: NodeTarget = Field(default=written("the rest"), description="Whom it cannot reach.")
    direction: Literal["both", "out", "in"] = Field(
        default="both", description="out: nothing goes from `from` to `to`, answers still come."
    )
    behaviour: Literal["blackhole", "reset"] = "blackhole"
    for_: _For


class Partition(Step):
    """Only nodes of one group hear each other. A node may be in several groups: a bridge."""

    do: Literal["partition"]
    groups: Annotated[tuple[NodeTarget, ...], Field(strict=False, min_length=2, max_length=8)]
    behaviour: Literal["blackhole", "reset"] = "blackhole"
    for_: _For


class Flap(Step):
    """Links break and are made anew at once; what was on its way is lost."""

    standing: ClassVar[bool] = False
    do: Literal["flap"]
    source: Annotated[NodeTarget, Field(alias="from")]
    to: NodeTarget = Field(default=written("the rest"), description="The other ends.")


class Clog(Step):
    """Links of the nodes hold everything back, then let go in order."""

    do: Literal["clog"]
    target: NodeTarget
    one_by_one: bool = Field(default=False, description="Within the first half of the time.")
    for_: _For


class Delay(Step):
    """Every message of the nodes is that much later."""

    do: Literal["delay"]
    target: NodeTarget
    by: Annotated[Time, Field(ge=1, le=10_000)]
    for_: _For


class Garble(Step):
    """Frames of the nodes are lost, doubled, late or damaged; the link notices and breaks."""

    do: Literal["loss", "duplicate", "reorder", "corrupt"]
    target: NodeTarget
    chance: Annotated[Permille, Field(ge=1)]
    for_: _For


class SlowDisk(Step):
    """All devices of the nodes, journals too, take so many times as long."""

    do: Literal["slow_disk"]
    target: NodeTarget
    for_: _For
    factor: _Factor = 50


class DiskDead(Step):
    """Disks answer nothing but errors until they are put back."""

    do: Literal["disk_dead"]
    target: DiskTarget
    for_: _For


class DiskError(Step):
    """Reads, writes or both of disks end in an error."""

    do: Literal["disk_error"]
    target: DiskTarget
    what: Literal["reads", "writes", "all"] = "all"
    for_: _For


class Fill(Step):
    """Disks take no new pages: full."""

    do: Literal["fill"]
    target: DiskTarget
    for_: _For


class SyncFailure(Step):
    """The next sync of the nodes' journal fails: they must stop and recover."""

    do: Literal["sync_failure"]
    target: NodeTarget
    for_: _For


class Rot(Step):
    """Bits turn, or sectors become unreadable, on what disks hold. The damage stands for `for`, and
    then until a scrub has mended it."""

    do: Literal["rot", "latent_error"]
    target: DiskTarget
    places: int = Field(default=1, ge=1, le=100, description="On each disk.")
    for_: _For


class Lie(Step):
    """The next write is lost or lands elsewhere, or the next read is stale. Mended as rot is."""

    do: Literal["lost_write", "misdirected_write", "stale_read"]
    target: DiskTarget
    for_: _For


class LoopCut(Step):
    """Fibre Channel loops are cut; with both gone, no disk of the node can be reached."""

    do: Literal["loop_cut"]
    target: LoopTarget
    for_: _For


class SledPull(Step):
    """All disks of sleds are gone until they are put back."""

    do: Literal["sled_pull"]
    target: SledTarget
    for_: _For


class CagePull(Step):
    """All disks of cages are gone until they are back."""

    do: Literal["cage_pull"]
    target: CageTarget
    for_: _For


class ClockDrift(Step):
    """Clocks change their rate, within the contract of five percent."""

    do: Literal["clock_drift"]
    target: NodeTarget
    ppm: Annotated[int, Field(ge=-50_000, le=50_000)]
    for_: _For


class ClockJump(Step):
    """Wall clocks jump. Nothing may depend on them."""

    standing: ClassVar[bool] = False
    do: Literal["clock_jump"]
    target: NodeTarget
    by: SignedTime


class Grow(Step):
    """A volume gets more regions while hosts use it."""

    fault: ClassVar[bool] = False
    standing: ClassVar[bool] = False
    do: Literal["grow"]
    volume: str
    regions: Annotated[int, Field(ge=1, le=1024, description="More than it has.")]


class Rebalance(Step):
    """Copies and owners go home to where they belong: regions move under load."""

    fault: ClassVar[bool] = False
    standing: ClassVar[bool] = False
    do: Literal["rebalance"]


AnyStep = Annotated[
    Kill | PowerCut | Stop | Pause | BrokerKill | Slow | Cut | Partition | Flap | Clog | Delay
    | Garble | SlowDisk | DiskDead | DiskError | Fill | SyncFailure | Rot | Lie | LoopCut | SledPull
    | CagePull | ClockDrift | ClockJump | Grow | Rebalance,
    Field(discriminator="do"),
]  # fmt: skip


def _verbs() -> dict[str, type[Step]]:
    models = get_args(get_args(AnyStep)[0])
    return {
        verb: model for model in models for verb in get_args(model.model_fields["do"].annotation)
    }


VERBS: Final[dict[str, type[Step]]] = _verbs()
