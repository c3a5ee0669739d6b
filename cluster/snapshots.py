"""plan: the snapshot trees of all volumes, and the cuts that are being made, by the catalog.

A *cut* is one point in time over one or more families: a read-only snapshot (ROSS) in each, begun
by one entry and activated by another. Between the two every owner of a region of these families
holds its replies back (`node.gates`). A cut is named by the index of the entry that began it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Final

from base.errors import InvalidRequest, NotFound, Overloaded, RegionOffline
from cluster import entries as log
from cluster.effects import CutBegun, CutEnded, Effect, SnapshotsChanged
from cluster.entries import CUT_VIEWS_MAX
from snapshot.schedule import check_ages, check_rules, parse_rule
from snapshot.tree import SnapshotState, SnapshotTree, View, ViewKind
from volume.provisioning_group import is_name
from volume.virtual_volume import VirtualVolume
from volume.volume_manager import VolumeManager

SnapshotEntry = (
    log.BeginCut
    | log.ActivateCut
    | log.AbandonCut
    | log.CreateReadWrite
    | log.RemoveSnapshot
    | log.SnapshotRemoved
    | log.SetSnapshotAges
    | log.SetSnapshotRule
)
CUTS_MAX: Final = 64  # at a time
REQUESTS_MAX: Final = 1024  # the newest, whose repeats are known


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a snapshot beside its place in the tree. size_bytes: of the volume when the
    snapshot was begun. Instants in ms of the wall clock, 0 for never or not known. rule: the text
    of the one that took it, "" when somebody did."""

    size_bytes: int
    taken_ms: int = 0
    rule: str = ""
    expires_ms: int = 0
    retained_ms: int = 0
    source_cluster: str = ""  # of one that was imported
    source_volume: int = 0
    source_view: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """members: (base volume, its new ROSS), ascending by volume."""

    cut: int
    members: tuple[tuple[int, int], ...]

    @property
    def volumes(self) -> tuple[int, ...]:
        """The base volumes whose owners hold replies back."""
        return tuple(volume for volume, _ in self.members)


