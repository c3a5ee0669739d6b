from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import InvalidRequest
from snapshot.schedule import (
    DURATION_S_MAX,
    EVENTS,
    KEEP_MAX,
    RATE_MAX,
    REST_S,
    EventSeen,
    RateSeen,
    Rule,
    RuleEvent,
    RuleState,
    Tick,
    check_rules,
    format_duration,
    parse_duration,
    parse_rule,
)

S = 1000
MINUTE = 60 * S


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("every 15m keep 8", Rule(8, every_s=900)),
        ("every 1s keep 2000", Rule(2000, every_s=1)),
        ("every 1h keep 24 expire 2d retain 90m", Rule(24, 3600, expire_s=172_800, retain_s=5400)),
        ("on node-lost keep 3", Rule(3, event="node-lost", rest_s=REST_S)),
        ("on space-low keep 1 rest 5m", Rule(1, event="space-low", rest_s=300)),
        (
            "above 50MiB/s for 10s keep 4",
            Rule(4, above_bytes_per_s=50 << 20, for_s=10, rest_s=REST_S),
        ),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


durations = st.integers(1, DURATION_S_MAX)
maybe = st.just(0) | durations


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    expire = draw(maybe)
    retain = draw(st.integers(0, expire)) if expire else draw(maybe)
    keep = draw(st.integers(1, KEEP_MAX))
    kind = draw(st.sampled_from(("every", "on", "above")))
    if kind == "every":
        return Rule(keep, draw(durations), expire_s=expire, retain_s=retain)
    rest = draw(durations)
    if kind == "on":
        event = draw(st.sampled_from(EVENTS))
        return Rule(keep, event=event, rest_s=rest, expire_s=expire, retain_s=retain)
    rate = draw(st.integers(1, RATE_MAX))
    return Rule(keep, 0, "", rate, draw(maybe), rest, expire, retain)


@given(rules())
def test_text_of_a_rule_gives_the_rule(rule: Rule) -> None:
    assert parse_rule(rule.to_text()) == rule


