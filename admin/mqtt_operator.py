"""shell: an operator at the broker: sees what nodes publish, and sends them commands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

import structlog

from base.errors import NotConnected, RemoteProtocolError, RequestTimeout, from_code
from base.tasks import Supervisor
from transport.broker import BrokerAddress, BrokerConnection
from transport.mqtt_topics import (
    PROOF_BYTES,
    ROOT,
    Answer,
    Command,
    Message,
    NodeState,
    Statistics,
    Topic,
    decode,
    encode,
    parse_topic,
    proof_of,
)

log = structlog.get_logger()

REPEAT_S: Final = 2.0  # a command without an answer is sent again

OnManagement = Callable[[Topic, Message], None]


class MqttOperator:
    """An async context: connected inside. NotConnected when the broker does not answer in time.

    rng: the id, and numbers of commands; seed it from the system. `states` and `statistics` hold
    the last of each node.
    """

    def __init__(
        self,
        address: BrokerAddress,
        cluster: str,
        token: bytes,
        *,
        rng: random.Random,
        on_message: OnManagement = lambda topic, message: None,
        connect_seconds: float = 10.0,
    ) -> None:
        self.states: dict[int, NodeState] = {}
        self.statistics: dict[int, Statistics] = {}
        self.refused: list[str] = []  # the last few messages that were none
        self._cluster = cluster
        self._token = token
        self._where = f"{address.host}:{address.port}"
        self._operator = f"{rng.getrandbits(64):016x}"
        self._number = 0
        self._on_message = on_message
        self._seconds = connect_seconds
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._changed = asyncio.Event()
        self._supervisor = Supervisor("operator")
        self._broker = BrokerConnection(
            address,
            identifier=f"eightfold-op-{self._operator}",
            subscriptions=[
                f"{ROOT}/{cluster}/node/+/state",
                f"{ROOT}/{cluster}/node/+/statistics",
                f"{ROOT}/{cluster}/node/+/event/+",
                f"{ROOT}/{cluster}/answer/{self._operator}",
            ],
            on_message=self._received,
            on_up=self._changed.set,
            on_down=lambda reason: None,
            on_failure=lambda name, error: log.error("operator.failed", task=name, exc_info=error),
            rng=rng,
        )

    async def __aenter__(self) -> MqttOperator:
        self._supervisor.start(self._broker.run(), name="broker")
        try:
            await self.until(lambda: self._broker.up, self._seconds)
        except RequestTimeout:
            await self._supervisor.close()
            raise NotConnected(f"no broker answers at {self._where}, or it refused us") from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._supervisor.close()

    def _received(self, topic: str, payload: bytes) -> None:
        try:
            parsed = parse_topic(topic)
            message = decode(parsed, payload)
        except RemoteProtocolError as error:
            self.refused = [*self.refused[-15:], str(error)]
            return
        match message:
            case NodeState():
                self.states[message.node] = message
            case Statistics():
                self.statistics[message.node] = message
            case Answer():
                waiting = self._answers.get(message.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
        self._on_message(parsed, message)
        self._changed.set()

    async def until(self, condition: Callable[[], object], seconds: float) -> None:
        """Return when it is true; it is looked at after each message. RequestTimeout."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise RequestTimeout(f"nothing of that was heard for {seconds:g} s") from None

    async def call(
        self,
        node: int,
        verb: str,
        *,
        path: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        seconds: float = 30.0,
    ) -> Any:
        """What the operation answers; what it refused, as its error. RequestTimeout: no answer, and
        it may have happened."""
        await self.until(lambda: self._hears(node), seconds)
        heard = self.statistics[node]
        self._number += 1
        number = self._number
        command = Command(
            self._operator, number, heard.life, heard.tick, verb,
            path or {}, query or {}, body or {}, bytes(PROOF_BYTES),
        )  # fmt: skip
        payload = encode(replace(command, proof=proof_of(self._token, node, command)))
        waiting = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            topic = str(Topic(self._cluster, "command", node))
            answer = await self._ask(topic, payload, waiting, seconds)
        finally:
            del self._answers[number]
        if answer.code:
            raise from_code(answer.code, answer.text)
        return answer.value

    def _hears(self, node: int) -> bool:
        """A node that is lost published its last statistics in a life that is over."""
        state, heard = self.states.get(node), self.statistics.get(node)
        return heard is not None and (state is None or state.life == heard.life)

    async def _ask(
        self, topic: str, payload: bytes, waiting: asyncio.Future[Answer], seconds: float
    ) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._broker.publish(topic, payload)
                    try:
                        async with asyncio.timeout(REPEAT_S):
                            return await asyncio.shield(waiting)
                    except TimeoutError:
                        log.debug("command.repeated", topic=topic)
        except TimeoutError:
            raise RequestTimeout(f"no answer within {seconds:g} s") from None
