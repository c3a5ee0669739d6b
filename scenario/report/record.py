"""codec: the record of a run as JSON: all that its report is drawn from."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from base.errors import InvalidRequest
from scenario.files.verdict import Result

FORMAT: Final = 1
RECORD_BYTES_MAX: Final = 256 * 1024 * 1024


@cache
def _adapter() -> TypeAdapter[Result]:
    return TypeAdapter(Result)


def encode(result: Result) -> str:
    """One JSON object; `decode` gives an equal result."""
    plain: dict[str, Any] = {"format": FORMAT, "run": _adapter().dump_python(result, mode="json")}
    return json.dumps(plain, separators=(",", ":")) + "\n"


def decode(text: str, *, source: str) -> Result:
    """InvalidRequest names the source and what is wrong with it."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{source}: no record of a run: it is no JSON: {error}") from None
    if not isinstance(plain, dict) or "run" not in plain or "format" not in plain:
        raise InvalidRequest(f"{source}: no record of a run: it has no `format` and no `run`")
    if plain["format"] != FORMAT:
        raise InvalidRequest(
            f"{source}: a record of format {plain['format']}; this program reads format {FORMAT}"
        )
    try:
        return _adapter().validate_python(plain["run"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{source}: run.{where}: {first['msg']}") from None
