"""shell: every volume of the catalog as hosts see it through this node."""

from __future__ import annotations

from base.errors import NotFound
from base.units import SECTOR_BYTES
from host.export import ALLOCATION, HostRequest, RequestKind
from node.core import NodeCore
from node.io_path import IoPath
from node.view_path import is_readable, require_readable
from node.view_questions import ViewQuestions
from node.view_status import ViewStatus
from snapshot.refs import ref_of
from snapshot.tree import SnapshotTree, View
from volume.virtual_volume import VirtualVolume


class NodeVolume:
    """One volume. Its size follows the catalog."""

    read_only = False

    def __init__(self, exports: NodeExports, volume: VirtualVolume) -> None:
        self._exports = exports
        self.volume = volume

    @property
    def name(self) -> str:
        """What hosts ask for."""
        return self.volume.name

    @property
    def size_bytes(self) -> int:
        """As the catalog of this node has it now."""
        return self.volume.size_bytes

    @property
    def block_min_bytes(self) -> int:
        """Hosts may address sectors; they are told to prefer blocks."""
        return SECTOR_BYTES

    @property
    def description(self) -> str:
        """For people."""
        return f"{self.volume.copies} copies in group {self.volume.group}"

    @property
    def contexts(self) -> tuple[str, ...]:
        """What STATUS can be asked of it: also where it differs from each of its snapshots."""
        tree = self._exports.tree(self.volume)
        return self._exports.status.contexts(tree, 1)

    def answers_context(self, name: str) -> bool:
        """Also one that is not among `contexts`, which name the newest snapshots only."""
        return self._exports.status.answers(self._exports.tree(self.volume), name)

    def submit(self, request: HostRequest) -> None:
        """Route it."""
        self._exports.submit(self.volume, request, 0)


class NodeSnapshot:
    """One snapshot of a volume, for hosts of this node: `VOLUME@SNAPSHOT`. Its name is of the
    moment at which it was opened; a request for one that is gone is refused."""

    block_min_bytes = SECTOR_BYTES

    def __init__(
        self, exports: NodeExports, volume: VirtualVolume, view: View, size_bytes: int
    ) -> None:
        """size_bytes: of the volume when the snapshot was taken."""
        self._exports = exports
        self.size_bytes = size_bytes
        self.volume = volume
        self.view = view
        self.name = ref_of(volume.name, view.name)
        self.read_only = not view.writable

    @property
    def description(self) -> str:
        """For people."""
        kind = "read-only" if self.read_only else "read-write"
        return f"{kind} snapshot of volume {self.volume.name}"

    @property
    def contexts(self) -> tuple[str, ...]:
        """What STATUS can be asked of it."""
        tree = self._exports.tree(self.volume)
        return self._exports.status.contexts(tree, self.view.view)

    def answers_context(self, name: str) -> bool:
        """Also one that is not among `contexts`, which name the newest snapshots only."""
        return self._exports.status.answers(self._exports.tree(self.volume), name)

    def submit(self, request: HostRequest) -> None:
        """Route it."""
        self._exports.submit(self.volume, request, self.view.view)


class NodeExports:
    """The export table: all volumes by name, and behind each its snapshots, oldest first."""

    def __init__(self, core: NodeCore, io: IoPath) -> None:
        self._core = core
        self._io = io
        self._views: dict[int, NodeVolume] = {}
        self.questions = ViewQuestions(io)
        self.status = ViewStatus(self.questions, io.supervisor)
        self.refresh()

    def refresh(self) -> None:
        """The catalog changed: views of what is there, by number, for names may be used again."""
        volumes = self._core.catalog.volumes
        for number in list(self._views):
            if number not in volumes:
                del self._views[number]
        for number, volume in volumes.items():
            view = self._views.get(int(number))
            if view is None:
                self._views[int(number)] = NodeVolume(self, volume)
            else:
                view.volume = volume  # a snapshot of the catalog brings new objects

    def names(self) -> list[str]:
        """In the order of creation. A snapshot that cannot be read is not among them."""
        names = []
        for number in sorted(self._views):
            volume = self._views[number].volume
            names.append(volume.name)
            for view in self.tree(volume) or ():
                if view.view != 1 and is_readable(view):
                    names.append(ref_of(volume.name, view.name))
        return names

    def tree(self, volume: VirtualVolume) -> SnapshotTree | None:
        """Its snapshots; None: it never had one."""
        return self._core.catalog.snapshots.trees.get(volume.volume)

    def submit(self, volume: VirtualVolume, request: HostRequest, view: int) -> None:
        """A request for the volume, or for that snapshot of it."""
        if request.kind is RequestKind.STATUS and request.context != ALLOCATION:
            tree = self.tree(volume)
            if tree is None:
                request.done(NotFound(f"volume {volume.name} has no snapshots"))
            else:
                self.status.submit(volume, tree, view or tree.base, request)
            return
        self._io.submit(volume, request, view)

    def open_view(self, volume: int, view: int) -> NodeSnapshot:
        """A snapshot by the number of its volume and its own. NotFound; InvalidRequest when it
        cannot be read now."""
        catalog = self._core.catalog
        found = catalog.snapshots.view(volume, view)
        require_readable(found)
        base = catalog.volume_manager.volume(volume)
        return NodeSnapshot(self, base, found, catalog.snapshots.size_of(volume, view, base))

    def open(self, name: str) -> NodeVolume | NodeSnapshot:
        """The volume, or the snapshot (`VOLUME@SNAPSHOT`) of that name. NotFound; InvalidRequest
        when a snapshot cannot be read now."""
        if "@" in name:
            volume, view = self._core.catalog.find_view(name)
            if view is not None:
                return self.open_view(volume.volume, view.view)
        for number in sorted(self._views):
            if self._views[number].name == name:
                return self._views[number]
        raise NotFound(f"no volume named {name!r} is exported here")
