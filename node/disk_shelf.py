"""shell: the disks of this node behind their loops, and logical-disk I/O over them.

A plan of a logical disk says which bytes of which disks; here they are read or written. A read
that fails goes to another member. A write that fails on a member while another member took it makes
the member *failed*: it holds old bytes now and must never be read again, until it is rebuilt. The
set of failed disks is in the checkpoint, because a restart must not forget it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from base.device import BlockDevice, Buffer
from base.errors import DeviceFailed
from node.file_device import FileDevice, SyncThreads
from node.region_pages import ExtentPlans
from volume.physical_disk import Loop, LoopState, NodeInventory, path_for
from volume.raid import DiskExtent

log = structlog.get_logger()


def disk_name(disk: int) -> str:
    """File name of a disk."""
    return f"disk-{disk:03d}.img"


def open_disks(
    directory: Path, inventory: NodeInventory, threads: SyncThreads, *, create: bool
) -> list[BlockDevice]:
    """The files of a node's disks, by disk number. ConfigError as FileDevice raises it."""
    return [
        FileDevice(
            directory / disk_name(disk.disk), disk.size_bytes, create=create, threads=threads
        )
        for disk in inventory.disks
    ]


class DiskShelf:
    """All disks of one node. devices: by disk number of the inventory.

    on_disk_error(disk, error, failed): an I/O failed; `failed` when the disk has left its mirrors.
    """

    def __init__(
        self,
        inventory: NodeInventory,
        devices: Sequence[BlockDevice],
        loops: LoopState | None = None,
        *,
        on_disk_error: Callable[[int, Exception, bool], None] | None = None,
    ) -> None:
        assert len(devices) == len(inventory.disks)
        self._inventory = inventory
        self._devices = list(devices)
        self.loops = loops if loops is not None else LoopState()
        self.on_disk_error = on_disk_error
        self._failed: list[bool] = [False] * len(devices)
        self._unsynced: list[bool] = [False] * len(devices)
        self._sync_lock = asyncio.Lock()
        self._ok: list[bool] | None = None  # by disk; None while every disk answers

    # -- state of disks and loops

    @property
    def failed_disks(self) -> list[int]:
        """Disks that missed a write, ascending."""
        return [disk for disk, failed in enumerate(self._failed) if failed]

    def set_failed(self, disk: int, failed: bool) -> None:
        """A rebuilt or replaced disk is not failed any more; one that missed a write is."""
        if 0 <= disk < len(self._failed):
            self._failed[disk] = failed
        self.refresh()

    def set_loop(self, loop: Loop, up: bool) -> None:
        """A loop came up or went down: disks take their other path, or do not answer."""
        self.loops.set_up(loop, up)
        self.refresh()

    def refresh(self) -> None:
        """Look at loops and disks again, after somebody else changed `loops`."""
        ok = [
            not failed and path_for(disk, self.loops.is_up) is not None
            for disk, failed in zip(self._inventory.disks, self._failed, strict=True)
        ]
        self._ok = None if all(ok) else ok

    def path(self, disk: int) -> Loop | None:
        """The loop that an I/O to the disk takes now."""
        return path_for(self._inventory.disks[disk], self.loops.is_up)

    def device(self, disk: int) -> BlockDevice:
        """The device under a disk."""
        return self._devices[disk]

    # -- reading

    def read_now(self, plans: ExtentPlans, offset: int, into: memoryview) -> bool:
        """Fill `into` from the logical disk at once, or False: then `read` must be awaited.

        DeviceFailed when no member can give the bytes.
        """
        devices = self._devices
        for disk, at, length, start in plans.plan_read(offset, len(into), self._ok):
            part = into if length == len(into) else into[start : start + length]
            try:
                if not devices[disk].read_now(at, part):
                    return False
            except DeviceFailed:
                return False  # the other members are tried in `read`
        return True

    async def read(self, plans: ExtentPlans, offset: int, into: memoryview) -> None:
        """Fill `into`, from other members where some fail. DeviceFailed when all do."""
        for extent in plans.plan_read(offset, len(into), self._ok):
            part = into[extent.start : extent.start + extent.length]
            try:
                await self._read_part(extent, part)
            except DeviceFailed as error:
                self._report(extent.disk, error, failed=False)
                await self._read_elsewhere(plans, offset + extent.start, part, extent.disk, error)

    async def read_first(self, plans: ExtentPlans, offset: int, into: memoryview) -> None:
        """As `read`, from the members that it would ask first only: an error is for the caller."""
        for extent in plans.plan_read(offset, len(into), self._ok):
            await self._read_part(extent, into[extent.start : extent.start + extent.length])

    async def _read_part(self, extent: DiskExtent, part: memoryview) -> None:
        device = self._devices[extent.disk]
        if not device.read_now(extent.offset, part):
            await device.read(extent.offset, part)

    async def _read_elsewhere(
        self, plans: ExtentPlans, offset: int, into: memoryview, bad: int, cause: DeviceFailed
    ) -> None:
        ok = list(self._ok) if self._ok is not None else [True] * len(self._devices)
        while True:  # at most once per disk: each turn takes one out
            ok[bad] = False
            try:
                plan = plans.plan_read(offset, len(into), ok)
            except DeviceFailed:
                raise cause from None
            for extent in plan:
                try:
                    await self._read_part(extent, into[extent.start : extent.start + extent.length])
                except DeviceFailed as another:
                    self._report(extent.disk, another, failed=False)
                    cause, bad = another, extent.disk
                    break
            else:
                return

    # -- writing

    def write_now(self, plans: ExtentPlans, offset: int, buffers: Sequence[Buffer]) -> bool:
        """Write the buffers to every member at once, or False: then `write` must be awaited, and
        some members may have the bytes already."""
        if self._ok is not None:
            return False  # `write` notes which members miss it
        length = sum(map(len, buffers)) if len(buffers) > 1 else len(buffers[0])
        extents = plans.plan_write(offset, length)
        devices = self._devices
        unsynced = self._unsynced
        joined: memoryview | None = None
        for disk, at, count, start in extents:
            unsynced[disk] = True  # nothing is awaited here: no sync can come between
            if count == length:
                parts = buffers
            else:
                if joined is None:
                    joined = memoryview(b"".join(buffers) if len(buffers) > 1 else buffers[0])
                parts = (joined[start : start + count],)
            try:
                if not devices[disk].write_now(at, parts):
                    return False
            except DeviceFailed:
                return False  # `write` finds out whether another member takes it
        return True

    async def write(self, plans: ExtentPlans, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write to every member. DeviceFailed when a piece reached no member at all, NoSpace when a
        disk's file cannot grow. The buffers must not change until it returns."""
        whole = memoryview(b"".join(buffers) if len(buffers) > 1 else buffers[0])
        written: dict[tuple[int, int], bool] = {}  # piece -> some member has it
        missed: list[tuple[DiskExtent, DeviceFailed]] = []
        for extent in plans.plan_write(offset, len(whole)):
            disk, at, count, start = extent
            written.setdefault((start, count), False)
            if self._failed[disk]:
                continue  # it left its mirrors long ago
            try:
                if self._ok is not None and not self._ok[disk]:
                    raise DeviceFailed(f"disk {disk}: both of its loops are down")
                await self._write_part(disk, at, whole[start : start + count])
                written[start, count] = True
            except DeviceFailed as error:
                missed.append((extent, error))
        lost = [piece for piece, has_member in written.items() if not has_member]
        if lost:
            for extent, cause in missed:
                self._report(extent.disk, cause, failed=False)
            raise missed[0][1] if missed else DeviceFailed("every member has failed")
        for extent, cause in missed:
            self._failed[extent.disk] = True
            self._report(extent.disk, cause, failed=True)
        if missed:
            self.refresh()

    async def _write_part(self, disk: int, offset: int, part: memoryview) -> None:
        device = self._devices[disk]
        if not device.write_now(offset, (part,)):
            await device.write(offset, (part,))
        self._unsynced[disk] = True  # after the write: a sync that ran meanwhile did not cover it

    # -- one member, for those who look at each

    def members(self, plans: ExtentPlans, offset: int, length: int) -> list[DiskExtent]:
        """The places of a piece that lies on one member of each mirror: those that answer now and
        have missed no write."""
        found = []
        for extent in plans.plan_write(offset, length):
            assert extent.length == length, "a piece of more than one step"
            if self._ok is None or self._ok[extent.disk]:
                found.append(extent)
        return found

    async def read_member(self, extent: DiskExtent, into: memoryview) -> None:
        """From this disk and no other. DeviceFailed."""
        await self._read_part(extent, into)

    async def write_member(self, extent: DiskExtent, data: memoryview) -> None:
        """To this disk only, what the others have. One that does not take it leaves its mirrors.
        DeviceFailed, NoSpace."""
        try:
            await self._write_part(extent.disk, extent.offset, data)
        except DeviceFailed as error:
            self._failed[extent.disk] = True
            self._report(extent.disk, error, failed=True)
            self.refresh()
            raise

    def discard(self, plans: ExtentPlans, offset: int, length: int) -> None:
        """The bytes are not needed any more. A hint: errors do not matter."""
        try:
            for disk, at, count, _ in plans.plan_write(offset, length, self._ok):
                self._devices[disk].discard(at, count)
        except DeviceFailed as error:
            log.warning("disk.discard_failed", error=str(error))

    async def sync(self) -> None:
        """Every write that was finished before the call survives a power cut once this returns.

        DeviceFailed when a disk cannot: the node must stop, and recover from its journal (P11).
        """
        async with self._sync_lock:  # a second caller must not return before the first is done
            for disk, device in enumerate(self._devices):
                if self._unsynced[disk] and not self._failed[disk]:
                    self._unsynced[disk] = False  # before the await: later writes set it again
                    await device.sync()

    def _report(self, disk: int, error: Exception, *, failed: bool) -> None:
        log.warning("disk.io_failed", disk=disk, left_mirrors=failed, error=str(error))
        if self.on_disk_error is not None:
            self.on_disk_error(disk, error, failed)

    def close(self) -> None:
        """Close every device."""
        for device in self._devices:
            device.close()
