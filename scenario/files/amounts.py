"""plan: amounts in a scenario file: times, rates, parts and sizes, each with its unit."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from base.errors import InvalidRequest
from base.units import SECTOR_BYTES, MiB, parse_size

_UNITS_MS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|min|h)")
_RATE: Final = re.compile(r"(\d+) ?/ ?s")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?) ?%")
TIME_MS_MAX: Final = 3_600_000
RATE_MAX: Final = 1_000_000
BLOCK_BYTES_MAX: Final = MiB


def milliseconds(value: object) -> int:
    """Of a text as 20s, 1.5s, 300ms or 2min. ValueError says how to write one."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no time; write 300ms, 1.5s or 2min")
    found = float(match[1]) * _UNITS_MS[match[2]]
    if found != int(found) or found > TIME_MS_MAX:
        raise ValueError(f"{value} is not a whole number of milliseconds up to one hour")
    return int(found)


def signed_milliseconds(value: object) -> int:
    """The same with a sign before it."""
    if isinstance(value, str) and value.startswith("-"):
        return -milliseconds(value[1:])
    return milliseconds(value.removeprefix("+") if isinstance(value, str) else value)


def per_second(value: object) -> int:
    """Of a text as 200/s."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[1]) <= RATE_MAX:
        raise ValueError(f"{value!r} is no rate; write 200/s, at most {RATE_MAX}/s")
    return int(match[1])


def permille(value: object) -> int:
    """Of a text as 5% or 0.2%."""
    match = _PART.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError(f"{value!r} is no part; write 5% or 0.2%, at most 100%")
    found = float(match[1]) * 10
    if found != int(found):
        raise ValueError(f"{value} is finer than 0.1%")
    return int(found)


def block_sizes(value: object) -> tuple[int, int]:
    """(least, most) of a text as 512..8KiB or 4KiB; the most is a multiple of the least."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no range of sizes; write 4KiB or 512..8KiB")
    low, _, high = value.partition("..")
    try:
        least, most = parse_size(low), parse_size(high or low)
    except InvalidRequest as error:
        raise ValueError(str(error)) from None
    if least < SECTOR_BYTES or least % SECTOR_BYTES or most % least:
        raise ValueError(f"{value}: the least is a multiple of 512, the most one of the least")
    if not least <= most <= BLOCK_BYTES_MAX:
        raise ValueError(f"{value}: sizes grow up to 1MiB")
    return least, most


def time_text(ms: int) -> str:
    """As a scenario file says it."""
    if ms % 60_000 == 0 and ms:
        return f"{ms // 60_000}min"
    return f"{ms / 1000:g}s" if abs(ms) >= 1000 or not ms else f"{ms}ms"


def written(text: str) -> Any:
    """A default as a file would say it: the models parse their defaults too."""
    return text


def _schema(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


_TIME_PATTERN: Final = r"\d+(\.\d+)? ?(ms|s|min|h)$"
Time = Annotated[int, BeforeValidator(milliseconds), _schema("^" + _TIME_PATTERN, "300ms", "2s")]
SignedTime = Annotated[
    int, BeforeValidator(signed_milliseconds), _schema("^[+-]?" + _TIME_PATTERN, "-1h", "300ms")
]
Rate = Annotated[int, BeforeValidator(per_second), _schema(r"^\d+ ?/ ?s$", "200/s")]
Permille = Annotated[int, BeforeValidator(permille), _schema(r"^\d+(\.\d+)? ?%$", "5%", "0.2%")]
BlockSizes = Annotated[
    tuple[int, int], BeforeValidator(block_sizes), _schema(r"^\S+?(\.\.\S+)?$", "4KiB", "512..8KiB")
]
