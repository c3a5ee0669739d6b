"""codec: the registry of wire messages, and msgpack bodies with bulk bytes beside them.

A message is a frozen dataclass with a tag. Its body is a msgpack array of its fields in order; the
field named `data`, when there is one, travels beside the body and is never copied into msgpack.
Bodies are checked field by field against the annotations: a peer cannot hand us a type that we did
not ask for. A tag is never reused. Floats never travel: times and ratios are integers.

The packer and the checker of a class are generated as source when it is registered, as the standard
library does for dataclasses: one flat function per class is three times as fast as closures per
field, and every message of every host write goes through both.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

import msgpack

from base.device import Buffer
from base.errors import RemoteProtocolError

M = TypeVar("M")
Pack = Callable[[Any], bytes]
Build = Callable[[tuple[Any, ...], Buffer], Any]

BODY_BYTES_MAX = 8 * 1024 * 1024  # a body is control data; bulk travels beside it
ARRAY_MAX = 1 << 20

by_tag: dict[int, type[Any]] = {}
_tags: dict[type[Any], int] = {}
_packs: dict[type[Any], Pack] = {}
_builds: dict[int, Build] = {}
_has_data: dict[type[Any], bool] = {}
_PLAIN: tuple[type[Any], ...] = (int, bool, str, bytes)


def _refuse(name: str, wanted: str, value: Any) -> NoReturn:
    raise RemoteProtocolError(f"{name}: {type(value).__name__} where {wanted} belongs")


def _plain(annotation: Any) -> type[Any] | None:
    while hasattr(annotation, "__supertype__"):  # NewType
        annotation = annotation.__supertype__
    return annotation if annotation in _PLAIN else None


def _check_lines(annotation: Any, variable: str, name: str, depth: int) -> list[str]:
    """Source lines that refuse the value of `variable` unless it is exactly of the annotation.

    Integers need no range check: msgpack has none outside of -2**63 .. 2**64 - 1.
    """
    plain = _plain(annotation)
    if plain is not None:
        wanted = plain.__name__
        return [
            f"if type({variable}) is not {wanted}: refuse({name!r}, {wanted!r}, {variable})",
        ]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        raise TypeError("unions do not travel: use a code")
    if origin is not tuple:
        raise TypeError(f"{annotation!r} does not travel")
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        lines = [f"if type({variable}) is not tuple: refuse({name!r}, 'an array', {variable})"]
        item = _plain(arguments[0])
        if item is not None:
            lines.append(
                f"if {variable} and set(map(type, {variable})) != {{{item.__name__}}}: "
                f"refuse({name!r}, 'an array of {item.__name__}', {variable})"
            )
            return lines
        entry = f"e{depth}"
        lines.append(f"for {entry} in {variable}:")
        inner = _check_lines(arguments[0], entry, name, depth + 1)
        return lines + ["    " + line for line in inner]
    count = len(arguments)
    parts = [f"{variable}_{index}" for index in range(count)]
    lines = [
        f"if type({variable}) is not tuple or len({variable}) != {count}: "
        f"refuse({name!r}, 'an array of {count}', {variable})",
        f"{', '.join(parts)}, = {variable}",
    ]
    for part, argument in zip(parts, arguments, strict=True):
        lines += _check_lines(argument, part, name, depth + 1)
    return lines


def _generate(message: type[Any], hints: dict[str, Any], body: Sequence[str], bulk: bool) -> None:
    title = message.__name__
    values = [f"v{index}" for index in range(len(body))]
    lines = [
        "def pack(message):",
        f"    return packer(({''.join(f'message.{name}, ' for name in body)}))",
        "def build(values, data):",
        f"    if type(values) is not tuple or len(values) != {len(body)}:",
        f"        refuse({title!r}, 'an array of {len(body)} fields', values)",
    ]
    if values:
        lines.append(f"    {', '.join(values)}, = values")
    for value, name in zip(values, body, strict=True):
        lines += ["    " + line for line in _check_lines(hints[name], value, f"{title}.{name}", 0)]
    if bulk:
        lines.append(f"    return kind({', '.join([*values, 'data'])})")
    else:
        lines.append("    if len(data):")
        lines.append(f"        refuse({title!r}, 'no bulk data', data)")
        lines.append(f"    return kind({', '.join(values)})")
    names: dict[str, Any] = {
        "packer": msgpack.Packer().pack,  # its own: a half-packed body never leaks into another
        "refuse": _refuse,
        "kind": message,
    }
    exec("\n".join(lines), names)
    _packs[message] = names["pack"]
    _builds[_tags[message]] = names["build"]


def wire(tag: int) -> Callable[[type[M]], type[M]]:
    """Register a dataclass under a tag, 1..255, that was never used before."""

    def register(message: type[M]) -> type[M]:
        assert 1 <= tag <= 255, tag
        assert tag not in by_tag, f"tag {tag:#x} is taken by {by_tag[tag].__name__}"
        hints = typing.get_type_hints(message)
        names = [field.name for field in fields(message)]  # type: ignore[arg-type]
        body = tuple(name for name in names if name != "data")
        assert "data" not in names or names[-1] == "data", "bulk data is the last field"
        by_tag[tag] = message
        _tags[message] = tag
        _has_data[message] = "data" in names
        _generate(message, hints, body, "data" in names)
        return message

    return register


def tag_of(message: object) -> int:
    """The tag of a registered message."""
    return _tags[type(message)]


def encode_body(message: object) -> tuple[bytes, Sequence[Buffer]]:
    """(body, bulk buffers). The buffers are the message's own: not copied."""
    kind = type(message)
    body = _packs[kind](message)
    if not _has_data[kind]:
        return body, ()
    data = message.data  # type: ignore[attr-defined]
    if type(data) is tuple or type(data) is list:
        return body, data
    return body, (data,) if len(data) else ()


def decode_body(tag: int, body: Buffer, data: Buffer) -> Any:
    """The message, or RemoteProtocolError. `data` is kept by reference."""
    build = _builds.get(tag)
    if build is None:
        raise RemoteProtocolError(f"no message has tag {tag:#x}")
    try:
        values = msgpack.unpackb(
            body,
            use_list=False,
            max_array_len=ARRAY_MAX,
            max_bin_len=BODY_BYTES_MAX,
            max_str_len=BODY_BYTES_MAX,
            max_ext_len=0,
            max_map_len=0,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        name = by_tag[tag].__name__
        raise RemoteProtocolError(f"body of {name} is not msgpack: {error}") from None
    return build(values, data)
