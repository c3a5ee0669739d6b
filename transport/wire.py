"""codec: the registry of wire messages, and msgpack bodies with bulk bytes beside them.

A message is a frozen dataclass with a tag. Its body is a msgpack array of its fields in order; the
field named `data`, when there is one, travels beside the body and is never copied into msgpack.
Bodies are checked field by field against the annotations: a peer cannot hand us a type that we did
not ask for. A tag is never reused. Floats never travel: times and ratios are integers.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import msgpack

from base.device import Buffer
from base.errors import RemoteProtocolError

M = TypeVar("M")
Check = Callable[[Any], Any]

BODY_BYTES_MAX = 8 * 1024 * 1024  # a body is control data; bulk travels beside it
ARRAY_MAX = 1 << 20

by_tag: dict[int, type[Any]] = {}
_tags: dict[type[Any], int] = {}
_checks: dict[type[Any], tuple[Check, ...]] = {}
_body_names: dict[type[Any], tuple[str, ...]] = {}
_has_data: dict[type[Any], bool] = {}


def _check_int(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value < (1 << 64):
        raise RemoteProtocolError(f"{value!r} is not an integer of 64 bits")
    return value


def _check_plain(kind: type[Any]) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise RemoteProtocolError(f"{type(value).__name__} where {kind.__name__} belongs")
        return value

    return check


def _check_tuple(item: Check) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not list and type(value) is not tuple:
            raise RemoteProtocolError(f"{type(value).__name__} where an array belongs")
        return tuple([item(entry) for entry in value])

    return check


def _check_fixed(items: tuple[Check, ...]) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if (type(value) is not list and type(value) is not tuple) or len(value) != len(items):
            raise RemoteProtocolError(f"an array of {len(items)} belongs here")
        return tuple([item(entry) for item, entry in zip(items, value, strict=True)])

    return check


def _check_for(annotation: Any) -> Check:
    while hasattr(annotation, "__supertype__"):  # NewType
        annotation = annotation.__supertype__
    if annotation is int:
        return _check_int
    if annotation in (bool, str, bytes):
        return _check_plain(annotation)
    origin = typing.get_origin(annotation)
    if origin is tuple:
        arguments = typing.get_args(annotation)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _check_tuple(_check_for(arguments[0]))
        return _check_fixed(tuple(_check_for(argument) for argument in arguments))
    if origin in (typing.Union, types.UnionType):
        raise TypeError("unions do not travel: use a code")
    raise TypeError(f"{annotation!r} does not travel")


def wire(tag: int) -> Callable[[type[M]], type[M]]:
    """Register a frozen dataclass under a tag, 1..255, that was never used before."""

    def register(message: type[M]) -> type[M]:
        assert 1 <= tag <= 255, tag
        assert tag not in by_tag, f"tag {tag:#x} is taken by {by_tag[tag].__name__}"
        hints = typing.get_type_hints(message)
        names = [field.name for field in fields(message)]  # type: ignore[arg-type]
        body = tuple(name for name in names if name != "data")
        assert "data" not in names or names[-1] == "data", "bulk data is the last field"
        by_tag[tag] = message
        _tags[message] = tag
        _checks[message] = tuple(_check_for(hints[name]) for name in body)
        _body_names[message] = body
        _has_data[message] = "data" in names
        return message

    return register


def tag_of(message: object) -> int:
    """The tag of a registered message."""
    return _tags[type(message)]


def encode_body(message: object) -> tuple[bytes, Sequence[Buffer]]:
    """(body, bulk buffers). The buffers are the message's own: not copied."""
    kind = type(message)
    body: bytes = msgpack.packb([getattr(message, name) for name in _body_names[kind]])
    if not _has_data[kind]:
        return body, ()
    data = message.data  # type: ignore[attr-defined]
    if type(data) is tuple or type(data) is list:
        return body, data
    return body, (data,) if len(data) else ()


def decode_body(tag: int, body: Buffer, data: Buffer) -> Any:
    """The message, or RemoteProtocolError. `data` is kept by reference."""
    kind = by_tag.get(tag)
    if kind is None:
        raise RemoteProtocolError(f"no message has tag {tag:#x}")
    try:
        values = msgpack.unpackb(
            body,
            use_list=True,
            max_array_len=ARRAY_MAX,
            max_bin_len=BODY_BYTES_MAX,
            max_str_len=BODY_BYTES_MAX,
            max_ext_len=0,
            max_map_len=0,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"body of {kind.__name__} is not msgpack: {error}") from None
    checks = _checks[kind]
    if type(values) is not list or len(values) != len(checks):
        raise RemoteProtocolError(f"{kind.__name__} has {len(checks)} fields")
    if _has_data[kind]:
        return kind(*[check(v) for check, v in zip(checks, values, strict=True)], data)
    if len(data):
        raise RemoteProtocolError(f"{kind.__name__} carries no bulk data")
    return kind(*[check(v) for check, v in zip(checks, values, strict=True)])
