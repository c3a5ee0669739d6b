"""step: what the leader does about snapshots by itself: takes those that rules ask for, and removes
those that have expired or of which there are enough.

It remembers nothing that the catalog does not have: a new leader finds in the names and times of
snapshots what each rule has taken (`RuleState.after`). Entries may be refused or lost: a snapshot
that was not taken is asked for again until its rule asks for the next one.
"""

from __future__ import annotations

from base.errors import InvalidRequest
from cluster.catalog import Catalog
from cluster.entries import BeginCut, RemoveSnapshot
from cluster.snapshots import Snapshots
from snapshot import schedule
from snapshot.retention import SnapshotFacts, facts_of, plan_retention
from snapshot.schedule import Rule, RuleState, TakeSnapshot, parse_rule
from snapshot.tree import SnapshotState

Key = tuple[int, str]  # volume, text of the rule


def check_served(rule: str) -> None:
    """InvalidRequest for a rule that nobody would act on."""
    parsed = parse_rule(rule)
    if parsed.above_bytes_per_s or parsed.event not in ("", "node-lost", "node-returned"):
        raise InvalidRequest(
            f"rule {rule!r}: rates, volume-degraded and space-low are not watched yet; write"
            " `every 15m keep 8`, `on node-lost keep 3` or `on node-returned keep 3`"
        )


class RuleKeeper:
    """At the leader; made anew whenever a node begins to lead."""

    def __init__(self) -> None:
        self._states: dict[Key, RuleState] = {}
        self._owed: dict[Key, TakeSnapshot] = {}
        self._up: tuple[int, ...] | None = None

    def look(self, catalog: Catalog, now_ms: int) -> list[BeginCut | RemoveSnapshot]:
        """What to put to the catalog now. To be called about every second."""
        snapshots = catalog.snapshots
        wanted = {(volume, text) for volume, texts in snapshots.rules.items() for text in texts}
        for key in [key for key in self._states if key not in wanted]:
            del self._states[key]
            self._owed.pop(key, None)
        for key in sorted(wanted):
            if key not in self._states:
                self._states[key] = _state_of(snapshots, *key)
        events: list[schedule.RuleEvent] = [schedule.Tick(now_ms)]
        events += [schedule.EventSeen(now_ms, name) for name in self._seen(catalog.up_nodes())]
        for key in sorted(self._states):
            for event in events:
                for take in self._states[key].step(event):
                    self._owed[key] = take
        return [*self._takes(snapshots), *removals(snapshots, now_ms)]

    def _seen(self, up: tuple[int, ...]) -> list[str]:
        """Events since the last look."""
        before, self._up = self._up, up
        if before is None:
            return []
        found = []
        if any(node not in up for node in before):
            found.append("node-lost")
        if any(node not in before for node in up):
            found.append("node-returned")
        return found

    def _takes(self, snapshots: Snapshots) -> list[BeginCut | RemoveSnapshot]:
        entries: list[BeginCut | RemoveSnapshot] = []
        for key, take in sorted(self._owed.items(), key=lambda item: item[0]):
            volume = key[0]
            tree = snapshots.trees.get(volume)
            if tree is not None and any(view.name == take.name for view in tree):
                del self._owed[key]
            elif snapshots.cut_of(volume) is None:
                about = facts_of(take.rule, take.taken_ms)
                member = (volume, 1, take.name)
                ages = (about.expires_ms, about.retained_ms)
                entries.append(BeginCut((member,), take.taken_ms, about.rule, *ages))
        return entries


def _state_of(snapshots: Snapshots, volume: int, text: str) -> RuleState:
    tree = snapshots.trees.get(volume)
    taken = [
        (view.name, snapshots.about(volume, view.view).taken_ms)
        for view in tree or ()
        if snapshots.about(volume, view.view).rule == text
    ]
    return RuleState.after(parse_rule(text), taken)


def facts(snapshots: Snapshots, volume: int) -> dict[int, SnapshotFacts]:
    """Of the snapshots of a volume, by view."""
    found: dict[int, SnapshotFacts] = {}
    for view in snapshots.trees.get(volume) or ():
        about = snapshots.about(volume, view.view)
        found[view.view] = SnapshotFacts(
            about.taken_ms, about.rule, about.expires_ms, about.retained_ms
        )
    return found


def removals(snapshots: Snapshots, now_ms: int) -> list[RemoveSnapshot]:
    """What retention lets go. One of a branch at a time: its neighbours wait until it is gone."""
    entries = []
    for volume in sorted(snapshots.trees):
        tree = snapshots.trees[volume]
        rules: dict[str, Rule] = {
            text: parse_rule(text) for text in snapshots.rules.get(volume, ())
        }
        busy = {view.branch for view in tree if view.state is SnapshotState.REMOVING}
        for verdict in plan_retention(tree, facts(snapshots, volume), rules, now_ms).remove:
            branch = tree[verdict.view].branch
            if branch not in busy:
                busy.add(branch)
                entries.append(RemoveSnapshot(volume, verdict.view))
    return entries
