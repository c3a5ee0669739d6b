"""step: what the catalog says of this node's own life, and what that life has to own up to.

A life reports in until the catalog has taken it in. What was lost before it began, unsynced writes
or the whole store, must reach the catalog exactly as often as needed: a life that ends before it
was taken in leaves it to the next, and one that was taken in persists that nothing is left to be
said *before* it holds copies again. Else a crash in between would make a store with nothing in it
pass for whole, or a whole one for blank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.ids import NodeId
from base.units import NS_PER_MS
from cluster.catalog import Liveness
from cluster.entries import NodeUp, encode
from node.effects import LifeCounted, NewLife, RecoverStore

if TYPE_CHECKING:
    from node.core import NodeCore

DUTY_NS = 300 * NS_PER_MS


def changed(core: NodeCore, now_ns: int) -> None:
    """The catalog spoke of this node."""
    state = core.catalog.node_state(core.self_id)
    if state.liveness is Liveness.UP and state.incarnation == core.incarnation:
        if not core.counted and (core.blank or not core.intact):
            if not core.count_asked:
                core.count_asked = True
                core.effects.append(LifeCounted())
            return
        # With its own life in it the catalog is as new as anything that an earlier life of this
        # node has acted on: only now is it known which regions lie where.
        core.counted = True
        if core.store_ready:
            core.activate(now_ns)
        elif not core.recovery_asked:
            core.recovery_asked = True
            core.effects.append(RecoverStore())
    elif state.incarnation >= core.incarnation and not core.life_asked:
        # Declared down, or overtaken: this life may not go on, its data may (P6).
        core.life_asked = True
        core.active = core.leases.granting = False
        for copy in core.all_copies():
            copy.retire()
        core.opening.clear()
        core.joins.clear()
        core.effects.append(NewLife(state.incarnation))


def counted(core: NodeCore, now_ns: int) -> None:
    """It is persisted that nothing is left to be said."""
    core.counted = True
    state = core.catalog.node_state(core.self_id)
    if state.liveness is Liveness.UP and state.incarnation == core.incarnation:
        changed(core, now_ns)


def begin(core: NodeCore, incarnation: int, now_ns: int) -> None:
    """A higher incarnation is persisted: report in under it."""
    assert incarnation > core.incarnation
    core.incarnation = incarnation
    core.life_asked = False
    core.next_duty_ns = now_ns
    if core.counted:
        core.intact = True
        core.blank = False
    core.count_asked = False
    core.leases.renew(incarnation, now_ns)
    core.open_at_ns = max(core.open_at_ns, core.leases.all_granted_until_ns())
    report(core, now_ns)


def report(core: NodeCore, now_ns: int) -> None:
    """Tell the catalog that this life is there, again and again until it knows."""
    if core.life_asked or not core.catalog.cluster_id or now_ns < core.next_duty_ns:
        return
    core.next_duty_ns = now_ns + DUTY_NS
    entry = NodeUp(
        NodeId(core.self_id), core.incarnation, core.intact, core.blank, core.inventory, core.known
    )
    core.propose(encode(entry), None, now_ns, timeout_ns=DUTY_NS, repeatable=True)
