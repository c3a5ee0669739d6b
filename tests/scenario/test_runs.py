from __future__ import annotations

import pytest

from base.errors import InvalidRequest
from scenario.runs import FaultEvent, RunRequest, request_from_json, to_json


def test_a_request_is_the_same_after_a_round_trip_through_json() -> None:
    fault = FaultEvent(120, "cut", (3, 1), 400, (("heard", 1), ("direction", "out")))
    request = RunRequest(1, "swarm", 7, "canary", (fault,), (("nodes", 4),), True)
    assert request_from_json(to_json(request)) == request


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "not an object"),
        ("{", "JSON"),
        ('{"level": 1, "profile": "swarm"}', "seed is missing"),
        ('{"level": 1, "profile": "swarm", "seed": 1, "sed": 2}', "unknown field sed"),
        ('{"level": 1, "profile": "swarm", "seed": "x"}', "'x'"),
    ],
)
def test_a_wrong_request_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        request_from_json(text)
