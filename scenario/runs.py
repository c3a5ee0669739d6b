"""plan: what one simulated run is and what came of it: plain values that travel between processes.

A run is named by level, profile and seed. Its faults are drawn from the seed, or given as a list:
then nothing is drawn for them, so a list can be made shorter until only what matters is left. Every
run returns the list of faults that it performed, so that drawn runs can be kept as explicit ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from base.errors import InvalidRequest

PASSED: Final = "passed"
VIOLATED: Final = "violated"  # a rule was broken: `rule` and `text` say which
FAILED: Final = "failed"  # the run itself ended in an error that no checker raised
REFUSED: Final = "refused"  # the request does not apply to this code: `text` says why
VERDICTS: Final = (PASSED, VIOLATED, FAILED, REFUSED)

Detail = tuple[str, int | str]


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """One fault, as it struck. at_ms: after the hosts began. nodes: whom it hit, the first one is
    the subject. for_ms: how long it stood; 0: it has no end of its own, or heals at the end."""

    at_ms: int
    kind: str  # a name of `scenario.faults.FAULTS`
    nodes: tuple[int, ...] = ()
    for_ms: int = 0
    details: tuple[Detail, ...] = ()

    def detail(self, name: str, default: int | str = 0) -> int | str:
        """The value of a detail."""
        return dict(self.details).get(name, default)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to run. mutation: a name of `scenario.mutations`, "" for the code as it is. faults: None
    for those that the seed draws. options: (name, value) that replace what the profile draws.
    script: a name of `scenario.scripts`, whose faults follow what the cluster does; then none is
    drawn."""

    level: int
    profile: str
    seed: int
    mutation: str = ""
    faults: tuple[FaultEvent, ...] | None = None
    options: tuple[tuple[str, int | bool], ...] = ()
    allow_loss: bool = False  # faults outside of the budget: then "says what it lost" is expected
    trace: bool = False
    script: str = ""

    def line(self) -> str:
        """The command that repeats the run, for drawn faults."""
        more = f" --mutation {self.mutation}" if self.mutation else ""
        more += "".join(f" --set {name}={value}" for name, value in self.options)
        more += f" --script {self.script}" if self.script else ""
        more += " --allow-loss" if self.allow_loss else ""
        return (
            f"eightfold sim replay {self.seed} --level {self.level} --profile {self.profile}{more}"
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of it. trace: hash over every event. goals: coverage goals that were reached."""

    request: RunRequest
    verdict: str
    rule: str = ""  # "I9"; "" when none was broken
    text: str = ""
    trace: str = ""
    events: int = 0
    operations: int = 0
    virtual_ms: int = 0
    wall_ms: int = 0
    longest_ms: int = 0  # the longest that a host waited for one answer
    faults: tuple[FaultEvent, ...] = ()
    goals: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()  # the readable trace, when it was asked for


def to_json(value: RunRequest | RunResult) -> str:
    """One line."""
    return json.dumps(asdict(value), separators=(",", ":"))


def request_from_json(text: str) -> RunRequest:
    """InvalidRequest names the field that is unknown, missing or of the wrong type."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"a run is JSON: {error}") from None
    return request_from_plain(plain)


def request_from_plain(plain: Any) -> RunRequest:
    """From what `to_json` made of a request."""
    _known(plain, RunRequest, "run")
    listed = plain.get("faults")
    try:
        return RunRequest(
            level=int(plain["level"]),
            profile=str(plain["profile"]),
            seed=int(plain["seed"]),
            mutation=str(plain.get("mutation", "")),
            faults=None if listed is None else tuple(_fault(each) for each in listed),
            options=tuple((str(name), value) for name, value in plain.get("options", ())),
            allow_loss=bool(plain.get("allow_loss", False)),
            trace=bool(plain.get("trace", False)),
            script=str(plain.get("script", "")),
        )
    except KeyError as error:
        raise InvalidRequest(f"run: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"run: {error}") from None


def result_from_json(text: str) -> RunResult:
    """From what `to_json` made of a result. InvalidRequest as for requests."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"a result is JSON: {error}") from None
    _known(plain, RunResult, "result")
    try:
        given = dict(plain)
        given["request"] = request_from_plain(plain["request"])
        given["faults"] = tuple(_fault(each) for each in plain.get("faults", ()))
        for name in ("goals", "lines"):
            given[name] = tuple(str(each) for each in plain.get(name, ()))
        return RunResult(**given)
    except KeyError as error:
        raise InvalidRequest(f"result: {error.args[0]} is missing") from None
    except TypeError as error:
        raise InvalidRequest(f"result: {error}") from None


def _fault(plain: Any) -> FaultEvent:
    _known(plain, FaultEvent, "fault")
    return FaultEvent(
        at_ms=int(plain["at_ms"]),
        kind=str(plain["kind"]),
        nodes=tuple(int(node) for node in plain.get("nodes", ())),
        for_ms=int(plain.get("for_ms", 0)),
        details=tuple((str(name), value) for name, value in plain.get("details", ())),
    )


def _known(plain: Any, kind: type[Any], what: str) -> None:
    if not isinstance(plain, dict):
        raise InvalidRequest(f"{what}: not an object")
    names = {field.name for field in fields(kind)}
    for name in plain:
        if name not in names:
            raise InvalidRequest(f"{what}: unknown field {name}; known are {sorted(names)}")
