"""shell: the operations of the JSON API that concern snapshots."""

from __future__ import annotations

from typing import Final

from admin.operation import Ask, Operation, QueryNumber
from admin.snapshot_view import (
    EXTENTS_MAX,
    AgesSpec,
    Differing,
    RemovedSnapshot,
    RuleRow,
    RuleSpec,
    SnapshotMade,
    SnapshotSpec,
    ViewRow,
    ages_spec,
    rule_spec,
    snapshot_spec,
)
from admin.view import NodeView

_CHANGES: Final = ("invalid", "no_quorum", "not_leader", "timeout", "not_found")
OFFSET_MAX: Final = (1 << 63) - 1
_FAMILY: Final = "/v1/volumes/{name}/snapshots"
_ONE: Final = "/v1/volumes/{name}/snapshots/{snapshot}"


async def _create(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.create(snapshot_spec(ask.body))


async def _all(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.list_all()


async def _family(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.family(ask.path["name"])


async def _show(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.show(ask.path["name"], ask.path["snapshot"])


async def _differences(view: NodeView, ask: Ask) -> object:
    path, query = ask.path, ask.query
    return await view.snapshots.differences(
        path["name"], path["snapshot"], path["other"], query["offset"], query["count"]
    )


async def _set_ages(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.set_ages(
        ask.path["name"], ask.path["snapshot"], ages_spec(ask.body)
    )


async def _remove(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.remove(ask.path["name"], ask.path["snapshot"])


async def _rules(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.rules()


async def _set_rule(view: NodeView, ask: Ask) -> object:
    return await view.snapshots.set_rule(ask.path["name"], *rule_spec(ask.body))


SNAPSHOT_OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        "POST", "/v1/snapshots", "createSnapshot",
        "Take one point in time of one volume, or of several at once.",
        _create, SnapshotMade, body=SnapshotSpec, status=201,
        errors=(*_CHANGES, "exists", "overloaded", "cut_abandoned", "region_offline"),
    ),
    Operation(
        "GET", "/v1/snapshots", "snapshots", "Every snapshot, by volume and age.",
        _all, list[ViewRow],
    ),
    Operation(
        "GET", _FAMILY, "family", "A volume and its snapshots, oldest first.",
        _family, list[ViewRow], errors=("not_found",),
    ),
    Operation(
        "GET", _ONE, "snapshot", "One snapshot.", _show, ViewRow, errors=("not_found",),
    ),
    Operation(
        "POST", f"{_ONE}/ages", "setSnapshotAges", "When a snapshot goes, and before when not.",
        _set_ages, ViewRow, body=AgesSpec, errors=_CHANGES,
    ),
    Operation(
        "DELETE", _ONE, "removeSnapshot", "Remove a snapshot; nothing else changes.",
        _remove, RemovedSnapshot, errors=_CHANGES,
    ),
    Operation(
        "GET", "/v1/snapshot-rules", "snapshotRules", "Rules by which snapshots are taken.",
        _rules, list[RuleRow],
    ),
    Operation(
        "POST", "/v1/volumes/{name}/snapshot-rules", "setSnapshotRule",
        "Give a volume a rule, as `every 15m keep 8`, or take it away.",
        _set_rule, list[RuleRow], body=RuleSpec, errors=_CHANGES,
    ),
    Operation(
        "GET", f"{_ONE}/differences/{{other}}", "differences",
        "Where two views of a volume differ; the volume itself goes by its own name.",
        _differences, Differing, errors=("not_found", "region_offline", "timeout"),
        query=(
            QueryNumber("offset", 0, OFFSET_MAX, 0, "First byte that is looked at."),
            QueryNumber("count", 1, EXTENTS_MAX, EXTENTS_MAX, "Extents at most."),
        ),
    ),
)  # fmt: skip