@given(durations)
def test_text_of_a_duration_gives_the_duration(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "write `every 15m keep 8`"),
        ("daily keep 8 x y", "write `every 15m keep 8`"),
        ("every 15m keep", "write `every 15m keep 8`"),
        ("every 15m", "say how many to keep"),
        ("every 15m keep 0", "keep 0 is not a number in 1"),
        ("every 15m keep 10001", "keep 10001 is not"),
        ("every 15m keep -1", "keep -1 is not"),
        ("every 15m keep ²", "keep ² is not"),
        ("every 15 keep 8", "'15' is no duration"),
        ("every 0m keep 8", "'0m' is no duration: it is not in 1s"),
        ("every 99999w keep 8", "'99999w' is no duration: it is not in"),
        ("every 9999999999s keep 8", "is no duration"),
        ("every m keep 8", "'m' is no duration"),
        ("every 15m keep 8 rest 1m", "rest is not one of keep, expire, retain"),
        ("every 15m keep 8 keep 9", "a word is given twice"),
        ("every 15m keep 8 expire 1h retain 2h", "its retention ends after it expires"),
        ("on node-lots keep 3", "node-lots is not one of node-lost"),
        ("above 50MiB keep 3", "'50MiB' is no rate"),
        ("above x/s keep 3", "'x/s' is no rate"),
        ("above 0B/s keep 3", "'0B/s' is no rate"),
        ("above 1e30T/s keep 3", "is no rate"),
    ],
)
def test_a_rule_that_is_none_is_refused_and_the_word_is_named(text: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        parse_rule(text)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    for start in ("", "every ", "every 15m keep ", "above "):
        try:
            rule = parse_rule(start + text)
        except InvalidRequest:
            continue
        assert parse_rule(rule.to_text()) == rule


def taken(state: RuleState, *events: RuleEvent) -> list[int]:
    return [made.taken_ms for event in events for made in state.step(event)]


def ticks(*minutes: int) -> list[RuleEvent]:
    return [Tick(minute * MINUTE) for minute in minutes]


def quarter() -> RuleState:
    return RuleState(parse_rule("every 15m keep 8"))


def test_a_period_begins_at_its_edges() -> None:
    assert taken(quarter(), *ticks(7, 14, 15, 16, 29, 30)) == [15 * MINUTE, 30 * MINUTE]


def test_periods_that_were_missed_are_not_made_up_for() -> None:
    assert taken(quarter(), *ticks(7, 100, 101)) == [100 * MINUTE]


def test_a_clock_that_is_set_back_a_little_takes_nothing_twice() -> None:
    assert taken(quarter(), *ticks(29, 30, 29, 30, 31)) == [30 * MINUTE]


def test_a_clock_that_is_set_back_far_does_not_stop_the_rule() -> None:
    assert taken(quarter(), *ticks(1000, 1005, 7, 15)) == [1005 * MINUTE, 15 * MINUTE]


def test_names_count_up_and_say_the_rule() -> None:
    state = quarter()
    made = [each.name for event in ticks(7, 15, 30) for each in state.step(event)]
    assert made == ["every-15m-1", "every-15m-2"]


def test_a_new_leader_goes_on_where_the_last_one_was() -> None:
    there = [("every-15m-2", 30 * MINUTE), ("every-15m-1", 15 * MINUTE), ("every-15m-x", 0)]
    state = RuleState.after(parse_rule("every 15m keep 8"), there)
    made = [each for event in ticks(31, 44, 45) for each in state.step(event)]
    assert [(each.name, each.taken_ms) for each in made] == [("every-15m-3", 45 * MINUTE)]


def test_a_new_leader_takes_the_one_that_was_due_when_nobody_led() -> None:
    state = RuleState.after(parse_rule("every 15m keep 8"), [("every-15m-2", 30 * MINUTE)])
    assert taken(state, *ticks(47)) == [47 * MINUTE]


def test_a_new_leader_of_a_rule_that_has_taken_none_waits_for_an_edge() -> None:
    assert taken(RuleState.after(parse_rule("every 15m keep 8"), []), *ticks(7, 15)) == [
        15 * MINUTE
    ]


def test_two_rules_that_would_take_the_same_names_are_refused() -> None:
    texts = ["every 15m keep 8", "on node-lost keep 1", "above 50MiB/s keep 1", "every 1h keep 24"]
    rules = [parse_rule(text) for text in texts]
    check_rules("vol", rules)
    assert [rule.stem for rule in rules] == ["every-15m", "on-node-lost", "above-50MiB", "every-1h"]
    with pytest.raises(InvalidRequest, match=r"vol: .*keep 8` and .*keep 9` would both .*-15m-1"):
        check_rules("vol", [*rules, parse_rule("every 900s keep 9")])


def test_a_volume_has_a_bounded_number_of_rules() -> None:
    rules = [Rule(1, every_s=number) for number in range(1, 18)]
    with pytest.raises(InvalidRequest, match="volume vol: 17 rules are more than 16"):
        check_rules("vol", rules)


@given(st.integers(1, 5000), st.lists(st.integers(0, 10_000), max_size=60))
def test_never_two_in_one_period_while_the_clock_goes_on(every: int, steps: list[int]) -> None:
    state, now, slots = RuleState(Rule(1, every_s=every)), 0, []
    for step in steps:
        now += step * S
        slots += [at // (every * S) for at in taken(state, Tick(now))]
    assert slots == sorted(set(slots))


def test_an_event_takes_one_and_then_rests() -> None:
    state = RuleState(parse_rule("on node-lost keep 3 rest 5m"))
    events = [EventSeen(minute * MINUTE, "node-lost") for minute in (1, 2, 5, 6)]
    assert taken(state, *events) == [MINUTE, 6 * MINUTE]
    assert state.suppressed == 2


def test_another_event_takes_nothing() -> None:
    state = RuleState(parse_rule("on node-lost keep 3"))
    assert taken(state, EventSeen(0, "space-low"), *ticks(1, 100), RateSeen(0, 1 << 40)) == []


def rates(*seen: tuple[int, int]) -> list[RuleEvent]:
    return [RateSeen(second * S, rate) for second, rate in seen]


def test_a_rate_must_stay_above_for_the_time_that_is_said() -> None:
    state = RuleState(parse_rule("above 100B/s for 10s keep 4"))
    assert taken(state, *rates((0, 101), (9, 500), (9, 100), (10, 101), (19, 101))) == []
    assert taken(state, *rates((20, 101))) == [20 * S]


def test_a_rate_that_stays_above_takes_one() -> None:
    state = RuleState(parse_rule("above 100B/s keep 4 rest 1s"))
    assert taken(state, *rates(*((second, 200) for second in range(100)))) == [0]


def test_a_rate_that_goes_up_again_takes_one_more_after_its_rest() -> None:
    state = RuleState(parse_rule("above 100B/s keep 4 rest 60s"))
    seen = ((0, 200), (1, 0), (2, 200), (3, 0), (61, 200))
    assert taken(state, *rates(*seen)) == [0, 61 * S]
    assert state.suppressed == 1


def test_a_clock_that_is_set_back_does_not_make_a_rule_rest_for_ever() -> None:
    state = RuleState(parse_rule("on node-lost keep 3"))
    assert taken(state, EventSeen(10**9, "node-lost"), EventSeen(5, "node-lost")) == [10**9, 5]
