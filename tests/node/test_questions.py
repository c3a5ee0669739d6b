"""Questions from node to node: answered once, or given up with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from base.clock import RealClock
from base.errors import LinkLost, NotConnected, NotFound, RequestTimeout, StorageError
from node.questions import Questions
from transport.messages import AdminReply, AdminRequest


class Pair:
    """n0 asks n1. cut: nothing leaves; mute: nothing is answered."""

    def __init__(self) -> None:
        self.cut = self.mute = False
        clock = RealClock()
        self.asker = Questions(0, clock, lambda node, message: self.send(0, node, message))
        self.other = Questions(1, clock, lambda node, message: self.send(1, node, message))

    def send(self, source: int, node: int, message: Any) -> bool:
        if self.cut:
            return False
        to = (self.asker, self.other)[node]
        if isinstance(message, AdminRequest):
            if not self.mute:
                to.on_request(source, message)
        else:
            assert isinstance(message, AdminReply)
            to.on_reply(source, message)
        return True


def run(test: Callable[[Pair], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await test(Pair())

    return asyncio.run(main())


def refuse(arguments: bytes) -> bytes:
    raise NotFound(f"there is no {arguments.decode()}")


def test_an_answer_comes_back_also_from_the_node_itself() -> None:
    async def story(pair: Pair) -> list[bytes]:
        pair.other.calls["double"] = lambda arguments: arguments * 2
        pair.asker.calls["double"] = lambda arguments: arguments * 3
        return [await pair.asker.ask(node, "double", b"a", 1000) for node in (1, 0)]

    assert run(story) == [b"aa", b"aaa"]


@pytest.mark.parametrize(
    ("prepare", "error", "text"),
    [
        (lambda pair: None, NotFound, "there is no v1"),
        (lambda pair: pair.other.calls.clear(), StorageError, "there is no call"),
        (lambda pair: setattr(pair, "cut", True), NotConnected, "no link to n1"),
        (lambda pair: setattr(pair, "mute", True), RequestTimeout, "n1 did not answer what"),
    ],
)
def test_a_question_that_is_not_answered_says_why(
    prepare: Callable[[Pair], None], error: type[StorageError], text: str
) -> None:
    async def story(pair: Pair) -> None:
        pair.other.calls["what"] = refuse
        prepare(pair)
        with pytest.raises(error, match=text):
            await pair.asker.ask(1, "what", b"v1", 30)

    run(story)


def test_a_broken_link_ends_what_was_asked_over_it_and_a_late_answer_is_dropped() -> None:
    async def story(pair: Pair) -> None:
        pair.mute = True
        waiting = asyncio.gather(pair.asker.ask(1, "what", b"", 5000), return_exceptions=True)
        await asyncio.sleep(0)
        pair.asker.link(2, 0)
        assert not waiting.done()
        pair.asker.link(1, 0)
        (error,) = await waiting
        assert isinstance(error, LinkLost)
        pair.asker.on_reply(1, AdminReply(1, "", "", b"late"))

    run(story)
