"""shell: `eightfold demo`: eight processes, real data, a kill, the repair, and the verdict.

Each step is an ordinary command or API call that a person could give too. Nothing outside a
temporary directory is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

from admin import output
from admin.local import LocalNode, node_pid, signal_node
from admin.up import Up
from base.clock import RealClock
from base.errors import LinkLost, NoSpace, RequestTimeout, StorageError
from base.units import NS_PER_MS, NS_PER_S, MiB, format_size

VOLUME: Final = "demo"
COPY_SECONDS: Final = 120
REPAIR_SECONDS: Final = 120
BASE_PORTS: Final = range(21_000, 31_000, 32)


class Story:
    """Says each step: a line for people, or a JSON line."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._clock = RealClock()
        self._began_ns = self._clock.now_ns()

    @property
    def quiet(self) -> bool:
        """No bars."""
        return self._as_json

    def now_ms(self) -> float:
        """Since the demo began."""
        return (self._clock.now_ns() - self._began_ns) / NS_PER_MS

    def tell(self, step: str, text: str, **numbers: Any) -> None:
        """One step, with its numbers."""
        if self._as_json:
            output.emit({"step": step, "at_ms": round(self.now_ms()), **numbers})
        else:
            output.say(f"{self.now_ms() / 1000:6.2f} s  {text}")


