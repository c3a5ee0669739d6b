"""shell: the management plane of one node on MQTT: state, statistics, events, commands.

Nothing that a host sees depends on it: it reads what `NodeView` shows, it has tasks and a
supervisor of its own, and while the broker is away it forgets statistics and keeps a few events.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from admin.mqtt_commands import Accepted, CommandDesk
from admin.view import NodeView
from base.errors import RemoteProtocolError, StorageError
from base.log import EventTap
from base.tasks import Supervisor
from transport.broker import BrokerAddress, BrokerConnection, LastWill
from transport.mqtt_topics import (
    LEVELS,
    Answer,
    Command,
    Event,
    NodeState,
    Statistics,
    Topic,
    decode,
    encode,
    is_event,
    parse_topic,
)

log = structlog.get_logger()

EVENTS_MAX: Final = 256  # waiting for the broker; older ones are dropped
STATE_TICKS: Final = 10  # the state is said again so often, also when it is the same
GOODBYE_S: Final = 1.0
_TEXT_MAX: Final = 500
_NOT_VALUES: Final = ("event", "level", "timestamp", "exc_info", "exception", "stack_info")


@dataclass(frozen=True, slots=True)
class PlaneOptions:
    """Who publishes, and where hosts and operators find this node."""

    cluster: str
    node: int
    life: str
    incarnation: int
    host: str
    nbd_port: int
    admin_port: int
    version: str
    statistics_ms: int


class MqttPlane:
    """`start`, then `close`. Failures of its own are logged and end it, never the node."""

    def __init__(
        self,
        view: NodeView,
        address: BrokerAddress,
        options: PlaneOptions,
        *,
        token: bytes,
        tap: EventTap,
        rng: random.Random,
    ) -> None:
        self._view = view
        self._options = options
        self._tap = tap
        self._supervisor = Supervisor("mqtt", self._failed)
        self._desk = CommandDesk(options.node, options.life, token)
        self._state = NodeState(
            node=options.node, state="starting", life=options.life,
            incarnation=options.incarnation, leader=-1, term=0, catalog_version=0,
            host=options.host, nbd_port=options.nbd_port, admin_port=options.admin_port,
            version=options.version,
        )  # fmt: skip
        self._said: NodeState | None = None  # the state that the broker holds
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._events_made = 0
        self._publishing = False
        self._refused = 0
        self._loop: asyncio.AbstractEventLoop
        self._broker = BrokerConnection(
            address,
            identifier=f"eightfold-{options.cluster[:40]}-n{options.node}",
            subscriptions=[str(self._topic("command"))],
            on_message=self._received,
            on_up=self._broker_up,
            on_down=self._broker_down,
            on_failure=self._failed,
            rng=rng,
            will=self._will,
        )

    def _topic(self, kind: str, name: str = "") -> Topic:
        return Topic(self._options.cluster, kind, self._options.node, name)

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. Does not wait for the broker."""
        self._loop = asyncio.get_running_loop()
        self._tap.listener = self._event_logged
        self._supervisor.start(self._broker.run(), name="broker")
        self._supervisor.start(self._tell(), name="statistics")

    def stopping(self) -> None:
        """Say that the node begins to stop."""
        self._state = replace(self._state, state="stopping")
        self._say_state()

    async def close(self) -> None:
        """Say that the node stopped, if the broker listens, and leave."""
        self._tap.listener = None
        self._state = replace(self._state, state="stopped")
        self._say_state()
        await self._broker.drain(GOODBYE_S)
        await self._supervisor.close()

    def _failed(self, name: str, error: BaseException) -> None:
        log.error("mqtt.failed", task=name, exc_info=error)

    def _will(self) -> LastWill:
        lost = replace(self._state, state="lost")
        return LastWill(str(self._topic("state")), encode(lost), retain=True)

    def _broker_up(self) -> None:
        self._said = None
        self._say_state()
        self._publish_events()
        log.info("broker.joined")

    def _broker_down(self, reason: str) -> None:
        self._said = None

    # -- state and statistics ------------------------------------------------------------------

    async def _tell(self) -> None:
        while True:
            if self._broker.up:
                try:
                    await self._tell_once()
                except StorageError as error:
                    log.warning("mqtt.statistics_failed", error=str(error))
            await asyncio.sleep(self._options.statistics_ms / 1000)

    async def _tell_once(self) -> None:
        status = await self._view.status()
        if self._state.state in ("starting", "serving", "waiting"):
            ready = status["ready"]
            waiting = "starting" if self._state.state == "starting" else "waiting"
            self._state = replace(
                self._state,
                state="serving" if ready else waiting,
                incarnation=status["incarnation"],
                leader=status["leader"],
                term=status["term"],
                catalog_version=status["catalog_version"],
            )
        values: Any = await self._view.statistics()
        tick = self._desk.next_tick()
        if tick % STATE_TICKS == 0:
            self._said = None
        self._say_state()
        said = Statistics(self._options.node, self._options.life, tick, dict(values))
        self._broker.publish(str(self._topic("statistics")), encode(said))

    def _say_state(self) -> None:
        if self._state != self._said and self._broker.publish(
            str(self._topic("state")), encode(self._state), retain=True
        ):
            self._said = self._state

    # -- events --------------------------------------------------------------------------------

    def _event_logged(self, line: dict[str, Any]) -> None:
        """From any thread."""
        name = str(line.get("event"))
        level = str(line.get("level"))
        if not is_event(name) or level not in LEVELS:
            return
        values = {str(key): _plain(line[key]) for key in line if key not in _NOT_VALUES}
        event = Event(
            self._options.node, self._options.life, self._events_made, name, level,
            str(line.get("timestamp", "")), values,
        )  # fmt: skip
        self._events_made += 1
        self._events.append(event)
        if not self._publishing and not self._loop.is_closed():
            self._publishing = True
            self._loop.call_soon_threadsafe(self._publish_events)

    def _publish_events(self) -> None:
        self._publishing = False
        while self._events:
            event = self._events[0]
            payload = encode(event)
            if len(payload) > Event.BYTES_MAX:
                payload = encode(replace(event, values={"cut_bytes": len(payload)}))
            if not self._broker.publish(str(self._topic("event", event.name)), payload):
                return
            self._events.popleft()

    # -- commands ------------------------------------------------------------------------------

    def _received(self, topic: str, payload: bytes) -> None:
        try:
            if topic != str(self._topic("command")):  # a broker may send what nobody asked it for
                raise RemoteProtocolError(f"topic: {topic[:80]!r} is not for this node")
            command = decode(parse_topic(topic), payload)
        except RemoteProtocolError as error:
            self._refused += 1
            if self._refused & (self._refused - 1) == 0:  # the first, second, fourth, …
                log.warning("mqtt.command_refused", reason=str(error), refused=self._refused)
            return
        assert isinstance(command, Command)
        todo = self._desk.take(command)
        if isinstance(todo, Answer):
            self._answer(command, todo)
        elif todo is not None:
            self._supervisor.start(self._perform(command, todo), name=f"command.{command.verb}")

    async def _perform(self, command: Command, accepted: Accepted) -> None:
        number = command.number
        try:
            value = await accepted.operation.perform(self._view, accepted.ask)
            answer = Answer(self._options.node, number, "", "", True, value)
            if len(encode(answer)) > Answer.BYTES_MAX:
                text = f"the answer is larger than {Answer.BYTES_MAX} bytes: ask for less"
                answer = Answer(self._options.node, number, "invalid", text, False, None)
        except StorageError as error:
            answer = self._desk.refusal(command, error)
        except Exception as error:
            log.error("mqtt.command_failed", verb=command.verb, error=repr(error), exc_info=True)
            text = "an error inside the node; its log says more"
            answer = Answer(self._options.node, number, "internal", text, False, None)
        self._desk.done(command, answer)
        self._answer(command, answer)

    def _answer(self, command: Command, answer: Answer) -> None:
        topic = Topic(self._options.cluster, "answer", name=command.operator)
        self._broker.publish(str(topic), encode(answer))


def _plain(value: object) -> object:
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return value
    return str(value)[:_TEXT_MAX]
