import dataclasses

import pytest

from base.errors import AccessDenied, RemoteProtocolError
from base.ids import NodeId
from transport.handshake import ANYONE, Accepting, Dialing, Established, Identity
from transport.messages import Challenge, Hello, Proof, Refused, Welcome

SECRET = b"secret of the cluster"


def identity(node: int, secret: bytes = SECRET, cluster: str = "c", incarnation: int = 1):
    return Identity(NodeId(node), incarnation, cluster, secret)


def dialing(who: Identity, receiver: int = 1, last: int = 0, nonce: bytes = b"d" * 32) -> Dialing:
    return Dialing(
        who, receiver=receiver, last_session=lambda _: last, admits=lambda _: "", nonce=nonce
    )


def accepting(
    who: Identity, last: int = 0, reason: str = "", nonce: bytes = b"a" * 32
) -> Accepting:
    return Accepting(who, last_session=lambda _: last, admits=lambda _: reason, nonce=nonce)


def shake(dialer: Dialing, acceptor: Accepting) -> tuple[Established, Established]:
    challenge = acceptor.receive(dialer.hello)
    proof = dialer.receive(challenge)
    answer = acceptor.receive(proof)
    assert isinstance(answer, tuple)
    welcome, at_acceptor = answer
    at_dialer = dialer.receive(welcome)
    assert isinstance(at_dialer, Established)
    return at_dialer, at_acceptor


def test_both_ends_learn_who_the_other_is() -> None:
    dialer, acceptor = identity(0, incarnation=4), identity(1, incarnation=9)
    at_dialer, at_acceptor = shake(dialing(dialer), accepting(acceptor))
    assert at_dialer == Established(peer=1, incarnation=9, session=1)
    assert at_acceptor == Established(peer=0, incarnation=4, session=1)


@pytest.mark.parametrize(("dialer_last", "acceptor_last"), [(7, 3), (3, 7), (7, 7)])
def test_the_session_is_newer_than_what_either_end_remembers(
    dialer_last: int, acceptor_last: int
) -> None:
    at_dialer, at_acceptor = shake(
        dialing(identity(0), last=dialer_last), accepting(identity(1), last=acceptor_last)
    )
    assert at_dialer.session == at_acceptor.session == 8


def test_a_dialer_with_another_secret_is_refused() -> None:
    dialer, acceptor = dialing(identity(0, b"another")), accepting(identity(1))
    proof = dialer.receive(acceptor.receive(dialer.hello))
    with pytest.raises(AccessDenied, match="secret"):
        acceptor.receive(proof)


def test_an_acceptor_with_another_secret_is_refused() -> None:
    dialer = dialing(identity(0))
    dialer.receive(Challenge(1, 1, 1, b"a" * 32))
    with pytest.raises(AccessDenied, match="secret"):
        dialer.receive(Welcome(b"m" * 32))


def test_a_replayed_proof_is_refused() -> None:
    dialer, acceptor = dialing(identity(0)), accepting(identity(1))
    proof = dialer.receive(acceptor.receive(dialer.hello))
    acceptor.receive(proof)
    later = accepting(identity(1), nonce=b"b" * 32)
    later.receive(dialer.hello)
    with pytest.raises(AccessDenied, match="secret"):
        later.receive(proof)


def test_a_proof_sent_back_is_no_welcome() -> None:
    dialer = dialing(identity(0))
    proof = dialer.receive(Challenge(1, 1, 1, b"a" * 32))
    assert isinstance(proof, Proof)
    with pytest.raises(AccessDenied):
        dialer.receive(Welcome(proof.mac))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Hello)])
def test_every_field_of_the_hello_is_bound_into_the_proof(name: str) -> None:
    acceptor = accepting(identity(1))
    hello = dialing(identity(0)).hello
    other = {
        "cluster_id": "c",
        "sender": 2,
        "receiver": ANYONE,
        "incarnation": 5,
        "last_session": 3,
        "nonce": b"e" * 32,
    }[name]
    forged = dataclasses.replace(hello, **{name: other})
    challenge = acceptor.receive(forged)
    assert isinstance(challenge, Challenge)
    honest = dialing(identity(0))
    proof = honest.receive(challenge)
    if forged == hello:  # the cluster cannot differ: it is refused before
        assert acceptor.receive(proof)
        return
    with pytest.raises(AccessDenied):
        acceptor.receive(proof)


@pytest.mark.parametrize(
    "change", [{"sender": 2}, {"incarnation": 8}, {"session": 9}, {"nonce": b"x" * 32}]
)
def test_every_field_of_the_challenge_is_bound_into_the_proof(change: dict[str, object]) -> None:
    acceptor, dialer = accepting(identity(1)), dialing(identity(0), receiver=ANYONE)
    challenge = acceptor.receive(dialer.hello)
    assert isinstance(challenge, Challenge)
    proof = dialer.receive(dataclasses.replace(challenge, **change))
    with pytest.raises(AccessDenied):
        acceptor.receive(proof)


def test_another_cluster_is_refused() -> None:
    with pytest.raises(AccessDenied, match="cluster 'c'"):
        accepting(identity(1)).receive(dialing(identity(0, cluster="other")).hello)


def test_a_dialer_that_wants_somebody_else_is_refused() -> None:
    with pytest.raises(AccessDenied, match="not 3"):
        accepting(identity(1)).receive(dialing(identity(0), receiver=3).hello)


def test_somebody_else_at_the_address_is_refused_by_the_dialer() -> None:
    with pytest.raises(AccessDenied, match="2 answers"):
        dialing(identity(0)).receive(Challenge(2, 1, 1, b"a" * 32))


def test_who_is_not_admitted_is_refused_at_once() -> None:
    with pytest.raises(AccessDenied, match="full"):
        accepting(identity(1), reason="full").receive(dialing(identity(0)).hello)


def test_a_link_that_is_overtaken_by_a_newer_session_is_refused() -> None:
    newest = [0]
    acceptor = Accepting(
        identity(1), last_session=lambda _: newest[0], admits=lambda _: "", nonce=b"a" * 32
    )
    dialer = dialing(identity(0))
    proof = dialer.receive(acceptor.receive(dialer.hello))
    newest[0] = 1
    with pytest.raises(AccessDenied, match="newer session"):
        acceptor.receive(proof)


def test_a_refusal_tells_the_dialer_why() -> None:
    with pytest.raises(AccessDenied, match="too many"):
        dialing(identity(0)).receive(Refused("too many"))


@pytest.mark.parametrize("message", [Proof(b"m"), Welcome(b"m"), Challenge(1, 1, 1, b"a" * 32)])
def test_a_message_out_of_turn_is_a_protocol_error_at_the_acceptor(message: object) -> None:
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        accepting(identity(1)).receive(message)


def test_a_second_hello_is_a_protocol_error() -> None:
    acceptor, hello = accepting(identity(1)), dialing(identity(0)).hello
    acceptor.receive(hello)
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        acceptor.receive(hello)


@pytest.mark.parametrize(
    "change", [{"sender": -5}, {"sender": 1 << 63}, {"nonce": b"short"}, {"last_session": 1 << 62}]
)
def test_an_impossible_hello_is_a_protocol_error(change: dict[str, object]) -> None:
    hello = dataclasses.replace(dialing(identity(0)).hello, **change)
    with pytest.raises(RemoteProtocolError, match="impossible"):
        accepting(identity(1)).receive(hello)


def test_the_secret_is_not_printed() -> None:
    assert "secret" not in repr(identity(0))
