"""shell: questions from node to node and from attached hosts, by name of a call: asked, answered.

A question changes nothing at whoever answers, so it may be asked again and of somebody else. An
answer is bounded by the frame of the bus; who asks for much asks in parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from base.clock import Clock
from base.errors import (
    InvalidRequest,
    LinkLost,
    NotConnected,
    Overloaded,
    RemoteProtocolError,
    RequestTimeout,
    StorageError,
    from_code,
)
from base.ids import node_name
from transport import messages as wire

Perform = Callable[[bytes], bytes]  # may raise a StorageError, which the asker gets
WAITING_MAX: Final = 1024


class Questions:
    """Of one node. calls: what it answers, by name."""

    def __init__(self, self_id: int, clock: Clock, send: Callable[[int, object], bool]) -> None:
        self.calls: dict[str, Perform] = {}
        self._self_id = self_id
        self._clock = clock
        self._send = send
        self._number = 0
        self._waiting: dict[int, tuple[int, asyncio.Future[bytes]]] = {}

    async def ask(self, node: int, call: str, arguments: bytes, timeout_ms: int) -> bytes:
        """Its answer. NotConnected, LinkLost, RequestTimeout, or what the node refused."""
        if node == self._self_id:
            return self.calls[call](arguments)
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded(f"{WAITING_MAX} questions to other nodes wait already")
        self._number += 1
        number = self._number
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (node, answer)
        late = RequestTimeout(f"{node_name(node)} did not answer {call} within {timeout_ms} ms")
        timer = self._clock.call_later(timeout_ms / 1000, self._fail, number, late)
        try:
            if not self._send(node, wire.AdminRequest(number, call, arguments)):
                raise NotConnected(f"there is no link to {node_name(node)}")
            return await answer
        finally:
            timer.cancel()
            self._waiting.pop(number, None)

    def _fail(self, number: int, error: StorageError) -> None:
        _, answer = self._waiting.get(number, (0, None))
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def link(self, peer: int, session: int) -> None:
        """A link came, or went (0): who was asked over an old one will not answer over it."""
        del session
        for number, (node, _) in list(self._waiting.items()):
            if node == peer:
                self._fail(number, LinkLost(f"the link to {node_name(peer)} broke"))

    def on_request(self, peer: int, message: wire.AdminRequest) -> None:
        """Answer it."""
        code = text = ""
        result = b""
        try:
            perform = self.calls.get(message.call)
            if perform is None:
                raise InvalidRequest(f"there is no call {message.call[:64]!r}")
            result = perform(message.arguments)
        except RemoteProtocolError:
            raise
        except StorageError as error:
            code, text = error.code, str(error)
        self._send(peer, wire.AdminReply(message.request, code, text, result))

    def on_reply(self, peer: int, message: wire.AdminReply) -> None:
        """Of a question of this node, or one that was given up."""
        node, answer = self._waiting.get(message.request, (-1, None))
        if node != peer or answer is None or answer.done():
            return
        if message.code:
            answer.set_exception(from_code(message.code, message.text))
        else:
            answer.set_result(message.result)
