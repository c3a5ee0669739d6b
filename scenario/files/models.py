"""plan: a scenario file: cluster, volumes, workloads, timeline, expectations. Strict and frozen."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from base.units import NODES_MAX, KiB, MiB
from node.options import Size
from scenario.files.amounts import BlockSizes, Permille, Rate, Time, written
from scenario.files.steps import STRICT, AnyStep
from scenario.files.view import CLUSTER_EVENTS, DiskPlace
from volume.physical_disk import DISKS_PER_SLED

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
STEPS_MAX: Final = 200

# Situations that only the nodes themselves know of; a world says which it can tell.
NODE_EVENTS: Final = {
    "block mended": "a wrong block was mended from its mirror",
    "page repaired": "a wrong page came back from the copy on another node",
    "disk left": "a node has given up a disk",
    "node stopped itself": "a node ended because of a device, as it must",
    "journal full": "writes waited for room in a journal",
    "all power lost": "every machine lost power at once",
}
EVENTS: Final = {**CLUSTER_EVENTS, **NODE_EVENTS}


class Cluster(BaseModel):
    """The nodes and their disks."""

    model_config = STRICT
    nodes: int = Field(default=NODES_MAX, ge=3, le=NODES_MAX)
    lease: Time = Field(default=written("400ms"), ge=100, le=60_000, description="Of an owner.")
    grace: Time = Field(
        default=written("500ms"), ge=125, le=60_000, description="Until silence means down."
    )
    durability: Literal["mirrored", "synced"] = Field(
        default="mirrored", description="synced: what is answered survives a loss of all power."
    )
    journal: Size = Field(
        default=written("1MiB"), ge=64 * KiB, le=64 * MiB, description="Of every node, in bytes."
    )
    mirrored_disks: bool = Field(
        default=False, description="RAID 1 below every copy: each page is on two disks."
    )
    cages: int = Field(default=1, ge=1, le=2, description="Of every node, from 0.")
    sleds: int = Field(default=1, ge=1, le=2, description="Of every cage, from 0; 4 disks each.")

    def disks(self) -> tuple[DiskPlace, ...]:
        """Of every node, by number."""
        per_cage = self.sleds * DISKS_PER_SLED
        return tuple(
            DiskPlace(disk, disk // per_cage, disk % per_cage // DISKS_PER_SLED)
            for disk in range(self.cages * per_cage)
        )


class Volume(BaseModel):
    """A virtual volume."""

    model_config = STRICT
    name: str = Field(pattern=NAME)
    regions: int = Field(default=6, ge=1, le=64, description="Its size, in regions.")


class Mix(BaseModel):
    """How often hosts do what, as relative weights."""

    model_config = STRICT
    read: int = Field(default=40, ge=0, le=1000)
    write: int = Field(default=50, ge=0, le=1000)
    flush: int = Field(default=2, ge=0, le=1000)
    trim: int = Field(default=0, ge=0, le=1000)
    zero: int = Field(default=0, ge=0, le=1000)


class Skew(BaseModel):
    """A few blocks get many of the operations."""

    model_config = STRICT
    hot_blocks: int = Field(default=16, ge=1, le=1_000_000, description="At the beginning.")
    operations: Permille = Field(default=written("50%"), description="How many of them go there.")


class Workload(BaseModel):
    """Hosts that read and write, and remember every byte that they wrote."""

    model_config = STRICT
    name: str = Field(default="", pattern=NAME + "|^$")
    volumes: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Their names; empty: all volumes."
    )
    hosts: int = Field(default=2, ge=1, le=16)
    rate: Rate = Field(
        default=written("60/s"), description="Operations of all these hosts together."
    )
    mix: Mix = Mix()
    block_sizes: BlockSizes = Field(
        default=written("512..6KiB"),
        description="Of one operation: least..most. All least are the same.",
    )
    skew: Skew = Skew()
    fua: Permille = Field(
        default=written("5%"), description="Writes that must be durable when answered."
    )
    verify: Literal["linearizable"] = Field(
        default="linearizable", description="Every read is checked against all writes."
    )


class Expect(BaseModel):
    """What must be seen. That no acknowledged write is lost, and every other invariant, is always
    expected and need not be said."""

    model_config = STRICT
    longest_stall: Time | None = Field(
        default=None, description="The longest that a host may wait for one answer."
    )
    redundant_within: Time | None = Field(
        default=None, description="The longest that some region may lack a copy, from the loss on."
    )
    operations_min: int = Field(default=1, ge=0, description="Answers that hosts must have got.")
    refused_max: int | None = Field(
        default=None, ge=0, description="Operations that may be refused with an error."
    )
    unknown_max: int | None = Field(
        default=None, ge=0, description="Operations whose outcome may stay unknown."
    )
    owner_moves_max: int | None = Field(default=None, ge=0, description="Regions times moves.")
    leader_changes_max: int | None = Field(default=None, ge=0)
    seen: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Events that must happen: " + ", ".join(EVENTS) + "."
    )
    unseen: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Events that must not happen."
    )


class Scenario(BaseModel):
    """A whole file."""

    model_config = STRICT
    scenario: str = Field(pattern=NAME, description="Its name, the same as that of the file.")
    about: str = Field(min_length=1, max_length=4000, description="What to look at.")
    seed: int = Field(default=1, ge=0, le=2**63 - 1, description="Where draws come from.")
    lasts: Time | None = Field(
        default=None, description="How long hosts run; else until 2s after the last step."
    )
    cluster: Cluster = Cluster()
    volumes: Annotated[tuple[Volume, ...], Field(strict=False, min_length=1, max_length=16)] = (
        Volume(name="vol0"),
    )
    workloads: Annotated[tuple[Workload, ...], Field(strict=False, min_length=1, max_length=16)] = (
        Workload(),
    )
    timeline: Annotated[tuple[AnyStep, ...], Field(strict=False, max_length=STEPS_MAX)] = ()
    expect: Expect = Expect()

    def step_name(self, number: int) -> str:
        """What a step is called: its name, or `step N`, counted from 1."""
        return self.timeline[number].name or f"step {number + 1}"

    @property
    def lasts_ms(self) -> int:
        """How long hosts run."""
        if self.lasts is not None:
            return self.lasts
        ends = [
            (step.at or 0) + step.wait + step.for_ms + (step.every or 0) * (step.repeat or 1)
            for step in self.timeline
        ]
        return max(ends, default=0) + 2000


def schema() -> dict[str, Any]:
    """The JSON schema of a file, for editors."""
    made = Scenario.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
