"""Kept scenarios: whatever broke a rule once holds now, and what does not apply is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import InvalidRequest
from scenario.kept import Kept, kept_from_json, read_kept, rotten, write_kept
from scenario.run_one import perform
from scenario.runs import PASSED, REFUSED, FaultEvent, RunRequest, RunResult

FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))
REQUEST = RunRequest(1, "default", 3, faults=(FaultEvent(200, "kill", (1,), 300),))
SHORT = replace(REQUEST, options=(("nodes", 3), ("seconds", 1)))


def plain(kept: Kept) -> dict[str, object]:
    return dict(json.loads(kept.to_json()))


@pytest.mark.simulation
def test_everything_that_was_found_passes_now() -> None:
    kept = {path.name: read_kept(path) for path in FOUND}
    results = {name: perform(each.request) for name, each in kept.items()}
    wrong = {name: each.text for name, each in results.items() if each.verdict != PASSED}
    assert wrong == {}


def test_what_is_kept_says_what_it_found_and_needs_no_bug() -> None:
    kept = [read_kept(path) for path in FOUND]
    assert [each for each in kept if not each.found or each.request.mutation] == []


def test_kept_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = Kept(REQUEST, "a rule", "0123")
    assert read_kept(write_kept(tmp_path, kept)) == kept


@pytest.mark.simulation
def test_listed_faults_are_what_the_run_performs() -> None:
    result = perform(SHORT)
    assert (result.verdict, result.faults) == (PASSED, REQUEST.faults)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (replace(REQUEST, faults=(FaultEvent(1, "kil", (1,)),)), "did you mean kill?"),
        (replace(REQUEST, faults=(FaultEvent(1, "kill", (9,)),)), "there is no node 9"),
        (replace(REQUEST, faults=(FaultEvent(1, "stop", (1,)),)), "level 1 cannot do it"),
        (replace(REQUEST, options=(("second", 1),)), "did you mean seconds?"),
        (replace(REQUEST, profile="quiet"), "has no profile quiet"),
        (replace(REQUEST, mutation="no_such_bug"), "no_such_bug"),
        (replace(REQUEST, level=3), "there is no level 3"),
    ],
)
def test_run_that_no_longer_applies_is_refused_with_the_reason(
    request_: RunRequest, text: str
) -> None:
    result = perform(request_)
    assert result.verdict == REFUSED
    assert text in result.text


def test_fault_with_an_unknown_field_is_refused_by_file_and_field() -> None:
    content = plain(Kept(REQUEST))
    content["request"]["faults"][0]["when"] = 1  # type: ignore[index]
    with pytest.raises(InvalidRequest, match=r"x\.json: fault: unknown field when"):
        kept_from_json(json.dumps(content), source="x.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"found": ""}', '{"request": {}, "found": 1}'])
def test_file_that_is_no_kept_scenario_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"x\.json: "):
        kept_from_json(text, source="x.json")


def test_other_trace_means_that_the_code_moved_on() -> None:
    result = RunResult(REQUEST, PASSED, trace="aa")
    assert "the code moved on" in rotten(Kept(REQUEST, "", "bb"), result)


def test_same_trace_or_none_is_fine() -> None:
    result = RunResult(REQUEST, PASSED, trace="aa")
    assert [rotten(Kept(REQUEST, "", trace), result) for trace in ("aa", "")] == ["", ""]
