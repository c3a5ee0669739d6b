"""Which runs a sweep consists of, and what its results add up to."""

from dataclasses import replace

import pytest

from base.errors import InvalidRequest
from scenario.runs import FAILED, PASSED, VIOLATED, FaultEvent, RunRequest, RunResult
from scenario.sweep import NOT_DETERMINISTIC, Seeds, Sweep, Tally, heading, parse_seeds

REQUEST = RunRequest(1, "swarm", 7)
PASS = RunResult(REQUEST, PASSED, trace="aa", events=10, virtual_ms=2000, wall_ms=50)


def sweep(first: int, last: int, *profiles: str, repeat_percent: int = 5) -> Sweep:
    return Sweep(Seeds(first, last), 1, profiles or ("swarm",), repeat_percent=repeat_percent)


def test_range_of_seeds_has_both_its_ends() -> None:
    assert len(parse_seeds("3..7", today=0)) == 5


def test_one_seed_is_a_range() -> None:
    assert parse_seeds("3", today=0) == Seeds(3, 3)


def test_fresh_seeds_of_another_day_are_others() -> None:
    one, other = (parse_seeds("fresh:2000", today=day) for day in (20_000, 20_001))
    assert len(one) == len(other) == 2000
    assert one.last < other.first


@pytest.mark.parametrize(
    "text", ["", "a", "5..3", "1...2", "fresh:0", "-1", "1..99999999999999999999"]
)
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--seeds"):
        parse_seeds(text, today=0)


def test_profiles_take_turns() -> None:
    profiles = [request.profile for request in sweep(0, 3, "default", "swarm")]
    assert profiles == ["default", "swarm", "default", "swarm"]


def test_seed_has_the_same_profile_in_every_range() -> None:
    wide, narrow = sweep(0, 9, "a", "b", "c"), sweep(7, 7, "a", "b", "c")
    assert list(wide)[7] == next(iter(narrow))


def test_about_the_wanted_share_of_seeds_is_repeated() -> None:
    seeds = sweep(0, 1, repeat_percent=5)
    assert 30 < sum(seeds.is_repeated(seed) for seed in range(1000)) < 70


def test_no_seed_is_repeated_at_zero_percent() -> None:
    assert not any(sweep(0, 1, repeat_percent=0).is_repeated(seed) for seed in range(300))


def test_run_that_passed_is_no_finding() -> None:
    tally = Tally()
    assert tally.add(PASS) is None
    assert tally.findings == []


@pytest.mark.parametrize("verdict", [VIOLATED, FAILED])
def test_run_that_did_not_pass_is_a_finding(verdict: str) -> None:
    tally = Tally()
    finding = tally.add(replace(PASS, verdict=verdict, rule="I9", text="lost"))
    assert finding is not None
    assert finding.line == REQUEST.line()
    assert tally.findings == [finding]


def test_finding_is_headed_by_the_rule() -> None:
    finding = Tally().add(replace(PASS, verdict=VIOLATED, rule="I9"))
    assert finding is not None
    assert heading(finding) == "I9 is broken"


def test_repetition_with_the_same_trace_is_no_finding() -> None:
    assert Tally().add_repeated(PASS, replace(PASS, wall_ms=900)) is None


def test_repetition_with_another_trace_is_a_finding_of_its_own_kind() -> None:
    finding = Tally().add_repeated(PASS, replace(PASS, trace="bb"))
    assert finding is not None
    assert finding.what == NOT_DETERMINISTIC
    assert "'aa', and 'bb' in another process" in finding.text


def test_summary_adds_up() -> None:
    tally = Tally()
    tally.add(PASS)
    tally.add(replace(PASS, goals=("rare",), faults=(FaultEvent(5, "kill", (1,)),)))
    said = tally.summary(2.0, ("rare", "rarer"))
    assert (said["runs"], said["events"], said["virtual_s"], said["speed"]) == (2, 20, 4.0, 2.0)
    assert said["goals"] == {"rare": 1}
    assert said["goals_missed"] == ["rarer"]
    assert said["faults"] == {"kill": 1}


def test_slowest_runs_are_named_slowest_first() -> None:
    tally = Tally()
    for wall_ms in range(20):
        tally.add(replace(PASS, wall_ms=wall_ms))
    said = tally.summary(1.0, ())["slowest"]
    assert [each["wall_ms"] for each in said] == [19, 18, 17, 16, 15]


def test_summary_of_nothing_divides_by_nothing() -> None:
    assert Tally().summary(0.0, ())["runs"] == 0