class WriterProcess:
    """`admin.demo_writer` in a process of its own, and what it last reported."""

    def __init__(self, addresses: list[str], offset: int, length: int) -> None:
        command = [sys.executable, "-m", "admin.demo_writer", VOLUME, str(offset), str(length)]
        self._process = subprocess.Popen(
            [*command, *addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._pending = b""
        self.last: dict[str, Any] = {"writes": 0, "longest_ms": 0.0, "paths_lost": 0}

    def listen(self, seconds: float) -> None:
        """Take in what it reports for so long. LinkLost when it ended early."""
        clock = RealClock()
        until_ns = clock.now_ns() + int(seconds * NS_PER_S)
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        while "done" not in self.last:
            left = (until_ns - clock.now_ns()) / NS_PER_S
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                return
            received = os.read(handle, 65_536)
            if not received:
                raise LinkLost("the writer ended early; its error is above")
            *lines, self._pending = (self._pending + received).split(b"\n")
            for line in lines:
                self.last = json.loads(line)

    def finish(self) -> dict[str, Any]:
        """Tell it to end; its last report, with what it found when it read everything back."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        self.listen(COPY_SECONDS)
        self.close()
        if "done" not in self.last:
            raise RequestTimeout(f"the writer did not finish within {COPY_SECONDS} s")
        return self.last

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def free_base_port(nodes: int) -> int:
    """A base port whose ports are all free now. NoSpace when there is none."""
    for base in BASE_PORTS:
        try:
            for port in range(base + 1, base + 25):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise NoSpace("no 24 ports in a row are free on 127.0.0.1")


def make_image(path: Path, limit_bytes: int) -> str:
    """Real data: the files of Python's own library, one behind the other. Its SHA-256."""
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as image:
        for source in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
            data = source.read_bytes()
            if size + len(data) > limit_bytes:
                break
            image.write(data)
            size += len(data)
        image.truncate(-(-size // (64 * 1024)) * 64 * 1024)
    with path.open("rb") as image:
        while part := image.read(MiB):
            digest.update(part)
    return digest.hexdigest()


def copy(source: str, target: str, *, into: bool, size_bytes: int) -> str:
    """Copy a file into a volume or out of one, with whatever is installed; the name of the tool.

    size_bytes: of the file, for copying out.
    """
    if shutil.which("nbdcopy") and into:
        _tool(["nbdcopy", source, target])
        return "nbdcopy"
    if shutil.which("qemu-img"):
        if into:
            _tool(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, target])
        else:
            blocks = size_bytes // 65_536
            _tool(["qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=65536", f"count={blocks}",
                   f"if={source}", f"of={target}"])  # fmt: skip
        return "qemu-img"
    _copy_ourselves(source, target, into=into, size_bytes=size_bytes)
    return "our own NBD client"


def _tool(command: list[str]) -> None:
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=COPY_SECONDS, check=False
    )
    if answer.returncode:
        words = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise LinkLost(f"{command[0]}: {words[-1]}")


def _copy_ourselves(source: str, target: str, *, into: bool, size_bytes: int) -> None:
    import asyncio

    connect = import_module("host.nbd_client").NbdClient.connect

    async def run(image: IO[bytes]) -> None:
        client = await connect(target if into else source)
        try:
            if into:
                await client.copy_in(source)
                return
            for offset in range(0, size_bytes, MiB):
                image.write(await client.read(offset, min(MiB, size_bytes - offset)))
        finally:
            await client.close()

    with open(os.devnull if into else target, "wb") as image:
        asyncio.run(run(image))


def busiest(up: Up) -> LocalNode:
    """The node that owns most regions of the demo volume and served most writes."""
    table = up.client.regions(VOLUME, 0, 4096)
    owned = {node.node: 0 for node in up.cluster.nodes}
    for row in table:
        if row["owner"] in owned:
            owned[row["owner"]] += 1
    return max(up.cluster.nodes, key=lambda node: (owned[node.node], -node.node))


class Demo:
    """The steps, in the order in which they are told."""

    def __init__(self, up: Up, story: Story, directory: Path, size_bytes: int) -> None:
        self._up = up
        self._story = story
        self._image = directory / "image"
        self._size_bytes = size_bytes
        self._writer: WriterProcess | None = None

    def close(self) -> None:
        """End the writer, if it runs."""
        if self._writer is not None:
            self._writer.close()

    def run(self, seconds: float) -> bool:
        """Everything after the start. True when nothing was lost."""
        digest = self._fill()
        victim = busiest(self._up)
        self._writer = self._write(victim, seconds)
        self._kill(victim)
        self._repair(victim)
        return self._verdict(digest)

    def _address(self, node: LocalNode) -> str:
        return f"nbd://{node.host}:{node.nbd_port}/{VOLUME}"

    def _fill(self) -> str:
        from admin.cli import wait_created

        story, client = self._story, self._up.client
        client.create_volume({"name": VOLUME, "size_bytes": self._size_bytes})
        row = wait_created(client, VOLUME, quiet=story.quiet)
        regions = row["regions"]["total"]
        size = format_size(self._size_bytes)
        story.tell("created", f"volume {VOLUME} of {size} in {regions} regions", regions=regions)
        digest = make_image(self._image, self._size_bytes // 2)
        image_bytes = self._image.stat().st_size
        began_ms = story.now_ms()
        target = self._address(self._up.cluster.nodes[0])
        tool = copy(str(self._image), target, into=True, size_bytes=image_bytes)
        took_ms = story.now_ms() - began_ms
        text = f"{format_size(image_bytes)} of real files copied in with {tool}, {took_ms:.0f} ms"
        story.tell("copied", text, bytes=image_bytes, tool=tool, took_ms=round(took_ms))
        return digest

    def _write(self, victim: LocalNode, seconds: float) -> WriterProcess:
        # The victim comes first: the hardest case is a host whose own path dies with the owner.
        nodes = [victim, *(node for node in self._up.cluster.nodes if node != victim)]
        half = self._size_bytes // 2
        writer = WriterProcess(
            [f"{node.host}:{node.nbd_port}" for node in nodes], half, self._size_bytes - half
        )
        self._writer = writer
        writer.listen(seconds)
        writes, longest = writer.last["writes"], writer.last["longest_ms"]
        text = f"a host keeps writing through {victim.name}: {writes} writes, longest {longest} ms"
        self._story.tell("writing", text, writes=writes, longest_ms=longest)
        return writer

    def _kill(self, victim: LocalNode) -> None:
        assert self._writer is not None
        rows = self._up.client.regions(VOLUME, 0, 4096)
        owned = sum(row["owner"] == victim.node for row in rows)
        pid = signal_node(victim, signal.SIGKILL)
        text = f"SIGKILL to {victim.name} (process {pid}), the owner of {owned} regions"
        self._story.tell("killed", text, node=victim.node, pid=pid, regions=owned)
        began_ms = self._story.now_ms()
        while self._story.now_ms() - began_ms < REPAIR_SECONDS * 1000:
            self._writer.listen(0.02)
            with suppress(StorageError):
                rows = self._up.client.regions(VOLUME, 0, 4096)
                if all(row["owner"] not in (victim.node, -1) for row in rows):
                    break
        else:
            raise RequestTimeout(f"regions of {victim.name} were not taken over")
        took_ms = self._story.now_ms() - began_ms
        text = f"every region has a living owner again, {took_ms:.0f} ms after the kill"
        self._story.tell("taken_over", text, took_ms=round(took_ms))
        self._writer.listen(1.0)  # let the write that waited longest be answered
        longest = self._writer.last["longest_ms"]
        text = f"longest time that one write took, over the kill: {longest:.0f} ms"
        self._story.tell("stall", text, longest_ms=longest)

    def _repair(self, victim: LocalNode) -> None:
        assert self._writer is not None
        began_ms = self._story.now_ms()
        with output.progress("re-mirroring to other nodes", quiet=self._story.quiet) as bar:
            while self._story.now_ms() - began_ms < REPAIR_SECONDS * 1000:
                self._writer.listen(0.2)
                with suppress(StorageError):
                    regions = self._up.client.volume(VOLUME)["regions"]
                    bar(regions["normal"], regions["total"])
                    if regions["normal"] == regions["total"]:
                        break
            else:
                raise RequestTimeout("not every region has two copies again")
        took_ms = self._story.now_ms() - began_ms
        text = f"every region has two copies on {len(self._up.cluster.nodes) - 1} nodes"
        text += f", {took_ms:.0f} ms later, while the host went on"
        self._story.tell("repaired", text, took_ms=round(took_ms))

    def _verdict(self, digest: str) -> bool:
        assert self._writer is not None
        report = self._writer.finish()
        wrong, failures = report["wrong"], report["failures"]
        text = (
            f"{report['writes']} writes acknowledged; {report['blocks']} blocks read back,"
            f" {len(wrong)} wrong; {len(failures)} errors"
        )
        numbers = {key: report[key] for key in ("writes", "blocks", "longest_ms", "paths_lost")}
        self._story.tell("compared", text, wrong=wrong, failures=failures, **numbers)
        for failure in failures:
            output.warn(failure)
        size_bytes = self._image.stat().st_size
        back = self._image.with_name("image.back")
        source = self._address(self._alive())
        tool = copy(source, str(back), into=False, size_bytes=size_bytes)
        found = hashlib.sha256(back.read_bytes()).hexdigest()
        same = "the same bytes" if found == digest else "DIFFERENT bytes"
        self._story.tell(
            "read_back", f"{format_size(size_bytes)} of files read back with {tool}: {same}",
            same=found == digest, tool=tool,
        )  # fmt: skip
        return found == digest and not wrong and not failures

    def _alive(self) -> LocalNode:
        return next(node for node in self._up.cluster.nodes if node_pid(node) is not None)


def run(
    *,
    nodes: int = 8,
    size_bytes: int = 256 * MiB,
    seconds: float = 3.0,
    keep: bool = False,
    as_json: bool = False,
    entry: str | None = None,
) -> int:
    """The whole demo. Exit code: 0 when nothing was lost and every node stopped cleanly.

    entry: as in `NodeProcesses`.
    """
    story = Story(as_json)
    directory = Path(tempfile.mkdtemp(prefix="eightfold-demo-"))
    up: Up | None = None
    demo: Demo | None = None
    good, killed = False, []
    try:
        up = Up(
            directory / "cluster",
            config_file=None,
            nodes=nodes,
            base_port=free_base_port(nodes),
            as_json=as_json,
            entry=entry,
        )
        took_ms = up.start()
        text = f"{nodes} node processes ready for hosts after {took_ms} ms"
        story.tell("ready", text, nodes=nodes, took_ms=took_ms)
        demo = Demo(up, story, directory, size_bytes)
        good = demo.run(seconds)
    finally:
        if demo is not None:
            demo.close()
        if up is not None:
            killed = up.stop()
        if keep or not good:
            output.warn(f"directory kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    story.tell("stopped", "all nodes stopped" if not killed else "nodes had to be killed")
    verdict = "nothing was lost" if good else "DATA WAS LOST OR ERRORS WERE SEEN"
    story.tell("verdict", f"verdict: {verdict}", good=good and not killed)
    return 0 if good and not killed else 1
