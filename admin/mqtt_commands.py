"""step: which commands that came by MQTT are to be done, and which were done already.

Whoever may publish can send anything, and again later, so a command proves that its sender knows
the token of the cluster, names the life of the node, and one of its last statistics. Within that
window the node remembers what it was asked: the same command again is answered again, not done
again, so an operator who has got no answer can repeat it.
"""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from admin.operations import OPERATIONS, Ask, Operation
from base.errors import AccessDenied, InvalidRequest, Overloaded, StorageError
from base.units import KiB
from transport.mqtt_topics import Answer, Command, encode, proof_of

TICKS_KEPT: Final = 60
REMEMBERED_MAX: Final = 1024
RUNNING_MAX: Final = 16
KEPT_BYTES_MAX: Final = 64 * KiB  # a longer answer is not kept for a repeat

_BY_NAME: Final = {operation.name: operation for operation in OPERATIONS}
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """To be done now; then `CommandDesk.done`."""

    operation: Operation
    ask: Ask


@dataclass(slots=True)
class _Asked:
    tick: int
    proof: bytes
    answer: Answer | None = None  # None: it is being done


class CommandDesk:
    """The commands of one life of a node."""

    def __init__(self, node: int, life: str, token: bytes) -> None:
        self.tick = 0  # of the last statistics that were published
        self._node = node
        self._life = life
        self._token = token
        self._asked: OrderedDict[tuple[str, int], _Asked] = OrderedDict()  # oldest first
        self._running = 0

    def next_tick(self) -> int:
        """Statistics are about to be published; what is older than the window is forgotten."""
        self.tick += 1
        while self._asked:
            first = next(iter(self._asked))
            asked = self._asked[first]
            if asked.tick > self.tick - TICKS_KEPT or asked.answer is None:
                break
            del self._asked[first]
        return self.tick

    def take(self, command: Command) -> Accepted | Answer | None:
        """What to do, or the answer to give at once; None: it is being done already."""
        try:
            return self._take(command)
        except StorageError as error:
            return self.refusal(command, error)

    def _take(self, command: Command) -> Accepted | Answer | None:
        wanted = proof_of(self._token, self._node, command)
        if not hmac.compare_digest(wanted, command.proof):
            raise AccessDenied("proof: the sender does not know the token of the cluster")
        if command.life != self._life:
            raise InvalidRequest("life: the node has been started anew since")
        if not self.tick - TICKS_KEPT < command.tick <= self.tick:
            raise InvalidRequest(f"tick: {command.tick} is not one of the last {TICKS_KEPT}")
        key = (command.operator, command.number)
        before = self._asked.get(key)
        if before is not None:
            if before.proof != command.proof:
                raise InvalidRequest("number: another command had it")
            return before.answer
        accepted = Accepted(*_read(command))
        if len(self._asked) >= REMEMBERED_MAX or self._running >= RUNNING_MAX:
            raise Overloaded(f"{len(self._asked)} commands are remembered, {self._running} run")
        # By the newest tick, not the one it names: it is remembered longer than it is taken.
        self._asked[key] = _Asked(self.tick, command.proof)
        self._running += 1
        return accepted

    def done(self, command: Command, answer: Answer) -> None:
        """It was done, or failed."""
        self._running -= 1
        asked = self._asked[command.operator, command.number]
        if len(encode(answer)) > KEPT_BYTES_MAX:
            answer = Answer(
                self._node, command.number, "invalid",
                "it was done and answered; the answer was too long to be kept", False, None,
            )  # fmt: skip
        asked.answer = answer

    def refusal(self, command: Command, error: StorageError) -> Answer:
        """The answer that says why not."""
        code = getattr(error, "remote_code", error.code)
        return Answer(
            self._node, command.number, code, str(error)[:4096], error.definite, None
        )  # fmt: skip


def _read(command: Command) -> tuple[Operation, Ask]:
    """The operation that is asked for. InvalidRequest names what is wrong."""
    operation = _BY_NAME.get(command.verb)
    if operation is None:
        raise InvalidRequest(f"verb: {command.verb[:40]} is none of {', '.join(sorted(_BY_NAME))}")
    wanted = _PARAMETER.findall(operation.path)
    _refuse_others("path", command.path, wanted)
    for name in wanted:
        if type(command.path.get(name)) is not str:
            raise InvalidRequest(f"path.{name}: must be a text")
    if command.body and operation.body is None:
        raise InvalidRequest(f"body: {operation.name} takes none")
    return operation, Ask(dict(command.path), _query(operation, command.query), command.body)


def _query(operation: Operation, given: dict[str, Any]) -> dict[str, int]:
    _refuse_others("query", given, [number.name for number in operation.query])
    values: dict[str, int] = {}
    for number in operation.query:
        value = given.get(number.name, number.default)
        if value is None:
            raise InvalidRequest(f"query.{number.name}: is missing")
        if type(value) is not int or not number.least <= value <= number.most:
            raise InvalidRequest(
                f"query.{number.name}: must be a number from {number.least} to {number.most}"
            )
        values[number.name] = value
    return values


def _refuse_others(where: str, given: dict[str, Any], known: list[str]) -> None:
    for name in sorted(given):
        if name not in known:
            raise InvalidRequest(f"{where}.{name[:40]}: is not a parameter")
