"""plan: kept scenarios: runs that once found something, as files that outlive the draws of a seed.

A file is one JSON object: `request`, a run whose faults are listed; `found`, what it was; `trace`,
the hash of the run when it was kept, "" when nobody minds if it changes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from base.errors import InvalidRequest
from scenario.runs import RunRequest, RunResult, request_from_plain

FIELDS: Final = ("request", "found", "trace")
BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """A run, what it found, and its trace then."""

    request: RunRequest
    found: str = ""
    trace: str = ""

    def to_json(self) -> str:
        """For people too: indented."""
        return json.dumps(asdict(self), indent=1) + "\n"


def kept_from_json(text: str, *, source: str) -> Kept:
    """InvalidRequest names the source, the field and the rule."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{source}: not JSON: {error}") from None
    if not isinstance(plain, dict):
        raise InvalidRequest(f"{source}: not an object")
    for name in plain:
        if name not in FIELDS:
            raise InvalidRequest(f"{source}: unknown field {name}; known are {', '.join(FIELDS)}")
    if "request" not in plain:
        raise InvalidRequest(f"{source}: request is missing")
    for name in ("found", "trace"):
        if not isinstance(plain.get(name, ""), str):
            raise InvalidRequest(f"{source}: {name} is not a text")
    try:
        request = request_from_plain(plain["request"])
    except InvalidRequest as error:
        raise InvalidRequest(f"{source}: {error}") from None
    return Kept(request, plain.get("found", ""), plain.get("trace", ""))


def read_kept(path: Path) -> Kept:
    """InvalidRequest: it cannot be read, or is no kept scenario."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise InvalidRequest(f"{path}: larger than {BYTES_MAX} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: {error}") from None
    return kept_from_json(text, source=str(path))


def write_kept(directory: Path, kept: Kept) -> Path:
    """The file, named after the run."""
    request = kept.request
    more = f"-{request.mutation}" if request.mutation else ""
    path = directory / f"level{request.level}-{request.profile}-{request.seed}{more}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(kept.to_json(), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be written: {error}") from None
    return path


def rotten(kept: Kept, result: RunResult) -> str:
    """Why the run is not the one that was kept; "" when it is, or when nobody minds."""
    if kept.trace and result.trace != kept.trace:
        return (
            f"seed {kept.request.seed} no longer applies: its trace was {kept.trace} and is"
            f" {result.trace}, the code moved on"
        )
    return ""
