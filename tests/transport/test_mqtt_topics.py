"""Topics and payloads of the management plane: what is taken, and what is refused by name."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import RemoteProtocolError
from transport.mqtt_topics import (
    Answer,
    Command,
    Event,
    NodeState,
    Statistics,
    Topic,
    decode,
    encode,
    parse_topic,
    proof_of,
)

LIFE = "0123456789abcdef"
STATE = NodeState(2, "serving", LIFE, 3, -1, 4, 17, "127.0.0.1", 10811, 10819, "0.1.0")
STATISTICS = Statistics(2, LIFE, 9, {"uptime_ms": 5, "host": {"reads": [1, 2.5, None, True]}})
EVENT = Event(2, LIFE, 0, "region.failed_over", "info", "2026-01-01T00:00:00Z", {"took_ms": 3})
COMMAND = Command(LIFE, 1, LIFE, 9, "volume", {"name": "v"}, {}, {}, bytes(32))
ANSWER = Answer(2, 1, "", "", True, [{"name": "v"}])
TOPICS = {
    "state": ("eightfold/c1/node/2/state", STATE),
    "statistics": ("eightfold/c1/node/2/statistics", STATISTICS),
    "event": ("eightfold/c1/node/2/event/region.failed_over", EVENT),
    "command": ("eightfold/c1/node/2/command", COMMAND),
    "answer": (f"eightfold/c1/answer/{LIFE}", ANSWER),
}


def refused(topic: str, payload: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as refusal:
        decode(parse_topic(topic), payload)
    return str(refusal.value)


def changed(kind: str, **changes: object) -> bytes:
    fields = msgpack.unpackb(encode(TOPICS[kind][1]))
    return msgpack.packb({**fields, **changes})


@pytest.mark.parametrize("kind", TOPICS)
def test_message_comes_back_as_it_was(kind: str) -> None:
    text, message = TOPICS[kind]
    topic = parse_topic(text)
    assert topic.kind == kind
    assert str(topic) == text
    assert decode(topic, encode(message)) == message


@pytest.mark.parametrize(
    "text",
    [
        "", "eightfold", "eightfold/c1/node/2", "other/c1/node/2/state", "eightfold//node/2/state",
        "eightfold/c1/node/8/state", "eightfold/c1/node/02/state", "eightfold/c1/node/x/state",
        "eightfold/c1/node/٣/state", "eightfold/c1/node/-1/state", "eightfold/c1/node/2/state/x",
        "eightfold/c1/node/2/event/Region", "eightfold/c1/node/2/event/a.b/c",
        "eightfold/c1/answer/xyz", "eightfold/c1/answer/" + "0" * 17, "eightfold/" + "c" * 300,
        "eightfold/c+/node/2/state", "eightfold/#/node/2/state", "eightfold/c1/bus/1/2",
    ],
)  # fmt: skip
def test_other_topic_is_refused_by_name(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^topic: "):
        parse_topic(text)


@pytest.mark.parametrize("kind", TOPICS)
def test_missing_and_unknown_fields_are_named(kind: str) -> None:
    text, message = TOPICS[kind]
    fields = msgpack.unpackb(encode(message))
    for name in fields:
        rest = {key: value for key, value in fields.items() if key != name}
        assert name in refused(text, msgpack.packb(rest))
    assert "'more' is not a field" in refused(text, msgpack.packb({**fields, "more": 1}))


@pytest.mark.parametrize("kind", TOPICS)
def test_field_of_another_type_is_named(kind: str) -> None:
    text, message = TOPICS[kind]
    for name, value in msgpack.unpackb(encode(message)).items():
        if name == "value":
            continue
        other = 1 if isinstance(value, str | bytes | dict) else "1"
        assert refused(text, changed(kind, **{name: other})).startswith(f"{kind}.{name}: ")


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("state", {"v": 2}, "version 2, not 1"),
        ("state", {"v": True}, "version True, not 1"),
        ("state", {"state": "asleep"}, "state.state"),
        ("state", {"life": "x" * 16}, "state.life"),
        ("state", {"node": 3}, "is not the node of the topic"),
        ("state", {"term": -1}, "state.term: -1 is out of bounds"),
        ("state", {"term": 1 << 63}, "out of bounds"),
        ("state", {"leader": -2}, "out of bounds"),
        ("state", {"term": True}, "bool where a number belongs"),
        ("state", {"host": "h" * 5000}, "state: 5"),
        ("statistics", {"values": {"a": b"bytes"}}, "bytes does not travel"),
        ("event", {"name": "region.opened"}, "is not the name of the topic"),
        ("event", {"level": "loud"}, "event.level"),
        ("event", {"time": "t" * 4097}, "longer than 4096"),
        ("command", {"proof": b"short"}, "5 bytes, not 32"),
        ("command", {"verb": "rm -rf"}, "command.verb"),
        ("command", {"operator": "me"}, "command.operator"),
    ],
)
def test_hostile_field_is_refused_by_name(kind: str, changes: dict[str, object], said: str) -> None:
    assert said in refused(TOPICS[kind][0], changed(kind, **changes))


def test_value_that_is_too_deep_is_refused() -> None:
    deep: object = 1
    for _ in range(9):
        deep = [deep]
    said = refused(TOPICS["answer"][0], changed("answer", value=deep))
    assert said == "answer.value: deeper than 8"


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xc1", b"\x81", b"\x80\x80", b"\xdd\xff\xff\xff\xff", b"\x90", b"\xd4\x01\x00",
        b"\xdb\xff\xff\xff\xff", b"\x91" * 2000, msgpack.packb({1: 2}), msgpack.packb({"v": [1]}),
        msgpack.packb(7), b"\x81\xa1\xff\x01", bytes(5000),
    ],
)  # fmt: skip
def test_payload_that_is_none_is_refused(payload: bytes) -> None:
    assert refused(TOPICS["state"][0], payload).startswith("state")


@given(st.sampled_from(sorted(TOPICS)), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(kind: str, payload: bytes) -> None:
    refused(TOPICS[kind][0], payload)  # no short random bytes hold every field


@given(st.text(max_size=80))
def test_any_text_is_a_topic_or_refused(text: str) -> None:
    try:
        topic = parse_topic(text)
    except RemoteProtocolError:
        return
    assert str(topic) == text


def test_proof_covers_every_field_and_the_node() -> None:
    proofs = {proof_of(b"token", 2, COMMAND), proof_of(b"token", 3, COMMAND)}
    proofs.add(proof_of(b"other", 2, COMMAND))
    for name, value in (
        ("operator", "f" * 16), ("number", 2), ("life", "f" * 16), ("tick", 8), ("verb", "status"),
        ("path", {"name": "w"}), ("query", {"first": 1}), ("body", {"size_bytes": 1}),
    ):  # fmt: skip
        other = decode(parse_topic(TOPICS["command"][0]), changed("command", **{name: value}))
        assert isinstance(other, Command)
        proofs.add(proof_of(b"token", 2, other))
    assert len(proofs) == 11


def test_topics_of_a_node_are_those_of_the_documents() -> None:
    assert str(Topic("c", "state", 0)) == "eightfold/c/node/0/state"
    assert str(Topic("c", "answer", name=LIFE)) == f"eightfold/c/answer/{LIFE}"
