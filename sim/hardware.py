"""shell: the loops, sleds and cages between a simulated node and its disks, to be cut and pulled.

A wrapper of the `BlockDevice` port, so the node knows nothing of it: an I/O takes the primary loop
of its disk, the other one when that is down, and fails when both are, or when the disk's sled or
cage is pulled. What a write had begun before still arrives: the disk has it. A disk that comes back
has what it had.
"""

from __future__ import annotations

from collections.abc import Sequence

from base.device import BlockDevice, Buffer
from base.errors import DeviceFailed, InvalidRequest
from volume.physical_disk import DiskInventory, Loop, LoopState, NodeInventory, path_for


class FcFabric:
    """Of one node; it outlives the node's lives. Places are (cage, sled)."""

    def __init__(self, inventory: NodeInventory) -> None:
        self.inventory = inventory
        self._loops = LoopState()
        self._sleds: dict[tuple[int, int], None] = {}  # that are pulled
        self._cages: dict[int, None] = {}
        self._known = {loop for disk in inventory.disks for loop in disk.loops}
        self._places = {(disk.cage, disk.sled) for disk in inventory.disks}
        self.is_whole = True  # nothing is cut or pulled
        self.refused: dict[str, int] = {}  # I/Os, by what stood in their way: for goals

    def wrap(self, disk: int, device: BlockDevice) -> FabricDevice:
        """The device of a disk as the node sees it, in one life of the node."""
        return FabricDevice(self, self.inventory.disks[disk], device)

    def set_loop(self, loop: Loop, up: bool) -> None:
        """Cut a loop, or mend it. InvalidRequest: the node has no such loop."""
        if loop not in self._known:
            raise InvalidRequest(f"loop {loop}: this node has no disk on it")
        self._loops.set_up(loop, up)
        self._look()

    def pull_sled(self, cage: int, sled: int) -> None:
        """Its four disks answer nothing. InvalidRequest: there is none."""
        if (cage, sled) not in self._places:
            raise InvalidRequest(f"cage {cage} sled {sled}: this node has none")
        self._sleds[cage, sled] = None
        self._look()

    def put_back_sled(self, cage: int, sled: int) -> None:
        """It answers again. One that was not pulled stays as it is."""
        self._sleds.pop((cage, sled), None)
        self._look()

    def pull_cage(self, cage: int) -> None:
        """All of its sleds answer nothing. InvalidRequest: there is none."""
        if all(place[0] != cage for place in self._places):
            raise InvalidRequest(f"cage {cage}: this node has none")
        self._cages[cage] = None
        self._look()

    def put_back_cage(self, cage: int) -> None:
        """It answers again, but for sleds that were pulled one by one."""
        self._cages.pop(cage, None)
        self._look()

    def heal(self) -> None:
        """All loops, sleds and cages are there."""
        for loop in self._loops.down():
            self._loops.set_up(loop, True)
        self._sleds.clear()
        self._cages.clear()
        self._look()

    def _look(self) -> None:
        self.is_whole = not (self._sleds or self._cages or self._loops.down())

    def why_not(self, disk: DiskInventory) -> tuple[str, str]:
        """(what stands in the way of an I/O to the disk now: cage, sled or loops, a sentence that
        says which). Both are empty when nothing does."""
        if disk.cage in self._cages:
            return "cage", f"cage {disk.cage} is pulled"
        if (disk.cage, disk.sled) in self._sleds:
            return "sled", f"sled {disk.sled} of cage {disk.cage} is pulled"
        if path_for(disk, self._loops.is_up) is None:
            return "loops", f"loops {disk.loops[0]} and {disk.loops[1]} are down"
        return "", ""


class FabricDevice:
    """A `BlockDevice` behind the fabric: DeviceFailed while nothing reaches it."""

    def __init__(self, fabric: FcFabric, disk: DiskInventory, device: BlockDevice) -> None:
        self._fabric = fabric
        self._disk = disk
        self._device = device

    @property
    def size_bytes(self) -> int:
        """Of the disk."""
        return self._device.size_bytes

    @property
    def name(self) -> str:
        """Of the disk."""
        return self._device.name

    def _check(self) -> None:
        fabric = self._fabric
        if fabric.is_whole:
            return
        what, why = fabric.why_not(self._disk)
        if what:
            fabric.refused[what] = fabric.refused.get(what, 0) + 1
            raise DeviceFailed(f"disk {self.name}: {why}")

    def read_now(self, offset: int, into: memoryview) -> bool:
        """As of the disk."""
        self._check()
        return self._device.read_now(offset, into)

    def write_now(self, offset: int, buffers: Sequence[Buffer]) -> bool:
        """As of the disk."""
        self._check()
        return self._device.write_now(offset, buffers)

    async def read(self, offset: int, into: memoryview) -> None:
        """As of the disk; fails too when the way is cut meanwhile."""
        self._check()
        await self._device.read(offset, into)
        self._check()

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """As of the disk. When the way is cut meanwhile it fails, and may have happened."""
        self._check()
        await self._device.write(offset, buffers)
        self._check()

    async def sync(self) -> None:
        """As of the disk."""
        self._check()
        await self._device.sync()
        self._check()

    def discard(self, offset: int, length: int) -> None:
        """As of the disk."""
        self._check()
        self._device.discard(offset, length)

    def close(self) -> None:
        """Let go of the disk."""
        self._device.close()
