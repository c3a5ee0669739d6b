"""step: who is at the other end of a connection. Mutual challenge and response with the secret.

    dialer                                         acceptor
      Hello(cluster, ids, incarnation, nonce D)  →
                                                 ←   Challenge(incarnation, session, nonce A)
      Proof(MAC of everything, as dialer)        →
                                                 ←   Welcome(MAC of everything, as acceptor)

Both MACs are HMAC-SHA256 with the cluster secret over the role, the protocol version, the cluster,
both ids, both incarnations, both nonces and the session number. The roles differ, so a proof cannot
be reflected; both nonces are fresh, so it cannot be replayed. The dialer proves first: whoever can
reach the port learns nothing that a guess of the secret could be tried on.

The handshake says who is there. It does not hide or seal what follows: the mesh is meant for
networks that others cannot write into.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgpack

from base.errors import AccessDenied, RemoteProtocolError
from base.ids import NodeId
from transport.bus import CLIENT_ID_END
from transport.codec import PROTOCOL_VERSION
from transport.messages import Challenge, Hello, Proof, Refused, Welcome

NONCE_BYTES: Final = 32
ANYONE: Final = -1  # the dialer does not know who listens at that address
SESSION_MAX: Final = 1 << 62
HANDSHAKE_TAGS: Final = range(0x01, 0x10)
MESSAGE_TAGS: Final = range(0x10, 0x100)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are, and the secret that proves it."""

    self_id: NodeId
    incarnation: int
    cluster_id: str
    secret: bytes

    def __repr__(self) -> str:  # the secret must not reach a log
        return f"Identity(self_id={self.self_id}, cluster_id={self.cluster_id!r})"


@dataclass(frozen=True, slots=True)
class Established:
    """The other end is who it says."""

    peer: int
    incarnation: int  # the peer's
    session: int


def _mac(secret: bytes, role: str, hello: Hello, challenge: Challenge) -> bytes:
    # msgpack of an array: the parts cannot run into each other.
    transcript = msgpack.packb(
        (
            "eightfold link", role, PROTOCOL_VERSION, hello.cluster_id,
            hello.sender, hello.receiver, hello.incarnation, hello.last_session, hello.nonce,
            challenge.sender, challenge.incarnation, challenge.session, challenge.nonce,
        )
    )  # fmt: skip
    return hmac.new(secret, transcript, hashlib.sha256).digest()


class Dialing:
    """The end that dialled. `receiver`: whom we expect there, or ANYONE.

    `last_session(peer)`: the newest session number known; of ANYONE, the newest with whomever.
    `admits(peer)`: empty, or the reason why a link to that id is not wanted.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        receiver: int,
        last_session: Callable[[int], int],
        admits: Callable[[int], str],
        nonce: bytes,
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self._identity = identity
        self._last_session = last_session
        self._admits = admits
        self._challenge: Challenge | None = None
        self.hello = Hello(
            cluster_id=identity.cluster_id,
            sender=identity.self_id,
            receiver=receiver,
            incarnation=identity.incarnation,
            last_session=last_session(receiver),
            nonce=nonce,
        )

    def receive(self, message: object) -> Proof | Established:
        """Proof is to be sent; Established: the link is up. AccessDenied when it is not to be."""
        if isinstance(message, Refused):
            raise AccessDenied(f"the other end refused: {message.text[:200]!r}")
        if self._challenge is None and isinstance(message, Challenge):
            if self.hello.receiver not in (ANYONE, message.sender):
                raise AccessDenied(f"{message.sender} answers where {self.hello.receiver} should")
            if len(message.nonce) != NONCE_BYTES or not 0 < message.session < SESSION_MAX:
                raise RemoteProtocolError("challenge with an impossible nonce or session")
            reason = self._admits(message.sender)
            if reason:
                raise AccessDenied(reason)
            self._challenge = message
            return Proof(_mac(self._identity.secret, "dialer", self.hello, message))
        challenge = self._challenge
        if challenge is None or not isinstance(message, Welcome):
            raise RemoteProtocolError(f"{type(message).__name__} out of turn in a handshake")
        wanted = _mac(self._identity.secret, "acceptor", self.hello, challenge)
        if not hmac.compare_digest(wanted, message.mac):
            raise AccessDenied("the acceptor does not know the cluster's secret")
        if challenge.session <= self._last_session(challenge.sender):
            raise AccessDenied("an older session than the one before")
        return Established(challenge.sender, challenge.incarnation, challenge.session)


class Accepting:
    """The end that listened.

    `last_session(peer)`: the newest session number given out for that peer.
    `admits(peer)`: empty, or the reason why a link from that id is not taken.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        last_session: Callable[[int], int],
        admits: Callable[[int], str],
        nonce: bytes,
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self._identity = identity
        self._last_session = last_session
        self._admits = admits
        self._nonce = nonce
        self._hello: Hello | None = None
        self._challenge: Challenge | None = None
        self.dialer = -1  # what it claims, for logs

    def receive(self, message: object) -> Challenge | tuple[Welcome, Established]:
        """What is to be sent, and that the link is up. AccessDenied when it is not to be."""
        if self._hello is None and isinstance(message, Hello):
            return self._on_hello(message)
        hello, challenge = self._hello, self._challenge
        if hello is None or challenge is None or not isinstance(message, Proof):
            raise RemoteProtocolError(f"{type(message).__name__} out of turn in a handshake")
        secret = self._identity.secret
        if not hmac.compare_digest(_mac(secret, "dialer", hello, challenge), message.mac):
            raise AccessDenied("the dialer does not know the cluster's secret")
        reason = self._admits(hello.sender)  # again: others may have come in since
        if reason:
            raise AccessDenied(reason)
        if challenge.session <= self._last_session(hello.sender):
            raise AccessDenied("a newer session began during the handshake")
        welcome = Welcome(_mac(secret, "acceptor", hello, challenge))
        return welcome, Established(hello.sender, hello.incarnation, challenge.session)

    def _on_hello(self, hello: Hello) -> Challenge:
        self.dialer = hello.sender
        identity = self._identity
        if hello.cluster_id != identity.cluster_id:
            raise AccessDenied(f"this is cluster {identity.cluster_id!r}")
        if hello.receiver not in (ANYONE, identity.self_id):
            raise AccessDenied(f"this is {identity.self_id}, not {hello.receiver}")
        if not 0 <= hello.sender < CLIENT_ID_END or len(hello.nonce) != NONCE_BYTES:
            raise RemoteProtocolError("hello with an impossible id or nonce")
        if not 0 <= hello.last_session < SESSION_MAX - 1:
            raise RemoteProtocolError("hello with an impossible session")
        reason = self._admits(hello.sender)
        if reason:
            raise AccessDenied(reason)
        # The claim raises nobody's memory before it is proven: only this handshake's own number.
        session = max(hello.last_session, self._last_session(hello.sender)) + 1
        self._hello = hello
        self._challenge = Challenge(identity.self_id, identity.incarnation, session, self._nonce)
        return self._challenge
