"""shell: the host side. One local NBD socket in front of all nodes of a cluster.

A host that is attached has a link to every node and sends each request straight to the owner of its
region [0030]. It learns owners by asking any node for the topology of its volume, at once when a
reply or a link says that something moved, often while requests wait, seldom otherwise; only a newer
version of the catalog counts. `host.router` cuts, sends, repeats and gives up; this module knows
the topology, drives the router, and serves NBD.

Nothing here reads the real world: bus, clock and random numbers are passed in, so that it runs in
the virtual-time loop as well. `run` is the whole in one call, for the command line.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import uvloop

from base.clock import Clock, RealClock
from base.errors import (
    ConfigError,
    NoQuorum,
    NotConnected,
    NotFound,
    RegionOffline,
    RemoteProtocolError,
    RequestTimeout,
    StorageError,
    from_code,
)
from base.ids import NOBODY, node_name
from base.log import configure
from base.place import Address, parse_address
from base.tasks import Supervisor
from base.units import NS_PER_MS, NS_PER_S, SECTOR_BYTES
from host.export import HostRequest, RequestKind, Result
from host.nbd_target import NbdLimits, NbdTarget
from host.router import Piece, Router
from host.topology import CALL, Topology, pack_query, unpack_topology
from transport.bus import MessageBus
from transport.link import address_text
from transport.mesh import MeshClient, MeshClientConfig
from transport.messages import AdminReply, AdminRequest, HostReplies, SyncReply

log = structlog.get_logger()

TIMEOUT_MS_DEFAULT: Final = 20_000
OPEN_TIMEOUT_MS_DEFAULT: Final = 10_000

BEAT_NS: Final = 20 * NS_PER_MS  # the router's ticks, while it has work
ASK_WAITING_NS: Final = 50 * NS_PER_MS  # between questions while requests find no owner
ASK_BUSY_NS: Final = 250 * NS_PER_MS  # while requests are on their way
ASK_IDLE_NS: Final = 2 * NS_PER_S
ASK_GAP_NS: Final = 10 * NS_PER_MS  # never more often, whatever replies and links say
ANSWER_NS: Final = NS_PER_S  # a node that owes an answer is passed over for so long
SILENT_NS: Final = 100 * NS_PER_MS  # requests on their way and no reply at all: they wait
NOT_FOUND_NS: Final = NS_PER_S  # a node may not have heard of a new volume yet, but not for so long
LOG_GAP_NS: Final = NS_PER_S  # between lines about requests that failed


@dataclass(slots=True)
class AttachCounters:
    """What an attached volume has seen since it was opened."""

    topologies: int = 0  # taken
    questions: int = 0
    timeouts: int = 0  # operations given up


class AttachedVolume:
    """A `VolumeView` whose volume, or snapshot (`VOLUME@SNAPSHOT`), is served by a cluster, and the
    `Ways` of its router.

    bus: of a client, not started. rng: which node is asked first. timeout_ms: a request that cannot
    be served for so long fails. Call `open` before anything else and `close` at the end.
    """

    def __init__(
        self,
        name: str,
        *,
        bus: MessageBus,
        clock: Clock,
        rng: random.Random,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> None:
        self.name = name
        self.description = "a volume of an Eightfold cluster"
        self.size_bytes = 0
        self.block_min_bytes = SECTOR_BYTES
        self.read_only = False
        self.counters = AttachCounters()
        self.topology: Topology | None = None
        self.router = Router(
            client=int(bus.self_id),
            self_id=-1,  # no region is owned by a host
            ways=self,
            timeout_ns=timeout_ms * NS_PER_MS,
            local_sync=None,
        )
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[None] | None = None
        self._open_until_ns = 0
        self._refusal: StorageError | None = None  # every request from now on
        self._volume = 0
        self._view = 0
        self._region_bytes = 1
        self._owners = b""
        self._linked: list[int] = []  # ascending
        self._asks: dict[int, tuple[int, int]] = {}  # by peer: request, when
        self._asked = 0  # number of the last question
        self._asked_ns = 0
        self._asked_peer = 0
        self._ask_now = True
        self._not_found_ns = 0
        self._last_error: StorageError | None = None  # what a node answered instead of a topology
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._turn_due = False
        self._retries_seen = 0
        self._heard_ns = 0
        self._logged_ns = 0
        self._unlogged = 0

    # ------------------------------------------------------------------ life

    async def open(self, timeout_ms: int = OPEN_TIMEOUT_MS_DEFAULT) -> None:
        """Link to the nodes and wait for the first topology.

        NotFound: there is no such volume. NotConnected, or what a node said: none in time.
        """
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        now_ns = self._clock.now_ns()
        self._open_until_ns = now_ns + timeout_ms * NS_PER_MS
        self._asked_ns = now_ns - ASK_IDLE_NS
        self._logged_ns = now_ns - LOG_GAP_NS
        self._bus.set_receiver(self._on_message, self._on_link)
        await self._bus.start()
        self._arm(BEAT_NS)
        await self._opened

    async def close(self) -> None:
        """Fail what is left, end all links."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._refusal = None
        self.router.close()
        await self._bus.close()

    # ------------------------------------------------------------------ view

    def submit(self, request: HostRequest) -> None:
        """VolumeView's."""
        if self._refusal is not None:
            request.done(self._refusal)
            return
        if request.kind is RequestKind.FLUSH:
            self._log_failure_of(request)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)
        self.router.submit(
            self._volume, self._region_bytes, request, self._clock.now_ns(), self._view
        )

    def _log_failure_of(self, request: HostRequest) -> None:
        reply = request.reply
        assert reply is not None

        def replied(answered: HostRequest, error: StorageError | None, result: Result) -> None:
            if isinstance(error, RequestTimeout):
                self._log_timeout("flush", error)
            reply(answered, error, result)

        request.reply = replied

    def _turn(self) -> None:
        """The end of a turn of the loop: everything that it collected leaves."""
        self._turn_due = False
        now_ns = self._clock.now_ns()
        self.router.flush_out(now_ns)
        if not self._busy and len(self.router):
            self._busy = True
            self._heard_ns = now_ns
            self._arm(BEAT_NS)

    def _end_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    # ------------------------------------------------------------------ ways

    def owner_of(self, volume: int, region: int) -> int:
        """By the last topology."""
        owners = self._owners
        return owners[region] if region < len(owners) else int(NOBODY)

    def up_nodes(self) -> tuple[int, ...]:
        """By the last topology."""
        return () if self.topology is None else self.topology.up_nodes

    def send(self, peer: int, message: object) -> bool:
        """The bus's."""
        return self._bus.send(peer, message)

    def local(self, piece: Piece) -> None:
        """No region is owned by a host."""
        raise AssertionError(piece.record)

    def why(self, volume: int, region: int) -> StorageError:
        """Asked once for each operation that is given up; says so in the log."""
        error = self._reason(region)
        self.counters.timeouts += 1
        self._log_timeout(f"region {region}", error)
        return error

    def _reason(self, region: int) -> StorageError:
        owner = self.owner_of(self._volume, region)
        if not self._linked:
            return NotConnected("no node of the cluster can be reached")
        if owner == NOBODY:
            waiting_for = "a node that holds it in sync"
            return RegionOffline(volume=self.name, region=region, waiting_for=waiting_for)
        if not self._bus.session(owner):
            return NoQuorum(
                f"{node_name(owner)} owns region {region} of {self.name} and cannot be reached;"
                " no majority has named another owner"
            )
        return RequestTimeout(
            f"{node_name(owner)} owns region {region} of {self.name} and gives no answer"
        )

    def _log_timeout(self, what: str, error: StorageError) -> None:
        now_ns = self._clock.now_ns()
        if now_ns - self._logged_ns < LOG_GAP_NS:
            self._unlogged += 1
            return
        self._logged_ns = now_ns
        log.warning(
            "request.timed_out", volume=self.name, what=what, code=error.code, reason=str(error),
            unlogged=self._unlogged,
        )  # fmt: skip
        self._unlogged = 0

    # ------------------------------------------------------------------ from the bus

    def _on_message(self, peer: int, message: object) -> None:
        router, now_ns = self.router, self._clock.now_ns()
        if type(message) is HostReplies:
            self._heard_ns = now_ns
            before = router.retries
            router.replies(peer, message, now_ns)
            if router.retries != before:  # moved, or never its owner
                self._want_topology(now_ns)
        elif type(message) is SyncReply:
            self._heard_ns = now_ns
            router.sync_reply(peer, message)
        elif type(message) is AdminReply:
            self._on_answer(peer, message, now_ns)
        else:
            raise RemoteProtocolError(
                f"{node_name(peer)} sent a host a {type(message).__name__}, which is not for hosts"
            )

    def _on_link(self, peer: int, session: int) -> None:
        now_ns = self._clock.now_ns()
        self._asks.pop(peer, None)
        linked = dict.fromkeys(self._linked)
        linked.pop(peer, None)
        if session:
            linked[peer] = None
        self._linked = sorted(linked)
        self.router.link_changed(peer, session, now_ns)
        if session:
            self.router.topology_changed(now_ns)  # what waited for this link need not wait longer
        self._end_turn()
        self._want_topology(now_ns)

    # ------------------------------------------------------------------ topology

    def _want_topology(self, now_ns: int) -> None:
        """Ask soon: at once, unless the last question is very recent."""
        if now_ns - self._asked_ns >= ASK_GAP_NS:
            self._ask(now_ns)
        elif not self._ask_now:
            self._ask_now = True
            self._arm(BEAT_NS)

    def _ask(self, now_ns: int) -> None:
        """Ask the next node that owes no answer."""
        linked, last = self._linked, self._asked_peer
        start = next((at for at, peer in enumerate(linked) if peer > last), 0)
        if not self._asked and linked:
            start = self._rng.randrange(len(linked))  # not all hosts ask the same node
        for peer in linked[start:] + linked[:start]:
            owed = self._asks.get(peer)
            if owed is not None and now_ns - owed[1] < ANSWER_NS:
                continue
            version = 0 if self.topology is None else self.topology.version
            question = AdminRequest(self._asked + 1, CALL, pack_query(self.name, version))
            if not self._bus.send(peer, question):
                continue
            self._asked += 1
            self._asks[peer] = (self._asked, now_ns)
            self._asked_peer, self._asked_ns, self._ask_now = peer, now_ns, False
            self.counters.questions += 1
            return

    def _on_answer(self, peer: int, reply: AdminReply, now_ns: int) -> None:
        owed = self._asks.get(peer)
        if owed is None or owed[0] != reply.request:
            return  # to a question that was given up
        del self._asks[peer]
        if reply.code:
            self._on_refusal(peer, from_code(reply.code, reply.text), now_ns)
            return
        topology = unpack_topology(reply.result)
        if topology is not None:
            self._take(peer, topology, now_ns)

    def _on_refusal(self, peer: int, error: StorageError, now_ns: int) -> None:
        if self._last_error is None or str(error) != str(self._last_error):
            log.warning(
                "topology.refused", volume=self.name, peer=peer, code=error.code, reason=str(error)
            )
        self._last_error = error
        if isinstance(error, NotFound) and not self._not_found_ns:
            self._not_found_ns = now_ns

    def _take(self, peer: int, topology: Topology, now_ns: int) -> None:
        current = self.topology
        if current is not None:
            if topology.version <= current.version:
                return
            if (topology.volume, topology.view) != (current.volume, current.view):
                # Removed, and made anew under the same name.
                self._refusal = NotFound(f"the volume {self.name} was removed")
                log.error("volume.removed", volume=self.name)
                return
            if (
                topology.region_bytes != current.region_bytes
                or topology.block_min_bytes != current.block_min_bytes
                or topology.size_bytes < current.size_bytes
            ):
                raise RemoteProtocolError(
                    f"{node_name(peer)}: the shape of volume {self.name} changed"
                )
        self.topology = topology
        self.counters.topologies += 1
        self._last_error = None
        self._volume, self._region_bytes = topology.volume, topology.region_bytes
        self._view = topology.view
        self._owners = topology.owners
        if topology.size_bytes != self.size_bytes:
            log.info("volume.sized", volume=self.name, size_bytes=topology.size_bytes)
        self.size_bytes = topology.size_bytes
        self.block_min_bytes = topology.block_min_bytes
        self.read_only = topology.read_only
        self.router.topology_changed(now_ns)
        self._end_turn()
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    # ------------------------------------------------------------------ time

    def _arm(self, delay_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(delay_ns / NS_PER_S, self._beat)

    def _beat(self) -> None:
        """Every 20 ms while there is work, else when it is time to ask."""
        self._timer = None
        now_ns = self._clock.now_ns()
        router = self.router
        self._busy = len(router) > 0
        if self._busy:
            router.tick(now_ns)
            router.flush_out(now_ns)
        interval_ns = self._ask_interval_ns(now_ns)
        if self._ask_now or now_ns - self._asked_ns >= interval_ns:
            self._ask(now_ns)
        if self.topology is None:
            self._maybe_fail_open(now_ns)
        if self._busy or self._ask_now or self.topology is None:
            self._arm(BEAT_NS)
        else:
            self._arm(max(BEAT_NS, self._asked_ns + ASK_IDLE_NS - now_ns))

    def _ask_interval_ns(self, now_ns: int) -> int:
        waiting = self.router.retries != self._retries_seen
        self._retries_seen = self.router.retries
        if self.topology is None:
            return ASK_WAITING_NS
        if not self._busy:
            return ASK_IDLE_NS
        if waiting or now_ns - self._heard_ns >= SILENT_NS:
            return ASK_WAITING_NS
        return ASK_BUSY_NS

    def _maybe_fail_open(self, now_ns: int) -> None:
        opened = self._opened
        if opened is None or opened.done():
            return
        if self._not_found_ns and now_ns - self._not_found_ns >= NOT_FOUND_NS:
            opened.set_exception(self._last_error or NotFound(f"there is no volume {self.name}"))
        elif now_ns >= self._open_until_ns:
            silent = NotConnected("no node of the cluster answers")
            opened.set_exception(self._last_error or silent)


class OneExport:
    """An export table with one volume, which is also what a host gets that names none."""

    def __init__(self, view: AttachedVolume) -> None:
        self._view = view

    def names(self) -> list[str]:
        """Its name."""
        return [self._view.name]

    def open(self, name: str) -> AttachedVolume:
        """The volume, or NotFound."""
        if name not in ("", self._view.name):
            raise NotFound(f"only {self._view.name!r} is attached here, not {name!r}")
        return self._view


async def attach(
    volume: str,
    *,
    bus: MessageBus,
    clock: Clock,
    rng: random.Random,
    listen: Sequence[Address],
    timeout_ms: int = TIMEOUT_MS_DEFAULT,
    open_timeout_ms: int = OPEN_TIMEOUT_MS_DEFAULT,
    limits: NbdLimits | None = None,
    on_open: Callable[[AttachedVolume], None] | None = None,
) -> None:
    """Serve a volume until cancelled; then what is in flight is answered and all is closed.

    listen: paths of Unix sockets, or TCP hosts and ports; may be empty. on_open: called when
    everything listens. Errors: those of `AttachedVolume.open`; ConfigError: cannot listen.
    """
    view = AttachedVolume(volume, bus=bus, clock=clock, rng=rng, timeout_ms=timeout_ms)
    target = NbdTarget(OneExport(view), clock=clock, limits=limits)
    try:
        await view.open(open_timeout_ms)
        for address in listen:
            if isinstance(address, str):
                await target.listen_unix(address)
            else:
                await target.listen_tcp(*address)
        log.info("volume.attached", volume=volume, size_bytes=view.size_bytes)
        if on_open is not None:
            on_open(view)
        await asyncio.get_running_loop().create_future()
    finally:
        await target.stop()
        await view.close()


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """What `run` needs. nodes: where nodes take links (their mesh ports), in any order."""

    volume: str
    listen: Address
    nodes: tuple[Address, ...]
    cluster_id: str
    secret: bytes = field(repr=False)
    timeout_ms: int = TIMEOUT_MS_DEFAULT


def run(options: AttachOptions) -> None:
    """Serve until SIGINT or SIGTERM, on uvloop and the real clock. Raises as `attach` does."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))


async def serve(
    options: AttachOptions, *, on_open: Callable[[AttachedVolume], None] | None = None
) -> None:
    """As `run`, in the loop that runs already. on_open: as of `attach`."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def failed(name: str, error: BaseException) -> None:
        if not ended.done():
            ended.set_exception(error)

    def stop() -> None:
        if not ended.done():
            ended.set_result(None)

    rng = random.Random(int.from_bytes(os.urandom(32), "little"))
    config = MeshClientConfig(options.cluster_id, options.secret, options.nodes)
    supervisor = Supervisor("attach", failed)
    supervisor.start(
        attach(
            options.volume,
            bus=MeshClient(config, rng=rng, on_failure=failed),
            clock=RealClock(),
            rng=rng,
            listen=(options.listen,),
            timeout_ms=options.timeout_ms,
            on_open=on_open,
        ),
        name=options.volume,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await ended
    finally:
        await supervisor.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def main(arguments: Sequence[str]) -> int:
    """For the command line. 0: ended by a signal; StorageErrors are the caller's to print."""
    parser = argparse.ArgumentParser("eightfold attach", allow_abbrev=False)
    parser.add_argument("--volume", required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", help="path of the Unix socket to listen on")
    where.add_argument("--listen", metavar="HOST:PORT", help="listen on TCP instead")
    parser.add_argument("--node", action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--cluster-id", required=True)
    parser.add_argument("--secret-file", required=True, type=Path)
    parser.add_argument("--timeout-ms", type=int, default=TIMEOUT_MS_DEFAULT)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args(arguments)
    if given.timeout_ms < 1:
        raise ConfigError(f"--timeout-ms: {given.timeout_ms}, at least 1")
    options = AttachOptions(
        volume=given.volume,
        listen=given.socket or parse_address(given.listen, "--listen"),
        nodes=tuple(parse_address(node, "--node") for node in given.node),
        cluster_id=given.cluster_id,
        secret=read_secret(given.secret_file),
        timeout_ms=given.timeout_ms,
    )
    configure(level=given.log_level, as_json=not sys.stderr.isatty())
    log.info("attach.started", nodes=[address_text(node) for node in options.nodes])
    run(options)
    return 0


def read_secret(path: Path) -> bytes:
    """The secret of the cluster. ConfigError when it cannot be read or others may read it."""
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            secret = stream.read(4096).strip()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"{path}: others may read it (mode {mode:04o}); run chmod 600 on it")
    return secret