class Snapshots:
    """Trees by base volume, and cuts by name. Every refusal comes before any change."""

    def __init__(self) -> None:
        self.trees: dict[int, SnapshotTree] = {}
        self.cuts: dict[int, Cut] = {}
        self.requests: dict[int, Cut] = {}  # oldest first
        self._about: dict[tuple[int, int], About] = {}  # by volume and view
        self.rules: dict[int, tuple[str, ...]] = {}  # by volume, in the order of their making

    # ------------------------------------------------------------------ asking

    def tree(self, volume: int) -> SnapshotTree:
        """Of a volume that has snapshots, or had. NotFound otherwise."""
        tree = self.trees.get(volume)
        if tree is None:
            raise NotFound(f"volume {volume} has no snapshots")
        return tree

    def view(self, volume: int, view: int) -> View:
        """NotFound names the volume and the view."""
        tree = self.tree(volume)
        if view not in tree:
            raise NotFound(f"volume {volume} has no snapshot {view}")
        return tree[view]

    def named(self, volume: int, name: str, snapshot: str) -> View:
        """A snapshot by its name, of the volume of that name. NotFound."""
        tree = self.trees.get(volume)
        if tree is None:
            raise NotFound(f"there is no snapshot {snapshot} of volume {name}")
        return tree.named(snapshot)

    def highest(self, volume: int) -> int:
        """The highest number that a view of the family has had; 0: it never had a snapshot."""
        tree = self.trees.get(volume)
        return tree.highest if tree is not None else 0

    def newest(self, volume: int, branch: int = 1) -> int:
        """The ROSS that an operation numbered now can owe a copy-out; 0: none."""
        tree = self.trees.get(volume)
        return tree.newest(branch) if tree is not None and branch in tree else 0

    def about(self, volume: int, view: int) -> About:
        """Of a view that is there. The base has only a size, which is not kept here."""
        return self._about.get((volume, view), About(0))

    def size_of(self, volume: int, view: int, base: VirtualVolume) -> int:
        """Bytes of a snapshot: of its volume as it was."""
        return self.about(volume, view).size_bytes or base.size_bytes

    def cut_of(self, volume: int) -> Cut | None:
        """The cut that holds back the replies of this family, if one does."""
        for cut in self.cuts.values():
            if volume in cut.volumes:
                return cut
        return None

    # ------------------------------------------------------------------ changing

    def apply(
        self, entry: SnapshotEntry, index: int, manager: VolumeManager
    ) -> tuple[Any, list[Effect]]:
        """Carry an entry out: (what its proposer gets, what the node has to do)."""
        match entry:
            case log.BeginCut():
                return self._begin_cut(entry, index, manager)
            case log.ActivateCut():
                cut = self.activate(entry.cut)
                return {"cut": cut.cut}, [CutEnded(cut.cut, cut.volumes, True)]
            case log.AbandonCut():
                cut = self.abandon(entry.cut)
                return {"cut": cut.cut}, [CutEnded(cut.cut, cut.volumes, False)]
            case log.CreateReadWrite():
                made = self.create_read_write(entry.volume, entry.of, entry.name)
                return {"view": made.view}, [SnapshotsChanged(entry.volume)]
            case log.RemoveSnapshot():
                self.begin_removal(entry.volume, entry.view)
            case log.SnapshotRemoved():
                self.finish_removal(entry.volume, entry.view)
            case log.SetSnapshotAges():
                self.set_ages(entry)
                return {"view": entry.view}, []
            case log.SetSnapshotRule():
                self.set_rule(entry, manager.volume(entry.volume).name)
                return {"rules": self.rules.get(entry.volume, ())}, []
        return {"view": entry.view}, [SnapshotsChanged(entry.volume)]

    def _begin_cut(
        self, entry: log.BeginCut, index: int, manager: VolumeManager
    ) -> tuple[Any, list[Effect]]:
        before = self.requests.get(entry.request)
        if before is not None:
            if before.volumes != tuple(sorted(volume for volume, _, _ in entry.members)):
                raise InvalidRequest(f"request {entry.request} was made before, for other volumes")
            return {"cut": before.cut, "members": before.members}, []
        check_ages("a snapshot", entry.expires_ms, entry.retained_ms)
        _check_served(entry, manager)
        cut = self.begin(index, entry.members, lambda volume: manager.volume(volume).name)
        for volume, view in cut.members:
            branch = self.trees[volume][view].branch
            size_bytes = self.about(volume, branch).size_bytes or manager.volume(volume).size_bytes
            self._about[volume, view] = About(
                size_bytes, entry.taken_ms, entry.rule, entry.expires_ms, entry.retained_ms,
                entry.source_cluster, entry.source_volume, entry.source_view,
            )  # fmt: skip
        if entry.request:
            self.requests[entry.request] = cut
            if len(self.requests) > REQUESTS_MAX:
                del self.requests[next(iter(self.requests))]
        return {"cut": index, "members": cut.members}, [CutBegun(index, cut.volumes)]

    def begin(
        self, index: int, wanted: Sequence[tuple[int, int, str]], name_of: Callable[[int], str]
    ) -> Cut:
        """Begin a cut. wanted: (base volume, writable view, name of the new ROSS), one for each
        volume. name_of(volume): NotFound when there is none.

        InvalidRequest when a volume is named twice or too much is asked for; Overloaded when one is
        being cut already (waiting is the caller's business); AlreadyExists when a name is in use.
        """
        volumes = [volume for volume, _, _ in wanted]
        if not wanted or len(volumes) != len(set(volumes)):
            raise InvalidRequest("a cut names each of its volumes once")
        if len(wanted) > CUT_VIEWS_MAX or len(self.cuts) >= CUTS_MAX:
            raise InvalidRequest(
                f"a cut has at most {CUT_VIEWS_MAX} volumes, and there are at most {CUTS_MAX} cuts"
            )
        fresh: dict[int, SnapshotTree] = {}
        for volume, branch, name in wanted:
            base = name_of(volume)
            other = self.cut_of(volume)
            if other is not None:
                raise Overloaded(f"volume {base}: a snapshot of it is being made; try again")
            tree = self.trees.get(volume)
            if tree is None:
                tree = fresh[volume] = SnapshotTree(base)
            if branch not in tree:
                raise NotFound(f"volume {base} has no view {branch}")
            _check_name(name)
            tree.check_new(name, branch)
        self.trees.update(fresh)
        members = [
            (volume, self.trees[volume].create_read_only(name, branch).view)
            for volume, branch, name in sorted(wanted)
        ]
        cut = self.cuts[index] = Cut(index, tuple(members))
        return cut

    def activate(self, cut: int) -> Cut:
        """Every owner has adopted it: its snapshots are points in time from now on."""
        found = self._pop(cut)
        for volume, view in found.members:
            self.trees[volume].set_state(view, SnapshotState.ACTIVE)
        return found

    def abandon(self, cut: int) -> Cut:
        """It cannot be made, as a region went offline: its snapshots are none, and say so."""
        found = self._pop(cut)
        for volume, view in found.members:
            self.trees[volume].set_state(view, SnapshotState.STALE)
        return found

    def _pop(self, cut: int) -> Cut:
        found = self.cuts.pop(cut, None)
        if found is None:
            raise InvalidRequest(f"void: no cut {cut} is being made")
        return found

    def create_read_write(self, volume: int, of: int, name: str) -> View:
        """An RWSS on a ROSS that is a point in time."""
        source = self.view(volume, of)
        if source.state is not SnapshotState.ACTIVE:
            raise InvalidRequest(f"{source.name} is {source.state.name.lower()}")
        _check_name(name)
        made = self.trees[volume].create_read_write(name, of)
        self._about[volume, made.view] = About(self.about(volume, of).size_bytes)
        return made

    def set_rule(self, entry: log.SetSnapshotRule, name: str) -> None:
        """InvalidRequest names the word that is no rule, or the rule that stands in its way;
        NotFound when there is none to be taken away. One that is there already stays."""
        rule = parse_rule(entry.rule).to_text()
        have = self.rules.get(entry.volume, ())
        if not entry.wanted:
            if rule not in have:
                raise NotFound(f"volume {name} has no rule `{rule}`")
            have = tuple(each for each in have if each != rule)
        elif rule not in have:
            have = (*have, rule)
            check_rules(name, [parse_rule(each) for each in have])
        self.rules[entry.volume] = have
        if not have:
            del self.rules[entry.volume]

    def set_ages(self, entry: log.SetSnapshotAges) -> None:
        """InvalidRequest when it would expire before it may be removed."""
        found = self.view(entry.volume, entry.view)
        if found.kind is ViewKind.BASE:
            raise InvalidRequest(f"{found.name} is no snapshot: volumes do not expire")
        check_ages(f"snapshot {found.name}", entry.expires_ms, entry.retained_ms)
        about = self.about(entry.volume, entry.view)
        self._about[entry.volume, entry.view] = replace(
            about, expires_ms=entry.expires_ms, retained_ms=entry.retained_ms
        )

    def begin_removal(self, volume: int, view: int) -> View:
        """Nothing hangs on it, and it is not being made: its exceptions are handed over next."""
        found = self.view(volume, view)
        tree = self.trees[volume]
        tree.check_removal(view)
        if found.state is SnapshotState.CREATING:
            raise InvalidRequest(f"{found.name} is being made")
        if found.kind is ViewKind.BASE:
            raise InvalidRequest(f"{found.name} is no snapshot")
        tree.set_state(view, SnapshotState.REMOVING)
        return tree[view]

    def finish_removal(self, volume: int, view: int) -> None:
        """Every region has handed its exceptions over."""
        found = self.view(volume, view)
        if found.state is not SnapshotState.REMOVING:
            raise InvalidRequest(f"void: {found.name} is not being removed")
        self.trees[volume].remove(view)
        self._about.pop((volume, view), None)

    def check_removable(self, volume: int, name: str) -> None:
        """InvalidRequest, with their names, when the volume has snapshots."""
        tree = self.trees.get(volume)
        held = [view.name for view in tree if view.view != tree.base] if tree is not None else []
        if held:
            raise InvalidRequest(
                f"volume {name} cannot be removed: it has the snapshots {', '.join(held[:8])}"
            )

    def forget(self, volume: int) -> None:
        """The volume is gone."""
        self.trees.pop(volume, None)
        self.rules.pop(volume, None)
        for key in [key for key in self._about if key[0] == volume]:
            del self._about[key]

    # ------------------------------------------------------------------ keeping

    def to_plain(self) -> list[Any]:
        """For the snapshot of the catalog: equal states give equal lists."""
        return [
            [[volume, tree.to_tuple()] for volume, tree in sorted(self.trees.items())],
            [[cut.cut, cut.members] for _, cut in sorted(self.cuts.items())],
            [[request, cut.cut, cut.members] for request, cut in self.requests.items()],
            [[*key, *astuple(about)] for key, about in sorted(self._about.items())],
            sorted(self.rules.items()),
        ]

    @classmethod
    def from_plain(cls, plain: Any) -> Snapshots:
        """What `to_plain` made, as lists. InvalidRequest when it is none."""
        state = cls()
        try:
            trees, cuts, requests, abouts, rules = plain
            for volume, texts in rules:
                state.rules[int(volume)] = tuple(parse_rule(text).to_text() for text in texts)
            for volume, tree in trees:
                state.trees[int(volume)] = SnapshotTree.from_tuple(tree)
            for cut, members in cuts:
                state.cuts[int(cut)] = _cut(cut, members)
            for request, cut, members in requests:
                state.requests[int(request)] = _cut(cut, members)
            for volume, view, *about in abouts:
                state._about[int(volume), int(view)] = About(*about)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"these are no snapshots: {error}") from None
        for cut in state.cuts.values():
            for volume, view in cut.members:
                if state.view(volume, view).state is not SnapshotState.CREATING:
                    raise InvalidRequest(f"cut {cut.cut}: view {view} is not being made")
        return state

    def check(self) -> list[str]:
        """Broken invariants, in words."""
        faults = [
            f"snapshots of volume {volume}: {fault}"
            for volume, tree in sorted(self.trees.items())
            for fault in tree.check()
        ]
        being_made = {member for cut in self.cuts.values() for member in cut.members}
        for volume, tree in sorted(self.trees.items()):
            for view in tree:
                creating = view.state is SnapshotState.CREATING
                if creating != ((volume, view.view) in being_made):
                    faults.append(f"snapshot {view.name} of volume {volume} and cuts differ")
        for volume, number in sorted(self._about):
            if volume not in self.trees or number not in self.trees[volume]:
                faults.append(
                    f"something is kept of view {number} of volume {volume}, which is gone"
                )
        return faults


def _cut(cut: Any, members: Any) -> Cut:
    return Cut(int(cut), tuple((int(volume), int(view)) for volume, view in members))


def _check_name(name: str) -> None:
    """As of volumes: what hosts write behind an @, and what stands in file names of backups."""
    if not is_name(name):
        raise InvalidRequest(f"{name!r} is not a snapshot name: 1 to 64 of A-Z a-z 0-9 . _ -")


def _check_served(entry: log.BeginCut, manager: VolumeManager) -> None:
    """A region that nobody serves cannot adopt anything, and whoever had it last may not know."""
    for volume, _, _ in entry.members:
        found = manager.volume(volume)
        offline = found.table.offline.nonzero()[0]
        if len(offline):
            raise RegionOffline(
                volume=found.name, region=int(offline[0]), waiting_for="all its regions"
            )


__all__ = ["CUTS_MAX", "CUT_VIEWS_MAX", "About", "Cut", "Snapshots"]
