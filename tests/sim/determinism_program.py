"""Eight nodes with disks, crashes and pauses, by one seed; prints the hash of the trace."""

from __future__ import annotations

import asyncio
import sys

from sim.clock import SimClock
from sim.device import CrashKind, SimDevice, SimDisks
from sim.event_loop import SimEventLoop, SimGroup
from sim.fence import fence
from sim.random import SeedStreams, SimRandom


async def work(loop: SimEventLoop, clock: SimClock, device: SimDevice, rng: SimRandom) -> None:
    async def write(number: int) -> None:
        buffer = number.to_bytes(8, "little") * 256
        if not device.write_now(number * 700, [buffer]):
            await device.write(number * 700, [buffer])
        loop.trace("wrote", (device.name, number))

    for number in range(200):
        async with asyncio.TaskGroup() as group:
            for part in range(3):
                group.create_task(write(number * 3 + part))
        if rng.chance(1, 4):
            await device.sync()
        await clock.sleep(rng.exponential(10**6) / 10**9)


async def main(loop: SimEventLoop, streams: SeedStreams) -> None:
    names = {f"n{number}" for number in range(8)}
    disks: dict[str, SimDisks] = {}
    groups: dict[str, SimGroup] = {}

    def start(name: str) -> None:
        rng = streams.child(name).stream("work")
        groups[name] = loop.group(name)
        clock = SimClock(loop, rng.randint(-100, 100), group=groups[name])
        device = disks[name].open("journal")
        groups[name].start(work(loop, clock, device, rng), name=name)

    for name in sorted(names):
        disks[name] = SimDisks(loop, streams.child(name))
        disks[name].add("journal", 1 << 20)
        start(name)
    rng = streams.stream("faults")
    for _ in range(40):
        await asyncio.sleep(rng.exponential(20 * 10**6) / 10**9)
        name = rng.choice(sorted(names))
        if rng.chance(1, 3):
            groups[name].pause()
            await asyncio.sleep(0.05)
            groups[name].resume()
            continue
        groups[name].drop()
        disks[name].crash(rng.choice(list(CrashKind)))
        contents = disks[name]["journal"].durable_bytes(0, 1 << 16)
        loop.trace("crash", (name, sum(contents)))
        start(name)


if __name__ == "__main__":
    loop = SimEventLoop()
    with fence():
        loop.run_until_complete(main(loop, SeedStreams(int(sys.argv[1]))))
        print(loop.trace_hash(), loop.events, loop.now_ns)
        loop.close()
