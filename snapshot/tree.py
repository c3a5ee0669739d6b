"""plan: the tree of one volume family: the base volume, its snapshots, and how they hang together.

A *branch* is a writable view (the base or a read-write snapshot, RWSS) and its read-only snapshots
(ROSS) in time order [0091]. An RWSS hangs on one ROSS, so read-only and read-write layers alternate
down the tree [0090]. Two relations are kept apart: *copy of*, what a snapshot was taken from, and
*parent*, where a look-up goes next [0095]:

- of a ROSS the next newer ROSS of its branch, of the newest one the writable view;
- of an RWSS the ROSS that it hangs on;
- the base has none.

Views have numbers that are never used twice (I15). Everything here is small: tables of pages are
`snapshot.exception_table`, one per view that is not the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from base.errors import AlreadyExists, InvalidRequest, NotFound

VIEWS_MAX: Final = (1 << 28) - 1
NAME_BYTES_MAX: Final = 64


class ViewKind(IntEnum):
    """The numbers are stored."""

    BASE = 0
    READ_ONLY = 1
    READ_WRITE = 2


class SnapshotState(IntEnum):
    """The numbers are stored. CREATING: not every owner has adopted it; it cannot be read yet.
    STALE: a copy-out had no space, so it is no point in time any more. REMOVING: its exceptions are
    being handed over."""

    CREATING = 0
    ACTIVE = 1
    STALE = 2
    REMOVING = 3


@dataclass(frozen=True, slots=True)
class View:
    """One volume of the tree. branch: number of its writable view, its own for a writable one.
    origin: for an RWSS the ROSS that it hangs on, else 0. copy_of: what it was taken from, 0 when
    that is gone or for the base."""

    view: int
    name: str
    kind: ViewKind
    branch: int
    origin: int = 0
    copy_of: int = 0
    state: SnapshotState = SnapshotState.ACTIVE

    @property
    def writable(self) -> bool:
        """The base or an RWSS."""
        return self.kind is not ViewKind.READ_ONLY


class SnapshotTree:
    """All views of one family. Every refusal is raised before anything has changed."""

    def __init__(self, base_name: str) -> None:
        base = View(1, base_name, ViewKind.BASE, 1)
        self.base = base.view
        self.changes = 0  # grows with every change; not part of the state
        self._next = 2
        self._views: dict[int, View] = {base.view: base}
        self._names: dict[str, int] = {base_name: base.view}
        self._branches: dict[int, list[int]] = {base.view: []}  # ROSSes, oldest first

    # ------------------------------------------------------------------ asking

    def __contains__(self, view: int) -> bool:
        return view in self._views

    def __iter__(self) -> Iterator[View]:
        """By number, which is the order in which they were made."""
        return iter([self._views[view] for view in sorted(self._views)])

    def __getitem__(self, view: int) -> View:
        return self._views[view]

    @property
    def highest(self) -> int:
        """The last number that was given to a view."""
        return self._next - 1

    def named(self, name: str) -> View:
        """NotFound names the view and the family."""
        view = self._names.get(name)
        if view is None:
            base = self._views[self.base].name
            raise NotFound(f"there is no snapshot {name} of volume {base}")
        return self._views[view]

    def read_only_of(self, branch: int) -> tuple[int, ...]:
        """The ROSSes of a branch, oldest first."""
        return tuple(self._branches[branch])

    def newest(self, branch: int) -> int:
        """The one ROSS that a write to the branch can owe a copy-out; 0 when there is none."""
        line = self._branches[branch]
        return line[-1] if line else 0

    def older(self, view: int) -> int:
        """The next older ROSS of a ROSS's branch, 0 for the oldest."""
        line = self._branches[self._views[view].branch]
        at = line.index(view)
        return line[at - 1] if at else 0

    def parent(self, view: int) -> int:
        """Where a look-up goes when the view itself has no exception; 0 for the base."""
        at = self._views[view]
        if at.kind is ViewKind.BASE:
            return 0
        if at.kind is ViewKind.READ_WRITE:
            return at.origin
        line = self._branches[at.branch]
        place = line.index(view) + 1
        return line[place] if place < len(line) else at.branch

    def path(self, view: int) -> list[int]:
        """The view and everything above it, in the order of a look-up; the base is last."""
        found: list[int] = []
        at = self._views[view]
        while True:
            line = self._branches[at.branch]
            if not at.writable:
                found += line[line.index(at.view) :]
            found.append(at.branch)
            writable = self._views[at.branch]
            if writable.kind is ViewKind.BASE:
                return found
            at = self._views[writable.origin]

    def hanging_on(self, view: int) -> tuple[int, ...]:
        """RWSSes whose origin is that ROSS, in the order of their making."""
        return tuple(each.view for each in self if each.origin == view)

    # ------------------------------------------------------------------ changing

    def create_read_only(self, name: str, of: int) -> View:
        """A ROSS of a writable view, the newest of its branch from now on. InvalidRequest for a
        ROSS of a ROSS (it could never differ), AlreadyExists for a name in use."""
        self.check_new(name, of)
        source = self._views[of]
        made = View(
            self._take_number(), name, ViewKind.READ_ONLY, source.branch,
            copy_of=of, state=SnapshotState.CREATING,
        )  # fmt: skip
        self._put(made)
        self._branches[source.branch].append(made.view)
        return made

    def check_new(self, name: str, of: int) -> None:
        """What `create_read_only` would refuse, before anything is changed anywhere."""
        source = self._views[of]
        if not source.writable:
            raise InvalidRequest(
                f"{source.name} is read-only: a read-only snapshot of it would never differ from it"
            )
        self._check_name(name)
        if self._next > VIEWS_MAX:
            raise InvalidRequest(f"the family of {self._views[self.base].name} has had too many")

    def create_read_write(self, name: str, of: int) -> View:
        """An RWSS that hangs on a ROSS: a branch of its own. InvalidRequest for one of a writable
        view: make the ROSS between them first (`create_read_only`), it is the point in time."""
        source = self._views[of]
        if source.writable:
            raise InvalidRequest(f"{source.name} is writable: a read-write snapshot needs a ROSS")
        self._check_name(name)
        number = self._take_number()
        made = View(number, name, ViewKind.READ_WRITE, number, origin=of, copy_of=of)
        self._put(made)
        self._branches[number] = []
        return made

    def _check_name(self, name: str) -> None:
        if not name or len(name.encode()) > NAME_BYTES_MAX or not name.isprintable():
            raise InvalidRequest(f"{name!r} is no name: 1 to {NAME_BYTES_MAX} printable bytes")
        if name in self._names:
            raise AlreadyExists(f"the name {name} is in use")

    def _take_number(self) -> int:
        if self._next > VIEWS_MAX:
            raise InvalidRequest(
                f"this family has had {VIEWS_MAX} snapshots, and no number is left"
            )
        self._next += 1
        return self._next - 1

    def _put(self, view: View) -> None:
        self._views[view.view] = view
        self._names[view.name] = view.view
        self.changes += 1

    def set_state(self, view: int, state: SnapshotState) -> None:
        """Activated, gone stale, or being removed."""
        self._views[view] = replace(self._views[view], state=state)
        self.changes += 1

    def check_removal(self, view: int) -> None:
        """InvalidRequest when something depends on the view; it names what (ruling R5)."""
        at = self._views[view]
        if at.kind is ViewKind.BASE:
            held = [each.name for each in self if each.view != view]
            rule = "is the base of"
        elif at.kind is ViewKind.READ_WRITE:
            held = [self._views[each].name for each in self._branches[view]]
            rule = "has the read-only snapshots"
        else:
            held = [self._views[each].name for each in self.hanging_on(view)]
            rule = "has the read-write snapshots"
        if held:
            raise InvalidRequest(f"{at.name} cannot be removed: it {rule} {', '.join(held)}")

    def remove(self, view: int) -> None:
        """Take a view out. Its exceptions have been handed over or freed before."""
        self.check_removal(view)
        at = self._views[view]
        assert at.kind is not ViewKind.BASE, "a base goes with its volume"
        del self._views[view], self._names[at.name]
        self.changes += 1
        if at.kind is ViewKind.READ_WRITE:
            del self._branches[view]
        else:
            self._branches[at.branch].remove(view)
        for each in self:
            if each.copy_of == view:
                self._views[each.view] = replace(each, copy_of=0)

    # ------------------------------------------------------------------ keeping

    def to_tuple(self) -> tuple[Any, ...]:
        """For the catalog: equal trees give equal tuples."""
        views = tuple(
            (each.view, each.name, int(each.kind), each.branch, each.origin, each.copy_of,
             int(each.state))
            for each in self
        )  # fmt: skip
        lines = tuple((branch, tuple(self._branches[branch])) for branch in sorted(self._branches))
        return (self._next, views, lines)

    @classmethod
    def from_tuple(cls, plain: Any) -> SnapshotTree:
        """What `to_tuple` made, as tuples or lists. InvalidRequest when it is no tree."""
        try:
            number, views, lines = plain
            made = [
                View(int(v), str(n), ViewKind(k), int(b), int(o), int(c), SnapshotState(s))
                for v, n, k, b, o, c, s in views
            ]
            tree = cls(made[0].name)
            tree._next = int(number)
            tree._views = {each.view: each for each in made}
            tree._names = {each.name: each.view for each in made}
            tree._branches = {int(branch): [int(v) for v in line] for branch, line in lines}
        except (TypeError, ValueError, IndexError) as error:
            raise InvalidRequest(f"this is no snapshot tree: {error}") from None
        faults = tree.check()
        if faults:
            raise InvalidRequest(f"this is no snapshot tree: {faults[0]}")
        return tree

    def check(self) -> list[str]:
        """What is wrong with the shape. For `fsck`."""
        faults: list[str] = []
        bases = [each.view for each in self if each.kind is ViewKind.BASE]
        if bases != [self.base]:
            faults.append(f"the bases are {bases}")
        if len(self._names) != len(self._views):
            faults.append("a name is used twice")
        if sorted(self._branches) != [each.view for each in self if each.writable]:
            faults.append("branches and writable views differ")
        lined = sorted(view for line in self._branches.values() for view in line)
        if lined != [each.view for each in self if not each.writable]:
            faults.append("a read-only snapshot is in no branch, or in two")
        for each in self:
            origin = self._views.get(each.origin)
            if each.kind is ViewKind.READ_WRITE and (
                origin is None or origin.writable or origin.view >= each.view
            ):
                faults.append(f"{each.name} hangs on no older read-only snapshot")
            if not each.writable and each.view not in self._branches.get(each.branch, ()):
                faults.append(f"{each.name} is not in its branch")
            if each.view >= self._next:
                faults.append(f"{each.name} has a number that was not given out")
        return faults
