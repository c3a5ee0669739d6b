"""Commands out of MQTT: who may ask, once each, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from admin.mqtt_commands import KEPT_BYTES_MAX, RUNNING_MAX, TICKS_KEPT, Accepted, CommandDesk
from transport.mqtt_topics import Answer, Command, proof_of

LIFE = "0123456789abcdef"
TOKEN = b"a token of the cluster"


def command(number: int = 1, verb: str = "status", token: bytes = TOKEN, **changes: Any) -> Command:
    plain = Command("f" * 16, number, LIFE, 1, verb, {}, {}, {}, bytes(32))
    changed = replace(plain, **changes)
    return replace(changed, proof=proof_of(token, 2, changed))


@pytest.fixture
def desk() -> CommandDesk:
    made = CommandDesk(2, LIFE, TOKEN)
    made.next_tick()
    return made


def done(desk: CommandDesk, asked: Command, value: Any = 7) -> Answer:
    answer = Answer(2, asked.number, "", "", True, value)
    assert isinstance(desk.take(asked), Accepted)
    desk.done(asked, answer)
    return answer


def refused(desk: CommandDesk, asked: Command) -> Answer:
    answer = desk.take(asked)
    assert isinstance(answer, Answer)
    assert answer.code
    return answer


def test_command_is_accepted_with_its_parameters(desk: CommandDesk) -> None:
    asked = command(verb="regions", path={"name": "v"}, query={"count": 3})
    accepted = desk.take(asked)
    assert isinstance(accepted, Accepted)
    assert accepted.operation.name == "regions"
    assert accepted.ask.path == {"name": "v"}
    assert accepted.ask.query == {"first": 0, "count": 3}


def test_same_command_again_is_answered_again_and_not_done_again(desk: CommandDesk) -> None:
    answer = done(desk, command())
    assert desk.take(command()) == answer


def test_command_that_is_being_done_is_not_answered_yet(desk: CommandDesk) -> None:
    assert isinstance(desk.take(command()), Accepted)
    assert desk.take(command()) is None


def test_number_that_another_command_had_is_refused(desk: CommandDesk) -> None:
    done(desk, command())
    assert "another command had it" in refused(desk, command(verb="nodes")).text


def test_sender_without_the_token_is_refused(desk: CommandDesk) -> None:
    assert refused(desk, command(token=b"a guess of the token")).code == "denied"
    changed = replace(command(verb="status"), verb="stop")
    assert refused(desk, changed).code == "denied"


def test_command_to_another_life_is_refused(desk: CommandDesk) -> None:
    assert "started anew" in refused(desk, command(life="e" * 16)).text


def test_old_command_is_refused_when_it_is_not_remembered_any_more(desk: CommandDesk) -> None:
    asked = command()
    answer = done(desk, asked)
    for _ in range(TICKS_KEPT - 1):
        desk.next_tick()
        assert desk.take(asked) == answer
    desk.next_tick()
    assert "is not one of the last" in refused(desk, asked).text


def test_command_of_the_future_is_refused(desk: CommandDesk) -> None:
    assert "is not one of the last" in refused(desk, command(tick=2)).text


def test_a_command_that_still_runs_is_never_forgotten(desk: CommandDesk) -> None:
    asked = command()
    assert isinstance(desk.take(asked), Accepted)
    for _ in range(2 * TICKS_KEPT):
        desk.next_tick()
    desk.done(asked, Answer(2, 1, "", "", True, 7))


def test_more_commands_than_may_run_are_refused_and_can_be_asked_later(desk: CommandDesk) -> None:
    for number in range(RUNNING_MAX):
        assert isinstance(desk.take(command(number)), Accepted)
    assert refused(desk, command(99)).code == "overloaded"
    desk.done(command(3), Answer(2, 3, "", "", True, 7))
    assert isinstance(desk.take(command(99)), Accepted)


def test_answer_that_is_too_long_is_not_kept(desk: CommandDesk) -> None:
    done(desk, command(), "x" * KEPT_BYTES_MAX)
    again = desk.take(command())
    assert isinstance(again, Answer)
    assert "too long to be kept" in again.text
    assert not again.definite


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verb": "explode"}, "verb: explode is none of"),
        ({"verb": "volume"}, "path.name: must be a text"),
        ({"verb": "volume", "path": {"name": 3}}, "path.name: must be a text"),
        ({"verb": "volume", "path": {"name": "v", "x": "y"}}, "path.x: is not a parameter"),
        ({"verb": "status", "query": {"first": 1}}, "query.first: is not a parameter"),
        ({"verb": "status", "body": {"a": 1}}, "body: status takes none"),
        ({"verb": "mapAddress", "path": {"name": "v"}}, "query.offset: is missing"),
        (
            {"verb": "ready", "query": {"wait_ms": True}},
            "query.wait_ms: must be a number from 0 to",
        ),
        ({"verb": "ready", "query": {"wait_ms": -1}}, "query.wait_ms: must be a number"),
    ],
)
def test_hostile_parameters_are_named(
    desk: CommandDesk, changes: dict[str, Any], said: str
) -> None:
    answer = refused(desk, command(**changes))
    assert answer.code == "invalid"
    assert said in answer.text
