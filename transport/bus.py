"""shell: the `MessageBus` port, by which nodes and attached hosts talk to each other.

What every bus promises, and the conformance suite tests:

- Links come and go with session numbers, which grow for a pair of ids as long as one end lives.
- Messages of one session arrive in the order in which they were sent, each at most once, until the
  session ends; what was on its way then is gone. Nothing of an older session is delivered after a
  newer one began. (`sim` can break order and number on purpose; receivers must survive that.)
- `on_link(peer, session)` comes before the first message of the session; `on_link(peer, 0)` when it
  ended, and always before the next session.
- `send` never waits: a link has a bound, and what does not fit is refused.
- Callbacks are synchronous. `RemoteProtocolError` out of `on_message` ends the link that it came
  by; any other exception is a bug and goes to the failure callback, which stops the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from base.ids import NodeId

CLIENT_ID_MIN: Final = 1 << 16  # ids from here on are attached hosts, chosen at random
CLIENT_ID_END: Final = 1 << 62

OnMessage = Callable[[int, object], None]
OnLink = Callable[[int, int], None]
OnFailure = Callable[[str, BaseException], None]


def is_client(peer: int) -> bool:
    """True for the id of an attached host, False for that of a node."""
    return peer >= CLIENT_ID_MIN


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """One peer. Counts are of the life of the bus, not of the session."""

    peer: int
    session: int  # 0: down
    queued_bytes: int
    queued_bytes_peak: int


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """What a bus did since it was made. Nodes are listed in `links` as long as the bus lives,
    clients as long as they are linked."""

    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    sends_refused: int  # `send` returned False
    links_refused: int  # a handshake that failed
    links: tuple[LinkStatistics, ...]  # ascending by peer


class MessageBus(Protocol):
    """One node's, or one attached host's, way to all the others."""

    @property
    def self_id(self) -> NodeId:
        """Who we are."""

    def send(self, peer: int, message: object) -> bool:
        """Queue a message for the end of this turn of the loop.

        False when there is no link or its bound is exceeded; then nothing was sent. The buffers of
        `message.data` must not change afterwards. InvalidRequest when it is too large for a frame.
        """

    def flush(self) -> None:
        """Send what is queued now; for a caller that has something slow to do in this turn."""

    def session(self, peer: int) -> int:
        """The session number of the link, 0 when it is down."""

    def set_receiver(self, on_message: OnMessage, on_link: OnLink) -> None:
        """Who is called. To be set before `start`."""

    async def start(self) -> None:
        """Listen and dial. Does not wait for links."""

    async def close(self) -> None:
        """End all links. No callback comes any more."""

    def statistics(self) -> BusStatistics:
        """Counters now."""
